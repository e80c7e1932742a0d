"""What the mesh projector means, in plain PyTorch: slow, differentiable by everything and to any order, float64.

A line hits a triangle where, looked at along it, the triangle's outline winds round it: ``hits``. That is decided from the
signs of numbers that belong to a vertex or to an edge alone, so that the hits of a closed surface cancel on every line whatever
rounding does (``docs/mesh_projector.md``). Everything else is a function of the hits, with ``n`` the face's normal by the
right-hand rule:

    t = n . (v0 - o) / n . d            dt/do = -n / n.d      dt/dd = -t n / n.d      dt/dv_i = lambda_i n / n.d
    thickness = |d| sum of s clamp(t, 0, 1)            s = +1 where n . d > 0 (the ray leaves), -1 where it enters

lambda_i are the barycentric coordinates of the hit. Clamped hits do not move: a mesh that reaches behind the source or beyond the
detector is measured between them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raylign.projection import mesh_rays

_PAIRS_AT_ONCE = 1 << 22


def hits(
    rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"], shape: tuple[int, int]
) -> Int64[Tensor, "K 3"]:
    """Every hit of every pixel's line: flat pixel of [B, H, W], face, +1 where it leaves and -1 where it enters.

    Image b looks at ``vertices[b // (B / G)]``. Ordered by pixel, then by face. Every pixel is tried with every face.
    """
    h, w = shape
    found = []
    for b in range(rays.shape[0]):
        corners = mesh_rays.coordinates(rays[b].detach(), _of_image(vertices, rays, b).detach())[faces]
        sign = mesh_rays.handedness(rays[b])
        rows_at_once = max(1, _PAIRS_AT_ONCE // (w * len(faces)))
        c = torch.arange(w, dtype=rays.dtype, device=rays.device)[None, :, None, None]
        for r in torch.arange(h, dtype=rays.dtype, device=rays.device).split(rows_at_once):
            x, y, wt, _ = corners.unbind(-1)
            turns = winding(x - c * wt, (y - r[:, None, None, None] * wt).expand(-1, w, -1, -1))
            row, column, face = turns.nonzero(as_tuple=True)
            pixel = (b * h + int(r[0]) + row) * w + column
            found.append(torch.stack([pixel, face, turns[row, column, face] * int(sign)], 1))
    return torch.cat(found)


def winding(x: Float[Tensor, "*batch 3"], y: Float[Tensor, "*batch 3"]) -> Int64[Tensor, "*batch"]:
    """How often the triangles with corners (x, y) wind round the origin: -1, 0 or +1 (x to the right, y upwards).

    A side counts where it crosses the line y = 0 to the right of the origin; which side that is, is reckoned from its upper end
    to its lower one for both triangles that share it.
    """
    up = y > 0
    total = torch.zeros(up.shape[:-1], dtype=torch.int64, device=x.device)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        xi, xj, yi, yj = x[..., i], x[..., j], y[..., i], y[..., j]
        xu, xl, yu, yl = (torch.where(up[..., i], a, b) for a, b in ((xi, xj), (xj, xi), (yi, yj), (yj, yi)))
        right = yu * xl - yl * xu > 0
        total += (right & (up[..., i] != up[..., j])) * (up[..., j].long() - up[..., i].long())
    return total


def _of_image(vertices: Tensor, rays: Tensor, b: int) -> Tensor:
    return vertices[b // (rays.shape[0] // vertices.shape[0])]


def places(
    found: Int64[Tensor, "K 3"],
    rays: Float[Tensor, "B 6 3"],
    vertices: Float[Tensor, "G N 3"],
    faces: Int64[Tensor, "M 3"],
    shape: tuple[int, int],
) -> Float[Tensor, " K"]:
    """t of hits, clamped to [0, 1]; differentiable by rays and vertices to any order."""
    h, w = shape
    pixel, face = found[:, 0], found[:, 1]
    b = pixel // (h * w)
    r, c = (pixel // w % h).to(rays.dtype)[:, None], (pixel % w).to(rays.dtype)[:, None]
    group = b // (rays.shape[0] // vertices.shape[0])
    o00, d00, du, dv, ou, ov = rays[b].unbind(1)
    o, d = o00 + c * ou + r * ov, d00 + c * du + r * dv
    v0, v1, v2 = (vertices[group, faces[face, i]] for i in range(3))
    n = torch.linalg.cross(v1 - v0, v2 - v0)
    across = (n * d).sum(1)
    edge_on = across == 0
    t = (n * (v0 - o)).sum(1) / torch.where(edge_on, torch.ones_like(across), across)
    with torch.no_grad():
        # near the edge of a face seen edge-on, rounding must not throw the hit out of the face
        reach = [mesh_rays.coordinates(rays[i], _of_image(vertices, rays, i))[:, 3][faces] for i in range(rays.shape[0])]
        ends = torch.stack(reach)[b, face]
        low, high = ends.min(1).values.clamp(0, 1), ends.max(1).values.clamp(0, 1)
        clamped = torch.where(edge_on, low, torch.minimum(torch.maximum(t, low), high))
        moves = ~edge_on & (clamped > 0) & (clamped < 1)
    return torch.where(moves, t + (clamped - t).detach(), clamped)


def thickness_of(
    found: Int64[Tensor, "K 3"],
    rays: Float[Tensor, "B 6 3"],
    vertices: Float[Tensor, "G N 3"],
    faces: Int64[Tensor, "M 3"],
    shape: tuple[int, int],
) -> Float[Tensor, "B H W"]:
    """The sum of signed t of given hits; differentiable by rays and vertices to any order."""
    t = places(found, rays, vertices, faces, shape)
    image = torch.zeros(rays.shape[0] * shape[0] * shape[1], dtype=t.dtype, device=t.device)
    return image.index_add(0, found[:, 0], t * found[:, 2]).reshape(-1, *shape)


def thickness(
    rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"], shape: tuple[int, int]
) -> Float[Tensor, "B H W"]:
    """The part of each ray, in t, that lies inside a closed surface; times the ray's length it is a thickness in mm."""
    return thickness_of(hits(rays, vertices, faces, shape), rays, vertices, faces, shape)


def first(
    rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"], shape: tuple[int, int]
) -> Int64[Tensor, "B H W"]:
    """The face that each ray hits first with t in [0, 1]; -1 where it hits none."""
    found = hits(rays, vertices, faces, shape)
    t = places(found, rays.detach(), vertices.detach(), faces, shape)
    pixels = rays.shape[0] * shape[0] * shape[1]
    # by pixel, then from near to far, then by face: stable sorts from the last key to the first
    order = t.argsort(stable=True)
    order = order[found[order, 0].argsort(stable=True)]
    order = order[(t[order] > 0) & (t[order] < 1)]
    pixel = found[order, 0]
    begins = torch.ones_like(pixel, dtype=torch.bool)
    begins[1:] = pixel[1:] != pixel[:-1]
    out = torch.full((pixels,), -1, dtype=torch.int64, device=rays.device)
    out[pixel[begins]] = found[order[begins], 1]
    return out.reshape(-1, *shape)


def gradients(
    moments: Float[Tensor, "B M 6"], rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"]
) -> tuple[Float[Tensor, "B 6 3"], Float[Tensor, "G N 3"]]:
    """Gradients by rays and vertices from what the kernels sum for every face over its hits.

    ``moments[b, f]`` is the sum of ``g (1, c, r, t, c t, r t)`` with ``g = weight * s / (n . d)``: all that the derivatives above
    depend on, since a hit's place ``o + t d`` is linear in those six, and its barycentric coordinates in its place.
    """
    groups, images = vertices.shape[0], rays.shape[0]
    corners = vertices[:, faces].repeat_interleave(images // groups, 0)
    v0, v1, v2 = corners.unbind(2)
    n = torch.linalg.cross(v1 - v0, v2 - v0)
    by_ray = -torch.einsum("bmk,bmx->bkx", moments, n)[:, [0, 3, 4, 5, 1, 2]]
    size = n.square().sum(-1, keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    place = moments @ rays[:, [0, 4, 5, 1, 2, 3]] - moments[..., :1] * v0
    second = (place * torch.linalg.cross(v2 - v0, n)).sum(-1, keepdim=True) / size
    third = (place * torch.linalg.cross(n, v1 - v0)).sum(-1, keepdim=True) / size
    shares = torch.stack([moments[..., :1] - second - third, second, third], 2) * n[:, :, None]
    shares = shares.unflatten(0, (groups, -1)).sum(1).flatten(1, 2)
    return by_ray, torch.zeros_like(vertices).index_add(1, faces.reshape(-1), shares)


def coverage(
    uv: Float[Tensor, "B N 2"], faces: Int64[Tensor, "M 3"], shape: tuple[int, int], box: float
) -> Float[Tensor, "B H W"]:
    """Mean over a box of ``box`` pixels about each pixel of n, the number of left-turning faces that cover a point of the image.

    ``uv`` holds the vertices' (column, row). A closed surface covers every point by as many left-turning faces as right-turning
    ones. Summed here over all sides of all left-turning faces (sides between two of them cancel): a side that runs upwards in
    the image adds, at a height y of the box, the share of the box to its right, one that runs downwards takes it away:

        1/box integral over the box's y within the side of clamp((c + box/2 - X(y)) / box, 0, 1) dy

    Differentiable by uv to any order, float64.
    """
    h, w = shape
    half = box / 2
    c = torch.arange(w, dtype=uv.dtype, device=uv.device)[None, :, None]
    images = []
    for points in uv:
        corners = points[faces]
        x, y = corners.unbind(-1)
        area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
        a = corners[area > 0]
        a, b = a.flatten(0, 1), a[:, [1, 2, 0]].flatten(0, 1)
        swap = (a[:, 1] > b[:, 1])[:, None]
        sign = torch.where(swap[:, 0], 1.0, -1.0)
        top, low = torch.where(swap, b, a), torch.where(swap, a, b)
        height = low[:, 1] - top[:, 1]
        flat = height == 0
        slope = (low[:, 0] - top[:, 0]) / torch.where(flat, torch.ones_like(height), height)
        rows = []
        for r in range(h):
            y0 = top[:, 1].clamp(r - half, r + half)
            y1 = low[:, 1].clamp(r - half, r + half)
            # the integrand is linear between y0, y1 and where the edge enters and leaves the box: trapezoids are exact
            x0 = top[:, 0] + (y0 - top[:, 1]) * slope
            z0 = c + half - x0
            dz = -slope * (y1 - y0)
            safe = torch.where(dz == 0, torch.ones_like(dz), dz)
            enter, leave = ((goal - z0) / safe for goal in (0.0, box))
            enter, leave = (torch.where(dz == 0, torch.zeros_like(s), s).clamp(0, 1) for s in (enter, leave))
            knots = torch.stack(
                [torch.zeros_like(enter), torch.minimum(enter, leave), torch.maximum(enter, leave), torch.ones_like(enter)]
            )
            values = ((z0 + knots * dz) / box).clamp(0, 1)
            mean = ((values[1:] + values[:-1]) / 2 * (knots[1:] - knots[:-1])).sum(0)
            rows.append((mean * sign * (y1 - y0) / box).sum(-1))
        images.append(torch.cat(rows))
    return torch.stack(images)
