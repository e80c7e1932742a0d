"""Long bones, known by their shape: tubes of compact bone that widen and thin towards their joints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class LongBone:
    """A bone with a shaft.

    Parameters
    ----------
    radius: R0, the shaft's radius in mm.
    share: ``min(1, (R0 / R)^4)`` at every voxel, how much of a shaft the bone is there.
    """

    radius: float
    share: Float32[NDArray[np.float32], "D H W"]


def long_bone(solid: Bool[NDArray[np.bool_], "D H W"], voxel: float) -> LongBone | None:
    """The shaft of a solid, or None where it has none.

    The solid is cut at right angles to its longest principal axis, every two voxels. A section is of a shaft where it is round:
    filled as an ellipse is, one axis at least half of the other. A bone is long where a quarter of its length and more is shaft
    of nearly one radius R0, the median of the thinner half, and where it is at least six such radii long. R, the radius of the
    circle of a section's area, is smoothed along the axis (by a Gaussian of 3 % of the length).

    The power four is a guess between two facts: a shaft's wall is about 0.4 to 0.5 of its radius, and about a millimetre is left
    of it at a joint, where the bone is half as wide again or more.
    """
    from scipy.ndimage import gaussian_filter1d

    points = np.argwhere(solid)[:, ::-1] * voxel
    middle = points.mean(0)
    sample = (points - middle)[:: max(1, len(points) // 200_000)]
    _, axes = np.linalg.eigh(sample.T @ sample)
    step = 2 * voxel
    along, across = (points - middle) @ axes[:, 2], (points - middle) @ axes[:, :2]
    first = along.min()
    section = ((along - first) / step).astype(int)
    count = np.bincount(section).astype(float)
    mean = np.stack([np.bincount(section, a) / np.maximum(count, 1) for a in across.T], 1)
    rest = across - mean[section]
    pairs = ((0, 0), (0, 1), (1, 1))
    xx, xy, yy = (np.bincount(section, rest[:, i] * rest[:, j]) / np.maximum(count, 1) for i, j in pairs)
    area = count * voxel**3 / step
    trace, root = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    long, short = np.sqrt(np.maximum(trace + root, 1e-9)), np.sqrt(np.maximum(trace - root, 1e-9))
    filled = area / (4 * np.pi * long * short)
    radius = np.sqrt(area / np.pi)
    shaft = (filled > 0.85) & (short > 0.5 * long) & (radius > 2 * voxel)
    if not shaft.any() or len(count) < 8:
        return None
    typical = float(np.median(radius[shaft & (radius <= np.median(radius[shaft]))]))
    if (shaft & (np.abs(radius - typical) < 0.3 * typical)).mean() < 0.25 or len(count) * step < 6 * typical:
        return None
    smooth = np.sqrt(gaussian_filter1d(area, 0.03 * len(count), mode="nearest") / np.pi)
    share = np.minimum(1, (typical / np.maximum(smooth, 1e-3)) ** 4)
    k, j, i = (np.arange(n) * voxel for n in solid.shape)
    x, y, z = axes[:, 2]
    where = (i * x)[None, None] + (j * y)[None, :, None] + (k * z)[:, None, None] - middle @ axes[:, 2]
    places = np.interp(where.ravel(), first + (np.arange(len(count)) + 0.5) * step, share)
    return LongBone(typical, places.reshape(solid.shape).astype(np.float32))
