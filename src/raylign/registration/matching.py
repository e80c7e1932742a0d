"""How well a pose explains an exposure, with the normal equations of its improvement.

The moving image M (line integrals of the model) and the fixed image F are compared by their gradients. In a window around each
pixel one non-negative factor ``a`` brings the moving gradients to the fixed ones,

    a = <gF, gM> / (<gM, gM> + delta),    r = gF - a gM,    E = <r, r> / n,

which makes the comparison blind to any offset, to slow changes of intensity (scatter, heel effect) and to the slope of an
unknown monotone display curve. The cost is the sum over pixels of ``log((E + sigma2) / (<gF, gF> / n + sigma2))``: up to the
floor ``sigma2`` the likelihood of Gaussian residuals of unknown variance that differs from place to place, so that metal, moved
soft tissue and whatever the model does not hold lose their say where they are. It is zero where nothing is explained, or
nothing can be (rays the model does not answer for), and negative elsewhere.

The derivative of M by the pose comes from the ray integrals S0 and S1 of the same pass. Along the ray they are known without
integration, because the model vanishes at both ends: ``S0 . d = 0`` and ``S1 . d = -I``. Summed over samples a voxel apart they
are far from it, by an error that oscillates with the voxel grid and that swamps the small effect of a motion in depth: a
Gauss-Newton step in depth came out 50 times too short. The component along the ray is therefore replaced by its known value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from raylign.projection import cpu
from raylign.registration.cut_rays import clear_unanswered as clear_unanswered
from raylign.registration.pyramid import Array32, Array64, ImageLevel, ModelLevel

Mask = NDArray[np.bool_]
_FAST = {"contract", "nsz", "arcp", "reassoc"}


@dataclass(frozen=True)
class MatchConfig:
    """How images are compared.

    Parameters
    ----------
    window: radius in pixels of the window that shares one factor.
    floor: ``sigma2`` is at least this share of the fixed image's mean squared gradient.
    step: distance of samples along a ray, in voxels of the level, above the finest level.
    finest_step: the same at the finest level, where what depth there is to see is seen.
    """

    window: int = 4
    floor: float = 0.02
    step: float = 1.5
    finest_step: float = 1.0


@dataclass(frozen=True, eq=False)
class Normal:
    """Cost and Gauss-Newton system at a pose, summed over exposures.

    ``hessian @ x = gradient`` gives the step, a twist (rad, mm) about ``centre``; ``scores`` are what each image block
    contributes to ``gradient``, from which the covariance is estimated; ``explained`` is the share of the fixed images'
    gradient energy that the model explains where it has something to say; ``pixels`` how many they are;
    ``noise`` [views] the mean residual E. By exposure, ``shares`` [views] is ``explained`` of its own (0 where the model has
    nothing to say), ``costs`` [views] its part of ``cost``.
    """

    cost: float
    hessian: Array64
    gradient: Array64
    scores: Array64
    explained: float
    pixels: int
    noise: Array64
    centre: Array64
    shares: Array64
    costs: Array64


@njit(cache=True, nogil=True)
def box_sum(image, radius, scratch, out):  # type: ignore[no-untyped-def]
    """Sums over (2 radius + 1)^2 windows, cut at the border; ``scratch`` is as large as ``image``, ``out`` may be ``image``."""
    h, w = image.shape
    for y in range(h):
        s = np.float32(0.0)
        for x in range(min(radius, w)):
            s += image[y, x]
        for x in range(w):
            if x + radius < w:
                s += image[y, x + radius]
            if x - radius - 1 >= 0:
                s -= image[y, x - radius - 1]
            scratch[y, x] = s
    row = np.zeros(w, np.float32)
    for y in range(min(radius, h)):
        for x in range(w):
            row[x] += scratch[y, x]
    for y in range(h):
        if y + radius < h:
            for x in range(w):
                row[x] += scratch[y + radius, x]
        if y - radius - 1 >= 0:
            for x in range(w):
                row[x] -= scratch[y - radius - 1, x]
        for x in range(w):
            out[y, x] = row[x]


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _jacobian_images(integrals, slopes, lengths, world, source, steps, images):  # type: ignore[no-untyped-def]
    """Line integral and its derivatives by a twist about the origin of ``source`` (world mm): [7, H, W]."""
    h, w = lengths.shape
    for r in range(h):
        for c in range(w):
            length = lengths[r, c]
            value = integrals[r, c]
            dx = np.float32(steps[0, 0] + c * steps[1, 0] + r * steps[2, 0])
            dy = np.float32(steps[0, 1] + c * steps[1, 1] + r * steps[2, 1])
            dz = np.float32(steps[0, 2] + c * steps[1, 2] + r * steps[2, 2])
            gx = gy = gz = hx = hy = hz = np.float32(0.0)
            for i in range(3):
                s0 = slopes[r, c, i]
                s1 = slopes[r, c, 3 + i]
                gx += world[0, i] * s0
                gy += world[1, i] * s0
                gz += world[2, i] * s0
                hx += world[0, i] * s1
                hy += world[1, i] * s1
                hz += world[2, i] * s1
            square = dx * dx + dy * dy + dz * dz
            along = (gx * dx + gy * dy + gz * dz) / square
            gx -= along * dx
            gy -= along * dy
            gz -= along * dz
            along = (hx * dx + hy * dy + hz * dz + value) / square
            hx -= along * dx
            hy -= along * dy
            hz -= along * dz
            images[0, r, c] = length * value
            images[1, r, c] = -length * (source[1] * gz - source[2] * gy + dy * hz - dz * hy)
            images[2, r, c] = -length * (source[2] * gx - source[0] * gz + dz * hx - dx * hz)
            images[3, r, c] = -length * (source[0] * gy - source[1] * gx + dx * hy - dy * hx)
            images[4, r, c] = -length * gx
            images[5, r, c] = -length * gy
            images[6, r, c] = -length * gz


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _normal_equations(images, fixed, valid, radius, sigma2, block, hessian, scores):  # type: ignore[no-untyped-def]
    """Adds one exposure's normal equations; returns cost, explained energy, fixed energy, pixels, summed residual E.

    ``images`` is [1 + K, H, W]: the line integral, then its derivatives by K parameters (six of a pose, none where the cost alone
    is wanted); ``hessian`` is [K, K], of which the upper half is filled, ``scores`` [blocks, K].
    """
    channels, h, w = images.shape
    has = np.zeros((h, w), np.float32)
    grad = np.zeros((2 * channels, h, w), np.float32)
    energy = 0.0
    pixels = 0.0
    for r in range(1, h - 1):
        for c in range(1, w - 1):
            if valid[r, c] and valid[r, c - 1] and valid[r, c + 1] and valid[r - 1, c] and valid[r + 1, c]:
                has[r, c] = 1.0
                pixels += 1.0
                for k in range(channels):
                    grad[2 * k, r, c] = np.float32(0.5) * (images[k, r, c + 1] - images[k, r, c - 1])
                    grad[2 * k + 1, r, c] = np.float32(0.5) * (images[k, r + 1, c] - images[k, r - 1, c])
                energy += grad[0, r, c] ** 2 + grad[1, r, c] ** 2
    if pixels < 16.0 or energy == 0.0:
        return 0.0, 0.0, 0.0, pixels, 0.0
    delta = np.float32(0.01 * energy / pixels)
    scratch = np.empty((h, w), np.float32)
    work = np.empty((h, w), np.float32)
    count = np.empty((h, w), np.float32)
    both = np.empty((h, w), np.float32)
    moving = np.empty((h, w), np.float32)
    total = np.empty((h, w), np.float32)
    box_sum(has, radius, scratch, count)
    for r in range(h):
        for c in range(w):
            both[r, c] = fixed[0, r, c] * grad[0, r, c] + fixed[1, r, c] * grad[1, r, c]
            moving[r, c] = grad[0, r, c] ** 2 + grad[1, r, c] ** 2
            total[r, c] = has[r, c] * (fixed[0, r, c] ** 2 + fixed[1, r, c] ** 2)
    box_sum(both, radius, scratch, both)
    box_sum(moving, radius, scratch, moving)
    box_sum(total, radius, scratch, total)
    factor = np.zeros((h, w), np.float32)
    residual = np.empty((h, w), np.float32)
    for r in range(h):
        for c in range(w):
            if count[r, c] > 0.5:
                moving[r, c] += delta * count[r, c]
                factor[r, c] = max(both[r, c] / moving[r, c], np.float32(0.0))
            x = fixed[0, r, c] - factor[r, c] * grad[0, r, c]
            y = fixed[1, r, c] - factor[r, c] * grad[1, r, c]
            residual[r, c] = has[r, c] * (x * x + y * y)
    box_sum(residual, radius, scratch, residual)
    cost = 0.0
    noise = 0.0
    left = 0.0
    seen = 0.0
    speaks = np.float32(26.0) * delta  # a quarter of the mean moving energy: there the model has something to say
    for r in range(h):
        for c in range(w):
            work[r, c] = 0.0
            if has[r, c] > 0:
                n = count[r, c]
                e = max(residual[r, c], np.float32(0.0)) / n  # running sums leave tiny negative numbers
                f = max(total[r, c], np.float32(0.0)) / n
                cost += np.log((e + sigma2) / (f + sigma2))
                noise += e
                if moving[r, c] > speaks * n:
                    left += e
                    seen += f
                work[r, c] = 1.0 / ((e + sigma2) * n)
    if channels == 1:
        return cost, seen - left, seen, pixels, noise
    box_sum(work, radius, scratch, work)
    # d factor / d pose = (<gF, gJ> - 2 a <gM, gJ>) / <gM, gM>, window by window
    by_pose = np.empty((channels - 1, h, w), np.float32)
    other = np.empty((h, w), np.float32)
    for k in range(channels - 1):
        for r in range(h):
            for c in range(w):
                jx = grad[2 * k + 2, r, c]
                jy = grad[2 * k + 3, r, c]
                by_pose[k, r, c] = fixed[0, r, c] * jx + fixed[1, r, c] * jy
                other[r, c] = grad[0, r, c] * jx + grad[1, r, c] * jy
        box_sum(by_pose[k], radius, scratch, by_pose[k])
        box_sum(other, radius, scratch, other)
        for r in range(h):
            for c in range(w):
                by_pose[k, r, c] -= np.float32(2.0) * factor[r, c] * other[r, c]
    columns = (w + block - 1) // block
    jx_all = np.zeros(channels - 1)
    jy_all = np.zeros(channels - 1)
    for r in range(1, h - 1):
        for c in range(1, w - 1):
            a = factor[r, c]
            if has[r, c] == 0.0 or a <= 0.0:
                continue
            weight = max(work[r, c], np.float32(0.0))
            gx = grad[0, r, c]
            gy = grad[1, r, c]
            x = fixed[0, r, c] - a * gx
            y = fixed[1, r, c] - a * gy
            inverse = 1.0 / moving[r, c]
            here = (r // block) * columns + c // block
            for k in range(channels - 1):
                da = by_pose[k, r, c] * inverse
                jx_all[k] = a * grad[2 * k + 2, r, c] + gx * da
                jy_all[k] = a * grad[2 * k + 3, r, c] + gy * da
                scores[here, k] += weight * (jx_all[k] * x + jy_all[k] * y)
            for k in range(channels - 1):
                for m in range(k, channels - 1):
                    hessian[k, m] += weight * (jx_all[k] * jx_all[m] + jy_all[k] * jy_all[m])
    return cost, seen - left, seen, pixels, noise


@dataclass(frozen=True, eq=False)
class Rendering:
    """The model as one pose shows it: integrals [H, W] and slopes [H, W, 6] (or None) per exposure, and that pose."""

    matrix: Array64
    integrals: tuple[Array32, ...]
    slopes: tuple[Array32 | None, ...]


def samples_on(image: ImageLevel, step: float) -> int:
    """Samples on a whole ray so that they are at most ``step`` mm apart on the longest one."""
    return max(1, math.ceil(image.longest / step))


def voxel_rays(level: ModelLevel, image: ImageLevel, matrix: Array64) -> tuple[Array64, Array64]:
    """An exposure's rays [4, 3] in voxel coordinates (source, first pixel minus source, steps), and voxel-from-world [4, 4]."""
    voxel_from_world = np.asarray(np.linalg.inv(matrix @ level.affine), np.float64)
    source = voxel_from_world[:3, :3] @ image.source + voxel_from_world[:3, 3]
    rays: Array64 = np.concatenate([source[None], image.steps @ voxel_from_world[:3, :3].T])
    return rays, voxel_from_world


def render(
    level: ModelLevel,
    images: list[ImageLevel],
    matrix: Array64,
    config: MatchConfig,
    *,
    jacobian: bool = True,
    threaded: bool = True,
) -> Rendering:
    """Line integrals, and with ``jacobian`` the ray Jacobians, of every exposure's valid pixels.

    ``threaded``: over all threads; callers that work on many poses side by side give each pose one thread.
    """
    integrals, slopes = [], []
    for image in images:
        rays, _ = voxel_rays(level, image, matrix)
        samples = np.array([samples_on(image, config.step * level.spacing)])
        values, gradients = cpu.forward(
            level.grid, rays[None], image.shape, samples, image.valid[None], gradients=jacobian, threaded=threaded
        )
        integrals.append(values[0])
        slopes.append(gradients[0] if jacobian else None)
    return Rendering(matrix, tuple(integrals), tuple(slopes))


def answered(level: ModelLevel, images: list[ImageLevel], matrix: Array64) -> list[Mask]:
    """For each exposure the valid pixels whose ray leaves the model through no face where the patient goes on."""
    masks = []
    for image in images:
        rays, _ = voxel_rays(level, image, matrix)
        valid = image.valid.copy()
        clear_unanswered(level, rays, valid)
        masks.append(valid)
    return masks


@dataclass(frozen=True, eq=False)
class ExposureSystem:
    """What one exposure adds to the normal equations of K parameters: [K, K] and, by image block, [blocks, K].

    ``left`` is the sum of the residual E over pixels; other names as in ``Normal``, sums instead of means.
    """

    cost: float
    explained: float
    seen: float
    pixels: int
    left: float
    hessian: Array64
    scores: Array64


def exposure_system(moving: Array32, image: ImageLevel, valid: Mask, floor: float, config: MatchConfig) -> ExposureSystem:
    """One exposure against [1 + K, H, W]: line integral and derivatives by K parameters; of none, the cost and six zeros."""
    h, w = image.shape
    block, count = 2 * config.window + 1, len(moving) - 1 or 6
    hessian, scores = np.zeros((count, count)), np.zeros((-(-h // block) * -(-w // block), count))
    if image.background is not None:
        moving[0] += image.background
    least = np.float32(max(floor, config.floor * image.energy, 1e-20))
    c, e, s, n, left = _normal_equations(moving, image.gradient, valid, config.window, least, block, hessian, scores)
    return ExposureSystem(c, e, s, int(n), left, hessian + np.triu(hessian, 1).T, scores)


def normal_equations(
    level: ModelLevel, images: list[ImageLevel], rendering: Rendering, masks: list[Mask], sigma2: Array64, config: MatchConfig
) -> Normal:
    """Cost and Gauss-Newton system of a rendering; ``sigma2`` [views] is the floor of the residual variance.

    Of a rendering without Jacobian the cost and the shares alone; its system is zero.
    """
    matrix = rendering.matrix
    centre = (matrix @ level.affine @ np.array([*(level.size - 1) / 2, 1.0]))[:3]
    found = []
    for image, integrals, slopes, valid, floor in zip(images, rendering.integrals, rendering.slopes, masks, sigma2, strict=True):
        if slopes is None:
            moving = (integrals * image.lengths)[None]
        else:
            moving = np.empty((7, *image.shape), np.float32)
            world = np.ascontiguousarray(voxel_rays(level, image, matrix)[1][:3, :3].T)
            _jacobian_images(integrals, slopes, image.lengths, world, image.source - centre, image.steps, moving)
        found.append(exposure_system(moving, image, valid, floor, config))
    scores = np.concatenate([f.scores for f in found])
    seen, usable = sum(f.seen for f in found), max(1, sum(image.usable for image in images))
    return Normal(
        cost=sum(f.cost for f in found) / usable,
        hessian=np.sum([f.hessian for f in found], 0),
        gradient=scores.sum(0),
        scores=scores,
        explained=sum(f.explained for f in found) / seen if seen > 0 else 0.0,
        pixels=sum(f.pixels for f in found),
        noise=np.array([f.left / max(f.pixels, 1) for f in found]),
        centre=centre,
        shares=np.array([f.explained / f.seen if f.seen > 0 else 0.0 for f in found]),
        costs=np.array([f.cost for f in found]) / usable,
    )
