"""The heart at the end of diastole: a left ventricle with wall and cavity, the other chambers around it, the pericardium.

The left ventricle is a truncated ellipsoid of revolution, nearly: an ellipsoid for the cavity, a larger one for the outside,
thinner at the apex, both cut off by a plane at the base. The outside is cut ``RIM`` mm further up, which closes the cavity by a
thin plate (the valves). Mitral and aortic valve lie in that plate. The other chambers are ellipsoids; what the left ventricle
takes of the right one leaves the crescent that a right ventricle is.

Coordinates: see thorax_shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.field import Array, Box, Ellipsoid, Union, smooth_min

Vector = NDArray[np.float64]
XYZ = tuple[Array, Array, Array]
RIM = 2.5
_BELLY = 0.30  # the widest cross-section lies this share of the length below the base
_PERICARDIUM = 2.5

# the other chambers of a heart with the axis _AXIS, from the middle of its base, mm: centre, semi-axes, direction of the third
_AXIS = np.array([0.717, -0.418, -0.558])
_PARTS = {
    "heart_ventricle_right": ((-2.0, -30.0, -30.0), (42.0, 30.5, 55.0), (0.8, -0.3, -0.52)),
    "heart_atrium_right": ((-29.0, 0.0, -6.0), (23.0, 27.0, 35.0), (0.1, 0.0, 1.0)),
    "heart_atrium_left": ((-12.0, 21.0, 12.0), (31.0, 18.5, 24.0), (0.1, 0.0, 1.0)),
}
_WALLS = {"heart_ventricle_right": 3.5, "heart_atrium_right": 2.5, "heart_atrium_left": 2.5}


@dataclass(frozen=True)
class Heart:
    """Size, place and direction of a heart; lengths in mm.

    Parameters
    ----------
    base: [3] middle of the left ventricle's base plane.
    axis: [3] unit vector from there to its apex.
    length: of its cavity, base plane to apex.
    radius: of its cavity where it is widest.
    oval: how much wider one of its short axes is than the other: factors ``oval`` and ``1 / oval`` on the radius.
    wall: thickness of its wall where it is widest.
    apex_wall: thickness at the apex.
    size: of the other chambers' places, 1 for a ventricle of 150 ml.
    right, atria: factors on the sizes of the right ventricle, and of the right and left atrium.
    """

    base: tuple[float, float, float]
    axis: tuple[float, float, float]
    length: float
    radius: float
    oval: float
    wall: float
    apex_wall: float
    size: float
    right: float
    atria: tuple[float, float]

    @cached_property
    def turn(self) -> NDArray[np.float64]:
        """The smallest rotation [3, 3] from the typical axis to this one."""
        a, b = _AXIS / np.linalg.norm(_AXIS), np.asarray(self.axis)
        v, c = np.cross(a, b), float(a @ b)
        k = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
        out: NDArray[np.float64] = np.eye(3) + k + k @ k / (1 + c)
        return out

    def at(self, offset: tuple[float, float, float]) -> Vector:
        """A place given by its offset from the base in the typical heart."""
        out: Vector = np.asarray(self.base) + self.size * (self.turn @ np.asarray(offset))
        return out

    def along(self, distance: float) -> Vector:
        """A point of the left ventricle's axis, mm below the base plane."""
        out: Vector = np.asarray(self.base) + distance * np.asarray(self.axis)
        return out

    @cached_property
    def cavity(self) -> Ellipsoid:
        """The ellipsoid of which the left ventricle's cavity is a part."""
        return self._ellipsoid(0.0, 0.0)

    @cached_property
    def outside(self) -> Ellipsoid:
        """The ellipsoid of which the left ventricle's outer surface is a part."""
        return self._ellipsoid(self.wall, self.apex_wall)

    def _ellipsoid(self, side: float, end: float) -> Ellipsoid:
        x, y, z = (float(v) for v in self.along(_BELLY * self.length))
        a, b = self.radius * self.oval + side, self.radius / self.oval + side
        return Ellipsoid((x, y, z), (a, b, (1 - _BELLY) * self.length + end), self.axis)

    @cached_property
    def chambers(self) -> dict[str, Ellipsoid]:
        """The other chambers with their walls, before the left ventricle takes its place."""
        factors = (self.right, *self.atria)
        out = {}
        for (name, (offset, radii, axis)), factor in zip(_PARTS.items(), factors, strict=True):
            x, y, z = (float(v) for v in self.at(offset))
            a, b, c = (float(r * self.size * factor) for r in radii)
            u, v, w = (float(v) for v in self.turn @ np.asarray(axis))
            out[name] = Ellipsoid((x, y, z), (a, b, c), (u, v, w))
        return out

    @cached_property
    def cavities(self) -> dict[str, Ellipsoid]:
        """The blood of the other chambers, before the left ventricle takes its place."""
        out = {}
        for name, solid in self.chambers.items():
            a, b, c = (r - _WALLS[name] for r in solid.radii)
            out[name] = Ellipsoid(solid.centre, (a, b, c), solid.axis)
        return out

    def volume_ml(self) -> float:
        """Of the left ventricle's cavity: a truncated ellipsoid has a closed form."""
        return _truncated(self.cavity.radii, _BELLY * self.length) / 1000

    def mass_g(self) -> float:
        """Of the left ventricle's wall and septum, valves left out, at 1.05 g/ml."""
        down = self.length * _BELLY
        whole = _truncated(self.outside.radii, down)
        return (whole / 1000 - self.volume_ml()) * 1.05

    def extent(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner of the box around the pericardium, fillets between chambers apart."""
        solids = [self.outside, *self.chambers.values()]
        reach = [np.sqrt((np.square(s.frame) * np.square(s.radii)[:, None]).sum(0)) + _PERICARDIUM for s in solids]
        centres = [np.asarray(s.centre) for s in solids]
        low = np.min([c - r for c, r in zip(centres, reach, strict=True)], 0)
        high = np.max([c + r for c, r in zip(centres, reach, strict=True)], 0)
        return low, high


def _truncated(radii: tuple[float, float, float], down: float) -> float:
    """Volume of an ellipsoid cut off at a height ``down`` above its centre, mm^3."""
    a, b, c = radii
    return math.pi * a * b * (2 * c / 3 + down - down**3 / (3 * c * c))


def length_for(volume_ml: float, slender: float) -> float:
    """The length of a cavity of this volume whose widest diameter is ``slender`` times its length, mm."""
    c = 1 - _BELLY
    unit = math.pi * (slender / 2) ** 2 * (2 * c / 3 + _BELLY - _BELLY**3 / (3 * c * c))
    return float((volume_ml * 1000 / unit) ** (1 / 3))


def _below(heart: Heart, xyz: XYZ, rim: float) -> Array:
    """Distance above the base plane: negative towards the apex."""
    x, y, z = xyz
    (a, b, c), (u, v, w) = heart.base, heart.axis
    s = (x - np.float32(a)) * np.float32(u) + (y - np.float32(b)) * np.float32(v) + (z - np.float32(c)) * np.float32(w)
    return -s - np.float32(rim)


def left_cavity(heart: Heart, xyz: XYZ) -> Array:
    """Distance to the blood of the left ventricle."""
    out: Array = np.maximum(heart.cavity.distance(*xyz), _below(heart, xyz, 0.0))
    return out


def left_outside(heart: Heart, xyz: XYZ) -> Array:
    """Distance to the left ventricle's outer surface, its cavity within."""
    out: Array = np.maximum(heart.outside.distance(*xyz), _below(heart, xyz, RIM))
    return out


def pericardium(heart: Heart, xyz: XYZ) -> Array:
    """Distance to the sack around all chambers and the fat between them."""
    d = left_outside(heart, xyz)
    for solid in heart.chambers.values():
        d = smooth_min(d, solid.distance(*xyz), 18)
    return d - np.float32(_PERICARDIUM)


def near(heart: Heart, union: Union, margin: float) -> Box | None:
    """The part of a union's grid that the heart may touch."""
    low, high = heart.extent()
    return union.grid.box(low - margin, high + margin)


def add_left(union: Union, heart: Heart, label: int, outside: bool) -> None:
    """The left ventricle's cavity, or all that its outer surface holds."""
    box = near(heart, union, 2 * union.grid.voxel)
    if box is not None:
        solid = left_outside if outside else left_cavity
        union.add(box, union.grid.evaluate(lambda x, y, z: solid(heart, (x, y, z)), box), label)
