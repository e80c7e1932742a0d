"""Optimisers of a few numbers behind one small interface: an objective, a task, an outcome.

They minimise, as their literature does; who has a similarity to maximise hands over its negative. Coordinates are scaled by the
caller so that 1 is about what is open.
"""

from raylign.registration.optimisers.base import Array64, Box, Objective, Optimiser, Outcome, Task
from raylign.registration.optimisers.evolutionary import CMAES, DifferentialEvolution
from raylign.registration.optimisers.gradient import LBFGS, SGD, Adam
from raylign.registration.optimisers.grid import Grid
from raylign.registration.optimisers.local import TrustRegion

OPTIMISERS = {o.name: o for o in (CMAES, TrustRegion, DifferentialEvolution, Grid, Adam, SGD, LBFGS)}
"""By name. Levenberg-Marquardt is not among them: it needs residuals, which only the direct method has."""

__all__ = [
    "CMAES", "LBFGS", "OPTIMISERS", "SGD", "Adam", "Array64", "Box", "DifferentialEvolution", "Grid", "Objective", "Optimiser",
    "Outcome", "Task", "TrustRegion",
]  # fmt: skip
