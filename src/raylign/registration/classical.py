"""Classical registration: a similarity, an optimiser and a prior a level, coarse to fine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.registration.comparison import Comparison, Measure, Sampling, build
from raylign.registration.confidence import gather, judge
from raylign.registration.levels import Scale, build_scales, centre_under
from raylign.registration.matching import answered, normal_equations, render
from raylign.registration.optimisers import Array64, Box, Objective, Optimiser, Task
from raylign.registration.priors import Frame, Prior, Reprojection, penalties
from raylign.registration.problem import Problem
from raylign.registration.pyramid import cut_faces
from raylign.registration.refinement import Candidate
from raylign.registration.result import Result, Step
from raylign.registration.search import camera_axes, moved
from raylign.registration.settings import TRUST, DirectConfig, SearchConfig
from raylign.registration.versions import versions

Progress = Callable[[str, float], None]
Six = tuple[float, float, float, float, float, float]
LEAST = 0.1  # degrees and mm: what a level's coordinates stand for, at least, in methods that take what the start leaves open
_JUDGED_PIXELS = 256  # longer side of what the model covers of the image, at the level that confidence is judged at
_WELL_INSIDE = 0.9  # of a box's half width, as the direct method counts it
_NEAR_MM = 15.0  # the margin of the images that poses are judged on, as the direct method has about a given pose
_TOLD = 24  # steps of a level's trajectory that are kept, at most


@dataclass(frozen=True)
class Level:
    """One level.

    Parameters
    ----------
    measure: how images are compared.
    sampling: at which resolution.
    optimiser: what looks for the best pose.
    unit: what 1 stands for along each coordinate: degrees about the first view's columns, rows and beam, mm along them. The
        initial standard deviation of CMA-ES.
    bound: half width of the box, in units; None for none.
    weight: w in ``(1 - w) S - w P`` of the similarity S and the prior penalties P.
    budget: poses rendered at most.
    """

    measure: Measure
    sampling: Sampling
    optimiser: Optimiser
    unit: Six
    bound: float | None = None
    weight: float = 0.0
    budget: int = 100_000

    def __post_init__(self) -> None:
        if self.optimiser.needs_slope and not self.measure.differentiable:
            raise InputError(
                f"{self.optimiser.name} needs a gradient, which {self.measure.name} has not",
                field="optimiser",
                remedy="use cma-es or cobyqa, or another similarity",
            )
        if self.optimiser.needs_box and self.bound is None:
            raise InputError(f"{self.optimiser.name} needs bounds", field="bound", remedy="give how far it may go")
        if not all(u > 0 for u in self.unit):
            raise InputError(f"a level with steps of {self.unit}", field="levels", remedy="give positive degrees and mm")
        if not 0 <= self.weight < 1:
            raise InputError(f"a weight of {self.weight:g}", field="weight", remedy="give 0 to under 1")

    @property
    def margin(self) -> float:
        """mm across the beam by which the model may move: to the bound, or to two standard deviations."""
        return max(self.unit[3:5]) * min(2.0, 2.0 if self.bound is None else self.bound)


@dataclass(frozen=True)
class ClassicalConfig:
    """Settings of a classical registration.

    Parameters
    ----------
    levels: in order, each beginning where the one before ended.
    priors: penalties on the pose, about the start of the whole registration.
    name: of the method, as results call it.
    trust: probability of success from which a result is called trustworthy.
    seed: of whatever is random.

    Raises
    ------
    InputError: no level; a prior that no level gives a weight.
    """

    levels: tuple[Level, ...]
    priors: tuple[Prior, ...] = ()
    name: str = "classical"
    trust: float = TRUST
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.levels:
            raise InputError("no level", field="levels", remedy="give at least one")
        if self.priors and not any(level.weight > 0 for level in self.levels):
            raise InputError("no level gives the priors a weight", field="weight", remedy="give one, or leave the priors out")


@dataclass(frozen=True)
class Classical:
    """A Registrar of similarities, optimisers and priors.

    Coordinates are the rotation vector and the shift of the model's centre, along and about the axes of the first view, from
    where the level began; scaled by the level's units. Deterministic for a seed, whatever the number of threads. What
    ``progress`` raises ends it.
    """

    config: ClassicalConfig
    progress: Progress | None = None

    def register(self, problem: Problem) -> Result:
        """The best pose of the last level.

        Raises
        ------
        InputError: a model of nothing but air, an image without a valid pixel.
        """
        config, clock = self.config, [time.perf_counter()]
        self._tell("pyramids", 0.0)
        samplings = [level.sampling for level in config.levels]
        scales = build(problem, samplings, margin=max(level.margin for level in config.levels))
        clock.append(time.perf_counter())
        axes = camera_axes(problem.xrays[0].view)
        start = problem.start.matrix.numpy()
        frame = Frame(start, axes, centre_under(scales[-1][0], start))
        matrix, renders, history, held = start, 0, [], True
        for number, (level, built) in enumerate(zip(config.levels, scales, strict=True)):
            comparison = Comparison(built, level.measure, level.sampling, matrix)
            matrix, steps, held = self._level(number, comparison, frame, matrix)
            history += steps
            renders += comparison.renders
        clock.append(time.perf_counter())
        self._tell("confidence", 0.96)
        whole = replace(problem, start=Rigid(torch.from_numpy(matrix)))
        assessed = assess(whole, matrix, axes, config.trust, held)
        clock.append(time.perf_counter())
        return replace(
            assessed,
            start=problem.start,
            trajectory=tuple(history),
            timings=dict(zip(("pyramids", "registration", "confidence"), np.diff(clock).tolist(), strict=True)),
            method=config.name,
            seed=config.seed,
            settings={**described(config), "cut_faces": cut_faces(problem.model)},
            renders=renders + 1,
        )

    def _level(self, number: int, comparison: Comparison, frame: Frame, base: Array64) -> tuple[Array64, list[Step], bool]:
        """The best pose of a level that begins at ``base``, how it came about, and whether it lies well inside the box."""
        level, index = self.config.levels[number], comparison.scale.index
        centre = centre_under(comparison.scale, base)
        unit = np.array(level.unit) * np.radians([1, 1, 1, np.degrees(1), np.degrees(1), np.degrees(1)])
        coordinates = Coordinates(base, centre, frame.axes, unit)
        objective = objective_of(comparison, coordinates, self.config.priors if level.weight > 0 else (), level.weight, frame)

        def tell(evaluations: int, cost: float) -> None:
            share = (number + min(1.0, evaluations / min(level.budget, 5000))) / len(self.config.levels)
            self._tell(f"level {index}: {level.optimiser.name}, {evaluations} poses", 0.05 + 0.9 * share)

        box = None if level.bound is None else Box.about(np.zeros(6), np.full(6, level.bound))
        task = Task(np.zeros(6), box, level.budget, (self.config.seed, number), tell)
        found = level.optimiser.minimise(objective, task)
        best = coordinates.pose(found.x)
        told = np.unique(np.linspace(0, len(found.path) - 1, _TOLD).round().astype(int))
        kept = [(*found.history[i], found.path[i]) for i in told]
        steps = [Step(index, n, cost, torch.from_numpy(coordinates.pose(x))) for n, cost, x in kept]
        held = level.bound is None or float(np.abs(found.x).max()) <= _WELL_INSIDE * level.bound
        return best, steps, held

    def _tell(self, stage: str, share: float) -> None:
        if self.progress is not None:
            self.progress(stage, share)


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Six numbers for a pose: rotation vector and shift from ``base``, along camera ``axes``, about ``centre``, in ``unit``s."""

    base: Array64
    centre: Array64
    axes: Array64
    unit: Array64

    def pose(self, x: Array64) -> Array64:
        """[4, 4] at x [6]."""
        scaled = x * self.unit
        return moved(self.base, np.concatenate([self.axes @ scaled[:3], self.axes @ scaled[3:]]), self.centre)

    def slope(self, x: Array64, twist: Array64) -> Array64:
        """A gradient by the twist (world, about the model's centre under the pose at x) as one by x.

        A change dr of the rotation vector r turns the pose further by ``J(r) dr``, with the left Jacobian of SO(3).
        """
        r = self.axes @ (x[:3] * self.unit[:3])
        by_vector = left_jacobian(r).T @ twist[:3]
        return np.concatenate([self.axes.T @ by_vector, self.axes.T @ twist[3:]]) * self.unit


def left_jacobian(r: Array64) -> Array64:
    """[3, 3] J with ``exp(r + dr) = exp(J dr) exp(r)`` to first order, for a rotation vector r (Sola et al. 2018, eq. 145)."""
    angle = float(np.linalg.norm(r))
    cross = np.array([[0, -r[2], r[1]], [r[2], 0, -r[0]], [-r[1], r[0], 0]])
    if angle < 1e-4:
        return np.eye(3) + cross / 2 + cross @ cross / 6
    a, b = (1 - np.cos(angle)) / angle**2, (angle - np.sin(angle)) / angle**3
    return np.asarray(np.eye(3) + a * cross + b * cross @ cross)


def objective_of(
    comparison: Comparison, coordinates: Coordinates, priors: tuple[Prior, ...], weight: float, frame: Frame
) -> Objective:
    """``-(1 - w) S + w P`` in scaled coordinates; the priors' gradient by central differences, which cost no rendering."""

    def penalty(xs: Array64) -> Array64:
        return penalties(priors, np.stack([coordinates.pose(x) for x in xs]), frame)

    def costs(xs: Array64) -> Array64:
        values = comparison.values(np.stack([coordinates.pose(x) for x in xs]))
        return -(1 - weight) * values + weight * penalty(xs) if priors else -values

    def slope(x: Array64) -> tuple[float, Array64]:
        value, twist = comparison.value_and_slope(coordinates.pose(x))
        gradient = -coordinates.slope(x, twist)
        if not priors:
            return -value, gradient
        h = 1e-4 * np.eye(len(x))
        p = penalty(np.concatenate([x[None], x + h, x - h]))
        by_x = (p[1 : 1 + len(x)] - p[1 + len(x) :]) / 2e-4
        return -(1 - weight) * value + weight * float(p[0]), (1 - weight) * gradient + weight * by_x

    return Objective(costs, slope if comparison.measure.differentiable else None)


def assess(problem: Problem, matrix: Array64, axes: Array64, trust: float, held: bool = True) -> Result:
    """A pose, which is also the problem's start, as a Result: covariance and confidence as the direct method judges its own.

    They come from its normal equations and its mirror test, on its pyramid about the pose: at about 256 pixels. Of a pose that
    shows the model nowhere there is none, and nothing is compared with the mirror image.

    Parameters
    ----------
    axes: of the first view.
    trust: probability from which it is called trustworthy.
    held: whether the pose lies well inside what was searched last.
    """
    config = DirectConfig(search=SearchConfig(mm=_NEAR_MM))
    match = config.match
    try:
        scales: list[Scale] = build_scales(problem, config)
    except InputError:
        scales = [build(problem, [Sampling(pixels=_JUDGED_PIXELS)], margin=0.0)[0][0]]
    scale = scales[0]
    rendering = render(scale.model, scale.images, matrix, replace(match, step=match.finest_step))
    masks = answered(scale.model, scale.images, matrix)
    floor = normal_equations(scale.model, scale.images, rendering, masks, np.zeros(len(scale.images)), match)
    normal = normal_equations(scale.model, scale.images, rendering, masks, floor.noise, match)
    rival = 0.0 if floor.cost < 0 else 1.0  # explaining nothing is matched by any pose that shows nothing
    evidence, covariance = gather(Candidate(matrix, replace(normal, cost=floor.cost)), scales, axes, rival, held, config)
    return Result(
        transform=Rigid(torch.from_numpy(matrix)),
        start=problem.start,
        covariance=torch.from_numpy(covariance),
        centre=torch.from_numpy(normal.centre),
        score=normal.explained,
        confidence=judge(evidence, trust),
        versions=versions(),
    )


def described(config: ClassicalConfig) -> dict[str, Any]:
    """A configuration in plain numbers and words, for JSON."""

    def prior(p: Prior) -> dict[str, Any]:
        if isinstance(p, Reprojection):
            return {"name": "reprojection", "landmarks": len(p.points), "sd": p.sd}
        return {"name": type(p).__name__, **{k: v if not hasattr(v, "__dict__") else asdict(v) for k, v in vars(p).items()}}

    return {
        "levels": [
            {
                "similarity": {**asdict(replace(level.measure, options=None)), "options": dict(level.measure.options or {})},
                "sampling": asdict(level.sampling),
                "optimiser": {"name": level.optimiser.name, **asdict(level.optimiser)},  # type: ignore[call-overload]
                "unit": level.unit,
                "bound": level.bound,
                "weight": level.weight,
                "budget": level.budget,
            }
            for level in config.levels
        ],
        "priors": [prior(p) for p in config.priors],
        "trust": config.trust,
    }
