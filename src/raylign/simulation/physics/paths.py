"""Millimetres of every tissue on each ray through a scan: the simulator's own integrator.

It shares with the renderer of ``raylign.projection`` the geometry of a ``View`` and the threads, nothing else: HU are split into
tissues at every sample, after interpolation, where the renderer interpolates attenuation; samples start at a random depth on
each ray; tissues keep their own tables, where a resident ``Matter`` takes them for water and bone.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.data import LabelMap, Volume
from raylign.geometry import Rigid, View
from raylign.geometry.view import require_cone
from raylign.projection.cpu import run_chunks
from raylign.simulation.physics import materials
from raylign.simulation.subject import Subject

_TISSUES = len(materials.TISSUES)  # then blood, iodine and metal
_LEAST_HU = -1024.0  # no scanner measures less: smaller numbers pad what was not reconstructed


@numba.njit(cache=True, nogil=True, fastmath=True)
def _march(  # pragma: no cover
    hu: NDArray, agent: NDArray, table: NDArray, source: NDArray, ends: NDArray, step: float, out: NDArray, first: int, last: int
) -> None:
    """Tissues on rays from ``source`` to ``ends`` [N, 4]: column, row, slice in voxels, then where sampling starts (in steps).

    ``table``: HU of air and the tissues, then of blood, of iodine that fills a voxel, and where metal begins.
    """
    depth, height, width = hu.shape
    size = (width - 0.5, height - 0.5, depth - 0.5)  # voxels are boxes at the faces: n of them are n long
    tissues = len(table) - 4
    blood, iodine, metal = table[-3], table[-2], table[-1]
    for n in range(first, last):
        dx, dy, dz = ends[n, 0] - source[0], ends[n, 1] - source[1], ends[n, 2] - source[2]
        length = np.sqrt(dx * dx + dy * dy + dz * dz)
        direction = (dx / length, dy / length, dz / length)
        begin, end = 0.0, length
        for axis in range(3):
            if abs(direction[axis]) < 1e-9:
                if source[axis] < -0.5 or source[axis] > size[axis]:
                    end = -1.0
            else:
                a = (-0.5 - source[axis]) / direction[axis]
                b = (size[axis] - source[axis]) / direction[axis]
                begin, end = max(begin, min(a, b)), min(end, max(a, b))
        if end <= begin:
            continue
        # equal steps that fill the chord exactly; one random offset moves them all
        count = int(np.ceil((end - begin) / step))
        pitch = (end - begin) / count
        for k in range(count):
            t = begin + (k + ends[n, 3]) * pitch
            x, y, z = source[0] + t * direction[0], source[1] + t * direction[1], source[2] + t * direction[2]
            x, y, z = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0), min(max(z, 0.0), depth - 1.0)
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
            if value <= table[0]:
                continue
            if agent.size > 1 and value > blood and agent[int(z + 0.5), int(y + 0.5), int(x + 0.5)] != 0:
                out[tissues, n] += pitch
                out[tissues + 1, n] += pitch * (value - blood) / iodine
            elif value >= metal:
                out[tissues + 2, n] += pitch
            elif value >= table[tissues]:
                out[tissues - 1, n] += pitch * (1 + (value - table[tissues]) / (table[tissues] + 1000.0))
            else:
                k_low = 0
                while value >= table[k_low + 1]:
                    k_low += 1
                part = (value - table[k_low]) / (table[k_low + 1] - table[k_low])
                out[k_low, n] += pitch * part
                if k_low > 0:
                    out[k_low - 1, n] += pitch * (1 - part)


def path_lengths(
    patient: Subject | Volume,
    view: View,
    pose: Rigid,
    generator: torch.Generator,
    *,
    labels: LabelMap | None = None,
    metal: str = "titanium",
    step: float = 0.75,
) -> dict[str, Float[Tensor, "H W"]]:
    """mm of each tissue on each ray, float32; tissues that no ray meets are left out. On the CPU.

    Parameters
    ----------
    patient, labels, metal: as for ``Matter.of``; what HU and labels say is told in ``materials``.
    view, pose: the exposure's geometry and ``T_world_from_volume``.
    generator: where on each ray the samples start.
    step: between samples, in voxels of the finest direction.

    Raises
    ------
    InputError: as ``Matter.of``; the view's rays are parallel.
    """
    require_cone(view, "a simulated exposure")
    volume = patient.volume if isinstance(patient, Subject) else patient
    labels = patient.labels if isinstance(patient, Subject) and labels is None else labels
    hu = materials.checked(volume, labels, metal)
    agent = np.zeros((1, 1, 1), np.uint8)
    if labels is not None:
        agent = materials.enhancing(hu, labels).numpy().view(np.uint8)
        if not agent.any():
            agent = np.zeros((1, 1, 1), np.uint8)
    table = np.array([*materials.knots()[0], materials.blood_hu(), materials.hu_of_iodine(), materials.METAL_HU])
    seen = view.transformed(torch.linalg.inv(pose.matrix @ volume.affine))
    ends = seen.pixel_centres().reshape(-1, 3).numpy()
    start = torch.rand(len(ends), generator=generator, dtype=torch.float64).numpy()
    rays = np.concatenate([ends, start[:, None]], 1)
    names = (*materials.TISSUES, "blood", "iodine", metal)
    out = np.zeros((_TISSUES + 3, len(ends)))
    # interpolated with what lies beside it, padding would take some of that away
    hu = hu.masked_fill(hu < _LEAST_HU, table[0])
    array, source = np.ascontiguousarray(hu.numpy()), seen.source.numpy()
    run_chunks(lambda first, last: _march(array, agent, table, source, rays, step, out, first, last), len(ends))
    # a voxel is worth a different number of mm along each ray
    mm = torch.from_numpy(np.linalg.norm(ends - source, axis=1))
    scaled = torch.from_numpy(out) * (view.ray_lengths().reshape(-1) / mm)
    lengths = scaled.to(torch.float32).reshape(-1, *view.shape)
    return {name: lengths[i] for i, name in enumerate(names) if bool((lengths[i] != 0).any())}
