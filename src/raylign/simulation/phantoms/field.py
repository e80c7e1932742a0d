"""Solids on a voxel grid: signed distances evaluated in bounding boxes, united, and painted with partial volume.

Distances are in mm, negative inside. Away from spheres and round tubes they are first-order: exact on the surface and in slope
there, which is all that painting an edge one voxel wide needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Box = tuple[slice, slice, slice]
FAR = np.float32(1e3)


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid in anatomical mm: coordinates along x (columns), y (rows) and z (slices), ascending, and the voxel pitch."""

    x: Array
    y: Array
    z: Array
    voxel: float

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.z), len(self.y), len(self.x)

    def box(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Box | None:
        """Index ranges (slices, rows, columns) of an axis-aligned box in (x, y, z) mm; ``None`` where it misses the grid."""
        ranges = []
        for axis, a, b in zip((self.x, self.y, self.z), low, high, strict=True):
            start, pitch = float(axis[0]), float(axis[-1] - axis[0]) / (len(axis) - 1)
            first, last = max(math.ceil((a - start) / pitch), 0), min(math.floor((b - start) / pitch) + 1, len(axis))
            if first >= last:
                return None
            ranges.append(slice(first, last))
        return ranges[2], ranges[1], ranges[0]

    def coordinates(self, box: Box) -> tuple[Array, Array, Array]:
        """x, y, z of a box, shaped to broadcast to [D, H, W]."""
        return self.x[box[2]][None, None, :], self.y[box[1]][None, :, None], self.z[box[0]][:, None, None]

    @property
    def whole(self) -> Box:
        return slice(0, len(self.z)), slice(0, len(self.y)), slice(0, len(self.x))


@dataclass(frozen=True, eq=False)
class Union:
    """The union of many solids: at each voxel the smallest distance, and the label of the solid it belongs to."""

    grid: Grid
    distance: Array
    owner: NDArray[np.uint8]

    @staticmethod
    def empty(grid: Grid) -> Union:
        return Union(grid, np.full(grid.shape, FAR, np.float32), np.zeros(grid.shape, np.uint8))

    def add(self, box: Box, distance: Array, label: int) -> None:
        """Unite with a solid known in ``box``."""
        mine = self.distance[box]
        nearer = distance < mine
        np.copyto(mine, distance, where=nearer)
        np.copyto(self.owner[box], np.uint8(label), where=nearer)

    def tube(self, points: NDArray[np.float64], radii: NDArray[np.float64] | float, label: int) -> None:
        """A chain of round cones through ``points`` [N, 3] with a radius at each point, mm."""
        r = np.broadcast_to(np.asarray(radii, float), len(points))
        for a, b, ra, rb in zip(points[:-1], points[1:], r[:-1], r[1:], strict=True):
            reach = max(ra, rb) + 2 * self.grid.voxel
            box = self.grid.box(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
            if box is not None:
                u, rx, ry, rz = _to_segment(self.grid.coordinates(box), a, b)
                self.add(box, np.sqrt(rx * rx + ry * ry + rz * rz) - np.float32(ra) - u * np.float32(rb - ra), label)

    def band(self, points: NDArray[np.float64], radii: NDArray[np.float64], thin: NDArray[np.float64], label: int) -> None:
        """A chain of segments with an elliptical cross-section.

        ``radii`` [N, 2]: half thickness along the direction ``thin`` [N, 3], and half width across it, mm.
        """
        for i in range(len(points) - 1):
            a, b = points[i], points[i + 1]
            ra, rb = (radii[i] + radii[i + 1]) / 2
            reach = max(ra, rb) + 2 * self.grid.voxel
            box = self.grid.box(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
            if box is None:
                continue
            t = (b - a) / np.linalg.norm(b - a)
            n = thin[i] + thin[i + 1]
            n = n - (n @ t) * t
            n /= np.linalg.norm(n)
            w = np.cross(t, n)
            _, rx, ry, rz = _to_segment(self.grid.coordinates(box), a, b)
            rows = [(n, ra), (w, rb), (t, ra)]
            self.add(box, _quadric([_dot(rx, ry, rz, e) for e, _ in rows], [r for _, r in rows]), label)

    def ellipsoid(self, solid: Ellipsoid, label: int) -> None:
        reach = max(solid.radii) + 2 * self.grid.voxel
        centre = np.asarray(solid.centre)
        box = self.grid.box(centre - reach, centre + reach)
        if box is not None:
            self.add(box, solid.distance(*self.grid.coordinates(box)), label)


@dataclass(frozen=True)
class Ellipsoid:
    """Centre and semi-axes in mm; ``axis`` turns the third semi-axis to a direction, the second stays nearest to y."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """First-order signed distance, mm, at broadcastable coordinates."""
        w = np.asarray(self.axis) / np.linalg.norm(self.axis)
        u = np.cross((0.0, 1.0, 0.0), w)
        u /= np.linalg.norm(u)
        v = np.cross(w, u)
        rx, ry, rz = (axis - np.float32(c) for axis, c in zip((x, y, z), self.centre, strict=True))
        return _quadric([_dot(rx, ry, rz, e) for e in (u, v, w)], self.radii)


def _dot(rx: Array, ry: Array, rz: Array, e: NDArray[np.float64]) -> Array:
    out: Array = rx * np.float32(e[0]) + ry * np.float32(e[1]) + rz * np.float32(e[2])
    return out


def _quadric(components: Sequence[Array], radii: Sequence[float]) -> Array:
    """Signed distance to ``sum (c/r)^2 = 1`` by its value over its slope (Taubin 1991), bounded at the centre."""
    squares = [np.square(c * np.float32(1 / r)) for c, r in zip(components, radii, strict=True)]
    a, b, c = (s * np.float32(1 / r**2) for s, r in zip(squares, radii, strict=True))
    q, slope = np.sqrt(squares[0] + squares[1] + squares[2]), np.sqrt(a + b + c)
    small = np.float32(1e-3)
    distance = (q - 1) * np.maximum(q, small) / np.maximum(slope, small / np.float32(min(radii)))
    return np.asarray(distance, np.float32)


def _to_segment(
    xyz: tuple[Array, Array, Array], a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[Array, Array, Array, Array]:
    """Fraction along a segment of the nearest point, and the vector from that point to each voxel."""
    ab = (b - a).astype(np.float32)
    px, py, pz = (axis - np.float32(c) for axis, c in zip(xyz, a, strict=True))
    u = np.clip((px * ab[0] + py * ab[1] + pz * ab[2]) / max(float(ab @ ab), 1e-12), 0, 1)
    return u, px - u * ab[0], py - u * ab[1], pz - u * ab[2]


def smooth_min(a: Array, b: Array, width: float) -> Array:
    """Union of two distances with a fillet of about ``width`` mm (polynomial smooth minimum)."""
    h = np.maximum(np.float32(width) - np.abs(a - b), 0)
    out: Array = np.minimum(a, b) - h * h * np.float32(0.25 / width)
    return out


def curve(knots: Sequence[Sequence[float]], z: NDArray[np.floating]) -> NDArray[np.float64]:
    """Shape-preserving interpolation [len(z), values] of rows ``(z, value, ...)``, z descending; constant beyond the ends."""
    from scipy.interpolate import PchipInterpolator

    table = np.asarray(knots, float)[::-1]
    out: NDArray[np.float64] = PchipInterpolator(table[:, 0], table[:, 1:])(np.clip(z, table[0, 0], table[-1, 0]))
    return out


@dataclass(frozen=True, eq=False)
class Canvas:
    """A scan being painted: HU and labels. Each layer covers what lies under it by the fraction of the voxel it fills."""

    grid: Grid
    hu: Array
    labels: NDArray[np.uint8]

    @staticmethod
    def of_air(grid: Grid) -> Canvas:
        return Canvas(grid, np.full(grid.shape, -1000, np.float32), np.zeros(grid.shape, np.uint8))

    def fill(self, distance: Array, hu: float | Array, label: int | None = None, box: Box | None = None) -> None:
        """A solid given by its distance in ``box`` (the whole grid by default); ``label`` None leaves labels alone."""
        box = self.grid.whole if box is None else box
        cover = np.clip(np.float32(0.5) - distance * np.float32(1 / self.grid.voxel), 0, 1)
        under = self.hu[box]
        under += cover * (hu - under)
        if label is not None:
            np.copyto(self.labels[box], np.uint8(label), where=distance < 0)

    def paint(self, union: Union, hu: float | Array, labelled: bool = True) -> None:
        """Every solid of a union: ``hu`` is one number, or a table indexed by label."""
        where = np.flatnonzero(union.distance.ravel() < self.grid.voxel)
        d, owner = union.distance.ravel()[where], union.owner.ravel()[where]
        cover = np.clip(0.5 - d / self.grid.voxel, 0, 1)
        flat = self.hu.reshape(-1)
        flat[where] += cover * ((hu[owner] if isinstance(hu, np.ndarray) else hu) - flat[where])
        if labelled:
            self.labels.reshape(-1)[where[d < 0]] = owner[d < 0]

    def paint_bone(self, union: Union, shell: Array, cortex: Array, marrow: Array) -> None:
        """Bones: a cortical shell of the given thickness (mm) around trabecular bone; the three arrays are indexed by label."""
        where = np.flatnonzero(union.distance.ravel() < self.grid.voxel)
        d, owner = union.distance.ravel()[where], union.owner.ravel()[where]
        whole = np.clip(0.5 - d / self.grid.voxel, 0, 1)
        core = np.clip(0.5 - (d + shell[owner]) / self.grid.voxel, 0, 1)
        flat = self.hu.reshape(-1)
        flat[where] = flat[where] * (1 - whole) + cortex[owner] * (whole - core) + marrow[owner] * core
        self.labels.reshape(-1)[where[d < 0]] = owner[d < 0]
