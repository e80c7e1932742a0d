"""Water and bone on each ray in one pass over the voxels (Numba).

Both numbers of a voxel are stored in two bytes each, side by side, so that one load brings them; where a ray crosses the planes
of voxels, and with what weights, is worked out once for the two. Otherwise as ``projection.cpu_forward.joseph``, to which a test
holds it.
"""

# mypy: disable-error-code="assignment"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from raylign.projection.cpu import grid, inner, run_chunks, six
from raylign.projection.cpu_grid import PADDING
from raylign.projection.cpu_rays import RUN, base, inside, occupied_runs, ray, steepest
from raylign.projection.cpu_simd import FASTMATH, INT16, iadd, imul, load_pair

_SEGMENT = 256
_STEPS = 32767


@dataclass(frozen=True, eq=False)
class Pair:
    """Two volumes for the kernel.

    Parameters
    ----------
    data: [D+4, H+4, W+4, 2] int16, padded with zeros.
    worth: what a step of each is worth.
    occupied, box, culled: as of ``cpu_grid.Grid``, of both volumes together.
    """

    data: NDArray[np.int16]
    worth: tuple[float, float]
    occupied: NDArray[np.uint8]
    box: NDArray[np.float64]
    culled: bool


def pair(a: Float[Tensor, "D H W"], b: Float[Tensor, "D H W"]) -> Pair:
    """Two volumes of one shape, each rounded to 1/32767 of its largest magnitude."""
    data = np.zeros((*(n + 2 * PADDING for n in a.shape), 2), np.int16)
    worth = []
    for i, volume in enumerate((a, b)):
        step = (float(volume.abs().max()) or 1.0) / _STEPS
        inner(data[..., i])[:] = (volume / step).round().to(torch.int16).numpy()
        worth.append(step)
    where = grid(((inner(data) != 0).any(-1)).astype(np.float32))
    return Pair(data, (worth[0], worth[1]), where.occupied, where.box, where.culled)


def integrals(both: Pair, rays: Float[Tensor, "B n 3"], shape: tuple[int, int]) -> Float[Tensor, "2 B H W"]:
    """``int V dt`` of both volumes for every pixel of every view, float32; see ``reference.integrals``, model "joseph"."""
    b, (h, w) = rays.shape[0], shape
    out = np.empty((2, b * h * w), np.float32)
    address = np.uintp(both.data.ctypes.data)
    setting = (address, both.data.shape[:3], both.occupied, both.box, both.culled, six(rays.numpy()), shape, both.worth, out)
    run_chunks(lambda first, last: _joseph(*setting, first, last), b * h * w)
    return torch.from_numpy(out.reshape(2, b, h, w))


def _kernel(address, size, occupied, box, culled, rays, shape, worth, out, first, last):  # type: ignore[no-untyped-def]
    nz, ny, nx = size
    h, w = shape
    zero = np.float32(0.0)
    two = np.int32(2)
    for pixel in range(first, last):
        out[0, pixel] = zero
        out[1, pixel] = zero
        ox, oy, oz, dx, dy, dz = ray(rays, pixel // (w * h), (pixel // w) % h, pixel % w)
        t0, t1 = inside(box, ox, oy, oz, dx, dy, dz)
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
        low = int(np.ceil(min(oa, oa + da)))
        high = int(np.floor(max(oa, oa + da)))
        k0 = max(int(np.ceil(min(oa + t0 * da, oa + t1 * da) - 1e-6)), low, 0)
        k1 = min(int(np.floor(max(oa + t0 * da, oa + t1 * da) + 1e-6)), high, na - 1)
        if k0 > k1:
            continue
        mb, mc = db / da, dc / da
        stride_a, stride_b, stride_c = np.int32(sa), np.int32(sb), np.int32(sc)
        step_b, step_c = np.float32(mb), np.float32(mc)
        total, other = 0.0, 0.0
        for segment in range(k0 // _SEGMENT, k1 // _SEGMENT + 1):
            k = segment * _SEGMENT
            pb, pc = ob + (k - oa) * mb, oc + (k - oa) * mc
            j0 = max(k0 - k, 0) // RUN
            j1 = min(k1 - k, _SEGMENT - 1) // RUN + 1
            if culled:
                if axis == 0:
                    j0, j1 = occupied_runs(occupied, float(k), pb, pc, 1.0, mb, mc, j0, j1)
                elif axis == 1:
                    j0, j1 = occupied_runs(occupied, pb, float(k), pc, mb, 1.0, mc, j0, j1)
                else:
                    j0, j1 = occupied_runs(occupied, pb, pc, float(k), mb, mc, 1.0, j0, j1)
                if j0 == j1:
                    continue
            bb, bc = base(pb, _SEGMENT * mb, nb), base(pc, _SEGMENT * mc, nc)
            a00 = address + np.uintp(4) * np.uintp(k * sa + bb * sb + bc * sc)
            a01 = a00 + np.uintp(4 * sb)
            a10 = a00 + np.uintp(4 * sc)
            a11 = a10 + np.uintp(4 * sb)
            b0, c0 = np.float32(pb - bb), np.float32(pc - bc)
            top_b, top_c = np.float32(nb - 2 - bb), np.float32(nc - 2 - bc)
            top_a = np.int32(na - 1 - k)  # a plane of zeros
            value, second = zero, zero
            for j in range(np.int32(max(low - k, j0 * RUN)), np.int32(min(j1 * RUN, high - k + 1))):
                s = np.float32(np.int32(j))
                y = max(min(b0 + s * step_b, top_b), zero)
                z = max(min(c0 + s * step_c, top_c), zero)
                iy, iz = np.int32(y), np.int32(z)
                fy, fz = y - np.float32(iy), z - np.float32(iz)
                at = iadd(iadd(imul(min(np.int32(j), top_a), stride_a), imul(iy, stride_b)), imul(iz, stride_c))
                at = imul(at, two)
                v00, w00 = load_pair(a00, at, INT16)
                v01, w01 = load_pair(a01, at, INT16)
                v10, w10 = load_pair(a10, at, INT16)
                v11, w11 = load_pair(a11, at, INT16)
                d = v00 + fy * (v01 - v00)
                value += d + fz * (v10 + fy * (v11 - v10) - d)
                e = w00 + fy * (w01 - w00)
                second += e + fz * (w10 + fy * (w11 - w10) - e)
            total += value
            other += second
        out[0, pixel] = total * worth[0] / abs(da)
        out[1, pixel] = other * worth[1] / abs(da)


_joseph: Any = njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")(_kernel)
