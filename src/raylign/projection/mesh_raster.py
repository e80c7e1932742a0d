"""Triangles as rows of an image see them: which pixels each covers, and where its plane is hit (Numba).

``mesh_reference.py`` says what the numbers mean, ``docs/mesh_projector.md`` why no hit is lost at a shared edge. In short: a
vertex is above or below a row, an edge crosses it where one end is above and one below, and the crossing's column is computed
from the upper to the lower end, the same numbers in the same order for both triangles of the edge. A triangle covers the pixels
between its two crossings. Whatever rounding does to a crossing, it does to both sides of it.

Threads: bands of rows (forward) or runs of faces (backward) are handed to the pool of ``threads.py``. A pixel is summed by one
thread in the order of the faces, a face by one thread in the order of its pixels: results do not depend on the thread count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from raylign.projection import mesh_rays
from raylign.projection.threads import run_chunks, threads

BAND = 16  # rows that one task fills
_SLACK = 1e-6  # pixels; how far rounding may move a crossing beyond the ends of its edge

Run = Callable[..., None]


class Scene(NamedTuple):
    """One image's rays and what the kernels derive from them."""

    rays: NDArray[np.float64]  # [6, 3]
    vertices: NDArray[np.float64]  # [N, 3]
    faces: NDArray[np.int64]  # [M, 3]
    points: NDArray[np.float64]  # [N, 6] x, y, w, t, column, row
    rows: NDArray[np.int32]  # [M, 2] rows that a face may cover, first and end
    sign: float


@njit(cache=True, nogil=True, error_model="numpy")
def _coordinates(begin, inverse, parallel, vertices, out, first, last):  # type: ignore[no-untyped-def]
    """(x, y, w, t) of vertices first..last-1, and their pixel x / w, y / w; see ``mesh_rays.coordinates``."""
    for v in range(first, last):
        a, b, c = vertices[v, 0] - begin[0], vertices[v, 1] - begin[1], vertices[v, 2] - begin[2]
        x = inverse[0, 0] * a + inverse[0, 1] * b + inverse[0, 2] * c
        y = inverse[1, 0] * a + inverse[1, 1] * b + inverse[1, 2] * c
        t = inverse[2, 0] * a + inverse[2, 1] * b + inverse[2, 2] * c
        w = 1.0 if parallel else t
        out[v, 0] = x
        out[v, 1] = y
        out[v, 2] = w
        out[v, 3] = t
        out[v, 4] = x / w
        out[v, 5] = y / w


@njit(cache=True, nogil=True, error_model="numpy")
def _rows(points, faces, width, height, out, first, last):  # type: ignore[no-untyped-def]
    """Rows that faces first..last-1 may cover: none for a face that lies beside the image, between pixels or at no t > 0."""
    for f in range(first, last):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        out[f, 0] = 0
        out[f, 1] = 0
        if max(points[i, 3], points[j, 3], points[k, 3]) <= 0.0:
            continue
        if min(points[i, 2], points[j, 2], points[k, 2]) <= 0.0:
            out[f, 1] = height  # it reaches behind the source: its image may be anywhere
            continue
        a, b, c = points[i, 4], points[j, 4], points[k, 4]
        low, high = max(min(a, b, c) - _SLACK, 0.0), min(max(a, b, c) + _SLACK, width - 1.0)
        if not np.ceil(low) <= high:
            continue
        a, b, c = points[i, 5], points[j, 5], points[k, 5]
        low, high = max(min(a, b, c) - _SLACK, 0.0), min(max(a, b, c) + _SLACK, height - 1.0)
        if np.ceil(low) <= high:
            out[f, 0] = int(np.ceil(low))
            out[f, 1] = int(high) + 1


@njit(cache=True, nogil=True)
def bands(rows, height, band):  # type: ignore[no-untyped-def]
    """The faces of every band of rows in their order: band b has ``items[starts[b]:starts[b + 1]]``."""
    count = (height + band - 1) // band
    starts = np.zeros(count + 1, np.int64)
    for f in range(rows.shape[0]):
        if rows[f, 1] > rows[f, 0]:
            for b in range(rows[f, 0] // band, (rows[f, 1] - 1) // band + 1):
                starts[b + 1] += 1
    for b in range(count):
        starts[b + 1] += starts[b]
    items = np.empty(starts[count], np.int32)
    at = starts[:-1].copy()
    for f in range(rows.shape[0]):
        if rows[f, 1] > rows[f, 0]:
            for b in range(rows[f, 0] // band, (rows[f, 1] - 1) // band + 1):
                items[at[b]] = f
                at[b] += 1
    return starts, items


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def _crossing(points, up, low, fu, fl, width):  # type: ignore[no-untyped-def]
    """Where an edge crosses a row, always reckoned from its upper end.

    Returns (k, behind): the pixels on the edge's one side are those below column k, or, where the crossing lies behind the
    source, those from k on.
    """
    s = fu / (fu - fl)
    x = points[up, 0] + s * (points[low, 0] - points[up, 0])
    w = points[up, 2] + s * (points[low, 2] - points[up, 2])
    at = x / w
    behind = not w > 0.0
    k = 0
    if behind:
        if at >= width:
            k = width
        elif at >= 0.0:
            k = int(at) + 1
    elif at > width - 1.0:
        k = width
    elif at > 0.0:
        k = int(np.ceil(at))
    return k, behind


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def spans(points, i, j, k, r, width):  # type: ignore[no-untyped-def]
    """Pixels of row r that a triangle covers: [a0, a1) with sign a, [b0, b1) with sign -a; the second is seldom there."""
    fi = points[i, 1] - r * points[i, 2]
    fj = points[j, 1] - r * points[j, 2]
    fk = points[k, 1] - r * points[k, 2]
    ui, uj, uk = fi > 0.0, fj > 0.0, fk > 0.0
    if ui == uj and uj == uk:
        return 0, 0, 0.0, 0, 0
    down, down_behind, rise, rise_behind = 0, False, 0, False
    if ui and not uj:
        down, down_behind = _crossing(points, i, j, fi, fj, width)
    elif uj and not ui:
        rise, rise_behind = _crossing(points, j, i, fj, fi, width)
    if uj and not uk:
        down, down_behind = _crossing(points, j, k, fj, fk, width)
    elif uk and not uj:
        rise, rise_behind = _crossing(points, k, j, fk, fj, width)
    if uk and not ui:
        down, down_behind = _crossing(points, k, i, fk, fi, width)
    elif ui and not uk:
        rise, rise_behind = _crossing(points, i, k, fi, fk, width)
    low, high = min(down, rise), max(down, rise)
    if down_behind == rise_behind:
        return low, high, 1.0 if (down < rise) != down_behind else -1.0, 0, 0
    sign = -1.0 if rise_behind else 1.0
    return 0, low, sign, high, width


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def plane(rays, vertices, i, j, k):  # type: ignore[no-untyped-def]
    """``t = (p0 + c p1 + r p2) / (q0 + c q1 + r q2)`` of the hits with a face's plane: ``n . (v0 - o) / n . d``."""
    ax, ay, az = vertices[i, 0], vertices[i, 1], vertices[i, 2]
    bx, by, bz = vertices[j, 0] - ax, vertices[j, 1] - ay, vertices[j, 2] - az
    cx, cy, cz = vertices[k, 0] - ax, vertices[k, 1] - ay, vertices[k, 2] - az
    nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    p0 = nx * (ax - rays[0, 0]) + ny * (ay - rays[0, 1]) + nz * (az - rays[0, 2])
    p1 = -(nx * rays[4, 0] + ny * rays[4, 1] + nz * rays[4, 2])
    p2 = -(nx * rays[5, 0] + ny * rays[5, 1] + nz * rays[5, 2])
    q0 = nx * rays[1, 0] + ny * rays[1, 1] + nz * rays[1, 2]
    q1 = nx * rays[2, 0] + ny * rays[2, 1] + nz * rays[2, 2]
    q2 = nx * rays[3, 0] + ny * rays[3, 1] + nz * rays[3, 2]
    return p0, p1, p2, q0, q1, q2


@njit(cache=True, nogil=True, inline="always")
def within(t, low, high):  # type: ignore[no-untyped-def]
    """t between low and high; low where a face seen edge-on gives no number."""
    t = t if t > low else low
    return t if t < high else high


@njit(cache=True, nogil=True, inline="always")
def t_range(points, i, j, k):  # type: ignore[no-untyped-def]
    ti, tj, tk = points[i, 3], points[j, 3], points[k, 3]
    return min(ti, tj, tk), max(ti, tj, tk)


def alone(work: Any, total: int, smallest: int = 1) -> None:
    work(0, total)


def scene_of(rays: Tensor, vertices: Tensor, faces: NDArray[np.int64], shape: tuple[int, int], run: Run) -> Scene:
    begin, inverse, corners = rays[0].numpy(), torch.linalg.inv(mesh_rays.frame(rays)).numpy(), vertices.numpy()
    parallel, points = mesh_rays.is_parallel(rays), np.empty((len(corners), 6))
    run(lambda a, b: _coordinates(begin, inverse, parallel, corners, points, a, b), len(corners), smallest=4096)
    rows = np.empty((len(faces), 2), np.int32)
    run(lambda a, b: _rows(points, faces, shape[1], shape[0], rows, a, b), len(faces), smallest=4096)
    return Scene(rays.numpy(), corners, faces, points, rows, mesh_rays.handedness(rays))


def every_image(work: Callable[[int, Scene, Run], None], rays: Tensor, vertices: Tensor, faces: Tensor, shape: Any) -> None:
    """``work(b, scene, run)`` for each image b; several images share the threads whole, few are divided among them."""
    images, index = rays.shape[0], np.ascontiguousarray(faces.numpy())
    rays = rays.detach().to(torch.float64).contiguous()
    vertices = vertices.detach().to(torch.float64).contiguous()
    views = images // vertices.shape[0]

    def one(b: int, run: Run) -> None:
        work(b, scene_of(rays[b], vertices[b // views], index, shape, run), run)

    def several(a: int, b: int) -> None:
        for image in range(a, b):
            one(image, alone)

    if images >= 2 * threads():
        run_chunks(several, images, smallest=1)
    else:
        for b in range(images):
            one(b, run_chunks)
