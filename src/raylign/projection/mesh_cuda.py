"""The mesh projector on CUDA: faces and contour edges sorted into tiles by PyTorch, tiles filled by ``mesh_triton.py``.

What the numbers mean is in ``mesh_reference.py``. Sorting waits for the device once a call, to learn how many pairs of a tile and
a face there are; CUDA graphs cannot record it. With ``TRITON_INTERPRET=1`` set before Triton is first imported the same kernels
run on CPU tensors, slowly: for tests.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from raylign.errors import InputError
from raylign.projection import mesh_reference

_ROWS, _COLUMNS = 16, 16  # pixels of a tile, powers of two; not measured on a device yet
_SLACK = 1e-6  # pixels; how far rounding may move a crossing beyond the ends of its edge
_OPTIONS = {"ROWS": _ROWS, "COLUMNS": _COLUMNS, "num_warps": 4, "enable_fp_fusion": False}


class _Tiles(NamedTuple):
    """Pairs of a tile and an item that may touch it, by tile and then by item."""

    starts: Int64[Tensor, " T"]  # of every tile of every image, and the end
    items: Int64[Tensor, " E"]
    keys: Int64[Tensor, " E"]  # image times tiles plus tile


class _Scene(NamedTuple):
    """Every face of every image, and the tiles they touch."""

    table: Float[Tensor, "BM 17"]
    signs: Float[Tensor, " B"]
    tiles: _Tiles


def kernels() -> ModuleType:
    """The module with the Triton kernels.

    Raises
    ------
    InputError: Triton is not installed.
    """
    try:
        from raylign.projection import mesh_triton
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "triton":
            raise
        raise InputError(
            "projecting on a GPU needs Triton, which is not installed",
            remedy="install PyTorch's CUDA build, which brings it along, or pip install triton",
        ) from error
    return mesh_triton


def _device(at: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(at.device) if at.device.type == "cuda" else nullcontext()


def _tiles(
    image: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], images: int, shape: tuple[int, int]
) -> _Tiles:
    """Items of an image, each with its first and last row and column (float64, empty where the last is below the first)."""
    h, w = shape
    down, across = -(-h // _ROWS), -(-w // _COLUMNS)
    there = (rows[0].ceil() <= rows[1]) & (columns[0].ceil() <= columns[1]) & (rows[1] >= 0) & (columns[1] >= 0)
    there = there & (rows[0] <= h - 1) & (columns[0] <= w - 1)
    r0, r1 = ((x.clamp(0, h - 1).floor().long()) // _ROWS for x in rows)
    c0, c1 = ((x.clamp(0, w - 1).floor().long()) // _COLUMNS for x in columns)
    wide = c1 - c0 + 1
    count = torch.where(there, (r1 - r0 + 1) * wide, 0)
    item = torch.repeat_interleave(torch.arange(len(image), device=image.device), count)
    within = torch.arange(len(item), device=image.device) - (count.cumsum(0) - count)[item]
    row, column = r0[item] + within // wide[item], c0[item] + within % wide[item]
    key = (image[item] * down + row) * across + column
    keys, order = key.sort(stable=True)
    edges = torch.arange(images * down * across + 1, device=image.device)
    return _Tiles(torch.searchsorted(keys, edges), item[order], keys)


def _scene(rays: Tensor, vertices: Tensor, faces: Tensor, shape: tuple[int, int]) -> _Scene:
    rays, vertices = rays.detach().to(torch.float64), vertices.detach().to(torch.float64)
    images, h, w = rays.shape[0], *shape
    o00, d00, du, dv, ou, ov = rays.unbind(1)
    cone = (rays[:, 4:].abs().amax((1, 2)) == 0)[:, None]
    x, y = torch.where(cone, du, ou), torch.where(cone, dv, ov)
    across = torch.stack([torch.linalg.cross(y, d00), torch.linalg.cross(d00, x), torch.linalg.cross(x, y)], 1)
    volume = (across[:, 2] * d00).sum(1)
    corners = vertices.repeat_interleave(images // vertices.shape[0], 0)
    # one vertex at a time and term by term: a vertex must come out the same wherever it stands
    off = (corners - o00[:, None])[:, :, None]
    parts = off * (across / volume[:, None, None])[:, None]
    xyt = parts[..., 0] + parts[..., 1] + parts[..., 2]
    t = xyt[..., 2]
    points = torch.stack([xyt[..., 0], xyt[..., 1], torch.where(cone, t, torch.ones_like(t))], -1)[:, faces]
    reach = t[:, faces]
    v0, v1, v2 = corners[:, faces].unbind(2)
    n = torch.linalg.cross(v1 - v0, v2 - v0)

    def along(v: Tensor) -> Tensor:
        return (n * v[:, None]).sum(-1)

    p0 = (n * (v0 - o00[:, None])).sum(-1)
    plane = [p0, -along(ou), -along(ov), along(d00), along(du), along(dv)]
    table = torch.cat([points.flatten(2), torch.stack([*plane, reach.amin(-1), reach.amax(-1)], -1)], -1).flatten(0, 1)
    return _Scene(table.contiguous(), volume.sign(), _face_tiles(points, reach, images, (h, w)))


def _face_tiles(points: Tensor, reach: Tensor, images: int, shape: tuple[int, int]) -> _Tiles:
    """Faces where they may be seen; one that reaches behind the source may be anywhere, one at no t > 0 is nowhere."""
    h, w = shape
    depth = points[..., 2]
    behind = (depth <= 0).any(-1)
    safe = torch.where(behind[..., None], torch.ones_like(depth), depth)
    bounds = []
    for axis, size in ((1, h), (0, w)):
        at = points[..., axis] / safe
        low, high = at.amin(-1) - _SLACK, (at.amax(-1) + _SLACK).clamp_max(size - 1)
        low, high = low.clamp_min(0), torch.where(reach.amax(-1) > 0, high, torch.full_like(high, -1.0))
        low = torch.where(behind, torch.zeros_like(low), low)
        high = torch.where(behind & (high >= 0), torch.full_like(high, size - 1.0), high)
        high = torch.where(behind & (reach.amax(-1) > 0), torch.full_like(high, size - 1.0), high)
        bounds.append((low.flatten(), high.flatten()))
    image = torch.arange(images, device=points.device).repeat_interleave(points.shape[1])
    return _tiles(image, bounds[0], bounds[1], images, shape)


def _met(rays: Tensor, vertices: Tensor, faces: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Kernel over all tiles: thickness for float32, the first face for int64."""
    scene = _scene(rays, vertices, faces, shape)
    out = torch.empty((rays.shape[0], *shape), dtype=dtype, device=rays.device)
    programs = len(scene.tiles.starts) - 1
    with _device(rays):
        kernels().meet_tiles[(programs,)](
            scene.table,
            scene.tiles.items,
            scene.tiles.starts,
            scene.signs,
            out,
            len(faces),
            *shape,
            FIRST=dtype == torch.int64,
            **_OPTIONS,
        )
    return out


def thickness(
    rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"], shape: tuple[int, int]
) -> Float[Tensor, "B H W"]:
    """Sum of signed t: the part of each ray that lies inside; see ``mesh_reference.thickness``."""
    return _met(rays, vertices, faces, shape, torch.float32)


def first(
    rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"], shape: tuple[int, int]
) -> Int64[Tensor, "B H W"]:
    """The face that each ray hits first; -1 where it hits none."""
    return _met(rays, vertices, faces, shape, torch.int64)


def gradients(
    weights: Float[Tensor, "B H W"], rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"]
) -> tuple[Float[Tensor, "B 6 3"], Float[Tensor, "G N 3"]]:
    """Gradients of ``sum(weights * thickness)`` by rays and vertices; see ``mesh_reference.gradients``."""
    rays, vertices = rays.detach().to(torch.float64), vertices.detach().to(torch.float64)
    shape = (weights.shape[1], weights.shape[2])
    scene = _scene(rays, vertices, faces, shape)
    w = weights.detach().to(torch.float64).contiguous()
    pairs = len(scene.tiles.items)
    sums = torch.empty((pairs, 6), dtype=torch.float64, device=rays.device)
    if pairs:
        with _device(rays):
            kernels().gather_moments[(pairs,)](
                scene.table, scene.tiles.items, scene.tiles.keys, scene.signs, w, sums, *shape, **_OPTIONS
            )
    moments = sums.new_zeros((len(scene.table), 6)).index_add_(0, scene.tiles.items, sums)
    return mesh_reference.gradients(moments.unflatten(0, (rays.shape[0], -1)), rays, vertices, faces)


class _Contour(NamedTuple):
    image: Int64[Tensor, " K"]
    ends: Int64[Tensor, "K 2"]
    places: Float[Tensor, "K 4"]


def _contour(uv: Tensor, faces: Tensor, edges: Tensor) -> _Contour:
    """Contour edges of every image as their left-turning faces run through them."""
    x, y = uv[:, faces].unbind(-1)
    area = (x[..., 1] - x[..., 0]) * (y[..., 2] - y[..., 0]) - (y[..., 1] - y[..., 0]) * (x[..., 2] - x[..., 0])
    left: Bool[Tensor, "B M"] = area > 0
    here, there = left[:, edges[:, 2]], left[:, edges[:, 3]]
    image, edge = (here != there).nonzero(as_tuple=True)
    ends = torch.where(here[image, edge][:, None], edges[edge, :2], edges[edge][:, [1, 0]])
    return _Contour(image, ends, torch.cat([uv[image, ends[:, 0]], uv[image, ends[:, 1]]], 1).contiguous())


def _contour_tiles(contour: _Contour, box: float, images: int, shape: tuple[int, int], whole_rows: bool) -> _Tiles:
    a, b = contour.places[:, :2], contour.places[:, 2:]
    low, high = torch.minimum(a, b) - box / 2, torch.maximum(a, b) + box / 2
    # what lies to the right of an edge is covered by it
    end = torch.full_like(high[:, 0], shape[1] - 1.0) if whole_rows else high[:, 0]
    begin = low[:, 0].clamp_min(0) if whole_rows else low[:, 0]
    return _tiles(contour.image, (low[:, 1].floor(), high[:, 1]), (begin.floor(), end), images, shape)


def coverage(
    uv: Float[Tensor, "B N 2"], faces: Int64[Tensor, "M 3"], edges: Int64[Tensor, "E 4"], shape: tuple[int, int], box: float
) -> Float[Tensor, "B H W"]:
    """Mean number of layers over a box of ``box`` pixels about each pixel; see ``mesh_reference.coverage``."""
    uv = uv.detach().to(torch.float64)
    contour = _contour(uv, faces, edges)
    tiles = _contour_tiles(contour, box, len(uv), shape, whole_rows=True)
    out = torch.empty((len(uv), *shape), device=uv.device)
    size = torch.full((1,), box, dtype=torch.float64, device=uv.device)
    with _device(uv):
        kernels().cover_tiles[(len(tiles.starts) - 1,)](contour.places, tiles.items, tiles.starts, out, size, *shape, **_OPTIONS)
    return out


def coverage_gradient(
    weights: Float[Tensor, "B H W"],
    uv: Float[Tensor, "B N 2"],
    faces: Int64[Tensor, "M 3"],
    edges: Int64[Tensor, "E 4"],
    box: float,
) -> Float[Tensor, "B N 2"]:
    """Gradient of ``sum(weights * coverage)`` by the projected vertices."""
    uv, w = uv.detach().to(torch.float64), weights.detach().to(torch.float64).contiguous()
    contour = _contour(uv, faces, edges)
    shape = (w.shape[1], w.shape[2])
    tiles = _contour_tiles(contour, box, len(uv), shape, whole_rows=False)
    sums = torch.empty((len(tiles.items), 2), dtype=torch.float64, device=uv.device)
    size = torch.full((1,), box, dtype=torch.float64, device=uv.device)
    if len(sums):
        with _device(uv):
            kernels().gather_edges[(len(sums),)](contour.places, tiles.items, tiles.keys, w, sums, size, *shape, **_OPTIONS)
    by_edge = sums.new_zeros((len(contour.image), 2)).index_add_(0, tiles.items, sums)
    along = (contour.places[:, 2:] - contour.places[:, :2]) / box**2
    outward = torch.stack([along[:, 1], -along[:, 0]], 1)
    out = torch.zeros_like(uv)
    for end in (0, 1):
        out.index_put_((contour.image, contour.ends[:, end]), by_edge[:, end : end + 1] * outward, accumulate=True)
    return out
