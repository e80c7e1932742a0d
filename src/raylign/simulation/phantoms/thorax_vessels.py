"""Blood in the chest: the chambers' cavities and the great vessels, and which of them gives way where two meet.

Coordinates: see thorax_shape; places in tables are those of the straight patient of scale 1, or offsets from the heart's base.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms import thorax_heart, thorax_shape
from raylign.simulation.phantoms.field import Union
from raylign.simulation.phantoms.thorax_heart import RIM, Heart
from raylign.simulation.phantoms.thorax_organs import HILA, path
from raylign.simulation.phantoms.thorax_shape import ChestShape

Points = NDArray[np.float64]
Draw = Callable[[Union, int], None]


@dataclass(frozen=True)
class Aorta:
    """Diameters of the thoracic aorta at its root, ascending and descending part, and how far age has unfolded its arch; mm."""

    root: float
    ascending: float
    descending: float
    unfolded: float


def valve(heart: Heart) -> Points:
    """Middle of the aortic valve: in the base plane, in front of and above the mitral valve."""
    axis = np.asarray(heart.axis)
    up = np.array([-0.45, -0.35, 0.85])
    up -= (up @ axis) * axis
    out: Points = np.asarray(heart.base) + 15.5 * heart.size * up / np.linalg.norm(up) - (RIM + 0.5) * axis
    return out


def mitral(heart: Heart) -> Points:
    """Middle of the mitral valve, on the other side of the base."""
    base = np.asarray(heart.base)
    across = base - (valve(heart) + (RIM + 0.5) * np.asarray(heart.axis))
    out: Points = base + 0.45 * across
    return out


def aorta_line(shape: ChestShape, heart: Heart, aorta: Aorta) -> tuple[Points, Points]:
    """Root, arch over the left main bronchus, and the descending aorta down the left front of the spine: points and radii."""
    root = valve(heart)
    out_of = root - 13 * np.asarray(heart.axis) + [0, 0, 4]
    lift = aorta.unfolded
    arch = shape.place(np.array([(-9.0, -33, 40), (-11, -31, 58), (3, -17, 77), (19, 6, 73), (24, 21, 54)]))
    arch += np.array([(-0.3, -0.2, 0.2), (-0.5, -0.3, 0.6), (0, 0, 1), (0.3, 0.2, 0.9), (0.4, 0.0, 0.4)]) * lift
    radius = aorta.descending / 2
    heights = np.array([30.0, 0, -40, -80, -120, -170, -250]) * shape.scale[2]
    x, y = thorax_shape.spine_line(shape, heights)
    across = np.clip(21 + heights * 0.07, 9, 24) * shape.scale[0]
    low = np.stack([x + across, y - (13.5 * shape.scale[1] + radius + 1), heights], 1)
    arch[-1, 1] = min(arch[-1, 1], low[0, 1] + 1)
    line = path(np.concatenate([root[None], out_of[None], arch, low]), 64)
    t = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    top = t[int(np.argmax(line[:, 2]))]
    stops = [0, 9, 24, 40, top, top + 55, t[-1]]
    root_r, up, down = aorta.root / 2, aorta.ascending / 2, radius
    return line, np.interp(t, stops, [0.72 * root_r, root_r, 0.9 * up, up, 0.9 * up, down, 0.86 * down])


def blood(shape: ChestShape, heart: Heart, aorta: Aorta, wall: float = 0.0) -> dict[str, Draw]:
    """What holds blood, each drawn into a union; where two meet, the later one in this order takes the place.

    Vessels are drawn thicker by ``wall`` mm.
    """
    size = float(np.mean(shape.scale))

    def tubes(*rows: tuple[Points, float, float]) -> Draw:
        def draw(union: Union, label: int) -> None:
            for points, first, last in rows:
                union.tube(path(points), np.linspace(first, last, 24) * size + wall, label)

        return draw

    def chamber(name: str) -> Draw:
        return lambda union, label: union.ellipsoid(heart.cavities[name], label)

    def main(union: Union, label: int) -> None:
        line, radii = aorta_line(shape, heart, aorta)
        union.tube(line, radii + wall, label)

    place = shape.place
    low = sum(shape.diaphragm) / 2 / shape.scale[2]
    ivc = np.concatenate([[heart.at((-26, 6, -26))], place(np.array([(-22.0, 0, -62 + low), (-20, 10, -120), (-16, 16, -250)]))])
    svc = np.concatenate([[heart.at((-29, -4, 10))], place(np.array([(-28.0, -22, 44), (-25, -26, 88)]))])
    trunk = np.stack([heart.at(o) for o in ((9, -35, 4), (15, -31, 27), (13, -9, 44), (4, 9, 44))])
    fork = [np.stack([heart.at((12, -5, 44)), heart.at((20, 18, 46)), place(HILA[1.0] + [4, 2, 6])])]
    fork.append(np.stack([heart.at((4, 9, 44)), heart.at((-20, 11, 37)), place(HILA[-1.0])]))
    veins = [
        (np.stack([heart.at((s * 16 - 9, 25, 12)), place(HILA[s] + [s * 6, -4, z - 16])]), 8.0, 5.5)
        for s in (1.0, -1.0)
        for z in (22.0, -2.0)
    ]
    arch = aorta_line(shape, heart, aorta)[0]
    top = int(np.argmax(arch[:, 2]))
    branches = []
    for step, x in ((-3, -26.0), (1, 18.0), (4, 33.0)):
        foot = arch[top + step]
        middle = 0.5 * (foot + place(np.array([x, -6.0, 140])))
        branches.append((np.stack([foot, middle - [0, 4, 0], *place(np.array([(x, -6.0, 140), (x, -10.0, 220)]))]), 6.5, 4.0))
    return {
        "inferior_vena_cava": tubes((ivc, 12.0, 11.0)),
        "superior_vena_cava": tubes((svc, 10.5, 9.0)),
        "pulmonary_vein": tubes(*veins),
        "heart_atrium_right": chamber("heart_atrium_right"),
        "heart_ventricle_right": chamber("heart_ventricle_right"),
        "heart_atrium_left": chamber("heart_atrium_left"),
        "arch_branches": tubes(*branches),
        "pulmonary_artery": tubes((trunk, 13.5, 12.5), (fork[0], 12.0, 8.0), (fork[1], 11.5, 8.5)),
        "aorta": main,
        "heart_ventricle_left": lambda union, label: thorax_heart.add_left(union, heart, label, False),
    }


def beside_the_lungs(union: Union, shape: ChestShape, heart: Heart, aorta: Aorta) -> None:
    """The great vessels with their walls: where no lung is."""
    drawn = blood(shape, heart, aorta, 2.0)
    for name in ("inferior_vena_cava", "superior_vena_cava", "arch_branches", "aorta"):
        drawn[name](union, 1)
