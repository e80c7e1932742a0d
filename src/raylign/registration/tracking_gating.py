"""Gating signals of a sequence: breathing from a track, the pulse from how places in the image brighten and darken.

A signal is the wave within a band of frequencies that explains most of a series, its phase 0 at the crests and 0.5 in the
troughs. Series that do not oscillate there, or are too short or too slowly taken for the band, have none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.data import XRay

Array64 = NDArray[np.float64]

BREATHING = (0.1, 0.5)
"""Hz: six to thirty breaths a minute."""
PULSE = (0.8, 2.5)
"""Hz: 48 to 150 beats a minute."""

_CYCLES = 0.45  # of the slowest wave that counts, at least; of the one that is found a whole one must be seen
_SHARE = 0.5  # of a detrended series' variance that must lie in the band
_PEAK = 25.0  # times the median power of the band that its peak must have, for a pulse
_LEAST = 0.2  # mm (standard deviation) of a breath that is one
_STEP, _FAST = 5.0, 100.0  # mm and mm a second: no breath moves as far as fast
_GAP = 0.25  # seconds without a frame that shows the structure, in which a table may have been moved unseen
_GRID = 24  # blocks along an image's longer side
_STRONGEST = 0.1  # share of the blocks from which the pulse is taken


@dataclass(frozen=True, eq=False)
class Signal:
    """A gating signal.

    Parameters
    ----------
    values: [T] the series within its band, 0 where it was not seen: mm to the head for breathing, line integral for the pulse.
    phase: [T] 0 to 1, growing in time: 0 at a crest, NaN where it was not seen.
    hertz: frequency at which it is strongest.
    share: of the series' variance that lies in the band, 0 to 1.
    """

    values: Array64
    phase: Array64
    hertz: float
    share: float


def breathing(times: Sequence[float] | Array64, heights: Sequence[float] | Array64) -> Signal | None:
    """The breath in how high a structure lies.

    Parameters
    ----------
    times: [T] seconds, growing. heights: [T] mm towards the head, NaN where the structure was not seen.

    Returns
    -------
    Phase 0 where the structure is nearest to the head: what hangs at the diaphragm is there when breath was let out. ``None``
    where less than one breath is seen, or where it hardly moves.
    """
    moments = np.asarray(times, float)
    settled = _settled(moments, np.asarray(heights, float))
    found = _banded(moments, settled[:, None], BREATHING)
    if found is None:
        return None
    values, share, _ = found
    if values[:, 0].std() < _LEAST or share[0] < _SHARE:
        return None
    return _signal(moments, settled, float(share[0]), BREATHING)


def _settled(times: Array64, heights: Array64) -> Array64:
    """The heights with sudden steps taken out, and steps across gaps: a table that is moved is no breath.

    A gap is a while in which the structure was not seen, or one frame or two that it left by 5 mm and more. What was seen before
    and after it is fitted by one wave and one slope on levels of their own (``_lifted``), and the step from level to level is
    taken out. A breath that went on meanwhile makes none.
    """
    seen = np.flatnonzero(np.isfinite(heights))
    out = heights.copy()
    if len(seen) < 2:
        return out
    steps, spans = np.diff(heights[seen]), np.diff(times[seen])
    sudden = (np.abs(steps) > _STEP) & (np.abs(steps) > _FAST * spans)
    out[seen[1:]] -= np.cumsum(np.where(sudden, steps, 0.0))
    missed = np.diff(seen) > 1
    gaps = np.flatnonzero(~sudden & ((spans > max(_GAP, 1.5 * float(np.median(spans)))) | (missed & (np.abs(steps) > _STEP))))
    if not len(gaps):
        return out
    level = np.zeros(len(times))
    for gap in gaps:
        level[seen[gap + 1] :] += 1
    hertz = _strongest(times[seen], out[seen], BREATHING, level[seen])
    ends = [*(int(seen[gap + 1]) for gap in gaps), len(out)]
    for gap, end in zip(gaps, ends[1:], strict=True):
        first, last = int(seen[gap + 1]), int(seen[gap])
        before = seen[(seen <= last) & (times[seen] > times[last] - 1 / hertz)]
        after = seen[(seen >= first) & (seen < end) & (times[seen] < times[first] + 1 / hertz)]
        out[first:] -= _lifted(times, out, (before, after), hertz)
    return out


def _lifted(times: Array64, heights: Array64, sides: tuple[NDArray[np.intp], NDArray[np.intp]], hertz: float) -> float:
    """By how much the level after a gap lies above that before it; where too little of a breath is seen to tell, all of the step.

    ``sides``: the frames of one breath before and one after it.
    """
    before, after = sides
    if any(times[side[-1]] - times[side[0]] < 0.25 / hertz for side in sides):
        return float(heights[after[0]] - heights[before[-1]])
    both = np.concatenate(sides)
    terms = np.concatenate([_terms(times[both] - times[after[0]], hertz), (both >= after[0])[:, None]], 1)
    return float(np.linalg.lstsq(terms, heights[both], rcond=None)[0][-1])


def blocks_of(xray: XRay) -> Array64:
    """An exposure as means over some 24 x 24 blocks [n], its own mean taken out; NaN where less than half of a block is valid."""
    h, w = xray.view.shape
    side = max(1, max(h, w) // _GRID)
    rows, columns = h // side, w // side
    valid = xray.mask.numpy()[: rows * side, : columns * side]
    image = xray.image.numpy()[: rows * side, : columns * side]
    shape = (rows, side, columns, side)
    count = valid.reshape(shape).sum((1, 3))
    total = np.where(valid, image, 0).reshape(shape).sum((1, 3), dtype=np.float64)
    means = np.where(2 * count >= side * side, total / np.maximum(count, 1), np.nan)
    return np.asarray((means - np.nanmean(means) if np.isfinite(means).any() else means).ravel())


def pulse(times: Sequence[float] | Array64, blocks: Sequence[Array64]) -> Signal | None:
    """The heart beat in how blocks of an image brighten and darken: their strongest common course within the band.

    Parameters
    ----------
    times: [T] seconds, growing.
    blocks: T means [n] of ``blocks_of``, NaN where they are not valid, empty where a frame is missing.

    Returns
    -------
    Phase 0 where the places that beat attenuate most. ``None`` where nothing beats.
    """
    sizes = {b.size for b in blocks if b.size}
    if len(sizes) != 1:
        return None
    size = sizes.pop()
    series = np.stack([b if b.size == size else np.full(size, np.nan) for b in blocks])
    series = series[:, np.isfinite(series).mean(0) > 0.5]
    if not series.shape[1]:
        return None
    found = _banded(np.asarray(times, float), series, PULSE)
    if found is None:
        return None
    values, _, rate = found
    strength = values.var(0)
    chosen = strength >= np.quantile(strength, 1 - max(_STRONGEST, 1 / len(strength)))
    _, _, courses = np.linalg.svd(values[:, chosen], full_matrices=False)
    mixture = courses[0] * np.sign(courses[0].sum() or 1.0)  # most of the places beat together
    course = values[:, chosen] @ mixture / np.abs(mixture).sum()
    power = np.abs(np.fft.rfft(course * np.hanning(len(course)))) ** 2
    hertz = np.fft.rfftfreq(len(course), 1 / rate)
    band = (hertz >= PULSE[0]) & (hertz <= PULSE[1])
    if not band.any():  # too short a series to tell frequencies of the band apart
        return None
    peak = hertz[band][power[band].argmax()]
    near = band & (np.abs(hertz - peak) <= max(0.15, 2 / (len(course) / rate)))
    share = float(power[near].sum() / max(power[band].sum(), 1e-30))
    if power[near].max() < _PEAK * np.median(power[band]) or share < _SHARE:
        return None
    here = np.array([b.size == size for b in blocks])
    return _signal(np.asarray(times, float), np.where(here, course, np.nan), share, PULSE)


def _banded(times: Array64, series: Array64, band: tuple[float, float]) -> tuple[Array64, Array64, float] | None:
    """Series [T, n] within a band, the share of their variance that lies there [n], and frames a second.

    What is missing is filled in a straight line. ``None`` where the band cannot be told.
    """
    from scipy.signal import butter, detrend, sosfiltfilt

    if len(times) < 8:
        return None
    span = times[-1] - times[0]
    rate = (len(times) - 1) / span
    if span * band[0] < _CYCLES or rate < 3 * band[0]:
        return None
    even = np.linspace(times[0], times[-1], len(times))
    filled = np.empty_like(series)
    for k in range(series.shape[1]):
        good = np.isfinite(series[:, k])
        if good.sum() < 8:
            return None
        filled[:, k] = np.interp(even, times[good], series[good, k])
    flat = detrend(filled, axis=0)
    high = min(band[1], 0.45 * rate)
    sections = butter(4, (band[0], high), btype="band", fs=rate, output="sos")
    values = sosfiltfilt(sections, flat, axis=0, padlen=min(len(times) - 1, round(rate / band[0])))
    share = np.clip(values.var(0) / np.maximum(flat.var(0), 1e-30), 0, 1)
    back = np.stack([np.interp(times, even, values[:, k]) for k in range(values.shape[1])], 1)
    return back, share, rate


def _signal(times: Array64, series: Array64, share: float, band: tuple[float, float]) -> Signal | None:
    """A series [T] as a wave whose frequency is that which explains most of it, and whose phase is told frame by frame.

    About each frame a wave of that frequency, a level and a slope are fitted over one and a half periods (least squares):
    unlike a Hilbert transform, which takes a series for periodic, that holds at its ends, beside gaps and where breaths differ.
    NaN where the series is.
    """
    seen = np.isfinite(series)
    hertz = _strongest(times[seen], series[seen], band)
    if hertz * (times[seen][-1] - times[seen][0]) < 1:
        return None
    values, phase = np.zeros(len(series)), np.full(len(series), math.nan)
    for k in np.flatnonzero(seen):
        near = seen & (np.abs(times - times[k]) <= 0.75 / hertz)
        if near.sum() < 6:
            continue
        terms = _terms(times[near] - times[k], hertz)
        _, _, along, across = np.linalg.lstsq(terms, series[near], rcond=None)[0]
        values[k] = along
        phase[k] = np.mod(math.atan2(-across, along) / (2 * math.pi), 1.0)
    return Signal(values, phase, hertz, share)


def _terms(times: Array64, hertz: float) -> Array64:
    """[T, 4]: a level, a slope, and a wave."""
    angle = 2 * math.pi * hertz * times
    return np.stack([np.ones_like(times), times, np.cos(angle), np.sin(angle)], 1)


def _strongest(times: Array64, series: Array64, band: tuple[float, float], level: Array64 | None = None) -> float:
    """Hz of the wave within a band that explains most of a series beside a slope and a level; ``level`` [T] numbers several."""
    rate = (len(times) - 1) / (times[-1] - times[0])
    tried = np.linspace(band[0], min(band[1], 0.45 * rate), 240)
    steps = np.zeros((len(times), 0)) if level is None else (level[:, None] == np.unique(level)[None, 1:]).astype(float)

    def left(hertz: float) -> float:
        terms = np.concatenate([_terms(times, hertz), steps], 1)
        return float(np.sum((series - terms @ np.linalg.lstsq(terms, series, rcond=None)[0]) ** 2))

    return float(min(tried, key=left))
