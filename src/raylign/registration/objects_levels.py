"""The levels of several bodies in the same exposures, and of one of them before those that are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import maximum_filter

from raylign.data import Volume, XRay
from raylign.registration.levels import Scale
from raylign.registration.matching import Mask, MatchConfig, answered, render
from raylign.registration.pyramid import (
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
from raylign.registration.structure_levels import Backdrop, before, signed_pyramid

_LARGE = 6000.0  # mm2 of a cut face: no bone's
_BLINDED = 0.25  # share of the pixels that must remain when a body's cut faces are heeded

Posed = tuple[Volume, Array64]


@dataclass(frozen=True, eq=False)
class ObjectScale:
    """One level: every body that moves, and the exposures, what does not move behind them.

    ``weights`` [views]: what a pixel of each exposure counts; 1 where they are not given.
    """

    index: int
    models: tuple[ModelLevel, ...]
    images: list[ImageLevel]
    weights: Array64 | None = None

    def of(self, number: int, images: list[ImageLevel] | None = None) -> Scale:
        """One of the bodies before these exposures."""
        return Scale(self.index, self.models[number], self.images if images is None else images)


@dataclass(frozen=True, eq=False)
class Framing:
    """Which pixels are looked at, and how finely: a region and blocks of pixels of each exposure, mm of a block at the bodies."""

    regions: list[Footprint]
    factors: list[int]
    pitches: list[float]
    count: int


def corners_of(model: Volume, matrix: Array64) -> Array64:
    """[8, 3] world mm of the box of what a model shows, at a pose."""
    if model.unit == "HU":
        corners = box_corners(model, *content(model))
    else:
        corners = box_corners(model, np.zeros(3, np.int64), np.array(model.data.shape[::-1], np.int64))
    return np.asarray(corners @ matrix[:3, :3].T + matrix[:3, 3])


def framing(xrays: Sequence[XRay], own: Array64, reached: tuple[Array64, float], sides: tuple[int, int]) -> Framing:
    """The pixels for bodies.

    Parameters
    ----------
    own: [N, 3] world mm: they lie within.
    reached: [N, 3] world mm within which they may come to lie, and a margin in mm.
    sides: pixels of the longer side at the finest level, about, and of the shorter at the coarsest, at least.

    Raises
    ------
    InputError: they show on hardly a pixel of an exposure.
    """
    pixels, coarsest = sides
    regions = [footprint(x, *reached) for x in xrays]
    sizes = [footprint(x, own, 20.0) for x in xrays]
    factors = [max(1, round(size.long / pixels)) for size in sizes]
    pitches = [
        max(x.view.pixel_spacing) * size.depth / float(x.view.sid) * factor
        for x, size, factor in zip(xrays, sizes, factors, strict=True)
    ]
    count = 1
    while min(size.short / (f * 2**count) for size, f in zip(sizes, factors, strict=True)) >= coarsest:
        count += 1
    return Framing(regions, factors, pitches, count)


def pyramid_of(model: Volume, spacings: Sequence[float]) -> list[ModelLevel]:
    """A model's levels: of a scan what casts a shadow, of an excess all of it, what is negative included."""
    if model.unit == "HU":
        return model_pyramid(model, content(model), spacings)
    return signed_pyramid(model, spacings)


def object_scales(
    moving: Sequence[Posed], behind: Sequence[Posed], xrays: Sequence[XRay], frame: Framing, config: DirectConfig
) -> list[ObjectScale]:
    """The pyramid of bodies, finest level first.

    What does not move (``behind``) is rendered once, at the finest level, and averaged over blocks as the exposures are.
    Cut faces that would leave too few pixels are not heeded (``seeing``).
    """
    spacings = [1.5 * min(frame.pitches) * 2**i for i in range(frame.count)]
    finest = [image_level(x, r, f) for x, r, f in zip(xrays, frame.regions, frame.factors, strict=True)]
    drops = backdrops(behind, finest, spacings[0], config.match)
    models = [seeing(pyramid_of(m, spacings), finest, pose) for m, pose in moving]
    return [
        ObjectScale(
            i,
            tuple(levels[i] for levels in models),
            [before(x, r, (f, 2**i), d) for x, r, f, d in zip(xrays, frame.regions, frame.factors, drops, strict=True)],
        )
        for i in range(frame.count)
    ]


def backdrops(behind: Sequence[Posed], images: list[ImageLevel], spacing: float, match: MatchConfig) -> list[Backdrop]:
    """The line integrals of volumes at their poses on exposures, and the pixels for which all of them answer."""
    step = replace(match, step=match.finest_step)
    sums = [np.zeros(i.shape, np.float32) for i in images]
    masks = [i.valid.copy() for i in images]
    for model, matrix in behind:
        level = seeing(pyramid_of(model, [spacing]), images, matrix)[0]
        seen = render(level, images, matrix, step, jacobian=False)
        for total, mask, values, image, own in zip(
            sums, masks, seen.integrals, images, answered(level, images, matrix), strict=True
        ):
            total += values * image.lengths
            mask &= own
    return [Backdrop(total, mask) for total, mask in zip(sums, masks, strict=True)]


def seeing(levels: Sequence[ModelLevel], images: list[ImageLevel], matrix: Array64) -> list[ModelLevel]:
    """Levels of a model with its cut faces, or with none where heeding them would blind most of the exposures."""
    if not any(face.size for face in levels[-1].faces):
        return list(levels)
    left = sum(int(m.sum()) for m in answered(levels[-1], images, matrix))
    if left >= _BLINDED * max(1, sum(int(i.valid.sum()) for i in images)):
        return list(levels)
    return [replace(level, faces=tuple(np.zeros((0, 0), np.bool_) for _ in level.faces)) for level in levels]


def answered_by_all(scale: ObjectScale, matrices: Sequence[Array64], window: int) -> list[Mask]:
    """For each exposure the pixels for which every body answers, ``window`` being the radius of those that are compared.

    Not those near which a cut bone goes on in the exposure and not in the model: the edge where the model ends is in no image,
    and a pose that turns it out of sight would be rewarded.
    """
    masks = [i.valid.copy() for i in scale.images]
    for model, matrix in zip(scale.models, matrices, strict=True):
        if not any(face.size for face in model.faces):
            continue
        ends = stumps(model)
        for mask, image, own in zip(masks, scale.images, answered(model, scale.images, matrix), strict=True):
            mask &= own
            if len(ends):
                _cleared(mask, image, ends @ matrix[:3, :3].T + matrix[:3, 3], window)
    return masks


def stumps(model: ModelLevel) -> Array64:
    """[N, 3] mm, in the model's frame: points on the cut surfaces of what a model holds, alone of bodies that are bones.

    Of a whole scan, whose cut faces are as large as the patient, there are none: rays through them are left out in any case.
    """
    found = []
    for number, face in enumerate(model.faces):
        axis, side = divmod(number, 2)
        if not face.size or float(face.sum()) * model.spacing**2 > _LARGE:
            continue
        index = np.argwhere(face)[:, ::-1].astype(float)
        voxels = np.insert(index, axis, 0.0 if side == 0 else model.size[axis] - 1, axis=1)
        found.append(voxels @ model.affine[:3, :3].T + model.affine[:3, 3])
    return np.concatenate(found) if found else np.zeros((0, 3))


def _cleared(mask: Mask, image: ImageLevel, points: Array64, window: int) -> None:
    """Takes from a mask the pixels nearer than two windows to where world points show."""
    h, w = image.shape
    pixels = image.view.project(torch.from_numpy(points)).numpy()
    shown = np.zeros((h, w), np.bool_)
    inside = np.isfinite(pixels).all(1) & (pixels > -0.5).all(1) & (pixels < [w - 0.5, h - 0.5]).all(1)
    columns, rows = np.rint(pixels[inside]).astype(int).T
    shown[rows, columns] = True
    mask &= ~maximum_filter(shown, 4 * window + 1)
