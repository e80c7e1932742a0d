"""Bodies kept out of each other: signed distance fields, and a one-sided penalty on how deep surfaces go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from raylign.data import Volume
from raylign.registration.objects_problem import CollisionConfig
from raylign.registration.pyramid import Array32, Array64, content, model_pyramid

_WATER = 0.01929  # 1/mm at 70 keV
_DENSE = 0.2  # of water's attenuation: so much above it is bone, contrast agent or metal
_CM2 = 100.0  # mm2: contact over so much counts as one observation
_MOST = 1500  # points of a surface


@dataclass(frozen=True, eq=False)
class Solid:
    """A body as others meet it, in its own frame (mm).

    Parameters
    ----------
    field: [D, H, W] mm to its surface, negative inside. voxel: [4, 4], mm to voxel (i, j, k). points: [N, 3] mm on the surface.
    area: mm2 for which each point stands.
    """

    field: Array32
    voxel: Array64
    points: Array64
    area: float


def solid_of(model: Volume, pitch: float) -> Solid | None:
    """The dense part of a model as a solid, ``None`` where there is none.

    Bone begins a fifth of water's attenuation above its surroundings, of "raw" numbers at a quarter of the largest. What it
    encloses is solid too. Distances are those of voxels about ``pitch`` mm wide, good to about half a voxel.
    """
    from scipy.ndimage import binary_erosion, binary_fill_holes, distance_transform_edt

    whole = model.unit == "HU"
    box = content(model) if whole else (np.zeros(3, np.int64), np.array(model.data.shape[::-1], np.int64))
    level = model_pyramid(model, box, [pitch])[0]
    if model.unit == "raw":
        limit = 0.25 * float(level.data.max())
    else:
        limit = ((1 + _DENSE) if whole else _DENSE) * _WATER
    inside = binary_fill_holes(level.data > limit)
    if inside.sum() < 8:
        return None
    inside = np.pad(inside, 2)
    spacing = np.linalg.norm(level.affine[:3, :3], axis=0)
    out = distance_transform_edt(~inside, sampling=spacing[::-1])
    deep = distance_transform_edt(inside, sampling=spacing[::-1])
    half = float(spacing.mean()) / 2
    field: Array32 = np.where(inside, half - deep, out - half).astype(np.float32)
    affine = level.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, 2.0)
    index = np.argwhere(inside & ~binary_erosion(inside))[:, ::-1]
    step = -(-len(index) // _MOST)
    points: Array64 = index[::step].astype(float) @ affine[:3, :3].T + affine[:3, 3]
    return Solid(field, np.asarray(np.linalg.inv(affine)), points, step * float(np.prod(spacing) ** (2 / 3)))


@njit(cache=True, nogil=True)
def _sampled(field, points, values, slopes):  # type: ignore[no-untyped-def]
    """Trilinear values [N] and gradients [N, 3] (per voxel) of a field [D, H, W] at points (i, j, k); far outside, 1e3 and 0."""
    d, h, w = field.shape
    for n in range(len(points)):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        if i < 0 or j < 0 or k < 0 or i >= w - 1 or j >= h - 1 or k >= d - 1:
            values[n] = 1e3
            slopes[n] = 0.0
            continue
        a, b, c = x - i, y - j, z - k
        v = 0.0
        gx = gy = gz = 0.0
        for r in range(2):
            wz, sz = (c if r else 1 - c), (1.0 if r else -1.0)
            for q in range(2):
                wy, sy = (b if q else 1 - b), (1.0 if q else -1.0)
                for p in range(2):
                    wx, sx = (a if p else 1 - a), (1.0 if p else -1.0)
                    f = field[k + r, j + q, i + p]
                    v += wx * wy * wz * f
                    gx += sx * wy * wz * f
                    gy += wx * sy * wz * f
                    gz += wx * wy * sz * f
        values[n] = v
        slopes[n, 0] = gx
        slopes[n, 1] = gy
        slopes[n, 2] = gz


@dataclass(frozen=True, eq=False)
class Contact:
    """Points of one body that lie too deep in another.

    Parameters
    ----------
    points: [n, 3] world mm. depth: [n] mm beyond the slack. normal: [n, 3], world, out of the other body. deepest: mm of
        penetration, the slack not taken off; 0 where they do not meet.
    """

    points: Array64
    depth: Array64
    normal: Array64
    deepest: float


def distances(solid: Solid, points: Array64, matrix: Array64) -> tuple[Array64, Array64]:
    """Of world points [N, 3] their distance [N] to a solid at a pose, mm, negative inside, and its gradient [N, 3] in the world.

    1000 mm, and no gradient, beyond the field.
    """
    to_voxel = solid.voxel @ np.linalg.inv(matrix)
    values, slopes = np.empty(len(points)), np.empty((len(points), 3))
    _sampled(solid.field, points @ to_voxel[:3, :3].T + to_voxel[:3, 3], values, slopes)
    return values, slopes @ to_voxel[:3, :3]


def contact(one: Solid, matrix: Array64, other: Solid, its: Array64, slack: float) -> Contact:
    """Where the surface of ``one`` at a pose goes into ``other`` at ``its``."""
    points = one.points @ matrix[:3, :3].T + matrix[:3, 3]
    values, slopes = distances(other, points, its)
    depth = -values - slack
    inside = depth > 0
    return Contact(points[inside], depth[inside], slopes[inside], max(-float(values.min(initial=0.0)), 0.0))


def lever(points: Array64, centre: Array64) -> Array64:
    """[n, 3, 6]: how world points move by a twist (rad, mm) about a centre."""
    out = np.zeros((len(points), 3, 6))
    arm = points - centre
    out[:, 0, 1], out[:, 0, 2] = arm[:, 2], -arm[:, 1]
    out[:, 1, 0], out[:, 1, 2] = -arm[:, 2], arm[:, 0]
    out[:, 2, 0], out[:, 2, 1] = arm[:, 1], -arm[:, 0]
    out[:, :, 3:] = np.eye(3)
    return out


@dataclass(frozen=True, eq=False)
class Penalty:
    """A term of a least-squares cost: its value, half its Hessian and half its downhill gradient, [K, K] and [K]."""

    value: float
    hessian: Array64
    gradient: Array64

    def __add__(self, other: Penalty) -> Penalty:
        return Penalty(self.value + other.value, self.hessian + other.hessian, self.gradient + other.gradient)

    @staticmethod
    def zero(size: int) -> Penalty:
        """Nothing, of K = ``size`` parameters."""
        return Penalty(0.0, np.zeros((size, size)), np.zeros(size))


def penalty_of(residuals: Array64, jacobian: Array64, precision: Array64 | float) -> Penalty:
    """``sum precision r^2`` of residuals [n] whose derivatives by K parameters are [n, K]."""
    weighted = jacobian * np.broadcast_to(precision, residuals.shape)[:, None]
    return Penalty(float((precision * residuals**2).sum()), jacobian.T @ weighted, -weighted.T @ residuals)


def collisions(
    solids: Sequence[Solid | None], matrices: Sequence[Array64], centres: Sequence[Array64], config: CollisionConfig
) -> Penalty:
    """The penalty on all pairs of bodies, by twists (rad, mm) of all about their centres in turn: K = 6 n.

    ``sum over points of (depth - slack)^2 area / (1 cm2 sd^2)``, the points of each body's surface against the other's distance
    field: the mean of both sides, so that a contact counts once.
    """
    total = Penalty.zero(6 * len(solids))
    for a, one in enumerate(solids):
        for b, other in enumerate(solids):
            if a == b or one is None or other is None:
                continue
            met = contact(one, matrices[a], other, matrices[b], config.slack_mm)
            if not len(met.depth):
                continue
            jacobian = np.zeros((len(met.depth), 6 * len(solids)))
            # the points move with the one, the field with the other; what goes out along the normal is less deep
            for number, sign in ((a, -1.0), (b, 1.0)):
                moved = lever(met.points, centres[number])
                jacobian[:, 6 * number : 6 * number + 6] = sign * np.einsum("ni,nij->nj", met.normal, moved)
            total = total + penalty_of(met.depth, jacobian, one.area / 2 / _CM2 / config.sd_mm**2)
    return total


def deepest(solids: Sequence[Solid | None], matrices: Sequence[Array64]) -> dict[tuple[int, int], float]:
    """Of each pair of bodies how deep either goes into the other, mm; pairs of which one has no solid left out."""
    found = {}
    for a, one in enumerate(solids):
        for b in range(a + 1, len(solids)):
            other = solids[b]
            if one is not None and other is not None:
                both = (contact(one, matrices[a], other, matrices[b], 0.0), contact(other, matrices[b], one, matrices[a], 0.0))
                found[a, b] = max(c.deepest for c in both)
    return found
