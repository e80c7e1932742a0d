"""Labelled exposures: a batch of images and all that is known about them, which moves with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View


@dataclass(frozen=True, eq=False)
class Labelled:
    """B images with what they show. Whatever moves pixels moves ``views``, ``points``, ``segments`` and ``valid`` with them.

    Parameters
    ----------
    image: [B, H, W] float32; larger is more attenuation, unless a transform says that it inverts.
    valid: [B, H, W], True where the pixel says something about the patient.
    views: B geometries in world mm, each of shape (H, W). A flipped image has a flipped view: ``view.project`` stays right.
    poses: [B, 4, 4] float64 ``T_world_from_volume`` of the patient.
    points: [B, N, 2] float64 (column, row) of the patient's landmarks; those outside the image too. N may be 0.
    segments: [B, C, H, W] float32 in [0, 1] or mm, images of C structures; C may be 0.

    Raises
    ------
    InputError: shapes that do not fit together.
    """

    image: Float[Tensor, "B H W"]
    valid: Bool[Tensor, "B H W"]
    views: tuple[View, ...]
    poses: Float[Tensor, "B 4 4"]
    points: Float[Tensor, "B N 2"]
    segments: Float[Tensor, "B C H W"]

    def __post_init__(self) -> None:
        b, h, w = self.image.shape
        fits = (
            self.valid.shape == self.image.shape
            and len(self.views) == b
            and all(view.shape == (h, w) for view in self.views)
            and self.poses.shape == (b, 4, 4)
            and self.points.shape[::2] == (b, 2)
            and self.segments.shape[:1] == (b,)
            and self.segments.shape[2:] == (h, w)
        )
        if not fits:
            raise InputError("images, masks, views, poses, points and segments do not fit together", field="Labelled")

    def __len__(self) -> int:
        return len(self.image)

    @property
    def device(self) -> torch.device:
        return self.image.device
