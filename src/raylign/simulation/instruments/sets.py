"""Which instruments a picture holds: how many, of which kinds, how they lie. Drawn for one exposure from one generator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from raylign.errors import InputError
from raylign.geometry import View
from raylign.simulation.instruments.catalogue import INSTRUMENTS, draw_instrument
from raylign.simulation.instruments.design import uniform
from raylign.simulation.instruments.parts import Placed
from raylign.simulation.instruments.placement import Site, across, along, anywhere, at_target, on_skin

HABITS = {
    "guide_wire": "vessel", "catheter": "vessel", "stent_graft": "vessel", "electrode_catheter": "below", "ice_catheter": "below",
    "pacing_lead": "above", "defibrillator_lead": "above", "echo_probe": "above", "needle": "across", "bone_screw": "across",
    "pedicle_screw": "across", "k_wire": "across", "drill": "across", "ecg_electrode": "skin",
}  # fmt: skip
"""How an instrument comes to its target: in a vessel (from the feet where none is known), from the feet, from the head, across
the body, or not at all but on the skin about it."""
ALONE = ("drill", "echo_probe", "stent_graft")
"""Instruments of which a picture has one."""


@dataclass(frozen=True)
class InstrumentSet:
    """A distribution over what lies in the beam.

    Parameters
    ----------
    weights: how often each kind is taken, by its name in ``INSTRUMENTS``; they need not add up to one.
    least, most: how many, each number as often; a second drill, probe or stent graft is left out.
    near: probability that an instrument lies about the target as such instruments do (``HABITS``). The others lie anywhere.
    any: probability that there is any instrument at all.

    Raises
    ------
    InputError: an unknown name, weights that are negative or all zero, counts or probabilities out of range.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(INSTRUMENTS, 1.0))
    least: int = 1
    most: int = 3
    near: float = 0.7
    any: float = 1.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(INSTRUMENTS))
        if unknown:
            raise InputError(
                f"unknown instruments {', '.join(unknown)}", field="weights", remedy=f"choose of {', '.join(INSTRUMENTS)}"
            )
        values = list(self.weights.values())
        if not all(math.isfinite(v) and v >= 0 for v in values) or not sum(values) > 0:
            raise InputError("weights of instruments that are negative, or all zero", field="weights")
        if not 0 <= self.least <= self.most <= 100:
            raise InputError(f"{self.least} to {self.most} instruments", field="most", remedy="give 0 <= least <= most <= 100")
        for name in ("near", "any"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{getattr(self, name)} is no probability", field=name, remedy="give 0 to 1")

    def draw(self, view: View, site: Site, generator: torch.Generator) -> tuple[Placed, ...]:
        """What lies in the beam of one exposure, world mm."""
        if uniform(generator) >= self.any:
            return ()
        count = min(self.least + int(uniform(generator) * (self.most - self.least + 1)), self.most)
        names: list[str] = []
        for _ in range(count):
            name = self._name(generator)
            if name not in names or name not in ALONE:
                names.append(name)
        return tuple(self._one(name, view, site, generator) for name in names)

    def _one(self, name: str, view: View, site: Site, generator: torch.Generator) -> Placed:
        instrument = draw_instrument(name, generator)
        habit = HABITS[name]
        if uniform(generator) >= self.near:
            return anywhere(instrument, view, site, generator)
        if habit == "vessel" and site.vessels:
            which = min(int(uniform(generator) * len(site.vessels)), len(site.vessels) - 1)
            return along(instrument, site.vessels[which], generator)
        if habit == "across":
            return across(instrument, site, generator)
        if habit == "skin":
            return on_skin(instrument, site, generator)
        return at_target(instrument, site, generator, site.axis if habit == "above" else -site.axis)

    def _name(self, generator: torch.Generator) -> str:
        left = uniform(generator) * sum(self.weights.values())
        for name, weight in self.weights.items():
            left -= weight
            if left < 0:
                return name
        return [name for name, weight in self.weights.items() if weight > 0][-1]


INSTRUMENT_SETS: dict[str, InstrumentSet] = {
    "everything": InstrumentSet(),
    "cardiac": InstrumentSet(
        {
            "guide_wire": 3, "catheter": 4, "electrode_catheter": 3, "ice_catheter": 1, "pacing_lead": 1.5,
            "defibrillator_lead": 1.5, "echo_probe": 1.5, "ecg_electrode": 2,
        },
        most=4,
    ),
    "vascular": InstrumentSet({"guide_wire": 4, "catheter": 4, "stent_graft": 1, "needle": 0.5}),
    "spine": InstrumentSet({"pedicle_screw": 4, "k_wire": 2, "drill": 1, "needle": 2, "ecg_electrode": 0.5}, most=4),
    "pelvis": InstrumentSet({"k_wire": 3, "bone_screw": 3, "drill": 2, "guide_wire": 0.5}),
}  # fmt: skip
"""Sets by the name of the procedure. Weights are a choice, not a statistic."""
