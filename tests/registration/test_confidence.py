"""What confidence is made of: the pattern of a match, the regression, the words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.stats import pearsonr
from scipy.stats import t as student

from raylign.registration import Direct, DirectConfig, Problem, SearchConfig, trust
from raylign.registration.confidence import Evidence, features, judge, near_enough, rivalry
from raylign.registration.drift import drift
from raylign.registration.evidence import local_match, mirror_image, mirrored, pattern, reduced
from raylign.registration.levels import build_scales, evaluate
from raylign.registration.matching import MatchConfig, answered, normal_equations, render
from raylign.registration.refinement import Candidate
from raylign.registration.search import moved
from raylign.registration.spread import covariance_of
from tests.registration import scene

GOOD = Evidence(0.8, 1.0, 0.2, 0.3, 0.1, True, 0.4, 0.9, 0.85, 0.01, 0.25, 0.005)


def gradients(image: np.ndarray) -> np.ndarray:
    return np.stack([np.gradient(image, axis=1), np.gradient(image, axis=0)])


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    return gaussian_filter(np.random.default_rng(0).standard_normal((48, 56)), 2.0)


def test_local_correlation_and_factor_are_those_of_the_window(texture: np.ndarray) -> None:
    """One window by hand, with SciPy's correlation of samples centred about zero by their negatives."""
    other = gaussian_filter(np.random.default_rng(1).standard_normal(texture.shape), 2.0)
    fixed, moving = gradients(0.6 * texture + 0.4 * other), gradients(texture)
    share = np.ones(texture.shape)
    correlation, energy, factor, there = local_match(fixed, moving, share, 3)
    assert there.all()
    a, b = (g[:, 17:24, 27:34].ravel() for g in (fixed, moving))
    expected = pearsonr(np.concatenate([a, -a]), np.concatenate([b, -b])).statistic
    assert correlation[20, 30] == pytest.approx(expected, abs=1e-6)
    assert energy[20, 30] == pytest.approx(2 * (b**2).mean(), rel=1e-6)
    assert factor[20, 30] == pytest.approx(np.linalg.lstsq(b[:, None], a, rcond=None)[0][0], rel=1e-6)


def test_a_pattern_is_blind_to_gain_and_sees_the_sign(texture: np.ndarray) -> None:
    g = gradients(texture)
    share = np.ones(texture.shape)
    same = local_match(3.7 * g, g, share, 4)
    assert same[0].min() == pytest.approx(1.0) and same[2].mean() == pytest.approx(3.7)
    assert local_match(-g, g, share, 4)[0].max() == pytest.approx(-1.0)
    nothing = local_match(0 * g, g, share, 4)
    assert not nothing[3].any() and not nothing[0].any()


def test_block_means_of_gradients_are_those_of_the_pixels() -> None:
    problem = Problem(scene.chest(), (scene.exposure(),), scene.centre_start())
    scale = build_scales(problem, DirectConfig())[0]
    image = scale.images[0]
    matrix = scene.truth().matrix.numpy()
    rendering = render(scale.model, scale.images, matrix, DirectConfig().match, jacobian=False)
    mask = answered(scale.model, scale.images, matrix)[0]
    fixed, moving, share = reduced(image, rendering.integrals[0], mask, 80)
    factor = image.shape[0] // share.shape[0]
    assert factor == 2 and share.max() == 1 and share.min() == 0
    y, x = 30, 41
    block = (slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
    shown = np.gradient((rendering.integrals[0] * image.lengths).astype(np.float64), axis=1)
    assert share[y, x] == 1
    assert moving[0, y, x] == pytest.approx(shown[block].mean(), rel=1e-4)
    assert fixed[1, y, x] == pytest.approx(image.gradient[1][block].mean(), rel=1e-5)


def test_the_pattern_falls_as_the_pose_leaves_the_truth() -> None:
    problem = Problem(scene.chest(), (scene.exposure(),), scene.centre_start())
    scale = build_scales(problem, DirectConfig())[0]
    truth = scene.truth().matrix.numpy()
    centre = truth[:3, :3] @ scene.chest().centre.numpy() + truth[:3, 3]
    found = [
        pattern(scale, moved(truth, np.array([0, 0, 0, mm, 0, 0.0]), centre), DirectConfig().match) for mm in (0.0, 3.0, 12.0)
    ]
    assert found[0].agreement > 0.85 and found[0].opposed < 0.05
    assert found[0].agreement > found[1].agreement + 0.1 > found[2].agreement + 0.2
    assert found[0].weakest > found[1].weakest > found[2].weakest
    assert found[2].opposed > found[0].opposed + 0.2
    assert found[0].drift < 0.03 and found[1].drift > found[0].drift + 0.03


@pytest.fixture(scope="module")
def grain() -> np.ndarray:
    return gaussian_filter(np.random.default_rng(4).standard_normal((64, 72)), 2.5)


def test_drift_is_what_windows_gain_by_their_best_shift(grain: np.ndarray) -> None:
    """Against the same by brute force: every window and every shift by itself."""
    other = gaussian_filter(np.random.default_rng(5).standard_normal(grain.shape), 2.5)
    fixed, moving = gradients(grain), gradients(0.8 * np.roll(grain, 2, 1) + 0.3 * other)
    _, h, w = fixed.shape
    padded = np.pad(moving, ((0, 0), (14, 14), (14, 14)))
    first = np.pad(fixed, ((0, 0), (8, 8), (8, 8)))
    energy = np.array([[(padded[:, y + 6 : y + 23, x + 6 : x + 23] ** 2).sum() for x in range(w)] for y in range(h)])
    count = np.array(
        [[(min(y, 8) + min(h - 1 - y, 8) + 1) * (min(x, 8) + min(w - 1 - x, 8) + 1) for x in range(w)] for y in range(h)]
    )
    local = energy / count
    assert local.min() > 0.1 * local.mean()  # so that all of it speaks
    gain = np.zeros((h, w))
    for y in range(h):
        for x in range(w):
            a = first[:, y : y + 17, x : x + 17]
            best, still = -1.0, 0.0
            for v in range(max(0, y - 6), min(h, y + 7)):
                for u in range(max(0, x - 6), min(w, x + 7)):
                    if energy[v, u] <= 0.25 * local.mean() * 17**2 and (v, u) != (y, x):
                        continue
                    b = padded[:, v + 6 : v + 23, u + 6 : u + 23]
                    c = (a * b).sum() / np.sqrt((a**2).sum() * energy[v, u])
                    best, still = max(best, c), c if (v, u) == (y, x) else still
            gain[y, x] = best - still
    weight = np.minimum(local, 2 * local.mean())
    expected = (weight * gain).sum() / weight.sum()
    assert expected > 0.1
    assert drift(fixed, moving, np.ones((h, w))) == pytest.approx(expected, rel=1e-3)


def test_poor_agreement_in_the_right_place_does_not_drift(grain: np.ndarray) -> None:
    """Noise, metal and another contrast lower the correlation where it is; a piece that lies elsewhere is missed there."""
    rng = np.random.default_rng(6)
    other = gaussian_filter(rng.standard_normal(grain.shape), 2.5)
    share = np.ones(grain.shape)
    still = gradients(0.7 * grain + 0.5 * other)
    ramp = np.linspace(-3, 3, grain.shape[0])[:, None]
    rows, columns = np.meshgrid(*(np.arange(n, dtype=float) for n in grain.shape), indexing="ij")
    sheared = gradients(map_coordinates(grain, [rows, columns + ramp], order=3, mode="nearest"))
    assert drift(still, gradients(grain), share) < 0.02
    assert drift(sheared, gradients(grain), share) > 0.1
    assert drift(gradients(grain), gradients(grain), share) == pytest.approx(0, abs=1e-5)
    assert drift(gradients(grain), 0 * gradients(grain), share) == 2.0


def test_a_flat_exposure_is_no_evidence_of_a_right_pose(grain: np.ndarray) -> None:
    """Burnt-out pixels say nothing: they do not dilute what the others say, and of nearly nothing else nothing follows."""
    other = gaussian_filter(np.random.default_rng(7).standard_normal(grain.shape), 2.5)
    share = np.ones(grain.shape)
    model, wrong = gradients(grain), gradients(other)
    assert drift(0 * model, model, share) == 2.0
    whole = drift(wrong, model, share)
    half = wrong.copy()
    half[:, :, : grain.shape[1] // 2] = 0
    assert whole > 0.2 and drift(half, model, share) > 0.6 * whole
    strip = np.zeros_like(wrong)
    strip[:, :, 30:32] = wrong[:, :, 30:32]
    thin = np.zeros(grain.shape)
    thin[:, 30:32] = 1
    assert drift(strip, model * thin, thin) == 2.0


def test_every_feature_counts_the_way_it_may() -> None:
    """Worse evidence of any one kind never raises the probability."""
    assert set(features(GOOD)) == set(trust.WEIGHTS)
    worse = {
        "depth": 12.0,
        "agreement": 0.4, "weakest": 0.1, "opposed": 0.4, "contrast": 0.9, "explained": 0.2, "rival": 0.95, "mirror": 1.3,
        "wobble": 8.0, "drift": 0.2, "held": False,
    }  # fmt: skip
    best = judge(GOOD, 0.5).probability
    assert best > 0.9
    only_told = {"weakest", "opposed", "contrast", "explained"}
    for name, value in worse.items():
        probability = judge(replace(GOOD, **{name: value}), 0.5).probability
        assert probability == best if name in only_told else probability < best, name
    assert judge(replace(GOOD, **worse), 0.5).probability < 0.05


def test_a_distrusted_result_says_what_is_wrong_with_it() -> None:
    stranger = replace(GOOD, agreement=0.35, weakest=0.0, opposed=0.3, drift=0.15, depth=4.0, rival=0.95, mirror=0.9)
    doubted = judge(stranger, 0.6)
    assert not doubted.trusted and "another patient" in doubted.reasons[0]
    assert judge(GOOD, 0.6).trusted and judge(GOOD, 0.6).reasons == ()
    assert doubted.evidence["agreement"] == 0.35


def test_what_no_image_determines_is_not_trusted() -> None:
    """A ball's rotation, a deep pose, a model that agrees nowhere: whatever else speaks for them."""
    for poor in ({"wobble": 1e3}, {"depth": 40.0}, {"agreement": 0.0}, {"agreement": -0.5}):
        assert judge(replace(GOOD, **poor), 0.8).probability < 0.4, poor


@pytest.mark.parametrize("depth", [0.3, 2.0, 4.5, 7.0, 20.0])
def test_the_chance_of_being_near_enough_is_that_of_students_distribution(depth: float) -> None:
    expected = 1 - 2 * student.sf(10 / (0.9 * np.hypot(depth, 0.5)), 4)
    assert near_enough(replace(GOOD, depth=depth, wobble=1.0)) == pytest.approx(expected, abs=1e-9)


def test_the_best_other_pose_is_the_rival_in_whatever_order() -> None:
    problem = Problem(scene.chest(), (scene.exposure(),), scene.centre_start())
    scale = build_scales(problem, DirectConfig())[-1]
    truth = scene.truth().matrix.numpy()
    normal = evaluate(scale, truth, DirectConfig().match)

    def at(mm: float, cost: float) -> Candidate:
        matrix = truth.copy()
        matrix[0, 3] += mm
        return Candidate(matrix, replace(normal, cost=cost))

    best, near, far, farther = at(0, -1.0), at(3, -0.99), at(90, -0.5), at(20, -0.95)
    for order in ((best, far, near, farther), (best, farther, far, near)):
        assert rivalry(order) == pytest.approx(0.95)
    assert rivalry((best, near)) == 0 and rivalry((at(0, 0.1), far)) == 1


@pytest.mark.parametrize("window", [3, 5])
def test_a_covariance_is_made_for_any_window_of_comparison(window: int) -> None:
    """And is that of the windows in use: the scores' places are not those of the default."""
    config = DirectConfig(match=MatchConfig(window=window), search=SearchConfig(degrees=5, mm=5, hypotheses=1))
    problem = Problem(scene.chest(), (scene.exposure(),), scene.truth())
    found, usual = (Direct(c).search_once(problem) for c in (config, replace(config, match=MatchConfig())))
    ratio = found.standard_deviations[1] / usual.standard_deviations[1]
    assert float(ratio.max()) < 3 and float(ratio.min()) > 1 / 3


def test_few_blocks_make_a_wide_covariance_and_no_singular_one() -> None:
    problem = Problem(scene.chest(), (scene.exposure(),), scene.centre_start())
    scale = build_scales(problem, DirectConfig())[0]
    match = DirectConfig().match
    truth = scene.truth().matrix.numpy()
    rendering = render(scale.model, scale.images, truth, match)
    masks = answered(scale.model, scale.images, truth)
    normal = normal_equations(scale.model, scale.images, rendering, masks, np.ones(1), match)
    usual = covariance_of(normal, scale.images, match)
    few = replace(normal, scores=np.where(np.arange(len(normal.scores))[:, None] < 3, normal.scores, 0))
    wide = covariance_of(few, scale.images, match)
    assert np.linalg.eigvalsh(wide).min() > 0 and np.trace(wide[3:, 3:]) > np.trace(usual[3:, 3:])
    assert np.allclose(covariance_of(normal, scale.images, match, 0.03), 10**1.25 * usual)
    with pytest.raises(ValueError, match="scores"):
        covariance_of(replace(normal, scores=normal.scores[:-1]), scale.images, match)


def test_a_mirrored_model_is_told_from_the_right_one() -> None:
    """From the right pose the mirror image explains less; of a model that was mirrored by mistake it explains more."""
    xray = scene.exposure()
    problem = Problem(scene.chest(), (xray,), scene.centre_start())
    right = mirrored(build_scales(problem, DirectConfig()), scene.truth().matrix.numpy(), DirectConfig())
    assert right < 0.8
    wrong = Problem(replace(scene.chest(), data=scene.chest().data.flip(2)), (xray,), scene.centre_start())
    found = Direct(DirectConfig()).search_once(wrong)
    assert found.confidence.evidence["mirror"] > right and not found.confidence.trusted


def test_the_mirror_image_is_a_mirror_image() -> None:
    level = build_scales(Problem(scene.chest(), (scene.exposure(),), scene.centre_start()), DirectConfig())[-1].model
    other, off = mirror_image(level)
    assert np.array_equal(other.data, level.data[:, :, ::-1])
    again, back = mirror_image(other)
    assert np.array_equal(again.data, level.data) and back == pytest.approx(-off)
    for a, b in zip(level.faces, again.faces, strict=True):
        assert np.array_equal(a, b)
    # after the shift, both have their mean attenuation in one place
    x = np.arange(level.data.shape[2])
    means = [float((d.sum((0, 1)) @ x) / d.sum()) for d in (level.data, other.data)]
    assert means[1] + off == pytest.approx(means[0], abs=1e-3)
