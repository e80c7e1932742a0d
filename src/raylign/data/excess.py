"""A volume taken apart into a structure and the rest, which add up to it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate, pad

from raylign.data.labels import LabelMap
from raylign.data.resample import resample_labels
from raylign.data.restrict import Box, cropped_to, cut_at, voxel_box
from raylign.data.volume import Unit, Volume
from raylign.errors import InputError

_ROUNDS = 6  # of relaxation on each grid of the fill: the coarser ones have already brought what is far away
_DENSE = 0.12  # so much above water's attenuation is bone or contrast agent and no place to take soft tissue from


@dataclass(frozen=True)
class SplitConfig:
    """How a structure is taken out of a volume.

    Parameters
    ----------
    rim_mm: the hole is wider than the label by this much, or by a voxel where voxels are larger: a label ends where half of a
        voxel is bone, and what a moved bone leaves behind there would show as a ghost. It does not enter other bones or vessels.
    around_mm: of the surroundings from which the hole is filled.
    """

    rim_mm: float = 1.5
    around_mm: float = 15.0


@dataclass(frozen=True, eq=False)
class Split:
    """A volume in two parts.

    Parameters
    ----------
    structure: attenuation of the volume less that of ``rest``, 1/mm (or raw), cropped to where it is not zero. Negative where the
        structure attenuates less than what took its place.
    rest: the whole volume, the structure's place filled with what lies around it; in the volume's own unit and on its grid.
    """

    structure: Volume
    rest: Volume


def split(volume: Volume, labels: LabelMap, names: Sequence[str | int], config: SplitConfig | None = None) -> Split:
    """The named structures, as one, and everything else: the attenuations of both add up to the volume's, voxel by voxel.

    The structure's place in the rest is filled smoothly (by a membrane, the solution of Laplace's equation on a pyramid of grids)
    from the voxels around it that are neither bone nor full of contrast agent: a vertebra that has left its place leaves soft
    tissue, not the bone of its neighbours. "raw" numbers, of which that is not known, are filled from all that is around.

    Parameters
    ----------
    volume: the scan.
    labels: on any grid in the same patient LPS mm; taken at the nearest voxel.
    names: label names or numbers.

    Raises
    ------
    InputError: a label that no voxel has, no name at all, labels outside the volume, a structure with nothing around it.
    """
    from scipy.ndimage import distance_transform_edt

    config = config or SplitConfig()
    if not names:
        raise InputError("no structure is named", field="labels", remedy="name at least one")
    volume = volume.decoded()
    mask = LabelMap(labels.mask(names).to(torch.uint8), labels.affine, {1: ", ".join(map(str, names))})
    box = _widened(voxel_box(mask, volume), config.rim_mm + config.around_mm, volume)
    part = cropped_to(volume, box)
    resample_labels(mask, part)  # refuses a structure that falls between the voxels, which the whole map does not
    placed = resample_labels(labels, part)
    inside = placed.mask(names)
    spacing = volume.spacing[::-1]
    away = torch.from_numpy(distance_transform_edt((~inside).numpy(), sampling=spacing))
    hole = away <= max(config.rim_mm, 1.01 * max(spacing))
    dense = _dense(part)
    hole &= inside | ~_bony(placed, dense)
    values = part.data.detach().to(torch.float32)
    known = ~hole & ~dense
    if not bool(known.any()):
        known = ~hole
    if not bool(known.any()):
        raise InputError(
            f"nothing lies around {', '.join(map(str, names))}",
            field="labels",
            remedy="register the whole volume instead: the structure is all of it",
        )
    filled = torch.where(hole, _membrane(values, known, spacing), values)
    excess = part.attenuation().data.to(torch.float32) - replace(part, data=filled).attenuation().data
    excess = torch.where(hole, excess, 0)
    data = volume.data.detach().to(torch.float32).clone()
    data[box] = filled
    unit: Unit = "raw" if volume.unit == "raw" else "1/mm"
    tight, own = _tight(hole, box)
    structure = replace(
        cropped_to(volume, own), data=excess[tight].contiguous(), unit=unit, truncated=cut_at(inside[tight], own, volume)
    )
    return Split(structure, replace(volume, data=data, meta=volume.meta))


def _widened(box: Box, mm: float, volume: Volume) -> Box:
    wider = [
        slice(max(0, s.start - n), min(size, s.stop + n))
        for s, size, n in zip(box, volume.data.shape, (int(np.ceil(mm / p)) for p in volume.spacing[::-1]), strict=True)
    ]
    return wider[0], wider[1], wider[2]


def _tight(hole: Bool[Tensor, "D H W"], box: Box) -> tuple[Box, Box]:
    """The hole and a voxel around it (where there is one): as slices of the box, and as slices of the volume."""
    inner, outer = [], []
    for axis, part in enumerate(box):
        where = hole.any(dim=tuple(a for a in range(3) if a != axis)).nonzero().flatten()
        low, high = max(0, int(where[0]) - 1), min(hole.shape[axis], int(where[-1]) + 2)
        inner.append(slice(low, high))
        outer.append(slice(part.start + low, part.start + high))
    return (inner[0], inner[1], inner[2]), (outer[0], outer[1], outer[2])


def _dense(volume: Volume) -> Bool[Tensor, "D H W"]:
    if volume.unit == "raw":
        return torch.zeros(volume.data.shape, dtype=torch.bool)
    water, _ = volume.attenuation_coefficients()
    return volume.attenuation().data > (1 + _DENSE) * water


def _bony(labels: LabelMap, dense: Bool[Tensor, "D H W"]) -> Bool[Tensor, "D H W"]:
    """Voxels of labels that are dense for the most part."""
    numbers, index = labels.data.unique(return_inverse=True)
    share = torch.bincount(index.flatten(), dense.flatten().double()) / torch.bincount(index.flatten())
    return ((share > 0.5) & (numbers != 0))[index]


def _membrane(values: Float[Tensor, "D H W"], known: Bool[Tensor, "D H W"], spacing: tuple[float, ...]) -> Float[Tensor, "D H W"]:
    """``values`` where they are known and a membrane stretched between them elsewhere.

    The means of known values over blocks are filled first, on a grid half as fine along the axes on which it is finest, and so
    on; what comes back is relaxed by a few rounds of Jacobi's method, each axis weighted with the square of its pitch.
    """
    if bool(known.all()):
        return values
    factors = [2 if p < 1.5 * min(spacing) and n > 1 else 1 for p, n in zip(spacing, values.shape, strict=True)]
    if max(factors) == 1:
        factors = [2 if n > 1 else 1 for n in values.shape]
    if max(factors) == 1:
        return values
    odd = [n % f for n, f in zip(values.shape, factors, strict=True)]
    margin = (0, odd[2], 0, odd[1], 0, odd[0])
    weight = avg_pool3d(pad(known.to(values), margin)[None, None], factors)
    sums = avg_pool3d(pad(torch.where(known, values, 0), margin)[None, None], factors)
    coarse = _membrane(
        (sums / weight.clamp_min(1e-6))[0, 0], weight[0, 0] > 0, tuple(p * f for p, f in zip(spacing, factors, strict=True))
    )
    size = tuple(c * f for c, f in zip(coarse.shape, factors, strict=True))
    d, h, w = values.shape
    fine = interpolate(coarse[None, None], size=size, mode="trilinear")[0, 0, :d, :h, :w]
    out = torch.where(known, values, fine)
    for _ in range(_ROUNDS):
        out = torch.where(known, values, _relaxed(out, spacing))
    return out


def _relaxed(values: Float[Tensor, "D H W"], spacing: tuple[float, ...]) -> Float[Tensor, "D H W"]:
    """Every voxel the mean of its six neighbours, nearer ones weighing more; beyond the border, the border itself."""
    total, weights = torch.zeros_like(values), 0.0
    for axis, pitch in enumerate(spacing):
        n, weight = values.shape[axis], pitch**-2
        index = torch.arange(n)
        before, after = (
            values.index_select(axis, (index - 1).clamp_min(0)),
            values.index_select(axis, (index + 1).clamp_max(n - 1)),
        )
        total += weight * (before + after)
        weights += 2 * weight
    return total / weights
