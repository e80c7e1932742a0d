"""The adjoint of the projector on the CPU (Numba): numbers of rays spread over the voxels that they came from.

The volume is cut into slabs of ``SLAB`` slices. A slab is filled by one thread, which walks the parts of all rays inside it, in
the order of the rays; a sample between the last slice of a slab and the first of the next touches both, so even slabs are filled
first, side by side, and then odd ones. No two threads ever write the same voxel, none waits for another, no private copies are
added up, and the order of additions to a voxel depends on nothing but the rays: results are the same bits whatever the threads.

In a segment of a ray the weights of all corners are computed first, by vector instructions, into a scratch buffer, from exactly
the positions of ``cpu_forward``; then they are added one sample after the other.
"""

# mypy: disable-error-code="assignment"

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from raylign.projection.cpu_forward import SEGMENT
from raylign.projection.cpu_rays import base, clip, inside, ray, sample_range, steepest
from raylign.projection.cpu_simd import FASTMATH, add_both, add_one, add_pair, iadd, imul, store_float, store_int

SLAB = 16  # slices; the fewer, the more threads can share the work, and the more often a ray is cut


@njit(cache=True, nogil=True, error_model="numpy")
def extents(size, box, rays, shape, weights, slopes, has_slopes, slices, first, last):  # type: ignore[no-untyped-def]
    """Lowest and highest slice that the rays first .. last - 1 can touch; (1, 0) where a ray has no weight or misses."""
    h, w = shape
    nz = size[0]
    for pixel in range(first, last):
        slices[pixel, 0] = 1
        slices[pixel, 1] = 0
        some = weights[pixel] != 0.0
        if has_slopes:
            for i in range(6):
                some |= slopes[pixel, i] != 0.0
        if not some:
            continue
        ox, oy, oz, dx, dy, dz = ray(rays, pixel // (w * h), (pixel // w) % h, pixel % w)
        t0, t1 = inside(box, ox, oy, oz, dx, dy, dz)
        if t0 > t1:
            continue
        slices[pixel, 0] = max(int(np.floor(min(oz + t0 * dz, oz + t1 * dz))) - 1, 0)
        slices[pixel, 1] = min(int(np.floor(max(oz + t0 * dz, oz + t1 * dz))) + 1, nz - 1)


@njit(cache=True, nogil=True)
def take(padded, out, border, first, last):  # type: ignore[no-untyped-def]
    """Moves slices first .. last - 1 of the volume out of padded memory, which is zeros afterwards."""
    for z in range(first, last):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                out[z, y, x] = padded[z + border, y + border, x + border]
        padded[z + border] = 0.0


@njit(cache=True, nogil=True, inline="always")
def _within(slice_of, j0, j1, z0, z1):  # type: ignore[no-untyped-def]
    """The samples of j0 .. j1 - 1 that belong to slices z0 .. z1 - 1; slices rise or fall along a ray."""
    while j0 < j1 and (slice_of[j0] < z0 or slice_of[j0] >= z1):
        j0 += 1
    while j0 < j1 and (slice_of[j1 - 1] < z0 or slice_of[j1 - 1] >= z1):
        j1 -= 1
    return j0, j1


@lru_cache(maxsize=4)
def trilinear(has_slopes: bool) -> Any:
    """The kernel that fills one slab.

    ``kernel(target, size, box, rays, shape, samples, slices, weights, slopes, z0, z1)``: ``target`` is the padded volume's flat
    data (added to), ``slices`` from ``extents``, ``weights`` [B*H*W], ``slopes`` [B*H*W, 6].
    """

    @njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")
    def kernel(target, size, box, rays, shape, samples, slices, weights, slopes, z0, z1):  # type: ignore[no-untyped-def]
        nz, ny, nx = size
        h, w = shape
        sy = np.int32(nx)
        sz = np.int32(nx * ny)
        zero, one = np.float32(0.0), np.float32(1.0)
        address = np.uintp(target.ctypes.data)
        # corner weights in pairs; the cell's index and its slice. What one loop stores with one stride is one array: LLVM must
        # see that nothing overlaps
        scratch = np.empty(8 * SEGMENT, np.float32)
        cells = np.empty(2 * SEGMENT, np.int32)
        source, counts = np.uintp(scratch.ctypes.data), np.uintp(cells.ctypes.data)
        at, slice_of = cells[:SEGMENT], cells[SEGMENT:]
        for pixel in range(slices.shape[0]):
            if slices[pixel, 1] < z0 or slices[pixel, 0] >= z1:
                continue
            b = pixel // (w * h)
            ox, oy, oz, dx, dy, dz = ray(rays, b, (pixel // w) % h, pixel % w)
            t0, t1 = inside(box, ox, oy, oz, dx, dy, dz)
            # the slab, and a little more: which slab a sample belongs to is decided below, in float32 as it is spread
            t0, t1 = clip(oz, dz, z0 - 0.01, z1 + 0.01, t0, t1)
            if t0 > t1:
                continue
            n = samples[b]
            k0, k1 = sample_range(t0, t1, n)
            k0, k1 = max(k0 - 1, 0), min(k1 + 1, n - 1)
            step_x, step_y, step_z = np.float32(dx / n), np.float32(dy / n), np.float32(dz / n)
            weight = np.float32(weights[pixel] / n)
            scale = np.float32(1.0 / n)
            if has_slopes:
                px0, py0, pz0 = slopes[pixel, 0] * scale, slopes[pixel, 1] * scale, slopes[pixel, 2] * scale
                px1, py1, pz1 = slopes[pixel, 3] * scale, slopes[pixel, 4] * scale, slopes[pixel, 5] * scale
            for segment in range(k0 // SEGMENT, k1 // SEGMENT + 1):
                k = segment * SEGMENT
                t = (k + 0.5) / n
                px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
                j0 = max(k0 - k, 0)
                j1 = min(k1 - k + 1, SEGMENT)
                bx, by, bz = base(px, SEGMENT * (dx / n), nx), base(py, SEGMENT * (dy / n), ny), base(pz, SEGMENT * (dz / n), nz)
                x0, y0, z0f = np.float32(px - bx), np.float32(py - by), np.float32(pz - bz)
                top_x, top_y, top_z = np.float32(nx - 2 - bx), np.float32(ny - 2 - by), np.float32(nz - 2 - bz)
                start = np.float32(t)
                layer = np.int32(bz)
                for j in range(j0, j1):
                    s = np.float32(np.int32(j))
                    x = max(min(x0 + s * step_x, top_x), zero)
                    y = max(min(y0 + s * step_y, top_y), zero)
                    z = max(min(z0f + s * step_z, top_z), zero)
                    ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
                    fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
                    store_int(counts, j, iadd(iadd(imul(iz, sz), imul(iy, sy)), ix))
                    store_int(counts, j + SEGMENT, iadd(iz, layer))
                    wy, wz = one - fy, one - fz
                    q00, q01, q10, q11 = wy * wz, fy * wz, wy * fz, fy * fz
                    if has_slopes:
                        q = start + s * scale
                        ux, uy, uz = px0 + q * px1, py0 + q * py1, pz0 + q * pz1
                        c00 = weight * q00 - uy * wz - uz * wy
                        c01 = weight * q01 + uy * wz - uz * fy
                        c10 = weight * q10 - uy * fz + uz * wy
                        c11 = weight * q11 + uy * fz + uz * fy
                        m00, m01 = fx * c00 + ux * q00, fx * c01 + ux * q01
                        m10, m11 = fx * c10 + ux * q10, fx * c11 + ux * q11
                    else:
                        c00, c01, c10, c11 = weight * q00, weight * q01, weight * q10, weight * q11
                        m00, m01, m10, m11 = fx * c00, fx * c01, fx * c10, fx * c11
                    store_float(source, 2 * j, c00 - m00)
                    store_float(source, 2 * j + 1, m00)
                    store_float(source, 2 * j + 2 * SEGMENT, c01 - m01)
                    store_float(source, 2 * j + 2 * SEGMENT + 1, m01)
                    store_float(source, 2 * j + 4 * SEGMENT, c10 - m10)
                    store_float(source, 2 * j + 4 * SEGMENT + 1, m10)
                    store_float(source, 2 * j + 6 * SEGMENT, c11 - m11)
                    store_float(source, 2 * j + 6 * SEGMENT + 1, m11)
                j0, j1 = _within(slice_of, j0, j1, z0, z1)
                a00 = address + np.uintp(4) * np.uintp((bz * ny + by) * nx + bx)
                a01 = a00 + np.uintp(4 * nx)
                a10 = a00 + np.uintp(4 * nx * ny)
                a11 = a10 + np.uintp(4 * nx)
                for j in range(j0, j1):
                    i = at[j]
                    add_pair(a00, i, source, np.int32(2 * j))
                    add_pair(a01, i, source, np.int32(2 * (SEGMENT + j)))
                    add_pair(a10, i, source, np.int32(2 * (2 * SEGMENT + j)))
                    add_pair(a11, i, source, np.int32(2 * (3 * SEGMENT + j)))

    return kernel


@lru_cache(maxsize=4)
def joseph(has_slopes: bool) -> Any:
    """As ``trilinear`` for Joseph's samples."""

    @njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")
    def kernel(target, size, box, rays, shape, samples, slices, weights, slopes, z0, z1):  # type: ignore[no-untyped-def]
        nz, ny, nx = size
        h, w = shape
        zero, one = np.float32(0.0), np.float32(1.0)
        address = np.uintp(target.ctypes.data)
        # corner weights in pairs; the cell's index and its slice. What one loop stores with one stride is one array: LLVM must
        # see that nothing overlaps
        scratch = np.empty(4 * SEGMENT, np.float32)
        cells = np.empty(2 * SEGMENT, np.int32)
        source, counts = np.uintp(scratch.ctypes.data), np.uintp(cells.ctypes.data)
        at, slice_of = cells[:SEGMENT], cells[SEGMENT:]
        for pixel in range(slices.shape[0]):
            if slices[pixel, 1] < z0 or slices[pixel, 0] >= z1:
                continue
            ox, oy, oz, dx, dy, dz = ray(rays, pixel // (w * h), (pixel // w) % h, pixel % w)
            t0, t1 = inside(box, ox, oy, oz, dx, dy, dz)
            t0, t1 = clip(oz, dz, z0 - 0.01, z1 + 0.01, t0, t1)
            if t0 > t1:
                continue
            axis = steepest(dx, dy, dz)
            if axis == 0:
                ia, ib, ic = 0, 1, 2
                oa, ob, oc, da, db, dc = ox, oy, oz, dx, dy, dz
                na, nb, nc, sa, sb, sc = nx, ny, nz, 1, nx, nx * ny
            elif axis == 1:
                ia, ib, ic = 1, 0, 2
                oa, ob, oc, da, db, dc = oy, ox, oz, dy, dx, dz
                na, nb, nc, sa, sb, sc = ny, nx, nz, nx, 1, nx * ny
            else:
                ia, ib, ic = 2, 0, 1
                oa, ob, oc, da, db, dc = oz, ox, oy, dz, dx, dy
                na, nb, nc, sa, sb, sc = nz, nx, ny, nx * ny, 1, nx
            if da == 0.0:
                continue
            low = max(int(np.ceil(min(oa, oa + da))), 0)
            high = min(int(np.floor(max(oa, oa + da))), na - 1)
            k0 = max(int(np.ceil(min(oa + t0 * da, oa + t1 * da))) - 1, low)
            k1 = min(int(np.floor(max(oa + t0 * da, oa + t1 * da))) + 1, high)
            if k0 > k1:
                continue
            mb, mc = db / da, dc / da
            stride_a, stride_b, stride_c = np.int32(sa), np.int32(sb), np.int32(sc)
            step_b, step_c = np.float32(mb), np.float32(mc)
            length = 1.0 / abs(da)
            if has_slopes:
                # what the weights of the steepest axis mean for the five sums that all seven numbers are made of
                weight = np.float32(length * (weights[pixel] - slopes[pixel, 3 + ia] / da))
                b0, b1 = slopes[pixel, ib] - slopes[pixel, ia] * mb, slopes[pixel, 3 + ib] - slopes[pixel, 3 + ia] * mb
                c0, c1 = slopes[pixel, ic] - slopes[pixel, ia] * mc, slopes[pixel, 3 + ic] - slopes[pixel, 3 + ia] * mc
            else:
                weight = np.float32(length * weights[pixel])
            for segment in range(k0 // SEGMENT, k1 // SEGMENT + 1):
                k = segment * SEGMENT
                pb, pc = ob + (k - oa) * mb, oc + (k - oa) * mc
                j0 = max(k0 - k, 0)
                j1 = min(k1 - k + 1, SEGMENT)
                bb, bc = base(pb, SEGMENT * mb, nb), base(pc, SEGMENT * mc, nc)
                y0, z0f = np.float32(pb - bb), np.float32(pc - bc)
                top_b, top_c = np.float32(nb - 2 - bb), np.float32(nc - 2 - bc)
                if axis == 2:
                    layer, by_plane = np.int32(k), np.int32(1)
                else:
                    layer, by_plane = np.int32(bc), np.int32(0)
                if has_slopes:
                    t = (k - oa) / da
                    ub0, ub1 = np.float32(length * (b0 + t * b1)), np.float32(length * b1 / da)
                    uc0, uc1 = np.float32(length * (c0 + t * c1)), np.float32(length * c1 / da)
                for j in range(j0, j1):
                    s = np.float32(np.int32(j))
                    y = max(min(y0 + s * step_b, top_b), zero)
                    z = max(min(z0f + s * step_c, top_c), zero)
                    iy, iz = np.int32(y), np.int32(z)
                    fy, fz = y - np.float32(iy), z - np.float32(iz)
                    cell = iadd(iadd(imul(np.int32(j), stride_a), imul(iy, stride_b)), imul(iz, stride_c))
                    store_int(counts, j, cell)
                    store_int(counts, j + SEGMENT, iadd(layer, np.int32(j) if by_plane != 0 else iz))
                    wz = one - fz
                    if has_slopes:
                        ub, uc = ub0 + s * ub1, uc0 + s * uc1
                        d0, d1 = weight * wz - uc, weight * fz + uc
                        m0, m1 = fy * d0 + ub * wz, fy * d1 + ub * fz
                    else:
                        d0, d1 = weight * wz, weight * fz
                        m0, m1 = fy * d0, fy * d1
                    store_float(source, 2 * j, d0 - m0)
                    store_float(source, 2 * j + 1, m0)
                    store_float(source, 2 * j + 2 * SEGMENT, d1 - m1)
                    store_float(source, 2 * j + 2 * SEGMENT + 1, m1)
                j0, j1 = _within(slice_of, j0, j1, z0, z1)
                a0 = address + np.uintp(4) * np.uintp(k * sa + bb * sb + bc * sc)
                a1 = a0 + np.uintp(4 * sc)
                if sb == 1:
                    for j in range(j0, j1):
                        i = at[j]
                        # the next sample is on the next plane
                        add_both(a0, i, source, np.int32(2 * j))
                        add_both(a1, i, source, np.int32(2 * (SEGMENT + j)))
                else:
                    for j in range(j0, j1):
                        i = at[j]
                        add_one(a0, i, scratch[2 * j])
                        add_one(a0, iadd(i, stride_b), scratch[2 * j + 1])
                        add_one(a1, i, scratch[2 * (SEGMENT + j)])
                        add_one(a1, iadd(i, stride_b), scratch[2 * (SEGMENT + j) + 1])

    return kernel
