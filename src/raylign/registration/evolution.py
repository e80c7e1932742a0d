"""CMA-ES: the derivative-free baseline, on the same comparison of images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from raylign.geometry import Rigid
from raylign.projection import cpu
from raylign.registration.confidence import gather, judge
from raylign.registration.levels import Scale, build_scales, evaluate
from raylign.registration.matching import MatchConfig, Rendering, answered, normal_equations, render, samples_on, voxel_rays
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array64, cut_faces
from raylign.registration.refinement import Candidate, covariance_of
from raylign.registration.result import Result, Step
from raylign.registration.search import camera_axes, moved
from raylign.registration.settings import DirectConfig
from raylign.registration.versions import versions


@dataclass(frozen=True)
class EvolutionConfig:
    """Settings of the CMA-ES registrar.

    Parameters
    ----------
    degrees, mm: initial standard deviation is half of these, about and along the axes of the first view.
    population, generations: per level; a level also ends when CMA-ES itself finds nothing left to gain.
    levels: how many pyramid levels, coarsest first; each begins where the one before ended, with a quarter of its spread.
    match, pixels, trust, seed: as in ``DirectConfig``.
    """

    degrees: float = 20.0
    mm: float = 35.0
    population: int = 48
    generations: int = 60
    levels: int = 3
    match: MatchConfig = field(default_factory=MatchConfig)
    pixels: int = 256
    trust: float = 0.6
    seed: int = 0


def costs(scale: Scale, matrices: list[Array64], config: MatchConfig) -> list[float]:
    """Cost of many poses: one batched rendering an exposure, then the comparisons side by side."""
    rays = [np.stack([voxel_rays(scale.model, image, m)[0] for m in matrices]) for image in scale.images]
    rendered = []
    for image, batch in zip(scale.images, rays, strict=True):
        samples = np.full(len(matrices), samples_on(image, config.step * scale.model.spacing))
        valid = np.broadcast_to(image.valid, (len(matrices), *image.shape))
        rendered.append(cpu.forward(scale.model.grid, batch, image.shape, samples, valid)[0])
    none = np.zeros(len(scale.images))

    def one(i: int) -> float:
        rendering = Rendering(matrices[i], tuple(batch[i] for batch in rendered), (None,) * len(rendered))
        masks = answered(scale.model, scale.images, matrices[i])
        return normal_equations(scale.model, scale.images, rendering, masks, none, config).cost

    return list(cpu.pool(cpu.threads()).map(one, range(len(matrices))))


@dataclass(frozen=True)
class Evolution:
    """CMA-ES over the six pose parameters as a Registrar (library ``cma``).

    Each run draws from its own generator, so that two runs in one process with one seed agree.
    """

    config: EvolutionConfig = field(default_factory=EvolutionConfig)
    progress: Callable[[str, float], None] | None = None

    def register(self, problem: Problem) -> Result:
        """The best pose of the last level's population."""
        import cma

        config = self.config
        begun = time.perf_counter()
        scales = build_scales(problem, DirectConfig(pixels=config.pixels, match=config.match))
        built = time.perf_counter()
        axes = camera_axes(problem.xrays[0].view)
        unit = np.array([np.radians(config.degrees)] * 3 + [config.mm] * 3) / 2
        matrix = problem.start.matrix.numpy()
        levels = list(reversed(scales))[: config.levels]
        generator = np.random.default_rng(config.seed)
        history: list[Step] = []
        spread = 1.0
        for scale in levels:
            centre = evaluate(scale, matrix, config.match).centre
            base = matrix

            def pose(x: Array64, base: Array64 = base, centre: Array64 = centre) -> Array64:
                scaled = x * unit
                return moved(base, np.concatenate([axes @ scaled[:3], axes @ scaled[3:]]), centre)

            options = {
                "popsize": config.population,
                "maxiter": config.generations,
                "tolfun": 1e-5,
                "tolx": 1e-4,
                "verbose": -9,
                "seed": np.nan,  # keeps cma from seeding numpy's global generator
                "randn": lambda *shape: generator.standard_normal(shape),
            }
            search = cma.CMAEvolutionStrategy(np.zeros(6), spread, options)
            while not search.stop():
                xs = search.ask()
                values = costs(scale, [pose(np.asarray(x)) for x in xs], config.match)
                search.tell(xs, values)
                best = pose(np.asarray(search.best.x))
                history.append(Step(scale.index, search.countiter, float(search.best.f), torch.from_numpy(best)))
                if self.progress is not None:
                    done = levels.index(scale) + search.countiter / config.generations
                    self.progress(f"generation {search.countiter}", done / len(levels))
            matrix = pose(np.asarray(search.best.x))
            spread /= 4
        last = levels[-1]
        rendering = render(last.model, last.images, matrix, config.match)
        masks = answered(last.model, last.images, matrix)
        floor = normal_equations(last.model, last.images, rendering, masks, np.zeros(len(last.images)), config.match)
        normal = normal_equations(last.model, last.images, rendering, masks, floor.noise, config.match)
        best_candidate = Candidate(matrix, replace(normal, cost=floor.cost))
        covariance = covariance_of(normal)
        evidence = gather(best_candidate, covariance, last, axes, 0.0, True)
        return Result(
            transform=Rigid(torch.from_numpy(matrix)),
            start=problem.start,
            covariance=torch.from_numpy(covariance),
            centre=torch.from_numpy(normal.centre),
            score=normal.explained,
            confidence=judge(evidence, config.trust),
            trajectory=tuple(history),
            timings={"pyramids": built - begun, "registration": time.perf_counter() - built},
            method="cmaes",
            seed=config.seed,
            versions=versions(),
            settings={**asdict(config), "cut_faces": cut_faces(problem.model)},
        )
