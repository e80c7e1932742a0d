"""Bones as webs: balls of different sizes, joined by cones and thick triangles, and their signed distance.

A web is the interpolation of spheres over the vertices, edges and triangles of a mesh of medial points ("sphere-mesh", Thiery,
Guy and Boubekeur 2013, ACM Transactions on Graphics 32(6):178). A hundred balls describe a hip bone to a third of a millimetre,
and whatever moves the balls moves the bone: a web is posed, scaled and reshaped by its rows, never by its voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from raylign.data import Mesh
from raylign.projection.threads import run_chunks
from raylign.simulation.phantoms.field import FAR, Array, Box, Grid
from raylign.simulation.phantoms.surfaces import grid_around, isosurface

Points = NDArray[np.float64]
_FILLED = np.float32(-2.0)  # mm, in a bubble
Cut = Callable[[Array, Array, Array, Array], Array]


@dataclass(frozen=True, eq=False)
class Web:
    """A solid.

    Parameters
    ----------
    balls: [N, 4] centres and radii, mm.
    faces: [M, 3] indices of balls. ``(a, b, b)`` is a cone, ``(a, a, a)`` a ball.
    cut: ``cut(distance, x, y, z)`` takes something away or adds it, after the balls; x, y, z broadcast to ``distance``.
    room: low and high corner of what the cut adds, mm, where that reaches beyond the balls.
    whole: whether ``on`` and ``mesh`` keep only the largest connected part of what the cut leaves.
    """

    balls: Points
    faces: NDArray[np.int64]
    cut: Cut | None = None
    whole: bool = False
    room: tuple[Points, Points] | None = None

    def with_cut(self, cut: Cut) -> Web:
        return Web(self.balls, self.faces, cut, True)

    def mirrored(self) -> Web:
        """The other side's bone."""
        return Web(self.balls * [-1.0, 1.0, 1.0, 1.0], self.faces, None)

    def bounds(self, margin: float = 0.0) -> tuple[Points, Points]:
        """Low and high corner, mm."""
        used = self.balls[np.unique(self.faces)]
        reach = used[:, 3:] + margin
        low, high = (used[:, :3] - reach).min(0), (used[:, :3] + reach).max(0)
        if self.room is not None:
            low, high = np.minimum(low, self.room[0] - margin), np.maximum(high, self.room[1] + margin)
        return low, high

    def on(self, grid: Grid, reach: float | None = None) -> tuple[Box, Array] | None:
        """The box it touches and the distance there, mm; beyond ``reach`` (two voxels by default) it is far away.

        ``None`` where it misses the grid.
        """
        reach = 2 * grid.voxel if reach is None else reach
        box = grid.box(*self.bounds(reach))
        if box is None:
            return None
        return box, self._whole(self.distance(*grid.coordinates(box), reach))

    def mesh(self, pitch_mm: float, name: str, low: Points | None = None, high: Points | None = None) -> Mesh:
        """Its closed surface (``surfaces.isosurface``), from the same distance; closed flat where it leaves the box, mm.

        Raises
        ------
        InputError: nothing of it lies in the box.
        """
        ends = self.bounds(0.5)
        grid = grid_around(ends[0] if low is None else low, ends[1] if high is None else high, pitch_mm)
        return isosurface(grid, self._whole(self.distance(*grid.coordinates(grid.whole), 3 * pitch_mm)), name)

    def _whole(self, distance: Array) -> Array:
        """Without the bubbles that balls enclose and, where asked for, without the splinters of a cut."""
        from scipy.ndimage import label

        parts, n = label(distance >= 0)
        if n > 1:
            open_ = np.zeros(n + 1, bool)
            for axis in range(3):
                for end in (0, -1):
                    open_[np.unique(np.moveaxis(parts, axis, 0)[end])] = True
            distance[(parts > 0) & ~open_[parts]] = _FILLED
        if self.whole:
            parts, n = label(distance < 0)
            if n > 1:
                sizes = np.bincount(parts.ravel())
                sizes[0] = 0
                distance[(parts > 0) & (parts != int(sizes.argmax()))] = FAR
        return distance

    def at(self, points: Points) -> NDArray[np.float64]:
        """Distance at points [N, 3], mm; far away where nothing is within 40 mm."""
        rows = points.astype(np.float32).reshape(-1, 3, 1, 1, 1)
        return np.array([self.distance(x, y, z, 40.0).item() for x, y, z in rows], np.float64)

    def distance(self, x: Array, y: Array, z: Array, reach: float) -> Array:
        """Signed distance, mm, at x [1, 1, W], y [1, H, 1], z [D, 1, 1], ascending; far away beyond ``reach``."""
        out = np.full((z.shape[0], y.shape[1], x.shape[2]), FAR, np.float32)
        corners = self.balls[self.faces].astype(np.float32)
        axes = x.ravel(), y.ravel(), z.ravel()
        run_chunks(lambda a, b: _draw(corners, axes, np.float32(reach), out, a, b), len(out), 4)
        return out if self.cut is None else np.asarray(self.cut(out, x, y, z), np.float32)


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _draw(corners, axes, reach, out, first, last):  # type: ignore[no-untyped-def]
    """The smallest distance to any thick triangle, slices ``first`` to ``last``."""
    xs, ys, zs = axes
    zero, one = np.float32(0), np.float32(1)
    for m in range(len(corners)):
        a, b, c = corners[m, 0], corners[m, 1], corners[m, 2]
        margin = max(a[3], b[3], c[3]) + reach
        k0 = max(np.searchsorted(zs, min(a[2], b[2], c[2]) - margin), first)
        k1 = min(np.searchsorted(zs, max(a[2], b[2], c[2]) + margin), last)
        if k0 >= k1:
            continue
        j0, j1 = np.searchsorted(ys, min(a[1], b[1], c[1]) - margin), np.searchsorted(ys, max(a[1], b[1], c[1]) + margin)
        i0, i1 = np.searchsorted(xs, min(a[0], b[0], c[0]) - margin), np.searchsorted(xs, max(a[0], b[0], c[0]) + margin)
        ux, uy, uz, ur = b[0] - a[0], b[1] - a[1], b[2] - a[2], b[3] - a[3]
        vx, vy, vz, vr = c[0] - a[0], c[1] - a[1], c[2] - a[2], c[3] - a[3]
        wx, wy, wz, wr = vx - ux, vy - uy, vz - uz, vr - ur
        uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
        ww = wx * wx + wy * wy + wz * wz
        det = uu * vv - uv * uv
        flat = det > np.float32(1e-4) * uu * vv  # a cone or a ball has no face
        iu, iv, iw = one / max(uu, np.float32(1e-6)), one / max(vv, np.float32(1e-6)), one / max(ww, np.float32(1e-6))
        idet = one / det if flat else zero
        for k in range(k0, k1):
            pz = zs[k] - a[2]
            for j in range(j0, j1):
                py = ys[j] - a[1]
                for i in range(i0, i1):
                    px = xs[i] - a[0]
                    pu, pv = px * ux + py * uy + pz * uz, px * vx + py * vy + pz * vz
                    s, t = (vv * pu - uv * pv) * idet, (uu * pv - uv * pu) * idet
                    if flat and s >= zero and t >= zero and s + t <= one:
                        qx, qy, qz = px - s * ux - t * vx, py - s * uy - t * vy, pz - s * uz - t * vz
                        d = np.sqrt(qx * qx + qy * qy + qz * qz) - a[3] - s * ur - t * vr
                    else:
                        e = min(max(pu * iu, zero), one)
                        qx, qy, qz = px - e * ux, py - e * uy, pz - e * uz
                        d = np.sqrt(qx * qx + qy * qy + qz * qz) - a[3] - e * ur
                        if flat:
                            e = min(max(pv * iv, zero), one)
                            qx, qy, qz = px - e * vx, py - e * vy, pz - e * vz
                            d = min(d, np.sqrt(qx * qx + qy * qy + qz * qz) - a[3] - e * vr)
                            e = min(max((pv - pu - uv + uu) * iw, zero), one)
                            qx, qy, qz = px - ux - e * wx, py - uy - e * wy, pz - uz - e * wz
                            d = min(d, np.sqrt(qx * qx + qy * qy + qz * qz) - b[3] - e * wr)
                    if d < out[k, j, i]:
                        out[k, j, i] = d
