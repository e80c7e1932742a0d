"""The direct method for models without intensities: a mesh made solid, sought in a picture of everything else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from raylign.errors import InputError
from raylign.registration import mesh_trust
from raylign.registration.confidence import Evidence
from raylign.registration.direct import Direct, agreed, bounds_of, expected, worth
from raylign.registration.problem import Problem
from raylign.registration.result import Result
from raylign.registration.search import INSIDE
from raylign.registration.settings import DirectConfig, SearchConfig

Progress = Callable[[str, float], None]

_NEAR = 60.0  # mm
_ALONG = SearchConfig(degrees=4.0, mm=4.0, depth=25.0, hypotheses=24, refined=12, kept=4, finalists=1, pixels=60)
"""About a pose of one exposure, which hardly sees its depth."""


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


@dataclass(frozen=True)
class Meshes:
    """The direct method as a Registrar of models that ``raylign.data.solids.solid_volume`` made.

    Parameters
    ----------
    config: of the direct method; its search as for a volume (``part_config`` is applied to it).
    progress: told the stage and the share that is done.
    """

    config: DirectConfig = field(default_factory=DirectConfig)
    progress: Progress | None = None

    def register(self, problem: Problem) -> Result:
        """The pose under which the solid explains the exposures; second looks as ``Direct.register`` takes them."""
        config = part_config(self.config)
        results = [judged(self._search(problem, config, 0), config.trust)]
        first = results[0].confidence
        inside = bool(first.evidence["held"])
        if not (first.trusted and inside) and config.search.hypotheses > 1:
            again = config if first.trusted else replace(config, search=config.search.denser(2))
            about = problem if inside else replace(problem, start=results[0].transform)
            with contextlib.suppress(InputError):  # another exposure may show nothing to search in: the first result stands
                found = self._search(about, again, 0 if first.trusted else 1)
                results.append(judged(found, config.trust))
        best = max(results, key=worth)
        several = len(problem.xrays) > 1
        return replace(
            agreed(problem, best, config) if several else expected(best, bounds_of(problem, config.search), config),
            start=problem.start,
            method="direct",
            settings={**best.settings, **asdict(self.config)},
            timings={k: sum(r.timings[k] for r in results) for k in best.timings},
            renders=sum(r.renders for r in results),
        )

    def _search(self, problem: Problem, config: DirectConfig, first: int) -> Result:
        """One search. Of several exposures one is searched alone, and the others tell how deep the model lies.

        In a picture that shows a bone faintly a place tells itself only after it was refined, and places that were found in
        another exposure cannot be chosen by how they look there: of a sacrum four of four such searches in two views failed,
        while all four in one view succeeded.
        """
        if len(problem.xrays) == 1 or config.search.hypotheses == 1:
            return Direct(config, self.progress).search_once(problem, first)
        number = first % len(problem.xrays)
        turned = problem.xrays[number:] + problem.xrays[:number]
        alone = Direct(config, self.progress).search_once(replace(problem, xrays=turned[:1]))
        about = replace(problem, xrays=turned, start=alone.transform)
        found = Direct(replace(config, search=_ALONG), self.progress).search_once(about)
        held = bounds_of(problem, config.search).hold(found.transform.matrix.numpy(), INSIDE)
        evidence = {**found.confidence.evidence, "held": held}
        return replace(
            found,
            confidence=replace(found.confidence, evidence=evidence),
            trajectory=(*alone.trajectory, *found.trajectory),
            timings={k: found.timings[k] + alone.timings[k] for k in found.timings},
            renders=found.renders + alone.renders,
        )


def judged(result: Result, trust: float) -> Result:
    """A result with the probability of success of a mesh's registration in place of a CT's."""
    known = dict(result.confidence.evidence)
    evidence = Evidence(held=bool(known.pop("held")), **known)
    return replace(result, confidence=mesh_trust.judge(evidence, trust))
