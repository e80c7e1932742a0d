"""Distances within a grid of voxels, computed where they are asked for and nowhere else."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32
from numba import njit
from numpy.typing import NDArray


def distance_to(
    targets: Bool[NDArray[np.bool_], "D H W"], asked: Bool[NDArray[np.bool_], "D H W"], pitch: tuple[float, float, float]
) -> Float32[NDArray[np.float32], "D H W"]:
    """From the centres of voxels to the centre of the nearest target, mm; 0 where it was not asked, infinite without a target.

    Exact, axis by axis (Saito and Toriwaki 1994). A line is searched outwards and only as far as what was found lies, so that
    it costs by what lies near: of a bone's wall a tenth of a transform of the whole grid.

    Parameters
    ----------
    targets, asked: one shape. pitch: mm along D, H and W.
    """
    out = np.zeros(targets.shape, np.float32)
    where = np.argwhere(asked)
    if not len(where):
        return out
    low, high = where.min(0), where.max(0) + 1
    _distance(np.ascontiguousarray(targets), np.ascontiguousarray(asked), np.array(pitch), low, high, out)
    return out


@njit(cache=True, nogil=True)
def _distance(targets, asked, pitch, low, high, out):  # type: ignore[no-untyped-def]
    d, h, w = targets.shape
    # squared distances along W, then in the plane of H and W
    line = np.empty((h, w), np.float32)
    plane = np.empty((d, h, w), np.float32)
    far = np.float32(np.inf)
    for k in range(d):
        for j in range(h):
            last = -1
            for i in range(w):
                if targets[k, j, i]:
                    last = i
                line[j, i] = far if last < 0 else np.float32(((i - last) * pitch[2]) ** 2)
            last = -1
            for i in range(w - 1, -1, -1):
                if targets[k, j, i]:
                    last = i
                if last >= 0:
                    line[j, i] = min(line[j, i], np.float32(((last - i) * pitch[2]) ** 2))
        for j in range(low[1], high[1]):
            for i in range(low[2], high[2]):
                best = line[j, i]
                for step in range(1, h):
                    away = np.float32((step * pitch[1]) ** 2)
                    if away >= best:
                        break
                    if j - step >= 0:
                        best = min(best, line[j - step, i] + away)
                    if j + step < h:
                        best = min(best, line[j + step, i] + away)
                plane[k, j, i] = best
    for k in range(low[0], high[0]):
        for j in range(low[1], high[1]):
            for i in range(low[2], high[2]):
                if not asked[k, j, i]:
                    continue
                best = plane[k, j, i]
                for step in range(1, d):
                    away = np.float32((step * pitch[0]) ** 2)
                    if away >= best:
                        break
                    if k - step >= 0:
                        best = min(best, plane[k - step, j, i] + away)
                    if k + step < d:
                        best = min(best, plane[k + step, j, i] + away)
                out[k, j, i] = np.sqrt(best)
