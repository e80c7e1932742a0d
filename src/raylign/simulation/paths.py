"""Millimetres of water and of bone on each ray through a scan: the simulator's own integrator.

It shares with the renderer of ``raylign.projection`` the geometry of a ``View`` and the threads, nothing else: HU are split into
two materials at every sample, after interpolation, where the renderer interpolates attenuation; samples start at a random depth
on each ray.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.geometry.view import require_cone
from raylign.projection.cpu import run_chunks

SOFT_HU = 100.0  # soft tissue at its densest: above, bone begins
BONE_HU = 1558.0  # cortical bone (ICRU-44) in a scanner of 70 keV effective energy


@numba.njit(cache=True, nogil=True, fastmath=True)
def _march(  # pragma: no cover
    hu: NDArray, source: NDArray, ends: NDArray, step: float, out: NDArray, first_ray: int, last_ray: int
) -> None:
    """Water and bone on rays from ``source`` to ``ends`` [N, 4]: column, row, slice in voxels, then where sampling starts.

    That start and ``step`` are fractions of a step and voxels.
    """
    depth, height, width = hu.shape
    size = (width - 1.0, height - 1.0, depth - 1.0)
    for n in range(first_ray, last_ray):
        dx, dy, dz = ends[n, 0] - source[0], ends[n, 1] - source[1], ends[n, 2] - source[2]
        length = np.sqrt(dx * dx + dy * dy + dz * dz)
        direction = (dx / length, dy / length, dz / length)
        first, last = 0.0, length
        for axis in range(3):
            if abs(direction[axis]) < 1e-9:
                if source[axis] < 0 or source[axis] > size[axis]:
                    last = -1.0
            else:
                a = -source[axis] / direction[axis]
                b = (size[axis] - source[axis]) / direction[axis]
                first, last = max(first, min(a, b)), min(last, max(a, b))
        water, bone = 0.0, 0.0
        if last > first:
            # equal steps that fill the chord exactly; one random offset moves them all
            count = int(np.ceil((last - first) / step))
            pitch = (last - first) / count
            for k in range(count):
                t = first + (k + ends[n, 3]) * pitch
                x, y, z = source[0] + t * direction[0], source[1] + t * direction[1], source[2] + t * direction[2]
                i = min(max(int(x), 0), width - 2)
                j = min(max(int(y), 0), height - 2)
                m = min(max(int(z), 0), depth - 2)
                fx, fy, fz = x - i, y - j, z - m
                low = (hu[m, j, i] * (1 - fx) + hu[m, j, i + 1] * fx) * (1 - fy) + (
                    hu[m, j + 1, i] * (1 - fx) + hu[m, j + 1, i + 1] * fx
                ) * fy
                high = (hu[m + 1, j, i] * (1 - fx) + hu[m + 1, j, i + 1] * fx) * (1 - fy) + (
                    hu[m + 1, j + 1, i] * (1 - fx) + hu[m + 1, j + 1, i + 1] * fx
                ) * fy
                value = low * (1 - fz) + high * fz
                if value > SOFT_HU:
                    part = (value - SOFT_HU) / (BONE_HU - SOFT_HU)
                    bone += part
                    water += max(1 - part, 0.0) * (1 + SOFT_HU / 1000)
                elif value > -1000:
                    water += 1 + value / 1000
            water *= pitch
            bone *= pitch
        out[0, n] = water
        out[1, n] = bone


def path_lengths(
    volume: Volume, view: View, pose: Rigid, generator: torch.Generator, step: float = 0.75
) -> Float[Tensor, "2 H W"]:
    """mm of water (at 1 g/cm3) and of cortical bone (at 1.92 g/cm3) on each ray, float32.

    Parameters
    ----------
    volume: a scan in HU.
    view, pose: the exposure's geometry and ``T_world_from_volume``.
    generator: where on each ray the samples start.
    step: between samples, in voxels of the finest direction.

    Raises
    ------
    InputError: the volume is not in HU, or the view's rays are parallel.
    """
    require_cone(view, "a simulated exposure")
    if volume.unit != "HU":
        raise InputError(
            f"the volume is in {volume.unit}, not in HU", field="unit", remedy="two materials can only be told apart in HU"
        )
    to_voxels = torch.linalg.inv(pose.matrix @ volume.affine)
    seen = view.transformed(to_voxels)
    ends = seen.pixel_centres().reshape(-1, 3).numpy()
    start = torch.rand(len(ends), generator=generator, dtype=torch.float64).numpy()
    rays = np.concatenate([ends, start[:, None]], 1)
    out = np.zeros((2, len(ends)))
    hu = np.ascontiguousarray(volume.data.detach().to(torch.float32).numpy())
    source = seen.source.numpy()
    run_chunks(lambda first, last: _march(hu, source, rays, step, out, first, last), len(ends))
    # a voxel is worth a different number of mm along each ray
    mm = torch.from_numpy(np.linalg.norm(ends - source, axis=1))
    scale = (view.rays()[1].norm(dim=-1).reshape(-1) / mm)[None]
    return (torch.from_numpy(out) * scale).to(torch.float32).reshape(2, *view.shape)
