"""States, actions and rewards (Toth et al. 2018, equations 1 to 3).

A state's three numbers are (x, y, turn): mm along the image's columns and rows, degrees about the detector's normal away from the
source (a right-handed turn), of the model about its own centre. The centre stays in its plane parallel to the detector. Turning
about the centre does not shift it, so motions add up in whatever order they are made, and errors are differences.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.geometry import se3

ACTIONS = torch.tensor(
    [[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=torch.float64
)  # fmt: skip
"""+x, -x, +y, -y (mm), +turn, -turn (degrees); to be multiplied by a step."""


def distance(difference: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B"]:
    """D(T1, T2): "the L2 norm of the parameters of the transformations", a millimetre counting like a degree."""
    return difference.norm(dim=-1)


def rewards(error: Float[Tensor, "*B 3"], step: float = 1.0) -> Float[Tensor, "*B 6"]:
    """Equation 3: by how much each action brings the state nearer to the truth.

    Parameters
    ----------
    error: parameters of the state less those of the truth (mm, mm, degrees).
    step: size of the actions, mm and degrees.
    """
    moved = error[..., None, :] + step * ACTIONS.to(error)
    return distance(error)[..., None] - distance(moved)


def cross_error(error: Float[Tensor, "*B 3"], arm: float = 10.0) -> Float[Tensor, "*B"]:
    """The paper's TRE: mean distance of the five points of a cross at the model's centre, in its plane, mm.

    What ``evaluation.metrics.cross_tre`` measures between two poses, from the error in plane alone, for a view as it is usually
    displayed: (columns, rows, normal) left-handed. In one that is flipped it differs by some thousandths of a mm.
    """
    angle = error[..., 2] * (math.pi / 180)
    ends = arm * torch.tensor([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], dtype=error.dtype, device=error.device)
    turn = torch.stack([angle.cos() - 1, angle.sin(), -angle.sin(), angle.cos() - 1], -1).unflatten(-1, (2, 2))
    moved = error[..., None, :2] + (turn[..., None, :, :] @ ends[..., None])[..., 0]
    return moved.norm(dim=-1).mean(-1)


def image_frame(vectors: Float[Tensor, "B 4 3"]) -> Float[Tensor, "B 3 3"]:
    """Unit vectors as rows: along the columns, along the rows, the detector's normal away from the source.

    ``vectors``: source, origin, column step and row step of each view, world mm.
    """
    source, origin, column, row = vectors.unbind(1)
    across = torch.nn.functional.normalize(column, dim=-1)
    down = torch.nn.functional.normalize(row - (row * across).sum(-1, keepdim=True) * across, dim=-1)
    normal = torch.linalg.cross(across, down)
    away = torch.where(((origin - source) * normal).sum(-1, keepdim=True) < 0, -normal, normal)
    return torch.stack([across, down, away], 1)


def placed(
    base: Float[Tensor, "B 4 4"], centre: Float[Tensor, "B 3"], frame: Float[Tensor, "B 3 3"], state: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 4 4"]:
    """Poses after motions in the image plane: ``p -> R (T p - T c) + T c + x u + y v`` with R a turn about the normal.

    Parameters
    ----------
    base: ``T_world_from_model``, float64. centre: c of each model, model mm. frame: of each view. state: (mm, mm, degrees).
    """
    turn = frame[:, 2] * (state[:, 2:] * (math.pi / 180))
    rotation = se3.exp(torch.cat([turn, torch.zeros_like(turn)], -1))[:, :3, :3]
    at = (base[:, :3, :3] @ centre[..., None])[..., 0] + base[:, :3, 3]
    shift = state[:, :1] * frame[:, 0] + state[:, 1:2] * frame[:, 1]
    left = se3.from_parts(rotation, at + shift - (rotation @ at[..., None])[..., 0])
    return left @ base
