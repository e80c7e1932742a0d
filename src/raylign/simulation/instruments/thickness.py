"""What instruments put in the way of every ray: mm of each material, for a batch of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.geometry.view import as_views
from raylign.projection import mesh_operator, mesh_rays
from raylign.projection.rays import pose_matrices
from raylign.simulation.instruments.parts import Body, Placed
from raylign.simulation.instruments.pieces import pieces


def instrument_paths(
    instruments: Sequence[Sequence[Placed]],
    views: View | Sequence[View],
    poses: Any = None,
    *,
    device: str | torch.device | None = None,
) -> dict[str, Float[Tensor, "B H W"]]:
    """mm of every material that the instruments put on every ray.

    Parameters
    ----------
    instruments: for each of B images what lies in its beam; an empty list for nothing.
    views: B geometries of one shape in world mm, or one for all.
    poses: [B, 4, 4] or [4, 4] by which the instruments are moved into the world first: ``T_world_from_volume`` for implants
        that are given in the patient's mm; they stay where they are where none is given.
    device: of the result; that of the views where none is given.

    Returns
    -------
    {material: [B, H, W] float32 mm, at the density of the material's table}, of the materials that occur, by name. A pixel's
    value is a mean over its area. Parts that overlap all count. Chords of curves lie within
    3 % of a detector's pixel of them (0.01 to 0.1 mm); bodies are sampled at four points a pixel.

    Raises
    ------
    InputError: numbers of images, views and poses that do not fit each other; views of different shapes.
    """
    many = as_views(views)
    count = len(instruments)
    moves = None if poses is None else pose_matrices(poses).cpu()
    if len(many) not in (1, count) or (moves is not None and len(moves) not in (1, count)):
        raise InputError(
            f"instruments for {count} images, {len(many)} views, {0 if moves is None else len(moves)} poses do not fit",
            remedy="give one list of instruments, one view and one pose an image",
            field="instruments",
        )
    where = many[0].origin.device if device is None else torch.device(device)
    many = tuple(many) * (count if len(many) == 1 else 1)
    if moves is not None:
        moves = moves.expand(count, 4, 4)
        instruments = [[it.moved(move) for it in some] for some, move in zip(instruments, moves, strict=True)]
    materials = sorted({name for some in instruments for it in some for name in it.instrument.materials})
    if not materials:
        return {}
    shape = (len(materials), *many[0].shape)
    out = _curves(instruments, many, materials, shape, where)
    _add_bodies(instruments, many, materials, out)
    out.clamp_min_(0)  # a tube is a difference: at the ends of its hole a rounding below nothing may be left
    return {name: out[:, i] for i, name in enumerate(materials)}


def instrument_mask(paths: Mapping[str, Float[Tensor, "B H W"]], least_mm: float = 0.0) -> Bool[Tensor, "B H W"]:
    """Where instruments lie: pixels with more than ``least_mm`` mm of anything.

    Raises
    ------
    InputError: no material, so that there is no image.
    """
    if not paths:
        raise InputError("nothing lies in the beam, so that there is no image of it", field="paths")
    return torch.stack(list(paths.values())).sum(0) > least_mm


def _curves(
    instruments: Sequence[Sequence[Placed]],
    views: Sequence[View],
    materials: Sequence[str],
    shape: tuple[int, int, int],
    device: torch.device,
) -> Float[Tensor, "B C H W"]:
    # chords within a small part of a pixel, each image by its own, so that a batch is its images one by one
    near = [min(max(0.03 * min(view.pixel_spacing), 0.01), 0.1) for view in views]
    what = pieces([[tube for it in some for tube in it.tubes(mm)] for some, mm in zip(instruments, near, strict=True)], materials)
    if not len(what.numbers):
        return torch.zeros(len(views), *shape, device=device)
    rays = torch.stack([view.ray_vectors.detach().to("cpu") for view in views])
    parallel = [view.beam == "parallel" for view in views]
    inverse = torch.linalg.inv(torch.stack([mesh_rays.frame(r, p) for r, p in zip(rays, parallel, strict=True)]))
    if device.type == "cpu":
        from raylign.simulation.instruments import cylinders_cpu

        return cylinders_cpu.draw(rays, inverse, parallel, what, shape, torch.float32)
    from raylign.simulation.instruments import cylinders_torch

    return cylinders_torch.draw(rays.to(device), inverse.to(device), parallel, what, shape).to(torch.float32)


def _add_bodies(
    instruments: Sequence[Sequence[Placed]], views: Sequence[View], materials: Sequence[str], out: Float[Tensor, "B C H W"]
) -> None:
    """Adds the bodies of each image: those of one material and filling together, as one surface of several parts."""
    for image, some in enumerate(instruments):
        groups: dict[tuple[str, float], list[tuple[Tensor, Tensor]]] = {}
        for it in some:
            for part in it.instrument.fixed:
                if isinstance(part, Body):
                    vertices = se3.transform(it.pose, part.mesh.vertices)
                    groups.setdefault((part.material, part.fill), []).append((vertices, part.mesh.faces))
        if not groups:
            continue
        rays, parallel = views[image].ray_vectors.detach().cpu(), views[image].beam == "parallel"
        # NumPy inverts a matrix of three in a sixth of PyTorch's time
        inverse = np.linalg.inv(mesh_rays.frame(rays, parallel).numpy())
        for (material, fill), meshes in groups.items():
            vertices, faces = _merged(meshes)
            x, y, t = ((vertices - rays[0]).numpy() @ inverse.T).T
            where = _reach(x, y, np.ones_like(t) if parallel else t, out.shape[2:])
            if where is not None:
                _add_surface(out[image, materials.index(material)], (rays, vertices, faces), where, fill)


def _reach(
    x: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[slice, slice] | None:
    """Rows and columns that points of the projective plane enclose; all where some lie behind the source; None where none do."""
    if not w.min() > 0:
        return slice(0, shape[0]), slice(0, shape[1])
    out = []
    for at, n in ((y / w, shape[0]), (x / w, shape[1])):
        low, high = max(math.floor(max(at.min(), -1.0)), 0), min(math.ceil(min(at.max(), n + 0.0)) + 1, n)
        if low >= high:
            return None
        out.append(slice(low, high))
    return out[0], out[1]


def _add_surface(
    out: Float[Tensor, "H W"], scene: tuple[Tensor, Tensor, Tensor], where: tuple[slice, slice], fill: float
) -> None:
    """Adds the thickness of a closed surface, sampled at two by two points a pixel of a part of the image.

    ``scene`` holds the rays [6, 3] of the whole image, vertices [N, 3] in the world, and faces.
    """
    (rays, vertices, faces), (rows, columns) = scene, where
    size = 2 * (rows.stop - rows.start), 2 * (columns.stop - columns.start)
    # half pixels of the part: the first lies a quarter pixel before its first pixel's centre
    o, d, du, dv, ou, ov = rays.unbind(0)
    c, r = columns.start - 0.25, rows.start - 0.25
    fine = torch.stack([o + c * ou + r * ov, d + c * du + r * dv, du / 2, dv / 2, ou / 2, ov / 2]).to(out.device)
    t = mesh_operator.thickness(fine[None], vertices[None].to(out.device), faces.to(out.device), *size)[0]
    i, j = (torch.arange(n, dtype=torch.float64, device=out.device) for n in size)
    lengths = (fine[1] + j[None, :, None] * fine[2] + i[:, None, None] * fine[3]).norm(dim=2)
    # edges that lie on a sample's line may leave a rounding below nothing
    mm = (t * lengths.to(torch.float32)).clamp_min(0)
    mm = (mm[0::2, 0::2] + mm[0::2, 1::2] + mm[1::2, 0::2] + mm[1::2, 1::2]) / 4
    out[rows, columns] += fill * mm


def _merged(meshes: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    counts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    faces = [f + int(shift) for (_, f), shift in zip(meshes, counts[:-1], strict=True)]
    return torch.cat([v for v, _ in meshes]), torch.cat(faces)
