"""The body around the arteries: skin, fat, muscle, lungs, heart, abdominal organs and a plain skeleton, each a few solids.

It gives the arteries the background they have on an X-ray; for bones and organs as such there are phantoms of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.aorta_frame import LEVELS, TrunkShape
from raylign.simulation.phantoms.field import Array, Box, Canvas, Ellipsoid, Union, curve, smooth_min

Points = NDArray[np.float64]
SOFT = (
    "skin", "subcutaneous_fat", "muscle", "lung_left", "lung_right", "heart", "liver", "spleen", "kidney_left", "kidney_right",
    "inferior_vena_cava", "intestine_gas",
)  # fmt: skip
BONES = (
    *(f"vertebrae_{level}" for level in LEVELS), "sacrum", "hip_left", "hip_right", "femur_left", "femur_right", "sternum",
    "clavicula_left", "clavicula_right", "ribs",
)  # fmt: skip
_FAT, _MUSCLE = -98.0, 52.0


def paint_body(canvas: Canvas, trunk: TrunkShape, number: dict[str, int], rng: np.random.Generator) -> None:
    """Everything but bones and arteries."""
    grid = canvas.grid
    x, y, z = xyz = grid.coordinates(grid.whole)
    body = _skin(trunk, xyz)
    canvas.fill(body, 5.0, number["skin"])
    canvas.fill(body + np.float32(2.2), _FAT, number["subcutaneous_fat"])
    canvas.fill(body + np.float32(2.2 + trunk.fat), _MUSCLE, number["muscle"])
    inside = _stack(_cavity(trunk), xyz, 2.4)
    canvas.fill(inside, -70.0)
    canvas.labels[inside < 0] = 0
    dome = _dome(trunk, x, y)
    _organs(canvas, trunk, number, np.maximum(inside + np.float32(4), (z - dome) * np.float32(0.7)), rng)
    heart = _heart(trunk)
    first = int(np.searchsorted(grid.z, 82 * trunk.stature))
    if first < len(grid.z):
        box = (slice(first, len(grid.z)), *grid.whole[1:])
        _lungs(canvas, trunk, number, box, np.maximum(inside[box] + np.float32(6), (dome - z[first:]) * np.float32(0.7)))
    chambers = Union.empty(grid)
    for solid in heart:
        chambers.ellipsoid(solid, number["heart"])
    canvas.paint(chambers, 46.0)
    vein = Union.empty(grid)
    heights = np.linspace(-22 * trunk.stature, trunk.height("T10"), 16)
    px, py = trunk.spine(heights)
    vein.tube(np.stack([px - 23, py - 27, heights], 1), 10.0, number["inferior_vena_cava"])
    canvas.paint(vein, 40.0)


def _lungs(canvas: Canvas, trunk: TrunkShape, number: dict[str, int], box: Box, room: Array) -> None:
    """Both lungs beside the mediastinum."""
    x, y, z = canvas.grid.coordinates(box)
    sx, sy = (v.reshape(z.shape).astype(np.float32) for v in trunk.spine(z.ravel().astype(np.float64)))
    between = smooth_min(np.sqrt((x - sx) ** 2 + (y - sy) ** 2) - np.float32(25), np.abs(x - np.float32(3)) - np.float32(19), 12)
    for solid in _heart(trunk):
        between = smooth_min(between, solid.distance(x, y, z) - np.float32(4), 10)
    lungs = np.maximum(np.maximum(room, -between), z - np.float32(trunk.height("T1") + 8))
    canvas.fill(lungs, -845.0, None, box)
    within = lungs < 0
    canvas.labels[box][within] = np.where(np.broadcast_to(x, lungs.shape)[within] > 3, number["lung_left"], number["lung_right"])


def _stack(rows: Points, xyz: tuple[Array, Array, Array], power: float) -> Array:
    """Distance to a stack of superellipses; rows (z, half width, front, back), z descending."""
    x, y, z = xyz
    a, front, back = (v.reshape(z.shape).astype(np.float32) for v in curve(rows.tolist(), z.ravel()).T)
    b, c = (back - front) / 2, (back + front) / 2
    px, py = np.abs(x / a) ** np.float32(power), np.abs((y - c) / b) ** np.float32(power)
    q = (px + py) ** np.float32(1 / power)
    reach = np.sqrt((px * a * a + py * b * b) / np.maximum(px + py, np.float32(1e-6)))
    out: Array = (q - 1) * np.maximum(reach, np.float32(1))
    return out


def _skin(t: TrunkShape, xyz: tuple[Array, Array, Array]) -> Array:
    """Trunk, neck, shoulders and thighs."""
    k, c, f, (a, b) = t.stature, t.chest, t.fat - 15, t.girth
    rows = np.array([
        (520, 60, -72, 58), (430, 64, -70, 72), (395, 118, -86, 95), (360, 160 * c + f, -98 - f, 104 + f),
        (300, 164 * c + f, -108 * c - f, 106 + f), (200, 158 * c + f, -122 * c - f, 100 + f),
        (110, 0.5 * a + 78 * c, -18 - b, 53 + 0.4 * b),
        (40, a, -14 - b, -14 + b), (-40, 0.4 * a + 104, -8 - 0.95 * b, 100 + f), (-110, 166 * t.pelvis + f, -96 - f, 112 + f),
        (-140, 166 * t.pelvis + f, -88 - f, 104 + f), (-170, 132 * t.pelvis + f, -70, 88), (-200, 76, -42, 54), (-228, 4, -2, 4),
    ], float) * [k, 1, 1, 1]  # fmt: skip
    d = _stack(rows, xyz, 2.5)
    x, y, z = xyz
    mirrored = np.abs(x)
    shoulder = Ellipsoid((142 * c, 30, 372 * k), (48, 50, 46))
    d = smooth_min(d, shoulder.distance(mirrored, y, z), 30)
    wide = np.float32(76 + 0.6 * t.fat) - (np.float32(-150 * k) - z) * np.float32(0.10)
    thigh = (
        np.sqrt((mirrored - np.float32(88 * t.pelvis) - (z + np.float32(150 * k)) * np.float32(0.08)) ** 2 + (y - 4) ** 2) - wide
    )
    return smooth_min(d, np.maximum(thigh, z + np.float32(120 * k)), 36)


def _cavity(t: TrunkShape) -> Points:
    """The room inside ribs, abdominal wall and pelvis."""
    k, c, (a, b) = t.stature, t.chest, t.girth
    wall = t.fat + 14
    return np.array([
        (408, 30, -22, 40), (392, 62 * c, -34, 62), (365, 96 * c, -58 * c, 88), (330, 116 * c, -78 * c, 98),
        (287, 126 * c, -90 * c, 98),
        (240, 132 * c, -99 * c, 93), (190, 134 * c, -102 * c, 84), (137, 128 * c, -0.4 * b - 60, 66),
        (90, 0.5 * (a - wall) + 62 * c, -18 - b + wall, 50),
        (40, a - wall - 6, -14 - b + wall, 36), (-20, 118 * t.pelvis, -10 - 0.95 * b + wall, 30), (-60, 102 * t.pelvis, -72, 44),
        (-110, 62 * t.pelvis, -52, 60), (-165, 46 * t.pelvis, -30, 52), (-180, 6, -10, 20),
    ], float) * [k, 1, 1, 1]  # fmt: skip


def _dome(t: TrunkShape, x: Array, y: Array) -> Array:
    """Height of the diaphragm."""
    right = 208 - 60 * (np.abs(x + 70) / 80) ** 2.4 - 60 * (np.abs(y + 8) / 88) ** 2.4
    left = 196 - 58 * (np.abs(x - 72) / 80) ** 2.4 - 58 * (np.abs(y + 4) / 88) ** 2.4
    middle = 188 - 40 * (np.abs(x) / 60) ** 4 - 30 * (np.abs(y + 20) / 70) ** 2
    out: Array = np.maximum(np.maximum(np.maximum(right, left), middle), 85).astype(np.float32) * np.float32(t.stature)
    return out


def _heart(t: TrunkShape) -> list[Ellipsoid]:
    """Four rough chambers under the root."""
    _, back = t.spine(t.height("T8"))
    y, z, k = float(back), t.height("T8"), t.chest
    table = (
        ((42, -76, -10), (38, 36, 56), (0.76, -0.36, -0.54)), ((4, -96, -12), (38, 27, 50), (0.84, -0.18, -0.5)),
        ((4, -40, 14), (34, 21, 27), (0.1, 0.0, 1.0)), ((-34, -68, 4), (25, 30, 40), (0.1, 0.0, 1.0)),
    )  # fmt: skip
    return [Ellipsoid((c[0] * k, y + c[1] * k, z + c[2]), (r[0] * k, r[1] * k, r[2] * k), axis) for c, r, axis in table]


def _organs(canvas: Canvas, t: TrunkShape, number: dict[str, int], room: Array, rng: np.random.Generator) -> None:
    """Liver, spleen, kidneys, and gas in the bowel."""
    k, (a, b) = t.stature, t.girth
    table = {
        "liver": (Ellipsoid((-60, -18, 148 * k), (78, 74, 66), (0.25, 0.0, 1.0)), 58.0),
        "spleen": (Ellipsoid((88, 40, 158 * k), (26, 30, 46), (0.2, 0.2, 1.0)), 50.0),
        "kidney_left": (Ellipsoid((62, 26, 92 * k), (22, 17, 52), (-0.25, 0.2, 1.0)), 34.0),
        "kidney_right": (Ellipsoid((-62, 27, 78 * k), (22, 17, 52), (0.25, 0.2, 1.0)), 34.0),
    }
    for name, (solid, hu) in table.items():
        reach = max(solid.radii) + 3
        box = canvas.grid.box(np.asarray(solid.centre) - reach, np.asarray(solid.centre) + reach)
        if box is not None:
            canvas.fill(np.maximum(solid.distance(*canvas.grid.coordinates(box)), room[box]), hu, number[name], box)
    for _ in range(9):  # pockets in front of the arteries, where the bowel lies
        side = rng.uniform(-0.8, 0.8)
        centre = (side * 0.75 * a, -35 - 0.45 * b * (1 - abs(side)) + rng.normal(0, 6), rng.uniform(-95, 110) * k)
        radii = tuple(rng.uniform(7, 17) * np.array([1.2, 0.8, 1.0]))
        pocket = Ellipsoid(centre, radii, (float(rng.normal()), 0.2, float(rng.normal())))
        box = canvas.grid.box(np.asarray(centre) - max(radii) - 3, np.asarray(centre) + max(radii) + 3)
        if box is not None:
            gas = np.maximum(pocket.distance(*canvas.grid.coordinates(box)), room[box] + np.float32(8))
            canvas.fill(gas - np.float32(1.5), 40.0, None, box)
            canvas.fill(gas, -960.0, number["intestine_gas"], box)
