"""Structural similarity."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.similarity.common import mean, paired, ratio, total
from raylign.similarity.filters import fits, gaussian, within

_TRUNCATE = 3.5


def ssim(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    sigma: float = 1.5,
    data_range: float | None = None,
) -> Float[Tensor, "*B"]:
    """Mean structural similarity over Gaussian windows that hold no invalid pixel (Wang et al. 2004), up to 1.

    (2 mu_m mu_f + C1) (2 s_mf + C2) / ((mu_m^2 + mu_f^2 + C1) (s_mm + s_ff + C2)), C1 = (0.01 L)^2, C2 = (0.03 L)^2. Invariant to
    nothing: both images must hold the same quantity. 0 where no window is valid or the fixed image's range is zero.

    Parameters
    ----------
    sigma: of the window, pixels; its radius is 3.5 sigma (5 for 1.5: 11 x 11 pixels).
    data_range: L; the range of the fixed image's valid pixels where None.
    """
    if sigma <= 0:
        raise InputError(f"a window's sigma is positive, got {sigma}", field="sigma")
    pair = paired(moving, fixed, mask)
    radius = int(_TRUNCATE * sigma + 0.5)
    fits(pair, 2 * radius + 1, f"windows of radius {radius}")
    span = _range(pair.fixed, pair.mask) if data_range is None else pair.fixed.new_tensor(data_range)
    defined = span > 0
    span = torch.where(defined, span, 1.0)[..., None, None]
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    m, f = pair.moving, pair.fixed
    mu_m, mu_f = gaussian(m, sigma, radius), gaussian(f, sigma, radius)
    s_mm, s_ff = gaussian(m * m, sigma, radius) - mu_m * mu_m, gaussian(f * f, sigma, radius) - mu_f * mu_f
    s_mf = gaussian(m * f, sigma, radius) - mu_m * mu_f
    each = (2 * mu_m * mu_f + c1) * (2 * s_mf + c2) / ((mu_m * mu_m + mu_f * mu_f + c1) * (s_mm + s_ff + c2))
    if pair.mask is None:
        return torch.where(defined, mean(each), 0.0)
    counts = within(pair.mask, radius)
    summed = total(torch.where(counts, each, 0.0))
    value = ratio(summed, total(counts.to(each.dtype)).expand(summed.shape))
    return torch.where(defined, value, 0.0)


def _range(image: Tensor, mask: Tensor | None) -> Tensor:
    """Largest less smallest valid value; not above 0 where there is none."""
    if mask is None:
        return image.amax((-2, -1)) - image.amin((-2, -1))
    return torch.where(mask, image, -torch.inf).amax((-2, -1)) - torch.where(mask, image, torch.inf).amin((-2, -1))
