"""The unit of the deterministic adjoint's integers: small enough to lose nothing, large enough that no sum overflows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.projection.reference import spread


def fixed_point_scale(
    weights: Float[Tensor, "B H W"],
    slope_weights: Float[Tensor, "B H W 6"] | None,
    rays: Float[Tensor, "B n 3"],
    size: tuple[int, int, int],
    model: str,
) -> Float[Tensor, " 1"]:
    """[1] float64, a power of two: weights times it give away at most 1 in all, summed over voxels in absolute value.

    Found on the device, without waiting for it. NaN where a weight is not finite, and so is then the whole adjoint.
    """
    w = weights.to(torch.float64).abs()
    s = None if slope_weights is None else slope_weights.to(torch.float64).abs()
    if model == "trilinear":
        # a sample's eight weights add up to 1, their derivatives by one axis to 2 in absolute value; 1 / N times N samples
        bound = w if s is None else w + 2 * s.sum(-1)
    else:
        origins, d = spread(rays, (weights.shape[1], weights.shape[2]))
        steepest = d.abs().amax(-1).clamp_min(1e-20)
        if model == "joseph":
            # |d| + 1 planes at most, each 1 / |d| times; the slopes give 2 to each in-plane axis, and the steepest one's to both
            bound = w if s is None else w + 4 * s.sum(-1) + s.amax(-1) / steepest
            bound = bound * (1 + 1 / steepest)
        else:
            bound = w
            for axis in (0, 1, 2) if s is not None else ():
                assert s is not None
                # two voxels for every face that is crossed within the volume, each 1 / |d| times
                a = origins[..., axis] + 0.5
                ends = torch.stack([a, a + d[..., axis]]).clamp(-1, size[2 - axis] + 1)
                faces = (ends.amax(0) + 1e-6).floor() - (ends.amin(0) - 1e-6).floor()
                pace = torch.where(d[..., axis].abs() < 1e-20, 0.0, 1 / d[..., axis].abs().clamp_min(1e-20))
                bound = bound + 2 * faces * pace * (s[..., axis] + s[..., 3 + axis])
    total = bound.sum()
    known = torch.where(torch.isfinite(total) & (total > 0), total, 1.0)
    exponent = torch.ceil(torch.log2(known)).clamp(-1000, 1000)
    scale = torch.exp2(-exponent)
    return torch.where(torch.isfinite(total), scale, torch.nan).reshape(1)
