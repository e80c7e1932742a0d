"""The surfaces that give a chest its shape: spine line, trunk, rib cage, diaphragm, lungs.

Anatomical mm of an average adult lying on the back: x to the left, y to the back, z to the head, origin on the midline at the
height of the middle of T7. Dimensions are typical adult values (Gray's Anatomy, 41st ed., chapters 53 to 57), rounded.
Every function takes coordinates that broadcast, so that a grid and a list of points see the same anatomy at any resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.field import Array, Ellipsoid, curve, smooth_min

LEVELS = ("C6", "C7", *(f"T{i}" for i in range(1, 13)), "L1", "L2", "L3")
_PITCH = (16, 17, 20, 20.5, 21, 21.5, 22, 22.5, 23, 23.5, 24.5, 25.5, 27, 29, 33, 35, 36)  # body and disc, mm
_EDGES = np.concatenate([[0.0], np.cumsum(_PITCH)])
_MIDDLES = (_EDGES[1:] + _EDGES[:-1]) / 2
HEIGHTS = dict(zip(LEVELS, (_MIDDLES[LEVELS.index("T7")] - _MIDDLES).tolist(), strict=True))
PITCHES = dict(zip(LEVELS, _PITCH, strict=True))

# z, half width, front, back (mm): the skin, and the middle of the ribs
_SKIN = (
    (200, 58, -50, 66), (165, 62, -52, 74), (150, 80, -60, 88), (135, 112, -74, 99), (115, 148, -90, 110), (90, 163, -104, 118),
    (60, 168, -115, 123), (30, 167, -120, 125), (0, 165, -123, 125), (-60, 163, -125, 122), (-120, 160, -123, 116),
    (-170, 158, -120, 112), (-250, 156, -118, 108),
)  # fmt: skip
_CAGE = (
    (164, 16, 4, 34), (155, 40, -6, 44), (135, 68, -24, 60), (112, 92, -44, 74), (90, 107, -60, 83), (60, 121, -76, 91),
    (30, 130, -87, 96), (0, 136, -94, 98), (-40, 141, -101, 98), (-80, 143, -104, 96), (-120, 142, -102, 92),
    (-170, 138, -98, 86), (-250, 134, -96, 84),
)  # fmt: skip


@dataclass(frozen=True)
class ChestShape:
    """What differs from one chest to the next; lengths in mm, factors around 1."""

    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    kyphosis: float = 27.0
    scoliosis: float = 0.0
    fat: float = 12.0
    heart: float = 1.0
    diaphragm: float = 0.0
    rib_slope: float = 1.0
    muscle: float = 1.0


def draw_shape(rng: np.random.Generator) -> ChestShape:
    """A chest at random, within what is common among adults."""
    sx, sy, sz = rng.normal(1.0, (0.035, 0.04, 0.03)).clip(0.93, 1.07)
    return ChestShape(
        scale=(float(sx), float(sy), float(sz)),
        kyphosis=float(rng.uniform(20, 34)),
        scoliosis=float(rng.uniform(-4, 4)),
        fat=float(rng.uniform(8, 15)),
        heart=float(rng.uniform(1.0, 1.14)),
        diaphragm=float(rng.uniform(-8, 10)),
        rib_slope=float(rng.uniform(0.88, 1.12)),
        muscle=float(rng.uniform(0.8, 1.2)),
    )


def spine_line(shape: ChestShape, z: NDArray[np.floating] | float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of the middle of the vertebral bodies at height z: a kyphosis, a slight sideways bend, the lumbar turn forward."""
    u = np.clip(np.asarray(z, float), -260, 240) / 150
    x = shape.scoliosis * np.sin(2.2 * u + 0.4)
    y = 50 - shape.kyphosis * u**2 / (1 + 0.25 * u**2)
    return x, y


def tilt(shape: ChestShape, z: float) -> tuple[float, float]:
    """dx/dz and dy/dz of the spine line."""
    (xa, ya), (xb, yb) = spine_line(shape, z - 5.0), spine_line(shape, z + 5.0)
    return float(xb - xa) / 10, float(yb - ya) / 10


def _oval(knots: tuple[tuple[int, ...], ...], square: float, xyz: tuple[Array, Array, Array]) -> Array:
    """Distance to a stack of ovals, between an ellipse (square 0) and a superellipse of degree four (square 1)."""
    x, y, z = xyz
    a, front, back = (v.reshape(z.shape).astype(np.float32) for v in curve(knots, z.ravel()).T)
    b, c = (back - front) / 2, (back + front) / 2
    px, py = (x / a) ** 2, ((y - c) / b) ** 2
    round_, boxy = np.sqrt(px + py), np.sqrt(np.sqrt(px * px + py * py))
    q = round_ * np.float32(1 - square) + boxy * np.float32(square)
    # one unit of q is worth the half axis towards the point; its mean along the ray is good enough inside the skin
    reach = np.sqrt((px * a * a + py * b * b) / np.maximum(px + py, np.float32(1e-6)))
    out: Array = (q - 1) * np.maximum(reach, np.float32(1))
    return out


_SHOULDERS = (
    Ellipsoid((138, 22, 98), (44, 50, 52), (0.35, 0.0, 1.0)),
    Ellipsoid((162, 16, 150), (26, 30, 70), (0.25, -0.05, 1.0)),  # the arm, raised as on the table
)


def trunk(shape: ChestShape, xyz: tuple[Array, Array, Array]) -> Array:
    """Distance to the skin: trunk, neck, shoulders and the raised upper arms."""
    x, y, z = xyz
    d = _oval(_SKIN, 0.45, xyz)
    # the groove over the spine
    d = d + np.float32(5) * np.exp(-((x / 22) ** 2)) * np.exp(-(((y - 120) / 18) ** 2)) * (z < 140)
    upper = slice(int(np.searchsorted(z.ravel(), 20)), len(z))
    for sides in (x.ravel() < -50, x.ravel() > 50):  # each shoulder on its own half
        where = np.flatnonzero(sides)
        if not len(where) or upper.start == upper.stop:
            continue
        half = slice(int(where[0]), int(where[-1]) + 1)
        part = d[upper, :, half]
        for solid in _SHOULDERS:
            part = smooth_min(part, solid.distance(np.abs(x[:, :, half]), y, z[upper]), 26)
        d[upper, :, half] = part
    return d


def cage(xyz: tuple[Array, Array, Array]) -> Array:
    """Distance to the surface in which the ribs lie."""
    return _oval(_CAGE, 0.35, xyz)


def cage_point(angle: NDArray[np.float64], z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x >= 0 and y on that surface at an angle from the back (0) over the side (pi/2) to the front (pi)."""
    a, front, back = curve(_CAGE, z).T
    b, c = (back - front) / 2, (back + front) / 2
    s, k = np.sin(angle), np.cos(angle)
    q = 0.65 + 0.35 * np.sqrt(np.sqrt(s**4 + k**4))
    return a * s / q, c + b * k / q


def dome(shape: ChestShape, x: Array, y: Array) -> Array:
    """Height of the diaphragm: two domes, the right one higher, falling to the costal margins and into the gutter behind."""
    right = -46 - 58 * (np.abs(x + 72) / 78) ** 2.4 - 52 * (np.abs(y + 12) / 84) ** 2.4
    left = -60 - 56 * (np.abs(x - 74) / 76) ** 2.4 - 50 * (np.abs(y + 8) / 84) ** 2.4
    middle = -70 - 30 * (np.abs(y + 20) / 70) ** 2 - 40 * (np.abs(x) / 60) ** 4
    top = np.maximum(np.maximum(right, left), middle)
    out: Array = np.maximum(top + shape.diaphragm, -168).astype(np.float32)
    return out


def heart_parts(shape: ChestShape) -> dict[str, Ellipsoid]:
    """The chambers with their walls. The long axis runs from the right atrium down, forward and to the left."""
    s, dz = shape.heart, shape.diaphragm * 0.7
    table = {
        "heart_ventricle_left": ((40.0, -38.0, -30.0), (34.0, 34.0, 54.0), (0.72, -0.42, -0.56)),
        "heart_ventricle_right": ((8.0, -58.0, -38.0), (33.0, 25.0, 48.0), (0.84, -0.18, -0.5)),
        "heart_atrium_left": ((4.0, 2.0, 14.0), (32.0, 22.0, 27.0), (0.1, 0.0, 1.0)),
        "heart_atrium_right": ((-27.0, -30.0, -20.0), (25.0, 28.0, 38.0), (0.1, 0.0, 1.0)),
    }
    return {
        name: Ellipsoid((c[0] * s, c[1] * s + 2, c[2] * s + dz), (r[0] * s, r[1] * s, r[2] * s), axis)
        for name, (c, r, axis) in table.items()
    }


def heart(shape: ChestShape, xyz: tuple[Array, Array, Array]) -> Array:
    """Distance to the pericardium."""
    solids = list(heart_parts(shape).values())
    d = solids[0].distance(*xyz)
    for solid in solids[1:]:
        d = smooth_min(d, solid.distance(*xyz), 18)
    return d - np.float32(2.5)


def mediastinum(shape: ChestShape, xyz: tuple[Array, Array, Array]) -> Array:
    """Distance to what lies between the lungs: the heart, the great vessels' column, the spine and its muscles."""
    x, y, z = xyz
    sx, sy = (v.reshape(z.shape).astype(np.float32) for v in spine_line(shape, z.ravel()))
    spine = np.sqrt((x - sx) ** 2 + (y - sy) ** 2) - np.float32(23)
    column = curve(((200, 26), (120, 24), (90, 29), (60, 33), (35, 30), (10, 20), (-60, 17), (-200, 17)), z.ravel())
    width = column.reshape(z.shape).astype(np.float32)
    # the lungs nearly meet in front of the great vessels
    forward = np.float32(0.3) + np.float32(0.7) / (1 + np.exp(-(y + 42) / 7))
    d = smooth_min(np.abs(x - np.float32(3)) - width * forward, spine, 10)
    near = _near_heart(shape, xyz)
    d[near] = smooth_min(d[near], heart(shape, _part(xyz, near)), 8)
    return d


def _near_heart(shape: ChestShape, xyz: tuple[Array, Array, Array]) -> tuple[slice, ...]:
    """The part of a grid that the heart or its fillets may touch; all of a list of points."""
    if xyz[0].ndim != 3:
        return (slice(None),)
    solids = heart_parts(shape).values()
    low = np.min([np.asarray(s.centre) - max(s.radii) for s in solids], 0) - 30
    high = np.max([np.asarray(s.centre) + max(s.radii) for s in solids], 0) + 30
    ends = [np.searchsorted(axis.ravel(), (a, b)).tolist() for axis, a, b in zip(xyz, low, high, strict=True)]
    return tuple(slice(a, b) for a, b in reversed(ends))


def _part(xyz: tuple[Array, Array, Array], box: tuple[slice, ...]) -> tuple[Array, Array, Array]:
    if len(box) == 1:
        return xyz
    return xyz[0][:, :, box[2]], xyz[1][:, box[1]], xyz[2][box[0]]


def lungs(shape: ChestShape, xyz: tuple[Array, Array, Array], wall: Array | None = None) -> Array:
    """Distance to both lungs: in the cage (``wall`` where it is known), above the diaphragm, beside the mediastinum."""
    x, y, z = xyz
    inside = np.maximum((cage(xyz) if wall is None else wall) + np.float32(6.5), -mediastinum(shape, xyz))
    out: Array = np.maximum(inside, (dome(shape, x, y) - z) * np.float32(0.75))
    return out
