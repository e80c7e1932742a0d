"""The loops for a model that shows little of an image, held to those that look at every pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from raylign.projection import cpu
from raylign.registration import match_kernels, match_sparse
from tests.registration.test_match_kernels import gradient, smooth

Array = NDArray[np.float32]
Run = Callable[[Callable[[int, int], object], int, int], None]


def drawn(shape: tuple[int, int], seed: int) -> tuple[Array, NDArray[np.bool_]]:
    """[7, H, W] integrals and derivatives of a slanting shaft with a gap in it, and where it shows."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    there = np.abs(columns - 0.3 * rows - shape[1] / 4) < 7
    there[shape[0] // 2 : shape[0] // 2 + 3] = False
    images = np.stack([smooth(seed + k, shape) for k in range(7)])
    images[0] = np.abs(images[0]) + 1
    return (images * there).astype(np.float32), there


def windows(fixed: Array, valid: NDArray[np.bool_], radius: int) -> tuple[tuple[Array, Array, Array], int]:
    has, count, energy = np.empty((3, *valid.shape), np.float32)
    return (has, count, energy), match_kernels.window_sums(valid, fixed, radius, has, count, energy)


def everywhere(
    images: Array, lengths: Array, fixed: Array, known: tuple[Any, int], radius: int, sigma2: float
) -> tuple[tuple[float, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Sums, hessian and scores of ``match_kernels``."""
    (has, count, energy), pixels = known
    shape, block = has.shape, 2 * radius + 1
    slope = np.empty((2, *shape), np.float32)
    factor, moving, variance = np.empty((3, *shape), np.float32)
    line = images[0] * lengths
    delta = match_kernels.residuals(line, fixed, has, count, pixels, radius, slope, factor, moving, variance)
    sums = match_kernels.judged(has, count, energy, moving, variance, delta, np.float32(sigma2))
    hessian, scores = np.zeros((6, 6)), np.zeros((-(-shape[0] // block) * -(-shape[1] // block), 6))
    given = (images[1:], fixed, slope, (has, count, factor, moving, variance), np.float32(sigma2), radius, block)
    match_kernels.derivatives(*given, hessian, scores)
    return sums, hessian, scores


def sparsely(
    images: Array,
    lengths: Array,
    fixed: Array,
    known: tuple[Any, int],
    radius: int,
    sigma2: float,
    run: Run = match_kernels.alone,
) -> tuple[tuple[float, ...], NDArray[np.float64], NDArray[np.float64]]:
    """The same of ``match_sparse``; what it is not to read of its own arrays is no number."""
    held, pixels = known
    shape, block = held[0].shape, 2 * radius + 1
    spans = np.empty((3, shape[0], 2), np.int32)
    match_sparse.spans_of(images[0], radius, spans)
    slope, sums = np.full((2, *shape), np.nan, np.float32), tuple(np.full((3, *shape), np.nan, np.float32))
    delta = match_sparse.residuals(images[0], lengths, fixed, held, pixels, radius, spans, slope, sums)
    power = float((held[2] * held[0]).sum(dtype=np.float64))
    found = match_sparse.judged(held, sums, spans, power, delta, np.float32(sigma2))
    hessian, scores = np.zeros((6, 6)), np.zeros((-(-shape[0] // block) * -(-shape[1] // block), 6))
    pictures, known, numbers = (images[1:], fixed, slope), (held, sums, spans), (np.float32(sigma2), radius, block)
    match_sparse.derivatives(pictures, known, numbers, (hessian, scores), run)
    return found, hessian, scores


def scene(shape: tuple[int, int], radius: int) -> tuple[Array, Array, Array, tuple[Any, int]]:
    """Images, lengths of rays, an exposure's gradient and its windows, some pixels of it not valid."""
    images, _ = drawn(shape, 3)
    lengths = (1 + 0.1 * np.abs(smooth(20, shape)) / 20).astype(np.float32)
    valid = np.ones(shape, np.bool_)
    valid[:3] = valid[10:14, 5:19] = False
    has = np.zeros(shape, np.bool_)
    has[1:-1, 1:-1] = valid[1:-1, 1:-1] & valid[:-2, 1:-1] & valid[2:, 1:-1] & valid[1:-1, :-2] & valid[1:-1, 2:]
    fixed = gradient(0.7 * (images[0] * lengths) + smooth(9, shape), has).astype(np.float32)
    return images, lengths, fixed, windows(fixed, valid, radius)


@pytest.mark.parametrize(("shape", "radius", "sigma2"), [((61, 70), 4, 1e-2), ((33, 52), 2, 1e-4), ((64, 50), 4, 1.0)])
def test_sums_and_systems_are_those_of_all_pixels(shape: tuple[int, int], radius: int, sigma2: float) -> None:
    images, lengths, fixed, known = scene(shape, radius)
    sums, hessian, scores = sparsely(images, lengths, fixed, known, radius, sigma2)
    right, its_hessian, its_scores = everywhere(images, lengths, fixed, known, radius, sigma2)
    assert right[0] < -10  # the picture is of something
    assert sums == pytest.approx(right, rel=2e-5)
    assert np.abs(hessian - its_hessian).max() < 1e-5 * np.abs(its_hessian).max()
    assert np.abs(scores - its_scores).max() < 1e-5 * np.abs(its_scores).max()


def test_pieces_of_the_work_add_up_to_the_same_bits() -> None:
    images, lengths, fixed, known = scene((64, 50), 4)

    def scattered(work: Any, total: int, smallest: int = 1) -> None:
        for first in reversed(range(0, total, 2)):
            work(first, min(first + 2, total))

    whole, pieces = (sparsely(images, lengths, fixed, known, 4, 1e-2, run) for run in (match_kernels.alone, scattered))
    assert np.array_equal(whole[1], pieces[1]) and np.array_equal(whole[2], pieces[2])


def test_a_picture_of_nothing_has_no_say() -> None:
    images, lengths, fixed, known = scene((40, 61), 4)
    spans = np.empty((3, 40, 2), np.int32)
    assert match_sparse.spans_of(np.zeros_like(images[0]), 4, spans) == 0
    assert not spans.any()
    slope, sums = np.empty((2, 40, 61), np.float32), tuple(np.empty((3, 40, 61), np.float32))
    assert match_sparse.residuals(0 * images[0], lengths, fixed, known[0], known[1], 4, spans, slope, sums) == 0


def test_spans_hold_what_windows_on_the_gradient_hold() -> None:
    images, _ = drawn((61, 70), 3)
    has = np.zeros((61, 70), np.bool_)
    has[1:-1, 1:-1] = True
    slopes = (gradient(images[0], has) != 0).any(0)
    near = binary_dilation(slopes, np.ones((9, 9)))
    spans = np.empty((3, 61, 2), np.int32)
    count = match_sparse.spans_of(images[0], 4, spans)
    columns = np.arange(70)
    inside = (columns >= spans[..., :1]) & (columns < spans[..., 1:])
    assert count == inside[match_sparse.OUTER].sum()
    for held, there in zip(inside, (images[0] != 0, slopes, near), strict=True):
        assert (held | ~there).all()
        assert held.sum() < 1.2 * there.sum()  # and hardly more


@pytest.mark.parametrize("radius", [1, 4, 8])
def test_box_sums_within_spans_are_box_sums(radius: int) -> None:
    images, _ = drawn((61, 70), 3)
    spans = np.empty((3, 61, 2), np.int32)
    match_sparse.spans_of(images[0], radius, spans)
    right, scratch = np.empty_like(images[0]), np.empty_like(images[0])
    match_kernels.box_sum(images[1], radius, scratch, right)
    spoilt = np.where(images[0] != 0, images[1], np.nan).astype(np.float32)
    for r in range(61):  # a span may hold what is not of the picture
        spoilt[r, spans[0, r, 0] : spans[0, r, 1]] = images[1, r, spans[0, r, 0] : spans[0, r, 1]]
    columns = np.arange(70)
    for target in spans:
        out = np.full_like(right, np.nan)
        match_sparse.box_within(spoilt, radius, spans[0], target, np.full_like(right, np.nan), out)
        inside = (columns >= target[:, :1]) & (columns < target[:, 1:])
        assert np.abs(out - right)[inside].max() < 1e-4 * np.abs(right).max()
        assert np.isnan(out[~inside]).all()


def test_derivatives_are_made_within_the_picture_alone() -> None:
    shape = (20, 30)
    generator = np.random.default_rng(0)
    integrals, lengths = generator.random((2, *shape), np.float32)
    slopes = generator.random((*shape, 6), np.float32)
    rays = (np.eye(3), np.array([1.0, 2.0, -700.0]), np.array([[-10.0, -10.0, 900.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    spans = np.zeros((20, 2), np.int32)
    spans[4:9] = (7, 15)
    whole, part = np.empty((7, *shape), np.float32), np.zeros((7, *shape), np.float32)
    match_kernels.jacobian_images(integrals, slopes, lengths, *rays, whole)
    match_kernels.jacobian_images(integrals, slopes, lengths, *rays, part, spans=spans)
    assert np.allclose(part[:, 4:9, 7:15], whole[:, 4:9, 7:15], rtol=1e-5)
    part[:, 4:9, 7:15] = 0
    assert not part.any()


def test_chunks_on_threads_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images, lengths, fixed, known = scene((130, 50), 4)
    monkeypatch.setenv("RAYLIGN_THREADS", "3")
    one, more = (sparsely(images, lengths, fixed, known, 4, 1e-2, run) for run in (match_kernels.alone, cpu.run_chunks))
    assert np.array_equal(one[1], more[1]) and np.array_equal(one[2], more[2])
