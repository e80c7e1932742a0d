"""The mesh projector on the CPU (Numba): what every ray meets, and its derivatives.

``mesh_reference.py`` says what the numbers mean, ``mesh_raster.py`` finds the pixels of a triangle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from raylign.projection.mesh_raster import BAND, Run, Scene, bands, every_image, plane, spans, t_range, within


@njit(cache=True, nogil=True, error_model="numpy")
def _thickness(rays, vertices, faces, points, rows, sign, starts, items, out, first, last):  # type: ignore[no-untyped-def]
    """Sums of signed t into the rows of bands first..last-1 of ``out`` [H, W]."""
    height, width = out.shape
    buffer = np.empty((BAND, width))
    for band in range(first, last):
        top, end = band * BAND, min((band + 1) * BAND, height)
        buffer[:] = 0.0
        for item in range(starts[band], starts[band + 1]):
            f = items[item]
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            p0, p1, p2, q0, q1, q2 = plane(rays, vertices, i, j, k)
            low, high = t_range(points, i, j, k)
            low, high = min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)
            for r in range(max(rows[f, 0], top), min(rows[f, 1], end)):
                a0, a1, s, b0, b1 = spans(points, i, j, k, float(r), width)
                p, q = p0 + r * p2, q0 + r * q2
                line = buffer[r - top]
                s = s * sign
                for c in range(a0, a1):
                    line[c] += s * within((p + c * p1) / (q + c * q1), low, high)
                for c in range(b0, b1):
                    line[c] -= s * within((p + c * p1) / (q + c * q1), low, high)
        for r in range(top, end):
            for c in range(width):
                out[r, c] = buffer[r - top, c]


@njit(cache=True, nogil=True, error_model="numpy")
def _first(rays, vertices, faces, points, rows, sign, starts, items, out, first, last):  # type: ignore[no-untyped-def]
    """The face that each ray of bands first..last-1 hits first with t in [0, 1]; -1 where there is none."""
    height, width = out.shape
    nearest = np.empty((BAND, width))
    for band in range(first, last):
        top, end = band * BAND, min((band + 1) * BAND, height)
        nearest[:] = np.inf
        out[top:end] = -1
        for item in range(starts[band], starts[band + 1]):
            f = items[item]
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            p0, p1, p2, q0, q1, q2 = plane(rays, vertices, i, j, k)
            low, high = t_range(points, i, j, k)
            for r in range(max(rows[f, 0], top), min(rows[f, 1], end)):
                a0, a1, _, b0, b1 = spans(points, i, j, k, float(r), width)
                for c in range(a0, b1 if b1 > b0 else a1):
                    if c >= a1 and c < b0:
                        continue
                    t = within((p0 + r * p2 + c * p1) / (q0 + r * q2 + c * q1), low, high)
                    if t >= 0.0 and t <= 1.0 and t < nearest[r - top, c]:
                        nearest[r - top, c] = t
                        out[r, c] = f


@njit(cache=True, nogil=True, error_model="numpy")
def _moments(rays, vertices, faces, points, rows, sign, weights, out, first, last):  # type: ignore[no-untyped-def]
    """For faces first..last-1 the sums of ``g (1, c, r, t, c t, r t)`` over their hits, ``g = weight * sign / n.d``."""
    width = weights.shape[1]
    for f in range(first, last):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        out[f] = 0.0
        if rows[f, 1] <= rows[f, 0]:
            continue
        p0, p1, p2, q0, q1, q2 = plane(rays, vertices, i, j, k)
        low, high = t_range(points, i, j, k)
        for r in range(rows[f, 0], rows[f, 1]):
            a0, a1, s, b0, b1 = spans(points, i, j, k, float(r), width)
            s = s * sign
            g0, g1, h0, h1 = 0.0, 0.0, 0.0, 0.0
            for c in range(a0, b1 if b1 > b0 else a1):
                if c >= a1 and c < b0:
                    continue
                q = q0 + r * q2 + c * q1
                t = within((p0 + r * p2 + c * p1) / q, low, high)
                if q == 0.0 or t <= 0.0 or t >= 1.0:
                    continue
                g = (s if c < a1 else -s) * weights[r, c] / q
                g0 += g
                g1 += c * g
                h0 += t * g
                h1 += c * t * g
            out[f, 0] += g0
            out[f, 1] += g1
            out[f, 2] += r * g0
            out[f, 3] += h0
            out[f, 4] += h1
            out[f, 5] += r * h0


@njit(cache=True, nogil=True, error_model="numpy")
def _shares(rays, vertices, faces, moments, by_ray, by_vertex):  # type: ignore[no-untyped-def]
    """Adds every face's part to the gradients by the rays [6, 3] and by the vertices [N, 3], in the order of the faces."""
    for f in range(faces.shape[0]):
        m0, m1, m2, m3, m4, m5 = moments[f]
        if m0 == 0.0 and m1 == 0.0 and m2 == 0.0 and m3 == 0.0:
            continue
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        bx, by, bz = vertices[j, 0] - ax, vertices[j, 1] - ay, vertices[j, 2] - az
        cx, cy, cz = vertices[k, 0] - ax, vertices[k, 1] - ay, vertices[k, 2] - az
        n = (by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx)
        size = n[0] * n[0] + n[1] * n[1] + n[2] * n[2]
        if size == 0.0:
            continue
        # where the hits lie, relative to the face's first corner
        px = m0 * (rays[0, 0] - ax) + m1 * rays[4, 0] + m2 * rays[5, 0] + m3 * rays[1, 0] + m4 * rays[2, 0] + m5 * rays[3, 0]
        py = m0 * (rays[0, 1] - ay) + m1 * rays[4, 1] + m2 * rays[5, 1] + m3 * rays[1, 1] + m4 * rays[2, 1] + m5 * rays[3, 1]
        pz = m0 * (rays[0, 2] - az) + m1 * rays[4, 2] + m2 * rays[5, 2] + m3 * rays[1, 2] + m4 * rays[2, 2] + m5 * rays[3, 2]
        second = px * (cy * n[2] - cz * n[1]) + py * (cz * n[0] - cx * n[2]) + pz * (cx * n[1] - cy * n[0])
        third = px * (n[1] * bz - n[2] * by) + py * (n[2] * bx - n[0] * bz) + pz * (n[0] * by - n[1] * bx)
        second /= size
        third /= size
        for x in range(3):
            by_ray[0, x] -= m0 * n[x]
            by_ray[1, x] -= m3 * n[x]
            by_ray[2, x] -= m4 * n[x]
            by_ray[3, x] -= m5 * n[x]
            by_ray[4, x] -= m1 * n[x]
            by_ray[5, x] -= m2 * n[x]
            by_vertex[i, x] += (m0 - second - third) * n[x]
            by_vertex[j, x] += second * n[x]
            by_vertex[k, x] += third * n[x]


@njit(cache=True, nogil=True, error_model="numpy")
def _hits(faces, points, rows, sign, starts, out, hit_faces, hit_signs, fill):  # type: ignore[no-untyped-def]
    """Counts the hits of every pixel into ``out`` [H, W], or, with ``fill``, writes them from where ``starts`` says."""
    width = out.shape[1]
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        for r in range(rows[f, 0], rows[f, 1]):
            a0, a1, s, b0, b1 = spans(points, i, j, k, float(r), width)
            for c in range(a0, b1 if b1 > b0 else a1):
                if c >= a1 and c < b0:
                    continue
                if fill:
                    at = starts[r * width + c] + out[r, c]
                    hit_faces[at] = f
                    hit_signs[at] = sign * (s if c < a1 else -s)
                out[r, c] += 1


def _banded(kernel: Any, scene: Scene, out: NDArray[Any], run: Run) -> None:
    starts, items = bands(scene.rows, out.shape[0], BAND)
    run(lambda a, b: kernel(*scene, starts, items, out, a, b), len(starts) - 1, smallest=1)


def thickness(
    rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"], shape: tuple[int, int]
) -> Float[Tensor, "B H W"]:
    """Sum of signed t: the part of each ray that lies inside; see ``mesh_reference.thickness``."""
    out = torch.empty(rays.shape[0], *shape)
    images = out.numpy()
    every_image(lambda b, scene, run: _banded(_thickness, scene, images[b], run), rays, vertices, faces, shape)
    return out


def first(
    rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"], shape: tuple[int, int]
) -> Int64[Tensor, "B H W"]:
    """The face that each ray hits first; -1 where it hits none."""
    out = torch.empty(rays.shape[0], *shape, dtype=torch.int64)
    images = out.numpy()
    every_image(lambda b, scene, run: _banded(_first, scene, images[b], run), rays, vertices, faces, shape)
    return out


def gradients(
    weights: Float[Tensor, "B H W"], rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"]
) -> tuple[Float[Tensor, "B 6 3"], Float[Tensor, "G N 3"]]:
    """Gradients of ``sum(weights * thickness)`` by rays and vertices; see ``mesh_reference.gradients``."""
    images, groups = rays.shape[0], vertices.shape[0]
    w = weights.detach().to(torch.float64).contiguous().numpy()
    by_ray, by_vertex = np.zeros((images, 6, 3)), np.zeros((images, vertices.shape[1], 3))

    def work(b: int, scene: Scene, run: Run) -> None:
        sums = np.empty((len(scene.faces), 6))
        run(lambda a, z: _moments(*scene, w[b], sums, a, z), len(scene.faces), smallest=1024)
        _shares(scene.rays, scene.vertices, scene.faces, sums, by_ray[b], by_vertex[b])

    every_image(work, rays, vertices, faces, weights.shape[1:])
    return torch.from_numpy(by_ray), torch.from_numpy(by_vertex).unflatten(0, (groups, -1)).sum(1)


def hits(
    rays: Float[Tensor, "B 6 3"], vertices: Float[Tensor, "G N 3"], faces: Int64[Tensor, "M 3"], shape: tuple[int, int]
) -> Int64[Tensor, "K 3"]:
    """Every hit of every line at t > 0: flat pixel of [B, H, W], face, +1 where the ray leaves and -1 where it enters.

    By pixel, then by face.
    """
    found: list[Tensor] = [torch.empty(0)] * rays.shape[0]
    h, w = shape

    def work(b: int, scene: Scene, run: Run) -> None:
        count = np.zeros((h, w), np.int64)
        none = np.empty(0, np.int64)
        _hits(scene.faces, scene.points, scene.rows, scene.sign, none, count, none, none, False)
        starts = np.concatenate([[0], np.cumsum(count.reshape(-1))])
        face, sign = np.empty((2, starts[-1]), np.int64)
        pixel = b * h * w + np.repeat(np.arange(h * w), count.reshape(-1))
        count[:] = 0
        _hits(scene.faces, scene.points, scene.rows, scene.sign, starts, count, face, sign, True)
        found[b] = torch.from_numpy(np.stack([pixel, face, sign], 1))

    every_image(work, rays, vertices, faces, shape)
    return torch.cat(found)
