"""What the projector means, in plain PyTorch: slow, differentiable by everything, any precision, any device.

A volume is the trilinear interpolant of its voxels, extended by zeros: it falls to zero within one voxel beyond its outermost
centres. The integral along ``o + t d``, t in [0, 1], is the sum over the fixed positions ``t = (n + 1/2) / N``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def sample(volume: Float[Tensor, "D H W"], points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """The trilinear interpolant at voxel coordinates (x = column, y = row, z = slice); zero outside."""
    size = torch.tensor([volume.shape[2], volume.shape[1], volume.shape[0]], device=points.device)
    base = points.detach().floor()
    fraction = (points - base).to(volume.dtype)
    index = base.long()
    total = torch.zeros(points.shape[:-1], dtype=volume.dtype, device=volume.device)
    for corner in range(8):
        bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1], device=points.device)
        at = index + bits
        inside = ((at >= 0) & (at < size)).all(-1)
        x, y, z = torch.minimum(at.clamp_min(0), size - 1).unbind(-1)
        weight = torch.where(bits.bool(), fraction, 1 - fraction).prod(-1)
        total = total + torch.where(inside, volume[z, y, x] * weight, torch.zeros_like(weight))
    return total


def integrals(
    volume: Float[Tensor, "D H W"], rays: Float[Tensor, "B 4 3"], shape: tuple[int, int], samples: list[int]
) -> Float[Tensor, "B H W"]:
    """``int V(o + t d) dt`` over [0, 1] for every pixel of every view.

    ``rays`` holds, in voxel coordinates, the source, the first pixel minus the source, the column step and the row step.
    """
    h, w = shape
    c = torch.arange(w, dtype=rays.dtype, device=rays.device)[None, :, None]
    r = torch.arange(h, dtype=rays.dtype, device=rays.device)[:, None, None]
    images = []
    for (o, d00, du, dv), n in zip(rays, samples, strict=True):
        d = d00 + c * du + r * dv
        total = torch.zeros(h, w, dtype=volume.dtype, device=volume.device)
        # a few samples of all rays at once: memory stays small, and so does the graph
        for t in ((torch.arange(n, dtype=rays.dtype, device=rays.device) + 0.5) / n).split(32):
            total = total + sample(volume, o + t[:, None, None, None] * d).sum(0)
        images.append(total / n)
    return torch.stack(images)
