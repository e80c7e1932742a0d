"""Closed surfaces of instruments: swept tubes, turned parts, threads and flutes, boxes. All are watertight and wound outwards."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.simulation.instruments import lines
from raylign.simulation.instruments.parts import Body, Placed

Array = Float64[NDArray[np.float64], "..."]


def tube_mesh(curve_points: Array, radius: float, inner: float = 0.0, sides: int = 24, name: str = "tube") -> Mesh:
    """The surface that a circle sweeps along a polyline, closed at its ends; with ``inner`` that of a tube.

    Parameters
    ----------
    curve_points: [N, 3] mm.
    radius, inner: mm.
    sides: of the polygon that stands for the circle. It has the circle's area, not its radius.

    Its rings lie in the planes that halve the bends, in frames that do not twist (``lines.frames``). Where the line bends more
    tightly than its radius, the surface cuts through itself, and what it cuts counts twice or is taken away.

    Raises
    ------
    InputError: radii without a wall between.
    """
    if not 0 <= inner < radius:
        raise InputError(
            f"a tube from radius {inner} to {radius} mm has no wall", field="inner", remedy="give 0 <= inner < radius"
        )
    line = np.asarray(curve_points, float)
    axes = lines.frames(line)
    ring = _circle(sides)
    step = np.diff(line, axis=0)
    u = step / np.sqrt((step**2).sum(1))[:, None]
    u = np.concatenate([u, u[-1:]])

    def swept(r: float) -> Array:
        # offsets across each ring's plane, then slid along the piece into the plane that halves the bend
        flat = r * (ring[:, 0, None, None] * axes[None, :, :, 0] + ring[:, 1, None, None] * axes[None, :, :, 1]).transpose(
            1, 0, 2
        )
        stretch = 1 / np.maximum((u * axes[:, :, 2]).sum(1), 0.3)
        # a cylinder cut at a slant is longer towards the bend: along the part of u that lies in the plane
        lean = u - (u * axes[:, :, 2]).sum(1)[:, None] * axes[:, :, 2]
        size = np.sqrt((lean**2).sum(1))
        lean = lean / np.maximum(size, 1e-12)[:, None]
        along = np.einsum("nkd,nd->nk", flat, lean)
        flat = flat + ((stretch - 1) * (size > 1e-9))[:, None, None] * along[:, :, None] * lean[:, None, :]
        return line[:, None] + flat

    outside = swept(radius)
    if inner == 0:
        return _rings(outside, name, line[0], line[-1])
    return _hollow(outside, swept(inner), name)


def as_bodies(placed: Placed, sides: int = 24) -> tuple[Body, ...]:
    """Every part of an instrument as a closed surface, world mm: its bodies, and its wires and tubes swept."""
    swept = [
        Body(tube_mesh(points, outer, inner, sides, placed.instrument.name), material, fill)
        for points, outer, inner, material, fill in placed.tubes()
    ]
    return (*placed.bodies, *swept)


def turned_mesh(profile: Sequence[tuple[float, float]], sides: int = 24, name: str = "turned") -> Mesh:
    """A solid of revolution about z from (z, radius) pairs in ascending z, mm; the polygon has the circle's area."""
    z, r = np.array(profile, float).T
    ring = _circle(sides)
    points = np.concatenate([r[:, None, None] * ring[None], np.broadcast_to(z[:, None, None], (len(z), sides, 1))], 2)
    return _rings(points, name)


def field_mesh(z: Array, radius: Array, name: str = "field") -> Mesh:
    """A solid about z whose radius is given for every height and angle.

    Parameters
    ----------
    z: [N] mm, ascending.
    radius: [N, A] mm, at the angles ``2 pi k / A``.
    """
    n, sides = radius.shape
    angle = 2 * math.pi * np.arange(sides) / sides
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.broadcast_to(z[:, None], (n, sides))], 2)
    return _rings(points, name)


def box_mesh(low: Sequence[float], high: Sequence[float], name: str = "box") -> Mesh:
    """A box along the axes between two corners, mm."""
    corners = np.array([[x, y, z] for z in (low[2], high[2]) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))], float)
    corners[:, 0] = np.where(corners[:, 0] > 0, high[0], low[0])
    corners[:, 1] = np.where(corners[:, 1] > 0, high[1], low[1])
    return _rings(corners.reshape(2, 4, 3), name)


def oval_mesh(z: Array, wide: Array, deep: Array, square: float = 2.0, sides: int = 28, name: str = "oval") -> Mesh:
    """A solid about z with superelliptic sections: half width [N] along x, half depth [N] along y; ``square`` 2 is an ellipse."""
    angle = 2 * math.pi * (np.arange(sides) + 0.5) / sides
    x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / square)
    y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / square)
    points = np.stack([wide[:, None] * x, deep[:, None] * y, np.broadcast_to(z[:, None], (len(z), sides))], 2)
    return _rings(points, name)


def moved(mesh: Mesh, rotation: Array | None = None, shift: Array | Sequence[float] = (0.0, 0.0, 0.0)) -> Mesh:
    """The mesh turned and shifted."""
    v = mesh.vertices.numpy()
    v = v if rotation is None else v @ np.asarray(rotation).T
    return Mesh(torch.from_numpy(v + np.asarray(shift, float)), mesh.faces, mesh.name)


def _circle(sides: int) -> Array:
    """Corners of the regular polygon that has the area of the unit circle."""
    angle = 2 * math.pi * np.arange(sides) / sides
    r = math.sqrt(2 * math.pi / (sides * math.sin(2 * math.pi / sides)))
    return r * np.stack([np.cos(angle), np.sin(angle)], 1)


def _sides(rings: int, sides: int) -> NDArray[np.int64]:
    """Faces between neighbouring rings that run counter-clockwise as seen from their end."""
    i, k = (a.reshape(-1) for a in np.meshgrid(np.arange(rings - 1), np.arange(sides), indexing="ij"))
    a, b = i * sides + k, i * sides + (k + 1) % sides
    c, d = a + sides, b + sides
    return np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])


def _rings(points: Array, name: str, first: Array | None = None, last: Array | None = None) -> Mesh:
    """Rings [N, A, 3] from the beginning to the end of a body, closed by fans about the middles of the outer two."""
    n, sides = points.shape[:2]
    ends = np.stack([points[0].mean(0) if first is None else first, points[-1].mean(0) if last is None else last])
    k = np.arange(sides)
    after, top = (k + 1) % sides, (n - 1) * sides
    begin = np.stack([np.full(sides, n * sides), after, k], 1)
    end = np.stack([np.full(sides, n * sides + 1), top + k, top + after], 1)
    faces = np.concatenate([_sides(n, sides), begin, end])
    return Mesh(torch.from_numpy(np.concatenate([points.reshape(-1, 3), ends])), torch.from_numpy(faces), name)


def _hollow(outside: Array, inside: Array, name: str) -> Mesh:
    """A tube: the outer rings, the inner ones turned inside out, and rims between them."""
    n, sides = outside.shape[:2]
    count, k = n * sides, np.arange(sides)
    after, top = (k + 1) % sides, (n - 1) * sides
    begin = np.concatenate([np.stack([k, count + k, count + after], 1), np.stack([k, count + after, after], 1)])
    end = np.concatenate(
        [np.stack([top + k, top + after, count + top + after], 1), np.stack([top + k, count + top + after, count + top + k], 1)]
    )
    inner = _sides(n, sides)[:, [0, 2, 1]] + count
    faces = np.concatenate([_sides(n, sides), inner, begin, end])
    points = np.concatenate([outside.reshape(-1, 3), inside.reshape(-1, 3)])
    return Mesh(torch.from_numpy(points), torch.from_numpy(faces), name)
