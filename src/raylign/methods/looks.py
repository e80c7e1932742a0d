"""Exposures as methods that learn see them, and the shadows of cubes in the geometry of exposures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.data import XRay
from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.methods.cubes import CubeConfig
from raylign.projection import operator

_ABOUT = 8  # of the image's side: as far to either side a pixel is compared with others
_MOST = 3.0  # standard deviations
_PATH = 30.0  # units of BONE times mm: what shadows are divided by, about what a pelvis shows


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
    shown = compared(has * sums / counts.clamp(min=1e-6), has)
    vectors = torch.stack([view.resample((pixels, pixels)).vectors for view in views])
    return Looks(shown, vectors)


def compared(images: Float[Tensor, "B C N N"], has: Float[Tensor, "B C N N"]) -> Float[Tensor, "B C N N"]:
    """Each pixel about the mean and in units of the standard deviation of those within an eighth of the image's side.

    What is nearly flat stays small: a hundredth of the mean variance is added to all. Nothing is further off than ``_MOST``.

    Parameters
    ----------
    images: zero where nothing is known. has: 1 where something is known, 0 elsewhere; the result is 0 there.
    """
    whole = images.sum((1, 2, 3), keepdim=True) / has.sum((1, 2, 3), keepdim=True).clamp(min=1)
    means = has * (images - whole)  # so that squares cancel little
    radius = images.shape[-1] // _ABOUT

    def about(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 2 * radius + 1, 1, radius)

    number = about(has).clamp(min=1e-6)
    middle = about(means) / number
    spread = (about(means**2) / number - middle**2).clamp(min=0)
    least = (0.1**2) * (spread.sum((1, 2, 3), keepdim=True) / has.sum((1, 2, 3), keepdim=True).clamp(min=1))
    shown = has * (means - middle) / (spread + least).sqrt().clamp(min=1e-6)
    return shown.clamp(-_MOST, _MOST)


def seen(xray: XRay, pixels: int) -> Looks:
    """An X-ray as the network sees it: its middle square, by means over blocks, brought to so many pixels along each side.

    Raises
    ------
    InputError: an X-ray of fewer pixels, or one that shows nothing there; a parallel beam.
    """
    h, w = xray.view.shape
    block = min(h, w) // pixels
    if block < 1:
        raise InputError(f"{h} x {w} pixels are fewer than {pixels} x {pixels}", field="image", remedy="give a larger X-ray")
    side = block * pixels
    rows, columns = ((n - side) // 2 for n in (h, w))
    part = (slice(rows, rows + side), slice(columns, columns + side))
    view: View = xray.view.crop(*part)
    image = torch.where(xray.mask, xray.image, 0).to(torch.float32)
    found = look(image[part][None], xray.mask[part][None], [view], pixels)
    if not found.images.any():
        raise InputError("its middle square shows nothing", field="image", remedy="check the X-ray and its mask, or crop it")
    return found


def shadows(
    channels: Float[Tensor, "C D H W"], looks: Looks, poses: Float[Tensor, "B 4 4"], cube: CubeConfig
) -> Float[Tensor, "B C N N"]:
    """Line integrals of all channels under poses of the cube, in the exposures' geometry."""
    vectors = looks.vectors.to(poses)
    inverse = torch.linalg.inv(cube.affine.to(poses)) @ se3.inverse(poses)
    source = se3.transform(inverse, vectors[:, :1])
    ways = torch.cat([vectors[:, 1:2] - vectors[:, :1], vectors[:, 2:]], 1) @ inverse[:, :3, :3].transpose(-1, -2)
    rays = torch.cat([source, ways], 1)
    n = cube.pixels
    at = torch.arange(n, dtype=vectors.dtype, device=vectors.device)
    first, across, down = (vectors[:, 1] - vectors[:, 0])[:, None, None], vectors[:, 2, None, None], vectors[:, 3, None, None]
    lengths = (first + at[None, None, :, None] * across + at[None, :, None, None] * down).norm(dim=-1)
    samples = [max(1, math.ceil(float(far) / (cube.step * cube.voxel_mm))) for far in lengths.amax((1, 2))]
    rays = rays.to(channels.device)
    images = torch.stack([operator.integrals(one, rays, (n, n), samples) for one in channels], 1)
    return images * (lengths / _PATH).to(images)[:, None]
