"""States that an agent comes to by itself, with what they are worth: dataset aggregation (Ross, Gordon and Bagnell 2011, DAgger).

Random states are not those of a walk: an agent meets where its own errors lead it, and at the end goes to and fro about its goal.
Where the truth is known, rewards of such states cost nothing, so they can be learned from beside random ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.imitation_agent.rollout import Judge, RolloutConfig, walk
from raylign.methods.imitation_agent.world import World


@dataclass(frozen=True)
class PolicyConfig:
    """How states of the agent's own walks are collected and used.

    Parameters
    ----------
    every: iterations between collections, of which the first is at the very beginning; all that was collected is kept.
    exposures: of training that are walked on at each, drawn at random, one start each.
    share: of a minibatch that is drawn from what was collected.

    Raises
    ------
    InputError: numbers that are not positive, a share that is none.
    """

    every: int = 250
    exposures: int = 200
    share: float = 0.5

    def __post_init__(self) -> None:
        if min(self.every, self.exposures) < 1:
            raise InputError("iterations and exposures are positive", field="policy", remedy="give whole numbers from 1 on")
        if not 0 < self.share <= 1:
            raise InputError(
                f"a share of {self.share:g}", field="policy.share", remedy="more than 0, at most 1; or no policy at all"
            )

    def due(self, iteration: int) -> bool:
        """Whether states are collected after so many iterations."""
        return iteration % self.every == 0


@dataclass(frozen=True, eq=False)
class Visited:
    """States that agents came to, in the order in which they were collected.

    Parameters
    ----------
    after: [N] iterations that had been made when each was collected.
    which: [N] exposures.
    errors: [N, 3] from the truth (mm, mm, degrees).
    """

    after: Int64[Tensor, " N"]
    which: Int64[Tensor, " N"]
    errors: Float[Tensor, "N 3"]

    @classmethod
    def none(cls) -> Visited:
        """No states."""
        empty = torch.zeros(0, dtype=torch.int64)
        return cls(empty, empty, torch.zeros(0, 3, dtype=torch.float64))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Visited:
        """What ``tensors`` gave.

        Raises
        ------
        KeyError, ValueError: something else.
        """
        after, which, errors = (tensors[name] for name in ("after", "which", "errors"))
        whole = after.dtype == which.dtype == torch.int64 and errors.dtype == torch.float64
        if not whole or after.shape != which.shape or errors.shape != (len(after), 3) or after.ndim != 1:
            raise ValueError("collected states do not belong together")
        return cls(after, which, errors)

    def tensors(self) -> dict[str, Tensor]:
        """The same by name, for a file."""
        return {"after": self.after, "which": self.which, "errors": self.errors}

    def __len__(self) -> int:
        return len(self.after)

    def before(self, iteration: int) -> int:
        """How many were collected after fewer than so many iterations: the first ones."""
        return int(torch.searchsorted(self.after, iteration))

    def plus(self, after: int, which: Int64[Tensor, " M"], errors: Float[Tensor, "M 3"]) -> Visited:
        """These and more, collected after so many iterations."""
        late = torch.full_like(which, after)
        return Visited(torch.cat([self.after, late]), torch.cat([self.which, which]), torch.cat([self.errors, errors]))

    def draw(self, iteration: int, count: int, stream: torch.Generator) -> tuple[Int64[Tensor, " K"], Float[Tensor, "K 3"]]:
        """Exposures and errors of ``count`` states for minibatch ``iteration``, none where nothing was collected for it.

        A minibatch is made while the one before it is learned from. What is collected after ``iteration`` iterations comes too
        late for it, whenever it is asked for.
        """
        many = self.before(iteration)
        rows = torch.randint(many, (count,), generator=stream) if many else torch.zeros(0, dtype=torch.int64)
        return self.which[rows], self.errors[rows]


def visited(
    judge: Judge, world: World, which: Int64[Tensor, " B"], starts: Float[Tensor, "B 3"], config: RolloutConfig
) -> tuple[Int64[Tensor, " N"], Float[Tensor, "N 3"]]:
    """Exposures and errors of all states in which walks chose an action, of all steps' sizes.

    Parameters
    ----------
    world: base poses are the true ones, so that states are errors.
    """
    found = walk(judge, world, which, starts, config)
    steps = torch.arange(found.paths.shape[1])
    chose = steps[None] < found.count[:, None]
    return which[:, None].expand_as(chose)[chose], found.paths[chose]
