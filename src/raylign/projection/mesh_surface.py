"""What a mesh must be so that a ray's stretches inside it are defined: a closed surface, wound alike everywhere.

A surface is closed where every edge is run through as often in one direction as in the other. Then every line enters as often
as it leaves, and the lengths between can be summed by signs. Nothing else is asked for: several parts, cavities, edges at which
four triangles meet and parts that cut through each other are all allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from raylign.data import Mesh
from raylign.errors import InputError


@dataclass(frozen=True, eq=False)
class Surface:
    """The combinatorics of a closed surface.

    Parameters
    ----------
    faces: [M, 3] vertex indices, counter-clockwise as seen from outside.
    edges: [E, 4]: vertices a and b, the face in which a comes before b, the one in which b comes before a.
    """

    faces: Int64[Tensor, "M 3"]
    edges: Int64[Tensor, "E 4"]


_known: WeakKeyDictionary[Mesh, Surface] = WeakKeyDictionary()


def closed_surface(mesh: Mesh) -> Surface:
    """The surface of a mesh, checked once and then remembered.

    Vertices at the same place count as one where the surface is closed only so (the first of them then stands for all, and alone
    receives their gradient). A surface that is inside out as a whole (negative volume) is turned.

    Raises
    ------
    InputError: the surface has a border, or neighbouring triangles are wound against each other.
    """
    known = _known.get(mesh)
    if known is None:
        known = _known[mesh] = _checked(mesh)
    return known


# what torch.compiler.assume_constant_result does, without its import of a second: the compiler calls the function and keeps what
# it returned, since a mesh does not change
closed_surface._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _checked(mesh: Mesh) -> Surface:
    vertices = mesh.vertices.detach().cpu().numpy()
    faces = mesh.faces.cpu().numpy()
    if _unpaired(faces, len(vertices))[0]:
        places, same = np.unique(vertices, axis=0, return_inverse=True)
        first = np.full(len(places), len(vertices), np.int64)
        np.minimum.at(first, same.reshape(-1), np.arange(len(vertices)))
        faces = first[same.reshape(-1)][faces]
    unbalanced, borders = _unpaired(faces, len(vertices))
    if borders:
        raise InputError(
            f"the surface is not closed: {borders} of its edges border an odd number of triangles",
            remedy="fill its holes (trimesh.repair.fill_holes, 3D Slicer, MeshLab), or take the surface of a filled label map",
            field="mesh",
        )
    if unbalanced:
        raise InputError(
            f"the triangles at {unbalanced} edges are wound against each other, so that inside and outside are not defined",
            remedy="wind them alike, with trimesh.repair.fix_normals for instance",
            field="mesh",
        )
    if _volume(vertices, faces) < 0:
        faces = faces[:, [0, 2, 1]]
    return Surface(torch.from_numpy(np.ascontiguousarray(faces)), torch.from_numpy(_edges(faces, len(vertices))))


def _half_edges(faces: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Beginning, end, undirected key and face of every side of every triangle; sides of no length are left out."""
    a = faces.reshape(-1)
    b = faces[:, [1, 2, 0]].reshape(-1)
    face = np.repeat(np.arange(len(faces)), 3)
    keep = a != b
    a, b, face = a[keep], b[keep], face[keep]
    return a, b, np.minimum(a, b) * count + np.maximum(a, b), face


def _unpaired(faces: NDArray[Any], count: int) -> tuple[int, int]:
    """Edges that are not run through equally often both ways, and those among them with an odd number of triangles."""
    a, b, key, _ = _half_edges(faces, count)
    _, index = np.unique(key, return_inverse=True)
    net = np.bincount(index, weights=np.where(a < b, 1, -1))
    return int((net != 0).sum()), int((net % 2 != 0).sum())


def _edges(faces: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Every edge with the faces at its two sides; where more than two triangles meet they are paired in order."""
    a, b, key, face = _half_edges(faces, count)
    order = np.argsort(key, kind="stable")
    there = order[a[order] < b[order]]
    back = order[a[order] > b[order]]
    return np.stack([a[there], b[there], face[there], face[back]], 1).astype(np.int64)


def _volume(vertices: NDArray[Any], faces: NDArray[Any]) -> float:
    corners = (vertices - vertices.mean(0))[faces]
    return float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))) / 6
