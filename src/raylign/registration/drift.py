"""How much better the pieces of a match would agree if each could move on its own.

A rigid pose that is right leaves the pieces nothing to gain. At a wrong one, and with another person's model at its best pose,
the pose is a compromise: here the model's ribs should go up, there its spine to the left. What has the right place but agrees
poorly (under metal, moved soft tissue, a bent display curve) finds nothing better beside it.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numba import njit

from raylign.projection.threads import run_chunks
from raylign.registration.match_kernels import alone
from raylign.registration.matching import Run, box_sum
from raylign.registration.pyramid import Array32, Array64

_RADIUS = 8  # pixels of the window
_REACH = 6  # pixels that a window may move along either axis
_SAYS = 0.25  # of the mean energy of a window: with less the moved model has nothing to say there
_COUNTS = 0.1  # of the mean energy: windows of the model with less are left out
_FLAT = 1e-3  # of the largest energy of a window of the exposure: with less there is nothing to be seen
_FEWEST = 200  # pixels about which there must be something to compare
_COMPARED = 0.3  # share of what the model has to say that the exposure must say something about


def drift(fixed: Array64, moving: Array64, share: Array64, *, threaded: bool = False) -> float:
    """Mean gain in local correlation where every window takes its best shift, 0 to 2; 2 where there is too little to compare.

    Windows in which the exposure is flat (burnt out, clipped) say nothing. If most of what the model shows lies there, or what
    can be compared is next to nothing, that is no evidence of a right pose.

    Parameters
    ----------
    fixed, moving: [2, h, w] gradients, cut off at a length, zero where they cannot be compared.
    share: [h, w] part of each pixel that can be.
    threaded: over all threads; not for callers that are one of several pieces of work themselves.
    """
    from scipy.ndimage import uniform_filter

    side = 2 * _RADIUS + 1
    count = uniform_filter(share, side, mode="constant")
    energy = uniform_filter((moving**2).sum(0), side, mode="constant")
    local = np.where(share > 0.5, energy / np.maximum(count, 1e-9), 0)
    if not (local > 0).any():
        return 2.0
    mean = float(local[share > 0.5].mean())
    speaks = local > _COUNTS * mean
    weight = np.where(speaks, np.minimum(local, 2 * float(local[speaks].mean())), 0)
    floor = _SAYS * mean * side**2
    answer = uniform_filter((fixed**2).sum(0), side, mode="constant")
    told = weight * (answer > _FLAT * answer.max())
    if (told > 0).sum() < _FEWEST or told.sum() < _COMPARED * weight.sum():
        return 2.0
    still, best = best_shifts(fixed.astype(np.float32), moving.astype(np.float32), floor, run_chunks if threaded else alone)
    return float((told * (best - still)).sum() / told.sum())


def best_shifts(fixed: Array32, moving: Array32, floor: float, run: Run = alone) -> tuple[Array32, Array32]:
    """Correlation of every window as it is, and at the best shift of the moving image that leaves it something to say.

    Parameters
    ----------
    fixed, moving: [2, h, w] gradients. floor: energy that a moved window has at least.
    run: spreads the work, by rows that the image is moved by.

    Returns
    -------
    Two [h, w].
    """
    rows = 2 * _REACH + 1
    still = np.zeros(fixed.shape[1:], np.float32)
    best = np.full((rows, *still.shape), -1, np.float32)
    setting = (fixed, moving, np.float32(floor), _RADIUS, _REACH, still, best)
    run(partial(_best_shifts, *setting), rows, 1)
    return still, np.maximum(best.max(0), still)


@njit(cache=True, nogil=True)
def _best_shifts(fixed, moving, floor, radius, reach, still, best, first, last):  # type: ignore[no-untyped-def]
    """By rows that the moving image is moved, from ``first - reach`` to ``last - 1 - reach``: ``best`` [rows, h, w]."""
    _, h, w = fixed.shape
    product, sums, power, energy, scratch = (
        np.empty((h, w), np.float32),
        np.empty((h, w), np.float32),
        np.empty((h, w), np.float32),
        np.empty((h, w), np.float32),
        np.empty((h, w), np.float32),
    )
    for y in range(h):
        for x in range(w):
            product[y, x] = fixed[0, y, x] ** 2 + fixed[1, y, x] ** 2
            sums[y, x] = moving[0, y, x] ** 2 + moving[1, y, x] ** 2
    box_sum(product, radius, scratch, power)
    box_sum(sums, radius, scratch, energy)
    # running sums in single precision end a little beside zero
    least = np.float32(1e-4) * max(power.max(), np.float32(1e-30))
    for dy in range(first - reach, last - reach):
        for dx in range(-reach, reach + 1):
            for y in range(h):
                for x in range(w):
                    v, u = y + dy, x + dx
                    if 0 <= v < h and 0 <= u < w:
                        product[y, x] = fixed[0, y, x] * moving[0, v, u] + fixed[1, y, x] * moving[1, v, u]
                    else:
                        product[y, x] = np.float32(0.0)
            box_sum(product, radius, scratch, sums)
            centre = dy == 0 and dx == 0
            for y in range(max(0, -dy), min(h, h - dy)):
                for x in range(max(0, -dx), min(w, w - dx)):
                    e = energy[y + dy, x + dx]
                    if power[y, x] > least and (e > floor or (centre and e > np.float32(1e-4) * floor)):
                        c = sums[y, x] / np.sqrt(power[y, x] * e)
                        if centre:
                            still[y, x] = c
                        if c > best[dy + reach, y, x]:
                            best[dy + reach, y, x] = c
