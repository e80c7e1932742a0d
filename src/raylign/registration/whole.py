"""A model read as one that ends at its faces: nothing cut off, and nothing left over by the block means of a coarse level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from raylign.data import Volume
from raylign.projection import cpu
from raylign.registration.pyramid import Array32, ModelLevel, content, cut_faces, native


def uncut(level: ModelLevel) -> ModelLevel:
    """The same level, read as a model that ends where its grid ends."""
    return replace(level, faces=(np.zeros((0, 0), np.bool_),) * 6)


def whole(level: ModelLevel, model: Volume) -> ModelLevel:
    """A level of ``model`` read as one that ends at its faces, with the voxels there that did not fill a block.

    Blocks of f voxels leave up to f - 1 over at either end of an axis. Of a body that goes on they are not missed: rays through a
    cut face do not count. Of one that ends there they place the face, which is the strongest edge of the picture: 3 mm
    of a 150 mm slab at either end, at the coarsest level, put its best pose 15 mm off the true one. Each such rest
    becomes a layer of its own, thinned by the share of a block that it fills. Where there is none, the level's own grid serves.
    """
    faces = cut_faces(model)
    to_voxels = np.linalg.inv(model.affine.numpy()) @ level.affine
    factors = np.round(np.diag(to_voxels)[:3]).astype(int)
    first = np.round(to_voxels[:3, 3] - (factors - 1) / 2).astype(int)
    last = first + factors * level.size.astype(int)
    box, size = content(model)
    before, after = first - box, box + size - last
    axes = [a for a in range(3) if any(faces[a]) and max(before[a], after[a]) > 0]
    if not axes:
        return uncut(level)
    grown = np.array([int(a in axes) for a in range(3)])
    padded, out = cpu.padded_zeros(tuple(level.data.shape + 2 * grown[::-1]))
    inner = tuple(slice(g, g + n) for g, n in zip(grown[::-1], level.data.shape, strict=True))
    out[inner] = level.data
    for axis in axes:
        for at, start, stop in ((0, box[axis], first[axis]), (-1, last[axis], box[axis] + size[axis])):
            if stop > start:
                where: list[slice | int] = list(inner)
                where[2 - axis] = at
                low, high = first.copy(), last.copy()
                low[axis], high[axis] = start, stop
                out[tuple(where)] = _rest(model, low, high, factors, axis)
    affine = level.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ grown
    return replace(uncut(level), grid=cpu.grid_around(padded), affine=affine)


def _rest(model: Volume, low: NDArray[np.int64], high: NDArray[np.int64], factors: NDArray[np.int64], axis: int) -> Array32:
    """Block means of the voxels ``low`` to ``high`` (x, y, z) that fill one block along ``axis`` in part: [slower, faster]."""
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    values = np.moveaxis(native(model)[z, y, x], 2 - axis, 0)
    if model.unit == "HU":
        offset, above = model.attenuation_coefficients()
        values = offset + values * np.where(values > 0, np.float32(above), np.float32(offset / 1000))
    total = np.maximum(values, 0).sum(0)
    faster, slower = (factors[a] for a in range(3) if a != axis)
    blocks = total.reshape(total.shape[0] // slower, slower, total.shape[1] // faster, faster)
    return np.asarray(blocks.mean((1, 3)) / factors[axis], np.float32)
