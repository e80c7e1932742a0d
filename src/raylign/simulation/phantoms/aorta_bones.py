"""A plain skeleton for the vessel phantom: spine, ribs, sternum, clavicles, sacrum, hip bones and femurs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.aorta_frame import LEVELS, TrunkShape
from raylign.simulation.phantoms.field import Array, Canvas, Union

Points = NDArray[np.float64]
_SIDES = (("left", 1.0), ("right", -1.0))


def paint_bones(canvas: Canvas, trunk: TrunkShape, number: dict[str, int], trabecular: float) -> None:
    """Every bone with its cortex; ``trabecular`` HU of the vertebrae."""
    bones = Union.empty(canvas.grid)
    for level in LEVELS:
        _vertebra(bones, trunk, level, number[f"vertebrae_{level}"])
    heights = np.array([-58.0, -75, -95, -120, -145, -165]) * trunk.stature
    x, y = trunk.spine(heights)
    thin = np.tile([0.0, 0.9, 0.35], (6, 1))
    wide = np.array([[15.0, 46], [15, 46], [12, 40], [9, 30], [6, 17], [3, 8]]) * [1, trunk.pelvis]
    bones.band(np.stack([x, y, heights], 1), wide, thin, number["sacrum"])
    joint = Union.empty(canvas.grid)
    for side, s in _SIDES:
        _hip(bones, trunk, s, number[f"hip_{side}"])
        joint.tube(np.stack([trunk.hip(s), trunk.hip(s) + np.array((0, 0, 0.5))]), 26.5, 0)
    for n in range(1, 13):
        for _, s in _SIDES:
            bones.tube(_rib(trunk, n, s), 5.0 if 1 < n < 11 else 4.2, number["ribs"])
    _front(bones, trunk, number)
    shell, cortex, marrow = (np.zeros(256, np.float32) for _ in range(3))
    for name, row in {"vertebrae": (1.0, 700.0), "sacrum": (1.2, 600.0), "hip": (2.0, 900.0), "ribs": (1.4, 1000.0)}.items():
        for label in (v for k, v in number.items() if k.startswith(name)):
            shell[label], cortex[label], marrow[label] = *row, max(trabecular, 40.0)
    for label in (v for k, v in number.items() if k.startswith(("sternum", "clavicula"))):
        shell[label], cortex[label], marrow[label] = 1.4, 900.0, max(trabecular, 40.0)
    canvas.paint_bone(bones, shell, cortex, marrow)
    canvas.paint(joint, 60.0, labelled=False)
    thighs = Union.empty(canvas.grid)
    for side, s in _SIDES:
        label = number[f"femur_{side}"]
        _femur(thighs, trunk, s, label)
        shell[label], cortex[label], marrow[label] = 2.2, 1150.0, max(trabecular, 60.0) + 60
    canvas.paint_bone(thighs, shell, cortex, marrow)


def _vertebra(union: Union, t: TrunkShape, level: str, label: int) -> None:
    z, half = t.height(level), 0.5 * t.pitch(level) - (2.0 if level.startswith("T") else 4.5)
    (x, y), (wide, deep) = t.spine(z), t.vertebra(z)
    (xa, ya), (xb, yb) = t.spine(z - 6), t.spine(z + 6)
    up = np.array([float(xb - xa), float(yb - ya), 12.0])
    up /= np.linalg.norm(up)
    centre, a, b = np.array([float(x), float(y), z]), float(wide), float(deep)
    reach = max(a, half) + 8
    box = union.grid.box(centre - reach, centre + reach)
    back = np.array([0.0, 1.0, 0.0]) - up[1] * up
    back /= np.linalg.norm(back)
    if box is not None:
        px, py, pz = (axis - np.float32(c) for axis, c in zip(union.grid.coordinates(box), centre, strict=True))

        def along(e: Points) -> Array:
            out: Array = px * np.float32(e[0]) + py * np.float32(e[1]) + pz * np.float32(e[2])
            return out

        h = along(up)
        waist = 1 - 0.1 * np.maximum(1 - (h / half) ** 2, 0)
        q = np.sqrt((along(np.cross(back, up)) / (a * waist)) ** 2 + (along(back) / (b * waist)) ** 2)
        union.add(box, np.maximum((q - 1) * np.float32(0.5 * (a + b)), np.abs(h) - np.float32(half)), label)
    reach_x = 34.0 if level.startswith("T") else 42.0
    for _, s in _SIDES:
        near = centre + [s * 0.62 * a, 0, 0] + 0.8 * b * back + 3 * up
        pillar = centre + [s * 0.7 * a, 0, 0] + (b + 13) * back
        union.tube(np.stack([near, pillar]), np.array([4.5, 5.5]), label)
        union.tube(np.stack([pillar + 7 * up, pillar - 12 * up]), 5.0, label)
        union.tube(np.stack([pillar, centre + [s * reach_x, 0, 0] + (b + 16) * back + 2 * up]), np.array([4.5, 3.8]), label)
        union.tube(np.stack([pillar - 4 * up, centre + (b + 23) * back - 6 * up]), 3.5, label)
    drop = 16.0 if level.startswith("T") else 6.0
    spine = np.stack([centre + (b + 22) * back - 4 * up, centre + (b + 42) * back - (4 + drop) * up])
    union.band(spine, np.array([[2.8, 8.0], [3.8, 7.0]]), np.tile([1.0, 0.0, 0.0], (2, 1)), label)


def _rib(t: TrunkShape, n: int, s: float) -> Points:
    z0 = t.height(f"T{n}")
    end = np.radians((150, 150, 148, 146, 144, 141, 137, 130, 122, 112, 84, 56)[n - 1])
    drop = (28, 48, 62, 74, 84, 92, 98, 100, 96, 88, 58, 34)[n - 1] * t.stature
    angle = np.linspace(np.radians(20), end, 16)
    z = z0 + 2 - drop * ((angle - angle[0]) / (np.radians(150) - angle[0])) ** 1.3
    a, front, back = _cage(t, z)
    x = a * np.sin(angle)
    y = 0.5 * (front + back) + 0.5 * (back - front) * np.cos(angle)
    return np.stack([s * x, y, z], 1)


def _cage(t: TrunkShape, z: Points | float) -> tuple[Points, Points, Points]:
    u = np.asarray(z, float) / t.stature
    heights = [90, 137, 190, 240, 287, 330, 365, 392, 405]
    a = np.interp(u, heights, [132, 134, 139, 137, 131, 120, 100, 68, 48]) * t.chest
    front = np.interp(u, heights, [-92, -104, -107, -104, -95, -83, -63, -40, -28]) * t.chest
    back = np.interp(u, heights, [72, 80, 92, 99, 103, 102, 92, 70, 56])
    return a, front, back


def _front(union: Union, t: TrunkShape, number: dict[str, int]) -> None:
    """Sternum and clavicles."""
    heights = np.array([352.0, 335, 310, 305, 270, 225, 205]) * t.stature
    _, front, _ = _cage(t, heights)
    points = np.stack([np.zeros(7), front, heights], 1)
    union.band(
        points,
        np.array([[5.5, 26], [6, 24], [5.5, 15], [5, 14], [5, 18], [4.5, 14], [3, 6]]),
        np.tile([0.0, 1.0, 0.2], (7, 1)),
        number["sternum"],
    )
    for side, s in _SIDES:
        base = points[0] + [s * 22, -2, 4]
        way = base + np.array([[0, 0, 0], [s * 28, -4, 8], [s * 62, 18, 20], [s * 95, 50, 28], [s * 122, 62, 30]])
        union.tube(way, np.array([9.0, 6.8, 6.2, 6.4, 7.0]), number[f"clavicula_{side}"])


def _hip(union: Union, t: TrunkShape, s: float, label: int) -> None:
    """A fan of plates under the crest, the acetabulum, ischium and pubis."""
    scale = np.array([s * t.pelvis, 1.0, t.stature])

    def at(*rows: tuple[float, float, float]) -> Points:
        return np.array(rows, float) * scale

    crest = at((42, 80, -46), (60, 82, -20), (86, 66, -2), (114, 38, 2), (130, 2, -10), (131, -32, -30), (122, -56, -54))
    base = at((52, 52, -78), (62, 42, -92), (70, 28, -100), (76, 12, -105), (80, -2, -108), (84, -16, -108), (88, -28, -108))
    union.tube(crest, np.array([7.0, 6.0, 5.5, 6.0, 6.5, 6.0, 6.5]), label)
    for i in range(6):
        normal = np.cross(crest[i] - base[i], crest[i + 1] - crest[i])
        normal /= np.linalg.norm(normal)
        for m in (0.25, 0.75):
            line = np.stack([base[i] + m * (base[i + 1] - base[i]), crest[i] + m * (crest[i + 1] - crest[i])])
            union.band(line, np.array([[6.0, 9.0], [3.2, 15.0]]), np.tile(normal, (2, 1)), label)
    union.tube(at((122, -56, -54), (106, -46, -84), (92, -34, -112)), np.array([6.0, 6.0, 10.0]), label)
    union.tube(at((74, 8, -126), (74, 6, -146)), 27.0, label)
    union.tube(at((52, 54, -76), (64, 34, -108), (70, 22, -130)), np.array([12.0, 12.0, 16.0]), label)
    union.tube(at((68, 22, -152), (62, 40, -182), (58, 36, -194)), np.array([14.0, 13.0, 13.0]), label)
    union.tube(at((58, 30, -196), (38, 2, -196), (20, -24, -182), (12, -34, -170)), np.array([9.0, 6.0, 7.0, 9.0]), label)
    union.tube(at((66, -14, -128), (44, -34, -136), (22, -42, -146), (12, -40, -158)), np.array([12.0, 8.0, 8.0, 9.0]), label)


def _femur(union: Union, t: TrunkShape, s: float, label: int) -> None:
    head = t.hip(s)
    union.tube(np.stack([head, head + np.array((0, 0, 0.5))]), 24.0, label)
    neck = head + np.array((s * 40, 6, -24))
    union.tube(np.stack([head, neck]), np.array([16.0, 17.0]), label)
    union.tube(np.stack([neck + np.array((s * 8, 6, 4)), neck + np.array((s * 13, 10, 22))]), np.array([15.0, 10.0]), label)
    union.tube(np.stack([neck + np.array((-s * 6, 12, -30)), neck + np.array((-s * 4, 4, -44))]), np.array([9.0, 10.0]), label)
    shaft = neck + np.array([[s * 4, 2, -6], [s * 1, -1, -50], [-s * 8, -8, -150], [-s * 16, -6, -230]])
    union.tube(shaft, np.array([18.0, 15.5, 13.5, 13.5]), label)
