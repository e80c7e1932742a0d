"""A triangle surface."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from raylign.errors import InputError


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh in patient LPS mm.

    Parameters
    ----------
    vertices: [N, 3] mm.
    faces: [M, 3] vertex indices.
    name: the structure.

    Raises
    ------
    InputError: no faces, an index out of range, coordinates that are not finite.
    """

    vertices: Float[Tensor, "N 3"]
    faces: Integer[Tensor, "M 3"]
    name: str = ""

    def __post_init__(self) -> None:
        vertices = torch.as_tensor(self.vertices, dtype=torch.float64)
        faces = torch.as_tensor(self.faces, dtype=torch.int64)
        if faces.ndim != 2 or faces.shape[1:] != (3,) or faces.shape[0] == 0:
            raise InputError("the mesh has no faces", field="faces", remedy="export a triangle surface, not points")
        if vertices.ndim != 2 or vertices.shape[1] != 3 or not bool(torch.isfinite(vertices).all()):
            raise InputError("the mesh's vertices are not finite 3D points", field="vertices")
        if int(faces.min()) < 0 or int(faces.max()) >= vertices.shape[0]:
            raise InputError("a face names a vertex that does not exist", field="faces")
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)
