"""The same scan in other voxels, or less of it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Volume
from raylign.errors import InputError
from raylign.simulation.subject import Subject

_BODY_HU = -300.0
_CUT_SHARE = 0.01  # of a face that shows the body before the scan counts as cut there: couch and arm rest are less

Faces = tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]


def resampled(subject: Subject, spacing_mm: tuple[float, float, float]) -> Subject:
    """A subject in voxels of about another size; the outer faces of the grid stay where they are.

    Larger voxels see the average of what they cover (a triangular window as wide as two voxels, which also is the linear
    interpolation towards smaller ones); labels are those of the nearest voxel. Meshes and landmarks do not change.

    Parameters
    ----------
    spacing_mm: along (column, row, slice); the nearest size that divides the field evenly is taken.

    Raises
    ------
    InputError: a size that is not positive, or leaves fewer than two voxels.
    """
    if not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise InputError(f"voxels of {spacing_mm} mm", field="spacing_mm", remedy="give three positive lengths")
    volume, labels = subject.volume.decoded(), subject.labels.data
    data, affine = volume.data, volume.affine.clone()
    for axis, (old, wanted) in enumerate(zip(volume.spacing, spacing_mm, strict=True)):
        dim = 2 - axis
        n = data.shape[dim]
        m = round(n * old / wanted)
        if m < 2:
            raise InputError(
                f"{wanted:g} mm leaves {m} voxels of {n * old:.0f} mm", field="spacing_mm", remedy="take smaller voxels"
            )
        if m == n:
            continue
        ratio = n / m
        data = _averaged(data, dim, m)
        centres = (torch.arange(m, device=labels.device, dtype=torch.float64) + 0.5) * ratio
        labels = labels.index_select(dim, centres.floor().long().clamp_max(n - 1))
        affine[:3, 3] += affine[:3, axis] * (ratio - 1) / 2
        affine[:3, axis] *= ratio
    return replace(
        subject,
        volume=replace(volume, data=data, affine=affine),
        labels=LabelMap(labels, affine, subject.labels.names),
    )


def _averaged(data: Tensor, dim: int, m: int) -> Tensor:
    """m samples along an axis, each the mean under a triangle of two of the larger pitches at its base."""
    n = data.shape[dim]
    ratio = n / m
    half = max(1.0, ratio)
    centre = (torch.arange(m, device=data.device, dtype=torch.float64) + 0.5) * ratio - 0.5
    first = (centre - half).ceil().long()
    taps = [first + t for t in range(math.ceil(2 * half) + 1)]
    weights = [(1 - (k - centre).abs() / half).clamp_min(0) * ((k >= 0) & (k < n)) for k in taps]
    total = torch.stack(weights).sum(0)
    shape = [1, 1, 1]
    shape[dim] = m
    out = torch.zeros(*data.shape[:dim], m, *data.shape[dim + 1 :], dtype=data.dtype, device=data.device)
    for k, w in zip(taps, weights, strict=True):
        out += data.index_select(dim, k.clamp(0, n - 1)) * (w / total).to(data.dtype).view(shape)
    return out


def cropped(subject: Subject, first: int, count: int) -> Subject:
    """A subject whose scan holds ``count`` slices from slice ``first`` on; cut faces are marked in ``truncated``.

    Meshes, landmarks and label names stay whole, also of what is no longer in the scan.

    Raises
    ------
    InputError: slices that the scan does not have, or fewer than two.
    """
    volume, labels = subject.volume, subject.labels
    n = volume.data.shape[0]
    if first < 0 or count < 2 or first + count > n:
        raise InputError(
            f"slices {first} to {first + count - 1} of {n}", field="count", remedy="give slices of the scan, two at least"
        )
    affine = volume.affine.clone()
    affine[:3, 3] += first * affine[:3, 2]
    part = slice(first, first + count)
    new = replace(volume, data=volume.data[part].contiguous(), affine=affine)
    cut = cut_faces(new)
    known = volume.truncated or cut
    ends = (known[2][0] if first == 0 else cut[2][0], known[2][1] if first + count == n else cut[2][1])
    return replace(
        subject,
        volume=replace(new, truncated=(known[0], known[1], ends)),
        labels=LabelMap(labels.data[part].contiguous(), affine, labels.names),
    )


def cut_faces(volume: Volume) -> Faces:
    """For each axis (column, row, slice) whether the body (above -300 HU) reaches the first and the last face of the scan.

    A face counts where more than 1 % of it shows the body.
    """

    def cut(face: Float[Tensor, "a b"]) -> bool:
        return float((face > _BODY_HU).double().mean()) > _CUT_SHARE

    x, y, z = ((cut(volume.data.select(2 - axis, 0)), cut(volume.data.select(2 - axis, -1))) for axis in range(3))
    return x, y, z
