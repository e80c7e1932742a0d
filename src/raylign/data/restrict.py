"""A volume restricted to one structure, which moves by itself and is registered by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data.labels import LabelMap
from raylign.data.resample import resample_labels
from raylign.data.volume import Volume
from raylign.errors import InputError

Box = tuple[slice, slice, slice]


def restricted(volume: Volume, labels: LabelMap, names: Sequence[str | int]) -> Volume:
    """The named structures alone, cropped to where they are.

    What a structure shows on an X-ray is by how much it attenuates more than the tissue about it. So HU and 1/mm become the
    attenuation above that of water at 70 keV within the labels, in 1/mm, and zero elsewhere; "raw" numbers are kept as they are.

    Parameters
    ----------
    volume: the scan.
    labels: on any grid in the same patient LPS mm; taken at the nearest voxel.
    names: label names or numbers.

    Returns
    -------
    Volume in 1/mm (or raw), with a margin of a voxel where the scan has one. ``truncated`` tells at which faces of the scan
    the structures were cut off.

    Raises
    ------
    InputError: a label that no voxel has, no name at all, labels outside the volume, nothing in them denser than water.
    """
    if not names:
        raise InputError("no structure is named", field="labels", remedy="name at least one")
    volume = volume.decoded()
    mask = LabelMap(labels.mask(names).to(torch.uint8), labels.affine, {1: ", ".join(map(str, names))})
    box = voxel_box(mask, volume)
    cropped = cropped_to(volume, box)
    inside = resample_labels(mask, cropped).data != 0
    data = torch.where(inside, _contrast(cropped), 0)
    if not bool((data > 0).any()):
        raise InputError(
            f"nothing within {', '.join(map(str, names))} attenuates more than water",
            field="labels",
            remedy="choose bones, or vessels filled with contrast agent",
        )
    unit = "raw" if volume.unit == "raw" else "1/mm"
    return replace(cropped, data=data, unit=unit, truncated=cut_at(inside, box, volume))  # type: ignore[arg-type]


def voxel_box(mask: LabelMap, volume: Volume) -> Box:
    """Voxels of the volume about the labels, a margin of one included, as (slices, rows, columns)."""
    reach = mask.data.nonzero()
    low, high = reach.amin(0).flip(0) - 0.5, reach.amax(0).flip(0) + 0.5  # (column, row, slice), to the voxels' outer faces
    ends = torch.stack([low, high]).to(torch.float64)
    corners = torch.stack([torch.stack([ends[a][0], ends[b][1], ends[c][2]]) for a, b, c in product((0, 1), repeat=3)])
    to_volume = torch.linalg.inv(volume.affine) @ mask.affine
    at = corners @ to_volume[:3, :3].T + to_volume[:3, 3]
    size = torch.tensor(volume.data.shape[::-1])
    first = (at.amin(0).ceil().long() - 1).clamp_min(0)
    last = torch.minimum(at.amax(0).floor().long() + 1, size - 1)
    if bool((last - first < 1).any()):
        raise InputError(
            "no label lies inside the volume",
            field="labels",
            remedy="check that both are of one patient and one frame of reference",
        )
    i, j, k = (slice(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    return k, j, i


def cropped_to(volume: Volume, box: Box) -> Volume:
    """A box of a volume's voxels, in its place; whether faces are cut is no longer stated."""
    affine = volume.affine.clone()
    first = torch.tensor([s.start for s in reversed(box)], dtype=torch.float64)
    affine[:3, 3] += affine[:3, :3] @ first
    return replace(volume, data=volume.data[box].contiguous(), affine=affine, truncated=None)


def _contrast(volume: Volume) -> Float[Tensor, "D H W"]:
    if volume.unit == "raw":
        return volume.data
    water, _ = volume.attenuation_coefficients()
    return (volume.attenuation().data - water).clamp_min(0)


def cut_at(inside: Tensor, box: Box, volume: Volume) -> tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]:
    """At which faces the structure reaches the end of the scan, unless the scan is known to end there with the patient."""
    known = volume.truncated
    faces = []
    for axis, (part, size) in enumerate(zip(reversed(box), reversed(volume.data.shape), strict=True)):
        dim = 2 - axis
        ends = (
            part.start == 0 and bool(inside.select(dim, 0).any()),
            part.stop == size and bool(inside.select(dim, -1).any()),
        )
        faces.append(ends if known is None else (ends[0] and known[axis][0], ends[1] and known[axis][1]))
    return faces[0], faces[1], faces[2]
