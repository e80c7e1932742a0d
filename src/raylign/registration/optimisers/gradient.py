"""Optimisers that follow a gradient: Adam, gradient descent with momentum, L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raylign.registration.optimisers.base import Array64, Objective, Outcome, Spent, Task, Tracker


def _descend(tracker: Tracker, iterations: int, tolerance: float, step) -> Outcome:  # type: ignore[no-untyped-def]
    """Follow ``step(iteration, gradient)`` from the start; it ends where ten steps together went less far than ``tolerance``."""
    x, recent = tracker.start, [np.inf] * 10
    try:
        for i in range(1, iterations + 1):
            _, gradient = tracker.slope(x)
            new = x - step(i, gradient)
            if tracker.task.box is not None:
                new = tracker.task.box.clip(new)
            recent = [*recent[1:], float(np.abs(new - x).max())]
            x = new
            if sum(recent) < tolerance:
                return tracker.outcome("converged")
    except Spent:
        return tracker.outcome("budget")
    return tracker.outcome("iterations")


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015), projected onto the box.

    Parameters
    ----------
    rate: length of a step along each scaled coordinate, at first; it is halved every ``halving`` steps.
    iterations: at most.
    tolerance: it ends when ten steps together move no coordinate further.
    """

    rate: float = 0.1
    iterations: int = 150
    halving: int = 40
    momentum: float = 0.9
    second: float = 0.99
    tolerance: float = 1e-3
    name: ClassVar[str] = "adam"
    needs_slope: ClassVar[bool] = True
    needs_box: ClassVar[bool] = False

    def minimise(self, objective: Objective, task: Task) -> Outcome:
        """The best point met."""
        tracker = Tracker(self, objective, task)
        mean, square = np.zeros_like(tracker.start), np.zeros_like(tracker.start)

        def step(i: int, gradient: Array64) -> Array64:
            mean[:] = self.momentum * mean + (1 - self.momentum) * gradient
            square[:] = self.second * square + (1 - self.second) * gradient**2
            rate = self.rate * 0.5 ** ((i - 1) // self.halving)
            return rate * (mean / (1 - self.momentum**i)) / (np.sqrt(square / (1 - self.second**i)) + 1e-12)

        return _descend(tracker, self.iterations, self.tolerance, step)


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum, projected onto the box.

    Parameters
    ----------
    rate: the first step is as long as this in scaled coordinates, whatever the units of the cost; all others are in proportion
        to their gradient. It is halved every ``halving`` steps.
    momentum: share of the last step that is taken again.
    """

    rate: float = 0.1
    iterations: int = 150
    halving: int = 40
    momentum: float = 0.9
    tolerance: float = 1e-3
    name: ClassVar[str] = "sgd"
    needs_slope: ClassVar[bool] = True
    needs_box: ClassVar[bool] = False

    def minimise(self, objective: Objective, task: Task) -> Outcome:
        """The best point met."""
        tracker = Tracker(self, objective, task)
        velocity = np.zeros_like(tracker.start)
        scale = 0.0

        def step(i: int, gradient: Array64) -> Array64:
            nonlocal scale
            length = float(np.linalg.norm(gradient))
            if scale == 0.0 and length > 0:
                scale = 1 / length
            velocity[:] = self.momentum * velocity + self.rate * 0.5 ** ((i - 1) // self.halving) * scale * gradient
            return velocity.copy()

        return _descend(tracker, self.iterations, self.tolerance, step)


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS, with bounds where there are any (Byrd, Lu, Nocedal and Zhu 1995; SciPy's L-BFGS-B).

    Parameters
    ----------
    iterations: at most.
    tolerance: it ends when a step lowers the cost by less.
    """

    iterations: int = 100
    tolerance: float = 1e-7
    name: ClassVar[str] = "l-bfgs"
    needs_slope: ClassVar[bool] = True
    needs_box: ClassVar[bool] = False

    def minimise(self, objective: Objective, task: Task) -> Outcome:
        """The best point met."""
        from scipy.optimize import Bounds, minimize

        tracker = Tracker(self, objective, task)
        box = None if task.box is None else Bounds(task.box.lower, task.box.upper)
        options = {"maxiter": self.iterations, "ftol": self.tolerance, "maxfun": task.budget + 1}
        try:
            found = minimize(tracker.slope, tracker.start, jac=True, method="L-BFGS-B", bounds=box, options=options)
        except Spent:
            return tracker.outcome("budget")
        return tracker.outcome("converged" if found.success else str(found.message))
