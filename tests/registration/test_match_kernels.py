"""The loops of the comparison beside the formulas they stand for, in float64, and rotations beside SciPy's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import convolve, gaussian_filter
from scipy.spatial.transform import Rotation

from raylign.geometry import View
from raylign.registration import match_kernels
from raylign.registration.matching import MatchConfig, exposure_system
from raylign.registration.pyramid import plain_level
from raylign.registration.rotations import matrix_of, vector_of

Array = NDArray[np.float64]


def smooth(seed: int, shape: tuple[int, int]) -> Array:
    return np.asarray(20 * gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3))


def gradient(image: Array, has: NDArray[np.bool_]) -> Array:
    out = np.zeros((2, *image.shape))
    out[0, :, 1:-1] = (image[:, 2:] - image[:, :-2]) / 2
    out[1, 1:-1] = (image[2:] - image[:-2]) / 2
    return out * has


def scene(shape: tuple[int, int]) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """Seven images, a fixed gradient, valid pixels, those with a gradient."""
    images = np.stack([smooth(k, shape) for k in range(7)])
    valid = np.ones(shape, np.bool_)
    valid[:3] = valid[10:14, 5:9] = False
    has = np.zeros(shape, np.bool_)
    has[1:-1, 1:-1] = valid[1:-1, 1:-1] & valid[:-2, 1:-1] & valid[2:, 1:-1] & valid[1:-1, :-2] & valid[1:-1, 2:]
    fixed = gradient(images[0] + 0.7 * smooth(9, shape), has)
    return images, fixed, valid, has


def found(
    images: Array, fixed: Array, valid: NDArray[np.bool_], radius: int, sigma2: float, run: Any = match_kernels.alone
) -> tuple[list[float], Array, Array]:
    """(cost, explained, seen, residual E, pixels), hessian and scores of the kernels."""
    h, w = valid.shape
    single, given = images.astype(np.float32), fixed.astype(np.float32)
    has, count, energy, factor, moving, variance = np.empty((6, h, w), np.float32)
    slope = np.empty((2, h, w), np.float32)
    pixels = match_kernels.window_sums(valid, given, radius, has, count, energy)
    delta = match_kernels.residuals(single[0], given, has, count, pixels, radius, slope, factor, moving, variance)
    sums = match_kernels.judged(has, count, energy, moving, variance, delta, np.float32(sigma2))
    block = 2 * radius + 1
    hessian, scores = np.zeros((6, 6)), np.zeros((-(-h // block) * -(-w // block), 6))
    least = np.float32(sigma2)
    sums_of = (has, count, factor, moving, variance)
    match_kernels.derivatives(single[1:], given, slope, sums_of, least, radius, block, hessian, scores, run)
    return [*sums, pixels], hessian, scores


def expected(images: Array, fixed: Array, has: NDArray[np.bool_], radius: int, sigma2: float) -> tuple[list[float], Array, Array]:
    """The same as the page of the direct method writes it, one array at a time."""

    def windowed(a: NDArray[Any]) -> Array:
        return np.asarray(convolve(a.astype(float), np.ones((2 * radius + 1,) * 2), mode="constant"))

    moving = gradient(images[0], has)
    count = windowed(has)
    delta = 0.01 * (moving**2).sum() / has.sum()
    strength = windowed((moving**2).sum(0)) + delta * count
    there = count > 0.5
    strength[~there] = 1
    factor = np.where(there, np.maximum(windowed((fixed * moving).sum(0)) / strength, 0), 0)
    left = (fixed - factor * moving) * has
    n = np.maximum(count, 1)
    variance, power = windowed((left**2).sum(0)) / n, windowed((fixed**2).sum(0)) / n
    cost = float(np.log((variance + sigma2) / (power + sigma2))[has].sum())
    says = has & (strength > 26 * delta * count)
    sums = [cost, float((power - variance)[says].sum()), float(power[says].sum()), float(variance[has].sum()), float(has.sum())]
    weight = windowed(np.where(has, 1 / ((variance + sigma2) * n), 0)) * (has & (factor > 0))
    jacobian = []
    for image in images[1:]:
        own = gradient(image, has)
        turn = (windowed((fixed * own).sum(0)) - 2 * factor * windowed((moving * own).sum(0))) / strength
        jacobian.append(factor * own + moving * turn)
    j = np.stack(jacobian)
    hessian = np.einsum("hw,kahw,mahw->km", weight, j, j)
    by_pixel = np.einsum("hw,kahw,ahw->khw", weight, j, left)
    block = 2 * radius + 1
    h, w = (-(-s // block) for s in has.shape)
    scores = np.zeros((h * w, 6))
    for r, c in np.argwhere(has):
        scores[(r // block) * w + c // block] += by_pixel[:, r, c]
    return sums, hessian, scores


@pytest.mark.parametrize(("shape", "radius", "sigma2"), [((40, 61), 4, 1e-2), ((33, 32), 2, 1e-4), ((64, 50), 4, 1.0)])
def test_cost_and_normal_equations_are_those_of_the_formulas(shape: tuple[int, int], radius: int, sigma2: float) -> None:
    images, fixed, valid, has = scene(shape)
    sums, hessian, scores = found(images, fixed, valid, radius, sigma2)
    right, its_hessian, its_scores = expected(images, fixed, has, radius, sigma2)
    assert sums == pytest.approx(right, rel=2e-5)
    assert np.abs(hessian - its_hessian).max() < 1e-5 * np.abs(its_hessian).max()
    assert np.abs(scores - its_scores).max() < 1e-5 * np.abs(its_scores).max()


def test_pieces_of_the_work_add_up_to_the_same_bits() -> None:
    images, fixed, valid, _ = scene((64, 50))

    def scattered(work: Any, total: int, smallest: int = 1) -> None:
        for first in reversed(range(0, total, 2)):
            work(first, min(first + 2, total))

    whole, pieces = found(images, fixed, valid, 4, 1e-2), found(images, fixed, valid, 4, 1e-2, scattered)
    assert np.array_equal(whole[1], pieces[1]) and np.array_equal(whole[2], pieces[2])


def test_what_lies_outside_the_valid_pixels_does_not_matter() -> None:
    images, fixed, valid, _ = scene((40, 61))
    spoilt = images.copy()
    spoilt[:, ~valid] = np.nan
    (sums, hessian, scores), (same, its_hessian, its_scores) = (found(i, fixed, valid, 4, 1e-2) for i in (images, spoilt))
    assert sums == same and np.array_equal(hessian, its_hessian) and np.array_equal(scores, its_scores)


def test_a_rendering_that_shows_nothing_has_no_say() -> None:
    images, fixed, valid, _ = scene((40, 61))
    view = View.from_carm(sid=1000, sod=700, pixel_spacing=1.0, shape=(40, 61))
    image = replace(plain_level(view, valid), gradient=fixed.astype(np.float32), energy=1.0)
    flat = np.concatenate([np.full((1, 40, 61), 3.0), images[1:]]).astype(np.float32)
    for moving, mask in ((flat, valid), (images.astype(np.float32), np.zeros_like(valid))):
        one = exposure_system(moving, image, mask, 0.01, MatchConfig())
        assert (one.cost, one.explained, one.seen, one.left) == (0, 0, 0, 0)
        assert not one.hessian.any() and not one.scores.any()
    assert exposure_system(images.astype(np.float32), image, valid, 0.01, MatchConfig()).hessian.any()


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.9e-4, 1.1e-4, 0.3, 2.0, 3.0, np.pi - 1e-6])
def test_rotations_are_those_of_scipy(angle: float) -> None:
    for seed in range(20):
        axis = np.random.default_rng(seed).normal(size=3)
        vector = angle * axis / np.linalg.norm(axis)
        matrix = Rotation.from_rotvec(vector).as_matrix()
        assert np.abs(matrix_of(vector) - matrix).max() < 1e-14
        assert np.abs(vector_of(matrix) - vector).max() < 1e-8 * max(angle, 1e-3)
