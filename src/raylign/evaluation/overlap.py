"""How well two segmentations, or two images, agree: Dice, Jaccard, precision, recall, surface distance, structural similarity.

Masks are of any number of dimensions: silhouettes on a detector, structures in a volume. The first is the estimate, the second
the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import ndimage

from raylign.errors import InputError

Mask = Bool[np.ndarray, "*shape"]


@dataclass(frozen=True)
class Overlap:
    """What two masks share.

    Parameters
    ----------
    dice: ``2 |A ∩ B| / (|A| + |B|)``.
    jaccard: ``|A ∩ B| / |A ∪ B|``.
    precision: share of the estimate that is true.
    recall: share of the truth that was found.
    """

    dice: float
    jaccard: float
    precision: float
    recall: float


def overlap(estimate: Mask, truth: Mask) -> Overlap:
    """Dice, Jaccard, precision and recall of two masks of one shape.

    Two empty masks agree (all are 1). Where the estimate alone is empty its precision is 0, where the truth is, its recall.

    Raises
    ------
    InputError: shapes that differ.
    """
    a, b = _pair(estimate, truth)
    both, one, other = int((a & b).sum()), int(a.sum()), int(b.sum())
    if one == 0 and other == 0:
        return Overlap(1.0, 1.0, 1.0, 1.0)
    return Overlap(
        dice=2 * both / (one + other),
        jaccard=both / (one + other - both),
        precision=both / one if one else 0.0,
        recall=both / other if other else 0.0,
    )


def assd(estimate: Mask, truth: Mask, spacing: Sequence[float] | float = 1.0) -> float:
    """Average symmetric surface distance, mm: the mean over the surface elements of both masks of the distance to the other's.

    Surface elements are the mask's elements with a face neighbour outside it (what lies beyond the array is outside).
    Distances are between element centres by an exact Euclidean distance transform.

    Parameters
    ----------
    spacing: mm between elements along each axis of the array, or one number for all.

    Returns
    -------
    mm; 0 of two empty masks, infinite where one alone is empty.

    Raises
    ------
    InputError: shapes that differ, spacing of another length or not positive.
    """
    a, b = _pair(estimate, truth)
    steps = [float(spacing)] * a.ndim if isinstance(spacing, int | float) else [float(s) for s in spacing]
    if len(steps) != a.ndim or not all(math.isfinite(s) and s > 0 for s in steps):
        raise InputError(f"spacing {steps} for {a.ndim} axes", field="spacing", remedy="give one positive number an axis, mm")
    if not a.any() and not b.any():
        return 0.0
    if not a.any() or not b.any():
        return math.inf
    first, second = _surface(a), _surface(b)
    to_second = ndimage.distance_transform_edt(~second, sampling=steps)[first]
    to_first = ndimage.distance_transform_edt(~first, sampling=steps)[second]
    return float((to_second.sum() + to_first.sum()) / (len(to_second) + len(to_first)))


def ssim(image: Float[np.ndarray, "*shape"], truth: Float[np.ndarray, "*shape"], span: float | None = None) -> float:
    """Structural similarity with a Gaussian window of 1.5 pixels (Wang et al., IEEE TIP 2004), mean over the image.

    Parameters
    ----------
    image, truth: of one shape, each side at least 11.
    span: difference between the largest and smallest value that may occur; that of the truth if not given.

    Raises
    ------
    InputError: shapes that differ or are too small, values that are not finite, a truth of one value throughout and no span.
    """
    from skimage.metrics import structural_similarity

    a, b = np.asarray(image, np.float64), np.asarray(truth, np.float64)
    if a.shape != b.shape or min(a.shape, default=0) < 11:
        raise InputError(f"images {a.shape} and {b.shape}", field="image", remedy="give two of one shape, at least 11 a side")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("an image holds values that are not finite", field="image")
    reach = float(b.max() - b.min()) if span is None else float(span)
    if not reach > 0:
        raise InputError("the true image has one value throughout", field="span", remedy="give the span of values")
    return float(structural_similarity(a, b, data_range=reach, gaussian_weights=True, sigma=1.5, use_sample_covariance=False))


def _pair(estimate: Mask, truth: Mask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(estimate).astype(bool), np.asarray(truth).astype(bool)
    if a.shape != b.shape or a.ndim == 0:
        raise InputError(f"masks {a.shape} and {b.shape} differ in shape", field="estimate")
    return a, b


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(mask.ndim, 1))
