"""Perspective-n-point with a prior: the poses under which points of a model project onto their marks, in one view or several.

Every pose is found by Levenberg-Marquardt on reprojection errors; there is no algebraic solver. Triples of landmarks, each from
rotations spread over what the prior allows, propose poses (random sample consensus, Fischler and Bolles 1981); the best by the
truncated cost (MSAC, Torr and Zisserman 2000) are refined on all the marks that agree, with Huber's weights. All proposals are
refined at once, as one batch of arrays.

Errors are millimetres on the detector: pixels of two exposures need not be alike. The scale of the errors is not known
beforehand; it has a scaled inverse chi-squared prior, which is integrated out where poses are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from raylign.geometry import View

Array64 = NDArray[np.float64]

PRIOR_DOF = 6.0  # of the scaled inverse chi-squared prior of the errors' variance: as if three marks had been seen before
HUBER = 1.5  # standard deviations from which a mark that agrees counts less
_NEAREST, _FARTHEST = 0.1, 1.0  # where between source and detector a landmark may be, as a share of the way
_HYPOTHESES = 6000  # poses refined at once, at most


@dataclass(frozen=True)
class PnPConfig:
    """What is known of a pose and of its marks before they are looked at.

    Parameters
    ----------
    degrees: largest turn from the start. Half of it is the standard deviation of the Gaussian prior of the turn. From 180 on any
        turn is allowed and none preferred, as for a calibrated camera, whose world knows nothing of the patient.
    mm: standard deviation of the Gaussian prior of the landmarks' centre about where the start puts it, each axis.
    noise_mm: standard deviation of a mark along each axis of the detector, mm: of the click and of the point in the model.
    inlier: standard deviations up to which a mark agrees with a pose.
    triples: of landmarks that propose poses, at most; all there are, where they are fewer.
    seed: of the choice of triples and of the spread of rotations.
    """

    degrees: float = 60.0
    mm: float = 200.0
    noise_mm: float = 2.0
    inlier: float = 4.0
    triples: int = 150
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Marks:
    """Marks flattened over views: mark ``j`` shows landmark ``landmark[j]`` on view ``view[j]``.

    Parameters
    ----------
    points: [M, 3] of the landmark from the centre, LPS mm of the model.
    pixels: [M, 2] (column, row).
    cameras: [M, 3, 4] of the view: the third row gives the share of the way from source to detector.
    metric: [M, 2, 2] takes (columns, rows) to mm on the detector.
    landmark, view: [M] indices.
    centre: [3] of the landmarks in the model, LPS mm.
    """

    points: Array64
    pixels: Array64
    cameras: Array64
    metric: Array64
    landmark: NDArray[np.int64]
    view: NDArray[np.int64]
    centre: Array64


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known of the pose: rotation about ``rotation`` and place of the landmarks' centre about ``shift`` (world mm).

    ``largest`` is in radians; ``turn`` and ``move`` are one over the standard deviations, per radian and per mm.
    """

    rotation: Array64
    shift: Array64
    largest: float
    turn: float
    move: float


@dataclass(frozen=True, eq=False)
class Poses:
    """A batch of poses ``x_world = rotation (p - centre) + shift``: [B, 3, 3] and [B, 3]."""

    rotation: Array64
    shift: Array64

    def take(self, index: list[int] | slice) -> Poses:
        """Some of them."""
        return Poses(self.rotation[index], self.shift[index])


@dataclass(frozen=True, eq=False)
class Mode:
    """A pose that explains the marks, and how well.

    Parameters
    ----------
    rotation, shift: ``x_world = rotation (p - centre) + shift``.
    errors: [M, 2] reprojection errors in mm on the detector.
    agree: [M] whether a mark agrees.
    sigma: standard deviation of the marks along each axis, mm on the detector: the prior's and the errors' together.
    covariance: 6x6 of the twist (rad, mm), world axes, about the landmarks' centre.
    score: minus twice the logarithm of its probability, up to a constant of the problem.
    """

    rotation: Array64
    shift: Array64
    errors: Array64
    agree: NDArray[np.bool_]
    sigma: float
    covariance: Array64
    score: float


def flattened(points: Array64, observations: Sequence[Array64], views: Sequence[View]) -> Marks:
    """Marks of [N, 3] landmarks from one [N, 2] array a view, NaN where a landmark is not seen; none for marks of nothing."""
    seen = [np.flatnonzero(np.isfinite(o).all(1)) for o in observations]
    landmark = np.concatenate(seen).astype(np.int64)
    view = np.repeat(np.arange(len(views)), [len(s) for s in seen]).astype(np.int64)
    centre = points[np.unique(landmark)].mean(0)
    cameras = np.stack([v.camera.detach().numpy() for v in views])
    metric = np.stack([_metric(v) for v in views])
    pixels = np.concatenate([o[s] for o, s in zip(observations, seen, strict=True)])
    return Marks(points[landmark] - centre, pixels, cameras[view], metric[view], landmark, view, centre)


def _metric(view: View) -> Array64:
    """2x2 whose image of (columns, rows) has their length on the detector, mm."""
    steps = np.stack([view.column_step.detach().numpy(), view.row_step.detach().numpy()], 1)
    return np.linalg.cholesky(steps.T @ steps).T


def prior_of(start: Array64, centre: Array64, config: PnPConfig) -> Prior:
    """The prior about a 4x4 start."""
    free = config.degrees >= 180
    largest = np.pi if free else float(np.radians(config.degrees))
    shift = start[:3, :3] @ centre + start[:3, 3]
    return Prior(start[:3, :3], shift, largest + 1e-9, 0.0 if free else 2 / max(largest, 1e-6), 1 / config.mm)


def modes(marks: Marks, prior: Prior, config: PnPConfig) -> list[Mode]:
    """The distinct poses that explain marks of three landmarks or more, best first; none where nothing lies before a detector."""
    rng = np.random.default_rng(config.seed)
    starts = _rotations(prior, config.degrees >= 180, rng)
    triples = _triples(marks, min(config.triples, max(20, _HYPOTHESES // len(starts))), rng)
    # all marks together too: where none is wrong, three of them may miss what all agree on
    every = np.arange(len(marks.landmark))[None]
    proposals = [_proposed(starts, chosen, marks, prior, config) for chosen in (every, triples)]
    proposed = Poses(*(np.concatenate([getattr(p, name) for p in proposals]) for name in ("rotation", "shift")))
    best = _best_distinct(proposed, marks, prior, config)
    found: list[Mode] = []
    for mode in sorted(_polished(proposed.take(best), marks, prior, config), key=lambda m: m.score):
        if all(_differ(mode, other) for other in found):
            found.append(mode)
    return found


def _proposed(starts: Array64, subsets: NDArray[np.int64], marks: Marks, prior: Prior, config: PnPConfig) -> Poses:
    """From each of the rotations, the pose that each subset of marks asks for: [S K] poses of [S, m] marks and K rotations."""
    rotation, chosen = np.tile(starts, (len(subsets), 1, 1)), np.repeat(subsets, len(starts), 0)
    begun = Poses(rotation, _linear_shift(rotation, marks, chosen, prior, config.noise_mm))
    return refined(begun, marks, np.ones(chosen.shape), prior, Refinement(config.noise_mm, 10, subset=chosen))


def apart(a: Mode, b: Mode) -> tuple[float, float]:
    """Degrees, and mm of the landmarks' centre, between two poses."""
    return float(np.degrees(_angle(a.rotation @ b.rotation.T))), float(np.linalg.norm(a.shift - b.shift))


def _differ(a: Mode, b: Mode) -> bool:
    degrees, mm = apart(a, b)
    return degrees > 0.5 or mm > 1.0


def _angle(rotation: Array64) -> Array64:
    trace = np.trace(rotation, axis1=-2, axis2=-1)
    return np.asarray(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def _rotations(prior: Prior, free: bool, rng: np.random.Generator) -> Array64:
    """Rotations [K, 3, 3] to begin at: the prior's mean first, then spread over what it allows."""
    if free:
        return np.concatenate([prior.rotation[None], Rotation.random(63, rng=rng).as_matrix()])
    from scipy.stats import qmc  # a slow import, and only landmarks and searches need it

    cube = qmc.Sobol(3, scramble=True, rng=rng).random(32) * 2 - 1
    ball = cube[np.linalg.norm(cube, axis=1) <= 1][:15] * prior.largest
    return np.concatenate([prior.rotation[None], Rotation.from_rotvec(ball).as_matrix() @ prior.rotation])


def _triples(marks: Marks, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[T, 3] marks of three different landmarks each, on any views; no triple twice."""
    by_landmark = [np.flatnonzero(marks.landmark == n) for n in np.unique(marks.landmark)]
    sizes = np.array([len(s) for s in by_landmark])
    sums = [float((sizes.astype(float) ** k).sum()) for k in (1, 2, 3)]
    total = (sums[0] ** 3 - 3 * sums[0] * sums[1] + 2 * sums[2]) / 6  # how many there are, by Newton's identity
    if total <= most:
        every = combinations(range(len(marks.landmark)), 3)
        return np.array([t for t in every if len({int(marks.landmark[j]) for j in t}) == 3], np.int64)
    chosen: dict[tuple[int, ...], None] = {}
    while len(chosen) < most:
        three = rng.choice(len(by_landmark), 3, replace=False)
        chosen[tuple(sorted(int(rng.choice(by_landmark[n])) for n in three))] = None
    return np.array(list(chosen), np.int64)


def _linear_shift(rotation: Array64, marks: Marks, chosen: NDArray[np.int64], prior: Prior, noise: float) -> Array64:
    """The shift that goes best with each rotation, [B, 3]: with the rotation known, projection is linear in it."""
    cameras, pixels = marks.cameras[chosen], marks.pixels[chosen]
    rows = marks.metric[chosen] @ (cameras[..., :2, :] - pixels[..., None] * cameras[..., 2:, :]) / (0.7 * noise)
    turned = np.einsum("bij,bmj->bmi", rotation, marks.points[chosen])
    left = rows[..., :3].reshape(len(chosen), -1, 3)
    right = -(np.einsum("bmki,bmi->bmk", rows[..., :3], turned) + rows[..., 3]).reshape(len(chosen), -1)
    normal = np.swapaxes(left, 1, 2) @ left + prior.move**2 * np.eye(3)
    return np.linalg.solve(normal, (np.einsum("bki,bk->bi", left, right) + prior.move**2 * prior.shift)[..., None])[..., 0]


@dataclass(frozen=True, eq=False)
class Refinement:
    """How poses are refined: the marks' standard deviation in mm, steps at most, which marks ([B, m]; all if not given)."""

    noise: float
    steps: int
    subset: NDArray[np.int64] | None = None


def reprojected(poses: Poses, marks: Marks, subset: NDArray[np.int64] | None = None) -> tuple[Array64, Array64, Array64]:
    """Errors [B, m, 2] in mm on the detector, their derivatives [B, m, 2, 6] by the twist, share of the way [B, m]."""
    pick = slice(None) if subset is None else subset
    cameras, pixels, metric = marks.cameras[pick], marks.pixels[pick], marks.metric[pick]
    points = marks.points[pick]
    turned = points @ np.swapaxes(poses.rotation, 1, 2) if subset is None else np.einsum("bij,bmj->bmi", poses.rotation, points)
    world = turned + poses.shift[:, None]
    image = (cameras[..., :3] @ world[..., None])[..., 0] + cameras[..., 3]
    way = image[..., 2]
    safe = np.where(np.abs(way) < 1e-3, 1e-3, way)
    where = image[..., :2] / safe[..., None]
    errors = (metric @ (where - pixels)[..., None])[..., 0]
    by_place = metric @ (cameras[..., :2, :3] - where[..., None] * cameras[..., 2:, :3]) / safe[..., None, None]
    by_turn = -np.cross(by_place, turned[..., None, :])  # d(w x q) = a . (w x q) = (q x a) . w
    return errors, np.concatenate([by_turn, by_place], -1), way


def refined(poses: Poses, marks: Marks, weights: Array64, prior: Prior, how: Refinement) -> Poses:
    """Levenberg-Marquardt from every pose on its weighted marks and the prior; a pose behind the source does not move on."""
    rotation, shift = poses.rotation.copy(), poses.shift.copy()
    damping = np.full(len(rotation), 1e-3)
    information = np.diag([prior.turn**2] * 3 + [prior.move**2] * 3)
    errors, derivatives, way = reprojected(poses, marks, how.subset)
    cost = _cost(errors, way, weights, Poses(rotation, shift), prior, how.noise)
    scaled = weights / how.noise**2
    for _ in range(how.steps):
        turn, move = _from_prior(Poses(rotation, shift), prior)
        normal = np.einsum("bm,bmki,bmkj->bij", scaled, derivatives, derivatives, optimize=True) + information
        gradient = np.einsum("bm,bmki,bmk->bi", scaled, derivatives, errors, optimize=True)
        gradient += np.concatenate([turn * prior.turn**2, move * prior.move**2], 1)
        damped = normal + damping[:, None, None] * np.eye(6) * np.diagonal(normal, axis1=1, axis2=2)[:, None]
        step = -np.linalg.solve(damped, gradient[..., None])[..., 0]
        tried = Poses(Rotation.from_rotvec(step[:, :3]).as_matrix() @ rotation, shift + step[:, 3:])
        new = reprojected(tried, marks, how.subset)
        new_cost = _cost(new[0], new[2], weights, tried, prior, how.noise)
        better = new_cost <= cost
        rotation[better], shift[better], cost[better] = tried.rotation[better], tried.shift[better], new_cost[better]
        errors[better], derivatives[better] = new[0][better], new[1][better]
        damping = np.clip(np.where(better, damping * 0.1, damping * 10), 1e-12, 1e12)
    return Poses(rotation, shift)


def _from_prior(poses: Poses, prior: Prior) -> tuple[Array64, Array64]:
    """Rotation vector and shift from the prior's mean, [B, 3] each.

    The rotation vector is its own gradient: the left Jacobian of SO(3) leaves the axis alone.
    """
    turn = Rotation.from_matrix(poses.rotation @ prior.rotation.T).as_rotvec()
    return turn, poses.shift - prior.shift


def _prior_cost(poses: Poses, prior: Prior) -> Array64:
    turn, move = _from_prior(poses, prior)
    return np.asarray((turn**2).sum(1) * prior.turn**2 + (move**2).sum(1) * prior.move**2)


def _cost(errors: Array64, way: Array64, weights: Array64, poses: Poses, prior: Prior, noise: float) -> Array64:
    cost = (weights * (errors**2).sum(-1)).sum(-1) / noise**2 + _prior_cost(poses, prior)
    return np.where((way > 0.02).all(-1), cost, np.inf)


def _score(squares: Array64, agree: NDArray[np.bool_], prior_cost: Array64, config: PnPConfig) -> Array64:
    """Minus twice the log probability of poses with the scale of the errors integrated out; [..., M] to [...].

    A mark that does not agree costs what one at the limit would; so the more agree, the better.
    """
    inside = np.where(agree, squares, 0).sum(-1) / (PRIOR_DOF * config.noise_mm**2)
    count = agree.sum(-1)
    outside = (agree.shape[-1] - count) * config.inlier**2
    return np.asarray((PRIOR_DOF + 2 * count) * np.log1p(inside) + outside + prior_cost)


def _agreement(errors: Array64, way: Array64, config: PnPConfig) -> tuple[Array64, NDArray[np.bool_]]:
    squares = (errors**2).sum(-1)
    near = squares <= (config.inlier * config.noise_mm) ** 2
    return squares, near & (way > _NEAREST) & (way < _FARTHEST)


def _best_distinct(poses: Poses, marks: Marks, prior: Prior, config: PnPConfig, most: int = 12) -> list[int]:
    """Indices of the best proposals within the prior's box, each at least 3 degrees or 10 mm from the ones before."""
    errors, _, way = reprojected(poses, marks)
    squares, agree = _agreement(errors, way, config)
    score = _score(squares, agree, _prior_cost(poses, prior), config)
    # a little beyond the box, as what is refined on all marks may come back into it
    allowed = _angle(poses.rotation @ prior.rotation.T) <= 1.1 * prior.largest
    order = np.argsort(np.where(allowed & (agree.sum(1) >= 3), score, np.inf), kind="stable")
    chosen: list[int] = []
    for k in order[:2000]:
        if not allowed[k] or agree[k].sum() < 3 or len(chosen) == most:
            break
        turns = _angle(poses.rotation[chosen] @ poses.rotation[k].T)
        if not chosen or bool(
            ((turns > np.radians(3)) | (np.linalg.norm(poses.shift[chosen] - poses.shift[k], axis=1) > 10)).all()
        ):
            chosen.append(int(k))
    return chosen


def _polished(poses: Poses, marks: Marks, prior: Prior, config: PnPConfig) -> list[Mode]:
    """Poses refined on the marks that agree; without those that leave the box or on which fewer than three landmarks agree."""
    if not len(poses.rotation):
        return []
    weights = np.zeros((len(poses.rotation), len(marks.landmark)))
    for _ in range(6):
        before = weights
        errors, _, way = reprojected(poses, marks)
        squares, agree = _agreement(errors, way, config)
        limit = HUBER * np.sqrt(2) * config.noise_mm
        weights = agree * np.minimum(1.0, limit / np.sqrt(np.maximum(squares, 1e-12)))
        poses = refined(poses, marks, weights, prior, Refinement(config.noise_mm, 8))
        if np.abs(weights - before).max() < 1e-4:
            break
    errors, derivatives, way = reprojected(poses, marks)
    squares, agree = _agreement(errors, way, config)
    score = _score(squares, agree, _prior_cost(poses, prior), config)
    inside = _angle(poses.rotation @ prior.rotation.T) <= prior.largest
    found = []
    for k in np.flatnonzero(inside):
        if len(np.unique(marks.landmark[agree[k]])) < 3:
            continue
        # six of the equations went into the pose
        left = max(0, 2 * int(agree[k].sum()) - 6)
        sigma = float(np.sqrt((PRIOR_DOF * config.noise_mm**2 + squares[k][agree[k]].sum()) / (PRIOR_DOF + left)))
        information = np.einsum("m,mki,mkj->ij", weights[k] / sigma**2, derivatives[k], derivatives[k])
        information += np.diag([prior.turn**2] * 3 + [prior.move**2] * 3)
        found.append(Mode(poses.rotation[k], poses.shift[k], errors[k], agree[k], sigma, _inverse(information), float(score[k])))
    return found


def _inverse(information: Array64) -> Array64:
    """The inverse of a symmetric matrix; directions of no information get a very large variance, not an error."""
    size = np.sqrt(np.maximum(np.diag(information), 1e-12))
    values, vectors = np.linalg.eigh(information / np.outer(size, size))
    return np.asarray((vectors / np.maximum(values, 1e-10)) @ vectors.T / np.outer(size, size))


def without_limit(config: PnPConfig) -> PnPConfig:
    """The same, any turn allowed."""
    return replace(config, degrees=180.0)
