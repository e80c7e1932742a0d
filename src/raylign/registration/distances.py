"""Distances within a grid of voxels, computed where they are asked for and nowhere else."""

from __future__ import annotations

from functools import partial

import numpy as np
from jaxtyping import Bool, Float32
from numba import njit
from numpy.typing import NDArray

from raylign.projection.threads import run_chunks


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
    if not asked.any():
        return out
    sides = [np.flatnonzero(asked.any(others)) for others in ((1, 2), (0, 2), (0, 1))]
    low, high = (np.array([side[end] + shift for side in sides]) for end, shift in ((0, 0), (-1, 1)))
    plane = np.empty(targets.shape, np.float32)
    held, wanted, sizes = np.ascontiguousarray(targets), np.ascontiguousarray(asked), np.array(pitch)
    run_chunks(partial(_in_planes, held, sizes, low, high, plane), len(held), smallest=4)
    run_chunks(partial(_across_planes, plane, wanted, sizes, low, high, out), int(high[0] - low[0]), smallest=4)
    return out


@njit(cache=True, nogil=True)
def _in_planes(targets, pitch, low, high, plane, first, last):  # type: ignore[no-untyped-def]
    """Squared distances within the planes of H and W number ``first`` to ``last - 1``, where ``low`` to ``high`` are asked."""
    _, h, w = targets.shape
    line = np.empty((h, w), np.float32)  # squared distances along W
    far = np.float32(np.inf)
    for k in range(first, last):
        for j in range(h):
            before = -1
            for i in range(w):
                if targets[k, j, i]:
                    before = i
                line[j, i] = far if before < 0 else np.float32(((i - before) * pitch[2]) ** 2)
            before = -1
            for i in range(w - 1, -1, -1):
                if targets[k, j, i]:
                    before = i
                if before >= 0:
                    line[j, i] = min(line[j, i], np.float32(((before - i) * pitch[2]) ** 2))
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


@njit(cache=True, nogil=True)
def _across_planes(plane, asked, pitch, low, high, out, first, last):  # type: ignore[no-untyped-def]
    """Distances from those within the planes, at ``low[0] + first`` to ``low[0] + last - 1``."""
    d = len(plane)
    for k in range(low[0] + first, low[0] + last):
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
