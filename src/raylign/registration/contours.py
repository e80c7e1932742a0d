"""A mesh's apparent contours brought onto edges of the exposures: Gauss-Newton on signed distances, blind to what is inside.

A ray that touches the surface belongs to a contour: the outward normal there is at a right angle to it, and thickness grows like
a square root towards the inside. With ``m`` the unit normal of the contour in the image (pixels, away from the body) and ``e``
the signed distance along it to an edge, a motion of the body moves the contour across itself by ``m`` times the motion of the
touching point's image: that another point touches afterwards changes nothing to first order, since it slides along the ray. So

    minimise  sum_i w_i (e_i - m_i . d(project(T p_i)) / dT  x)^2

over a twist ``x``, with weights of Student's t (4 degrees of freedom) whose scale falls from round to round. A blurred root has
its steepest place inside the contour, by 0.765 of the blur's standard deviation, and this is allowed for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from raylign.data import Mesh, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.registration.problem import Problem
from raylign.registration.result import Confidence, Result, Step
from raylign.registration.search import moved
from raylign.registration.versions import versions

Array = NDArray[np.float64]

_INWARD = 0.765  # of the blur's standard deviation: where the slope of a blurred square root is steepest
_PIXEL = 0.29  # standard deviation of a pixel's own blur, pixels: 1 / sqrt(12)


@dataclass(frozen=True)
class ContourConfig:
    """How contours are brought onto edges.

    Parameters
    ----------
    points: on the contours of one exposure, about.
    reach_mm: how far along the normal an edge is looked for in the first and in the last round, mm at the model.
    rounds: Gauss-Newton steps.
    blur: standard deviation in pixels by which exposures are smoothed, as a share of the reach in pixels; at least one pixel.
    polarity: 1 where the body attenuates more than its surroundings, -1 where less, 0 for edges of either kind.
    damping: Levenberg's, of a mean step.
    trust: probability from which a result is trusted; it grows with the share of the contours that lies on edges, from nothing at
        0.45 to 0.95 at 0.83 and more.

    Raises
    ------
    InputError: a number out of range.
    """

    points: int = 600
    reach_mm: tuple[float, float] = (12.0, 1.5)
    rounds: int = 30
    blur: float = 0.25
    polarity: int = 1
    damping: float = 1e-3
    trust: float = 0.8

    def __post_init__(self) -> None:
        if self.points < 20 or self.rounds < 1 or not self.reach_mm[0] >= self.reach_mm[1] > 0:
            raise InputError("points, rounds and reach_mm must be positive, reach_mm not growing", field="ContourConfig")
        if self.polarity not in (-1, 0, 1):
            raise InputError(f"polarity {self.polarity}", field="polarity", remedy="give 1, -1 or 0")


@dataclass(frozen=True, eq=False)
class Contour:
    """Points at which rays of one view touch a surface.

    Parameters
    ----------
    points: [N, 3] mm of the mesh's frame.
    pixels: [N, 2] (column, row) of their images.
    normals: [N, 2] unit normals of the contour in pixels, away from the body.
    length: of all contours in the image, pixels.
    """

    points: Float[NDArray[np.float64], "N 3"]
    pixels: Float[NDArray[np.float64], "N 2"]
    normals: Float[NDArray[np.float64], "N 2"]
    length: float


@dataclass(frozen=True, eq=False)
class Outline:
    """A mesh prepared for its contours: vertices, faces, unit vertex normals (outward)."""

    vertices: Array
    faces: NDArray[np.int64]
    normals: Array

    @staticmethod
    def of(mesh: Mesh) -> Outline:
        """From a closed mesh; equal vertices count as one, one that is inside out is turned."""
        places, same = np.unique(mesh.vertices.detach().numpy(), axis=0, return_inverse=True)
        faces = same.reshape(-1)[mesh.faces.numpy()]
        corners = places[faces]
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        if float(np.einsum("ij,ij->", corners[:, 0] - places.mean(0), area)) < 0:
            faces, area = faces[:, [0, 2, 1]], -area
        normals = np.zeros_like(places)
        for i in range(3):
            np.add.at(normals, faces[:, i], area)
        return Outline(places, faces, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12))


def contour(outline: Outline, view: View, matrix: Array, count: int) -> Contour:
    """About ``count`` points, evenly along all apparent contours of a mesh under a pose: outlines, and folds within them.

    The zero set of ``n . (source - p)`` with normals interpolated between vertices: one straight piece in every triangle that it
    crosses. X-rays see through a body, so no contour is hidden.
    """
    source = np.linalg.inv(matrix) @ np.append(view.source.detach().numpy(), 1)
    facing = np.einsum("ij,ij->i", outline.normals, source[:3] - outline.vertices)
    facing = np.where(np.abs(facing) < 1e-9, 1e-9, facing)
    value = facing[outline.faces]
    crossed = outline.faces[(value.min(1) < 0) & (value.max(1) > 0)]
    if not len(crossed):
        empty = np.zeros((0, 2))
        return Contour(np.zeros((0, 3)), empty, empty, 0.0)
    ends, directions = [], []
    positive = facing[crossed] > 0
    lone = np.where(positive.sum(1) == 1, positive.argmax(1), (~positive).argmax(1))
    rows = np.arange(len(crossed))
    tip = crossed[rows, lone]
    for other in (1, 2):
        at = crossed[rows, (lone + other) % 3]
        share = (facing[tip] / (facing[tip] - facing[at]))[:, None]
        ends.append(outline.vertices[tip] * (1 - share) + outline.vertices[at] * share)
        directions.append(outline.normals[tip] * (1 - share) + outline.normals[at] * share)
    a, b = (_project(view, matrix, e) for e in ends)
    lengths = np.linalg.norm(b - a, axis=1)
    total = float(lengths.sum())
    edges = np.cumsum(lengths)
    at = (np.arange(count) + 0.5) / count * total
    piece = np.minimum(np.searchsorted(edges, at), len(edges) - 1)
    share = ((at - (edges[piece] - lengths[piece])) / np.maximum(lengths[piece], 1e-12)).clip(0, 1)[:, None]
    points = ends[0][piece] * (1 - share) + ends[1][piece] * share
    outward = directions[0][piece] * (1 - share) + directions[1][piece] * share
    pixels = _project(view, matrix, points)
    # away from the body: the image of a step along the outward normal, made square to the ray by construction
    step = _project(view, matrix, points + 0.01 * outward) - pixels
    steps = np.stack([view.column_step.detach().numpy(), view.row_step.detach().numpy()])
    tangent = (b - a)[piece] @ steps  # in mm of the detector, where right angles are right angles
    normal = step @ steps
    along = tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    normal = normal - np.einsum("ij,ij->i", normal, along)[:, None] * along
    normal = normal @ np.linalg.pinv(steps)
    size = np.linalg.norm(normal, axis=1, keepdims=True)
    good = size[:, 0] > 1e-9
    return Contour(points[good], pixels[good], (normal / np.maximum(size, 1e-12))[good], total)


def _project(view: View, matrix: Array, points: Array) -> Array:
    world = torch.from_numpy(points @ matrix[:3, :3].T + matrix[:3, 3])
    return np.asarray(view.project(world).detach().numpy())


def motions(view: View, matrix: Array, found: Contour, centre: Array) -> Float[NDArray[np.float64], "N 6"]:
    """How far each contour moves along its normal, pixels, by a twist (rad, mm) about ``centre`` (world mm).

    With ``M`` the map from camera axes to homogeneous pixels, ``q = M (p - s)`` and ``(c, r) = (q0, q1) / q2``, so that
    ``d(c, r) = (M01 - (c, r) M2) dp / q2``; a twist moves p by ``v + w x (p - centre)``.
    """
    steps = np.stack([view.column_step.detach().numpy(), view.row_step.detach().numpy()], 1)
    source, origin = view.source.detach().numpy(), view.origin.detach().numpy()
    inverse = np.linalg.inv(np.concatenate([steps, (origin - source)[:, None]], 1))
    world = found.points @ matrix[:3, :3].T + matrix[:3, 3]
    q = (world - source) @ inverse.T
    across = (found.normals @ inverse[:2] - np.einsum("ij,ij->i", found.normals, q[:, :2] / q[:, 2:])[:, None] * inverse[2]) / q[
        :, 2:
    ]
    return np.concatenate([np.cross(world - centre, across), across], 1)


@dataclass(frozen=True, eq=False)
class _Edges:
    """An exposure smoothed, as splines of its gradient by column and row."""

    gradient: Array  # [2, H, W] by column, row
    valid: NDArray[np.bool_]
    blur: float
    scale: float


def _edges(xray: XRay, blur: float) -> _Edges:
    from scipy.ndimage import binary_erosion, gaussian_filter

    mask = xray.mask.numpy()
    image = np.where(mask, xray.image.numpy(), float(np.median(xray.image.numpy()[mask]))).astype(np.float64)
    gradient = np.stack([gaussian_filter(image, blur, order=order) for order in ((0, 1), (1, 0))])
    valid = binary_erosion(mask, iterations=max(1, int(np.ceil(3 * blur))))
    strength = np.hypot(*gradient)[valid]
    return _Edges(gradient, valid, float(np.hypot(blur, _PIXEL)), float(np.median(strength)) if strength.size else 1.0)


def edge_distances(edges: _Edges, found: Contour, reach: float, polarity: int) -> tuple[Array, Array]:
    """Signed distances in pixels along the normals to the nearest edge of the right kind, and their weights (0: none in reach).

    An edge is a local maximum of the slope against the normal, to a fraction of a sample by a parabola through three samples half
    a pixel apart, where it exceeds the exposure's median slope. Of several the one that is strong and near is taken.
    """
    from scipy.ndimage import map_coordinates

    offsets = np.arange(-np.ceil(2 * reach) - 1, np.ceil(2 * reach) + 2) / 2
    at = found.pixels[:, None] + offsets[None, :, None] * found.normals[:, None]
    where = [at[..., 1], at[..., 0]]
    gx, gy = (map_coordinates(g, where, order=1, mode="nearest") for g in edges.gradient)
    inside = map_coordinates(edges.valid.astype(np.float32), where, order=0, mode="constant", cval=0) > 0
    slope = -(gx * found.normals[:, :1] + gy * found.normals[:, 1:])
    slope = np.where(inside, np.abs(slope) if polarity == 0 else polarity * slope, 0)
    here, before, after = slope[:, 1:-1], slope[:, :-2], slope[:, 2:]
    peak = (here >= before) & (here > after) & (here > edges.scale)
    bend = before - 2 * here + after
    fraction = np.where(bend < 0, 0.5 * (before - after) / np.minimum(bend, -1e-12), 0)
    place = offsets[1:-1] + 0.5 * fraction + _INWARD * edges.blur
    score = np.where(peak, here * np.exp(-0.5 * (place / (0.6 * reach)) ** 2), 0)
    best = score.argmax(1)
    rows = np.arange(len(score))
    strength = here[rows, best] / edges.scale
    weight = np.where(score[rows, best] > 0, strength / (strength + 3), 0)
    return np.where(weight > 0, place[rows, best], 0), weight


@dataclass(frozen=True)
class Contours:
    """Contours alone, as a Registrar of one mesh: from where it is put, to where its outline lies on edges.

    It does not search: give a start within ``reach_mm[0]`` or so, or the result of the direct method.

    Parameters
    ----------
    mesh: whose contours; ``Problem.model`` may be any solid of it.
    """

    mesh: Mesh
    config: ContourConfig = field(default_factory=ContourConfig)

    def register(self, problem: Problem) -> Result:
        """The pose at which contours lie on edges in all exposures; its covariance from what is left of their distances."""
        begun = time.perf_counter()
        config, outline = self.config, Outline.of(self.mesh)
        matrix = problem.start.matrix.numpy().copy()
        middle = (outline.vertices.min(0) + outline.vertices.max(0)) / 2
        spread = float(np.linalg.norm(outline.vertices - middle, axis=1).mean())
        steps: list[Step] = []
        reaches = np.geomspace(*config.reach_mm, config.rounds)
        system = _System(np.zeros((6, 6)), np.zeros(6), 0.0, 0.0, 0)
        kept: dict[tuple[int, float], _Edges] = {}
        for iteration, reach in enumerate(reaches):
            centre = matrix[:3, :3] @ middle + matrix[:3, 3]
            system = _summed(outline, problem.xrays, matrix, centre, float(reach), config, kept)
            if system.count < 20:
                break
            measure = np.array([spread] * 3 + [1.0] * 3)
            h = system.hessian / measure / measure[:, None]
            h = h + config.damping * np.trace(h) / 6 * np.eye(6)
            twist = np.linalg.solve(h, system.gradient / measure) / measure
            twist *= min(1.0, float(reach) / max(float(np.abs(twist * measure).max()), 1e-12))
            matrix = moved(matrix, twist, centre)
            steps.append(Step(0, iteration, system.cost, torch.from_numpy(matrix.copy())))
        centre = matrix[:3, :3] @ middle + matrix[:3, 3]
        final = _summed(outline, problem.xrays, matrix, centre, config.reach_mm[1], config, kept)
        confidence = _confidence(final, config)
        covariance = _covariance(final)
        return Result(
            transform=Rigid(torch.from_numpy(matrix)),
            start=problem.start,
            covariance=torch.from_numpy(covariance),
            centre=torch.from_numpy(centre),
            score=final.support,
            confidence=confidence,
            trajectory=tuple(steps),
            timings={"contours": time.perf_counter() - begun},
            method="contour",
            versions=versions(),
            settings=asdict(config),
            renders=len(steps) * len(problem.xrays),
        )


@dataclass(frozen=True, eq=False)
class _System:
    """Normal equations of ``count`` points, the mean of their squared distances, and the share of them that lies on edges."""

    hessian: Array
    gradient: Array
    cost: float
    support: float
    count: int


def _summed(
    outline: Outline,
    xrays: Sequence[XRay],
    matrix: Array,
    centre: Array,
    reach: float,
    config: ContourConfig,
    kept: dict[tuple[int, float], _Edges],
) -> _System:
    hessian, gradient = np.zeros((6, 6)), np.zeros(6)
    cost = weights = supported = 0.0
    count = 0
    for number, xray in enumerate(xrays):
        view = xray.view
        depth = float((centre - view.source.detach().numpy()) @ view.normal.detach().numpy())
        pixels = reach * float(view.sid) / max(depth, 1.0) / max(view.pixel_spacing)
        blur = float(np.clip(2.0 ** round(np.log2(max(config.blur * pixels, 1e-3))), 1.0, 8.0))
        if (number, blur) not in kept:
            kept[number, blur] = _edges(xray, blur)
        found = contour(outline, view, matrix, config.points)
        h, w = view.shape
        seen = ((found.pixels >= 0) & (found.pixels <= [w - 1, h - 1])).all(1)
        found = Contour(found.points[seen], found.pixels[seen], found.normals[seen], found.length)
        if len(found.points) < 20:
            continue
        distance, weight = edge_distances(kept[number, blur], found, pixels, config.polarity)
        scale = max(0.25 * pixels, 0.5)
        weight = weight * 5 / (4 + (distance / scale) ** 2)
        jacobian = motions(view, matrix, found, centre)
        hessian += jacobian.T @ (weight[:, None] * jacobian)
        gradient += jacobian.T @ (weight * distance)
        cost += float((weight * distance**2).sum())
        weights += float(weight.sum())
        supported += float(((weight > 0) & (np.abs(distance) < max(0.5 * pixels, 1.0))).sum())
        count += len(found.points)
    return _System(hessian, gradient, cost / max(weights, 1e-9), supported / max(count, 1), count)


def _covariance(system: _System) -> Array:
    """Twenty neighbouring points share an edge and its error: they count as one."""
    h = system.hessian + 1e-9 * max(float(np.trace(system.hessian)), 1e-9) * np.eye(6)
    return np.asarray(20 * max(system.cost, 0.05) * np.linalg.inv(h))


def _confidence(system: _System, config: ContourConfig) -> Confidence:
    """What share of the contours lies on edges of their kind; a third does so by chance, nine tenths where all is right."""
    support = system.support
    probability = float(np.clip((support - 0.45) / 0.4, 0, 0.95)) if system.count >= 20 else 0.0
    trusted = probability >= config.trust
    reasons = () if trusted else (f"only {100 * support:.0f} % of the contours lie on edges of the exposures",)
    return Confidence(probability, trusted, reasons, {"support": support, "rms_pixels": float(np.sqrt(system.cost)), "held": 1.0})
