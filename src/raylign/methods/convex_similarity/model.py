"""The similarity of a volume under poses with exposures, and its gradient by the pose: what is trained, and what is descended.

Every volume is brought into a cube of one size about the middle of the model (``Cube``), so that a pose is where that middle lies
and how the patient is turned about it, and the voxels of all patients have one affine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.methods.convex_similarity.geodesic import moved
from raylign.methods.convex_similarity.network import SimilarityNetwork
from raylign.projection import operator
from raylign.registration.pyramid import box_corners, content

BONE = 0.02
"""1/mm: attenuations are given to the network in units of it; compact bone has about two."""
_PATH = 30.0  # units of BONE times mm: what the moving images are divided by, about what a pelvis shows


_ABOUT = 8  # of the image's side: as far to either side a pixel is compared with others
_MOST = 3.0  # standard deviations


@dataclass(frozen=True)
class CubeConfig:
    """How a model and an exposure are shown to the network.

    Parameters
    ----------
    voxels: along each side of the cube.
    voxel_mm: their pitch.
    pixels: along each side of both images.
    unit_mm: as many mm count like a radian in the metric of poses.
    step: distance of samples along a ray, in voxels.

    Raises
    ------
    InputError: numbers that are not positive.
    """

    voxels: int = 128
    voxel_mm: float = 2.5
    pixels: int = 128
    unit_mm: float = 100.0
    step: float = 1.0

    def __post_init__(self) -> None:
        numbers = (self.voxels, self.voxel_mm, self.unit_mm, self.step)
        if not all(0 < n < math.inf for n in numbers) or self.pixels < _ABOUT:
            raise InputError(f"voxels, pitches and units are positive, pixels at least {_ABOUT}", field="cube")

    @property
    def affine(self) -> Float[Tensor, "4 4"]:
        """Model mm, counted from its middle, of voxel (x, y, z)."""
        affine = torch.diag(torch.tensor([self.voxel_mm] * 3 + [1.0], dtype=torch.float64))
        affine[:3, 3] = -(self.voxels - 1) / 2 * self.voxel_mm
        return affine


def middle_of(volume: Volume) -> Float[Tensor, "3"]:
    """LPS mm of the middle of the box of what casts a shadow."""
    return torch.from_numpy(box_corners(volume, *content(volume)).mean(0))


def cube_of(volume: Volume, config: CubeConfig) -> tuple[Float[Tensor, "D H W"], Float[Tensor, "3"]]:
    """A volume as the network sees it, in units of ``BONE``, and the middle (LPS mm) about which its cube lies.

    Voxels are means over the eight points at a quarter of their pitch from their centres, so that fine structure is averaged and
    not sampled. What lies beyond the cube is cut off.
    """
    seen = volume.attenuation() if volume.unit == "HU" else volume
    middle = middle_of(volume)
    half = CubeConfig(2 * config.voxels, config.voxel_mm / 2).affine
    to_voxels = torch.linalg.inv(seen.affine.to(torch.float64))
    axis = torch.arange(2 * config.voxels, dtype=torch.float64) * half[0, 0] + half[0, 3]
    size = torch.tensor(seen.data.shape[::-1], dtype=torch.float64)
    data = seen.decoded().data.to(torch.float32)[None, None]
    layers = []
    for z in axis:  # layer by layer: eight times the voxels of the cube are not held at once
        points = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1], -1)  # [y, x]: x, y
        points = torch.cat([points, z.expand(*points.shape[:2], 1)], -1) + middle
        index = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        grid = (2 * (index + 0.5) / size - 1).to(torch.float32)[None, None]
        layers.append(torch.nn.functional.grid_sample(data, grid, padding_mode="zeros", align_corners=False)[0, 0, 0])
    fine = torch.stack(layers)
    cube = torch.nn.functional.avg_pool3d(fine[None, None], 2)[0, 0]
    return cube / BONE, middle


def centred(poses: Float[Tensor, "*batch 4 4"], middle: Float[Tensor, "3"]) -> Float[Tensor, "*batch 4 4"]:
    """Poses ``T_world_from_volume`` as poses of the cube: turns are the same, the translation is where the middle lies."""
    return se3.from_parts(poses[..., :3, :3], se3.transform(poses, middle.expand(*poses.shape[:-2], 1, 3))[..., 0, :])


def uncentred(poses: Float[Tensor, "*batch 4 4"], middle: Float[Tensor, "3"]) -> Float[Tensor, "*batch 4 4"]:
    """``T_world_from_volume`` of poses of the cube."""
    return centred(poses, -middle)


@dataclass(frozen=True, eq=False)
class Looks:
    """Exposures as the network sees them, with their geometry.

    Parameters
    ----------
    images: [B, 1, N, N], in units of the standard deviation about each pixel, 0 where it is the mean about it or not valid.
    vectors: [B, 4, 3] world mm: source, first pixel, column step, row step.
    """

    images: Float[Tensor, "B 1 N N"]
    vectors: Float[Tensor, "B 4 3"]

    def __len__(self) -> int:
        return len(self.images)

    def repeated(self, which: Tensor) -> Looks:
        """Some of them, any number of times."""
        return Looks(self.images[which], self.vectors[which])


def look(image: Float[Tensor, "B H W"], valid: Bool[Tensor, "B H W"], views: Sequence[View], pixels: int) -> Looks:
    """Exposures of equal shape, brought to so many pixels: means over what is valid of each new pixel.

    Air beside the patient, a display curve or a collimator's edge would else outweigh all bones: each pixel is compared with
    those about it, an eighth of the image to either side. A factor, an offset and slow changes of intensity say nothing then.

    Raises
    ------
    InputError: exposures that are not square, whose sides are no multiple of so many pixels, or of a parallel beam.
    """
    if any(view.beam != "cone" for view in views):
        raise InputError("a parallel beam was not trained", field="view", remedy="give an X-ray of a cone beam")
    h, w = image.shape[1:]
    if h != w or h % pixels:
        raise InputError(
            f"{h} x {w} pixels are no multiple of {pixels} x {pixels}", field="image", remedy="resample the X-ray to a square"
        )
    sums, counts = (
        torch.nn.functional.avg_pool2d(x[:, None].to(torch.float32), h // pixels)
        for x in (torch.where(valid, image, torch.zeros_like(image)), valid)
    )
    has = (counts > 0.5).to(torch.float32)
    means = has * sums / counts.clamp(min=1e-6)
    whole = means.sum((1, 2, 3), keepdim=True) / has.sum((1, 2, 3), keepdim=True).clamp(min=1)
    means = has * (means - whole)  # so that squares cancel little

    def about(x: Tensor) -> Tensor:
        radius = pixels // _ABOUT
        return torch.nn.functional.avg_pool2d(x, 2 * radius + 1, 1, radius)

    number = about(has).clamp(min=1e-6)
    middle = about(means) / number
    spread = (about(means**2) / number - middle**2).clamp(min=0)
    least = (0.1**2) * (spread.sum((1, 2, 3), keepdim=True) / has.sum((1, 2, 3), keepdim=True).clamp(min=1))
    shown = has * (means - middle) / (spread + least).sqrt().clamp(min=1e-6)
    vectors = torch.stack([view.resample((pixels, pixels)).vectors for view in views])
    return Looks(shown.clamp(-_MOST, _MOST), vectors)


@dataclass(frozen=True, eq=False)
class Similarity:
    """The network's similarity of cubes under poses with exposures.

    Parameters
    ----------
    network: of ``cube.pixels`` pixels.
    cube: how models are shown.
    """

    network: SimilarityNetwork
    cube: CubeConfig = field(default_factory=CubeConfig)

    def moving(self, channels: Float[Tensor, "C D H W"], looks: Looks, poses: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B C N N"]:
        """Line integrals of all channels under poses of the cube, in the exposures' geometry."""
        vectors = looks.vectors.to(poses)
        inverse = torch.linalg.inv(self.cube.affine.to(poses)) @ se3.inverse(poses)
        source = se3.transform(inverse, vectors[:, :1])
        ways = torch.cat([vectors[:, 1:2] - vectors[:, :1], vectors[:, 2:]], 1) @ inverse[:, :3, :3].transpose(-1, -2)
        rays = torch.cat([source, ways], 1)
        n = self.cube.pixels
        at = torch.arange(n, dtype=vectors.dtype, device=vectors.device)
        first, across, down = (vectors[:, 1] - vectors[:, 0])[:, None, None], vectors[:, 2, None, None], vectors[:, 3, None, None]
        lengths = (first + at[None, None, :, None] * across + at[None, :, None, None] * down).norm(dim=-1)
        samples = [max(1, math.ceil(float(far) / (self.cube.step * self.cube.voxel_mm))) for far in lengths.amax((1, 2))]
        rays = rays.to(channels.device)
        images = torch.stack([operator.integrals(one, rays, (n, n), samples) for one in channels], 1)
        return images * (lengths / _PATH).to(images)[:, None]

    def of(self, channels: Float[Tensor, "C D H W"], looks: Looks, poses: Float[Tensor, "B 4 4"]) -> Float[Tensor, " B"]:
        """The similarity under each pose: the smaller, the more alike."""
        out: Tensor = self.network(self.moving(channels, looks, poses), looks.images.to(channels.device))
        return out

    def gradient(
        self, channels: Float[Tensor, "C D H W"], looks: Looks, poses: Float[Tensor, "B 4 4"], *, twice: bool = False
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, "B 6"]]:
        """The similarity, and its gradient by motions as ``geodesic.moved`` makes them (radians, units, world axes).

        ``twice``: whether the gradient is to be differentiated again, by the networks' weights.
        """
        with torch.enable_grad():
            motion = torch.zeros(len(poses), 6, dtype=poses.dtype, device=poses.device, requires_grad=True)
            values = self.of(channels, looks, moved(poses, motion, self.cube.unit_mm))
            (slopes,) = torch.autograd.grad(values.sum(), motion, create_graph=twice)
        return values if twice else values.detach(), slopes
