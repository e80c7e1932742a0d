"""The skeleton of the chest as chains of tubes, bands and drums. Coordinates: see chest_shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms import chest_shape
from raylign.simulation.phantoms.chest_shape import HEIGHTS, LEVELS, PITCHES, ChestShape
from raylign.simulation.phantoms.field import Array, Union

Points = NDArray[np.float64]
SIDES = (("left", 1.0), ("right", -1.0))


def _mix(low: float, high: float, level: str) -> float:
    """A size that grows down the spine, from C6 to L3."""
    return low + (high - low) * LEVELS.index(level) / (len(LEVELS) - 1)


class _Frame:
    """A vertebra's own axes: across, back, up along the spine."""

    def __init__(self, shape: ChestShape, level: str) -> None:
        z = HEIGHTS[level]
        x, y = chest_shape.spine_line(shape, z)
        dx, dy = chest_shape.tilt(shape, z)
        up = np.array([dx, dy, 1.0]) / np.sqrt(1 + dx * dx + dy * dy)
        across = np.cross([0.0, 1.0, 0.0], up)
        self.axes = np.stack([across / np.linalg.norm(across), np.cross(up, across / np.linalg.norm(across)), up])
        self.centre = np.array([float(x), float(y), z])

    def __call__(self, *points: tuple[float, float, float]) -> Points:
        out: Points = self.centre + np.asarray(points) @ self.axes
        return out


def body_size(level: str) -> tuple[float, float, float]:
    """Half width, half depth and half height of a vertebral body, mm."""
    gap = 4.0 if level.startswith("T") else 6.0
    return _mix(13, 22, level), _mix(8.5, 16, level), (PITCHES[level] - gap) / 2


def _drum(
    union: Union, frame: _Frame, size: tuple[float, float, float], waist: float
) -> tuple[tuple[slice, slice, slice], Array] | None:
    """An elliptic cylinder with a waist, standing along the spine; flattened at the back, towards the canal."""
    width, depth, half = size
    reach = np.array([width, depth + 3, half + 6]) + 2 * union.grid.voxel
    box = union.grid.box(frame.centre - reach, frame.centre + reach)
    if box is None:
        return None
    r = [axis - np.float32(c) for axis, c in zip(union.grid.coordinates(box), frame.centre, strict=True)]
    u, v, w = (r[0] * np.float32(e[0]) + r[1] * np.float32(e[1]) + r[2] * np.float32(e[2]) for e in frame.axes)
    belly = np.float32(1 - waist) + np.float32(waist) * np.clip(w / np.float32(half), -1, 1) ** 2
    q = np.sqrt((u / (width * belly)) ** 2 + (v / (depth * belly)) ** 2)
    side = np.maximum((q - 1) * np.float32((width + depth) / 2), v - np.float32(0.86 * depth))
    return box, np.maximum(side, np.abs(w) - np.float32(half))


def vertebra(union: Union, shape: ChestShape, level: str, label: int) -> None:
    """Body, pedicles, articular, transverse and spinous processes, laminae."""
    frame = _Frame(shape, level)
    width, depth, half = size = body_size(level)
    made = _drum(union, frame, size, 0.12)
    if made is not None:
        union.add(*made, label)
    thoracic = level.startswith("T")
    number = int(level[1:])
    reach = _mix(24, 26, level) + (6 - number * 0.5 if thoracic else 6)  # transverse processes shorten towards T12
    swept = 15.0 if thoracic else 6.0
    drop = 24.0 - 2.2 * abs(number - 6) if thoracic else 6.0  # mid-thoracic spines overlap like tiles
    length = _mix(24, 30, level)
    joint = _mix(10, 14, level)
    for _, s in SIDES:
        pedicle = frame((s * width * 0.55, depth * 0.7, half * 0.35), (s * joint, depth + 10, half * 0.3))
        back = np.repeat(frame.axes[:1], 2, 0)
        union.band(pedicle, np.array([[3.2, 5.0]] * 2), back, label)
        union.tube(frame((s * joint, depth + 12, half + 2), (s * joint, depth + 13, -half - 1)), 4.2, label)
        lamina = frame((s * joint, depth + 13, 1), (0, depth + 21, -4))
        union.band(lamina, np.array([[2.8, 7.5]] * 2), np.repeat(frame.axes[1:2], 2, 0), label)
        process = frame((s * joint, depth + 12, half * 0.3), (s * reach, depth + 12 + swept, half * 0.45))
        union.tube(process, np.array([4.6, 4.0]), label)
    spinous = frame((0, depth + 19, -3), (0, depth + 19 + length * 0.6, -3 - drop * 0.55), (0, depth + 19 + length, -3 - drop))
    union.band(spinous, np.array([[2.8, 6.5], [2.6, 5.5], [3.6, 4.0]]), np.repeat(frame.axes[:1], 3, 0), label)


def disc(union: Union, shape: ChestShape, level: str, label: int) -> None:
    """The disc under a vertebra."""
    if level == LEVELS[-1]:
        return
    width, depth, half = body_size(level)
    frame = _Frame(shape, level)
    frame.centre = frame.centre - (half + 2.0 if level.startswith("T") else half + 3.0) * frame.axes[2]
    made = _drum(union, frame, (width * 0.97, depth * 0.97, 3.0), 0.0)
    if made is not None:
        union.add(*made, label)


# sweep from the back in degrees, drop of the front end below the head (mm): first to twelfth rib
_SWEEP = (150, 152, 152, 151, 149, 146, 142, 136, 128, 120, 92, 62)
_DROP = (30, 50, 64, 76, 86, 95, 102, 104, 100, 92, 66, 40)


def rib_line(shape: ChestShape, number: int, side: float) -> tuple[Points, Points]:
    """The middle line of a rib from its head to its cartilage [N, 3], and outward normals of the chest wall there."""
    level = f"T{number}"
    frame = _Frame(shape, level)
    width, depth, half = body_size(level)
    high = half * 0.8 if 1 < number < 11 else half * 0.3
    head, tubercle = frame((side * (width + 2.5), depth * 0.75, high), (side * 31.0, depth + 24, half * 0.1))
    end = np.radians(_SWEEP[number - 1])
    angle = np.linspace(np.radians(27 if number < 12 else 24), end, 18)
    part = (angle - angle[0]) / (np.radians(150) - angle[0])
    top = tubercle[2] - 5 * shape.rib_slope
    drop = _DROP[number - 1] / max(float(part[-1]), 0.4) ** 1.35 if number > 10 else _DROP[number - 1] / part[-1] ** 1.35
    z = top - shape.rib_slope * drop * part**1.35
    x, y = chest_shape.cage_point(angle, z)
    if number == 1:
        x, y = x * 0.88, y + 1.5  # the first rib is flatter and tighter
    arc = np.stack([side * x, y, z], 1)
    line = _smooth(np.concatenate([head[None], (head + tubercle)[None] / 2 + [0, 1.5, 0.5], tubercle[None], arc]))
    normal = line - np.array([0.0, 5.0, 0.0])
    normal[:, 2] = 0
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    if number == 1:
        normal = np.array([0.0, 0.0, 1.0]) + 0.5 * normal
    return line, normal


def _smooth(points: Points) -> Points:
    """Corners of a polyline rounded, ends kept."""
    out = points.copy()
    for _ in range(2):
        out[1:-1] = 0.25 * out[:-2] + 0.5 * out[1:-1] + 0.25 * out[2:]
    return out


def rib(union: Union, shape: ChestShape, number: int, side: float, label: int) -> None:
    """One rib: about 6 mm thick and 12 mm high, round at its head."""
    line, normal = rib_line(shape, number, side)
    size = 1.0 if 1 < number < 11 else 0.85
    t = np.linspace(0, 1, len(line))
    thick = size * (3.3 + 0.5 * t)
    high = size * np.interp(t, [0, 0.12, 0.3, 0.9, 1], [4.5, 4.5, 6.2, 6.6, 7.0])
    union.band(line, np.stack([thick, high], 1), normal, label)


def costal_cartilage(union: Union, shape: ChestShape, label: int) -> None:
    """From the rib ends to the sternum; the eighth to tenth join the one above."""
    for _, side in SIDES:
        previous: Points | None = None
        for number in range(1, 11):
            end = rib_line(shape, number, side)[0][-1]
            if number <= 7:
                beside = np.array([side * (19.0 if number < 3 else 15.0), 2.0, 0.0])
                join = _sternum_at(shape, 88.0 - 21.0 * (number - 1)) + beside
            else:
                assert previous is not None
                join = previous[1]
            middle = np.array([0.55 * end[0] + 0.45 * join[0], min(end[1], join[1]) - 1, 0.62 * end[2] + 0.38 * join[2] - 4])
            previous = np.stack([end, middle, join])
            union.tube(previous, np.array([5.8, 5.0, 4.6]), label)


def _sternum_at(shape: ChestShape, z: float) -> Points:
    _, y = chest_shape.cage_point(np.array([np.pi]), np.array([z]))
    return np.array([0.0, float(y[0]) + 1.0, z])


def sternum(union: Union, shape: ChestShape, label: int) -> None:
    """Manubrium, body and xiphoid process, lying in the front of the cage."""
    rows = (
        (98, 5.5, 27), (90, 6.0, 28), (72, 6.0, 21), (56, 5.5, 15), (54, 5.0, 15), (20, 5.0, 18), (-20, 5.0, 20), (-46, 4.5, 14),
        (-58, 3.0, 6), (-70, 2.5, 4),
    )  # fmt: skip
    points = np.stack([_sternum_at(shape, z) for z, _, _ in rows])
    # the ends of a band are rounded by its thickness only, so it can be as wide as the sternum without growing longer
    union.band(points, np.array([[t, w] for _, t, w in rows]), np.tile([0.0, 1.0, 0.15], (len(rows), 1)), label)


def clavicle(union: Union, shape: ChestShape, side: float, label: int) -> None:
    """An S from the manubrium to the acromion."""
    notch = _sternum_at(shape, 100)
    rows = ((23, -2, 0), (48, -6, 5), (80, 8, 15), (108, 38, 24), (134, 66, 28), (152, 72, 27))
    points = np.array([[side * x, notch[1] + y, notch[2] + z] for x, y, z in rows])
    union.tube(_smooth(points), np.array([9.0, 6.8, 6.2, 6.2, 6.6, 7.0]), label)


def scapula(union: Union, side: float, label: int) -> None:
    """Blade with thickened borders, spine and acromion, coracoid, glenoid."""

    def at(*rows: tuple[float, float, float]) -> Points:
        return np.array([[side * x, y, z] for x, y, z in rows])

    superior, root, inferior, glenoid = at((74, 90, 118), (70, 100, 88), (104, 110, -38), (136, 38, 92))
    _plate(union, np.stack([superior, inferior, glenoid]), 1.6, label)
    union.tube(np.stack([glenoid, 0.5 * (glenoid + inferior) + [side * 3, 0, 0], inferior]), np.array([7.0, 4.5, 5.0]), label)
    union.tube(np.stack([superior, root, inferior]), np.array([3.0, 2.8, 4.0]), label)
    up = np.array([0.0, 0.0, 4.0])
    union.tube(np.stack([superior, 0.6 * superior + 0.4 * glenoid + up, glenoid + 3 * up]), np.array([2.5, 2.5, 4.5]), label)
    union.band(
        at((72, 101, 90), (104, 96, 104), (134, 78, 124), (156, 46, 130), (157, 24, 127)),
        np.array([[2.5, 3.0], [3.0, 6.5], [3.5, 8.0], [4.0, 9.0], [4.0, 9.0]]),
        np.tile([0.0, 0.3, 1.0], (5, 1)),
        label,
    )
    union.tube(at((130, 34, 106), (126, 12, 116), (133, -2, 108)), np.array([6.5, 5.5, 5.0]), label)
    union.tube(at((134, 36, 84), (135, 36, 102)), 8.0, label)


def _plate(union: Union, corners: Points, half: float, label: int) -> None:
    """A flat triangle of the given half thickness."""
    reach = half + 2 * union.grid.voxel
    box = union.grid.box(corners.min(0) - reach, corners.max(0) + reach)
    if box is None:
        return
    x, y, z = union.grid.coordinates(box)
    n = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    n /= np.linalg.norm(n)

    def along(e: Points, origin: Points) -> Array:
        out: Array = (x - np.float32(origin[0])) * np.float32(e[0]) + (y - np.float32(origin[1])) * np.float32(e[1])
        return out + (z - np.float32(origin[2])) * np.float32(e[2])

    d = np.abs(along(n, corners[0])) - np.float32(half)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        outward = np.cross(corners[b] - corners[a], n)
        d = np.maximum(d, along(outward / np.linalg.norm(outward), corners[a]))
    union.add(box, d, label)


def humerus(union: Union, side: float, label: int) -> None:
    """Head and upper shaft of the raised arm."""
    union.tube(np.array([[side * 152.0, 34, 98], [side * 154.0, 33, 100]]), 21.0, label)
    union.tube(
        np.array([[side * 154.0, 32, 100], [side * 162.0, 22, 135], [side * 178.0, 12, 215]]), np.array([16.0, 11.5, 10.5]), label
    )
