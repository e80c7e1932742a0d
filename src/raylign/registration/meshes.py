"""The direct method for models without intensities: a mesh made solid, sought in a picture of everything else."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.projection import cpu
from raylign.registration import mesh_trust
from raylign.registration.confidence import Evidence
from raylign.registration.direct import Descent, Direct, agreed, bounds_of, concluded, expected, worth
from raylign.registration.levels import Scale, build_scales, centre_under, evaluate
from raylign.registration.mesh_walls import tube_of, wall_at, with_wall
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array64
from raylign.registration.refinement import refine
from raylign.registration.result import Result
from raylign.registration.search import Bounds, moved
from raylign.registration.settings import DirectConfig, SearchConfig
from raylign.registration.standpoint import pixels_at

Progress = Callable[[str, float], None]

STRETCH = 5.0
"""How many times as long as Gauss and Newton's a step may be where all models are surfaces: they leave much unexplained."""

_NEAR = 60.0  # mm
_TURN = 7.5  # degrees between turns of a search near the start, at least
_ALONG = SearchConfig(degrees=4.0, mm=4.0, depth=25.0, hypotheses=1)
"""About a pose of one exposure, which hardly sees its depth."""
_HERE = SearchConfig(degrees=6.0, mm=25.0, hypotheses=1)
"""About a pose that was found: with less beside the model what is judged would show it alone, and noise."""
_CLOSE = SearchConfig(degrees=6.0, mm=8.0, hypotheses=1)
"""About the same for its wall: that shows within the model alone."""
_DEPTHS = tuple(range(-30, 31, 6))  # mm
_DEEP = 2  # of these places are refined
_ARM = 0.25  # of the longest side: how far from the model's middle the point may lie that a start turns about


def part_search(search: SearchConfig) -> SearchConfig:
    """The same box, looked through for one bone among others.

    What a coarse picture shows of a bone whose inside is not quite as the model has it looks like much else. So places are sought
    in finer pictures, and many more are refined: at the level where that begins a refinement is cheap, and so it is there that
    poses beside the best are tried. The turns that are rendered need be no denser than what a refinement makes good, and of
    fewer turns fewer places are refined.
    """
    near = max(search.mm, search.along) <= _NEAR
    pixels, refined = 60 if near else 40, max(48, 2 * search.refined)
    turns, enough = round(2 * search.degrees / search.grid.degrees), math.ceil(2 * search.degrees / _TURN)
    if near and enough < turns:
        search = replace(search, hypotheses=max(2, search.hypotheses * enough**3 // turns**3))
        refined = max(2 * search.refined, min(refined, enough**3 // 2))
    return replace(search, pixels=pixels, refined=refined, kept=max(6, search.kept), finalists=1, beside=0)


def part_config(config: DirectConfig) -> DirectConfig:
    """A configuration of the direct method for a mesh: ``part_search``, no level that is too coarse to tell bones apart, longer
    steps at the finest."""
    return replace(config, search=part_search(config.search), coarsest=max(36, config.coarsest), stretch=STRETCH)


def finer(config: DirectConfig, short: float) -> DirectConfig:
    """The same for a second look: no level as coarse, many more places followed to the second level.

    Of a faint bone the right place may be among the best that correlation finds, and lose at 40 and at 90 pixels to what bowel
    or another bone does there; at 180 pixels it does not. The look begins at the third level at the finest: from a finer one it
    would cost many times the first look. ``short``: pixels of the model's shorter side at the finest level.
    """
    coarsest = max(config.coarsest, min(2 * config.coarsest, int(short / 4)))
    return replace(config, search=replace(config.search, kept=max(16, config.search.kept)), coarsest=coarsest, halfway=False)


def thorough(config: DirectConfig) -> DirectConfig:
    """The same for a last look in the only exposure there is: twice as many places in finer pictures, whatever that costs."""
    search = replace(config.search.denser(2), kept=max(24, config.search.kept), beside=1)
    return replace(config, search=search, coarsest=2 * config.coarsest, halfway=False)


def turned_anywhere(search: SearchConfig, model: Volume) -> SearchConfig:
    """A box wide enough for a start that is turned about another point than the model's middle.

    Whoever puts a femur where he sees its head is off by some degrees about the head, and the middle of the bone, from which the
    box is measured, is off by what that turn moves it. It lies farther from where it was turned the longer the model is: by a
    quarter of its longest side, say. A place that the search cannot reach is not among its candidates, however well it fits.
    """
    if search.hypotheses == 1:
        return search
    longest = max(n * s for n, s in zip(reversed(model.data.shape), model.spacing, strict=True))
    wider = search.mm + math.sin(math.radians(min(search.degrees, 90.0))) * _ARM * longest
    return replace(search, mm=wider, depth=search.along)


@dataclass(frozen=True)
class Meshes:
    """The direct method as a Registrar of models that ``raylign.data.solids.solid_volume`` made.

    Parameters
    ----------
    config: of the direct method; its search as for a volume (``part_config`` and ``turned_anywhere`` are applied to it).
    progress: told the stage and the share that is done.
    """

    config: DirectConfig = field(default_factory=DirectConfig)
    progress: Progress | None = None

    def register(self, problem: Problem) -> Result:
        """The pose under which the solid explains the exposures.

        Further looks are taken where the valley is not the right one with the probability of a result that is trusted: one about
        a result at the edge of the box; else in the next exposure, where there are several; then from finer pictures with
        more candidates (``finer``), and where there is one exposure alone once more with many of them (``thorough``). What one
        exposure leaves open of the depth lowers the probability too, and no other look mends that.
        """
        config = part_config(self.config)
        # a shaft tells itself in coarser pictures than other bones: of sacra that began there, two of eight were lost
        shaft = tube_of(problem.model) is not None
        config = replace(config, search=turned_anywhere(config.search, problem.model), halfway=shaft)
        results = [self._search(problem, config, 0)]
        several = len(problem.xrays) > 1
        # exposures in which is looked, and how closely: as at first, from finer pictures, with many more places
        looks = ((1, 0), (0, 1)) if several else ((0, 1), (0, 2))
        for first, closer in looks if config.search.hypotheses > 1 else ():
            found = max(results, key=lambda r: worth(r[0]))[0]
            inside, certain = bool(found.confidence.evidence["held"]), mesh_trust.valley(_evidence(found)) >= config.trust
            if certain and inside:
                break
            asked = problem if inside else replace(problem, start=found.transform)
            with contextlib.suppress(InputError):  # another exposure may show nothing to search in: the first result stands
                again = config
                if closer and not certain:
                    one = replace(problem, xrays=problem.xrays[:1])
                    short = pixels_at(found.transform.matrix.numpy(), one, config)[1]
                    again = finer(config, short) if closer == 1 else thorough(config)
                results.append(self._search(asked, again, 0 if certain else first))
            if certain:
                break
        best, model = max(results, key=lambda r: worth(r[0]))
        found_all = [r for r, _ in results]
        return replace(
            agreed(replace(problem, model=model), best, config)
            if several
            else expected(best, bounds_of(problem, config.search), config),
            start=problem.start,
            method="direct",
            settings={**best.settings, **asdict(self.config)},
            timings={k: sum(r.timings[k] for r in found_all) for k in best.timings},
            renders=sum(r.renders for r in found_all),
        )

    def _search(self, problem: Problem, config: DirectConfig, first: int) -> tuple[Result, Volume]:
        """One search, judged, and the model with the wall that it ended with.

        Of several exposures one is searched alone, and the others tell how deep the model lies. In a picture that shows a bone
        faintly a place tells itself only after it was refined, and places that were found in another exposure cannot be chosen
        by how they look there: of a sacrum four of four such searches in two views failed, while all four in one view succeeded.

        The finest level comes last and once: with all exposures and the wall that they tell.
        """
        direct = Direct(config, self.progress)
        if config.search.hypotheses == 1:
            return judged(direct.search_once(problem, first), config.trust), problem.model
        turned, found = self._alone(problem, config, first)
        begun = time.perf_counter()
        asked = replace(problem, xrays=turned)
        if len(turned) > 1:
            found = together(asked, found, config)
        found, times = finished(asked, found, config)
        timings = {**found.timings, "refinement": found.timings["refinement"] + time.perf_counter() - begun}
        found = replace(found, bounds=bounds_of(problem, config.search), timings=timings)
        result = concluded(asked, found, config, mesh_trust.judge)
        return replace(result, settings={**result.settings, "wall": times}), walled(problem.model, times)

    def _alone(self, problem: Problem, config: DirectConfig, first: int) -> tuple[tuple[XRay, ...], Descent]:
        """A search in exposure ``first``, or in the next that shows something, down to the level above the finest.

        And the exposures in order from that one on.
        """
        count = len(problem.xrays)
        wrong: InputError | None = None
        for number in range(first, first + count):
            turned = problem.xrays[number % count :] + problem.xrays[: number % count]
            try:
                return turned, Direct(config, self.progress).descend(replace(problem, xrays=turned[:1]), last=1)
            except InputError as error:
                wrong = error
        assert wrong is not None  # a problem has exposures
        raise wrong


def together(problem: Problem, alone: Descent, config: DirectConfig) -> Descent:
    """What was found in the first exposure alone, at the third level of all of them.

    One exposure hardly sees the depth: the model is moved along its beam to where all explain it best, and is refined from the
    best of these places.
    """
    start = alone.best.matrix
    top = about(problem, start, replace(config, search=_ALONG), most=3, finest=2)[-1]
    bounds = Bounds(start, alone.bounds.axes, centre_under(top, start), _ALONG.degrees, _ALONG.mm, _ALONG.along)
    pool = cpu.pool(cpu.threads())
    beam = np.concatenate([np.zeros(3), bounds.axes[:, 2]])
    places = [moved(start, mm * beam, bounds.centre) for mm in _DEPTHS]
    costs = list(pool.map(lambda m: evaluate(top, m, config.match).cost, places))
    seeds = [places[i] for i in np.argsort(costs, kind="stable")[:_DEEP]]
    found = sorted(pool.map(lambda m: refine(top, m, bounds, config, threaded=False), seeds), key=lambda c: c.normal.cost)
    renders = alone.renders + len(places) + sum(c.renders for c in found)
    return replace(alone, best=found[0], bounds=bounds, steps=alone.steps + found[0].steps, renders=renders)


def finished(problem: Problem, found: Descent, config: DirectConfig) -> tuple[Descent, float]:
    """A pose that was found, at the two finest levels and with the wall that the exposures tell: how many times as thick.

    Levels are made anew about the pose: the model may lie elsewhere in the images than at the start, and in more of them.
    """
    scales = about(problem, found.best.matrix, replace(config, search=_HERE), most=3)  # the third for the evidence alone
    tube, times, bounds = tube_of(problem.model), 1.0, found.bounds
    best, renders, steps = found.best, found.renders, found.steps
    if tube is not None:
        close = about(problem, best.matrix, replace(config, search=_CLOSE), most=2, finest=1)[-1]
        times = wall_at(close, tube, best.matrix, config)
        scales = with_wall(scales, tube, times)
    # in one exposure the second level is done, and done twice it would let the depth wander farther
    levels = scales[: 1 if len(problem.xrays) == 1 and times == 1 else 2]
    for scale in reversed(levels):
        best = refine(scale, best.matrix, bounds, config, threaded=True)
        renders, steps = renders + best.renders, steps + best.steps
    return replace(found, best=best, scales=scales, level=0, steps=steps, renders=renders), times


def about(problem: Problem, matrix: Array64, config: DirectConfig, most: int, finest: int = 0) -> list[Scale]:
    """The finest levels about a pose [4, 4], as ``build_scales`` makes them."""
    return build_scales(replace(problem, start=Rigid(torch.from_numpy(matrix))), config, most, finest)


def walled(model: Volume, times: float) -> Volume:
    """A solid with a wall that many times as thick; the model itself where it is no tube."""
    tube = tube_of(model) if times != 1 else None
    return model if tube is None else tube.walled(times)


def as_registered(model: Volume, result: Result) -> Volume:
    """A solid with the wall that its registration ended with (``mesh_walls``); the model itself where that is as it was."""
    return walled(model, float(result.settings.get("wall", 1.0)))


def _evidence(result: Result) -> Evidence:
    known = dict(result.confidence.evidence)
    return Evidence(held=bool(known.pop("held")), **known)


def judged(result: Result, trust: float) -> Result:
    """A result with the probability of success of a mesh's registration in place of a CT's."""
    return replace(result, confidence=mesh_trust.judge(_evidence(result), trust))
