"""Collimator apertures as convex polygons, and candidates for them from an image's edges: a circle, straight blades."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_SIDES = 96  # of the polygon that stands for a circle
_TRIPLES = 400


@dataclass(frozen=True, eq=False)
class Polygon:
    """A convex region ``normals @ (x, y) <= offsets`` in (column, row) of the full image."""

    normals: np.ndarray
    offsets: np.ndarray

    def shrunk(self, margin: float) -> Polygon:
        """The polygon with every side moved in by ``margin`` pixels."""
        return Polygon(self.normals, self.offsets - margin)

    def enlarged(self, factor: int) -> Polygon:
        """The same on a grid finer by ``factor``, whose pixel edges coincide."""
        # a point x of the coarse grid is factor * x + (factor - 1) / 2 of the fine one
        return Polygon(self.normals, self.offsets * factor + self.normals.sum(1) * (factor - 1) / 2)

    def fill(self, shape: tuple[int, int]) -> np.ndarray:
        """[H, W] True inside: for each row the interval of columns that every half-plane leaves."""
        y = np.arange(shape[0])[:, None]
        low, high = np.full(shape[0], -np.inf), np.full(shape[0], np.inf)
        a, b = self.normals.T
        for sense in (1, -1):
            pick = a * sense > 1e-9
            if pick.any():
                ends = (self.offsets[pick] - b[pick] * y) / a[pick]
                if sense > 0:
                    high = ends.min(1)
                else:
                    low = ends.max(1)
        flat = np.abs(a) <= 1e-9
        inside = (b[flat] * y <= self.offsets[flat]).all(1)
        x = np.arange(shape[1])
        return inside[:, None] & (x >= low[:, None]) & (x <= high[:, None])


def both(a: Polygon, b: Polygon) -> Polygon:
    """What lies in both."""
    return Polygon(np.concatenate([a.normals, b.normals]), np.concatenate([a.offsets, b.offsets]))


def edge_apertures(level: np.ndarray) -> tuple[Polygon | None, Polygon | None]:
    """A circle and straight blades along edges that are bright on the side of the image's middle, where there are such.

    On the grid of ``level``, the logarithm of the intensity. Not every blade need be one: the caller looks at them closer.
    """
    h, w = level.shape
    gx, gy = (ndimage.gaussian_filter(level, 1.2, order=order, mode="nearest") for order in ((0, 1), (1, 0)))
    size = np.hypot(gx, gy)
    # thin the edges: keep the steepest pixel across each
    step_x, step_y = np.rint(gx / np.maximum(size, 1e-9)).astype(int), np.rint(gy / np.maximum(size, 1e-9)).astype(int)
    y, x = np.mgrid[:h, :w]
    ahead, behind = (size[np.clip(y + s * step_y, 0, h - 1), np.clip(x + s * step_x, 0, w - 1)] for s in (1, -1))
    keep = (size > max(0.04, 2 * float(np.median(size)))) & (size >= ahead) & (size >= behind)
    keep &= gx * ((w - 1) / 2 - x) + gy * ((h - 1) / 2 - y) > 0.3 * size * np.hypot((w - 1) / 2 - x, (h - 1) / 2 - y)
    points = np.stack([x[keep], y[keep]], 1).astype(float)
    if len(points) < 20:
        return None, None
    outward = -np.stack([gx[keep], gy[keep]], 1) / size[keep][:, None]
    return _circle(points, outward, (h, w)), _blades(points, outward, (h, w))


def _circle(points: np.ndarray, outward: np.ndarray, shape: tuple[int, int]) -> Polygon | None:
    """The circle that most edge points lie on, of those through random triples of them."""
    h, w = shape
    rng = np.random.default_rng(0)  # private and fixed: the same image always gives the same mask
    a, b, c = (points[k] for k in rng.integers(0, len(points), (3, _TRIPLES)))
    matrix = 2 * np.stack([b - a, c - a], 1)
    right = np.stack([(b * b - a * a).sum(1), (c * c - a * a).sum(1)], 1)
    good = np.abs(np.linalg.det(matrix)) > 50
    if not good.any():
        return None
    centres = np.linalg.solve(matrix[good], right[good][..., None])[..., 0]
    radii = np.linalg.norm(centres - a[good], axis=1)
    sane = (radii > 0.2 * min(h, w)) & (radii < 0.8 * max(h, w)) & (np.abs(centres - [w / 2, h / 2]) < 0.3 * max(h, w)).all(1)
    centres, radii = centres[sane], radii[sane]
    if not len(radii):
        return None
    away = points - centres[:, None]
    distance = np.linalg.norm(away, axis=2)
    on = (np.abs(distance - radii[:, None]) < 1.2) & ((away * outward).sum(2) > 0.85 * distance)
    support = on.sum(1) / radii
    best = int(support.argmax())
    if support[best] < 1.2:  # points a radian of arc; a closed thin edge has about one a pixel
        return None
    x, y = points[on[best]].T
    solution, *_ = np.linalg.lstsq(np.stack([2 * x, 2 * y, np.ones_like(x)], 1), x * x + y * y, rcond=None)
    centre, radius = solution[:2], float(np.sqrt(max(solution[2] + solution[0] ** 2 + solution[1] ** 2, 0)))
    theta = 2 * np.pi * np.arange(_SIDES) / _SIDES
    normals = np.stack([np.cos(theta), np.sin(theta)], 1)
    return Polygon(normals, normals @ centre + radius)


def _blades(points: np.ndarray, outward: np.ndarray, shape: tuple[int, int]) -> Polygon | None:
    """Straight edges with much support, as half-planes; at most six."""
    reach, bins = int(np.hypot(*shape) / 2) + 1, 90
    middle_of_image = np.array([shape[1] / 2, shape[0] / 2])
    centred = points - middle_of_image
    angle = np.arctan2(outward[:, 1], outward[:, 0])
    normals: list[np.ndarray] = []
    offsets: list[float] = []
    left = np.ones(len(points), bool)
    for _ in range(6):
        votes = np.zeros((bins, reach + 2))
        for turn in (-1, 0, 1):  # the direction of one pixel's gradient is known to a few degrees only
            k = np.rint(angle[left] / (2 * np.pi) * bins).astype(int) + turn
            theta = 2 * np.pi * k / bins
            rho = centred[left, 0] * np.cos(theta) + centred[left, 1] * np.sin(theta)
            np.add.at(votes, (k % bins, np.clip(np.rint(rho), 0, reach).astype(int)), 1)
        votes = ndimage.uniform_filter1d(votes, 3, axis=1)
        k, at = np.unravel_index(int(votes.argmax()), votes.shape)
        normal = np.array([np.cos(2 * np.pi * k / bins), np.sin(2 * np.pi * k / bins)])
        offset = float(at) + float(normal @ middle_of_image)
        for width in (2.5, 1.8, 1.2):  # refine by the points themselves
            near = left & (np.abs(points @ normal - offset) < width) & (outward @ normal > 0.85)
            if near.sum() < 0.25 * min(shape):
                return Polygon(np.array(normals), np.array(offsets)) if normals else None
            middle = points[near].mean(0)
            axis = np.linalg.svd(points[near] - middle, full_matrices=False)[2][1]
            normal = axis if axis @ normal > 0 else -axis
            offset = float(middle @ normal)
        normals.append(normal)
        offsets.append(offset)
        left &= ~((np.abs(points @ normal - offset) < 3) & (outward @ normal > 0.7))
    return Polygon(np.array(normals), np.array(offsets)) if normals else None
