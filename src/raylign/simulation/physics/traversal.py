"""Millimetres of every material on the rays of a batch of exposures of resident patients, by the renderer. On any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raylign.errors import InputError
from raylign.projection import operator
from raylign.simulation.physics import pairs_cpu
from raylign.simulation.physics.materials import Matter


def lengths(rays: Float[Tensor, "B 6 3"], shape: tuple[int, int]) -> Float[Tensor, "B H W"]:
    """Length of every ray (``View.ray_lengths`` of a batch), float32."""
    d, du, dv = rays[:, 1], rays[:, 2], rays[:, 3]
    c = torch.arange(shape[1], dtype=rays.dtype, device=rays.device)[None, None, :]
    r = torch.arange(shape[0], dtype=rays.dtype, device=rays.device)[None, :, None]

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1)[:, None, None]

    rows = dot(d, d) + r * (2 * dot(d, dv) + r * dot(dv, dv))
    return (rows + c * (2 * dot(d, du) + c * dot(du, du)) + (c * r) * (2 * dot(du, dv))).sqrt().to(torch.float32)


def traversed(
    matters: Sequence[Matter],
    index: Sequence[int] | Int64[Tensor, " B"],
    rays: Float[Tensor, "B 6 3"],
    poses: Float[Tensor, "B 4 4"],
    shape: tuple[int, int],
) -> dict[str, Float[Tensor, "B H W"]]:
    """mm of each material that any of the patients holds.

    Integrals of the trilinear interpolant over the planes of voxels that a ray is steepest to (Joseph 1982): one sample a voxel,
    one pass for water and bone on the CPU.

    Parameters
    ----------
    matters: resident patients, on one device.
    index: which of them each exposure shows.
    rays: ``View.ray_vectors`` of each exposure, world mm.
    poses: ``T_world_from_volume`` of each.
    shape: (rows, columns).

    Raises
    ------
    InputError: an index without a patient, patients on several devices.
    """
    which = index.tolist() if isinstance(index, Tensor) else list(index)
    if not matters or min(which) < 0 or max(which) >= len(matters):
        raise InputError(f"an index beyond the {len(matters)} patients", field="index", remedy="count from 0")
    device = matters[which[0]].device
    if any(matters[i].device != device for i in which):
        raise InputError("patients on several devices", field="matters", remedy="move them to one")
    rays, poses = rays.detach().to("cpu", torch.float64), poses.detach().to("cpu", torch.float64)
    mm = lengths(rays, shape).to(device)
    cones = not bool(rays[:, 4:].any())
    out: dict[str, Tensor] = {}
    for s in sorted(set(which)):
        rows = [b for b, i in enumerate(which) if i == s]
        inverse = torch.linalg.inv(poses[rows] @ matters[s].affine.to("cpu"))
        turned = rays[rows] @ inverse[:, :3, :3].transpose(1, 2)
        turned[:, 0] += inverse[:, :3, 3]
        turned = (turned[:, :4] if cones else turned).contiguous().to(device)
        for name, part in _integrals(matters[s], turned, shape).items():
            if len(rows) == len(which):
                out[name] = part * mm
                continue
            if name not in out:
                out[name] = torch.zeros_like(mm)
            out[name][rows] = part * mm[rows]
    return out


def _integrals(matter: Matter, rays: Float[Tensor, "B n 3"], shape: tuple[int, int]) -> dict[str, Float[Tensor, "B H W"]]:
    """``int dt`` over t in [0, 1] of each material, rays in voxel coordinates."""
    out: dict[str, Tensor] = {}
    if rays.device.type == "cpu":
        out["water"], out["bone"] = pairs_cpu.integrals(matter.pair, rays, shape)
    unused = torch.ones(len(rays), dtype=torch.int64, device=rays.device)
    for name, data in matter.amounts.items():
        if name not in out:
            out[name] = operator.integrals(data, rays, shape, unused, "joseph")
    return out
