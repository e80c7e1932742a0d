"""Models of the left ventricle: their middle, and coarser copies that cost less to project."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Mesh
from raylign.errors import InputError


def middle(mesh: Mesh) -> Float[Tensor, "3"]:
    """Centroid of what a closed surface encloses, mm: the point that a model turns about and that fields are centred on.

    Raises
    ------
    InputError: the surface encloses nothing.
    """
    corners = mesh.vertices[mesh.faces]
    origin = mesh.vertices.mean(0)
    a, b, c = (corners - origin).unbind(1)
    volumes = (torch.linalg.cross(a, b) * c).sum(-1)  # six times those of tetrahedra with a corner in the origin
    total = volumes.sum()
    if float(total.abs()) < 1e-6:
        raise InputError("the surface encloses nothing", field="mesh", remedy="give a closed surface in mm")
    return origin + (volumes[:, None] * (a + b + c)).sum(0) / (4 * total)


def coarsened(mesh: Mesh, cell_mm: float) -> Mesh:
    """A surface with one vertex, the mean, for all that lie in one cell of a cubic grid.

    Moving vertices together changes nothing about which edge is run through how often: what was closed stays closed. On a surface
    whose radius of curvature is r it cuts off about ``cell_mm^2 / (8 r)``: at 4 mm and 30 mm, 0.07 mm. A surface that would
    vanish, or a cell of zero, leaves the mesh as it is.
    """
    if cell_mm <= 0:
        return mesh
    points, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    cells = np.floor((points - points.min(0)) / cell_mm).astype(np.int64)
    _, cluster = np.unique(cells, axis=0, return_inverse=True)
    cluster = cluster.reshape(-1)
    count = np.bincount(cluster)
    means = np.stack([np.bincount(cluster, points[:, axis]) / count for axis in range(3)], 1)
    moved = cluster[faces]
    kept = moved[(moved[:, 0] != moved[:, 1]) & (moved[:, 1] != moved[:, 2]) & (moved[:, 2] != moved[:, 0])]
    return Mesh(torch.from_numpy(means), torch.from_numpy(kept), mesh.name) if len(kept) >= 4 else mesh
