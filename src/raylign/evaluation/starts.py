"""Where registrations start, by name."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.registration import SearchConfig, centred
from raylign.registration.register import NEAR, WIDE
from raylign.simulation import generator, starts
from raylign.simulation.poses import STARTS, Binned, Grid, Motion, Uniform
from raylign.simulation.poses.starts import Scattered, StartSampler


class Known(Protocol):
    """What a start is drawn for: a model, its exposures, and the pose that is to be found."""

    @property
    def model(self) -> Volume: ...

    @property
    def xrays(self) -> tuple[XRay, ...]: ...

    @property
    def pose(self) -> Rigid: ...

    @property
    def targets(self) -> Float[Tensor, "N 3"]: ...


_MOST_DEGREES = 50.0


@dataclass(frozen=True)
class Start:
    """Where registrations start.

    Parameters
    ----------
    name: center (the model's centre at the isocentre), search (the same, and nothing known of the pose), near (within 5 degrees
        and 10 mm per axis of the truth), LOW-HIGHmm (an mTRE in that range), MM,DEGREES (uniform within them per axis), or a
        distribution of ``raylign.simulation.starts``.

    Raises
    ------
    InputError: a name that is none of these.
    """

    name: str = "center"

    def __post_init__(self) -> None:
        self._sampler()

    def _sampler(self) -> StartSampler | None:
        """The distribution, or None where there is nothing to draw."""
        try:
            return self._drawn()
        except InputError as error:
            known = ", ".join(("center", "search", "near", "LOW-HIGHmm", "MM,DEGREES", *STARTS))
            raise InputError(
                f"{self.name!r} is no start ({error.problem})", field="--start", remedy=f"give one of {known}"
            ) from None

    def _drawn(self) -> StartSampler | None:
        if self.name in ("center", "search"):
            return None
        if self.name == "near":
            return box("near", 10.0, 5.0)
        low, dash, high = self.name.removesuffix("mm").partition("-")
        if self.name.endswith("mm") and dash:
            if not _rising(low, high):
                raise InputError("it takes a lower and a higher number, e.g. 20-40mm")
            return starts(f"mtre-bin/{low}-{high}")
        mm, comma, degrees = self.name.partition(",")
        if comma:
            try:
                return box(self.name, float(mm), float(degrees))
            except ValueError:
                raise InputError("it takes two numbers, e.g. 30,15") from None
        return starts(self.name)

    @property
    def search(self) -> SearchConfig:
        """What it leaves open, as the methods are told."""
        known = {
            "center": SearchConfig(),
            "near": NEAR,
            "search": WIDE,
            "toth2018": SearchConfig(degrees=15.0, mm=35.0),
            "gao2024": WIDE,
            "gao2024/test": WIDE,
        }
        if self.name in known:
            return known[self.name]
        mm, comma, degrees = self.name.partition(",")
        if comma:
            return SearchConfig(degrees=max(1.0, float(degrees)), mm=max(1.0, float(mm)))
        if self.name.endswith("mm"):
            # a start may owe its mTRE to a shift alone, or to a turn alone of targets some 60 mm from its axis
            high = float(self.name.removesuffix("mm").partition("-")[2])
            return SearchConfig(degrees=min(max(high, 5.0), _MOST_DEGREES), mm=max(high, 5.0))
        return WIDE

    def draw(self, case: Known, seed: int) -> Rigid:
        """The start of a case; of one seed always the same."""
        return self.of(case, case.model.centre, generator(seed, 0))

    def of(self, case: Known, centre: Float[Tensor, "3"], stream: torch.Generator, rank: int = 0) -> Rigid:
        """The start of a case.

        Parameters
        ----------
        centre: patient mm of the point about which starts turn.
        stream: of what is random.
        rank: of several starts of one distribution that gives each its own place (a cell of a grid, a bin), which this one is.
        """
        sampler = self._sampler()
        if sampler is None:
            return centred(case.model)
        truth, view, many = case.pose.matrix[None], case.xrays[0].view, 1
        streams = [stream]
        if isinstance(sampler, Binned):
            one: Any = replace(sampler, bins=(sampler.bins[rank % len(sampler.bins)],))
            sampler = one
        elif isinstance(sampler, Grid):
            many = rank % sampler.size + 1
            streams = [*(torch.Generator() for _ in range(many - 1)), stream]
        return Rigid(sampler.draw(truth.expand(many, 4, 4), [view] * many, centre, case.targets, streams)[-1])


def _rising(low: str, high: str) -> bool:
    try:
        return 0 <= float(low) < float(high) < math.inf
    except ValueError:
        return False


def box(name: str, mm: float, degrees: float) -> Scattered:
    """Uniform within a box about the truth, along and about the axes of the image."""
    shift, turn = Uniform(-mm, mm), Uniform(-degrees, degrees)
    return Scattered(name, "", "", Motion(shift, shift, shift, turn, turn, turn))
