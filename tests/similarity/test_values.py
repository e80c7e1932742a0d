"""Values that can be worked out by hand, and the same ones from packages that share nothing with ours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from skimage.metrics import normalized_mutual_information, structural_similarity
from torch import Tensor

from raylign.similarity import similarity
from raylign.similarity.filters import binomial, box_sum, gaussian, sobel
from tests.similarity.images import NAMES, disc, smooth

SIZE = 40


def ramp(down: float, right: float) -> Tensor:
    return down * torch.arange(SIZE, dtype=torch.float64)[:, None] + right * torch.arange(SIZE, dtype=torch.float64)


def test_ssd_is_minus_the_mean_square() -> None:
    moving, fixed = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    assert similarity("ssd")(moving, fixed, None) == -(4 + 9) / 4
    assert similarity("ssd")(moving, fixed, torch.tensor([[True, True], [True, False]])) == -4 / 3


def test_ncc_is_numpys_correlation() -> None:
    moving, fixed, mask = smooth((SIZE, SIZE), 0), smooth((SIZE, SIZE), 1), disc(SIZE)
    expected = np.corrcoef(moving[mask].numpy(), fixed[mask].numpy())[0, 1]
    assert float(similarity("ncc")(moving, fixed, mask)) == pytest.approx(expected, abs=1e-12)


def patches(image: Tensor, radius: int, mask: Tensor | None = None) -> list[np.ndarray]:
    """Every window as numpy, where all of it is valid."""
    h, w = image.shape
    found = []
    for r in range(radius, h - radius):
        for c in range(radius, w - radius):
            window = slice(r - radius, r + radius + 1), slice(c - radius, c + radius + 1)
            if mask is None or bool(mask[window].all()):
                found.append(image[window].numpy().ravel())
    return found


@pytest.mark.parametrize("weights", ["uniform", "variance"])
def test_patch_ncc_is_the_mean_of_numpys_correlations(weights: str) -> None:
    moving, fixed, mask = smooth((20, 23), 0), smooth((20, 23), 1), torch.ones(20, 23, dtype=torch.bool)
    mask[3, 17] = False
    pairs = list(zip(patches(moving, 3, mask), patches(fixed, 3, mask), strict=True))
    each = [np.corrcoef(m, f)[0, 1] for m, f in pairs]
    by = [float(np.var(f)) if weights == "variance" else 1.0 for _, f in pairs]
    value = similarity("patch-ncc", radius=3, weights=weights)(moving, fixed, mask)
    assert float(value) == pytest.approx(np.average(each, weights=by), abs=1e-10)
    single = similarity("patch-ncc", radius=3, weights=weights)(moving.float(), fixed.float() + 100, mask)
    assert float(single) == pytest.approx(float(value), abs=2e-4)


def test_multiscale_ncc_is_the_mean_of_its_scales() -> None:
    moving, fixed = smooth((SIZE, SIZE), 0), smooth((SIZE, SIZE), 1)
    parts = similarity("ncc")(moving, fixed, None), similarity("patch-ncc", radius=6)(moving, fixed, None)
    assert torch.allclose(similarity("multiscale-ncc")(moving, fixed, None), sum(parts) / 2)


def test_smoothed_derivatives_are_opencvs() -> None:
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed")
    image = smooth((SIZE, SIZE), 0)
    blurred = cv2.GaussianBlur(image.numpy(), (5, 5), 0)
    columns, rows = sobel(binomial(image, 5))
    assert np.allclose(columns, cv2.Sobel(blurred, -1, 1, 0)[3:-3, 3:-3] / 8, atol=1e-12)
    assert np.allclose(rows, cv2.Sobel(blurred, -1, 0, 1)[3:-3, 3:-3] / 8, atol=1e-12)


def test_gradient_correlations_are_numpys() -> None:
    moving, fixed = smooth((SIZE, SIZE), 0), smooth((SIZE, SIZE), 1)
    for name, width in (("gc", 1), ("gradient-ncc", 5)):
        pairs = zip(sobel(binomial(moving, width)), sobel(binomial(fixed, width)), strict=True)
        each = [np.corrcoef(m.numpy().ravel(), f.numpy().ravel())[0, 1] for m, f in pairs]
        assert float(similarity(name)(moving, fixed, None)) == pytest.approx(np.mean(each), abs=1e-12)


def test_patch_gradient_ncc_is_the_mean_of_numpys_correlations() -> None:
    moving, fixed = smooth((22, 20), 0), smooth((22, 20), 1)
    pairs = list(zip(sobel(binomial(moving, 5)), sobel(binomial(fixed, 5)), strict=True))
    each = [[np.corrcoef(m, f)[0, 1] for m, f in zip(patches(one, 4), patches(other, 4), strict=True)] for one, other in pairs]
    value = similarity("patch-gradient-ncc", radius=4)(moving, fixed, None)
    assert float(value) == pytest.approx(np.mean(each), abs=1e-10)
    by = [np.var(f) for f in patches(fixed[3:-3, 3:-3], 4)]
    weighted = similarity("patch-gradient-ncc", radius=4, weights="variance")(moving, fixed, None)
    assert float(weighted) == pytest.approx(np.mean([np.average(e, weights=by) for e in each]), abs=1e-10)


@pytest.mark.parametrize("degrees", [0, 30, 60, 89, 91, 120, 180])
def test_angles_between_two_ramps(degrees: int) -> None:
    # a ramp has one gradient everywhere: only the angle and the sizes are left
    angle = math.radians(degrees)
    moving, fixed = ramp(2 * math.sin(angle), 2 * math.cos(angle)), ramp(0.0, 1.0)
    weight = (math.cos(2 * angle) + 1) / 2
    there = degrees < 90

    def value(name: str, **options: object) -> float:
        return float(similarity(name, **options)(moving, fixed, None))

    assert value("gi") == pytest.approx(weight, abs=1e-9)
    assert value("gi", normalise=False) == pytest.approx(weight, abs=1e-9)  # the smaller gradient is the fixed one
    assert value("gi+") == pytest.approx(weight if there else 0, abs=1e-9)
    # all gradients are of one size and none exceeds the median; of two halves with sizes 1 and 2 one does
    steps = torch.arange(SIZE) >= SIZE // 2
    moving, fixed = torch.where(steps[:, None], 2 * moving, moving), torch.where(steps[:, None], 2 * fixed, fixed)
    rows = torch.ones(SIZE, SIZE, dtype=torch.bool)
    rows[SIZE // 2 - 2 : SIZE // 2 + 2] = False  # the step between the halves
    expected = (2 - math.log(angle + 1)) / 2

    def orientation(name: str) -> float:
        return float(similarity(name)(moving, fixed, rows))

    assert orientation("go") == pytest.approx(expected, abs=1e-6)
    assert orientation("go+") == pytest.approx(expected if there else 0, abs=1e-6)


def test_unequal_gradients_count_with_the_smaller_one() -> None:
    assert float(similarity("gi", normalise=False)(ramp(0, 0.25), ramp(0, 1.0), None)) == pytest.approx(0.25)
    assert float(similarity("gi")(ramp(0, 0.25), ramp(0, 1.0), None)) == pytest.approx(1.0)


def test_halves_of_the_gradients() -> None:
    # a roof of two slopes: up, then down; the other image lacks the way down
    roof = (SIZE / 2 - (torch.arange(SIZE, dtype=torch.float64) - SIZE / 2).abs()).expand(SIZE, SIZE) + ramp(0.1, 0)
    up = roof.cummax(-1).values
    slopes = torch.ones(SIZE, SIZE, dtype=torch.bool)
    slopes[:, SIZE // 2] = False  # the ridge

    def value(name: str, half: str) -> float:
        return float(similarity(name, half=half)(up, roof, slopes))

    assert value("gc+", "rising") == pytest.approx(0.5, abs=1e-9)  # one across; down the rows nothing varies
    assert value("gc+", "falling") == 0
    assert value("gi+", "rising") > 0.99
    assert value("gi+", "falling") == 0
    assert value("gi+", "agreeing") < 0.9


def test_gradient_difference_at_the_best_of_all_scales() -> None:
    moving, fixed = smooth((SIZE, SIZE), 0), smooth((SIZE, SIZE), 1) * 0.2
    moving = 0.5 * moving + 2 * fixed
    pairs = list(zip(sobel(moving), sobel(fixed), strict=True))

    def at(scale: float) -> float:
        return float(
            np.mean([float((f.var(correction=0) / (f.var(correction=0) + (f - scale * m) ** 2)).mean()) for m, f in pairs])
        )

    best = max(at(scale) for scale in np.linspace(0, 2, 401))
    assert float(similarity("gradient-difference", iterations=50)(moving, fixed, None)) == pytest.approx(best, abs=1e-5)
    values = [float(similarity("gradient-difference", iterations=k)(moving, fixed, None)) for k in range(6)]
    assert values == sorted(values), "every step is a step up"
    assert values[3] == pytest.approx(best, abs=2e-3)


def test_pattern_intensity_pair_by_pair() -> None:
    moving, fixed, mask = smooth((9, 11), 0), smooth((9, 11), 1), torch.ones(9, 11, dtype=torch.bool)
    mask[4, 4] = mask[0, 2] = False
    m, f = moving - moving[mask].mean(), fixed - fixed[mask].mean()
    scale = max(0.0, float((m * f)[mask].sum() / (m * m)[mask].sum()))
    d = f - scale * m
    sigma2 = (0.2 * f[mask].abs().mean()) ** 2
    places = [(r, c) for r in range(9) for c in range(11) if mask[r, c]]
    terms = [
        float(sigma2 / (sigma2 + (d[one] - d[other]) ** 2))
        for one in places
        for other in places
        if one != other and (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2 <= 9
    ]
    value = similarity("pattern-intensity", sigma=0.2)(moving, fixed, mask)
    assert float(value) == pytest.approx(np.mean(terms), abs=1e-12)


def test_mutual_information_by_a_slow_histogram() -> None:
    moving, fixed, mask, bins = smooth((SIZE, SIZE), 0), smooth((SIZE, SIZE), 1), disc(SIZE), 12
    moving = moving + fixed
    m, f = moving[mask].numpy(), fixed[mask].numpy()
    place = 1 + (bins - 3) * (m - m.min()) / (m.max() - m.min())
    row = np.minimum((bins * (f - f.min()) / (f.max() - f.min())).astype(int), bins - 1)
    joint = np.zeros((bins, bins))
    for k in range(bins):
        spline = BSpline.basis_element(np.arange(k - 2, k + 3), extrapolate=False)
        np.add.at(joint[:, k], row, np.nan_to_num(spline(place)))
    p = joint / joint.sum()

    def entropy(q: np.ndarray) -> float:
        return float(-(q[q > 0] * np.log(q[q > 0])).sum())

    parts = entropy(p.sum(0)) + entropy(p.sum(1))
    assert float(similarity("mi", bins=bins)(moving, fixed, mask)) == pytest.approx(parts - entropy(p), abs=1e-10)
    assert float(similarity("nmi", bins=bins)(moving, fixed, mask)) == pytest.approx(parts / entropy(p), abs=1e-10)


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_mutual_information_of_correlated_noise(rho: float) -> None:
    # of two normal variables: -ln(1 - rho^2) / 2
    generator = torch.Generator().manual_seed(3)
    first, second = torch.randn(2, 400, 400, generator=generator, dtype=torch.float64)
    second = rho * first + math.sqrt(1 - rho**2) * second
    value = float(similarity("mi", bins=48)(first, second, None))
    assert value == pytest.approx(-math.log(1 - rho**2) / 2, abs=0.03)
    theirs = normalized_mutual_information(first.numpy(), second.numpy(), bins=48)
    assert float(similarity("nmi", bins=48)(first, second, None)) == pytest.approx(theirs, abs=0.02)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_ssim_is_scikit_images(shift: float) -> None:
    moving, fixed = smooth((SIZE, SIZE + 5), 0) + shift, smooth((SIZE, SIZE + 5), 1)
    moving = 0.5 * moving + 0.5 * fixed
    span = float(fixed.max() - fixed.min())
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = structural_similarity(moving.numpy(), fixed.numpy(), data_range=span, **settings)
    assert float(similarity("ssim")(moving, fixed, None)) == pytest.approx(theirs, abs=1e-10)
    wider = structural_similarity(moving.numpy(), fixed.numpy(), data_range=20.0, **settings)
    assert float(similarity("ssim", data_range=20.0)(moving, fixed, None)) == pytest.approx(wider, abs=1e-10)


@pytest.mark.parametrize("radius", [1, 2, 3, 5, 10])
def test_box_sums_are_sums_over_windows(radius: int) -> None:
    image = smooth((3, 24, 31), 0)
    expected = image.unfold(-2, 2 * radius + 1, 1).unfold(-2, 2 * radius + 1, 1).sum((-2, -1))
    assert torch.allclose(box_sum(image, radius), expected)


def test_a_gaussian_keeps_a_constant_and_shrinks_noise() -> None:
    assert torch.allclose(gaussian(torch.full((20, 30), 2.0), 1.5, 5), torch.full((10, 20), 2.0))
    # variance of white noise falls by the sum of the squared weights, 1 / (4 pi sigma^2) for a wide kernel
    noise = torch.randn(300, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(gaussian(noise, 2.0, 7).var()) == pytest.approx(1 / (4 * math.pi * 4), rel=0.1)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ssd", "mi", "nmi", "go", "go+")])
def test_an_image_is_entirely_like_itself(name: str) -> None:
    image = smooth((3, SIZE, SIZE), 0)
    assert torch.allclose(similarity(name)(image, image, disc(SIZE)), torch.ones(3, dtype=torch.float64))
