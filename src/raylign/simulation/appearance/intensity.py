"""Pixel by pixel: another display, exposure or noise; nothing moves.

The image is ``-log(counts / open beam)``; its *range* is the difference of its largest and smallest value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raylign.errors import InputError
from raylign.simulation.appearance.draws import Draws
from raylign.simulation.appearance.transform import Transform, extremes, measured, per_image
from raylign.simulation.labelled import Labelled


@dataclass(frozen=True)
class Invert(Transform):
    """``max(I) - I`` (Gao et al. 2024, section II.D: "all image pixels were subtracted from the maximum intensity value").

    Afterwards larger is less attenuation. Twice gives ``I - min(I)``.
    """

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        return replace(batch, image=batch.image.amax((1, 2), keepdim=True) - batch.image)


@dataclass(frozen=True)
class GaussianNoise(Transform):
    """``I + N(0, sigma)``, sigma uniform in the range times the image's range (Gao et al. 2024, section II.D: 0.005 to 0.1)."""

    sigma: tuple[float, float] = (0.005, 0.1)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        low, high = extremes(batch.image)
        sigma = per_image(draws.uniform(*self.sigma), batch.image) * (high - low)
        return replace(batch, image=batch.image + sigma * draws.normal(tuple(batch.image.shape[1:])))


@dataclass(frozen=True)
class Gamma(Transform):
    """``norm(I)^gamma``: the image is brought to 0 to 1 by its smallest and largest value (Gao et al. 2024: gamma 0.7 to 1.3).

    ``rescale`` takes the values of valid pixels for the range and brings the result back to it, which the paper does not.
    """

    gamma: tuple[float, float] = (0.7, 1.3)
    rescale: bool = False

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        low, high = measured(batch) if self.rescale else extremes(batch.image)
        span = (high - low).clamp_min(1e-12)
        image = ((batch.image - low) / span).clamp(0, 1) ** per_image(draws.uniform(*self.gamma), batch.image)
        return replace(batch, image=low + span * image if self.rescale else image)


@dataclass(frozen=True)
class Brightness(Transform):
    """Adds a constant, uniform in the range times the image's range."""

    shift: tuple[float, float] = (-0.2, 0.2)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        low, high = extremes(batch.image)
        return replace(batch, image=batch.image + per_image(draws.uniform(*self.shift), batch.image) * (high - low))


@dataclass(frozen=True)
class Contrast(Transform):
    """Spreads the image about its mean by a factor, uniform in the range."""

    factor: tuple[float, float] = (0.8, 1.2)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        mean = batch.image.mean((1, 2), keepdim=True)
        return replace(batch, image=mean + (batch.image - mean) * per_image(draws.uniform(*self.factor), batch.image))


@dataclass(frozen=True)
class LogOffset(Transform):
    """An open beam that was estimated wrongly, and counts that carry an offset: ``-log((exp(-I) + offset) / open_beam)``.

    Parameters
    ----------
    open_beam: factor on the open beam, log-uniform.
    offset: dark signal or uniform scatter that was not subtracted, as a share of the open beam, log-uniform.
    """

    open_beam: tuple[float, float] = (0.5, 2.0)
    offset: tuple[float, float] = (1e-5, 1e-2)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        factor = per_image(draws.log_uniform(*self.open_beam), batch.image)
        offset = per_image(draws.log_uniform(*self.offset), batch.image)
        # as a shift of I, so that a hundred times less light than float32 resolves beside 1 is not lost
        return replace(batch, image=torch.log(factor) - torch.logaddexp(-batch.image, torch.log(offset)))


@dataclass(frozen=True)
class Response(Transform):
    """A display curve between the logarithm and the counts: ``(1 - exp(-k I)) / k``, k log-uniform.

    k towards 0 leaves line integrals as they are; k = 1 is linear in the counts, and grows with attenuation still.
    """

    k: tuple[float, float] = (0.05, 1.0)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        k = per_image(draws.log_uniform(*self.k), batch.image)
        return replace(batch, image=-torch.expm1(-k * batch.image) / k)


@dataclass(frozen=True)
class Window(Transform):
    """A display window: the image is cut off at both its ends.

    Parameters
    ----------
    level: of the window's middle: the mean of valid pixels plus this many of their standard deviations, uniform.
    width: in standard deviations, uniform.
    """

    level: tuple[float, float] = (-0.7, 0.7)
    width: tuple[float, float] = (2.0, 5.0)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        mean, deviation = moments(batch)
        middle = mean + per_image(draws.uniform(*self.level), batch.image) * deviation
        half = per_image(draws.uniform(*self.width), batch.image) * deviation / 2
        return replace(batch, image=torch.minimum(torch.maximum(batch.image, middle - half), middle + half))


@dataclass(frozen=True)
class Saturate(Transform):
    """A detector that runs full: what is attenuated less than a level, uniform in the range times that of valid pixels, is cut.

    A full pixel says only that something was less than it: it is not valid afterwards.
    """

    level: tuple[float, float] = (0.0, 0.2)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        low, high = measured(batch)
        level = low + per_image(draws.uniform(*self.level), batch.image) * (high - low)
        return replace(batch, image=torch.maximum(batch.image, level), valid=batch.valid & (batch.image >= level))


@dataclass(frozen=True)
class Dropout(Transform):
    """Dead pixels: a share of them, log-uniform, takes the smallest or largest valid value and is not valid afterwards."""

    share: tuple[float, float] = (1e-4, 1e-2)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        low, high = measured(batch)
        share = per_image(draws.log_uniform(*self.share), batch.image)
        luck = draws.field(tuple(batch.image.shape[1:]))
        image = torch.where(luck < share / 2, low, torch.where(luck < share, high, batch.image))
        return replace(batch, image=image, valid=batch.valid & (luck >= share))


@dataclass(frozen=True)
class Normalise(Transform):
    """The image as a network takes it: "standard" (mean 0, deviation 1) or "unit" (0 to 1), by its valid pixels."""

    kind: str = "standard"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("standard", "unit"):
            raise InputError(f"no kind {self.kind!r}", field="Normalise.kind", remedy='use "standard" or "unit"')

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        if self.kind == "unit":
            low, high = measured(batch)
            return replace(batch, image=((batch.image - low) / (high - low).clamp_min(1e-12)).clamp(0, 1))
        mean, deviation = moments(batch)
        return replace(batch, image=(batch.image - mean) / deviation.clamp_min(1e-6))


def moments(batch: Labelled) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every image's valid pixels, [B, 1, 1]; of all where none is valid."""
    counted = batch.valid | ~batch.valid.flatten(1).any(1)[:, None, None]
    weight = counted.to(batch.image.dtype)
    total = weight.sum((1, 2), keepdim=True)
    mean = (batch.image * weight).sum((1, 2), keepdim=True) / total
    variance = ((batch.image - mean) ** 2 * weight).sum((1, 2), keepdim=True) / total
    return mean, variance.sqrt()
