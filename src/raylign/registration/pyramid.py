"""Coarse-to-fine copies of the model and of the exposures.

Both are reduced by block means over whole voxels and whole pixels, which moves nothing: the affine and the view of every level
say where its samples lie.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from raylign.data import Volume
from raylign.errors import InputError
from raylign.projection import cpu
from raylign.registration.image_levels import Array32 as Array32
from raylign.registration.image_levels import Array64 as Array64
from raylign.registration.image_levels import Footprint as Footprint
from raylign.registration.image_levels import ImageLevel as ImageLevel
from raylign.registration.image_levels import footprint as footprint
from raylign.registration.image_levels import image_level as image_level
from raylign.registration.image_levels import plain_level as plain_level

_THIN = 0.006  # 1/mm, of -700 HU about
Cut = Sequence[Sequence[bool]]  # for each axis x, y, z: at the first and at the last face


@dataclass(frozen=True, eq=False)
class ModelLevel:
    """The model at one resolution: attenuation, in the projector's padded memory, and the faces where the object was cut.

    ``faces[2 * axis + side]`` is a 2D map over the other two axes (the slower one first), True where something was cut off that
    the exposure may still show; an empty map where nothing was. Axes are x, y, z of the voxel grid.
    """

    grid: cpu.Grid
    affine: Array64
    faces: tuple[NDArray[np.bool_], ...]
    spacing: float

    @cached_property
    def size(self) -> Array64:
        """Voxels along x, y, z."""
        return np.array(self.grid.shape[::-1], float)

    @cached_property
    def middle(self) -> Array64:
        """The centre of the grid, LPS mm."""
        return np.asarray((self.affine @ np.array([*(self.size - 1) / 2, 1.0]))[:3])

    @property
    def data(self) -> Array32:
        """[D, H, W], without the padding."""
        return self.grid.inner

    @property
    def radius(self) -> float:
        """A typical distance of the model's surface from its centre, mm: half of half the diagonal."""
        return float(np.linalg.norm(self.size * self.spacing)) / 4


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})
def _block_means(source, out, factors, first, below, above, offset, z0, z1):  # type: ignore[no-untyped-def]
    """Block means of slices z0..z1-1 of ``out``; ``factors`` and ``first`` (the first voxel used) are by x, y, z.

    Values are converted on the way: ``max(0, offset + v * (above if v > 0 else below))``.
    """
    fx, fy, fz = factors
    width = out.shape[2]
    count = width * fx
    zero = np.float32(0.0)
    sums = np.empty(count, np.float32)
    share = np.float32(1 / (fx * fy * fz))
    for k in range(z0, z1):
        for j in range(out.shape[1]):
            sums[:] = zero
            for c in range(fz):
                for b in range(fy):
                    row = source[first[2] + k * fz + c, first[1] + j * fy + b, first[0] : first[0] + count]
                    for i in range(count):
                        v = row[i]
                        sums[i] += max(offset + v * (above if v > zero else below), zero)
            line = out[k, j]
            if fx == 1:
                for i in range(width):
                    line[i] = sums[i] * share
            elif fx == 2:  # fine levels, which cost most
                for i in range(width):
                    line[i] = (sums[2 * i] + sums[2 * i + 1]) * share
            else:
                for i in range(width):
                    total = zero
                    for a in range(fx):
                        total += sums[i * fx + a]
                    line[i] = total * share


@njit(cache=True, nogil=True)
def _count(source, threshold, by_row, by_column, z0, z1):  # type: ignore[no-untyped-def]
    """Values above ``threshold`` in slices z0..z1-1, counted by row [D, H] and by column [D, W]."""
    for k in range(z0, z1):
        for j in range(source.shape[1]):
            row = source[k, j]
            count = 0
            for i in range(source.shape[2]):
                solid = row[i] > threshold
                count += solid
                by_column[k, i] += solid
            by_row[k, j] = count


# asked for several times a registration, and a pass over all voxels; a model is compared by identity, and its entry goes with it
_Sections = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
_sections: WeakKeyDictionary[Volume, tuple[int, _Sections]] = WeakKeyDictionary()


# Levels that were made last, of every model, call by call. A level's name tells all that it was made from, so that what is found
# here is what would be made anew: the version of the voxels (PyTorch's: what is written through NumPy is not seen), the affine,
# the box, the blocks, and the name of the level it was reduced from.
_Name = tuple[object, ...]
_made: WeakKeyDictionary[Volume, list[dict[_Name, ModelLevel]]] = WeakKeyDictionary()
_CALLS = 2


def _shadow(model: Volume, source: Array32) -> float:
    """The value above which a voxel casts a shadow: of raw numbers, which say nothing of themselves, a share of the largest."""
    if model.unit == "HU":
        return -700.0
    return _THIN if model.unit == "1/mm" else max(0.02 * float(source.max()), 0.0)


def sections(model: Volume) -> _Sections:
    """Areas, in voxels, of the model's cross-sections along x, y and z: of what casts a shadow, -700 HU and more."""
    known = _sections.get(model)
    if known is not None and known[0] == _version(model):
        return known[1]
    source = native(model)
    threshold = np.float32(_shadow(model, source))
    by_row = np.zeros(source.shape[:2], np.int64)
    by_column = np.zeros((source.shape[0], source.shape[2]), np.int64)
    cpu.run_chunks(partial(_count, source, threshold, by_row, by_column), source.shape[0], smallest=4)
    found = by_column.sum(0), by_row.sum(0), by_row.sum(1)
    _sections[model] = _version(model), found
    return found


def _version(model: Volume) -> int:
    """A number that changes when the voxels are written to; tensors of inference have none, and may not be."""
    return 0 if model.data.is_inference() else int(model.data._version)


def content(model: Volume) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First voxel and size (x, y, z) of the part of a model that casts a shadow, two empty voxels around it.

    Raises
    ------
    InputError: there is nothing but air.
    """
    where = [np.flatnonzero(area) for area in sections(model)]
    if not all(len(w) for w in where):
        raise InputError(
            "the model holds nothing but air", field="volume", remedy="check its unit (HU, 1/mm or raw) and the labels"
        )
    first = np.array([w[0] for w in where])
    last = np.array([w[-1] for w in where])
    limit = np.array(model.data.shape[::-1])
    first = np.maximum(first - 2, 0)
    last = np.minimum(np.maximum(last + 2, first + 3), limit - 1)
    return first, last - first + 1


def native(model: Volume) -> Array32:
    """The model's voxels as contiguous float32, without a copy where they already are."""
    return np.ascontiguousarray(model.decoded().data.detach().to(torch.float32).numpy())


def box_corners(model: Volume, first: NDArray[np.int64], size: NDArray[np.int64]) -> Array64:
    """[8, 3] LPS mm of the corners of a box of voxels."""
    corners = np.array(list(itertools.product(*zip(first, first + size - 1, strict=True))), float)
    affine = model.affine.numpy()
    return corners @ affine[:3, :3].T + affine[:3, 3]


def _reduced(
    source: Array32,
    affine: Array64,
    box: tuple[NDArray[np.int64], NDArray[np.int64]],
    factors: NDArray[np.int64],
    hu: tuple[float, float] | None,
) -> tuple[Array32, Array64]:
    """A box of ``source`` averaged over blocks of ``factors`` (x, y, z) voxels, in padded memory; both ends share a remainder."""
    counts = box[1] // factors
    first = box[0] + (box[1] - counts * factors) // 2
    padded, out = cpu.padded_zeros((int(counts[2]), int(counts[1]), int(counts[0])))
    offset, above = hu or (0.0, 1.0)
    below = offset / 1000 if hu else 1.0
    numbers = tuple(np.float32(n) for n in (below, above, offset))
    cpu.run_chunks(partial(_block_means, source, out, factors, first, *numbers), int(counts[2]), smallest=1)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ (first + (factors - 1) / 2)
    moved[:3, :3] = affine[:3, :3] * factors
    return padded, moved


def cut_faces(model: Volume) -> Cut:
    """For each axis x, y, z whether the object goes on beyond its first and last face: as stated, or as its content tells.

    Where something was cut, its cross-section at the face is a good part of the largest one; a structure that was cropped tightly
    merely touches the face. Judged at the resolution of the model: on a coarse grid touching looks like being cut.
    """
    if model.truncated is not None:
        return model.truncated
    # the second layer too: some scanners leave the outermost one partly empty
    return tuple(
        tuple(bool(max(area[i], area[j]) > 0.12 * area.max()) for i, j in ((0, 1), (-1, -2))) for area in sections(model)
    )


def _faces(volume: Array32, spacing: float, threshold: float, cut: Cut) -> tuple[NDArray[np.bool_], ...]:
    """For each of the six faces, where content was cut, widened by a quarter of its width (10 mm at most): no body is a prism."""
    from scipy.ndimage import binary_dilation

    maps = []
    for axis in range(3):
        for side in range(2):
            if not cut[axis][side]:
                maps.append(np.zeros((0, 0), np.bool_))
                continue
            layers = np.moveaxis(volume, 2 - axis, 0)
            layer = (layers[0 if side == 0 else -1] > threshold) | (layers[1 if side == 0 else -2] > threshold)
            if not layer.any():
                maps.append(np.zeros((0, 0), np.bool_))
                continue
            margin = min(10.0, 0.25 * spacing * math.sqrt(layer.sum()))
            maps.append(np.ascontiguousarray(binary_dilation(layer, iterations=max(1, round(margin / spacing)))))
    return tuple(maps)


def model_pyramid(model: Volume, box: tuple[NDArray[np.int64], NDArray[np.int64]], spacings: Sequence[float]) -> list[ModelLevel]:
    """A box of the model (first voxel and size, from ``content``) at about the given voxel pitches in mm, finest first.

    Never finer than the model is. HU are converted to attenuation at 70 keV on the way, as ``Volume.attenuation`` does. What was
    made last is kept as long as the model: a second look, single views, the next exposure of a patient ask for much of it again.
    """
    pitch = np.linalg.norm(model.affine.numpy()[:3, :3], axis=0)
    calls = _made.get(model, [])
    known = {name: level for call in calls for name, level in call.items()}
    whole: _Name = (_version(model), tuple(model.affine.flatten().tolist()), tuple(box[0].tolist()), tuple(box[1].tolist()))
    levels: dict[_Name, ModelLevel] = {}
    found: list[tuple[NDArray[np.int64], _Name]] = []
    hu = model.attenuation_coefficients() if model.unit == "HU" else None
    source: Array32 | None = None
    for spacing in spacings:
        factors = np.maximum(1, np.ceil(spacing / pitch - 0.02).astype(np.int64))
        factors = np.minimum(factors, np.maximum(1, box[1] // 4))
        parents = [f for f in found if not (factors % f[0]).any()]
        name = (tuple(factors.tolist()), parents[-1][1] if parents else whole)
        if name in known:
            levels[name] = known[name]
        elif parents:
            finer = levels[parents[-1][1]]
            everything = (np.zeros(3, np.int64), np.array(finer.data.shape[::-1]))
            levels[name] = _level(model, _reduced(finer.data, finer.affine, everything, factors // parents[-1][0], None))
        else:
            source = native(model) if source is None else source
            levels[name] = _level(model, _reduced(source, model.affine.numpy(), box, factors, hu))
        found.append((factors, name))
    _made[model] = [levels, *calls][:_CALLS]
    return [levels[name] for _, name in found]


def _level(model: Volume, made: tuple[Array32, Array64]) -> ModelLevel:
    """Voxels in padded memory and their affine as a level of a model."""
    padded, affine = made
    hu = model.attenuation_coefficients() if model.unit == "HU" else None
    data = cpu.inner(padded)
    mean_pitch = float(np.mean(np.linalg.norm(affine[:3, :3], axis=0)))
    threshold = 0.3 * hu[0] if hu else (_THIN if model.unit == "1/mm" else 0.1 * float(data.max()))
    faces = _faces(data, mean_pitch, threshold, cut_faces(model))
    return ModelLevel(cpu.grid_around(padded), affine, faces, mean_pitch)
