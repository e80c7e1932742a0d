"""Checks and arithmetic that everything sampled on a voxel grid shares."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError


def checked_affine(affine: object) -> Float[Tensor, "4 4"]:
    """The voxel-to-LPS affine as float64.

    Raises
    ------
    InputError: not 4x4, not finite, or singular (a spacing of zero).
    """
    m = torch.as_tensor(affine, dtype=torch.float64)
    if m.shape != (4, 4) or not bool(torch.isfinite(m).all()):
        raise InputError("the voxel affine is not a finite 4x4 matrix", field="affine")
    spacing = m[:3, :3].norm(dim=0)
    if float(spacing.min()) <= 0 or abs(float(torch.linalg.det(m[:3, :3]))) < 1e-9 * float(spacing.prod()):
        raise InputError(
            f"the voxel spacing {[round(float(s), 6) for s in spacing]} mm leaves no volume",
            field="affine",
            remedy="spacing must be positive along three independent directions",
        )
    return m


def spacing(affine: Float[Tensor, "4 4"]) -> tuple[float, float, float]:
    """Voxel pitch in mm along (column, row, slice)."""
    x, y, z = affine[:3, :3].norm(dim=0).tolist()
    return x, y, z


def centre(affine: Float[Tensor, "4 4"], shape: torch.Size) -> Float[Tensor, "3"]:
    """LPS mm of the middle of the voxel grid (of its outermost voxel centres)."""
    d, h, w = shape[-3:]
    middle = torch.tensor([(w - 1) / 2, (h - 1) / 2, (d - 1) / 2, 1.0], dtype=torch.float64)
    return (affine @ middle)[:3]
