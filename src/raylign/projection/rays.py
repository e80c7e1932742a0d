"""Views and poses as the rays that the kernels take: six vectors in voxel coordinates, and samples on each ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raylign.data import LabelMap, Volume
from raylign.errors import InputError
from raylign.geometry import Rigid, View


def pose_matrices(poses: Any = None) -> Float[Tensor, "P 4 4"]:
    """``T_world_from_volume`` of every pose, float64: from [P, 4, 4], [4, 4], a Rigid or several; the identity for ``None``.

    Raises
    ------
    InputError: not 4x4 matrices of numbers.
    """
    if poses is None:
        return torch.eye(4, dtype=torch.float64)[None]
    if isinstance(poses, Rigid):
        return poses.matrix[None]
    if isinstance(poses, list | tuple) and poses and all(isinstance(p, Rigid) for p in poses):
        return torch.stack([p.matrix for p in poses])
    try:
        matrices = torch.as_tensor(poses).to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"not matrices of numbers ({error})", field="poses", remedy="give a tensor [P, 4, 4]") from None
    if matrices.ndim not in (2, 3) or matrices.shape[-2:] != (4, 4):
        raise InputError(f"poses of shape {tuple(matrices.shape)} are not 4x4 matrices", field="poses")
    return matrices.reshape(-1, 4, 4)


def ray_batch(
    affine: Float[Tensor, "4 4"], views: Sequence[View], matrices: Float[Tensor, "P 4 4"], device: torch.device
) -> Float[Tensor, "P V n 3"]:
    """Rays of every view under every pose in the voxel coordinates (x, y, z) of a grid; see ``reference``.

    n is 4 where all views are cones, whose ``ou`` and ``ov`` are zero, and 6 otherwise. Differentiable by views and poses.
    Nothing waits for an accelerator on which all arguments already lie.

    Raises
    ------
    InputError: a pose that is singular or not finite (looked at on the CPU only).
    """
    rows = 4 if all(view.beam == "cone" for view in views) else 6
    vectors = torch.stack([view.ray_vectors[:rows] for view in views]).to(device)
    world_from_voxel = matrices.to(device) @ affine.to(device)
    x, y, z = world_from_voxel[:, :3, :3].unbind(-1)
    # the inverse by cross products: that of LAPACK's kind would wait for an accelerator to look at its pivots
    yz = torch.linalg.cross(y, z)
    across = torch.stack([yz, torch.linalg.cross(z, x), torch.linalg.cross(x, y)], -1)
    inverse = across / (x * yz).sum(-1)[:, None, None]  # transposed, as it multiplies rows
    shift = -(world_from_voxel[:, None, :3, 3] @ inverse)
    begin = vectors[None, :, :1] @ inverse[:, None] + shift[:, None]
    rays = torch.cat([begin, vectors[None, :, 1:] @ inverse[:, None]], 2)
    if device.type == "cpu" and not torch.compiler.is_compiling() and not bool(torch.isfinite(rays.detach()).all()):
        raise InputError(
            "a pose is singular or not finite", field="poses", remedy="give rigid matrices T_world_from_volume in millimetres"
        )
    return rays


def voxel_rays(volume: Volume, view: View, pose: Float[Tensor, "4 4"]) -> Float[Tensor, "n 3"]:
    """A view's rays in the voxel coordinates (x, y, z) of a volume: o00, d00, du, dv, and ou, ov of a parallel beam."""
    return ray_batch(volume.affine, (view,), pose[None], pose.device)[0, 0]


def ray_lengths(views: Sequence[View], device: torch.device, dtype: torch.dtype) -> Float[Tensor, "V H W"]:
    """World mm of every ray, what an integral over t in [0, 1] is multiplied by."""
    return torch.stack([view.ray_lengths().to(device=device, dtype=dtype) for view in views])


def checked_step(step: float) -> float:
    """A distance between samples.

    Raises
    ------
    InputError: not a positive length.
    """
    if not (math.isfinite(step) and step > 0):
        raise InputError(f"a step of {step} mm is not a positive length", field="step")
    return step


def default_step(grid: Volume | LabelMap) -> Float[Tensor, ""]:
    """Half the smallest voxel pitch, mm."""
    return grid.affine[:3, :3].norm(dim=0).amin() / 2


def sample_counts(views: Sequence[View], step: float | Float[Tensor, ""]) -> Int64[Tensor, " V"]:
    """Samples on a whole ray of each view, so that they are at most ``step`` mm apart on the longest one."""
    with torch.no_grad():
        vectors = torch.stack([view.ray_vectors for view in views])
        d, du, dv = vectors[:, 1], vectors[:, 2], vectors[:, 3]
        h, w = views[0].shape
        corners = torch.stack([d + c * du + r * dv for c in (0, w - 1) for r in (0, h - 1)])
        if isinstance(step, Tensor):
            step = step.to(corners.device)
        return (corners.norm(dim=-1).amax(0) / step).ceil().clamp_min(1).to(torch.int64)


def samples_per_ray(view: View, step: float) -> int:
    """Samples on a whole ray, source to detector, so that they are at most ``step`` mm apart on the longest one."""
    return int(sample_counts((view,), step)[0])
