"""What an X-ray shows of a closed surface: thickness, silhouette, and which point of it each ray meets first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.geometry import View
from raylign.geometry.view import as_views
from raylign.projection import mesh_operator, mesh_reference
from raylign.projection.mesh_surface import Surface, closed_surface
from raylign.projection.rays import pose_matrices, ray_batch, ray_lengths
from raylign.projection.reference import six


class Depth(NamedTuple):
    """What each ray meets first.

    Parameters
    ----------
    distance: [P, V, H, W] mm from where the ray begins, infinite where it meets nothing; float64, differentiable.
    face: [P, V, H, W] the triangle's index in ``mesh.faces``, -1 where there is none.
    """

    distance: Float[Tensor, "P V H W"]
    face: Int64[Tensor, "P V H W"]


@dataclass(frozen=True, eq=False)
class Seen:
    """A mesh and the rays that look at it, in the mesh's millimetres; images are numbered pose by pose, view by view."""

    surface: Surface
    faces: Int64[Tensor, "M 3"]
    vertices: Float[Tensor, "G N 3"]
    rays: Float[Tensor, "B 6 3"]
    views: tuple[View, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of every image."""
        return self.views[0].shape

    @property
    def scene(self) -> tuple[Tensor, Tensor, Tensor, int, int]:
        """What the operations take."""
        return self.rays, self.vertices, self.faces, *self.shape

    def lengths(self) -> Float[Tensor, "V H W"]:
        """mm of every ray."""
        return ray_lengths(self.views, self.rays.device, torch.float64)

    def by_pose(self, images: Tensor) -> Tensor:
        """[B, ...] as [P, V, ...]."""
        return images.unflatten(0, (-1, len(self.views)))


def seen(mesh: Mesh, views: View | Sequence[View], poses: Any = None, vertices: Tensor | None = None) -> Seen:
    """A mesh as rays see it; see ``project_mesh`` for the arguments and the errors."""
    many, matrices, surface = as_views(views), pose_matrices(poses), closed_surface(mesh)
    points = mesh.vertices if vertices is None else torch.as_tensor(vertices)
    fits = points.ndim in (2, 3) and points.shape[-2:] == mesh.vertices.shape
    if not (fits and points.shape[:-2] in ((), (1,), matrices.shape[:1])):
        raise InputError(
            f"vertices of shape {tuple(points.shape)} do not fit {len(mesh.vertices)} vertices and {len(matrices)} poses",
            remedy="give [N, 3], or [P, N, 3] with one set for each pose",
            field="vertices",
        )
    points = points.reshape(-1, *mesh.vertices.shape).to(torch.float64)
    still = torch.eye(4, dtype=torch.float64)
    rays = six(ray_batch(still, many, matrices, points.device).flatten(0, 1))
    return Seen(surface, surface.faces.to(points.device), points, rays, many)


def project_mesh(
    mesh: Mesh,
    views: View | Sequence[View],
    poses: Any = None,
    *,
    vertices: Float[Tensor, "*P N 3"] | None = None,
) -> Float[Tensor, "P V H W"]:
    """Thickness of a closed mesh along every ray of every view under every pose, in mm.

    Parameters
    ----------
    mesh: a closed surface, patient LPS mm. One that is inside out as a whole is turned; several parts and cavities are allowed,
        and where parts overlap they count as often as they do.
    views: one exposure's geometry or several of one shape, cone or parallel beams.
    poses: ``T_world_from_mesh``, [P, 4, 4] or [4, 4], a Rigid or several; the identity where none is given.
    vertices: [N, 3] mm in place of the mesh's own, or [P, N, 3] with one set for each pose. They may require a gradient.

    Returns
    -------
    [P, V, H, W] float32, computed in double precision: mm of each ray, from where it begins to its pixel, that lie inside. A
    source or a detector inside the mesh needs nothing special.

    Differentiable by poses, by vertices and by every number a view is made of, twice. The derivatives are exact wherever no face
    is seen edge-on: thickness falls to zero continuously at an outline.

    Raises
    ------
    InputError: a mesh that is not closed or not wound alike, views of different shapes, poses that are no 4x4 matrices,
        vertices that do not fit the mesh.
    """
    it = seen(mesh, views, poses, vertices)
    # a ray within a face but for rounding meets it anywhere: what it enters last and leaves first is no thickness
    return it.by_pose(mesh_operator.thickness(*it.scene)).clamp_min(0) * it.lengths().to(torch.float32)


def depth(
    mesh: Mesh,
    views: View | Sequence[View],
    poses: Any = None,
    *,
    vertices: Float[Tensor, "*P N 3"] | None = None,
) -> Depth:
    """Distance in mm to what each ray meets first of a closed mesh, and which triangle it is: for occlusion and for picking.

    Arguments and errors are those of ``project_mesh``. A ray that begins inside meets the surface from within. The distance can
    be differentiated as often as wanted; it jumps at outlines, which its derivative does not see.
    """
    it = seen(mesh, views, poses, vertices)
    face = mesh_operator.first(*it.scene)
    there = (face >= 0).reshape(-1).nonzero()[:, 0]
    met = torch.stack([there, face.reshape(-1)[there], torch.ones_like(there)], 1)
    t = mesh_reference.places(met, it.rays, it.vertices, it.faces, it.shape)
    far = torch.full((face.numel(),), math.inf, dtype=torch.float64, device=face.device)
    lengths = it.lengths().expand(it.by_pose(face).shape).reshape(-1)[there]
    return Depth(it.by_pose(far.index_put((there,), t * lengths).reshape(face.shape)), it.by_pose(face))
