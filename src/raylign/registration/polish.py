"""The last step: a pose brought nearer to what the exposure's noise allows.

The direct method compares gradients of reduced images in small windows, which is robust and leaves some of the exposure unused.
From where it ends, this stage takes one or two Gauss-Newton steps on the intensities themselves, at higher resolution. In a
window around each pixel the fixed image is explained by the moving one with a gain and an offset of their own,

    F = b + a G,     E = <(F - b - a G)^2> / n,

so that heel effect, an unknown dose and what else is even over a window drop out. ``G`` is what the model and a beam make of the
exposure (``polish_beam``): HU become attenuation at one energy, beams have many, bone hardens them, and scatter takes contrast
where little comes through. Voltage and scatter are fitted to each exposure at the pose where the stage begins. Where that
explains it no better, ``G = M + beta B``: ``M`` the line integrals (alone, for a model not in HU), ``B`` those of what is bone,
and one number ``beta`` a view for the weight that bone has in this beam. The cost is the direct method's, the mean of
``log((E + s2) / (<F^2> / n + s2))``: the likelihood of Gaussian noise whose variance is unknown and differs from place to place,
as that of counted photons does, and deaf where metal or moved tissue do not fit.

A step is kept if this cost falls at the pose where it ends, on the same pixels, with the same floor and the same beam.
Otherwise, and where the step would be larger than what a last step can be, the pose stays as it was.

Gains of windows, and weights taken from what is left in them, cost precision. Where beam and scatter explain the exposure, a
step without either follows (``polish_counts``), if it agrees with where the windows ended and is more certain than they are.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.geometry import Rigid
from raylign.registration.levels import centre_under
from raylign.registration.matching import answered
from raylign.registration.polish_beam import Beam, developed, fit_beam
from raylign.registration.polish_counts import Explained, counted
from raylign.registration.polish_kernels import cost_of, equations, gains, subtract_means
from raylign.registration.polish_stage import PolishConfig, Stage, integrals_of, stage_of
from raylign.registration.problem import Problem, Registrar
from raylign.registration.pyramid import Array32, Array64
from raylign.registration.result import Result, Step
from raylign.registration.search import camera_axes, moved
from raylign.registration.spread import UNMODELLED, looser

_BLOCK = 16  # pixels: residuals farther apart than this are taken for independent
_ROUNDS = 3  # of reweighting on one rendering
_WEIGHTS = (-0.03, 0.1)  # 1/mm; all that cortical bone attenuates at 70 keV is 0.05
_SINGULAR = 1e10  # condition of the scaled normal equations beyond which nothing is determined
_EXPLAINED = 0.7  # of the pixels, at least, for counts to decide
_AGREES = 16.8  # squared Mahalanobis distance of one in a hundred, of six numbers
_CERTAIN = 0.9  # of the windows' standard deviation, at most, is that of a step of counted photons
_ALONG = 10.0  # a step may be so much longer along the beam than across it: so much less is depth seen


@dataclass(frozen=True)
class Polish:
    """A method with the last step behind it; itself a Registrar.

    Parameters
    ----------
    first: the method whose end is improved.
    config: of the last step.
    """

    first: Registrar
    config: PolishConfig = field(default_factory=PolishConfig)

    def register(self, problem: Problem) -> Result:
        """The pose of ``first``, polished; its confidence is what ``first`` says."""
        return polish(problem, self.first.register(problem), self.config)


def polish(problem: Problem, result: Result, config: PolishConfig | None = None) -> Result:
    """A result with its pose and covariance improved, or with its own pose where no step lowers the cost.

    Exposures whose values are no logarithms of intensities (``XRay.scale`` "monotone") stay as they are: a display curve bends
    contrasts as a beam does, and a step on them was measured to end farther off than it began.

    Parameters
    ----------
    problem: the problem that was solved.
    result: its solution, within a pixel or so of the truth.

    Raises
    ------
    InputError: the model does not project onto an image.
    """
    config = config or PolishConfig()
    begun = time.perf_counter()
    if any(xray.scale != "line-integral" for xray in problem.xrays):
        return replace(result, settings={**result.settings, "polish": {**asdict(config), "steps_taken": 0, "kv": []}})
    faces = result.settings.get("cut_faces")
    # the reading of cut faces under which the result was found
    from raylign.registration.meshes import as_registered

    solid = as_registered(problem.model, result)  # of a surface with the wall that its registration ended with
    model = solid if faces is None else replace(solid, truncated=faces)
    stage = stage_of(replace(problem, model=model, start=result.transform), config)
    matrix = result.transform.matrix.numpy()
    masks = answered(stage.scale.model, stage.scale.images, matrix)
    axes = camera_axes(problem.xrays[0].view)
    steps: list[Step] = []
    covariance = None
    shown = _shown(stage, matrix, masks)
    for iteration in range(1, config.steps + 1):
        step = _step(stage, shown)
        if step is None or not _short(stage, step.twist, axes):
            break
        trial = moved(matrix, step.twist, centre_under(stage.scale, matrix))
        seen = _shown(stage, trial, masks, shown, jacobian=config.counts or iteration < config.steps)
        before, after = (_cost(stage, images, step) for images in (shown, seen))
        if not after < before:
            break
        matrix, shown, covariance = trial, seen, step.covariance
        steps.append(Step(0, iteration, after, torch.from_numpy(matrix.copy())))
    taken = len(steps)
    counts = None if covariance is None or not config.counts else _counted(stage, shown, covariance)
    if counts is not None:
        twist, covariance = counts
        matrix = moved(matrix, twist, centre_under(stage.scale, matrix))
        # on another scale, this step has no cost of its own to tell
        steps.append(Step(0, taken + 1, steps[-1].cost, torch.from_numpy(matrix.copy())))
    timings = {**result.timings, "polish": time.perf_counter() - begun}
    kv = [None if image.beam is None else image.beam.kv for image in shown]
    settings = {
        **result.settings,
        "polish": {**asdict(config), "steps_taken": taken, "kv": kv, "counted": counts is not None},
    }
    if covariance is None:
        return replace(result, timings=timings, settings=settings)
    return replace(
        result,
        transform=Rigid(torch.from_numpy(matrix)),
        # what a patient who lies otherwise than in the scan adds, no last step takes away
        covariance=torch.from_numpy(covariance * looser(float(result.confidence.evidence.get("drift", 0.0)))),
        centre=torch.from_numpy(centre_under(stage.scale, matrix)),
        trajectory=(*result.trajectory, *steps),
        timings=timings,
        settings=settings,
        method=f"{result.method}+polish",
    )


@dataclass(frozen=True, eq=False)
class _Shown:
    """One exposure's fixed image less its local mean, and the moving ones: [1 or 7, H, W] of the model and of bone.

    Where the exposure's beam is known ``model`` holds what it makes of both, and ``bone`` nothing.
    """

    fixed: Array32
    model: Array32
    bone: Array32 | None
    valid: NDArray[np.bool_]
    integrals: Array32
    beam: Beam | None = None


@dataclass(frozen=True, eq=False)
class _Step:
    """A twist about the model's centre with its covariance, the weight of bone and the floor of each exposure."""

    twist: Array64
    covariance: Array64
    bone: Array64
    floor: Array64


def _shown(
    stage: Stage, matrix: Array64, masks: list[NDArray[np.bool_]], before: list[_Shown] | None = None, *, jacobian: bool = True
) -> list[_Shown]:
    """What one pose shows on every exposure, less its local mean; as ``before`` explained it, or as it is explained best."""
    out = []
    for i, valid in enumerate(masks):
        integrals = integrals_of(stage, matrix, i, jacobian=jacobian)
        kept = integrals if before is None or jacobian else np.concatenate([integrals, before[i].integrals[:, 1:]], 1)
        less_mean = partial(_less_mean, valid=valid, radius=stage.config.window)
        fixed = less_mean(stage.fixed[i][None])[0]
        if before is not None:
            beam = before[i].beam
        else:
            beam = fit_beam(integrals[:, 0], stage.fixed[i], valid) if stage.bends is not None else None
        ways = []
        if beam is not None:
            ways.append(_Shown(fixed, less_mean(developed(integrals, stage.fixed[i], beam)), None, valid, kept, beam))
        if beam is None or before is None:
            ways.append(
                _Shown(fixed, less_mean(integrals[0]), None if stage.bends is None else less_mean(integrals[1]), valid, kept)
            )
        out.append(ways[0] if len(ways) == 1 else _better(stage, ways[0], ways[1]))
    return out


def _better(stage: Stage, one: _Shown, other: _Shown) -> _Shown:
    """Which explains the exposure better, by the cost at one floor."""
    radius = stage.config.window
    floor = max(stage.config.floor * min(cost_of(x.fixed, x.model[:1], x.valid, radius, 1e-12)[1] for x in (one, other)), 1e-12)

    def cost(way: _Shown) -> float:
        bone = _weight_of_bone(way, 0.0, np.zeros(6), radius, floor)
        return float(cost_of(way.fixed, _mixed(way, bone, np.zeros(6))[:1], way.valid, radius, floor)[0])

    return one if cost(one) < cost(other) else other


def _mixed(image: _Shown, bone: float, twist: Array64) -> Array32:
    """[1 or 7, H, W]: model and so much bone, moved by a twist as its derivatives say."""
    mixed = image.model if image.bone is None else image.model + np.float32(bone) * image.bone
    if len(mixed) > 1 and twist.any():
        mixed = mixed.copy()
        mixed[0] += np.tensordot(twist.astype(np.float32), mixed[1:], 1)
    return mixed


def _step(stage: Stage, shown: list[_Shown]) -> _Step | None:
    """The Gauss-Newton step from a rendering, reweighted and repeated on its linearisation."""
    twist, bone, floor = np.zeros(6), np.zeros(len(shown)), np.zeros(len(shown))
    radius = stage.config.window
    hessian, scores = np.zeros((6, 6)), np.zeros((0, 6))
    for _ in range(_ROUNDS):
        hessian, gathered = np.zeros((6, 6)), []
        for i, image in enumerate(shown):
            if floor[i] == 0:
                _, variance = cost_of(image.fixed, image.model[:1], image.valid, radius, 1e-12)
                floor[i] = max(stage.config.floor * variance, 1e-12)
            bone[i] = _weight_of_bone(image, bone[i], twist, radius, floor[i])
            h, blocks = np.zeros((6, 6)), np.zeros((_blocks(image.fixed.shape), 6))
            mixed = _mixed(image, bone[i], twist)
            equations(mixed, image.fixed, image.valid, radius, np.float32(floor[i]), _BLOCK, h, blocks)
            hessian += h + np.triu(h, 1).T
            gathered.append(blocks)
        scores = np.concatenate(gathered)
        scale = np.sqrt(np.clip(np.diag(hessian), 1e-30, None))
        if not np.isfinite(hessian).all() or np.linalg.cond(hessian / np.outer(scale, scale)) > _SINGULAR:
            return None
        twist = twist + np.linalg.solve(hessian, scores.sum(0))
    return _Step(twist, _spread(hessian, scores), bone, floor)


def _spread(hessian: Array64, scores: Array64) -> Array64:
    """Covariance ``H^-1 S H^-1``, S from the scores [N, 6] of blocks."""
    inverse = np.linalg.inv(hessian)
    scores = scores[np.abs(scores).sum(1) > 0]
    scores = scores - scores.mean(0)
    return np.asarray(UNMODELLED * inverse @ (scores.T @ scores) @ inverse)


def _counted(stage: Stage, shown: list[_Shown], covariance: Array64) -> tuple[Array64, Array64] | None:
    """The step that counts demand from where windows ended, and its covariance; None where the two do not agree.

    They do not where beam and scatter leave more unexplained than photons do, in many places or altogether, or where this
    step is longer than the covariance of the windows' pose allows. Nor is it taken where its own covariance is hardly smaller:
    gains are then not what limits the pose, and what beam and scatter leave unexplained would move it. Derivatives are those at
    the windows' end: with the ones from where the windows began this step fell short.
    """
    views = []
    for i, image in enumerate(shown):
        beam = None if image.beam is None else fit_beam(image.integrals[:, 0], stage.fixed[i], image.valid, stage.around[i])
        if beam is None:
            return None
        views.append(Explained(developed(image.integrals, stage.fixed[i], beam), stage.fixed[i], image.valid))
    found = counted(views, stage.config.wide, _BLOCK)
    if found is None or any(e.share < _EXPLAINED or e.rest > e.photons for e in found[1]):
        return None
    twist, equations_ = found
    if twist @ np.linalg.solve(covariance, twist) > _AGREES:
        return None
    own = _spread(np.sum([e.hessian for e in equations_], axis=0), np.concatenate([e.scores for e in equations_]))
    return (twist, own) if np.trace(np.linalg.solve(covariance, own)) < _CERTAIN**2 * len(twist) else None


def _weight_of_bone(image: _Shown, bone: float, twist: Array64, radius: int, floor: float) -> float:
    """``beta``: the two contrasts against each other over the whole image, by least squares with the weights of the cost.

    Not with a gain for each window: those follow bone where there is some, and leave little to tell its weight by.
    """
    if image.bone is None:
        return 0.0
    moving = _mixed(image, bone, twist)[0]
    soft = moving - np.float32(bone) * image.bone[0]
    factor, energy, residual, power, count = (np.empty(moving.shape, np.float32) for _ in range(5))
    gains(moving, image.fixed, image.valid, radius, factor, energy, residual, power, count)
    weight = np.where(image.valid, 1 / (np.maximum(residual, 0) / np.maximum(count, 1) + np.float32(floor)), 0)
    columns = np.stack([soft, image.bone[0]]).reshape(2, -1)
    normal = (columns * weight.reshape(-1)) @ columns.T.astype(np.float64)
    if np.linalg.cond(normal / np.sqrt(np.outer(np.diag(normal), np.diag(normal)) + 1e-30)) > _SINGULAR:
        return bone
    gain, more = np.linalg.solve(normal, (columns * weight.reshape(-1)) @ image.fixed.reshape(-1).astype(np.float64))
    return float(np.clip(more / gain, *_WEIGHTS)) if gain > 0 else bone


def _cost(stage: Stage, shown: list[_Shown], step: _Step) -> float:
    """Mean of the log variance ratio over the pixels of all exposures, with a step's floors and weights of bone."""
    total, pixels = 0.0, 0
    for image, bone, floor in zip(shown, step.bone, step.floor, strict=True):
        mixed = image.model[:1] if image.bone is None else image.model[:1] + np.float32(bone) * image.bone[:1]
        cost, _ = cost_of(image.fixed, mixed, image.valid, stage.config.window, floor)
        total, pixels = total + cost, pixels + int(image.valid.sum())
    return total / max(pixels, 1)


def _short(stage: Stage, twist: Array64, axes: Array64) -> bool:
    """Whether a step is no longer than a last one may be; ``axes`` of the first view, the beam last."""
    shift = np.abs(axes.T @ twist[3:])
    across = float(np.hypot(shift[0], shift[1])) + stage.scale.model.radius * float(np.linalg.norm(twist[:3]))
    return across < stage.config.reach * stage.pitch and shift[2] < _ALONG * stage.config.reach * stage.pitch


def _blocks(shape: tuple[int, int]) -> int:
    return -(-shape[0] // _BLOCK) * -(-shape[1] // _BLOCK)


def _less_mean(images: Array32, valid: NDArray[np.bool_], radius: int) -> Array32:
    """Images [S, H, W] less their mean over a window of valid pixels; zero elsewhere."""
    out = np.empty(images.shape, np.float32)
    subtract_means(np.ascontiguousarray(images, np.float32), valid, radius, out)
    return out
