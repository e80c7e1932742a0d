"""Metrics of the intensities over the whole image: squared differences, correlation."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from raylign.similarity.common import correlation, paired, ratio, total


def ssd(
    moving: Float[Tensor, "*B H W"], fixed: Float[Tensor, "*B H W"], mask: Bool[Tensor, "*B H W"] | None = None
) -> Float[Tensor, "*B"]:
    """The negative of the mean squared difference over the valid pixels; 0 where they agree or none is valid.

    Invariant to nothing: both images must hold the same quantity.
    """
    pair = paired(moving, fixed, mask)
    away = pair.moving - pair.fixed
    squares = total(away * away)
    return 0 - ratio(squares, total(pair.weight).expand(squares.shape))


def ncc(
    moving: Float[Tensor, "*B H W"], fixed: Float[Tensor, "*B H W"], mask: Bool[Tensor, "*B H W"] | None = None
) -> Float[Tensor, "*B"]:
    """Normalised cross-correlation over the valid pixels, from -1 to 1; 0 where either image is constant.

    Invariant to gain (positive) and offset of either image.
    """
    return correlation(paired(moving, fixed, mask))
