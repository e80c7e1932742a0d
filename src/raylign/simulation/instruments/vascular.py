"""What goes into vessels: guide wires, diagnostic and electrophysiology catheters, intracardiac echo, needles, stent grafts.

Sizes: guide wires are numbered in inches (0.014 coronary, 0.018, 0.035 and 0.038 peripheral and cardiac), catheters in French,
a third of a millimetre of diameter, needles by gauge (ISO 9626). Curves are drawn after the shapes that Judkins, Amplatz and
others gave their catheters; their lengths and angles are round numbers of ours.

Polymers are left out: they attenuate about as the blood does that they displace. What is seen of a catheter is filler and metal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.simulation.instruments import lines
from raylign.simulation.instruments.design import FRENCH, INCH, Design, choice, size
from raylign.simulation.instruments.parts import Curve, Instrument, Layer

WOUND = math.pi / 4
"""What a closely wound coil of round wire fills of the tube it lies in."""
BRAID = 0.15
"""What a braid of flat steel wire fills of the layer it lies in."""

Turns = tuple[tuple[float, float], ...]


def barium(weight: float, polymer: float = 1.12) -> float:
    """Filling of iodine that stands for a polymer with a share of its weight in barium sulphate.

    Barium (Z = 56) attenuates per gram as iodine (Z = 53) does within a tenth above its K edge at 37 keV. Barium sulphate has
    4.5 g/cm3 and is 0.588 barium; elemental iodine has 4.93 g/cm3; ``polymer`` is the density of what it is mixed into.
    """
    density = 1 / (weight / 4.5 + (1 - weight) / polymer)
    return weight * 0.588 * density / 4.93


def tungsten(weight: float, polymer: float = 1.12) -> float:
    """Volume share of tungsten (19.3 g/cm3) in a polymer that is filled with a share of its weight."""
    return (weight / 19.3) / (weight / 19.3 + (1 - weight) / polymer)


@dataclass(frozen=True)
class GuideWire(Design):
    """A guide wire: a solid core that thins towards the tip, within a coil whose end is platinum.

    Parameters
    ----------
    inches: diameter; 0.014 coronary, 0.018 and 0.025 small vessels, 0.035 and 0.038 catheters.
    tip: straight, angled, or a J bent with a radius of 3 or 6 mm.
    core: steel, in a coil of steel; or nitinol in a jacket of polyurethane filled with tungsten, as hydrophilic wires have.
    opaque_mm: of platinum coil at the tip of a steel wire; sold from 20 to 60 mm (coronary wires 30).
    length_mm: of what lies in or near the picture; wires are 1450 to 2600 mm long.
    """

    inches: float = choice(0.035, 0.014, 0.018, 0.025, 0.038)
    tip: str = choice("J3", "straight", "angled", "J6")
    core: str = choice("steel", "nitinol")
    opaque_mm: float = size(30.0, 20.0, 60.0)
    length_mm: float = size(700.0, 500.0, 900.0)

    def instrument(self) -> Instrument:
        radius = self.inches * INCH / 2
        bends: dict[str, Turns] = {
            "J3": ((3.0 * math.pi, 180.0),), "J6": ((6.0 * math.pi, 180.0),), "angled": ((6.0, 0.0), (7.0, 35.0)),
            "straight": ((1.0, 0.0),),
        }  # fmt: skip
        bend = bends[self.tip]
        shaped = sum(length for length, _ in bend)
        core, taper = 0.55 * radius, 60.0
        layers = [Layer(0.0, taper, 0.3 * core, 0.0, self.core), Layer(taper, self.length_mm, core, 0.0, self.core)]
        if self.core == "steel":
            layers.append(Layer(0.0, self.opaque_mm, radius, 0.5 * radius, "platinum", WOUND))
            layers.append(Layer(self.opaque_mm, self.length_mm, radius, core, "steel", WOUND))
        else:
            layers.append(Layer(0.0, self.length_mm, radius, core, "tungsten", tungsten(0.5)))
        line = lines.arcs((*bend, (self.length_mm - shaped, 0.0)))
        return Instrument("guide wire", torch.from_numpy(line), tuple(layers), shaped=shaped)


def curve_of(family: str, reach: float = 40.0) -> Turns:
    """A catheter's shape from its tip, as arcs (mm, degrees; positive turns to one side); ``reach`` sizes it: 40 is a JL4.

    Raises
    ------
    KeyError: a family that ``Catheter`` does not name.
    """
    k = reach / 40.0
    shapes: dict[str, Turns] = {
        # tip, primary curve of 90 degrees the one way, arm of the catheter's number in cm, secondary of 180 the other way
        "judkins_left": ((8.0, 0.0), (9.0, 90.0), (reach - 12.0, 0.0), (22.0 * k, -160.0)),
        "judkins_right": ((8.0, 0.0), (10.0, 90.0), (reach - 12.0, 0.0), (25.0 * k, -35.0)),
        "amplatz_left": ((6.0, 0.0), (8.0, -70.0), (70.0 * k, 230.0), (15.0, -20.0)),
        "pigtail": ((14.0 * math.pi * k * 0.75, 400.0), (15.0, 0.0), (12.0, -25.0)),
        "multipurpose": ((12.0, 0.0), (14.0, 60.0)),
        "cobra": ((10.0, 20.0), (10.0, -70.0), (45.0 * k, 150.0), (25.0, -25.0)),
        "simmons": ((10.0, 0.0), (10.0, -55.0), (50.0 * k, 0.0), (24.0 * k, 180.0), (40.0, 15.0)),
        "vertebral": ((8.0, 0.0), (8.0, 40.0)),
        "straight": ((1.0, 0.0),),
    }
    return shapes[family]


@dataclass(frozen=True)
class Catheter(Design):
    """A diagnostic catheter: a polymer wall filled with barium sulphate, braided with steel but for its soft tip.

    Parameters
    ----------
    french: outer diameter in thirds of a millimetre, 4 to 8.
    family: the shape of its tip.
    reach_mm: the distance of the secondary from the primary curve, from which Judkins' catheters have their number (JL4: 40 mm);
        the other shapes are scaled with it.
    wall: of the outer radius that is wall; a 6F diagnostic catheter of 2.0 mm has a hole of 1.3 mm.
    filler: weight share of barium sulphate in the wall.
    wired: a guide wire of 0.035 inch within.
    length_mm: of what lies in or near the picture.
    """

    french: int = choice(6, 4, 5, 7, 8)
    family: str = choice(
        "judkins_left", "judkins_right", "amplatz_left", "pigtail", "multipurpose", "cobra", "simmons", "vertebral", "straight"
    )  # fmt: skip
    reach_mm: float = size(40.0, 35.0, 60.0)
    wall: float = size(0.35, 0.25, 0.42)
    filler: float = size(0.3, 0.2, 0.4)
    wired: bool = choice(False, True, False)
    length_mm: float = size(700.0, 500.0, 900.0)

    def instrument(self) -> Instrument:
        outer = self.french * FRENCH / 2
        inner = (1 - self.wall) * outer
        turns = curve_of(self.family, self.reach_mm)
        shaped = sum(length for length, _ in turns)
        layers = [
            Layer(0.0, self.length_mm, outer, inner, "iodine", barium(self.filler)),
            Layer(15.0, self.length_mm, inner + 0.55 * (outer - inner), inner + 0.35 * (outer - inner), "steel", BRAID),
        ]
        if self.wired:
            layers.append(Layer(30.0, self.length_mm, 0.035 * INCH / 2, 0.0, "steel", 0.85))
        line = lines.arcs((*turns, (self.length_mm - shaped, 0.0)))
        return Instrument(f"catheter {self.family}", torch.from_numpy(line), tuple(layers), shaped=shaped)


@dataclass(frozen=True)
class ElectrodeCatheter(Design):
    """An electrophysiology catheter: platinum rings on a polymer shaft, a platinum tip.

    Parameters
    ----------
    french: 5 to 8; mapping catheters 5 to 7, ablation catheters 7 and 8.
    poles: electrodes, the tip counted.
    tip_mm: length of the tip electrode: 2 for mapping, 3.5 to 4 and 8 for ablation.
    gap_mm, pair_mm: distance between the electrodes of a pair, and between pairs (2-5-2, 2-8-2).
    bend_degrees: how far the steerable part, 70 mm, is deflected.
    """

    french: int = choice(6, 5, 7, 8)
    poles: int = choice(4, 10, 20)
    tip_mm: float = choice(2.0, 3.5, 4.0, 8.0)
    gap_mm: float = choice(2.0, 5.0)
    pair_mm: float = choice(5.0, 8.0, 2.0)
    bend_degrees: float = size(60.0, 0.0, 200.0)
    length_mm: float = size(700.0, 500.0, 900.0)

    def instrument(self) -> Instrument:
        r = self.french * FRENCH / 2
        layers = [
            Layer(0.0, self.tip_mm, r, 0.3 * r, "platinum", 0.9),
            Layer(self.tip_mm, self.length_mm, 0.97 * r, 0.6 * r, "iodine", barium(0.25)),
            Layer(self.tip_mm, self.length_mm, 0.5 * r, 0.0, "steel", 0.18),  # conductors and pull wires
            Layer(90.0, self.length_mm, 0.8 * r, 0.7 * r, "steel", BRAID),
        ]
        at = self.tip_mm
        for pole in range(1, self.poles):
            at += self.gap_mm if pole % 2 else self.pair_mm
            layers.append(Layer(at, at + 1.1, 1.02 * r, 0.85 * r, "platinum"))
            at += 1.1
        line = lines.arcs(((5.0, 0.0), (65.0, self.bend_degrees), (self.length_mm - 70.0, 0.0)))
        return Instrument("electrode catheter", torch.from_numpy(line), tuple(layers), shaped=70.0)


@dataclass(frozen=True)
class IceCatheter(Design):
    """An intracardiac ultrasound catheter: a phased array of piezoceramic in the tip of a steerable shaft of 8 or 10 French.

    Parameters
    ----------
    french: 8 or 10 (3.2 mm).
    array_mm: length of the array.
    bend_degrees: how far the steerable part, 60 mm, is deflected.
    """

    french: int = choice(8, 10)
    array_mm: float = size(13.0, 7.0, 16.0)
    bend_degrees: float = size(40.0, 0.0, 150.0)
    length_mm: float = size(700.0, 500.0, 900.0)

    def instrument(self) -> Instrument:
        r, end = self.french * FRENCH / 2, 3.0 + self.array_mm
        layers = (
            Layer(0.0, self.length_mm, r, 0.75 * r, "iodine", barium(0.15)),
            # lead zirconate titanate is two thirds lead by weight, at 7.5 against 11.3 g/cm3; it is a fraction of the tip
            Layer(3.0, end, 0.62 * r, 0.0, "lead", 0.12),
            Layer(3.0, end, 0.75 * r, 0.62 * r, "steel", 0.25),
            Layer(end + 1.0, end + 3.0, 0.97 * r, 0.75 * r, "platinum", 0.8),
            Layer(end, self.length_mm, 0.55 * r, 0.0, "steel", 0.2),  # coaxial cables, pull wires
            Layer(80.0, self.length_mm, 0.85 * r, 0.75 * r, "steel", BRAID),
        )
        line = lines.arcs(((end + 4.0, 0.0), (60.0, self.bend_degrees), (self.length_mm - end - 64.0, 0.0)))
        return Instrument("intracardiac echo", torch.from_numpy(line), layers, shaped=end + 64.0)


GAUGES = {18: (1.27, 0.84), 20: (0.91, 0.60), 21: (0.82, 0.51), 22: (0.72, 0.41)}
"""Outer and inner diameter in mm of needles of regular wall by gauge."""


@dataclass(frozen=True)
class Needle(Design):
    """A puncture needle: a steel tube with a bevelled end.

    Parameters
    ----------
    gauge: 18, 20, 21 or 22.
    stylet: a steel stylet within.
    length_mm: 70 (vessels) to 200 (biopsy).
    """

    gauge: int = choice(18, 20, 21, 22)
    stylet: bool = choice(True, False)
    length_mm: float = size(90.0, 70.0, 200.0)

    def instrument(self) -> Instrument:
        outer, inner = (d / 2 for d in GAUGES[self.gauge])
        layers = [Layer(0.7, self.length_mm, outer, inner), Layer(0.0, 0.7, 0.6 * outer)]
        if self.stylet:
            layers.append(Layer(0.7, self.length_mm, 0.9 * inner))
        layers.append(Layer(self.length_mm, self.length_mm + 25.0, 3.5, outer, "plastic"))  # the hub
        return Instrument("needle", torch.tensor([[0.0, 0, 0], [0, 0, self.length_mm + 25.0]]), tuple(layers))


@dataclass(frozen=True)
class StentGraft(Design):
    """A bifurcated aortic stent graft: rows of zigzag wire, a body and two legs, and platinum markers. The fabric does not show.

    The origin is the middle of its proximal end, +z runs down the aorta.

    Parameters
    ----------
    body_mm, leg_mm: diameter of the body (22 to 36) and of a leg (10 to 20).
    trunk_mm, legs_mm: length of the body, and of the longer leg; the shorter ends after ``short`` of it.
    wire_mm: of the struts, 0.3 to 0.5.
    alloy: nitinol or steel.
    """

    body_mm: float = size(28.0, 22.0, 36.0)
    leg_mm: float = size(14.0, 10.0, 20.0)
    trunk_mm: float = size(70.0, 50.0, 90.0)
    legs_mm: float = size(90.0, 60.0, 120.0)
    short: float = size(0.6, 0.3, 1.0)
    wire_mm: float = size(0.4, 0.3, 0.5)
    row_mm: float = size(14.0, 10.0, 18.0)
    alloy: str = choice("nitinol", "steel")

    def instrument(self) -> Instrument:
        parts: list[Curve] = []
        rows = max(int(self.trunk_mm / (1.15 * self.row_mm)), 2)
        for row in range(rows):
            parts.append(self._row(self.body_mm / 2, 8 if row else 10, np.array([0.0, 0.0, 1.15 * self.row_mm * row]), 0.0))
        end = 1.15 * self.row_mm * rows
        for side, share in ((-1.0, 1.0), (1.0, self.short)):
            count = max(int(share * self.legs_mm / (1.15 * self.row_mm)), 1)
            for row in range(count):
                down = 1.15 * self.row_mm * row
                middle = np.array([side * (0.26 * self.body_mm + 0.16 * down), 0.0, end + down])
                parts.append(self._row(self.leg_mm / 2, 5, middle, side * 0.16))
        marks = [(self.body_mm / 2, a, 1.0) for a in (0.3, 1.9, 3.6, 5.0)] + [(self.body_mm / 2, 0.0, end - 3.0)]
        for r, a, z in marks:
            begin = torch.tensor([r * math.cos(a), r * math.sin(a), z], dtype=torch.float64)
            parts.append(Curve(torch.stack([begin, begin + torch.tensor([0.0, 0.0, 2.5])]), 0.5, material="platinum"))
        line = torch.tensor([[0.0, 0, 0], [0, 0, end + self.legs_mm]])
        return Instrument("stent graft", line, fixed=tuple(parts))

    def _row(self, radius: float, peaks: int, start: NDArray[np.float64], slant: float) -> Curve:
        """A ring of zigzag wire whose peaks are rounded."""
        angle = np.linspace(0, 2 * math.pi, 12 * peaks + 1)
        phase = (angle * peaks / (2 * math.pi)) % 1.0
        wave = np.arcsin(0.97 * np.cos(2 * math.pi * phase)) / math.asin(0.97)
        z = self.row_mm * (0.5 + 0.5 * wave)
        points = np.stack([radius * np.cos(angle) + slant * z, radius * np.sin(angle), z], 1) + start
        return Curve(torch.from_numpy(points), self.wire_mm / 2, material=self.alloy)
