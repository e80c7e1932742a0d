"""One frame of a sequence: its levels, made with little work from those of the first one, and the pose that it speaks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raylign.data import XRay
from raylign.registration.levels import Scale, build_scales
from raylign.registration.matching import MatchConfig, Normal, answered, render, windows_of
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array64, Footprint, box_corners, content, footprint, image_level
from raylign.registration.readings import levels_as
from raylign.registration.refinement import renewed
from raylign.registration.saturation import Response, compare_bent
from raylign.registration.search import moved
from raylign.registration.settings import DirectConfig
from raylign.registration.spread import covariance_of
from raylign.registration.tracking_motion import Motion, MotionConfig
from raylign.registration.tracking_solids import Solid

_SETTLED = 0.02  # squared length of a step, in standard deviations of the pose, under which none is worth a rendering
_FOLLOWED = 0.3  # of a voxel: a step from which it is looked up anew which rays the model answers for


@dataclass(frozen=True, eq=False)
class Stand:
    """The model's levels, finest first, and which part of every exposure is compared at which reduction.

    Parameters
    ----------
    scales: levels with the images of the frame about which they were made.
    regions, factors: by exposure, at the finest level.
    centre: the model's centre at that frame, world mm.
    margin: mm by which the model may move from there and still lie in the regions.
    """

    scales: tuple[Scale, ...]
    regions: tuple[Footprint, ...]
    factors: tuple[int, ...]
    centre: Array64
    margin: float

    def level(self, index: int, xrays: Sequence[XRay]) -> Scale:
        """One level with the images of a frame."""
        images = [
            image_level(x, region, factor * 2**index) for x, region, factor in zip(xrays, self.regions, self.factors, strict=True)
        ]
        return replace(self.scales[index], images=images)

    def left(self, centre: Array64) -> bool:
        """Whether a model's centre (world mm) lies too far from where the regions were cut out."""
        return bool(np.linalg.norm(centre - self.centre) > 0.6 * self.margin)


def stand(problem: Problem, config: DirectConfig) -> Stand:
    """The two finest levels about a problem's start; ``config.search`` says how far the model may move from there.

    Raises
    ------
    InputError: an exposure does not show the model there.
    """
    ends = problem.model.truncated is not None and not any(any(sides) for sides in problem.model.truncated)
    scales = levels_as(build_scales(problem, config, 2), problem.model, int(ends))
    corners = box_corners(problem.model, *content(problem.model))
    start = problem.start.matrix.numpy()
    world = corners @ start[:3, :3].T + start[:3, 3]
    margin = config.search.mm if len(problem.xrays) == 1 else max(config.search.mm, config.search.along)
    regions = tuple(footprint(x, world, margin) for x in problem.xrays)
    factors = tuple(max(1, round(region.long / config.pixels)) for region in regions)
    return Stand(tuple(scales), regions, factors, world.mean(0), margin)


@dataclass(frozen=True, eq=False)
class Followed:
    """What a frame says of the pose.

    Parameters
    ----------
    matrix: [4, 4] the pose that frame and expectation agree on.
    normal: the frame's own system there.
    alone: [6, 6] covariance of what the frame says by itself.
    covariance: [6, 6] of the pose, expectation included; twist about the model's centre, world axes.
    misfit: squared length of the way from the expectation in its standard deviations, over 6: under 1 where it was right.
    renders: how many it took.
    """

    matrix: Array64
    normal: Normal
    alone: Array64
    covariance: Array64
    misfit: float
    renders: int


def weight_of(normal: Normal, covariance: Array64) -> float:
    """What a sum of the comparison's cost counts for as twice a negative log likelihood.

    The Hessian takes pixels for independent; the covariance knows how far they are from it.
    """
    return max(float(np.trace(normal.hessian @ covariance)) / 6, 1e-6)


@dataclass(frozen=True)
class FollowConfig:
    """How a frame is followed.

    Parameters
    ----------
    direct: how images are compared, how they are refined where a model was lost, and the probability from which a frame supports
        its pose.
    motion: how the patient may move.
    iterations: steps at most; none is taken that is small beside the pose's standard deviations.
    weight: of ``weight_of``.
    drift: of the model against the patient (``evidence.Pattern``), by which what a frame says is less certain.
    explained: share of a frame's structure that the model explains, usually.
    response: of exposures that saturate behind the model's metal; ``None``: it is none.
    solid: what is known of a model that was made of a surface; ``None``: it is a volume of intensities.
    """

    direct: DirectConfig
    motion: MotionConfig
    iterations: int
    weight: float
    drift: float = 0.0
    explained: float = 0.0
    response: Response | None = None
    solid: Solid | None = None

    @property
    def match(self) -> MatchConfig:
        """How images are compared."""
        return self.direct.match


def follow(scale: Scale, prior: Motion, config: FollowConfig) -> Followed:
    """The most probable pose of a frame: a few Gauss-Newton steps on the comparison's cost and the expectation together.

    The step is that of the direct method (``refinement.refine``) with the expectation as one more term: away' P^-1 away, with
    ``weight`` to bring it to the unit of the cost. A direction that the frame hardly sees (depth, in one view) follows the
    expectation, one that it sees well follows the frame.

    ``prior`` is where the pose is expected; its ``middle`` is that of the level.
    """
    match, weight = replace(config.match, step=config.match.finest_step), config.weight
    stiffness = weight * np.linalg.inv(prior.pose_covariance)
    matrix, middle = prior.matrix, prior.middle
    masks = answered(scale.model, scale.images, matrix)
    windows = [windows_of(image, mask, match) for image, mask in zip(scale.images, masks, strict=True)]
    rendering = render(scale.model, scale.images, matrix, match, pixels=masks)
    seen = compare_bent(scale, rendering, windows, match, config.response)
    floor = seen.judged(np.zeros(len(scale.images))).noise
    now = seen.normal(floor)
    usable = max(1, sum(image.usable for image in scale.images))
    away, damping, renders = np.zeros(6), 0.0, 1
    for _ in range(config.iterations):
        system = now.hessian + stiffness
        damped = system + damping * np.diag(np.diag(system))
        twist: Array64 = np.linalg.solve(damped, now.gradient - stiffness @ away).astype(np.float64)
        if twist @ system @ twist < _SETTLED * weight:
            break
        trial_matrix = moved(matrix, twist, matrix[:3, :3] @ middle + matrix[:3, 3])
        trial_masks = answered(scale.model, scale.images, trial_matrix)
        pixels = [window.valid | mask for window, mask in zip(windows, trial_masks, strict=True)]
        rendering = render(scale.model, scale.images, trial_matrix, match, pixels=pixels)
        trial_seen = compare_bent(scale, rendering, windows, match, config.response)
        trial = trial_seen.judged(floor)
        trial_away = prior.offset(trial_matrix)
        renders += 1
        before = usable * now.cost + away @ stiffness @ away
        if usable * trial.cost + trial_away @ stiffness @ trial_away >= before:
            damping = max(10 * damping, 1.0)
            continue
        matrix, masks, seen, away = trial_matrix, trial_masks, trial_seen, trial_away
        damping /= 10
        floor = np.minimum(floor, trial.noise)
        if np.abs(twist[3:]).max() + scale.model.radius * np.abs(twist[:3]).max() > _FOLLOWED * scale.model.spacing:
            windows = renewed(windows, scale, masks, match)
            seen = seen.beside(windows)
        now = seen.normal(floor)
    final = seen.judged(np.zeros(len(scale.images)))
    normal = replace(final, hessian=now.hessian, gradient=now.gradient, scores=now.scores)
    alone = covariance_of(normal, scale.images, match, config.drift)
    both = alone + prior.pose_covariance
    covariance = prior.pose_covariance - prior.pose_covariance @ np.linalg.solve(both, prior.pose_covariance)
    misfit = float(away @ np.linalg.solve(prior.pose_covariance, away)) / 6
    return Followed(matrix, normal, alone, (covariance + covariance.T) / 2, misfit, renders)
