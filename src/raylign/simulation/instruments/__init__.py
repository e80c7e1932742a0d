"""Instruments in the picture: wires, catheters, screws, leads, probes, drills, from sizes on the market to mm of metal on a ray."""

from raylign.simulation.instruments.parts import Body, Curve, Instrument, Layer, Placed
from raylign.simulation.instruments.thickness import instrument_mask, instrument_paths
from raylign.simulation.instruments.wires import Wire, guide_wire, steel_thickness

__all__ = [
    "Body", "Curve", "Instrument", "Layer", "Placed", "Wire", "guide_wire", "instrument_mask", "instrument_paths", "steel_thickness",
]  # fmt: skip
