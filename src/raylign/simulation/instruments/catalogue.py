"""Every kind of instrument by its name."""

from __future__ import annotations

import torch

from raylign.errors import InputError
from raylign.simulation.instruments.cardiac import DefibrillatorLead, EcgElectrode, EchoProbe, PacingLead
from raylign.simulation.instruments.design import Design
from raylign.simulation.instruments.orthopaedic import BoneScrew, Drill, KWire, PedicleScrew
from raylign.simulation.instruments.parts import Instrument
from raylign.simulation.instruments.vascular import Catheter, ElectrodeCatheter, GuideWire, IceCatheter, Needle, StentGraft

INSTRUMENTS: dict[str, type[Design]] = {
    "guide_wire": GuideWire,
    "catheter": Catheter,
    "electrode_catheter": ElectrodeCatheter,
    "ice_catheter": IceCatheter,
    "needle": Needle,
    "stent_graft": StentGraft,
    "bone_screw": BoneScrew,
    "pedicle_screw": PedicleScrew,
    "k_wire": KWire,
    "drill": Drill,
    "pacing_lead": PacingLead,
    "defibrillator_lead": DefibrillatorLead,
    "echo_probe": EchoProbe,
    "ecg_electrode": EcgElectrode,
}


def draw_instrument(name: str, generator: torch.Generator) -> Instrument:
    """One instrument of a kind, its sizes at random.

    Raises
    ------
    InputError: an unknown name.
    """
    if name not in INSTRUMENTS:
        raise InputError(f"unknown instrument {name!r}", field="instrument", remedy=f"choose one of {', '.join(INSTRUMENTS)}")
    return INSTRUMENTS[name].draw(generator).instrument()
