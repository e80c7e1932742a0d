"""Pose and geometry refined together, and what not knowing the geometry costs.

The parameters of a view, and how images change with them, are those of ``calibration``. What is minimised over the twist and the
offsets theta of all views is

    2 tau C + theta' L theta,

C being the cost of ``matching`` summed over pixels and L the inverse variances of a Gaussian prior. C counts every pixel as
independent; tau, below one, is what brings its information to that of the scores of image blocks (the magnitude adjustment of
composite likelihoods; Ribatet, Cooley and Davison, Statistica Sinica 2012). Without it the prior would weigh next to nothing.
The covariance is ``B^-1 (4 tau^2 S + L) B^-1`` with ``B = 2 tau H + L``, H and S as in ``spread.covariance_of``,
but S of single blocks.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.registration.calibration import PARAMETERS, UNITS, adjusted, motions, moved_images, seen_as
from raylign.registration.levels import Scale, build_scales, centre_under, evaluate
from raylign.registration.matching import ExposureSystem, MatchConfig, Rendering, answered, exposure_system, render, voxel_rays
from raylign.registration.problem import Problem, as_read
from raylign.registration.pyramid import Array64
from raylign.registration.result import Result, Step
from raylign.registration.search import moved
from raylign.registration.settings import DirectConfig
from raylign.registration.spread import UNMODELLED

_MARGIN = 15.0  # mm by which the model may move on from where it was registered


@dataclass(frozen=True)
class GeometryBounds:
    """How wrong a view's geometry may be, either way. Half of it is one standard deviation of the prior; 0 holds the number.

    Parameters
    ----------
    sid_mm: source to detector, mm; the detector stays.
    principal_mm: principal point along columns and along rows, mm on the detector.
    angle_degrees: of the gantry about the isocentre: primary, secondary and roll about the beam.
    turn_first: whether the first view's angles are open too. Turning all views and the patient alike changes no image: as a rule
        the first view says where the world is, and the angles of the others are relative to it.
    isocentre: about which gantries turn, world mm.

    Raises
    ------
    InputError: a bound that is negative or not finite, or all of them zero.
    """

    sid_mm: float = 15.0
    principal_mm: float = 5.0
    angle_degrees: float = 2.0
    turn_first: bool = False
    isocentre: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for name, most in (("sid_mm", 500.0), ("principal_mm", 500.0), ("angle_degrees", 30.0)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{getattr(self, name)} is not within 0 to {most:g}", field=name, remedy="0 holds it")
        if not any((self.sid_mm, self.principal_mm, self.angle_degrees)):
            raise InputError("nothing of the geometry is open", field="bounds", remedy="give a bound above 0")
        if len(self.isocentre) != 3 or not np.isfinite(self.isocentre).all():
            raise InputError(f"{self.isocentre} is no point", field="isocentre", remedy="give three numbers, world mm")

    def widths(self, views: int) -> Array64:
        """[views, 6] bounds in mm and degrees, as ``PARAMETERS``."""
        width = np.tile([self.sid_mm] + [self.principal_mm] * 2 + [self.angle_degrees] * 3, (views, 1)).astype(float)
        if not self.turn_first:
            width[0, 3:] = 0
        return width


@dataclass(frozen=True)
class GeometryConfig:
    """How geometry is refined.

    Parameters
    ----------
    direct: pyramid and comparison, as of the registration.
    levels: of the pyramid that are gone through, the finest last.
    iterations: steps a level at most.
    tolerance: a level ends when a step is expected to gain less than this in the posterior's logarithm.
    """

    direct: DirectConfig = field(default_factory=DirectConfig)
    levels: int = 2
    iterations: int = 15
    tolerance: float = 0.01


@dataclass(frozen=True, eq=False)
class GeometryResult:
    """Pose and geometry together.

    Parameters
    ----------
    result: the registration's with the new pose; its covariance is marginal: of the pose whatever the geometry is.
    views: the corrected views, plain ``View``s, in the order of the exposures.
    offsets: by how much each was wrong, columns as ``PARAMETERS``, mm and degrees.
    sd: one standard deviation of each offset; 0 where it was held.
    at_bound: where an offset ended at its bound: the truth may lie beyond.
    cost_before, cost_after: mean over pixels of what was minimised, without prior, at one floor of the residual variance.
    held_covariance: that of the pose if the geometry were exactly as estimated: what the marginal one is to be compared with.
    """

    result: Result
    views: tuple[View, ...]
    offsets: Float[Tensor, "views 6"]
    sd: Float[Tensor, "views 6"]
    at_bound: Bool[Tensor, "views 6"]
    cost_before: float
    cost_after: float
    held_covariance: Float[Tensor, "6 6"]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings; the pose and its covariance are in ``result.to_dict()``."""
        return {
            "parameters": [f"{name} ({unit})" for name, unit in zip(PARAMETERS, UNITS, strict=True)],
            "views": [view.to_dict() for view in self.views],
            "offsets": self.offsets.tolist(),
            "sd": self.sd.tolist(),
            "at_bound": self.at_bound.tolist(),
            "cost": {"before": self.cost_before, "after": self.cost_after},
            "pose_sd": {
                "geometry_estimated": self.result.covariance.diagonal().clamp_min(0).sqrt().tolist(),
                "geometry_held": self.held_covariance.diagonal().clamp_min(0).sqrt().tolist(),
                "meaning": "twist (rotation rad, translation mm), world axes, about the model's centre",
            },
        }


@dataclass(frozen=True, eq=False)
class _State:
    """Where the refinement stands: pose [4, 4] and offsets [views, 6]."""

    matrix: Array64
    offsets: Array64


@dataclass(frozen=True, eq=False)
class _Shown:
    """What a state looks like: the level with the adjusted views, and its rendering."""

    scale: Scale
    state: _State
    rendering: Rendering

    def masks(self) -> list[NDArray[np.bool_]]:
        return answered(self.scale.model, self.scale.images, self.state.matrix)


@dataclass(frozen=True, eq=False)
class _System:
    """Cost (sum over pixels) and normal equations of the twist and of the open offsets, in that order."""

    cost: float
    hessian: Array64
    scores: Array64
    noise: Array64
    centre: Array64

    @property
    def scatter(self) -> Array64:
        """Covariance of the gradient, from image blocks."""
        scores = self.scores[np.abs(self.scores).sum(1) > 0]
        scores = scores - scores.mean(0) if len(scores) else scores
        return UNMODELLED * scores.T @ scores

    @property
    def tempering(self) -> float:
        """tau: what share of the information that pixels would hold, were they independent, blocks of them do hold."""
        told = np.trace(np.linalg.pinv(self.hessian[:6, :6], rcond=1e-12, hermitian=True) @ self.scatter[:6, :6])
        return float(np.clip(3.0 / max(told, 1e-12), 1e-6, 1.0))


@dataclass(frozen=True, eq=False)
class _Level:
    """One level of the joint refinement: what is compared, which offsets are open ([views, 6]) and how far."""

    scale: Scale
    match: MatchConfig
    bounds: GeometryBounds
    widths: Array64

    @property
    def open(self) -> NDArray[np.bool_]:
        return self.widths > 0

    @property
    def precision(self) -> Array64:
        """Diagonal of L: none for the twist, then that of the open offsets."""
        return np.concatenate([np.zeros(6), (2 / self.widths[self.open]) ** 2])

    def at(self, state: _State) -> Scale:
        """The level with the adjusted views."""
        pairs = zip(self.scale.images, state.offsets, strict=True)
        return replace(self.scale, images=[seen_as(image, given, self.bounds.isocentre) for image, given in pairs])

    def shown(self, state: _State) -> _Shown:
        """The rendering by the adjusted views, with the derivatives."""
        here = self.at(state)
        return _Shown(here, state, render(here.model, here.images, state.matrix, self.match))

    def system(self, shown: _Shown, masks: list[NDArray[np.bool_]], floors: Array64) -> _System:
        """The normal equations of a rendering."""
        here, state = shown.scale, shown.state
        centre = centre_under(here, state.matrix)
        places = np.full(self.open.shape, -1)
        places[self.open] = 6 + np.arange(self.open.sum())
        total = 6 + int(self.open.sum())
        found: list[ExposureSystem] = []
        hessian, scores = np.zeros((total, total)), []
        for i, image in enumerate(here.images):
            chosen = np.concatenate([np.ones(6, bool), self.open[i]])
            columns = np.concatenate([np.arange(6), places[i][self.open[i]]])
            moves = motions(self.scale.images[i].view, state.offsets[i], self.bounds.isocentre, centre)[chosen]
            world = np.ascontiguousarray(voxel_rays(here.model, image, state.matrix)[1][:3, :3].T)
            moving = np.empty((1 + len(moves), *image.shape), np.float32)
            integrals, slopes = shown.rendering.integrals[i], shown.rendering.slopes[i]
            moved_images(integrals, slopes, image.lengths, world, image.steps, moves.astype(np.float32), moving)
            one = exposure_system(moving, image, masks[i], floors[i], self.match)
            hessian[np.ix_(columns, columns)] += one.hessian
            wide = np.zeros((len(one.scores), total))
            wide[:, columns] = one.scores
            scores.append(wide)
            found.append(one)
        noise = np.array([f.left / max(f.pixels, 1) for f in found])
        return _System(sum(f.cost for f in found), hessian, np.concatenate(scores), noise, centre)

    def stepped(self, state: _State, step: Array64, centre: Array64) -> _State:
        offsets = state.offsets.copy()
        offsets[self.open] += step[6:]
        return _State(moved(state.matrix, step[:6], centre), np.clip(offsets, -self.widths, self.widths))


def _bounded(system: Array64, right: Array64, low: Array64, high: Array64) -> Array64:
    """Solution of ``system x = right`` within a box: what would leave it is put on its border, the rest solved again."""
    scale = 1 / np.sqrt(np.diag(system))
    matrix, b, low, high = system * np.outer(scale, scale), right * scale, low / scale, high / scale
    x, free = np.zeros(len(b)), np.ones(len(b), bool)
    for _ in range(len(b)):
        x[free] = np.linalg.solve(matrix[np.ix_(free, free)], b[free] - matrix[np.ix_(free, ~free)] @ x[~free])
        outside = free & ((x < low) | (x > high))
        if not outside.any():
            break
        x = np.clip(x, low, high)
        free &= ~outside
    return x * scale


def _refine(level: _Level, state: _State, config: GeometryConfig) -> tuple[_State, _System, tuple[Step, ...]]:
    """Levenberg-Marquardt on the posterior at one level; floors and rays as in ``refinement.refine``."""
    shown = level.shown(state)
    masks = shown.masks()
    usable = max(1, sum(image.usable for image in level.scale.images))
    now = level.system(shown, masks, np.zeros(len(masks)))
    floors, damping = now.noise, 1e-6
    now = level.system(shown, masks, floors)
    steps = []
    precision, widths = level.precision, level.widths[level.open]
    for iteration in range(1, config.iterations + 1):
        tau, theta = now.tempering, np.concatenate([np.zeros(6), state.offsets[level.open]])
        right = 2 * tau * now.scores.sum(0) - precision * theta
        curvature = 2 * tau * now.hessian + np.diag(precision)
        low = np.concatenate([np.full(6, -np.inf), -widths - theta[6:]])
        high = np.concatenate([np.full(6, np.inf), widths - theta[6:]])
        accepted = False
        for _ in range(4):
            step = _bounded(curvature + damping * np.diag(np.diag(curvature)), right, low, high)
            gain = float(step @ right - step @ curvature @ step / 2)
            if gain < config.tolerance:
                break
            further = level.stepped(state, step, now.centre)
            trial_shown = level.shown(further)
            trial = level.system(trial_shown, masks, floors)
            after = np.concatenate([np.zeros(6), further.offsets[level.open]])
            if tau * (trial.cost - now.cost) + (precision @ after**2 - precision @ theta**2) / 2 < 0:
                accepted = True
                break
            damping = max(damping, 1e-5) * 30
        if not accepted:
            break
        state, shown, damping = further, trial_shown, damping / 10
        floors = np.minimum(floors, trial.noise)
        masks = shown.masks()
        now = level.system(shown, masks, floors)
        steps.append(Step(level.scale.index, iteration, now.cost / usable, torch.from_numpy(state.matrix.copy())))
    return state, now, tuple(steps)


def refine_geometry(
    problem: Problem, result: Result, bounds: GeometryBounds | None = None, config: GeometryConfig | None = None
) -> GeometryResult:
    """Refine pose and geometry together, from a registration's result.

    Parameters
    ----------
    problem: model and exposures as registered, with the views of their headers.
    result: of the registration: within a few mm and degrees of the truth.
    bounds: how wrong the geometry may be.
    config: pyramid, comparison, iterations.

    Raises
    ------
    InputError: as of the registration: a model that does not project onto an image.
    """
    bounds, config = bounds or GeometryBounds(), config or GeometryConfig()
    begun = time.perf_counter()
    direct = replace(config.direct, search=replace(config.direct.search, mm=_MARGIN, depth=None))
    scales = build_scales(replace(as_read(problem, result), start=result.transform), direct)
    widths = bounds.widths(len(problem.xrays))
    state = first = _State(result.transform.matrix.numpy(), np.zeros_like(widths))
    fine = replace(direct.match, step=direct.match.finest_step)
    history: tuple[Step, ...] = ()
    for scale in reversed(scales[: max(1, config.levels)]):
        level = _Level(scale, fine if scale.index == 0 else direct.match, bounds, widths)
        state, system, steps = _refine(level, state, config)
        history += steps
    tau = system.tempering
    inverse = _inverse(2 * tau * system.hessian + np.diag(level.precision))
    covariance = inverse @ (4 * tau**2 * system.scatter + np.diag(level.precision)) @ inverse
    held = _inverse(system.hessian[:6, :6])
    before, after = (evaluate(level.at(s), s.matrix, fine) for s in (first, state))
    sd = np.zeros_like(widths)
    sd[level.open] = np.sqrt(np.diag(covariance)[6:])
    refined = replace(
        result,
        transform=Rigid(torch.from_numpy(state.matrix)),
        covariance=torch.from_numpy(covariance[:6, :6].copy()),
        centre=torch.from_numpy(system.centre),
        score=after.explained,
        trajectory=(*result.trajectory, *history),
        timings={**result.timings, "geometry": time.perf_counter() - begun},
        settings={**result.settings, "geometry": asdict(bounds)},
    )
    return GeometryResult(
        result=refined,
        views=tuple(adjusted(x.view, o, bounds.isocentre) for x, o in zip(problem.xrays, state.offsets, strict=True)),
        offsets=torch.from_numpy(state.offsets),
        sd=torch.from_numpy(sd),
        at_bound=torch.from_numpy(level.open & (np.abs(state.offsets) > widths - 1e-6)),
        cost_before=before.cost,
        cost_after=after.cost,
        held_covariance=torch.from_numpy(held @ system.scatter[:6, :6] @ held),
    )


def _inverse(matrix: Array64) -> Array64:
    """Inverse of a positive definite matrix of numbers in different units."""
    scale = 1 / np.sqrt(np.diag(matrix))
    return np.asarray(np.linalg.inv(matrix * np.outer(scale, scale)) * np.outer(scale, scale), np.float64)
