"""The levels of a problem: model and exposures at matching resolution, and what a pose costs on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raylign.registration.matching import MatchConfig, Normal, answered, normal_equations, render
from raylign.registration.problem import Problem
from raylign.registration.pyramid import (
    Array64,
    ImageLevel,
    ModelLevel,
    box_corners,
    content,
    footprint,
    image_level,
    model_pyramid,
)
from raylign.registration.rotations import carried
from raylign.registration.settings import DirectConfig


@dataclass(frozen=True, eq=False)
class Scale:
    """One level of the pyramid: the model and every exposure at matching resolution."""

    index: int
    model: ModelLevel
    images: list[ImageLevel]


def build_scales(problem: Problem, config: DirectConfig, most: int | None = None, finest: int = 0) -> list[Scale]:
    """The pyramid of a problem, finest level first: the finest ``most`` levels of it alone, where that is given, and of these
    none finer than level ``finest``, if there is a coarser one."""
    box = content(problem.model)
    corners = box_corners(problem.model, *box)
    start = problem.start.matrix.numpy()
    world = corners @ start[:3, :3].T + start[:3, 3]
    # what lies along the beam of one exposure lies across that of another
    margin = config.search.mm if len(problem.xrays) == 1 else max(config.search.mm, config.search.along)
    regions = [footprint(x, world, margin) for x in problem.xrays]
    factors = [max(1, round(region.long / config.pixels)) for region in regions]
    pitches = [
        max(x.view.pixel_spacing) * region.depth / float(x.view.sid) * factor
        for x, region, factor in zip(problem.xrays, regions, factors, strict=True)
    ]
    short = min(region.short / f for region, f in zip(regions, factors, strict=True))
    times = [1]
    while short / (2 * times[-1]) >= config.coarsest:
        times.append(2 * times[-1])
    across = min(math.sqrt(region.short * region.long) / f for region, f in zip(regions, factors, strict=True))
    if config.halfway and len(times) > 1 and across / (3 * times[-2]) >= config.coarsest:
        times.append(3 * times[-2])
    times = times if most is None else times[:most]
    models = model_pyramid(problem.model, box, [1.5 * min(pitches) * t for t in times])
    scales = [
        Scale(i, models[i], [image_level(x, r, f * times[i]) for x, r, f in zip(problem.xrays, regions, factors, strict=True)])
        for i in range(min(finest, len(times) - 1), len(times))
    ]
    seeing = _seeing_faces(scales[-1], start)
    return [replace(s, model=replace(s.model, faces=_only(s.model.faces, seeing))) for s in scales]


def _only(faces: Sequence[NDArray[np.bool_]], kept: set[int]) -> tuple[NDArray[np.bool_], ...]:
    return tuple(face if i in kept else np.zeros((0, 0), np.bool_) for i, face in enumerate(faces))


def _seeing_faces(scale: Scale, matrix: Array64, least: float = 0.25) -> set[int]:
    """The cut faces whose rays can be left out with at least a share ``least`` of the pixels remaining.

    A CT of the heart is cut in front and behind too, and every ray of a frontal view passes there: such a face is counted as
    if the patient ended at it (what is missing is mostly smooth chest wall), or nothing would be left to compare.
    """

    def share(faces: set[int]) -> float:
        model = replace(scale.model, faces=_only(scale.model.faces, faces))
        masks = answered(model, scale.images, matrix)
        return sum(int(m.sum()) for m in masks) / max(1, sum(int(i.valid.sum()) for i in scale.images))

    kept = {i for i, face in enumerate(scale.model.faces) if face.size}
    while kept and share(kept) < least:
        kept.remove(min(kept, key=lambda i: share({i})))
    return kept


def evaluate(scale: Scale, matrix: Array64, config: MatchConfig) -> Normal:
    """Cost of one pose without derivatives, at the floor of the residual variance that the level allows."""
    rendering = render(scale.model, scale.images, matrix, config, jacobian=False, threaded=False)
    masks = answered(scale.model, scale.images, matrix)
    return normal_equations(scale.model, scale.images, rendering, masks, np.zeros(len(scale.images)), config)


def centre_under(scale: Scale, matrix: Array64) -> Array64:
    """The model's centre in world mm under a pose."""
    return np.asarray(carried(matrix, scale.model.middle))
