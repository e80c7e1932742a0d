"""The surfaces that give a chest its shape: spine line, trunk, rib cage, diaphragm.

Anatomical mm of a patient lying on the back: x to the left, y to the back, z to the head, origin on the midline at the height of
the middle of T7. The tables are typical adult values (Gray's Anatomy, 41st ed., chapters 53 to 57), rounded, for a straight
patient of scale 1; ``ChestShape`` stretches, bends and bulges them. Every function takes coordinates that broadcast, so that a
grid and a list of points see the same anatomy at any resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.field import Array, Ellipsoid, curve, smooth_min

Points = NDArray[np.float64]
Knots = tuple[tuple[int, ...], ...]
LEVELS = ("C6", "C7", *(f"T{i}" for i in range(1, 13)), "L1", "L2", "L3")
_PITCH = (16, 17, 20, 20.5, 21, 21.5, 22, 22.5, 23, 23.5, 24.5, 25.5, 27, 29, 33, 35, 36)  # body and disc, mm
_EDGES = np.concatenate([[0.0], np.cumsum(_PITCH)])
_MIDDLES = (_EDGES[1:] + _EDGES[:-1]) / 2
_HEIGHTS = dict(zip(LEVELS, (_MIDDLES[LEVELS.index("T7")] - _MIDDLES).tolist(), strict=True))
_PITCHES = dict(zip(LEVELS, _PITCH, strict=True))
_CURVE = 27.0  # the kyphosis for which the tables below were made

# z, half width, front, back (mm): the skin over 12 mm of fat, and the middle of the ribs
_SKIN: Knots = (
    (200, 58, -50, 66), (165, 62, -52, 74), (150, 80, -60, 88), (135, 112, -74, 99), (115, 148, -90, 110), (90, 163, -104, 118),
    (60, 168, -115, 123), (30, 167, -120, 125), (0, 165, -123, 125), (-60, 163, -125, 122), (-120, 160, -123, 116),
    (-170, 158, -120, 112), (-250, 156, -118, 108),
)  # fmt: skip
_CAGE: Knots = (
    (164, 16, 4, 34), (155, 40, -6, 44), (135, 68, -24, 60), (112, 92, -44, 74), (90, 107, -60, 83), (60, 121, -76, 91),
    (30, 130, -87, 96), (0, 136, -94, 98), (-40, 141, -101, 98), (-80, 143, -104, 96), (-120, 142, -102, 92),
    (-170, 138, -98, 86), (-250, 134, -96, 84),
)  # fmt: skip
RIBS_INNER = 3.5  # mm from the middle of a rib to its inner face


@dataclass(frozen=True)
class ChestShape:
    """What differs from one chest wall to the next; lengths in mm.

    Parameters
    ----------
    scale: factors on width (x), depth (y) and length (z) of the cage and the spine.
    kyphosis: how far the spine bends forward at 150 mm from T7, before it levels off.
    scoliosis: amplitude of the sideways bend, and its phase in radians.
    widths, depths: relative bulges of the cage along its height, one coefficient a cosine.
    square: 0 for elliptical cross-sections of the cage, 1 for superellipses of degree four.
    fat: thickness of the subcutaneous fat, skin included.
    muscle: factor on the depth of the chest wall's outer muscle layer.
    breast: factor on the size of the breasts, 0 for none.
    belly: how far the fat of the abdomen stands forward.
    diaphragm: how much higher than typical its right and left dome stand.
    rib_slope: factor on how far ribs fall from back to front.
    rib_bows: 12 relative differences of the single ribs' fall.
    rib_size: factor on the ribs' thickness.
    ribs: pairs of ribs, 11 to 13.
    sternum: factor on its length.
    shoulder: how much higher than typical the shoulders lie.
    bone_hu: attenuation of trabecular bone in the vertebrae.
    cortex: factor on the cortical bone's attenuation.
    calcified: share of the costal cartilage that is calcified.
    """

    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    kyphosis: float = _CURVE
    scoliosis: tuple[float, float] = (0.0, 0.4)
    widths: tuple[float, ...] = (0.0, 0.0, 0.0)
    depths: tuple[float, ...] = (0.0, 0.0, 0.0)
    square: float = 0.35
    fat: float = 12.0
    muscle: float = 1.0
    breast: float = 0.0
    belly: float = 0.0
    diaphragm: tuple[float, float] = (0.0, 0.0)
    rib_slope: float = 1.0
    rib_bows: tuple[float, ...] = (0.0,) * 12
    rib_size: float = 1.0
    ribs: int = 12
    sternum: float = 1.0
    shoulder: float = 0.0
    bone_hu: float = 190.0
    cortex: float = 1.0
    calcified: float = 0.1

    def height(self, level: str) -> float:
        """z of the middle of a vertebral body."""
        return _HEIGHTS[level] * self.scale[2]

    def pitch(self, level: str) -> float:
        """Height of a vertebral body and its disc."""
        return _PITCHES[level] * self.scale[2]

    def place(self, points: Points) -> Points:
        """Points of the straight patient of scale 1 [..., 3], where they lie in this one."""
        p = np.asarray(points, float)
        dx, dy = bend(self, p[..., 2] * self.scale[2])
        out: Points = p * self.scale + np.stack([dx, dy, np.zeros_like(dx)], -1)
        return out


def _lean(u: Points) -> Points:
    out: Points = u**2 / (1 + 0.25 * u**2)
    return out


def bend(shape: ChestShape, z: NDArray[np.floating] | float) -> tuple[Points, Points]:
    """How far the spine, and the trunk with it, lies to the left and to the back of the straight patient's, at height z."""
    u = np.clip(np.asarray(z, float) / shape.scale[2], -260, 240) / 150
    x = shape.scoliosis[0] * np.sin(2.2 * u + shape.scoliosis[1])
    return x, (_CURVE - shape.kyphosis) * _lean(u)


def spine_line(shape: ChestShape, z: NDArray[np.floating] | float) -> tuple[Points, Points]:
    """x and y of the middle of the vertebral bodies at height z: a kyphosis, a slight sideways bend, the lumbar turn forward."""
    dx, dy = bend(shape, z)
    u = np.clip(np.asarray(z, float) / shape.scale[2], -260, 240) / 150
    return dx, shape.scale[1] * (50 - _CURVE * _lean(u)) + dy


def tilt(shape: ChestShape, z: float) -> tuple[float, float]:
    """dx/dz and dy/dz of the spine line."""
    (xa, ya), (xb, yb) = spine_line(shape, z - 5.0), spine_line(shape, z + 5.0)
    return float(xb - xa) / 10, float(yb - ya) / 10


def _section(knots: Knots, shape: ChestShape, z: NDArray[np.floating]) -> tuple[Points, Points, Points]:
    """Half width, half depth and middle (y) of an oval at heights z; a deeper chest keeps its back where it was."""
    sx, sy, sz = shape.scale
    a, front, back = curve(knots, z / sz).T
    turn = np.pi * (np.clip(z / sz, -180, 170) + 180) / 350
    wide, deep = (sum(c * np.cos((i + 1) * turn) for i, c in enumerate(modes)) for modes in (shape.widths, shape.depths))
    half = (back - front) / 2 * sy * (1 + deep)
    return a * sx * (1 + wide), half, back * sy - half + bend(shape, z)[1]


def _oval(knots: Knots, square: float, shape: ChestShape, xyz: tuple[Array, Array, Array]) -> Array:
    """Distance to a stack of ovals, between an ellipse (square 0) and a superellipse of degree four (square 1)."""
    x, y, z = xyz
    a, b, c = (v.reshape(z.shape).astype(np.float32) for v in _section(knots, shape, z.ravel()))
    dx = bend(shape, z.ravel())[0].reshape(z.shape).astype(np.float32)
    px, py = np.square((x - dx) / a), np.square((y - c) / b)
    squares = px * px + py * py
    round_, boxy = np.sqrt(px + py), np.sqrt(np.sqrt(squares))
    q = round_ * np.float32(1 - square) + boxy * np.float32(square)
    # one unit of q is worth the half axis towards the point; its mean along the ray is good enough inside the skin
    reach = np.sqrt((px * (a * a) + py * (b * b)) / np.maximum(px + py, np.float32(1e-6)))
    out: Array = (q - 1) * np.maximum(reach, np.float32(1))
    return out


_SHOULDERS = (
    Ellipsoid((138, 22, 98), (44, 50, 52), (0.35, 0.0, 1.0)),
    Ellipsoid((162, 16, 150), (26, 30, 70), (0.25, -0.05, 1.0)),  # the arm, raised as on the table
)


def _shoulders(shape: ChestShape) -> list[Ellipsoid]:
    more = shape.fat - 12
    out = []
    for solid in _SHOULDERS:
        back = bend(shape, solid.centre[2] * shape.scale[2])[1]
        x, y, z = np.add(np.multiply(solid.centre, shape.scale), (0.0, float(back), shape.shoulder))
        a, b, c = (r * s + 0.6 * more for r, s in zip(solid.radii, shape.scale, strict=True))
        out.append(Ellipsoid((float(x), float(y), float(z)), (a, b, c), solid.axis))
    return out


def trunk(shape: ChestShape, xyz: tuple[Array, Array, Array]) -> Array:
    """Distance to the skin without breasts and belly: trunk, neck, shoulders and the raised upper arms."""
    x, y, z = xyz
    d = _oval(_SKIN, 0.45, shape, xyz) - np.float32(shape.fat - 12)
    # the groove over the spine
    groove = np.float32(5) * (z < 140 * shape.scale[2])
    back = np.float32(120 * shape.scale[1])
    d = d + groove * np.exp(-np.square(x / np.float32(22))) * np.exp(-np.square((y - back) / np.float32(18)))
    for solid in _shoulders(shape):
        d = smooth_min(d, solid.distance(np.abs(x), y, z), 26)
    return d


def skin(shape: ChestShape, xyz: tuple[Array, Array, Array], wall: Array | None = None) -> Array:
    """Distance to the skin, with breasts and belly; ``wall`` is ``trunk`` where it is known."""
    x, y, z = xyz
    d = trunk(shape, xyz) if wall is None else wall
    for solid in breasts(shape)[:1]:
        d = smooth_min(d, solid.distance(np.abs(x), y, z), 24)
    if shape.belly > 1:
        d = smooth_min(d, belly(shape).distance(x, y, z), 40)
    return d


def breasts(shape: ChestShape) -> list[Ellipsoid]:
    """Left and right breast of a patient on the back: flat, and spread to the sides."""
    if shape.breast <= 0:
        return []
    sx, sy, sz = shape.scale
    s = shape.breast
    front = -104 * sy - 0.8 * (shape.fat - 12)
    return [Ellipsoid((side * 78 * sx, front, 4 * sz), (52 * s, 26 * s, 54 * s), (side * 0.15, 0.0, 1.0)) for side in (1.0, -1.0)]


def belly(shape: ChestShape) -> Ellipsoid:
    """The fat in front of the abdominal wall."""
    sx, sy, sz = shape.scale
    front = (-118 * sy) - (shape.fat - 12)
    return Ellipsoid((0.0, front + 40, -215 * sz), (125 * sx, 40 + shape.belly, 105 * sz))


def cage(shape: ChestShape, xyz: tuple[Array, Array, Array]) -> Array:
    """Distance to the surface in which the ribs lie."""
    return _oval(_CAGE, shape.square, shape, xyz)


def cage_point(shape: ChestShape, angle: Points, z: Points) -> tuple[Points, Points]:
    """x and y on that surface at an angle from the back (0) over the left side (pi/2) to the front (pi); right is negative."""
    a, b, c = _section(_CAGE, shape, np.asarray(z, float))
    s, k = np.sin(angle), np.cos(angle)
    q = (1 - shape.square) + shape.square * np.sqrt(np.sqrt(s**4 + k**4))
    return bend(shape, z)[0] + a * s / q, c + b * k / q


def extent(shape: ChestShape) -> tuple[float, float, float]:
    """Half width, front and back (y) of a box around the skin, arms included."""
    z = np.linspace(-250, 200, 91) * shape.scale[2]
    a, b, c = _section(_SKIN, shape, z)
    more = shape.fat - 12
    wide = max(float(a.max()) + abs(shape.scoliosis[0]) + more, max(s.centre[0] + s.radii[0] * 1.1 for s in _shoulders(shape)))
    front = float((c - b).min()) - more
    for solid in [*breasts(shape), *([belly(shape)] if shape.belly > 1 else [])]:
        front = min(front, solid.centre[1] - solid.radii[1] - 2)
    return wide + 5, front - 5, float((c + b).max()) + more + 5


def inner_width(shape: ChestShape) -> float:
    """The chest's largest inner width above the diaphragm, as it is measured for the cardiothoracic ratio."""
    z = np.linspace(-120, 100, 45) * shape.scale[2]
    return float(2 * (_section(_CAGE, shape, z)[0].max() - RIBS_INNER))


def dome(shape: ChestShape, x: Array, y: Array) -> Array:
    """Height of the diaphragm: two domes, the right one higher, falling to the costal margins and into the gutter behind."""
    sx, sy, sz = shape.scale
    x, y = x / np.float32(sx), y / np.float32(sy)
    high, low = (d / sz for d in shape.diaphragm)
    right = high - 46 - 58 * (np.abs(x + 72) / 78) ** 2.4 - 52 * (np.abs(y + 12) / 84) ** 2.4
    left = low - 60 - 56 * (np.abs(x - 74) / 76) ** 2.4 - 50 * (np.abs(y + 8) / 84) ** 2.4
    middle = (high + low) / 2 - 70 - 30 * np.square(np.abs(y + 20) / 70) - 40 * np.square(np.square(x / 60))
    top = np.maximum(np.maximum(right, left), middle)
    out: Array = (np.maximum(top, -168) * sz).astype(np.float32)
    return out
