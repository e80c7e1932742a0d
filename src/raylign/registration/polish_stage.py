"""What the last step (``polish``) works on: its settings, one level of the problem, and what the model shows there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from raylign.registration.levels import Scale, build_scales, centre_under
from raylign.registration.matching import jacobian_images, samples_on, voxel_rays
from raylign.registration.polish_beam import hinges
from raylign.registration.polish_rays import HINGES, two_materials
from raylign.registration.polish_scatter import Sources, sources
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array32, Array64, box_corners, content, footprint, model_pyramid
from raylign.registration.settings import DirectConfig, SearchConfig

_FINE = 0.75  # voxels are at most about so large, in pixels at the model: averages of more show in the pose
_VOXELS = 2e8  # a model of more stays as coarse as the direct method has it


@dataclass(frozen=True)
class PolishConfig:
    """Settings of the last step.

    Parameters
    ----------
    pixels: length in pixels of the longer side of what the model covers of the image, about.
    window: radius in pixels of the window that shares one gain and one offset.
    steps: Gauss-Newton steps at most.
    sampling: distance of samples along a ray, in voxels of the level.
    beam: whether voltage and scatter, or the weight of bone, are fitted to the exposure; models in HU alone.
    floor: of the residual variance, as a share of its median over the image.
    reach: how far the model's surface may move across the beam, in pixels of the level: a longer step is not a last one.
    counts: whether a step follows whose weights are those of counted photons, where beam and scatter explain the exposure and
        it makes the pose more certain. Beside smooth cosines scatter follows the exposure's own light there (``polish_scatter``).
    wide: radius in pixels of the window that shares an offset in that step.
    """

    pixels: int = 512
    window: int = 7
    steps: int = 1
    sampling: float = 0.5
    beam: bool = True
    floor: float = 0.03
    reach: float = 1.0
    counts: bool = True
    wide: int = 10


@dataclass(frozen=True, eq=False)
class Stage:
    """What does not change between steps: the level and the fixed images.

    ``pitch``: mm at the model that count as a pixel; ``around``: what each exposure's own light spreads to; ``bends``: how much
    of an attenuation is bone's, of models in HU.
    """

    scale: Scale
    pitch: float
    fixed: list[Array32]
    around: list[Sources | None]
    bends: Array32 | None
    config: PolishConfig


def stage_of(problem: Problem, config: PolishConfig) -> Stage:
    """One level, about as fine as ``config.pixels`` says, around where the model lies."""
    # a level of its own: as the direct method makes its finest, no coarser ones and no margin to search
    single = DirectConfig(search=SearchConfig(mm=0.0), pixels=config.pixels, coarsest=1 << 30)
    scale = build_scales(problem, single)[0]
    fixed, pitches = [], []
    around: list[Sources | None] = []
    box = content(problem.model)
    corners = box_corners(problem.model, *box)
    pose = problem.start.matrix.numpy()
    for xray, image in zip(problem.xrays, scale.images, strict=True):
        region = footprint(xray, corners @ pose[:3, :3].T + pose[:3, 3], 0.0)
        rows, columns = region.rows, region.columns
        factor = (rows.stop - rows.start) // image.shape[0]
        (h, w), start = image.shape, (rows.start, columns.start)
        shown = xray.image.numpy()[start[0] : start[0] + h * factor, start[1] : start[1] + w * factor]
        fixed.append(np.ascontiguousarray(shown.reshape(h, factor, w, factor).mean((1, 3), dtype=np.float32)))
        part = (slice(start[0], start[0] + h * factor), slice(start[1], start[1] + w * factor))
        around.append(sources(xray, part, factor) if config.counts else None)
        pitches.append(max(image.view.pixel_spacing) * region.depth / float(image.view.sid))
    pitch = scale.model.spacing / 1.5
    factors = np.maximum(1, np.ceil(_FINE * min(pitches) / np.linalg.norm(problem.model.affine[:3, :3].numpy(), axis=0) - 0.1))
    if np.prod(box[1] // factors) < _VOXELS:
        fine = model_pyramid(problem.model, box, [_FINE * min(pitches)])[0]
        # the faces that were found to blind too much stay out
        faces = tuple(new if old.size else old for new, old in zip(fine.faces, scale.model.faces, strict=True))
        scale = replace(scale, model=replace(fine, faces=faces))
    bends = hinges() if config.beam and problem.model.unit == "HU" else None
    return Stage(scale, pitch, fixed, around, bends, config)


def integrals_of(stage: Stage, matrix: Array64, view: int, *, jacobian: bool) -> Array32:
    """[2, 1 or 7, H, W]: line integrals of the model and of its bone (mm), and their derivatives by the pose."""
    level, image = stage.scale.model, stage.scale.images[view]
    rays, voxel_from_world = voxel_rays(level, image, matrix)
    bends = np.zeros((HINGES, 2), np.float32) if stage.bends is None else stage.bends
    samples = samples_on(image, stage.config.sampling * level.spacing)
    values, slopes = two_materials(level.grid, rays, image.shape, samples, image.valid, bends, gradients=jacobian)
    if not jacobian:
        return (values * image.lengths)[:, None]
    out = np.empty((2, 7, *image.shape), np.float32)
    world = np.ascontiguousarray(voxel_from_world[:3, :3].T)
    arm = image.source - centre_under(stage.scale, matrix)
    for part in range(2):
        jacobian_images(values[part], slopes[part], image.lengths, world, arm, image.steps, out[part])
    return out
