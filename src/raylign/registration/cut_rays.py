"""Which rays a model cannot answer for: those that leave it through a face at which the patient was cut."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from raylign.registration.pyramid import Array64, ModelLevel


@njit(cache=True, nogil=True)
def _unanswered(rays, size, axis, plane, face, valid):  # type: ignore[no-untyped-def]
    """Clears ``valid`` for rays that pass one face of the grid (``plane`` along ``axis``) where ``face`` says it was cut."""
    h, w = valid.shape
    a, b = (1, 2) if axis == 0 else ((0, 2) if axis == 1 else (0, 1))  # faster and slower of the other two axes
    for r in range(h):
        for c in range(w):
            if not valid[r, c]:
                continue
            d = rays[1, axis] + c * rays[2, axis] + r * rays[3, axis]
            if d == 0.0:
                continue
            t = (plane - rays[0, axis]) / d
            if t <= 0.0 or t >= 1.0:
                continue
            u = int(np.round(rays[0, a] + t * (rays[1, a] + c * rays[2, a] + r * rays[3, a])))
            v = int(np.round(rays[0, b] + t * (rays[1, b] + c * rays[2, b] + r * rays[3, b])))
            if 0 <= u < size[a] and 0 <= v < size[b] and face[v, u]:
                valid[r, c] = False


def clear_unanswered(level: ModelLevel, rays: Array64, valid: NDArray[np.bool_]) -> None:
    """Clears ``valid`` where one of ``rays`` ([4, 3], voxel coordinates) leaves the model through a face where it was cut."""
    for axis in range(3):
        for side in range(2):
            face = level.faces[2 * axis + side]
            if face.size:
                _unanswered(rays, level.size, axis, side * (level.size[axis] - 1), face, valid)
