"""Gating signals of known phase."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import hilbert

from raylign.data import XRay
from raylign.geometry import View
from raylign.registration.tracking_gating import blocks_of, breathing, pulse

TIMES = np.arange(180) / 15.0


def apart(phase: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance of two phases, 0 to 0.5, where both are known."""
    d = np.abs(np.mod(phase - truth + 0.5, 1) - 0.5)
    return d[np.isfinite(d)]


def test_breathing_has_the_phase_that_it_was_made_with() -> None:
    truth = np.mod(0.25 * TIMES + 0.1, 1)
    heights = 2.5 * np.cos(2 * np.pi * truth) + 0.4 * TIMES - 70 + np.random.default_rng(0).normal(0, 0.1, 180)
    heights[60:70] = np.nan
    heights[120:] += 30  # the table was moved
    found = breathing(TIMES, heights)
    assert found is not None
    assert found.hertz == pytest.approx(0.25, abs=0.01)
    assert found.share > 0.9
    assert apart(found.phase, truth).max() < 0.05
    assert np.isnan(found.phase[60:70]).all() and (found.values[60:70] == 0).all()
    assert np.isfinite(found.phase[:60]).all()
    assert np.abs(found.values[:60] - 2.5 * np.cos(2 * np.pi * truth[:60])).max() < 0.4


@pytest.mark.parametrize("lying", [0.0, 4.0, -12.0, 30.0])
@pytest.mark.parametrize("begins", [0.0, 0.3, 0.6])
def test_a_table_moved_while_nothing_is_seen_is_no_breath(lying: float, begins: float) -> None:
    truth = np.mod(0.25 * TIMES + begins, 1)
    heights = 2.5 * np.cos(2 * np.pi * truth) + np.random.default_rng(1).normal(0, 0.1, 180)
    heights[70:80] = np.nan
    heights[80:] += lying
    found = breathing(TIMES, heights)
    assert found is not None and found.hertz == pytest.approx(0.25, abs=0.01)
    assert apart(found.phase, truth).max() < 0.03
    still = np.random.default_rng(2).normal(0, 0.1, 180)
    still[60:70] = np.nan
    still[70:] += lying
    assert breathing(TIMES, still) is None  # of 6 mm alone a breath of eight seconds was made


def test_the_phase_is_that_of_the_analytic_signal_where_that_is_exact() -> None:
    whole = 2.0 * np.cos(2 * np.pi * 0.25 * TIMES + 0.7)  # three whole waves: periodic, as a Hilbert transform wants it
    found = breathing(TIMES, whole)
    assert found is not None
    other = np.mod(np.angle(hilbert(whole)) / (2 * np.pi), 1)
    assert apart(found.phase, other).max() < 0.01


def test_breaths_of_different_length_are_followed() -> None:
    times = np.arange(450) / 15.0
    truth = np.cumsum(0.25 + 0.04 * np.sin(2 * np.pi * times / 17)) / 15
    found = breathing(times, 3 * np.cos(2 * np.pi * truth))
    assert found is not None
    assert np.quantile(apart(found.phase, np.mod(truth, 1)), 0.95) < 0.08


@pytest.mark.parametrize(
    "heights",
    [
        np.full(180, 4.0),
        0.05 * np.cos(2 * np.pi * 0.25 * TIMES),  # a twentieth of a millimetre
        3 * np.cos(2 * np.pi * 1.2 * TIMES),  # a heart
        np.full(180, np.nan),
    ],
    ids=["still", "hardly", "heart", "unseen"],
)
def test_what_is_no_breath_has_no_phase(heights: np.ndarray) -> None:
    assert breathing(TIMES, heights) is None


def test_half_a_breath_has_no_phase() -> None:
    assert breathing(TIMES[:30], np.cos(2 * np.pi * 0.2 * TIMES[:30]) * 3) is None


def scenes(beat: float, hertz: float = 1.2) -> tuple[list[np.ndarray], np.ndarray]:
    """Blocks of images in which a few places beat, everything breathes, and the exposure fluctuates; and the phase."""
    random = np.random.default_rng(1)
    phase = np.mod(hertz * TIMES + 0.3, 1)
    static = random.normal(0, 1, 100)
    depth = np.zeros(100)
    depth[40:52] = random.uniform(0.5, 1, 12)
    breath = random.normal(0, 1, 100)
    series = static + np.outer(0.3 * np.sin(2 * np.pi * 0.25 * TIMES), breath) + beat * np.outer(np.cos(2 * np.pi * phase), depth)
    series += random.normal(0, 0.01, series.shape)
    return [row - row.mean() for row in series], phase


def test_the_pulse_has_the_phase_that_it_was_made_with() -> None:
    blocks, truth = scenes(0.05)
    blocks[30] = np.empty(0)  # a frame that is missing
    found = pulse(TIMES, blocks)
    assert found is not None
    assert found.hertz == pytest.approx(1.2, abs=0.03)
    assert apart(found.phase, truth).max() < 0.1
    assert np.median(apart(found.phase, truth)) < 0.05
    assert np.isnan(found.phase[30])


def test_where_nothing_beats_there_is_no_pulse() -> None:
    assert pulse(TIMES, scenes(0.0)[0]) is None
    assert pulse(TIMES[:20], scenes(0.05)[0][:20]) is None
    slow = np.arange(180) / 1.0
    assert pulse(slow, scenes(0.05)[0]) is None
    assert pulse(TIMES, [np.empty(0)] * 180) is None


@pytest.mark.parametrize("rate", [0.21, 0.3, 1.0, 1.77, 1.79, 2.4, 2.6])
@pytest.mark.parametrize("count", [8, 9, 40])
def test_slow_and_short_sequences_have_no_pulse_and_break_nothing(rate: float, count: int) -> None:
    times = np.arange(count) / rate
    noise = np.random.default_rng(0).normal(size=(count, 50))
    assert pulse(times, list(noise)) is None
    breathing(times, noise[:, 0] * 3)


def test_blocks_are_means_of_valid_pixels() -> None:
    view = View.from_carm(primary=0, secondary=0, sid=1000, sod=700, pixel_spacing=1.0, shape=(48, 48))
    image = torch.arange(48.0)[:, None].expand(48, 48).clone()
    mask = torch.ones(48, 48, dtype=torch.bool)
    mask[:4] = False
    image[:4] = 1e6
    found = blocks_of(XRay(image, view, mask)).reshape(24, 24)
    assert np.isnan(found[:2]).all()
    assert np.allclose(np.diff(found[2:, 0]), 2)
    assert abs(float(np.nanmean(found))) < 1e-9
