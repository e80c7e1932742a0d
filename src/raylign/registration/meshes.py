"""The direct method for models without intensities: a mesh made solid, sought in a picture of everything else."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.registration import mesh_trust
from raylign.registration.confidence import IN_PLACE, Evidence
from raylign.registration.direct import Direct, agreed, bounds_of, expected, worth
from raylign.registration.mesh_walls import fitted_wall, tube_of
from raylign.registration.problem import Problem
from raylign.registration.result import Result
from raylign.registration.search import INSIDE
from raylign.registration.settings import DirectConfig, SearchConfig

Progress = Callable[[str, float], None]

_NEAR = 60.0  # mm
_ALONG = SearchConfig(degrees=4.0, mm=4.0, depth=25.0, hypotheses=24, refined=12, kept=4, finalists=1, pixels=60)
"""About a pose of one exposure, which hardly sees its depth."""
_ANEW = SearchConfig(degrees=6.0, mm=8.0, depth=25.0, hypotheses=1)
"""About a pose that was found with a wall of another thickness."""
_ARM = 0.25  # of the longest side: how far from the model's middle the point may lie that a start turns about


def part_search(search: SearchConfig) -> SearchConfig:
    """The same box, looked through for one bone among others.

    What a coarse picture shows of a bone whose inside is not quite as the model has it looks like much else. So places are sought
    in finer pictures, and many more are refined: at the level where that begins a refinement is cheap.
    """
    near = max(search.mm, search.along) <= _NEAR
    return replace(search, pixels=60 if near else 40, refined=max(48, 2 * search.refined), kept=max(6, search.kept), finalists=1)


def part_config(config: DirectConfig) -> DirectConfig:
    """A configuration of the direct method for a mesh: ``part_search``, and no level that is too coarse to tell bones apart."""
    return replace(config, search=part_search(config.search), coarsest=max(36, config.coarsest))


def finer(config: DirectConfig) -> DirectConfig:
    """The same for a second look: no level as coarse, twice as many places, many of them followed to the second level.

    Of a faint bone the right place may be among the best that correlation finds, and lose at 40 and at 90 pixels to what bowel
    or another bone does there; at 180 pixels it does not.
    """
    search = replace(config.search.denser(2), kept=max(24, config.search.kept))
    return replace(config, search=search, coarsest=2 * config.coarsest)


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

        A second look, from finer pictures with more candidates (``finer``) or about a result at the edge of the box, is taken
        where the valley is not the right one with the probability of a result that is trusted. What one exposure leaves open of
        the depth lowers the probability too, and no second look mends that.
        """
        config = part_config(self.config)
        config = replace(config, search=turned_anywhere(config.search, problem.model))
        results = [self._search(problem, config, 0)]
        evidence = results[0][0].confidence.evidence
        inside, certain = bool(evidence["held"]), mesh_trust.valley(_evidence(results[0][0])) >= config.trust
        if not (certain and inside) and config.search.hypotheses > 1:
            again = config if certain else finer(config)
            about = problem if inside else replace(problem, start=results[0][0].transform)
            with contextlib.suppress(InputError):  # another exposure may show nothing to search in: the first result stands
                results.append(self._search(about, again, 0 if certain else 1))
        best, model = max(results, key=lambda r: worth(r[0]))
        several = len(problem.xrays) > 1
        found = [r for r, _ in results]
        return replace(
            agreed(replace(problem, model=model), best, config)
            if several
            else expected(best, bounds_of(problem, config.search), config),
            start=problem.start,
            method="direct",
            settings={**best.settings, **asdict(self.config)},
            timings={k: sum(r.timings[k] for r in found) for k in best.timings},
            renders=sum(r.renders for r in found),
        )

    def _search(self, problem: Problem, config: DirectConfig, first: int) -> tuple[Result, Volume]:
        """One search, judged, and the model with the wall that it ended with.

        Of several exposures one is searched alone, and the others tell how deep the model lies. In a picture that shows a bone
        faintly a place tells itself only after it was refined, and places that were found in another exposure cannot be chosen
        by how they look there: of a sacrum four of four such searches in two views failed, while all four in one view succeeded.
        """
        if config.search.hypotheses == 1:
            return judged(Direct(config, self.progress).search_once(problem, first), config.trust), problem.model
        turned, alone = self._alone(problem, config, first)
        single = replace(problem, xrays=turned[:1])
        if len(turned) > 1 and first == 0 and mesh_trust.valley(_evidence(alone)) < config.trust:
            # what is wrong in one exposure is not mended by the others: they are looked at near its pose alone
            again = Direct(finer(config), self.progress).search_once(single)
            alone = max((alone, again), key=lambda r: worth(judged(r, config.trust)))
        model, times = problem.model, 1.0
        if alone.confidence.evidence["drift"] >= IN_PLACE:
            model, times = fitted_wall(single, alone.transform.matrix.numpy(), config)
        if len(turned) == 1 and times == 1:
            return judged(alone, config.trust), model
        near = _ALONG if len(turned) > 1 else _ANEW
        about = replace(problem, model=model, xrays=turned, start=alone.transform)
        found = Direct(replace(config, search=near), self.progress).search_once(about)
        evidence = {
            **found.confidence.evidence,
            "held": bounds_of(problem, config.search).hold(found.transform.matrix.numpy(), INSIDE),
            # the second search looks about the first one's pose alone
            "rival": max(found.confidence.evidence["rival"], alone.confidence.evidence["rival"]),
        }
        joined = replace(
            found,
            confidence=replace(found.confidence, evidence=evidence),
            settings={**found.settings, "wall": times},
            trajectory=(*alone.trajectory, *found.trajectory),
            timings={k: found.timings[k] + alone.timings[k] for k in found.timings},
            renders=found.renders + alone.renders,
        )
        return judged(joined, config.trust), model

    def _alone(self, problem: Problem, config: DirectConfig, first: int) -> tuple[tuple[XRay, ...], Result]:
        """A search in exposure ``first``, or in the next that shows something; the exposures in order from that one on."""
        count = len(problem.xrays)
        wrong: InputError | None = None
        for number in range(first, first + count):
            turned = problem.xrays[number % count :] + problem.xrays[: number % count]
            try:
                return turned, Direct(config, self.progress).search_once(replace(problem, xrays=turned[:1]))
            except InputError as error:
                wrong = error
        assert wrong is not None  # a problem has exposures
        raise wrong


def as_registered(model: Volume, result: Result) -> Volume:
    """A solid with the wall that its registration ended with (``mesh_walls``); the model itself where that is as it was."""
    times = float(result.settings.get("wall", 1.0))
    tube = tube_of(model) if times != 1 else None
    return model if tube is None else tube.walled(times)


def _evidence(result: Result) -> Evidence:
    known = dict(result.confidence.evidence)
    return Evidence(held=bool(known.pop("held")), **known)


def judged(result: Result, trust: float) -> Result:
    """A result with the probability of success of a mesh's registration in place of a CT's."""
    return replace(result, confidence=mesh_trust.judge(_evidence(result), trust))
