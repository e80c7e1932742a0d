"""The pattern of a match: where an exposure agrees with the model and where it contradicts it.

The cost of a registration forgives what does not fit, and must: metal and moved tissue are in every exposure. Whether the pose
is right shows in what is left when nothing is forgiven: the local correlation of the two gradient images, window by window and
signed. It is taken on images reduced to about 80 pixels across, in which quantum noise is averaged away and anatomy that does not
fit is not. Gradients are cut off at a length, or the edges of metal in the one image and of a sawn-off model in the other would
outvote everything between them. On images of about 140 pixels it is seen how much better each piece would agree beside where the
pose has put it (``drift``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raylign.projection import cpu
from raylign.registration.drift import drift
from raylign.registration.levels import Scale, centre_under
from raylign.registration.matching import MatchConfig, Rendering, answered, render
from raylign.registration.pyramid import Array32, Array64, ImageLevel, ModelLevel
from raylign.registration.refinement import Candidate, refine
from raylign.registration.search import Bounds, camera_axes
from raylign.registration.settings import DirectConfig

Bend = Callable[[Array32], Array32]
_ACROSS = 80  # pixels across at which it is measured, about
_FINER = 140  # pixels across at which pieces may move
_PARTS = 4  # the field is looked at in 4 x 4 parts
_LONGEST = 1.5  # of a gradient, in units of the length that a fifth of them exceed


@dataclass(frozen=True)
class Pattern:
    """How one exposure, or the worst of several, agrees with the model.

    Parameters
    ----------
    agreement: mean local correlation of the two gradients, -1 to 1, weighted by what the model has to say (its local energy, no
        window counting more than twice the mean).
    weakest: the same in the part of the field (of 4 x 4) that is worse than four fifths of them.
    opposed: share of what the model has to say with which the image does not agree, the correlation being under 0.2.
    contrast: spread of the local contrast factors where they agree: half the natural logarithm between the 16th and the 84th
        percentile. One CT and one beam need nearly one factor; a stranger needs many.
    drift: mean gain in local correlation if every piece of the model could move on its own, 0 to 2 (``drift.drift``).
    """

    agreement: float
    weakest: float
    opposed: float
    contrast: float
    drift: float


_NOTHING = Pattern(0.0, 0.0, 1.0, 3.0, 2.0)  # nothing to compare: no agreement, and the widest contrast that is told apart


def pattern(
    scale: Scale,
    matrix: Array64,
    config: MatchConfig,
    *,
    threaded: bool = True,
    rendering: Rendering | None = None,
    bent: Bend | None = None,
) -> Pattern:
    """The pattern of the match at one level of the pyramid, each number that of the exposure in which it is worst.

    ``rendering``: the model at this level under ``matrix``, where it is at hand.
    ``bent``: what a detector makes of the model's line integrals [H, W] (``saturation``), where they are not taken as they are.
    """
    if rendering is None:
        rendering = render(scale.model, scale.images, matrix, config, jacobian=False, threaded=threaded)
    if bent is not None:
        shown = [bent(v * i.lengths) / i.lengths for v, i in zip(rendering.integrals, scale.images, strict=True)]
        rendering = replace(rendering, integrals=tuple(shown))
    masks = answered(scale.model, scale.images, matrix)
    if rendering.pixels is not None:
        masks = [mask & pixels for mask, pixels in zip(masks, rendering.pixels, strict=True)]

    several = threaded and len(masks) > 1

    def one(image: ImageLevel, integrals: Array32, mask: NDArray[np.bool_]) -> Pattern:
        drifted = drift(*limited(*reduced(image, integrals, mask, _FINER)), threaded=threaded and not several)
        return replace(_pattern(*reduced(image, integrals, mask, _ACROSS), config.window), drift=drifted)

    found = list((cpu.pool(cpu.threads()).map if several else map)(one, scale.images, rendering.integrals, masks))
    worst = {
        name: (max if name in ("opposed", "contrast", "drift") else min)(getattr(p, name) for p in found)
        for name in _NOTHING.__dict__
    }
    return Pattern(**worst)


def reduced(
    image: ImageLevel, integrals: NDArray[np.float32], mask: NDArray[np.bool_], across: int
) -> tuple[Array64, Array64, Array64]:
    """Both gradients [2, h, w] averaged over blocks of pixels, and the share [h, w] of each block that can be compared.

    There are about as many blocks as ``across`` squared.
    """
    moving = integrals * image.lengths
    if image.background is not None:
        moving = moving + image.background
    gradient = np.zeros_like(image.gradient)
    gradient[0, :, 1:-1] = (moving[:, 2:] - moving[:, :-2]) / 2
    gradient[1, 1:-1] = (moving[2:] - moving[:-2]) / 2
    has = np.zeros(mask.shape)
    has[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    factor = max(1, round(np.sqrt(max(image.usable, 1)) / across))
    h, w = (n // factor for n in mask.shape)

    def means(a: NDArray[np.float32] | Array64) -> Array64:
        cut = a[..., : h * factor, : w * factor].astype(np.float64)
        return np.asarray(cut.reshape(*a.shape[:-2], h, factor, w, factor).mean((-3, -1)))

    return means(image.gradient * has), means(gradient * has), means(has)


def _pattern(fixed: Array64, moving: Array64, share: Array64, radius: int) -> Pattern:
    """The pattern of one exposure from its gradients, zero where they cannot be compared."""
    correlation, energy, factor, there = local_match(*limited(fixed, moving, share), radius)
    speaks = there & (energy > 0.1 * energy[there].mean() if there.any() else there)
    if speaks.sum() < 16:
        return _NOTHING
    weight = np.where(speaks, np.minimum(energy, 2 * energy[there].mean()), 0)
    total = weight.sum()
    parts = []
    for rows in np.array_split(np.arange(weight.shape[0]), _PARTS):
        for columns in np.array_split(np.arange(weight.shape[1]), _PARTS):
            part = np.ix_(rows, columns)
            if weight[part].sum() > 0.02 * total:
                parts.append((weight[part] * correlation[part]).sum() / weight[part].sum())
    same = speaks & (correlation > 0.2)
    low, high = np.quantile(np.log(factor[same]), (0.16, 0.84)) if same.sum() >= 16 else (0.0, 6.0)
    return Pattern(
        agreement=float((weight * correlation).sum() / total),
        weakest=float(np.quantile(parts, 0.2)) if parts else 0.0,
        opposed=float(weight[correlation < 0.2].sum() / total),
        contrast=float(min((high - low) / 2, 3.0)),
        drift=_NOTHING.drift,
    )


def limited(fixed: Array64, moving: Array64, share: Array64) -> tuple[Array64, Array64, Array64]:
    """The same three, both gradients cut off at lengths taken where the model shows something."""
    length = np.hypot(*moving) * (share > 0.5)
    shown = length > 0.1 * np.sqrt((length**2).mean())
    return cut_off(fixed, shown), cut_off(moving, shown), share


def cut_off(gradient: Array64, where: NDArray[np.bool_]) -> Array64:
    """A gradient image [2, h, w] whose vectors are no longer than 1.5 times what four fifths of those at ``where`` stay under."""
    if not where.any():
        return gradient
    length = np.hypot(*gradient)
    limit = _LONGEST * float(np.quantile(length[where], 0.8))
    return np.asarray(gradient * np.minimum(1, limit / np.maximum(length, 1e-30)))


def local_match(
    fixed: Array64, moving: Array64, share: Array64, radius: int
) -> tuple[Array64, Array64, Array64, NDArray[np.bool_]]:
    """In a window of ``radius`` pixels about each one: correlation of two gradient images, the second's mean square, the factor.

    Parameters
    ----------
    fixed, moving: [2, h, w] gradients, zero where they cannot be compared.
    share: [h, w] part of each pixel that can be.

    Returns
    -------
    ``<gF, gM> / sqrt(<gF, gF> <gM, gM>)``, ``<gM, gM> / n``, ``<gF, gM> / <gM, gM>``, and where there is anything: four [h, w].
    """
    from scipy.ndimage import uniform_filter

    def mean(image: Array64) -> Array64:
        return np.asarray(uniform_filter(image, 2 * radius + 1, mode="constant"))

    both, squares, energy = (mean((a * b).sum(0)) for a, b in ((fixed, moving), (fixed, fixed), (moving, moving)))
    n = mean(share)
    there = (share > 0.5) & (energy > 1e-12 * max(float(energy.max()), 1e-30)) & (squares > 0)
    correlation = np.where(there, both / np.sqrt(np.where(there, squares * energy, 1)), 0)
    factor = np.where(there, both / np.where(there, energy, 1), 0)
    return correlation, np.where(there, energy / np.maximum(n, 1e-9), 0), factor, there


def mirror_image(model: ModelLevel) -> tuple[ModelLevel, float]:
    """A level of the model with left and right exchanged, and how many voxels along that axis it then has to be moved.

    The axis is the voxel axis nearest to the patient's x. Voxels are exchanged about the middle of the grid; the body's middle,
    taken for the mean of its attenuation, lies elsewhere.
    """
    axis = int(np.abs(model.affine[0, :3]).argmax())
    padded, out = cpu.padded_zeros(model.data.shape)
    out[...] = np.flip(model.data, 2 - axis)
    faces = []
    for face in range(6):
        k, side = divmod(face, 2)
        if k == axis:
            faces.append(model.faces[2 * k + 1 - side])
            continue
        others = [a for a in (2, 1, 0) if a != k]  # the slower one first
        faces.append(np.ascontiguousarray(np.flip(model.faces[face], others.index(axis))))
    along = model.data.sum(tuple(i for i in range(3) if i != 2 - axis), dtype=np.float64)
    middle = (len(along) - 1) / 2
    off = float(along @ np.arange(len(along)) / max(along.sum(), 1e-30)) - middle
    return replace(model, grid=cpu.grid_around(padded), faces=tuple(faces)), 2 * off


def mirrored(scales: Sequence[Scale], matrix: Array64, config: DirectConfig) -> float:
    """Cost of the model's mirror image as a share of the model's own, each at its best pose from ``matrix`` at a middle level.

    Over 1 where the mirror image explains the exposures better: the model's left is its right, or an image was flipped.
    """
    middle = min(range(len(scales)), key=lambda k: abs(np.log(np.sqrt(np.mean([i.usable for i in scales[k].images])) / _ACROSS)))
    scale = scales[middle]
    axes = camera_axes(scale.images[0].view)
    chain = (scales[min(middle + 1, len(scales) - 1)], scale)
    images = [mirror_image(level.model) for level in chain]

    def own() -> Candidate:
        return refine(scale, matrix, Bounds(matrix, axes, centre_under(scale, matrix), 15.0, 25.0, 25.0), config, threaded=False)

    def other() -> Candidate:
        found: Candidate | None = None
        for level, (model, off) in zip(chain, images, strict=True):
            pose = matrix.copy() if found is None else found.matrix
            if found is None:
                axis = int(np.abs(model.affine[0, :3]).argmax())
                pose[:3, 3] += matrix[:3, :3] @ model.affine[:3, axis] * off
            bounds = Bounds(pose, axes, centre_under(level, pose), 15.0, 25.0, 25.0)
            found = refine(replace(level, model=model), pose, bounds, config, threaded=False)
        assert found is not None
        return found

    # side by side: a middle level is too small to be shared out
    costs = [found.normal.cost for found in cpu.pool(cpu.threads()).map(lambda work: work(), (own, other))]
    return float(np.clip(costs[1] / min(costs[0], -1e-6), 0, 2))
