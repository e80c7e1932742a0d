"""Random smooth velocity fields and their exponentials: diffeomorphisms of a box onto itself.

A stationary velocity field v moves every point for one unit of time. The end points are ``exp(v)``, smooth and invertible, with
the inverse ``exp(-v)`` (Arsigny, Commowick, Pennec and Ayache, "A log-Euclidean framework for statistics on diffeomorphisms",
MICCAI 2006). Fields lie on a grid of nodes whose first and last are the centres of a volume's outermost voxels; vectors are mm
along the grid's own axes (column, row, slice), and so are all positions here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from raylign.errors import InputError

_SPREAD = math.sqrt(151 / 315) ** 3  # of a cubic B-spline series in three axes whose coefficients have unit deviation, on average


@dataclass(frozen=True)
class Scale:
    """One octave of a random field: distance of the control points and standard deviation of each component, mm."""

    lattice_mm: float
    sd_mm: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lattice_mm) and self.lattice_mm > 0 and math.isfinite(self.sd_mm) and self.sd_mm >= 0):
            raise InputError(f"control points every {self.lattice_mm:g} mm, {self.sd_mm:g} mm", field="scales")


def node_spacing(extent: Sequence[float], shape: Sequence[int]) -> tuple[float, float, float]:
    """Distance of nodes in mm along (column, row, slice); ``shape`` is (slices, rows, columns) of nodes."""
    x, y, z = (e / (n - 1) for e, n in zip(extent, reversed(list(shape)), strict=True))
    return x, y, z


def random_velocity(
    extent: tuple[float, float, float],
    shape: tuple[int, int, int],
    scales: Sequence[Scale],
    generator: torch.Generator,
    count: int = 1,
) -> Float[Tensor, "count 3 d h w"]:
    """Fields of random cubic B-spline coefficients, summed over scales.

    What is drawn depends on the box and the scales, not on the nodes: more nodes sample the same field more finely.

    Parameters
    ----------
    extent: of the box in mm along (column, row, slice).
    shape: (d, h, w) of the nodes.
    scales: octaves; each component's pointwise standard deviation is the root of the sum of the squares of theirs.
    generator: whence the coefficients; the field is on its device.
    """
    total = torch.zeros(count, 3, *shape, device=generator.device)
    for scale in scales:
        cells = [e / scale.lattice_mm for e in reversed(extent)]
        size = [math.floor(c + 1) + 4 for c in cells]
        # the lattice lies anywhere, so that no place of the box is nearer to control points than another
        phase = torch.rand(count, 3, generator=generator, device=generator.device)
        field = torch.randn(count, 3, *size, generator=generator, device=generator.device) * (scale.sd_mm / _SPREAD)
        for axis, (cell, n) in enumerate(zip(cells, shape, strict=True)):
            at = torch.linspace(0, cell, n, device=generator.device)[None] + phase[:, axis, None]
            field = _spline(field, at, axis + 2)
        total += field
    return total


def _spline(coefficients: Tensor, at: Tensor, dim: int) -> Tensor:
    """Cubic B-spline series along one axis at positions [B, n], in cells from the first control point but one."""
    base = at.floor()
    t = at - base
    weights = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    view = [at.shape[0], *[1] * (coefficients.ndim - 1)]
    view[dim] = at.shape[1]
    size = list(coefficients.shape)
    size[dim] = at.shape[1]
    first = base.long().view(view)
    return sum(  # tap by tap: a matrix product would add in an order that depends on the number of threads
        (w.view(view) * coefficients.gather(dim, (first + k).expand(size)) for k, w in enumerate(weights)),
        start=torch.zeros((), device=coefficients.device),
    )


def within_box(
    velocity: Float[Tensor, "B 3 d h w"], spacing: tuple[float, float, float], fade_mm: float
) -> Float[Tensor, "B 3 d h w"]:
    """The field with its component across each face of the box fading to zero over ``fade_mm``.

    Nothing then leaves the box or comes in: the exponential maps it onto itself, and no voxel asks for what lies beyond a scan.
    """
    out = velocity.clone()
    for axis in range(3):
        dim = 4 - axis
        n = velocity.shape[dim]
        node = torch.arange(n, device=velocity.device)
        near = torch.minimum(node, n - 1 - node) * spacing[axis] / max(fade_mm, 1e-9)
        t = near.clamp(0, 1).to(velocity)
        shape = [1, 1, 1, 1]
        shape[dim - 1] = n
        out[:, axis] *= (t * t * (3 - 2 * t)).view(shape)
    return out


def moved_by(field: Float[Tensor, "B c d h w"], displacement: Float[Tensor, "B 3 d h w"], spacing: Sequence[float]) -> Tensor:
    """The field at every node's place after the displacement (mm); trilinear, continued beyond the box as at its faces."""
    shape = field.shape[2:]
    base = [torch.linspace(-1, 1, n, device=field.device, dtype=field.dtype) for n in shape]
    z, y, x = torch.meshgrid(*base, indexing="ij")
    scale = [2 / (s * (n - 1)) for s, n in zip(spacing, reversed(shape), strict=True)]
    at = torch.stack([b + displacement[:, a] * scale[a] for a, b in enumerate((x, y, z))], -1)
    return grid_sample(field, at, mode="bilinear", padding_mode="border", align_corners=True)


def exponential(velocity: Float[Tensor, "B 3 d h w"], spacing: tuple[float, float, float]) -> Float[Tensor, "B 3 d h w"]:
    """Displacement of ``exp(v)`` in mm, by scaling and squaring.

    The first step is so short that nothing moves by more than half a node, and is a midpoint step; each squaring composes the
    displacement with itself.
    """
    most = float(velocity.abs().amax())
    squarings = max(2, math.ceil(math.log2(max(most / (0.5 * min(spacing)), 1.0))))
    part = velocity / 2**squarings
    step = moved_by(part, part / 2, spacing)
    for _ in range(squarings):
        step = step + moved_by(step, step, spacing)
    return step


def smallest_jacobian(displacement: Float[Tensor, "B 3 d h w"], spacing: tuple[float, float, float]) -> Float[Tensor, " B"]:
    """Smallest determinant of the Jacobian of ``x + u(x)`` over the corners of all cells, one for each field.

    Between nodes the map is trilinear; its determinant at a cell's corner is that of the three edges which meet there.
    """
    steps = [torch.diff(displacement, dim=4 - a) / spacing[a] for a in range(3)]
    for a in range(3):
        steps[a][:, a] += 1
    d, h, w = (n - 1 for n in displacement.shape[2:])
    least = torch.full(displacement.shape[:1], math.inf, device=displacement.device, dtype=displacement.dtype)
    for z in (0, 1):
        for y in (0, 1):
            for x in (0, 1):
                e = steps[0][..., z : z + d, y : y + h, :]
                f = steps[1][..., z : z + d, :, x : x + w]
                g = steps[2][..., :, y : y + h, x : x + w]
                least = torch.minimum(least, _determinant(e, f, g).flatten(1).amin(1))
    return least


def _determinant(e: Tensor, f: Tensor, g: Tensor) -> Tensor:
    (e0, e1, e2), (f0, f1, f2), (g0, g1, g2) = (v.unbind(1) for v in (e, f, g))
    return e0 * (f1 * g2 - f2 * g1) + e1 * (f2 * g0 - f0 * g2) + e2 * (f0 * g1 - f1 * g0)


def at_points(field: Float[Tensor, "3 d h w"], points: Float[Tensor, "N 3"], spacing: Sequence[float]) -> Float[Tensor, "N 3"]:
    """The field at points in mm from the first node; trilinear, in the points' precision."""
    extent = [s * (n - 1) for s, n in zip(spacing, reversed(field.shape[1:]), strict=True)]
    at = points / points.new_tensor(extent) * 2 - 1
    values = grid_sample(field[None].to(points), at[None, None, None], mode="bilinear", padding_mode="border", align_corners=True)
    return values[0, :, 0, 0].T
