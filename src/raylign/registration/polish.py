"""The last step: a pose brought nearer to what the exposure's noise allows.

The direct method compares gradients of reduced images in small windows, which is robust and leaves some of the exposure unused.
From where it ends, this stage takes one or two Gauss-Newton steps on the intensities themselves, at higher resolution. In a
window around each pixel the fixed image is explained by the moving one with a gain and an offset of their own,

    F = b + a G,     G = M + beta B,     E = <(F - b - a G)^2> / n,

so that scatter, heel effect, an unknown dose and display curve drop out as far as they are even over a window. ``M`` are line
integrals, ``B`` those of what attenuates more than soft tissue. HU become attenuation at one energy, beams have many, and bone
hardens them: one number ``beta`` a view, fitted to the exposure, gives bone the weight that it has in this beam. Without it the
contrast of bone against soft tissue is wrong in one and the same sense all over the image, and the pose moves along the beam to
make up for it. The cost is the direct method's, the mean of ``log((E + s2) / (<F^2> / n + s2))``: the likelihood of Gaussian
noise whose variance is unknown and differs from place to place, as that of counted photons does, and deaf where metal or moved
tissue do not fit.

A step is kept if this cost falls at the pose where it ends, on the same pixels and with the same floor. Otherwise, and where the
step would be larger than what a last step can be, the pose stays as it was.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from raylign.data import Volume
from raylign.geometry import Rigid
from raylign.projection import cpu
from raylign.registration.levels import Scale, build_scales, centre_under
from raylign.registration.matching import MatchConfig, _jacobian_images, answered, box_sum, render, voxel_rays
from raylign.registration.problem import Problem, Registrar
from raylign.registration.pyramid import Array32, Array64, ModelLevel, _reduced, box_corners, content, footprint, native
from raylign.registration.result import Result, Step
from raylign.registration.search import camera_axes, moved
from raylign.registration.settings import DirectConfig, SearchConfig

_BONE_HU = 50.0  # above it lies what hardens a beam as bone does
_UNMODELLED = 3.5  # as for the direct method: what moves the optimum itself
_BLOCK = 16  # pixels: residuals farther apart than this are taken for independent
_ROUNDS = 3  # of reweighting on one rendering
_SINGULAR = 1e10  # condition of the scaled normal equations beyond which nothing is determined
_ALONG = 10.0  # a step may be so much longer along the beam than across it: so much less is depth seen


@dataclass(frozen=True)
class PolishConfig:
    """Settings of the last step.

    Parameters
    ----------
    pixels: length in pixels of the longer side of what the model covers of the image, about.
    window: radius in pixels of the window that shares one gain and one offset.
    steps: Gauss-Newton steps at most.
    sampling: distance of samples along a ray, in voxels of the level.
    bone: whether the weight of bone is fitted to the exposure; models in HU alone.
    floor: of the residual variance, as a share of its median over the image.
    reach: how far the model's surface may move across the beam, in pixels of the level: a longer step is not a last one.
    """

    pixels: int = 512
    window: int = 7
    steps: int = 1
    sampling: float = 1.0
    bone: bool = True
    floor: float = 0.1
    reach: float = 1.0


@dataclass(frozen=True)
class Polish:
    """A method with the last step behind it; itself a Registrar.

    Parameters
    ----------
    first: the method whose end is improved.
    config: of the last step.
    """

    first: Registrar
    config: PolishConfig = field(default_factory=PolishConfig)

    def register(self, problem: Problem) -> Result:
        """The pose of ``first``, polished; its confidence is what ``first`` says."""
        return polish(problem, self.first.register(problem), self.config)


def polish(problem: Problem, result: Result, config: PolishConfig | None = None) -> Result:
    """A result with its pose and covariance improved, or with its own pose where no step lowers the cost.

    Parameters
    ----------
    problem: the problem that was solved.
    result: its solution, within a pixel or so of the truth.

    Raises
    ------
    InputError: the model does not project onto an image.
    """
    config = config or PolishConfig()
    begun = time.perf_counter()
    faces = result.settings.get("cut_faces")
    # the reading of cut faces under which the result was found
    model = problem.model if faces is None else replace(problem.model, truncated=faces)
    stage = _stage(replace(problem, model=model, start=result.transform), config)
    matrix = result.transform.matrix.numpy()
    masks = answered(stage.scale.model, stage.scale.images, matrix)
    axes = camera_axes(problem.xrays[0].view)
    steps: list[Step] = []
    covariance = None
    shown = _shown(stage, matrix, masks, jacobian=True)
    for iteration in range(1, config.steps + 1):
        step = _step(stage, shown)
        if step is None or not _short(stage, step.twist, axes):
            break
        trial = moved(matrix, step.twist, centre_under(stage.scale, matrix))
        last = iteration == config.steps
        seen = _shown(stage, trial, masks, jacobian=not last)
        before, after = (_cost(stage, images, step) for images in (shown, seen))
        if not after < before:
            break
        matrix, shown, covariance = trial, seen, step.covariance
        steps.append(Step(0, iteration, after, torch.from_numpy(matrix.copy())))
    timings = {**result.timings, "polish": time.perf_counter() - begun}
    settings = {**result.settings, "polish": {**asdict(config), "steps_taken": len(steps)}}
    if covariance is None:
        return replace(result, timings=timings, settings=settings)
    return replace(
        result,
        transform=Rigid(torch.from_numpy(matrix)),
        covariance=torch.from_numpy(covariance),
        centre=torch.from_numpy(centre_under(stage.scale, matrix)),
        trajectory=(*result.trajectory, *steps),
        timings=timings,
        settings=settings,
        method=f"{result.method}+polish",
    )


@dataclass(frozen=True, eq=False)
class _Stage:
    """What does not change between steps: the level, bone on the same grid, the fixed images."""

    scale: Scale
    bone: ModelLevel | None
    fixed: list[Array32]
    config: PolishConfig


@dataclass(frozen=True, eq=False)
class _Shown:
    """One exposure's fixed image less its local mean, and the moving ones: [1 or 7, H, W] of the model and of bone."""

    fixed: Array32
    model: Array32
    bone: Array32 | None
    valid: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Step:
    """A twist about the model's centre with its covariance, the weight of bone and the floor of each exposure."""

    twist: Array64
    covariance: Array64
    bone: Array64
    floor: Array64


def _stage(problem: Problem, config: PolishConfig) -> _Stage:
    """One level, about as fine as ``config.pixels`` says, around where the model lies."""
    # a level of its own: as the direct method makes its finest, no coarser ones and no margin to search
    single = DirectConfig(search=SearchConfig(mm=0.0), pixels=config.pixels, coarsest=1 << 30)
    scale = build_scales(problem, single)[0]
    fixed = []
    corners = box_corners(problem.model, *content(problem.model))
    pose = problem.start.matrix.numpy()
    for xray, image in zip(problem.xrays, scale.images, strict=True):
        region = footprint(xray, corners @ pose[:3, :3].T + pose[:3, 3], 0.0)
        rows, columns = region.rows, region.columns
        factor = (rows.stop - rows.start) // image.shape[0]
        (h, w), start = image.shape, (rows.start, columns.start)
        part = xray.image.numpy()[start[0] : start[0] + h * factor, start[1] : start[1] + w * factor]
        fixed.append(np.ascontiguousarray(part.reshape(h, factor, w, factor).mean((1, 3), dtype=np.float32)))
    bone = _bone(problem.model, scale.model) if config.bone and problem.model.unit == "HU" else None
    return _Stage(scale, bone, fixed, config)


def _bone(model: Volume, level: ModelLevel) -> ModelLevel | None:
    """What attenuates more than soft tissue, as attenuation beyond it, on the grid of a level."""
    first, size = content(model)
    box = tuple(slice(int(a), int(a + n)) for a, n in zip(first[::-1], size[::-1], strict=True))
    excess = (torch.from_numpy(native(model)[box]) - _BONE_HU).clamp_(min=0).mul_(model.attenuation_coefficients()[1])
    if not bool((excess > 0).any()):
        return None
    native_pitch, pitch = (np.linalg.norm(a[:3, :3], axis=0) for a in (model.affine.numpy(), level.affine))
    whole = (np.zeros(3, np.int64), np.asarray(size, np.int64))
    # the grid's own affine, so that both lie on the same voxels
    padded, _ = _reduced(excess.numpy(), level.affine, whole, np.rint(pitch / native_pitch).astype(np.int64), None)
    return replace(level, grid=cpu.grid_around(padded))


def _shown(stage: _Stage, matrix: Array64, masks: list[NDArray[np.bool_]], *, jacobian: bool) -> list[_Shown]:
    """What one pose shows on every exposure, less its local mean."""
    levels = [stage.scale.model] if stage.bone is None else [stage.scale.model, stage.bone]
    centre = centre_under(stage.scale, matrix)
    match = MatchConfig(step=stage.config.sampling)
    moving = []
    for level in levels:
        rendering = render(level, stage.scale.images, matrix, match, jacobian=jacobian)
        for i, image in enumerate(stage.scale.images):
            slopes = rendering.slopes[i]
            if slopes is None:
                moving.append((rendering.integrals[i] * image.lengths)[None])
                continue
            _, voxel_from_world = voxel_rays(level, image, matrix)
            images = np.empty((7, *image.shape), np.float32)
            world = np.ascontiguousarray(voxel_from_world[:3, :3].T)
            _jacobian_images(rendering.integrals[i], slopes, image.lengths, world, image.source - centre, image.steps, images)
            moving.append(images)
    count = len(stage.scale.images)
    out = []
    for i, valid in enumerate(masks):
        parts = [_less_mean(part, valid, stage.config.window) for part in (stage.fixed[i][None], *moving[i::count])]
        out.append(_Shown(parts[0][0], parts[1], parts[2] if len(parts) > 2 else None, valid))
    return out


def _mixed(image: _Shown, bone: float, twist: Array64) -> Array32:
    """[1 or 7, H, W]: model and so much bone, moved by a twist as its derivatives say."""
    mixed = image.model if image.bone is None else image.model + np.float32(bone) * image.bone
    if len(mixed) > 1 and twist.any():
        mixed = mixed.copy()
        mixed[0] += np.tensordot(twist.astype(np.float32), mixed[1:], 1)
    return mixed


def _step(stage: _Stage, shown: list[_Shown]) -> _Step | None:
    """The Gauss-Newton step from a rendering: reweighted and repeated on its linearisation, bone's weights eliminated."""
    twist, bone, floor = np.zeros(6), np.zeros(len(shown)), np.zeros(len(shown))
    radius = stage.config.window
    hessian, scores = np.zeros((6, 6)), np.zeros((0, 6))
    for _ in range(_ROUNDS):
        hessian, gathered, back = np.zeros((6, 6)), [], []
        for i, image in enumerate(shown):
            mixed = _mixed(image, bone[i], twist)
            columns = mixed if image.bone is None else np.concatenate([mixed, image.bone[:1]])
            if floor[i] == 0:
                _, variance = _cost_of(image.fixed, mixed[:1], image.valid, radius, 1e-12)
                floor[i] = max(stage.config.floor * variance, 1e-12)
            k = len(columns) - 1
            h, blocks = np.zeros((k, k)), np.zeros((_blocks(image.fixed.shape), k))
            _equations(columns, image.fixed, image.valid, radius, np.float32(floor[i]), _BLOCK, h, blocks)
            h += np.triu(h, 1).T
            if k > 6:  # the weight of bone is solved for and left out (Schur complement)
                share = h[6, :6] / max(h[6, 6], 1e-30)
                back.append((blocks[:, 6].sum() / max(h[6, 6], 1e-30), share))
                h, blocks = h[:6, :6] - np.outer(share, h[6, :6]), blocks[:, :6] - blocks[:, 6:] * share
            hessian += h
            gathered.append(blocks)
        scores = np.concatenate(gathered)
        scale = np.sqrt(np.clip(np.diag(hessian), 1e-30, None))
        if not np.isfinite(hessian).all() or np.linalg.cond(hessian / np.outer(scale, scale)) > _SINGULAR:
            return None
        change = np.linalg.solve(hessian, scores.sum(0))
        twist = twist + change
        for i, (full, share) in enumerate(back):
            bone[i] = np.clip(bone[i] + full - share @ change, -1.0, 3.0)
    inverse = np.linalg.inv(hessian)
    scores = scores[np.abs(scores).sum(1) > 0]
    scores = scores - scores.mean(0)
    covariance = _UNMODELLED * inverse @ (scores.T @ scores) @ inverse
    return _Step(twist, covariance, bone, floor)


def _cost(stage: _Stage, shown: list[_Shown], step: _Step) -> float:
    """Mean of the log variance ratio over the pixels of all exposures, with a step's floors and weights of bone."""
    total, pixels = 0.0, 0
    for image, bone, floor in zip(shown, step.bone, step.floor, strict=True):
        mixed = image.model[:1] if image.bone is None else image.model[:1] + np.float32(bone) * image.bone[:1]
        cost, _ = _cost_of(image.fixed, mixed, image.valid, stage.config.window, floor)
        total, pixels = total + cost, pixels + int(image.valid.sum())
    return total / max(pixels, 1)


def _short(stage: _Stage, twist: Array64, axes: Array64) -> bool:
    """Whether a step is no longer than a last one may be; ``axes`` of the first view, the beam last."""
    pitch = stage.scale.model.spacing / 1.5  # about a pixel at the model
    shift = np.abs(axes.T @ twist[3:])
    across = float(np.hypot(shift[0], shift[1])) + stage.scale.model.radius * float(np.linalg.norm(twist[:3]))
    return across < stage.config.reach * pitch and shift[2] < _ALONG * stage.config.reach * pitch


def _blocks(shape: tuple[int, int]) -> int:
    return -(-shape[0] // _BLOCK) * -(-shape[1] // _BLOCK)


def _less_mean(images: Array32, valid: NDArray[np.bool_], radius: int) -> Array32:
    """Images [S, H, W] less their mean over a window of valid pixels; zero elsewhere."""
    out = np.empty(images.shape, np.float32)
    _subtract_means(np.ascontiguousarray(images, np.float32), valid, radius, out)
    return out


@njit(cache=True, nogil=True)
def _subtract_means(images, valid, radius, out):  # type: ignore[no-untyped-def]
    s, h, w = images.shape
    scratch = np.empty((h, w), np.float32)
    count = np.empty((h, w), np.float32)
    part = np.empty((h, w), np.float32)
    has = valid.astype(np.float32)
    box_sum(has, radius, scratch, count)
    for k in range(s):
        # about the overall mean first: running sums of large numbers lose digits
        total = 0.0
        pixels = 0.0
        for r in range(h):
            for c in range(w):
                total += has[r, c] * images[k, r, c]
                pixels += has[r, c]
        mean = np.float32(total / max(pixels, 1.0))
        for r in range(h):
            for c in range(w):
                part[r, c] = has[r, c] * (images[k, r, c] - mean)
        box_sum(part, radius, scratch, out[k])
        for r in range(h):
            for c in range(w):
                out[k, r, c] = part[r, c] - out[k, r, c] / count[r, c] if has[r, c] > 0 else np.float32(0.0)


@njit(cache=True, nogil=True)
def _gains(moving, fixed, valid, radius, factor, energy, residual, power, count):  # type: ignore[no-untyped-def]
    """Gain, <G^2>, windowed residual and windowed <F^2> of every pixel, sums over the window."""
    h, w = fixed.shape
    scratch = np.empty((h, w), np.float32)
    both = np.empty((h, w), np.float32)
    total = 0.0
    pixels = 0.0
    has = valid.astype(np.float32)
    box_sum(has, radius, scratch, count)
    for r in range(h):
        for c in range(w):
            both[r, c] = fixed[r, c] * moving[r, c]
            energy[r, c] = moving[r, c] ** 2
            power[r, c] = fixed[r, c] ** 2
            total += energy[r, c]
            pixels += has[r, c]
    box_sum(both, radius, scratch, both)
    box_sum(energy, radius, scratch, energy)
    box_sum(power, radius, scratch, power)
    # where the model shows next to nothing no gain is fitted
    delta = np.float32(1e-3 * total / max(pixels, 1.0))
    for r in range(h):
        for c in range(w):
            factor[r, c] = 0.0
            residual[r, c] = 0.0
            if valid[r, c]:
                energy[r, c] += delta * count[r, c] + np.float32(1e-20)
                factor[r, c] = max(both[r, c] / energy[r, c], np.float32(0.0))
                residual[r, c] = (fixed[r, c] - factor[r, c] * moving[r, c]) ** 2
    box_sum(residual, radius, scratch, residual)


@njit(cache=True, nogil=True)
def _cost_of(fixed, images, valid, radius, floor):  # type: ignore[no-untyped-def]
    """Sum over valid pixels of the log variance ratio, and the median residual variance."""
    h, w = fixed.shape
    factor, energy, residual, power, count = (
        np.empty((h, w), np.float32), np.empty((h, w), np.float32), np.empty((h, w), np.float32),
        np.empty((h, w), np.float32), np.empty((h, w), np.float32),
    )  # fmt: skip
    _gains(images[0], fixed, valid, radius, factor, energy, residual, power, count)
    cost = 0.0
    found = np.empty(h * w, np.float32)
    n = 0
    for r in range(h):
        for c in range(w):
            if valid[r, c]:
                e = max(residual[r, c], np.float32(0.0)) / count[r, c]
                cost += np.log((e + floor) / (max(power[r, c], np.float32(0.0)) / count[r, c] + floor))
                found[n] = e
                n += 1
    return cost, float(np.median(found[:n])) if n > 0 else 0.0


@njit(cache=True, nogil=True)
def _equations(images, fixed, valid, radius, floor, block, hessian, scores):  # type: ignore[no-untyped-def]
    """Adds the normal equations of ``images`` [1 + K, H, W], a moving image and its derivatives, all less their local means."""
    channels, h, w = images.shape
    factor, energy, residual, power, count = (
        np.empty((h, w), np.float32), np.empty((h, w), np.float32), np.empty((h, w), np.float32),
        np.empty((h, w), np.float32), np.empty((h, w), np.float32),
    )  # fmt: skip
    _gains(images[0], fixed, valid, radius, factor, energy, residual, power, count)
    scratch = np.empty((h, w), np.float32)
    weight = np.zeros((h, w), np.float32)
    for r in range(h):
        for c in range(w):
            if valid[r, c]:
                weight[r, c] = 1.0 / (max(residual[r, c], np.float32(0.0)) + floor * count[r, c])
    box_sum(weight, radius, scratch, weight)
    derivatives = np.empty((channels - 1, h, w), np.float32)
    turned = np.empty((h, w), np.float32)
    for k in range(channels - 1):
        for r in range(h):
            for c in range(w):
                turned[r, c] = (fixed[r, c] - np.float32(2.0) * factor[r, c] * images[0, r, c]) * images[k + 1, r, c]
        # d gain = <(F - 2 a G) J> / <G^2>, the gain taken as even over the window
        box_sum(turned, radius, scratch, turned)
        for r in range(h):
            for c in range(w):
                derivatives[k, r, c] = 0.0
                if factor[r, c] > 0:
                    derivatives[k, r, c] = factor[r, c] * images[k + 1, r, c] + images[0, r, c] * turned[r, c] / energy[r, c]
    columns = (w + block - 1) // block
    for r in range(h):
        for c in range(w):
            if factor[r, c] <= 0.0:
                continue
            here = (r // block) * columns + c // block
            left = weight[r, c] * (fixed[r, c] - factor[r, c] * images[0, r, c])
            for k in range(channels - 1):
                d = derivatives[k, r, c]
                scores[here, k] += left * d
                d *= weight[r, c]
                for m in range(k, channels - 1):
                    hessian[k, m] += d * derivatives[m, r, c]
