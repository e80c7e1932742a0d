"""Numbers of a protocol, and ranges of them."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator

from raylign.errors import InputError
from raylign.simulation.poses.laws import Uniform


def _ascending(value: float | tuple[float, float]) -> float | tuple[float, float]:
    low, high = value if isinstance(value, tuple) else (value, value)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise InputError(f"no range from {low:g} to {high:g}", remedy="give [low, high] with low <= high, or one number")
    return value


Range = Annotated[float | tuple[float, float], AfterValidator(_ascending)]
"""One number, or [low, high], between which it is drawn uniformly."""


def _positive(value: float | tuple[float, float]) -> float | tuple[float, float]:
    low = value[0] if isinstance(value, tuple) else value
    if low <= 0:
        raise InputError(f"{low:g} is no length", remedy="give mm above 0")
    return _ascending(value)


Length = Annotated[float | tuple[float, float], AfterValidator(_positive)]
"""The same of what must be above 0 mm."""


def law(value: Range) -> Uniform:
    """The law of a range."""
    return Uniform(*value) if isinstance(value, tuple) else Uniform(value, value)


def _sides(shape: tuple[int, int]) -> tuple[int, int]:
    if not all(16 <= n <= 4096 for n in shape):
        raise InputError(f"{shape[0]} x {shape[1]} pixels", remedy="give [rows, columns], 16 to 4096")
    return shape


Sides = Annotated[tuple[int, int], AfterValidator(_sides)]
"""(rows, columns) of an image."""
