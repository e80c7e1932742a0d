"""Greedy inference: the action of the highest predicted reward, again and again, in ever smaller steps; many starts at once.

An agent that has arrived goes to and fro about its goal. That it comes into a state in which it was before is therefore the sign
of convergence: nothing but the same states can follow. The step is then halved, and after the last one the registration ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.imitation_agent.mdp import ACTIONS
from raylign.methods.imitation_agent.world import World


class Judge(Protocol):
    """Whoever says what actions are worth: an agent, or a similarity that stands in its place."""

    def rewards(self, world: World, which: Int64[Tensor, " B"], states: Float[Tensor, "B 3"]) -> tuple[Tensor, Tensor]:
        """Rewards [B, 6] of states, in the order of ``mdp.ACTIONS``, and the share of each field that the exposure shows [B]."""
        ...


@dataclass(frozen=True)
class RolloutConfig:
    """How an agent walks.

    Parameters
    ----------
    steps: sizes, mm and degrees, each until a state comes again. The first are larger than what the agent was trained on (1):
        far from the goal rewards hardly depend on the step.
    limit: actions with one size of step, at most.
    shown: share of the field about the model that the exposure must show; an agent that sees less has gone astray and stops.

    Raises
    ------
    InputError: no steps, or steps that do not become smaller by whole factors.
    """

    steps: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5, 0.25)
    limit: int = 120
    shown: float = 0.3

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) <= 0 or self.limit < 1:
            raise InputError("steps and their number are positive", field="steps", remedy="(4, 2, 1, 0.5, 0.25), say")
        if any((a / self.steps[-1]) % 1 for a in self.steps) or list(self.steps) != sorted(self.steps, reverse=True):
            raise InputError(
                f"steps {self.steps}", field="steps", remedy="from the largest to the smallest, multiples of the smallest"
            )


@dataclass(frozen=True, eq=False)
class Rollout:
    """Where walks ended, and how.

    Parameters
    ----------
    ends: [B, 3] states (mm, mm, degrees).
    paths: [B, T + 1, 3] states from the start on; a walk that has ended stays where it is.
    rewards: [B, T] the predicted reward of each action taken; NaN where none was.
    count: [B] states that were looked at.
    arrived: [B] whether each walk converged, rather than ran into a limit or left the image.
    """

    ends: Float[Tensor, "B 3"]
    paths: Float[Tensor, "B S 3"]
    rewards: Float[Tensor, "B T"]
    count: Int64[Tensor, " B"]
    arrived: Bool[Tensor, " B"]


class _Walk:
    """One walk: where it is, with which step, and where it was with that step."""

    def __init__(self, config: RolloutConfig) -> None:
        self.config = config
        self.level, self.taken = 0, 0
        self.been: set[tuple[int, ...]] = {(0, 0, 0)}
        self.at = [0, 0, 0]  # from the start, in multiples of the smallest step: sums of which are exact
        self.count, self.done, self.arrived = 0, False, False

    def act(self, action: int, shown: float) -> None:
        """Take an action, or what follows from it: a smaller step, the end."""
        self.count += 1
        if shown < self.config.shown:
            self.done = True
            return
        steps = self.config.steps
        self.at[action // 2] += round(steps[self.level] / steps[-1]) * (1 if action % 2 == 0 else -1)
        self.taken += 1
        state = tuple(self.at)
        again, tired = state in self.been, self.taken >= self.config.limit
        self.been.add(state)
        if not (again or tired):
            return
        if self.level + 1 < len(steps):
            self.level, self.taken, self.been = self.level + 1, 0, {state}
        else:
            self.done, self.arrived = True, again


def walk(
    judge: Judge, world: World, which: Int64[Tensor, " B"], starts: Float[Tensor, "B 3"], config: RolloutConfig | None = None
) -> Rollout:
    """Walk from many starts at once until all have ended.

    Parameters
    ----------
    judge, world: who leads, and where.
    which: the exposure of each start.
    starts: states (mm, mm, degrees) counted from the exposures' base poses.
    """
    config = config or RolloutConfig()
    walks = [_Walk(config) for _ in range(len(which))]
    starts = starts.to(torch.float64)
    states, paths, gains = starts.clone(), [starts.clone()], []
    while going := [n for n, one in enumerate(walks) if not one.done]:
        rows = torch.tensor(going)
        rewards, shown = judge.rewards(world, which[rows], states[rows])
        actions = rewards.argmax(1)
        for n, action, share in zip(going, actions.tolist(), shown.tolist(), strict=True):
            walks[n].act(action, share)
        gain = torch.full((len(walks),), torch.nan)
        gain[rows] = rewards.gather(1, actions[:, None])[:, 0].float()
        states = starts + config.steps[-1] * torch.tensor([one.at for one in walks], dtype=torch.float64)
        paths.append(states)
        gains.append(gain)
    return Rollout(
        states,
        torch.stack(paths, 1),
        torch.stack(gains, 1) if gains else torch.zeros(0, 0),
        torch.tensor([one.count for one in walks]),
        torch.tensor([one.arrived for one in walks]),
    )


def walks(
    judges: Sequence[Judge],
    world: World,
    which: Int64[Tensor, " B"],
    starts: Float[Tensor, "B 3"],
    config: RolloutConfig | None = None,
) -> Rollout:
    """Walks of each judge from all starts: those of the first, then those of the second, [K B] in all."""
    return joined([walk(judge, world, which, starts, config) for judge in judges])


def joined(several: Sequence[Rollout]) -> Rollout:
    """Several sets of walks as one, the shorter ones staying where they ended."""
    if len(several) == 1:
        return several[0]
    most = max(one.rewards.shape[1] for one in several)
    paths, rewards = [], []
    for one in several:
        more = most - one.rewards.shape[1]
        paths.append(torch.cat([one.paths, one.ends[:, None].expand(-1, more, -1)], 1))
        rewards.append(torch.nn.functional.pad(one.rewards, (0, more), value=torch.nan))
    return Rollout(
        torch.cat([one.ends for one in several]),
        torch.cat(paths),
        torch.cat(rewards),
        torch.cat([one.count for one in several]),
        torch.cat([one.arrived for one in several]),
    )


assert len(ACTIONS) == 6  # pairs of actions, + before -, along each of three axes: what ``_Walk.act`` takes for granted
