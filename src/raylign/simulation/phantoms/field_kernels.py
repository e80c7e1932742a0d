"""The loops of ``field``: solids united and painted in one pass over the voxels they touch.

Every kernel works on the slices ``first`` to ``last`` alone and writes each voxel from that voxel's own numbers, so that slabs
may run on any number of threads with the same result to the bit.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
Real = np.float32


@njit(cache=True, nogil=True, error_model="numpy")
def index_range(axis: F32, low: float, high: float) -> tuple[int, int]:
    """Indices of an evenly spaced ascending axis from ``low`` to ``high``; empty where first >= last."""
    n = len(axis)
    start = np.float64(axis[0])
    pitch = (np.float64(axis[n - 1]) - start) / max(n - 1, 1)
    first = math.ceil((low - start) / pitch)
    last = math.floor((high - start) / pitch) + 1
    return max(int(first), 0), min(int(last), n)


@njit(cache=True, nogil=True, error_model="numpy")
def _row(py: float, pz: float, a: F64, b: F64, reach: float) -> tuple[float, float]:
    """Where a row of voxels (y and z given) can lie within ``reach`` of a segment: lowest and highest x; crossed if nowhere."""
    wy, wz = b[1] - a[1], b[2] - a[2]
    qy, qz = a[1] - py, a[2] - pz
    square = wy * wy + wz * wz
    t0, t1 = 0.0, 1.0
    if square > 1e-12:
        half = qy * wy + qz * wz
        root = half * half - square * (qy * qy + qz * qz - reach * reach)
        if root < 0:
            return 1.0, 0.0
        root = math.sqrt(root)
        t0, t1 = max((-half - root) / square, 0.0), min((-half + root) / square, 1.0)
        if t0 > t1:
            return 1.0, 0.0
    elif qy * qy + qz * qz > reach * reach:
        return 1.0, 0.0
    x0, x1 = a[0] + t0 * (b[0] - a[0]), a[0] + t1 * (b[0] - a[0])
    return min(x0, x1) - reach, max(x0, x1) + reach


@njit(cache=True, nogil=True, error_model="numpy")
def cones(
    axes: tuple[F32, F32, F32], distance: F32, owner: U8, starts: F64, ends: F64, radii: F64, label: int, margin: float,
    first: int, last: int,
) -> None:  # fmt: skip
    """Round cones from ``starts`` to ``ends`` [N, 3] with ``radii`` [N, 2] at both."""
    x, y, z = axes
    for n in range(len(starts)):
        a, b = starts[n], ends[n]
        reach = max(radii[n, 0], radii[n, 1]) + margin
        k0, k1 = index_range(z, min(a[2], b[2]) - reach, max(a[2], b[2]) + reach)
        j0, j1 = index_range(y, min(a[1], b[1]) - reach, max(a[1], b[1]) + reach)
        vx, vy, vz = np.float32(b[0] - a[0]), np.float32(b[1] - a[1]), np.float32(b[2] - a[2])
        ax, ay, az = np.float32(a[0]), np.float32(a[1]), np.float32(a[2])
        inverse = np.float32(1.0 / max((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2 + (b[2] - a[2]) ** 2, 1e-12))
        ra, grow = np.float32(radii[n, 0]), np.float32(radii[n, 1] - radii[n, 0])
        for k in range(max(k0, first), min(k1, last)):
            pz = z[k] - az
            for j in range(j0, j1):
                low, high = _row(y[j], z[k], a, b, reach)
                if low > high:
                    continue
                py = y[j] - ay
                i0, i1 = index_range(x, low, high)
                for i in range(i0, i1):
                    px = x[i] - ax
                    u = min(max((px * vx + py * vy + pz * vz) * inverse, np.float32(0)), np.float32(1))
                    rx, ry, rz = px - u * vx, py - u * vy, pz - u * vz
                    d = np.sqrt(rx * rx + ry * ry + rz * rz) - ra - u * grow
                    if d < distance[k, j, i]:
                        distance[k, j, i] = d
                        owner[k, j, i] = label


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _taubin(p: Real, q: Real, r: Real, ip: Real, iq: Real, ir: Real, bottom: Real) -> Real:
    """First-order distance to an ellipsoid at (p, q, r) along its axes; ``ip`` ... are one over its radii."""
    sp, sq, sr = (p * ip) * (p * ip), (q * iq) * (q * iq), (r * ir) * (r * ir)
    value = np.sqrt(sp + sq + sr)
    slope = np.sqrt(sp * ip * ip + sq * iq * iq + sr * ir * ir)
    return (value - np.float32(1)) * max(value, np.float32(1e-3)) / max(slope, bottom)


@njit(cache=True, nogil=True, error_model="numpy")
def bands(
    axes: tuple[F32, F32, F32], distance: F32, owner: U8, points: F64, radii: F64, thin: F64, label: int, margin: float,
    first: int, last: int,
) -> None:  # fmt: skip
    """A chain of segments with elliptical cross-sections: ``radii`` [N, 2] along ``thin`` [N, 3] and across it."""
    x, y, z = axes
    for s in range(len(points) - 1):
        a, b = points[s], points[s + 1]
        ra, rb = (radii[s, 0] + radii[s + 1, 0]) / 2, (radii[s, 1] + radii[s + 1, 1]) / 2
        reach = max(ra, rb) + margin
        k0, k1 = index_range(z, min(a[2], b[2]) - reach, max(a[2], b[2]) + reach)
        j0, j1 = index_range(y, min(a[1], b[1]) - reach, max(a[1], b[1]) + reach)
        if max(k0, first) >= min(k1, last) or j0 >= j1:
            continue
        along = b - a
        length = math.sqrt(along[0] ** 2 + along[1] ** 2 + along[2] ** 2)
        t = along / length
        n = thin[s] + thin[s + 1]
        n = n - (n[0] * t[0] + n[1] * t[1] + n[2] * t[2]) * t
        n = n / math.sqrt(n[0] ** 2 + n[1] ** 2 + n[2] ** 2)
        w0, w1, w2 = t[1] * n[2] - t[2] * n[1], t[2] * n[0] - t[0] * n[2], t[0] * n[1] - t[1] * n[0]
        n0, n1, n2 = np.float32(n[0]), np.float32(n[1]), np.float32(n[2])
        t0, t1, t2 = np.float32(t[0]), np.float32(t[1]), np.float32(t[2])
        w0, w1, w2 = np.float32(w0), np.float32(w1), np.float32(w2)
        ia, ib, bottom = np.float32(1 / ra), np.float32(1 / rb), np.float32(1e-3 / min(ra, rb))
        ax, ay, az, end = np.float32(a[0]), np.float32(a[1]), np.float32(a[2]), np.float32(length)
        for k in range(max(k0, first), min(k1, last)):
            pz = z[k] - az
            for j in range(j0, j1):
                low, high = _row(y[j], z[k], a, b, reach)
                if low > high:
                    continue
                py = y[j] - ay
                i0, i1 = index_range(x, low, high)
                for i in range(i0, i1):
                    px = x[i] - ax
                    c = px * t0 + py * t1 + pz * t2
                    r = c - min(max(c, np.float32(0)), end)
                    d = _taubin(px * n0 + py * n1 + pz * n2, px * w0 + py * w1 + pz * w2, r, ia, ib, ia, bottom)
                    if d < distance[k, j, i]:
                        distance[k, j, i] = d
                        owner[k, j, i] = label


@njit(cache=True, nogil=True, error_model="numpy")
def ellipsoid(
    axes: tuple[F32, F32, F32], distance: F32, owner: U8, centre: F64, radii: F64, frame: F64, label: int, margin: float
) -> None:
    """One ellipsoid with its semi-axes along the rows of ``frame``."""
    x, y, z = axes
    reach = np.empty(3)
    for e in range(3):
        reach[e] = (
            math.sqrt((radii[0] * frame[0, e]) ** 2 + (radii[1] * frame[1, e]) ** 2 + (radii[2] * frame[2, e]) ** 2) + margin
        )
    i0, i1 = index_range(x, centre[0] - reach[0], centre[0] + reach[0])
    j0, j1 = index_range(y, centre[1] - reach[1], centre[1] + reach[1])
    k0, k1 = index_range(z, centre[2] - reach[2], centre[2] + reach[2])
    f, c = frame.astype(np.float32), centre.astype(np.float32)
    ip, iq, ir = np.float32(1 / radii[0]), np.float32(1 / radii[1]), np.float32(1 / radii[2])
    bottom = np.float32(1e-3 / radii.min())
    for k in range(k0, k1):
        pz = z[k] - c[2]
        for j in range(j0, j1):
            py = y[j] - c[1]
            p0, q0, r0 = f[0, 1] * py + f[0, 2] * pz, f[1, 1] * py + f[1, 2] * pz, f[2, 1] * py + f[2, 2] * pz
            for i in range(i0, i1):
                px = x[i] - c[0]
                d = _taubin(p0 + f[0, 0] * px, q0 + f[1, 0] * px, r0 + f[2, 0] * px, ip, iq, ir, bottom)
                if d < distance[k, j, i]:
                    distance[k, j, i] = d
                    owner[k, j, i] = label


@njit(cache=True, nogil=True, error_model="numpy")
def unite(distance: F32, owner: U8, corner: tuple[int, int, int], other: F32, label: int) -> None:
    """The smaller of two distances; ``other`` is known in a box that begins at ``corner``."""
    k0, j0, i0 = corner
    for k in range(other.shape[0]):
        for j in range(other.shape[1]):
            for i in range(other.shape[2]):
                d = other[k, j, i]
                if d < distance[k0 + k, j0 + j, i0 + i]:
                    distance[k0 + k, j0 + j, i0 + i] = d
                    owner[k0 + k, j0 + j, i0 + i] = label


@njit(cache=True, nogil=True, error_model="numpy")
def fill(
    hu: F32, labels: U8, corner: tuple[int, int, int], distance: F32, value: F32, label: int, voxel: float, first: int, last: int
) -> None:
    """Cover by one solid. ``value``: one number, or one a voxel, flat; ``label`` -1 leaves labels alone."""
    k0, j0, i0 = corner
    height, width = distance.shape[1:]
    inverse, half, one, zero = np.float32(1 / voxel), np.float32(0.5), np.float32(1), np.float32(0)
    step = 0 if len(value) == 1 else 1
    for k in range(first, last):
        for j in range(height):
            at = ((k * height) + j) * width
            for i in range(width):
                d = distance[k, j, i]
                cover = min(max(half - d * inverse, zero), one)
                if cover > zero:
                    under = hu[k0 + k, j0 + j, i0 + i]
                    hu[k0 + k, j0 + j, i0 + i] = under + cover * (value[(at + i) * step] - under)
                    if label >= 0 and d < zero:
                        labels[k0 + k, j0 + j, i0 + i] = label


@njit(cache=True, nogil=True, error_model="numpy")
def paint(
    hu: F32, labels: U8, distance: F32, owner: U8, tables: F32, layered: bool, labelled: bool, voxel: float, first: int, last: int
) -> None:
    """Cover by a union, all arrays flat. ``tables`` [3, 256] by label: shell in mm, HU of the shell (or of all), HU within it."""
    inverse, half, one, zero = np.float32(1 / voxel), np.float32(0.5), np.float32(1), np.float32(0)
    for n in range(first, last):
        d = distance[n]
        if d < voxel:
            o = owner[n]
            whole = min(max(half - d * inverse, zero), one)
            if layered:
                core = min(max(half - (d + tables[0, o]) * inverse, zero), one)
                hu[n] = hu[n] * (one - whole) + tables[1, o] * (whole - core) + tables[2, o] * core
            else:
                hu[n] += whole * (tables[1, o] - hu[n])
            if labelled and d < zero:
                labels[n] = o
