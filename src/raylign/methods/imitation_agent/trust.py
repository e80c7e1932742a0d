"""How far an agent is to be believed: registrations from several starts, and how far their ends lie apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raylign.methods.imitation_agent.agent import Agreement
from raylign.methods.imitation_agent.rollout import Judge, Rollout, RolloutConfig, walks
from raylign.methods.imitation_agent.world import World

_MM, _DEGREES = 10.0, 6.0  # how far the further starts lie from the given one
_RIGHT_MM = 5.0  # TRE of a registration that is called right
_PULL = 0.05  # of the regression's weights towards zero, so that cases without one failure give finite ones


def about(start: Float[Tensor, "*B 3"], count: int) -> Float[Tensor, "*B K 3"]:
    """A start and ``count - 1`` others about it: evenly on a circle of 10 mm, turned by 6 degrees to either side in turn."""
    angle = 2 * math.pi * torch.arange(count - 1, dtype=torch.float64) / max(count - 1, 1)
    turn = _DEGREES * (1 - 2.0 * (torch.arange(count - 1) % 2))
    ring = torch.stack([_MM * angle.cos(), _MM * angle.sin(), turn.to(torch.float64)], 1)
    return start[..., None, :] + torch.cat([torch.zeros(1, 3, dtype=torch.float64), ring])


def agreed(ends: Float[Tensor, "*B K 3"]) -> tuple[Float[Tensor, "*B 3"], Float[Tensor, "*B"]]:
    """The median of several ends, number by number, and their root mean square distance from it (a degree counts like a mm)."""
    middle = ends.quantile(0.5, dim=-2)
    return middle, (ends - middle[..., None, :]).square().sum(-1).mean(-1).sqrt()


def members(judge: Judge) -> Sequence[Judge]:
    """Those of an agent of several networks; anybody else alone."""
    several: Sequence[Judge] = getattr(judge, "members", (judge,))
    return several


def voted(
    judge: Judge,
    world: World,
    which: Int64[Tensor, " B"],
    starts: Float[Tensor, "B 3"],
    how: tuple[int, RolloutConfig],
) -> tuple[Float[Tensor, "B K 3"], Rollout]:
    """Ends from each start and others about it, of each member: K of them. ``how``: number of starts, how the agent walks.

    Also the walks themselves, those of a member together; within them those of a start.
    """
    count, config = how
    several, many = members(judge), about(starts, count)
    found = walks(several, world, which.repeat_interleave(count), many.flatten(0, 1), config)
    return found.ends.reshape(len(several), len(which), count, 3).transpose(0, 1).flatten(1, 2), found


def spreads(
    judge: Judge,
    world: World,
    which: Int64[Tensor, " B"],
    starts: Float[Tensor, "B 3"],
    how: tuple[int, RolloutConfig],
) -> tuple[Float[Tensor, "B 3"], Float[Tensor, " B"]]:
    """Register each start and others about it: agreed ends and their spread; ``how`` as of ``voted``."""
    return agreed(voted(judge, world, which, starts, how)[0])


def fitted(errors: Float[Tensor, " B"], spread: Float[Tensor, " B"]) -> Agreement:
    """Logistic regression of "the error is under 5 mm" on the logarithm of the spread; the slope is never positive."""
    from scipy.optimize import minimize

    x = np.log(spread.numpy() + 0.1)
    right = errors.numpy() < _RIGHT_MM
    sign = np.where(right, 1.0, -1.0)

    def cost(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -sign * (w[0] + w[1] * x)).sum() + _PULL * (w @ w))

    found = minimize(cost, np.zeros(2), bounds=[(None, None), (None, 0.0)]).x
    return Agreement(float(found[0]), float(found[1]), _RIGHT_MM, len(x))
