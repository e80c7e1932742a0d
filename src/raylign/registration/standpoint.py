"""About which pose the levels of a wide search are built: their pixels are those of a model at one depth."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.registration.levels import Scale, build_scales
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array64, box_corners, content, footprint
from raylign.registration.settings import DirectConfig

_RESCALED = 1.25  # ratio of pixels at the model from which a pyramid is built anew about the pose that was found


def pixels_at(matrix: Array64, problem: Problem, config: DirectConfig) -> tuple[float, float]:
    """What decides on the levels about a pose: mm at the model of a pixel of the finest, and pixels of the model's shorter side.

    Raises
    ------
    InputError: an exposure does not show the model there.
    """
    corners = box_corners(problem.model, *content(problem.model))
    world = corners @ matrix[:3, :3].T + matrix[:3, 3]
    pitches, sides = [], []
    for xray in problem.xrays:
        region = footprint(xray, world, config.search.mm)
        factor = max(1, round(region.long / config.pixels))
        pitches.append(max(xray.view.pixel_spacing) * region.depth / float(xray.view.sid) * factor)
        sides.append(region.short / factor)
    return min(pitches), min(sides)


def typical(matrices: list[Array64], problem: Problem, config: DirectConfig) -> list[Array64]:
    """The poses, those first that show the model about as large as most do.

    The first of many places is often a wrong one, at a wrong depth or half outside the image; levels built about it are too
    fine or too coarse for the right one.
    """
    sized = []
    for matrix in matrices:
        with contextlib.suppress(InputError):
            sized.append((float(np.log(pixels_at(matrix, problem, config)[1])), matrix))
    if not sized:
        return matrices
    middle = float(np.median([size for size, _ in sized]))
    return [matrix for _, matrix in sorted(sized, key=lambda s: abs(s[0] - middle))]


@dataclass(frozen=True, eq=False)
class Standpoint:
    """The levels of a problem, finest first, and mm at the model of a pixel of the finest, for which they were built."""

    scales: list[Scale]
    pitch: float


def standpoint(matrices: list[Array64], problem: Problem, config: DirectConfig) -> Standpoint:
    """The levels about the first of several poses under which every exposure shows the model.

    Raises
    ------
    InputError: there is none.
    """
    for number, matrix in enumerate(matrices):
        try:
            pitch = pixels_at(matrix, problem, config)[0]
            return Standpoint(build_scales(replace(problem, start=Rigid(torch.from_numpy(matrix))), config), pitch)
        except InputError:
            if number == len(matrices) - 1:
                raise
    raise ValueError("no pose was given")


def rescaled(at: Standpoint, matrix: Array64, problem: Problem, config: DirectConfig) -> Standpoint:
    """The levels about a pose that was found, if those at hand are too coarse or too fine for it."""
    with contextlib.suppress(InputError):
        pitch = pixels_at(matrix, problem, config)[0]
        if abs(math.log(pitch / at.pitch)) > math.log(_RESCALED):
            return standpoint([matrix], problem, config)
    return at
