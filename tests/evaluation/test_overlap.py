"""Against cases counted by hand and against scikit-image; MONAI too where it is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raylign import InputError
from raylign.evaluation.overlap import Overlap, assd, overlap, ssim


def square(low: int, high: int, size: int = 12) -> np.ndarray:
    out = np.zeros((size, size), bool)
    out[low:high, low:high] = True
    return out


def discs() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:40, :48]
    return (rows - 20) ** 2 + (columns - 22) ** 2 < 130, (rows - 18) ** 2 / 2 + (columns - 25) ** 2 < 100


def test_counted_by_hand() -> None:
    # 16 elements and 25 elements that share 9
    found = overlap(square(1, 5), square(2, 7))
    assert found == Overlap(dice=18 / 41, jaccard=9 / 32, precision=9 / 16, recall=9 / 25)


def test_dice_and_jaccard_say_the_same() -> None:
    found = overlap(*discs())
    assert found.dice == pytest.approx(2 * found.jaccard / (1 + found.jaccard))
    assert found.dice == pytest.approx(2 / (1 / found.precision + 1 / found.recall))


def test_empty_masks() -> None:
    nothing, something = square(0, 0), square(2, 5)
    assert overlap(nothing, nothing) == Overlap(1, 1, 1, 1)
    assert overlap(nothing, something) == Overlap(0, 0, 0, 0)
    assert overlap(something, nothing) == Overlap(0, 0, 0, 0)
    assert assd(nothing, nothing) == 0
    assert assd(nothing, something) == math.inf


def test_precision_and_recall_are_scikit_images() -> None:
    from skimage.metrics import contingency_table

    a, b = discs()
    counts = contingency_table(b.astype(int), a.astype(int)).toarray()
    found = overlap(a, b)
    assert found.precision == pytest.approx(counts[1, 1] / counts[:, 1].sum())
    assert found.recall == pytest.approx(counts[1, 1] / counts[1].sum())


def test_surface_distance_of_lines_by_hand() -> None:
    a, b = np.zeros((1, 10), bool), np.zeros((1, 10), bool)
    a[0, 2], b[0, [5, 6]] = True, True
    # from a: 3; from b: 3 and 4
    assert assd(a, b) == pytest.approx(10 / 3)
    assert assd(a, b, (7.0, 0.5)) == pytest.approx(10 / 6)


def test_surface_distance_is_brute_force_with_unequal_spacing() -> None:
    a, b = discs()
    step = np.array([0.7, 1.3])

    def rim(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        inner = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
        return np.argwhere(mask & ~inner) * step

    apart = np.linalg.norm(rim(a)[:, None] - rim(b)[None], axis=-1)
    expected = (apart.min(1).sum() + apart.min(0).sum()) / sum(apart.shape)
    assert assd(a, b, step.tolist()) == pytest.approx(expected)
    assert assd(a, b, step.tolist()) == pytest.approx(assd(b, a, step.tolist()))
    assert assd(a, a) == 0


def test_surface_distance_of_concentric_balls_is_the_difference_of_their_radii() -> None:
    z, y, x = np.mgrid[-24:25, -24:25, -24:25]
    distance = np.sqrt(z**2 + y**2 + x**2)
    assert assd(distance < 15, distance < 20, 0.5) == pytest.approx(2.5, abs=0.1)


def test_hausdorff_distance_bounds_it() -> None:
    from skimage.metrics import hausdorff_distance

    a, b = discs()
    assert 0 < assd(a, b) < hausdorff_distance(a, b)


def test_structural_similarity_by_its_formula() -> None:
    from scipy.ndimage import gaussian_filter

    draw = np.random.default_rng(0)
    b = gaussian_filter(draw.normal(size=(40, 50)), 2)
    a = 0.8 * b + 0.05 * draw.normal(size=b.shape) + 0.1
    span = b.max() - b.min()

    def local(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, truncate=3.5)

    ma, mb = local(a), local(b)
    va, vb, cov = local(a * a) - ma**2, local(b * b) - mb**2, local(a * b) - ma * mb
    one, two = (0.01 * span) ** 2, (0.03 * span) ** 2
    whole = (2 * ma * mb + one) * (2 * cov + two) / ((ma**2 + mb**2 + one) * (va + vb + two))
    assert ssim(a, b) == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-10)
    assert ssim(b, b) == pytest.approx(1)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="differ in shape"):
        overlap(square(1, 2), square(1, 2, 13))
    with pytest.raises(InputError, match="one positive number an axis"):
        assd(square(1, 2), square(1, 2), (1.0,))
    with pytest.raises(InputError, match="at least 11 a side"):
        ssim(np.zeros((5, 20)), np.zeros((5, 20)))
    with pytest.raises(InputError, match="one value throughout"):
        ssim(np.zeros((20, 20)), np.zeros((20, 20)))
    with pytest.raises(InputError, match="not finite"):
        ssim(np.full((20, 20), np.nan), np.zeros((20, 20)))


def test_as_monai_has_it() -> None:
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is not installed")
    import torch

    a, b = discs()
    first, second = (torch.from_numpy(m)[None, None].float() for m in (a, b))
    found = overlap(a, b)
    assert found.dice == pytest.approx(float(metrics.compute_dice(first, second)))
    assert found.jaccard == pytest.approx(float(metrics.compute_iou(first, second)))
    expected = metrics.compute_average_surface_distance(
        first, second, include_background=True, symmetric=True, spacing=(0.7, 1.3)
    )
    assert assd(a, b, (0.7, 1.3)) == pytest.approx(float(expected), rel=1e-5)
