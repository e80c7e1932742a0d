"""Instruments in the picture: from sizes on the market to mm of metal on every ray."""

from raylign.simulation.instruments.cardiac import DefibrillatorLead, EcgElectrode, EchoProbe, PacingLead
from raylign.simulation.instruments.catalogue import INSTRUMENTS, draw_instrument
from raylign.simulation.instruments.design import Design
from raylign.simulation.instruments.orthopaedic import BoneScrew, Drill, KWire, PedicleScrew
from raylign.simulation.instruments.parts import Body, Curve, Instrument, Layer, Placed
from raylign.simulation.instruments.placement import Site, across, along, anywhere, at_target, on_skin
from raylign.simulation.instruments.sets import INSTRUMENT_SETS, InstrumentSet
from raylign.simulation.instruments.surfaces import as_bodies, tube_mesh
from raylign.simulation.instruments.thickness import instrument_mask, instrument_paths
from raylign.simulation.instruments.vascular import Catheter, ElectrodeCatheter, GuideWire, IceCatheter, Needle, StentGraft
from raylign.simulation.instruments.wires import Wire, guide_wire, steel_thickness

__all__ = [
    "Body", "BoneScrew", "Catheter", "Curve", "DefibrillatorLead", "Design", "Drill", "EcgElectrode", "EchoProbe",
    "ElectrodeCatheter", "GuideWire", "INSTRUMENTS", "INSTRUMENT_SETS", "IceCatheter", "Instrument", "InstrumentSet",
    "KWire", "Layer", "Needle", "PacingLead", "PedicleScrew", "Placed", "Site", "StentGraft", "Wire", "across", "along",
    "anywhere", "as_bodies", "at_target", "draw_instrument", "guide_wire", "instrument_mask", "instrument_paths", "on_skin",
    "steel_thickness", "tube_mesh",
]  # fmt: skip
