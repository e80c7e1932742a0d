"""Derivatives, smoothing and sums over windows. None pads: what a filter cannot compute from the image alone is cut off."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.similarity.common import Pair


def sobel(image: Float[Tensor, "*B H W"]) -> tuple[Float[Tensor, "*B h w"], Float[Tensor, "*B h w"]]:
    """Derivatives by column and by row per pixel, Sobel's 3x3 kernels over 8; the outermost pixels are lost (h = H - 2)."""
    pairs = image[..., :-1, :] + image[..., 1:, :]
    rows = pairs[..., :-1, :] + pairs[..., 1:, :]
    pairs = image[..., :-1] + image[..., 1:]
    columns = pairs[..., :-1] + pairs[..., 1:]
    return (rows[..., 2:] - rows[..., :-2]) / 8, (columns[..., 2:, :] - columns[..., :-2, :]) / 8


def binomial(image: Float[Tensor, "*B H W"], width: int) -> Float[Tensor, "*B h w"]:
    """Smoothing by the binomial kernel of odd ``width`` along both axes ([1 4 6 4 1] / 16 for 5); h = H - width + 1."""
    for axis in (-2, -1):
        for _ in range(width - 1):
            size = image.shape[axis] - 1
            image = image.narrow(axis, 0, size) + image.narrow(axis, 1, size)
    return image / 4 ** (width - 1)


def box_sum(image: Float[Tensor, "*B H W"], radius: int) -> Float[Tensor, "*B h w"]:
    """Sums over the windows of ``radius`` that lie inside the image (h = H - 2 radius).

    Sums of 1, 2, 4, ... pixels, put together: as many additions as the window's width has binary digits, and none of the rounding
    of running sums.
    """
    for axis in (-2, -1):
        width = 2 * radius + 1
        size = image.shape[axis] - width + 1
        whole, taken, run = None, 0, 1
        while True:
            if width & 1:
                piece = image.narrow(axis, taken, size)
                whole = piece if whole is None else whole + piece
                taken += run
            width >>= 1
            if width == 0:
                break
            left = image.shape[axis] - run
            image = image.narrow(axis, 0, left) + image.narrow(axis, run, left)
            run *= 2
        assert whole is not None
        image = whole
    return image


def gaussian(image: Float[Tensor, "*B H W"], sigma: float, radius: int) -> Float[Tensor, "*B h w"]:
    """Means over windows of ``radius`` weighted by a Gaussian of ``sigma`` pixels; h = H - 2 radius."""
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(image)

    def band(size: int) -> Tensor:
        rows = torch.arange(size - 2 * radius, device=image.device)[:, None]
        matrix = image.new_zeros(size - 2 * radius, size)
        return matrix.scatter(1, rows + torch.arange(2 * radius + 1, device=image.device), kernel.expand(len(rows), -1))

    # two products with a band matrix: faster than convolutions of one channel on CPUs
    return band(image.shape[-2]) @ (image @ band(image.shape[-1]).mT)


def within(mask: Bool[Tensor, "*B H W"], radius: int) -> Bool[Tensor, "*B h w"]:
    """Where a window of ``radius`` holds no invalid pixel, for the pixels whose window lies inside (h = H - 2 radius)."""
    width = 2 * radius + 1
    for axis in (-2, -1):
        size = mask.shape[axis] - 2 * radius
        run = 1
        while 2 * run <= width:  # a run of twice the length from two of them
            left = mask.shape[axis] - run
            mask = mask.narrow(axis, 0, left) & mask.narrow(axis, run, left)
            run *= 2
        mask = mask.narrow(axis, 0, size) & mask.narrow(axis, width - run, size)
    return mask


def cut(image: Tensor, radius: int) -> Tensor:
    """The image [..., H, W] without its outermost ``radius`` pixels."""
    return image[..., radius : image.shape[-2] - radius, radius : image.shape[-1] - radius]


def fits(pair: Pair, width: int, what: str) -> None:
    """Raises InputError where a filter of ``width`` pixels finds no place in the image."""
    h, w = pair.moving.shape[-2:]
    if min(h, w) < width:
        raise InputError(f"{what} need {width}x{width} pixels, the image has {h}x{w}", field="moving")


def check_smoothing(width: int) -> None:
    """Raises InputError for the width of a smoothing kernel that has no middle."""
    if width < 1 or width % 2 == 0:
        raise InputError(f"a smoothing kernel has an odd width, got {width}", field="smoothing", remedy="1 for none")


def gradients(pair: Pair, smoothing: int = 1) -> tuple[Pair, Pair]:
    """Sobel derivatives of both images by column and by row, where every pixel that they need is valid, zero elsewhere.

    ``smoothing``: odd width of the binomial kernel that smooths both first; 1 for none. The outermost (smoothing + 1) / 2 pixels
    are lost.
    """
    check_smoothing(smoothing)
    fits(pair, smoothing + 2, "smoothed derivatives" if smoothing > 1 else "derivatives")
    mask = None if pair.mask is None else within(pair.mask, (smoothing + 1) // 2)
    (mx, my), (fx, fy) = sobel(binomial(pair.moving, smoothing)), sobel(binomial(pair.fixed, smoothing))
    if mask is not None:
        mx, my, fx, fy = (torch.where(mask, image, 0.0) for image in (mx, my, fx, fy))
    return Pair(mx, fx, mask), Pair(my, fy, mask)
