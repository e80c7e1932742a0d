"""Optimisers that move a whole population: covariance matrix adaptation and differential evolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from raylign.registration.optimisers.base import Array64, Objective, Outcome, Spent, Task, Tracker, narrowed


@dataclass(frozen=True)
class CMAES:
    """Covariance matrix adaptation evolution strategy (Hansen, Mueller and Koumoutsakos 2003; library ``cma``).

    One batch of ``population`` points a generation. Draws from a generator of its own: the library's default seeds numpy's
    global one, and two runs in one process with one seed differ.

    Parameters
    ----------
    population, generations: points a generation, and how many of those at most.
    spread: initial standard deviation along each (scaled) coordinate.
    cost_tolerance, x_tolerance: it ends when costs of recent generations differ by less, or when no coordinate spreads more.
    """

    population: int = 100
    generations: int = 200
    spread: float = 1.0
    cost_tolerance: float = 1e-3
    x_tolerance: float = 1e-3
    name: ClassVar[str] = "cma-es"
    needs_slope: ClassVar[bool] = False
    needs_box: ClassVar[bool] = False

    def minimise(self, objective: Objective, task: Task) -> Outcome:
        """The best point of the start and all generations; coordinates that the box leaves no room are held."""
        import cma

        if (found := narrowed(self, objective, task)) is not None:
            return found
        tracker = Tracker(self, objective, task)
        generator = np.random.default_rng(task.seed)
        options = {
            "popsize": self.population,
            "maxiter": self.generations,
            "tolfun": self.cost_tolerance,
            "tolx": self.x_tolerance,
            "verbose": -9,
            "seed": np.nan,  # keeps cma from seeding numpy's global generator
            "randn": lambda *shape: generator.standard_normal(shape),
        }
        if task.box is not None:
            options["bounds"] = [task.box.lower.tolist(), task.box.upper.tolist()]
        search = cma.CMAEvolutionStrategy(tracker.start, self.spread, options)
        try:
            tracker.one(tracker.start)  # no generation holds it, and the outcome must not be worse
            while not search.stop():
                xs = search.ask()
                search.tell(xs, tracker.many(np.stack(xs)).tolist())
        except Spent:
            return tracker.outcome("budget")
        return tracker.outcome(", ".join(search.stop()))


@dataclass(frozen=True)
class DifferentialEvolution:
    """Differential evolution (Storn and Price 1997; SciPy), a generation at a time, from a Sobol sequence over the box.

    Parameters
    ----------
    population: points a generation.
    generations: how many at most.
    tolerance: it ends when the population's costs spread by less than this share of their mean.
    """

    population: int = 64
    generations: int = 100
    tolerance: float = 0.01
    name: ClassVar[str] = "differential-evolution"
    needs_slope: ClassVar[bool] = False
    needs_box: ClassVar[bool] = True

    def minimise(self, objective: Objective, task: Task) -> Outcome:
        """The best point of all generations; the start is one of the first."""
        from scipy.optimize import differential_evolution
        from scipy.stats import qmc

        tracker = Tracker(self, objective, task)
        assert task.box is not None
        lower, upper = task.box.lower, task.box.upper
        generator = np.random.default_rng(task.seed)
        cube = qmc.Sobol(len(lower), rng=generator).random_base2(max(3, (self.population - 1).bit_length()))
        first = np.clip(lower + cube[: max(self.population, 5)] * (upper - lower), lower, upper)
        first[0] = tracker.start

        def costs(xs: Array64) -> Any:  # SciPy hands over [N, B]
            return tracker.many(xs.T)

        try:
            found = differential_evolution(
                costs,
                np.stack([lower, upper], 1),
                init=first,
                maxiter=self.generations,
                tol=self.tolerance,
                polish=False,
                vectorized=True,
                updating="deferred",
                rng=generator,
            )
        except Spent:
            return tracker.outcome("budget")
        return tracker.outcome("converged" if found.success else "generations")
