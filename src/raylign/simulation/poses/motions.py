"""Random rigid motions along and about the axes of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.geometry import se3
from raylign.simulation.poses.laws import Law, fixed

ZERO = fixed(0.0)


@dataclass(frozen=True)
class Motion:
    """Six independent laws: shifts in mm along the image's columns, its rows and its normal, turns in degrees about them.

    The axes are those of a view: ``column`` is the direction in which columns grow (image right), ``row`` that in which rows grow
    (image down), ``depth`` the detector's normal, away from the source. A positive turn is a right-handed rotation about that
    vector. The three turns are about axes that stay in place, about ``column`` first, then ``row``, then ``depth``:
    ``R = R_depth R_row R_column``; the shift comes last.
    """

    column_mm: Law = ZERO
    row_mm: Law = ZERO
    depth_mm: Law = ZERO
    column_deg: Law = ZERO
    row_deg: Law = ZERO
    depth_deg: Law = ZERO

    @property
    def laws(self) -> tuple[Law, ...]:
        return tuple(getattr(self, f.name) for f in fields(self))

    def at(self, u: Float[Tensor, "B 6"]) -> Float[Tensor, "B 6"]:
        """Shifts (mm) and turns (degrees) at the quantiles u."""
        return torch.stack([law.at(q) for law, q in zip(self.laws, u.unbind(1), strict=True)], 1)

    def __str__(self) -> str:
        names = ("columns", "rows", "depth")
        shift, turn = (
            ", ".join(f"{law} {unit} {name}" for law, name in zip(laws, names, strict=True) if law != ZERO)
            for laws, unit in ((self.laws[:3], "mm along"), (self.laws[3:], "degrees about"))
        )
        return "; ".join(part for part in (shift, turn) if part) or "none"


STILL = Motion()


def in_plane(translation: Law, rotation: Law) -> Motion:
    """Shifts along columns and rows and a turn about the depth axis."""
    return Motion(column_mm=translation, row_mm=translation, depth_deg=rotation)


def isotropic(translation: Law, rotation: Law, depth: Law | None = None) -> Motion:
    """The same law for all shifts (but for ``depth``, where it is given) and one for all turns."""
    far = translation if depth is None else depth
    return Motion(translation, translation, far, rotation, rotation, rotation)


def turned(axes: Float[Tensor, "B 3 3"], degrees: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 3"]:
    """Rotation matrices ``R_depth R_row R_column`` of turns about an image's axes (unit vectors as rows)."""
    about = se3.exp(torch.cat([axes * (degrees * (math.pi / 180))[..., None], torch.zeros_like(axes)], -1))[..., :3, :3]
    column, row, depth = about.unbind(-3)
    return depth @ row @ column


def moved(
    base: Float[Tensor, "B 4 4"], centre: Float[Tensor, "3"], rotation: Float[Tensor, "B 3 3"], shift: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 4 4"]:
    """Poses after a rotation of the patient about a point of his and a shift, both in the world.

    ``p -> R (T p - T c) + T c + t`` with ``c`` the centre in volume mm, ``T`` the base pose.
    """
    at = base[..., :3, :3] @ centre + base[..., :3, 3]
    left = se3.from_parts(rotation, at + shift - (rotation @ at[..., None])[..., 0])
    return left @ base
