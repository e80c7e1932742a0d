"""A bounded trust region without derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raylign.registration.optimisers.base import Objective, Outcome, Spent, Task, Tracker, narrowed


@dataclass(frozen=True)
class TrustRegion:
    """COBYQA (Ragonneau and Zhang 2023; SciPy): quadratic models from interpolation in a shrinking trust region, within bounds.

    The successor of Powell's BOBYQA, which xReg uses. It is not the same code: its points and counts of evaluations differ.

    Parameters
    ----------
    radius: first trust region, as a share of the smallest half width of the box.
    tolerance: last trust region, in scaled coordinates.
    """

    radius: float = 0.5
    tolerance: float = 1e-3
    name: ClassVar[str] = "cobyqa"
    needs_slope: ClassVar[bool] = False
    needs_box: ClassVar[bool] = True

    def minimise(self, objective: Objective, task: Task) -> Outcome:
        """The best point met; coordinates that the box leaves no room are held."""
        from scipy.optimize import Bounds, minimize

        if (fewer := narrowed(self, objective, task)) is not None:
            return fewer
        tracker = Tracker(self, objective, task)
        assert task.box is not None
        half = (task.box.upper - task.box.lower) / 2
        options = {
            "initial_tr_radius": float(self.radius * half.min()),
            "final_tr_radius": min(self.tolerance, float(self.radius * half.min())),
            "maxfev": task.budget + 1,
        }
        try:
            found = minimize(
                lambda x: tracker.one(np.asarray(x)),
                tracker.start,
                method="COBYQA",
                bounds=Bounds(task.box.lower, task.box.upper),
                options=options,
            )
        except Spent:
            return tracker.outcome("budget")
        return tracker.outcome("converged" if found.success else str(found.message))
