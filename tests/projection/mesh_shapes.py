"""Closed surfaces and views that the tests of the mesh projector look at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raylign.data import Mesh
from raylign.geometry import View

D = torch.float64


def box(x: float = 60.0, y: float = 40.0, z: float = 50.0) -> Mesh:
    """A box about the origin."""
    corners = [[i * x / 2, j * y / 2, k * z / 2] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    return Mesh(torch.tensor(corners, dtype=D), torch.tensor(faces), "box")


def tetrahedron(size: float = 30.0) -> Mesh:
    """A regular tetrahedron about the origin."""
    corners = size * torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=D)
    return Mesh(corners, torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]]), "tetrahedron")


def sphere(subdivisions: int = 2, radius: float = 40.0) -> Mesh:
    """An icosahedron, each triangle divided in four so many times, its vertices on the sphere."""
    import trimesh

    made = trimesh.creation.icosphere(subdivisions, radius)
    return Mesh(torch.tensor(made.vertices), torch.tensor(made.faces), "sphere")


def torus(major: int = 24, minor: int = 12, radius: float = 25.0, tube: float = 10.0) -> Mesh:
    """A torus about z: its outline has folds and a hole."""
    u = torch.arange(major, dtype=D)[:, None] * (2 * math.pi / major)
    v = torch.arange(minor, dtype=D) * (2 * math.pi / minor)
    ring = radius + tube * v.cos()
    places = torch.stack([ring * u.cos(), ring * u.sin(), (tube * v.sin()).expand(major, -1)], -1)
    i, j = torch.meshgrid(torch.arange(major), torch.arange(minor), indexing="ij")

    def number(a: Tensor, b: Tensor) -> Tensor:
        return (a % major * minor + b % minor).reshape(-1)

    a, b, c, d = number(i, j), number(i + 1, j), number(i + 1, j + 1), number(i, j + 1)
    return Mesh(places.reshape(-1, 3), torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)]), "torus")


def joined(*meshes: Mesh) -> Mesh:
    """Several surfaces as one."""
    faces, count = [], 0
    for mesh in meshes:
        faces.append(mesh.faces + count)
        count += len(mesh.vertices)
    return Mesh(torch.cat([m.vertices for m in meshes]), torch.cat(faces), "joined")


def moved(mesh: Mesh, *shift: float) -> Mesh:
    return Mesh(mesh.vertices + torch.tensor(shift, dtype=D), mesh.faces, mesh.name)


def cone(shape: tuple[int, int] = (30, 34), pitch: float = 4.0) -> View:
    return View.from_carm(primary=25, secondary=-10, sid=1000, sod=650, pixel_spacing=(pitch, 0.9 * pitch), shape=shape)


def parallel(shape: tuple[int, int] = (30, 34), pitch: float = 3.0) -> View:
    return View.from_parallel(primary=25, secondary=-10, pixel_spacing=(pitch, 0.9 * pitch), shape=shape)


def begins(view: View) -> tuple[Tensor, Tensor]:
    """Where every ray begins and the vector to its pixel, [H, W, 3] each."""
    begin, along = view.rays()
    return begin.expand_as(along), along


def slab(view: View, half: Tensor) -> Tensor:
    """mm of every ray within the box |x| <= half, from where it begins to its pixel: the method of slabs."""
    o, d = begins(view)
    a, b = (-half - o) / d, (half - o) / d
    flat = d == 0
    within = (o.abs() <= half) & flat
    low = torch.where(flat, torch.where(within, -math.inf, math.inf), torch.minimum(a, b)).amax(-1).clamp_min(0)
    high = torch.where(flat, torch.where(within, math.inf, -math.inf), torch.maximum(a, b)).amin(-1).clamp_max(1)
    return (high - low).clamp_min(0) * d.norm(dim=-1)


def chords(view: View, radii: Tensor) -> Tensor:
    """mm of every ray within an ellipsoid about the origin."""
    o, d = begins(view)
    a, b, c = ((d / radii) ** 2).sum(-1), ((d / radii) * (o / radii)).sum(-1), ((o / radii) ** 2).sum(-1) - 1
    return 2 * (b**2 - a * c).clamp_min(0).sqrt() / a * d.norm(dim=-1)
