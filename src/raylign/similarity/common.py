"""What all metrics share: images made ready, gradients and windows that need no invalid pixel, safe quotients.

A moving image has leading axes of its own ([B, H, W], mostly one rendering a pose); fixed image and mask mostly have none. Nothing is
expanded before it must be: what depends on the fixed image alone is computed once, whatever the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images and where both count; invalid pixels are zero in both, whatever stood there.

    Parameters
    ----------
    moving, fixed: [..., H, W] of one dtype and device, leading axes that broadcast.
    mask: [..., H, W], true where the pixels count; None where all do.
    """

    moving: Float[Tensor, "*B H W"]
    fixed: Float[Tensor, "*B H W"]
    mask: Bool[Tensor, "*B H W"] | None

    @property
    def weight(self) -> Float[Tensor, "*B H W"]:
        """One where the pixels count, zero elsewhere, in the images' dtype; without mask [H, W]."""
        if self.mask is None:
            return self.moving.new_ones(self.moving.shape[-2:])
        return self.mask.to(self.moving.dtype)

    @property
    def batch(self) -> torch.Size:
        """Leading axes of the result."""
        shapes = [self.moving.shape[:-2], self.fixed.shape[:-2]]
        if self.mask is not None:
            shapes.append(self.mask.shape[:-2])
        return torch.broadcast_shapes(*shapes)


def paired(moving: Float[Tensor, "*B H W"], fixed: Float[Tensor, "*B H W"], mask: Bool[Tensor, "*B H W"] | None = None) -> Pair:
    """The images made ready: shapes checked, one dtype, invalid pixels zero.

    Half precision is computed in single precision. Raises InputError where shapes do not fit or images are not floating point.
    """
    for name, image in (("moving", moving), ("fixed", fixed)):
        if image.ndim < 2 or not image.is_floating_point():
            problem = f"an image is a floating-point tensor [..., H, W], got {image.dtype} of shape {tuple(image.shape)}"
            raise InputError(problem, field=name)
    shapes = [("fixed", fixed)] if mask is None else [("fixed", fixed), ("mask", mask)]
    for name, other in shapes:
        if other.ndim < 2 or other.shape[-2:] != moving.shape[-2:]:
            problem = f"shape {tuple(other.shape)} does not fit the moving image's {tuple(moving.shape)}"
            raise InputError(problem, field=name, remedy="render the moving image on the fixed image's grid")
    try:
        torch.broadcast_shapes(moving.shape, *(other.shape for _, other in shapes))
    except RuntimeError:
        told = ", ".join(f"{name} {tuple(other.shape)}" for name, other in shapes)
        raise InputError(f"leading axes do not broadcast: moving {tuple(moving.shape)}, {told}", field="moving") from None
    dtype = torch.float64 if moving.dtype == torch.float64 else torch.float32
    moving, fixed = moving.to(dtype), fixed.to(moving.device, dtype)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise InputError(f"a mask is boolean, got {mask.dtype}", field="mask", remedy="pass mask > 0")
        mask = mask.to(moving.device)
        moving, fixed = torch.where(mask, moving, 0.0), torch.where(mask, fixed, 0.0)
    return Pair(moving, fixed, mask)


def total(image: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Sum over the pixels."""
    return image.sum((-2, -1))


def ratio(numerator: Tensor, denominator: Tensor, defined: Tensor | None = None) -> Tensor:
    """Quotient where ``defined`` (the denominator positive), 0 with zero gradient elsewhere."""
    defined = denominator > 0 if defined is None else defined
    return torch.where(defined, numerator / torch.where(defined, denominator, 1.0), 0.0)


def correlation(pair: Pair) -> Float[Tensor, "*B"]:
    """Pearson's correlation over the pixels that count; 0 where either image is constant or no pixel counts.

    An image counts as constant when its standard deviation is within rounding of its mean magnitude.
    """
    weight = pair.weight
    count = total(weight)
    rounding = (32 * torch.finfo(weight.dtype).eps) ** 2

    def centred(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = ratio(total(image), count.expand(torch.broadcast_shapes(count.shape, image.shape[:-2])))
        away = (image - mean[..., None, None]) * weight
        energy = total(away * away)
        return away, energy, energy > rounding * total(image * image)

    moving, energy_m, varies_m = centred(pair.moving)
    fixed, energy_f, varies_f = centred(pair.fixed)
    varies = varies_m & varies_f
    # roots taken apart: their product does not underflow where both images are faint
    root_m = torch.where(varies, energy_m, 1.0).sqrt()
    root_f = torch.where(varies, energy_f, 1.0).sqrt()
    return torch.where(varies, total(moving * fixed) / root_m / root_f, 0.0)


def sobel(image: Float[Tensor, "*B H W"]) -> tuple[Float[Tensor, "*B h w"], Float[Tensor, "*B h w"]]:
    """Derivatives by column and by row per pixel, Sobel's 3x3 kernels over 8; the outermost pixels are lost (h = H - 2)."""
    rows = image[..., :-2, :] + 2 * image[..., 1:-1, :] + image[..., 2:, :]
    columns = image[..., :, :-2] + 2 * image[..., :, 1:-1] + image[..., :, 2:]
    return (rows[..., :, 2:] - rows[..., :, :-2]) / 8, (columns[..., 2:, :] - columns[..., :-2, :]) / 8


def within(mask: Bool[Tensor, "*B H W"], radius: int) -> Bool[Tensor, "*B h w"]:
    """Where a window of ``radius`` holds no invalid pixel, for the pixels whose window lies inside (h = H - 2 radius)."""
    for axis in (-2, -1):
        size = mask.shape[axis] - 2 * radius
        kept = mask.narrow(axis, 0, size)
        for start in range(1, 2 * radius + 1):
            kept = kept & mask.narrow(axis, start, size)
        mask = kept
    return mask


def gradients(pair: Pair) -> tuple[Pair, Pair]:
    """Sobel derivatives of both images by column and by row, at the pixels whose 3x3 neighbourhood is valid."""
    h, w = pair.moving.shape[-2:]
    if h < 3 or w < 3:
        raise InputError(f"gradients need images of at least 3x3 pixels, got {h}x{w}", field="moving")
    mask = None if pair.mask is None else within(pair.mask, 1)
    (mx, my), (fx, fy) = sobel(pair.moving), sobel(pair.fixed)
    if mask is not None:
        mx, my, fx, fy = (torch.where(mask, image, 0.0) for image in (mx, my, fx, fy))
    return Pair(mx, fx, mask), Pair(my, fy, mask)
