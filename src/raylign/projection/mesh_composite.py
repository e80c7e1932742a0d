"""Implants and instruments in a rendered X-ray: a volume and closed meshes of one attenuation each in one exposure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Mesh, Volume
from raylign.errors import InputError
from raylign.geometry import View
from raylign.projection import mesh_operator, mesh_reference, operator
from raylign.projection.mesh import Seen, seen
from raylign.projection.project import project
from raylign.projection.rays import checked_step, default_step, pose_matrices, ray_batch
from raylign.projection.reference import six
from raylign.projection.storage import numbers


@dataclass(frozen=True, eq=False)
class Solid:
    """A body of one material, an implant or an instrument.

    Parameters
    ----------
    mesh: its closed surface, mm.
    attenuation: of its material in 1/mm at the effective energy of the volume's attenuation (70 keV where that was HU); a number,
        or a tensor without axes that may require a gradient.
    poses: ``T_world_from_mesh``, [P, 4, 4], [4, 4], a Rigid or several; None for one that moves with the volume, its
        mesh given in the volume's LPS mm (an implant in the patient).
    vertices: in place of the mesh's own, as ``project_mesh`` takes them.

    Raises
    ------
    InputError: an attenuation that is no finite number of at least zero.
    """

    mesh: Mesh
    attenuation: float | Tensor
    poses: Any = None
    vertices: Tensor | None = None

    def __post_init__(self) -> None:
        value = torch.as_tensor(self.attenuation)
        if value.ndim != 0 or not bool(torch.isfinite(value.detach()) and value.detach() >= 0):
            raise InputError(
                f"an attenuation of {self.attenuation}", field="attenuation", remedy="give 1/mm, 0.24 for titanium at 70 keV, say"
            )


def composite(
    volume: Volume,
    solids: Solid | Sequence[Solid],
    views: View | Sequence[View],
    poses: Any = None,
    *,
    replace: bool = True,
    step: float | None = None,
) -> Float[Tensor, "P V H W"]:
    """Line integrals of a volume with solid bodies in it.

    Parameters
    ----------
    volume: attenuation in 1/mm, or HU.
    solids: the bodies; where two overlap, both attenuate and both displace.
    views: one exposure's geometry or several of one shape.
    poses: ``T_world_from_volume`` of the volume, as ``project`` takes them.
    replace: whether a body displaces what the volume holds at its place: the volume's integral over each ray's stretches inside
        is taken away. Otherwise the body's attenuation is added to the volume's, which is right for one given relative to its
        surroundings, and for one in air.
    step: mm between samples, on whole rays and within bodies; half the smallest voxel pitch where none is given.

    Returns
    -------
    [P, V, H, W] float32, dimensionless. Differentiable by the poses of all, by views, vertices, attenuations and by the volume.

    Raises
    ------
    InputError: as ``project`` and ``project_mesh``; numbers of poses that do not fit each other.
    """
    bodies = (solids,) if isinstance(solids, Solid) else tuple(solids)
    matrices = pose_matrices(poses)
    image = project(volume, views, matrices, step=step)
    for body in bodies:
        own = matrices if body.poses is None else pose_matrices(body.poses)
        if len(own) not in (1, len(matrices)):
            raise InputError(
                f"{len(own)} poses of a solid for {len(matrices)} of the volume", field="poses", remedy="give one, or as many"
            )
        it = seen(body.mesh, views, own.expand(len(matrices), 4, 4), body.vertices)
        thickness = it.by_pose(mesh_operator.thickness(*it.scene)) * it.lengths().to(torch.float32)
        image = image + torch.as_tensor(body.attenuation) * thickness.to(image.dtype)
        if replace:
            image = image - inside(volume, matrices, it, step).to(image.dtype)
    return image


def inside(volume: Volume, poses: Float[Tensor, "P 4 4"], it: Seen, step: float | None = None) -> Float[Tensor, "P V H W"]:
    """The volume's line integrals over the stretches of each ray that lie inside a mesh, however often.

    Between two hits of a ray it is inside where more hits leave than enter from there on. Each stretch is integrated by samples
    at the middles of equal parts of at most ``step`` mm, the same model as ``project``'s. Differentiable as ``composite``.
    """
    spacing = float(default_step(volume)) if step is None else checked_step(step)
    data, scale = numbers(volume)
    pixel, begin, end = stretches(it)
    h, w = it.shape
    image, r, c = pixel // (h * w), (pixel // w % h).to(begin.dtype), (pixel % w).to(begin.dtype)
    o00, d00, du, dv, ou, ov = six(ray_batch(volume.affine, it.views, poses, data.device).flatten(0, 1))[image].unbind(1)
    o, d = o00 + c[:, None] * ou + r[:, None] * ov, d00 + c[:, None] * du + r[:, None] * dv
    part, still = (end - begin)[:, None], torch.zeros_like(d)
    rays = torch.stack([o + begin[:, None] * d, part * d, still, still], 1)
    lengths = part[:, 0] * it.lengths().expand(len(poses), -1, -1, -1).reshape(-1)[pixel]
    total = torch.zeros(len(it.rays) * h * w, dtype=torch.float64, device=data.device)
    if len(pixel):
        counts = (lengths.detach() / spacing).ceil().clamp_min(1).long().tolist()
        integrals = operator.integrals(data, rays, (1, 1), counts)[:, 0, 0].to(torch.float64)
        total = total.index_add(0, pixel, integrals * lengths)
    return it.by_pose(total.reshape(-1, h, w)) * (1.0 if scale is None else scale)


def stretches(it: Seen) -> tuple[Tensor, Tensor, Tensor]:
    """Flat pixel, begin and end (in t) of every stretch of a ray inside the mesh, differentiable by rays and vertices."""
    found = mesh_operator.hits(*it.scene)
    t = mesh_reference.places(found, it.rays, it.vertices, it.faces, it.shape)
    order = t.detach().argsort(stable=True)
    order = order[found[order, 0].argsort(stable=True)]
    found, t = found[order], t[order]
    pixel, sign = found[:, 0], found[:, 2]
    first = torch.ones_like(pixel, dtype=torch.bool)
    first[1:] = pixel[1:] != pixel[:-1]
    # hits that leave less hits that enter from each hit on, on its own ray: from behind, so that a ray may begin inside
    behind = sign.flip(0).cumsum(0).flip(0)
    last = torch.cat([first[1:], first.new_ones(1)]) if len(first) else first
    after = torch.cat([behind[1:], behind.new_zeros(1)]) if len(behind) else behind
    ray = first.cumsum(0) - 1
    inner = behind - after[last][ray] > 0
    begin = torch.where(first, torch.zeros_like(t), torch.cat([t[:1], t[:-1]]))
    keep = inner & (t.detach() > begin.detach())
    return pixel[keep], begin[keep], t[keep]
