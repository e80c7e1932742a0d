"""Statistics of errors of which some may be infinite: percentiles, intervals over subjects, capture range, honesty of confidence.

A registration that gave no result has an infinite error. It is counted everywhere and dropped nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from raylign.errors import InputError

_Array = NDArray[np.float64]

BINS_MM = (*(float(k) for k in range(21)), *(float(k) for k in range(25, 501, 5)))
"""Edges of bins of starting errors, mm: 1 mm wide to 20 mm, 5 mm beyond (van de Kraats et al. 2005, widened)."""

SHARE = 0.95
"""Success that a bin of starting errors must keep to lie within the capture range."""

_Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Interval:
    """Both ends of a 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Bin:
    """Starts whose error lies in ``[low, high)`` mm: how many, and the share of them that succeeded (NaN of none)."""

    low: float
    high: float
    n: int
    success: float


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic: the area, and the shares of negatives and positives at or above each threshold."""

    false_positive: tuple[float, ...]
    true_positive: tuple[float, ...]
    area: float


def errors_of(values: Sequence[float | None]) -> Float[np.ndarray, " n"]:
    """Errors as float64: ``None`` and whatever is not a number is infinite."""
    out = np.array([math.inf if v is None or math.isnan(v) else v for v in values], np.float64)
    return out


def percentile(values: Float[np.ndarray, " n"], q: float) -> float:
    """The q-th percentile (0 to 100) by linear interpolation between order statistics, infinite errors included.

    Between a finite and an infinite one it is infinite; NaN of nothing.

    Raises
    ------
    InputError: q outside 0 to 100.
    """
    if not 0 <= q <= 100:
        raise InputError(f"{q} is no percentage", field="q", remedy="give 0 to 100")
    return float(_ordered(np.sort(np.asarray(values, np.float64)), q))


def _ordered(ordered: _Array, q: float) -> float:
    if len(ordered) == 0:
        return math.nan
    place = q / 100 * (len(ordered) - 1)
    below = math.floor(place)
    weight = place - below
    # rounding of the place must not reach for an infinite neighbour
    if weight < 1e-9:
        return float(ordered[below])
    a, b = float(ordered[below]), float(ordered[below + 1])
    return b if math.isinf(b) else a if math.isinf(a) else a + weight * (b - a)


def mean(values: Float[np.ndarray, " n"]) -> float:
    """The mean, whatever the order of the values; infinite if one is, NaN of nothing."""
    return math.fsum(values) / len(values) if len(values) else math.nan


def deviation(values: Float[np.ndarray, " n"]) -> float:
    """The standard deviation of a sample (n - 1); infinite if a value is, NaN of fewer than two."""
    if len(values) < 2:
        return math.nan
    m = mean(values)
    return math.inf if math.isinf(m) else math.sqrt(math.fsum((np.asarray(values) - m) ** 2) / (len(values) - 1))


def success(errors: Float[np.ndarray, " n"], threshold: float) -> float:
    """Share of all errors that lie under the threshold (0 to 1); NaN of nothing."""
    return float(np.mean(np.asarray(errors) < threshold)) if len(errors) else math.nan


def wilson(successes: int, n: int) -> Interval:
    """Wilson's 95 % interval of a share of n independent trials (Wilson 1927); 0 to 1 of none."""
    if n == 0:
        return Interval(0.0, 1.0)
    p, z = successes / n, _Z95
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


@dataclass(frozen=True, eq=False)
class Resamples:
    """Bootstrap samples that draw whole subjects with replacement (cluster bootstrap; Davison and Hinkley 1997, 3.8).

    Cases of one subject resemble each other: to draw cases as if they were independent makes intervals too narrow. Of few
    subjects the bootstrap knows too little itself (of two alike it sees no spread at all). Every interval is therefore the hull
    of that over subjects and of one over cases: never narrower than independent cases would have it. With one subject there
    is nothing else to draw; such an interval says nothing of other subjects.

    Parameters
    ----------
    weights: [B, n] how often each of n cases is in each of B samples of subjects.
    singly: [B, n] the same of samples of cases.
    subjects: how many there are.
    """

    weights: Int[np.ndarray, "B n"]
    singly: Int[np.ndarray, "B n"]
    subjects: int

    def interval(self, statistic: Callable[[_Array, _Array], _Array], *values: Float[np.ndarray, " n"]) -> Interval:
        """The 2.5th and 97.5th percentile of ``statistic(weights, *values) -> [B]``; NaN where no sample has a number."""
        many = [self.singly] if self.subjects in (1, len(self.weights[0])) else [self.weights, self.singly]
        return hull(*(_middle(np.asarray(statistic(w, *values), np.float64)) for w in many))

    def success(self, errors: Float[np.ndarray, " n"], threshold: float) -> Interval:
        """Of the share under a threshold; over cases it is Wilson's, which has a width where all or none succeed."""
        good = np.asarray(errors) < threshold
        singly = wilson(int(good.sum()), len(good))
        if self.subjects < 2:
            return singly
        return hull(_middle(weighted_share(self.weights, good.astype(np.float64))), singly)

    def percentile(self, errors: Float[np.ndarray, " n"], q: float) -> Interval:
        """Of a percentile."""
        return self.interval(lambda w, e: weighted_percentile(w, e, q), errors)

    def mean(self, errors: Float[np.ndarray, " n"]) -> Interval:
        """Of the mean."""
        return self.interval(weighted_mean, errors)


def resamples(subjects: Sequence[Hashable], draws: int = 1000, seed: int = 0) -> Resamples:
    """``draws`` samples of cases whose subjects are named; the same for the same subjects in the same order and seed.

    Raises
    ------
    InputError: no case, or no draw.
    """
    if not subjects or draws < 1:
        raise InputError(f"{draws} samples of {len(subjects)} cases", field="subjects", remedy="give at least one of each")
    codes = {name: k for k, name in enumerate(dict.fromkeys(subjects))}
    index = np.array([codes[s] for s in subjects])

    def drawn(units: int) -> Int[np.ndarray, "B u"]:
        counts = np.zeros((draws, units), np.int32)
        np.add.at(counts, (np.arange(draws)[:, None], np.random.default_rng(seed).integers(0, units, (draws, units))), 1)
        return counts

    return Resamples(drawn(len(codes))[:, index], drawn(len(index)), len(codes))


def hull(*intervals: Interval) -> Interval:
    """The smallest interval that holds all that are defined; NaN where none is."""
    there = [i for i in intervals if not math.isnan(i.low)] or [Interval(math.nan, math.nan)]
    return Interval(min(i.low for i in there), max(i.high for i in there))


def _middle(drawn: _Array) -> Interval:
    """95 % of the samples that have a number."""
    ordered = np.sort(drawn[~np.isnan(drawn)])
    return Interval(_ordered(ordered, 2.5), _ordered(ordered, 97.5))


def weighted_share(weights: _Array, good: _Array) -> _Array:
    """[B] share of the drawn cases that are good (1) rather than not (0)."""
    return np.einsum("bn,n->b", weights, good) / np.maximum(weights.sum(1), 1)


def weighted_mean(weights: _Array, values: _Array) -> _Array:
    """[B] mean of the drawn cases; infinite where an infinite one was drawn."""
    finite = np.isfinite(values)
    # einsum sums in one order whatever the number of threads, a matrix product may not
    sums = np.einsum("bn,n->b", weights[:, finite], values[finite]) / np.maximum(weights.sum(1), 1)
    return np.where((weights[:, ~finite] > 0).any(1), math.inf, sums)


def weighted_percentile(weights: _Array, values: _Array, q: float) -> _Array:
    """[B] percentile of the drawn cases, as ``percentile`` has it of cases repeated as often as they were drawn."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    cumulative = np.cumsum(weights[:, order], 1)
    total = cumulative[:, -1]
    place = q / 100 * (total - 1)
    below = np.floor(place + 1e-9)
    share = np.clip(place - below, 0, None)
    # the k-th drawn case (from 0) is the first whose cumulative count exceeds k
    last = len(values) - 1
    first = np.minimum((cumulative <= below[:, None]).sum(1), last)
    second = np.minimum((cumulative <= below[:, None] + 1).sum(1), last)
    a, b = ordered[first], ordered[second]
    exact = (share < 1e-9) | (first == second)
    with np.errstate(invalid="ignore"):
        between = np.where(np.isinf(b), math.inf, a + share * (b - a))
    return np.where(exact, a, between)


def by_start(starts: Float[np.ndarray, " n"], good: Bool[np.ndarray, " n"], edges: Sequence[float] = BINS_MM) -> tuple[Bin, ...]:
    """Success by bins of the starting error; bins beyond the farthest start are left out.

    Raises
    ------
    InputError: edges that do not rise.
    """
    rising = [float(e) for e in edges]
    if len(rising) < 2 or any(a >= b for a, b in pairwise(rising)):
        raise InputError("the edges of the bins do not rise", field="bins_mm", remedy="give them from low to high")
    out = []
    for low, high in pairwise(rising):
        inside = (starts >= low) & (starts < high)
        n = int(inside.sum())
        out.append(Bin(low, high, n, float(good[inside].mean()) if n else math.nan))
    while out and out[-1].n == 0:
        out.pop()
    return tuple(out)


def capture_range(bins: Sequence[Bin], share: float = SHARE) -> float:
    """mm up to which every bin keeps at least ``share`` of success: the upper edge of the last bin before one that does not.

    Bins without a start are passed over: nothing is known of them. 0 where the first bin fails, NaN where no bin has a start.
    Where no bin fails it is the end of what was tried, and the truth may lie beyond.
    """
    tried = [b for b in bins if b.n]
    if not tried:
        return math.nan
    reach = 0.0
    for b in tried:
        if b.success < share - 1e-12:
            break
        reach = b.high
    return reach


def roc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Roc:
    """The curve of a score that should be larger for positives; its area is the chance that a positive exceeds a negative.

    Ties count half (Hanley and McNeil 1982). The area is NaN where one kind is missing.
    """
    s, p = np.asarray(scores, np.float64), np.asarray(positive, bool)
    n, m = int(p.sum()), int((~p).sum())
    if n == 0 or m == 0:
        return Roc((), (), math.nan)
    order = np.argsort(-s, kind="stable")
    ends = np.append(np.nonzero(np.diff(s[order]))[0], len(s) - 1)  # ties move together
    true = np.concatenate([[0], np.cumsum(p[order])[ends]]) / n
    false = np.concatenate([[0], np.cumsum(~p[order])[ends]]) / m
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    return Roc(tuple(false.tolist()), tuple(true.tolist()), area)


def from_median(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """How far points lie from their median, coordinate by coordinate: the spread of ends of many starts (Toth et al. 2018)."""
    p = np.asarray(points, np.float64)
    return np.asarray(np.linalg.norm(p - np.median(p, axis=0), axis=1))


@dataclass(frozen=True)
class Calibration:
    """One bin of reported probabilities: their mean, the share that was right, how many."""

    probability: float
    right: float
    n: int


def calibration(probability: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: int = 10) -> tuple[Calibration, ...]:
    """Reported probability against what came true, in bins of equal width; empty bins are left out."""
    p, r = np.asarray(probability, np.float64), np.asarray(right, bool)
    which = np.clip((p * bins).astype(int), 0, bins - 1)
    return tuple(
        Calibration(float(p[which == k].mean()), float(r[which == k].mean()), int((which == k).sum()))
        for k in range(bins)
        if (which == k).any()
    )


def expected_calibration_error(probability: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: int = 10) -> float:
    """Mean distance between reported probability and what came true, bins weighted by their cases; NaN of nothing.

    Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning" (AAAI 2015).
    """
    found = calibration(probability, right, bins)
    n = sum(c.n for c in found)
    return sum(c.n * abs(c.probability - c.right) for c in found) / n if n else math.nan
