"""Every point of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raylign.errors import InputError
from raylign.registration.optimisers.base import Objective, Outcome, Spent, Task, Tracker

_MOST = 2_000_000


@dataclass(frozen=True)
class Grid:
    """Exhaustive search on a regular grid over the box, its ends included; a coordinate with one place keeps the start's.

    Parameters
    ----------
    places: along each coordinate.
    batch: points evaluated at once.

    Raises
    ------
    InputError: no place along a coordinate, or more points than anybody waits for.
    """

    places: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    batch: int = 128
    name: ClassVar[str] = "grid"
    needs_slope: ClassVar[bool] = False
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.places or min(self.places) < 1 or np.prod([float(p) for p in self.places]) > _MOST:
            raise InputError(f"no grid of {self.places} places", field="places", remedy=f"give 1 to {_MOST} points in all")

    def minimise(self, objective: Objective, task: Task) -> Outcome:
        """The best point of the grid; of equal ones the first."""
        tracker = Tracker(self, objective, task)
        assert task.box is not None
        if len(self.places) != len(tracker.start):
            raise InputError(f"{len(self.places)} coordinates for {len(tracker.start)}", field="places")
        axes = [
            np.linspace(low, high, n) if n > 1 else np.array([at])
            for low, high, n, at in zip(task.box.lower, task.box.upper, self.places, tracker.start, strict=True)
        ]
        total = int(np.prod(self.places))
        try:
            for first in range(0, total, self.batch):
                where = np.unravel_index(np.arange(first, min(total, first + self.batch)), self.places)
                tracker.many(np.stack([axis[i] for axis, i in zip(axes, where, strict=True)], 1))
        except Spent:
            return tracker.outcome("budget")
        return tracker.outcome("complete")
