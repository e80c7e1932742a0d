"""Vertebrae from L5 up to T11: a body with waist and hollow endplates, and the arch behind it as a web; discs; the last ribs.

A vertebra's own frame: origin in the middle of its body, x to the left, y to the back, z up along the spine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.field import Array, Box, Grid
from raylign.simulation.phantoms.trunk_shape import LUMBAR, TrunkShape
from raylign.simulation.phantoms.trunk_webs import Cut, Points, Web
from raylign.simulation.seeds import numpy_generator

# from L5 up to T11, mm: Panjabi et al. 1992 (L), 1991 (T), rounded: pedicle width, canal width and depth, span of the transverse
# processes, length of the spinous process from the canal
_PEDICLE = np.array([16.0, 13.0, 10.2, 8.6, 8.2, 8.6, 9.0])
_CANAL_WIDTH = np.array([27.1, 25.4, 24.3, 23.8, 23.7, 22.2, 19.4])
_CANAL_DEPTH = np.array([19.7, 18.6, 17.5, 18.2, 19.0, 18.1, 16.0])
_SPAN = np.array([91.0, 84.0, 90.0, 79.0, 71.0, 48.0, 52.0])
_SPINOUS = np.array([20.0, 27.0, 31.0, 31.0, 29.0, 24.0, 24.0])
_JOINT_GAP = 1.2


@dataclass(frozen=True, eq=False)
class Vertebra:
    """One vertebra in the body."""

    level: str
    web: Web
    centre: Points
    axes: Points  # rows: left, back, up
    size: tuple[float, float, float]  # width, depth, height of the body

    def at(self, *points: tuple[float, float, float]) -> Points:
        """Points of its own frame in the body's."""
        out: Points = np.asarray(points, float) @ self.axes + self.centre
        return out


@dataclass(frozen=True, eq=False)
class Spine:
    """Vertebrae from L5 upwards, the solids of the discs below them, and a curve through the bodies [N, 3]."""

    vertebrae: tuple[Vertebra, ...]
    discs: tuple[Drum, ...]
    line: Points


@dataclass(frozen=True, eq=False)
class Drum:
    """A short column with the outline of a vertebral body.

    Parameters
    ----------
    centre, axes: its frame. half: half width, half depth, half height, mm. waist: how much thinner it is half way, 0 to 1.
    hollow: how deep its ends are hollowed, mm. wedge: taller in front, degrees.
    """

    centre: Points
    axes: Points
    half: tuple[float, float, float]
    waist: float
    hollow: float
    wedge: float

    def bounds(self, margin: float) -> tuple[Points, Points]:
        a, b, c = self.half
        reach = np.abs(self.axes).T @ np.array([a, b, c + b * abs(np.tan(np.radians(self.wedge / 2)))]) + margin
        return self.centre - reach, self.centre + reach

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """First-order signed distance, mm, at broadcast coordinates."""
        r = [a - np.float32(c) for a, c in zip((x, y, z), self.centre, strict=True)]
        u, v, w = (r[0] * np.float32(e[0]) + r[1] * np.float32(e[1]) + r[2] * np.float32(e[2]) for e in self.axes)
        a, b, c = (np.float32(h) for h in self.half)
        tall = c - v * np.float32(np.tan(np.radians(self.wedge / 2)))
        level = np.clip(w / tall, -1, 1)
        belly = np.float32(1 - self.waist) + np.float32(self.waist) * level * level
        p, q = np.abs(u) / (a * belly), np.abs(v) / (b * belly)
        # between an ellipse and a rounded square, and flat or hollow behind
        ring = np.sqrt(np.sqrt(p**4 + q**4)) * np.float32(0.55) + np.sqrt(p * p + q * q) * np.float32(0.45)
        side = (ring - 1) * (
            a * b / np.sqrt(np.maximum((b * p) ** 2 + (a * q) ** 2, 1e-3)) * np.sqrt(np.maximum(p * p + q * q, 1e-3))
        )
        behind = v - np.float32(0.90) * b * belly - np.float32(2.2) * np.clip(p, 0, 1) ** 2
        side = smooth_max(side, behind, 3.0)
        end = np.abs(w) - tall + np.float32(self.hollow) * np.clip(1 - ring * ring, 0, 1)
        return smooth_max(side, end, 2.0)

    def on(self, grid: Grid) -> tuple[Box, Array] | None:
        """The box it touches and its distance there."""
        box = grid.box(*self.bounds(2 * grid.voxel))
        return None if box is None else (box, self.distance(*grid.coordinates(box)))


def smooth_max(a: Array, b: Array, width: float) -> Array:
    """Intersection of two distances, its edge rounded over ``width`` mm."""
    h = np.maximum(np.float32(width) - np.abs(a - b), 0)
    out: Array = np.maximum(a, b) + h * h * np.float32(0.25 / width)
    return out


def spine(shape: TrunkShape, endplate: Points, slope: float, below: Sequence[Web]) -> Spine:
    """The column standing on a sacrum.

    Parameters
    ----------
    endplate: [3] middle of the sacrum's upper face. slope: of that face, degrees forward. below: the bones of the pelvis.
    """
    size = shape.spine
    vertebrae: list[Vertebra] = []
    discs: list[Drum] = []
    top, lean = endplate.copy(), slope
    for i, _level in enumerate(LUMBAR):
        before, lean = lean, lean - size.disc_wedge[i]
        up = _axes((before + lean) / 2, size.sideways[i], size.twist[i])
        middle = top + up[2] * size.disc[i] / 2
        half = (size.width[i] / 2 * 0.985, size.depth[i] / 2 * 0.985, size.disc[i] / 2 + 1.2)
        discs.append(Drum(middle, up, half, 0.0, -1.0, size.disc_wedge[i]))
        top = top + up[2] * size.disc[i]
        before, lean = lean, lean - size.body_wedge[i]
        axes = _axes((before + lean) / 2, size.sideways[i], size.twist[i])
        centre = top + axes[2] * size.height[i] / 2
        top = top + axes[2] * size.height[i]
        vertebrae.append(_vertebra(shape, i, centre, axes, [vertebrae[-1].web] if vertebrae else below))
    line = np.stack([endplate, *(v.centre for v in vertebrae), top])
    return Spine(tuple(vertebrae), tuple(discs), line)


def _axes(lean: float, sideways: float, twist: float) -> Points:
    """Rows left, back, up of a body that leans forward, sideways (to the left) and is turned, degrees."""
    a, b, c = np.radians([lean, sideways, twist])
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    out: Points = (y @ x @ z).T
    return out


def _vertebra(shape: TrunkShape, i: int, centre: Points, axes: Points, below: Sequence[Web]) -> Vertebra:
    size = shape.spine
    w, d, h = float(size.width[i]), float(size.depth[i]), float(size.height[i])
    balls, faces = _arch(shape, i)
    balls[:, :3] = balls[:, :3] @ axes + centre
    body = Drum(centre, axes, (w / 2, d / 2, h / 2), 0.11, 1.3, float(size.body_wedge[i]))
    canal = (_CANAL_WIDTH[i] * size.scale / 2 - 0.5, _CANAL_DEPTH[i] * size.scale / 2)
    web = Web(balls, faces, _with_body(body, below, (d / 2 + canal[1] - 0.5, *canal)), True, body.bounds(0.0))
    return Vertebra(LUMBAR[i], web, centre, axes, (w, d, h))


def _with_body(body: Drum, below: Sequence[Web], canal: tuple[float, float, float]) -> Cut:
    """The arch with its body, without the canal, apart from the neighbour below."""

    def cut(d: Array, x: Array, y: Array, z: Array) -> Array:
        d = np.minimum(d, body.distance(x, y, z))
        r = [a - np.float32(c) for a, c in zip((x, y, z), body.centre, strict=True)]
        u, v = (r[0] * np.float32(e[0]) + r[1] * np.float32(e[1]) + r[2] * np.float32(e[2]) for e in body.axes[:2])
        hole = (
            np.sqrt((u / np.float32(canal[1])) ** 2 + ((v - np.float32(canal[0])) / np.float32(canal[2])) ** 2) - 1
        ) * np.float32(min(canal[1:]))
        d = np.maximum(d, -hole)
        for other in below:
            d = np.maximum(d, np.float32(_JOINT_GAP) - other.distance(x, y, z, _JOINT_GAP + 3.0))
        return d

    return cut


def _arch(shape: TrunkShape, i: int) -> tuple[Points, NDArray[np.int64]]:
    """Balls and faces behind the body of level ``i``: pedicles, articular, transverse and spinous processes, laminae."""
    size, k = shape.spine, shape.spine.scale
    rng = numpy_generator(shape.seed, 6, i)
    d, h = float(size.depth[i]) / 2, float(size.height[i]) / 2
    cw, cd = _CANAL_WIDTH[i] * k / 2, _CANAL_DEPTH[i] * k
    pw, span = _PEDICLE[i] * k / 2, _SPAN[i] * k * size.process / 2
    lumbar = i < 5
    r = min(pw, 5.0)
    rows: list[tuple[float, float, float, float]] = []
    faces: list[list[int]] = []

    def sheet(*corners: tuple[float, float, float, float]) -> None:
        n = len(rows)
        rows.extend(corners)
        faces.extend([n, n + j, n + j + (1 if len(corners) > 2 else 0)] for j in range(1, max(len(corners) - 1, 2)))

    spin = _SPINOUS[i] * k * size.process * float(1 + rng.normal(0, 0.05))
    back = d + cd
    drop = 0.0 if lumbar else 8.0
    for s in (1.0, -1.0):
        px = cw + pw - 1.0
        length = span * float(1 + rng.normal(0, 0.03))
        sheet(
            (s * px, d - 6, 0.62 * h, r),
            (s * px, d - 6, 0.12 * h, r),
            (s * (px + 0.5), d + 8, 0.10 * h, r),
            (s * (px + 0.5), d + 8, 0.60 * h, r),
        )
        if pw > r + 1:  # broad pedicles of L4 and L5
            sheet(
                (s * (px + pw - r), d - 5, 0.45 * h, r), (s * (px - pw + r), d - 4, 0.4 * h, r), (s * (px + 2), d + 9, 0.3 * h, r)
            )
        joint = cw + 5.5 * k
        pars = (s * (cw + 3.5), d + 12.0, 0.10 * h, 4.0 * k)
        sheet(
            pars, (s * joint, d + 10.0, h + 1.0, 4.0 * k), (s * joint, d + 13.0, h + 4.0, 3.4 * k)
        )  # superior articular process
        inner = (cw - 0.5) if i else (cw + 3.0)  # the joints of L5 stand wider
        low = (s * inner, d + 16.0 * k, -h - (7.0 if i else 4.0), 4.0 * k)
        sheet(pars, (s * (cw + 1.0), d + 14.0, -0.55 * h, 4.0 * k), low)  # inferior articular process
        sheet(
            (s * (cw + 1.0), d + 14.0, -0.1 * h, 3.2),
            (0, back + 3.0, 0.10 * h, 2.8),
            (0, back + 4.0, -0.95 * h, 3.0),
            (s * (cw - 0.5), d + 15.0, -0.9 * h, 3.2),
        )
        root = (s * (cw + 6.0), d + 9.0, 0.42 * h, 4.2), (s * (cw + 6.0), d + 9.0, 0.10 * h, 4.2)
        rise = 3.0 if i in (0, 1) else 1.0
        if lumbar:
            tip = (s * length, d + 13.0, 0.34 * h + rise, 2.6), (s * (length - 1), d + 13.0, 0.1 * h + rise, 2.6)
            sheet(*root, *tip[::-1])
        else:
            sheet(root[0], (s * length, d + 17.0, 0.5 * h, 4.2))
    sheet(
        (0, back + 3, 0.0, 2.9),
        (0, back + 3, -0.95 * h, 3.0),
        (0, back + spin - 3, -1.05 * h - drop, 3.8),
        (0, back + spin, -0.55 * h - drop, 3.2),
    )  # spinous process
    return np.array(rows, float), np.array(faces, np.int64)


def last_ribs(column: Spine, side: float) -> dict[str, Points]:
    """Middle lines [N, 3] of the ribs at T12 and T11 of a side."""
    out = {}
    for number, length, fall in ((12, 95.0, 62.0), (11, 165.0, 105.0)):
        v = next(v for v in column.vertebrae if v.level == f"T{number}")
        w, d, h = v.size
        head = v.at((side * (w / 2 + 3.5), d / 2 - 1, 0.4 * h * 0.5))[0]
        t = np.linspace(0, 1, 9)
        x = head[0] + side * (30 * t + length * 0.55 * np.sin(t * 1.25))
        y = head[1] + 28 * np.sin(np.pi * t * 0.75) - 0.30 * length * t**2
        z = head[2] - fall * t**1.2
        out[f"rib_{'left' if side > 0 else 'right'}_{number}"] = np.stack([x, y, z], 1)
    return out
