"""Laws of one random number, as the image of a uniform one.

Every law maps u, uniform in (0, 1), to a value: a sampler therefore takes the same count of random numbers for every sample,
whatever comes out, and one stream a sample gives the same sample in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError

Generators = torch.Generator | Sequence[torch.Generator]
"""One stream for a whole batch, or one for each of its samples."""


@dataclass(frozen=True)
class Uniform:
    """Uniform between ``low`` and ``high``; a constant where they are equal.

    Raises
    ------
    InputError: limits that are not finite, or the wrong way round.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise InputError(f"no range from {self.low:g} to {self.high:g}", field="low", remedy="give low <= high")

    def at(self, u: Float[Tensor, " *batch"]) -> Float[Tensor, " *batch"]:
        """The value at the quantile u, which stays within the limits to the last bit."""
        return (self.low + (self.high - self.low) * u).clamp(self.low, self.high)

    def cdf(self, x: Float[Tensor, " *batch"]) -> Float[Tensor, " *batch"]:
        """Probability of a value up to x."""
        return ((x - self.low) / (self.high - self.low)).clamp(0, 1) if self.high > self.low else (x >= self.low).to(x)

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        return f"+-{self.high:g}" if self.low == -self.high else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Normal:
    """Gaussian of mean ``mean`` and standard deviation ``sd``.

    Raises
    ------
    InputError: numbers that are not finite, or a standard deviation that is not positive.
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.sd) and self.sd > 0):
            raise InputError(f"no Gaussian of mean {self.mean:g} and deviation {self.sd:g}", field="sd", remedy="give sd > 0")

    def at(self, u: Float[Tensor, " *batch"]) -> Float[Tensor, " *batch"]:
        """The value at the quantile u."""
        return self.mean + self.sd * torch.special.ndtri(u)

    def cdf(self, x: Float[Tensor, " *batch"]) -> Float[Tensor, " *batch"]:
        """Probability of a value up to x."""
        return torch.special.ndtr((x - self.mean) / self.sd)

    def __str__(self) -> str:
        return f"N({self.mean:g}, sd {self.sd:g})"


Law = Uniform | Normal


def fixed(value: float) -> Uniform:
    """The law of a number that does not vary."""
    return Uniform(value, value)


def within(limit: float) -> Uniform:
    """Uniform from -limit to +limit."""
    return Uniform(-limit, limit)


def law_to_dict(law: Law) -> dict[str, Any]:
    """Plain numbers, for JSON."""
    return {"law": type(law).__name__.lower(), **asdict(law)}


def law_from_dict(values: dict[str, Any]) -> Law:
    """The law that ``law_to_dict`` wrote.

    Raises
    ------
    InputError: an unknown law.
    """
    kinds: dict[str, type[Uniform] | type[Normal]] = {"uniform": Uniform, "normal": Normal}
    numbers = dict(values)
    kind = numbers.pop("law", None)
    if kind not in kinds:
        raise InputError(f"unknown law {kind!r}", field="law", remedy=f"use one of {', '.join(kinds)}")
    return kinds[kind](**numbers)


def uniforms(count: int, width: int, generator: Generators) -> Float[Tensor, "count width"]:
    """Numbers in the open interval (0, 1), float64 on the CPU: row i is sample i's.

    Parameters
    ----------
    generator: one stream, which fills the rows in order, or ``count`` streams, of which the i-th fills row i.

    Raises
    ------
    InputError: another number of streams than samples, no sample.
    """
    if count < 1:
        raise InputError(f"{count} samples", field="count", remedy="draw at least one")
    if isinstance(generator, torch.Generator):
        rows = torch.rand(count, width, generator=generator, dtype=torch.float64, device=generator.device)
    else:
        if len(generator) != count:
            raise InputError(f"{len(generator)} generators for {count} samples", field="generator", remedy="give one a sample")
        rows = torch.stack([torch.rand(width, generator=g, dtype=torch.float64, device=g.device).cpu() for g in generator])
    return rows.cpu().clamp(2.0**-54, 1 - 2.0**-53)  # the ends have no quantile under a Gaussian
