"""What all metrics share: images made ready, gradients and windows that need no invalid pixel, safe quotients.

A moving image has leading axes of its own ([B, H, W], mostly one rendering a pose); fixed image and mask mostly have none.
Nothing is expanded before it must be: what depends on the fixed image alone is computed once, whatever the batch.
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


def checked(moving: Float[Tensor, "*B H W"], fixed: Float[Tensor, "*B H W"], mask: Bool[Tensor, "*B H W"] | None = None) -> Pair:
    """The images in one dtype and on the moving image's device, as they are.

    Half precision is computed in single precision. Raises InputError where shapes do not fit, images are not floating point or a
    mask is not boolean.
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
    if mask is not None and mask.dtype != torch.bool:
        raise InputError(f"a mask is boolean, got {mask.dtype}", field="mask", remedy="pass mask > 0")
    dtype = torch.float64 if moving.dtype == torch.float64 else torch.float32
    return Pair(moving.to(dtype), fixed.to(moving.device, dtype), None if mask is None else mask.to(moving.device))


def paired(moving: Float[Tensor, "*B H W"], fixed: Float[Tensor, "*B H W"], mask: Bool[Tensor, "*B H W"] | None = None) -> Pair:
    """The images made ready: as ``checked`` does, and zero where invalid."""
    pair = checked(moving, fixed, mask)
    if pair.mask is None:
        return pair
    return Pair(torch.where(pair.mask, pair.moving, 0.0), torch.where(pair.mask, pair.fixed, 0.0), pair.mask)


def total(image: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Sum over the pixels: rows first, then their sums.

    PyTorch sums one number out of more than 32768 in parts, as many as there are threads; several numbers it does not.
    """
    return image.sum(-1).sum(-1)


def mean(image: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Mean over the pixels, in the same order."""
    return total(image) / (image.shape[-2] * image.shape[-1])


def ratio(numerator: Tensor, denominator: Tensor, defined: Tensor | None = None) -> Tensor:
    """Quotient where ``defined`` (the denominator positive), 0 with zero gradient elsewhere."""
    defined = denominator > 0 if defined is None else defined
    return torch.where(defined, numerator / torch.where(defined, denominator, 1.0), 0.0)


@dataclass(frozen=True, eq=False)
class Centred:
    """Two images less their means over the valid pixels, and their norms.

    Parameters
    ----------
    moving, fixed: [..., H, W], zero where invalid.
    norms: of the moving image and of the fixed one, [...]; 1 where not ``varies``.
    varies: whether neither is constant to within rounding, [*B].
    """

    moving: Float[Tensor, "*B H W"]
    fixed: Float[Tensor, "*B H W"]
    norms: tuple[Float[Tensor, "*B"], Float[Tensor, "*B"]]
    varies: Bool[Tensor, "*B"]

    def quotient(self, products: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Summed products over both norms; 0 where an image is constant."""
        # divided by one after the other: the norms' product could underflow where both images are faint
        return torch.where(self.varies, products / self.norms[0] / self.norms[1], 0.0)


def centred(pair: Pair) -> Centred:
    """Both images less their means. One is constant if its deviation is within rounding of its root mean square."""
    weight = pair.weight
    count = total(weight)
    rounding = (32 * torch.finfo(weight.dtype).eps) ** 2

    def one(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        middle = ratio(total(image), count.expand(torch.broadcast_shapes(count.shape, image.shape[:-2])))
        away = (image - middle[..., None, None]) * weight
        energy = total(away * away)
        return away, energy, energy > rounding * total(image * image)

    moving, energy_m, varies_m = one(pair.moving)
    fixed, energy_f, varies_f = one(pair.fixed)
    varies = varies_m & varies_f
    norms = torch.where(varies, energy_m, 1.0).sqrt(), torch.where(varies, energy_f, 1.0).sqrt()
    return Centred(moving, fixed, norms, varies)


def correlation(pair: Pair) -> Float[Tensor, "*B"]:
    """Pearson's correlation over the pixels that count; 0 where either image is constant or no pixel counts."""
    both = centred(pair)
    return both.quotient(total(both.moving * both.fixed))
