"""Levenberg-Marquardt from one pose at one level, and what it leaves: candidates and their covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numba import njit

from raylign.registration.levels import Scale, centre_under
from raylign.registration.matching import Mask, MatchConfig, Normal, Rendering, Windows, answered, compare, render, windows_of
from raylign.registration.pyramid import Array64
from raylign.registration.result import Step
from raylign.registration.rotations import shown_at
from raylign.registration.search import Bounds, moved, separation
from raylign.registration.settings import DirectConfig

LEASH_DEGREES, LEASH_MM = 5.0, 10.0
_RISE = 0.3  # mean log variance ratio
_EITHER_WAY = np.concatenate([np.eye(3), -np.eye(3)])
_CARRIED = {0: 0.1, 1: 0.25}  # pixels by which a picture may move before it is rendered anew; coarser levels render always


@dataclass(frozen=True, eq=False)
class Candidate:
    """A refined pose, its system, and how it got there."""

    matrix: Array64
    normal: Normal
    steps: tuple[Step, ...] = ()
    renders: int = 0
    rendering: Rendering | None = None  # the model at ``matrix``, of the pixels that are compared, without slopes


def on_images(scale: Scale, matrix: Array64) -> Array64:
    """Where the ends of the model's axes show under a pose: [views, 6, 2], columns and rows in pixels of the level."""
    ends = scale.model.middle + scale.model.radius * _EITHER_WAY
    return np.array([shown_at(ends, matrix, image.source, image.steps) for image in scale.images])


def compared_pixels(scale: Scale, matrix: Array64) -> list[Mask]:
    """``answered``, to be read alone: of a model that answers for all rays the images' own valid pixels."""
    if any(face.size for face in scale.model.faces):
        return answered(scale.model, scale.images, matrix)
    return [image.valid for image in scale.images]


def renewed(known: Sequence[Windows], scale: Scale, masks: Sequence[Mask], config: MatchConfig) -> list[Windows]:
    """The windows of each exposure's pixels ``masks`` [H, W], the known ones where these are the same."""
    return [
        old if old.valid is mask or np.array_equal(old.valid, mask) else windows_of(image, mask, config)
        for old, image, mask in zip(known, scale.images, masks, strict=True)
    ]


def refine(scale: Scale, start: Array64, bounds: Bounds, config: DirectConfig, *, threaded: bool) -> Candidate:
    """Levenberg-Marquardt from one pose at one level.

    The floor ``sigma2`` of the residual variance starts at the mean residual and follows it down, so that the cost is convex
    where the pose is far off and close to the likelihood where it is near (graduated non-convexity). The rays that the model
    does not answer for are fixed while a step is judged and looked up again after each step of more than a third of a pixel: a
    cost over a changing set of pixels is not a cost.

    Above the finest level a weak spring (``config.leash``) ties the pose to where the level began. In a direction that a coarse
    image does not see (depth, mostly) noise would carry it off, out of reach of the finer levels that do see it. At the finest
    level steps may be longer than Gauss and Newton's (``lengthened``, ``config.stretch``).
    """
    basis = np.zeros((6, 6))
    basis[:3, :3] = basis[3:, 3:] = bounds.axes
    match = replace(config.match, step=config.match.finest_step) if scale.index == 0 else config.match
    none = np.zeros(len(scale.images))

    usable = max(1, sum(image.usable for image in scale.images))
    leash = config.leash if scale.index > 0 else 0.0
    stiffness = usable * leash / np.array([np.radians(LEASH_DEGREES)] * 3 + [LEASH_MM] * 3) ** 2
    tie = replace(bounds, start=start, centre=centre_under(scale, start))

    def pull(pose: Array64) -> Array64:
        if leash == 0:
            return np.zeros(6)
        turn, shift = tie.offset(pose)
        return np.concatenate([np.radians(turn), shift])

    matrix = start
    masks = compared_pixels(scale, matrix)
    windows = [windows_of(image, mask, match) for image, mask in zip(scale.images, masks, strict=True)]
    rendering = render(scale.model, scale.images, matrix, match, threaded=threaded, pixels=masks)
    seen = compare(scale.model, scale.images, rendering, windows, match, threaded=threaded)
    floor = seen.judged(none).noise
    now = seen.normal(floor)
    steps = [Step(scale.index, 0, now.cost, torch.from_numpy(matrix.copy()))]
    renders, damping = 1, 1e-4
    limit = _CARRIED.get(scale.index, 0.0)
    rendered = there = on_images(scale, matrix) if limit else none
    radius = scale.model.radius
    # above the finest level a pose need only be good enough to begin the next
    tolerance = config.tolerance * {0: 1, 1: 10}.get(scale.index, 100)
    away = np.zeros(6)
    last: tuple[Array64, float] | None = None
    most = config.stretch if scale.index == 0 else 1.0
    for iteration in range(1, (config.iterations if scale.index == 0 else config.iterations * 2 // 3) + 1):
        accepted = False
        tension = float(stiffness @ away**2) / usable
        times = 1.0
        for attempt in range(2 if scale.index == 0 else 5):
            twist, promised = damped_step(now.hessian, now.gradient, basis, stiffness, away, damping)
            if promised / usable < tolerance:
                break
            times = lengthened(last, twist, now.hessian, most) if attempt == 0 else 1.0
            short, twist = twist, times * twist
            trial_matrix = moved(matrix, twist, now.centre)
            if not bounds.hold(trial_matrix):
                damping = damping if times > 1 else max(damping, 1e-4) * 10
                continue
            there = on_images(scale, trial_matrix) if limit else none
            near = bool(np.abs(there - rendered).max() < limit)
            if near:  # the picture hardly moves: its derivatives tell what it is
                trial_masks, trial_seen = masks, seen.carried(twist, trial_matrix)
            else:
                # no ray is followed that is compared neither now nor after the step
                trial_masks = compared_pixels(scale, trial_matrix)
                pixels = [w.valid if w.valid is m else w.valid | m for w, m in zip(windows, trial_masks, strict=True)]
                rendering = render(scale.model, scale.images, trial_matrix, match, threaded=threaded, pixels=pixels)
                trial_seen = compare(scale.model, scale.images, rendering, windows, match, threaded=threaded)
                renders += 1
            trial = trial_seen.judged(floor)
            trial_away = pull(trial_matrix)
            if trial.cost + float(stiffness @ trial_away**2) / usable < now.cost + tension:
                accepted = True
                break
            damping = damping if times > 1 else max(damping, 1e-4) * 10
        if not accepted:
            break
        matrix, masks, seen, away = trial_matrix, trial_masks, trial_seen, trial_away
        rendered = rendered if near else there
        damping /= 10
        last = short, times
        floor = np.minimum(floor, trial.noise)
        if np.abs(twist[3:]).max() + radius * np.abs(twist[:3]).max() > 0.3 * scale.model.spacing:
            windows = renewed(windows, scale, masks, match)
            seen = seen.beside(windows)
        now = seen.normal(floor)
        steps.append(Step(scale.index, iteration, now.cost, torch.from_numpy(matrix.copy())))
    # all candidates are compared at the same floor
    final = seen.beside(renewed(windows, scale, masks, match)).judged(none)
    judged = replace(final, hessian=now.hessian, gradient=now.gradient, scores=now.scores)
    return Candidate(matrix, judged, tuple(steps), renders, replace(seen.rendering, slopes=(None,) * len(scale.images)))


@njit(cache=True, nogil=True)
def damped_step(hessian, gradient, basis, stiffness, away, damping):  # type: ignore[no-untyped-def]
    """The twist [6] that a damped system asks for, and by how much the cost would fall to first order, doubled.

    Compiled, for the reason that is given in ``rotations``.

    Parameters
    ----------
    hessian, gradient: [6, 6] and [6] along world axes. basis: [6, 6], axes of the spring as columns.
    stiffness, away: [6] of the spring, and how far it is drawn. damping: share of the diagonal that is added to it.
    """
    h = basis.T @ hessian @ basis + np.diag(stiffness)
    g = basis.T @ gradient - stiffness * away
    damped = h + damping * np.diag(np.diag(h)) + 1e-9 * max(np.trace(h), 1e-12) * np.eye(6)
    step = np.linalg.solve(damped, g)
    return basis @ step, step @ g


def lengthened(last: tuple[Array64, float] | None, step: Array64, hessian: Array64, most: float) -> float:
    """How many times as long as Gauss and Newton's a step is to be made: 1 to ``most``.

    Where a model leaves much unexplained, their Hessian is too stiff (what the logarithm's concave part adds is not in it), and
    each step goes the same share of the way that is left. What is left of the ``last`` one, along it, tells that share.

    Parameters
    ----------
    last: the step before, as it was computed, and how many times as long it was made; None where there is none.
    step: the next one, as it is computed. hessian: by which both are measured.
    """
    if last is None:
        return 1.0
    before, made = last
    left = float(step @ hessian @ before) / max(float(before @ hessian @ before), 1e-30)
    return float(np.clip(made / max(1 - left, 1e-3), 1, most))


def neighbours(candidate: Candidate, scale: Scale, directions: int = 3) -> list[Array64]:
    """Poses either way along the directions that the images at this level determine least: where the next valley may lie.

    As far as the quadratic model puts the cost up by ``_RISE``, 8 to 40 mm at the model's surface.
    """
    measure = np.array([scale.model.radius] * 3 + [1.0] * 3)  # a turn counts by what it moves
    values, vectors = np.linalg.eigh(candidate.normal.hessian / measure / measure[:, None])
    usable = max(1, sum(image.usable for image in scale.images))
    found = []
    for value, vector in list(zip(values, vectors.T, strict=True))[:directions]:
        length = np.clip(math.sqrt(_RISE * usable / max(float(value), 1e-9)), 8.0, 40.0)
        twist = vector / measure * length
        found += [moved(candidate.matrix, sign * twist, candidate.normal.centre) for sign in (1, -1)]
    return found


def distinct(candidates: Sequence[Candidate], nearer_than: float, radius: float) -> list[Candidate]:
    """The candidates best first, those within ``nearer_than`` mm of a better one left out."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: c.normal.cost):
        if all(separation(k.matrix, candidate.matrix, k.normal.centre, radius) > nearer_than for k in kept):
            kept.append(candidate)
    return kept
