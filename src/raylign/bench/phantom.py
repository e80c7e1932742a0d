"""Ellipsoids: a phantom whose line integrals are known exactly.

The chord of a line through an ellipsoid is the root of a quadratic, so that images of it have no integration error, and the
error of a projector that is given the phantom on a grid can be stated. The grid's numbers are averages over voxels, as those of
a scanner are, and not samples at their centres, whose jagged edges would hide the projector's error behind the grid's.

Source: Shepp and Logan, "The Fourier reconstruction of a head section" (1974), for phantoms of ellipses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3

_LINES = 21  # of a Fibonacci lattice: its projections on either axis have as many distinct places
_GENERATOR = 13


@dataclass(frozen=True)
class Ellipsoid:
    """A solid ellipsoid of constant attenuation; several add up where they overlap.

    Parameters
    ----------
    centre: LPS mm.
    axes: the three semi-axes, mm.
    value: attenuation that it adds, 1/mm; negative for a cavity.
    turn: rotation vector, radians, from the frame of the axes to LPS.

    Raises
    ------
    InputError: a semi-axis that is not positive.
    """

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    value: float
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not min(self.axes) > 0:
            raise InputError(f"semi-axes {self.axes} are not positive lengths", field="axes")

    def unit(self) -> Float[Tensor, "4 4"]:
        """The affine map that takes the ellipsoid to the unit ball (float64)."""
        pose = se3.exp(torch.tensor([*self.turn, 0.0, 0.0, 0.0], dtype=torch.float64))
        pose[:3, 3] = torch.tensor(self.centre, dtype=torch.float64)
        return torch.diag(torch.tensor([*(1 / a for a in self.axes), 1.0], dtype=torch.float64)) @ se3.inverse(pose)


def body() -> tuple[Ellipsoid, ...]:
    """A trunk about the origin that fits into a cube of 256 mm: fat, muscle, two lungs, heart, liver, spine, two ribs, a marker.

    Attenuation as at 70 keV: soft tissue 0.0193/mm, cortical bone up to 0.049/mm.
    """
    return (
        Ellipsoid((0, 0, 0), (120, 82, 112), 0.0175),
        Ellipsoid((0, 2, 0), (110, 72, 108), 0.0018),
        Ellipsoid((-56, -4, 22), (38, 52, 70), -0.0145, (0.0, 0.1, 0.05)),
        Ellipsoid((58, -6, 26), (34, 50, 66), -0.0145, (0.0, -0.12, -0.05)),
        Ellipsoid((18, -22, 8), (40, 32, 44), 0.0005, (0.3, 0.2, 0.4)),
        Ellipsoid((-30, 0, -72), (62, 48, 30), 0.0006, (0.0, 0.2, 0.1)),
        Ellipsoid((0, 48, 0), (16, 15, 104), 0.0140, (0.03, 0.0, 0.0)),
        Ellipsoid((-70, -40, 40), (36, 5, 6), 0.0280, (0.1, 0.3, 0.6)),
        Ellipsoid((66, -44, -10), (38, 5, 7), 0.0280, (-0.2, 0.2, -0.5)),
        Ellipsoid((24, -30, 44), (4, 4, 4), 0.0300),
    )


def line_integrals(phantom: Sequence[Ellipsoid], view: View, pose: Rigid | None = None) -> Float[Tensor, "H W"]:
    """The exact image: attenuation integrated along every ray of a view, from source to detector (float64, dimensionless).

    Parameters
    ----------
    phantom: ellipsoids in the frame of the patient, LPS mm.
    view: in world mm.
    pose: ``T_world_from_volume``; the identity where none is given.

    With a ray ``o + t d``, taken to the frame in which the ellipsoid is the unit ball, the chord lies between the roots of
    ``|o + t d|^2 = 1``; its length is the difference of the roots, cut to [0, 1], times the ray's length.
    """
    here = view if pose is None else view.transformed(pose.inverse().matrix)
    starts, ways = _rays(here)
    lengths = ways.norm(dim=-1)
    image = torch.zeros(here.shape, dtype=torch.float64)
    for ellipsoid in phantom:
        unit = ellipsoid.unit()
        first, last = _chord(se3.transform(unit, starts), ways @ unit[:3, :3].T)
        image += ellipsoid.value * lengths * (last.clamp(0, 1) - first.clamp(0, 1))
    return image


def _rays(view: View) -> tuple[Tensor, Tensor]:
    """Where the ray of every pixel starts, and the vector from there to the pixel: [..., 3] each, mm."""
    starts, ways = view.rays()
    return starts, ways


def _chord(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Ray parameters at which lines enter and leave the unit ball; equal where they miss it."""
    a = (d * d).sum(-1)
    nearest = -(o * d).sum(-1) / a
    # the distance of the line from the centre, by the foot of the perpendicular: b^2 - 4ac would cancel
    foot = o + nearest[..., None] * d
    half = ((1 - (foot * foot).sum(-1)).clamp_min(0) / a).sqrt()
    return nearest - half, nearest + half


def voxelised(
    phantom: Sequence[Ellipsoid], shape: tuple[int, int, int], affine: Float[Tensor, "4 4"] | None = None, *, lines: int = _LINES
) -> Volume:
    """The phantom on a grid: every voxel holds the average over its cell.

    The average is exact along the first axis (slices); across it, ``lines`` lines a voxel are averaged, at the points of a
    Fibonacci lattice. Where a face of the phantom runs along the slices a voxel is so wrong by at most one part in ``lines`` of
    the step in value.

    Parameters
    ----------
    phantom: ellipsoids, LPS mm.
    shape: (slices, rows, columns).
    affine: voxel (i, j, k) to LPS mm; a cube of 256 mm about the origin where none is given.
    lines: 21, the default, 34 or another number.

    Returns
    -------
    float32 volume in 1/mm.
    """
    if affine is None:
        affine = cube(shape)
    affine = affine.to(torch.float64)
    data = torch.zeros(shape, dtype=torch.float64)
    for ellipsoid in phantom:
        unit = ellipsoid.unit() @ affine
        low, high = _box(unit, shape)
        if bool((high <= low).any()):
            continue
        where = tuple(slice(int(a), int(b)) for a, b in zip(low.flip(0), high.flip(0), strict=True))
        data[where] += ellipsoid.value * _filled(unit, low, high, lines)
    return Volume(data.to(torch.float32), affine, "1/mm")


def cube(shape: tuple[int, int, int], edge: float = 256.0) -> Float[Tensor, "4 4"]:
    """Affine of a grid that fills a cube of ``edge`` mm about the origin, axes along LPS."""
    pitch = [edge / n for n in reversed(shape)]
    affine = torch.diag(torch.tensor([*pitch, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([(p - edge) / 2 for p in pitch], dtype=torch.float64)
    return affine


def _box(unit: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """First voxel (i, j, k) and the one after the last whose cells an ellipsoid, given as a map to the unit ball, can touch."""
    back = torch.linalg.inv(unit)
    reach = back[:3, :3].norm(dim=1)  # of the image of the unit ball, along each axis
    size = torch.tensor(shape).flip(0)
    low = (back[:3, 3] - reach + 0.5).floor().long().clamp_min(0)
    high = torch.minimum((back[:3, 3] + reach + 0.5).floor().long() + 1, size)
    return low, high


def _filled(unit: Tensor, low: Tensor, high: Tensor, lines: int) -> Tensor:
    """Share of every cell of a box that lies within the ellipsoid."""
    x, y, z = (torch.arange(int(a), int(b), dtype=torch.float64) for a, b in zip(low, high, strict=True))
    total = torch.zeros(len(z), len(y), len(x), dtype=torch.float64)
    along = unit[:3, 2]
    for n in range(lines):
        dx, dy = (n + 0.5) / lines - 0.5, (n * _GENERATOR / lines + 0.5 / lines) % 1.0 - 0.5
        across = (x[None, :, None] + dx) * unit[:3, 0] + (y[:, None, None] + dy) * unit[:3, 1] + unit[:3, 3]
        first, last = _chord(across, along.expand_as(across))
        lower, upper = z[:, None, None] - 0.5, z[:, None, None] + 0.5
        total += torch.minimum(last, upper).sub_(torch.maximum(first, lower)).clamp_min_(0)
    return total / lines
