"""Area coverage on the CPU: how much of a box about each pixel the layers of a projected surface fill (Numba).

``mesh_reference.coverage`` says what is computed. Only the contour counts, the edges between a face that turns left in the image
and one that turns right: a row's coverage is the running sum of what its contour edges add, and the derivative is an integral
along them (``docs/mesh_projector.md``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from raylign.projection.mesh_raster import BAND, Run, alone
from raylign.projection.threads import run_chunks, threads


@njit(cache=True, nogil=True)
def _contour(uv, faces, edges, box, height, width):  # type: ignore[no-untyped-def]
    """Contour edges whose boxes may meet the image or lie to its left, each as its left-turning face runs through it: [K, 2]."""
    left = np.empty(faces.shape[0], np.bool_)
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay = uv[i, 0], uv[i, 1]
        left[f] = (uv[j, 0] - ax) * (uv[k, 1] - ay) - (uv[j, 1] - ay) * (uv[k, 0] - ax) > 0.0
    out = np.empty((edges.shape[0], 2), np.int64)
    count = 0
    for e in range(edges.shape[0]):
        if left[edges[e, 2]] == left[edges[e, 3]]:
            continue
        a, b = edges[e, 0], edges[e, 1]
        if not left[edges[e, 2]]:
            a, b = b, a
        if max(uv[a, 1], uv[b, 1]) < -box / 2 or min(uv[a, 1], uv[b, 1]) > height - 1 + box / 2:
            continue
        if min(uv[a, 0], uv[b, 0]) > width - 1 + box / 2:
            continue
        out[count, 0] = a
        out[count, 1] = b
        count += 1
    return out[:count]


@njit(cache=True, nogil=True, inline="always")
def _ramp(z, box):  # type: ignore[no-untyped-def]
    """The integral of ``clamp(z / box, 0, 1)`` from 0 to z."""
    if z <= 0.0:
        return 0.0
    return z * z / (2 * box) if z < box else z - box / 2


@njit(cache=True, nogil=True)
def _fill(uv, contour, box, out, first, last):  # type: ignore[no-untyped-def]
    """Coverage of the rows of bands first..last-1 of ``out`` [H, W]."""
    height, width = out.shape
    half = box / 2
    change = np.empty((BAND, width))
    for band in range(first, last):
        top, end = band * BAND, min((band + 1) * BAND, height)
        change[:] = 0.0
        for e in range(contour.shape[0]):
            ax, ay = uv[contour[e, 0], 0], uv[contour[e, 0], 1]
            bx, by = uv[contour[e, 1], 0], uv[contour[e, 1], 1]
            sign = 1.0 if ay > by else -1.0
            if ay > by:
                ax, ay, bx, by = bx, by, ax, ay
            if by <= top - half or ay >= end - 1 + half or ay == by:
                continue
            slope = (bx - ax) / (by - ay)
            for r in range(max(top, int(np.ceil(max(ay - half, 0.0)))), min(end, int(min(by + half, height + 0.0)) + 1)):
                y0, y1 = max(ay, r - half), min(by, r + half)
                if y1 <= y0:
                    continue
                full = sign * (y1 - y0) / box
                x0, x1 = ax + (y0 - ay) * slope, ax + (y1 - ay) * slope
                low, high = min(x0, x1), max(x0, x1)
                if low >= width - 1 + half:
                    continue
                c0 = int(max(low - half, 0.0))
                c1 = max(c0, int(np.ceil(min(max(high + half, 0.0), width - 1.0))))
                before = 0.0
                for c in range(c0, c1 + 1):
                    z0, z1 = c + half - high, c + half - low
                    if z0 >= box:
                        value = full
                    elif high - low > 1e-6 * box:
                        value = full * (_ramp(z1, box) - _ramp(z0, box)) / (high - low)
                    else:
                        value = full * min(max((z0 + z1) / (2 * box), 0.0), 1.0)
                    change[r - top, c] += value - before
                    before = value
        for r in range(top, end):
            total = 0.0
            for c in range(width):
                total += change[r - top, c]
                out[r, c] = total


@njit(cache=True, nogil=True, inline="always")
def _cut(a, b, low, high, t0, t1):  # type: ignore[no-untyped-def]
    """The part of [t0, t1] in which ``a + t (b - a)`` lies between low and high; empty (1, 0) where there is none."""
    if a == b:
        return (t0, t1) if low < a < high else (1.0, 0.0)
    p, q = (low - a) / (b - a), (high - a) / (b - a)
    return max(t0, min(p, q)), min(t1, max(p, q))


@njit(cache=True, nogil=True)
def _pull(uv, contour, box, weights, out, first, last):  # type: ignore[no-untyped-def]
    """Sums over pixels of ``weight * integral of (1 - t) and of t`` along the part of edges first..last-1 in the pixel's box."""
    height, width = weights.shape
    half = box / 2
    for e in range(first, last):
        ax, ay = uv[contour[e, 0], 0], uv[contour[e, 0], 1]
        bx, by = uv[contour[e, 1], 0], uv[contour[e, 1], 1]
        near, far = 0.0, 0.0
        r0 = int(np.ceil(min(max(min(ay, by) - half, 0.0), height + 0.0)))
        r1 = int(np.floor(max(min(max(ay, by) + half, height - 1.0), -1.0)))
        for r in range(r0, r1 + 1):
            s0, s1 = _cut(ay, by, r - half, r + half, 0.0, 1.0)
            if s1 <= s0:
                continue
            x0, x1 = ax + s0 * (bx - ax), ax + s1 * (bx - ax)
            c0 = int(np.ceil(min(max(min(x0, x1) - half, 0.0), width + 0.0)))
            c1 = int(np.floor(max(min(max(x0, x1) + half, width - 1.0), -1.0)))
            for c in range(c0, c1 + 1):
                t0, t1 = _cut(ax, bx, c - half, c + half, s0, s1)
                if t1 > t0:
                    second = (t1 * t1 - t0 * t0) / 2
                    near += weights[r, c] * (t1 - t0 - second)
                    far += weights[r, c] * second
        out[e, 0] = near
        out[e, 1] = far


@njit(cache=True, nogil=True)
def _push(uv, contour, box, sums, out):  # type: ignore[no-untyped-def]
    """Adds every edge's part to the gradient by the projected vertices [N, 2]: it moves along its outward normal."""
    for e in range(contour.shape[0]):
        a, b = contour[e, 0], contour[e, 1]
        nx, ny = (uv[b, 1] - uv[a, 1]) / (box * box), (uv[a, 0] - uv[b, 0]) / (box * box)
        out[a, 0] += sums[e, 0] * nx
        out[a, 1] += sums[e, 0] * ny
        out[b, 0] += sums[e, 1] * nx
        out[b, 1] += sums[e, 1] * ny


def _every_image(work: Any, images: int) -> None:
    """``work(b, run)`` for each image: many images share the threads whole, few are divided among them."""

    def several(a: int, b: int) -> None:
        for image in range(a, b):
            work(image, alone)

    if images >= 2 * threads():
        run_chunks(several, images, smallest=1)
    else:
        for b in range(images):
            work(b, run_chunks)


def coverage(
    uv: Float[Tensor, "B N 2"], faces: Int64[Tensor, "M 3"], edges: Int64[Tensor, "E 4"], shape: tuple[int, int], box: float
) -> Float[Tensor, "B H W"]:
    """Mean number of layers over a box of ``box`` pixels about each pixel; see ``mesh_reference.coverage``."""
    out = torch.empty(uv.shape[0], *shape)
    images, points, f, e = out.numpy(), _points(uv), faces.numpy(), edges.numpy()

    def work(b: int, run: Run) -> None:
        contour = _contour(points[b], f, e, box, *shape)
        run(lambda a, z: _fill(points[b], contour, box, images[b], a, z), -(-shape[0] // BAND), smallest=1)

    _every_image(work, uv.shape[0])
    return out


def coverage_gradient(
    weights: Float[Tensor, "B H W"],
    uv: Float[Tensor, "B N 2"],
    faces: Int64[Tensor, "M 3"],
    edges: Int64[Tensor, "E 4"],
    box: float,
) -> Float[Tensor, "B N 2"]:
    """Gradient of ``sum(weights * coverage)`` by the projected vertices."""
    w, points, f, e = weights.detach().to(torch.float64).contiguous().numpy(), _points(uv), faces.numpy(), edges.numpy()
    out = np.zeros(points.shape)

    def work(b: int, run: Run) -> None:
        contour = _contour(points[b], f, e, box, *w.shape[1:])
        sums = np.empty((len(contour), 2))
        run(lambda a, z: _pull(points[b], contour, box, w[b], sums, a, z), len(contour), smallest=64)
        _push(points[b], contour, box, sums, out[b])

    _every_image(work, len(points))
    return torch.from_numpy(out)


def _points(uv: Tensor) -> NDArray[np.float64]:
    return uv.detach().to(torch.float64).contiguous().numpy()
