"""Arms of an evaluation of robustness: the same cases, undisturbed and disturbed in stated ways to stated levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raylign.errors import InputError

Kind = Literal["noise", "dose", "occlusion", "metal", "angles", "primary", "distances", "truncation", "downsampling"]

LEVELS: dict[str, tuple[float, float, str]] = {
    "noise": (0.0, 10.0, "white noise added to the line integrals: its standard deviation"),
    "dose": (1.0, 1e6, "photons detected per mm^2 behind the patient"),
    "occlusion": (0.0, 0.9, "share of the field hidden by opaque discs of which the method is not told"),
    "metal": (1.0, 20.0, "instruments in the beam"),
    "angles": (0.0, 45.0, "degrees by which each angle that the method is told is wrong"),
    "primary": (
        0.0,
        45.0,
        "degrees by which the primary angle (LAO/RAO) told of every view but the first is wrong",
    ),
    "distances": (0.0, 300.0, "mm by which the distances from the source that the method is told are wrong"),
    "truncation": (0.1, 1.0, "share of the image's width and height that is left, about its middle"),
    "downsampling": (0.5, 20.0, "mm of the model's voxels"),
}
"""Lowest and highest level of each kind, and what a level is."""

UNDISTURBED = "none"
BEFORE_EXPOSING = ("dose", "metal")


class Disturbance(BaseModel):
    """One kind of disturbance at some levels; ``LEVELS`` says what a level is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    levels: Annotated[tuple[float, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _within(self) -> Disturbance:
        low, high, what = LEVELS[self.kind]
        for level in self.levels:
            if not (math.isfinite(level) and low <= level <= high):
                raise InputError(f"{level:g} is not within {low:g} to {high:g} ({what})", field="levels")
            if self.kind == "metal" and level != round(level):
                raise InputError(f"{level:g} instruments", field="levels", remedy="give whole numbers")
        return self

    @property
    def before_exposing(self) -> bool:
        """Whether it changes how the exposure is made, and not what is made of it."""
        return self.kind in BEFORE_EXPOSING


@dataclass(frozen=True)
class Arm:
    """One kind at one level; the undisturbed arm where no kind is given."""

    kind: str = UNDISTURBED
    level: float = 0.0

    @property
    def name(self) -> str:
        """As records and tables have it: "none", "dose 300"."""
        return self.kind if self.kind == UNDISTURBED else f"{self.kind} {self.level:g}"
