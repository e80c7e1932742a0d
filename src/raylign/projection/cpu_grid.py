"""A volume as the CPU kernels read it: padded with zeros, in its storage type, with a map of where anything is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from raylign.errors import InputError
from raylign.projection.cpu_shadow import surface_blocks
from raylign.projection.cpu_simd import BFLOAT16, FLOAT16, FLOAT32, INT16
from raylign.projection.threads import run_chunks

# Two layers of zeros on each side. A sample outside the volume is moved onto the border, where all that a cell's eight corners
# can hold, values and differences, is zero: so the inner loop needs no test, and a block of samples is always whole.
PADDING = 2
BRICK = 16  # voxels along each edge of a brick of the map of occupancy
_LARGEST = 2**31 - 1  # voxels are indexed by 32 bits

_STORAGE = {torch.float32: FLOAT32, torch.int16: INT16, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}


@dataclass(frozen=True, eq=False)
class Grid:
    """What ``grid`` makes of a volume.

    Parameters
    ----------
    data: [D+4, H+4, W+4], contiguous: float32, int16, or uint16 that hold the bits of float16 or bfloat16.
    storage: one of the constants of ``cpu_simd``.
    occupied: [ceil((D+4)/16), ...] of uint8: whether any voxel of the 2x2x2 bricks from this one on is not zero. A run of samples
        that spans less than 15 voxels along each axis touches no other bricks than those of its lowest corner's entry.
    box: lowest and highest padded index (x, y, z) of voxels that are not zero, widened by the reach of interpolation.
    culled: whether ``occupied`` and ``box`` say anything: False where nearly every brick is occupied.
    culling: whether anything may be left out at all.
    """

    data: NDArray[Any]
    storage: int
    occupied: NDArray[np.uint8]
    box: NDArray[np.float64]
    culled: bool
    culling: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (D, H, W) without the padding."""
        d, h, w = self.data.shape
        return d - 2 * PADDING, h - 2 * PADDING, w - 2 * PADDING

    @property
    def inner(self) -> NDArray[Any]:
        """[D, H, W], a view without the padding."""
        return inner(self.data)

    @cached_property
    def blocks(self) -> NDArray[np.int32] | None:
        """See ``cpu_shadow.surface_blocks``."""
        return surface_blocks(self.inner) if self.culling else None

    @cached_property
    def address(self) -> np.uintp:
        """Where the first padded voxel lies in memory."""
        return np.uintp(self.data.ctypes.data)


def padded_zeros(shape: tuple[int, int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Zeros for a float32 volume of a shape with its padding, and the view of them that is the volume itself."""
    padded = np.zeros(tuple(n + 2 * PADDING for n in shape), np.float32)
    return padded, inner(padded)


def inner(padded: NDArray[Any]) -> NDArray[Any]:
    """The view of padded memory that is the volume itself."""
    return padded[PADDING:-PADDING, PADDING:-PADDING, PADDING:-PADDING]


def whole_box(padded: tuple[int, ...]) -> NDArray[np.float64]:
    """``Grid.box`` of a padded shape (D+4, H+4, W+4) of which every voxel counts."""
    return np.array([PADDING - 1.0] * 3 + [n - PADDING for n in padded[::-1]], np.float64)


def grid(volume: Shaped[Tensor, "D H W"] | NDArray[np.float32], culling: bool = True) -> Grid:
    """A volume for the kernels: a padded copy in its own storage type.

    Raises
    ------
    InputError: a storage type that the kernels do not read, more voxels than 32 bits can count.
    """
    source = torch.as_tensor(volume).detach()
    if source.dtype not in _STORAGE:
        raise InputError(
            f"voxels stored as {source.dtype} cannot be projected",
            field="data",
            remedy=f"store them as one of {', '.join(str(t).removeprefix('torch.') for t in _STORAGE)}",
        )
    bits = {torch.float16: torch.int16, torch.bfloat16: torch.int16}.get(source.dtype)
    array = (source if bits is None else source.contiguous().view(bits)).numpy()
    padded = np.empty(tuple(n + 2 * PADDING for n in source.shape), array.dtype)
    return _mapped(np.ascontiguousarray(array), padded, _STORAGE[source.dtype], culling)


def grid_around(padded: NDArray[np.float32], culling: bool = True) -> Grid:
    """A float32 volume that already lies in ``padded_zeros``, without a copy."""
    return _mapped(inner(padded), padded, FLOAT32, culling)


def _mapped(array: NDArray[Any], padded: NDArray[Any], storage: int, culling: bool) -> Grid:
    """The grid of an array; it is copied into ``padded`` unless it lies there already."""
    size = padded.shape
    if padded.size > _LARGEST:
        raise InputError(f"a volume of {array.shape} voxels is too large", field="data", remedy="crop or resample it")
    copy = not np.shares_memory(array, padded)
    bricks = np.zeros(tuple(-(-n // BRICK) for n in size), np.uint8)
    limits = np.empty((bricks.shape[0], 6), np.int64)
    run_chunks(lambda first, last: _fill(array, padded, copy, bricks, limits, first, last), bricks.shape[0], smallest=1)
    low, high = limits[:, :3].min(0), limits[:, 3:].max(0)
    if not bricks.any():
        box = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    elif culling:
        box = np.concatenate([low - 1.0, high + 1.0])
    whole = whole_box(size)
    culled = culling and bool(bricks.mean() < 0.9 or not bricks.any())
    return Grid(padded, storage, _dilated(bricks), box if culled else whole, culled, culling)


def _dilated(bricks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Whether a brick or one of its neighbours towards larger indices is occupied."""
    out = bricks.copy()
    out[:-1] |= out[1:].copy()
    out[:, :-1] |= out[:, 1:].copy()
    out[:, :, :-1] |= out[:, :, 1:].copy()
    return out


@njit(cache=True, nogil=True)
def _fill(source, padded, copy, bricks, limits, first, last):  # type: ignore[no-untyped-def]
    """Fills (if ``copy``) the layers of bricks ``first`` .. ``last - 1`` of the padded copy and notes what is occupied."""
    nz, ny, nx = padded.shape
    p = 2  # PADDING
    for layer in range(first, last):
        for i in range(3):
            limits[layer, i] = 1 << 40
            limits[layer, 3 + i] = -1
        for z in range(layer * 16, min(layer * 16 + 16, nz)):
            if z < p or z >= nz - p:
                if copy:
                    padded[z] = 0
                continue
            if copy:
                padded[z, :p] = 0
                padded[z, ny - p :] = 0
            for y in range(p, ny - p):
                if copy:
                    padded[z, y, :p] = 0
                    padded[z, y, nx - p :] = 0
                low = nx
                high = -1
                for brick in range((nx + 15) // 16):
                    found = False
                    for x in range(max(brick * 16, p), min(brick * 16 + 16, nx - p)):
                        value = source[z - p, y - p, x - p]
                        if copy:
                            padded[z, y, x] = value
                        found |= value != 0
                    if found:
                        bricks[layer, y // 16, brick] = 1
                        low = min(low, brick * 16)
                        high = max(high, min(brick * 16 + 15, nx - 1))
                if high >= 0:
                    limits[layer, 0] = min(limits[layer, 0], low)
                    limits[layer, 1] = min(limits[layer, 1], y)
                    limits[layer, 2] = min(limits[layer, 2], z)
                    limits[layer, 3] = max(limits[layer, 3], high)
                    limits[layer, 4] = max(limits[layer, 4], y)
                    limits[layer, 5] = max(limits[layer, 5], z)
