"""Thickness of cut cylinders in an image, averaged over each pixel (Numba).

A ray ``o + t d`` passes the axis of a cylinder (through a, along the unit vector u) at the signed distance
``x = (a - o) . (d x u) / |d x u|``, nearest at ``t = ((a - o) x u) . (d x u) / |d x u|^2``, and lies inside it for
``sqrt(r^2 - x^2) / |d x u|`` to either side, unless a plane cuts it off.

A pixel gets a mean, not a sample: along the image axis that crosses the cylinder more steeply, x is linear over the pixel, and
the integral of ``2 sqrt(r^2 - x^2)`` is ``r^2 asin(x / r) + x sqrt(r^2 - x^2)``, so that however thin a wire is, its pixels add
up to its cross-section. Where a plane cuts, four Gauss-Legendre nodes in ``asin(x / r)`` take the place of the closed form. Along
the other axis three lines are averaged. A cylinder seen end-on is sampled on a grid within each pixel.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from raylign.projection.threads import run_chunks
from raylign.simulation.instruments.pieces import Pieces

END_ON = 0.05
"""Sine of the angle between ray and axis below which a cylinder counts as seen end-on."""
NEAREST = 0.02
"""Of the way from source to detector: what is nearer to the source has no image."""
TIE = 1 + 1e-6
"""A wire at 45 degrees is drawn by rows, whatever the last digit says."""
NODES = np.array([0.06943184420297371, 0.33000947820757187, 0.6699905217924281, 0.9305681557970263])
WEIGHTS = np.array([0.17392742256872692, 0.32607257743127307, 0.32607257743127307, 0.17392742256872692])
LINES = 3
"""Lines that are averaged in each row or column of pixels."""
FINE = 8
"""Samples along each side of a pixel where a cylinder is seen end-on; half as many where its radius is over ``STOUT`` pixels."""
STOUT = 0.3


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def _beside(rays, p, ux, uy, uz, c, r):  # type: ignore[no-untyped-def]
    """(x, t, |d x u|, |d|) and the planes' (f, g): the ray is beyond plane a where ``f + t g > 0``, before b where it is < 0."""
    ox = rays[0, 0] + c * rays[4, 0] + r * rays[5, 0]
    oy = rays[0, 1] + c * rays[4, 1] + r * rays[5, 1]
    oz = rays[0, 2] + c * rays[4, 2] + r * rays[5, 2]
    dx = rays[1, 0] + c * rays[2, 0] + r * rays[3, 0]
    dy = rays[1, 1] + c * rays[2, 1] + r * rays[3, 1]
    dz = rays[1, 2] + c * rays[2, 2] + r * rays[3, 2]
    wx, wy, wz = p[0] - ox, p[1] - oy, p[2] - oz
    nx, ny, nz = dy * uz - dz * uy, dz * ux - dx * uz, dx * uy - dy * ux
    nn = nx * nx + ny * ny + nz * nz
    n = math.sqrt(nn)
    x = (wx * nx + wy * ny + wz * nz) / n
    t = ((wy * uz - wz * uy) * nx + (wz * ux - wx * uz) * ny + (wx * uy - wy * ux) * nz) / nn
    fa = -(wx * p[6] + wy * p[7] + wz * p[8])
    ga = dx * p[6] + dy * p[7] + dz * p[8]
    fb = (ox - p[3]) * p[9] + (oy - p[4]) * p[10] + (oz - p[5]) * p[11]
    gb = dx * p[9] + dy * p[10] + dz * p[11]
    return x, t, n, math.sqrt(dx * dx + dy * dy + dz * dz), fa, ga, fb, gb


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def _cut(t0, t1, fa, ga, fb, gb):  # type: ignore[no-untyped-def]
    """What is left of [t0, t1] within [0, 1], beyond plane a and before plane b."""
    t0, t1 = max(t0, 0.0), min(t1, 1.0)
    if ga > 0.0:
        t0 = max(t0, -fa / ga)
    elif ga < 0.0:
        t1 = min(t1, -fa / ga)
    elif fa < 0.0:
        t1 = t0
    if gb > 0.0:
        t1 = min(t1, -fb / gb)
    elif gb < 0.0:
        t0 = max(t0, -fb / gb)
    elif fb > 0.0:
        t1 = t0
    return max(t1 - t0, 0.0)


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def _through(rays, p, ux, uy, uz, c, r):  # type: ignore[no-untyped-def]
    """mm of one ray inside, whatever its direction."""
    ox = rays[0, 0] + c * rays[4, 0] + r * rays[5, 0]
    oy = rays[0, 1] + c * rays[4, 1] + r * rays[5, 1]
    oz = rays[0, 2] + c * rays[4, 2] + r * rays[5, 2]
    dx = rays[1, 0] + c * rays[2, 0] + r * rays[3, 0]
    dy = rays[1, 1] + c * rays[2, 1] + r * rays[3, 1]
    dz = rays[1, 2] + c * rays[2, 2] + r * rays[3, 2]
    wx, wy, wz = p[0] - ox, p[1] - oy, p[2] - oz
    fa = -(wx * p[6] + wy * p[7] + wz * p[8])
    ga = dx * p[6] + dy * p[7] + dz * p[8]
    fb = (ox - p[3]) * p[9] + (oy - p[4]) * p[10] + (oz - p[5]) * p[11]
    gb = dx * p[9] + dy * p[10] + dz * p[11]
    dd = dx * dx + dy * dy + dz * dz
    du, wu = dx * ux + dy * uy + dz * uz, wx * ux + wy * uy + wz * uz
    across, with_w = dd - du * du, dx * wx + dy * wy + dz * wz - du * wu
    rest = wx * wx + wy * wy + wz * wz - wu * wu - p[12] * p[12]
    if across <= 1e-12 * dd:
        return 0.0 if rest > 0.0 else math.sqrt(dd) * _cut(0.0, 1.0, fa, ga, fb, gb)
    under = with_w * with_w - across * rest
    if under <= 0.0:
        return 0.0
    half = math.sqrt(under) / across
    return math.sqrt(dd) * _cut(with_w / across - half, with_w / across + half, fa, ga, fb, gb)


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def _image_of(inverse, parallel, rays, x, y, z):  # type: ignore[no-untyped-def]
    """(column, row, t) of a point."""
    x, y, z = x - rays[0, 0], y - rays[0, 1], z - rays[0, 2]
    c = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2] * z
    r = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2] * z
    t = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2] * z
    return (c, r, t) if parallel else (c / t, r / t, t)


@njit(cache=True, nogil=True, error_model="numpy")
def _line(rays, p, u, steep, major, low, high, weight, out):  # type: ignore[no-untyped-def]
    """Adds a cylinder's thickness along one line of the image (row ``major`` where ``steep``, else column) to low..high."""
    radius = p[12]
    x0, t0, n0, d0, fa0, ga0, fb0, gb0 = _beside(
        rays, p, u[0], u[1], u[2], low - 0.5 if steep else major, major if steep else low - 0.5
    )
    s0 = min(max(x0 / radius, -1.0), 1.0)
    phi0, root0 = math.asin(s0), math.sqrt(1.0 - s0 * s0)
    for j in range(low, high + 1):
        x1, t1, n1, d1, fa1, ga1, fb1, gb1 = _beside(
            rays, p, u[0], u[1], u[2], j + 0.5 if steep else major, major if steep else j + 0.5
        )
        s1 = min(max(x1 / radius, -1.0), 1.0)
        phi1, root1 = math.asin(s1), math.sqrt(1.0 - s1 * s1)
        if s0 != s1:
            h = radius / min(n0, n1)
            near, far = min(t0, t1) - h, max(t0, t1) + h
            a0, a1, a2, a3 = fa0 + near * ga0, fa0 + far * ga0, fa1 + near * ga1, fa1 + far * ga1
            b0, b1, b2, b3 = fb0 + near * gb0, fb0 + far * gb0, fb1 + near * gb1, fb1 + far * gb1
            beyond = min(min(a0, a1), min(a2, a3)) >= 0.0 and near >= 0.0
            before = max(max(b0, b1), max(b2, b3)) <= 0.0 and far <= 1.0
            outside = max(max(a0, a1), max(a2, a3)) <= 0.0 or min(min(b0, b1), min(b2, b3)) >= 0.0
            mean = 0.0
            if beyond and before:
                area = radius * radius * (phi1 - phi0 + s1 * root1 - s0 * root0)
                mean = area / (x1 - x0) * (d0 + d1) / (n0 + n1)
            elif not outside:
                for k in range(4):
                    phi = phi0 + NODES[k] * (phi1 - phi0)
                    x = radius * math.sin(phi)
                    w = (x - x0) / (x1 - x0)
                    n = n0 + w * (n1 - n0)
                    t = t0 + w * (t1 - t0)
                    cosine = math.cos(phi)
                    half = radius * cosine / n
                    inside = _cut(
                        t - half, t + half,
                        fa0 + w * (fa1 - fa0), ga0 + w * (ga1 - ga0), fb0 + w * (fb1 - fb0), gb0 + w * (gb1 - gb0),
                    )  # fmt: skip
                    mean += WEIGHTS[k] * inside * (d0 + w * (d1 - d0)) * cosine
                mean *= radius * (phi1 - phi0) / (x1 - x0)
            out[j] += weight * mean
        x0, t0, n0, d0, fa0, ga0, fb0, gb0 = x1, t1, n1, d1, fa1, ga1, fb1, gb1
        s0, phi0, root0 = s1, phi1, root1


@njit(cache=True, nogil=True, error_model="numpy")
def _draw(rays, inverse, parallel, numbers, channel, first, last, out):  # type: ignore[no-untyped-def]
    """Adds cylinders first..last-1 to ``out`` [C, H, W]."""
    height, width = out.shape[1], out.shape[2]
    cols, rows = (rays[4], rays[5]) if parallel else (rays[2], rays[3])
    across = math.sqrt(cols[0] ** 2 + cols[1] ** 2 + cols[2] ** 2)
    down = math.sqrt(rows[0] ** 2 + rows[1] ** 2 + rows[2] ** 2)
    u = np.empty(3)
    for k in range(first, last):
        p = numbers[k]
        ca, ra, ta = _image_of(inverse, parallel, rays, p[0], p[1], p[2])
        cb, rb, tb = _image_of(inverse, parallel, rays, p[3], p[4], p[5])
        if min(ta, tb) <= NEAREST:
            continue
        size = math.sqrt((p[3] - p[0]) ** 2 + (p[4] - p[1]) ** 2 + (p[5] - p[2]) ** 2)
        for i in range(3):
            u[i] = (p[3 + i] - p[i]) / size
        # how far a slanting end reaches, and how much a ray that meets the detector at a slant widens the image
        square = min(u[0] * p[6] + u[1] * p[7] + u[2] * p[8], u[0] * p[9] + u[1] * p[10] + u[2] * p[11])
        scale = 1.0 if parallel else min(ta, tb)
        reach = 1.2 * p[12] / scale
        corner = reach / max(square, 0.3)
        low_c, high_c = min(ca, cb) - corner / across - 0.5, max(ca, cb) + corner / across + 0.5
        low_r, high_r = min(ra, rb) - corner / down - 0.5, max(ra, rb) + corner / down + 0.5
        if high_c < 0.0 or high_r < 0.0 or low_c > width - 1.0 or low_r > height - 1.0:
            continue
        c0, c1 = math.floor(max(low_c, 0.0)), math.ceil(min(high_c, width - 1.0))
        r0, r1 = math.floor(max(low_r, 0.0)), math.ceil(min(high_r, height - 1.0))
        image = out[channel[k]]
        cm, rm, _ = _image_of(inverse, parallel, rays, (p[0] + p[3]) / 2, (p[1] + p[4]) / 2, (p[2] + p[5]) / 2)
        _, _, n, d, _, _, _, _ = _beside(rays, p, u[0], u[1], u[2], cm, rm)
        if not n > END_ON * d:
            fine = FINE if p[14] < STOUT * scale * max(across, down) else FINE // 2
            for r in range(r0, r1 + 1):
                for c in range(c0, c1 + 1):
                    total = 0.0
                    for i in range(fine):
                        for j in range(fine):
                            total += _through(rays, p, u[0], u[1], u[2], c + (j + 0.5) / fine - 0.5, r + (i + 0.5) / fine - 0.5)
                    image[r, c] += p[13] * total / (fine * fine)
            continue
        # the axis' slope in the image: of the point half way, moved by a hair along it
        hair = 1e-3 * size
        ch, rh, _ = _image_of(
            inverse, parallel, rays,
            (p[0] + p[3]) / 2 + hair * u[0], (p[1] + p[4]) / 2 + hair * u[1], (p[2] + p[5]) / 2 + hair * u[2],
        )  # fmt: skip
        steep = abs(rh - rm) * down * TIE >= abs(ch - cm) * across
        if steep:
            slope = (ch - cm) / (rh - rm)
            wide = reach / across * math.sqrt(1.0 + (slope * across / down) ** 2) + 0.5
            for r in range(r0, r1 + 1):
                for m in range(LINES):
                    at = r + (m + 0.5) / LINES - 0.5
                    middle = cm + (at - rm) * slope
                    if middle + wide >= 0.0 and middle - wide <= width - 1.0:
                        low = math.floor(max(middle - wide, 0.0))
                        high = math.ceil(min(middle + wide, width - 1.0))
                        _line(rays, p, u, True, at, max(low, c0), min(high, c1), p[13] / LINES, image[r])
        else:
            slope = (rh - rm) / (ch - cm)
            wide = reach / down * math.sqrt(1.0 + (slope * down / across) ** 2) + 0.5
            for c in range(c0, c1 + 1):
                for m in range(LINES):
                    at = c + (m + 0.5) / LINES - 0.5
                    middle = rm + (at - cm) * slope
                    if middle + wide >= 0.0 and middle - wide <= height - 1.0:
                        low = math.floor(max(middle - wide, 0.0))
                        high = math.ceil(min(middle + wide, height - 1.0))
                        _line(rays, p, u, False, at, max(low, r0), min(high, r1), p[13] / LINES, image[:, c])


def draw(
    rays: Float[Tensor, "B 6 3"],
    inverse: Float[Tensor, "B 3 3"],
    parallel: list[bool],
    what: Pieces,
    shape: tuple[int, int, int],
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "B C H W"]:
    """Thickness of the pieces in B images of C channels, mm; an image's pieces are added in order, on one thread, in float64.

    ``rays`` are ``View.ray_vectors``, ``inverse`` the inverse of ``mesh_rays.frame`` of each, ``shape`` is (C, H, W).
    """
    made = torch.empty(len(rays), *shape, dtype=dtype)
    out, beams, inverses = made.numpy(), rays.numpy(), inverse.numpy()
    starts = np.searchsorted(what.image, np.arange(len(rays) + 1))

    def work(a: int, b: int) -> None:
        image = np.empty(shape)  # one that stays in the cache, for all images of a thread
        for i in range(a, b):
            image[:] = 0.0
            if starts[i + 1] > starts[i]:
                _draw(beams[i], inverses[i], parallel[i], what.numbers, what.channel, starts[i], starts[i + 1], image)
            out[i] = image

    run_chunks(work, len(rays), smallest=1)
    return made
