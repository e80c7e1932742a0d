"""The gradient metrics that the agent is compared with (Toth et al. 2018, Table 1): one search in plane for all of them.

The moving image of a metric is what the agent is shown: the model's thickness in a field of 120 mm about it, beside the X-ray's
field there. The paper names no optimiser. It says that metrics fail because their highest value lies elsewhere, which a search
that gets stuck on its way could not show; so the whole box of starts is looked at, and the best places are climbed from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.imitation_agent.mdp import ACTIONS, distance
from raylign.methods.imitation_agent.world import Exposures, World, merged
from raylign.similarity import similarity

Score = Callable[[Tensor], Tensor]

BASELINES = {"GO": "go", "GO+": "go+", "GC": "gc", "GC+": "gc+", "GI": "gi", "GI+": "gi+"}
"""Rows of Table 1 and the similarities of those names."""

_BATCH = 256  # states that are projected at once


@dataclass(frozen=True)
class SearchConfig:
    """How a similarity is searched in plane.

    Parameters
    ----------
    mm, degrees: half sides of the box about the start. That of the published starts, so that the truth lies in it.
    step_mm, step_degrees: of the grid in it.
    coarse_pixels, fine_pixels: sides of the images that are compared on the grid, and in climbing.
    places: grid states that are climbed from: the best, each farther than 1.5 grid steps from those before it.
    climb: sizes of the steps of climbing, mm and degrees.
    limit: looks of a climb with one size of step, at most.
    shown: share of the field that the X-ray must show; a state of which less is seen counts for nothing.

    Raises
    ------
    InputError: numbers that are not positive.
    """

    mm: float = 35.0
    degrees: float = 15.0
    step_mm: float = 5.0
    step_degrees: float = 5.0
    coarse_pixels: int = 48
    fine_pixels: int = 96
    places: int = 3
    climb: tuple[float, ...] = (2.0, 1.0, 0.5, 0.25)
    limit: int = 40
    shown: float = 0.3

    def __post_init__(self) -> None:
        positive = (self.mm, self.degrees, self.step_mm, self.step_degrees, self.places, self.limit, *self.climb)
        if min(positive) <= 0 or min(self.coarse_pixels, self.fine_pixels) < 8 or not self.climb:
            raise InputError("boxes, steps and counts are positive, images have 8 pixels or more", field="SearchConfig")

    def grid(self) -> Float[Tensor, "G 3"]:
        """States about the start (mm, mm, degrees)."""
        mm = torch.arange(-(self.mm // self.step_mm), self.mm // self.step_mm + 1, dtype=torch.float64) * self.step_mm
        most = self.degrees // self.step_degrees
        turns = torch.arange(-most, most + 1, dtype=torch.float64) * self.step_degrees
        return torch.cartesian_prod(mm, mm, turns)


@dataclass(frozen=True, eq=False)
class Found:
    """Where a search ended.

    Parameters
    ----------
    end: [3] state (mm, mm, degrees).
    score: of the similarity there.
    seconds: of one processor, what it shares with other similarities included in full.
    looks: states that were compared.
    """

    end: Float[Tensor, "3"]
    score: float
    seconds: float
    looks: int


def seen(world: World, pixels: int) -> World:
    """The same exposures, shown with another number of pixels.

    Where these are larger than the exposures' own by a whole factor, means over so many stand in for those: a metric of gradients
    that sees every second pixel sees mostly noise.
    """
    exposures = world.exposures
    source, origin, column, _ = exposures.vectors[0]
    normal = world.frames[0, 2]
    pitch = float(column.norm() * (-source @ normal) / ((origin - source) @ normal))  # in the plane of the isocentre
    factor = max(1, math.floor(world.config.moving_mm / pixels / pitch))
    return World(_blocks(exposures, factor), replace(world.config, pixels=pixels))


def _blocks(exposures: Exposures, factor: int) -> Exposures:
    """Exposures by means over square blocks of pixels; a block of which a pixel says nothing says nothing."""
    if factor == 1:
        return exposures
    images = torch.nn.functional.avg_pool2d(exposures.images.to(torch.float32)[:, None], factor)[:, 0]
    return replace(exposures, images=images, vectors=merged(exposures.vectors, factor))


def scorer(world: World, exposure: int, names: tuple[str, ...], shown: float = 0.3) -> Callable[[Tensor], list[Tensor]]:
    """A function of states [B, 3] that gives the values [B] of similarities, larger being better, on one exposure.

    The images are those of ``World.observe``; pixels that the X-ray does not show are left out. States that show less than
    ``shown`` of their field have minus infinity.
    """
    metrics = [similarity(name) for name in names]

    def values(states: Float[Tensor, "B 3"]) -> list[Tensor]:
        parts: list[list[Tensor]] = [[] for _ in metrics]
        for first in range(0, len(states), _BATCH):
            some = states[first : first + _BATCH]
            fixed, moving, share = world.observe(torch.full((len(some),), exposure), some)
            # what is not shown is exactly zero; of what is shown next to nothing is, and it is no loss
            mask = None if bool((share == 1).all()) else (fixed != 0)[:, 0]
            for part, metric in zip(parts, metrics, strict=True):
                with torch.no_grad():
                    value = metric(moving[:, 0], fixed[:, 0], mask).cpu().to(torch.float64)
                part.append(torch.where(share < shown, -torch.inf, value.nan_to_num(nan=-torch.inf)))
        return [torch.cat(part) for part in parts]

    return values


def best_places(states: Float[Tensor, "G 3"], values: Float[Tensor, " G"], config: SearchConfig) -> Float[Tensor, "K 3"]:
    """The states of the highest values, none within 1.5 grid steps of a better one."""
    unit = torch.tensor([config.step_mm, config.step_mm, config.step_degrees], dtype=torch.float64)
    kept: list[Tensor] = []
    for k in values.argsort(descending=True, stable=True).tolist():
        if all(float(distance((states[k] - other) / unit)) > 1.5 for other in kept):
            kept.append(states[k])
        if len(kept) == config.places:
            break
    return torch.stack(kept)


def climbed(
    score: Score, states: Float[Tensor, "K 3"], steps: tuple[float, ...], limit: int = 40
) -> tuple[Float[Tensor, "K 3"], Float[Tensor, " K"], int]:
    """Climb from states by the best of the six actions while it gains, then with the next smaller step.

    Returns
    -------
    ends, their values, how many states were compared.
    """
    at, value = states.clone(), score(states)
    looks = len(states)
    for step in steps:
        going = torch.arange(len(at))
        for _ in range(limit):
            around = at[going, None] + step * ACTIONS
            found = score(around.flatten(0, 1)).unflatten(0, (-1, 6))
            looks += found.numel()
            best, action = found.max(1)
            gains = best > value[going]
            rows = going[gains]
            at[rows], value[rows] = around[gains, action[gains]], best[gains]
            going = rows
            if len(going) == 0:
                break
    return at, value, looks


def searched(
    world: World, exposure: int, start: Float[Tensor, "3"], names: tuple[str, ...], config: SearchConfig | None = None
) -> list[Found]:
    """Register one exposure by similarities: the whole box about the start on a grid, then climbing from the best places.

    Parameters
    ----------
    world: of the exposure; its number of pixels does not matter here.
    start: state (mm, mm, degrees) counted from the exposure's base pose.
    names: similarities, as ``raylign.similarity`` knows them. They share the grid's images, as every one of them would see them.

    Where no state of the box shows enough the model stays at its start, with a score of minus infinity.
    """
    config = config or SearchConfig()
    coarse, fine = seen(world, config.coarse_pixels), seen(world, config.fine_pixels)
    grid = start.to(torch.float64) + config.grid()
    begun = time.process_time()
    values = scorer(coarse, exposure, names, config.shown)(grid)
    shared = time.process_time() - begun
    out = []
    for name, on_grid in zip(names, values, strict=True):
        begun = time.process_time()
        if not bool(on_grid.isfinite().any()):  # nowhere in the box is there enough to compare
            out.append(Found(start.to(torch.float64), -math.inf, shared, len(grid)))
            continue
        places = best_places(grid, on_grid, config)
        judge = scorer(fine, exposure, (name,), config.shown)
        ends, reached, looks = climbed(lambda states, judge=judge: judge(states)[0], places, config.climb, config.limit)  # type: ignore[misc]
        k = int(reached.argmax())
        out.append(Found(ends[k], float(reached[k]), shared + time.process_time() - begun, len(grid) + looks))
    return out


def refined(world: World, exposure: int, state: Float[Tensor, "3"], name: str, config: SearchConfig | None = None) -> Found:
    """Climb by one similarity from a state that is nearly right, an agent's end say; nothing is searched."""
    config = config or SearchConfig()
    begun = time.process_time()
    judge = scorer(seen(world, config.fine_pixels), exposure, (name,), config.shown)
    ends, reached, looks = climbed(lambda states: judge(states)[0], state[None].to(torch.float64), config.climb, config.limit)
    return Found(ends[0], float(reached[0]), time.process_time() - begun, looks)
