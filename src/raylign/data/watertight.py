"""Open meshes closed where there is only one sensible way to do it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.data.mesh import Mesh
from raylign.errors import InputError

_FLAT = 0.02  # of a hole's size: so far from their plane the vertices of its rim may lie
_SMALL = 0.05  # of the surface: so large all holes that are not flat may be together


@dataclass(frozen=True, eq=False)
class Watertight:
    """A closed mesh, and in words what was done to close it; empty where nothing was."""

    mesh: Mesh
    words: str = ""


def watertight(mesh: Mesh) -> Watertight:
    """A mesh without borders.

    Equal vertices become one. A hole is closed by triangles from its rim to the middle of it. That is right, whatever its form,
    where the rim lies in a plane (a bone that was cut, a scan that ended there). Other holes are closed where they are small.

    Raises
    ------
    InputError: larger holes.
    """
    vertices, same = np.unique(mesh.vertices.detach().cpu().numpy(), axis=0, return_inverse=True)
    faces = same.reshape(-1)[mesh.faces.cpu().numpy()]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    open_edges = border(faces, len(vertices))
    if not len(open_edges) or not _open(faces, len(vertices)):
        return Watertight(mesh)  # triangles wound against each other leave no hole: what is inside, lines decide
    caps: list[NDArray[np.int64]] = []
    middles: list[NDArray[np.float64]] = []
    rough, area = 0.0, float(np.linalg.norm(_areas(vertices[faces]), axis=1).sum())
    rims = _rims(open_edges)
    for rim in rims:
        points = vertices[rim]
        middle = points.mean(0)
        spread = np.linalg.svd(points - middle, compute_uv=False)
        number = len(vertices) + len(middles)
        edges = open_edges[np.isin(open_edges[:, 0], rim)]
        cap = np.concatenate([edges[:, ::-1], np.full((len(edges), 1), number)], 1)
        if spread[-1] > _FLAT * spread[0] and len(rim) > 3:
            rough += float(
                np.linalg.norm(_areas(np.concatenate([vertices, np.zeros((len(middles), 3)), middle[None]])[cap]), axis=1).sum()
            )
        caps.append(cap)
        middles.append(middle)
    if rough > _SMALL * area:
        raise InputError(
            f"the surface is open: {len(rims)} holes, {100 * rough / area:.0f} % of its size where they are not flat",
            field="mesh",
            remedy="fill its holes (trimesh.repair.fill_holes, 3D Slicer, MeshLab), or take the surface of a filled label map",
        )
    closed = Mesh(
        torch.from_numpy(np.concatenate([vertices, np.stack(middles)])),
        torch.from_numpy(np.concatenate([faces, *caps]).astype(np.int64)),
        mesh.name,
    )
    holes = "a hole" if len(rims) == 1 else f"{len(rims)} holes"
    return Watertight(closed, f"the mesh was open: {holes} of its surface closed")


def _areas(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    return out


def _open(faces: NDArray[np.int64], count: int) -> bool:
    """Whether some edge belongs to an odd number of triangles."""
    a, b = faces.reshape(-1), faces[:, [1, 2, 0]].reshape(-1)
    _, uses = np.unique(np.minimum(a, b) * count + np.maximum(a, b), return_counts=True)
    return bool((uses & 1).any())


def border(faces: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """[E, 2] edges of ``faces`` [F, 3] (of ``count`` vertices) that are run through once more this way than the other.

    As often as that; none where the surface is closed and wound evenly.
    """
    a, b = faces.reshape(-1), faces[:, [1, 2, 0]].reshape(-1)
    key, index = np.unique(np.minimum(a, b) * count + np.maximum(a, b), return_inverse=True)
    net = np.bincount(index, weights=np.sign(b - a)).astype(int)
    low, high = key // count, key % count
    ends = np.where((net > 0)[:, None], np.stack([low, high], 1), np.stack([high, low], 1))
    return np.repeat(ends, np.abs(net), axis=0)


def _rims(edges: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Vertices of each connected part of a border."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    used, index = np.unique(edges, return_inverse=True)
    a, b = index.reshape(edges.shape).T
    links = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(used),) * 2)
    number, label = connected_components(links, directed=False)
    return [used[label == i] for i in range(number)]
