"""Solids on a voxel grid: signed distances evaluated in bounding boxes, united, and painted with partial volume.

Distances are in mm, negative inside. Away from spheres and round tubes they are first-order: exact on the surface and in slope
there, which is all that painting an edge one voxel wide needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from raylign.projection.threads import run_chunks
from raylign.simulation.phantoms import field_kernels

Array = NDArray[np.float32]
Box = tuple[slice, slice, slice]
FAR = np.float32(1e3)
_SLAB = 1 << 16  # voxels: a quarter of a mebibyte an array


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

    @property
    def axes(self) -> tuple[Array, Array, Array]:
        """x, y, z as kernels take them."""
        return self.x, self.y, self.z

    def evaluate(self, function: Callable[..., Array], box: Box | None = None, *known: Array) -> Array:
        """A function of broadcastable x, y, z, such as a distance, at every voxel of a box [D, H, W], by slabs on all threads.

        Slabs are small enough for what the function makes on its way to stay in a cache; it must not depend on where they end.
        ``known``: arrays [D, H, W] of the box; the function is given their slabs after z.
        """
        box = self.whole if box is None else box
        shape = tuple(s.stop - s.start for s in box)
        out = np.empty(shape, np.float32)
        thick = max(1, _SLAB // max(shape[1] * shape[2], 1))

        def pieces(first: int, last: int) -> None:
            for k in range(first * thick, min(last * thick, shape[0]), thick):
                part = slice(box[0].start + k, box[0].start + min(k + thick, shape[0]))
                given = [a[k : k + thick] for a in known]
                out[k : k + thick] = function(*self.coordinates((part, box[1], box[2])), *given)

        run_chunks(pieces, -(-shape[0] // thick), 1)
        return out


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
        other = _solid(distance, tuple(s.stop - s.start for s in box))
        field_kernels.unite(self.distance, self.owner, _corner(box), other, label)

    def tube(self, points: NDArray[np.float64], radii: NDArray[np.float64] | float, label: int) -> None:
        """A chain of round cones through ``points`` [N, 3] with a radius at each point, mm."""
        r = np.broadcast_to(np.asarray(radii, float), len(points))
        self.tubes(points[:-1], points[1:], np.stack([r[:-1], r[1:]], 1), label)

    def tubes(self, starts: NDArray[np.float64], ends: NDArray[np.float64], radii: NDArray[np.float64], label: int) -> None:
        """Any number of round cones: from ``starts`` to ``ends`` [N, 3] with ``radii`` [N, 2] at both, mm."""
        a, b, r = _float64(starts), _float64(ends), _float64(radii)
        whole, margin = len(self.grid.z), 2 * self.grid.voxel

        def slab(first: int, last: int) -> None:
            field_kernels.cones(self.grid.axes, self.distance, self.owner, a, b, r, label, margin, first, last)

        if len(a) < 64:  # handing out work takes longer than doing it
            slab(0, whole)
        else:
            run_chunks(slab, whole, 8)

    def band(self, points: NDArray[np.float64], radii: NDArray[np.float64], thin: NDArray[np.float64], label: int) -> None:
        """A chain of segments with an elliptical cross-section.

        ``radii`` [N, 2]: half thickness along the direction ``thin`` [N, 3], and half width across it, mm.
        """
        p, r, n = _float64(points), _float64(radii), _float64(thin)
        margin, whole = 2 * self.grid.voxel, len(self.grid.z)
        field_kernels.bands(self.grid.axes, self.distance, self.owner, p, r, n, label, margin, 0, whole)

    def ellipsoid(self, solid: Ellipsoid, label: int) -> None:
        """One ellipsoid."""
        at, radii, margin = _float64(solid.centre), _float64(solid.radii), 2 * self.grid.voxel
        field_kernels.ellipsoid(self.grid.axes, self.distance, self.owner, at, radii, solid.frame, label, margin)


@dataclass(frozen=True)
class Ellipsoid:
    """Centre and semi-axes in mm; ``axis`` turns the third semi-axis to a direction, the second stays nearest to y."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """First-order signed distance, mm, at broadcastable coordinates."""
        rx, ry, rz = (axis - np.float32(c) for axis, c in zip((x, y, z), self.centre, strict=True))
        return quadric([dot(rx, ry, rz, e) for e in self.frame], self.radii)

    @property
    def frame(self) -> NDArray[np.float64]:
        """The directions of the semi-axes [3, 3], one a row."""
        w = np.asarray(self.axis) / np.linalg.norm(self.axis)
        u = np.cross((0.0, 1.0, 0.0), w)
        u /= np.linalg.norm(u)
        return np.stack([u, np.cross(w, u), w])


def dot(rx: Array, ry: Array, rz: Array, e: NDArray[np.float64]) -> Array:
    """A coordinate along a direction."""
    out: Array = rx * np.float32(e[0]) + ry * np.float32(e[1]) + rz * np.float32(e[2])
    return out


def quadric(components: Sequence[Array], radii: Sequence[float]) -> Array:
    """Signed distance to ``sum (c/r)^2 = 1`` by its value over its slope (Taubin 1991), bounded at the centre."""
    squares = [np.square(c * np.float32(1 / r)) for c, r in zip(components, radii, strict=True)]
    a, b, c = (s * np.float32(1 / r**2) for s, r in zip(squares, radii, strict=True))
    q, slope = np.sqrt(squares[0] + squares[1] + squares[2]), np.sqrt(a + b + c)
    small = np.float32(1e-3)
    distance = (q - 1) * np.maximum(q, small) / np.maximum(slope, small / np.float32(min(radii)))
    return np.asarray(distance, np.float32)


def smooth_min(a: Array, b: Array, width: float) -> Array:
    """Union of two distances with a fillet of about ``width`` mm (polynomial smooth minimum)."""
    h = np.maximum(np.float32(width) - np.abs(a - b), 0)
    out: Array = np.minimum(a, b) - h * h * np.float32(0.25 / width)
    return out


def curve(knots: Sequence[Sequence[float]], z: NDArray[np.floating]) -> NDArray[np.float64]:
    """Shape-preserving interpolation [len(z), values] of rows ``(z, value, ...)``, z descending; constant beyond the ends."""
    through = _interpolator(tuple(tuple(float(v) for v in row) for row in knots))
    out: NDArray[np.float64] = through(np.clip(z, knots[-1][0], knots[0][0]))
    return out


@lru_cache(maxsize=64)
def _interpolator(knots: tuple[tuple[float, ...], ...]) -> Callable[[NDArray[np.floating]], NDArray[np.float64]]:
    from scipy.interpolate import PchipInterpolator

    table = np.array(knots)[::-1]
    made: Callable[[NDArray[np.floating]], NDArray[np.float64]] = PchipInterpolator(table[:, 0], table[:, 1:])
    return made


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
        shape = tuple(s.stop - s.start for s in box)
        solid = _solid(distance, shape)
        one = np.ndim(hu) == 0
        value = np.full(1, hu, np.float32) if one else _solid(np.asarray(hu), shape).reshape(-1)
        number, corner, voxel = -1 if label is None else int(label), _corner(box), self.grid.voxel

        def slab(first: int, last: int) -> None:
            field_kernels.fill(self.hu, self.labels, corner, solid, value, number, voxel, first, last)

        run_chunks(slab, shape[0], 8)

    def paint(self, union: Union, hu: float | Array, labelled: bool = True) -> None:
        """Every solid of a union: ``hu`` is one number, or a table indexed by label."""
        tables = np.zeros((3, 256), np.float32)
        tables[1, : len(hu) if isinstance(hu, np.ndarray) else 256] = hu
        self._paint(union, tables, False, labelled)

    def paint_bone(self, union: Union, shell: Array, cortex: Array, marrow: Array) -> None:
        """Bones: a cortical shell of the given thickness (mm) around trabecular bone; the three arrays are indexed by label."""
        tables = np.zeros((3, 256), np.float32)
        for row, values in zip(tables, (shell, cortex, marrow), strict=True):
            row[: len(values)] = values
        self._paint(union, tables, True, True)

    def _paint(self, union: Union, tables: Array, layered: bool, labelled: bool) -> None:
        hu, labels = self.hu.reshape(-1), self.labels.reshape(-1)
        distance, owner, voxel = union.distance.reshape(-1), union.owner.reshape(-1), self.grid.voxel

        def piece(first: int, last: int) -> None:
            field_kernels.paint(hu, labels, distance, owner, tables, layered, labelled, voxel, first, last)

        run_chunks(piece, len(hu), 1 << 16)


def _solid(values: Array, shape: tuple[int, ...]) -> Array:
    """As kernels take it: float32, contiguous, of the whole shape of its box."""
    return np.ascontiguousarray(np.broadcast_to(values, shape), np.float32)


def _float64(values: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
    return np.ascontiguousarray(values, np.float64)


def _corner(box: Box) -> tuple[int, int, int]:
    return box[0].start, box[1].start, box[2].start
