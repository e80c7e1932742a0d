"""What the direct method can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from raylign.errors import InputError
from raylign.registration.matching import MatchConfig

TRUST = 0.85
"""Probability of success from which a result is called trustworthy, where nothing else is said (docs/confidence.md)."""

_SOD = 700.0  # mm from the source to the patient, about: what a range of depths is compared with


@dataclass(frozen=True)
class LocateConfig:
    """How densely a box is looked through.

    Parameters
    ----------
    degrees: largest distance of neighbouring turns about each axis.
    ratio: largest ratio of neighbouring depths.
    pixels: the model's shorter side on the image, in pixels.
    window: radius of the window that gradients are normalised in, pixels.
    floor: share of the mean gradient energy that is added to a window's before it divides.
    """

    degrees: float = 20.0
    ratio: float = 1.2
    pixels: int = 22
    window: int = 3
    floor: float = 0.3


@dataclass(frozen=True)
class SearchConfig:
    """What the start leaves open, and how densely it is searched.

    Parameters
    ----------
    degrees, mm: half widths, about each axis of the first view and along it, of the box that the starts fill.
    depth: the same along the beam, where it is not ``mm``.
    hypotheses: turns of the model that are rendered and compared with the exposure at all places across the beam, at least; 1
        for the given start alone.
    refined, kept, finalists: how many of the best are refined at the coarsest, the second and the third level.
    pixels: as in ``LocateConfig``: a part among others, whose inside is not as the model has it, is told by finer structure.
    beside: at which level, counted from the coarsest, poses beside the best are refined too if none stands out near the start.
    """

    degrees: float = 20.0
    mm: float = 35.0
    hypotheses: int = 125
    refined: int = 12
    kept: int = 4
    finalists: int = 2
    depth: float | None = None
    pixels: int = LocateConfig().pixels
    beside: int = 1

    def __post_init__(self) -> None:
        for name in ("degrees", "mm", "depth"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{value} is no half width", field=name, remedy="give zero or more")
        for name in ("hypotheses", "refined", "kept", "finalists", "pixels"):
            if getattr(self, name) < 1:
                raise InputError(f"{getattr(self, name)} candidates", field=name, remedy="give 1 or more")

    @property
    def along(self) -> float:
        """Half width along the beam, mm."""
        return self.mm if self.depth is None else self.depth

    @property
    def grid(self) -> LocateConfig:
        """How the box is looked through."""
        coarse = LocateConfig(pixels=self.pixels)
        depths = math.ceil(2 * self.along / (_SOD * math.log(coarse.ratio)))
        side = max(1, math.ceil((self.hypotheses / max(depths, 1)) ** (1 / 3) - 1e-9))
        return replace(coarse, degrees=min(coarse.degrees, 2 * self.degrees / side) or coarse.degrees)

    def denser(self, times: int) -> SearchConfig:
        """The same box, that many times as many starts and candidates."""
        counts = {n: times * getattr(self, n) for n in ("hypotheses", "refined", "kept", "finalists")}
        return replace(self, **counts)

    @property
    def halved(self) -> SearchConfig:
        """A box half as wide every way, with as many starts and candidates."""
        depth = None if self.depth is None else self.depth / 2
        return replace(self, degrees=self.degrees / 2, mm=self.mm / 2, depth=depth)


@dataclass(frozen=True)
class DirectConfig:
    """Settings of the direct method.

    Parameters
    ----------
    search: what the start leaves open.
    match: how images are compared.
    pixels: length in pixels of the longer side of what the model covers of the image at the finest level, about.
    coarsest: length in pixels of its shorter side at the coarsest level, at least.
    halfway: whether a level of pixels half as large again may be the coarsest, where one of twice the size would be too coarse.
    iterations: accepted steps per level, at most.
    stretch: how many times as long as Gauss and Newton's a step at the finest level may be (``refinement.lengthened``); where the
        model is a surface it is ``meshes.STRETCH``.
    tolerance: a level ends when the predicted decrease of the cost (mean log variance ratio a pixel) is below this.
    leash: cost of a pose 10 mm or 5 degrees from where its level began, above the finest level.
    trust: probability of success from which a result is called trustworthy.
    seed: stated in the result; nothing in the method is random.
    """

    search: SearchConfig = field(default_factory=SearchConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    pixels: int = 256
    coarsest: int = 18
    halfway: bool = False
    iterations: int = 12
    tolerance: float = 4e-6
    stretch: float = 1.0
    leash: float = 0.003
    trust: float = TRUST
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.stretch < math.inf:
            raise InputError(f"{self.stretch:g} times a step", field="stretch", remedy="give 1, or more")
