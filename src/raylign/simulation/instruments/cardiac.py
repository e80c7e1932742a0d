"""What stays in or near the heart: pacing and defibrillator leads, the transoesophageal probe; and ECG electrodes on the skin.

Sizes follow manufacturers' manuals (lead bodies of 6 to 9 French, tip to ring 10 to 17 mm, 11 mm on many defibrillator leads)
and, for the probe, Miller's Anesthesia (tip about 40 x 13 x 11 mm) and descriptions of 3D probes (about 17 x 13.5 x 38 mm).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.simulation.instruments import lines
from raylign.simulation.instruments.design import FRENCH, Design, choice, size
from raylign.simulation.instruments.parts import Body, Curve, Instrument, Layer
from raylign.simulation.instruments.surfaces import box_mesh, moved, oval_mesh, turned_mesh
from raylign.simulation.instruments.vascular import BRAID, WOUND


def _lead(length: float, r: float) -> list[Layer]:
    """Two coaxial conductor coils of a nickel-cobalt alloy, which steel stands for; the insulation looks like blood."""
    return [
        Layer(1.0, length, 0.42 * r, 0.22 * r, "steel", WOUND),
        Layer(14.0, length, 0.78 * r, 0.62 * r, "steel", 0.6 * WOUND),
    ]


def _screw_tip(helix_mm: float) -> Curve:
    """The fixation helix, out of the tip: its wire's end is the origin's side of negative z."""
    points = lines.helix(0.6, 0.75, helix_mm, sides=10) * np.array([1.0, 1.0, -1.0])
    return Curve(torch.from_numpy(points), 0.15, material="platinum")


def _body(length: float, bend: float) -> torch.Tensor:
    return torch.from_numpy(lines.arcs(((12.0, 0.0), (60.0, bend), (length - 72.0, 0.0))))


@dataclass(frozen=True)
class PacingLead(Design):
    """A bipolar pacing lead with a fixation helix.

    Parameters
    ----------
    french: of its body, 4.1 to 7.
    ring_mm: from the tip to the ring electrode, 8 to 17.
    helix_mm: how far the helix is out, 1.5 to 2.
    bend_degrees: of its last 60 mm: an atrial lead is a J.
    """

    french: float = choice(6.0, 4.1, 5.3, 7.0)
    ring_mm: float = size(10.0, 8.0, 17.0)
    helix_mm: float = size(1.8, 1.5, 2.0)
    bend_degrees: float = size(30.0, 0.0, 180.0)
    length_mm: float = size(520.0, 450.0, 580.0)

    def instrument(self) -> Instrument:
        r = self.french * FRENCH / 2
        layers = [
            *_lead(self.length_mm, r),
            Layer(0.0, 2.0, 0.95 * r, 0.55 * r, "platinum", 0.8),
            Layer(self.ring_mm, self.ring_mm + 3.0, 1.03 * r, 0.85 * r, "platinum"),
        ]
        line = _body(self.length_mm, self.bend_degrees)
        return Instrument("pacing lead", line, tuple(layers), (_screw_tip(self.helix_mm),), shaped=15.0)


@dataclass(frozen=True)
class DefibrillatorLead(Design):
    """A defibrillator lead: tip and ring as a pacing lead, and one or two shock coils.

    Parameters
    ----------
    french: of its body, 6.8 to 9.
    coil_mm: length of the coil in the right ventricle, 50 to 62; it begins 17 mm from the tip.
    second: a second coil of 80 mm in the superior vena cava, 170 mm from the tip.
    """

    french: float = choice(8.0, 6.8, 7.3, 9.0)
    coil_mm: float = size(57.0, 50.0, 62.0)
    second: bool = choice(False, True)
    bend_degrees: float = size(40.0, 0.0, 90.0)
    length_mm: float = size(600.0, 520.0, 650.0)

    def instrument(self) -> Instrument:
        r = self.french * FRENCH / 2
        layers = [
            *_lead(self.length_mm, r),
            Layer(0.0, 2.0, 0.95 * r, 0.5 * r, "platinum", 0.8),
            Layer(11.0, 13.5, 1.03 * r, 0.85 * r, "platinum"),
            Layer(17.0, 17.0 + self.coil_mm, 1.05 * r, 0.83 * r, "platinum", 0.85 * WOUND),
        ]
        if self.second:
            layers.append(Layer(170.0, 250.0, 1.05 * r, 0.83 * r, "platinum", 0.85 * WOUND))
        line = _body(self.length_mm, self.bend_degrees)
        return Instrument("defibrillator lead", line, tuple(layers), (_screw_tip(1.8),), shaped=15.0)


@dataclass(frozen=True)
class EchoProbe(Design):
    """A transoesophageal echo probe: a rigid tip with the array, articulated links, a gastroscope's shaft.

    Parameters
    ----------
    wide_mm, deep_mm, tip_mm: of the rigid tip; 13 x 11 x 40 for multiplane, 17 x 13.5 x 38 for 3D probes.
    shaft_mm: diameter of the shaft, 9 to 12.
    bend_degrees: flexion of the 60 mm behind the tip.
    """

    wide_mm: float = size(14.5, 13.0, 17.0)
    deep_mm: float = size(11.5, 11.0, 13.5)
    tip_mm: float = size(40.0, 36.0, 44.0)
    shaft_mm: float = size(10.0, 9.0, 12.0)
    bend_degrees: float = size(10.0, -60.0, 60.0)
    length_mm: float = size(500.0, 400.0, 600.0)

    def instrument(self) -> Instrument:
        w, d, r = self.wide_mm / 2, self.deep_mm / 2, self.shaft_mm / 2
        z = np.array([0.0, 0.6, 2.0, 4.5, 8.0, 0.7 * self.tip_mm, 0.85 * self.tip_mm, self.tip_mm])
        grow = np.array([0.25, 0.5, 0.74, 0.92, 1.0, 1.0, 0.95, r / w])
        housing = oval_mesh(z, w * grow, np.minimum(d * grow, d), 2.8, name="housing")
        array, drum = 0.42 * self.tip_mm, 0.36 * self.tip_mm
        stack = moved(turned_mesh([(-0.30 * d, 0.62 * w), (0.35 * d, 0.62 * w)], name="array"), _tipped(), (0.0, 0.25 * d, array))
        backing = box_mesh((-0.5 * w, -0.55 * d, array - 0.55 * w), (0.5 * w, -0.1 * d, array + drum), "backing")
        flex = box_mesh((-0.55 * w, -0.12 * d, array + 0.5 * w), (0.55 * w, 0.05 * d, self.tip_mm), "cables")
        fixed: list[Body | Curve] = [
            Body(housing, "plastic"),
            Body(stack, "lead", 0.16),
            Body(backing, "steel", 0.22),
            Body(flex, "steel", 0.22),
        ]
        layers = [
            Layer(self.tip_mm, self.length_mm, 0.55 * r, 0.0, "steel", 0.12),  # bundle of coaxial cables
            Layer(self.tip_mm + 75.0, self.length_mm, 0.83 * r, 0.75 * r, "steel", 2.5 * BRAID),  # the flat spiral and its braid
        ]
        layers += [
            Layer(self.tip_mm + 2.0 + 6.0 * i, self.tip_mm + 6.2 + 6.0 * i, 0.84 * r, 0.79 * r, "steel") for i in range(12)
        ]  # the links
        line = lines.arcs(((self.tip_mm + 2.0, 0.0), (60.0, self.bend_degrees), (self.length_mm - self.tip_mm - 62.0, 0.0)))
        return Instrument("echo probe", torch.from_numpy(line), tuple(layers), tuple(fixed), shaped=self.tip_mm + 2.0)


def _tipped() -> NDArray[np.float64]:
    """A quarter turn that carries z to y."""
    return np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


@dataclass(frozen=True)
class EcgElectrode(Design):
    """An ECG electrode on the skin: snap, pad and cable. The origin is the middle of the pad, +z the way the cable leaves.

    Parameters
    ----------
    snap_mm: diameter of the snap, 8 to 10.
    opaque: a metal snap; otherwise carbon, which hardly shows.
    """

    snap_mm: float = size(9.0, 8.0, 10.0)
    opaque: bool = choice(True, True, False)
    cable_mm: float = size(220.0, 150.0, 300.0)

    def instrument(self) -> Instrument:
        r = self.snap_mm / 2
        upright = _tipped().T
        pad = moved(turned_mesh([(0.0, 18.0), (1.0, 18.0)], name="pad"), upright)
        snap = moved(turned_mesh([(1.0, r), (1.5, r), (1.6, 0.45 * r), (3.6, 0.5 * r), (4.0, 0.3 * r)], name="snap"), upright)
        clip = moved(turned_mesh([(1.8, 1.35 * r), (5.0, 1.3 * r)], name="clip"), upright)
        fixed = (Body(pad, "plastic", 0.8), Body(snap, "steel" if self.opaque else "plastic", 0.8), Body(clip, "plastic", 0.8))
        layers = (Layer(r, self.cable_mm, 1.3, 0.5, "polyurethane"), Layer(r, self.cable_mm, 0.45, 0.0, "steel", 0.45))
        line = lines.arcs(((10.0, 0.0), (math.pi * 20, 25.0), (self.cable_mm - 10 - math.pi * 20, 0.0)))
        return Instrument("ECG electrode", torch.from_numpy(line), layers, fixed, shaped=15.0)
