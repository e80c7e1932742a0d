"""What the chest holds: lungs, airways and the vessel trees in them, the organs under the diaphragm.

Coordinates: see thorax_shape; places in tables are those of the straight patient of scale 1.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms import thorax_heart, thorax_shape
from raylign.simulation.phantoms.field import Array, Ellipsoid, Union, curve, smooth_min
from raylign.simulation.phantoms.thorax_bones import NECK
from raylign.simulation.phantoms.thorax_heart import Heart
from raylign.simulation.phantoms.thorax_shape import ChestShape

Points = NDArray[np.float64]
XYZ = tuple[Array, Array, Array]
HILA = {1.0: np.array([36.0, 8.0, 20.0]), -1.0: np.array([-34.0, 6.0, 14.0])}
_COLUMN = ((200, 26), (130, 21), (90, 20), (60, 20), (35, 19), (10, 17), (-60, 15), (-200, 15))  # height, half width


def path(points: Points, n: int = 24) -> Points:
    """A smooth curve through points."""
    from scipy.interpolate import CubicSpline

    t = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    out: Points = CubicSpline(t, points)(np.linspace(0, t[-1], n))
    return out


def mediastinum(shape: ChestShape, heart: Heart, xyz: XYZ) -> Array:
    """Distance to what lies between the lungs: the heart, the great vessels' column, the spine and its muscles."""
    x, y, z = xyz
    sx, sy, sz = shape.scale
    mid, back = (v.reshape(z.shape).astype(np.float32) for v in thorax_shape.spine_line(shape, z.ravel()))
    spine = np.sqrt(np.square(x - mid) + np.square(y - back)) - np.float32(23 * (sx + sy) / 2)
    width = (sx * curve(_COLUMN, z.ravel() / sz)).reshape(z.shape).astype(np.float32)
    # the lungs nearly meet in front of the great vessels
    forward = np.float32(0.3) + np.float32(0.7) / (1 + np.exp(-(y + np.float32(42 * sy)) / np.float32(7)))
    d = smooth_min(np.abs(x - np.float32(3)) - width * forward, spine, 10)
    part = _near_heart(heart, xyz)
    if part is None:
        return d
    near: XYZ = (x[..., part[2]], y[:, part[1]], z[part[0]]) if x.ndim == 3 else (x[part], y[part], z[part])
    d[part] = smooth_min(d[part], thorax_heart.pericardium(heart, near), 8)
    return d


def _near_heart(heart: Heart, xyz: XYZ) -> tuple[slice | NDArray[np.bool_], ...] | None:
    """The part of a grid, or of a list of points, that the heart or its fillets may touch."""
    low, high = heart.extent
    low, high = low - 30, high + 30
    if xyz[0].ndim != 3:
        inside = np.all([(c >= a) & (c <= b) for c, a, b in zip(xyz, low, high, strict=True)], 0)
        return (inside,) if inside.any() else None
    ends = [np.searchsorted(axis.ravel(), (a, b)).tolist() for axis, a, b in zip(xyz, low, high, strict=True)]
    return None if any(a >= b for a, b in ends) else tuple(slice(a, b) for a, b in reversed(ends))


def beside_the_spine(shape: ChestShape, xyz: XYZ) -> Array:
    """Distance above the ribs' necks: negative in front of them, where the lungs may be."""
    x, y, z = xyz
    mid, back = (v.reshape(z.shape).astype(np.float32) for v in thorax_shape.spine_line(shape, z.ravel()))
    u, v = np.abs(x - mid) / np.float32(shape.scale[0]), (y - back) / np.float32(shape.scale[1])
    walls = []
    for (ua, va), (ub, vb) in itertools.pairwise(NECK):
        length = float(np.hypot(ub - ua, vb - va))
        du, dv = np.float32((ub - ua) / length), np.float32((vb - va) / length)
        walls.append((v - np.float32(va)) * du - (u - np.float32(ua)) * dv)
    # rounded corners of the ribs lie further in than these straight lines
    return np.maximum(walls[0] + np.float32(6.2), walls[1] + np.float32(7.6)) + np.float32(3.4 * shape.rib_size)


def lungs(shape: ChestShape, heart: Heart, xyz: XYZ, wall: Array | None = None) -> Array:
    """Distance to both lungs: in the cage (``wall`` where it is known), above the diaphragm, beside the mediastinum.

    The great vessels, which bulge out of the mediastinum's column, take their room where a lung is painted or meshed.
    """
    x, y, z = xyz
    ribs = np.float32(3.8 * shape.rib_size + 4.0)
    inside = (thorax_shape.cage(shape, xyz) if wall is None else wall) + ribs
    inside = np.maximum(inside, -mediastinum(shape, heart, xyz))
    inside = np.maximum(inside, beside_the_spine(shape, xyz))
    out: Array = np.maximum(inside, (thorax_shape.dome(shape, x, y) - z) * np.float32(0.75))
    return out


def airways(lumen: Union, wall: Union, shape: ChestShape, label: int) -> None:
    """Trachea, main and lobar bronchi: air in ``lumen``, the tube around it in ``wall``."""
    carina = (-1.0, 3.0, 48.0)
    size = float(np.mean(shape.scale[:2]))
    rows: list[tuple[Points, Points]] = [
        (np.array([(0, -14, 230), (0, -12, 160), (0, -4, 100), carina]), np.full(24, 8.6)),
    ]
    for s, z in ((1.0, 22.0), (-1.0, 26.0)):
        main = np.array([carina, (s * 17, 7, z + 14), HILA[s] + [0, 2, 4]])
        rows.append((main, np.linspace(7.2, 5.4, 24)))
        for end in ((26, -6, 34), (20, -34, 2), (20, 18, -36), (14, 34, 4)):
            branch = [main[-1] + np.multiply(end, (s * part, part, part)) for part in (0.0, 0.5, 1.0)]
            rows.append((np.array(branch), np.linspace(3.8, 1.9, 24)))
    for points, radius in rows:
        line = path(shape.place(points))
        lumen.tube(line, radius * size, label)
        wall.tube(line, (radius + np.minimum(1.5, radius * 0.35)) * size, label)


def lung_tree(union: Union, shape: ChestShape, heart: Heart, rng: np.random.Generator, label: int) -> None:
    """Arteries and veins branching from each hilum towards the pleura; a branch that would leave the lung is not grown."""
    starts, ends, radii = [], [], []
    for side, hilum in HILA.items():
        n = 22
        start = shape.place(hilum) + rng.normal(0, [4, 4, 9], (n, 3)) + [side * 3, 0, -8]
        heading = _spread(n) * [1.0, 1.1, 1.35] - [0, 0, 0.3]  # most of the lung lies below its hilum
        heading[:, 0] = side * np.abs(heading[:, 0]) + side * 0.35
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        radius = rng.uniform(2.6, 4.4, n)
        length = rng.uniform(22, 33, n)
        for generation in range(7):
            middle = start + heading * length[:, None] * 0.5 + rng.normal(0, 0.05, start.shape) * length[:, None]
            end = start + heading * length[:, None]
            x, y, z = (c.astype(np.float32) for c in end.T)
            room = lungs(shape, heart, (x, y, z)) if len(x) else x
            keep = (room < -2.5) if generation else np.ones(n, bool)
            start, middle, end, heading, radius, length = (v[keep] for v in (start, middle, end, heading, radius, length))
            starts += [start, middle]
            ends += [middle, end]
            radii += [np.stack([radius, radius * 0.94], 1), np.stack([radius * 0.94, radius * 0.86], 1)]
            if generation == 6 or not len(end):
                break
            heading, start = _fork(heading, rng), np.repeat(end, 2, 0)
            share = rng.uniform(0.68, 0.86, len(start))
            radius = np.repeat(radius, 2) * share
            length = np.repeat(length, 2) * rng.uniform(0.7, 0.92, len(start))
    union.tubes(np.concatenate(starts), np.concatenate(ends), np.concatenate(radii), label)


def _spread(n: int) -> Points:
    """n directions spread evenly over the sphere (Fibonacci lattice)."""
    i = np.arange(n) + 0.5
    z, turn = 1 - 2 * i / n, i * np.pi * (3 - np.sqrt(5))
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(turn), r * np.sin(turn), z], 1)


def _fork(heading: Points, rng: np.random.Generator) -> Points:
    """Two directions from each, 15 to 50 degrees to either side in a random plane."""
    across = np.cross(heading, rng.normal(size=heading.shape))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    one, two = (np.tan(np.radians(rng.uniform(15, 45, (len(heading), 1)))) for _ in range(2))
    out = np.stack([heading + one * across, heading - two * across], 1).reshape(-1, 3)
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return out


def _placed(
    shape: ChestShape, centre: tuple[float, ...], radii: tuple[float, ...], axis: tuple[float, float, float]
) -> Ellipsoid:
    x, y, z = (float(v) for v in shape.place(np.asarray(centre, float)))
    a, b, c = (r * s for r, s in zip(radii, shape.scale, strict=True))
    return Ellipsoid((x, y, z), (a, b, c), axis)


def abdomen(shape: ChestShape) -> dict[str, Ellipsoid]:
    """Organs under the diaphragm other than the liver and what fills the stomach."""
    low = shape.diaphragm[1] / shape.scale[2]
    table = {
        "spleen": ((92, 48, -112 + low), (24, 40, 46), (0.2, 0.35, 1.0)),
        "kidney_left": ((58, 50, -176 + low), (26, 24, 54), (-0.2, 0.2, 1.0)),
        "kidney_right": ((-58, 50, -190 + low), (26, 24, 54), (0.2, 0.2, 1.0)),
        "stomach": ((58, -14, -116 + low), (36, 44, 48), (-0.35, -0.3, 1.0)),
        "colon": ((88, -46, -150 + low), (24, 24, 32), (0.3, 0.2, 1.0)),
    }
    return {name: _placed(shape, *row) for name, row in table.items()}


def liver(shape: ChestShape, xyz: XYZ) -> Array:
    """The liver fills the right dome and thins out to the left; clipped by its room where it is painted."""
    high = shape.diaphragm[0] / shape.scale[2]
    right = _placed(shape, (-64, -4, -112 + high), (86, 96, 84), (0.0, 0.0, 1.0)).distance(*xyz)
    left = _placed(shape, (12, -46, -102 + high), (62, 44, 36), (0.2, 0.1, 1.0)).distance(*xyz)
    x, z = xyz[0] / np.float32(shape.scale[0]), xyz[2] / np.float32(shape.scale[2])
    edge = (x * np.float32(0.8) - z - np.float32(196 - high)) * np.float32(0.75)  # the lower edge rises to the left
    return np.maximum(np.minimum(right, left), edge)


def room(shape: ChestShape, heart: Heart, xyz: XYZ, wall: Array | None = None) -> Array:
    """Distance to where the abdomen's organs may be: in the cage, under the diaphragm and under the heart that lies on it."""
    x, y, z = xyz
    inside = (thorax_shape.cage(shape, xyz) if wall is None else wall) + np.float32(9)
    out: Array = np.maximum(inside, (z + np.float32(4) - thorax_shape.dome(shape, x, y)) * np.float32(0.75))
    part = _near_heart(heart, xyz)
    if part is not None:
        near: XYZ = (x[..., part[2]], y[:, part[1]], z[part[0]]) if x.ndim == 3 else (x[part], y[part], z[part])
        out[part] = np.maximum(out[part], np.float32(3) - thorax_heart.pericardium(heart, near))
    return out
