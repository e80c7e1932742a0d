"""Whether the agent ends in one place from wherever it starts (Toth et al. 2018, "Clinical CRT data", figures 6 and 7).

The paper does so on 19 clinical exposures whose truth nobody knows, from a rough alignment by hand. Here exposures are made as
those were (frontal to within 5 and 2 degrees, with instruments), and the rough alignment is the truth, off by a little at random.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.imitation_agent.agent import Agent
from raylign.methods.imitation_agent.comparison import Tell, patient_world, read_record, write_record
from raylign.methods.imitation_agent.pool import Pool, PoolConfig
from raylign.methods.imitation_agent.rollout import RolloutConfig, walk
from raylign.methods.imitation_agent.world import World
from raylign.simulation.seeds import generator

_GRID = 21  # place in the tree of seeds, beside that of ``comparison``


@dataclass(frozen=True)
class RobustConfig:
    """The study's starts.

    Parameters
    ----------
    exposures: of one test patient each (the paper: 19); 0 for no study.
    seed: of exposures and starts.
    data: as of ``comparison``; views, instruments and seed are this study's own.
    side_mm, step_mm: of the grid of shifts: 13 by 13 starts.
    degrees: of turns, uniform.
    rough: mm and degrees by which the rough alignment is off at most, along every axis, uniform.
    ring: further starts on a circle of ``side_mm``, for the picture of the ways (the paper: 100).
    rollout: how the agent walks.

    Raises
    ------
    InputError: a negative number of exposures, more than there are patients, a grid of one point.
    """

    exposures: int = 12
    seed: int = 0
    data: PoolConfig = field(default_factory=PoolConfig)
    side_mm: float = 30.0
    step_mm: float = 5.0
    degrees: float = 15.0
    rough: tuple[float, float] = (5.0, 5.0)
    ring: int = 100
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def __post_init__(self) -> None:
        most = len(self.data.seeds("test"))
        if not 0 <= self.exposures <= most:
            raise InputError(f"{self.exposures} exposures", field="--grid", remedy=f"give 0 to {most}")
        if not 0 < self.step_mm <= self.side_mm or self.ring < 0:
            raise InputError("a grid has steps that are positive and no longer than its half side", field="RobustConfig")

    @property
    def pool(self) -> PoolConfig:
        """Settings of the pool that holds the exposures."""
        first = self.data.test[0]
        test = (first, first + max(self.exposures, 1) - 1)
        return replace(self.data, test=test, seed=self.seed, targets="toth2018/clinical", instruments="cardiac")

    def grid(self, seed: int) -> Float[Tensor, "G 3"]:
        """Starts on the grid about the rough alignment of a patient, counted from the truth."""
        stream, most = generator(self.seed, _GRID, seed), round(self.side_mm / self.step_mm)
        rough = self._rough(stream)
        mm = torch.arange(-most, most + 1, dtype=torch.float64) * self.step_mm
        shifts = torch.cartesian_prod(mm, mm)
        turns = (2 * torch.rand(len(shifts), generator=stream, dtype=torch.float64) - 1) * self.degrees
        return torch.cat([shifts, turns[:, None]], 1) + rough

    def circle(self, seed: int) -> Float[Tensor, "R 3"]:
        """Starts on the circle about the same alignment, turned at random."""
        stream = generator(self.seed, _GRID, seed)
        rough = self._rough(stream)
        angle = 2 * math.pi * torch.arange(self.ring, dtype=torch.float64) / max(self.ring, 1)
        turns = (2 * torch.rand(self.ring, generator=stream, dtype=torch.float64) - 1) * self.degrees
        return torch.stack([self.side_mm * angle.cos(), self.side_mm * angle.sin(), turns], 1) + rough

    def _rough(self, stream: torch.Generator) -> Tensor:
        mm, degrees = self.rough
        return (2 * torch.rand(3, generator=stream, dtype=torch.float64) - 1) * torch.tensor(
            [mm, mm, degrees], dtype=torch.float64
        )

    def said(self) -> dict[str, Any]:
        """What decides the content of a record, for JSON."""
        said = asdict(self)
        del said["exposures"]
        return said


def grid_path(folder: Path, number: int) -> Path:
    """Where the record of an exposure lies."""
    return folder / f"grid-{number:03d}.json"


def robust(agent: Agent, pool: Pool, folder: Path, config: RobustConfig, tell: Tell | None = None) -> list[dict[str, Any]]:
    """Walk from all starts on every exposure that has no record yet, and read all records.

    Returns
    -------
    One an exposure: ``subject``; ``ends`` of the grid's starts and whether they ``arrived``; ``ways``: shifts, from start to end,
    from the circle. All are counted from the truth.

    Raises
    ------
    InputError: a patient that was not made, a file that is damaged or cannot be written.
    """
    out = []
    for number in range(config.exposures):
        path, seed = grid_path(folder, number), config.data.test[0] + number
        if not path.exists():
            write_record(path, walked(agent, patient_world(pool, seed, agent), config, seed))
        out.append(read_record(path))
        if tell is not None:
            tell(f"{len(config.grid(seed))} starts, exposure {number + 1} of {config.exposures}", (number + 1) / config.exposures)
    return out


def walked(agent: Agent, world: World, config: RobustConfig, seed: int) -> dict[str, Any]:
    """The record of one exposure, the first of a world; ``seed`` of its starts, which is its patient's."""
    grid, circle = config.grid(seed), config.circle(seed)
    both = torch.cat([grid, circle])
    found = walk(agent, world, torch.zeros(len(both), dtype=torch.int64), both, config.rollout)
    ways = [found.paths[n, : int(found.count[n]) + 1, :2].tolist() for n in range(len(grid), len(both))]
    ends, arrived = found.ends[: len(grid)].tolist(), found.arrived[: len(grid)].tolist()
    return {"subject": seed, "starts": grid.tolist(), "ends": ends, "arrived": arrived, "ways": ways}
