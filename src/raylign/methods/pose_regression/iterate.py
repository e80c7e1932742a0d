"""Registration by a regressor: its motion is made, the model's shadow cast anew, and so on (Gao et al. 2024, section III.D)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.looks import Looks
from raylign.methods.pose_regression.model import Regressor
from raylign.methods.walks import Limits, walked

_AT_ONCE = 64  # poses whose motions are said together


@dataclass(frozen=True)
class IterateConfig:
    """When iterations end.

    Parameters
    ----------
    rate: of a motion that is made (1: the whole of what the network says, as the paper does).
    steps: at most.
    least: radians, and units, of a motion that is taken for arrival.
    longest: a step is not longer.

    Raises
    ------
    InputError: numbers out of range.
    """

    rate: float = 1.0
    steps: int = 20
    least: float = 0.005
    longest: float = 3.0

    def __post_init__(self) -> None:
        lengths = 0 < self.rate < math.inf and 0 < self.longest < math.inf and 0 <= self.least < math.inf
        if not lengths or self.steps < 1:
            raise InputError("rate and numbers of steps are positive", field="iterate")


@dataclass(frozen=True, eq=False)
class Iterated:
    """Where iterations ended.

    Parameters
    ----------
    poses: [B, 4, 4] of the cube.
    lengths: [B] of the last motion that the network wanted to make, radians and units: at most ``least`` where it arrived.
    paths: [B, S + 1, 4, 4] all poses from the start on; one that arrived stays.
    """

    poses: Float[Tensor, "B 4 4"]
    lengths: Float[Tensor, " B"]
    paths: Float[Tensor, "B S 4 4"]


@torch.no_grad()
def iterate(
    regressor: Regressor,
    voxels: Float[Tensor, "D H W"],
    looks: Looks,
    starts: Float[Tensor, "B 4 4"],
    config: IterateConfig | None = None,
) -> Iterated:
    """Iterate from all starts at once.

    Parameters
    ----------
    voxels: the cube. looks: one exposure for each start. starts: poses of the cube.
    """
    config = config or IterateConfig()
    limits = Limits(config.steps, config.least, config.longest, regressor.cube.unit_mm)
    paths, lengths = [], []
    for part in torch.arange(len(starts)).split(_AT_ONCE):
        given = looks.repeated(part)

        def way(_: int, some: Tensor, at: Tensor, given: Looks = given) -> Tensor:
            return config.rate * regressor.motion(voxels, given.repeated(some), at)

        path, length = walked(starts[part], way, limits)
        paths.append(path)
        lengths.append(length)
    path = torch.cat(paths)
    return Iterated(path[:, -1], torch.cat(lengths), path)
