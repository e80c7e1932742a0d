"""The upper femur of a person: the mean bone, with head, neck, offset, trochanters and shaft at the person's sizes.

Its own frame: origin in the centre of the head, z up along the shaft, x from the head to the shaft, y to the back (a left femur).
In the body the head's centre lies in the centre of the acetabulum, and the thigh is turned about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.femur_tables import FEMUR
from raylign.simulation.phantoms.field import Array
from raylign.simulation.phantoms.trunk_shape import FemurSize, LegPose, TrunkShape
from raylign.simulation.phantoms.trunk_webs import Points, Web
from raylign.simulation.seeds import numpy_generator

HEAD, OFFSET, NECK_SHAFT, SHAFT = 24.0, 44.9, 122.0, 13.9  # of the mean femur, mm and degrees
_LOW = -260.0  # how far down the shaft is drawn, below the head's centre


@dataclass(frozen=True, eq=False)
class UpperFemur:
    """One femur in the body.

    Parameters
    ----------
    web: the bone. points: landmarks. frame: [3, 3] rows are the bone's own axes in the body. centre: of the head.
    """

    web: Web
    points: dict[str, Points]
    frame: Points
    centre: Points
    size: FemurSize
    side: float

    def local(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Coordinates in the bone's own frame, broadcast."""
        rx, ry, rz = (a - np.float32(c) for a, c in zip((x, y, z), self.centre, strict=True))
        u, v, w = (rx * np.float32(e[0]) + ry * np.float32(e[1]) + rz * np.float32(e[2]) for e in self.frame)
        return u, v, w


def upper_femur(shape: TrunkShape, side: float, centre: Points) -> UpperFemur:
    """The femur of a side (1 left, -1 right) in its socket."""
    number = 0 if side > 0 else 1
    rng = numpy_generator(shape.seed, 5, number)
    mean, size = shape.femur, shape.femur
    size = FemurSize(
        mean.head_radius * float(1 + rng.normal(0, 0.006)),
        mean.neck_shaft + float(rng.normal(0, 1.5)),
        mean.anteversion + float(rng.normal(0, 2.5)),
        mean.offset + float(rng.normal(0, 1.0)),
        mean.shaft_radius,
        mean.cortex,
        mean.trochanter * float(1 + rng.normal(0, 0.015)),
        mean.joint_space,
    )
    local = _bone(size, _wobbled(FEMUR.balls.copy(), rng))
    frame = _pose(size, shape.legs[number])
    axes = frame * [side, 1, 1]
    balls = local.balls.copy()
    balls[:, :3] = balls[:, :3] @ axes + centre
    points = {name: p @ axes + centre for name, p in _points(size, local.balls).items()}
    return UpperFemur(Web(balls, local.faces), points, axes, centre, size, side)


def _wobbled(balls: Points, rng: np.random.Generator) -> Points:
    """Smooth individual differences below the neck, the head left alone."""
    n = 16
    waves, phases = rng.normal(0, 1 / 30.0, (n, 3)), rng.uniform(0, 2 * np.pi, n)
    amplitudes = rng.normal(0, 1.1 * np.sqrt(2 / n), (n, 3))
    weight = 1 - _headness(balls)
    balls[:, :3] += weight[:, None] * (np.cos(balls[:, :3] @ waves.T + phases) @ amplitudes)
    return balls


def _headness(balls: Points) -> NDArray[np.float64]:
    """1 in the head and along the neck's upper part, 0 at the trochanters and the shaft."""
    along = balls[:, :3] @ np.array([0.79, 0.0, -0.61])  # down the neck
    t = np.clip((52.0 - along) / 34.0, 0, 1) * np.clip((balls[:, 2] + 62) / 30, 0, 1)
    high = np.clip((balls[:, 0] - 26) / 14, 0, 1) * np.clip((balls[:, 2] + 26) / 12, 0, 1)  # the greater trochanter
    t = t * (1 - high)
    out: NDArray[np.float64] = t * t * (3 - 2 * t)
    return out


def _bone(size: FemurSize, balls: Points) -> Web:
    """The femur in its own frame."""
    scale = size.head_radius / HEAD
    head = _headness(balls)
    out = balls * scale
    # trochanters grow about the axis of the shaft
    low = (1 - head) * np.clip((balls[:, 2] + 75) / 20, 0, 1)
    axis = np.array([OFFSET * scale, 0, 0])
    grown = (out[:, :3] - axis) * ([size.trochanter, size.trochanter, 1.0]) + axis
    out[:, :3] += low[:, None] * (grown - out[:, :3])
    # the shaft's own thickness
    thick = np.clip((-45 - balls[:, 2]) / 30, 0, 1)
    ratio = 1 + (size.shaft_radius / (SHAFT * scale) - 1) * thick
    out[:, :2] = (out[:, :2] - axis[:2]) * ratio[:, None] + axis[:2]
    out[:, 3] *= ratio
    # the shaft moves away from the head by the offset, and down or up by the angle of the neck
    away = size.offset - OFFSET * scale
    down = size.offset * np.tan(np.radians(size.neck_shaft - 90)) - OFFSET * scale * np.tan(np.radians(NECK_SHAFT - 90))
    out[:, 0] += (1 - head) * away
    out[:, 2] -= (1 - head) * down
    # nothing of the head's surface but towards the neck lies outside its sphere
    r = np.linalg.norm(out[:, :3], axis=1)
    towards = (out[:, :3] @ np.array([0.79, 0.0, -0.61])) / np.maximum(r, 1e-6)
    inside = (r < size.head_radius) & (towards < 0.45)
    out[inside, 3] = np.minimum(out[inside, 3], np.maximum(size.head_radius - r[inside], 0.3))
    z = np.array([-33.0 * scale - down, -54.0 * scale - down, -78.0 * scale - down, -114.0 * scale - down, -160.0, -200.0, _LOW])
    bow = 0.00011 * (z + 80) ** 2  # the shaft bows forward
    # within the trochanters it only fills what the web's balls leave between them; still widening towards them below
    wide = np.array([0.88, 1.0, 1.08, 1.0, 0.96, 0.96, 0.97])
    shaft = np.stack([np.full(len(z), size.offset), -bow, z, size.shaft_radius * wide], 1)
    ball = np.array([[0.0, 0.0, 0.0, size.head_radius]])
    n = len(out)
    chain = [[n + i, n + i + 1, n + i + 1] for i in range(len(z) - 1)]
    upper = FEMUR.faces[(balls[FEMUR.faces][:, :, 2] > -74).all(1)]
    return Web(np.concatenate([out, shaft, ball]), np.concatenate([upper, chain, [[n + len(z)] * 3]]))


def _pose(size: FemurSize, leg: LegPose) -> Points:
    """Rows: the bone's axes in the body, for a left femur."""
    turn = np.radians(size.anteversion - leg.outward)
    spread = np.radians(-7.0 + leg.abduction)
    bent = np.radians(leg.flexion)
    c, s = np.cos(turn), np.sin(turn)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    c, s = np.cos(spread), np.sin(spread)
    about_y = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    c, s = np.cos(bent), np.sin(bent)
    about_x = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    out: Points = (about_y @ about_x @ about_z).T
    return out


def _points(size: FemurSize, balls: Points) -> dict[str, Points]:
    """Landmarks in the bone's own frame."""
    x, y, z, r = balls[:-8].T  # without the shaft and the head
    great = int(np.argmax(np.where(x > 28, z + r, -np.inf)))
    small = int(np.argmax(np.where((z < -38) & (z > -75), y - x + r, -np.inf)))
    neck = np.array([np.cos(np.radians(size.neck_shaft - 90)), 0.0, -np.sin(np.radians(size.neck_shaft - 90))])
    return {
        "fh": np.zeros(3),
        "neck": neck * (1.45 * size.head_radius),
        "greater_trochanter": balls[great, :3] + [0, 0, r[great]],
        "lesser_trochanter": balls[small, :3] + r[small] * np.array([-0.7, 0.7, 0.0]),
        "shaft": np.array([size.offset, 0.0, -110.0]),
    }


def shell_mm(femur: UpperFemur, u: Array, w: Array) -> Array:
    """Thickness of the compact bone, mm: most in the shaft and at the calcar, a thin plate under the head's cartilage."""
    size = femur.size
    k = np.float32(size.cortex / 7.0)
    shaft = np.interp(w, [-150, -110, -75, -50, -28, 0], np.array([7.2, 7.0, 5.4, 3.6, 1.6, 0.8]) * k).astype(np.float32)
    calcar = (
        np.float32(2.6)
        * k
        * np.exp(-(((u - np.float32(0.62 * size.offset)) / 9) ** 2) - ((w + np.float32(1.7 * HEAD)) / 13) ** 2)
    )
    out: Array = np.maximum(shaft, np.float32(0.75)) + calcar
    return out
