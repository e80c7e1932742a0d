"""The direct method's comparison in plane, of the ventricle's surface alone: the row "silhouette" beside the agent.

What ``raylign register MESH XRAY`` compares, with three of its six numbers held: the mesh becomes a solid (``data.solids``),
whose picture is little but its silhouette, and the picture's gradients are brought to agree with the exposure's window by window
(``registration.matching``, docs/methods/direct.md). The box about the start and the grid in it are those of the gradient metrics
(``baselines``); from the grid's best places go Levenberg-Marquardt steps in x, y and turn, coarse to fine. Depth and the two
other turns stay as they are, and no spring is needed: a coarse picture sees all of the three.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.data import XRay
from raylign.data.solids import MATERIALS, solid_volume
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.methods.imitation_agent.baselines import Found, SearchConfig, best_places
from raylign.methods.imitation_agent.world import World
from raylign.registration import settings
from raylign.registration.levels import Scale, build_scales, evaluate
from raylign.registration.matching import Comparison, MatchConfig, Windows, answered, compare, render, windows_of
from raylign.registration.problem import Problem

Array = NDArray[np.float64]

_STILL = 0.02  # mm or degrees: a step that is no step any more
_TRIES = 4  # dampings of one step


@dataclass(frozen=True)
class SilhouetteConfig:
    """How the silhouette is registered; the box and its grid are those of ``baselines.SearchConfig``.

    Parameters
    ----------
    material: of the solid, a name of ``raylign.data.solids.MATERIALS``; a homogeneous one, of which the amount does not matter.
    voxel_mm: of the solid.
    coarsest: length in pixels of the model's shorter side at the coarsest level, at least.
    iterations: steps of one level, at most.

    Raises
    ------
    InputError: numbers that are not positive, an unknown material.
    """

    material: str = "soft"
    voxel_mm: float = 2.0
    coarsest: int = 18
    iterations: int = 12

    def __post_init__(self) -> None:
        if min(self.voxel_mm, self.coarsest, self.iterations) <= 0:
            raise InputError("voxels, pixels and iterations are positive", field="SilhouetteConfig")
        if self.material not in MATERIALS:
            raise InputError(f"there is no material {self.material!r}", field="material", remedy=f"one of {', '.join(MATERIALS)}")


@dataclass(frozen=True, eq=False)
class _Plane:
    """States of one exposure as poses, and twists (rad, mm) of the three numbers as columns [6, 3]."""

    world: World
    exposure: int
    basis: Array

    @staticmethod
    def of(world: World, exposure: int) -> _Plane:
        basis, (across, down, away) = np.zeros((6, 3)), world.frames[exposure].numpy()
        basis[3:, 0], basis[3:, 1], basis[:3, 2] = across, down, away * (math.pi / 180)
        return _Plane(world, exposure, basis)

    def poses(self, states: Float[Tensor, "B 3"]) -> Array:
        return self.world.poses(torch.full((len(states),), self.exposure), states).numpy()


def silhouetted(
    world: World, exposure: int, start: Float[Tensor, "3"], search: SearchConfig, config: SilhouetteConfig | None = None
) -> Found:
    """Register one exposure by its model's silhouette: the whole box about the start, then steps from its best places.

    Parameters
    ----------
    world: of the exposure; its fields of view do not matter here.
    start: state (mm, mm, degrees) counted from the exposure's base pose.
    search: box, grid and number of places.

    Raises
    ------
    InputError: a model that does not project onto the exposure.
    """
    begun = time.process_time()
    plane, scales, match = _prepared(world, exposure, start, search.mm, config)
    grid = start.to(torch.float64) + search.grid()
    costs = [evaluate(scales[-1], pose, match).cost for pose in plane.poses(grid)]
    places = best_places(grid, -torch.tensor(costs, dtype=torch.float64), search)
    return _ended(plane, scales, places, len(grid), begun, config)


def silhouette_refined(
    world: World, exposure: int, state: Float[Tensor, "3"], reach_mm: float = 10.0, config: SilhouetteConfig | None = None
) -> Found:
    """Steps from one state that is nearly right; nothing is searched. ``reach_mm``: as far about it the exposure is looked at."""
    begun = time.process_time()
    plane, scales, _ = _prepared(world, exposure, state, reach_mm, config)
    return _ended(plane, scales, state[None].to(torch.float64), 0, begun, config)


def exposed(world: World, exposure: int) -> XRay:
    """An exposure of a world as an X-ray; pixels that say nothing are masked."""
    source, origin, column, row = world.exposures.vectors[exposure]
    image = world.exposures.images[exposure].to(torch.float32)
    return XRay(image.nan_to_num(), View(source, origin, column, row, (image.shape[0], image.shape[1])), image.isfinite())


def _prepared(
    world: World, exposure: int, start: Tensor, reach_mm: float, config: SilhouetteConfig | None
) -> tuple[_Plane, list[Scale], MatchConfig]:
    config, plane = config or SilhouetteConfig(), _Plane.of(world, exposure)
    mesh = world.exposures.meshes[int(world.exposures.model[exposure])]
    solid = solid_volume(mesh, replace(MATERIALS[config.material], voxel_mm=config.voxel_mm))
    begin = Rigid(torch.from_numpy(plane.poses(start[None].to(torch.float64))[0]))
    box = settings.SearchConfig(mm=reach_mm, depth=0.0)
    direct = settings.DirectConfig(search=box, coarsest=config.coarsest)
    return plane, build_scales(Problem(solid, (exposed(world, exposure),), begin), direct), direct.match


def _ended(
    plane: _Plane, scales: list[Scale], places: Tensor, looks: int, begun: float, config: SilhouetteConfig | None
) -> Found:
    """From coarse to fine, all places; the best of them at the finest level."""
    states = list(places.numpy())
    ends: list[tuple[float, Array]] = []
    for scale in reversed(scales):
        ends = []
        for state in states:
            cost, end, count = _stepped(plane, scale, state, (config or SilhouetteConfig()).iterations)
            looks += count
            ends.append((cost, end))
        states = [end for _, end in ends]
    cost, end = min(ends, key=lambda e: e[0])
    return Found(torch.from_numpy(end), -cost, time.process_time() - begun, looks)


def _stepped(plane: _Plane, scale: Scale, state: Array, iterations: int) -> tuple[float, Array, int]:
    """Levenberg-Marquardt in x, y and turn at one level: cost there, where it ended, pictures that were compared.

    As in ``registration.refinement``: the floor of the residual variance begins at the mean residual and follows it down.
    """
    finest = scale.index == 0
    match = replace(MatchConfig(), step=MatchConfig().finest_step) if finest else MatchConfig()
    masks = answered(scale.model, scale.images, plane.poses(torch.from_numpy(state)[None])[0])  # a closed surface answers for all
    windows = [windows_of(image, mask, match) for image, mask in zip(scale.images, masks, strict=True)]
    seen = _seen(plane, scale, state, windows, match)
    none = np.zeros(len(scale.images))
    floor = seen.judged(none).noise
    now, damping, count = seen.normal(floor), 1e-4, 1
    for _ in range(iterations):
        h, g = plane.basis.T @ now.hessian @ plane.basis, plane.basis.T @ now.gradient
        better = None
        for _ in range(_TRIES):
            damped = h + damping * np.diag(np.diag(h)) + 1e-9 * max(float(np.trace(h)), 1e-12) * np.eye(3)
            step = np.linalg.solve(damped, g)
            if np.abs(step).max() < _STILL:
                break
            trial = _seen(plane, scale, state + step, windows, match)
            count += 1
            judged = trial.judged(floor)
            if judged.cost < now.cost:
                better = trial
                break
            damping *= 10
        if better is None:
            break
        state, seen, damping = state + step, better, damping / 10
        floor = np.minimum(floor, judged.noise)
        now = seen.normal(floor)
    return seen.judged(none).cost, state, count


def _seen(plane: _Plane, scale: Scale, state: Array, windows: list[Windows], match: MatchConfig) -> Comparison:
    pose = plane.poses(torch.from_numpy(state)[None])[0]
    return compare(scale.model, scale.images, render(scale.model, scale.images, pose, match, threaded=False), windows, match)
