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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raylign.projection import cpu
from raylign.projection.threads import run_chunks
from raylign.registration import match_kernels, match_sparse
from raylign.registration.cut_rays import clear_unanswered as clear_unanswered
from raylign.registration.match_kernels import alone
from raylign.registration.match_kernels import box_sum as box_sum
from raylign.registration.match_kernels import jacobian_images as jacobian_images
from raylign.registration.pyramid import Array32, Array64, ImageLevel, ModelLevel
from raylign.registration.rotations import carried, rays_into

Mask = NDArray[np.bool_]
Run = Callable[[Callable[[int, int], object], int, int], None]
_LITTLE = 0.6  # of an exposure's pixels: a model that shows in more of them is compared in all
_SHARED = 50000  # pixels from which the loops over an image are spread over threads: handing out the pieces of less costs more


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


@dataclass(frozen=True, eq=False)
class Rendering:
    """The model as one pose shows it: integrals [H, W] and slopes [H, W, 6] (or None) per exposure, and that pose.

    ``pixels`` [H, W] of each exposure are those that were rendered; others are zero.
    """

    matrix: Array64
    integrals: tuple[Array32, ...]
    slopes: tuple[Array32 | None, ...]
    pixels: tuple[Mask, ...] | None = None


def samples_on(image: ImageLevel, step: float) -> int:
    """Samples on a whole ray so that they are at most ``step`` mm apart on the longest one."""
    return max(1, math.ceil(image.longest / step))


def voxel_rays(level: ModelLevel, image: ImageLevel, matrix: Array64) -> tuple[Array64, Array64]:
    """An exposure's rays [4, 3] in voxel coordinates (source, first pixel minus source, steps), and voxel-from-world [4, 4]."""
    rays, voxel_from_world = rays_into(level.affine, matrix, image.source, image.steps)
    return rays, voxel_from_world


def render(
    level: ModelLevel,
    images: list[ImageLevel],
    matrix: Array64,
    config: MatchConfig,
    *,
    jacobian: bool = True,
    threaded: bool = True,
    pixels: Sequence[Mask] | None = None,
) -> Rendering:
    """Line integrals, and with ``jacobian`` the ray Jacobians, of every exposure's valid pixels.

    ``threaded``: over all threads; callers that work on many poses side by side give each pose one thread.
    ``pixels``: of each exposure [H, W], those that are wanted; others are zero.
    """
    integrals, slopes = [], []
    pixels = tuple(pixels or [image.valid for image in images])
    for image, wanted in zip(images, pixels, strict=True):
        rays, _ = voxel_rays(level, image, matrix)
        samples = np.array([samples_on(image, config.step * level.spacing)])
        values, gradients = cpu.forward(
            level.grid, rays[None], image.shape, samples, wanted[None], gradients=jacobian, threaded=threaded
        )
        integrals.append(values[0])
        slopes.append(gradients[0] if jacobian else None)
    return Rendering(matrix, tuple(integrals), tuple(slopes), pixels)


def answered(level: ModelLevel, images: list[ImageLevel], matrix: Array64) -> list[Mask]:
    """For each exposure the valid pixels whose ray leaves the model through no face where the patient goes on."""
    if not any(face.size for face in level.faces):
        return [image.valid.copy() for image in images]
    masks = []
    for image in images:
        rays, _ = voxel_rays(level, image, matrix)
        valid = image.valid.copy()
        clear_unanswered(level, rays, valid)
        masks.append(valid)
    return masks


@dataclass(frozen=True, eq=False)
class Windows:
    """What the windows of an exposure hold, whatever the model shows there.

    ``has`` [H, W] is 1 where a pixel has a gradient, that is where it and its four neighbours are valid, ``count`` how many such
    pixels are in its window, ``energy`` the mean square of the exposure's gradient over them, ``pixels`` how many there are.
    """

    valid: Mask
    has: Array32
    count: Array32
    energy: Array32
    pixels: int

    @cached_property
    def power(self) -> float:
        """The sum of ``energy`` over the pixels with a gradient."""
        return float((self.energy * self.has).sum(dtype=np.float64))


def windows_of(image: ImageLevel, valid: Mask, config: MatchConfig) -> Windows:
    """The windows of an exposure of which the ``valid`` pixels [H, W] are compared."""
    has, count, energy = np.empty((3, *image.shape), np.float32)
    pixels = match_kernels.window_sums(valid, image.gradient, config.window, has, count, energy)
    return Windows(valid, has, count, energy, pixels)


@dataclass(frozen=True, eq=False)
class _Compared:
    """A rendering beside one exposure, window by window; names as in ``match_kernels``.

    ``spans`` as in ``match_sparse``, where the model is sparse: arrays hold nothing outside them.
    """

    windows: Windows
    delta: float
    gradient: Array32
    factor: Array32
    moving: Array32
    variance: Array32
    spans: NDArray[np.int32] | None = None


def _compared(moving: Array32, image: ImageLevel, windows: Windows, config: MatchConfig) -> _Compared:
    """Line integrals [H, W], those of what does not move included, beside an exposure."""
    gradient = np.empty((2, *image.shape), np.float32)
    factor, energy, variance = np.empty((3, *image.shape), np.float32)
    setting = (windows.has, windows.count, windows.pixels, config.window)
    delta = match_kernels.residuals(moving, image.gradient, *setting, gradient, factor, energy, variance)
    return _Compared(windows, delta, gradient, factor, energy, variance)


def _sparsely_compared(integrals: Array32, image: ImageLevel, windows: Windows, config: MatchConfig) -> _Compared | None:
    """The same of what the voxels alone show, integrals of rays of unit length; None where that is most of the image."""
    spans = np.empty((3, image.shape[0], 2), np.int32)
    if match_sparse.spans_of(integrals, config.window, spans) > _LITTLE * integrals.size:
        return None
    gradient = np.empty((2, *image.shape), np.float32)
    factor, moving, variance = np.empty((3, *image.shape), np.float32)
    setting = ((windows.has, windows.count, windows.energy), windows.pixels, config.window, spans)
    delta = match_sparse.residuals(integrals, image.lengths, image.gradient, *setting, gradient, (factor, moving, variance))
    return _Compared(windows, delta, gradient, factor, moving, variance, spans)


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


def _system(
    compared: _Compared, image: ImageLevel, floor: float, config: MatchConfig, derivatives: Array32 | None, run: Run = alone
) -> ExposureSystem:
    """One exposure at a floor of the residual variance; without derivatives [K, H, W] its system is six zeros."""
    windows = compared.windows
    least = np.float32(max(floor, config.floor * image.energy, 1e-20))
    block, count = 2 * config.window + 1, 6 if derivatives is None else len(derivatives)
    h, w = image.shape
    blocks = 0 if derivatives is None else -(-h // block) * -(-w // block)
    hessian, scores = np.zeros((count, count)), np.zeros((blocks, count))
    if h * w < _SHARED:
        run = alone
    if compared.delta == 0:  # nothing to compare
        return ExposureSystem(0.0, 0.0, 0.0, windows.pixels, 0.0, hessian, scores)
    if compared.spans is not None:
        sums = (compared.factor, compared.moving, compared.variance)
        known = (windows.has, windows.count, windows.energy), sums, compared.spans
        cost, explained, seen, left = match_sparse.judged(*known, windows.power, compared.delta, least)
        if derivatives is not None:
            pictures, numbers = (derivatives, image.gradient, compared.gradient), (least, config.window, block)
            match_sparse.derivatives(pictures, known, numbers, (hessian, scores), run)
        return ExposureSystem(cost, explained, seen, windows.pixels, left, hessian, scores)
    own = (compared.moving, compared.variance)
    cost, explained, seen, left = match_kernels.judged(windows.has, windows.count, windows.energy, *own, compared.delta, least)
    if derivatives is not None:
        these = (windows.has, windows.count, compared.factor, *own)
        match_kernels.derivatives(
            derivatives, image.gradient, compared.gradient, these, least, config.window, block, hessian, scores, run
        )
    return ExposureSystem(cost, explained, seen, windows.pixels, left, hessian, scores)


def exposure_system(moving: Array32, image: ImageLevel, valid: Mask, floor: float, config: MatchConfig) -> ExposureSystem:
    """One exposure against [1 + K, H, W]: line integral and derivatives by K parameters; of none, the cost and six zeros."""
    if image.background is not None:
        moving[0] += image.background
    compared = _compared(moving[0], image, windows_of(image, valid, config), config)
    return _system(compared, image, floor, config, moving[1:] if len(moving) > 1 else None)


def summed(found: Sequence[ExposureSystem], images: Sequence[ImageLevel], centre: Array64) -> Normal:
    """What all exposures say together, about ``centre``."""
    single = len(found) == 1  # as most are, and thousands of them
    scores = found[0].scores if single else np.concatenate([f.scores for f in found])
    seen, usable = sum(f.seen for f in found), max(1, sum(image.usable for image in images))
    return Normal(
        cost=sum(f.cost for f in found) / usable,
        hessian=found[0].hessian if single else np.sum([f.hessian for f in found], 0),
        gradient=scores.sum(0) if len(scores) else np.zeros(scores.shape[1]),
        scores=scores,
        explained=sum(f.explained for f in found) / seen if seen > 0 else 0.0,
        pixels=sum(f.pixels for f in found),
        noise=np.array([f.left / max(f.pixels, 1) for f in found]),
        centre=centre,
        shares=np.array([f.explained / f.seen if f.seen > 0 else 0.0 for f in found]),
        costs=np.array([f.cost for f in found]) / usable,
    )


@dataclass(frozen=True, eq=False)
class Comparison:
    """A rendering beside the exposures, at no floor of the residual variance yet: what ``compare`` returns."""

    level: ModelLevel
    images: list[ImageLevel]
    rendering: Rendering
    compared: tuple[_Compared, ...]
    config: MatchConfig
    known: tuple[Array32, ...] | None = None  # derivatives, where they are those of another rendering nearby
    threaded: bool = False

    @property
    def run(self) -> Run:
        """How loops over pixels are spread."""
        return run_chunks if self.threaded else alone

    def judged(self, sigma2: Array64) -> Normal:
        """Cost and shares at a floor [views]; the system is zero."""
        return self._normal(sigma2, [None] * len(self.images))

    def normal(self, sigma2: Array64) -> Normal:
        """Cost, shares and Gauss-Newton system at a floor [views], of a rendering with Jacobian."""
        return self._normal(sigma2, self.derivatives())

    def beside(self, windows: Sequence[Windows]) -> Comparison:
        """The same rendering with other windows; what is the same is not looked at again."""
        if all(old.windows is new for old, new in zip(self.compared, windows, strict=True)):
            return self
        anew = compare(self.level, self.images, self.rendering, windows, self.config, threaded=self.threaded)
        return replace(anew, known=self.known)

    def carried(self, twist: Array64, matrix: Array64) -> Comparison:
        """Beside the images as they are a ``twist`` about the model's centre away, at the pose ``matrix``, to first order.

        For twists that move the picture by a fraction of a pixel: the derivatives of the line integrals stay what they are.
        """
        known = tuple(self.derivatives())
        moving = []
        for image, integrals, slopes in zip(self.images, self.rendering.integrals, known, strict=True):
            out = np.empty_like(integrals)
            match_kernels.carried(integrals, image.lengths, slopes, twist, out)
            moving.append(out)
        rendering = replace(self.rendering, matrix=matrix, integrals=tuple(moving))
        windows = [compared.windows for compared in self.compared]
        return replace(compare(self.level, self.images, rendering, windows, self.config, threaded=self.threaded), known=known)

    def derivatives(self) -> list[Array32]:
        """Of each exposure's line integrals by a twist about the model's centre, [6, H, W]."""
        if self.known is not None:
            return list(self.known)
        found = []
        matrix, centre = self.rendering.matrix, self._centre()
        world = np.ascontiguousarray(np.linalg.inv(matrix[:3, :3] @ self.level.affine[:3, :3]).T)
        for i, (image, integrals) in enumerate(zip(self.images, self.rendering.integrals, strict=True)):
            spans = self.compared[i].spans if self.compared else None
            moving = np.empty((7, *image.shape), np.float32)
            rays = (self.rendering.slopes[i], image.lengths, world, image.source - centre, image.steps)
            run = self.run if spans is None and integrals.size >= _SHARED else alone
            jacobian_images(integrals, *rays, moving, run, None if spans is None else spans[match_sparse.BASE])
            found.append(moving[1:])
        return found

    def _centre(self) -> Array64:
        return np.asarray(carried(self.rendering.matrix, self.level.middle))

    def _normal(self, sigma2: Array64, derivatives: Sequence[Array32 | None]) -> Normal:
        found = [
            _system(compared, image, floor, self.config, jacobian, self.run)
            for compared, image, floor, jacobian in zip(self.compared, self.images, sigma2, derivatives, strict=True)
        ]
        return summed(found, self.images, self._centre())


def compare(
    level: ModelLevel,
    images: list[ImageLevel],
    rendering: Rendering,
    windows: Sequence[Windows],
    config: MatchConfig,
    *,
    threaded: bool = False,
) -> Comparison:
    """A rendering beside every exposure, of each the pixels of its ``windows``; ``threaded`` as of ``render``."""
    found = []
    sparse = level.grid.blocks is not None
    for image, integrals, window in zip(images, rendering.integrals, windows, strict=True):
        little = _sparsely_compared(integrals, image, window, config) if sparse and image.background is None else None
        if little is not None:
            found.append(little)
            continue
        moving = integrals * image.lengths
        if image.background is not None:
            moving += image.background
        found.append(_compared(moving, image, window, config))
    return Comparison(level, images, rendering, tuple(found), config, threaded=threaded)


def normal_equations(
    level: ModelLevel, images: list[ImageLevel], rendering: Rendering, masks: list[Mask], sigma2: Array64, config: MatchConfig
) -> Normal:
    """Cost and Gauss-Newton system of a rendering; ``sigma2`` [views] is the floor of the residual variance.

    Of a rendering without Jacobian the cost and the shares alone; its system is zero.
    """
    windows = [windows_of(image, valid, config) for image, valid in zip(images, masks, strict=True)]
    compared = compare(level, images, rendering, windows, config)
    return compared.judged(sigma2) if any(s is None for s in rendering.slopes) else compared.normal(sigma2)
