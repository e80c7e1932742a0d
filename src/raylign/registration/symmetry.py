"""Which rigid motions a model's surface cannot be told from itself under.

A screw without its thread, a cup, a nail, a ball: no image says how far such a model is turned about its axis, and a registration
that states one pose without a word hides that. Symmetries are found from the surface alone (``symmetry_search``), within a
tolerance that is best chosen as what an exposure resolves at the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.geometry import se3
from raylign.registration.symmetry_search import Shape, found_maps

TOLERANCE = 0.3
"""mm: about what a pixel of a C-arm covers at the patient."""

_POINTS = 800  # that stand for the surface
_NEAR = 0.02  # of the model's largest distance from its centre: what need not be exact, as images judge it


@dataclass(frozen=True, eq=False)
class Symmetry:
    """The symmetries of a surface, in its own frame (LPS mm).

    Parameters
    ----------
    centre: of the surface's area; symmetries keep it.
    maps: [K, 4, 4] rigid maps onto itself, the identity first. With ``axis`` or ``ball`` one for each class of maps that the
        free turns leave.
    axis: unit direction of an axis of revolution through the centre, or None.
    ball: whether every turn about the centre is one.
    mirror: [4, 4] of determinant -1, a mirroring that carries the surface nearly onto itself, or None. Every other one is this
        one after one of ``maps`` (and a free turn).
    nearly: unit direction of an axis through the centre, every turn about which nearly is a symmetry (a screw), or None.
    tolerance: mm within which a map counts as a symmetry.
    points, normals: [P, 3] evenly over the surface, and its unit normals there (of either sense).
    """

    centre: Float[Tensor, "3"]
    maps: Float[Tensor, "K 4 4"]
    points: Float[Tensor, "P 3"]
    normals: Float[Tensor, "P 3"]
    axis: Float[Tensor, "3"] | None = None
    ball: bool = False
    mirror: Float[Tensor, "4 4"] | None = None
    nearly: Float[Tensor, "3"] | None = None
    tolerance: float = TOLERANCE

    @property
    def trivial(self) -> bool:
        """Whether nothing but the identity maps the surface onto itself."""
        return len(self.maps) == 1 and self.axis is None and not self.ball

    @property
    def free(self) -> int:
        """Free turns: 0; 1 about an axis; 3 of a ball."""
        return 3 if self.ball else int(self.axis is not None)

    def equivalents(self, turns: int = 1) -> Float[Tensor, "N 4 4"]:
        """Symmetries of the surface: all of them, or ``turns`` evenly spaced of each free turn (of a ball as many in all)."""
        if turns < 1:
            raise InputError(f"{turns} turns", field="turns", remedy="give 1 or more")
        if self.ball:
            from raylign.registration.symmetry_search import rotations

            free = torch.from_numpy(np.concatenate([np.eye(3)[None], rotations(turns)[1:]]))
        elif self.axis is not None:
            free = turned(self.axis, torch.arange(turns, dtype=torch.float64) * (2 * math.pi / turns))
        else:
            return self.maps
        return (self.about_centre(free)[:, None] @ self.maps[None]).flatten(0, 1)

    def about_centre(self, turn: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4 4"]:
        """A rotation about the surface's centre as a map of its frame."""
        out = torch.eye(4, dtype=torch.float64).expand(*turn.shape[:-2], 4, 4).clone()
        out[..., :3, :3] = turn
        out[..., :3, 3] = self.centre - turn @ self.centre
        return out

    @property
    def words(self) -> tuple[str, ...]:
        """What an image cannot tell, in plain sentences; empty where nothing is symmetric."""
        if self.ball:
            return ("the model is a ball: no image tells how it is turned",)
        others = len(self.maps) - 1
        if self.axis is not None:
            said = ["the model is a body of revolution: no image tells how far it is turned about its axis"]
            if others:
                said.append("its two ends are alike: no image tells which is which")
            return tuple(said)
        if not others:
            return ()
        if others == 1:
            degrees = math.degrees(float(se3.log_rotation(self.maps[1, :3, :3]).norm()))
            return (f"the model looks the same after a turn by {degrees:.0f} degrees: no image tells which of the two it is",)
        return (f"the model looks the same after {others} turns: no image tells which of the {others + 1} poses it is",)


def turned(axis: Float[Tensor, "3"], radians: Float[Tensor, " N"]) -> Float[Tensor, "N 3 3"]:
    """Rotations about a unit vector by some angles."""
    return se3.exp(torch.cat([radians[:, None] * axis, torch.zeros(len(radians), 3, dtype=torch.float64)], 1))[:, :3, :3]


def symmetry_of(mesh: Mesh, tolerance: float = TOLERANCE, near: float | None = None) -> Symmetry:
    """The symmetries of a surface.

    Parameters
    ----------
    mesh: any triangles, closed or not; patient LPS mm.
    tolerance: mm that a symmetry may carry the surface off itself, its farthest half percent left aside.
    near: the same of mirrorings and of ``nearly``, which only propose poses for images to judge; by default four tolerances, or
        2 % of the largest distance from the centre where that is more.

    Raises
    ------
    InputError: a tolerance that is not positive, a mesh without area.
    """
    if not 0 < tolerance < math.inf:
        raise InputError(f"{tolerance} mm", field="tolerance", remedy="give what the image resolves at the model, in mm")
    shape = Shape.of(mesh)
    if not len(shape.corners) or not shape.area.sum() > 0:
        raise InputError("the mesh has no area", field="mesh", remedy="export a triangle surface in mm")
    nearly = max(4 * tolerance, _NEAR * shape.radius) if near is None else near
    found = found_maps(shape, tolerance, nearly)
    shift = np.eye(4)
    shift[:3, 3] = shape.centroid
    back = np.linalg.inv(shift)
    placed = [torch.from_numpy(shift @ m @ back) for m in (*found.proper, *found.improper[:1])]
    points, face = shape.spread(_POINTS)
    return Symmetry(
        torch.from_numpy(shape.centroid),
        torch.stack(placed[: len(found.proper)]),
        torch.from_numpy(points + shape.centroid),
        torch.from_numpy(shape.normals[face]),
        None if found.axis is None else torch.from_numpy(np.ascontiguousarray(found.axis)),
        found.ball,
        placed[-1] if found.improper else None,
        None if found.nearly is None else torch.from_numpy(np.ascontiguousarray(found.nearly)),
        tolerance,
    )
