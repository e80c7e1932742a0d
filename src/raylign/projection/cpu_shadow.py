"""Which rays meet a sparse volume at all, and between which of their points (Numba): the shadow of the blocks that hold anything.

A mesh made solid, a bone that was cut out, a vessel tree: most rays of an image meet nothing of it, and each costs a walk through
the box around it; those that meet something meet it on a part of that way. The blocks at the volume's surface, widened by the
reach of interpolation, are projected onto the image instead, and their bounding rectangles filled with how near to the source and
how far from it they reach. A ray that passes anything passes one of these blocks first and last, so that what is left out is
zero, and the images are the same to the last bit.
"""

# mypy: disable-error-code="assignment"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

EDGE = 4  # voxels along each edge of a block
SPARSE = 0.4  # of the blocks that hold anything: a volume with more is rendered as it is
_SLACK = 0.05  # voxels beyond the reach of interpolation: positions are rounded, by far less


def surface_blocks(data: NDArray[np.generic]) -> NDArray[np.int32] | None:
    """[N, 3] lowest voxel (x, y, z) of the blocks that hold anything and lie beside one that does not, or at the border.

    None of a volume [D, H, W] that is not sparse. Stored bits stand for numbers here: all that counts is whether they are zero.
    """
    held = np.zeros(tuple(-(-n // EDGE) for n in data.shape), np.bool_)
    _hold(data, held)
    if held.mean() > SPARSE:
        return None
    around = np.pad(held, 1)
    for axis in range(3):  # whether all 27 are held, axis by axis
        first, middle, last = (np.take(around, range(k, around.shape[axis] - 2 + k), axis) for k in range(3))
        around = first & middle & last
    return np.ascontiguousarray(np.argwhere(held & ~around)[:, ::-1] * EDGE, np.int32)


def shadow(blocks: NDArray[np.int32], rays: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """[2, H, W] between which t along each ray of a view it can meet a volume: the first larger than the second where it cannot.

    None where part of it lies beside or behind the source.

    Parameters
    ----------
    blocks: from ``surface_blocks``.
    rays: [4, 3], finite, in voxel coordinates: source, first pixel minus source, column step, row step.
    """
    out = np.empty((2, *shape), np.float32)
    return out if _fill(blocks, rays, out) else None


@njit(cache=True, nogil=True)
def finite(numbers):  # type: ignore[no-untyped-def]
    """Whether all of an array are numbers."""
    for number in numbers.flat:  # noqa: SIM110 - what numba compiles
        if not np.isfinite(number):
            return False
    return True


@njit(cache=True, nogil=True)
def lit(wanted, reach):  # type: ignore[no-untyped-def]
    """The pixels [N] that are ``wanted`` and that a shadow [2, N] does not rule out."""
    out = np.empty(len(wanted), np.bool_)
    near, far = reach[0], reach[1]
    for n in range(len(wanted)):
        out[n] = wanted[n] & (near[n] <= far[n])
    return out


@njit(cache=True, nogil=True)
def _hold(data, held):  # type: ignore[no-untyped-def]
    nz, ny, nx = data.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if data[z, y, x] != 0:
                    held[z // 4, y // 4, x // 4] = True


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _fill(blocks, rays, out):  # type: ignore[no-untyped-def]
    """Fills the rectangles; False where a corner has no image."""
    h, w = out.shape[1], out.shape[2]
    source, steps = rays[0], np.ascontiguousarray(rays[1:4].T)
    if np.linalg.det(steps) == 0.0:  # a detector seen edge-on
        return False
    inverse = np.linalg.inv(steps)
    out[0] = np.float32(2.0)
    out[1] = np.float32(-1.0)
    before = 1.0 + _SLACK  # from the voxel before the block to the one after it
    side = 3.0 + 2 * before
    least = 1e-3  # of the way to the first pixel's plane: nearer to the source there is no image
    for n in range(blocks.shape[0]):
        x, y, z = blocks[n, 0] - before - source[0], blocks[n, 1] - before - source[1], blocks[n, 2] - before - source[2]
        low_c, high_c, low_r, high_r = 1e30, -1e30, 1e30, -1e30
        near, far = 1e30, -1e30
        for k in range(8):
            px = x + side * (k & 1)
            py = y + side * ((k >> 1) & 1)
            pz = z + side * (k >> 2)
            share = inverse[0, 0] * px + inverse[0, 1] * py + inverse[0, 2] * pz
            if not share >= least:
                return False
            c = (inverse[1, 0] * px + inverse[1, 1] * py + inverse[1, 2] * pz) / share
            r = (inverse[2, 0] * px + inverse[2, 1] * py + inverse[2, 2] * pz) / share
            low_c, high_c = min(low_c, c), max(high_c, c)
            low_r, high_r = min(low_r, r), max(high_r, r)
            near, far = min(near, share), max(far, share)
        first_c, last_c = int(max(np.floor(low_c), 0.0)), int(min(np.ceil(high_c), w - 1.0))
        first_r, last_r = int(max(np.floor(low_r), 0.0)), int(min(np.ceil(high_r), h - 1.0))
        nearest, farthest = np.float32(near), np.float32(far)
        for r in range(first_r, last_r + 1):
            before_all, after_all = out[0, r, first_c : last_c + 1], out[1, r, first_c : last_c + 1]
            for c in range(last_c + 1 - first_c):
                before_all[c] = min(before_all[c], nearest)
                after_all[c] = max(after_all[c], farthest)
    return True
