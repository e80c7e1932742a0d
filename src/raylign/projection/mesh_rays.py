"""Where a mesh lies as the rays of an image see it.

Rays are affine in the pixel (``reference.py``): that of row r, column c is ``o + t d``, t in [0, 1], ``o = o00 + c ou + r ov``,
``d = d00 + c du + r dv``, here in the mesh's own millimetres. Those of a cone beam share their beginning (ou = ov = 0), those of
a parallel beam their direction (du = dv = 0). In both cases a point p has linear coordinates (x, y, w), w the same for all
pixels, such that it lies on the line of pixel (c, r) exactly where ``x = c w`` and ``y = r w``:

    cone       p = o00 + x du + y dv + w d00       at t = w
    parallel   p = o00 + x ou + y ov + t d00       w = 1

A line of pixels thus becomes a point of the projective plane, and nothing needs to be clipped against the source's plane.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError


def is_parallel(rays: Float[Tensor, "6 3"]) -> bool:
    """Whether the rays share their direction rather than their beginning.

    Raises
    ------
    InputError: they share neither.
    """
    common_source = not bool(rays[4:].any())
    if not common_source and bool(rays[2:4].any()):
        raise InputError("the rays share neither their beginning nor their direction", field="rays")
    return not common_source


def frame(rays: Float[Tensor, "6 3"], parallel: bool | None = None) -> Float[Tensor, "3 3"]:
    """The three vectors that carry (x, y, w) of a cone beam, (x, y, t) of a parallel one, as columns."""
    _, d00, du, dv, ou, ov = rays.unbind(0)
    along = is_parallel(rays) if parallel is None else parallel
    return torch.stack([ou, ov, d00] if along else [du, dv, d00], 1)


def coordinates(rays: Float[Tensor, "6 3"], vertices: Float[Tensor, "N 3"], parallel: bool | None = None) -> Float[Tensor, "N 4"]:
    """(x, y, w, t) of points in the rays' frame, differentiable by both; ``parallel`` saves a look at the rays."""
    along = is_parallel(rays) if parallel is None else parallel
    xyz = (vertices - rays[0]) @ torch.linalg.inv(frame(rays, along)).T
    w = torch.ones_like(xyz[:, 2]) if along else xyz[:, 2]
    return torch.stack([xyz[:, 0], xyz[:, 1], w, xyz[:, 2]], 1)


def handedness(rays: Float[Tensor, "6 3"]) -> float:
    """+1 where the frame is right-handed, -1 where it is not: whether a face that turns left in the image faces the detector."""
    return 1.0 if float(torch.linalg.det(frame(rays.detach()))) > 0 else -1.0
