"""Poses as a camera sees them: axes of an exposure, motions that do not depend on how the world is named, optical flow.

A camera's axes are the detector's column step x, its row step y (made square to x), and z from the source towards the detector,
in world coordinates; its origin is the source. Where the image is mirrored they are left-handed, and all below holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.geometry import se3

_NEAREST = 1.0  # mm: what is nearer to the source, or behind it, is taken to be so far away


@dataclass(frozen=True, eq=False)
class Cameras:
    """Axes and sizes of exposures.

    Parameters
    ----------
    axes: [B, 3, 3], rows are x, y, z in world coordinates.
    source: [B, 3] world mm.
    focal: [B] mm from the source to the detector's plane.
    side: [B] mm along the detector's rows, over all its pixels.
    corner: [B, 2] x and y of the first pixel's centre, mm.
    steps: [B, 2, 2]: columns are the steps from pixel to pixel along a row and along a column, x and y in mm.
    pixels: along each side.
    """

    axes: Float[Tensor, "B 3 3"]
    source: Float[Tensor, "B 3"]
    focal: Float[Tensor, " B"]
    side: Float[Tensor, " B"]
    corner: Float[Tensor, "B 2"]
    steps: Float[Tensor, "B 2 2"]
    pixels: int

    @classmethod
    def of(cls, vectors: Float[Tensor, "B 4 3"], pixels: int) -> Cameras:
        """Of exposures as ``Looks`` has them: source, first pixel, column step, row step."""
        source, first, column, row = vectors.unbind(1)
        x = column / column.norm(dim=-1, keepdim=True)
        y = row - (row * x).sum(-1, keepdim=True) * x
        y = y / y.norm(dim=-1, keepdim=True)
        z = torch.linalg.cross(x, y)
        towards = first - source
        z = z * torch.sign((towards * z).sum(-1, keepdim=True))
        axes = torch.stack([x, y, z], 1)
        corner = torch.einsum("bij,bj->bi", axes, towards)
        steps = torch.einsum("bij,bkj->bik", axes, torch.stack([column, row], 1))[:, :2]
        return cls(axes, source, corner[:, 2], pixels * column.norm(dim=-1), corner[:, :2], steps, pixels)

    def seen(self, points: Float[Tensor, "B P 3"]) -> Float[Tensor, "B P 3"]:
        """Points in world mm as x, y, z of the cameras, mm from the source; none nearer than a millimetre."""
        found = torch.einsum("bij,bpj->bpi", self.axes, points - self.source[:, None])
        return torch.cat([found[..., :2], found[..., 2:].clamp(min=_NEAREST)], -1)

    def projected(self, points: Float[Tensor, "B P 3"]) -> Float[Tensor, "B P 2"]:
        """Column and row at which points (world mm) show; pixel centres lie at integers."""
        seen = self.seen(points)
        flat = self.focal[:, None, None] * seen[..., :2] / seen[..., 2:] - self.corner[:, None]
        out: Tensor = torch.linalg.solve(self.steps, flat.transpose(1, 2)).transpose(1, 2)
        return out

    def turned(self, turns: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 3"]:
        """Rotations in world axes of rotation vectors (radians) in the cameras' axes."""
        still = torch.zeros_like(turns)
        rotation = se3.exp(torch.cat([turns, still], -1))[:, :3, :3]
        return self.axes.transpose(1, 2) @ rotation @ self.axes

    def turns(self, rotations: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3"]:
        """Rotation vectors in the cameras' axes of rotations in world axes."""
        return se3.log_rotation(self.axes @ rotations @ self.axes.transpose(1, 2))


def untangled(moving: Float[Tensor, "B 4 4"], target: Float[Tensor, "B 4 4"], cameras: Cameras) -> Float[Tensor, "B 6"]:
    """The motion from a pose to another in DeepIM's untangled representation (section 3.3): turn, and what the image shows.

    The turn is about the model's middle in the camera's axes (a rotation vector, radians, where DeepIM has a quaternion), so that
    it moves the middle in no direction. The shift is ``f (x/z of the target - x/z of the moving) / side``, the same of y, so many
    sides of the image, and ``log(z of the moving / z of the target)``: by which factor the model's shadow grows.
    """
    a, b = (cameras.seen(pose[:, None, :3, 3])[:, 0] for pose in (moving, target))
    scale = (cameras.focal / cameras.side)[:, None]
    across = scale * (b[:, :2] / b[:, 2:] - a[:, :2] / a[:, 2:])
    turn = cameras.turns(target[:, :3, :3] @ moving[:, :3, :3].transpose(1, 2))
    return torch.cat([turn, across, (a[:, 2:] / b[:, 2:]).log()], -1)


def tangled(moving: Float[Tensor, "B 4 4"], motion: Float[Tensor, "B 6"], cameras: Cameras) -> Float[Tensor, "B 4 4"]:
    """The pose to which an untangled motion leads; the inverse of ``untangled``."""
    a = cameras.seen(moving[:, None, :3, 3])[:, 0]
    depth = a[:, 2:] * torch.exp(-motion[:, 5:])
    scale = (cameras.focal / cameras.side)[:, None]
    place = torch.cat([depth * (a[:, :2] / a[:, 2:] + motion[:, 3:5] / scale), depth], -1)
    shift = torch.einsum("bji,bj->bi", cameras.axes, place) + cameras.source
    return se3.from_parts(cameras.turned(motion[:, :3]) @ moving[:, :3, :3], shift)


def straight(moving: Float[Tensor, "B 4 4"], motion: Float[Tensor, "B 6"], cameras: Cameras, unit_mm: float) -> Tensor:
    """[B, 4, 4] the pose to which a geodesic motion leads: a turn about the middle (radians) and a shift (units), camera axes."""
    shift = torch.einsum("bji,bj->bi", cameras.axes, motion[:, 3:])
    return se3.from_parts(cameras.turned(motion[:, :3]) @ moving[:, :3, :3], moving[:, :3, 3] + unit_mm * shift)


def in_camera(moving: Float[Tensor, "B 4 4"], target: Float[Tensor, "B 4 4"], cameras: Cameras, unit_mm: float) -> Tensor:
    """[B, 6] the geodesic motion from a pose to another (``geodesic.downhill``) in the cameras' axes; inverse of ``straight``."""
    turn = cameras.turns(target[:, :3, :3] @ moving[:, :3, :3].transpose(1, 2))
    shift = torch.einsum("bij,bj->bi", cameras.axes, target[:, :3, 3] - moving[:, :3, 3]) / unit_mm
    return torch.cat([turn, shift], -1)
