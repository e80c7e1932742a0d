"""Walks of poses: steps towards the right one, until a step is so short that it is taken for arrival."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raylign.methods.geodesic import moved

Way = Callable[[int, Int[Tensor, " K"], Float[Tensor, "K 4 4"]], Float[Tensor, "K 6"]]
"""Number of the step, which of the poses still go, and where they are: the motions that they want to make next."""


@dataclass(frozen=True)
class Limits:
    """When walks end, and how far a step may go.

    Parameters
    ----------
    steps: at most.
    least: radians, and units, of a motion that is taken for arrival. It is made, and none after it.
    longest: a step is not longer.
    unit_mm: as many mm count like a radian.
    """

    steps: int
    least: float
    longest: float
    unit_mm: float


def walked(poses: Float[Tensor, "B 4 4"], way: Way, limits: Limits) -> tuple[Float[Tensor, "B S 4 4"], Float[Tensor, " B"]]:
    """All poses from the start on, S = steps + 1, and the length of the last motion that each wanted to make.

    A pose that arrived stays. A motion that is not finite is none.
    """
    paths, going = [poses], torch.ones(len(poses), dtype=torch.bool)
    lengths = torch.full((len(poses),), torch.inf, dtype=poses.dtype)
    for number in range(limits.steps):
        some = going.nonzero()[:, 0]
        if not len(some):
            paths.append(poses)
            continue
        step = way(number, some, poses[some]).nan_to_num(0.0, 0.0, 0.0)  # what has no motion stays, and has arrived
        length = step.norm(dim=-1, keepdim=True)
        step = step * (limits.longest / length.clamp(min=limits.longest))
        poses = poses.clone()
        poses[some] = moved(poses[some], step, limits.unit_mm)
        going[some] = length[:, 0] >= limits.least
        lengths[some] = length[:, 0].to(lengths)
        paths.append(poses)
    return torch.stack(paths, 1), lengths
