"""Correlations window by window: blind to whatever gain and offset change slowly across the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.similarity.common import Pair, correlation, paired, ratio, total
from raylign.similarity.filters import box_sum, cut, fits, gradients, within

Weights = Literal["uniform", "variance"]


def patch_ncc(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    radius: int = 5,
    weights: Weights = "uniform",
) -> Float[Tensor, "*B"]:
    """Mean correlation over windows of 2 radius + 1 pixels around every pixel, from -1 to 1.

    Windows that hold an invalid pixel, and windows in which the fixed image is constant, do not count; a window in which the
    moving image is constant counts as 0. Patch-NCC of xReg (Grupp et al. 2018), which weighs a window by its share of valid
    pixels instead of leaving it out.

    Parameters
    ----------
    radius: pixels.
    weights: all windows alike, or by the fixed image's variance in them.
    """
    pair = paired(moving, fixed, mask)
    return _over_windows(pair, radius, _variance(pair, radius, weights))


def patch_gradient_ncc(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    radius: int = 5,
    smoothing: int = 5,
    weights: Weights = "uniform",
) -> Float[Tensor, "*B"]:
    """Mean of the window-wise correlations of the two smoothed Sobel derivatives, from -1 to 1.

    Patch-Grad-NCC of xReg (Grupp et al. 2018; Gao et al. 2024), whose radius is round(41 scale): 5 at 1/8 of the detector's
    resolution, 10 at 1/4.

    Parameters
    ----------
    radius: pixels.
    smoothing: odd width of the binomial kernel that smooths both images first; 1 for none.
    weights: all windows alike, or by the variance in them of the fixed image (not of its derivatives).
    """
    pair = paired(moving, fixed, mask)
    columns, rows = gradients(pair, smoothing)
    lost = (smoothing + 1) // 2
    kept = Pair(columns.moving, cut(pair.fixed, lost), columns.mask)
    by = _variance(kept, radius, weights)
    return (_over_windows(columns, radius, by) + _over_windows(rows, radius, by)) / 2


def multiscale_ncc(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    radii: Sequence[int | None] = (None, 6),
) -> Float[Tensor, "*B"]:
    """Mean of the correlation over the whole image and of those over windows, from -1 to 1.

    Multiscale NCC of DiffPose and xvr (Gopalakrishnan et al. 2024), whose windows are 13 pixels wide (radius 6).

    Parameters
    ----------
    radii: one scale each: a window's radius in pixels, or None for the whole image.
    """
    if not radii:
        raise InputError("no scale is given", field="radii", remedy="name at least one radius, or None for the whole image")
    pair = paired(moving, fixed, mask)
    scales = [correlation(pair) if radius is None else _over_windows(pair, radius, None) for radius in radii]
    return torch.stack(scales).mean(0)


def _variance(pair: Pair, radius: int, weights: Weights) -> Tensor | None:
    """Weights of the windows [..., h, w], or None where all weigh the same."""
    if weights not in ("uniform", "variance"):
        raise InputError(f"windows weigh 'uniform' or by 'variance', got {weights!r}", field="weights")
    if weights == "uniform":
        return None
    _windows_fit(pair, radius)
    _, energy, _ = _moments(_centred(pair.fixed, pair.weight), pair.fixed, radius)
    return energy.clamp(min=0)


def _windows_fit(pair: Pair, radius: int) -> None:
    if radius < 1:
        raise InputError(f"a window's radius is at least 1 pixel, got {radius}", field="radius")
    fits(pair, 2 * radius + 1, f"windows of radius {radius}")


def _centred(image: Tensor, weight: Tensor) -> Tensor:
    """The image less its mean, which no window's correlation notices and rounding does; invalid pixels stay 0."""
    with torch.no_grad():
        count = total(weight)
        mean = ratio(total(image), count.expand(torch.broadcast_shapes(count.shape, image.shape[:-2])))[..., None, None]
    return (image - mean) * weight


def _moments(image: Tensor, given: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums and centred energies of a centred image's windows, and where it varies by more than the rounding of both."""
    sums, squares = box_sum(image, radius), box_sum(image * image, radius)
    size = (2 * radius + 1) ** 2
    energy = squares - sums * sums / size
    eps = torch.finfo(image.dtype).eps
    with torch.no_grad():
        noise = size * (32 * eps) ** 2 * (given * given).mean((-2, -1))[..., None, None]
        varies = energy > torch.maximum(100 * eps * squares, noise)
    return sums, energy, varies


def _over_windows(pair: Pair, radius: int, weights: Tensor | None) -> Float[Tensor, "*B"]:
    """Weighted mean of the windows' correlations."""
    _windows_fit(pair, radius)
    size = (2 * radius + 1) ** 2
    moving, fixed = _centred(pair.moving, pair.weight), _centred(pair.fixed, pair.weight)
    sums_m, energy_m, varies_m = _moments(moving, pair.moving, radius)
    sums_f, energy_f, varies_f = _moments(fixed, pair.fixed, radius)
    counts = varies_f if pair.mask is None else varies_f & within(pair.mask, radius)
    by = counts.to(moving.dtype) if weights is None else weights * counts
    # the fixed image's share of the quotient, once for the whole batch
    share = by / torch.where(counts, energy_f, 1.0).sqrt()
    both = box_sum(moving * fixed, radius) - sums_m * (sums_f / size)
    each = both * share * torch.where(varies_m, energy_m, 1.0).rsqrt()
    summed = total(torch.where(varies_m, each, 0.0))
    return ratio(summed, total(by).expand(summed.shape))
