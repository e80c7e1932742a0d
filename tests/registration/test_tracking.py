"""Tracking: a small chest that breathes, is covered, jumps; the filter beside a textbook's."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from raylign.data import XRay
from raylign.errors import InputError
from raylign.geometry import Rigid, se3
from raylign.registration.direct import Direct
from raylign.registration.problem import Problem
from raylign.registration.refinement import refine
from raylign.registration.search import Bounds, camera_axes
from raylign.registration.settings import DirectConfig, SearchConfig
from raylign.registration.tracking import State, Tracker, TrackingConfig, track
from raylign.registration.tracking_levels import FollowConfig, follow, stand
from raylign.registration.tracking_motion import Motion, MotionConfig, resting
from raylign.simulation import ExposureConfig, expose
from raylign.simulation.physics.apparatus import Collimator
from tests.registration.scene import centre_start, chest, patient, targets, truth, view

RATE = 15.0
CONFIG = TrackingConfig(direct=DirectConfig(search=SearchConfig(degrees=12, mm=25, hypotheses=27)))


def pose(frame: int, table: float = 0.0) -> Rigid:
    """The patient's pose: half a millimetre a frame to the head, and a table that may have been moved."""
    motion = se3.exp(torch.tensor([0.002 * frame, 0, 0, 0, -0.2 * frame, 0.5 * frame], dtype=torch.float64))
    motion[2, 3] -= table
    return Rigid(motion @ truth().matrix)


@lru_cache(maxsize=16)
def frame(number: int, table: float = 0.0, primary: float = 10.0) -> XRay:
    config = ExposureConfig(collimator=Collimator.round(0.95))
    return expose(patient(), view(primary), pose(number, table), config, torch.Generator().manual_seed(number)).xray


def covered() -> XRay:
    """What is left of a frame behind a closed shutter."""
    noise = torch.randn(192, 192, generator=torch.Generator().manual_seed(3))
    return replace(frame(0), image=6 + 0.3 * noise)


def error(found: Rigid, number: int, table: float = 0.0) -> float:
    return float((found.apply(targets()) - pose(number, table).apply(targets())).norm(dim=1).mean())


def test_a_breathing_patient_is_followed() -> None:
    seen = []
    done = track(chest(), ((k / RATE, frame(k)) for k in range(5)), centre_start(), CONFIG, seen.append)
    assert [p.state for p in done.poses] == [State.TRACKING] * 5
    assert max(error(p.transform, k) for k, p in enumerate(done.poses)) < 1.0
    assert all(p.probability > 0.9 for p in done.poses)
    assert [p.index for p in seen] == list(range(5))
    assert done.rate == pytest.approx(RATE)
    assert all(p.renders <= 5 for p in done.poses[1:])
    assert done.breathing is None and done.pulse is None  # a third of a second
    for k, p in enumerate(done.poses[1:], 1):
        off = torch.cat([
            se3.log_rotation(pose(k).matrix[:3, :3] @ p.transform.matrix[:3, :3].T),
            pose(k).apply(p.transform.inverse().apply(p.centre[None]))[0] - p.centre,
        ])  # fmt: skip
        assert float(off @ torch.linalg.inv(p.covariance) @ off) < 40


def test_what_is_covered_is_held_and_found_again() -> None:
    frames = [frame(0), frame(1), frame(2), None, covered(), covered(), frame(3)]
    done = track(chest(), ((k / RATE, x) for k, x in enumerate(frames)), centre_start(), CONFIG)
    states = [p.state for p in done.poses]
    assert states == [State.TRACKING] * 3 + [State.LOST] * 3 + [State.RECOVERED]
    assert all(p.probability <= 0.3 for p in done.poses[3:6])
    assert error(done.poses[5].transform, 2) < 4  # held near where it was last seen
    spread = [float(p.covariance.diagonal()[3:].sum()) for p in done.poses[2:6]]
    assert spread == sorted(spread)
    assert error(done.poses[6].transform, 3) < 1.0


def test_a_moved_table_is_a_jump_that_one_frame_mends() -> None:
    frames = [frame(0), frame(1), frame(2, 25.0), frame(3, 25.0)]
    done = track(chest(), ((k / RATE, x) for k, x in enumerate(frames)), centre_start(), CONFIG)
    assert [p.state for p in done.poses[2:]] == [State.RECOVERED, State.TRACKING]
    assert error(done.poses[2].transform, 2, 25.0) < 1.0
    assert error(done.poses[3].transform, 3, 25.0) < 1.0


def test_two_cameras_see_depth() -> None:
    frames = [[frame(k), frame(k, primary=-80.0)] for k in range(2)]
    done = track(chest(), ((k / RATE, x) for k, x in enumerate(frames)), centre_start(), CONFIG)
    assert error(done.poses[1].transform, 1) < 0.5
    assert float(done.poses[1].covariance.diagonal()[3:].max()) < 0.3**2


def test_a_tracker_says_the_same_twice() -> None:
    said = []
    for _ in range(2):
        tracker = Tracker(chest(), view(), CONFIG, centre_start())
        said.append([tracker.step(frame(k), k / RATE).transform.matrix for k in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(*said, strict=True))


def test_frames_that_do_not_fit_are_refused() -> None:
    tracker = Tracker(chest(), view(), CONFIG, centre_start())
    with pytest.raises(InputError, match="2 exposures where there are 1 cameras"):
        tracker.step([frame(0), frame(0)], 0.0)
    small = expose(patient(), view(shape=(96, 96)), pose(0)).xray
    with pytest.raises(InputError, match="another size"):
        tracker.step(small, 0.0)
    assert tracker.step(None, 0.5).state == State.LOST  # nothing is known yet
    with pytest.raises(InputError, match="does not come after"):
        tracker.step(None, 0.5)
    with pytest.raises(InputError, match="no frame shows anything"):
        track(chest(), [(0.0, None)], centre_start(), CONFIG)
    with pytest.raises(InputError, match="no view"):
        Tracker(chest(), ())
    with pytest.raises(InputError, match="shares"):
        TrackingConfig(usual=0.3, least=0.5)


# -- the filter -----------------------------------------------------------------------------------------------------------------


def random_motion(seed: int) -> tuple[Motion, np.ndarray]:
    random = np.random.default_rng(seed)
    factor = random.normal(size=(12, 12)) * np.tile([1e-3] * 3 + [0.5] * 3, 2)[:, None]
    covariance = factor @ factor.T + 1e-9 * np.eye(12)
    return Motion(np.eye(4), np.zeros(3), np.concatenate([np.zeros(3), random.normal(size=3)]), covariance), random.normal(size=3)


def test_a_correction_is_that_of_a_kalman_filter() -> None:
    before, z = random_motion(0)
    noise = np.diag([1e-6] * 3 + [0.04] * 3)
    # the textbook: x, P with H = (I 0), for a look that shows a shift z and no turn
    h = np.concatenate([np.eye(6), np.zeros((6, 6))], 1)
    gain = before.covariance @ h.T @ np.linalg.inv(h @ before.covariance @ h.T + noise)
    innovation = np.concatenate([np.zeros(3), z * 1e-3])
    state = np.concatenate([np.zeros(6), before.velocity]) + gain @ innovation
    covariance = (np.eye(12) - gain @ h) @ before.covariance

    prior = before.covariance[:6, :6]
    share = prior @ np.linalg.inv(prior + noise)
    matrix = se3.exp(torch.zeros(6, dtype=torch.float64)).numpy().copy()
    step = share @ innovation
    from raylign.registration.search import moved

    after = before.corrected(moved(matrix, step, np.zeros(3)), prior - share @ prior)
    assert np.allclose(after.velocity, state[6:], atol=1e-6)
    assert np.allclose(after.covariance, covariance, rtol=1e-6, atol=1e-12)
    assert np.allclose(after.matrix[:3, 3], state[3:6], atol=1e-6)


def test_a_prediction_moves_on_and_slows_down() -> None:
    config = MotionConfig(damping=0.5)
    start = resting(np.eye(4), np.zeros(3), np.diag([1e-6] * 3 + [0.01] * 3), config)
    going = replace(start, velocity=np.array([0, 0, 0, 10.0, 0, 0]))
    soon, late = going.predicted(0.1, config), going.predicted(1.0, config)
    assert soon.matrix[0, 3] == pytest.approx(0.5 * (1 - math.exp(-0.2)) * 10)
    assert late.velocity[3] == pytest.approx(10 * math.exp(-2))
    twice = going.predicted(0.5, config).predicted(0.5, config)
    assert np.allclose(twice.matrix, late.matrix)
    assert soon.pose_covariance[3, 3] > 0.01
    forever = going.predicted(100.0, config)
    assert math.sqrt(forever.pose_covariance[3, 3]) <= config.most_mm * 1.001
    assert np.linalg.eigvalsh(forever.covariance).min() > -1e-9


def test_following_keeps_between_what_is_expected_and_what_is_seen() -> None:
    problem = Problem(chest(), (frame(0),), pose(0))
    config = DirectConfig(pixels=128, search=SearchConfig(mm=30))
    scale = stand(problem, config).scales[0]
    off = pose(3).matrix.numpy()
    middle = scale.model.middle
    free = Bounds(off, camera_axes(frame(0).view), pose(3).apply(torch.from_numpy(middle)[None])[0].numpy(), 10, 20, 20)
    alone = refine(scale, off, free, config, threaded=False)

    def followed(mm: float) -> np.ndarray:
        prior = resting(off, middle, np.diag([(mm / 50) ** 2] * 3 + [mm**2] * 3), MotionConfig())
        return follow(scale, prior, FollowConfig(config, MotionConfig(), 8, 5.0)).matrix

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        p = targets()
        return float((Rigid(torch.from_numpy(a)).apply(p) - Rigid(torch.from_numpy(b)).apply(p)).norm(dim=1).mean())

    assert apart(followed(1e-4), off) < 1e-2
    assert apart(followed(100.0), alone.matrix) < 0.2
    assert 0.1 * apart(off, alone.matrix) < apart(followed(0.15), off) < 0.95 * apart(off, alone.matrix)


def test_the_first_frame_is_the_direct_methods() -> None:
    tracker = Tracker(chest(), view(), CONFIG, centre_start())
    first = tracker.step(frame(0), 0.0)
    result = Direct(CONFIG.direct).register(Problem(chest(), (frame(0),), centre_start()))
    assert torch.equal(first.transform.matrix, result.transform.matrix)
    assert first.probability == result.confidence.probability
