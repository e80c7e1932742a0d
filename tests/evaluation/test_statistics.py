"""Against values worked out by hand, NumPy, SciPy, scikit-learn's definitions and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raylign import InputError
from raylign.evaluation import statistics as s

INF = math.inf


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=40), st.floats(0, 100))
@settings(max_examples=100, deadline=None)
def test_percentiles_of_finite_errors_are_numpys(values: list[float], q: float) -> None:
    assert s.percentile(np.array(values), q) == pytest.approx(float(np.percentile(values, q)), abs=1e-5)


def test_percentiles_count_failures_as_infinite() -> None:
    errors = s.errors_of([1.0, 2.0, None, float("nan"), 3.0])
    assert s.percentile(errors, 50) == 3.0
    assert s.percentile(errors, 60) == INF  # between 3 and a failure
    assert s.percentile(errors, 25) == 2.0
    assert s.percentile(errors, 100) == INF
    assert s.percentile(s.errors_of([None, None]), 50) == INF
    assert math.isnan(s.percentile(np.array([]), 50))
    assert s.mean(errors) == INF
    assert s.success(errors, 2.5) == pytest.approx(2 / 5)
    with pytest.raises(InputError, match="101 is no percentage"):
        s.percentile(errors, 101)


def test_success_is_strictly_under_the_threshold() -> None:
    assert s.success(np.array([1.0, 2.0, 3.0, INF]), 2.0) == 0.25


def test_deviation_is_the_samples() -> None:
    assert s.deviation(np.array([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])) == pytest.approx(math.sqrt(32 / 7))
    assert math.isnan(s.deviation(np.array([1.0])))
    assert s.deviation(np.array([1.0, INF])) == INF


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (97, 100)])
def test_wilson_is_scipys(k: int, n: int) -> None:
    expected = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    found = s.wilson(k, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 4)), min_size=1, max_size=20), st.floats(0, 100))
@settings(max_examples=100, deadline=None)
def test_weighted_percentiles_are_those_of_repeated_cases(cases: list[tuple[float, int]], q: float) -> None:
    values = np.array([v for v, _ in cases])
    weights = np.array([w for _, w in cases])
    if weights.sum() == 0:
        return
    expected = s.percentile(np.repeat(values, weights), q)
    assert float(s.weighted_percentile(weights[None], values, q)[0]) == pytest.approx(expected, abs=1e-6)


def test_weighted_statistics_with_failures_by_hand() -> None:
    values = np.array([1.0, INF, 3.0])
    weights = np.array([[1, 0, 2], [1, 1, 1], [0, 3, 0]])
    assert s.weighted_percentile(weights, values, 50).tolist() == [3.0, 3.0, INF]
    assert s.weighted_percentile(weights, values, 75).tolist() == [3.0, INF, INF]
    assert s.weighted_mean(weights, values).tolist() == pytest.approx([7 / 3, INF, INF])
    assert s.weighted_share(weights, np.array([1.0, 0.0, 0.0])).tolist() == pytest.approx([1 / 3, 1 / 3, 0])


def test_whole_subjects_are_drawn() -> None:
    subjects = ["a", "a", "b", "c", "b", "a"]
    found = s.resamples(subjects, draws=500, seed=4)
    w = found.weights
    assert found.subjects == 3
    assert (w[:, 0] == w[:, 1]).all() and (w[:, 0] == w[:, 5]).all() and (w[:, 2] == w[:, 4]).all()
    assert (w[:, 0] + w[:, 2] + w[:, 3] == 3).all()  # as many subjects as there are
    assert (found.singly.sum(1) == 6).all() and not (found.singly[:, 0] == found.singly[:, 1]).all()
    assert (s.resamples(subjects, draws=500, seed=4).weights == w).all()
    assert not (s.resamples(subjects, draws=500, seed=5).weights == w).all()


def test_subjects_that_differ_make_the_interval_wider_than_cases_would() -> None:
    # ten subjects of 40 cases each: five succeed always, five never
    subjects = [k // 40 for k in range(400)]
    errors = np.array([1.0 if k // 40 < 5 else 9.0 for k in range(400)])
    by_subject = s.resamples(subjects, seed=0).success(errors, 2.0)
    by_case = s.resamples(list(range(400)), seed=0).success(errors, 2.0)
    # the binomial of ten fair draws, exactly: its 2.5th and 97.5th percentile
    assert by_subject.low == pytest.approx(stats.binom.ppf(0.025, 10, 0.5) / 10, abs=0.051)
    assert by_subject.high == pytest.approx(stats.binom.ppf(0.975, 10, 0.5) / 10, abs=0.051)
    assert by_case.high - by_case.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 400), rel=0.15)


def test_the_interval_of_a_mean_is_scipys_bootstrap() -> None:
    values = np.random.default_rng(0).exponential(2.0, 60)
    found = s.resamples(list(range(60)), draws=4000, seed=1).mean(values)
    expected = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.03)


def test_where_all_succeed_the_interval_is_wilsons() -> None:
    found = s.resamples(["a", "b", "c"]).success(np.array([1.0, 1.0, 1.0]), 2.0)
    assert found == s.wilson(3, 3)
    assert found.high == 1.0 and found.low < 0.5


def test_two_subjects_that_are_alike_do_not_make_an_interval_of_no_width() -> None:
    errors = np.array([1.0, 1.0, 5.0, 1.0, 1.0, 5.0])
    drawn = s.resamples(["a", "a", "a", "b", "b", "b"])
    assert drawn.success(errors, 2.0) == s.wilson(4, 6)
    assert drawn.percentile(errors, 50) == s.resamples(list(range(6))).percentile(errors, 50)
    assert drawn.mean(errors).high - drawn.mean(errors).low > 1


def test_one_subject_gets_wilsons_interval_over_its_cases() -> None:
    errors = np.array([1.0, 1.0, 5.0, 1.0])
    assert s.resamples(["a"] * 4).success(errors, 2.0) == s.wilson(3, 4)
    spread = s.resamples(["a"] * 4).percentile(errors, 50)
    assert spread.low == 1.0 and spread.high == 5.0


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(InputError, match="samples of 0 cases"):
        s.resamples([])


def test_capture_range_by_hand() -> None:
    edges = (0, 1, 2, 3, 4)
    starts = np.array([0.5] * 20 + [1.5] * 20 + [2.5] * 20 + [3.5] * 20)
    good = np.ones(80, bool)
    good[20] = False  # 19 of 20 in the second bin: 95 %, which is enough
    good[40:42] = False  # 18 of 20 in the third: not enough; that the fourth is all right does not count
    bins = s.by_start(starts, good, edges)
    assert [b.n for b in bins] == [20, 20, 20, 20]
    assert [b.success for b in bins] == pytest.approx([1, 0.95, 0.9, 1])
    assert s.capture_range(bins) == 2.0
    good[40:42] = True
    assert s.capture_range(s.by_start(starts, good, edges)) == 4.0
    good[:10] = False
    assert s.capture_range(s.by_start(starts, good, edges)) == 0.0


def test_empty_bins_say_nothing_and_stop_nothing() -> None:
    bins = s.by_start(np.array([0.5, 7.5, 21.0]), np.array([True, True, False]))
    assert len(bins) == 21 and bins[-1].low == 20 and bins[-1].high == 25
    assert sum(b.n for b in bins) == 3
    assert s.capture_range(bins) == 8.0
    assert math.isnan(s.capture_range(s.by_start(np.array([1e6]), np.array([True]))))
    with pytest.raises(InputError, match="do not rise"):
        s.by_start(np.array([1.0]), np.array([True]), (0, 2, 2))


def test_area_under_the_roc_is_the_share_of_ordered_pairs() -> None:
    draw = np.random.default_rng(3)
    scores, positive = draw.integers(0, 8, 50) / 8, draw.random(50) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    found = s.roc(scores, positive)
    assert found.area == pytest.approx(np.mean(pairs))
    statistic = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert found.area == pytest.approx(statistic / (positive.sum() * (~positive).sum()))
    assert found.false_positive[0] == 0 and found.true_positive[-1] == 1 == found.false_positive[-1]
    assert math.isnan(s.roc(scores, np.ones(50, bool)).area)


def test_distance_from_the_median_end_by_hand() -> None:
    ends = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 1.0], [100.0, 0.0]])
    assert s.from_median(ends).tolist() == pytest.approx([0, 5, 0, 1, 100])


def test_calibration_by_hand() -> None:
    p = np.array([0.05, 0.05, 0.95, 0.95, 0.95, 0.95, 1.0])
    right = np.array([False, True, True, True, True, False, True])
    low, high = s.calibration(p, right)
    assert (low.probability, low.right, low.n) == pytest.approx((0.05, 0.5, 2))
    assert (high.probability, high.right, high.n) == pytest.approx((0.96, 0.8, 5))
    assert s.expected_calibration_error(p, right) == pytest.approx((2 * 0.45 + 5 * 0.16) / 7)
    assert math.isnan(s.expected_calibration_error(np.array([]), np.array([], bool)))
