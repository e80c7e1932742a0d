"""Where a map of a box onto itself takes a given value: the inverse of a deformation at points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.simulation.velocity import at_points

_CLOSE_MM = 1e-4
_ENOUGH_MM = 1e-3


def inverted(
    pull: Float[Tensor, "3 d h w"],
    guess: Float[Tensor, "3 d h w"],
    spacing: tuple[float, float, float],
    target: Float[Tensor, "N 3"],
) -> Float[Tensor, "N 3"]:
    """Places y in the box with ``y + pull(y) = target`` to 0.001 mm, mm from the first node along the grid's axes.

    Newton's method with the slope at the first guess; where that does not meet, once more with the slope of every step and no
    step that makes it worse.

    Parameters
    ----------
    pull: displacement of the map, trilinear between nodes.
    guess: displacement that nearly is the inverse's.
    target: inside the box.

    Raises
    ------
    InputError: a point that is not found, which a map that does not fold never has.
    """
    field = pull.to(target)
    box = target.new_tensor([s * (n - 1) for s, n in zip(spacing, reversed(pull.shape[1:]), strict=True)])

    def miss(y: Tensor, goal: Tensor) -> Tensor:
        return y + at_points(field, y, spacing) - goal

    def slope(y: Tensor) -> Tensor:
        columns = []
        for axis, h in enumerate(spacing):
            e = torch.zeros(3, dtype=y.dtype, device=y.device)
            e[axis] = 0.05 * h
            low, high = (y - e).clamp_min(0), (y + e).minimum(box)
            length = (high - low)[:, axis, None]
            columns.append((high - low + at_points(field, high, spacing) - at_points(field, low, spacing)) / length)
        return torch.stack(columns, -1)

    y = start = (target + at_points(guess.to(target), target, spacing)).clamp_min(0).minimum(box)
    inverse = torch.linalg.inv(slope(y))
    off = miss(y, target)
    for _ in range(15):
        if float(off.norm(dim=1).max()) < _CLOSE_MM:
            return y
        y = (y - (inverse @ off[..., None])[..., 0]).clamp_min(0).minimum(box)
        off = miss(y, target)
    left = (off.norm(dim=1) >= _CLOSE_MM).nonzero()[:, 0]
    if len(left) == 0:
        return y
    goal, z = target[left], start[left]
    off = miss(z, goal)
    for _ in range(100):
        far = off.norm(dim=1)
        if float(far.max()) < _CLOSE_MM:
            break
        step = (torch.linalg.inv(slope(z)) @ off[..., None])[..., 0]
        done = torch.zeros_like(far, dtype=torch.bool)
        for part in (1.0, 0.5, 0.25, 0.1, 0.03):
            trial = (z - part * step).clamp_min(0).minimum(box)
            value = miss(trial, goal)
            better = ~done & (value.norm(dim=1) < far)
            z, off = torch.where(better[:, None], trial, z), torch.where(better[:, None], value, off)
            done |= better
    if float(off.norm(dim=1).max()) > _ENOUGH_MM:
        raise InputError("the deformation cannot be inverted at a point", field="points", remedy="take smoother velocities")
    return y.index_copy(0, left, z)
