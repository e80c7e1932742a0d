"""Metal in the picture: wires as curves in space with a thickness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View
from raylign.geometry.view import require_cone


@dataclass(frozen=True, eq=False)
class Wire:
    """A round steel wire along a polyline.

    Parameters
    ----------
    points: [N, 3] world mm, N >= 2.
    diameter: mm; a guide wire has 0.9 (0.035 inch).

    Raises
    ------
    InputError: fewer than two points, a coordinate that is not finite, a diameter that is not positive.
    """

    points: Float[Tensor, "N 3"]
    diameter: float = 0.9

    def __post_init__(self) -> None:
        points = torch.as_tensor(self.points, dtype=torch.float64)
        if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 3 or not bool(torch.isfinite(points).all()):
            raise InputError("a wire takes at least two finite 3D points", field="points")
        if not self.diameter > 0:
            raise InputError(f"a wire of {self.diameter} mm has no thickness", field="diameter", remedy="give mm, 0.9 say")
        object.__setattr__(self, "points", points)


def guide_wire(generator: torch.Generator, length: float = 220.0, diameter: float = 0.9) -> Wire:
    """A wire at random: it runs along the body near the isocentre and bends gently."""
    t = torch.linspace(-0.5, 0.5, 120, dtype=torch.float64)
    low, phase = (
        torch.randn(2, 3, generator=generator, dtype=torch.float64),
        torch.rand(2, 3, generator=generator, dtype=torch.float64),
    )
    offset = 35 * torch.randn(3, generator=generator, dtype=torch.float64)
    bend = sum(10.0 / (k + 1) * low[k] * torch.sin(2 * torch.pi * ((k + 0.7) * t[:, None] + phase[k])) for k in range(2))
    along = torch.tensor([0.25, 0.0, 1.0], dtype=torch.float64) * length * t[:, None]
    return Wire(along + bend + offset, diameter)


def steel_thickness(wires: Sequence[Wire], view: View) -> Float[Tensor, "H W"]:
    """mm of steel on each ray.

    Each segment is drawn where ``View.project`` puts it, as wide as the magnification at its depth makes it; a ray through a
    cylinder of radius r at distance x from its axis sees ``2 sqrt(r^2 - x^2)`` over the sine of the angle between ray and axis.
    Wires thinner than a pixel keep their mean thickness.

    Raises
    ------
    InputError: the view's rays are parallel.
    """
    require_cone(view, "the thickness of wires")
    height, width = view.shape
    total = np.zeros((height, width))
    for wire in wires:
        total += _drawn(wire, view)
    return torch.from_numpy(total).to(torch.float32)


def _drawn(wire: Wire, view: View) -> NDArray[np.float64]:
    """Wires are thin: where segments of one wire overlap the thicker counts, since most overlaps are joints."""
    out = np.zeros(view.shape)
    pitch = np.array(view.pixel_spacing[::-1])  # (column, row)
    source, normal, sid = view.source.numpy(), view.normal.numpy(), float(view.sid)
    points = wire.points.numpy()
    depth = (points - source) @ normal
    at = view.project(wire.points).numpy() * pitch  # mm on the detector
    for i in range(len(points) - 1):
        if min(depth[i], depth[i + 1]) <= 0.05 * sid:
            continue  # beside or behind the source: no image
        axis, ray = points[i + 1] - points[i], (points[i + 1] + points[i]) / 2 - source
        sine = float(np.linalg.norm(np.cross(axis, ray))) / max(float(np.linalg.norm(axis) * np.linalg.norm(ray)), 1e-12)
        magnification = sid / (0.5 * (depth[i] + depth[i + 1]))
        radius = wire.diameter / 2 * magnification
        shown = max(radius, 0.6 * float(pitch.max()))
        thickest = wire.diameter * (radius / shown) / max(sine, 0.15)
        low = np.maximum(np.floor((np.minimum(at[i], at[i + 1]) - shown) / pitch), 0).astype(int)
        high = np.minimum(np.ceil((np.maximum(at[i], at[i + 1]) + shown) / pitch) + 1, view.shape[::-1]).astype(int)
        if (low >= high).any():
            continue
        x = np.arange(low[0], high[0])[None, :] * pitch[0] - at[i, 0]
        y = np.arange(low[1], high[1])[:, None] * pitch[1] - at[i, 1]
        e = at[i + 1] - at[i]
        u = np.clip((x * e[0] + y * e[1]) / max(float(e @ e), 1e-12), 0, 1)
        off = ((x - u * e[0]) ** 2 + (y - u * e[1]) ** 2) / shown**2
        part = out[low[1] : high[1], low[0] : high[0]]
        np.maximum(part, thickest * np.sqrt(np.clip(1 - off, 0, None)), out=part)
    return out
