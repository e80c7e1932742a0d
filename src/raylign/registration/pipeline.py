"""Registrars one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raylign.registration.problem import Problem, Registrar
from raylign.registration.result import Result


@dataclass(frozen=True)
class Pipeline:
    """Registrars in sequence, each starting where the one before ended; itself a Registrar.

    The result is the last one's, with the start of the first, all trajectories in order, and the timings of every stage. How the
    last stage took the model's faces stays in ``settings["cut_faces"]``, where those look for it who go on from the result.
    """

    stages: Sequence[Registrar]

    def register(self, problem: Problem) -> Result:
        """The last stage's pose."""
        results: list[Result] = []
        for stage in self.stages:
            start = results[-1].transform if results else problem.start
            results.append(stage.register(replace(problem, start=start)))
        faces = {key: value for key, value in results[-1].settings.items() if key == "cut_faces"}
        return replace(
            results[-1],
            start=problem.start,
            trajectory=tuple(step for r in results for step in r.trajectory),
            timings={f"{i + 1} {r.method}: {k}": v for i, r in enumerate(results) for k, v in r.timings.items()},
            method="+".join(r.method for r in results),
            renders=sum(r.renders for r in results),
            settings={f"{i + 1} {r.method}": r.settings for i, r in enumerate(results)} | faces,
        )
