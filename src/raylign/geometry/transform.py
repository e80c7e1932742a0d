"""What a registration returns: a transform that applies to points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import se3


def _orthonormal(matrix: Tensor) -> Tensor:
    """The matrix with the nearest rotation in it; the same tensor where it is one to rounding. The gradient passes through."""
    with torch.no_grad():
        r = matrix[:3, :3]
        if float((r.T @ r - torch.eye(3, dtype=r.dtype)).abs().max()) < 1e-12:
            return matrix
        u, _, vh = torch.linalg.svd(r)
        change = torch.zeros_like(matrix)
        change[:3, :3] = u @ vh - r
        change[3] = matrix.new_tensor([0.0, 0.0, 0.0, 1.0]) - matrix[3]
    return matrix + change


@dataclass(frozen=True, eq=False)
class Rigid:
    """A rigid motion ``T_world_from_volume``: patient LPS mm of the model to world mm.

    Parameters
    ----------
    matrix: 4x4, float64. A rotation of few digits (within 1e-4 of orthonormal) is replaced by the nearest one, so that the
        inverse of a pose undoes it to the last digit, however the pose was written.

    Raises
    ------
    InputError: the matrix is singular, sheared, mirrored or not finite.
    """

    matrix: Float[Tensor, "4 4"]

    def __post_init__(self) -> None:
        matrix = torch.as_tensor(self.matrix, dtype=torch.float64)
        if not se3.is_rigid(matrix):
            raise InputError(
                "the 4x4 pose matrix is not rigid (rotation with determinant +1, last row 0 0 0 1)",
                remedy="give T_world_from_volume in millimetres, without scaling, shear or mirroring",
                field="matrix",
            )
        object.__setattr__(self, "matrix", _orthonormal(matrix))

    def apply(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """World mm of points in volume LPS mm."""
        return se3.transform(self.matrix, torch.as_tensor(points, dtype=torch.float64))

    def inverse(self) -> Rigid:
        """``T_volume_from_world``."""
        return Rigid(se3.inverse(self.matrix))
