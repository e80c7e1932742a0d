"""Implants as closed surfaces in mm, made by turning, sweeping and lofting: simple, of the sizes and symmetries of real ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from raylign.data import Mesh
from raylign.simulation.instruments import BoneScrew
from raylign.simulation.instruments.surfaces import moved, turned_mesh


@dataclass(frozen=True)
class Implant:
    """What is implanted, what it is made of, and what of its pose no image can tell: free turns, and equivalent poses."""

    name: str
    mesh: Mesh
    material: str
    free: int
    equivalents: int


def joined(*meshes: Mesh, name: str = "") -> Mesh:
    """Several closed surfaces as one mesh; where they overlap it is inside twice."""
    count = np.cumsum([0] + [len(m.vertices) for m in meshes])
    faces = torch.cat([m.faces + int(c) for m, c in zip(meshes, count[:-1], strict=True)])
    return Mesh(torch.cat([m.vertices for m in meshes]), faces, name)


def lathe(profile: list[tuple[float, float]], sides: int = 64, name: str = "lathe") -> Mesh:
    """A closed outline of (radius, z), counter-clockwise in that plane, turned about z; radii of 0 lie on the axis."""
    outline = np.array(profile, float)
    angle = 2 * math.pi * np.arange(sides) / sides
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = np.concatenate(
        [outline[:, 0][:, None, None] * ring, np.broadcast_to(outline[:, 1][:, None, None], (len(outline), sides, 1))], 2
    )
    n = len(outline)
    i, k = (a.reshape(-1) for a in np.meshgrid(np.arange(n), np.arange(sides), indexing="ij"))
    j, m = (i + 1) % n, (k + 1) % sides
    a, b, c, d = i * sides + k, i * sides + m, j * sides + k, j * sides + m
    faces = np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])
    vertices, index = np.unique(np.round(points.reshape(-1, 3), 6), axis=0, return_inverse=True)
    faces = index.reshape(-1)[faces]
    solid = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces[solid]), name)


def loft(centres: np.ndarray, wide: np.ndarray, deep: np.ndarray, normal: np.ndarray, name: str, sides: int = 40) -> Mesh:
    """Elliptic sections [N] along a curve in the plane y = 0: ``wide`` in that plane across the curve, ``deep`` along y."""
    angle = 2 * math.pi * (np.arange(sides) + 0.5) / sides
    offset = (
        np.cos(angle)[None, :, None] * (wide[:, None] * normal)[:, None]
        + np.sin(angle)[None, :, None] * (deep[:, None] * np.array([0.0, 1.0, 0.0]))[:, None]
    )
    points = (centres[:, None] + offset).reshape(-1, 3)
    n = len(centres)
    ends = np.stack([centres[0], centres[-1]])
    k = np.arange(sides)
    after, top = (k + 1) % sides, (n - 1) * sides
    i, q = (a.reshape(-1) for a in np.meshgrid(np.arange(n - 1), k, indexing="ij"))
    a, b = i * sides + q, i * sides + (q + 1) % sides
    faces = np.concatenate(
        [
            np.stack([a, b, b + sides], 1),
            np.stack([a, b + sides, a + sides], 1),
            np.stack([np.full(sides, n * sides), after, k], 1),
            np.stack([np.full(sides, n * sides + 1), top + k, top + after], 1),
        ]
    )
    return Mesh(torch.from_numpy(np.concatenate([points, ends])), torch.from_numpy(faces), name)


def stem() -> Mesh:
    """A straight tapered hip stem of 150 mm with a neck of 135 degrees; the origin is the centre of the head that it takes."""
    z = np.linspace(-150.0, 0.0, 24)
    share = (z + 150) / 150
    wide = 4.5 + 3.5 * share + 7.0 * share**4
    deep = 4.0 + 3.0 * share
    middle = np.stack([4.0 * share**4, 0 * z, z], 1)
    middle -= np.array([4.0, 0, 0])
    body = loft(middle, wide, deep, np.tile([1.0, 0, 0], (len(z), 1)), "body")
    tilt = math.radians(45.0)
    turn = np.array([[math.cos(tilt), 0, math.sin(tilt)], [0, 1, 0], [-math.sin(tilt), 0, math.cos(tilt)]])
    neck = moved(turned_mesh([(-8.0, 7.5), (6.0, 7.0), (16.0, 6.2), (32.0, 6.0), (44.0, 6.5)], 40, "neck"), turn, (0.0, 0, -4.0))
    head = turn @ np.array([0.0, 0, 44.0]) + np.array([0.0, 0, -4.0])
    return moved(joined(body, neck, name="stem"), shift=-head)


def cup(outer: float = 27.0, inner: float = 23.0) -> Mesh:
    """A hemispherical shell open along +z, its rim bevelled."""
    a = np.linspace(0, math.pi / 2, 24)
    outside = [(outer * math.sin(t), -outer * math.cos(t)) for t in a]
    inside = [(inner * math.sin(t), -inner * math.cos(t)) for t in a[::-1]]
    return lathe([*outside, *inside], 72, "cup")


def ball(radius: float = 16.0) -> Mesh:
    """The head of a hip prosthesis, taken for a whole ball."""
    a = np.linspace(0, math.pi, 40)
    return lathe([(max(radius * math.sin(t), 0.0), -radius * math.cos(t)) for t in a], 72, "ball")


def nail() -> Mesh:
    """A proximal femoral nail: 180 mm, 11 mm thick and slightly bowed, its upper third up to 15 mm thick and at 5 degrees."""
    s = np.linspace(0.0, 180.0, 40)
    bow = np.stack([np.where(s > 120, np.tan(math.radians(5)) * (s - 120), 0.0), 0 * s, s], 1)
    bow[:, 0] += (s - 90) ** 2 / 3000
    radius = np.where(s > 120, np.clip(5.5 + (s - 120) / 10, 5.5, 7.5), np.clip(3.0 + s / 4, 3.0, 5.5))
    along = np.gradient(bow, axis=0)
    along /= np.linalg.norm(along, axis=1)[:, None]
    normal = np.stack([along[:, 2], 0 * s, -along[:, 0]], 1)
    return loft(bow, radius, radius, normal, "nail")


def screw() -> Mesh:
    """A cancellous screw of 6.5 mm, 60 mm long."""
    parts = BoneScrew(kind="HB6.5", length_mm=60.0).instrument().fixed
    return joined(*(part.mesh for part in parts), name="screw")  # type: ignore[union-attr]


SHAPES: dict[str, tuple[Callable[[], Mesh], str, int, int]] = {
    "stem": (stem, "titanium", 0, 0),
    "cup": (cup, "titanium", 1, 0),
    "screw": (screw, "titanium", 0, 0),
    "nail": (nail, "titanium", 0, 0),
    "ball": (ball, "steel", 3, 0),
}
"""By name: surface, material, free turns, other equivalent poses."""


def implant(name: str) -> Implant:
    """One of ``SHAPES``."""
    make, material, free, equivalents = SHAPES[name]
    return Implant(name, make(), material, free, equivalents)
