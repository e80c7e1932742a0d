"""Correlations window by window: blind to whatever gain and offset change slowly across the image.

Windows that hold an invalid pixel never count, so that what stands in such pixels of the images does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.similarity.common import Pair, checked, correlation, paired, ratio, total
from raylign.similarity.filters import binomial, box_sum, check_smoothing, cut, fits, sobel, within

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

    pair = _ready(moving, fixed, mask)
    windows = _windows(pair, radius, 0, weights)
    return _over_windows(_centred(pair.moving, pair.mask), _centred(pair.fixed, None), windows)


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

    check_smoothing(smoothing)
    pair = _ready(moving, fixed, mask)
    windows = _windows(pair, radius, (smoothing + 1) // 2, weights)
    moving_x, moving_y = sobel(binomial(pair.moving, smoothing))
    fixed_x, fixed_y = sobel(binomial(pair.fixed, smoothing))
    columns = _over_windows(Centred(moving_x), Centred(fixed_x), windows)
    return (columns + _over_windows(Centred(moving_y), Centred(fixed_y), windows)) / 2


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
    scales = [
        correlation(paired(moving, fixed, mask)) if radius is None else patch_ncc(moving, fixed, mask, radius=radius)
        for radius in radii
    ]
    return torch.stack(scales).mean(0)


@dataclass(frozen=True, eq=False)
class Windows:
    """Which windows count, and how much.

    Parameters
    ----------
    radius: pixels.
    weight: [..., h, w], 0 where a window holds an invalid pixel.
    """

    radius: int
    weight: Float[Tensor, "*B h w"]


@dataclass(frozen=True, eq=False)
class Centred:
    """An image about zero.

    Parameters
    ----------
    image: [..., H, W].
    size: mean square of what its values were before, to which their rounding is in proportion, [...]; None where they are exact
        about zero already, as differences of neighbours are.
    """

    image: Float[Tensor, "*B H W"]
    size: Float[Tensor, "*B"] | None = None

    def floor(self, pixels: int) -> Float[Tensor, "*B"]:
        """Energy that rounding alone gives a window of so many pixels, [...]."""
        if self.size is None:
            return self.image.new_zeros(self.image.shape[:-2])
        return pixels * (32 * torch.finfo(self.image.dtype).eps) ** 2 * self.size


def _ready(moving: Tensor, fixed: Tensor, mask: Tensor | None) -> Pair:
    """The images made ready. A fixed image of its own for each mask is not needed: windows with invalid pixels do not count."""
    pair = checked(moving, fixed, mask)
    if pair.mask is None:
        return pair
    anywhere = pair.mask.flatten(0, -3).any(0) if pair.mask.ndim > 2 and pair.fixed.ndim == 2 else pair.mask
    return Pair(torch.where(pair.mask, pair.moving, 0.0), torch.where(anywhere, pair.fixed, 0.0), pair.mask)


def _centred(image: Tensor, mask: Tensor | None) -> Centred:
    """The image less its mean, which no window's correlation notices and rounding does."""
    with torch.no_grad():
        pixels = image.shape[-2] * image.shape[-1] if mask is None else total(mask.to(image.dtype)).clamp(min=1)
        mean, size = total(image) / pixels, total(image * image) / pixels
    return Centred(image - mean[..., None, None], size)


def _windows(pair: Pair, radius: int, lost: int, weights: Weights) -> Windows:
    """The windows of an image that has lost ``lost`` pixels at its border."""
    if radius < 1:
        raise InputError(f"a window's radius is at least 1 pixel, got {radius}", field="radius")
    if weights not in ("uniform", "variance"):
        raise InputError(f"windows weigh 'uniform' or by 'variance', got {weights!r}", field="weights")
    fits(pair, 2 * (lost + radius) + 1, f"windows of radius {radius}{' of derivatives' if lost else ''}")
    h, w = (n - 2 * (lost + radius) for n in pair.moving.shape[-2:])
    if pair.mask is None:
        weight = pair.moving.new_ones(h, w)
    else:
        weight = within(pair.mask, lost + radius).to(pair.moving.dtype)
    if weights == "variance":
        weight = weight * _moments(_centred(cut(pair.fixed, lost), None), radius)[1].clamp(min=0)
    return Windows(radius, weight)


def _moments(centred: Centred, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums and centred energies of an image's windows, and where it varies by more than rounding."""
    pixels = (2 * radius + 1) ** 2
    sums, squares = box_sum(centred.image, radius), box_sum(centred.image * centred.image, radius)
    energy = squares - sums * sums / pixels
    with torch.no_grad():
        rounding = 100 * torch.finfo(energy.dtype).eps * squares
        varies = energy > torch.maximum(rounding, centred.floor(pixels)[..., None, None])
    return sums, energy, varies


def _over_windows(moving: Centred, fixed: Centred, windows: Windows) -> Float[Tensor, "*B"]:
    """Weighted mean of the windows' correlations."""
    pixels = (2 * windows.radius + 1) ** 2
    sums_f, energy_f, varies_f = _moments(fixed, windows.radius)
    # the fixed image's part of the quotient, once for the whole batch
    weight = windows.weight * varies_f
    share = weight * torch.where(varies_f, energy_f, 1.0).rsqrt()
    if _kernel_serves(moving.image, fixed.image, share):
        summed = _by_kernel(moving, fixed, sums_f / pixels, share, windows.radius)
    else:
        sums_m, energy_m, varies_m = _moments(moving, windows.radius)
        both = box_sum(moving.image * fixed.image, windows.radius) - sums_m * (sums_f / pixels)
        each = both * share * torch.where(varies_m, energy_m, 1.0).rsqrt()
        summed = total(torch.where(varies_m, each, 0.0))
    return ratio(summed, total(weight).expand(summed.shape))


def _kernel_serves(moving: Tensor, fixed: Tensor, share: Tensor) -> bool:
    """Whether the case is the common one: many images, one fixed image, single precision on the CPU, no gradient wanted."""
    plain = fixed.ndim == 2 and moving.dtype == torch.float32 and moving.device.type == "cpu"
    wanted = torch.is_grad_enabled() and (moving.requires_grad or fixed.requires_grad)
    return plain and not wanted and share.shape[:-2] in ((), moving.shape[:-2])


def _by_kernel(moving: Centred, fixed: Centred, means: Tensor, share: Tensor, radius: int) -> Tensor:
    from raylign.similarity.windows_cpu import summed_correlations

    leading = moving.image.shape[:-2]

    def array(image: Tensor) -> np.ndarray:
        return image.detach().contiguous().numpy()

    floor = moving.floor((2 * radius + 1) ** 2).reshape(-1).double()
    images, shares = moving.image.reshape(-1, *moving.image.shape[-2:]), share.reshape(-1, *share.shape[-2:])
    sums = summed_correlations(array(images), array(fixed.image), array(means), array(shares), array(floor), radius)
    return torch.from_numpy(sums).to(torch.float32).reshape(leading)
