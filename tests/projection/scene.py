"""Volumes and views that several projection tests look at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raylign.data import Volume
from raylign.geometry import View, se3


def smooth_volume(dtype: torch.dtype = torch.float32, size: tuple[int, int, int] = (22, 26, 30)) -> Volume:
    """Two Gaussian blobs on an anisotropic, rotated, off-centre grid; next to nothing at the border."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in size), indexing="ij")
    blobs = torch.exp(-((x + 0.2) ** 2 + (y - 0.1) ** 2 + z**2) / 0.08) + 0.6 * torch.exp(
        -((x - 0.25) ** 2 + (y + 0.2) ** 2 + (z - 0.2) ** 2) / 0.05
    )
    affine = se3.exp(torch.tensor([0.1, -0.2, 0.3, 0, 0, 0], dtype=torch.float64)) @ torch.diag(
        torch.tensor([2.0, 2.5, 3.0, 1.0], dtype=torch.float64)
    )
    centre = affine[:3, :3] @ torch.tensor([(size[2] - 1) / 2, (size[1] - 1) / 2, (size[0] - 1) / 2], dtype=torch.float64)
    affine[:3, 3] = torch.tensor([4.0, -3.0, 2.0], dtype=torch.float64) - centre
    return Volume((0.03 * blobs).to(dtype), affine)


def view(shape: tuple[int, int] = (24, 28), pitch: float = 6.0) -> View:
    return View.from_carm(primary=25, secondary=-10, sid=1000, sod=650, pixel_spacing=(pitch, 0.9 * pitch), shape=shape)


def gaussian_integrals(at: View, centre: Tensor, width: float) -> Tensor:
    """Exact line integrals over whole lines of ``exp(-|x - centre|^2 / (2 width^2))``."""
    source, rays = at.rays()
    unit = rays / rays.norm(dim=-1, keepdim=True)
    to_centre = centre - source  # of a parallel beam every ray begins elsewhere
    distance2 = (to_centre**2).sum(-1) - (unit * to_centre).sum(-1) ** 2
    return math.sqrt(2 * math.pi) * width * torch.exp(-distance2 / (2 * width**2))
