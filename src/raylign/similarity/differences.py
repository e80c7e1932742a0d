"""Metrics of a difference image that forgive a few large differences: A / (A + d^2) instead of d^2."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.similarity.common import centred, paired, ratio, total
from raylign.similarity.filters import fits, gradients


def gradient_difference(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    iterations: int = 3,
) -> Float[Tensor, "*B"]:
    """Mean of A / (A + d^2) over both derivatives, d = fixed - s moving, A the variance of the fixed one (Penney et al. 1998).

    The scale s >= 0 is the one that maximises it, found from the least-squares one by reweighted least squares: each step is a
    step up. From 0 to 1; invariant to gain (positive) and offset of either image; 0 where either is constant.

    Parameters
    ----------
    iterations: reweighted steps.
    """
    derivatives = gradients(paired(moving, fixed, mask))
    weight = derivatives[0].weight
    count = total(weight)
    variances = []
    for d in derivatives:
        fixed_count = count.expand(torch.broadcast_shapes(count.shape, d.fixed.shape[:-2]))
        mean = ratio(total(d.fixed), fixed_count)[..., None, None]
        variances.append(ratio(total(((d.fixed - mean) * weight) ** 2), fixed_count)[..., None, None])
    # where the fixed derivatives do not vary there is nothing to compare
    rise = [torch.where(a > 0, a, 1.0) for a in variances]
    scale = _scale([d.moving * d.fixed for d in derivatives], [d.moving * d.moving for d in derivatives])
    for _ in range(iterations):
        by = []
        for d, a in zip(derivatives, rise, strict=True):
            gone = a / (a + (d.fixed - scale * d.moving) ** 2)
            by.append(gone * gone / a)
        products = [w * d.moving * d.fixed for w, d in zip(by, derivatives, strict=True)]
        scale = _scale(products, [w * d.moving * d.moving for w, d in zip(by, derivatives, strict=True)])
    there = total(derivatives[0].moving ** 2) + total(derivatives[1].moving ** 2) > 0
    values = []
    for d, a, variance in zip(derivatives, rise, variances, strict=True):
        summed = total(weight * a / (a + (d.fixed - scale * d.moving) ** 2))
        values.append(torch.where((variance[..., 0, 0] > 0) & there, ratio(summed, count.expand(summed.shape)), 0.0))
    return (values[0] + values[1]) / 2


def pattern_intensity(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    radius: int = 3,
    sigma: float = 0.15,
) -> Float[Tensor, "*B"]:
    """Mean of sigma^2 / (sigma^2 + (d(x) - d(y))^2) over pairs of valid pixels within ``radius`` (Weese et al. 1997).

    d = fixed - s moving with s >= 0 by least squares; few patterns are left in it where the images agree. From 0 to 1; invariant
    to gain (positive) and offset of either image; 0 where either is constant.

    Parameters
    ----------
    radius: pixels; 3 in Penney et al. 1998, 3 or 5 in Weese et al. 1997.
    sigma: in mean absolute deviations of the fixed image over the valid pixels. The papers' 10 grey values of some 256 are about
        this much of an image that uses its whole range; a wire hardly moves it.
    """
    if radius < 1 or sigma <= 0:
        raise InputError(f"radius is at least 1 and sigma positive, got {radius} and {sigma}", field="radius, sigma")
    pair = paired(moving, fixed, mask)
    fits(pair, radius + 1, f"pairs of pixels within {radius}")
    both = centred(pair)
    weight = pair.weight
    spread = total(both.fixed.abs())
    width2 = (sigma * ratio(spread, total(weight).expand(spread.shape))) ** 2
    width2 = torch.where(width2 > 0, width2, 1.0)[..., None, None]
    scale = _scale([both.moving * both.fixed], [both.moving * both.moving])
    difference = both.fixed - scale * both.moving
    summed, count = torch.zeros_like(scale[..., 0, 0]), torch.zeros_like(total(weight))
    for down in range(radius + 1):
        for right in range(-radius, radius + 1):
            if down * down + right * right > radius * radius or (down == 0 and right <= 0):
                continue  # each pair once
            here, there = _shifted(difference, down, right)
            like = width2 / (width2 + (here - there) ** 2)
            if pair.mask is not None:
                one, other = _shifted(weight, down, right)
                like, valid = like * (one * other), total(one * other)
            else:
                valid = here.new_tensor(here.shape[-2] * here.shape[-1])
            summed, count = summed + total(like), count + valid
    value = ratio(summed, count.expand(summed.shape))
    return torch.where(both.varies, value, 0.0)


def _scale(products: list[Tensor], squares: list[Tensor]) -> Tensor:
    """Least-squares factor [..., 1, 1] of the moving image, not negative; 0 where the moving image is."""
    above, below = sum(total(p) for p in products), sum(total(s) for s in squares)
    assert isinstance(above, Tensor) and isinstance(below, Tensor)
    return ratio(above, below.expand(above.shape)).relu()[..., None, None]


def _shifted(image: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """Two windows of an image, the second ``down`` rows and ``right`` columns (which may be negative) from the first."""
    h, w = image.shape[-2] - down, image.shape[-1] - abs(right)
    left, moved = max(0, -right), max(0, right)
    return image[..., :h, left : left + w], image[..., down : down + h, moved : moved + w]
