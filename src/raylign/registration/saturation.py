"""Metal on exposures that saturate: the model's line integrals bent as the detector's are, while a pose is refined.

Behind metal hardly any primary photons arrive. What is left is scatter, a fraction of the open beam that no thickness of metal
takes away, and then the end of the detector's or the display's range. Measured line integrals of metal therefore grow to a
ceiling and stay there: inner edges are gone, and the outline is steeper than a straight model says. One factor a window does not
undo this, as the bend lies within a window: outlines come out too large, and the pose too near to the source. The model's line
integrals ``l`` are bent alike before they are compared,

    g(l) = c (1 - exp(-l / c)),        dg = exp(-l / c) dl.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from raylign.data import XRay
from raylign.errors import InputError
from raylign.registration.evidence import Pattern, pattern
from raylign.registration.levels import Scale
from raylign.registration.matching import (
    Comparison,
    Mask,
    MatchConfig,
    Normal,
    Rendering,
    Windows,
    answered,
    compare,
    render,
    windows_of,
)
from raylign.registration.pyramid import Array32, Array64, ModelLevel
from raylign.registration.refinement import Candidate
from raylign.registration.result import Step
from raylign.registration.search import Bounds, moved
from raylign.registration.settings import DirectConfig

_UNSEEN = 2.0  # drift where most of what the model shows lies where the exposure is flat: it is, behind metal
_MM, _CLIPPED_MM = 12.0, 6.0  # of metal: ceilings, the second of exposures in which pixels behind metal had to be given back


@dataclass(frozen=True)
class Response:
    """How measured line integrals follow those of a model.

    Parameters
    ----------
    ceiling: ``c``, the line integral of the model that metal of any thickness does not exceed as it is measured. Chosen by
        experiment (docs/methods/implants.md): lower ones fit better and put the model too far away.

    Raises
    ------
    InputError: a ceiling that is not positive.
    """

    ceiling: float = 3.0

    @staticmethod
    def of(xrays: Sequence[XRay], excess: float = 0.25) -> tuple[tuple[XRay, ...], Response]:
        """Exposures with their clipped metal given back (``metal_seen``), and how they respond: lower where there was some.

        ``excess``: of the model's metal, 1/mm; the ceiling is that of a thickness of it.
        """
        seen = tuple(metal_seen(xray) for xray in xrays)
        clipped = any(bool((a.mask != b.mask).any()) for a, b in zip(seen, xrays, strict=True))
        return seen, Response(excess * (_CLIPPED_MM if clipped else _MM))

    def __post_init__(self) -> None:
        if not self.ceiling > 0:
            raise InputError(f"a ceiling of {self.ceiling}", field="ceiling", remedy="give a line integral over 0")

    def bent(self, line: Array32) -> Array32:
        """Line integrals as they are measured."""
        return np.asarray(self.ceiling * -np.expm1(-line / np.float32(self.ceiling)), np.float32)

    def flat(self, line: Array32) -> Array32:
        """The same with a third of the ceiling: what is looked at to judge a pose, as the exposure is flat behind metal."""
        return replace(self, ceiling=self.ceiling / 3).bent(line)

    def slope(self, line: Array32) -> Array32:
        """Its derivative."""
        return np.asarray(np.exp(-line / np.float32(self.ceiling)), np.float32)


OUTLINES = 0.1
"""mm by which all outlines of metal are off in one sense, one standard deviation: measured (docs/methods/implants.md)."""


def outline_error(level: ModelLevel) -> float:
    """mm by which all outlines of a solid of metal are off in one sense at a level, one standard deviation.

    Beside what exposures do (``OUTLINES``), the level's voxels: a blur by a voxel ``h`` moves an outline that is curved with a
    radius ``r`` by a share of ``h^2 / r``. All of it is taken, as screws asked for. A thick body does not notice; a screw looks
    wider by tenths of a millimetre. ``r`` is twice the volume by the surface, as of a rod.
    """
    data, pitch = level.data, level.spacing
    surface = float(np.sqrt(sum(slope**2 for slope in np.gradient(data, pitch))).sum())
    radius = 2 * float(data.sum()) / max(surface, 1e-9)
    return math.hypot(OUTLINES, pitch**2 / max(radius, pitch / 2))


def metal_seen(xray: XRay, least: int = 9) -> XRay:
    """An exposure in which pixels that were clipped behind metal count, at the attenuation that they were given.

    Reading a file leaves pixels out that hold no counts, for nothing is known there but that much attenuates. To a model of the
    metal that is all that matters: its outline is where they begin. Given back are patches of ``least`` pixels and more that are
    left out, lie within the convex hull of the valid field, and hold the largest attenuation of the image.
    """
    from scipy import ndimage

    mask, image = xray.mask.numpy(), xray.image.numpy()
    patches, count = ndimage.label(~mask & _hull(mask), np.ones((3, 3)))
    if not count:
        return xray
    top = float(image[mask].max())
    sizes = np.bincount(patches.reshape(-1), minlength=count + 1)
    largest = np.asarray(ndimage.maximum(image, patches, np.arange(count + 1)), float)
    kept = (sizes >= least) & (largest >= top - 0.05 * abs(top))
    kept[0] = False
    dense = image > float(np.median(image[mask]))  # a letter beside metal is none
    return replace(xray, mask=torch.from_numpy(mask | (kept[patches] & dense)))


def _hull(mask: Mask) -> Mask:
    """[H, W] pixels within the convex hull of some."""
    from scipy.spatial import ConvexHull, QhullError

    rows = np.flatnonzero(mask.any(1))
    first, last = mask[rows].argmax(1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(1)
    ends = np.concatenate([np.stack([first, rows], 1), np.stack([last, rows], 1)]).astype(float)
    try:
        sides = ConvexHull(ends).equations
    except QhullError:
        return mask
    x, y = np.arange(mask.shape[1])[None], np.arange(mask.shape[0])[:, None]
    out = np.ones(mask.shape, np.bool_)
    for a, b, c in sides:
        out &= a * x + b * y + c <= 1e-9
    return out


def compare_bent(
    scale: Scale, rendering: Rendering, windows: Sequence[Windows], config: MatchConfig, response: Response | None
) -> Comparison:
    """A rendering beside a level's exposures, its line integrals and their derivatives bent; ``None``: as they are."""
    straight = compare(scale.model, scale.images, rendering, windows, config)
    if response is None:
        return straight
    lines = [v * i.lengths for v, i in zip(rendering.integrals, scale.images, strict=True)]
    shown = [response.bent(line) / i.lengths for line, i in zip(lines, scale.images, strict=True)]
    bent = compare(scale.model, scale.images, replace(rendering, integrals=tuple(shown)), windows, config)
    if any(s is None for s in rendering.slopes):
        return bent
    slopes = [own * response.slope(line) for own, line in zip(straight.derivatives(), lines, strict=True)]
    return replace(bent, known=tuple(slopes))


def bent_pattern(scale: Scale, matrix: Array64, config: MatchConfig, response: Response | None) -> Pattern:
    """How exposures and model match at a pose, the model's line integrals bent; flat where the exposures are, behind metal."""
    seen = pattern(scale, matrix, config, bent=None if response is None else response.bent)
    if response is not None and seen.drift >= _UNSEEN:
        seen = pattern(scale, matrix, config, bent=response.flat)
    return seen


@dataclass(frozen=True, eq=False)
class _Bent:
    """A level whose model's line integrals are bent, under one set of pixels."""

    scale: Scale
    match: MatchConfig
    response: Response

    def normal(self, matrix: Array64, floor: Array64, masks: Sequence[Mask], *, full: bool) -> Normal:
        """Cost, and with ``full`` the Gauss-Newton system, at a floor [views] of the residual variance."""
        scale = self.scale
        rendering = render(scale.model, scale.images, matrix, self.match, jacobian=full, pixels=masks)
        windows = [windows_of(image, mask, self.match) for image, mask in zip(scale.images, masks, strict=True)]
        seen = compare_bent(scale, rendering, windows, self.match, self.response)
        return seen.normal(floor) if full else seen.judged(floor)


def refine_bent(scale: Scale, start: Array64, bounds: Bounds, config: DirectConfig, response: Response) -> Candidate:
    """Levenberg-Marquardt from one pose at one level, as ``refine`` has it, with the model's line integrals bent.

    The pixels that are compared are looked up once, at the start.
    """
    match = replace(config.match, step=config.match.finest_step) if scale.index == 0 else config.match
    bent = _Bent(scale, match, response)
    none = np.zeros(len(scale.images))
    masks = answered(scale.model, scale.images, start)
    usable = max(1, sum(image.usable for image in scale.images))
    matrix = start
    floor = bent.normal(matrix, none, masks, full=False).noise
    now = bent.normal(matrix, floor, masks, full=True)
    steps, renders, damping = [Step(scale.index, 0, now.cost, torch.from_numpy(matrix.copy()))], 2, 1e-4
    for iteration in range(1, config.iterations + 1):
        accepted = False
        for _ in range(4):
            h = now.hessian
            damped = h + damping * np.diag(np.diag(h)) + 1e-9 * max(np.trace(h), 1e-12) * np.eye(6)
            twist = np.linalg.solve(damped, now.gradient)
            if twist @ now.gradient / usable < config.tolerance:
                break
            trial_matrix = moved(matrix, twist, now.centre)
            if bounds.hold(trial_matrix):
                trial = bent.normal(trial_matrix, floor, masks, full=False)
                renders += 1
                if trial.cost < now.cost:
                    accepted = True
                    break
            damping = max(damping, 1e-4) * 10
        if not accepted:
            break
        matrix, damping = trial_matrix, damping / 10
        floor = np.minimum(floor, trial.noise)
        now = bent.normal(matrix, floor, masks, full=True)
        renders += 1
        steps.append(Step(scale.index, iteration, now.cost, torch.from_numpy(matrix.copy())))
    final = bent.normal(matrix, none, masks, full=False)
    judged = replace(final, hessian=now.hessian, gradient=now.gradient, scores=now.scores)
    return Candidate(matrix, judged, tuple(steps), renders)
