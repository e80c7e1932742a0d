"""Images for these tests: smooth, of many sizes of structure, different for every seed."""

from __future__ import annotations

import torch
from torch import Tensor

from raylign.similarity import SIMILARITIES

NAMES = tuple(SIMILARITIES)
PLUS = ("gc+", "gi+", "go+")
BLIND_TO_GAIN = tuple(name for name in NAMES if name not in ("ssd", "ssim"))
"""All that a positive factor and an offset of either image do not change."""


def smooth(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images [..., H, W]: noise, half of it smoothed to a few pixels, about 4."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    wide = noise
    for axis in (-2, -1):
        for _ in range(4):
            wide = (wide.roll(1, axis) + wide + wide.roll(-1, axis)) / 3
    return (4 + 5 * wide + 0.2 * noise).to(dtype)


def disc(size: int) -> Tensor:
    """A round mask with a hole, [size, size]."""
    r2 = (torch.arange(size)[:, None] - size / 2) ** 2 + (torch.arange(size) - size / 2) ** 2
    mask = r2 < (0.47 * size) ** 2
    mask[size // 3, size // 2] = False
    return mask
