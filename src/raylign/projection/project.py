"""Digitally reconstructed radiographs: line integrals of volumes under poses and views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.geometry.view import as_views
from raylign.projection import operator
from raylign.projection.accuracy import checked_error, step_within
from raylign.projection.rays import (
    checked_step,
    default_step,
    pose_matrices,
    ray_batch,
    ray_lengths,
    sample_counts,
    samples_per_ray,
    voxel_rays,
)
from raylign.projection.reference import checked_model
from raylign.projection.storage import numbers

__all__ = ["project", "samples_per_ray", "voxel_rays"]

Poses = Float[Tensor, "P 4 4"] | Rigid


def project(
    volume: Volume | Sequence[Volume],
    views: View | Sequence[View],
    poses: Poses | Sequence[Poses | None] | None = None,
    *,
    step: float | None = None,
    error: float | None = None,
    model: str = "trilinear",
) -> Float[Tensor, "P V H W"]:
    """Line integrals of attenuation along every ray of every view under every pose.

    Parameters
    ----------
    volume: attenuation in 1/mm, or HU, which ``Volume.attenuation`` converts first (70 keV). Several volumes are one exposure of
        all of them, each on a grid of its own: their integrals add up. Where two overlap, both attenuate.
    views: one exposure's geometry or several of one shape; cones and parallel beams may be mixed.
    poses: ``T_world_from_volume``, [P, 4, 4] or [4, 4]; the identity where none is given. With several volumes, one tensor moves
        them all, and a list has one entry for each volume: [P, 4, 4], or [4, 4] for one that stays where it is.
    step: mm between samples along a ray of the trilinear model; half the smallest voxel pitch of each volume where neither this
        nor ``error`` is given.
    error: in place of a step, the integration error that is asked for, relative and root mean square over the pixels, against
        the exact integral of the trilinear interpolant. The step is chosen by measuring on a few hundred rays
        (``accuracy.step_within``), again at every call: in a loop, choose it once.
    model: what the volume is between its voxels, and so what is summed. "trilinear": the interpolant at equidistant samples;
        "joseph": the interpolant where a ray crosses the planes of voxels that it is steepest to; "siddon": exactly, over voxels
        of constant value. ``reference`` says more.

    Returns
    -------
    [P, V, H, W], dimensionless (1/mm times mm). float32 from the kernel; float64 where the volume is float64.

    Differentiable by the volume, by the poses, and by every number that a view is made of (angles, distances, pixel size). A
    volume that was ``stored`` is a constant. The choice of a step is no part of what is differentiated.

    Raises
    ------
    InputError: views of different shapes; poses that are no 4x4 matrices, or not as many as fit; a step or an error that is not
        positive, or both, or either with a model that has no step; volumes of which some only are "raw".
    """
    many = as_views(views)
    checked_model(model)
    if step is not None and error is not None:
        raise InputError("a step and an error are both given", field="step", remedy="give one of them")
    if model != "trilinear" and not (step is None and error is None):
        given = "step" if error is None else "error"
        raise InputError(f"the {model} model takes no samples to space", field=given, remedy=f"leave {given} out")
    if step is not None:
        checked_step(step)
    if error is not None:
        checked_error(error)
    volumes, matrices = _exposed(volume, poses)
    total = None
    for one, placed in zip(volumes, matrices, strict=True):
        spaced: float | Tensor
        if error is None:
            spaced = default_step(one) if step is None else step
        else:
            spaced = step_within(error, one, many, placed)
        image = _line_integrals(one, many, placed, sample_counts(many, spaced), model)
        total = image if total is None else total + image
    assert total is not None
    return total


def _line_integrals(
    volume: Volume, views: Sequence[View], matrices: Float[Tensor, "P 4 4"], counts: Int64[Tensor, " V"], model: str
) -> Float[Tensor, "P V H W"]:
    data, scale = numbers(volume)
    rays = ray_batch(volume.affine, views, matrices, data.device)
    samples = counts.to(data.device).repeat(len(matrices))
    integrals = operator.integrals(data, rays.flatten(0, 1), views[0].shape, samples, model).unflatten(0, rays.shape[:2])
    lengths = ray_lengths(views, integrals.device, integrals.dtype)
    return integrals * (lengths if scale is None else lengths * scale)


def _exposed(volume: Volume | Sequence[Volume], poses: Any) -> tuple[tuple[Volume, ...], list[Float[Tensor, "P 4 4"]]]:
    """Every volume with its poses, as many of them for each or one."""
    if isinstance(volume, Volume):
        return (volume,), [pose_matrices(poses)]
    volumes = tuple(volume)
    if not volumes or not all(isinstance(v, Volume) for v in volumes):
        raise InputError("expected a volume or several", field="volume", remedy="give Volume objects, at least one")
    raw = [v.unit == "raw" for v in volumes]
    if any(raw) and not all(raw):
        raise InputError(
            "raw numbers and attenuation do not add up",
            field="volume",
            remedy="give all volumes in 1/mm or HU, or all of them in raw numbers of one kind",
        )
    if not isinstance(poses, list | tuple):
        shared = pose_matrices(poses)
        return volumes, [shared] * len(volumes)
    if len(poses) != len(volumes):
        raise InputError(
            f"{len(poses)} entries for {len(volumes)} volumes",
            field="poses",
            remedy="give one for each volume, or one tensor for all",
        )
    matrices = [pose_matrices(p) for p in poses]
    counts = {len(m) for m in matrices} - {1}
    if len(counts) > 1:
        raise InputError(
            f"{', '.join(str(len(m)) for m in matrices)} poses of volumes that are exposed together",
            field="poses",
            remedy="give as many for each volume, or one",
        )
    return volumes, matrices
