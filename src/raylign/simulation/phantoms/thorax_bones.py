"""The skeleton of the chest as chains of tubes, bands and drums. Coordinates: see thorax_shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms import thorax_shape
from raylign.simulation.phantoms.field import Array, Box, Union
from raylign.simulation.phantoms.thorax_shape import LEVELS, ChestShape

Points = NDArray[np.float64]
SIDES = (("left", 1.0), ("right", -1.0))


def _mix(low: float, high: float, level: str) -> float:
    """A size that grows down the spine, from C6 to L3."""
    return low + (high - low) * LEVELS.index(level) / (len(LEVELS) - 1)


class _Frame:
    """A vertebra's own axes: across, back, up along the spine."""

    def __init__(self, shape: ChestShape, level: str) -> None:
        z = shape.height(level)
        x, y = thorax_shape.spine_line(shape, z)
        dx, dy = thorax_shape.tilt(shape, z)
        self.scale = np.asarray(shape.scale)
        up = np.array([dx, dy, 1.0]) / np.sqrt(1 + dx * dx + dy * dy)
        across = np.cross([0.0, 1.0, 0.0], up)
        self.axes = np.stack([across / np.linalg.norm(across), np.cross(up, across / np.linalg.norm(across)), up])
        self.centre = np.array([float(x), float(y), z])

    def __call__(self, *points: tuple[float, float, float]) -> Points:
        """Points given in the vertebra's axes, at scale 1."""
        out: Points = self.centre + (np.asarray(points) * self.scale) @ self.axes
        return out


def body_size(level: str) -> tuple[float, float, float]:
    """Half width, half depth and half height of a vertebral body at scale 1, mm."""
    gap = 4.0 if level.startswith("T") else 6.0
    return _mix(13, 22, level), _mix(8.5, 16, level), (ChestShape().pitch(level) - gap) / 2


def _drum(union: Union, frame: _Frame, size: tuple[float, float, float], waist: float) -> tuple[Box, Array] | None:
    """An elliptic cylinder with a waist, standing along the spine; flattened at the back, towards the canal."""
    width, depth, half = (s * f for s, f in zip(size, frame.scale, strict=True))
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
    frame.centre = frame.centre - (half + 2.0 if level.startswith("T") else half + 3.0) * frame.scale[2] * frame.axes[2]
    made = _drum(union, frame, (width * 0.97, depth * 0.97, 3.0), 0.0)
    if made is not None:
        union.add(*made, label)


# sweep from the back in degrees, drop of the front end below the head (mm): first to thirteenth rib
_SWEEP = (150, 152, 152, 151, 149, 146, 142, 136, 128, 120, 92, 62, 50)
_DROP = (30, 50, 64, 76, 86, 95, 102, 104, 100, 92, 66, 40, 30)
NECK = ((17.5, 9.0), (33.0, 29.0), (66.0, 44.0))  # where ribs run beside the spine: out to the side, back from the body's middle


@lru_cache(maxsize=128)
def rib_line(shape: ChestShape, number: int, side: float) -> tuple[Points, Points]:
    """The middle line of a rib from its head to its cartilage [N, 3], and outward normals of the chest wall there; not to be
    written to.
    """
    level = LEVELS[number + 1]
    frame = _Frame(shape, level)
    width, depth, half = body_size(level)
    high = half * 0.8 if 1 < number < 11 else half * 0.3
    head, tubercle = frame((side * (width + 4.5), depth * 0.75, high), (side * 33.0, depth + 17, half * 0.1))
    angle = np.linspace(np.radians(27 if number < 12 else 24), np.radians(_SWEEP[number - 1]), 18)
    part = (angle - angle[0]) / (np.radians(150) - angle[0])
    last = max(float(part[-1]), 0.4) if number > 10 else float(part[-1])
    bow = 1 + shape.rib_bows[min(number, 12) - 1]
    fall = shape.rib_slope * bow * shape.scale[2] * _DROP[number - 1] / last**1.35
    z = tubercle[2] - 5 * shape.rib_slope - fall * part**1.35
    x, y = thorax_shape.cage_point(shape, side * angle, z)
    if number == 1:
        x = x * 1.015  # the first rib lies flat, half its width outside the others' surface
    line = _smooth(
        np.concatenate([head[None], (head + tubercle)[None] / 2 + [0, 1.5, 0.5], tubercle[None], np.stack([x, y, z], 1)])
    )
    normal = line - np.array([0.0, 5.0, 0.0])
    normal[:, 2] = 0
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    if number == 1:
        normal = np.array([0.0, 0.0, 1.0]) + 0.5 * normal
    line.flags.writeable = normal.flags.writeable = False
    return line, normal


def _smooth(points: Points) -> Points:
    """Corners of a polyline rounded, ends kept."""
    out = points.copy()
    for _ in range(2):
        out[1:-1] = 0.25 * out[:-2] + 0.5 * out[1:-1] + 0.25 * out[2:]
    return out


def rib_radii(shape: ChestShape, number: int, count: int) -> Points:
    """Half thickness and half height [count, 2] along a rib: about 6 mm and 12 mm, round at its head."""
    size = shape.rib_size * (1.0 if 1 < number < 11 else 0.85)
    t = np.linspace(0, 1, count)
    return size * np.stack([3.3 + 0.5 * t, np.interp(t, [0, 0.12, 0.3, 0.9, 1], [4.5, 4.5, 6.2, 6.6, 7.0])], 1)


def rib(union: Union, shape: ChestShape, number: int, side: float, label: int) -> None:
    """One rib."""
    line, normal = rib_line(shape, number, side)
    union.band(line, rib_radii(shape, number, len(line)), normal, label)


def costal_cartilage(union: Union, shape: ChestShape, label: int) -> None:
    """From the rib ends to the sternum; the eighth to tenth join the one above."""
    for _, side in SIDES:
        previous: Points | None = None
        for number in range(1, 11):
            end = rib_line(shape, number, side)[0][-1]
            if number <= 7:
                beside = np.array([side * (19.0 if number < 3 else 15.0) * shape.scale[0], 2.0, 0.0])
                join = _sternum_at(shape, 88.0 - 21.0 * (number - 1)) + beside
            else:
                assert previous is not None
                join = previous[1]
            middle = np.array([0.55 * end[0] + 0.45 * join[0], min(end[1], join[1]) - 1, 0.62 * end[2] + 0.38 * join[2] - 4])
            previous = np.stack([end, middle, join])
            union.tube(previous, np.array([5.8, 5.0, 4.6]), label)


def _sternum_at(shape: ChestShape, z: float) -> Points:
    """The middle of the sternum at a height given at scale 1; its upper end stays where it is when it is longer."""
    high = (98 - (98 - z) * shape.sternum) * shape.scale[2]
    x, y = thorax_shape.cage_point(shape, np.array([np.pi]), np.array([high]))
    return np.array([float(x[0]), float(y[0]) + 1.0, high])


def sternum_line(shape: ChestShape) -> tuple[Points, Points, Points]:
    """Manubrium, body and xiphoid process in the front of the cage: points, half thickness and half width, thin direction."""
    rows = (
        (98, 5.5, 27), (90, 6.0, 28), (72, 6.0, 21), (56, 5.5, 15), (54, 5.0, 15), (20, 5.0, 18), (-20, 5.0, 20), (-46, 4.5, 14),
        (-58, 3.0, 6), (-70, 2.5, 4),
    )  # fmt: skip
    points = np.stack([_sternum_at(shape, z) for z, _, _ in rows])
    # the ends of a band are rounded by its thickness only, so it can be as wide as the sternum without growing longer
    return points, np.array([[t, w * shape.scale[0]] for _, t, w in rows]), np.tile([0.0, 1.0, 0.15], (len(rows), 1))


def sternum(union: Union, shape: ChestShape, label: int) -> None:
    """The sternum."""
    union.band(*sternum_line(shape), label)


def clavicle(union: Union, shape: ChestShape, side: float, label: int) -> None:
    """An S from the manubrium to the acromion."""
    notch = _sternum_at(shape, 100)
    rows = np.array([(23, -2, 4), (48, -9, 16), (80, 8, 22), (108, 38, 26), (134, 66, 28), (152, 72, 27)], float)
    points = notch + rows * [side, 1, 1] * shape.scale
    points[:, 2] += np.linspace(0, 1, len(rows)) * shape.shoulder
    union.tube(_smooth(points), np.array([9.0, 6.8, 6.2, 6.2, 6.6, 7.0]) * shape.rib_size, label)


def scapula(union: Union, shape: ChestShape, side: float, label: int) -> None:
    """Blade with thickened borders, spine and acromion, coracoid, glenoid."""
    off = _off_the_ribs(shape, side)

    def at(*rows: tuple[float, float, float]) -> Points:
        return shape.place(np.array([[side * x, y, z] for x, y, z in rows])) + off

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


def _off_the_ribs(shape: ChestShape, side: float) -> Points:
    """How far a shoulder blade is moved for it to glide on the chest wall: up with the shoulder, and out of the ribs."""
    corners = shape.place(np.array([[side * x, y, z] for x, y, z in ((74, 90, 118), (104, 110, -38), (136, 38, 92))]))
    weights = np.array([(i, j, 8 - i - j) for i in range(9) for j in range(9 - i)]) / 8
    points = weights @ corners + [0, 0, shape.shoulder]
    out = np.array([side * 0.5, 0.86, 0.0])
    shift = np.array([0.0, 0.0, shape.shoulder])
    for _ in range(4):
        x, y, z = (c.astype(np.float32) for c in (points + shift - [0, 0, shape.shoulder]).T)
        lacking = 10.5 * shape.rib_size - float(thorax_shape.cage(shape, (x, y, z)).min())
        if lacking <= 0:
            break
        shift = shift + lacking * out
    return shift


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


def humerus_line(shape: ChestShape, side: float) -> Points:
    """Middle of the head, and two points of the shaft, of the raised arm."""
    rows = np.array([[side * 153.0, 33.5, 99], [side * 162.0, 22, 135], [side * 178.0, 12, 215]])
    return np.add(shape.place(rows), (0, 0, shape.shoulder))


def humerus(union: Union, shape: ChestShape, side: float, label: int) -> None:
    """Head and upper shaft."""
    line = humerus_line(shape, side)
    union.tube(np.stack([line[0] - [0, 0, 1], line[0] + [0, 0, 1]]), 21.0 * shape.rib_size, label)
    union.tube(line, np.array([16.0, 11.5, 10.5]) * shape.rib_size, label)


def skeleton(shape: ChestShape) -> dict[str, Callable[[Union, int], None]]:
    """Every bone by its name, drawn into a union."""
    out: dict[str, Callable[[Union, int], None]] = {}
    for level in LEVELS:
        out[f"vertebrae_{level}"] = lambda union, label, level=level: vertebra(union, shape, level, label)  # type: ignore[misc]
    for side, s in SIDES:
        for i in range(1, shape.ribs + 1):
            out[f"rib_{side}_{i}"] = lambda union, label, i=i, s=s: rib(union, shape, i, s, label)  # type: ignore[misc]
        out[f"clavicula_{side}"] = lambda union, label, s=s: clavicle(union, shape, s, label)  # type: ignore[misc]
        out[f"scapula_{side}"] = lambda union, label, s=s: scapula(union, shape, s, label)  # type: ignore[misc]
        out[f"humerus_{side}"] = lambda union, label, s=s: humerus(union, shape, s, label)  # type: ignore[misc]
    out["sternum"] = lambda union, label: sternum(union, shape, label)
    return out
