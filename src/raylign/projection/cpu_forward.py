"""Line integrals and slopes of a volume on the CPU (Numba): trilinear and Joseph.

Samples of a ray are summed in segments of ``SEGMENT`` that start at multiples of ``SEGMENT``, counted from the ray's own t = 0.
Inside a segment positions are float32 relative to a voxel near its start, and the loop over its samples is what LLVM turns into
vector instructions: sample j is added to sum number j modulo the width of a vector. Empty runs of ``RUN`` samples, a multiple of
that width, are cut off at both ends of the segment: they would have added zeros, so leaving them out changes no bit of any
result. Segments add up in float64.
"""

# mypy: disable-error-code="assignment"

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from raylign.projection.cpu_rays import RUN, base, inside, occupied_runs, ray, sample_range, steepest
from raylign.projection.cpu_simd import FASTMATH, FLOAT32, iadd, imul, load_one, load_pair

SEGMENT = 256


@lru_cache(maxsize=16)
def trilinear(storage: int, gradients: bool) -> Any:
    """The kernel for volumes of a storage type, with or without slopes.

    ``kernel(address, size, occupied, box, culled, rays, shape, samples, mask, reach, image, slopes, first, last)``: pixels first
    to last - 1 of the flat [B, H, W]; ``size`` is the padded (nz, ny, nx), ``rays`` [B, 6, 3], ``reach`` is from
    ``cpu_shadow.shadow``.
    """
    width = 4 if storage == FLOAT32 else 2

    @njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")
    def kernel(address, size, occupied, box, culled, rays, shape, samples, mask, reach, image, slopes, first, last):  # type: ignore[no-untyped-def]
        nz, ny, nx = size
        h, w = shape
        sy = np.int32(nx)
        sz = np.int32(nx * ny)
        bytes_y = np.uintp(width * nx)
        bytes_z = np.uintp(width * nx * ny)
        zero = np.float32(0.0)
        limited = reach.shape[1] > 0
        for pixel in range(first, last):
            image[pixel] = zero
            if gradients:
                for i in range(6):
                    slopes[pixel, i] = zero
            if not mask[pixel]:
                continue
            b = pixel // (w * h)
            ox, oy, oz, dx, dy, dz = ray(rays, b, (pixel // w) % h, pixel % w)
            t0, t1 = inside(box, ox, oy, oz, dx, dy, dz)
            if limited:
                t0, t1 = max(t0, np.float64(reach[0, pixel])), min(t1, np.float64(reach[1, pixel]))
            if t0 > t1:
                continue
            n = samples[b]
            k0, k1 = sample_range(t0, t1, n)
            if k0 > k1:
                continue
            step_x = np.float32(dx / n)
            step_y = np.float32(dy / n)
            step_z = np.float32(dz / n)
            total = 0.0
            gx, gy, gz = 0.0, 0.0, 0.0
            hx, hy, hz = 0.0, 0.0, 0.0
            for segment in range(k0 // SEGMENT, k1 // SEGMENT + 1):
                k = segment * SEGMENT
                t = (k + 0.5) / n
                px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
                j0 = max(k0 - k, 0) // RUN
                j1 = min(k1 - k, SEGMENT - 1) // RUN + 1
                if culled:
                    j0, j1 = occupied_runs(occupied, px, py, pz, dx / n, dy / n, dz / n, j0, j1)
                    if j0 == j1:
                        continue
                bx, by, bz = base(px, SEGMENT * (dx / n), nx), base(py, SEGMENT * (dy / n), ny), base(pz, SEGMENT * (dz / n), nz)
                a00 = address + np.uintp(width) * np.uintp((bz * ny + by) * nx + bx)
                a01 = a00 + bytes_y
                a10 = a00 + bytes_z
                a11 = a10 + bytes_y
                x0, y0, z0 = np.float32(px - bx), np.float32(py - by), np.float32(pz - bz)
                top_x, top_y, top_z = np.float32(nx - 2 - bx), np.float32(ny - 2 - by), np.float32(nz - 2 - bz)
                value = zero
                ux, uy, uz = zero, zero, zero
                vx, vy, vz = zero, zero, zero
                for j in range(np.int32(j0 * RUN), np.int32(min(j1 * RUN, n - k))):
                    s = np.float32(np.int32(j))
                    # outside the volume, onto the border of zeros
                    x = max(min(x0 + s * step_x, top_x), zero)
                    y = max(min(y0 + s * step_y, top_y), zero)
                    z = max(min(z0 + s * step_z, top_z), zero)
                    ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
                    fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
                    at = iadd(iadd(imul(iz, sz), imul(iy, sy)), ix)
                    v000, v001 = load_pair(a00, at, storage)
                    v010, v011 = load_pair(a01, at, storage)
                    v100, v101 = load_pair(a10, at, storage)
                    v110, v111 = load_pair(a11, at, storage)
                    e0, e1, e2, e3 = v001 - v000, v011 - v010, v101 - v100, v111 - v110
                    c0, c1, c2, c3 = v000 + fx * e0, v010 + fx * e1, v100 + fx * e2, v110 + fx * e3
                    f0, f1 = c1 - c0, c3 - c2
                    d0, d1 = c0 + fy * f0, c2 + fy * f1
                    g = d1 - d0
                    value += d0 + fz * g
                    if gradients:
                        e0 += fy * (e1 - e0)
                        e2 += fy * (e3 - e2)
                        e0 += fz * (e2 - e0)
                        f0 += fz * (f1 - f0)
                        ux += e0
                        uy += f0
                        uz += g
                        vx += s * e0
                        vy += s * f0
                        vz += s * g
                total += value
                if gradients:
                    gx += ux
                    gy += uy
                    gz += uz
                    hx += t * ux + vx / n
                    hy += t * uy + vy / n
                    hz += t * uz + vz / n
            image[pixel] = total / n
            if gradients:
                slopes[pixel, 0] = gx / n
                slopes[pixel, 1] = gy / n
                slopes[pixel, 2] = gz / n
                slopes[pixel, 3] = hx / n
                slopes[pixel, 4] = hy / n
                slopes[pixel, 5] = hz / n

    return kernel


@lru_cache(maxsize=16)
def joseph(storage: int, gradients: bool) -> Any:
    """As ``trilinear``, one bilinear sample on every plane of voxel centres across the steepest axis.

    The sample on plane k lies at ``o_b + (k - o_a) d_b / d_a``, so five sums give all seven numbers: what the ray does along its
    steepest axis a follows from ``S0 . d = 0`` and ``S1 . d = -I``, which hold exactly here.
    """
    width = 4 if storage == FLOAT32 else 2

    @njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")
    def kernel(address, size, occupied, box, culled, rays, shape, samples, mask, reach, image, slopes, first, last):  # type: ignore[no-untyped-def]
        nz, ny, nx = size
        h, w = shape
        zero = np.float32(0.0)
        limited = reach.shape[1] > 0
        for pixel in range(first, last):
            image[pixel] = zero
            if gradients:
                for i in range(6):
                    slopes[pixel, i] = zero
            if not mask[pixel]:
                continue
            view = pixel // (w * h)
            ox, oy, oz, dx, dy, dz = ray(rays, view, (pixel // w) % h, pixel % w)
            t0, t1 = inside(box, ox, oy, oz, dx, dy, dz)
            if limited:
                t0, t1 = max(t0, np.float64(reach[0, pixel])), min(t1, np.float64(reach[1, pixel]))
            if t0 > t1:
                continue
            # a: the steepest axis; b, c: the others
            axis = steepest(dx, dy, dz)
            if axis == 0:
                oa, ob, oc, da, db, dc = ox, oy, oz, dx, dy, dz
                na, nb, nc, sa, sb, sc = nx, ny, nz, 1, nx, nx * ny
            elif axis == 1:
                oa, ob, oc, da, db, dc = oy, ox, oz, dy, dx, dz
                na, nb, nc, sa, sb, sc = ny, nx, nz, nx, 1, nx * ny
            else:
                oa, ob, oc, da, db, dc = oz, ox, oy, dz, dx, dy
                na, nb, nc, sa, sb, sc = nz, nx, ny, nx * ny, 1, nx
            if da == 0.0:
                continue
            # planes between the ray's ends; the order of summation must not depend on what is culled, so neither may these
            low = int(np.ceil(min(oa, oa + da)))
            high = int(np.floor(max(oa, oa + da)))
            k0 = max(int(np.ceil(min(oa + t0 * da, oa + t1 * da) - 1e-6)), low, 0)
            k1 = min(int(np.floor(max(oa + t0 * da, oa + t1 * da) + 1e-6)), high, na - 1)
            mb, mc = db / da, dc / da
            stride_a, stride_b, stride_c = np.int32(sa), np.int32(sb), np.int32(sc)
            step_b, step_c = np.float32(mb), np.float32(mc)
            total = 0.0
            gb, gc, hb, hc = 0.0, 0.0, 0.0, 0.0
            if k0 > k1:
                continue
            for segment in range(k0 // SEGMENT, k1 // SEGMENT + 1):
                k = segment * SEGMENT
                pb, pc = ob + (k - oa) * mb, oc + (k - oa) * mc
                j0 = max(k0 - k, 0) // RUN
                j1 = min(k1 - k, SEGMENT - 1) // RUN + 1
                if culled:
                    if axis == 0:
                        j0, j1 = occupied_runs(occupied, float(k), pb, pc, 1.0, mb, mc, j0, j1)
                    elif axis == 1:
                        j0, j1 = occupied_runs(occupied, pb, float(k), pc, mb, 1.0, mc, j0, j1)
                    else:
                        j0, j1 = occupied_runs(occupied, pb, pc, float(k), mb, mc, 1.0, j0, j1)
                    if j0 == j1:
                        continue
                bb, bc = base(pb, SEGMENT * mb, nb), base(pc, SEGMENT * mc, nc)
                a00 = address + np.uintp(width) * np.uintp(k * sa + bb * sb + bc * sc)
                a01 = a00 + np.uintp(width * sb)
                a10 = a00 + np.uintp(width * sc)
                a11 = a10 + np.uintp(width * sb)
                b0, c0 = np.float32(pb - bb), np.float32(pc - bc)
                top_b, top_c = np.float32(nb - 2 - bb), np.float32(nc - 2 - bc)
                top_a = np.int32(na - 1 - k)  # a plane of zeros
                value, ub, uc, vb, vc = zero, zero, zero, zero, zero
                for j in range(np.int32(max(low - k, j0 * RUN)), np.int32(min(j1 * RUN, high - k + 1))):
                    s = np.float32(np.int32(j))
                    y = max(min(b0 + s * step_b, top_b), zero)
                    z = max(min(c0 + s * step_c, top_c), zero)
                    iy, iz = np.int32(y), np.int32(z)
                    fy, fz = y - np.float32(iy), z - np.float32(iz)
                    at = iadd(iadd(imul(min(np.int32(j), top_a), stride_a), imul(iy, stride_b)), imul(iz, stride_c))
                    v00, v01 = load_one(a00, at, storage), load_one(a01, at, storage)
                    v10, v11 = load_one(a10, at, storage), load_one(a11, at, storage)
                    e0, e1 = v01 - v00, v11 - v10
                    d0 = v00 + fy * e0
                    g = v10 + fy * e1 - d0
                    value += d0 + fz * g
                    if gradients:
                        e0 += fz * (e1 - e0)
                        ub += e0
                        uc += g
                        vb += s * e0
                        vc += s * g
                total += value
                if gradients:
                    t = (k - oa) / da
                    gb += ub
                    gc += uc
                    hb += t * ub + vb / da
                    hc += t * uc + vc / da
            weight = 1.0 / abs(da)
            image[pixel] = total * weight
            if gradients:
                ga = -(gb * mb + gc * mc)
                ha = -(hb * mb + hc * mc) - total / da
                if axis == 0:
                    ib, ic = 1, 2
                elif axis == 1:
                    ib, ic = 0, 2
                else:
                    ib, ic = 0, 1
                slopes[pixel, axis] = ga * weight
                slopes[pixel, ib] = gb * weight
                slopes[pixel, ic] = gc * weight
                slopes[pixel, 3 + axis] = ha * weight
                slopes[pixel, 3 + ib] = hb * weight
                slopes[pixel, 3 + ic] = hc * weight

    return kernel
