"""Where two bones that lie in one frame turn against each other: the centre of the ball that one shows to the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.registration.collision import Solid, distances, solid_of
from raylign.registration.pyramid import Array64

_PITCH = 2.0  # mm of the distance fields
_ROUNDS = 6
_FEWEST = 30  # points of a contact


@dataclass(frozen=True, eq=False)
class Ball:
    """A sphere fitted to the part of one bone's surface that faces another.

    Parameters
    ----------
    centre: [3] mm, in the frame of both. radius: mm. off: mm, root mean square of the points' distances from the sphere.
    """

    centre: Float[Tensor, "3"]
    radius: float
    off: float


def ball_between(socket: Volume, head: Volume, near_mm: float = 7.0) -> Ball:
    """The ball of ``head`` in ``socket``, of two bones as they lie in one scan (a femur in its pelvis).

    A sphere is fitted by least squares to the points of the head's surface that lie within ``near_mm`` of the socket; points far
    off it are left out in turn.

    Raises
    ------
    InputError: the two hardly meet, or where they do is nothing like a ball of 5 to 40 mm.
    """
    remedy = "give the joint's centre"
    bones = [solid_of(v, _PITCH) for v in (socket, head)]
    if bones[0] is None or bones[1] is None:
        raise InputError("a body without anything dense has no joint", field="joints", remedy=remedy)
    points = _facing(bones[1], bones[0], near_mm)
    if len(points) < _FEWEST:
        raise InputError(f"the two bodies come within {near_mm:g} mm at hardly a point", field="joints", remedy=remedy)
    keep = np.ones(len(points), bool)
    for _ in range(_ROUNDS):
        centre, radius = _sphere(points[keep])
        off = np.abs(np.linalg.norm(points - centre, axis=1) - radius)
        keep = off <= max(2.0 * float(np.median(off)), 0.5 * _PITCH)
    rms = float(np.sqrt((off[keep] ** 2).mean()))
    if not 5 <= radius <= 40 or rms > 0.15 * radius or keep.mean() < 0.5:
        raise InputError(
            f"where the two bodies meet is no ball (radius {radius:.0f} mm, {rms:.1f} mm off)", field="joints", remedy=remedy
        )
    return Ball(torch.from_numpy(centre), radius, rms)


def _facing(one: Solid, other: Solid, near: float) -> Array64:
    """Points of a surface that lie near another's, both in one frame."""
    away, _ = distances(other, one.points, np.eye(4))
    return one.points[away < near]


def _sphere(points: Array64) -> tuple[Array64, float]:
    """Centre and radius of the sphere nearest to points in the algebraic sense: ``|p|^2 = 2 c . p + (r^2 - |c|^2)``."""
    middle = points.mean(0)
    shifted = points - middle
    system = np.concatenate([2 * shifted, np.ones((len(points), 1))], 1)
    solution, *_ = np.linalg.lstsq(system, (shifted**2).sum(1), rcond=None)
    centre = solution[:3]
    return np.asarray(centre + middle), float(np.sqrt(max(solution[3] + centre @ centre, 0.0)))
