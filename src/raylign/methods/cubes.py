"""Models as cubes of voxels about their middle: what methods that learn from volumes are shown.

Every volume is brought into a cube of one size (``CubeConfig``), so that a pose is where the model's middle lies and how the
patient is turned about it, and the voxels of all patients have one affine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Volume, restricted
from raylign.errors import InputError
from raylign.geometry import se3
from raylign.registration.pyramid import box_corners, content

BONE = 0.02
"""1/mm: attenuations are given to the network in units of it; compact bone has about two."""

BONE_HU = 200.0
"""From here on a voxel of a CT is taken for bone, where no labels say what is."""

LEAST_PIXELS = 8
"""Along each side of an image."""


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
        if not all(0 < n < math.inf for n in numbers) or self.pixels < LEAST_PIXELS:
            raise InputError(f"voxels, pitches and units are positive, pixels at least {LEAST_PIXELS}", field="cube")

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


def bones(volume: Volume) -> Volume:
    """What a method trained on bones is shown: of a CT what is at least ``BONE_HU``, by how much it attenuates more than water.

    That is all bone; a method is trained on some. Where there are labels, restrict the CT to these
    (``raylign.data.restricted``): a volume in 1/mm is taken as it is.

    Raises
    ------
    InputError: raw numbers, nothing that is bone.
    """
    if volume.unit == "1/mm":
        return volume
    if volume.unit != "HU":
        raise InputError(f"the volume is in {volume.unit}", field="volume", remedy="give a CT in HU, or a structure in 1/mm")
    whole = volume.decoded()
    held = whole.data >= BONE_HU
    if not bool(held.any()):
        raise InputError(f"nothing is {BONE_HU:g} HU or more", field="volume", remedy="give a CT that shows bone")
    return restricted(whole, LabelMap(held.to(torch.uint8), whole.affine, {1: "bone"}), ["bone"])
