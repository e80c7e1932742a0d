"""Metrics of the intensities themselves: squared differences, correlation."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from raylign.similarity.common import correlation, gradients, paired, ratio, total


def ssd(
    moving: Float[Tensor, "*B H W"], fixed: Float[Tensor, "*B H W"], mask: Bool[Tensor, "*B H W"] | None = None
) -> Float[Tensor, "*B"]:
    """The negative of the mean squared difference over the valid pixels; 0 where they agree or none is valid.

    Invariant to nothing: both images must hold the same quantity.
    """
    pair = paired(moving, fixed, mask)
    away = pair.moving - pair.fixed
    count = total(pair.weight)
    squares = total(away * away)
    return -ratio(squares, count.expand(squares.shape))


def ncc(
    moving: Float[Tensor, "*B H W"], fixed: Float[Tensor, "*B H W"], mask: Bool[Tensor, "*B H W"] | None = None
) -> Float[Tensor, "*B"]:
    """Normalised cross-correlation over the valid pixels, from -1 to 1; 0 where either image is constant.

    Invariant to gain (positive) and offset of either image.
    """
    return correlation(paired(moving, fixed, mask))


def gradient_ncc(
    moving: Float[Tensor, "*B H W"], fixed: Float[Tensor, "*B H W"], mask: Bool[Tensor, "*B H W"] | None = None
) -> Float[Tensor, "*B"]:
    """Mean of the correlations of the two Sobel derivatives (by column, by row), from -1 to 1.

    Grad-NCC of xReg; Gao et al. 2024. Invariant to gain and offset, and nearly so to what varies slowly.
    """
    columns, rows = gradients(paired(moving, fixed, mask))
    return (correlation(columns) + correlation(rows)) / 2
