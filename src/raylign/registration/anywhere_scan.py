"""Every turn of a model at every place that two or more exposures see: the search behind a start from nowhere.

A uniform grid over SO(3) is rendered turn by turn for every exposure, the model's centre where the beams cross, and correlated
with the exposure as ``locate`` does: that scores all shifts across each beam at once. A place in space is a shift in every
exposure, so that the scores of all places of a lattice are looked up, not computed:

    score(turn, place)^2 = sum over exposures of score_i(turn, shift_i(place))^2,    0 where one of them is not positive.

Turns are spread by the super-Fibonacci spirals of Alexa (CVPR 2022), which cover SO(3) evenly at any count; about the better ones
a finer grid is looked at. What known bodies show is taken out of the exposures first, or their edges would draw the model: in a
window about each pixel the part of the gradient that one factor brings to theirs (``matching``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.spatial.transform import Rotation

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.projection import cpu
from raylign.registration.locate import CoarseField, coarse_field, into_template, to_one_strength
from raylign.registration.match_kernels import FAST
from raylign.registration.matching import MatchConfig, clear_unanswered, render
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array32, Array64, ImageLevel, ModelLevel, box_corners, content, model_pyramid
from raylign.registration.rotations import rays_into
from raylign.registration.settings import DirectConfig, LocateConfig

_PSI = 1.533751168755204288118041  # Alexa's constant: psi^4 = psi + 4
_STEP = 1.5  # voxels between samples on a ray
_SLACK = 1.5  # times as far from what is known a refinement may end
_BEYOND = 1.2  # of the widest field: how far from the crossing of the beams places are looked at

Body = tuple[Volume, Rigid]  # something whose pose is known
Found = tuple[float, Array64]  # a score, larger is better, and a pose


@dataclass(frozen=True, eq=False)
class Region:
    """A ball in which a point of the model lies: ``centre`` [3] world mm, ``radius`` mm.

    ``of_model`` [3], patient LPS mm, is the point, a joint's centre say; the model's middle if none is given.
    """

    centre: Array64
    radius: float
    of_model: Array64 | None = None


@dataclass(frozen=True, eq=False)
class Axis:
    """What is known of a direction: ``of_model`` [3] (patient LPS) points within ``degrees`` of ``in_world`` [3]."""

    of_model: Array64
    in_world: Array64
    degrees: float

    def holds(self, turns: Array64, slack: float = 1.0) -> NDArray[np.bool_]:
        """Which of some rotations [N, 3, 3] agree; ``slack``: within so many times the angle."""
        a, b = (np.asarray(v, np.float64) / np.linalg.norm(v) for v in (self.of_model, self.in_world))
        return np.asarray(turns @ a @ b >= math.cos(math.radians(min(slack * self.degrees, 180.0))))


@dataclass(frozen=True, eq=False)
class AnywhereConfig:
    """How densely everything is looked through, and what is known beforehand.

    Parameters
    ----------
    turns: orientations; 2000 lie about 20 degrees apart.
    again: share of them, the best, about which eight more at half the distance are looked at.
    lattice: mm between places.
    places: places that one turn may have.
    pixels: the model's middle extent on the coarse images of the scan, in pixels.
    tried, refined: how many of the best are refined at the first and at the second level.
    finer: how many of those at a third level, twice as fine, and the best of them at other depths in each exposure; 0 for none.
        Where neighbours look alike, coarse images do not tell.
    finalists: how many of those are refined to the end.
    region, axis: where a point of the model lies, and how it points, if that is known; all of several directions hold.
    known: bodies in the exposures whose poses are known: what they show is explained already.
    direct: of the refinement; its search is replaced.
    """

    turns: int = 2000
    again: float = 0.25
    places: int = 3
    lattice: float = 6.0
    pixels: int = 14
    tried: int = 800
    refined: int = 150
    finer: int = 0
    finalists: int = 4
    region: Region | None = None
    axis: Axis | tuple[Axis, ...] | None = None
    known: tuple[Body, ...] = ()
    direct: DirectConfig = field(default_factory=DirectConfig)

    def __post_init__(self) -> None:
        for name in ("turns", "places", "pixels", "tried", "refined", "finalists"):
            if getattr(self, name) < 1:
                raise InputError(f"{getattr(self, name)} is too few", field=name, remedy="give 1 or more")
        if not self.lattice > 0:
            raise InputError(f"{self.lattice} mm", field="lattice", remedy="give more than zero")

    @property
    def axes(self) -> tuple[Axis, ...]:
        """What is known of directions."""
        return () if self.axis is None else self.axis if isinstance(self.axis, tuple) else (self.axis,)

    def holds(self, turns: Array64) -> Array64:
        """Those of some rotations [N, 3, 3] that agree with what is known of directions."""
        for axis in self.axes:
            turns = turns[axis.holds(turns)]
        return turns

    def allows(self, matrix: Array64, middle: Array64) -> bool:
        """Whether a pose that was refined still agrees with what is known, half as far again included.

        ``middle`` [3]: of the model, patient LPS mm.
        """
        if not all(axis.holds(matrix[None, :3, :3], _SLACK)[0] for axis in self.axes):
            return False
        if self.region is None:
            return True
        point = matrix[:3, :3] @ (middle if self.region.of_model is None else self.region.of_model) + matrix[:3, 3]
        return bool(np.linalg.norm(point - self.region.centre) <= _SLACK * self.region.radius)


def spiral_turns(count: int) -> Float[NDArray[np.float64], "count 3 3"]:
    """``count`` rotations spread evenly over SO(3): super-Fibonacci spirals (Alexa 2022, algorithm 1)."""
    s = np.arange(count) + 0.5
    t = s / count
    inner, outer = np.sqrt(t), np.sqrt(1 - t)
    alpha, beta = 2 * np.pi * s / math.sqrt(2), 2 * np.pi * s / _PSI
    quaternions = np.stack([inner * np.sin(alpha), inner * np.cos(alpha), outer * np.sin(beta), outer * np.cos(beta)], 1)
    return np.asarray(Rotation.from_quat(quaternions).as_matrix())


def crossing(views: Sequence[View]) -> Float[NDArray[np.float64], " 3"]:
    """The point nearest, in the sense of least squares, to the rays through the middles of some views, world mm.

    Raises
    ------
    InputError: fewer than two views, or rays that run side by side.
    """
    a, b = np.zeros((3, 3)), np.zeros(3)
    for view in views:
        h, w = view.shape
        middle = view.origin + (w - 1) / 2 * view.column_step + (h - 1) / 2 * view.row_step
        ray = (middle - view.source).detach().numpy()
        across = np.eye(3) - np.outer(ray, ray) / (ray @ ray)
        a += across
        b += across @ view.source.detach().numpy()
    if len(views) < 2 or np.linalg.eigvalsh(a)[0] < 1e-3:
        raise InputError(
            "a start from nowhere needs two exposures from different directions, whose beams cross",
            field="xrays",
            remedy='give a second calibrated exposure, or a start (init="search" looks through a wide box in one)',
        )
    return np.asarray(np.linalg.solve(a, b))


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _sum_of_squares(scores, at, total):  # type: ignore[no-untyped-def]
    """Adds to ``total`` [N] the squares of an exposure's scores [h * w] at places; -1 for good where one is not positive."""
    for i in range(len(total)):
        value = scores[at[i]]
        total[i] = total[i] + value * value if value > 0.0 and total[i] >= 0.0 else np.float32(-1.0)


@njit(cache=True, nogil=True)
def _clear(total, places, best, apart):  # type: ignore[no-untyped-def]
    """Takes places [N, 3] nearer than ``apart`` mm to the best one out of a choice."""
    for i in range(len(total)):
        x, y, z = places[i, 0] - places[best, 0], places[i, 1] - places[best, 1], places[i, 2] - places[best, 2]
        if x * x + y * y + z * z < apart * apart:
            total[i] = np.float32(-1.0)


def rendered(known: Sequence[Body], image: ImageLevel) -> Array32:
    """Line integrals [H, W] of known bodies on a level of an exposure."""
    total = np.zeros(image.shape, np.float32)
    pitch = float(np.linalg.norm(image.steps[1])) * 0.5
    for volume, pose in known:
        level = model_pyramid(volume, content(volume), [pitch])[0]
        total += render(level, [image], pose.matrix.numpy(), MatchConfig(), jacobian=False).integrals[0] * image.lengths
    return total


def _without(seen: CoarseField, known: Sequence[Body], config: LocateConfig) -> CoarseField:
    """A field without what known bodies explain of it."""
    if not known:
        return seen
    image = seen.image
    moving = np.stack(list(np.gradient(rendered(known, image))))[::-1] * (image.gradient != 0).any(0)
    side = 2 * config.window + 1
    products = uniform_filter((image.gradient * moving).sum(0), side)
    energies = uniform_filter((moving**2).sum(0), side)
    factor = np.maximum(products, 0) / np.maximum(energies + 1e-3 * energies.max(), 1e-12)
    left = np.ascontiguousarray(image.gradient - factor * moving, np.float32)
    to_one_strength(left, image.valid.astype(np.float32), config.window, np.float32(config.floor), image.energy)
    return replace(seen, features=np.concatenate([left, seen.features[2:]]), energy=max(float((left**2).sum()), 1e-12))


@dataclass(frozen=True, eq=False)
class _Scan:
    """An exposure made ready for correlation.

    Parameters
    ----------
    field: its coarse, normalised gradients.
    size: of the transforms: the image and a model beside it, so that no shift wraps around.
    spectrum: of the field, conjugate.
    """

    field: CoarseField
    size: tuple[int, int]
    spectrum: NDArray[np.complex64]

    def scores(self, level: ModelLevel, matrix: Array64, corners: Array64, config: LocateConfig) -> tuple[Array32, Array64]:
        """Scores [h, w] of a pose under all shifts (rows, columns) across the beam, and the shift that element (0, 0) stands for.

        The score of a shift s is at ``(first_shift - s) mod size``.
        """
        from scipy import fft

        seen = self.field
        pixels = seen.pixel(corners @ matrix[:3, :3].T + matrix[:3, 3])
        first, last = np.floor(pixels.min(0)).astype(int) - 3, np.ceil(pixels.max(0)).astype(int) + 4
        rows, columns = (np.arange(n) for n in np.minimum(last - first, self.size))
        corner = seen.ray(first.astype(float))
        rays = corner + rows[:, None, None] * seen.across[0] + columns[None, :, None] * seen.across[1]
        lengths = np.linalg.norm(rays, axis=-1).astype(np.float32)
        in_voxels, _ = rays_into(level.affine, matrix, seen.source, np.stack([corner, seen.across[1], seen.across[0]]))
        valid = np.ones(lengths.shape, np.bool_)
        samples = np.array([max(1, math.ceil(float(lengths.max()) / (_STEP * level.spacing)))])
        integrals = cpu.forward(level.grid, in_voxels[None], lengths.shape, samples, valid[None], threaded=False)[0][0]
        clear_unanswered(level, in_voxels, valid)
        template = np.zeros((3, *self.size), np.float32)
        into_template(integrals, lengths, valid, config.window, np.float32(config.floor), 0, 0, template)
        spectrum = fft.rfft2(template)
        both = np.stack([self.spectrum[0] * spectrum[0] + self.spectrum[1] * spectrum[1], self.spectrum[2] * spectrum[2]])
        products, energies = fft.irfft2(both, self.size)
        least = 1e-3 * max(float(template[2].sum()), 1e-12)  # what lies outside the image but for a rim says nothing
        scores = np.where(energies > least, products / np.sqrt(np.maximum(energies, least) * seen.energy), 0)
        return scores.astype(np.float32), -first


def _ready(xray: XRay, cross: Array64, reach: tuple[float, float], config: AnywhereConfig) -> _Scan:
    """An exposure at scan resolution; ``reach``: the model's middle and longest extents, mm."""
    from scipy import fft

    view = xray.view
    depth = float((torch.from_numpy(cross) - view.source.detach()) @ view.normal.detach())
    pitch = max(view.pixel_spacing) * depth / float(view.sid)
    factor = max(1, round(max(reach[0] / pitch / config.pixels, max(view.shape) / 128)))
    seen = _without(coarse_field(xray, factor, LocateConfig()), config.known, LocateConfig())
    beside = math.ceil(reach[1] / (pitch * factor)) + 8
    h, w = seen.image.shape
    size = (int(fft.next_fast_len(h + beside, True)), int(fft.next_fast_len(w + beside, True)))
    return _Scan(seen, size, np.conj(fft.rfft2(seen.features, size)))


def _seen(scans: Sequence[_Scan], places: Array64) -> NDArray[np.bool_]:
    """Which of some places [N, 3] every exposure shows."""
    seen = np.ones(len(places), np.bool_)
    for scan in scans:
        pixels = scan.field.pixel(places)
        limit = np.array(scan.field.image.shape) - 0.5
        before = (places - scan.field.source) @ scan.field.normal > 0
        seen &= before & (pixels > -0.5).all(1) & (pixels < limit).all(1)
        inside = np.clip(np.round(pixels), 0, limit - 0.5).astype(int)
        seen &= scan.field.image.valid[inside[:, 0], inside[:, 1]]
    return seen


def _at(scans: Sequence[_Scan], here: Array64, places: Array64) -> list[NDArray[np.int32]]:
    """Where in each exposure's scores, from (0, 0) on, the shift from ``here`` to each of some places [N, 3] stands."""
    found = []
    for scan in scans:
        shift = np.round(scan.field.pixel(here[None])[0] - scan.field.pixel(places)).astype(int) % scan.size
        found.append((shift[:, 0] * scan.size[1] + shift[:, 1]).astype(np.int32))
    return found


def _lattice(scans: Sequence[_Scan], cross: Array64, region: Region | None, spacing: float) -> Array64:
    """Places [N, 3] in world mm that every exposure shows, inside the region if one is given; all of a point's region.

    A joint may lie outside the exposures, or behind a collimator, that show the middle of a model that turns about it.
    """
    centre, radius = (cross, 0.0) if region is None else (np.asarray(region.centre, np.float64), region.radius)
    for scan in scans if region is None else ():
        h, w = scan.field.image.shape
        depth = float((cross - scan.field.source) @ scan.field.normal)
        ends = np.array([scan.field.point(np.array(p, float), depth) for p in ((0, 0), (0, w - 1), (h - 1, 0), (h - 1, w - 1))])
        radius = max(radius, _BEYOND * float(np.linalg.norm(ends - cross, axis=1).max()))
    steps = np.arange(-math.floor(radius / spacing), math.floor(radius / spacing) + 1) * spacing
    places = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    places = places[np.linalg.norm(places, axis=1) <= radius] + centre
    if region is not None and region.of_model is not None:
        return places
    seen = _seen(scans, places)
    if not seen.any():
        raise InputError(
            "no place is seen by all exposures",
            field="xrays",
            remedy="check the calibrations: they must share one world, and belong to these images",
        )
    return places[seen]


def scan(problem: Problem, config: AnywhereConfig) -> list[Found]:
    """The best place of every turn: (score, pose), best first. The problem's start counts for nothing.

    Raises
    ------
    InputError: fewer than two exposures, beams that do not cross, no turn or no place that agrees with what is known.
    """
    model = problem.model
    cross = crossing([x.view for x in problem.xrays])
    if config.region is not None:
        cross = np.asarray(config.region.centre, np.float64)
    corners = box_corners(model, *content(model))
    middle = corners.mean(0)
    extents = np.sort(np.linalg.norm(corners[[1, 2, 4]] - corners[0], axis=1))
    reach = (float(extents[1]), float(np.linalg.norm(extents)))
    scans = [_ready(x, cross, reach, config) for x in problem.xrays]
    pitch = min(
        float(np.linalg.norm(s.field.across, axis=1).max() * ((cross - s.field.source) @ s.field.normal) / s.field.image.view.sid)
        for s in scans
    )
    level = model_pyramid(model, content(model), [1.5 * pitch])[0]
    turns = config.holds(spiral_turns(config.turns))
    if not len(turns):
        raise InputError("no turn points that way", field="axis", remedy="give a wider cone, or more turns")
    look = LocateConfig()
    apart = float(extents[1]) / 2
    ball = _lattice(scans, cross, config.region, config.lattice)
    arm = None if config.region is None or config.region.of_model is None else config.region.of_model - middle
    anywhere = ball, _at(scans, cross, ball) if arm is None else []

    def best(turn: Array64) -> list[Found]:
        matrix = np.eye(4)
        matrix[:3, :3] = turn
        here, (places, at) = cross, anywhere
        if arm is not None:  # where the middle lies depends on the turn
            here = cross - turn @ arm
            places = ball - turn @ arm
            places = places[_seen(scans, places)]
            at = _at(scans, here, places)
        matrix[:3, 3] = here - turn @ middle
        total = np.zeros(len(places), np.float32)
        for ready, pixels in zip(scans, at, strict=True):
            scores, first = ready.scores(level, matrix, corners, look)
            _sum_of_squares(np.roll(scores, tuple(-np.round(first).astype(int)), (0, 1)).reshape(-1), pixels, total)
        found = []
        for _ in range(config.places):
            best = int(total.argmax()) if len(total) else 0
            if not len(total) or total[best] <= 0:
                break
            there = matrix.copy()
            there[:3, 3] = places[best] - turn @ middle
            found.append((float(total[best]), there))
            _clear(total, places, best, apart)
        return found

    def all_of(turns: Array64) -> list[Found]:
        found = itertools.chain.from_iterable(cpu.pool(cpu.threads()).map(best, turns))
        return sorted(found, key=lambda f: -f[0])

    coarse = all_of(turns)
    if not coarse and arm is not None:
        raise InputError("nothing like the model is seen about it", field="region", remedy="check its centre, or widen it")
    parents: list[Array64] = []
    known: set[bytes] = set()
    for _, matrix in coarse:
        name = matrix[:3, :3].tobytes()
        if name not in known and len(parents) < config.again * len(turns):
            known.add(name)
            parents.append(matrix[:3, :3])
    if not parents:
        return coarse
    quarter = (8 * math.pi**2 / config.turns) ** (1 / 3) / 4
    offsets = Rotation.from_rotvec(quarter * np.array(list(itertools.product((-1, 1), repeat=3)))).as_matrix()
    finer = (offsets[None] @ np.stack(parents)[:, None]).reshape(-1, 3, 3)
    return sorted(coarse + all_of(finer), key=lambda f: -f[0])
