"""Hip bones and sacrum of a person: the mean hip bone and a sacrum of our own design, reshaped by named sizes.

Frame of this and its neighbour modules: mm, patient LPS directions (x left, y back, z head), origin midway between the centres of
the hips. The pelvis is turned about the axis of the hips by its tilt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raylign.simulation.phantoms.field import Array, smooth_min
from raylign.simulation.phantoms.pelvis_tables import HIP
from raylign.simulation.phantoms.sacrum import Sacrum, SacrumSize, hollow, laid, sacrum
from raylign.simulation.phantoms.trunk_shape import SIDES, SLOPE, TrunkShape
from raylign.simulation.phantoms.trunk_webs import Cut, Points, Web
from raylign.simulation.seeds import numpy_generator

HALF_DISTANCE, CUP_RADIUS, HEIGHT, SUBPUBIC = 86.87, 23.41, 210.0, 106.0  # of the mean hip bone
_GAP = 1.9  # sacroiliac joint, mm
_JOINTS = np.array([0.0, 42.0, 78.0])  # midway between the sacroiliac joints of the mean hip bones: what the sacrum turns about
# middle of the sacrum's upper face: with SLOPE, and a sacrum turned by 2 degrees, a pelvic incidence of 49 degrees
_ENDPLATE = np.array([0.0, 25.0, 99.0])
# landmark: ball and direction, on the left
_CARRIERS = {
    "asis": (158, (0.0, -1.0, -0.15)),
    "psis": (162, (0.0, 1.0, 0.0)),
    "sps": (43, (-0.6, -0.3, 1.0)),
    "ips": (2, (-0.5, 0.3, -1.0)),
    "gsn": (35, (0.0, 1.0, 0.0)),
    "iof": (80, (-0.3, 0.0, 1.0)),
    "mof": (28, (1.0, 0.0, 0.3)),
    "ischial_tuberosity": (33, (0.0, 0.3, -1.0)),
    "crest": (47, (0.0, 0.0, 1.0)),
    "ramus": (10, (-0.7, 0.0, -0.7)),
}
OPENING = np.array([0.62, -0.30, -0.72]) / np.linalg.norm([0.62, -0.30, -0.72])  # of the left acetabulum
_NOTCH = np.array([-0.35, -0.25, -0.90]) / np.linalg.norm([-0.35, -0.25, -0.90])


@dataclass(frozen=True, eq=False)
class BonyPelvis:
    """Webs of the bones, points on them, and the sacral endplate (middle [3] and its slope in degrees)."""

    webs: dict[str, Web]
    points: dict[str, Points]
    endplate: Points
    slope: float
    cup_radius: float


def bony_pelvis(shape: TrunkShape) -> BonyPelvis:
    """The pelvis of a person."""
    size, cup = shape.pelvis, shape.femur.head_radius + shape.femur.joint_space
    turn = rotation_x(np.radians(size.tilt))
    both = _wobble(shape.seed, 0, 1.8)
    webs: dict[str, Web] = {}
    points: dict[str, Points] = {}
    for number, (side, s) in enumerate(SIDES):
        balls = _hip(HIP.balls.copy(), shape, cup)
        balls[:, :3] += both(balls[:, :3]) + _wobble(shape.seed, 1 + number, 0.6)(balls[:, :3])
        balls[:, :3] = _room(balls, np.array([size.hip_distance / 2, 0, 0]), cup, CUP_RADIUS * size.hip_height / HEIGHT)
        balls[:, 0] = np.maximum(balls[:, 0], 2.3 + balls[:, 3])  # the symphysis
        balls[:, :3] = balls[:, :3] @ turn.T
        balls[:, 0] *= s
        webs[f"hip_{side}"] = Web(balls, HIP.faces, _acetabulum(s, size.hip_distance / 2, cup, turn), True)
        points |= {f"hip_{side}/{name}": p for name, p in _hip_points(balls, turn, s).items()}
    bone, slope = _sacrum(shape, turn)
    webs["sacrum"] = bone.web.with_cut(_beside([webs["hip_left"], webs["hip_right"]], bone, slope))
    points["sacrum/endplate"] = bone.top
    return BonyPelvis(webs, points, bone.top, slope, cup)


def rotation_x(angle: float) -> Points:
    """A turn about x, radians: positive turns the head's side forward (towards -y)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _hip(balls: Points, shape: TrunkShape, cup: float) -> Points:
    """The left hip bone at its size, its acetabulum centred on the axis of the hips."""
    size = shape.pelvis
    scale = size.hip_height / HEIGHT
    half = size.hip_distance / 2
    x, y, z = balls[:, :3].T
    # between the midline and the hip, and beside it
    inner = np.clip(x / HALF_DISTANCE, 0, 1)
    x = np.where(x < HALF_DISTANCE, half * inner, half + (x - HALF_DISTANCE) * scale * size.width)
    above = np.clip((z - 25) / 110, 0, 1.3)
    x = x + np.tan(np.radians(size.flare)) * 60 * above * np.clip(inner, 0.3, 1)
    y, z = y * scale * size.depth, z * scale
    # the pubic arch opens by spreading the rami below the symphysis
    below = np.clip((-z - 22) / 60, 0, 1)
    spread = np.tan(np.radians(size.subpubic / 2)) - np.tan(np.radians(SUBPUBIC / 2))
    x = x + spread * 38 * below * np.clip((half + 5 - x) / 50, 0, 1) * np.clip((x - 4) / 14, 0, 1)
    return np.stack([x, y, z, np.maximum(balls[:, 3] * scale, 1.3)], 1)


def _room(balls: Points, centre: Points, cup: float, before: float) -> Points:
    """Balls about the acetabulum pushed outward, so that its wall keeps its thickness when its radius grows from ``before``."""
    away = balls[:, :3] - centre
    distance = np.linalg.norm(away, axis=1)
    free = distance - balls[:, 3] - before * 0.97
    push = (cup - before) * np.exp(-np.maximum(free, 0) / 16.0)
    out: Points = balls[:, :3] + away / distance[:, None] * push[:, None] * (away @ OPENING < 12)[:, None]
    return out


def _acetabulum(s: float, half: float, cup: float, turn: Points) -> Cut:
    """The cup: a lining of dense bone where the wall is thin, the room for the head, the fossa towards the notch."""
    centre = np.array([s * half, 0, 0], np.float32)
    opening = (turn @ OPENING * [s, 1, 1]).astype(np.float32)
    notch = (turn @ _NOTCH * [s, 1, 1]).astype(np.float32)

    def cut(d: Array, x: Array, y: Array, z: Array) -> Array:
        box = tuple(
            slice(*np.searchsorted(a.ravel(), (c - cup - 6, c + cup + 6)).tolist())
            for a, c in zip((z, y, x), centre[::-1], strict=True)
        )
        part = d[box]
        if not part.size:
            return d
        px, py, pz = x[:, :, box[2]] - centre[0], y[:, box[1]] - centre[1], z[box[0]] - centre[2]
        r = np.sqrt(px * px + py * py + pz * pz)
        along = px * opening[0] + py * opening[1] + pz * opening[2]
        down = px * notch[0] + py * notch[1] + pz * notch[2]
        lining = np.maximum(r - np.float32(cup + 1.8), along + np.float32(0.25 * cup))
        lining = np.maximum(lining, (down - np.float32(0.80 * cup)) * np.float32(0.8))
        fossa = np.sqrt((px - notch[0] * 8) ** 2 + (py - notch[1] * 8) ** 2 + (pz - notch[2] * 8) ** 2) - np.float32(cup - 5)
        d[box] = np.maximum(smooth_min(part, lining, 5.0), -np.minimum(r - np.float32(cup), fossa))
        return d

    return cut


def _hip_points(balls: Points, turn: Points, s: float) -> dict[str, Points]:
    """Landmarks: each is carried by one ball of the mean bone, touched in one direction."""
    out = {}
    for name, (carrier, direction) in _CARRIERS.items():
        along = np.asarray(direction) / np.linalg.norm(direction)
        out[name] = balls[carrier, :3] + balls[carrier, 3] * (along @ turn.T) * [s, 1, 1]
    return out


def _sacrum(shape: TrunkShape, turn: Points) -> tuple[Sacrum, float]:
    """The sacrum at its size, turned between the hip bones, and the slope of its upper face in degrees."""
    size = shape.pelvis
    scale = 0.5 * (size.hip_height / HEIGHT + shape.spine.scale)
    wide = 0.6 * size.hip_distance / (2 * HALF_DISTANCE) + 0.4 * scale
    local = rotation_x(np.radians(size.sacral_turn))
    place = _JOINTS * [1, size.hip_height / HEIGHT * size.depth, size.hip_height / HEIGHT]
    wobble = _wobble(shape.seed, 3, 1.2)

    def moved(p: Points) -> Points:
        q = p + _ENDPLATE
        q = (q + wobble(q) - _JOINTS) * [wide, scale * size.depth, scale]
        out: Points = (q @ local.T + place) @ turn.T
        return out

    four = numpy_generator(shape.seed, 4, 4).random() < 0.76  # pieces of the coccyx, Woon et al. 2013
    bone = sacrum(SacrumSize(shape.person.female, size.sacral_bend, 4 if four else 3))
    return laid(bone, moved, (wide, scale * size.depth, scale)), SLOPE + size.sacral_turn + size.tilt


def _beside(neighbours: list[Web], bone: Sacrum, slope: float) -> Cut:
    """The sacrum leaves the gap of the joints to its neighbours, and is hollow where nerves run."""

    def cut(d: Array, x: Array, y: Array, z: Array) -> Array:
        for other in neighbours:
            d = np.maximum(d, np.float32(_GAP) - other.distance(x, y, z, _GAP + 3.0))
        return hollow(bone, slope, d, (x, y, z))

    return cut


def _wobble(seed: int, stream: int, sigma: float) -> Callable[[Points], Points]:
    """A smooth random displacement of ``sigma`` mm, with a length of about 45 mm (random Fourier features)."""
    rng = numpy_generator(seed, 4, stream)
    n = 24
    waves, phases = rng.normal(0, 1 / 45.0, (n, 3)), rng.uniform(0, 2 * np.pi, n)
    amplitudes = rng.normal(0, sigma * np.sqrt(2 / n), (n, 3))

    def displacement(p: Points) -> Points:
        out: Points = np.cos(p @ waves.T + phases) @ amplitudes
        return out

    return displacement
