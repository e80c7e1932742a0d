"""CMA-ES on the direct method's own comparison: the derivative-free baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from raylign.registration.classical import LEAST, Classical, ClassicalConfig, Level, Six
from raylign.registration.comparison import LOCAL_VARIANCE, Measure, Sampling
from raylign.registration.optimisers import CMAES
from raylign.registration.problem import Problem
from raylign.registration.result import Result
from raylign.registration.settings import TRUST


@dataclass(frozen=True)
class EvolutionConfig:
    """Settings of the CMA-ES registrar.

    Parameters
    ----------
    degrees, mm, depth: initial standard deviation is half of these, about and along the axes of the first view; ``depth`` along
        the beam, where it is not ``mm``.
    population, generations: per level; a level also ends when CMA-ES itself finds nothing left to gain.
    levels: how many pyramid levels, coarsest first; each begins where the one before ended, with a quarter of its spread.
    pixels: of the finest of four levels, along the longer side of what the model covers.
    trust, seed: as in ``DirectConfig``.
    """

    degrees: float = 20.0
    mm: float = 35.0
    population: int = 48
    generations: int = 60
    levels: int = 3
    pixels: int = 256
    trust: float = TRUST
    seed: int = 0
    depth: float | None = None

    def classical(self) -> ClassicalConfig:
        """The same as levels of a classical registration."""
        depth = self.mm if self.depth is None else self.depth
        levels = []
        for i in range(self.levels):
            share = 0.5 / 4**i
            turn, across, along = (max(LEAST, share * h) for h in (self.degrees, self.mm, depth))
            unit: Six = (turn, turn, turn, across, across, along)
            optimiser = CMAES(self.population, self.generations, cost_tolerance=1e-5, x_tolerance=1e-4)
            sampling = Sampling(pixels=max(16, self.pixels >> max(0, 3 - i)), step=1.5)
            levels.append(Level(Measure(LOCAL_VARIANCE), sampling, optimiser, unit))
        return ClassicalConfig(tuple(levels), name="cmaes", trust=self.trust, seed=self.seed)


@dataclass(frozen=True)
class Evolution:
    """CMA-ES over the six pose parameters as a Registrar (library ``cma``).

    Each run draws from its own generator, so that two runs in one process with one seed agree.
    """

    config: EvolutionConfig = field(default_factory=EvolutionConfig)
    progress: Callable[[str, float], None] | None = None

    def register(self, problem: Problem) -> Result:
        """The best pose of the last level's population."""
        return Classical(self.config.classical(), self.progress).register(problem)
