"""What an optimiser is asked and what it answers, and the bookkeeping that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from raylign.errors import InputError

Array64 = NDArray[np.float64]
Tell = Callable[[int, float], None]
"""Called now and then with the evaluations made and the least cost so far; what it raises ends the run."""

UNUSABLE = 1e9  # the cost of a point at which there is none: large, and finite, because quadratic models are fitted through it


@dataclass(frozen=True, eq=False)
class Objective:
    """A cost to be made small.

    Parameters
    ----------
    costs: of B points [B, N] at once, [B]; what is not finite counts as very large.
    slope: cost and gradient [N] at one point [N], or None where there is no gradient.
    """

    costs: Callable[[Float[Array64, "B N"]], Float[Array64, " B"]]
    slope: Callable[[Float[Array64, " N"]], tuple[float, Float[Array64, " N"]]] | None = None


@dataclass(frozen=True, eq=False)
class Box:
    """Limits that no evaluated point exceeds.

    Raises
    ------
    InputError: limits of different lengths, not finite or the wrong way round.
    """

    lower: Float[Array64, " N"]
    upper: Float[Array64, " N"]

    def __post_init__(self) -> None:
        lower, upper = np.asarray(self.lower, float), np.asarray(self.upper, float)
        if lower.shape != upper.shape or lower.ndim != 1 or not np.isfinite([lower, upper]).all() or (lower > upper).any():
            raise InputError("no box: limits must be finite, of one length, lower <= upper", field="bounds")
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)

    @staticmethod
    def about(start: Float[Array64, " N"], half: Float[Array64, " N"]) -> Box:
        """``start`` plus and minus ``half``."""
        return Box(start - half, start + half)

    def clip(self, x: Array64) -> Array64:
        """The nearest point within."""
        return np.clip(x, self.lower, self.upper)


@dataclass(frozen=True, eq=False)
class Task:
    """One minimisation.

    Parameters
    ----------
    start: [N] where it begins.
    box: limits, or None.
    budget: evaluations at most; an evaluation with its gradient counts as one.
    seed: of whatever is random; several numbers make one seed.
    tell: progress.
    """

    start: Float[Array64, " N"]
    box: Box | None = None
    budget: int = 100_000
    seed: int | tuple[int, ...] = 0
    tell: Tell | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """The best point met.

    Parameters
    ----------
    x, cost: the point [N] and what it costs.
    evaluations: how many points were evaluated.
    history: (evaluations so far, least cost so far) whenever the least cost fell.
    path: [K, N] the points at which it fell, one for each entry of the history.
    reason: why it ended, in a word or two.
    """

    x: Float[Array64, " N"]
    cost: float
    evaluations: int
    history: tuple[tuple[int, float], ...]
    path: Float[Array64, "K N"]
    reason: str


class Optimiser(Protocol):
    """Anything that makes a cost small."""

    name: ClassVar[str]
    needs_slope: ClassVar[bool]
    needs_box: ClassVar[bool]

    def minimise(self, objective: Objective, task: Task) -> Outcome:
        """The best point met within the budget and the box.

        Raises
        ------
        InputError: a gradient or a box that the optimiser needs and the caller did not give.
        """
        ...


def narrowed(optimiser: Optimiser, objective: Objective, task: Task) -> Outcome | None:
    """The outcome over the coordinates that the box leaves free, the others held; None where it leaves all of them free.

    For optimisers that divide by the width of the box.
    """
    if task.box is None or task.box.lower.shape != np.shape(task.start) or (task.box.lower < task.box.upper).all():
        return None
    box, free = task.box, task.box.lower < task.box.upper

    def whole(xs: Array64) -> Array64:
        full = np.tile(box.lower, (len(xs), 1))
        full[:, free] = xs
        return full

    if not free.any():
        tracker = Tracker(optimiser, objective, task)
        tracker.one(tracker.start)
        return tracker.outcome("nothing is free")
    fewer = replace(task, start=np.asarray(task.start, float)[free], box=Box(box.lower[free], box.upper[free]))
    found = optimiser.minimise(Objective(lambda xs: objective.costs(whole(xs))), fewer)
    return replace(found, x=whole(found.x[None])[0], path=whole(found.path.reshape(-1, int(free.sum()))))


class Spent(Exception):
    """The budget is used up."""


class Tracker:
    """The objective as an optimiser sees it: clipped to the box, counted, its best point remembered.

    Raises
    ------
    InputError: from the constructor, where the optimiser needs what the caller did not give, or the start has another length
        than the box.
    Spent: from a call, when the budget is used up.
    """

    def __init__(self, optimiser: Optimiser, objective: Objective, task: Task) -> None:
        if optimiser.needs_slope and objective.slope is None:
            raise InputError(
                f"{optimiser.name} needs a gradient", field="optimiser", remedy="use a differentiable similarity, or cma-es"
            )
        if optimiser.needs_box and task.box is None:
            raise InputError(f"{optimiser.name} needs bounds", field="bounds", remedy="give how far it may go")
        if task.budget < 1:
            raise InputError(f"a budget of {task.budget} evaluations", field="budget", remedy="give at least 1")
        self.start = np.asarray(task.start, float)
        if task.box is not None:
            if task.box.lower.shape != self.start.shape:
                raise InputError("bounds of another length than the start", field="bounds")
            self.start = task.box.clip(self.start)
        self.objective, self.task = objective, task
        self.evaluations = 0
        self.best, self.cost = self.start, np.inf
        self.history: list[tuple[int, float]] = []
        self.path: list[Array64] = []

    def many(self, xs: Float[Array64, "B N"]) -> Float[Array64, " B"]:
        """Costs of B points."""
        left = self.task.budget - self.evaluations
        if left <= 0:
            raise Spent
        xs = np.asarray(xs, float)
        taken = xs[:left] if self.task.box is None else self.task.box.clip(xs[:left])
        costs = np.asarray(self.objective.costs(taken), float)
        costs = np.where(np.isfinite(costs), costs, UNUSABLE)
        self.evaluations += len(taken)
        first = int(np.argmin(costs))
        self._note(taken[first], float(costs[first]))
        if len(taken) < len(xs):
            raise Spent
        return costs

    def one(self, x: Float[Array64, " N"]) -> float:
        """Cost of one point."""
        return float(self.many(np.asarray(x, float)[None])[0])

    def slope(self, x: Float[Array64, " N"]) -> tuple[float, Float[Array64, " N"]]:
        """Cost and gradient of one point."""
        if self.evaluations >= self.task.budget:
            raise Spent
        assert self.objective.slope is not None
        x = np.asarray(x, float) if self.task.box is None else self.task.box.clip(np.asarray(x, float))
        cost, gradient = self.objective.slope(x)
        usable = bool(np.isfinite(cost) and np.isfinite(gradient).all())
        cost, gradient = (float(cost), np.asarray(gradient, float)) if usable else (UNUSABLE, np.zeros_like(x))
        self.evaluations += 1
        self._note(x, cost)
        return cost, gradient

    def _note(self, x: Array64, cost: float) -> None:
        if cost < self.cost:
            self.best, self.cost = x.copy(), cost
            self.history.append((self.evaluations, cost))
            self.path.append(self.best)
        if self.task.tell is not None:
            self.task.tell(self.evaluations, self.cost)

    def outcome(self, reason: str) -> Outcome:
        """What was found."""
        return Outcome(self.best, self.cost, self.evaluations, tuple(self.history), np.array(self.path), reason)
