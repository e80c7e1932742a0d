"""One integral for each label of a label map, in one pass over the voxels (Numba)."""

from __future__ import annotations

import numpy as np
from numba import njit

from raylign.projection.cpu_rays import inside, ray, sample_range


@njit(cache=True, nogil=True, inline="always")
def _add(out, row, plane, pixel, channels, volume, labels, i, weight):  # type: ignore[no-untyped-def]
    label = labels[i]
    if label < channels:
        out[(row + label) * plane + pixel] += weight * volume[i] if volume.size > 1 else weight


@njit(cache=True, nogil=True, error_model="numpy")
def trilinear(volume, labels, size, box, channels, rays, shape, samples, out, first, last):  # type: ignore[no-untyped-def]
    """``out`` [B * C * H * W]: the integral of the volume where the label map says c, for pixels first .. last - 1 of [B, H, W].

    ``volume`` and ``labels`` are padded and flat; a volume of one element stands for ones. Labels from ``channels`` on count
    nowhere; the padding is one such.
    """
    nz, ny, nx = size
    h, w = shape
    plane = w * h
    for index in range(first, last):
        b = index // plane
        pixel = index % plane
        row = b * channels
        for channel in range(channels):
            out[(row + channel) * plane + pixel] = 0.0
        ox, oy, oz, dx, dy, dz = ray(rays, b, pixel // w, pixel % w)
        t0, t1 = inside(box, ox, oy, oz, dx, dy, dz)
        if t0 > t1:
            continue
        n = samples[b]
        k0, k1 = sample_range(t0, t1, n)
        for k in range(k0, k1 + 1):
            t = (k + 0.5) / n
            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
            ix, iy, iz = min(max(int(x), 0), nx - 2), min(max(int(y), 0), ny - 2), min(max(int(z), 0), nz - 2)
            fx, fy, fz = np.float32(x - ix), np.float32(y - iy), np.float32(z - iz)
            gx, gy, gz = np.float32(1.0) - fx, np.float32(1.0) - fy, np.float32(1.0) - fz
            at = (iz * ny + iy) * nx + ix
            if (
                labels[at] == labels[at + 1]
                and labels[at] == labels[at + nx]
                and labels[at] == labels[at + nx + 1]
                and labels[at] == labels[at + nx * ny]
                and labels[at] == labels[at + nx * ny + 1]
                and labels[at] == labels[at + nx * ny + nx]
                and labels[at] == labels[at + nx * ny + nx + 1]
                and volume.size == 1
            ):
                # within a structure nothing needs to be weighed
                if labels[at] < channels:
                    out[(row + labels[at]) * plane + pixel] += np.float32(1.0)
                continue
            _add(out, row, plane, pixel, channels, volume, labels, at, gx * gy * gz)
            _add(out, row, plane, pixel, channels, volume, labels, at + 1, fx * gy * gz)
            _add(out, row, plane, pixel, channels, volume, labels, at + nx, gx * fy * gz)
            _add(out, row, plane, pixel, channels, volume, labels, at + nx + 1, fx * fy * gz)
            _add(out, row, plane, pixel, channels, volume, labels, at + nx * ny, gx * gy * fz)
            _add(out, row, plane, pixel, channels, volume, labels, at + nx * ny + 1, fx * gy * fz)
            _add(out, row, plane, pixel, channels, volume, labels, at + nx * ny + nx, gx * fy * fz)
            _add(out, row, plane, pixel, channels, volume, labels, at + nx * ny + nx + 1, fx * fy * fz)
        for channel in range(channels):
            out[(row + channel) * plane + pixel] /= n
