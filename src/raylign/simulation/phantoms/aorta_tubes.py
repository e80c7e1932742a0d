"""Branching vessels as one smooth solid: tubes along curves, united with a fillet where a branch leaves its parent.

The distance is evaluated near the tubes only, on any grid: the voxels of a scan, or the finer grid from which the surface is
taken, so that voxels and meshes come from one description.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from raylign.simulation.phantoms.field import Grid

Array = NDArray[np.float32]
Points = NDArray[np.float64]
FAR = 1e3


@dataclass(frozen=True, eq=False)
class Tube:
    """One vessel: a curve with a radius, in mm.

    Parameters
    ----------
    name: the vessel.
    points: [N, 3] along its course, a parent's side first.
    radii: [N] lumen radius.
    parent: the vessel it leaves, or "".
    fillet: width of the rounding where it leaves, mm.
    """

    name: str
    points: Points
    radii: Points
    parent: str = ""
    fillet: float = 2.0

    def grown(self, by: float) -> Tube:
        """The tube with ``by`` mm more radius."""
        return replace(self, radii=self.radii + by)

    def at(self, fraction: float) -> Points:
        """The point after a fraction of the length."""
        s = arc_length(self.points)
        return np.array([np.interp(fraction * s[-1], s, self.points[:, i]) for i in range(3)])


def arc_length(points: Points) -> Points:
    """[N] mm along a polyline."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def course(knots: Points, radii: Sequence[float] | Points, step: float = 2.0) -> tuple[Points, Points]:
    """A smooth curve through knots [K, 3] and monotone radii between theirs [K], sampled every ``step`` mm."""
    from scipy.interpolate import CubicSpline, PchipInterpolator

    knots = np.asarray(knots, float)
    s = np.concatenate([[0.0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(knots, axis=0), axis=1)))])  # centripetal: no overshoot
    line = CubicSpline(s, knots, bc_type="natural")
    fine = line(np.linspace(0, s[-1], 40 * len(knots)))
    length = arc_length(fine)
    count = max(int(length[-1] / step) + 1, 3)
    t = np.interp(np.linspace(0, length[-1], count), length, np.linspace(0, s[-1], len(fine)))
    return line(t), PchipInterpolator(s, np.asarray(radii, float))(t)


@njit(cache=True, nogil=True)
def _sweep(out, x, y, z, points, radii, reach):  # type: ignore[no-untyped-def]
    """Smallest distance to a chain of round cones, written into ``out`` [D, H, W] within ``reach`` of the surface."""
    px, py, pz = x[1] - x[0], y[1] - y[0], z[1] - z[0]
    for n in range(len(points) - 1):
        ax, ay, az = points[n, 0], points[n, 1], points[n, 2]
        bx, by, bz = points[n + 1, 0] - ax, points[n + 1, 1] - ay, points[n + 1, 2] - az
        ra, rd = radii[n], radii[n + 1] - radii[n]
        far = max(radii[n], radii[n + 1]) + reach
        i0 = max(int(np.ceil((min(ax, ax + bx) - far - x[0]) / px)), 0)
        i1 = min(int(np.floor((max(ax, ax + bx) + far - x[0]) / px)) + 1, len(x))
        j0 = max(int(np.ceil((min(ay, ay + by) - far - y[0]) / py)), 0)
        j1 = min(int(np.floor((max(ay, ay + by) + far - y[0]) / py)) + 1, len(y))
        k0 = max(int(np.ceil((min(az, az + bz) - far - z[0]) / pz)), 0)
        k1 = min(int(np.floor((max(az, az + bz) + far - z[0]) / pz)) + 1, len(z))
        inverse = 1.0 / max(bx * bx + by * by + bz * bz, 1e-12)
        for k in range(k0, k1):
            dz = z[k] - az
            for j in range(j0, j1):
                dy = y[j] - ay
                for i in range(i0, i1):
                    dx = x[i] - ax
                    u = min(max((dx * bx + dy * by + dz * bz) * inverse, 0.0), 1.0)
                    ex, ey, ez = dx - u * bx, dy - u * by, dz - u * bz
                    d = np.sqrt(ex * ex + ey * ey + ez * ez) - ra - u * rd
                    if d < out[k, j, i]:
                        out[k, j, i] = d


@njit(cache=True, nogil=True)
def _unite(total, owner, part, label, fillet):  # type: ignore[no-untyped-def]
    """Smooth minimum of ``part`` into ``total``, all [D, H, W]; ``owner`` is the label of the nearer one."""
    for k in range(part.shape[0]):
        for j in range(part.shape[1]):
            for i in range(part.shape[2]):
                b = part[k, j, i]
                if b >= 900.0:
                    continue
                a = total[k, j, i]
                h = max(fillet - abs(a - b), 0.0)
                total[k, j, i] = min(a, b) - h * h * 0.25 / fillet
                if b < a:
                    owner[k, j, i] = label


def distance(grid: Grid, tubes: Sequence[Tube], labels: dict[str, int], reach: float) -> tuple[Array, NDArray[np.uint8]]:
    """Distance in mm to the united tubes [D, H, W], 1000 farther than ``reach`` from all, and the label of the nearest."""
    total = np.full(grid.shape, FAR, np.float32)
    owner = np.zeros(grid.shape, np.uint8)
    for tube in tubes:
        far = float(tube.radii.max()) + reach + tube.fillet
        low, high = tube.points.min(0) - far, tube.points.max(0) + far
        cut = [
            slice(int(np.searchsorted(axis, a)), int(np.searchsorted(axis, b)))
            for axis, a, b in zip((grid.x, grid.y, grid.z), low, high, strict=True)
        ]
        if any(c.stop - c.start < 2 for c in cut):
            continue
        box = (cut[2], cut[1], cut[0])
        part = np.full(total[box].shape, FAR, np.float32)
        _sweep(
            part, grid.x[cut[0]], grid.y[cut[1]], grid.z[cut[2]], tube.points.astype(np.float32),
            tube.radii.astype(np.float32), np.float32(reach + tube.fillet),
        )  # fmt: skip
        _unite(total[box], owner[box], part, labels[tube.name], np.float32(tube.fillet))
    return total, owner


def clearance(tubes: Sequence[Tube]) -> float:
    """The smallest gap between the surfaces of vessels, mm; negative where they overlap.

    A vessel is not compared with its parent and its siblings before it has parted from them by ``PARTED``; after that they must
    not meet again.
    """
    points = np.concatenate([t.points for t in tubes])
    radii = np.concatenate([t.radii for t in tubes])
    ends = np.cumsum([0, *(len(t.points) for t in tubes)])
    related = np.zeros((len(tubes), len(tubes)), np.bool_)
    for i, a in enumerate(tubes):
        for j, b in enumerate(tubes[:i]):
            related[i, j] = b.name == a.parent or (a.parent != "" and a.parent == b.parent)
    return float(_gap(points, radii, ends, related))


PARTED = 1.5
"""Gap in mm beyond which the fillet between two vessels is gone."""


@njit(cache=True, nogil=True)
def _gap(points, radii, ends, related):  # type: ignore[no-untyped-def]
    """Smallest gap of the points of each curve to the curves before it."""
    worst = 1e3
    for i in range(len(ends) - 1):
        for j in range(i):
            parted = not related[i, j]
            for a in range(ends[i], ends[i + 1]):
                here = 1e3
                for b in range(ends[j], ends[j + 1]):
                    reach = here + radii[a] + radii[b]
                    dz = points[a, 2] - points[b, 2]
                    if abs(dz) > reach:
                        continue
                    dx, dy = points[a, 0] - points[b, 0], points[a, 1] - points[b, 1]
                    square = dx * dx + dy * dy + dz * dz
                    if square < reach * reach:
                        here = np.sqrt(square) - radii[a] - radii[b]
                if parted:
                    worst = min(worst, here)
                elif here > 1.5:
                    parted = True
    return worst


def bend(tube: Tube) -> float:
    """The smallest ratio of the radius of curvature to the tube's radius; below 1 its surface would cut itself."""
    p = tube.points
    if len(p) < 5:
        return FAR
    a, b = p[2:-2] - p[:-4], p[4:] - p[2:-2]
    turn = np.linalg.norm(np.cross(a, b), axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    chord = (np.linalg.norm(a, axis=1) + np.linalg.norm(b, axis=1)) / 2
    return float((chord / np.maximum(turn, 1e-9) / tube.radii[2:-2]).min())
