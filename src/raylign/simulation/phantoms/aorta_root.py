"""The aortic root: three sinuses between the annulus and the sinotubular junction, their hinge points, commissures and ostia.

Each sinus is an ellipsoid whose lowest point (the hinge point, nadir of its leaflet) lies on the annulus and whose widest point
lies at the radius of the sinuses; two neighbours meet at a commissure. The lumen is closed towards the ventricle as by the
leaflets in diastole, so that contrast agent pools in three cusps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.aorta_sizes import AortaSizes

Array = NDArray[np.float32]
Points = NDArray[np.float64]
CUSPS = ("right", "left", "non")
_LEAN = np.radians(11.0)  # of the sinuses' long axes, lower end outwards


@dataclass(frozen=True, eq=False)
class Root:
    """Where the root stands.

    Parameters
    ----------
    centre: [3] mm, middle of the annulus.
    axes: [3, 3] unit rows: out of the right cusp, a right-handed second one, and up the root.
    sizes: of the person.
    """

    centre: Points
    axes: Points
    sizes: AortaSizes

    def place(self, angle: float, radius: float, height: float) -> Points:
        """The point at an angle (degrees, 0 is the middle of the right cusp), a radius and a height, mm."""
        a = np.radians(angle)
        out: Points = self.centre + radius * (np.cos(a) * self.axes[0] + np.sin(a) * self.axes[1]) + height * self.axes[2]
        return out

    @property
    def junction(self) -> Points:
        """Middle of the sinotubular junction."""
        return self.place(0, 0, self.sizes.root_height)

    def sinuses(self) -> list[tuple[Points, Points, Points]]:
        """Centre [3], axes [3, 3] (outwards, around, up) and semi-axes [3] of the three ellipsoids."""
        ring, wide, top = self.sizes.radius["annulus"], self.sizes.radius["sinus"], self.sizes.root_height
        up = 0.56 * top
        around = 0.61 * wide  # neighbours nearly touch; between them the lumen is as wide as the junction
        out = 0.5 * wide
        s, c = np.sin(_LEAN), np.cos(_LEAN)
        for _ in range(12):  # the hinge point lies on the annulus, the widest point at the sinuses' radius
            low = np.sqrt((out * s) ** 2 + (up * c) ** 2)  # from the centre down to the nadir
            middle = ring - (up**2 - out**2) * s * c / low
            out = max(wide - middle, 3.0)
        solids = []
        for n in range(3):
            a = np.radians(120.0 * n)
            radial = np.cos(a) * self.axes[0] + np.sin(a) * self.axes[1]
            beside = np.cross(self.axes[2], radial)
            outwards = c * radial + s * self.axes[2]
            upwards = c * self.axes[2] - s * radial
            centre = self.centre + middle * radial + low * self.axes[2]
            solids.append((centre, np.stack([outwards, beside, upwards]), np.array([out, around, up])))
        return solids

    def landmarks(self) -> dict[str, Points]:
        """Hinge points, commissures, junction, annulus, by name."""
        points = {"annulus": self.centre, "sinotubular_junction": self.junction}
        ring, top = self.sizes.radius["annulus"], self.sizes.root_height
        for n, cusp in enumerate(CUSPS):
            points[f"hinge_{cusp}"] = self.place(120.0 * n, ring, 0.0)
        for n, (a, b) in enumerate((("right", "left"), ("left", "non"), ("non", "right"))):
            points[f"commissure_{a}_{b}"] = self.place(60.0 + 120.0 * n, 0.97 * self.sizes.radius["junction"], 0.9 * top)
        return points

    def ostium(self, cusp: int) -> Points:
        """Where the right (0) or the left (1) coronary artery leaves the wall of its sinus."""
        height = self.sizes.ostia[cusp]
        centre, axes, radii = self.sinuses()[cusp]
        for radius in np.linspace(1.3, 0.3, 101) * self.sizes.radius["sinus"]:
            point = self.place(120.0 * cusp, float(radius), height)
            if float((((axes @ (point - centre)) / radii) ** 2).sum()) <= 1:
                return point
        return self.place(120.0 * cusp, self.sizes.radius["junction"], height)

    def unite(self, total: Array, xyz: tuple[Array, Array, Array], fillet: float = 1.5, grown: float = 0.0) -> None:
        """Unite the sinuses with distances known at coordinates that broadcast to ``total``'s shape, in place."""
        from raylign.simulation.phantoms.field import smooth_min

        for centre, axes, radii in self.sinuses():
            offset = [axis - np.float32(c) for axis, c in zip(xyz, centre, strict=True)]
            square = np.float32(0)
            slope = np.float32(0)
            for e, r in zip(axes, radii + grown, strict=True):
                along = (offset[0] * np.float32(e[0]) + offset[1] * np.float32(e[1]) + offset[2] * np.float32(e[2])) * np.float32(
                    1 / r
                )
                square = square + along * along
                slope = slope + along * along * np.float32(1 / r**2)
            q = np.sqrt(square)
            solid = (q - 1) * np.maximum(q, np.float32(1e-3)) / np.maximum(np.sqrt(slope), np.float32(1e-3 / radii.min()))
            total[:] = smooth_min(total, solid.astype(np.float32), fillet)


def root_at(centre: Points, direction: Points, sizes: AortaSizes, turn: float) -> Root:
    """A root with its axis along ``direction``; the right cusp looks forward, ``turn`` degrees to the left."""
    w = direction / np.linalg.norm(direction)
    forward = np.array([np.sin(np.radians(turn)), -np.cos(np.radians(turn)), 0.0])
    u = forward - (forward @ w) * w
    u /= np.linalg.norm(u)
    # seen from above, the left cusp follows the right one clockwise or not: LPS with v to the patient's left
    v = np.cross(w, u)
    return Root(centre, np.stack([u, v, w]), sizes)
