"""Direct registration: coarse-to-fine Levenberg-Marquardt on locally normalised gradient images, from many starts at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.geometry import Rigid
from raylign.projection import cpu
from raylign.registration.confidence import gather, judge, rivalry
from raylign.registration.matching import MatchConfig, Normal, answered, normal_equations, render
from raylign.registration.problem import Problem
from raylign.registration.pyramid import (
    Array64,
    ImageLevel,
    ModelLevel,
    box_corners,
    content,
    cut_faces,
    footprint,
    image_level,
    model_pyramid,
)
from raylign.registration.result import Result, Step
from raylign.registration.search import Bounds, camera_axes, moved, separation, spread
from raylign.registration.versions import versions

Progress = Callable[[str, float], None]

_CHEST = 1.2e5  # voxels of a chest CT at the coarsest level: the measure of a small model
# The squared error over the covariance from image residuals alone, of 36 exposures with known pose (docs/methods/direct.md).
_UNMODELLED = 3.5
_MOST = 400  # starts, however small the model
_LEASH_DEGREES, _LEASH_MM = 5.0, 10.0


@dataclass(frozen=True)
class SearchConfig:
    """What the start leaves open, and how densely it is searched.

    Parameters
    ----------
    degrees, mm: half widths, about each axis of the first view and along it, of the box that the starts fill.
    hypotheses: starts compared at the coarsest level; 1 for the given start alone.
    refined, kept, finalists: how many of the best are refined at the coarsest, the second and the third level.

    All four numbers are raised, up to threefold, where the model is small: a bone in a large image is easier to mistake, and
    quicker to render.
    """

    degrees: float = 20.0
    mm: float = 35.0
    hypotheses: int = 128
    refined: int = 12
    kept: int = 4
    finalists: int = 2

    def denser(self, times: int) -> SearchConfig:
        """The same box, that many times as many starts and candidates."""
        counts = {n: times * getattr(self, n) for n in ("hypotheses", "refined", "kept", "finalists")}
        return replace(self, **counts)


@dataclass(frozen=True)
class DirectConfig:
    """Settings of the direct method.

    Parameters
    ----------
    search: what the start leaves open.
    match: how images are compared.
    pixels: length in pixels of the longer side of what the model covers of the image at the finest level, about.
    coarsest: length in pixels of its shorter side at the coarsest level, at least.
    iterations: accepted steps per level, at most.
    tolerance: a level ends when the predicted decrease of the cost (mean log variance ratio a pixel) is below this.
    leash: cost of a pose 10 mm or 5 degrees from where its level began, above the finest level.
    trust: probability of success from which a result is called trustworthy.
    seed: of the spread of starts.
    """

    search: SearchConfig = field(default_factory=SearchConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    pixels: int = 256
    coarsest: int = 18
    iterations: int = 12
    tolerance: float = 2e-5
    leash: float = 0.003
    trust: float = 0.6
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Scale:
    """One level of the pyramid: the model and every exposure at matching resolution."""

    index: int
    model: ModelLevel
    images: list[ImageLevel]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A refined pose, its system, and how it got there."""

    matrix: Array64
    normal: Normal
    steps: tuple[Step, ...] = ()
    renders: int = 0


def build_scales(problem: Problem, config: DirectConfig) -> list[Scale]:
    """The pyramid of a problem, finest level first."""
    box = content(problem.model)
    corners = box_corners(problem.model, *box)
    start = problem.start.matrix.numpy()
    world = corners @ start[:3, :3].T + start[:3, 3]
    regions = [footprint(x, world, config.search.mm) for x in problem.xrays]
    factors = [max(1, round(region.long / config.pixels)) for region in regions]
    pitches = [
        max(x.view.pixel_spacing) * region.depth / float(x.view.sid) * factor
        for x, region, factor in zip(problem.xrays, regions, factors, strict=True)
    ]
    count = 1
    while min(region.short / (f * 2**count) for region, f in zip(regions, factors, strict=True)) >= config.coarsest:
        count += 1
    models = model_pyramid(problem.model, box, [1.5 * min(pitches) * 2**i for i in range(count)])
    scales = [
        Scale(i, models[i], [image_level(x, r, f * 2**i) for x, r, f in zip(problem.xrays, regions, factors, strict=True)])
        for i in range(count)
    ]
    seeing = _seeing_faces(scales[-1], start)
    return [replace(s, model=replace(s.model, faces=_only(s.model.faces, seeing))) for s in scales]


def _only(faces: Sequence[NDArray[np.bool_]], kept: set[int]) -> tuple[NDArray[np.bool_], ...]:
    return tuple(face if i in kept else np.zeros((0, 0), np.bool_) for i, face in enumerate(faces))


def _seeing_faces(scale: Scale, matrix: Array64, least: float = 0.25) -> set[int]:
    """The cut faces whose rays can be left out with at least a share ``least`` of the pixels remaining.

    A CT of the heart is cut in front and behind too, and every ray of a frontal view passes there: such a face is counted as
    if the patient ended at it (what is missing is mostly smooth chest wall), or nothing would be left to compare.
    """

    def share(faces: set[int]) -> float:
        model = replace(scale.model, faces=_only(scale.model.faces, faces))
        masks = answered(model, scale.images, matrix)
        return sum(int(m.sum()) for m in masks) / max(1, sum(int(i.valid.sum()) for i in scale.images))

    kept = {i for i, face in enumerate(scale.model.faces) if face.size}
    while kept and share(kept) < least:
        kept.remove(min(kept, key=lambda i: share({i})))
    return kept


def evaluate(scale: Scale, matrix: Array64, config: MatchConfig) -> Normal:
    """Cost of one pose without derivatives, at the floor of the residual variance that the level allows."""
    rendering = render(scale.model, scale.images, matrix, config, jacobian=False, threaded=False)
    masks = answered(scale.model, scale.images, matrix)
    return normal_equations(scale.model, scale.images, rendering, masks, np.zeros(len(scale.images)), config)


def centre_under(scale: Scale, matrix: Array64) -> Array64:
    """The model's centre in world mm under a pose."""
    return (matrix @ scale.model.affine @ np.array([*(scale.model.size - 1) / 2, 1.0]))[:3]


def refine(scale: Scale, start: Array64, bounds: Bounds, config: DirectConfig, *, threaded: bool) -> Candidate:
    """Levenberg-Marquardt from one pose at one level.

    The floor ``sigma2`` of the residual variance starts at the mean residual and follows it down, so that the cost is convex
    where the pose is far off and close to the likelihood where it is near (graduated non-convexity). The rays that the model
    does not answer for are fixed while a step is judged and looked up again after each step of more than a third of a pixel: a
    cost over a changing set of pixels is not a cost.

    Above the finest level a weak spring (``config.leash``) ties the pose to where the level began. In a direction that a coarse
    image does not see (depth, mostly) noise would carry it off, out of reach of the finer levels that do see it.
    """
    basis = np.zeros((6, 6))
    basis[:3, :3] = basis[3:, 3:] = bounds.axes
    match = replace(config.match, step=config.match.finest_step) if scale.index == 0 else config.match
    none = np.zeros(len(scale.images))

    def system(rendering, masks, floor):  # type: ignore[no-untyped-def]
        return normal_equations(scale.model, scale.images, rendering, masks, floor, match)

    usable = max(1, sum(image.usable for image in scale.images))
    leash = config.leash if scale.index > 0 else 0.0
    stiffness = usable * leash / np.array([np.radians(_LEASH_DEGREES)] * 3 + [_LEASH_MM] * 3) ** 2
    tie = Bounds(start, bounds.axes, centre_under(scale, start), bounds.degrees, bounds.mm)

    def pull(pose: Array64) -> Array64:
        turn, shift = tie.offset(pose)
        return np.concatenate([np.radians(turn), shift])

    matrix = start
    masks = answered(scale.model, scale.images, matrix)
    rendering = render(scale.model, scale.images, matrix, match, threaded=threaded)
    floor = system(rendering, masks, none).noise
    now = system(rendering, masks, floor)
    steps = [Step(scale.index, 0, now.cost, torch.from_numpy(matrix.copy()))]
    renders, damping = 1, 1e-4
    radius = scale.model.radius
    # above the finest level a pose need only be good enough to begin the next
    tolerance = config.tolerance if scale.index == 0 else 20 * config.tolerance
    for iteration in range(1, (config.iterations if scale.index == 0 else config.iterations * 2 // 3) + 1):
        accepted = False
        away = pull(matrix)
        tension = float(stiffness @ away**2) / usable
        for _ in range(2 if scale.index == 0 else 5):
            h = basis.T @ now.hessian @ basis + np.diag(stiffness)
            g = basis.T @ now.gradient - stiffness * away
            damped = h + damping * np.diag(np.diag(h)) + 1e-9 * max(np.trace(h), 1e-12) * np.eye(6)
            twist = basis @ np.linalg.solve(damped, g)
            if twist @ (basis @ g) / usable < tolerance:
                break
            trial_matrix = moved(matrix, twist, now.centre)
            if not bounds.hold(trial_matrix):
                damping = max(damping, 1e-4) * 10
                continue
            trial_rendering = render(scale.model, scale.images, trial_matrix, match, threaded=threaded)
            trial = system(trial_rendering, masks, floor)
            renders += 1
            if trial.cost + float(stiffness @ pull(trial_matrix) ** 2) / usable < now.cost + tension:
                accepted = True
                break
            damping = max(damping, 1e-4) * 10
        if not accepted:
            break
        matrix, rendering = trial_matrix, trial_rendering
        damping /= 10
        floor = np.minimum(floor, trial.noise)
        if np.abs(twist[3:]).max() + radius * np.abs(twist[:3]).max() > 0.3 * scale.model.spacing:
            masks = answered(scale.model, scale.images, matrix)
        now = system(rendering, masks, floor)
        steps.append(Step(scale.index, iteration, now.cost, torch.from_numpy(matrix.copy())))
    # all candidates are compared at the same floor
    final = system(rendering, answered(scale.model, scale.images, matrix), none)
    judged = Normal(final.cost, now.hessian, now.gradient, now.scores, final.explained, final.pixels, final.noise, final.centre)
    return Candidate(matrix, judged, tuple(steps), renders)


def distinct(candidates: Sequence[Candidate], nearer_than: float, radius: float) -> list[Candidate]:
    """The candidates best first, those within ``nearer_than`` mm of a better one left out."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: c.normal.cost):
        if all(separation(k.matrix, candidate.matrix, k.normal.centre, radius) > nearer_than for k in kept):
            kept.append(candidate)
    return kept


@dataclass(frozen=True)
class Direct:
    """The direct method as a Registrar.

    From ``config.search.hypotheses`` starts spread about the given one, the best are refined level by level and thinned out; the
    last one is refined at full resolution. Deterministic: same input, same seed, same result, whatever the number of threads.
    """

    config: DirectConfig = field(default_factory=DirectConfig)
    progress: Progress | None = None

    def register(self, problem: Problem) -> Result:
        """The pose under which the model explains the exposures, with its covariance and the confidence in it.

        Whether an exposure shows the patient beyond the model's cut faces (the rule) or the model alone (a phantom, a specimen, a
        simulation) is not written in any file. Where the rule gives a result that is not to be trusted and faces were cut, the
        other reading is tried; then both again from four times as many starts. The first trusted result is returned, or the most
        probable one.
        """
        problems = [problem]
        if problem.model.truncated is None and any(any(sides) for sides in cut_faces(problem.model)):
            whole = replace(problem.model, truncated=((False, False),) * 3)
            problems.append(replace(problem, model=whole))
        search, results = self.config.search, []
        thorough = replace(self.config, search=search.denser(4), seed=self.config.seed + 1)
        for config in (self.config, thorough) if search.hypotheses > 1 else (self.config,):
            for reading in problems:
                results.append(replace(self, config=config).search_once(reading))
                if results[-1].confidence.trusted:
                    break
            if results[-1].confidence.trusted:
                break
        best = max(results, key=lambda r: r.confidence.probability)
        return replace(best, seed=self.config.seed, timings={k: sum(r.timings[k] for r in results) for k in best.timings})

    def search_once(self, problem: Problem) -> Result:
        """One search, taken as it comes out: ``register`` without its second look."""
        config, search = self.config, self.config.search
        clock = [time.perf_counter()]
        scales = build_scales(problem, config)
        clock.append(time.perf_counter())
        self._tell("pyramids", 0.1)
        axes = camera_axes(problem.xrays[0].view)
        start = problem.start.matrix.numpy()
        top = scales[-1]
        centre = evaluate(top, start, config.match).centre
        bounds = Bounds(start, axes, centre, search.degrees, search.mm)
        more = float(np.clip(np.sqrt(_CHEST / top.model.grid.data.size), 1, max(1.0, _MOST / search.hypotheses)))
        counts = [round(more * n) for n in (search.refined, search.kept, search.finalists)]
        hypotheses = round(more * search.hypotheses) if search.hypotheses > 1 else 1
        twists = spread(hypotheses, search.degrees, search.mm, axes, config.seed)
        starts = [moved(start, twist, centre) for twist in twists]
        pool = cpu.pool(cpu.threads())
        if len(starts) > counts[0]:
            costs = list(pool.map(lambda m: evaluate(top, m, config.match).cost, starts))
            starts = [starts[i] for i in np.argsort(costs, kind="stable")[: counts[0]]]
        self._tell("search", 0.3)
        radius = top.model.radius
        candidates: list[Candidate] = []
        seeds = starts
        rival = 0.0
        history: tuple[Step, ...] = ()
        stages = {len(scales) - 1 - i: n for i, n in enumerate(counts)}
        for scale in reversed(scales):
            seeds = seeds[: stages.get(scale.index, 1)]
            if len(seeds) > 1:
                candidates = list(pool.map(lambda m, s=scale: refine(s, m, bounds, config, threaded=False), seeds))
            else:
                candidates = [refine(scale, m, bounds, config, threaded=True) for m in seeds]
            candidates = distinct(candidates, 0.75 * scale.model.spacing, radius)
            if len(seeds) > 1:
                rival = rivalry(candidates)
            seeds = [c.matrix for c in candidates]
            history += candidates[0].steps
            self._tell(f"level {scale.index}", 0.3 + 0.7 * (len(scales) - scale.index) / len(scales))
        best = candidates[0]
        clock.append(time.perf_counter())
        covariance = covariance_of(best.normal)
        held = replace(bounds, degrees=0.9 * bounds.degrees, mm=0.9 * bounds.mm).hold(best.matrix)
        evidence = gather(best, covariance, scales[0], axes, rival, held)
        return Result(
            transform=Rigid(torch.from_numpy(best.matrix)),
            start=problem.start,
            covariance=torch.from_numpy(covariance),
            centre=torch.from_numpy(best.normal.centre),
            score=best.normal.explained,
            confidence=judge(evidence, config.trust),
            trajectory=history,
            timings={"pyramids": clock[1] - clock[0], "registration": clock[2] - clock[1]},
            method="direct",
            seed=config.seed,
            versions=versions(),
            settings={**asdict(config), "cut_faces": cut_faces(problem.model)},
        )

    def _tell(self, stage: str, share: float) -> None:
        if self.progress is not None:
            self.progress(stage, share)


def covariance_of(normal: Normal) -> Array64:
    """Covariance of the twist about the centre: ``H^-1 S H^-1`` (Huber-White), S from the scores of image blocks.

    The Gauss-Newton Hessian alone would take neighbouring residuals for independent; they are not (noise is blurred, anatomy
    that does not match has extent). Blocks as large as the comparison window carry that correlation into S. What remains (the
    interpolation of the model, beam hardening, the spectrum) moves the optimum itself; ``_UNMODELLED`` allows for it.
    """
    h = normal.hessian
    inverse = np.linalg.pinv(h, rcond=1e-12, hermitian=True)
    scores = normal.scores[np.abs(normal.scores).sum(1) > 0]
    scores = scores - scores.mean(0) if len(scores) else scores
    return _UNMODELLED * inverse @ (scores.T @ scores) @ inverse
