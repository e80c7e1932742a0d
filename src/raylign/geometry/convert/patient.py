"""LPS and RAS, and rigid transforms as ITK and 3D Slicer keep them.

ITK: LPS mm, ``y = A (x - c) + c + t``, mapping points of the fixed (reference) image to the moving one, the way resampling
needs it. With the world fixed and the CT moving that is the inverse of our pose. 3D Slicer: scene in RAS, matrices "to parent",
so a CT put under our pose is moved to where it lies in the world; its files hold ITK's, inverted and in LPS.

Source: ITK Software Guide, section 3.9 (MatrixOffsetTransformBase); Slicer developer guide, "Transforms".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.geometry import se3
from raylign.geometry.convert.pinhole import matrix
from raylign.geometry.transform import Rigid

_FLIP = (-1.0, -1.0, 1.0, 1.0)


def _flip(m: Tensor) -> Tensor:
    f = torch.tensor(_FLIP, dtype=torch.float64)
    return f[:, None] * m * f


def ras_from_lps(m: Any) -> Float[Tensor, "4 4"]:
    """A 4x4 map between LPS frames as the same map between RAS frames: ``F m F``, ``F = diag(-1, -1, 1, 1)``."""
    return _flip(matrix(m, (4, 4), "matrix"))


def lps_from_ras(m: Any) -> Float[Tensor, "4 4"]:
    """The inverse of ``ras_from_lps``, which is its own inverse; two names so that code reads in one direction."""
    return _flip(matrix(m, (4, 4), "matrix"))


@dataclass(frozen=True, eq=False)
class ITKTransform:
    """``y = matrix (x - centre) + centre + translation``, LPS mm."""

    matrix: Float[Tensor, "3 3"]
    centre: Float[Tensor, "3"]
    translation: Float[Tensor, "3"]


def to_itk(m: Any, centre: Any = (0.0, 0.0, 0.0)) -> ITKTransform:
    """ITK's parameters, about ``centre`` (LPS mm), of a 4x4 affine map; the centre changes the numbers, not the map."""
    m, c = matrix(m, (4, 4), "matrix"), matrix(centre, (3,), "centre")
    return ITKTransform(m[:3, :3], c, m[:3, 3] + m[:3, :3] @ c - c)


def from_itk(transform: ITKTransform) -> Float[Tensor, "4 4"]:
    """The 4x4 map of ITK's parameters."""
    a, c = matrix(transform.matrix, (3, 3), "matrix"), matrix(transform.centre, (3,), "centre")
    return se3.from_parts(a, matrix(transform.translation, (3,), "translation") + c - a @ c)


def pose_to_itk(pose: Rigid, centre: Any = (0.0, 0.0, 0.0)) -> ITKTransform:
    """The ITK transform of a pose: world (fixed) to volume (moving), ``inverse(T_world_from_volume)``; centre in world mm."""
    return to_itk(pose.inverse().matrix, centre)


def pose_from_itk(transform: ITKTransform) -> Rigid:
    """The pose of an ITK transform that maps the world (fixed) to the volume (moving).

    Raises
    ------
    InputError: the transform is not rigid.
    """
    return Rigid(from_itk(transform)).inverse()


def to_slicer(pose: Rigid) -> Float[Tensor, "4 4"]:
    """Slicer's "transform to parent" matrix (RAS mm) for the node under which the CT is put to show it in the world."""
    return ras_from_lps(pose.matrix)


def from_slicer(to_parent: Any) -> Rigid:
    """The pose of a Slicer "transform to parent" matrix (RAS mm).

    Raises
    ------
    InputError: the matrix is not rigid.
    """
    return Rigid(lps_from_ras(to_parent))
