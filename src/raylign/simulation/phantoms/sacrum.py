"""A sacrum with coccyx, drawn from named sizes: no scan and no person's bone was fitted.

The bone hangs on one line, the middle of its ventral surface from the promontory to the apex, bent by the angles of ``_LINE``.
Across that line stand sections with a body, a canal, laminae and a crest behind it, and a lateral mass before and behind the
foramina. The numbers were chosen after published figures, the lateral border so that it reaches the hip bones, which then trim it
(``pelvis_shape``). What 40 people (seeds 0 to 39, men / women) measure on the surface, median, and what is published:

=======================================  =============  ===================================
straight length, promontory to apex, mm  105.8 / 95.2   107.6 / 93.6 (a), 104.3 / 92.8 (b)
length along the ventral surface, mm     115.1 / 103.4  113.4 / 103.9 (a)
straight over curved length              0.92 / 0.92    0.92, both sexes (c)
depth of the ventral hollow, mm          19.3 / 17.1
breadth, mm                              107.1 / 108.2  101.5 / 106.2 (a), 99.5 / 103.0 (b)
sacral index, breadth over length, %     104 / 114      95 / 111 (b)
depth of the upper face of S1, mm        32.3 / 28.8    31.9 / 30.2 (d)
length of the auricular surface, mm      58.0 / 52.1    56.2, women (e)
coccyx, straight, mm                     35.8 / 31.2    33.8 / 31.5 (f)
pelvic incidence, degrees                50.8 / 49.5    53 (10.5), both sexes (g)
=======================================  =============  ===================================

(a) Bangladesh Journal of Anatomy 15(2), 60 dry sacra of Sylhet; (b) Mymensingh Medical Journal 2018, 27(4):710, 150 dry sacra;
(c) Korean post-mortem CT, 29 people; (d) magnetic resonance of 50 South Indians, International Journal of Pharma and Bio
Sciences 2015, 6:B398, whence also the heights of S1 before and behind (28 and 22 mm) and its lower depth (20 and 18 mm); (e)
PMC5799488, 78 women; (f) Indiran et al. 2017, Asian Spine Journal 11(5):694; (g) Mac-Thiong et al. 2011, European Spine Journal
20 Suppl 5:572, standing. Foramina: Saluja et al. 2018, Journal of Clinical and Diagnostic Research 12(6):AC01 (S1 in front 13.0
by 12.2 mm), and Kim et al. 2023, Korean Journal of Pain 36(1):98 (S1 behind 8.5 mm wide, 23.5 mm from the middle). Pieces of
the coccyx and its angle: Woon et al. 2013, European Spine Journal 22(4):863. Sections of the lower bodies, the canal, the crest
and the processes are ours, by the look of the bone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.errors import InputError
from raylign.simulation.phantoms.field import Array
from raylign.simulation.phantoms.trunk_shape import SLOPE
from raylign.simulation.phantoms.trunk_webs import Points, Web

Values = NDArray[np.float64]

# ventral line: from S1 to S5 the height of the body in front, mm, and the direction of its front, degrees backward from downward
_HEIGHTS = np.array([28.5, 25.0, 21.0, 18.5, 16.0])
_LINE = np.array([61.0, 57.0, 43.0, 19.0, -6.0])
_WOMAN = np.array([-1.0, 1.0, 3.0, 1.0, -5.0])  # the upper half straighter, the lower more bent
_BEND = np.array([1.5, 1.0, -0.5, -4.0, -7.0])  # of one standard deviation of curvature
# sections at the upper end of S1 and the lower ends of S1 to S5
_TURN = np.array([SLOPE, 45.0, 48.0, 32.0, 9.0, -8.0])  # degrees, as _LINE; the wedge of the bodies
_BODY = np.array([24.0, 17.5, 14.5, 13.0, 11.5, 8.5])  # half width, mm
_DEPTH = np.array([31.5, 20.5, 15.5, 12.0, 9.5, 7.0])
_CANAL = np.array([15.0, 12.5, 10.0, 8.0, 6.5, 5.0])  # half width
_CANAL_DEPTH = np.array([17.0, 13.0, 10.0, 8.0, 6.5, 5.0])
_CREST = np.array([2.0, 9.0, 8.5, 5.5, 2.5, 0.0])  # height of the median crest over the lamina
# lateral mass: rows of distance along the line for its three columns (beside the body, between, at the edge)
_ROWS = np.array([[11.0, 15.0, 19.0], [28.5] * 3, [53.5] * 3, [74.5] * 3, [92.0] * 3, [103.5] * 3])
_EDGE = np.array([61.0, 54.0, 43.0, 33.5, 25.5, 14.0])  # half width in front; the hip bones trim it
_EDGE_BACK = np.array([36.0, 35.0, 32.0, 28.0, 23.0, 13.0])
_FRONT = np.array([-1.0, -8.0, -8.0, -3.0, -1.0, 0.0])  # depth of its front at the edge
_BACK = np.array([36.0, 28.0, 20.0, 13.5, 9.5, 6.5])  # depth of its back
# foramina below S1 to S4: distance from the middle and radius, in front and behind
_VENTRAL, _VENTRAL_RADIUS = np.array([19.5, 17.5, 16.0, 14.5]), np.array([6.2, 6.0, 5.2, 4.6])
_DORSAL, _DORSAL_RADIUS = np.array([23.5, 20.5, 18.0, 16.0]), np.array([4.4, 3.8, 3.4, 3.0])
# coccyx: height, half width, half thickness, direction
_COCCYX = np.array([[12.5, 9.5, 4.0, -20.0], [10.0, 6.5, 3.6, -32.0], [8.5, 5.0, 3.2, -47.0], [7.5, 3.8, 2.8, -60.0]])
_TOP = float(_HEIGHTS.sum())


@dataclass(frozen=True)
class SacrumSize:
    """What differs between sacra beside their scale.

    Parameters
    ----------
    female: narrower body, straighter above and more bent below.
    bend: more (positive) or less curved, in standard deviations.
    segments: of the coccyx, 3 or 4.
    """

    female: bool = False
    bend: float = 0.0
    segments: int = 4


@dataclass(frozen=True, eq=False)
class Sacrum:
    """The bone in its own frame: mm, x left, y back, z head, origin in the middle of the upper face of S1, which falls ``SLOPE``
    degrees forward.

    Parameters
    ----------
    web: the solid, without canal, foramina and the flat of its upper face, which ``hollow`` makes.
    foramina: [8, 3, 3] middle in front, middle behind, and where it leaves the canal. radii: [8, 2].
    canal: [N, 3] its middle line downwards, canal_radii: [N, 2] half width and half depth.
    upper: half width and half depth of the upper face. top: [3] its middle.
    """

    web: Web
    foramina: Points
    radii: Points
    canal: Points
    canal_radii: Points
    upper: tuple[float, float]
    top: Points


class _Sheets:
    """Balls and faces being collected."""

    def __init__(self) -> None:
        self.balls: list[Points] = []
        self.faces: list[tuple[int, int, int]] = []

    def grid(self, balls: Points) -> None:
        """Thick quadrilaterals over [R, C, 4] balls; one row or column makes cones."""
        r, c = balls.shape[:2]
        first = sum(map(len, self.balls))
        self.balls.append(balls.reshape(-1, 4))
        at = first + np.arange(r * c).reshape(r, c)
        for i in range(max(r - 1, 1)):
            for j in range(max(c - 1, 1)):
                a, b = int(at[i, j]), int(at[min(i + 1, r - 1), j])
                d, e = int(at[i, min(j + 1, c - 1)]), int(at[min(i + 1, r - 1), min(j + 1, c - 1)])
                self.faces += [(a, b, d), (b, e, d)] if r > 1 and c > 1 else [(a, e, e)]


class _Line:
    """Places by distance along the ventral line, half width and depth behind it."""

    def __init__(self, size: SacrumSize) -> None:
        direction = np.radians(_LINE + size.bend * _BEND + (_WOMAN if size.female else 0.0))
        self.ends = np.concatenate([[0.0], np.cumsum(_HEIGHTS)])
        self.turn = np.radians(_TURN + np.interp(self.ends, self.ends[1:], np.degrees(direction) - _LINE) * [0, 1, 1, 1, 1, 1])
        self.middles = (self.ends[1:] + self.ends[:-1]) / 2
        fine = np.linspace(0, _TOP, 109)
        angle = np.interp((fine[1:] + fine[:-1]) / 2, self.middles, direction)
        step = np.diff(fine)[:, None] * np.stack([np.sin(angle), -np.cos(angle)], 1)
        start = -_DEPTH[0] / 2 * np.array([np.cos(self.turn[0]), np.sin(self.turn[0])])
        self.fine, self.curve = fine, start + np.concatenate([np.zeros((1, 2)), np.cumsum(step, 0)])

    def at(self, along: Values | float, x: Values | float, depth: Values | float) -> Points:
        """Points [..., 3]; before the first and after the last section straight on."""
        along, x, depth = np.broadcast_arrays(np.asarray(along, float), x, depth)
        s = np.clip(along, 0, _TOP)
        turn = np.interp(s, self.ends, self.turn)
        y, z = (np.interp(s, self.fine, self.curve[:, i]) for i in (0, 1))
        beyond = along - s
        y = y + depth * np.cos(turn) + beyond * np.sin(turn)
        z = z + depth * np.sin(turn) - beyond * np.cos(turn)
        return np.stack([x, y, z], -1)

    def of(self, values: Values, along: Values | float) -> Values:
        """A size given at the sections, between them."""
        return np.asarray(np.interp(along, self.ends, values), float)


def sacrum(size: SacrumSize | None = None) -> Sacrum:
    """The bone of a size; scale, place and small irregularities are the pelvis's.

    Returns
    -------
    Sacrum: about 250 balls.

    Raises
    ------
    InputError: a coccyx of other than 3 or 4 pieces.
    """
    size = size or SacrumSize()
    if size.segments not in (3, 4):
        raise InputError(f"a coccyx of {size.segments} pieces", field="segments", remedy="3 or 4")
    line, out = _Line(size), _Sheets()
    slim = 0.94 if size.female else 1.0
    _bodies(line, out, slim)
    for side in (1.0, -1.0):
        _lateral(line, out, side)
        _processes(line, out, side)
    _arches(line, out)
    _coccyx(line, out, size.segments)
    foramina, radii = _foramina(line)
    s = np.array([-14.0, 0.0, 14.0, 28.5, 53.5, 74.5, 92.0, 106.0])
    deep = line.of(_CANAL_DEPTH, s) / 2
    canal = line.at(s, 0.0, line.of(_DEPTH, s) + deep)
    web = Web(np.concatenate(out.balls), np.array(out.faces, np.int64))
    return Sacrum(
        web, foramina, radii, canal, np.stack([line.of(_CANAL, s), deep], 1), (_BODY[0] * slim, _DEPTH[0] / 2), np.zeros(3)
    )


def laid(bone: Sacrum, move: Callable[[Points], Points], factors: tuple[float, float, float]) -> Sacrum:
    """The bone somewhere else.

    Parameters
    ----------
    move: of points [N, 3]. factors: on half widths, half depths and on radii.
    """

    def all_of(points: Points) -> Points:
        return move(points.reshape(-1, 3)).reshape(points.shape)

    wide, deep, size = factors
    balls = np.concatenate([move(bone.web.balls[:, :3]), bone.web.balls[:, 3:] * size], 1)
    return Sacrum(
        Web(balls, bone.web.faces),
        all_of(bone.foramina),
        bone.radii * size,
        move(bone.canal),
        bone.canal_radii * [wide, deep],
        (bone.upper[0] * wide, bone.upper[1] * deep),
        move(bone.top[None])[0],
    )


def _balls(points: Points, radius: Values | float) -> Points:
    return np.concatenate([points, np.broadcast_to(radius, points.shape[:-1])[..., None]], -1)


def _bodies(line: _Line, out: _Sheets, slim: float) -> None:
    """A ribbon from S1 to the apex, with the ridges where the discs were."""
    s = np.array([0.0, 9.0, *line.ends[1:-1], _TOP - 3.5])
    r = line.of(_DEPTH, s) / 2
    half = line.of(_BODY, s) * np.interp(s, [0, 28.5], [slim, 1.0]) - r
    out.grid(_balls(line.at(s[:, None], half[:, None] * [1.0, -1.0], r[:, None]), r[:, None]))
    for k in (1, 2, 3, 4):
        out.grid(_balls(line.at(line.ends[k], (_BODY[k] - 3.5) * np.array([[1.0], [-1.0]]), 2.0), 2.7))


def _lateral(line: _Line, out: _Sheets, side: float) -> None:
    """Ala and lateral mass: a sheet in front, one behind, and what lies between."""
    inner = line.of(_BODY, _ROWS[:, 0]) - 3.0
    back = np.stack([line.of(_DEPTH, _ROWS[:, 0]) + 0.6 * line.of(_CANAL_DEPTH, _ROWS[:, 0]), _BACK + 0.5, _BACK], 1)
    front = np.stack([0 * _FRONT, 0.55 * _FRONT, _FRONT], 1)
    r = np.minimum(0.28 * (back - front), 9.5)
    outer = _EDGE - r[:, 2]
    x = np.stack([inner, (inner + outer) / 2, outer], 1)
    out.grid(_balls(line.at(_ROWS, side * x, front + r), r))
    behind = _EDGE_BACK - r[:, 2]
    x = np.stack([np.minimum(line.of(_CANAL, _ROWS[:, 0]) + 4.0, behind), (inner + behind) / 2 + 1.0, behind], 1)
    out.grid(_balls(line.at(_ROWS, side * np.sort(x, 1), back - r), r))
    out.grid(
        _balls(
            line.at(_ROWS[:, 1:], side * np.stack([inner + 6, 0.94 * (outer + behind) / 2], 1), (front + back)[:, 1:] / 2),
            r[:, 1:],
        )
    )


def _processes(line: _Line, out: _Sheets, side: float) -> None:
    """The articular process of S1, its facet towards L5."""
    s = np.array([[16.0, 16.0], [3.0, 4.0], [-4.5, -3.0], [-9.5, -6.5]])
    x = np.array([[22.0, 29.0], [20.0, 28.0], [20.0, 27.5], [21.5, 26.5]])
    depth = np.array([[37.0, 36.0], [42.0, 37.0], [45.5, 39.5], [46.0, 42.0]])
    out.grid(_balls(line.at(s, side * x, depth), np.array([[6.5], [5.0], [3.8], [3.0]])))


def _arches(line: _Line, out: _Sheets) -> None:
    """Laminae of S1 to S4 behind the canal, and the crest with its tubercles."""
    s = np.array([9.0, 20.0, 28.5, 41.0, 53.5, 64.0, 74.5, 84.0])
    wide, high, deep = line.of(_CANAL, s), line.of(_CANAL_DEPTH, s), line.of(_DEPTH, s)
    edge = wide + np.array([3.0] * 6 + [2.0, -1.5])
    x = np.stack([edge, 0.55 * wide, 0 * wide, -0.55 * wide, -edge], 1)
    depth = np.stack([0.55 * high, high + 1.0, high + 3.4, high + 1.0, 0.55 * high], 1) + deep[:, None]
    out.grid(_balls(line.at(s[:, None], x, depth), 2.9))
    crest = np.interp(s, line.middles, _CREST[1:]) * np.array([0.6, 1.0, 0.5, 1.0, 0.55, 0.95, 0.5, 0.7])
    ridge = np.stack([high + 3.5, high + 3.5 + crest], 1) + deep[:, None]
    out.grid(_balls(line.at(s[:, None] + [0.0, 2.5], 0.0, ridge), np.array([2.8, 2.6])))
    for side in (1.0, -1.0):  # horns of the hiatus
        out.grid(
            _balls(
                line.at(np.array([[84.0, 95.0, 104.0]]), side * np.array([[9.0, 8.0, 7.5]]), np.array([[13.0, 10.5, 8.0]])), 2.4
            )
        )


def _coccyx(line: _Line, out: _Sheets, segments: int) -> None:
    """Flat pieces, each smaller, joined by narrow discs turned to bone."""
    place = line.at(_TOP, 0.0, 3.5)
    for number, (height, half, thick, angle) in enumerate(_COCCYX[:segments]):
        along = np.array([0.0, np.sin(np.radians(angle)), -np.cos(np.radians(angle))])
        wide = np.array([1.0, 0.85, 0.7]) * (half - thick)
        middle = place + np.array([0.3, 0.5, 0.68])[:, None] * height * along
        rows = np.stack([middle + w * np.array([1.0, 0, 0]) for w in (1, -1)], 1)
        rows[:, :, 0] = wide[:, None] * [1.0, -1.0]
        out.grid(_balls(rows, thick * np.array([0.95, 0.9, 0.82])[:, None]))
        out.grid(_balls(np.stack([place - 3.0 * along, middle[1]])[:, None], 0.5 * thick))
        if not number:  # transverse processes and horns
            for side in (1.0, -1.0):
                out.grid(_balls(np.stack([middle[0], middle[0] + [side * 12.0, 0, 0.5]])[:, None], np.array([[3.0], [2.0]])))
                out.grid(_balls(np.stack([middle[0] + [side * 5, 1, 0], middle[0] + [side * 7, 6.0, 5.0]])[:, None], 1.9))
        place = place + height * along


def _foramina(line: _Line) -> tuple[Points, Points]:
    s = line.ends[1:5]
    rows, radii = [], []
    for side in (1.0, -1.0):
        front = line.at(s + 1.0, side * _VENTRAL, line.of(_FRONT, s) * 0.2 - 1.0)
        back = line.at(s - 1.0, side * _DORSAL, line.of(_BACK, s) + 2.0)
        root = line.at(s - 2.0, side * 0.5 * _CANAL[1:5], _DEPTH[1:5] + 0.45 * _CANAL_DEPTH[1:5])
        rows.append(np.stack([front, back, root], 1))
        radii.append(np.stack([_VENTRAL_RADIUS, _DORSAL_RADIUS], 1))
    return np.concatenate(rows), np.concatenate(radii)


def hollow(bone: Sacrum, slope: float, d: Array, xyz: tuple[Array, Array, Array]) -> Array:
    """Takes the canal, the foramina and what stands over the upper face out of a distance [D, H, W], mm, in place.

    Parameters
    ----------
    bone: as it lies in the body: web, foramina and canal moved; the canal still runs in planes of one x.
    slope: of its upper face, degrees. xyz: coordinates that broadcast to ``d``, ascending.
    """
    for (front, back, root), (wide, narrow) in zip(bone.foramina, bone.radii, strict=True):
        _bore(d, xyz, (front, back), (wide, narrow))
        _bore(d, xyz, (front + 0.55 * (back - front), root), (0.85 * narrow, 0.85 * narrow))
    x, y, z = xyz
    py, pz = (np.broadcast_to(a[:, :, 0], d.shape[:2]) for a in (y, z))
    near = np.full(d.shape[:2], 1e6, np.float32)
    wide, deep, across = np.ones_like(near), np.ones_like(near), np.zeros_like(near)
    line, sizes = bone.canal[:, 1:].astype(np.float32), np.c_[bone.canal_radii, bone.canal[:, 0]].astype(np.float32)
    for a, b, p, q in zip(line[:-1], line[1:], sizes[:-1], sizes[1:], strict=True):
        along = b - a
        t = np.clip(((py - a[0]) * along[0] + (pz - a[1]) * along[1]) / (along @ along), 0, 1)
        off = np.hypot(py - a[0] - t * along[0], pz - a[1] - t * along[1])
        closer = off < near
        near = np.where(closer, off, near)
        wide, deep, across = (
            np.where(closer, u + t * (v - u), old) for u, v, old in zip(p, q, (wide, deep, across), strict=True)
        )
    ring = np.sqrt(((x - across[:, :, None]) / wide[:, :, None]) ** 2 + (near / deep)[:, :, None] ** 2)
    np.maximum(d, (1 - ring) * np.minimum(wide, deep)[:, :, None], out=d)
    _flatten(bone, slope, d, xyz)
    return d


def _part(d: Array, xyz: tuple[Array, Array, Array], low: Points, high: Points) -> tuple[Array, tuple[Array, Array, Array]]:
    """A view of a distance between two corners, and the coordinates there."""
    x, y, z = xyz
    k, j, i = (
        slice(*np.searchsorted(a.ravel(), (p, q)).tolist()) for a, p, q in zip((z, y, x), low[::-1], high[::-1], strict=True)
    )
    return d[k, j, i], (x[:, :, i], y[:, j], z[k])


def _bore(d: Array, xyz: tuple[Array, Array, Array], ends: tuple[Points, Points], radii: tuple[float, float]) -> None:
    """A round hole from one point to another, its radius changing evenly."""
    low, high = np.minimum(*ends) - 8, np.maximum(*ends) + 8
    part, (x, y, z) = _part(d, xyz, low, high)
    if not part.size:
        return
    a, b = (e.astype(np.float32) for e in ends)
    along = b - a
    px, py, pz = x - a[0], y - a[1], z - a[2]
    t = np.clip((px * along[0] + py * along[1] + pz * along[2]) / (along @ along), 0, 1)
    off = np.sqrt((px - t * along[0]) ** 2 + (py - t * along[1]) ** 2 + (pz - t * along[2]) ** 2)
    np.maximum(part, np.float32(radii[0]) + np.float32(radii[1] - radii[0]) * t - off, out=part)


def _flatten(bone: Sacrum, slope: float, d: Array, xyz: tuple[Array, Array, Array]) -> None:
    """Nothing stands over the upper face."""
    part, (x, y, z) = _part(d, xyz, bone.top - 36, bone.top + 36)
    if not part.size:
        return
    c, s = np.float32(np.cos(np.radians(slope))), np.float32(np.sin(np.radians(slope)))
    py, pz = y - np.float32(bone.top[1]), z - np.float32(bone.top[2])
    u, v, w = x - np.float32(bone.top[0]), c * py + s * pz, c * pz - s * py
    a, b = (np.float32(half + 2.5) for half in bone.upper)
    over = np.maximum(-w, (np.sqrt((u / a) ** 2 + (v / b) ** 2) - 1) * b)
    np.maximum(part, -over, out=part)
