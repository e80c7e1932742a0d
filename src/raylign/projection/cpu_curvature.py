"""Second derivatives of trilinear integrals by their rays, times a vector, on the CPU (Numba)."""

# mypy: disable-error-code="assignment"

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from raylign.projection.cpu_forward import SEGMENT
from raylign.projection.cpu_rays import base, inside, ray, sample_range
from raylign.projection.cpu_simd import FASTMATH, FLOAT32, iadd, imul, load_pair


@lru_cache(maxsize=4)
def trilinear(storage: int) -> Any:
    """The kernel for volumes of a storage type.

    ``kernel(address, size, box, rays, shape, samples, vectors, out, first, last)``: ``vectors`` and ``out`` are [B*H*W, 6]. With
    ``u = vectors[:3] + t vectors[3:]`` and H the Hessian of the interpolant at a sample, ``out`` is the mean of ``H u`` and of
    ``t H u``. Inside a voxel the interpolant is linear along each axis, so only the mixed derivatives of H are not zero.
    """
    width = 4 if storage == FLOAT32 else 2

    @njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")
    def kernel(address, size, box, rays, shape, samples, vectors, out, first, last):  # type: ignore[no-untyped-def]
        nz, ny, nx = size
        h, w = shape
        sy, sz = np.int32(nx), np.int32(nx * ny)
        zero = np.float32(0.0)
        for pixel in range(first, last):
            for i in range(6):
                out[pixel, i] = zero
            b = pixel // (w * h)
            ox, oy, oz, dx, dy, dz = ray(rays, b, (pixel // w) % h, pixel % w)
            t0, t1 = inside(box, ox, oy, oz, dx, dy, dz)
            if t0 > t1:
                continue
            n = samples[b]
            k0, k1 = sample_range(t0, t1, n)
            if k0 > k1:
                continue
            step_x, step_y, step_z = np.float32(dx / n), np.float32(dy / n), np.float32(dz / n)
            gx, gy, gz, hx, hy, hz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for segment in range(k0 // SEGMENT, k1 // SEGMENT + 1):
                k = segment * SEGMENT
                t = (k + 0.5) / n
                px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
                bx, by, bz = base(px, SEGMENT * (dx / n), nx), base(py, SEGMENT * (dy / n), ny), base(pz, SEGMENT * (dz / n), nz)
                a00 = address + np.uintp(width) * np.uintp((bz * ny + by) * nx + bx)
                a01 = a00 + np.uintp(width * nx)
                a10 = a00 + np.uintp(width * nx * ny)
                a11 = a10 + np.uintp(width * nx)
                x0, y0, z0 = np.float32(px - bx), np.float32(py - by), np.float32(pz - bz)
                top_x, top_y, top_z = np.float32(nx - 2 - bx), np.float32(ny - 2 - by), np.float32(nz - 2 - bz)
                # u at the segment's first sample and its change from one sample to the next
                wx, wy, wz = (
                    np.float32(vectors[pixel, 3] / n),
                    np.float32(vectors[pixel, 4] / n),
                    np.float32(vectors[pixel, 5] / n),
                )
                qx = np.float32(vectors[pixel, 0] + t * vectors[pixel, 3])
                qy = np.float32(vectors[pixel, 1] + t * vectors[pixel, 4])
                qz = np.float32(vectors[pixel, 2] + t * vectors[pixel, 5])
                ux, uy, uz, vx, vy, vz = zero, zero, zero, zero, zero, zero
                for j in range(np.int32(max(k0 - k, 0)), np.int32(min(k1 - k + 1, SEGMENT))):
                    s = np.float32(np.int32(j))
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
                    xy = e1 - e0 + fz * ((e3 - e2) - (e1 - e0))
                    xz = e2 - e0 + fy * ((e3 - e1) - (e2 - e0))
                    yz = ((v110 + fx * e3) - (v100 + fx * e2)) - ((v010 + fx * e1) - (v000 + fx * e0))
                    cx, cy, cz = qx + s * wx, qy + s * wy, qz + s * wz
                    rx, ry, rz = xy * cy + xz * cz, xy * cx + yz * cz, xz * cx + yz * cy
                    ux += rx
                    uy += ry
                    uz += rz
                    vx += s * rx
                    vy += s * ry
                    vz += s * rz
                gx += ux
                gy += uy
                gz += uz
                hx += t * ux + vx / n
                hy += t * uy + vy / n
                hz += t * uz + vz / n
            out[pixel, 0] = gx / n
            out[pixel, 1] = gy / n
            out[pixel, 2] = gz / n
            out[pixel, 3] = hx / n
            out[pixel, 4] = hy / n
            out[pixel, 5] = hz / n

    return kernel
