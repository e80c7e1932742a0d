"""The soft silhouette of a closed mesh: the share of a box about each pixel that its image fills."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.geometry import View
from raylign.projection import mesh_operator, mesh_rays
from raylign.projection.mesh import Seen, seen


def silhouette(
    mesh: Mesh,
    views: View | Sequence[View],
    poses: Any = None,
    *,
    softness: float = 1.0,
    vertices: Float[Tensor, "*P N 3"] | None = None,
) -> Float[Tensor, "P V H W"]:
    """Where a closed mesh casts a shadow: 1 inside its outline, 0 outside, and between them by area.

    Parameters
    ----------
    softness: width in pixels of the square about each pixel's centre whose covered share is returned. 1 is the pixel itself,
        that is, an antialiased mask; more widens the reach of the gradient; 0 asks each pixel's centre only and has no gradient.

    The other arguments are those of ``project_mesh``.

    Returns
    -------
    [P, V, H, W] float32 in [0, 1], ``min(1, mean over the square of the number of layers of the surface that face the source)``.
    Differentiable once by poses, vertices and views, exactly. Where one layer lies behind another within the square of an
    outline pixel, the area of both counts (``docs/mesh_projector.md``).

    Raises
    ------
    InputError: as ``project_mesh``; a softness below zero; with softness, a mesh that reaches behind the source or beyond the
        detector.
    """
    if not (math.isfinite(softness) and softness >= 0):
        raise InputError(f"a softness of {softness} pixels is no width", field="softness", remedy="give 0 or more")
    it = seen(mesh, views, poses, vertices)
    if softness == 0:
        return it.by_pose((mesh_operator.thickness(*it.scene).detach() > 0).to(torch.float32))
    points = _places(it)
    if not torch.compiler.is_compiling():
        t = points[..., 3].detach()
        if not (float(t.min()) > 0 and float(t.max()) < 1):
            raise InputError(
                "the mesh is not wholly between the source and the detector, so that its outline has no image",
                field="softness",
                remedy="use softness=0, or move the mesh",
            )
    uv = points[..., :2] / points[..., 2:3]
    layers = mesh_operator.coverage(uv, it.faces, it.surface.edges.to(uv.device), *it.shape, softness)
    return it.by_pose(layers.clamp(0, 1))


def _places(it: Seen) -> Float[Tensor, "B N 4"]:
    """(x, y, w, t) of the vertices in every image; see ``mesh_rays``."""
    each, beams = len(it.rays) // len(it.vertices), [view.beam == "parallel" for view in it.views]
    return torch.stack(
        [
            mesh_rays.coordinates(rays, it.vertices[b // each], parallel=beams[b % len(beams)])
            for b, rays in enumerate(it.rays.unbind(0))
        ]
    )
