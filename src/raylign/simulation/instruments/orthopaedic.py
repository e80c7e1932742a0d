"""What goes into bone: screws with threads, pedicle screws with their heads, wires, drills.

Sizes of bone screws are those of ISO 5835 (HA cortical, HB cancellous): thread and core diameter, pitch, head. Cores and pitches
of pedicle screws span those of six systems that "Influence of thread design on anchorage of pedicle screws in cancellous bone"
(Scientific Reports 12, 2022, table 2) measures: core 0.56 to 0.72 of the outer diameter, pitch 2 to 4 mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from raylign.simulation.instruments.design import Design, choice, size
from raylign.simulation.instruments.parts import Body, Instrument, Layer
from raylign.simulation.instruments.surfaces import Array, box_mesh, field_mesh, moved, turned_mesh

SCREWS = {
    "HA3.5": (3.5, 2.4, 1.25, 6.0, 2.4),
    "HA4.5": (4.5, 3.0, 1.75, 8.0, 3.0),
    "HB4.0": (4.0, 1.9, 1.75, 6.0, 2.4),
    "HB6.5": (6.5, 3.0, 2.75, 8.0, 4.5),
}
"""Thread and core diameter, pitch, head and plain shaft diameter in mm of metal bone screws."""


def threaded(z: Array, core: Array, crest: Array, pitch: float, sides: int = 18, flank: float = 0.35) -> Array:
    """Radii [N, A] of a single-start screw: a ridge that climbs one pitch a turn.

    Parameters
    ----------
    z: [N] mm; core, crest: [N] radii at the bottom and at the top of the thread, mm.
    pitch: mm a turn; right-handed as seen along +z from behind.
    flank: share of the pitch that each flank takes; what is left of the ridge is flat.
    """
    angle = 2 * math.pi * np.arange(sides) / sides
    phase = (z[:, None] / pitch - angle[None] / (2 * math.pi)) % 1.0
    ridge = np.clip((0.5 - np.abs(phase - 0.5) - (0.5 - flank) * 0.5) / flank, 0.0, 1.0)
    return core[:, None] + (crest - core)[:, None] * ridge


@dataclass(frozen=True)
class BoneScrew(Design):
    """A cortical or cancellous screw: threaded shank, plain shaft, hemispherical head with a hexagonal socket.

    Parameters
    ----------
    kind: HA3.5, HA4.5 (cortical, threaded throughout), HB4.0 or HB6.5 (cancellous).
    length_mm: head included, 20 to 110.
    thread_mm: length of the thread of a cancellous screw, 16 or 32; no more than the shank.
    material: steel or titanium.
    """

    kind: str = choice("HB6.5", "HA3.5", "HA4.5", "HB4.0")
    length_mm: float = size(60.0, 20.0, 110.0)
    thread_mm: float = choice(32.0, 16.0)
    material: str = choice("titanium", "steel")

    def instrument(self) -> Instrument:
        outer, core, pitch, head, plain = SCREWS[self.kind]
        shank = self.length_mm - 0.55 * head
        thread = shank if self.kind.startswith("HA") else min(self.thread_mm, shank)
        z, inner, crest = _shank(shank, thread, (core / 2, outer / 2, plain / 2), pitch)
        mesh = field_mesh(z, threaded(z, inner, crest, pitch), self.kind)
        bowl = [
            (shank - 0.02, core / 2),
            (shank + 0.25 * head, 0.47 * head),
            (shank + 0.45 * head, head / 2),
            (self.length_mm, 0.4 * head),
        ]
        cap = turned_mesh(bowl, name="head")
        line = torch.tensor([[0.0, 0, 0], [0, 0, self.length_mm]])
        return Instrument(f"bone screw {self.kind}", line, fixed=(Body(mesh, self.material), Body(cap, self.material)))


def _shank(length: float, thread: float, radii: tuple[float, float, float], pitch: float) -> tuple[Array, Array, Array]:
    """Heights, core and crest radii of a screw's shank: a conical tip, the thread, a plain shaft above it.

    ``radii`` are those of the core, of the crest and of the shaft.
    """
    core, crest, plain = radii
    z = np.arange(0.0, length + 1e-6, pitch / 6)
    z = np.unique(np.concatenate([z[z < length - 0.1], [length]]))
    inner = core * np.clip(0.3 + 0.7 * z / (1.2 * crest), 0.3, 1.0)
    threaded_here = np.clip((thread - z) / (0.5 * pitch), 0, 1) if thread < length else np.ones_like(z)
    inner = inner + (plain - core) * (1 - threaded_here)
    rise = np.clip(0.35 + 0.65 * z / (1.2 * crest), 0.35, 1.0)
    return z, inner, np.maximum(inner + (crest * rise - inner) * threaded_here, inner)


@dataclass(frozen=True)
class PedicleScrew(Design):
    """A polyaxial pedicle screw: a tapered, threaded shank, a ball, a tulip with the slot for the rod, and often the rod.

    Parameters
    ----------
    diameter_mm, length_mm: of the shank, 4.5 to 7.5 and 30 to 55.
    core: diameter as a share of the thread's, 0.56 to 0.72.
    pitch_mm: of the thread, 2 to 4.
    tilt_degrees: of the tulip against the shank.
    rod: a rod of 5.5 mm through the slot, 60 mm long.
    material: titanium or steel.
    """

    diameter_mm: float = size(6.0, 4.5, 7.5)
    length_mm: float = size(45.0, 30.0, 55.0)
    core: float = size(0.65, 0.56, 0.72)
    pitch_mm: float = size(2.75, 2.0, 4.0)
    tilt_degrees: float = size(0.0, -20.0, 20.0)
    rod: bool = choice(False, True)
    material: str = choice("titanium", "titanium", "steel")

    def instrument(self) -> Instrument:
        crest, z_head = self.diameter_mm / 2, self.length_mm
        z, inner, top = _shank(z_head, z_head, (self.core * crest, crest, crest), self.pitch_mm)
        inner = inner * (0.85 + 0.25 * z / z_head)  # the core is conical
        shank = field_mesh(z, threaded(z, inner, np.maximum(top, inner), self.pitch_mm), "shank")
        tilt = math.radians(self.tilt_degrees)
        turn = np.array([[math.cos(tilt), 0, math.sin(tilt)], [0, 1, 0], [-math.sin(tilt), 0, math.cos(tilt)]])
        shift = np.array([0.0, 0.0, z_head + 2.5])
        half, slot, floor, high = 6.5, 2.9, 3.0, 12.5
        saddle = turned_mesh([(-2.5, 4.0), (-0.5, 6.2), (floor, half)], name="saddle")
        wings = [
            box_mesh((-4.6, min(side * slot, side * half), floor), (4.6, max(side * slot, side * half), high), "arm")
            for side in (-1, 1)
        ]
        parts = [Body(shank, self.material)]
        parts += [Body(moved(mesh, turn, shift), self.material) for mesh in (saddle, *wings)]
        if self.rod:
            sideways = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
            rod = moved(turned_mesh([(-30.0, 2.75), (30.0, 2.75)], name="rod"), sideways, (0.0, 0.0, floor + 2.75))
            nut = turned_mesh([(floor + 5.5, 2.8), (high, 2.8)], name="set screw")
            parts += [Body(moved(mesh, turn, shift), self.material) for mesh in (rod, nut)]
        line = torch.tensor([[0.0, 0, 0], [0, 0, self.length_mm + 15.0]])
        return Instrument("pedicle screw", line, fixed=tuple(parts))


@dataclass(frozen=True)
class KWire(Design):
    """A Kirschner wire: a steel pin with a trocar point, 0.8 to 3.0 mm thick."""

    diameter_mm: float = choice(1.6, 0.8, 1.0, 1.25, 2.0, 2.5, 3.0)
    length_mm: float = size(200.0, 150.0, 310.0)

    def instrument(self) -> Instrument:
        r = self.diameter_mm / 2
        point = 3.0 * self.diameter_mm
        steps = [(0.12, 0.25), (0.37, 0.45), (0.62, 0.65), (0.87, 0.88)]
        layers = [Layer(a * point, (a + 0.25) * point if a < 0.8 else point, k * r) for a, k in steps]
        layers.append(Layer(point, self.length_mm, r))
        return Instrument("Kirschner wire", torch.tensor([[0.0, 0, 0], [0, 0, self.length_mm]]), tuple(layers))


@dataclass(frozen=True)
class Drill(Design):
    """A surgical drill: a twist bit with two flutes in a chuck, and the machine behind it.

    Parameters
    ----------
    bit_mm: diameter of the bit, 2.0 to 4.5.
    free_mm: of the bit before the chuck.
    helix_mm: length in which the flutes turn once.
    """

    bit_mm: float = choice(3.2, 2.0, 2.5, 2.7, 3.5, 4.5)
    free_mm: float = size(90.0, 60.0, 140.0)
    helix_mm: float = size(16.0, 10.0, 22.0)

    def instrument(self) -> Instrument:
        r, fluted = self.bit_mm / 2, 0.6 * self.free_mm
        z = np.linspace(0, fluted, max(round(fluted / (self.helix_mm / 14)), 8))
        angle = 2 * math.pi * np.arange(20) / 20
        turn = np.cos(2 * (angle[None] - 2 * math.pi * z[:, None] / self.helix_mm))
        depth = np.clip((fluted - z) / (0.15 * fluted), 0, 1)[:, None]
        point = np.clip(0.08 + z / (0.85 * self.bit_mm), 0, 1)[:, None]  # a point angle of about 118 degrees
        radius = r * point * (1 - 0.48 * depth * np.clip(turn, 0, 1) ** 0.7)
        chuck = [(0.0, 5.0), (4.0, 7.0), (14.0, 9.5), (30.0, 9.5), (34.0, 12.0), (52.0, 12.0)]
        jaws = turned_mesh([(self.free_mm + a, b) for a, b in chuck], name="chuck")
        machine = turned_mesh(
            [(self.free_mm + 52.0 + a, b) for a, b in ((0.0, 16.0), (6.0, 19.0), (95.0, 19.0), (100.0, 15.0))], name="motor"
        )
        grip = box_mesh((18.0, -13.0, self.free_mm + 90.0), (120.0, 13.0, self.free_mm + 125.0), "grip")
        parts = (
            Body(field_mesh(z, radius, "bit"), "steel"),
            Body(turned_mesh([(fluted, r), (self.free_mm + 10.0, r)], name="shaft"), "steel"),
            Body(jaws, "steel", 0.6),
            Body(machine, "aluminium", 0.6),
            Body(moved(turned_mesh([(0.0, 11.0), (80.0, 11.0)], name="rotor"), shift=(0, 0, self.free_mm + 60.0)), "steel", 0.6),
            Body(grip, "aluminium", 0.6),
        )
        return Instrument("drill", torch.tensor([[0.0, 0, 0], [0, 0, self.free_mm + 152.0]]), fixed=parts)
