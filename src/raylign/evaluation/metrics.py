"""How far a pose is from the truth, in the field's own measures.

Definitions as in van de Kraats, Penney, Tomaževič, van Walsum and Niessen, "Standardized evaluation methodology for 2-D-3-D
registration" (IEEE TMI 2005), and Markelj et al., "A review of 3D/2D registration methods" (Medical Image Analysis 2012).

Every function takes estimated poses with any leading batch shape and one gold pose, both ``T_world_from_volume``, and target
points in volume LPS mm; it returns one number in mm for each estimate. All are differentiable by the poses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.registration.symmetry import Symmetry, turned

Pose = Rigid | Tensor


@dataclass(frozen=True)
class PoseError:
    """One pose's error split along the directions of one view.

    Parameters
    ----------
    in_plane: mm, in the plane through the targets' centroid at a right angle to its ray.
    depth: mm along that ray, positive away from the source.
    rotation: degrees about the image's horizontal, its vertical and the ray, each turning as a right-handed rotation about the
        direction of the columns, of the rows and away from the source.
    angle: degrees of the whole rotation.
    """

    in_plane: float
    depth: float
    rotation: tuple[float, float, float]
    angle: float


def _matrix(pose: Pose) -> Tensor:
    matrix = pose.matrix if isinstance(pose, Rigid) else torch.as_tensor(pose, dtype=torch.float64)
    if matrix.shape[-2:] != (4, 4):
        raise InputError(f"a pose is a 4x4 matrix, got shape {tuple(matrix.shape)}", field="pose")
    return matrix


def _points(points: Tensor) -> Tensor:
    p = torch.as_tensor(points, dtype=torch.float64)
    if p.ndim != 2 or p.shape[1] != 3 or p.shape[0] == 0:
        raise InputError(f"targets are points [N, 3] with N > 0, got shape {tuple(p.shape)}", field="points")
    return p


def _views(views: View | Sequence[View]) -> tuple[View, ...]:
    many = (views,) if isinstance(views, View) else tuple(views)
    if not many:
        raise InputError("no view was given", field="views", remedy="projected distances need at least one")
    return many


def mtre(poses: Pose, gold: Pose, points: Float[Tensor, "n 3"]) -> Float[Tensor, "*batch"]:
    """Mean target registration error: mean over the targets of ``|T p - T_gold p|``, mm in three dimensions."""
    p = _points(points)
    return (se3.transform(_matrix(poses), p) - se3.transform(_matrix(gold), p)).norm(dim=-1).mean(-1)


def mpd(poses: Pose, gold: Pose, points: Float[Tensor, "n 3"], views: View | Sequence[View]) -> Float[Tensor, "*batch"]:
    """Mean projection distance: between the targets' images under both poses, mm on the detector; mean over views."""
    p = _points(points)
    estimate, truth = se3.transform(_matrix(poses), p), se3.transform(_matrix(gold), p)
    total = []
    for view in _views(views):
        steps = torch.stack([view.column_step, view.row_step])
        total.append(((view.project(estimate) - view.project(truth)) @ steps).norm(dim=-1).mean(-1))
    return torch.stack(total).mean(0)


def mrpd(poses: Pose, gold: Pose, points: Float[Tensor, "n 3"], views: View | Sequence[View]) -> Float[Tensor, "*batch"]:
    """Mean reprojection distance: from each gold target to the ray through its estimate, mm; mean over views.

    The standard measure with a single view: it does not see an error in depth along the ray.
    """
    p = _points(points)
    estimate, truth = se3.transform(_matrix(poses), p), se3.transform(_matrix(gold), p)
    total = []
    for view in _views(views):
        ray = view.directions(estimate)
        total.append(torch.linalg.cross(ray, truth - estimate).norm(dim=-1).mean(-1))
    return torch.stack(total).mean(0)


def cross_tre(poses: Pose, gold: Pose, centre: Float[Tensor, "3"], view: View, arm: float = 10.0) -> Float[Tensor, "*batch"]:
    """Two-dimensional registration error of a cross at a landmark, as Toth et al. (2018) measure it, mm.

    The cross lies in the plane through the landmark's gold position that is parallel to the detector: its centre and its four
    ends, ``arm`` mm along the directions of columns and rows. Its points move with the model and are projected. Their mean
    distance on the detector is divided by the magnification at the landmark: mm in that plane, not on the detector.

    Parameters
    ----------
    centre: of the cross, volume LPS mm (Toth et al.: of the left ventricle).

    Raises
    ------
    InputError: a cross of no length, or a landmark that is not between source and detector.
    """
    if not 0 < arm < float("inf"):
        raise InputError(f"a cross of {arm} mm", field="arm", remedy="give a positive length in mm")
    truth = _matrix(gold)
    middle = se3.transform(truth, _points(torch.as_tensor(centre, dtype=torch.float64)[None]))
    across, down = (step / step.norm() for step in (view.column_step, view.row_step))
    normal = torch.linalg.cross(across, down)
    depth, far = ((p - view.source) @ normal for p in (middle[0], view.origin))
    if not 0 < float(depth / far) < 1:
        raise InputError("the landmark is not between source and detector", field="centre")
    offsets = arm * torch.stack([0 * across, across, -across, down, -down])
    cross = se3.transform(se3.inverse(truth), middle + offsets)
    return mpd(poses, gold, cross, view) * (depth / far)


def symmetric_error(
    error: Callable[[Tensor, Tensor], Tensor], pose: Pose, gold: Pose, symmetry: Symmetry
) -> tuple[float, Float[Tensor, "4 4"]]:
    """The least error of a pose over those that its model looks the same in.

    Parameters
    ----------
    error: of estimates [K, 4, 4] against a gold pose, one number each: ``lambda pose, gold: mtre(pose, gold, points)``.
    pose, gold: ``T_world_from_volume``.
    symmetry: of the model's surface. A free turn about an axis is looked through by degrees and then finely, to under 0.01
        degrees; one of a ball is the turn between the two poses.

    Returns
    -------
    The error, and the equivalent of ``pose`` that has it.
    """
    matrix, truth = _matrix(pose), _matrix(gold)
    candidates = matrix @ symmetry.maps
    if symmetry.ball:
        relative = truth[:3, :3].T @ candidates[:, :3, :3]
        candidates = candidates @ symmetry.about_centre(relative.transpose(-1, -2))
    if symmetry.axis is not None:
        span, steps = math.pi, 361
        for _ in range(3):
            turns = symmetry.about_centre(turned(symmetry.axis, torch.linspace(-span, span, steps, dtype=torch.float64)))
            many = (candidates[:, None] @ turns[None]).flatten(0, 1)
            candidates = many[error(many, truth).argmin()][None]
            span, steps = 2 * span / (steps - 1), 41
    errors = error(candidates, truth)
    best = int(errors.argmin())
    return float(errors[best]), candidates[best]


def view_axes(view: View, point: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """Unit vectors as rows: image horizontal, image vertical, and depth (away from the source), for a world point in mm.

    Depth is the direction of the ray through the point. The horizontal is that of the columns made perpendicular to the ray, and
    the vertical completes them on the side of the rows, so the frame is orthonormal whatever the pixel grid; it is left-handed
    in the usual display, which looks from the detector towards the source.
    """
    depth = view.directions(torch.as_tensor(point, dtype=torch.float64))
    across = view.column_step - (view.column_step @ depth) * depth
    across = across / across.norm()
    down = torch.linalg.cross(depth, across)
    return torch.stack([across, torch.where(down @ view.row_step < 0, -down, down), depth])


def pose_error(pose: Pose, gold: Pose, points: Float[Tensor, "n 3"], view: View) -> PoseError:
    """The error of one pose split into in-plane, depth and rotations, as one view sees it, about the targets' centroid."""
    centroid = _points(points).mean(0, keepdim=True)
    a, b = _matrix(pose), _matrix(gold)
    at, gold_at = se3.transform(a, centroid)[0], se3.transform(b, centroid)[0]
    axes = view_axes(view, gold_at)
    shift = axes @ (at - gold_at)
    turn = torch.rad2deg(axes @ se3.log_rotation(a[:3, :3] @ b[:3, :3].T))
    x, y, z = turn.tolist()
    return PoseError(float(shift[:2].norm()), float(shift[2]), (x, y, z), float(turn.norm()))
