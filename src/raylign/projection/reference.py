"""What the projector means, in plain PyTorch: slow, differentiable by everything, any precision, any device.

Rays. Those of an image are affine in the pixel: the ray of row r, column c is ``o + t d``, t in [0, 1], with
``o = o00 + c ou + r ov`` and ``d = d00 + c du + r dv`` in voxel coordinates (x = column i, y = row j, z = slice k; voxel centres
at integers). ``rays[b]`` stacks ``o00, d00, du, dv`` and, where the rays do not share one source (parallel beams), ``ou, ov``.

Models of the volume between its voxels, and what is summed for ``I = int V(o + t d) dt``:

``trilinear``  the trilinear interpolant, extended by zeros: it falls to zero within one voxel beyond its outermost centres. The
               mean over the fixed positions ``t = (n + 1/2) / N``, n = 0 .. N - 1.
``joseph``     the same interpolant, at the crossings of the ray with the planes of voxel centres that it is steepest to: axis a
               of the largest ``|d_a|`` (the first such), ``t_k = (k - o_a) / d_a``, weight ``1 / |d_a|`` (Joseph 1982).
``siddon``     voxels are boxes of constant value, [i - 1/2, i + 1/2] along each axis; the sum is exact (Siddon 1985).

Every model is linear in the volume. The slopes ``S0 = dI/do`` and ``S1 = dI/dd`` of a ray are the exact derivatives of that sum
and just as linear. All are zero for a ray that misses.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError

Model = Literal["trilinear", "joseph", "siddon"]
MODELS: tuple[str, ...] = get_args(Model)

_RAYS_AT_ONCE = 4096  # memory stays small, and so does the graph
_SAMPLES_AT_ONCE = 32


def checked_model(model: str) -> str:
    """The name of a model.

    Raises
    ------
    InputError: no such model.
    """
    if model not in MODELS:
        raise InputError(f"no interpolation model {model!r}", field="model", remedy=f"use one of {', '.join(MODELS)}")
    return model


def six(rays: Float[Tensor, "B n 3"]) -> Float[Tensor, "B 6 3"]:
    """Rays with their origin's column and row step: zeros where the four vectors of a common source were given."""
    if rays.shape[1] == 6:
        return rays
    return torch.cat([rays, rays.new_zeros(rays.shape[0], 2, 3)], 1)


def spread(rays: Float[Tensor, "B n 3"], shape: tuple[int, int]) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W 3"]]:
    """Origin and direction of every pixel's ray."""
    h, w = shape
    c = torch.arange(w, dtype=rays.dtype, device=rays.device)[None, None, :, None]
    r = torch.arange(h, dtype=rays.dtype, device=rays.device)[None, :, None, None]
    o00, d00, du, dv, ou, ov = (v[:, None, None, :] for v in six(rays).unbind(1))
    return o00 + c * ou + r * ov, d00 + c * du + r * dv


def sample(volume: Float[Tensor, "D H W"], points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """The trilinear interpolant at voxel coordinates (x = column, y = row, z = slice); zero outside."""
    size = torch.tensor([volume.shape[2], volume.shape[1], volume.shape[0]], device=points.device)
    base = points.detach().floor()
    fraction = (points - base).to(volume.dtype)
    index = base.long()
    total = torch.zeros(points.shape[:-1], dtype=volume.dtype, device=volume.device)
    for corner in range(8):
        bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1], device=points.device)
        at = index + bits
        inside = ((at >= 0) & (at < size)).all(-1)
        x, y, z = torch.minimum(at.clamp_min(0), size - 1).unbind(-1)
        weight = torch.where(bits.bool(), fraction, 1 - fraction).prod(-1)
        total = total + torch.where(inside, volume[z, y, x] * weight, torch.zeros_like(weight))
    return total


def _trilinear(volume: Tensor, o: Tensor, d: Tensor, samples: int) -> Tensor:
    total = torch.zeros(o.shape[0], dtype=volume.dtype, device=volume.device)
    for t in ((torch.arange(samples, dtype=o.dtype, device=o.device) + 0.5) / samples).split(_SAMPLES_AT_ONCE):
        total = total + sample(volume, o + t[:, None, None] * d).sum(0)
    return total / samples


def _joseph(volume: Tensor, o: Tensor, d: Tensor) -> Tensor:
    total = torch.zeros(o.shape[0], dtype=volume.dtype, device=volume.device)
    steepest = d.detach().abs().argmax(1)
    for axis in range(3):
        mine = (steepest == axis).nonzero()[:, 0]
        oa, da = o[mine], d[mine]
        part = torch.zeros(len(mine), dtype=volume.dtype, device=volume.device)
        for k in torch.arange(volume.shape[2 - axis], dtype=o.dtype, device=o.device).split(_SAMPLES_AT_ONCE):
            t = (k[:, None] - oa[:, axis]) / da[:, axis]
            points = oa + t[..., None] * da
            # rounding must not move a point off its plane
            points = torch.cat(
                [k[:, None, None].expand(-1, len(mine), 1) if a == axis else points[..., a : a + 1] for a in range(3)], -1
            )
            part = part + torch.where((t >= 0) & (t <= 1), sample(volume, points), 0.0).sum(0)
        total = total.index_add(0, mine, part / da[:, axis].abs().to(volume.dtype))
    return total


def _siddon(volume: Tensor, o: Tensor, d: Tensor) -> Tensor:
    size = torch.tensor([volume.shape[2], volume.shape[1], volume.shape[0]], device=o.device)
    ends = torch.tensor([0.0, 1.0], dtype=o.dtype, device=o.device).expand(o.shape[0], 2)
    crossings = [ends]
    for axis in range(3):
        faces = torch.arange(int(size[axis]) + 1, dtype=o.dtype, device=o.device) - 0.5
        flat = d[:, axis : axis + 1] == 0
        t = (faces - o[:, axis : axis + 1]) / torch.where(flat, torch.ones_like(d[:, axis : axis + 1]), d[:, axis : axis + 1])
        crossings.append(torch.where(flat, torch.zeros_like(t), t).clamp(0, 1))
    t = torch.cat(crossings, 1).sort(1).values
    middle = ((t[:, 1:] + t[:, :-1]) / 2).detach()
    index = (o.detach()[:, None] + middle[..., None] * d.detach()[:, None] + 0.5).floor().long()
    inside = ((index >= 0) & (index < size)).all(-1)
    x, y, z = torch.minimum(index.clamp_min(0), size - 1).unbind(-1)
    lengths = (t[:, 1:] - t[:, :-1]).to(volume.dtype)
    return torch.where(inside, volume[z, y, x], torch.zeros((), dtype=volume.dtype, device=volume.device)).mul(lengths).sum(1)


def along(
    volume: Float[Tensor, "D H W"], o: Float[Tensor, "N 3"], d: Float[Tensor, "N 3"], samples: int, model: str = "trilinear"
) -> Float[Tensor, " N"]:
    """``int V(o + t d) dt`` over [0, 1] for rays given one by one; ``samples`` concerns the trilinear model alone."""
    checked_model(model)
    parts = []
    for oo, dd in zip(o.split(_RAYS_AT_ONCE), d.split(_RAYS_AT_ONCE), strict=True):
        if model == "trilinear":
            parts.append(_trilinear(volume, oo, dd, samples))
        else:
            parts.append(_joseph(volume, oo, dd) if model == "joseph" else _siddon(volume, oo, dd))
    return torch.cat(parts)


def integrals(
    volume: Float[Tensor, "D H W"],
    rays: Float[Tensor, "B n 3"],
    shape: tuple[int, int],
    samples: list[int],
    model: str = "trilinear",
) -> Float[Tensor, "B H W"]:
    """``int V(o + t d) dt`` over [0, 1] for every pixel of every view; ``samples`` holds N of each view."""
    origins, directions = spread(rays, shape)
    images = [
        along(volume, o.reshape(-1, 3), d.reshape(-1, 3), n, model).reshape(shape)
        for o, d, n in zip(origins, directions, samples, strict=True)
    ]
    return torch.stack(images)


def jacobian(
    volume: Float[Tensor, "D H W"],
    rays: Float[Tensor, "B n 3"],
    shape: tuple[int, int],
    samples: list[int],
    model: str = "trilinear",
) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B H W 6"]]:
    """The integrals and the slopes (S0, S1 by voxel axes x, y, z) of every ray, both differentiable by the volume."""
    images, slopes = [], []
    for o, d, n in zip(*spread(rays.detach(), shape), samples, strict=True):
        o = o.reshape(-1, 3).requires_grad_()
        d = d.reshape(-1, 3).requires_grad_()
        with torch.enable_grad():
            image = along(volume, o, d, n, model)
            s0, s1 = torch.autograd.grad(image.sum(), (o, d), create_graph=True)
        images.append(image.reshape(shape))
        slopes.append(torch.cat([s0, s1], 1).reshape(*shape, 6).to(volume.dtype))
    return torch.stack(images), torch.stack(slopes)


def adjoint(
    weights: Float[Tensor, "B H W"],
    slope_weights: Float[Tensor, "B H W 6"] | None,
    rays: Float[Tensor, "B n 3"],
    samples: list[int],
    size: tuple[int, int, int],
    model: str = "trilinear",
) -> Float[Tensor, "D H W"]:
    """The transpose of the map V -> (I, S0, S1) applied to one weight for each of its seven numbers a ray."""
    _, h, w = weights.shape
    volume = torch.zeros(size, dtype=weights.dtype, device=weights.device, requires_grad=True)
    image, slopes = jacobian(volume, rays, (h, w), samples, model)
    total = (image * weights).sum()
    if slope_weights is not None:
        total = total + (slopes * slope_weights).sum()
    return torch.autograd.grad(total, volume)[0]
