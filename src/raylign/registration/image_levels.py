"""Coarse copies of exposures, and the part of an exposure in which a model may show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from raylign.data import XRay
from raylign.errors import InputError
from raylign.geometry import View

Array32 = NDArray[np.float32]
Array64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImageLevel:
    """An exposure at one resolution: its gradient (per pixel, columns then rows) where it is valid."""

    view: View
    source: Array64
    steps: Array64  # [3, 3]: first pixel minus source, column step, row step
    lengths: Array32  # [H, W] mm from the source to each pixel
    longest: float  # mm, of the longest ray
    gradient: Array32  # [2, H, W]
    valid: NDArray[np.bool_]  # [H, W]: the pixel itself is valid
    energy: float  # mean squared gradient over pixels with a gradient
    usable: int  # how many pixels have a gradient
    background: Array32 | None = None  # [H, W] line integrals of what does not move with the model, added to its rendering

    @property
    def shape(self) -> tuple[int, int]:
        return self.view.shape


def image_level(xray: XRay, region: Footprint, factor: int) -> ImageLevel:
    """An exposure's region of interest averaged over blocks of ``factor`` x ``factor`` pixels.

    A block counts as valid only where all its pixels are; a remainder of pixels is dropped at the far edges.
    """
    rows, columns = (slice(s.start, s.start + (s.stop - s.start) // factor * factor) for s in (region.rows, region.columns))
    view = xray.view.crop(rows, columns)
    h, w = view.shape[0] // factor, view.shape[1] // factor
    view = view.resample((h, w))
    image, valid = np.empty((h, w), np.float32), np.empty((h, w), np.bool_)
    pixels = np.ascontiguousarray(xray.image.detach().numpy()[rows, columns], np.float32)
    _pixel_means(pixels, xray.mask.numpy()[rows, columns], factor, image, valid)
    gradient = np.zeros((2, h, w), np.float32)
    usable, energy = _gradients(image, valid, gradient)
    return _level(view, valid, gradient, energy / max(usable, 1), usable)


@njit(cache=True, nogil=True)
def _pixel_means(source, mask, factor, out, valid):  # type: ignore[no-untyped-def]
    """Block means, and whether all pixels of a block are valid."""
    count = np.float32(factor * factor)
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            total = np.float32(0.0)
            good = True
            for i in range(r * factor, r * factor + factor):
                row = np.float32(0.0)
                for j in range(c * factor, c * factor + factor):
                    row += source[i, j]
                    good &= mask[i, j]
                total += row
            out[r, c] = total / count
            valid[r, c] = good


@njit(cache=True, nogil=True)
def _gradients(image, valid, gradient):  # type: ignore[no-untyped-def]
    """Central differences [2, H, W] where a pixel and its four neighbours are valid.

    Returns how many such pixels there are, and the sum of the squares.
    """
    h, w = image.shape
    two = np.float32(2.0)
    usable, energy = 0, 0.0
    for r in range(1, h - 1):
        for c in range(1, w - 1):
            if valid[r, c] and valid[r - 1, c] and valid[r + 1, c] and valid[r, c - 1] and valid[r, c + 1]:
                gradient[0, r, c] = (image[r, c + 1] - image[r, c - 1]) / two
                gradient[1, r, c] = (image[r + 1, c] - image[r - 1, c]) / two
                usable += 1
                energy += np.float64(gradient[0, r, c]) ** 2 + np.float64(gradient[1, r, c]) ** 2
    return usable, energy


def plain_level(view: View, valid: NDArray[np.bool_]) -> ImageLevel:
    """A view's rays and valid pixels without an image."""
    return _level(view, valid, np.zeros((2, *view.shape), np.float32), 0.0, 0)


def _level(view: View, valid: NDArray[np.bool_], gradient: Array32, energy: float, usable: int) -> ImageLevel:
    vectors = view.vectors.detach().numpy()
    steps = np.stack([vectors[1] - vectors[0], vectors[2], vectors[3]])
    lengths = np.empty(view.shape, np.float32)
    longest = _ray_lengths(steps, lengths)
    return ImageLevel(view, vectors[0], steps, lengths, longest, gradient, valid, energy, usable)


@njit(cache=True, nogil=True)
def _ray_lengths(steps, out):  # type: ignore[no-untyped-def]
    """Fills ``View.ray_lengths`` [H, W]; returns the longest."""
    longest = np.float32(0.0)
    ray = np.empty(3)
    for r in range(out.shape[0]):
        ray[:] = steps[0] + r * steps[2]
        for c in range(out.shape[1]):
            x, y, z = ray[0] + c * steps[1, 0], ray[1] + c * steps[1, 1], ray[2] + c * steps[1, 2]
            out[r, c] = math.sqrt(x * x + y * y + z * z)
            longest = max(longest, out[r, c])
    return float(longest)


@dataclass(frozen=True)
class Footprint:
    """Where a model at its start may show on an exposure.

    Parameters
    ----------
    rows, columns: the region of interest: valid pixels that the model reaches, a margin around it included.
    long, short: sides in pixels of the part of the image that the model itself covers.
    depth: mm from the source to the model's centre along the detector's normal.
    """

    rows: slice
    columns: slice
    long: int
    short: int
    depth: float


def footprint(xray: XRay, corners: Array64, margin: float) -> Footprint:
    """The part of an exposure that matters for a model.

    Parameters
    ----------
    corners: [N, 3] world mm of points that enclose the model at its start.
    margin: mm at the model by which it may move.

    Raises
    ------
    InputError: the model at its start projects outside the valid part of the image, or lies behind the source.
    """
    view = xray.view
    points = torch.as_tensor(corners)
    depths = ((points - view.source) @ view.normal).detach().numpy()
    mask = xray.mask.numpy()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    whole = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
    depth = float(depths.mean())
    wrong = InputError(
        "the model at its starting pose does not project onto the valid part of this image",
        file=xray.name,
        field="start",
        remedy="give a better start with --init, or check the geometry with raylign info",
    )
    if depth <= 0:
        raise wrong
    sides, box = whole, whole
    if (depths > 0.05 * float(view.sid)).all():
        pixels = view.project(points).detach().numpy()
        low, high = np.floor(pixels.min(0)).astype(int), np.ceil(pixels.max(0)).astype(int) + 1
        by_row, by_column = (math.ceil(margin * float(view.sid) / depth / p) for p in view.pixel_spacing)
        sides = _clamped(whole, (low[1], high[1], low[0], high[0]))
        box = _clamped(whole, (low[1] - by_row, high[1] + by_row, low[0] - by_column, high[0] + by_column))
    height, width = sides[1] - sides[0], sides[3] - sides[2]
    if min(height, width) < 8 or box[1] - box[0] < 16 or box[3] - box[2] < 16:
        raise wrong
    return Footprint(slice(box[0], box[1]), slice(box[2], box[3]), max(height, width), min(height, width), depth)


def _clamped(outer: tuple[int, ...], inner: tuple[int, ...]) -> tuple[int, int, int, int]:
    (a, b, c, d), (e, f, g, h) = outer, inner
    return max(int(a), int(e)), min(int(b), int(f)), max(int(c), int(g)), min(int(d), int(h))
