"""The projector on the CPU, as arrays: line integrals and slopes of many rays in one call, spread over the threads.

The meaning of every number is defined by ``reference.py``; the tests hold the kernels to it. Kernels: ``cpu_forward``,
``cpu_adjoint``, ``cpu_siddon``, ``cpu_curvature``, ``cpu_labels``. Each ray is summed by one thread in one order, so results do
not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylign.projection import cpu_forward, cpu_siddon
from raylign.projection.cpu_grid import Grid, grid, grid_around, inner, padded_zeros
from raylign.projection.cpu_shadow import finite, lit, shadow
from raylign.projection.threads import pool, run_chunks, threads

__all__ = ["Grid", "forward", "grid", "grid_around", "inner", "kernel_of", "padded_zeros", "pool", "run_chunks", "six", "threads"]


def six(rays: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B, 6, 3] rays: the two steps of the origin are zero where [B, 4, 3] was given (one source for all rays of a view)."""
    if rays.shape[1] == 4:
        rays = np.concatenate([rays, np.zeros((rays.shape[0], 2, 3))], 1)
    return np.ascontiguousarray(rays, np.float64)


def kernel_of(model: str, storage: int, gradients: bool) -> Any:
    """The kernel of an interpolation model, by name."""
    made = {"trilinear": cpu_forward.trilinear, "joseph": cpu_forward.joseph, "siddon": cpu_siddon.forward}
    return made[model](storage, gradients)


def _worth_following(
    volume: Grid, rays: NDArray[np.float64], shape: tuple[int, int], mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """The pixels [B H W] that are wanted without those that a sparse volume cannot show, and between which t it can be met.

    The latter [2, B H W]; [2, 0] of a volume that is not sparse. No pixels of a view whose rays are no numbers: the kernels would
    read anywhere.
    """
    wanted = np.ones((len(rays), *shape), np.bool_) if mask is None else np.ascontiguousarray(mask)
    sound = [finite(view) for view in rays]
    if not all(sound):
        wanted = wanted & np.array(sound)[:, None, None]
    if rays.shape[1] != 4 or volume.blocks is None:
        return wanted.reshape(-1), np.empty((2, 0), np.float32)
    everywhere = np.array([0, 1], np.float32)[:, None, None]
    shadows = [shadow(volume.blocks, view, shape) if good else None for view, good in zip(rays, sound, strict=True)]
    parts = [np.broadcast_to(everywhere, (2, *shape)) if dark is None else dark for dark in shadows]
    # of one view, as most calls are, nothing is copied
    reach = (parts[0] if len(parts) == 1 else np.stack(parts, 1)).reshape(2, -1)
    return lit(wanted.reshape(-1), reach), reach


def forward(
    volume: Grid,
    rays: NDArray[np.float64],
    shape: tuple[int, int],
    samples: NDArray[np.int64],
    mask: NDArray[np.bool_] | None = None,
    *,
    model: str = "trilinear",
    gradients: bool = False,
    threaded: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Integrals over ``t`` in [0, 1] along the rays of a batch of views.

    Parameters
    ----------
    volume: from ``grid``.
    rays: [B, 4 or 6, 3] float64 in voxel coordinates: source, first pixel minus source, column step, row step; where the rays
        have no common source, the column and row steps of their origins.
    shape: (rows, columns) of every image.
    samples: [B], samples per unit of t (trilinear).
    mask: [B, rows, columns]; pixels that are False are not computed and are 0.
    model: trilinear, joseph or siddon.
    gradients: whether to return the slopes too.
    threaded: whether to spread the rays over all threads; a caller that runs many renderings side by side does not want that.

    Returns
    -------
    [B, rows, columns] float32 and the slopes, [B, rows, columns, 6]: ``S0`` and ``S1`` by voxel axes x, y, z ([0] where they were
    not asked for). Multiply by the length of the ray in mm for a line integral.
    """
    h, w = shape
    batch = rays.shape[0]
    total = batch * h * w
    valid, reach = _worth_following(volume, rays, shape, mask)
    image = np.empty(total, np.float32)
    slopes = np.empty((total if gradients else 0, 6), np.float32)
    kernel = kernel_of(model, volume.storage, gradients)
    counts = np.ascontiguousarray(samples, np.int64)
    space = (volume.address, volume.data.shape, volume.occupied, volume.box, volume.culled)
    setting = (*space, six(rays), (h, w), counts, valid, reach)
    if threaded:
        run_chunks(lambda first, last: kernel(*setting, image, slopes, first, last), total)
    else:
        kernel(*setting, image, slopes, 0, total)
    return image.reshape(batch, h, w), slopes.reshape((batch, h, w, 6) if gradients else (0,))
