"""Metrics of gradient images: their correlation, their directions, their directions weighted by strength.

Each has a positive-only form (Toth et al. 2018, GC+, GI+, GO+). The paper says that these use "only the positive gradients" and
gives no formula. Two readings are here, as option ``half``:

- ``"agreeing"`` (the default): gradients count where both images' point the same way (derivatives of one sign; angles below
  90 degrees). It depends neither on the axes nor on which end of the grey scale is dense.
- ``"rising"``, ``"falling"``: derivatives of the other sign are set to zero in both images, after which the plain formula is
  used. A border counts by which way it faces. In images that grow with attenuation, display values rise where these fall.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.similarity.common import Pair, centred, correlation, mean, paired, ratio, total
from raylign.similarity.filters import gradients

Half = Literal["agreeing", "rising", "falling"]


def gradient_ncc(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    smoothing: int = 5,
) -> Float[Tensor, "*B"]:
    """Mean of the correlations of the two smoothed Sobel derivatives (by column, by row), from -1 to 1.

    Grad-NCC of xReg (Grupp et al. 2018), which smooths with a kernel of 5 pixels first; without that it is gradient correlation.
    Invariant to gain (positive) and offset, and nearly so to what varies slowly.

    Parameters
    ----------
    smoothing: odd width of the binomial kernel that smooths both images first; 1 for none.
    """
    columns, rows = gradients(paired(moving, fixed, mask), smoothing)
    return (correlation(columns) + correlation(rows)) / 2


def gradient_correlation(
    moving: Float[Tensor, "*B H W"], fixed: Float[Tensor, "*B H W"], mask: Bool[Tensor, "*B H W"] | None = None
) -> Float[Tensor, "*B"]:
    """GC, mean of the correlations of the two Sobel derivatives, from -1 to 1 (Penney et al. 1998).

    Invariant to gain (positive) and offset of either image.
    """
    return gradient_ncc(moving, fixed, mask, smoothing=1)


def gradient_correlation_plus(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    half: Half = "agreeing",
) -> Float[Tensor, "*B"]:
    """GC+ (Toth et al. 2018). ``half="agreeing"``: products of derivatives of opposite sign add nothing instead of taking away.

    From 0 (reversed contrast) to 1; invariant to gain (positive) and offset.
    """
    columns, rows = _half(gradients(paired(moving, fixed, mask)), half)
    if half != "agreeing":
        return (correlation(columns) + correlation(rows)) / 2
    return (_agreement(columns) + _agreement(rows)) / 2


def gradient_information(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    normalise: bool = True,
) -> Float[Tensor, "*B"]:
    """GI, sum of the smaller of both gradients' magnitudes times (cos 2a + 1) / 2, a their angle, over the sum of the fixed ones.

    Pluim et al. 2000, without their factor of mutual information, as De Silva et al. 2016 use it. From 0 to 1; blind to the sign
    of the contrast.

    Parameters
    ----------
    normalise: divide each image's magnitudes by their root mean square over the valid pixels, which makes the metric invariant
        to gain. The published form does not; the smaller magnitude is then a matter of units.
    """
    return _information(gradients(paired(moving, fixed, mask)), normalise, agreeing=False)


def gradient_information_plus(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    normalise: bool = True,
    half: Half = "agreeing",
) -> Float[Tensor, "*B"]:
    """GI+ (Toth et al. 2018): gradient information of the gradients that ``half`` leaves. From 0 (reversed contrast) to 1."""
    return _information(_half(gradients(paired(moving, fixed, mask)), half), normalise, agreeing=half == "agreeing")


def gradient_orientation(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    least: float = 0.5,
) -> Float[Tensor, "*B"]:
    """GO, mean of (2 - ln(|a| + 1)) / 2 where both gradients exceed their image's median, a (rad) their angle (De Silva 2016).

    From 0 to 1. Invariant to gain (positive) and offset of either image, and to any change of magnitudes that keeps their order.
    Its value jumps where a gradient passes the median; autograd gives the slope between jumps.

    Parameters
    ----------
    least: the sum is divided by the number of such pixels, but at least by this share of the valid ones (half: as many as two
        equal images have), so that few lucky ones do not win.
    """
    return _orientation(gradients(paired(moving, fixed, mask)), least, agreeing=False)


def gradient_orientation_plus(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    least: float = 0.5,
    half: Half = "agreeing",
) -> Float[Tensor, "*B"]:
    """GO+ (Toth et al. 2018): gradient orientation where angles of 90 degrees and more add nothing (``half="agreeing"``)."""
    return _orientation(_half(gradients(paired(moving, fixed, mask)), half), least, agreeing=half == "agreeing")


def _half(derivatives: tuple[Pair, Pair], half: Half) -> tuple[Pair, Pair]:
    if half not in ("agreeing", "rising", "falling"):
        raise InputError(f"'agreeing', 'rising' and 'falling' are known, got {half!r}", field="half")
    if half == "agreeing":
        return derivatives
    sign = 1 if half == "rising" else -1
    kept = [Pair((sign * d.moving).relu(), (sign * d.fixed).relu(), d.mask) for d in derivatives]
    return kept[0], kept[1]


def _agreement(pair: Pair) -> Tensor:
    """Correlation of which products of opposite sign are left out."""
    both = centred(pair)
    return both.quotient(total((both.moving * both.fixed).relu()))


def _squares(derivatives: tuple[Pair, Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Squared magnitudes of the moving and of the fixed gradients, and their scalar product."""
    x, y = derivatives
    moving, fixed = x.moving * x.moving + y.moving * y.moving, x.fixed * x.fixed + y.fixed * y.fixed
    return moving, fixed, x.moving * x.fixed + y.moving * y.fixed


def _magnitude(squares: Tensor) -> tuple[Tensor, Tensor]:
    """Roots with zero slope at zero, and where they are not zero to within rounding of the image's own size."""
    rounding = torch.finfo(squares.dtype).eps ** 2
    there = squares > rounding * mean(squares.detach())[..., None, None]
    return torch.where(there, squares, 1.0).sqrt() * there, there


def _information(derivatives: tuple[Pair, Pair], normalise: bool, agreeing: bool) -> Tensor:
    squares_m, squares_f, product = _squares(derivatives)
    size_m, there_m = _magnitude(squares_m)
    size_f, there_f = _magnitude(squares_f)
    both = there_m & there_f
    if agreeing:
        both = both & (product > 0)
    cosine = product / torch.where(both, size_m * size_f, 1.0)
    if normalise:
        # masked gradients are zero: means over all pixels differ from those over the valid ones by one factor for both
        size_m, size_f = size_m * _inverse_root_mean(squares_m), size_f * _inverse_root_mean(squares_f)
    smaller = torch.minimum(size_m, size_f)
    summed = total(torch.where(both, cosine * cosine * smaller, 0.0))
    return ratio(summed, total(size_f).expand(summed.shape))


def _inverse_root_mean(squares: Tensor) -> Tensor:
    size = mean(squares)[..., None, None]
    return torch.where(size > 0, torch.where(size > 0, size, 1.0).rsqrt(), 0.0)


def _orientation(derivatives: tuple[Pair, Pair], least: float, agreeing: bool) -> Tensor:
    x, y = derivatives
    squares_m, squares_f, product = _squares(derivatives)
    with torch.no_grad():
        strong = (squares_m > _median(squares_m, x.mask)) & (squares_f > _median(squares_f, x.mask))
        number = total(strong.to(product.dtype))
        valid = total(x.weight)
    cross = x.moving * y.fixed - y.moving * x.fixed
    counted = strong & (product > 0) if agreeing else strong
    angle = torch.atan2(cross.abs(), torch.where(counted, product, 1.0))
    summed = total(torch.where(counted, 1 - torch.log1p(angle) / 2, 0.0))
    return ratio(summed, torch.maximum(number, least * valid))


def _median(squares: Tensor, mask: Tensor | None) -> Tensor:
    """Median over the valid pixels, [..., 1, 1]; of none infinite."""
    if mask is None:
        return squares.flatten(-2).median(-1).values[..., None, None]
    if mask.ndim == 2:
        chosen = squares[..., mask]
        if chosen.shape[-1] == 0:
            return squares.new_full((1, 1), torch.inf)
        return chosen.median(-1).values[..., None, None]
    chosen = torch.where(mask, squares, torch.nan).flatten(-2).nanmedian(-1).values
    return chosen.nan_to_num(nan=torch.inf)[..., None, None]
