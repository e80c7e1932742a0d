"""The levels of a structure that moves by itself: its own pyramid, and before it, fixed, what the rest of the patient casts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.projection import cpu
from raylign.registration.levels import Scale
from raylign.registration.matching import answered, render
from raylign.registration.pyramid import (
    Array32,
    Array64,
    Footprint,
    ImageLevel,
    ModelLevel,
    box_corners,
    content,
    footprint,
    image_level,
    model_pyramid,
)
from raylign.registration.settings import DirectConfig

_LEAST = 300  # pixels of a structure's shadow, over all views

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Backdrop:
    """What does not move, on the finest level's pixels of one exposure.

    Parameters
    ----------
    integrals: [H, W] line integrals of the rest of the patient, zero where it is not modelled.
    valid: [H, W], where the pixel is to be compared.
    """

    integrals: Array32
    valid: Bools


def signed_pyramid(model: Volume, spacings: Sequence[float]) -> list[ModelLevel]:
    """``model_pyramid`` of all voxels of a volume in 1/mm or raw that may be negative: of its positive and its negative part."""
    box = (np.zeros(3, np.int64), np.array(model.data.shape[::-1], np.int64))
    if not bool((model.data < 0).any()):
        return model_pyramid(model, box, spacings)
    plus = model_pyramid(replace(model, data=model.data.clamp_min(0)), box, spacings)
    minus = model_pyramid(replace(model, data=(-model.data).clamp_min(0)), box, spacings)
    levels = []
    for positive, negative in zip(plus, minus, strict=True):
        voxels = positive.grid.data.copy()
        cpu.inner(voxels)[...] -= negative.data
        levels.append(replace(positive, grid=cpu.grid_around(voxels)))
    return levels


def structure_scales(
    structure: Volume, rest: Volume | None, xrays: Sequence[XRay], matrix: Array64, config: DirectConfig
) -> list[Scale]:
    """The pyramid of a structure before the rest of the patient, finest level first.

    Pixels are as fine as the structure needs, and reach as far about it as it may move; their levels are those of
    ``build_scales``. The rest is rendered once, at the finest, and averaged over blocks as the exposure is.

    Parameters
    ----------
    structure: its excess over the rest, in 1/mm or raw.
    rest: everything else; where ``None``, pixels are compared only in the structure's footprint, widened by half of what the
        search leaves open.
    matrix: ``T_world_from_volume`` at which the rest lies, and about which the structure is sought.

    Raises
    ------
    InputError: the structure there shows on too few pixels.
    """
    size = np.array(structure.data.shape[::-1], np.int64)
    corners = box_corners(structure, np.zeros(3, np.int64), size)
    world = corners @ matrix[:3, :3].T + matrix[:3, 3]
    regions = [footprint(x, world, config.search.mm) for x in xrays]
    factors = [max(1, round(region.long / config.pixels)) for region in regions]
    pitches = [
        max(x.view.pixel_spacing) * region.depth / float(x.view.sid) * factor
        for x, region, factor in zip(xrays, regions, factors, strict=True)
    ]
    count = 1
    while min(region.short / (f * 2**count) for region, f in zip(regions, factors, strict=True)) >= config.coarsest:
        count += 1
    models = signed_pyramid(structure, [1.5 * min(pitches) * 2**i for i in range(count)])
    finest = [image_level(x, r, f) for x, r, f in zip(xrays, regions, factors, strict=True)]
    shadows = [shadow(models[0], i, matrix, config) != 0 for i in finest]
    if rest is None:
        mm = config.search.mm / 2
        radii = [config.match.window + mm / pitch for pitch in pitches]
        drops = [
            Backdrop(np.zeros(i.shape, np.float32), i.valid & _around(s, radius))
            for i, s, radius in zip(finest, shadows, radii, strict=True)
        ]
    else:
        level = model_pyramid(rest, content(rest), [1.5 * min(pitches)])[0]
        masks = answered(level, finest, matrix)
        step = replace(config.match, step=config.match.finest_step)
        rendering = render(level, [replace(i, valid=m) for i, m in zip(finest, masks, strict=True)], matrix, step, jacobian=False)
        drops = [Backdrop(v * i.lengths, m) for v, i, m in zip(rendering.integrals, finest, masks, strict=True)]
    shown = sum(int((s & d.valid).sum()) for s, d in zip(shadows, drops, strict=True))
    if shown < _LEAST:
        raise InputError(
            f"the structure shows on {shown} pixels that can be compared: outside the field, or behind what the CT does not hold",
            field="labels",
            remedy="choose another structure, or an exposure that shows it and a CT that goes on around it",
        )
    return [
        Scale(
            i,
            models[i],
            [before(x, r, (f, 2**i), d) for x, r, f, d in zip(xrays, regions, factors, drops, strict=True)],
        )
        for i in range(count)
    ]


def shadow(level: ModelLevel, image: ImageLevel, matrix: Array64, config: DirectConfig) -> Array32:
    """[H, W] line integrals of a model alone, at the finest level's step."""
    match = replace(config.match, step=config.match.finest_step)
    return render(level, [image], matrix, match, jacobian=False).integrals[0] * image.lengths


def _around(mask: Bools, radius: float) -> Bools:
    """A mask widened by a number of pixels."""
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return mask
    return np.asarray(distance_transform_edt(~mask) <= radius)


def before(xray: XRay, region: Footprint, factors: tuple[int, int], drop: Backdrop) -> ImageLevel:
    """A level of an exposure with its backdrop averaged over blocks; a block counts only where all its pixels do."""
    finest, block = factors
    image = image_level(xray, region, finest * block)
    h, w = image.shape
    blocks = (h, block, w, block)
    background = drop.integrals[: h * block, : w * block].reshape(blocks).mean((1, 3), dtype=np.float32)
    valid = image.valid & drop.valid[: h * block, : w * block].reshape(blocks).all((1, 3))
    has = np.zeros(valid.shape, np.bool_)
    has[1:-1, 1:-1] = valid[1:-1, 1:-1] & valid[:-2, 1:-1] & valid[2:, 1:-1] & valid[1:-1, :-2] & valid[1:-1, 2:]
    gradient = image.gradient * has
    usable = int(has.sum())
    energy = float((gradient.astype(np.float64) ** 2).sum() / max(usable, 1))
    return replace(
        image, valid=valid, gradient=gradient, usable=usable, energy=energy, background=np.ascontiguousarray(background)
    )
