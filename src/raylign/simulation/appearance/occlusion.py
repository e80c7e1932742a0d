"""What comes between the patient and the image: boxes, cables, collimators, burnt-in text. What it hides is not valid."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.simulation.appearance.draws import Draws
from raylign.simulation.appearance.transform import Transform, extremes, measured, per_image
from raylign.simulation.labelled import Labelled


def pixel_grid(image: Float[Tensor, "B H W"]) -> tuple[Tensor, Tensor]:
    """Columns [1, 1, W] and rows [1, H, 1] of an image's pixels."""
    h, w = image.shape[1:]
    c = torch.arange(w, dtype=image.dtype, device=image.device)
    r = torch.arange(h, dtype=image.dtype, device=image.device)
    return c[None, None, :], r[None, :, None]


def _boxes(draws: Draws, image: Tensor, most: int, side: tuple[float, float]) -> Bool[Tensor, "B most H W"]:
    """Boxes that lie within the image wholly; their sides are uniform shares of the image's."""
    h, w = image.shape[1:]
    c, r = (axis[:, None] for axis in pixel_grid(image))
    height, width = (draws.uniform(*side, shape=(most,)) * n for n in (h, w))
    top, left = draws.uniform(shape=(most,)) * (h - height), draws.uniform(shape=(most,)) * (w - width)
    top, left, height, width = (v.to(image.dtype)[:, :, None, None] for v in (top, left, height, width))
    return (r >= top - 0.5) & (r < top + height - 0.5) & (c >= left - 0.5) & (c < left + width - 0.5)


def _some(draws: Draws, image: Tensor, count: tuple[int, int], side: tuple[float, float]) -> Bool[Tensor, "B most H W"]:
    """The same, a random number of them."""
    boxes = _boxes(draws, image, count[1], side)
    number = draws.whole(*count)
    return boxes & (torch.arange(count[1], device=image.device) < number[:, None])[:, :, None, None]


def _checked_count(count: tuple[int, int], kind: str, most: int = 64) -> None:
    if not (0 <= count[0] <= count[1] <= most) or any(int(n) != n for n in count):
        raise InputError(f"{count} is no range of numbers", field=f"{kind}.count", remedy=f"give whole numbers, 0 to {most}")


@dataclass(frozen=True)
class BoxNoise(Transform):
    """Boxes corrupted with large noise (Gao et al. 2024, section II.D: "a random number of box regions").

    The paper gives neither number nor size nor noise; what stands here is ours.

    Parameters
    ----------
    count: of boxes, uniform.
    side: of a box over that of the image, uniform.
    noise: standard deviation of what is added, over the image's range.
    """

    count: tuple[int, int] = (1, 5)
    side: tuple[float, float] = (0.05, 0.25)
    noise: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _checked_count(self.count, "BoxNoise")

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        hidden = _some(draws, batch.image, self.count, self.side).any(1)
        low, high = extremes(batch.image)
        noise = draws.normal(tuple(batch.image.shape[1:])) * self.noise * (high - low)
        return replace(batch, image=torch.where(hidden, batch.image + noise, batch.image), valid=batch.valid & ~hidden)


@dataclass(frozen=True)
class RandomErasing(Transform):
    """One rectangle of random values (Zhong et al. 2020, algorithm 1).

    Parameters
    ----------
    area: of the rectangle over that of the image, uniform (the paper: s_l = 0.02, s_h = 0.4).
    aspect: height over width, uniform (the paper: r_1 = 0.3, r_2 = 1 / r_1). Rectangles that do not fit are drawn again.

    Pixels take values uniform in the image's range, each its own (the paper's RE-R).
    """

    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        h, w = batch.image.shape[1:]
        area, aspect = draws.uniform(*self.area, shape=(_TRIES,)) * h * w, draws.uniform(*self.aspect, shape=(_TRIES,))
        height, width = (area * aspect).sqrt().floor().long(), (area / aspect).sqrt().floor().long()
        top, left = draws.whole(0, h - 1, (_TRIES,)), draws.whole(0, w - 1, (_TRIES,))
        fits = (top + height <= h) & (left + width <= w)
        # argmax finds the first that fits; of samples without one, nothing is erased
        first = fits.long().argmax(1, keepdim=True)
        top, left, height, width = (v.gather(1, first)[:, :, None] for v in (top, left, height, width))
        c, r = pixel_grid(batch.image)
        hidden = (r >= top) & (r < top + height) & (c >= left) & (c < left + width) & fits.any(1)[:, None, None]
        low, high = extremes(batch.image)
        value = low + draws.field((h, w)) * (high - low)
        return replace(batch, image=torch.where(hidden, value, batch.image), valid=batch.valid & ~hidden)


_TRIES = 64


@dataclass(frozen=True)
class Blocks(Transform):
    """Boxes of one value each, from anywhere in the valid pixels' range: patches, clips, a hand's edge.

    Parameters
    ----------
    count: of boxes, uniform.
    side: of a box over that of the image, uniform.
    """

    count: tuple[int, int] = (1, 4)
    side: tuple[float, float] = (0.03, 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        _checked_count(self.count, "Blocks")

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        boxes = _some(draws, batch.image, self.count, self.side)
        low, high = measured(batch)
        values = low + draws.uniform(shape=(self.count[1],)).to(batch.image.dtype)[:, :, None] * (high - low)
        image = batch.image
        for n in range(self.count[1]):
            image = torch.where(boxes[:, n], values[:, n, :, None], image)
        return replace(batch, image=image, valid=batch.valid & ~boxes.any(1))


@dataclass(frozen=True)
class Cables(Transform):
    """Wavy cables across the image, as electrodes and monitors bring them: each adds attenuation as a round wire would.

    Parameters
    ----------
    count: of cables, uniform.
    width: over the image's smaller side, uniform; at least one pixel.
    attenuation: through the middle of the cable, over the range of valid pixels, log-uniform.

    Pixels stay valid where a cable takes less than a fifth of that range.
    """

    count: tuple[int, int] = (1, 3)
    width: tuple[float, float] = (0.006, 0.03)
    attenuation: tuple[float, float] = (0.05, 0.8)

    def __post_init__(self) -> None:
        super().__post_init__()
        _checked_count(self.count, "Cables", 16)

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        low, high = measured(batch)
        number = draws.whole(*self.count)
        added = torch.zeros_like(batch.image)
        for n in range(self.count[1]):
            one = self._cable(batch.image, draws)
            added = added + torch.where((n < number)[:, None, None], one, torch.zeros_like(one))
        return replace(batch, image=batch.image + added * (high - low), valid=batch.valid & (added < 0.2))

    def _cable(self, image: Tensor, draws: Draws) -> Float[Tensor, "B H W"]:
        h, w = image.shape[1:]
        size = float(min(h, w))
        c, r = pixel_grid(image)
        turn, away, bow, phase, waves = (per_image(draws.uniform(a, b), image) for a, b in _CABLE)
        x, y = (c - (w - 1) / 2) / size, (r - (h - 1) / 2) / size
        along, across = x * torch.cos(turn) + y * torch.sin(turn), y * torch.cos(turn) - x * torch.sin(turn)
        angle = waves * along + phase
        # to the nearest point of a slowly waving line: the distance across over the slope's length
        distance = (across - away - bow * torch.sin(angle)).abs() / torch.sqrt(1 + (bow * waves * torch.cos(angle)) ** 2)
        half = per_image(draws.uniform(*self.width), image).clamp_min(1 / size) / 2
        # the chord of a round wire, averaged over a pixel where it ends
        chord = torch.sqrt((1 - (distance / half) ** 2).clamp_min(0))
        soft = ((half - distance) * size + 0.5).clamp(0, 1)
        return per_image(draws.log_uniform(*self.attenuation), image) * torch.maximum(chord, 0.3 * soft)


_CABLE = ((0.0, math.pi), (-0.45, 0.45), (0.0, 0.15), (0.0, 2 * math.pi), (2.0, 9.0))
"""Turn, distance from the middle, height of the waves, their phase, radians along the image."""


@dataclass(frozen=True)
class Collimate(Transform):
    """The shadow of a collimator: a round field, or one with straight edges, or both; what is dark is not valid.

    Parameters
    ----------
    kinds: drawn from with equal chance: "round", "rectangle", "octagon" (both).
    size: half the open field over half the image's side, uniform for each direction.
    centre: of the field off the image's middle, as a share of its side, uniform.
    degrees: turn of the straight edges, uniform.
    dark: value in the shadow: the largest valid one plus this share of their range, uniform.
    soft: width of the edge, pixels, uniform.
    """

    kinds: tuple[str, ...] = ("round", "rectangle", "octagon")
    size: tuple[float, float] = (0.7, 1.1)
    centre: tuple[float, float] = (-0.06, 0.06)
    degrees: tuple[float, float] = (-8.0, 8.0)
    dark: tuple[float, float] = (0.0, 0.3)
    soft: tuple[float, float] = (0.5, 3.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds or not set(self.kinds) <= {"round", "rectangle", "octagon"}:
            raise InputError(f"{self.kinds}", field="Collimate.kinds", remedy="use round, rectangle, octagon")

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        image = batch.image
        beyond = self._beyond(image, draws)
        soft = per_image(draws.uniform(*self.soft), image)
        light = (0.5 - beyond / soft).clamp(0, 1)
        low, high = measured(batch)
        dark = high + per_image(draws.uniform(*self.dark), image) * (high - low)
        return replace(batch, image=torch.lerp(dark.expand_as(image), image, light), valid=batch.valid & (light >= 1))

    def _beyond(self, image: Tensor, draws: Draws) -> Float[Tensor, "B H W"]:
        """Pixels by which a place lies outside the open field, negative within."""
        h, w = image.shape[1:]
        c, r = pixel_grid(image)
        size = draws.uniform(*self.size, shape=(2,)).to(image.dtype) / 2
        off = draws.uniform(*self.centre, shape=(2,)).to(image.dtype)
        turn = per_image(torch.deg2rad(draws.uniform(*self.degrees)), image)
        x = c - (w - 1) / 2 - per_image(off[:, 0], image) * w
        y = r - (h - 1) / 2 - per_image(off[:, 1], image) * h
        radius = per_image(size[:, 0], image) * min(h, w)
        ring = torch.hypot(x, y) - radius
        u, v = x * torch.cos(turn) + y * torch.sin(turn), y * torch.cos(turn) - x * torch.sin(turn)
        box = torch.maximum(u.abs() - per_image(size[:, 0], image) * w, v.abs() - per_image(size[:, 1], image) * h)
        # an octagon: the rectangle with its corners cut at the circle of its diagonal's nine tenths
        cut = (u.abs() + v.abs()) / math.sqrt(2) - 0.9 * torch.hypot(
            per_image(size[:, 0], image) * w, per_image(size[:, 1], image) * h
        )
        shapes = {"round": ring, "rectangle": box, "octagon": torch.maximum(box, cut)}
        which = draws.whole(0, len(self.kinds) - 1)[:, None, None]
        out = shapes[self.kinds[0]]
        for n, kind in enumerate(self.kinds[1:], 1):
            out = torch.where(which == n, shapes[kind], out)
        return out
