"""Mutual information by Parzen windows, smooth in the moving image's intensities.

As in Mattes et al. 2003: the fixed image's intensities fall into one bin each, the moving image's are spread over four by a cubic
B-spline, so that the joint histogram, and every sum over it, has continuous derivatives by them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.similarity.common import Pair, centred, paired, ratio, total


def mutual_information(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    bins: int = 32,
) -> Float[Tensor, "*B"]:
    """Mutual information H(m) + H(f) - H(m, f) of the two images' intensities, in nats; 0 where either is constant.

    Invariant to gain of either sign and offset, and to any other one-to-one map up to what binning loses. Differentiable by the
    moving image; the fixed image's bins are hard.

    Parameters
    ----------
    bins: of each image, over the range of its valid pixels; at least 8.
    """
    moving_h, fixed_h, joint_h, defined = _entropies(paired(moving, fixed, mask), bins)
    return torch.where(defined, moving_h + fixed_h - joint_h, 0.0)


def normalised_mutual_information(
    moving: Float[Tensor, "*B H W"],
    fixed: Float[Tensor, "*B H W"],
    mask: Bool[Tensor, "*B H W"] | None = None,
    *,
    bins: int = 32,
) -> Float[Tensor, "*B"]:
    """(H(m) + H(f)) / H(m, f), from 1 (independent) to 2 (Studholme et al. 1999); 0 where either image is constant.

    The spline blurs the histogram: an image with itself comes to some 1.5 with the usual 32 bins. Less swayed than mutual
    information by how much of the images' variety is in view. Otherwise as ``mutual_information``.
    """
    moving_h, fixed_h, joint_h, defined = _entropies(paired(moving, fixed, mask), bins)
    return ratio(moving_h + fixed_h, joint_h, defined)


def _entropies(pair: Pair, bins: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Entropies (nats) of the moving image, of the fixed one, of both together, [*B] each; and whether both images vary."""
    if bins < 8:
        raise InputError(f"a joint histogram needs at least 8 bins, got {bins}", field="bins")
    batch = pair.batch
    defined = centred(pair).varies.expand(batch)
    joint = _joint(pair, bins, batch)
    joint = joint / torch.where(defined, total(joint), 1.0)[..., None, None]
    return _entropy(joint.sum(-2)), _entropy(joint.sum(-1)), _entropy(joint.flatten(-2)), defined


def _joint(pair: Pair, bins: int, batch: torch.Size) -> Float[Tensor, "*B F M"]:
    """Joint histogram: rows the fixed image's bins, columns the moving one's."""
    place = 1 + (bins - 3) * _unit(pair.moving, pair.mask)  # a spline reaches one bin down and two up
    first = place.detach().floor().clamp(1, bins - 3)
    t = place - first
    row = (bins * _unit(pair.fixed, pair.mask).detach()).floor().clamp(0, bins - 1)
    index = (row * bins + first - 1).long()
    s = 1 - t
    t2, t3 = t * t, t * t * t
    spline = (s * s * s / 6, 2 / 3 - t2 + t3 / 2, (1 + 3 * (t + t2 - t3)) / 6, t3 / 6)
    size = pair.moving.shape[-2] * pair.moving.shape[-1]
    flat = index.expand(*batch, *index.shape[-2:]).reshape(-1, size)
    joint = pair.moving.new_zeros(flat.shape[0], bins * bins)
    weight = None if pair.mask is None else pair.weight
    for step, part in enumerate(spline):
        part = part if weight is None else part * weight
        joint = joint.scatter_add(1, flat + step, part.expand(*batch, *part.shape[-2:]).reshape(-1, size))
    return joint.reshape(*batch, bins, bins)


def _unit(image: Tensor, mask: Tensor | None) -> Tensor:
    """The image with its valid pixels' range brought to [0, 1]."""
    if mask is None:
        low, high = image.amin((-2, -1), keepdim=True), image.amax((-2, -1), keepdim=True)
    else:
        low = torch.where(mask, image, torch.inf).amin((-2, -1), keepdim=True)
        high = torch.where(mask, image, -torch.inf).amax((-2, -1), keepdim=True)
    wide = high > low
    low = torch.where(wide, low, 0.0)
    return ((image - low) / torch.where(wide, high - low, 1.0)).clamp(0, 1)


def _entropy(p: Float[Tensor, "*B N"]) -> Float[Tensor, "*B"]:
    return -(p * torch.where(p > 0, p, 1.0).log()).sum(-1)
