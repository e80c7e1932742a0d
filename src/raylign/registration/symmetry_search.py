"""Rigid and mirroring maps of a surface onto itself, from the surface alone: candidates by its moments, then closest points.

A symmetry keeps the surface's centroid and its second moments (weighted by area). Where the three principal moments differ, it
can only keep or turn round the principal axes: eight candidates. Where two agree it turns by some angle about the third axis,
turns that axis round or not, mirrors or not: four searches over one angle. Where all three agree (a cube, a ball) all rotations
are looked through, evenly spaced, and what is found is multiplied up to a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from raylign.data import Mesh

Array = Float64[NDArray[np.float64], "..."]

_MANY = 12_000  # points that stand for the surface when the nearest triangles are looked for
_PROBES = 1_200  # points whose distance is measured
_FEW = 100  # points of a screening
_NEAREST = 8  # samples whose triangles are measured exactly
_QUANTILE = 0.995  # of the probes' distances: a triangle that no sample stands for does not decide
_TURN = 2.0  # degrees between the angles of a search about an axis
_ROTATIONS = 1500  # of a search in all directions, about 18 degrees apart
_TRIES = 40  # refinements in vain after which a search in all directions ends
_MINIMA = 12  # of a search about an axis that are refined, of each kind


@dataclass(frozen=True, eq=False)
class Shape:
    """A surface about its centroid, ready to be asked how far points lie from it.

    Parameters
    ----------
    corners: [M, 3, 3] of its triangles, mm from the centroid.
    centroid: [3] of the area, mm in the mesh's frame.
    moments: [3] principal second moments of the area, mm^2, ascending. axes: [3, 3] their directions as columns, right-handed.
    """

    corners: Array
    centroid: Array
    moments: Array
    axes: Array

    @staticmethod
    def of(mesh: Mesh) -> Shape:
        corners = mesh.vertices.numpy()[mesh.faces.numpy()]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
        corners, area = corners[area > 0], area[area > 0]
        centroid = (area[:, None] * corners.mean(1)).sum(0) / area.sum()
        corners = corners - centroid
        total = corners.sum(1)
        # the integral of x x^T over a triangle: A / 12 (aa + bb + cc + ss), s their sum
        second = np.einsum("m,mki,mkj->ij", area, corners, corners) + np.einsum("m,mi,mj->ij", area, total, total)
        moments, axes = np.linalg.eigh(second / (12 * area.sum()))
        axes[:, 2] *= np.sign(np.linalg.det(axes))
        return Shape(corners, centroid, moments, axes)

    @cached_property
    def area(self) -> Array:
        a, b, c = self.corners[:, 0], self.corners[:, 1], self.corners[:, 2]
        return np.asarray(np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2)

    @cached_property
    def normals(self) -> Array:
        """[M, 3] unit normals of the triangles."""
        a, b, c = self.corners[:, 0], self.corners[:, 1], self.corners[:, 2]
        normal = np.cross(b - a, c - a)
        return np.asarray(normal / np.linalg.norm(normal, axis=1, keepdims=True))

    def spread(self, count: int, phase: float = 0.5) -> tuple[Array, NDArray[np.int64]]:
        """Points [count, 3] evenly over the area, the same every time, and whose triangle each is."""
        ends = np.cumsum(self.area)
        face = np.searchsorted(ends, (np.arange(count) + phase) / count * ends[-1]).clip(max=len(ends) - 1)
        u, v = (np.outer(np.arange(1, count + 1), (0.7548776662466927, 0.5698402909980532)) + phase).T % 1  # Roberts' R2
        over = u + v > 1
        u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
        a, b, c = (self.corners[face, i] for i in range(3))
        return a + u[:, None] * (b - a) + v[:, None] * (c - a), face

    @cached_property
    def _samples(self) -> tuple[Any, NDArray[np.int64]]:
        from scipy.spatial import cKDTree

        points, face = self.spread(_MANY)
        if len(self.corners) <= 5 * _MANY:  # small triangles too
            points = np.concatenate([points, self.corners.mean(1)])
            face = np.concatenate([face, np.arange(len(self.corners))])
        return cKDTree(points), face

    @cached_property
    def probes(self) -> Array:
        """[N, 3] points whose distances are measured: evenly over the area, and the outermost corners."""
        points = self.corners.reshape(-1, 3)
        outer = points[np.argsort(-np.linalg.norm(points, axis=1), kind="stable")[:: max(1, len(points) // 200)][:100]]
        return np.concatenate([self.spread(_PROBES, 0.31)[0], outer])

    @cached_property
    def few(self) -> Array:
        """[n, 3] points of a screening."""
        return self.spread(_FEW, 0.77)[0]

    @cached_property
    def spacing(self) -> float:
        """mm between neighbouring samples, about."""
        return math.sqrt(float(self.area.sum()) / _MANY)

    @cached_property
    def radius(self) -> float:
        """mm from the centroid to the farthest corner."""
        return float(np.linalg.norm(self.corners, axis=2).max())

    def nearest(self, points: Array) -> Array:
        """The nearest point of the surface to each of [N, 3]: exact on the triangles of the nearest samples."""
        from raylign.simulation.correspondence import on_triangles

        tree, face = self._samples
        _, index = tree.query(points, k=_NEAREST)
        found = on_triangles(points[:, None], self.corners[face[index]])
        best = np.linalg.norm(found - points[:, None], axis=2).argmin(1)
        return np.asarray(found[np.arange(len(points)), best])

    def off(self, map_: Array) -> float:
        """mm that a map [4, 4] about the centroid carries the surface off itself: all but the farthest half percent."""
        points = self.probes @ map_[:3, :3].T + map_[:3, 3]
        return float(np.quantile(np.linalg.norm(self.nearest(points) - points, axis=1), _QUANTILE))

    def screened(self, maps: Array) -> Array:
        """[K] mean distance of a few points to the samples under orthogonal maps [K, 3, 3]: too large by a sample's spacing."""
        tree, _ = self._samples
        points = np.einsum("kij,nj->kni", maps, self.few)
        distance, _ = tree.query(points.reshape(-1, 3))
        return np.asarray(distance.reshape(len(maps), -1).mean(1))

    def refined(self, linear: Array, rounds: int = 8) -> Array:
        """The map [4, 4] nearby that carries the surface best onto itself: closest points (Besl and McKay 1992)."""
        out = np.eye(4)
        out[:3, :3] = linear
        for _ in range(rounds):
            points = self.probes[::5] @ out[:3, :3].T + out[:3, 3]
            target = self.nearest(points)
            a, b = points.mean(0), target.mean(0)
            u, _, vt = np.linalg.svd((points - a).T @ (target - b))
            turn = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
            step = np.eye(4)
            step[:3, :3], step[:3, 3] = turn, b - turn @ a
            out = step @ out
            if np.abs(step - np.eye(4)).max() < 1e-7:
                break
        return out

    @property
    def alike(self) -> tuple[int, ...]:
        """Sizes of the groups of principal moments too near for their axes to be told apart, ascending moments: (1, 2), say."""
        groups = [1]
        for low, high in zip(self.moments[:-1], self.moments[1:], strict=True):
            if high - low < 0.04 * high:
                groups[-1] += 1
            else:
                groups.append(1)
        return tuple(groups)


@dataclass(frozen=True, eq=False)
class Found:
    """Maps of a surface onto itself, about its centroid: [4, 4] each, the identity first among the proper ones.

    ``axis``: of revolution; ``ball``: every rotation. Then ``proper`` holds one map for each class that these turns leave.
    ``nearly``: an axis any turn about which is nearly one.
    """

    proper: tuple[Array, ...]
    improper: tuple[Array, ...]
    axis: Array | None = None
    ball: bool = False
    nearly: Array | None = None


def found_maps(shape: Shape, tolerance: float, near: float) -> Found:
    """All maps that carry a surface off itself by no more than ``tolerance`` mm, and mirrorings by no more than ``near`` mm."""
    groups = shape.alike
    if groups == (3,):
        distance = np.linalg.norm(shape.probes, axis=1)
        if np.ptp(distance) < 2 * tolerance:
            return Found((np.eye(4),), (np.diag([1.0, 1, -1, 1]),), ball=True)
        return _all_round(shape, tolerance, near)
    if 2 in groups:
        axis = shape.axes[:, 2 if groups == (2, 1) else 0]
        off = [shape.off(_map(_turned(axis, angle))) for angle in np.arange(7, 360, 23.7)]
        if max(off) <= tolerance:
            return _turning(shape, axis, tolerance)
        return replace(_about(shape, axis, tolerance, near), nearly=axis if max(off) <= near else None)
    signs = [np.diag([a, b, c]) for a in (1.0, -1.0) for b in (1.0, -1.0) for c in (1.0, -1.0)]
    return _checked(shape, [shape.axes @ s @ shape.axes.T for s in signs], tolerance, near)


def _checked(shape: Shape, candidates: list[Array], tolerance: float, near: float) -> Found:
    """Of orthogonal candidates, refined, those that are symmetries, each once."""
    proper: list[Array] = [np.eye(4)]
    improper: list[Array] = []
    same = _slack(shape, tolerance)
    for linear in candidates:
        own = proper if np.linalg.det(linear) > 0 else improper
        limit = tolerance if np.linalg.det(linear) > 0 else near
        if any(_angle(linear, m[:3, :3]) < same for m in own):
            continue
        if float(shape.screened(linear[None])[0]) > 3 * limit + 0.1 * shape.radius:
            continue
        map_ = shape.refined(linear)
        if all(_angle(map_[:3, :3], m[:3, :3]) > same for m in own) and shape.off(map_) <= limit:
            own.append(map_)
    return Found(closed(proper, same), tuple(improper))


def _slack(shape: Shape, tolerance: float) -> float:
    """Degrees within which two maps are one: turns that the tolerance does not tell apart, at half the surface's reach."""
    return 1 + math.degrees(3 * tolerance / shape.radius)


def closed(maps: list[Array], slack: float) -> tuple[Array, ...]:
    """The maps whose products are among them too, to ``slack`` degrees: a thread turned a little way is no symmetry.

    What has most products that are none of them is left out first, until all are. Products are looked up by their matrices:
    turns by an angle apart differ by ``2 sqrt(2) sin(angle / 2)`` (Frobenius).
    """
    from scipy.spatial import cKDTree

    linear = np.stack([m[:3, :3] for m in maps])
    products = np.einsum("aij,bjk->abik", linear, linear)
    reach = 2 * math.sqrt(2) * math.sin(math.radians(min(slack, 180.0)) / 2) + 1e-9
    near = cKDTree(linear.reshape(-1, 9)).query_ball_point(products.reshape(-1, 9), reach)
    count = np.array([len(n) for n in near]).reshape(len(maps), -1)
    met: list[list[int]] = [[] for _ in maps]  # of each map the products that it is near
    for pair, own in enumerate(near):
        for number in own:
            met[number].append(pair)
    kept = np.ones(len(maps), bool)
    while True:
        misses = np.where(kept, ((count == 0) & kept).sum(1), -1)
        if misses.max() <= 0:
            return tuple(m for m, k in zip(maps, kept, strict=True) if k)
        worst = int(misses.argmax())
        kept[worst] = False
        count.reshape(-1)[met[worst]] -= 1


def _turning(shape: Shape, axis: Array, tolerance: float) -> Found:
    """Symmetries of a body of revolution."""
    across = np.linalg.svd(axis[None])[2][1]
    flip = _map(_turned(across, 180.0))
    proper = [np.eye(4)] + ([flip] if shape.off(flip) <= tolerance else [])
    return Found(tuple(proper), (_map(np.eye(3) - 2 * np.outer(across, across)),), axis)


def _about(shape: Shape, axis: Array, tolerance: float, near: float) -> Found:
    """Symmetries of a surface with one axis that stands out, and of which turns are none."""
    across = np.linalg.svd(axis[None])[2][1]
    turns = np.stack([_turned(axis, angle) for angle in np.arange(0, 360, _TURN)])
    flip = _turned(across, 180.0)
    mirror, end = np.eye(3) - 2 * np.outer(across, across), np.eye(3) - 2 * np.outer(axis, axis)
    candidates: list[Array] = []
    for kind in (np.eye(3), flip, mirror, end):
        maps = turns @ kind
        score = shape.screened(maps)
        low = (score <= np.roll(score, 1)) & (score <= np.roll(score, -1))
        slack = 1.5 * shape.spacing + math.radians(_TURN) * shape.radius
        minima = np.flatnonzero(low & (score < slack + near))
        candidates += [maps[i] for i in minima[np.argsort(score[minima], kind="stable")][:_MINIMA]]
    return _checked(shape, candidates, tolerance, near)


def _all_round(shape: Shape, tolerance: float, near: float) -> Found:
    """Symmetries of a surface whose moments single no axis out."""
    maps = rotations(_ROTATIONS)
    score = shape.screened(maps)
    group = [np.eye(4)]
    left, failed = np.ones(len(maps), bool), 0
    while failed < _TRIES:
        known = np.stack([m[:3, :3] for m in group])
        left &= np.einsum("kij,gij->kg", maps, known).max(1) < 1 + 2 * math.cos(math.radians(12))
        if not left.any():
            break
        at = int(np.where(left, score, np.inf).argmin())
        left[at] = False
        map_ = shape.refined(maps[at], 25)
        if shape.off(map_) > tolerance or any(_angle(map_[:3, :3], m[:3, :3]) < 1 for m in group):
            failed += 1
            continue
        failed = 0
        group = _multiplied(shape, [*group, map_], tolerance)
    axes = [np.linalg.eigh(m[:3, :3] + m[:3, :3].T)[1][:, -1] for m in group[1:]]
    mirrors = [-np.eye(3), *(np.eye(3) - 2 * np.outer(a, a) for a in axes)]
    proper = closed(group, _slack(shape, tolerance))
    return Found(proper, _checked(shape, mirrors, tolerance, near).improper)


def _multiplied(shape: Shape, group: list[Array], tolerance: float, most: int = 120) -> list[Array]:
    """All products of some symmetries, each brought onto the surface again."""
    done = 0
    while done < len(group) and len(group) <= most:
        for other in list(group):
            product = group[done] @ other
            if all(_angle(product[:3, :3], m[:3, :3]) > 2 for m in group):
                exact = shape.refined(product[:3, :3], 5)
                if shape.off(exact) <= tolerance:
                    group.append(exact)
        done += 1
    return group


def _map(linear: Array) -> Array:
    out = np.eye(4)
    out[:3, :3] = linear
    return out


def _angle(a: Array, b: Array) -> float:
    """Degrees between two orthogonal maps of one handedness; 180 for such of two."""
    if np.linalg.det(a) * np.linalg.det(b) < 0:
        return 180.0
    return float(np.degrees(np.arccos(np.clip((np.sum(a * b) - 1) / 2, -1, 1)))) if np.linalg.norm(a - b) > 1e-6 else 0.0


def _turned(axis: Array, degrees: float) -> Array:
    """The rotation [3, 3] by an angle about a unit vector."""
    from raylign.registration.rotations import matrix_of

    return np.asarray(matrix_of(np.radians(degrees) * axis))


def rotations(count: int) -> Array:
    """[count, 3, 3] rotations evenly over all: super-Fibonacci spirals (Alexa 2022, equation 9)."""
    s = np.arange(count) + 0.5
    inner, outer = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = 2 * math.pi * s / math.sqrt(2), 2 * math.pi * s / 1.533751168755204288118041
    x, y, z, w = inner * np.sin(a), inner * np.cos(a), outer * np.sin(b), outer * np.cos(b)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
