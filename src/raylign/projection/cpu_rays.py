"""Rays, and which of their samples can meet anything (Numba; shared by the kernels)."""

from __future__ import annotations

import numpy as np
from numba import njit

RUN = 16  # samples that are summed side by side: a multiple of the width of a vector in float32


@njit(cache=True, nogil=True, inline="always")
def ray(rays, b, r, c):  # type: ignore[no-untyped-def]
    """Origin and direction of the ray of view b, row r, column c; padded voxels (the index is 2 more than the volume's)."""
    ox = rays[b, 0, 0] + c * rays[b, 4, 0] + r * rays[b, 5, 0] + 2.0
    oy = rays[b, 0, 1] + c * rays[b, 4, 1] + r * rays[b, 5, 1] + 2.0
    oz = rays[b, 0, 2] + c * rays[b, 4, 2] + r * rays[b, 5, 2] + 2.0
    dx = rays[b, 1, 0] + c * rays[b, 2, 0] + r * rays[b, 3, 0]
    dy = rays[b, 1, 1] + c * rays[b, 2, 1] + r * rays[b, 3, 1]
    dz = rays[b, 1, 2] + c * rays[b, 2, 2] + r * rays[b, 3, 2]
    return ox, oy, oz, dx, dy, dz


@njit(cache=True, nogil=True, inline="always")
def clip(o, d, low, high, t0, t1):  # type: ignore[no-untyped-def]
    """Range of t in which ``low <= o + t d <= high``, cut from [t0, t1]; t0 > t1 where there is none."""
    if d == 0.0:
        if o < low or o > high:
            return 2.0, -2.0
        return t0, t1
    a = (low - o) / d
    b = (high - o) / d
    if a > b:
        a, b = b, a
    return max(t0, a), min(t1, b)


@njit(cache=True, nogil=True, inline="always")
def inside(box, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Range of t in [0, 1] in which the ray is inside a box."""
    t0, t1 = clip(ox, dx, box[0], box[3], 0.0, 1.0)
    t0, t1 = clip(oy, dy, box[1], box[4], t0, t1)
    return clip(oz, dz, box[2], box[5], t0, t1)


@njit(cache=True, nogil=True, inline="always")
def sample_range(t0, t1, n):  # type: ignore[no-untyped-def]
    """First and last k of the samples ``t = (k + 1/2) / n`` in [t0, t1]; none where the first is larger."""
    return max(int(np.ceil(t0 * n - 0.5)), 0), min(int(np.floor(t1 * n - 0.5)), n - 1)


@njit(cache=True, nogil=True, inline="always")
def _brick(p, step, count):  # type: ignore[no-untyped-def]
    """Brick of the lower end of a run from p to p + step along one axis; rounding may fall a hair either way."""
    return min(max(int(np.floor(min(p, p + step) - 0.01)) >> 4, 0), count - 1)


@njit(cache=True, nogil=True)
def _anything(occupied, px, py, pz, sx, sy, sz):  # type: ignore[no-untyped-def]
    """Whether the segment from p to p + s may touch a voxel that is not zero.

    The map answers for segments of up to 14.9 voxels along each axis: with the reach of interpolation these span 17 voxels, and
    17 voxels lie in two bricks of 16. A longer segment is asked for in parts.
    """
    nz, ny, nx = occupied.shape
    parts = int(max(abs(sx), abs(sy), abs(sz)) / 14.9) + 1
    sx /= parts
    sy /= parts
    sz /= parts
    for i in range(parts):
        if occupied[_brick(pz + i * sz, sz, nz), _brick(py + i * sy, sy, ny), _brick(px + i * sx, sx, nx)] != 0:
            return True
    return False


@njit(cache=True, nogil=True)
def occupied_runs(occupied, px, py, pz, sx, sy, sz, j0, j1):  # type: ignore[no-untyped-def]
    """Runs j0 .. j1 - 1 without the empty ones at both ends; sample i of the whole lies at p + i s."""
    rx, ry, rz = RUN * sx, RUN * sy, RUN * sz
    while j0 < j1 and not _anything(occupied, px + j0 * rx, py + j0 * ry, pz + j0 * rz, rx, ry, rz):
        j0 += 1
    while j0 < j1 and not _anything(occupied, px + (j1 - 1) * rx, py + (j1 - 1) * ry, pz + (j1 - 1) * rz, rx, ry, rz):
        j1 -= 1
    return j0, j1


@njit(cache=True, nogil=True, inline="always")
def base(p, step, size):  # type: ignore[no-untyped-def]
    """Voxel index from which the positions p to p + step are counted, so that float32 resolves them to a millionth of a voxel.

    Never above any of them, unless they lie outside the volume.
    """
    return min(max(int(np.floor(min(p, p + step))) - 1, 0), size - 2)


@njit(cache=True, nogil=True, inline="always")
def steepest(dx, dy, dz):  # type: ignore[no-untyped-def]
    """Axis of the largest component (the first such), 0 = x."""
    ax, ay, az = abs(dx), abs(dy), abs(dz)
    if ax >= ay and ax >= az:
        return 0
    if ay >= az:
        return 1
    return 2
