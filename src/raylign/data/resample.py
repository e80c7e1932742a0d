"""Label maps on the grid of a volume."""

from __future__ import annotations

import torch

from raylign.data.labels import LabelMap
from raylign.data.volume import Volume
from raylign.errors import InputError


def resample_labels(labels: LabelMap, like: Volume) -> LabelMap:
    """The label map on the grid of a volume, by nearest neighbour; voxels outside the label map are background.

    Raises
    ------
    InputError: nothing labelled falls into the volume (another patient, another frame of reference), or between its voxels only.
    """
    device = labels.data.device
    affine = like.affine.to(device)
    if labels.data.shape == like.data.shape and torch.allclose(labels.affine, affine, atol=1e-4):
        return LabelMap(labels.data, affine, labels.names)
    m = torch.linalg.inv(labels.affine) @ affine  # index in the volume to index in the label map
    d, h, w = like.data.shape
    size = torch.tensor(labels.data.shape[::-1], device=device)
    i, j = (torch.arange(n, dtype=torch.float64, device=device) for n in (w, h))
    plane = i[None, :, None] * m[:3, 0] + j[:, None, None] * m[:3, 1] + m[:3, 3]
    out = torch.zeros((d, h, w), dtype=labels.data.dtype, device=device)
    for k in range(d):  # slice by slice: the whole grid of indices would be many times the volume
        at = (plane + k * m[:3, 2] + 0.5).floor().long()
        inside = ((at >= 0) & (at < size)).all(-1)
        x, y, z = torch.where(inside[..., None], at, 0).unbind(-1)
        out[k] = torch.where(inside, labels.data[z, y, x], 0)
    if not bool((out != 0).any()) and _within(labels, like):
        raise InputError(
            "what is labelled is smaller than a voxel of the volume: none has its middle in it",
            field="labels",
            remedy="choose a larger structure, or use a finer scan",
        )
    if not bool((out != 0).any()):
        raise InputError(
            "no label lies inside the volume",
            field="labels",
            remedy="check that both are of one patient and one frame of reference",
        )
    return LabelMap(out, affine, labels.names)


def _within(labels: LabelMap, like: Volume) -> bool:
    """Whether any labelled voxel has its middle in the volume."""
    index = labels.data.nonzero().flip(1)
    index = index[:: max(1, len(index) // 1_000_000)].to(torch.float64)
    m = torch.linalg.inv(like.affine.to(index)) @ labels.affine
    at = index @ m[:3, :3].T + m[:3, 3]
    size = torch.tensor(like.data.shape[::-1], device=at.device)
    return bool(((at >= -0.5) & (at <= size - 0.5)).all(1).any())
