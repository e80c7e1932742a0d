"""Direct registration: coarse-to-fine Levenberg-Marquardt on locally normalised gradient images, from many starts at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.projection import cpu
from raylign.registration.agreement import agreement
from raylign.registration.confidence import gather, judge, rivalry
from raylign.registration.levels import Scale, build_scales, centre_under, evaluate
from raylign.registration.locate import Place, locate, uncut
from raylign.registration.matching import answered
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array64, box_corners, content, cut_faces
from raylign.registration.refinement import Candidate, distinct, neighbours, refine
from raylign.registration.result import Result, Step
from raylign.registration.search import Bounds, camera_axes
from raylign.registration.settings import DirectConfig
from raylign.registration.versions import versions

Progress = Callable[[str, float], None]

_SHARE = 0.6  # of how well the pixels that a cut leaves are explained; beyond the cut as well, if the patient ends there
_NEAR = 60.0  # mm
_APART = 3.0  # mm; what breathes or bends puts single views a millimetre or two elsewhere, and the common pose is still right
_DOUBT = 0.3  # probability of success at most, where exposures disagree
_STANDS_OUT = 0.6  # of the best cost, at most, is what a pose elsewhere reaches where the right one was found
_ENOUGH = 0.4  # share of the pixels from which the last level can do without the rest
_ALIKE = 0.98  # share of the pixels that a cut must leave for the two readings not to matter


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to read a model's faces: its levels, finest first, and the poses that are followed under it."""

    scales: list[Scale]
    matrices: list[Array64]
    candidates: tuple[Candidate, ...] = ()
    renders: int = 0  # by the last refinement

    def refined(self, level: int, count: int, bounds: Bounds, config: DirectConfig) -> Reading:
        """The best ``count`` poses brought to their optimum at a level, those that met left out."""
        scale, seeds = self.scales[level], self.matrices[:count]
        if len(seeds) > 1:
            pool = cpu.pool(cpu.threads())
            found = list(pool.map(lambda m: refine(scale, m, bounds, config, threaded=False), seeds))
        else:
            found = [refine(scale, m, bounds, config, threaded=True) for m in seeds]
        renders = sum(c.renders for c in found)
        found = distinct(found, 0.75 * scale.model.spacing, scale.model.radius)
        return replace(self, matrices=[c.matrix for c in found], candidates=tuple(found), renders=renders)


def shaken(reading: Reading, level: int, count: int, bounds: Bounds, config: DirectConfig) -> Reading:
    """The best ``count`` candidates and what is reached from beside them: a search of valleys next to the ones that were found.

    Repeated, once, where that found something better.
    """
    scale = reading.scales[level]
    renders = 0
    for _ in range(2):
        top = reading.candidates[0].normal.cost
        seeds = [m for c in reading.candidates[:count] for m in neighbours(c, scale) if bounds.hold(m)]
        pool = cpu.pool(cpu.threads())
        found = list(pool.map(lambda m: refine(scale, m, bounds, config, threaded=False), seeds))
        joined = distinct([*reading.candidates, *found], 0.75 * scale.model.spacing, scale.model.radius)
        renders += sum(c.renders for c in found)
        reading = replace(reading, matrices=[c.matrix for c in joined], candidates=tuple(joined), renders=renders)
        if joined[0].normal.cost > top - 0.02 * abs(top):
            break
    return reading


def alike(ruled: Reading, matrices: list[Array64], config: DirectConfig) -> bool:
    """Whether poses show next to nothing beyond the cut faces, so that it does not matter how these are read."""
    top = ruled.scales[-1]
    usable = sum(image.usable for image in top.images)
    return all(evaluate(top, m, config.match).pixels > _ALIKE * usable for m in matrices)


def exchanged(readings: list[Reading], count: int) -> list[Reading]:
    """Each reading with its own best poses and half as many of the other's: one may find what the other explains better."""
    ruled, whole = readings
    return [
        replace(a, matrices=a.matrices[:count] + b.matrices[: max(1, count // 2)]) for a, b in ((ruled, whole), (whole, ruled))
    ]


def decided(readings: list[Reading], level: int, config: DirectConfig) -> list[Reading]:
    """The reading that the images support, with the best pose of the other as one more candidate."""
    if len(readings) == 1:
        return readings
    right = int(ends_at_its_faces(readings[0], readings[1], level, config))
    chosen, other = readings[right], readings[1 - right]
    return [replace(chosen, matrices=[*chosen.matrices[:1], other.matrices[0], *chosen.matrices[1:]])]


def ends_at_its_faces(ruled: Reading, whole: Reading, level: int, config: DirectConfig) -> bool:
    """Whether the exposures show the model alone (a phantom, a specimen, a simulation) rather than a body that goes on.

    No file says so. At the pose that explains the images best under the reading that nothing was cut, pixels beyond the cut faces
    are explained about as well as all others if that is true, and hardly at all if it is not.
    """
    best = whole.candidates[0]
    if best.normal.cost >= ruled.candidates[0].normal.cost:
        return False
    inner = evaluate(ruled.scales[level], best.matrix, config.match)
    outer = evaluate(whole.scales[level], best.matrix, config.match)
    more = outer.pixels - inner.pixels
    if more <= 0:
        return False
    usable = max(1, sum(image.usable for image in whole.scales[level].images))
    beyond = (outer.cost - inner.cost) * usable / more
    # where the cut leaves next to nothing to compare with, the pixels beyond it stand for themselves
    measure = inner.cost * usable / inner.pixels if inner.pixels > 0.2 * usable else whole.candidates[0].normal.cost
    return beyond < _SHARE * measure


def without_rim(reading: Reading, scales: list[Scale]) -> Reading:
    """The last level without the rays through cut faces, if enough others are left, even where the patient ends there.

    Where exactly the outermost voxels end is a matter of half a voxel, which would move a slab seen along its faces by
    millimetres in depth.
    """
    usable = sum(image.usable for image in scales[0].images)
    left = sum(int(mask.sum()) for mask in answered(scales[0].model, scales[0].images, reading.matrices[0]))
    return replace(reading, scales=scales) if left > _ENOUGH * usable else reading


def in_depth(reading: Reading, bounds: Bounds, config: DirectConfig, ratio: float = 1.15) -> Reading:
    """Every pose moved along the first beam to where all exposures together are explained best: one view hardly sees depth."""
    scale = reading.scales[-1]
    factors = np.exp(np.linspace(-np.log(ratio), np.log(ratio), 9))

    def best(matrix: Array64) -> Array64:
        ray = centre_under(scale, matrix) - scale.images[0].source
        trials = []
        for factor in factors:
            trial = matrix.copy()
            trial[:3, 3] += (factor - 1) * ray
            trials.append(trial)
        return min([matrix, *filter(bounds.hold, trials)], key=lambda m: evaluate(scale, m, config.match).cost)

    return replace(reading, matrices=list(cpu.pool(cpu.threads()).map(best, reading.matrices)))


def agreed(problem: Problem, result: Result, config: DirectConfig) -> Result:
    """A result whose trust one of several views may withdraw: the one that alone would put the model elsewhere."""
    if len(problem.xrays) < 2 or not result.confidence.trusted:
        return result
    try:
        reasons = agreement(problem, result, config).reasons(limit=_APART)
    except InputError:  # an exposure that shows too little to be asked alone
        return result
    if not reasons:
        return result
    probability = min(result.confidence.probability, _DOUBT)
    doubted = replace(result.confidence, probability=probability, trusted=probability >= config.trust, reasons=reasons)
    return replace(result, confidence=doubted)


def levels_about(matrices: list[Array64], problem: Problem, config: DirectConfig) -> list[Scale]:
    """The levels about the first of several poses under which every exposure shows the model.

    Raises
    ------
    InputError: there is none.
    """
    for matrix in matrices[:-1]:
        with contextlib.suppress(InputError):
            return build_scales(replace(problem, start=Rigid(torch.from_numpy(matrix))), config)
    return build_scales(replace(problem, start=Rigid(torch.from_numpy(matrices[-1]))), config)


@dataclass(frozen=True)
class Direct:
    """The direct method as a Registrar.

    Places are found in the whole box at once (``locate``), the best are refined level by level and thinned out, and the last
    one is refined at full resolution. Deterministic: same input, same seed, same result, whatever the number of threads.
    """

    config: DirectConfig = field(default_factory=DirectConfig)
    progress: Progress | None = None

    def register(self, problem: Problem) -> Result:
        """The pose under which the model explains the exposures, with its covariance and the confidence in it.

        A result that is not to be trusted is sought once more, from a grid twice as dense and as many candidates, and on
        the next exposure where there are several. The more probable of the two is returned. Where one of several exposures
        disagrees with what all say together, the result is not trusted.
        """
        results = [self.search_once(problem)]
        search = self.config.search
        if not results[0].confidence.trusted and search.hypotheses > 1:
            thorough = replace(self.config, search=search.denser(2))
            # the other exposures may show nothing to search in: then the first result stands
            with contextlib.suppress(InputError):
                results.append(replace(self, config=thorough).search_once(problem, first=1))
        best = max(results, key=lambda r: r.confidence.probability)
        return replace(
            agreed(problem, best, self.config),
            seed=self.config.seed,
            settings={**best.settings, **asdict(self.config)},
            timings={k: sum(r.timings[k] for r in results) for k in best.timings},
            renders=sum(r.renders for r in results),
        )

    def search_once(self, problem: Problem, first: int = 0) -> Result:
        """One search, taken as it comes out: ``register`` without its second look.

        ``first``: number of the exposure in which places are sought (of three, 3 is the first again).
        """
        config, search = self.config, self.config.search
        clock = [time.perf_counter()]
        axes = camera_axes(problem.xrays[0].view)
        start = problem.start.matrix.numpy()
        middle = box_corners(problem.model, *content(problem.model)).mean(0)
        centre = start[:3, :3] @ middle + start[:3, 3]
        bounds = Bounds(start, axes, centre, search.degrees, search.mm, search.along)
        both = problem.model.truncated is None and any(any(sides) for sides in cut_faces(problem.model))
        places, renders = self._places(problem, bounds, first, both=both)
        self._tell("search", 0.2)
        clock.append(time.perf_counter())
        near = max(search.mm, search.along) <= _NEAR  # the images are cut to where the model can be
        scales = levels_about([start, *(p.matrix for p in places)] if near else [p.matrix for p in places], problem, config)
        self._tell("pyramids", 0.3)
        clock.append(time.perf_counter())
        readings = [
            Reading(levels, matrices)
            for number, levels in enumerate([scales, [replace(s, model=uncut(s.model)) for s in scales]])
            if (matrices := [p.matrix for p in places if p.reading == number])
        ]
        if len(readings) > 1 and all(alike(readings[0], r.matrices[:6], config) for r in readings):
            readings = readings[:1]
        if len(problem.xrays) > 1 and search.hypotheses > 1:
            readings = [in_depth(r, bounds, config) for r in readings]
        rival = 0.0
        history: tuple[Step, ...] = ()
        last = len(scales) - 1
        counts = {last: search.refined, last - 1: search.kept, last - 2: search.finalists}
        for level in range(last, -1, -1):
            count = counts.get(level, 1)
            if both and count > 1 and level < last:
                count += max(1, count // 2)
            if level == 0 and len(readings) == 1:
                readings = [without_rim(readings[0], scales)]
            readings = [r.refined(level, count, bounds, config) for r in readings]
            renders += sum(r.renders for r in readings)
            lost = min(rivalry(r.candidates) for r in readings) > _STANDS_OUT  # no pose stands out, as the right one does
            if lost and search.hypotheses > 1 and (level == last - 1 or (level == last and not near)):
                readings = [shaken(r, level, search.finalists, bounds, config) for r in readings]
                renders += sum(r.renders for r in readings)
            if len(readings) > 1 and level <= last - 1:
                readings = decided(readings, level, config)
            elif len(readings) > 1:
                readings = exchanged(readings, search.kept)
            if count > 1 or level == last:
                rival = rivalry(readings[0].candidates)
            history += readings[0].candidates[0].steps
            self._tell(f"level {level}", 0.3 + 0.7 * (len(scales) - level) / len(scales))
        readings = decided(readings, 0, config)
        best = readings[0].candidates[0]
        # as they were read in the end
        faces = cut_faces(problem.model) if any(f.size for f in readings[0].scales[0].model.faces) else ((False, False),) * 3
        clock.append(time.perf_counter())
        held = replace(bounds, degrees=0.9 * bounds.degrees, mm=0.9 * bounds.mm, depth=0.9 * bounds.depth).hold(best.matrix)
        evidence, covariance = gather(best, readings[0].scales[0], axes, rival, held, readings[0].scales)
        return Result(
            transform=Rigid(torch.from_numpy(best.matrix)),
            start=problem.start,
            covariance=torch.from_numpy(covariance),
            centre=torch.from_numpy(best.normal.centre),
            score=best.normal.explained,
            confidence=judge(evidence, config.trust),
            trajectory=history,
            timings={
                "search": clock[1] - clock[0],
                "pyramids": clock[2] - clock[1],
                "refinement": clock[3] - clock[2],
            },
            method="direct",
            seed=config.seed,
            versions=versions(),
            settings={**asdict(config), "cut_faces": faces},
            renders=renders,
        )

    def _places(self, problem: Problem, bounds: Bounds, first: int, *, both: bool) -> tuple[list[Place], int]:
        """Where to begin, best first, and how many renderings that took.

        Sought in exposure ``first``, or in the next that shows something.
        """
        search = self.config.search
        given = [Place(bounds.start, 0.0, reading) for reading in range(1 + both)]
        if search.hypotheses == 1:
            return given, 0
        count = len(problem.xrays)
        for number in range(first, first + count):
            turned = problem.xrays[number % count :] + problem.xrays[: number % count]
            places, renders = locate(replace(problem, xrays=turned), bounds, search.grid, search.refined, both=both)
            if places:
                return places, renders
        raise InputError(
            "no pose that is searched projects the model onto the valid part of this image, or the image shows nothing there",
            file=problem.xrays[0].name,
            field="start",
            remedy="give a better start with --init, or check the image, its mask and the geometry with raylign info",
        )

    def _tell(self, stage: str, share: float) -> None:
        if self.progress is not None:
            self.progress(stage, share)
