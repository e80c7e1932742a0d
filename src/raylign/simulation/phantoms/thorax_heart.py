"""The heart at the end of diastole: a left ventricle with wall and cavity, the other chambers around it, the pericardium.

The left ventricle is a truncated ellipsoid: one ellipsoid for the cavity, a larger one for the outside, thinner at the apex, both
tapered and bent alike, both cut off by a plane at the base. The outside is cut ``RIM`` mm further up, which closes the cavity by
a thin plate (the valves): mitral and aortic valve lie in it. As one map of space tapers and bends both, the cavity stays within
the wall whatever the numbers. The other chambers are ellipsoids; what the left ventricle takes of the right one leaves the
crescent that a right ventricle is.

Coordinates: see thorax_shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.field import Array, Box, Ellipsoid, Union, dot, quadric, smooth_min

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
    oval: factors ``oval`` and ``1 / oval`` on the radius along its two short axes, which are turned by ``roll`` radians.
    taper: how much wider cross-sections grow from the widest one to the apex, relative to an ellipsoid (0).
    bend: [2] how far the apex lies off the axis along the two short axes, mm.
    lobes: [8] relative changes of the radius around the axis: cos and sin of twice and three times the angle, then the same
        growing from the widest cross-section to the apex.
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
    roll: float
    taper: float
    bend: tuple[float, float]
    lobes: tuple[float, ...]
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
    def cavity(self) -> tuple[float, float, float]:
        """Semi-axes of the ellipsoid of which the left ventricle's cavity is a part, the long one last."""
        return self.radius * self.oval, self.radius / self.oval, (1 - _BELLY) * self.length

    @cached_property
    def outside(self) -> tuple[float, float, float]:
        """The same for its outer surface."""
        a, b, c = self.cavity
        return a + self.wall, b + self.wall, c + self.apex_wall

    @cached_property
    def frame(self) -> NDArray[np.float64]:
        """Directions [3, 3] of these semi-axes, one a row."""
        u, v, w = Ellipsoid((0, 0, 0), (1, 1, 1), self.axis).frame
        c, s = math.cos(self.roll), math.sin(self.roll)
        return np.stack([c * u + s * v, c * v - s * u, w])

    @cached_property
    def centre(self) -> Vector:
        """The middle of both ellipsoids."""
        return self.along(_BELLY * self.length)

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
        """Of the left ventricle's cavity, in closed form."""
        return _truncated(self.cavity, self.length, self.taper, self.lobes) / 1000

    def mass_g(self) -> float:
        """Of the left ventricle's wall and septum, valves left out, at 1.05 g/ml."""
        return (_truncated(self.outside, self.length, self.taper, self.lobes) / 1000 - self.volume_ml()) * 1.05

    def left_points(self, rings: int, sides: int, outside: bool) -> NDArray[np.float64]:
        """Corresponding points [rings * sides, 3] of the left ventricle's inner or outer surface, from the base to the apex."""
        a, b, c = self.outside if outside else self.cavity
        low = -_BELLY * self.length - (RIM if outside else 0.0)
        height = np.cos(np.linspace(math.acos(low / c), 0, rings))  # of the long semi-axis
        angle = 2 * math.pi * np.arange(sides) / sides
        t = c * height / self.cavity[2]
        size = np.sqrt(np.maximum(1 - height**2, 0))[:, None]
        p, q = a * size * np.cos(angle), b * size * np.sin(angle)
        wide = _wide(self, p, q, t[:, None])
        p, q = (v * wide + (off * t * np.abs(t))[:, None] for v, off in zip((p, q), self.bend, strict=True))
        local = np.stack([p, q, np.broadcast_to((c * height)[:, None], p.shape)], -1).reshape(-1, 3)
        out: NDArray[np.float64] = self.centre + local @ self.frame
        return out

    @cached_property
    def extent(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner of the box around the pericardium, fillets between chambers apart."""
        left = self.left_points(24, 32, True)
        corners = [left.min(0), left.max(0)]
        for solid in self.chambers.values():
            reach = np.sqrt((np.square(solid.frame) * np.square(solid.radii)[:, None]).sum(0))
            corners += [solid.centre - reach, solid.centre + reach]
        return np.min(corners, 0) - _PERICARDIUM, np.max(corners, 0) + _PERICARDIUM


def _truncated(radii: tuple[float, float, float], length: float, taper: float, lobes: tuple[float, ...]) -> float:
    """Volume of a tapered, lobed ellipsoid below the base plane of a cavity of this length, mm^3."""
    a, b, c = radii
    unit = 1 / ((1 - _BELLY) * length)
    square = np.polynomial.Polynomial([1, taper * unit]) ** 2
    for still, growing in zip(lobes[:4], lobes[4:], strict=True):
        square = square + 0.5 * np.polynomial.Polynomial([still, growing * unit]) ** 2
    whole = (np.polynomial.Polynomial([1, 0, -1 / c**2]) * square).integ()
    return float(math.pi * a * b * (whole(c) - whole(-_BELLY * length)))


def length_for(volume_ml: float, slender: float, taper: float, lobes: tuple[float, ...]) -> float:
    """The length of a cavity of this volume whose widest diameter is ``slender`` times its length, mm."""
    unit = _truncated((slender / 2, slender / 2, 1 - _BELLY), 1.0, taper, lobes)
    return float((volume_ml * 1000 / unit) ** (1 / 3))


def _wide(heart: Heart, p: NDArray[Any], q: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
    """How much wider a cross-section is than the ellipse, in the direction of (p, q), at the height t of the long semi-axis."""
    a, b = p / p.dtype.type(heart.oval), q * q.dtype.type(heart.oval)
    inverse = 1 / np.maximum(np.sqrt(a * a + b * b), p.dtype.type(1e-6))
    c, s = a * inverse, b * inverse
    out = 1 + p.dtype.type(heart.taper) * t
    for i, shape in enumerate((c * c - s * s, 2 * c * s, c * (c * c - 3 * s * s), s * (3 * c * c - s * s))):
        out = out + (p.dtype.type(heart.lobes[i]) + p.dtype.type(heart.lobes[i + 4]) * t) * shape
    return np.clip(out, p.dtype.type(0.5), p.dtype.type(1.5))


def _left(heart: Heart, xyz: XYZ, radii: tuple[float, float, float], rim: float) -> Array:
    """Distance to one of the two surfaces: space straightened and untapered, then an ellipsoid, then the base plane."""
    rx, ry, rz = (axis - np.float32(c) for axis, c in zip(xyz, heart.centre, strict=True))
    p, q, s = (dot(rx, ry, rz, e) for e in heart.frame)
    t = s * np.float32(1 / heart.cavity[2])
    off = t * np.abs(t)
    p, q = p - np.float32(heart.bend[0]) * off, q - np.float32(heart.bend[1]) * off
    wide = _wide(heart, p, q, t)
    p, q = p / wide, q / wide
    below = -s - np.float32(_BELLY * heart.length + rim)
    out: Array = np.maximum(quadric([p, q, s], radii), below)
    return out


def left_cavity(heart: Heart, xyz: XYZ) -> Array:
    """Distance to the blood of the left ventricle."""
    return _left(heart, xyz, heart.cavity, 0.0)


def left_outside(heart: Heart, xyz: XYZ) -> Array:
    """Distance to the left ventricle's outer surface, its cavity within."""
    return _left(heart, xyz, heart.outside, RIM)


def pericardium(heart: Heart, xyz: XYZ) -> Array:
    """Distance to the sack around all chambers and the fat between them."""
    d = left_outside(heart, xyz)
    for solid in heart.chambers.values():
        d = smooth_min(d, solid.distance(*xyz), 18)
    return d - np.float32(_PERICARDIUM)


def near(heart: Heart, union: Union, margin: float) -> Box | None:
    """The part of a union's grid that the heart may touch."""
    low, high = heart.extent
    return union.grid.box(low - margin, high + margin)


def add_left(union: Union, heart: Heart, label: int, outside: bool) -> None:
    """The left ventricle's cavity, or all that its outer surface holds."""
    box = near(heart, union, 2 * union.grid.voxel)
    if box is not None:
        solid = left_outside if outside else left_cavity
        union.add(box, union.grid.evaluate(lambda x, y, z: solid(heart, (x, y, z)), box), label)
