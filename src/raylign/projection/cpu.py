"""The projector on the CPU: line integral and ray Jacobian of a trilinear volume in one pass (Numba).

The meaning of every number is defined by ``reference.py``; the tests hold this file to it.

Rays of a view are affine in the pixel, ``d(r, c) = d00 + c * du + r * dv``, all in voxel coordinates (x = column i, y = row j,
z = slice k of the volume). A ray is sampled at ``t = (n + 1/2) / N`` for every integer n: the sampling does not move with the
pose, so that the sums of gradients below are the exact derivatives of the sum of values. The volume is padded by one layer of
zeros on each side (``pad``): it falls to zero within one voxel of its border, and the inner loop needs no bounds check.

Threads: the kernels release the GIL and are handed rows of pixels by a thread pool. Each ray is summed by one thread in one
order, so results do not depend on the number of threads, and any number of threads may render at once.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

_CHUNKS_PER_THREAD = 8  # rays differ in length (masks, empty corners): smaller pieces even out the load


def threads() -> int:
    """Threads that a projection uses: RAYLIGN_THREADS, or the processors this process may run on."""
    wanted = os.environ.get("RAYLIGN_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=4)
def pool(size: int) -> ThreadPoolExecutor:
    """The thread pool that kernels share; its tasks never wait for one another, so nesting cannot deadlock."""
    return ThreadPoolExecutor(size, thread_name_prefix="raylign")


def pad(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """[D, H, W] to contiguous float32 [D+2, H+2, W+2] with a layer of zeros around it."""
    padded = np.zeros(tuple(n + 2 for n in volume.shape), np.float32)
    padded[1:-1, 1:-1, 1:-1] = volume
    return padded


@njit(cache=True, nogil=True, inline="always")
def _clip(o, d, limit, t0, t1):  # type: ignore[no-untyped-def]
    """Range of t in which ``0 < o + t d < limit``, cut from [t0, t1]."""
    if d == 0.0:
        if o <= 0.0 or o >= limit:
            return 1.0, 0.0
        return t0, t1
    a = -o / d
    b = (limit - o) / d
    if a > b:
        a, b = b, a
    return max(t0, a), min(t1, b)


@njit(cache=True, nogil=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
def _integrals(volume, rays, shape_w, shape_h, n, mask, out, first, last):  # type: ignore[no-untyped-def]
    """``int V dt`` of pixels first..last-1 of a flat [B, H, W] batch; ``rays`` is [B, 4, 3]: o, d00, du, dv, voxels."""
    nz, ny, nx = volume.shape
    flat = volume.reshape(-1)
    sy = nx
    sz = nx * ny
    for pixel in range(first, last):
        if not mask[pixel]:
            out[pixel] = 0.0
            continue
        b = pixel // (shape_w * shape_h)
        r = (pixel // shape_w) % shape_h
        c = pixel % shape_w
        # the padded volume's index is one more than the volume's
        ox = rays[b, 0, 0] + 1.0
        oy = rays[b, 0, 1] + 1.0
        oz = rays[b, 0, 2] + 1.0
        dx = rays[b, 1, 0] + c * rays[b, 2, 0] + r * rays[b, 3, 0]
        dy = rays[b, 1, 1] + c * rays[b, 2, 1] + r * rays[b, 3, 1]
        dz = rays[b, 1, 2] + c * rays[b, 2, 2] + r * rays[b, 3, 2]
        t0, t1 = _clip(ox, dx, nx - 1.0, 0.0, 1.0)
        t0, t1 = _clip(oy, dy, ny - 1.0, t0, t1)
        t0, t1 = _clip(oz, dz, nz - 1.0, t0, t1)
        total = np.float32(0.0)
        if t1 > t0:
            steps = n[b]
            k0 = int(np.ceil(t0 * steps - 0.5))
            k1 = int(np.floor(t1 * steps - 0.5))
            for k in range(k0, k1 + 1):
                t = (k + 0.5) / steps
                x = ox + t * dx
                y = oy + t * dy
                z = oz + t * dz
                # rounding at the faces may fall a hair outside; the clamp keeps the load inside the array
                ix = min(max(int(x), 0), nx - 2)
                iy = min(max(int(y), 0), ny - 2)
                iz = min(max(int(z), 0), nz - 2)
                fx = np.float32(x - ix)
                fy = np.float32(y - iy)
                fz = np.float32(z - iz)
                p = iz * sz + iy * sy + ix
                v000 = flat[p]
                v001 = flat[p + 1]
                v010 = flat[p + sy]
                v011 = flat[p + sy + 1]
                v100 = flat[p + sz]
                v101 = flat[p + sz + 1]
                v110 = flat[p + sz + sy]
                v111 = flat[p + sz + sy + 1]
                a0 = v000 + fx * (v001 - v000)
                a1 = v010 + fx * (v011 - v010)
                a2 = v100 + fx * (v101 - v100)
                a3 = v110 + fx * (v111 - v110)
                b0 = a0 + fy * (a1 - a0)
                b1 = a2 + fy * (a3 - a2)
                total += b0 + fz * (b1 - b0)
            total /= np.float32(steps)
        out[pixel] = total


@njit(cache=True, nogil=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
def _integrals_and_gradients(volume, rays, shape_w, shape_h, n, mask, out, first, last):  # type: ignore[no-untyped-def]
    """As ``_integrals``; ``out`` is [B*H*W, 7]: ``int V dt``, ``int grad V dt``, ``int t grad V dt`` by voxel axes x, y, z."""
    nz, ny, nx = volume.shape
    flat = volume.reshape(-1)
    sy = nx
    sz = nx * ny
    for pixel in range(first, last):
        for i in range(7):
            out[pixel, i] = 0.0
        if not mask[pixel]:
            continue
        b = pixel // (shape_w * shape_h)
        r = (pixel // shape_w) % shape_h
        c = pixel % shape_w
        ox = rays[b, 0, 0] + 1.0
        oy = rays[b, 0, 1] + 1.0
        oz = rays[b, 0, 2] + 1.0
        dx = rays[b, 1, 0] + c * rays[b, 2, 0] + r * rays[b, 3, 0]
        dy = rays[b, 1, 1] + c * rays[b, 2, 1] + r * rays[b, 3, 1]
        dz = rays[b, 1, 2] + c * rays[b, 2, 2] + r * rays[b, 3, 2]
        t0, t1 = _clip(ox, dx, nx - 1.0, 0.0, 1.0)
        t0, t1 = _clip(oy, dy, ny - 1.0, t0, t1)
        t0, t1 = _clip(oz, dz, nz - 1.0, t0, t1)
        if t1 <= t0:
            continue
        steps = n[b]
        k0 = int(np.ceil(t0 * steps - 0.5))
        k1 = int(np.floor(t1 * steps - 0.5))
        total = np.float32(0.0)
        gx = np.float32(0.0)
        gy = np.float32(0.0)
        gz = np.float32(0.0)
        hx = np.float32(0.0)
        hy = np.float32(0.0)
        hz = np.float32(0.0)
        for k in range(k0, k1 + 1):
            t = (k + 0.5) / steps
            x = ox + t * dx
            y = oy + t * dy
            z = oz + t * dz
            ix = min(max(int(x), 0), nx - 2)
            iy = min(max(int(y), 0), ny - 2)
            iz = min(max(int(z), 0), nz - 2)
            fx = np.float32(x - ix)
            fy = np.float32(y - iy)
            fz = np.float32(z - iz)
            p = iz * sz + iy * sy + ix
            v000 = flat[p]
            v010 = flat[p + sy]
            v100 = flat[p + sz]
            v110 = flat[p + sz + sy]
            e0 = flat[p + 1] - v000
            e1 = flat[p + sy + 1] - v010
            e2 = flat[p + sz + 1] - v100
            e3 = flat[p + sz + sy + 1] - v110
            a0 = v000 + fx * e0
            a1 = v010 + fx * e1
            a2 = v100 + fx * e2
            a3 = v110 + fx * e3
            f0 = a1 - a0
            f1 = a3 - a2
            b0 = a0 + fy * f0
            b1 = a2 + fy * f1
            e0 += fy * (e1 - e0)
            e2 += fy * (e3 - e2)
            s = np.float32(t)
            total += b0 + fz * (b1 - b0)
            u = e0 + fz * (e2 - e0)
            gx += u
            hx += s * u
            u = f0 + fz * (f1 - f0)
            gy += u
            hy += s * u
            u = b1 - b0
            gz += u
            hz += s * u
        w = np.float32(1.0 / steps)
        out[pixel, 0] = total * w
        out[pixel, 1] = gx * w
        out[pixel, 2] = gy * w
        out[pixel, 3] = gz * w
        out[pixel, 4] = hx * w
        out[pixel, 5] = hy * w
        out[pixel, 6] = hz * w


def forward(
    padded: NDArray[np.float32],
    rays: NDArray[np.float64],
    shape: tuple[int, int],
    samples: NDArray[np.int64],
    mask: NDArray[np.bool_] | None = None,
    gradients: bool = False,
    threaded: bool = True,
) -> NDArray[np.float32]:
    """Integrals over ``t`` in [0, 1] along the rays of a batch of views.

    Parameters
    ----------
    padded: [D+2, H+2, W+2] float32 from ``pad``.
    rays: [B, 4, 3] float64 in voxel coordinates: source, first pixel minus source, column step, row step.
    shape: (rows, columns) of every image.
    samples: [B], samples per unit of t.
    mask: [B, rows, columns]; pixels that are False are not computed and are 0.
    gradients: whether to return the derivatives too.
    threaded: whether to spread the rays over all threads; a caller that runs many renderings side by side does not want that.

    Returns
    -------
    [B, rows, columns] float32, or [B, rows, columns, 7] with the integral, ``S0`` and ``S1`` (voxel axes x, y, z).
    Multiply by the length of the ray in mm for a line integral.
    """
    h, w = shape
    batch = rays.shape[0]
    total = batch * h * w
    valid = np.ones(total, np.bool_) if mask is None else np.ascontiguousarray(mask).reshape(-1)
    out = np.empty((total, 7) if gradients else total, np.float32)
    kernel = _integrals_and_gradients if gradients else _integrals
    arguments = (padded, np.ascontiguousarray(rays), w, h, np.ascontiguousarray(samples, np.int64), valid, out)
    if threaded:
        run_chunks(lambda first, last: kernel(*arguments, first, last), total)
    else:
        kernel(*arguments, 0, total)
    return out.reshape(batch, h, w, 7) if gradients else out.reshape(batch, h, w)


def run_chunks(work, total: int, smallest: int = 512) -> None:  # type: ignore[no-untyped-def]
    """Calls ``work(first, last)`` over pieces of ``range(total)`` on all threads and waits."""
    count = threads()
    pieces = min(count * _CHUNKS_PER_THREAD, total // smallest)
    if count == 1 or pieces <= 1:
        work(0, total)
        return
    edges = [total * i // pieces for i in range(pieces + 1)]
    for future in [pool(count).submit(work, a, b) for a, b in pairwise(edges)]:
        future.result()
