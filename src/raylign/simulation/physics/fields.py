"""Where the beam shines and where its picture lies: collimator, heel effect, image intensifier. Batched, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.simulation.physics.apparatus import Collimator, Intensifier, Tube

ANODE_DEG = 12.0


def column(values: Sequence[float], device: torch.device) -> Float[Tensor, "B 1 1"]:
    """One number an image, to multiply images with."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def lit(
    collimators: Sequence[Collimator | None], pitch_mm: Float[Tensor, "B 2"], shape: tuple[int, int], device: torch.device
) -> tuple[Float[Tensor, "B H W"], Bool[Tensor, "B H W"]]:
    """Part of the beam that each collimator lets through, leak included, and the pixels well within its field.

    Distance to a rounded rectangle: ``|max(|p| - (size - corner), 0)| + min(max(|p| - size + corner), 0) - corner``, measured in
    millimetres on the detector. "Well within" keeps the penumbra and two pixels away from the edge.
    """
    h, w = shape
    whole = (
        torch.ones(len(collimators), h, w, device=device),
        torch.ones(len(collimators), h, w, dtype=torch.bool, device=device),
    )
    if not any(collimators):
        return whole
    given = [Collimator() if c is None else c for c in collimators]

    def each(values: Sequence[float]) -> Tensor:
        return column(values, device)

    down, across = pitch_mm.to(device=device, dtype=torch.float32)[:, :, None, None].unbind(1)
    half = torch.minimum(h * down, w * across) / 2
    x = (torch.arange(w, device=device, dtype=torch.float32) - (w - 1) / 2)[None, None, :] * across / half
    y = (torch.arange(h, device=device, dtype=torch.float32) - (h - 1) / 2)[None, :, None] * down / half
    x, y = x - each([c.centre[0] for c in given]), y - each([c.centre[1] for c in given])
    cosine, sine = (each([f(math.radians(c.angle)) for c in given]) for f in (math.cos, math.sin))
    corner = each([c.corner for c in given])
    a = (cosine * x + sine * y).abs() - each([c.width for c in given]) + corner
    b = (cosine * y - sine * x).abs() - each([c.height for c in given]) + corner
    outside = (a.clamp_min(0) ** 2 + b.clamp_min(0) ** 2).sqrt()
    mm = torch.minimum(down, across)
    distance = (outside + torch.maximum(a, b).clamp_max(0) - corner) * (half / mm)  # pixels
    soft = (each([c.penumbra_mm for c in given]) / mm).clamp_min(1.0)
    leak = each([c.leak for c in given])
    is_open = each([float(c is None) for c in collimators]) > 0
    light = torch.where(is_open, whole[0], leak + (1 - leak) * (0.5 - distance / soft).clamp(0, 1))
    return light, is_open | (distance < -(0.5 * soft + 2))


def shading(tubes: Sequence[Tube], ray_vectors: Float[Tensor, "B 6 3"], shape: tuple[int, int]) -> Float[Tensor, "B H W"] | None:
    """Intensity of the open beam over that on its axis; ``None`` where every tube's is one.

    Heel effect: a ray at angle t from the axis, towards the cathode, leaves a target of angle a through
    ``sin a / sin(a + t)`` of the way that the central ray takes through it, so ``exp(-heel (sin a / sin(a + t) - 1))``. The tube
    lies along the image's columns, the cathode at the bottom. Falloff: cos^3 of the angle from the axis, for distance and slant.
    """
    if not any(tube.heel or tube.falloff for tube in tubes):
        return None
    device = ray_vectors.device
    h, w = shape
    _, d, du, dv, ou, ov = ray_vectors.to(torch.float32).unbind(1)
    du, dv = du + ou, dv + ov  # the steps on the detector, of a cone or of a parallel beam
    normal = torch.nn.functional.normalize(torch.linalg.cross(du, dv), dim=-1)
    distance = (d * normal).sum(-1).abs()[:, None, None]
    across, down = (torch.nn.functional.normalize(v, dim=-1) for v in (du, dv))
    c = torch.arange(w, device=device, dtype=torch.float32)[None, None, :]
    r = torch.arange(h, device=device, dtype=torch.float32)[None, :, None]
    x = (d * across).sum(-1)[:, None, None] + c * du.norm(dim=-1)[:, None, None]
    y = (d * down).sum(-1)[:, None, None] + r * dv.norm(dim=-1)[:, None, None]
    anode = math.radians(ANODE_DEG)
    off = torch.atan2(y, distance)
    way = math.sin(anode) / torch.sin((anode + off).clamp(math.radians(0.5), math.pi / 2))
    heel = torch.exp(-column([tube.heel for tube in tubes], device) * (way - 1))
    falloff = (1 + (x**2 + y**2) / distance**2) ** (-1.5)
    return heel * torch.where(column([float(tube.falloff) for tube in tubes], device) > 0, falloff, torch.ones_like(falloff))


def distorted(
    points: Float[Tensor, "B N 2"], shape: tuple[int, int], intensifiers: Sequence[Intensifier | None]
) -> Float[Tensor, "B N 2"]:
    """Where (column, row) of an undistorted view lies in the picture of an image intensifier.

    With q from the image's middle in units of half its shorter side, and r = |q|, q moves to
    ``(1 + pincushion r^2) R(twist r^2) q``. Labels move with this; the ``View`` stays that of the undistorted image.
    """
    centre, half = _middle(shape, points)
    k, phi = _bends(intensifiers, points)
    q = (points - centre) / half
    square = (q**2).sum(-1)
    return _turned(q, phi * square) * (1 + k * square)[..., None] * half + centre


def undistorted(
    points: Float[Tensor, "B N 2"], shape: tuple[int, int], intensifiers: Sequence[Intensifier | None]
) -> Float[Tensor, "B N 2"]:
    """The inverse of ``distorted``: which pixel of the undistorted view shows in a picture's pixel."""
    centre, half = _middle(shape, points)
    k, phi = _bends(intensifiers, points)
    q = (points - centre) / half
    seen = q.norm(dim=-1)
    # Newton's method on the radius
    r = seen / (1 + k * seen**2)
    for _ in range(10):
        # a barrel folds over where 1 + 3 k r^2 is zero, beyond any image for the strengths allowed
        r = r - (r * (1 + k * r**2) - seen) / (1 + 3 * k * r**2).clamp_min(0.1)
    return _turned(q, -phi * r**2) * (r / seen.clamp_min(1e-12))[..., None] * half + centre


def _middle(shape: tuple[int, int], like: Tensor) -> tuple[Tensor, float]:
    h, w = shape
    return torch.tensor([(w - 1) / 2, (h - 1) / 2], dtype=like.dtype, device=like.device), min(h, w) / 2


def _bends(intensifiers: Sequence[Intensifier | None], like: Tensor) -> tuple[Tensor, Tensor]:
    values = [(0.0, 0.0) if i is None else (i.pincushion, math.radians(i.twist)) for i in intensifiers]
    k, phi = torch.tensor(values, dtype=like.dtype, device=like.device).unbind(-1)
    return k[:, None], phi[:, None]


def _turned(q: Tensor, angle: Tensor) -> Tensor:
    x, y = q.unbind(-1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], -1)


def warped(images: Float[Tensor, "B C H W"], intensifiers: Sequence[Intensifier | None]) -> Float[Tensor, "B C H W"]:
    """Images as the image intensifiers show them, bilinear, the border repeated; as they are where there is none."""
    rows = [i for i, tube in enumerate(intensifiers) if tube is not None]
    if not rows:
        return images
    out = images.clone()
    out[rows] = _sampled(images[rows], [intensifiers[i] for i in rows])
    return out


def _sampled(images: Float[Tensor, "B C H W"], intensifiers: Sequence[Intensifier | None]) -> Float[Tensor, "B C H W"]:
    b, _, h, w = images.shape
    c, r = torch.meshgrid(
        torch.arange(w, device=images.device, dtype=images.dtype),
        torch.arange(h, device=images.device, dtype=images.dtype),
        indexing="xy",
    )
    pixels = torch.stack([c, r], -1).reshape(1, h * w, 2).expand(b, -1, -1)
    at = undistorted(pixels, (h, w), intensifiers)
    size = torch.tensor([max(w - 1, 1), max(h - 1, 1)], dtype=images.dtype, device=images.device)
    grid = (2 * at / size - 1).reshape(b, h, w, 2)
    return torch.nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
