"""Registration by descending the learned similarity: gradient steps on the pose (Gao et al. 2024, section III.D)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.convex_similarity.model import Similarity
from raylign.methods.looks import Looks
from raylign.methods.walks import Limits, walked

_AT_ONCE = 16  # poses whose gradients are taken together


@dataclass(frozen=True)
class DescentConfig:
    """The schedule of the steps.

    Parameters
    ----------
    rate: of a step, of the gradient of the squared distance (0.1: a fifth of the way at first, where the gradient is exact).
    decay, every: the rate is multiplied by ``decay`` after each ``every`` steps.
    steps: at most.
    least: radians, and units, of a step that is taken for arrival.
    longest: a step is not longer.

    Raises
    ------
    InputError: numbers out of range.
    """

    rate: float = 0.1
    decay: float = 0.5
    every: int = 15
    steps: int = 60
    least: float = 1e-4
    longest: float = 0.5

    def __post_init__(self) -> None:
        lengths = 0 < self.rate < math.inf and 0 < self.longest < math.inf and 0 <= self.least < math.inf
        if not lengths or not 0 < self.decay <= 1 or min(self.every, self.steps) < 1:
            raise InputError("rates, steps and their decay are positive", field="descent")


@dataclass(frozen=True, eq=False)
class Descended:
    """Where descents ended.

    Parameters
    ----------
    poses: [B, 4, 4] of the cube.
    values: [B] similarity there: the smaller, the more alike; of one exposure and one model alone do they compare.
    paths: [B, S + 1, 4, 4] all poses from the start on; a descent that arrived stays.
    """

    poses: Float[Tensor, "B 4 4"]
    values: Float[Tensor, " B"]
    paths: Float[Tensor, "B S 4 4"]


def descend(
    similarity: Similarity,
    channels: Float[Tensor, "C D H W"],
    looks: Looks,
    starts: Float[Tensor, "B 4 4"],
    config: DescentConfig | None = None,
) -> Descended:
    """Descend from all starts at once.

    Parameters
    ----------
    channels: of the network's ``expanded``, without a graph.
    looks: one exposure for each start. starts: poses of the cube.
    """
    config = config or DescentConfig()
    found = [
        _some(similarity, channels, looks.repeated(part), starts[part], config)
        for part in torch.arange(len(starts)).split(_AT_ONCE)
    ]
    return Descended(*(torch.cat(part) for part in zip(*((f.poses, f.values, f.paths) for f in found), strict=True)))


def _some(similarity: Similarity, channels: Tensor, looks: Looks, poses: Tensor, config: DescentConfig) -> Descended:
    def way(number: int, some: Tensor, at: Tensor) -> Tensor:
        rate = config.rate * config.decay ** (number // config.every)
        _, slopes = similarity.gradient(channels, looks.repeated(some), at)
        return -2 * rate * slopes  # the network is taught the gradient of half of the squared distance

    paths, _ = walked(poses, way, Limits(config.steps, config.least, config.longest, similarity.cube.unit_mm))
    with torch.no_grad():
        values = similarity.of(channels, looks, paths[:, -1]).cpu()
    return Descended(paths[:, -1], values, paths)
