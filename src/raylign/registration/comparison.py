"""What poses are worth at one level of a classical registration: batches of renderings compared with the exposures.

The fixed image F and the rendering M(T) are line integrals on the same grid of pixels. Any similarity of ``raylign.similarity``
compares them; so does ``LOCAL_VARIANCE``, the negative cost of the direct method. Several exposures count by their mean.

The gradient by the pose needs no graph of samples: autograd gives ``dS/dM`` [H, W] of the similarity alone, and the ray
integrals of one pass (see ``matching``) give ``dM`` by a twist. Their product, summed over pixels, is the gradient. Along the
ray the integrals take their known values, so that it is the gradient of the integral and not of its sum over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from raylign.data import XRay
from raylign.errors import InputError
from raylign.projection import cpu
from raylign.registration.levels import Scale, _only, _seeing_faces
from raylign.registration.matching import (
    MatchConfig,
    Rendering,
    answered,
    jacobian_images,
    normal_equations,
    samples_on,
    voxel_rays,
)
from raylign.registration.optimisers.base import UNUSABLE
from raylign.registration.problem import Problem
from raylign.registration.pyramid import (
    Array32,
    Array64,
    Footprint,
    box_corners,
    content,
    footprint,
    image_level,
    model_pyramid,
)
from raylign.similarity import SIMILARITIES, similarity

LOCAL_VARIANCE = "local-variance"
"""The direct method's comparison, its sign turned: 0 where nothing is explained, positive where the model explains something."""

_CHUNK = 1_500_000  # pixels rendered and compared at once: a similarity keeps some ten maps of as many numbers
_LEAST = 0.5  # of the pixels answered at the start: with fewer a pose is worth proportionally less


@dataclass(frozen=True)
class Sampling:
    """At which resolution a level looks.

    Parameters
    ----------
    pixels: along the longer side of what the model covers of the image, about; or
    pitch: mm of a pixel at the detector, about. One of the two; pixels are merged in whole numbers and never split.
    crop: to what the model can reach, or False for the whole valid image.
    answered: leave out rays that pass a face where the CT was cut off.
    step: distance of samples along a ray, in voxels of the level, whose pitch is 1.5 pixels at the model.
    """

    pixels: int | None = None
    pitch: float | None = None
    crop: bool = True
    answered: bool = True
    step: float = 1.0

    def __post_init__(self) -> None:
        if (self.pixels is None) == (self.pitch is None):
            raise InputError("a level has a number of pixels or a pitch", field="sampling", remedy="give one of the two")


@dataclass(frozen=True)
class Measure:
    """How images are compared.

    Parameters
    ----------
    name: of ``raylign.similarity``, or ``LOCAL_VARIANCE``.
    options: the similarity's own.
    patch_mm: radius of its patches at the detector, where it has patches; overrides its option ``radius``.

    Raises
    ------
    InputError: no such similarity, no such option, patches of a similarity that has none.
    """

    name: str
    options: Mapping[str, Any] | None = None
    patch_mm: float | None = None

    def __post_init__(self) -> None:
        if self.name == LOCAL_VARIANCE:
            if self.options or self.patch_mm is not None:
                raise InputError(f"{LOCAL_VARIANCE} has no options", field="similarity")
            return
        similarity(self.name, **(self.options or {}))
        if self.patch_mm is not None and "radius" not in SIMILARITIES[self.name].options:
            raise InputError(f"{self.name} has no patches", field="similarity", remedy="leave patch_mm out")

    @property
    def differentiable(self) -> bool:
        """Whether there is a gradient by the pose."""
        return self.name != LOCAL_VARIANCE and SIMILARITIES[self.name].differentiable

    def function(self, pitch: float, shortest: int | None = None) -> Callable[..., torch.Tensor]:
        """The similarity, its patches right for pixels of ``pitch`` mm and small enough for an image ``shortest`` pixels wide."""
        options = dict(self.options or {})
        if self.patch_mm is not None:
            options["radius"] = max(1, round(self.patch_mm / pitch))
        if shortest is not None:
            options = _fitting(self.name, options, shortest)
        return similarity(self.name, **options)


def _fitting(name: str, options: dict[str, Any], shortest: int) -> dict[str, Any]:
    """Options with smaller patches, where an exposure is too narrow for those that are asked for."""
    given = {**SIMILARITIES[name].defaults, **options}
    lost = (int(given["smoothing"]) + 1) // 2 if "smoothing" in given else 0  # pixels at each border
    most = max(1, (shortest - 1) // 2 - lost)
    if "radius" in given and given["radius"] > most:
        return {**options, "radius": most}
    if any(r is not None and r > most for r in given.get("radii", ())):
        return {**options, "radii": tuple(r if r is None else min(r, most) for r in given["radii"])}
    return options


def build(problem: Problem, sampling: Sequence[Sampling], margin: float) -> list[tuple[Scale, list[Array32]]]:
    """Model and exposures at each sampling, with the fixed images [H, W] (line integrals, or what grows with them).

    Parameters
    ----------
    margin: mm at the model by which it may move, where images are cropped.

    Raises
    ------
    InputError: a model of nothing but air.
    """
    box = content(problem.model)
    start = problem.start.matrix.numpy()
    world = box_corners(problem.model, *box) @ start[:3, :3].T + start[:3, 3]
    made = []
    for given in sampling:
        regions = [_region(x, world, margin, given.crop) for x in problem.xrays]
        factors = [_factor(x, r, given) for x, r in zip(problem.xrays, regions, strict=True)]
        images = [image_level(x, r, f) for x, r, f in zip(problem.xrays, regions, factors, strict=True)]
        fixed = [_reduced(x, r, f) for x, r, f in zip(problem.xrays, regions, factors, strict=True)]
        pitch = min(max(i.view.pixel_spacing) * r.depth / float(i.view.sid) for i, r in zip(images, regions, strict=True))
        made.append((images, fixed, 1.5 * pitch))
    order = np.argsort([m[2] for m in made], kind="stable")  # models are built from fine to coarse
    models = dict(zip(order.tolist(), model_pyramid(problem.model, box, [made[i][2] for i in order]), strict=True))
    scales = []
    for i, (images, fixed, _) in enumerate(made):
        scale = Scale(len(made) - 1 - i, models[i], images)
        kept = _seeing_faces(scale, start) if sampling[i].answered else set()
        scales.append((replace(scale, model=replace(scale.model, faces=_only(scale.model.faces, kept))), fixed))
    return scales


def _region(xray: XRay, world: Array64, margin: float, crop: bool) -> Footprint:
    """What of an exposure is looked at: all that is valid where nothing is cropped, or the start shows the model nowhere."""
    if crop:
        try:
            return footprint(xray, world, margin)
        except InputError:
            pass  # a start may be that far off, if the optimiser is to look that far
    mask = xray.mask.numpy()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise InputError("no pixel of this image is valid", file=xray.name, field="mask")
    depths = ((torch.from_numpy(world) - xray.view.source) @ xray.view.normal).detach().numpy()
    sid = float(xray.view.sid)
    depth = float(np.clip(depths.mean(), 0.4 * sid, sid))
    sides = (rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0])
    whole = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    return Footprint(*whole, int(max(sides)), int(min(sides)), depth)


def _factor(xray: XRay, region: Footprint, sampling: Sampling) -> int:
    if sampling.pitch is not None:
        factor = round(sampling.pitch / max(xray.view.pixel_spacing))
    else:
        assert sampling.pixels is not None
        factor = round(region.long / sampling.pixels)
    smallest = min(region.rows.stop - region.rows.start, region.columns.stop - region.columns.start)
    return max(1, min(factor, smallest // 12))


def _reduced(xray: XRay, region: Footprint, factor: int) -> Array32:
    """The means over blocks of pixels, as ``image_level`` takes them."""
    rows, columns = (slice(s.start, s.start + (s.stop - s.start) // factor * factor) for s in (region.rows, region.columns))
    part = xray.image.numpy()[rows, columns]
    blocks = (part.shape[0] // factor, factor, part.shape[1] // factor, factor)
    mean: Array32 = part.reshape(blocks).mean((1, 3), dtype=np.float32)
    return mean


class Comparison:
    """Similarities of poses at one level, and their gradients; counts the poses it rendered.

    Parameters
    ----------
    scale, fixed: from ``build``.
    measure: how images are compared.
    sampling: of the level.
    start: [4, 4] the pose at which the pixels that the model answers for are counted.
    """

    def __init__(self, level: tuple[Scale, list[Array32]], measure: Measure, sampling: Sampling, start: Array64) -> None:
        self.scale, fixed = level
        self.fixed = [torch.from_numpy(np.ascontiguousarray(f)) for f in fixed]
        self.measure, self.sampling = measure, sampling
        self.renders = 0
        self.functions: list[Callable[..., torch.Tensor]] = []
        if measure.name != LOCAL_VARIANCE:
            self.functions = [measure.function(max(i.view.pixel_spacing), min(i.shape)) for i in self.scale.images]
        self.cut = any(face.size for face in self.scale.model.faces)
        self.least = [_LEAST * max(1, int(m.sum())) for m in answered(self.scale.model, self.scale.images, start)]

    def values(self, poses: Float[Array64, "B 4 4"]) -> Float[Array64, " B"]:
        """Similarities of B poses; larger is better."""
        size = max(image.shape[0] * image.shape[1] for image in self.scale.images)
        step = max(1, _CHUNK // size)
        self.renders += len(poses)
        return np.concatenate([self._chunk(poses[i : i + step]) for i in range(0, len(poses), step)])

    def _chunk(self, poses: Array64) -> Array64:
        return self.compared(poses, self.rendered(poses))

    def rendered(self, poses: Float[Array64, "B 4 4"]) -> list[Array32]:
        """Integrals [B, H, W] over t in [0, 1] of every exposure; any similarity of the same level may compare them."""
        model = self.scale.model
        found = []
        for image in self.scale.images:
            rays = np.stack([voxel_rays(model, image, p)[0] for p in poses])
            samples = np.full(len(poses), samples_on(image, self.sampling.step * model.spacing))
            valid = np.broadcast_to(image.valid, (len(poses), *image.shape))
            found.append(cpu.forward(model.grid, rays, image.shape, samples, valid)[0])
        return found

    def compared(self, poses: Float[Array64, "B 4 4"], rendered: list[Array32]) -> Float[Array64, " B"]:
        """Similarities of poses that ``rendered`` shows."""
        pool = cpu.pool(cpu.threads())
        if self.cut or self.measure.name == LOCAL_VARIANCE:
            masks = list(pool.map(lambda p: answered(self.scale.model, self.scale.images, p), poses))
        if self.measure.name == LOCAL_VARIANCE:
            config, none = MatchConfig(), np.zeros(len(self.fixed))

            def one(b: int) -> float:
                rendering = Rendering(poses[b], tuple(r[b] for r in rendered), (None,) * len(rendered))
                return -normal_equations(self.scale.model, self.scale.images, rendering, masks[b], none, config).cost

            return np.array(list(pool.map(one, range(len(poses)))))
        total = np.zeros(len(poses))
        for k, image in enumerate(self.scale.images):
            moving = torch.from_numpy(self._moving(k, rendered[k]))
            mask = np.stack([m[k] for m in masks]) if self.cut else image.valid
            with torch.no_grad():
                values = self._similarity(k, moving, torch.from_numpy(mask)).numpy().astype(float)
            total += self._weighed(k, mask, values)
        return total / len(self.fixed)

    def value_and_slope(self, pose: Float[Array64, "4 4"]) -> tuple[float, Float[Array64, " 6"]]:
        """Similarity of one pose and its gradient by a twist (rad, mm; world axes) about the model's centre under that pose.

        Raises
        ------
        InputError: the similarity has no gradient.
        """
        if not self.measure.differentiable:
            raise InputError(
                f"{self.measure.name} has no gradient by the pose", field="similarity", remedy="use another, or cma-es"
            )
        self.renders += 1
        model = self.scale.model
        centre = (pose @ model.affine @ np.array([*(model.size - 1) / 2, 1.0]))[:3]
        masks = answered(model, self.scale.images, pose)
        value, slope = 0.0, np.zeros(6)
        for k, image in enumerate(self.scale.images):
            rays, voxel_from_world = voxel_rays(model, image, pose)
            samples = np.array([samples_on(image, self.sampling.step * model.spacing)])
            integrals, slopes = cpu.forward(model.grid, rays[None], image.shape, samples, image.valid[None], gradients=True)
            images = np.empty((7, *image.shape), np.float32)
            world = np.ascontiguousarray(voxel_from_world[:3, :3].T)
            jacobian_images(integrals[0], slopes[0], image.lengths, world, image.source - centre, image.steps, images)
            if image.background is not None:
                images[0] += image.background
            moving = torch.from_numpy(images[0].copy()).requires_grad_()
            result = self._similarity(k, moving[None], torch.from_numpy(masks[k]))[0]
            (by_pixel,) = torch.autograd.grad(result, moving)
            value += float(self._weighed(k, masks[k], np.array(result.item())))
            slope += float(self._factor(k, masks[k], result.item())) * np.tensordot(
                images[1:].astype(float), by_pixel.numpy().astype(float), axes=2
            )
        return value / len(self.fixed), slope / len(self.fixed)

    def _moving(self, k: int, integrals: Array32) -> Array32:
        image = self.scale.images[k]
        moving: Array32 = integrals * image.lengths
        return moving if image.background is None else moving + image.background

    def _similarity(self, k: int, moving: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B]; a single image is compared twice, because PyTorch sums one number in another order on several threads."""
        if len(moving) > 1:
            return self.functions[k](moving, self.fixed[k], mask)
        twice = mask if mask.ndim == 2 else mask.expand(2, -1, -1)
        return self.functions[k](moving.expand(2, -1, -1), self.fixed[k], twice)[:1]

    def _weighed(self, k: int, mask: NDArray[np.bool_], values: Array64) -> Array64:
        """Similarities as they count; where no pixel answers there is none, and 0 would be the best of differences."""
        weighed = values * self._factor(k, mask, values)
        return np.where(mask.any((-2, -1)), weighed, -UNUSABLE) if self.cut else weighed

    def _factor(self, k: int, mask: NDArray[np.bool_], value: Any) -> Any:
        """1, or what makes a pose worse for which less than half of the pixels answer that answer for the start."""
        if not self.cut:
            return 1.0
        share = np.clip(mask.sum((-2, -1)) / self.least[k], 1e-3, 1.0)
        return np.where(np.asarray(value) > 0, share, 1 / share)
