"""A model of the left ventricle from a scan: of its labels, or the phantoms' parametric ventricle fitted to a contrasted CT.

The fit is semi-automatic. Two points are given by hand: the middle of the mitral valve's plane, and the tip of the cavity at the
apex. Blood is what is brighter than halfway between blood and muscle, is connected to a point between the two and lies below the
plane; where the muscle ends towards lung, fat or the blood of the right side is looked for along normals. The surfaces of
``simulation.phantoms.thorax_heart`` (a cavity and an outside, one map of space for both) are then brought onto both sets of edge
points by least squares (of distances that count less beyond 2 mm), with weak pulls towards the population's shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylign.data import LabelMap, Mesh, Volume
from raylign.errors import InputError
from raylign.simulation.phantoms.surfaces import surface
from raylign.simulation.phantoms.thorax_heart import Heart, left_cavity, left_outside

Array = NDArray[np.float64]
Point = tuple[float, float, float]

_PITCH = 1.5  # mm, of the grid on which blood is looked for, and of surfaces
_ROUND = 45.0  # mm about the two points that are looked at
_BALL = 6.0  # mm about the seed: what is taken for pure blood
_CLEAR = 4.0  # mm below the plane of the base: nearer to it, the cavity's edge is the plane's and none of the image's
_LEAST = 200  # points on each surface
_BEYOND = 8.0  # mm outside a ventricle of usual proportions: beyond lie great vessels and the right side
_WALL = (3.0, 20.0)  # mm: the least and the largest thickness that is looked for
_MOST = 1500  # edge points of either surface
_SCALE = 2.0  # mm: residuals beyond it count less and less


@dataclass(frozen=True)
class LVMarks:
    """Two points given by hand, patient LPS mm.

    Parameters
    ----------
    base: middle of the mitral valve's plane.
    apex: tip of the cavity.

    Raises
    ------
    InputError: points that are not 30 to 150 mm apart.
    """

    base: Point
    apex: Point

    def __post_init__(self) -> None:
        long = float(np.linalg.norm(np.subtract(self.apex, self.base))) if len(self.base) == len(self.apex) == 3 else math.nan
        if not 30 <= long <= 150:
            raise InputError(
                f"base and apex lie {long:.0f} mm apart",
                field="LVMarks",
                remedy="give two points in patient LPS mm, 30 to 150 mm",
            )

    @property
    def axis(self) -> Array:
        """Unit vector from base to apex."""
        way = np.subtract(self.apex, self.base)
        return np.asarray(way / np.linalg.norm(way))


@dataclass(frozen=True)
class LVFit:
    """A fitted ventricle.

    Parameters
    ----------
    heart: the parametric heart; of it only the left ventricle was fitted, the other chambers mean nothing.
    marks: that were given.
    blood_hu, muscle_hu: what they look like in this scan.
    cavity_mm, outside_mm: median distance of edge points from the surfaces.
    """

    heart: Heart
    marks: LVMarks
    blood_hu: float
    muscle_hu: float
    cavity_mm: float
    outside_mm: float

    def said(self) -> dict[str, Any]:
        """For JSON; ``heart_of`` reads ``heart`` again."""
        return {**asdict(self), "cavity_ml": self.heart.volume_ml(), "muscle_g": self.heart.mass_g()}


def heart_of(said: Any) -> Heart:
    """The heart of a record.

    Raises
    ------
    InputError: numbers that are missing or are none.
    """
    try:
        values = {k: tuple(map(float, v)) if isinstance(v, list | tuple) else float(v) for k, v in said.items()}
        return Heart(**values)  # type: ignore[arg-type]
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"is no fitted ventricle ({error})", field="heart") from None


def epicardium(heart: Heart, pitch_mm: float = _PITCH) -> Mesh:
    """The closed outer surface of a ventricle, as agents are trained on it (``heart_lv_epicardium`` of the phantoms)."""
    around = heart.left_points(24, 32, True)
    low, high = around.min(0) - 1, around.max(0) + 1
    return surface(lambda x, y, z: left_outside(heart, (x, y, z)), low, high, pitch_mm, "heart_lv_epicardium")


def labelled_epicardium(labels: LabelMap, names: Sequence[str]) -> Mesh:
    """The closed outer surface of labels taken together: muscle and blood, ``("heart_myocardium", "heart_ventricle_left")`` say.

    Raises
    ------
    InputError: a name that is no label's, none that has a voxel.
    """
    import torch

    from raylign.simulation.subjects import label_surface

    numbers = torch.tensor([labels.number(name) for name in names], dtype=labels.data.dtype)
    whole = torch.isin(labels.data, numbers).to(torch.uint8)
    return label_surface(LabelMap(whole, labels.affine, {1: "heart_lv_epicardium"}), "heart_lv_epicardium", 1.0)


def fit_left_ventricle(volume: Volume, marks: LVMarks) -> LVFit:
    """Bring the parametric ventricle onto a contrasted CT.

    Parameters
    ----------
    volume: in HU, with contrast agent in the left ventricle.
    marks: two points by hand.

    Raises
    ------
    InputError: a scan not in HU, points outside it, blood that is no brighter than muscle, too few edges.
    """
    patch = _Patch.of(volume, marks)
    blood = float(np.median(patch.within(_seed(marks), _BALL)))
    muscle = patch.muscle(blood, marks)
    if blood - muscle < 60:
        raise InputError(
            f"blood of {blood:.0f} HU and muscle of {muscle:.0f} HU cannot be told apart", field="volume",
            remedy="give a CT with contrast agent in the left ventricle, or labels",
        )  # fmt: skip
    level = (blood + muscle) / 2
    cavity = patch.cavity(level, blood + 0.35 * (blood - muscle), marks)
    heart = _solved(_begun(marks), marks, (cavity, np.zeros((0, 3))))
    outside = np.zeros((0, 3))
    for _ in range(2):  # normals are those of the fit before
        outside = patch.outside(heart, level, muscle)
        if len(outside) < _LEAST:
            raise InputError(
                f"{len(outside)} points of the muscle's outer edge are found, of the {_LEAST} that a wall needs",
                field="LVMarks",
                remedy="mark the middle of the mitral valve's plane and the tip of the cavity, in a scan of all of the heart",
            )
        heart = _solved(heart, marks, (cavity, outside))
    off = [float(np.median(np.abs(_distance(f, heart, p)))) for f, p in ((left_cavity, cavity), (left_outside, outside))]
    return LVFit(heart, marks, blood, muscle, *off)


def _seed(marks: LVMarks) -> Array:
    """A point in the blood, 45 % of the way from base to apex."""
    return np.add(marks.base, 0.45 * np.subtract(marks.apex, marks.base))


@dataclass(frozen=True, eq=False)
class _Patch:
    """The scan about the ventricle: HU on an isotropic grid along x, y, z, and a smoothed copy."""

    hu: NDArray[np.float32]  # [X, Y, Z]
    smooth: NDArray[np.float32]
    first: Array

    @staticmethod
    def of(volume: Volume, marks: LVMarks) -> _Patch:
        from scipy.ndimage import gaussian_filter, map_coordinates

        if volume.unit != "HU":
            raise InputError(f"the volume is in {volume.unit}", field="volume", remedy="give a scan in HU")
        both = np.array([marks.base, marks.apex])
        first = both.min(0) - _ROUND
        counts = np.ceil((both.max(0) + _ROUND - first) / _PITCH).astype(int) + 1
        grid = _grid(counts, first)
        back = np.linalg.inv(volume.affine.cpu().numpy())
        index = (grid @ back[:3, :3].T + back[:3, 3])[..., ::-1]
        data = volume.decoded().data.cpu().numpy().astype(np.float32)
        ends = (both @ back[:3, :3].T + back[:3, 3])[:, ::-1]
        if (ends < 0).any() or (ends > np.array(data.shape) - 1).any():
            raise InputError("base or apex lies outside the scan", field="LVMarks", remedy="give points in patient LPS mm")
        hu = map_coordinates(data, np.moveaxis(index, -1, 0), order=1, mode="nearest").astype(np.float32)
        return _Patch(hu, gaussian_filter(hu, 1.0), first)

    @cached_property
    def grid(self) -> Array:
        return _grid(self.hu.shape, self.first)

    def at(self, points: Array) -> Array:
        """Smoothed HU at points [..., 3]."""
        from scipy.ndimage import map_coordinates

        return np.asarray(
            map_coordinates(self.smooth, np.moveaxis((points - self.first) / _PITCH, -1, 0), order=1, mode="nearest")
        )

    def within(self, centre: Array, radius: float) -> Array:
        return np.asarray(self.hu[np.linalg.norm(self.grid - centre, axis=-1) < radius], np.float64)

    def muscle(self, blood: float, marks: LVMarks) -> float:
        """HU of muscle: the most frequent about a ventricle of usual size of what is neither fat nor blood."""
        usual, points = _begun(marks), self.grid.reshape(-1, 3)
        wall = (_distance(left_cavity, usual, points) > 0) & (_distance(left_outside, usual, points) < 0)
        count, edges = np.histogram(self.smooth.reshape(-1)[wall], np.arange(20, max(0.75 * blood, 40), 5.0))
        peak = int(np.convolve(count, np.ones(3), "same").argmax())
        return float(edges[peak : peak + 2].mean())

    def cavity(self, level: float, most: float, marks: LVMarks) -> Array:
        """Points [N, 3] on the edge of the ventricle's blood, papillary muscles filled; ``most``: HU of fresh contrast agent."""
        from scipy import ndimage

        ball = np.linalg.norm(np.indices((11, 11, 11)) - 5, axis=0) * _PITCH
        grid = self.grid
        below = (grid - np.asarray(marks.base)) @ marks.axis
        beyond = _distance(left_outside, _begun(marks), grid.reshape(-1, 3)).reshape(below.shape)
        blood = (self.smooth > level) & (self.smooth < most) & (below > 0) & (beyond < _BEYOND)
        # what is joined to the ventricle by less than 12 mm (leaks through a thin septum) is none of it
        core, _ = ndimage.label(ndimage.binary_erosion(blood, ball <= 6.0))
        seed = tuple(np.round((_seed(marks) - self.first) / _PITCH).astype(int))
        if core[seed] == 0:
            raise InputError("the middle between base and apex is no blood", field="LVMarks", remedy="give other points")
        blood &= ndimage.binary_dilation(core == core[seed], ball <= 7.5)
        filled = ndimage.binary_closing(np.pad(blood, 5), ball <= 6.0)[5:-5, 5:-5, 5:-5] & (below > 0)
        filled = ndimage.binary_fill_holes(filled)
        depth = ndimage.distance_transform_edt(filled) - ndimage.distance_transform_edt(~filled)
        edge = (depth == 1) & (below > _CLEAR) & (beyond < _BEYOND - _CLEAR)  # centres of voxels half a pitch within the edge
        points = grid[edge]
        outward = -np.stack(np.gradient(ndimage.gaussian_filter(depth, 1.5)), -1)[edge]
        points = points + 0.5 * _PITCH * outward / np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-6)
        if len(points) < _LEAST:
            raise InputError("there is hardly any blood between base and apex", field="LVMarks", remedy="give other points")
        return _thinned(points)

    def outside(self, heart: Heart, level: float, muscle: float) -> Array:
        """Points [N, 3] where muscle ends, along the normals of the cavity."""
        begin = heart.left_points(40, 60, False)
        normal = np.stack(
            [_distance(left_cavity, heart, begin + d) - _distance(left_cavity, heart, begin - d) for d in np.eye(3)], 1
        )
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        depth = np.arange(_WALL[0], _WALL[1], 0.25)
        hu = self.at(begin[:, None] + depth[None, :, None] * normal[:, None])
        inside = (hu > (muscle - 100) / 2) & (hu < level)  # neither halfway to fat nor to blood
        # muscle is entered first: trabeculae make the fitted cavity end somewhat within or without the blood
        entered = inside[:, :12].any(1)
        start = inside[:, :12].argmax(1)
        after = ~inside & (np.arange(len(depth)) > start[:, None])
        found = entered & after.any(1)
        reach = depth[after.argmax(1)]
        below = (begin - np.asarray(heart.base)) @ np.asarray(heart.axis)
        found &= below > _CLEAR
        return _thinned((begin + reach[:, None] * normal)[found])


def _grid(counts: Iterable[int], first: Array) -> Array:
    """Points [X, Y, Z, 3] of a grid, LPS mm."""
    return np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), -1) * _PITCH + first


def _thinned(points: Array) -> Array:
    return points[:: max(1, len(points) // _MOST)]


def _distance(solid: Any, heart: Heart, points: Array) -> Array:
    return np.asarray(solid(heart, tuple(points.astype(np.float64).T)), np.float64)


def _begun(marks: LVMarks) -> Heart:
    """An upright ventricle of usual proportions between the two points."""
    long = float(np.linalg.norm(np.subtract(marks.apex, marks.base)))
    x, y, z = marks.axis.tolist()
    return Heart(marks.base, (x, y, z), long, 0.32 * long, 1.0, 0.0, 0.0, (0.0, 0.0), (0.0,) * 8, 9.0, 6.0, 1.0, 1.0, (1.0, 1.0))


_PULL = np.array([6.0, 6.0, 3.0, 0.25, 0.25, 8.0, 6.0, 0.1, 0.8, 0.1, 4.0, 4.0, *[0.05] * 8, 4.0, 4.0])
"""Standard deviations about the start: base across and along the axis (mm), axis, length, radius (mm), log oval, roll (rad),
taper, bend (mm), lobes, wall, apex_wall (mm). Shapes as the population has them, or somewhat looser."""
_WEIGHT = 0.1  # of a pull of one standard deviation, beside a mean distance of _SCALE
_FARTHEST = 4.0  # standard deviations
_APART = 0.01  # of a standard deviation: of finite differences


def _solved(begin: Heart, marks: LVMarks, edges: tuple[Array, Array]) -> Heart:
    """Least squares of the distances of edge points from the cavity and from the outside."""
    from scipy.optimize import least_squares

    usual = _begun(marks)
    cavity, outside = edges

    def misses(pulls: Array) -> Array:
        heart = _moved(usual, pulls * _PULL)
        parts = [_tolerated(_distance(left_cavity, heart, cavity))]
        if len(outside):
            parts.append(_tolerated(_distance(left_outside, heart, outside)))
        return np.concatenate([*parts, _WEIGHT * pulls])

    def slopes(pulls: Array) -> Array:
        # distances are in single precision: differences must not be small
        return np.stack([(misses(pulls + d) - misses(pulls - d)) / (2 * _APART) for d in _APART * np.eye(len(pulls))], 1)

    # rounded, since the first step is as long as what it begins from, and 1e-17 is no length
    pulls = np.round(np.clip(_numbers(usual, begin) / _PULL, -0.99 * _FARTHEST, 0.99 * _FARTHEST), 6)
    found = least_squares(misses, pulls, slopes, (-_FARTHEST, _FARTHEST), max_nfev=60)
    return _moved(usual, found.x * _PULL)


def _tolerated(distances: Array) -> Array:
    """Residuals whose squares grow like distances beyond ``_SCALE``: leaks and papillary muscles pull, and not much."""
    ratio = distances / _SCALE
    return np.asarray(np.sign(ratio) * np.sqrt(2 * (np.sqrt(1 + ratio**2) - 1)) / math.sqrt(max(len(distances), 1)))


def _numbers(usual: Heart, heart: Heart) -> Array:
    """The numbers under which ``_moved`` makes the one of the other."""
    u, v, w = _frame(usual)
    off = np.subtract(heart.base, usual.base)
    axis = np.asarray(heart.axis)
    return np.array(
        [
            off @ u, off @ v, off @ w, axis @ u / (axis @ w), axis @ v / (axis @ w), heart.length - usual.length,
            heart.radius - usual.radius, math.log(heart.oval / usual.oval), heart.roll - usual.roll, heart.taper - usual.taper,
            *np.subtract(heart.bend, usual.bend), *np.subtract(heart.lobes, usual.lobes), heart.wall - usual.wall,
            heart.apex_wall - usual.apex_wall,
        ]
    )  # fmt: skip


def _moved(usual: Heart, x: Array) -> Heart:
    u, v, w = _frame(usual)
    axis = w + x[3] * u + x[4] * v
    axis /= np.linalg.norm(axis)
    base = np.asarray(usual.base) + x[0] * u + x[1] * v + x[2] * w

    def plain(values: Any) -> tuple[Any, ...]:
        return tuple(float(value) for value in values)

    return replace(
        usual, base=plain(base), axis=plain(axis), length=max(float(usual.length + x[5]), 20.0),
        radius=max(float(usual.radius + x[6]), 8.0), oval=usual.oval * math.exp(x[7]), roll=float(usual.roll + x[8]),
        taper=float(usual.taper + x[9]), bend=plain(usual.bend + x[10:12]), lobes=plain(usual.lobes + x[12:20]),
        wall=max(float(usual.wall + x[20]), 2.0), apex_wall=max(float(usual.apex_wall + x[21]), 1.0),
    )  # fmt: skip


def _frame(heart: Heart) -> tuple[Array, Array, Array]:
    w = np.asarray(heart.axis, np.float64)
    u = np.cross(w, np.eye(3)[int(np.abs(w).argmin())])
    u /= np.linalg.norm(u)
    return u, np.cross(w, u), w
