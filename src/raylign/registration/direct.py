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
from raylign.registration.agreement import agreement
from raylign.registration.confidence import IN_PLACE, Evidence, gather, judge, rivalry
from raylign.registration.levels import Scale
from raylign.registration.locate import Place, locate
from raylign.registration.outline import widened
from raylign.registration.problem import Problem
from raylign.registration.pyramid import box_corners, content, cut_faces
from raylign.registration.readings import Reading, alike, decided, exchanged, in_depth, levels_as, plainly, shaken, without_rim
from raylign.registration.refinement import Candidate
from raylign.registration.result import Confidence, Result, Step
from raylign.registration.search import INSIDE, Bounds, camera_axes
from raylign.registration.settings import DirectConfig, SearchConfig
from raylign.registration.standpoint import rescaled, standpoint, typical
from raylign.registration.versions import versions

Progress = Callable[[str, float], None]
Judge = Callable[[Evidence, float], Confidence]

_NEAR = 60.0  # mm
_APART = 6.0  # mm; what breathes or bends puts single views a few millimetres elsewhere, and the common pose is still right
_DOUBT = 0.3  # probability of success at most, where exposures disagree or a single one's depth is none that was expected
_STANDS_OUT = 0.6  # of the best cost, at most, is what a pose elsewhere reaches where the right one was found
_NEARLY = 0.7  # the same at the second level of a search near the start, whose coarsest has compared what there is
_ALONE = 0.5  # of the best cost, at most: others are followed no farther, and speak against it no less than if they were
_VIEWED = 4  # times as many places are looked at in all exposures together as are then refined


def agreed(problem: Problem, result: Result, config: DirectConfig) -> Result:
    """A result whose trust one of several views may withdraw: the one that alone would put the model elsewhere."""
    confidence = result.confidence
    if len(problem.xrays) < 2 or confidence.probability < _DOUBT or confidence.evidence["drift"] < IN_PLACE:
        return result
    try:
        reasons = agreement(problem, result, config).reasons(limit=_APART)
    except InputError:  # an exposure that shows too little to be asked alone
        return result
    return doubted(result, config, reasons) if reasons else result


def expected(result: Result, bounds: Bounds, config: DirectConfig) -> Result:
    """A result of one exposure, its trust withdrawn if it lies farther along the beam than was searched about the start.

    With one view a wrong distance to the detector looks like another depth: only what was expected of it speaks against that.
    """
    _, shift = bounds.offset(result.transform.matrix.numpy())
    if result.confidence.probability < _DOUBT or abs(shift[2]) <= bounds.reach(INSIDE)[2]:
        return result
    where = (
        f"the pose lies {abs(shift[2]):.0f} mm {'farther from' if shift[2] > 0 else 'nearer to'} the source than the start,"
        " beyond what was searched; with one view, a wrong source-to-detector distance looks like this: check it, or search"
        " deeper"
    )
    return doubted(result, config, (where,))


def doubted(result: Result, config: DirectConfig, reasons: tuple[str, ...]) -> Result:
    """A result that is hardly probable any more, for reasons in plain words."""
    probability = min(result.confidence.probability, _DOUBT)
    confidence = replace(result.confidence, probability=probability, trusted=probability >= config.trust, reasons=reasons)
    return replace(result, confidence=confidence)


def bounds_of(problem: Problem, search: SearchConfig) -> Bounds:
    """The box that is searched about a problem's start."""
    start = problem.start.matrix.numpy()
    middle = box_corners(problem.model, *content(problem.model)).mean(0)
    centre = start[:3, :3] @ middle + start[:3, 3]
    return Bounds(start, camera_axes(problem.xrays[0].view), centre, search.degrees, search.mm, search.along)


def worth(result: Result) -> tuple[bool, bool, float]:
    """What decides between two results: whether it is trusted, whether it lies inside what was searched, its probability."""
    inside = bool(result.confidence.evidence["held"])
    return result.confidence.trusted, inside and result.confidence.trusted, result.confidence.probability


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a search ended.

    Parameters
    ----------
    best: the pose, as it was refined at ``level`` of ``scales``: all levels of the reading that was decided on, finest first.
    bounds: the box that was searched. rival: see ``confidence.Evidence``.
    steps, renders, timings: as of a ``Result``.
    """

    best: Candidate
    scales: list[Scale]
    level: int
    bounds: Bounds
    rival: float
    steps: tuple[Step, ...]
    renders: int
    timings: dict[str, float]


def concluded(problem: Problem, found: Descent, config: DirectConfig, judge: Judge = judge) -> Result:
    """What a search says, mostly one down to the finest level: its pose, covariance and the confidence in it."""
    best, scales, bounds = found.best, found.scales[found.level :], found.bounds
    # as they were read in the end
    faces = cut_faces(problem.model) if any(f.size for f in scales[0].model.faces) else ((False, False),) * 3
    held = bounds.hold(best.matrix, INSIDE)
    gathered = gather(best, scales, bounds.axes, found.rival, held, config)
    evidence, covariance = widened(problem.model, scales[0], best, bounds.axes, gathered)
    return Result(
        transform=Rigid(torch.from_numpy(best.matrix)),
        start=problem.start,
        covariance=torch.from_numpy(covariance),
        centre=torch.from_numpy(best.normal.centre),
        score=best.normal.explained,
        confidence=judge(evidence, config.trust),
        trajectory=found.steps,
        timings=found.timings,
        method="direct",
        seed=config.seed,
        versions=versions(),
        settings={**asdict(config), "cut_faces": faces},
        renders=found.renders,
    )


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
        the next exposure where there are several. One at the edge of the box is sought once more in a box about itself: the
        best pose may lie just outside. Where that was no help near the start, its half of the box is searched as densely again:
        what the coarsest level misreads in one grid of turns it often does not in another. Of these the trusted one is returned,
        of two such the one inside its box, else the more probable. Where one of several exposures disagrees with what all say
        together, or a single one puts the model far nearer or farther than was searched, the result is not trusted.
        """
        results = [self.search_once(problem)]
        search = self.config.search
        trusted, inside = results[0].confidence.trusted, bool(results[0].confidence.evidence["held"])
        if not (trusted and inside) and search.hypotheses > 1:
            again = self if trusted else replace(self, config=replace(self.config, search=search.denser(2)))
            about = problem if inside else replace(problem, start=results[0].transform)
            # the other exposures may show nothing to search in: then the first result stands
            with contextlib.suppress(InputError):
                results.append(again.search_once(about, first=0 if trusted else 1))
        best = max(results, key=worth)
        several = len(problem.xrays) > 1
        if not best.confidence.trusted and search.hypotheses > 1 and max(search.mm, search.along) <= _NEAR:
            closer = replace(self.config, search=search.denser(2).halved)
            with contextlib.suppress(InputError):
                results.append(replace(self, config=closer).search_once(problem))
            best = max(results, key=worth)
        return replace(
            agreed(problem, best, self.config)
            if several
            else expected(best, bounds_of(problem, self.config.search), self.config),
            start=problem.start,
            seed=self.config.seed,
            settings={**best.settings, **asdict(self.config)},
            timings={k: sum(r.timings[k] for r in results) for k in best.timings},
            renders=sum(r.renders for r in results),
        )

    def search_once(self, problem: Problem, first: int = 0) -> Result:
        """One search, taken as it comes out: ``register`` without its second look.

        ``first``: number of the exposure in which places are sought (of three, 3 is the first again).
        """
        return concluded(problem, self.descend(problem, first), self.config)

    def descend(self, problem: Problem, first: int = 0, last: int = 0) -> Descent:
        """One search down to level ``last`` (0: the finest), and on as long as more than one pose is followed; not judged.

        ``first``: as in ``search_once``.
        """
        config, search = self.config, self.config.search
        clock = [time.perf_counter()]
        bounds = bounds_of(problem, self.config.search)
        start = bounds.start
        both = problem.model.truncated is None and any(any(sides) for sides in cut_faces(problem.model))
        places, renders = self._places(problem, bounds, first, both=both)
        self._tell("search", 0.2)
        clock.append(time.perf_counter())
        near = max(search.mm, search.along) <= _NEAR  # the images are cut to where the model can be
        poses = [p.matrix for p in places]
        about = [start, *poses] if near else typical(poses, problem, config)
        at = standpoint(about, problem, config)
        self._tell("pyramids", 0.3)
        clock.append(time.perf_counter())
        readings = [
            Reading(levels_as(at.scales, problem.model, number), matrices)
            for number in (0, 1)
            if (matrices := [p.matrix for p in places if p.reading == number])
        ]
        if len(readings) > 1 and all(alike(readings[0], r.matrices[:6], config) for r in readings):
            readings = readings[:1]
        if len(problem.xrays) > 1 and search.hypotheses > 1:
            readings = [in_depth(r, search.refined, bounds, config) for r in readings]
        rival = 0.0
        history: tuple[Step, ...] = ()
        counts = (search.refined, search.kept, search.finalists)
        level, done, alone = len(at.scales) - 1, 0, False
        while level >= 0:
            count = counts[done] if done < len(counts) else 1
            if both and count > 1 and done > 0:
                count += max(1, count // 2)
            if alone:
                count = 1
            if level < last and count == 1:
                break
            if level == 0 and len(readings) == 1:
                readings = [without_rim(readings[0], at.scales)]
            readings = [r.refined(level, count, bounds, config) for r in readings]
            renders += sum(r.renders for r in readings)
            # no pose stands out, as the right one does; of a wide search, over what lies beyond its own valley
            apart = 5.0 if near else max(5.0, 2 * at.scales[level].model.spacing)
            lost = min(rivalry(r.candidates, apart) for r in readings) > (_STANDS_OUT if done == 0 or not near else _NEARLY)
            if lost and search.hypotheses > 1 and (done == (search.beside if near else 1) or (done == 0 and not near)):
                readings = [shaken(r, level, search.finalists, bounds, config) for r in readings]
                renders += sum(r.renders for r in readings)
            if len(readings) > 1 and done > 0:
                readings = decided(readings, level, config)
            elif len(readings) > 1:
                readings = plainly(readings, search.kept, config) if near else exchanged(readings, search.kept)
            if count > 1 or done == 0:
                rival = rivalry(readings[0].candidates)
                alone = near and len(readings) == 1 and done > 0 and rival < _ALONE
            history += readings[0].candidates[0].steps
            self._tell(f"level {level}", 0.3 + 0.7 * (len(at.scales) - level) / len(at.scales))
            spacing = at.scales[level].model.spacing
            if done == 1 and not near and level > 0:
                nearer = rescaled(at, readings[0].matrices[0], problem, config)
                if nearer is not at:
                    ends = not any(f.size for f in readings[0].scales[0].model.faces)
                    at, level = nearer, len(nearer.scales)
                    readings = [replace(readings[0], scales=levels_as(at.scales, problem.model, int(ends)))]
                    while level > 1 and at.scales[level - 1].model.spacing > 0.75 * spacing:
                        level -= 1
            level, done = level - 1, done + 1
        readings = decided(readings, level + 1, config)
        clock.append(time.perf_counter())
        return Descent(
            best=readings[0].candidates[0],
            scales=readings[0].scales,
            level=level + 1,
            bounds=bounds,
            rival=rival,
            steps=history,
            renders=renders,
            timings=dict(zip(("search", "pyramids", "refinement"), np.diff(clock).tolist(), strict=True)),
        )

    def _places(self, problem: Problem, bounds: Bounds, first: int, *, both: bool) -> tuple[list[Place], int]:
        """Where to begin, best first, and how many renderings that took.

        Sought in exposure ``first``, or in the next that shows something. Of several exposures more places than are refined:
        those are chosen in all of them.
        """
        search = self.config.search
        given = [Place(bounds.start, 0.0, reading) for reading in range(1 + both)]
        if search.hypotheses == 1:
            return given, 0
        count = len(problem.xrays)
        keep = search.refined if count == 1 else _VIEWED * search.refined
        for number in range(first, first + count):
            turned = problem.xrays[number % count :] + problem.xrays[: number % count]
            places, renders = locate(replace(problem, xrays=turned), bounds, search.grid, keep, both=both)
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
