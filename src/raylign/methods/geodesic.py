"""Distances between poses, and their gradients: the left-invariant ("left canonical") metric of SE(3) of Gao et al. 2024.

A pose is a 4x4 matrix whose translation is where the model's middle lies (mm), so that turns are about that middle. Lengths are
made comparable by a unit: so many mm count like a radian. At the identity the metric is the plain one of (turn, shift), and it is
carried elsewhere by the group. Rotations and translations do not mix in it, so that geodesics are turns at constant speed along
straight lines:

    L(a, b) = |log(Ra^T Rb)|^2 + |tb - ta|^2 / unit^2

``geomstats``, which the paper took, gives the same numbers; ``tests/methods`` holds that.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.geometry import se3


def squared(a: Float[Tensor, "*batch 4 4"], b: Float[Tensor, "*batch 4 4"], unit_mm: float) -> Float[Tensor, "*batch"]:
    """Squared geodesic distance of poses; ``unit_mm``: as many mm count like a radian."""
    apart = downhill(a, b, unit_mm)
    return (apart * apart).sum(-1)


def downhill(
    moving: Float[Tensor, "*batch 4 4"], target: Float[Tensor, "*batch 4 4"], unit_mm: float
) -> Float[Tensor, "*batch 6"]:
    """The motion (turn in radians, shift in units, world axes) that leads from ``moving`` to ``target``, by ``moved``.

    It is minus half the gradient of ``squared`` by that motion.
    """
    turn = se3.log_rotation(target[..., :3, :3] @ moving[..., :3, :3].transpose(-1, -2))
    return torch.cat([turn, (target[..., :3, 3] - moving[..., :3, 3]) / unit_mm], -1)


def moved(pose: Float[Tensor, "*batch 4 4"], motion: Float[Tensor, "*batch 6"], unit_mm: float) -> Float[Tensor, "*batch 4 4"]:
    """A pose turned about its middle (radians, world axes) and shifted (units)."""
    return se3.from_parts(_turn(motion) @ pose[..., :3, :3], pose[..., :3, 3] + unit_mm * motion[..., 3:])


def between(a: Float[Tensor, "*batch 6"], b: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch"]:
    """Squared geodesic distance of two motions taken for poses: how far a predicted gradient is off (the paper's M_dist)."""
    turn = se3.log_rotation(_turn(a).transpose(-1, -2) @ _turn(b))
    return (turn * turn).sum(-1) + ((a - b)[..., 3:] ** 2).sum(-1)


def _turn(motion: Tensor) -> Tensor:
    """The rotation of a motion."""
    still = torch.zeros_like(motion[..., :3])
    return se3.exp(torch.cat([motion[..., :3], still], -1))[..., :3, :3]
