"""Pictures that show whether a pose is right: grey radiographs, contours, checkerboards, differences.

Pure functions from images ([H, W], tensor or array, larger meaning more attenuation) to ``uint8`` RGB arrays [H, W, 3]. They take
images of one size; ``resized`` brings exposures of any size to one that a page can show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from raylign.errors import InputError

Image = Float[np.ndarray, "H W"]
Mask = Bool[np.ndarray, "H W"]
Picture = UInt8[np.ndarray, "H W 3"]

# Vermillion and bluish green are told apart in every common colour blindness (Okabe and Ito 2008); both are lighter here than
# in print, to be seen on a dark radiograph, and differ in lightness too.
START = (255, 122, 61)
END = (64, 236, 190)

_LOWER, _UPPER = np.array([90, 165, 255.0]), np.array([255, 150, 40.0])  # ends of the difference scale: blue and orange


def as_array(image: Any) -> Image:
    """[H, W] float32 with everything that is not finite set to zero."""
    a = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if a.ndim != 2 or a.size == 0:
        raise InputError(f"expected an image [H, W], got shape {a.shape}", field="image")
    return np.nan_to_num(a.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def as_mask(mask: Any, shape: tuple[int, ...]) -> Mask:
    """[H, W] bool; ``None`` is all True, and so is a mask without any True pixel: there is nothing else to show."""
    if mask is None:
        return np.ones(shape, dtype=bool)
    m = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if m.shape != tuple(shape):
        raise InputError(f"mask {m.shape} and image {tuple(shape)} differ in shape", field="mask")
    m = m.astype(bool)
    return m if m.any() else np.ones(shape, dtype=bool)


def display_shape(shape: tuple[int, int], pixel_spacing: tuple[float, float] = (1.0, 1.0), longest: int = 900) -> tuple[int, int]:
    """(rows, columns) of a picture with square pixels that shows an image of ``shape`` and (row, column) ``pixel_spacing``.

    Its longer side is ``longest``, for a huge image as for a small one.
    """
    height, width = shape[0] * pixel_spacing[0], shape[1] * pixel_spacing[1]
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(image: Any, shape: tuple[int, int]) -> Image:
    """The image on ``shape`` pixels that cover the same area: averaged where it shrinks, bicubic where it grows."""
    a = torch.from_numpy(as_array(image))[None, None]
    if tuple(a.shape[2:]) == tuple(shape):
        return a[0, 0].numpy()
    out = torch.nn.functional.interpolate(a, size=shape, mode="bicubic", antialias=True, align_corners=False)[0, 0]
    return out.clamp(a.min(), a.max()).numpy()


def resized_mask(mask: Any, shape: tuple[int, int]) -> Mask:
    """The mask on ``shape`` pixels, True where at least half of the area is."""
    m = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    small = torch.from_numpy(m.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(small, size=shape, mode="bilinear", antialias=True)[0, 0].numpy() >= 0.5


def valid_mask(mask: Mask | None, covered: Any, shape: tuple[int, int]) -> Mask | None:
    """Where both images are valid: ``mask`` (of ``shape`` already) and ``covered`` (of any shape), either of which
    may be None.

    Should nothing be left, the mask alone: a wrong pose is still to be looked at.
    """
    if covered is None:
        return mask
    both = resized_mask(covered, shape)
    if mask is not None:
        both = both & mask
    return both if both.any() else mask


def line_sigma(rendered: Sequence[int], shown: Sequence[int]) -> float:
    """The smoothing, in pixels shown, under which contours do not trace the pixels that were rendered."""
    return max(1.6, 0.9 * max(shown) / max(rendered))


def window(image: Any, mask: Any = None, percentiles: tuple[float, float] = (0.5, 99.5)) -> tuple[float, float]:
    """(low, high) grey window: percentiles of the valid pixels; high is above low even for a flat image."""
    a = as_array(image)
    low, high = np.percentile(a[as_mask(mask, a.shape)], percentiles)
    return float(low), float(max(high, low + 1e-6 * max(1.0, abs(low))))


def grey(
    image: Any,
    mask: Any = None,
    *,
    bone: Literal["bright", "dark"] = "bright",
    limits: tuple[float, float] | None = None,
    shade: bool = True,
) -> Picture:
    """A radiograph: grey between the percentiles of the valid pixels, bone bright as on film unless asked otherwise.

    Parameters
    ----------
    mask: True where the exposure is valid; the rest is darkened where ``shade`` is set.
    limits: grey window in image units instead of the percentiles.
    """
    a = as_array(image)
    low, high = limits or window(a, mask)
    g = np.clip((a - low) / (high - low), 0, 1)
    if bone == "dark":
        g = 1 - g
    rgb = np.repeat((255 * g)[..., None], 3, axis=2)
    picture = np.rint(rgb).astype(np.uint8)
    return shaded(picture, mask) if shade and mask is not None else picture


def radiograph(image: Any, mask: Any = None) -> Picture:
    """The grey display this library shows: bone bright, slow brightness half taken out, darkened outside the mask."""
    return grey(flattened(image, mask), mask)


def shaded(picture: Picture, mask: Any) -> Picture:
    """The picture with everything outside the mask darkened and tinted: still to be seen, plainly not in use."""
    m = as_mask(mask, picture.shape[:2])
    out = picture.copy()
    out[~m] = np.rint(0.12 * picture[~m] + np.array([8, 11, 17])).astype(np.uint8)
    return out


def contours(image: Any, mask: Any = None, *, width: float = 1.9, sigma: float = 1.6, detail: float = 0.5) -> Image:
    """Coverage (0 to 1) of thin, anti-aliased lines along the edges of an image: maxima of the gradient along its own direction.

    Edges are found to a fraction of a pixel as zero crossings of the second derivative along the gradient (Haralick, "Digital
    step edges from zero crossing of second directional derivatives", 1984), kept by hysteresis.

    Parameters
    ----------
    width: of a line, in pixels.
    sigma: of the Gaussian under the derivatives, in pixels.
    detail: share of the edges' strength that counts locally, 0 to 1: at 0 one threshold for the whole image, at 1 each
        neighbourhood has its own.
    """
    a = as_array(image)
    valid = as_mask(mask, a.shape)
    smooth = ndimage.gaussian_filter(a, sigma, mode="nearest")
    gy, gx = np.gradient(smooth) if min(a.shape) > 1 else (np.zeros_like(a), np.zeros_like(a))
    strength = np.hypot(gx, gy)
    top = float(np.percentile(strength[valid], 99))
    if top <= 1e-12:
        return np.zeros_like(a)
    gyy, gyx = np.gradient(gy)
    gxx = np.gradient(gx, axis=1)
    safe = np.maximum(strength, 1e-4 * top)
    second = (gx * gx * gxx + 2 * gx * gy * gyx + gy * gy * gyy) / safe**2  # along the gradient, zero on an edge
    sy, sx = np.gradient(second)
    third = (gx * sx + gy * sy) / safe  # negative at a maximum of the gradient, positive at a minimum
    # Newton's step on second / strength, which is linear across a blurred step and so gives the distance exactly there
    distance = np.abs(second) * safe / np.maximum(second**2 - third * safe, 1e-12 * top**2)
    # (running sums may dip below zero by rounding)
    around = np.sqrt(ndimage.uniform_filter(strength**2, max(3, max(a.shape) // 8), mode="nearest").clip(0))
    level = (detail * around + (1 - detail) * float(np.sqrt(np.mean(strength[valid] ** 2)))).clip(0.15 * top)
    near = (third < 0) & (distance < 1.0) & valid
    labels, count = ndimage.label(near & (strength > 0.8 * level), structure=np.ones((3, 3)))
    strong = near & (strength > 1.5 * level)
    # an edge counts if it is strong somewhere, and long enough to be a contour rather than a speck
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = np.zeros(count + 1, dtype=bool)
    keep[np.unique(labels[strong])] = True
    keep &= sizes > 0.03 * max(a.shape) * 2
    keep[0] = False
    reach = ndimage.binary_dilation(keep[labels], structure=np.ones((3, 3)))
    coverage = np.clip(0.5 + width / 2 - distance, 0, 1)
    return np.where(reach & (third < 0) & valid, coverage, 0).astype(np.float32)


def painted(picture: Picture, coverage: Image, colour: Sequence[int]) -> Picture:
    """The picture with lines of one colour laid over it; ``coverage`` [H, W] from 0 (none) to 1."""
    c = np.clip(coverage, 0, 1)[..., None]
    return np.rint(picture * (1 - c) + np.asarray(colour, dtype=np.float32) * c).astype(np.uint8)


def local_moments(image: Any, mask: Any = None, sigma: float | None = None) -> tuple[Image, Image]:
    """Mean and standard deviation around each pixel, valid pixels only; ``sigma`` in pixels, a tenth of the side if not given."""
    a = as_array(image)
    m = as_mask(mask, a.shape).astype(np.float32)
    s = sigma or max(a.shape) / 10
    # the moments are smooth: at a quarter of the resolution they cost little and say the same
    step = max(1, int(s // 8))
    small = tuple(max(1, n // step) for n in a.shape)
    offset = float(a[m > 0].mean())  # taken out first: a variance from squares cancels otherwise
    centred = (a - offset) * m
    stack = torch.from_numpy(np.stack([m, centred, centred**2]))[None]
    means = torch.nn.functional.interpolate(stack, size=small, mode="area")[0].numpy()
    weight, first, squares = (ndimage.gaussian_filter(x, s / step, mode="constant") for x in means)
    weight = np.maximum(weight, 1e-4)
    mean = first / weight
    deviation = np.sqrt(np.maximum(squares / weight - mean**2, 0))
    out = torch.from_numpy(np.stack([mean + offset, deviation]))[None]
    mean, deviation = torch.nn.functional.interpolate(out, size=a.shape, mode="bilinear", align_corners=False)[0].numpy()
    return mean, deviation


def flattened(image: Any, mask: Any = None, strength: float = 0.6) -> Image:
    """The image with a share of its slow brightness taken out, as radiography stations do, so that bone shows in every part."""
    a = as_array(image)
    mean, _ = local_moments(a, mask)
    return a - strength * mean


def matched(moving: Any, fixed: Any, mask: Any = None, sigma: float | None = None) -> Image:
    """The moving image with the fixed one's local mean and contrast: what remains different is shape, not exposure.

    Where the moving image is flat (no model there) it takes the fixed one's local mean.
    """
    f, m = as_array(fixed), as_array(moving)
    if f.shape != m.shape:
        raise InputError(f"moving image {m.shape} and fixed image {f.shape} differ in shape", field="moving")
    fixed_mean, fixed_sd = local_moments(f, mask, sigma)
    moving_mean, moving_sd = local_moments(m, mask, sigma)
    floor = 0.02 * max(float(moving_sd.max()), 1e-12)
    return fixed_mean + (m - moving_mean) * fixed_sd / np.maximum(moving_sd, floor)


def checkerboard(fixed: Any, moving: Any, mask: Any = None, tiles: int = 8) -> Picture:
    """Fixed and moving image in turn, the moving one matched in contrast: edges run on across the tiles when the pose is right.

    Outside the mask the fixed image alone.
    """
    f = as_array(fixed)
    m = np.where(as_mask(mask, f.shape), matched(moving, f, mask), f)
    edge = max(1, round(max(f.shape) / tiles))
    rows, columns = np.indices(f.shape) // edge
    slow = 0.6 * local_moments(f, mask)[0]
    limits = window(f - slow, mask)
    return grey(np.where((rows + columns) % 2 == 0, f, m) - slow, mask, limits=limits)


def difference(fixed: Any, moving: Any, mask: Any = None, limit: float | None = None) -> Picture:
    """Fixed minus contrast-matched moving image: black where they agree, orange where the exposure shows more, blue where less.

    ``limit``: the difference that gets full colour, in units of the fixed image; ``difference_limit`` if not given.
    """
    f = as_array(fixed)
    d = (f - matched(moving, f, mask)) / (limit or difference_limit(f, mask))
    d = np.clip(d, -1, 1)[..., None]
    rgb = np.where(d >= 0, d * _UPPER, -d * _LOWER)
    out = np.rint(rgb).astype(np.uint8)
    out[~as_mask(mask, f.shape)] = (30, 34, 42)
    return out


def difference_limit(fixed: Any, mask: Any = None) -> float:
    """A scale for differences that start and end can share: twice the median local contrast of the fixed image."""
    f = as_array(fixed)
    _, deviation = local_moments(f, mask)
    return float(max(2 * np.median(deviation[as_mask(mask, f.shape)]), 1e-9))


def contours_over(fixed: Any, moving: Any, mask: Any = None, colour: Sequence[int] = END) -> Picture:
    """The fixed image as a radiograph with the moving image's contours over it."""
    return painted(radiograph(fixed, mask), contours(moving, mask), colour)
