"""Meshes of one structure from several people brought into correspondence: the same vertex, the same place on the bone.

A template is laid onto each mesh, first rigidly (iterative closest points from several starts, mirrored where the other side was
scanned; Besl and McKay 1992), then by moving its vertices ever more freely: non-rigid closest points with decreasing stiffness
(optimal-step ICP, Amberg et al. 2007, here with a displacement a vertex in place of an affine map). Vertices without a partner
(too far away, or facing elsewhere) follow their neighbours.

CPU only. The result of a mesh does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.data import Mesh
from raylign.errors import InputError

Points = NDArray[np.float64]


@dataclass(frozen=True)
class CorrespondenceConfig:
    """How meshes are brought into correspondence.

    Parameters
    ----------
    mirror: whether the mesh is of the other side than the template; ``None`` takes whichever fits better.
    stiffness: weights of the differences between neighbouring displacements, from stiff to free, one round each.
    rounds: closest-point rounds at each stiffness.
    angle: degrees between the normals of partners, at the most.
    far: partners farther apart than this many times the median distance are left out.

    Raises
    ------
    InputError: a stiffness that is not positive, no round, an angle that is not between 0 and 180.
    """

    mirror: bool | None = None
    stiffness: tuple[float, ...] = (100.0, 40.0, 16.0, 6.0, 2.5, 1.0, 0.4, 0.15)
    rounds: int = 3
    angle: float = 60.0
    far: float = 20.0

    def __post_init__(self) -> None:
        if not self.stiffness or min(self.stiffness) <= 0:
            raise InputError(f"stiffness {self.stiffness}", field="stiffness", remedy="give positive numbers, largest first")
        if self.rounds < 1 or not 0 < self.angle < 180 or self.far <= 0:
            raise InputError("rounds, angle and far must be positive", field="CorrespondenceConfig")


@dataclass(frozen=True, eq=False)
class Correspondence:
    """A mesh seen through a template.

    Parameters
    ----------
    mesh: the template's faces at the mesh's places, in the template's frame, mm: size and shape are the mesh's, its pose is not.
    alignment: [4, 4] template's frame from mesh's frame; its determinant is -1 where the mesh was mirrored.
    distance_mm: from the vertices to the mesh's surface, mean; what correspondence leaves of the shape.
    """

    mesh: Mesh
    alignment: Float[Tensor, "4 4"]
    distance_mm: float

    @property
    def mirrored(self) -> bool:
        return bool(torch.linalg.det(self.alignment[:3, :3]) < 0)


class Surface:
    """A mesh that finds its nearest points."""

    def __init__(self, vertices: Points, faces: NDArray[np.int64]) -> None:
        from scipy.spatial import cKDTree

        self.vertices, self.faces = vertices, faces
        self.tree = cKDTree(vertices)

    @cached_property
    def face_normals(self) -> Points:
        """[M, 3], of the length twice the face's area."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        out: Points = np.cross(b - a, c - a)
        return out

    @cached_property
    def normals(self) -> Points:
        """[N, 3] unit normals at the vertices, weighted by area."""
        out = np.zeros_like(self.vertices)
        for i in range(3):
            np.add.at(out, self.faces[:, i], self.face_normals)
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)

    @cached_property
    def _around(self) -> NDArray[np.int64]:
        """[N, D] faces at each vertex, the last one repeated."""
        order = np.argsort(self.faces.ravel(), kind="stable")
        counts = np.bincount(self.faces.ravel(), minlength=len(self.vertices))
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        column = np.minimum(np.arange(counts.max())[None], np.maximum(counts[:, None] - 1, 0))
        out: NDArray[np.int64] = order[np.minimum(starts[:, None] + column, len(order) - 1)] // 3
        return out

    def nearest(self, points: Points) -> tuple[Points, Points]:
        """The nearest surface points [N, 3] and the unit normals there.

        Searched on the faces at the nearest vertex, which is exact but for strongly uneven triangles.
        """
        _, vertex = self.tree.query(points)
        faces = self._around[vertex]
        corners = self.vertices[self.faces[faces]]
        found = on_triangles(points[:, None], corners)
        best = np.linalg.norm(found - points[:, None], axis=2).argmin(1)
        rows = np.arange(len(points))
        return found[rows, best], self.normals[vertex]


def on_triangles(p: Points, corners: Points) -> Points:
    """The point of each triangle [..., 3, 3] nearest to p [..., 3] (Ericson 2005, Real-Time Collision Detection, 5.1.5)."""
    a, ab, ac = corners[..., 0, :], corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    ap = p - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = np.maximum(d00 * d11 - d01 * d01, 1e-18)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    inside = (v >= 0) & (w >= 0) & (v + w <= 1)
    on_ab = np.clip(d20 / np.maximum(d00, 1e-18), 0, 1)
    on_ac = np.clip(d21 / np.maximum(d11, 1e-18), 0, 1)
    bc = ac - ab
    on_bc = np.clip(((ap - ab) * bc).sum(-1) / np.maximum((bc * bc).sum(-1), 1e-18), 0, 1)
    edges = np.stack([a + on_ab[..., None] * ab, a + on_ac[..., None] * ac, a + ab + on_bc[..., None] * bc])
    nearest = np.linalg.norm(edges - p, axis=-1).argmin(0)
    edge = np.take_along_axis(edges, nearest[None, ..., None], 0)[0]
    return np.where(inside[..., None], a + v[..., None] * ab + w[..., None] * ac, edge)


def rigid(source: Points, target: Points) -> tuple[Points, Points]:
    """Rotation [3, 3] and shift [3] that bring source onto target [N, 3], least squares (Kabsch 1976, Umeyama 1991)."""
    a, b = source.mean(0), target.mean(0)
    u, _, vt = np.linalg.svd((target - b).T @ (source - a))
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return turn, b - turn @ a


def aligned(template: Mesh, mesh: Mesh, mirror: bool | None = None) -> Float[Tensor, "4 4"]:
    """The pose of a mesh in a template's frame: rigid closest points from the four starts that their principal axes allow.

    Parameters
    ----------
    mirror: mirror the mesh first (it is of the other side); ``None`` tries both and keeps the better.

    Returns
    -------
    [4, 4] float64 template from mesh; of determinant -1 where the mesh was mirrored.
    """
    still, moving = template.vertices.numpy(), mesh.vertices.numpy()
    surface = Surface(still, template.faces.numpy())
    some = moving[:: max(len(moving) // 1500, 1)]
    best, worst = None, np.inf
    for flip in (False, True) if mirror is None else (mirror,):
        side = np.diag([-1.0 if flip else 1.0, 1, 1])
        for start in _starts(some @ side, still):
            turn, shift, cost = _closest(some @ side, surface, start)
            if cost < worst:
                worst, best = cost, (turn @ side, shift)
    assert best is not None
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = best
    return torch.from_numpy(out)


def placed(mesh: Mesh, pose: Float[Tensor, "4 4"]) -> Mesh:
    """A mesh in another frame; where the pose mirrors, the faces are turned so that normals stay outward."""
    faces = mesh.faces.flip(1) if bool(torch.linalg.det(pose[:3, :3]) < 0) else mesh.faces
    return Mesh(mesh.vertices @ pose[:3, :3].T + pose[:3, 3], faces, mesh.name)


def _starts(moving: Points, still: Points) -> list[Points]:
    """Rotations that bring principal axes onto principal axes."""
    axes = []
    for points in (moving, still):
        _, _, vt = np.linalg.svd(points[:: max(len(points) // 3000, 1)] - points.mean(0), full_matrices=False)
        axes.append(vt * np.array([[1], [1], [np.sign(np.linalg.det(vt))]]))
    signs = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    return [axes[1].T @ np.diag(s) @ axes[0] for s in signs]


def _closest(points: Points, surface: Surface, turn: Points, rounds: int = 40) -> tuple[Points, Points, float]:
    """Rigid closest points, the farthest tenth of the partners left out."""
    shift = surface.vertices.mean(0) - turn @ points.mean(0)
    cost = np.inf
    for _ in range(rounds):
        placed = points @ turn.T + shift
        gap, index = surface.tree.query(placed)
        kept = gap <= np.quantile(gap, 0.9)
        new = float(gap[kept].mean())
        turn, shift = rigid(points[kept], surface.vertices[index[kept]])
        if cost - new < 1e-4 * cost:
            break
        cost = new
    return turn, shift, cost


def correspond(template: Mesh, mesh: Mesh, config: CorrespondenceConfig | None = None) -> Correspondence:
    """A mesh expressed by the template's vertices.

    Parameters
    ----------
    template: evenly spaced vertices, 2,000 to 10,000; which one is taken hardly matters for the shapes that come out.
    mesh: the same part of the same structure, finer than the template, in any pose.

    Raises
    ------
    InputError: fewer than half of the template's vertices find a partner: the two show different parts.
    """
    config = config or CorrespondenceConfig()
    pose = aligned(template, mesh, config.mirror)
    there = placed(mesh, pose)
    target = Surface(there.vertices.numpy(), there.faces.numpy())
    start, edges = template.vertices.numpy(), template.faces.numpy()
    moved = _relaxed(start, edges, target, config)
    found, _ = target.nearest(moved)
    distance = float(np.linalg.norm(found - moved, axis=1).mean())
    return Correspondence(Mesh(torch.from_numpy(moved), template.faces, mesh.name or template.name), pose, distance)


def _relaxed(start: Points, faces: NDArray[np.int64], target: Surface, config: CorrespondenceConfig) -> Points:
    """The template's vertices on the target, by displacements that neighbours share."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import splu

    laplacian = _laplacian(len(start), faces)
    moved = start.copy()
    for stiffness in config.stiffness:
        for _ in range(config.rounds):
            partner, facing = target.nearest(moved)
            gap = np.linalg.norm(partner - moved, axis=1)
            agree = (Surface(moved, faces).normals * facing).sum(1) > np.cos(np.radians(config.angle))
            weight = (agree & (gap <= config.far * max(float(np.median(gap)), 0.05))).astype(float)
            if weight.mean() < 0.5:
                raise InputError(
                    "fewer than half of the template's vertices find a partner", field="mesh", remedy="cut both to the same part"
                )
            # without partners at all a vertex follows its neighbours; the small diagonal keeps the system regular
            system = splu((diags(weight + 1e-6) + stiffness * laplacian).tocsc())
            moved = start + system.solve(weight[:, None] * (partner - start))
    return moved


def _laplacian(count: int, faces: NDArray[np.int64]):  # type: ignore[no-untyped-def]
    """The graph Laplacian of the edges, [N, N] sparse."""
    from scipy.sparse import coo_matrix, diags

    a, b = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).T
    links = coo_matrix((np.ones(len(a)), (a, b)), shape=(count, count)).tocsr()
    links = ((links + links.T) > 0).astype(float)
    return (diags(np.asarray(links.sum(1)).ravel()) - links).tocsr()


def corresponding(
    meshes: Sequence[Mesh], template: Mesh | None = None, config: CorrespondenceConfig | None = None
) -> list[Correspondence]:
    """Many meshes in correspondence; the template is the first one, evenly resampled, where none is given.

    Raises
    ------
    InputError: no meshes; a mesh that shows another part than the template.
    """
    if not meshes:
        raise InputError("no meshes", field="meshes", remedy="give at least one")
    if template is None:
        from raylign.simulation.solids import resampled

        template = resampled(meshes[0], 2.5)
    return [correspond(template, mesh, config) for mesh in meshes]
