"""Correlations of many moving images with one fixed image over all windows, on the CPU, without gradient.

The same numbers as ``patches`` computes by whole-image operations, in a fraction of the time: a pass over an image keeps sums of
its columns in double precision, which go down a row at a time, and from them sums over windows, which go along the row.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from raylign.projection.threads import run_chunks

Array32 = NDArray[np.float32]
Array64 = NDArray[np.float64]


def summed_correlations(moving: Array32, fixed: Array32, means: Array32, shares: Array32, floor: Array64, radius: int) -> Array64:
    """Sums over windows of ``share * (sum(m f) - sum(m) mean(f)) / sqrt(energy(m))``, in double precision [B].

    Parameters
    ----------
    moving, fixed: [B, H, W], [H, W].
    means: the fixed image's means over windows, [h, w], h = H - 2 radius.
    shares: [1, h, w] for all, or [B, h, w]; a window's weight over the root of the fixed image's energy in it.
    floor: [B], the energy at which a moving window still counts as constant.
    """
    sums = np.empty(len(moving))

    def work(first: int, last: int) -> None:
        _windows(moving, fixed, means, shares, floor, radius, first, last, sums)

    run_chunks(work, len(moving), smallest=1)
    return sums


@njit(cache=True, nogil=True, error_model="numpy")
def _windows(moving, fixed, means, shares, floor, radius, first, last, sums):  # type: ignore[no-untyped-def]
    _, h, w = moving.shape
    width = 2 * radius + 1
    size = width * width
    wide = w - 2 * radius
    columns = np.empty((3, w))
    rows = np.empty((3, wide))
    total = np.empty(wide)
    rounding = 100 * np.finfo(np.float32).eps
    for b in range(first, last):
        image = moving[b]
        share = shares[b if len(shares) > 1 else 0]
        columns[:] = 0.0
        total[:] = 0.0
        for r in range(h):
            for c in range(w):
                m = np.float64(image[r, c])
                columns[0, c] += m
                columns[1, c] += m * m
                columns[2, c] += m * fixed[r, c]
            if r < width - 1:
                continue
            if r >= width:
                for c in range(w):
                    m = np.float64(image[r - width, c])
                    columns[0, c] -= m
                    columns[1, c] -= m * m
                    columns[2, c] -= m * fixed[r - width, c]
            plain = square = both = 0.0
            for c in range(width - 1):
                plain += columns[0, c]
                square += columns[1, c]
                both += columns[2, c]
            for c in range(wide):
                plain += columns[0, c + width - 1]
                square += columns[1, c + width - 1]
                both += columns[2, c + width - 1]
                rows[0, c] = plain
                rows[1, c] = square
                rows[2, c] = both
                plain -= columns[0, c]
                square -= columns[1, c]
                both -= columns[2, c]
            top = r - width + 1
            for c in range(wide):
                energy = rows[1, c] - rows[0, c] * rows[0, c] / size
                varies = energy > max(rounding * rows[1, c], floor[b])
                value = share[top, c] * (rows[2, c] - rows[0, c] * means[top, c]) / np.sqrt(energy if varies else 1.0)
                total[c] += value if varies else 0.0
        sums[b] = total.sum()
