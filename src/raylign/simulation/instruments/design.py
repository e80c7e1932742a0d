"""How an instrument is described: sizes with ranges that are found on the market, drawn at random or given by hand."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Self

import torch

from raylign.errors import InputError
from raylign.simulation.instruments.parts import Instrument

INCH = 25.4
FRENCH = 1 / 3
"""mm of diameter: catheters are numbered by the thirds of a millimetre."""


def size(default: float, low: float, high: float) -> Any:
    """A field of a design that lies between two values, and is drawn evenly between them."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


def choice(default: Any, *others: Any) -> Any:
    """A field of a design that is one of several values, each drawn as often."""
    return dataclasses.field(default=default, metadata={"choices": (default, *others)})


@dataclass(frozen=True)
class Design:
    """A kind of instrument: fields made by ``size`` and ``choice``, and the instrument that they make.

    Raises
    ------
    InputError: a field that is none of its choices or out of its range.
    """

    def __post_init__(self) -> None:
        kind = type(self).__name__
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "choices" in field.metadata and value not in field.metadata["choices"]:
                known = ", ".join(str(c) for c in field.metadata["choices"])
                raise InputError(f"{kind} with {field.name} {value!r}", field=field.name, remedy=f"choose one of {known}")
            if "range" in field.metadata:
                low, high = field.metadata["range"]
                if not (isinstance(value, int | float) and math.isfinite(value) and low <= value <= high):
                    raise InputError(f"{kind} with {field.name} {value}", field=field.name, remedy=f"give {low:g} to {high:g}")

    @classmethod
    def draw(cls, generator: torch.Generator) -> Self:
        """One of the kind, its fields at random and independent of each other."""
        return cls(**{field.name: _drawn(field, generator) for field in dataclasses.fields(cls)})

    def instrument(self) -> Instrument:
        """The instrument that the fields describe."""
        raise NotImplementedError


def _drawn(field: Any, generator: torch.Generator) -> Any:
    share = uniform(generator)
    if "choices" in field.metadata:
        choices = field.metadata["choices"]
        return choices[min(int(share * len(choices)), len(choices) - 1)]
    low, high = field.metadata["range"]
    return low + share * (high - low)


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """One number between two."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64, device=generator.device))
