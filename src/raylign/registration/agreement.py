"""Whether several views agree on one pose: each is asked alone where it would put the model.

The cost of several views is a sum, so that two views of which one is wrong (a wrong angle, another patient) meet in a pose that
suits neither, and that looks well determined. What gives it away is that a view left alone goes elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.geometry import Rigid
from raylign.projection import cpu
from raylign.registration.levels import build_scales, centre_under, evaluate
from raylign.registration.problem import Problem, as_read
from raylign.registration.refinement import Candidate, refine
from raylign.registration.result import Result
from raylign.registration.search import Bounds, camera_axes
from raylign.registration.settings import DirectConfig

_DEGREES, _MM = 10.0, 20.0  # how far a view alone may go: half as far again


@dataclass(frozen=True, eq=False)
class Agreement:
    """What each view says of the pose that all were given.

    Parameters
    ----------
    shares: explained share of each view's gradient energy at the common pose.
    alone: the same where the view alone would put the model.
    apart: mm across the view's rays between the two, mean over six points half as far from the model's centre as its surface.
    """

    shares: Float[Tensor, " views"]
    alone: Float[Tensor, " views"]
    apart: Float[Tensor, " views"]

    def reasons(self, limit: float = 1.0, gain: float = 0.01) -> tuple[str, ...]:
        """A sentence for each view that disagrees, the farthest first.

        It does where it alone would put the model more than ``limit`` mm elsewhere and explain more of its structure there, by
        at least ``gain`` of all: a view that sees little wanders and gains nothing. Of two views that disagree nothing says
        which is wrong: both may be named, or the one that had less say.
        """
        better = self.alone > self.shares + gain
        order = sorted(range(len(self.apart)), key=lambda i: -float(self.apart[i]))
        return tuple(
            f"view {i + 1} alone would put the model {float(self.apart[i]):.1f} mm from where all views together do:"
            " check its angles, its distances, and whose it is"
            for i in order
            if len(order) > 1 and float(self.apart[i]) > limit and bool(better[i])
        )


def agreement(problem: Problem, result: Result, config: DirectConfig | None = None, level: int = 1) -> Agreement:
    """Refine each view alone from a registration's pose, at a level of the pyramid (0 is the finest).

    A view on which the model has nothing to say stays where it is and has shares of zero. One view agrees with itself but for
    what the levels differ in.

    Raises
    ------
    InputError: as of the registration.
    """
    config = config or DirectConfig()
    near = replace(config, search=replace(config.search, degrees=_DEGREES, mm=_MM, depth=None))
    scales = build_scales(replace(as_read(problem, result), start=result.transform), near, most=level + 1, finest=level)
    scale = scales[-1]
    matrix = result.transform.matrix.numpy()
    centre = centre_under(scale, matrix)
    around = torch.from_numpy(centre + scale.model.radius * np.concatenate([np.eye(3), -np.eye(3)]))
    points = result.transform.inverse().apply(around)

    def by_itself(number: int) -> Candidate:
        axes = camera_axes(problem.xrays[number].view)
        one = replace(scale, images=[scale.images[number]])
        return refine(one, matrix, Bounds(matrix, axes, centre, _DEGREES, _MM, 2 * _MM), near, threaded=False)

    alone, apart = [], []
    each = cpu.pool(cpu.threads()).map(by_itself, range(len(problem.xrays)))
    for xray, found in zip(problem.xrays, each, strict=True):
        alone.append(found.normal.explained)
        there = Rigid(torch.from_numpy(found.matrix)).apply(points)
        across = torch.linalg.cross(xray.view.directions(there), around - there)
        apart.append(float(across.norm(dim=1).mean()))
    shares = evaluate(scale, matrix, near.match).shares
    return Agreement(
        torch.from_numpy(shares.copy()), torch.tensor(alone, dtype=torch.float64), torch.tensor(apart, dtype=torch.float64)
    )
