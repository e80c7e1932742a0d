"""Direct registration: coarse-to-fine Levenberg-Marquardt on locally normalised gradient images, from many starts at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from raylign.geometry import Rigid
from raylign.projection import cpu
from raylign.registration.confidence import gather, judge, rivalry
from raylign.registration.levels import build_scales, evaluate
from raylign.registration.problem import Problem
from raylign.registration.pyramid import cut_faces
from raylign.registration.refinement import Candidate, covariance_of, distinct, refine
from raylign.registration.result import Result, Step
from raylign.registration.search import Bounds, camera_axes, moved, spread
from raylign.registration.settings import DirectConfig
from raylign.registration.versions import versions

Progress = Callable[[str, float], None]

_CHEST = 1.2e5  # voxels of a chest CT at the coarsest level: the measure of a small model
_MOST = 400  # starts, however small the model


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
        bounds = Bounds(start, axes, centre, search.degrees, search.mm, search.along)
        more = float(np.clip(np.sqrt(_CHEST / top.model.grid.data.size), 1, max(1.0, _MOST / search.hypotheses)))
        counts = [round(more * n) for n in (search.refined, search.kept, search.finalists)]
        hypotheses = round(more * search.hypotheses) if search.hypotheses > 1 else 1
        twists = spread(hypotheses, search.degrees, (search.mm, search.mm, search.along), axes, config.seed)
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
        held = replace(bounds, degrees=0.9 * bounds.degrees, mm=0.9 * bounds.mm, depth=0.9 * bounds.depth).hold(best.matrix)
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
