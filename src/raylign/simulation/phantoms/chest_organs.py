"""What the chest holds: airways, great vessels, the vessel trees of the lungs, the organs under the diaphragm.

Coordinates: see chest_shape.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms import chest_shape
from raylign.simulation.phantoms.chest_shape import ChestShape
from raylign.simulation.phantoms.field import Array, Ellipsoid, Union

Points = NDArray[np.float64]
_HILA = {1.0: np.array([34.0, 8.0, 20.0]), -1.0: np.array([-33.0, 6.0, 14.0])}


def _path(*rows: tuple[float, float, float], n: int = 24) -> Points:
    """A smooth curve through points."""
    from scipy.interpolate import CubicSpline

    points = np.array(rows)
    t = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    out: Points = CubicSpline(t, points)(np.linspace(0, t[-1], n))
    return out


def aorta_line(shape: ChestShape) -> Points:
    """Root, arch over the left main bronchus, and the descending aorta down the left front of the spine."""
    low = []
    for z in (30.0, 0.0, -40.0, -80.0, -120.0, -170.0, -240.0):
        x, y = chest_shape.spine_line(shape, z)
        low.append((float(x) + max(8.0, 24.0 + z * 0.11), float(y) - 27.0, z))
    return _path((4, -22, 16), (-8, -34, 38), (-12, -34, 58), (2, -20, 78), (20, 6, 74), (26, 20, 55), *low, n=60)


def great_vessels(union: Union, shape: ChestShape, number: dict[str, int]) -> None:
    """Aorta, pulmonary trunk and arteries, venae cavae, pulmonary veins and the arch's branches."""
    dz = shape.diaphragm * 0.7
    union.tube(aorta_line(shape), np.interp(np.linspace(0, 1, 60), [0, 0.2, 0.4, 1], [16, 15.5, 12.5, 10.5]), number["aorta"])
    trunk = _path((16, -52, 2), (20, -46, 22), (20, -24, 38), (12, -8, 36))
    union.tube(trunk, 13.5, number["pulmonary_artery"])
    union.tube(
        _path((16, -20, 38), (28, 2, 40), tuple(_HILA[1.0] + [4, 2, 6])), np.linspace(12, 8, 24), number["pulmonary_artery"]
    )
    union.tube(_path((12, -8, 36), (-14, -6, 30), tuple(_HILA[-1.0])), np.linspace(12, 8.5, 24), number["pulmonary_artery"])
    union.tube(_path((-27, -24, 0), (-29, -24, 40), (-25, -26, 88)), np.linspace(10.5, 9, 24), number["superior_vena_cava"])
    union.tube(
        _path((-24, -14, -38 + dz), (-22, -4, -60 + dz), (-20, 12, -120), (-16, 18, -250)), 12.0, number["inferior_vena_cava"]
    )
    for s in (1.0, -1.0):
        for z in (22.0, -2.0):
            union.tube(
                np.array([[s * 20, 6, 12], _HILA[s] + [s * 6, -4, z - 16]]), np.array([8.0, 5.5]), number["pulmonary_vein"]
            )
    for x0, x1 in ((-8.0, -26.0), (6.0, 18.0), (17.0, 34.0)):
        branch = _path((x0, -10 + x0 * 0.4, 78), ((x0 + x1) / 2, -12, 108), (x1, -6, 140), (x1, -10, 220))
        union.tube(branch, np.linspace(6.5, 4, 24), number["arch_branches"])


def airways(lumen: Union, wall: Union, shape: ChestShape, label: int) -> None:
    """Trachea, main and lobar bronchi: air in ``lumen``, the tube around it in ``wall``."""
    carina = np.array([-1.0, 3.0, 48.0])
    tubes: list[tuple[Points, Points]] = [
        (_path((0, -14, 230), (0, -12, 160), (0, -4, 100), tuple(carina)), np.full(24, 8.6)),
    ]
    for s, z in ((1.0, 22.0), (-1.0, 26.0)):
        main = _path(tuple(carina), (s * 17, 7, z + 14), tuple(_HILA[s] + [0, 2, 4]))
        tubes.append((main, np.linspace(7.2, 5.4, 24)))
        for end in ((26, -6, 34), (20, -34, 2), (20, 18, -36), (14, 34, 4)):
            start = main[-1]
            half, whole = (start + np.multiply(end, (s * part, part, part)) for part in (0.5, 1.0))
            tubes.append((_path(tuple(start), tuple(half), tuple(whole)), np.linspace(3.8, 1.9, 24)))
    for line, radius in tubes:
        lumen.tube(line, radius, label)
        wall.tube(line, radius + np.minimum(1.5, radius * 0.35), label)


def lung_tree(union: Union, shape: ChestShape, rng: np.random.Generator, label: int) -> None:
    """Arteries and veins branching from each hilum towards the pleura; a branch that would leave the lung is not grown."""
    for side, hilum in _HILA.items():
        n = 22
        start = hilum + rng.normal(0, [4, 4, 9], (n, 3)) + [side * 3, 0, -8]
        heading = _spread(n) * [1.0, 1.1, 1.35] - [0, 0, 0.3]  # most of the lung lies below its hilum
        heading[:, 0] = side * np.abs(heading[:, 0]) + side * 0.35
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        radius = rng.uniform(2.6, 4.4, n)
        length = rng.uniform(22, 33, n)
        for generation in range(7):
            middle = start + heading * length[:, None] * 0.5 + rng.normal(0, 0.05, start.shape) * length[:, None]
            end = start + heading * length[:, None]
            x, y, z = (c.astype(np.float32) for c in end.T)
            room = chest_shape.lungs(shape, (x, y, z)) if len(x) else x
            keep = (room < -2.5) if generation else np.ones(n, bool)
            start, middle, end, heading, radius, length = (v[keep] for v in (start, middle, end, heading, radius, length))
            for a, m, b, r in zip(start, middle, end, radius, strict=True):
                union.tube(np.stack([a, m, b]), np.array([r, r * 0.94, r * 0.86]), label)
            if generation == 6 or not len(end):
                break
            heading, start = _fork(heading, rng), np.repeat(end, 2, 0)
            share = rng.uniform(0.68, 0.86, len(start))
            radius = np.repeat(radius, 2) * share
            length = np.repeat(length, 2) * rng.uniform(0.7, 0.92, len(start))


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


def cavities(shape: ChestShape) -> dict[str, Ellipsoid]:
    """The blood in each chamber: the chamber less its wall (left ventricle 10 mm, right 4, atria 2.5)."""
    walls = {"heart_ventricle_left": 10.0, "heart_ventricle_right": 4.0, "heart_atrium_left": 2.5, "heart_atrium_right": 2.5}
    out = {}
    for name, solid in chest_shape.heart_parts(shape).items():
        a, b, c = (r - walls[name] for r in solid.radii)
        out[name] = Ellipsoid(solid.centre, (a, b, c), solid.axis)
    return out


def abdomen(shape: ChestShape) -> dict[str, Ellipsoid]:
    """Organs under the diaphragm other than the liver and what fills the stomach."""
    dz = shape.diaphragm
    return {
        "spleen": Ellipsoid((92, 48, -112 + dz), (24, 40, 46), (0.2, 0.35, 1.0)),
        "kidney_left": Ellipsoid((58, 50, -176 + dz), (26, 24, 54), (-0.2, 0.2, 1.0)),
        "kidney_right": Ellipsoid((-58, 50, -190 + dz), (26, 24, 54), (0.2, 0.2, 1.0)),
        "stomach": Ellipsoid((58, -14, -116 + dz), (36, 44, 48), (-0.35, -0.3, 1.0)),
        "colon": Ellipsoid((88, -46, -150 + dz), (24, 24, 32), (0.3, 0.2, 1.0)),
    }


def liver(shape: ChestShape, xyz: tuple[Array, Array, Array]) -> Array:
    """The liver fills the right dome and thins out to the left; clipped by the diaphragm where it is painted."""
    dz = shape.diaphragm
    right = Ellipsoid((-64, -4, -112 + dz), (86, 96, 84)).distance(*xyz)
    left = Ellipsoid((12, -46, -102 + dz), (62, 44, 36), (0.2, 0.1, 1.0)).distance(*xyz)
    edge = (xyz[0] * 0.8 - xyz[2] - np.float32(196 - dz)) * np.float32(0.75)  # the lower edge rises to the left
    return np.maximum(np.minimum(right, left), edge)
