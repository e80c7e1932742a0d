"""Closed surfaces of implicit solids: meshes come from the distances that a phantom's voxels come from, not from the voxels.

The distance is sampled on a grid of its own around the structure and its zero set taken by marching cubes (Lewiner et al. 2003),
so that a surface is as smooth as its description and its pitch has nothing to do with the scan's voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.simulation.phantoms.field import Array, Grid, Union

Corner = Sequence[float] | NDArray[np.floating]
Points = NDArray[np.float64]


def surface(distance: Callable[[Array, Array, Array], Array], low: Corner, high: Corner, pitch_mm: float, name: str) -> Mesh:
    """The surface on which a distance is zero: watertight, outward normals, in the frame of the distance.

    Parameters
    ----------
    distance: negative inside, mm, at coordinates x [1, 1, W], y [1, H, 1], z [D, 1, 1] (it broadcasts them). It is called for
        slabs of slices, on several threads.
    low, high: [3] mm, a box around the structure. What reaches the box's walls is closed there by a flat face.
    pitch_mm: distance between samples. A feature thinner than this is lost, and an edge is rounded by about half of it.
    name: the structure.

    Returns
    -------
    Mesh: vertices within about ``pitch_mm**2 / (8 R)`` of the surface where its radius of curvature is R.

    Raises
    ------
    InputError: nothing of the structure lies in the box, or the pitch is not positive.
    """
    grid = grid_around(low, high, pitch_mm)
    return isosurface(grid, grid.evaluate(distance), name)


def drawn_surface(draw: Callable[[Union], None], low: Corner, high: Corner, pitch_mm: float, name: str) -> Mesh:
    """The same for a solid that is drawn into a union (tubes, bands, ellipsoids); parameters and errors as ``surface``."""
    grid = grid_around(low, high, pitch_mm)
    union = Union.empty(grid)
    draw(union)
    return isosurface(grid, union.distance, name)


def grid_around(low: Corner, high: Corner, pitch_mm: float) -> Grid:
    """An isotropic grid over a box and one pitch beyond it.

    Raises
    ------
    InputError: a pitch that is not positive, a box without extent.
    """
    a, b = np.asarray(low, float), np.asarray(high, float)
    if not pitch_mm > 0:
        raise InputError(f"a pitch of {pitch_mm} mm", field="pitch_mm", remedy="give millimetres above 0")
    if not (np.isfinite(a).all() and np.isfinite(b).all() and (b > a).all()):
        raise InputError(f"the box from {a.tolist()} to {b.tolist()} holds nothing", field="low, high")
    axes = [(lo - pitch_mm + pitch_mm * np.arange(int(np.ceil((hi - lo) / pitch_mm)) + 3)) for lo, hi in zip(a, b, strict=True)]
    x, y, z = (axis.astype(np.float32) for axis in axes)
    return Grid(x, y, z, float(pitch_mm))


def isosurface(grid: Grid, distance: Array, name: str) -> Mesh:
    """The surface where a sampled distance [D, H, W] is zero; closed by a flat face where the solid leaves the grid.

    Raises
    ------
    InputError: the distance is nowhere negative.
    """
    from skimage.measure import marching_cubes

    if not (distance < 0).any():
        raise InputError(f"nothing of {name!r} lies in its box", field="distance", remedy="check the box and the pitch")
    tiny = np.float32(1e-3 * grid.voxel)  # a vertex exactly on a sample would make triangles without area
    values = np.where(np.abs(distance) < tiny, np.where(distance < 0, -tiny, tiny), distance).astype(np.float32)
    values = np.clip(values, -4 * grid.voxel, 4 * grid.voxel)
    for axis in range(3):
        for end in (0, -1):
            edge = np.moveaxis(values, axis, 0)[end]
            np.maximum(edge, tiny, out=edge)
    index, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="ascent")
    pitch = [(float(axis[-1]) - float(axis[0])) / (len(axis) - 1) for axis in (grid.x, grid.y, grid.z)]
    vertices = index[:, ::-1].astype(np.float64) * pitch + [float(grid.x[0]), float(grid.y[0]), float(grid.z[0])]
    faces = faces.astype(np.int64)
    if _volume(vertices, faces) < 0:
        faces = faces[:, ::-1].copy()
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces), name)


def swept_surface(points: Points, radii: Points, thin: Points, name: str, sides: int = 14) -> Mesh:
    """The closed surface of an elliptical cross-section carried along a line, with rounded ends.

    Parameters
    ----------
    points: [N, 3] mm, a line that bends more gently than its cross-section is wide.
    radii: [N, 2] mm, half thickness along ``thin`` [N, 3] and half width across it.
    name: the structure.
    sides: corners of a cross-section, 4 or more.

    Returns
    -------
    Mesh: ``(N + 4) * sides + 2`` vertices; the same number for every subject, in corresponding places.
    """
    p, r, n = (np.asarray(v, float) for v in (points, radii, thin))
    tangent = np.gradient(p, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    n = n - np.einsum("ij,ij->i", n, tangent)[:, None] * tangent
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    across = np.cross(tangent, n)
    rows = [
        (0, -0.8, 0.6),
        (0, -0.45, 0.9),
        *((i, 0.0, 1.0) for i in range(len(p))),
        (len(p) - 1, 0.45, 0.9),
        (len(p) - 1, 0.8, 0.6),
    ]
    angle = 2 * np.pi * np.arange(sides) / sides
    rings = []
    for i, out, size in rows:
        middle = p[i] + out * r[i, 0] * tangent[i]
        rings.append(middle + size * (np.outer(np.cos(angle), n[i]) * r[i, 0] + np.outer(np.sin(angle), across[i]) * r[i, 1]))
    poles = [p[0] - r[0, 0] * tangent[0], p[-1] + r[-1, 0] * tangent[-1]]
    vertices = np.concatenate([*rings, poles])
    at = np.arange(sides)
    nxt = (at + 1) % sides
    faces = []
    for k in range(len(rows) - 1):
        a, b, c, d = k * sides + at, k * sides + nxt, (k + 1) * sides + at, (k + 1) * sides + nxt
        faces += [np.stack([a, b, c], 1), np.stack([b, d, c], 1)]
    first, last, end = len(rows) * sides, len(rows) * sides + 1, (len(rows) - 1) * sides
    faces += [np.stack([nxt, at, np.full(sides, first)], 1), np.stack([end + at, end + nxt, np.full(sides, last)], 1)]
    whole = np.concatenate(faces)
    if _volume(vertices, whole) < 0:
        whole = whole[:, ::-1].copy()
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(whole.astype(np.int64)), name)


def mesh_volume(mesh: Mesh) -> float:
    """Enclosed volume, mm^3; positive with outward normals."""
    return _volume(mesh.vertices.numpy(), mesh.faces.numpy())


def _volume(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> float:
    a, b, c = np.moveaxis(vertices[faces] - vertices.mean(0), 1, 0)
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def moved(mesh: Mesh, scale: Corner, shift: Corner) -> Mesh:
    """A mesh scaled along the axes (factors above 0) and shifted, mm."""
    factors = torch.as_tensor(np.asarray(scale, float)), torch.as_tensor(np.asarray(shift, float))
    return Mesh(mesh.vertices * factors[0] + factors[1], mesh.faces, mesh.name)
