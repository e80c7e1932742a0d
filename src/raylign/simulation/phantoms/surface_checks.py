"""Whether a surface runs through itself: an exact test of every pair of triangles that lie near each other."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from raylign.data import Mesh

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def self_intersections(mesh: Mesh) -> int:
    """How many triangles are crossed by an edge of another triangle with which they share no vertex.

    0 for an embedded surface. Triangles that only touch in a plane are not counted.
    """
    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    corners = vertices[faces]
    low, high = corners.min(1), corners.max(1)
    cell = max(float(np.percentile(high - low, 90)) * 1.5, 1e-6)
    origin = vertices.min(0)
    a, b = ((v - origin) // cell for v in (low, high))
    a, b = a.astype(np.int64), b.astype(np.int64)
    shape = b.max(0) + 1
    cells, owners = _cells(a, b, shape)
    order = np.argsort(cells, kind="stable")
    return int(_crossed(np.ascontiguousarray(corners), faces, low, high, cells[order], owners[order]).sum())


@njit(cache=True, nogil=True)
def _cells(a: I64, b: I64, shape: I64) -> tuple[I64, I64]:
    """The cells of a lattice that each triangle's box touches, and the triangle, one row a pair."""
    count = 0
    for n in range(len(a)):
        count += (b[n, 0] - a[n, 0] + 1) * (b[n, 1] - a[n, 1] + 1) * (b[n, 2] - a[n, 2] + 1)
    cells, owners = np.empty(count, np.int64), np.empty(count, np.int64)
    at = 0
    for n in range(len(a)):
        for i in range(a[n, 0], b[n, 0] + 1):
            for j in range(a[n, 1], b[n, 1] + 1):
                for k in range(a[n, 2], b[n, 2] + 1):
                    cells[at], owners[at] = (i * shape[1] + j) * shape[2] + k, n
                    at += 1
    return cells, owners


@njit(cache=True, nogil=True)
def _pierced(p: F64, q: F64, t: F64) -> bool:
    """Whether the segment p q passes through the inside of the triangle t [3, 3] (Moeller and Trumbore 1997)."""
    d, e, f = q - p, t[1] - t[0], t[2] - t[0]
    h0, h1, h2 = d[1] * f[2] - d[2] * f[1], d[2] * f[0] - d[0] * f[2], d[0] * f[1] - d[1] * f[0]
    det = e[0] * h0 + e[1] * h1 + e[2] * h2
    if abs(det) < 1e-14:
        return False
    s = p - t[0]
    u = (s[0] * h0 + s[1] * h1 + s[2] * h2) / det
    if u <= 0 or u >= 1:
        return False
    g0, g1, g2 = s[1] * e[2] - s[2] * e[1], s[2] * e[0] - s[0] * e[2], s[0] * e[1] - s[1] * e[0]
    v = (d[0] * g0 + d[1] * g1 + d[2] * g2) / det
    if v <= 0 or u + v >= 1:
        return False
    w = (f[0] * g0 + f[1] * g1 + f[2] * g2) / det
    return w > 0 and w < 1


@njit(cache=True, nogil=True)
def _crossed(corners: F64, faces: I64, low: F64, high: F64, cells: I64, owners: I64) -> NDArray[np.bool_]:
    out = np.zeros(len(faces), np.bool_)
    first = 0
    for last in range(1, len(cells) + 1):
        if last < len(cells) and cells[last] == cells[first]:
            continue
        for x in range(first, last):
            for y in range(first, last):
                m, n = owners[x], owners[y]
                if m == n or out[n]:
                    continue
                apart = False
                for axis in range(3):
                    if low[m, axis] > high[n, axis] or low[n, axis] > high[m, axis]:
                        apart = True
                if apart:
                    continue
                for i in range(3):
                    for j in range(3):
                        if faces[m, i] == faces[n, j]:
                            apart = True
                if apart:
                    continue
                for i in range(3):
                    if _pierced(corners[m, i], corners[m, (i + 1) % 3], corners[n]):
                        out[n] = True
        first = last
    return out
