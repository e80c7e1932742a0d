"""Thickness of cut cylinders in plain PyTorch, on any device: what ``cylinders_cpu`` computes, all pixels at once.

Work is listed first: every piece has lines of the image that it may touch, every such line a run of pixels. Then all pixels of
all lines of all pieces are one batch. On CUDA what several pieces put in one pixel is added in no fixed order, in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.simulation.instruments.cylinders_cpu import END_ON, FINE, LINES, NEAREST, NODES, STOUT, TIE, WEIGHTS
from raylign.simulation.instruments.pieces import Pieces


class _Beside(NamedTuple):
    """Of rays and axes: signed distance x, t of the nearest point, |d x u|, |d|, and f, g of both planes."""

    x: Tensor
    t: Tensor
    n: Tensor
    d: Tensor
    fa: Tensor
    ga: Tensor
    fb: Tensor
    gb: Tensor


class _Scene(NamedTuple):
    """Everything by piece: its rays [S, 6, 3], numbers [S, 15], axis [S, 3]."""

    rays: Tensor
    numbers: Tensor
    axis: Tensor

    def of(self, index: Tensor) -> _Scene:
        return _Scene(*(x[index] for x in self))


def _ray(rays: Tensor, c: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    c, r = c[:, None], r[:, None]
    return rays[:, 0] + c * rays[:, 4] + r * rays[:, 5], rays[:, 1] + c * rays[:, 2] + r * rays[:, 3]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)


def _planes(p: Tensor, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, at_a, at_b = p[:, 0:3], p[:, 3:6], p[:, 6:9], p[:, 9:12]
    return _dot(o - a, at_a), _dot(d, at_a), _dot(o - b, at_b), _dot(d, at_b)


def _beside(it: _Scene, c: Tensor, r: Tensor) -> _Beside:
    o, d = _ray(it.rays, c, r)
    w = it.numbers[:, 0:3] - o
    normal = torch.linalg.cross(d, it.axis)
    n = normal.norm(dim=1)
    t = _dot(torch.linalg.cross(w, it.axis), normal) / n**2
    return _Beside(_dot(w, normal) / n, t, n, d.norm(dim=1), *_planes(it.numbers, o, d))


def _cut(t0: Tensor, t1: Tensor, fa: Tensor, ga: Tensor, fb: Tensor, gb: Tensor) -> Tensor:
    t0, t1 = t0.clamp_min(0), t1.clamp_max(1)
    for f, g in ((fa, ga), (-fb, -gb)):  # inside is where f + t g >= 0
        at = -f / torch.where(g == 0, torch.ones_like(g), g)
        t0 = torch.where(g > 0, torch.maximum(t0, at), t0)
        t1 = torch.where(g < 0, torch.minimum(t1, at), t1)
        t1 = torch.where((g == 0) & (f < 0), t0, t1)
    return (t1 - t0).clamp_min(0)


def _mean(radius: Tensor, e0: _Beside, e1: _Beside) -> Tensor:
    """Mean mm over pixels between two edges; see ``cylinders_cpu``."""
    s0, s1 = (e0.x / radius).clamp(-1, 1), (e1.x / radius).clamp(-1, 1)
    phi0, phi1 = s0.asin(), s1.asin()
    width = e1.x - e0.x
    width = torch.where(width == 0, torch.ones_like(width), width)
    root0, root1 = (1 - s0 * s0).sqrt(), (1 - s1 * s1).sqrt()
    whole = radius**2 * (phi1 - phi0 + s1 * root1 - s0 * root0) / width * (e0.d + e1.d) / (e0.n + e1.n)
    part = torch.zeros_like(whole)
    for node, weight in zip(NODES.tolist(), WEIGHTS.tolist(), strict=True):
        phi = phi0 + node * (phi1 - phi0)
        w = (radius * phi.sin() - e0.x) / width
        _, t, n, d, fa, ga, fb, gb = (a + w * (b - a) for a, b in zip(e0, e1, strict=True))
        half = radius * phi.cos() / n
        part = part + weight * _cut(t - half, t + half, fa, ga, fb, gb) * d * phi.cos()
    part = part * radius * (phi1 - phi0) / width
    h = radius / torch.minimum(e0.n, e1.n)
    near, far = torch.minimum(e0.t, e1.t) - h, torch.maximum(e0.t, e1.t) + h
    beyond = torch.stack([e.fa + at * e.ga for e in (e0, e1) for at in (near, far)]).amin(0) >= 0
    before = torch.stack([e.fb + at * e.gb for e in (e0, e1) for at in (near, far)]).amax(0) <= 0
    uncut = beyond & before & (near >= 0) & (far <= 1)
    return torch.where(s0 == s1, torch.zeros_like(whole), torch.where(uncut, whole, part))


def _through(it: _Scene, c: Tensor, r: Tensor) -> Tensor:
    """mm of single rays inside, whatever their direction."""
    o, d = _ray(it.rays, c, r)
    w = it.numbers[:, 0:3] - o
    du, wu, dd = _dot(d, it.axis), _dot(w, it.axis), _dot(d, d)
    across, with_w = dd - du * du, _dot(d, w) - du * wu
    rest = _dot(w, w) - wu * wu - it.numbers[:, 12] ** 2
    along = across <= 1e-12 * dd
    under = with_w * with_w - across * rest
    safe = torch.where(along, torch.ones_like(across), across)
    half = under.clamp_min(0).sqrt() / safe
    t0 = torch.where(along, torch.zeros_like(half), with_w / safe - half)
    t1 = torch.where(along, torch.ones_like(half), with_w / safe + half)
    inside = torch.where(along, rest <= 0, under > 0)
    return inside * dd.sqrt() * _cut(t0, t1, *_planes(it.numbers, o, d))


def _listed(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each index as often as its count says, and which of its own it is."""
    index = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    starts = counts.cumsum(0) - counts
    return index, torch.arange(len(index), device=counts.device) - starts[index]


def draw(
    rays: Float[Tensor, "B 6 3"], inverse: Float[Tensor, "B 3 3"], parallel: list[bool], what: Pieces, shape: tuple[int, int, int]
) -> Float[Tensor, "B C H W"]:
    """Thickness of the pieces in B images of C channels, mm, on the device of ``rays``; see ``cylinders_cpu.draw``."""
    device, (channels, height, width) = rays.device, shape
    out = torch.zeros(len(rays) * channels * height * width, dtype=torch.float64, device=device)
    if not len(what.numbers):
        return out.reshape(len(rays), *shape)
    p = torch.from_numpy(what.numbers).to(device)
    image, channel = (torch.from_numpy(x).to(device) for x in (what.image, what.channel))
    flat = torch.tensor(parallel, device=device)[image]
    size = (p[:, 3:6] - p[:, 0:3]).norm(dim=1)
    axis = (p[:, 3:6] - p[:, 0:3]) / size[:, None]
    it = _Scene(rays[image], p, axis)
    first = (image * channels + channel) * height * width

    def image_of(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c, r, t = (inverse[image] @ (points - it.rays[:, 0])[..., None])[..., 0].unbind(1)
        one = torch.where(flat, torch.ones_like(t), t)
        return c / one, r / one, t

    (ca, ra, ta), (cb, rb, tb) = image_of(p[:, 0:3]), image_of(p[:, 3:6])
    middle = (p[:, 0:3] + p[:, 3:6]) / 2
    cm, rm, _ = image_of(middle)
    ch, rh, _ = image_of(middle + 1e-3 * size[:, None] * axis)
    steps = torch.where(flat[:, None, None], it.rays[:, 4:6], it.rays[:, 2:4]).norm(dim=2)
    across, down = steps.unbind(1)
    square = torch.minimum(_dot(axis, p[:, 6:9]), _dot(axis, p[:, 9:12])).clamp_min(0.3)
    scale = torch.where(flat, torch.ones_like(ta), torch.minimum(ta, tb))
    reach = 1.2 * p[:, 12] / scale
    corner = reach / square
    low_c, high_c = torch.minimum(ca, cb) - corner / across - 0.5, torch.maximum(ca, cb) + corner / across + 0.5
    low_r, high_r = torch.minimum(ra, rb) - corner / down - 0.5, torch.maximum(ra, rb) + corner / down + 0.5
    seen = (torch.minimum(ta, tb) > NEAREST) & (high_c >= 0) & (high_r >= 0) & (low_c <= width - 1) & (low_r <= height - 1)
    c0, c1 = low_c.clamp(0, width).floor().long(), high_c.clamp(-1, width - 1).ceil().long()
    r0, r1 = low_r.clamp(0, height).floor().long(), high_r.clamp(-1, height - 1).ceil().long()
    here = _beside(it, cm, rm)
    aside = here.n > END_ON * here.d

    # pieces seen from aside: lines of the image, then pixels on them
    steep = (rh - rm).abs() * down * TIE >= (ch - cm).abs() * across
    from_, to = torch.where(steep, r0, c0), torch.where(steep, r1, c1)
    k, n = _listed(torch.where(seen & aside, (to - from_ + 1).clamp_min(0) * LINES, 0))
    major = from_[k] + n // LINES
    at = major + ((n % LINES).double() + 0.5) / LINES - 0.5
    slope = torch.where(steep, (ch - cm) / (rh - rm), (rh - rm) / (ch - cm))
    ratio = torch.where(steep, across / down, down / across)
    wide = reach / torch.where(steep, across, down) * (1 + (slope * ratio) ** 2).sqrt() + 0.5
    centre = torch.where(steep, cm, rm)[k] + (at - torch.where(steep, rm, cm)[k]) * slope[k]
    last = torch.where(steep, width - 1, height - 1)[k]
    low = torch.maximum((centre - wide[k]).clamp(0, 1e9).floor().long(), torch.where(steep, c0, r0)[k])
    high = torch.minimum(torch.minimum(centre + wide[k], last).clamp_min(-1).ceil().long(), torch.where(steep, c1, r1)[k])
    i, n = _listed((high - low + 1).clamp_min(0))
    k, at, major, minor = k[i], at[i], major[i], low[i] + n
    if len(k):
        some, up = it.of(k), steep[k]
        e0, e1 = (
            _beside(some, torch.where(up, j, at), torch.where(up, at, j)) for j in (minor.double() - 0.5, minor.double() + 0.5)
        )
        pixel = torch.where(up, major * width + minor, minor * width + major)
        out.index_add_(0, first[k] + pixel, p[k, 13] / LINES * _mean(p[k, 12], e0, e1))

    # pieces seen end-on: a grid of rays in every pixel about them
    across_, down_ = (c1 - c0 + 1).clamp_min(0), (r1 - r0 + 1).clamp_min(0)
    fine = torch.where(p[:, 14] < STOUT * scale * torch.maximum(across, down), FINE, FINE // 2)
    k, n = _listed(torch.where(seen & ~aside, across_ * down_ * fine**2, 0))
    if len(k):
        f = fine[k]
        pixel, sub = n // f**2, n % f**2
        c, r = c0[k] + pixel % across_[k], r0[k] + pixel // across_[k]
        x, y = ((at.double() + 0.5) / f - 0.5 for at in (sub % f, sub // f))
        out.index_add_(0, first[k] + r * width + c, p[k, 13] * _through(it.of(k), c + x, r + y) / f**2)
    return out.reshape(len(rays), *shape)
