"""What a regressor is shown and what its numbers mean: the motion from a pose to the right one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.methods.cubes import CubeConfig
from raylign.methods.geodesic import between, downhill
from raylign.methods.looks import Looks, compared, shadows
from raylign.methods.pose_regression.cameras import Cameras, in_camera, straight, tangled
from raylign.methods.pose_regression.network import RegressionNetwork, Said

_SHIFTS = 0.2  # sides of the image, and log of depth, that deepim's network says as one: shifts are then as large as turns


@dataclass(frozen=True, eq=False)
class Regressor:
    """A network that says motions of cubes under poses.

    Parameters
    ----------
    network: of ``cube.pixels`` pixels.
    cube: how models are shown.
    """

    network: RegressionNetwork
    cube: CubeConfig = field(default_factory=CubeConfig)

    @torch.no_grad()
    def images(self, voxels: Float[Tensor, "D H W"], looks: Looks, poses: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 2 N N"]:
        """The model's shadows under poses, normalised as exposures are, beside the exposures."""
        moving = shadows(voxels[None], looks, poses, self.cube)
        return torch.cat([compared(moving, torch.ones_like(moving)), looks.images.to(moving)], 1)

    def said(self, voxels: Float[Tensor, "D H W"], looks: Looks, poses: Float[Tensor, "B 4 4"]) -> Said:
        """What the network says; a new shadow is cast for it."""
        out: Said = self.network(self.images(voxels, looks, poses))
        return out

    def led(self, poses: Float[Tensor, "B 4 4"], said: Said, looks: Looks) -> Float[Tensor, "B 4 4"]:
        """The poses to which it leads: deepim says untangled motions (shifts in fifths), dmw geodesic ones."""
        cameras, motion = Cameras.of(looks.vectors.to(poses), self.cube.pixels), said.motion.to(poses)
        if self.network.config.kind == "dmw":
            return straight(poses, motion, cameras, self.cube.unit_mm)
        return tangled(poses, torch.cat([motion[:, :3], _SHIFTS * motion[:, 3:]], -1), cameras)

    def motion(self, voxels: Float[Tensor, "D H W"], looks: Looks, poses: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 6"]:
        """The motion it wants to make, as ``geodesic.moved`` makes it (radians, units, world axes)."""
        return downhill(poses, self.led(poses, self.said(voxels, looks, poses), looks), self.cube.unit_mm)


def matched(
    found: Float[Tensor, "B 4 4"], truth: Float[Tensor, "B 4 4"], points: Float[Tensor, "P 3"], cameras: Cameras
) -> Float[Tensor, " B"]:
    """DeepIM's point matching loss (its equation 5): mean over points of the L1 norm of how far they are off, mm, camera axes."""
    turn, shift = found[:, :3, :3] - truth[:, :3, :3], found[:, :3, 3] - truth[:, :3, 3]
    off = points @ turn.transpose(1, 2) + shift[:, None]
    return torch.einsum("bij,bpj->bpi", cameras.axes, off).abs().sum(-1).mean(-1)


def gradient_off(
    poses: Float[Tensor, "B 4 4"], said: Said, truth: Float[Tensor, "B 4 4"], cameras: Cameras, unit_mm: float
) -> Float[Tensor, " B"]:
    """DMW's loss: squared geodesic distance of the motion said and the one that leads to the truth, both taken for poses."""
    return between(said.motion.to(poses), in_camera(poses, truth, cameras, unit_mm))


def flow_off(
    flow: Float[Tensor, "B 2 H W"], moving: Float[Tensor, "B P 2"], target: Float[Tensor, "B P 2"], pixels: int
) -> Float[Tensor, ""]:
    """How far a flow is off at the model's points: mean L1 norm over those that show under the moving pose, tenths of the side.

    In transmission many points show at one place and may move differently there; a flow can be right in the mean alone.

    Parameters
    ----------
    moving, target: columns and rows at which points show under both poses. pixels: along each side.
    """
    places = 2 * (moving + 0.5) / pixels - 1
    found = torch.nn.functional.grid_sample(flow, places[:, :, None].to(flow), padding_mode="border", align_corners=False)
    wanted = (target - moving) * (10 / pixels)
    off = (found[..., 0].transpose(1, 2) - wanted.to(flow)).abs().sum(-1)
    shown = (places.abs() <= 1).all(-1).to(flow)
    return (off * shown).sum() / shown.sum().clamp(min=1)
