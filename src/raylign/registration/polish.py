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

A step is kept if this cost falls at the pose where it ends, on the same pixels, with the same floor and the same beam. Otherwise,
and where the step would be larger than what a last step can be, the pose stays as it was.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.geometry import Rigid
from raylign.registration.levels import Scale, build_scales, centre_under
from raylign.registration.matching import answered, jacobian_images, samples_on, voxel_rays
from raylign.registration.polish_beam import Beam, developed, fit_beam, hinges
from raylign.registration.polish_kernels import cost_of, equations, gains, subtract_means
from raylign.registration.polish_rays import HINGES, two_materials
from raylign.registration.problem import Problem, Registrar
from raylign.registration.pyramid import Array32, Array64, box_corners, content, footprint, model_pyramid
from raylign.registration.result import Result, Step
from raylign.registration.search import camera_axes, moved
from raylign.registration.settings import DirectConfig, SearchConfig
from raylign.registration.spread import UNMODELLED, looser

_BLOCK = 16  # pixels: residuals farther apart than this are taken for independent
_ROUNDS = 3  # of reweighting on one rendering
_WEIGHTS = (-0.03, 0.1)  # 1/mm; all that cortical bone attenuates at 70 keV is 0.05
_SINGULAR = 1e10  # condition of the scaled normal equations beyond which nothing is determined
_FINE = 0.75  # voxels are at most about so large, in pixels at the model: averages of more show in the pose
_VOXELS = 2e8  # a model of more stays as coarse as the direct method has it
_ALONG = 10.0  # a step may be so much longer along the beam than across it: so much less is depth seen


@dataclass(frozen=True)
class PolishConfig:
    """Settings of the last step.

    Parameters
    ----------
    pixels: length in pixels of the longer side of what the model covers of the image, about.
    window: radius in pixels of the window that shares one gain and one offset.
    steps: Gauss-Newton steps at most.
    sampling: distance of samples along a ray, in voxels of the level.
    beam: whether voltage and scatter, or the weight of bone, are fitted to the exposure; models in HU alone.
    floor: of the residual variance, as a share of its median over the image.
    reach: how far the model's surface may move across the beam, in pixels of the level: a longer step is not a last one.
    """

    pixels: int = 512
    window: int = 7
    steps: int = 1
    sampling: float = 0.5
    beam: bool = True
    floor: float = 0.03
    reach: float = 1.0


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
    model = problem.model if faces is None else replace(problem.model, truncated=faces)
    stage = _stage(replace(problem, model=model, start=result.transform), config)
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
        seen = _shown(stage, trial, masks, shown, jacobian=iteration < config.steps)
        before, after = (_cost(stage, images, step) for images in (shown, seen))
        if not after < before:
            break
        matrix, shown, covariance = trial, seen, step.covariance
        steps.append(Step(0, iteration, after, torch.from_numpy(matrix.copy())))
    timings = {**result.timings, "polish": time.perf_counter() - begun}
    kv = [None if image.beam is None else image.beam.kv for image in shown]
    settings = {**result.settings, "polish": {**asdict(config), "steps_taken": len(steps), "kv": kv}}
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
class _Stage:
    """What does not change between steps: the level and the fixed images.

    ``pitch``: mm at the model that count as a pixel; ``bends``: how much of an attenuation is bone's, of models in HU.
    """

    scale: Scale
    pitch: float
    fixed: list[Array32]
    bends: Array32 | None
    config: PolishConfig


@dataclass(frozen=True, eq=False)
class _Shown:
    """One exposure's fixed image less its local mean, and the moving ones: [1 or 7, H, W] of the model and of bone.

    Where the exposure's beam is known ``model`` holds what it makes of both, and ``bone`` nothing.
    """

    fixed: Array32
    model: Array32
    bone: Array32 | None
    valid: NDArray[np.bool_]
    beam: Beam | None = None


@dataclass(frozen=True, eq=False)
class _Step:
    """A twist about the model's centre with its covariance, the weight of bone and the floor of each exposure."""

    twist: Array64
    covariance: Array64
    bone: Array64
    floor: Array64


def _stage(problem: Problem, config: PolishConfig) -> _Stage:
    """One level, about as fine as ``config.pixels`` says, around where the model lies."""
    # a level of its own: as the direct method makes its finest, no coarser ones and no margin to search
    single = DirectConfig(search=SearchConfig(mm=0.0), pixels=config.pixels, coarsest=1 << 30)
    scale = build_scales(problem, single)[0]
    fixed, pitches = [], []
    box = content(problem.model)
    corners = box_corners(problem.model, *box)
    pose = problem.start.matrix.numpy()
    for xray, image in zip(problem.xrays, scale.images, strict=True):
        region = footprint(xray, corners @ pose[:3, :3].T + pose[:3, 3], 0.0)
        rows, columns = region.rows, region.columns
        factor = (rows.stop - rows.start) // image.shape[0]
        (h, w), start = image.shape, (rows.start, columns.start)
        part = xray.image.numpy()[start[0] : start[0] + h * factor, start[1] : start[1] + w * factor]
        fixed.append(np.ascontiguousarray(part.reshape(h, factor, w, factor).mean((1, 3), dtype=np.float32)))
        pitches.append(max(image.view.pixel_spacing) * region.depth / float(image.view.sid))
    pitch = scale.model.spacing / 1.5
    factors = np.maximum(1, np.ceil(_FINE * min(pitches) / np.linalg.norm(problem.model.affine[:3, :3].numpy(), axis=0) - 0.1))
    if np.prod(box[1] // factors) < _VOXELS:
        fine = model_pyramid(problem.model, box, [_FINE * min(pitches)])[0]
        # the faces that were found to blind too much stay out
        faces = tuple(new if old.size else old for new, old in zip(fine.faces, scale.model.faces, strict=True))
        scale = replace(scale, model=replace(fine, faces=faces))
    bends = hinges() if config.beam and problem.model.unit == "HU" else None
    return _Stage(scale, pitch, fixed, bends, config)


def _shown(
    stage: _Stage, matrix: Array64, masks: list[NDArray[np.bool_]], before: list[_Shown] | None = None, *, jacobian: bool = True
) -> list[_Shown]:
    """What one pose shows on every exposure, less its local mean; as ``before`` explained it, or as it is explained best."""
    out = []
    for i, valid in enumerate(masks):
        integrals = _integrals(stage, matrix, i, jacobian=jacobian)
        less_mean = partial(_less_mean, valid=valid, radius=stage.config.window)
        fixed = less_mean(stage.fixed[i][None])[0]
        if before is not None:
            beam = before[i].beam
        else:
            beam = fit_beam(integrals[:, 0], stage.fixed[i], valid) if stage.bends is not None else None
        ways = []
        if beam is not None:
            ways.append(_Shown(fixed, less_mean(developed(integrals, stage.fixed[i], beam)), None, valid, beam))
        if beam is None or before is None:
            ways.append(_Shown(fixed, less_mean(integrals[0]), None if stage.bends is None else less_mean(integrals[1]), valid))
        out.append(ways[0] if len(ways) == 1 else _better(stage, ways[0], ways[1]))
    return out


def _integrals(stage: _Stage, matrix: Array64, view: int, *, jacobian: bool) -> Array32:
    """[2, 1 or 7, H, W]: line integrals of the model and of its bone (mm), and their derivatives by the pose."""
    level, image = stage.scale.model, stage.scale.images[view]
    rays, voxel_from_world = voxel_rays(level, image, matrix)
    bends = np.zeros((HINGES, 2), np.float32) if stage.bends is None else stage.bends
    samples = samples_on(image, stage.config.sampling * level.spacing)
    values, slopes = two_materials(level.grid, rays, image.shape, samples, image.valid, bends, gradients=jacobian)
    if not jacobian:
        return (values * image.lengths)[:, None]
    out = np.empty((2, 7, *image.shape), np.float32)
    world = np.ascontiguousarray(voxel_from_world[:3, :3].T)
    arm = image.source - centre_under(stage.scale, matrix)
    for part in range(2):
        jacobian_images(values[part], slopes[part], image.lengths, world, arm, image.steps, out[part])
    return out


def _better(stage: _Stage, one: _Shown, other: _Shown) -> _Shown:
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


def _step(stage: _Stage, shown: list[_Shown]) -> _Step | None:
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
    inverse = np.linalg.inv(hessian)
    scores = scores[np.abs(scores).sum(1) > 0]
    scores = scores - scores.mean(0)
    covariance = UNMODELLED * inverse @ (scores.T @ scores) @ inverse
    return _Step(twist, covariance, bone, floor)


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


def _cost(stage: _Stage, shown: list[_Shown], step: _Step) -> float:
    """Mean of the log variance ratio over the pixels of all exposures, with a step's floors and weights of bone."""
    total, pixels = 0.0, 0
    for image, bone, floor in zip(shown, step.bone, step.floor, strict=True):
        mixed = image.model[:1] if image.bone is None else image.model[:1] + np.float32(bone) * image.bone[:1]
        cost, _ = cost_of(image.fixed, mixed, image.valid, stage.config.window, floor)
        total, pixels = total + cost, pixels + int(image.valid.sum())
    return total / max(pixels, 1)


def _short(stage: _Stage, twist: Array64, axes: Array64) -> bool:
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
