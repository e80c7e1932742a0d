"""Siddon's exact integral of voxels of constant value, its slopes and its adjoint, on the CPU (Numba).

A ray is followed from voxel to voxel: along each axis it crosses the faces of voxels in order, and the next face is the nearest
of the three axes' next ones. Where it passes from a voxel to the next through a face of axis a at parameter t, the integral
changes with the face's place on the ray: ``dt/do_a = -1/d_a``, ``dt/dd_a = -t/d_a``, times the step in value. Every crossing is
computed from its face's number, not added up, so errors do not grow along a ray.
"""

# mypy: disable-error-code="assignment"

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from raylign.projection.cpu_rays import inside, ray
from raylign.projection.cpu_simd import FASTMATH, load_one

_FAR = 1e300


@njit(cache=True, nogil=True, inline="always")
def _start(o, d, t, low, high):  # type: ignore[no-untyped-def]
    """Index of the voxel at t along one axis, the direction of travel, the parameter of the face at which it is left."""
    i = min(max(int(np.floor(o + t * d + 0.5)), low), high)
    if d > 0.0:
        return i, 1, (i + 0.5 - o) / d
    if d < 0.0:
        return i, -1, (i - 0.5 - o) / d
    return i, 0, _FAR


@njit(cache=True, nogil=True, inline="always")
def _enters(o, d, low, high, t):  # type: ignore[no-untyped-def]
    """Whether the ray crosses a face of this axis at t, where it enters the grid."""
    if d == 0.0:
        return False
    face = low - 0.5 if d > 0.0 else high + 0.5
    return (face - o) / d == t


@lru_cache(maxsize=16)
def forward(storage: int, gradients: bool) -> Any:
    """The kernel, with the parameters of ``cpu_forward.trilinear``; empty space is cut off by ``box`` and ``mask`` alone."""

    @njit(cache=True, nogil=True, fastmath=FASTMATH - {"ninf", "nnan", "arcp", "reassoc"}, error_model="numpy")
    def kernel(address, size, occupied, box, culled, rays, shape, samples, mask, reach, image, slopes, first, last):  # type: ignore[no-untyped-def]
        ny, nx = size[1], size[2]
        h, w = shape
        # faces of the voxels of the box, whose sides reach one voxel beyond them
        faces = np.empty(6)
        for i in range(3):
            faces[i] = box[i] + 0.5
            faces[3 + i] = box[3 + i] - 0.5
        lx, ly, lz = int(box[0]) + 1, int(box[1]) + 1, int(box[2]) + 1
        mx, my, mz = int(box[3]) - 1, int(box[4]) - 1, int(box[5]) - 1
        for pixel in range(first, last):
            image[pixel] = 0.0
            if gradients:
                for i in range(6):
                    slopes[pixel, i] = 0.0
            if not mask[pixel]:
                continue
            ox, oy, oz, dx, dy, dz = ray(rays, pixel // (w * h), (pixel // w) % h, pixel % w)
            t, end = inside(faces, ox, oy, oz, dx, dy, dz)
            if not t < end:
                continue
            ix, step_x, next_x = _start(ox, dx, t, lx, mx)
            iy, step_y, next_y = _start(oy, dy, t, ly, my)
            iz, step_z, next_z = _start(oz, dz, t, lz, mz)
            # where the ray comes to a face exactly, rounding may have put it behind
            total, gx, gy, gz, hx, hy, hz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            value = np.float64(load_one(address, np.int32((iz * ny + iy) * nx + ix), storage))
            if gradients and t > 0.0:
                if _enters(ox, dx, lx, mx, t):
                    gx += value
                    hx += t * value
                elif _enters(oy, dy, ly, my, t):
                    gy += value
                    hy += t * value
                else:
                    gz += value
                    hz += t * value
            while True:
                nearest = min(next_x, next_y, next_z)
                if nearest >= end:
                    total += value * (end - t)
                    # through the far side of the grid; a ray that ends inside crosses nothing there
                    if gradients and end < 1.0:
                        if next_x == nearest:
                            gx -= value
                            hx -= end * value
                        elif next_y == nearest:
                            gy -= value
                            hy -= end * value
                        else:
                            gz -= value
                            hz -= end * value
                    break
                total += value * max(nearest - t, 0.0)
                t = max(nearest, t)
                if next_x == nearest:
                    axis = 0
                    ix += step_x
                    next_x = (ix + 0.5 * step_x - ox) / dx
                elif next_y == nearest:
                    axis = 1
                    iy += step_y
                    next_y = (iy + 0.5 * step_y - oy) / dy
                else:
                    axis = 2
                    iz += step_z
                    next_z = (iz + 0.5 * step_z - oz) / dz
                following = np.float64(0.0)
                out = ix < lx or ix > mx or iy < ly or iy > my or iz < lz or iz > mz
                if not out:
                    following = np.float64(load_one(address, np.int32((iz * ny + iy) * nx + ix), storage))
                if gradients:
                    change = following - value
                    if axis == 0:
                        gx += change
                        hx += t * change
                    elif axis == 1:
                        gy += change
                        hy += t * change
                    else:
                        gz += change
                        hz += t * change
                value = following
                if out:
                    break
            image[pixel] = total
            if gradients:
                if dx != 0.0:
                    slopes[pixel, 0] = gx / dx
                    slopes[pixel, 3] = hx / dx
                if dy != 0.0:
                    slopes[pixel, 1] = gy / dy
                    slopes[pixel, 4] = hy / dy
                if dz != 0.0:
                    slopes[pixel, 2] = gz / dz
                    slopes[pixel, 5] = hz / dz

    return kernel


@lru_cache(maxsize=4)
def adjoint(has_slopes: bool) -> Any:
    """The kernel that fills one slab of slices, with the parameters of ``cpu_adjoint.trilinear``.

    A ray is followed through all its voxels for every slab that it touches; a voxel is written once, by its own slab.
    """

    @njit(cache=True, nogil=True, fastmath=FASTMATH - {"ninf", "nnan", "arcp", "reassoc"}, error_model="numpy")
    def kernel(target, size, box, rays, shape, samples, slices, weights, slopes, z0, z1):  # type: ignore[no-untyped-def]
        ny, nx = size[1], size[2]
        h, w = shape
        faces = np.empty(6)
        for i in range(3):
            faces[i] = box[i] + 0.5
            faces[3 + i] = box[3 + i] - 0.5
        lx, ly, lz = int(box[0]) + 1, int(box[1]) + 1, int(box[2]) + 1
        mx, my, mz = int(box[3]) - 1, int(box[4]) - 1, int(box[5]) - 1
        for pixel in range(slices.shape[0]):
            if slices[pixel, 1] < z0 or slices[pixel, 0] >= z1:
                continue
            ox, oy, oz, dx, dy, dz = ray(rays, pixel // (w * h), (pixel // w) % h, pixel % w)
            t, end = inside(faces, ox, oy, oz, dx, dy, dz)
            if not t < end:
                continue
            weight = np.float64(weights[pixel])
            ax, ay, az, bx, by, bz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            if has_slopes:
                # what a unit step in value at a face of each axis adds: a + t b
                if dx != 0.0:
                    ax, bx = slopes[pixel, 0] / dx, slopes[pixel, 3] / dx
                if dy != 0.0:
                    ay, by = slopes[pixel, 1] / dy, slopes[pixel, 4] / dy
                if dz != 0.0:
                    az, bz = slopes[pixel, 2] / dz, slopes[pixel, 5] / dz
            ix, step_x, next_x = _start(ox, dx, t, lx, mx)
            iy, step_y, next_y = _start(oy, dy, t, ly, my)
            iz, step_z, next_z = _start(oz, dz, t, lz, mz)
            entering = 0.0
            if has_slopes and t > 0.0:
                if _enters(ox, dx, lx, mx, t):
                    entering = ax + t * bx
                elif _enters(oy, dy, ly, my, t):
                    entering = ay + t * by
                else:
                    entering = az + t * bz
            while True:
                nearest = min(next_x, next_y, next_z)
                until = max(min(nearest, end), t)
                leaving = 0.0
                if nearest < end or end < 1.0:
                    if next_x == nearest:
                        leaving = ax + until * bx
                    elif next_y == nearest:
                        leaving = ay + until * by
                    else:
                        leaving = az + until * bz
                if iz >= z0 and iz < z1:
                    target[(iz * ny + iy) * nx + ix] += np.float32(weight * (until - t) + entering - leaving)
                if nearest >= end:
                    break
                if next_x == nearest:
                    ix += step_x
                    next_x = (ix + 0.5 * step_x - ox) / dx
                elif next_y == nearest:
                    iy += step_y
                    next_y = (iy + 0.5 * step_y - oy) / dy
                else:
                    iz += step_z
                    next_z = (iz + 0.5 * step_z - oz) / dz
                if ix < lx or ix > mx or iy < ly or iy > my or iz < lz or iz > mz:
                    break
                entering = leaving
                t = until

    return kernel
