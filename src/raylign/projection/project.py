"""Digitally reconstructed radiographs: line integrals of a volume under poses and views."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.geometry.view import as_views
from raylign.projection import operator


def project(
    volume: Volume,
    views: View | Sequence[View],
    poses: Float[Tensor, "P 4 4"] | Rigid | None = None,
    *,
    step: float | None = None,
) -> Float[Tensor, "P V H W"]:
    """Line integrals of attenuation along every ray of every view under every pose.

    Parameters
    ----------
    volume: attenuation in 1/mm, or HU, which ``Volume.attenuation`` converts first (70 keV).
    views: one exposure's geometry or several of one shape.
    poses: ``T_world_from_volume``, [P, 4, 4] or [4, 4]; the identity where none is given.
    step: mm between samples along a ray; half the smallest voxel pitch where none is given.

    Returns
    -------
    [P, V, H, W], dimensionless (1/mm times mm). float32 from the kernel; float64 where the volume is float64.

    Differentiable by the poses and by every number that a view is made of (angles, distances, pixel size). Where the volume
    requires a gradient the PyTorch reference renders, which is slow but differentiable by everything.

    Raises
    ------
    InputError: views of different shapes, a pose that is no 4x4 matrix, a step that is not positive.
    """
    many = as_views(views)
    if poses is None:
        poses = torch.eye(4, dtype=torch.float64)
    matrices = poses.matrix if isinstance(poses, Rigid) else torch.as_tensor(poses).to(torch.float64)
    if matrices.shape[-2:] != (4, 4) or matrices.ndim not in (2, 3):
        raise InputError(f"poses of shape {tuple(matrices.shape)} are not 4x4 matrices", field="poses")
    matrices = matrices.reshape(-1, 4, 4)
    attenuation = volume.attenuation()
    step = min(volume.spacing) / 2 if step is None else step
    if not (math.isfinite(step) and step > 0):
        raise InputError(f"a step of {step} mm is not a positive length", field="step")
    rays = torch.stack([voxel_rays(volume, view, matrix) for matrix in matrices for view in many])
    counts = [samples_per_ray(view, step) for view in many] * len(matrices)
    shape = many[0].shape
    integrals = operator.integrals(attenuation.data, rays, shape, counts).unflatten(0, (len(matrices), len(many)))
    lengths = torch.stack([view.rays()[1].norm(dim=-1) for view in many])
    return integrals * lengths.to(integrals.dtype)


def voxel_rays(volume: Volume, view: View, pose: Float[Tensor, "4 4"]) -> Float[Tensor, "4 3"]:
    """A view's source, first pixel minus source, column step and row step in the voxel coordinates (x, y, z) of a volume."""
    voxel_from_world = torch.linalg.inv(pose @ volume.affine)
    source = se3.transform(voxel_from_world, view.source[None])[0]
    steps = torch.stack([view.origin - view.source, view.column_step, view.row_step]) @ voxel_from_world[:3, :3].T
    return torch.cat([source[None], steps])


def samples_per_ray(view: View, step: float) -> int:
    """Samples on a whole ray, source to detector, so that they are at most ``step`` mm apart on the longest one."""
    h, w = view.shape
    with torch.no_grad():
        corners = torch.tensor([[0, 0], [w - 1, 0], [0, h - 1], [w - 1, h - 1]], dtype=torch.float64)
        pixels = view.origin + corners @ torch.stack([view.column_step, view.row_step])
        return max(1, math.ceil(float((pixels - view.source).norm(dim=1).max()) / step))
