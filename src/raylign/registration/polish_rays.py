"""Two materials on every ray of one volume: how much attenuates at all, and how much of that as bone does.

What a voxel is made of is read off its attenuation, at every sample, after interpolation: a scan samples attenuation, and what
lies between its voxels is to be interpolated before it is named. One march gives both line integrals and, as the projector's
kernel does for one (``projection.cpu_forward``), their derivatives by the ray's origin and direction.
"""

# mypy: disable-error-code="assignment"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from raylign.projection.cpu import Grid, run_chunks, six
from raylign.projection.cpu_forward import SEGMENT
from raylign.projection.cpu_rays import RUN, base, inside, occupied_runs, ray, sample_range
from raylign.projection.cpu_simd import FASTMATH, FLOAT32, iadd, imul, load_pair

HINGES = 5
_FLOAT32 = FLOAT32


@njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")
def _march(address, size, occupied, box, culled, rays, shape, samples, mask, hinges, gradients, image, slopes, first, last):  # type: ignore[no-untyped-def]
    """Pixels first .. last - 1: ``image`` [P, 2], ``slopes`` [P, 2, 6]; ``hinges`` [5, 2]: where b(v) bends, and by how much."""
    nz, ny, nx = size
    h, w = shape
    sy = np.int32(nx)
    sz = np.int32(nx * ny)
    bytes_y = np.uintp(4 * nx)
    bytes_z = np.uintp(4 * nx * ny)
    zero = np.float32(0.0)
    k0_, k1_, k2_, k3_, k4_ = hinges[0, 0], hinges[1, 0], hinges[2, 0], hinges[3, 0], hinges[4, 0]
    c0_, c1_, c2_, c3_, c4_ = hinges[0, 1], hinges[1, 1], hinges[2, 1], hinges[3, 1], hinges[4, 1]
    for pixel in range(first, last):
        image[pixel] = zero
        if gradients:
            slopes[pixel] = zero
        if not mask[pixel]:
            continue
        b = pixel // (w * h)
        ox, oy, oz, dx, dy, dz = ray(rays, b, (pixel // w) % h, pixel % w)
        t0, t1 = inside(box, ox, oy, oz, dx, dy, dz)
        if t0 > t1:
            continue
        n = samples[b]
        first_k, last_k = sample_range(t0, t1, n)
        if first_k > last_k:
            continue
        step_x = np.float32(dx / n)
        step_y = np.float32(dy / n)
        step_z = np.float32(dz / n)
        total, other = 0.0, 0.0
        gx, gy, gz, hx, hy, hz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        px_, py_, pz_, qx, qy, qz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for segment in range(first_k // SEGMENT, last_k // SEGMENT + 1):
            k = segment * SEGMENT
            t = (k + 0.5) / n
            px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
            j0 = max(first_k - k, 0) // RUN
            j1 = min(last_k - k, SEGMENT - 1) // RUN + 1
            if culled:
                j0, j1 = occupied_runs(occupied, px, py, pz, dx / n, dy / n, dz / n, j0, j1)
                if j0 == j1:
                    continue
            bx, by, bz = base(px, SEGMENT * (dx / n), nx), base(py, SEGMENT * (dy / n), ny), base(pz, SEGMENT * (dz / n), nz)
            a00 = address + np.uintp(4) * np.uintp((bz * ny + by) * nx + bx)
            a01 = a00 + bytes_y
            a10 = a00 + bytes_z
            a11 = a10 + bytes_y
            x0, y0, z0 = np.float32(px - bx), np.float32(py - by), np.float32(pz - bz)
            top_x, top_y, top_z = np.float32(nx - 2 - bx), np.float32(ny - 2 - by), np.float32(nz - 2 - bz)
            value, bone = zero, zero
            ux, uy, uz, vx, vy, vz = zero, zero, zero, zero, zero, zero
            rx, ry, rz, tx, ty, tz = zero, zero, zero, zero, zero, zero
            for j in range(np.int32(j0 * RUN), np.int32(min(j1 * RUN, n - k))):
                s = np.float32(np.int32(j))
                x = max(min(x0 + s * step_x, top_x), zero)
                y = max(min(y0 + s * step_y, top_y), zero)
                z = max(min(z0 + s * step_z, top_z), zero)
                ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
                fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
                at = iadd(iadd(imul(iz, sz), imul(iy, sy)), ix)
                v000, v001 = load_pair(a00, at, _FLOAT32)
                v010, v011 = load_pair(a01, at, _FLOAT32)
                v100, v101 = load_pair(a10, at, _FLOAT32)
                v110, v111 = load_pair(a11, at, _FLOAT32)
                e0, e1, e2, e3 = v001 - v000, v011 - v010, v101 - v100, v111 - v110
                c0, c1, c2, c3 = v000 + fx * e0, v010 + fx * e1, v100 + fx * e2, v110 + fx * e3
                f0, f1 = c1 - c0, c3 - c2
                d0, d1 = c0 + fy * f0, c2 + fy * f1
                g = d1 - d0
                v = d0 + fz * g
                value += v
                bone += (
                    c0_ * max(v - k0_, zero) + c1_ * max(v - k1_, zero) + c2_ * max(v - k2_, zero)
                    + c3_ * max(v - k3_, zero) + c4_ * max(v - k4_, zero)
                )  # fmt: skip
                if gradients:
                    slope = (
                        (c0_ if v > k0_ else zero) + (c1_ if v > k1_ else zero) + (c2_ if v > k2_ else zero)
                        + (c3_ if v > k3_ else zero) + (c4_ if v > k4_ else zero)
                    )  # fmt: skip
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
                    e0 *= slope
                    f0 *= slope
                    g *= slope
                    rx += e0
                    ry += f0
                    rz += g
                    tx += s * e0
                    ty += s * f0
                    tz += s * g
            total += value
            other += bone
            if gradients:
                gx += ux
                gy += uy
                gz += uz
                hx += t * ux + vx / n
                hy += t * uy + vy / n
                hz += t * uz + vz / n
                px_ += rx
                py_ += ry
                pz_ += rz
                qx += t * rx + tx / n
                qy += t * ry + ty / n
                qz += t * rz + tz / n
        image[pixel, 0] = total / n
        image[pixel, 1] = other / n
        if gradients:
            for i, (m, o) in enumerate(((gx, px_), (gy, py_), (gz, pz_), (hx, qx), (hy, qy), (hz, qz))):
                slopes[pixel, 0, i] = m / n
                slopes[pixel, 1, i] = o / n


def two_materials(
    volume: Grid,
    rays: NDArray[np.float64],
    shape: tuple[int, int],
    samples: int,
    mask: NDArray[np.bool_],
    hinges: NDArray[np.float32],
    *,
    gradients: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Integrals over ``t`` in [0, 1] of ``v`` and of ``b(v) = sum_i c_i max(v - k_i, 0)`` along the rays of one view.

    Parameters
    ----------
    volume: float32, from ``projection.cpu.grid``.
    rays: [4, 3] in voxel coordinates: source, first pixel minus source, column step, row step.
    shape: (rows, columns) of the image.
    samples: per unit of t.
    mask: [rows, columns]; other pixels are 0.
    hinges: [5, 2] float32, ``k_i`` and ``c_i``; ``k_i`` is not negative.
    gradients: whether to return the slopes.

    Returns
    -------
    [2, rows, columns], and slopes [2, rows, columns, 6] as of ``projection.cpu.forward`` (rows and columns 0 without).
    """
    h, w = shape
    image = np.empty((h * w, 2), np.float32)
    slopes = np.empty((h * w if gradients else 0, 2, 6), np.float32)
    setting = (volume.address, volume.data.shape, volume.occupied, volume.box, volume.culled, six(rays[None]), (h, w))
    rest = (np.array([samples], np.int64), np.ascontiguousarray(mask).reshape(-1), hinges, gradients, image, slopes)
    run_chunks(lambda first, last: _march(*setting, *rest, first, last), h * w)
    moved = np.ascontiguousarray(np.moveaxis(slopes, 1, 0))
    return np.ascontiguousarray(image.T).reshape(2, h, w), moved.reshape((2, h, w, 6) if gradients else (2, 0, 0, 6))
