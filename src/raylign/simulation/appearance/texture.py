"""Changes that reach over neighbouring pixels: blur, slow fields, haze, local contrast; nothing moves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from raylign.errors import InputError
from raylign.simulation.appearance.draws import Draws
from raylign.simulation.appearance.transform import Transform, measured, per_image
from raylign.simulation.labelled import Labelled


@dataclass(frozen=True)
class Blur(Transform):
    """A Gaussian whose standard deviation is uniform in the range, pixels; edges are repeated."""

    sigma: tuple[float, float] = (0.3, 1.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sigma[0] <= self.sigma[1] <= 20:
            raise InputError(f"{self.sigma} pixels", field="Blur.sigma", remedy="give 0 to 20")

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        return replace(batch, image=gaussian(batch.image, draws.uniform(*self.sigma), self.sigma[1]))


def gaussian(image: Float[Tensor, "B H W"], sigma: Float[Tensor, " B"], largest: float) -> Float[Tensor, "B H W"]:
    """Every image blurred by its own Gaussian; ``largest`` is a bound of the deviations, pixels."""
    h, w = image.shape[1:]
    reach = max(min(math.ceil(3 * largest), h - 1, w - 1), 0)
    x = torch.arange(-reach, reach + 1, dtype=torch.float64, device=image.device)
    kernel = torch.exp(-0.5 * (x / sigma.to(image.device).clamp_min(0.05)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(image.dtype)
    out = pad(image[None], (reach, reach, reach, reach), mode="replicate")
    out = conv2d(out, kernel[:, None, :, None], groups=len(image))
    return conv2d(out, kernel[:, None, None, :], groups=len(image))[0]


@dataclass(frozen=True)
class Bias(Transform):
    """Adds a slow field: ``knots`` x ``knots`` normal numbers, interpolated, times the range of valid pixels times an amplitude.

    The amplitude is uniform in the range. In the logarithm of the counts that is an uneven gain or beam.
    """

    amplitude: tuple[float, float] = (0.02, 0.15)
    knots: int = 4

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        low, high = measured(batch)
        slow = _slow(draws.normal((self.knots, self.knots)), batch.image)
        return replace(batch, image=batch.image + per_image(draws.uniform(*self.amplitude), batch.image) * (high - low) * slow)


def _slow(knots: Float[Tensor, "B k k"], image: Tensor) -> Float[Tensor, "B H W"]:
    shape = tuple(image.shape[1:])
    return interpolate(knots[:, None].to(image.dtype), shape, mode="bicubic", align_corners=True)[:, 0]


@dataclass(frozen=True)
class Haze(Transform):
    """Light that belongs nowhere, as scatter and glare add it: ``-log(exp(-I) + amount mean(exp(-I)) field)``.

    Parameters
    ----------
    amount: of the added light over the mean light, uniform.
    evenness: the field is one plus slow normal noise of this deviation, at least a tenth everywhere; uniform.
    """

    amount: tuple[float, float] = (0.0, 1.0)
    evenness: tuple[float, float] = (0.0, 0.3)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        light = torch.exp(-batch.image)
        slow = _slow(draws.normal((3, 3)), batch.image)
        field = (1 + per_image(draws.uniform(*self.evenness), light) * slow).clamp_min(0.1)
        added = per_image(draws.uniform(*self.amount), light) * light.mean((1, 2), keepdim=True) * field
        return replace(batch, image=-torch.log(light + added))


@dataclass(frozen=True)
class LocalContrast(Transform):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994), mixed with the image.

    Parameters
    ----------
    weight: of the equalised image against the plain one, uniform.
    limit: a grey level of a tile holds at most this many times the share it would hold in a flat histogram, log-uniform.
    tiles: along each side.
    """

    weight: tuple[float, float] = (0.2, 0.8)
    limit: tuple[float, float] = (1.5, 6.0)
    tiles: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tiles < 1:
            raise InputError(f"{self.tiles} tiles", field="tiles", remedy="give 1 or more")

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        low, high = measured(batch)
        span = (high - low).clamp_min(1e-12)
        share = (batch.image - low) / span
        equal = equalised(share.clamp(0, 1), draws.log_uniform(*self.limit), self.tiles)
        weight = per_image(draws.uniform(*self.weight), batch.image)
        return replace(batch, image=low + span * torch.lerp(share, equal, weight))


_LEVELS = 128


def equalised(image: Float[Tensor, "B H W"], limit: Float[Tensor, " B"], tiles: int) -> Float[Tensor, "B H W"]:
    """Images of 0 to 1, equalised tile by tile, the tiles' curves interpolated between their middles."""
    b, h, w = image.shape
    level = image * (_LEVELS - 1)
    tr = torch.arange(h, device=image.device) * tiles // h
    tc = torch.arange(w, device=image.device) * tiles // w
    tile = tr[:, None] * tiles + tc[None, :]
    first = torch.arange(b, device=image.device)[:, None, None] * (tiles * tiles)
    index = ((first + tile) * _LEVELS + level.round().long()).flatten()
    # counted in whole numbers, which no order of summation changes
    counts = torch.zeros(b * tiles * tiles * _LEVELS, dtype=torch.int64, device=image.device)
    counts = counts.index_add(0, index, torch.ones_like(index)).view(b, tiles * tiles, _LEVELS).to(image.dtype)
    counts = counts / counts.sum(-1, keepdim=True).clamp_min(1)
    top = limit.to(image)[:, None, None] / _LEVELS
    clipped = torch.minimum(counts, top)
    clipped = clipped + (1 - clipped.sum(-1, keepdim=True)) / _LEVELS
    # the curve's value at the middle of each level's share
    curve = (clipped.cumsum(-1) - clipped / 2).view(b, tiles, tiles, _LEVELS)
    r0, r1, fr = _neighbours(h, tiles, image)
    c0, c1, fc = _neighbours(w, tiles, image)
    low = level.floor().long().clamp(0, _LEVELS - 2)
    part = level - low
    at = torch.arange(b, device=image.device)[:, None, None]

    def through(r: Tensor, c: Tensor) -> Tensor:
        r, c = r[None, :, None], c[None, None, :]
        return torch.lerp(curve[at, r, c, low], curve[at, r, c, low + 1], part)

    upper = torch.lerp(through(r0, c0), through(r0, c1), fc[None, None, :].expand(b, h, w))
    lower = torch.lerp(through(r1, c0), through(r1, c1), fc[None, None, :].expand(b, h, w))
    return torch.lerp(upper, lower, fr[None, :, None].expand(b, h, w))


def _neighbours(size: int, tiles: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel of a side, the tiles between whose middles it lies, and how far towards the second."""
    place = (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) * tiles / size - 0.5
    place = place.clamp(0, tiles - 1)
    first = place.floor().long().clamp(0, max(tiles - 2, 0))
    return first, (first + 1).clamp_max(tiles - 1), place - first
