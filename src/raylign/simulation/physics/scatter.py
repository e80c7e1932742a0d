"""Scatter at the detector: every ray's scatter, spread as soft tissue of its thickness spreads it, at the detector's distance.

A thin beam through t mm of soft tissue, met by a detector g mm behind it, leaves there a primary spot P and around it scatter of
the shape k(r; t, g). For each energy that shape was computed by Monte Carlo and written as a sum of Gaussians of fixed widths,

    k(r) = P sum_j c_j(keV, t, g) exp(-r^2 / 2 sigma_j^2) / (2 pi sigma_j^2),

so that the scatter of an image is the superposition of all its rays' shapes (Ohnesorge, Flohr and Klingenbeck-Regn 1999; with
shapes that follow the thickness, Sun and Star-Lack 2010), which Gaussians make a few small matrix products:

    S = sum_j G_j [lit P c_j(t)],        c_j(t) = sum_keV share(keV) e^(-mu t) c_j(keV, t, g) / sum_keV share(keV) e^(-mu t).

P is the exposure's own primary, bone and metal included; t is the ray's mass as mm of water. The amount is not free: thickness,
field, distance and tube voltage change it. One number is fitted. A trunk is no endless slab: scatter escapes through its sides,
and bone takes some. Five elliptic trunks with a spine scatter 0.9 of what slabs of their rays would (``TRUNK``). How far the
result is from a Monte Carlo of slabs and of other bodies ``benchmarks/scatter.py`` prints; it makes the table of c_j as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View

TRUNK = 0.9  # scatter of bodies over that of endless slabs, ray for ray
_CELLS = 32  # along each side: scatter is smooth, and its sources are summed over cells


@dataclass(frozen=True)
class Grid:
    """An antiscatter grid by its two transmissions.

    The defaults were measured on a grid of ratio 10 behind 300 mm of acrylic (Altunbas et al. 2016, Med. Phys. 43,
    abstract WE-AB-207A-10: Tp 70.6 %, Ts 21 %).

    Parameters
    ----------
    primary: transmission of primary radiation, 0 to 1.
    scatter: transmission of scatter, 0 to 1.

    Raises
    ------
    InputError: a transmission beyond 0 to 1, or no primary.
    """

    primary: float = 0.706
    scatter: float = 0.21

    def __post_init__(self) -> None:
        if not (0 < self.primary <= 1 and 0 <= self.scatter <= 1):
            raise InputError(f"transmissions {self.primary} and {self.scatter} are not within 0 to 1", field="grid")


@dataclass(frozen=True)
class ScatterConfig:
    """What may be chosen about scatter; thickness, field, gap and beam quality are the exposure's.

    Parameters
    ----------
    factor: times what the model says of bodies; 0 is an exposure without scatter, 1 is physics, 1 / ``TRUNK`` endless slabs.
    grid: ``None`` without. The open beam is the one behind the grid, so the scatter changes by ``grid.scatter / grid.primary``.

    Raises
    ------
    InputError: a factor that is negative or not a number.
    """

    factor: float = 1.0
    grid: Grid | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.factor < 1e3:
            raise InputError(f"a factor of {self.factor}", field="factor", remedy="0 is no scatter, 1 is physics")

    @property
    def gain(self) -> float:
        """Scatter behind the grid over the superposition of slabs, both in units of the open beam there."""
        return TRUNK * self.factor * (1.0 if self.grid is None else self.grid.scatter / self.grid.primary)


@dataclass(frozen=True, eq=False)
class Kernels:
    """Scatter over primary of thin beams through soft tissue, for one beam quality and gap an image.

    Parameters
    ----------
    ratio: [B, T, J] total scatter of each Gaussian over the primary, at the thicknesses of ``thickness``; B may be 1.
    thickness: [T] mm of water, from 0.
    width: [J] standard deviations at the detector, mm.
    """

    ratio: Float[Tensor, "B T J"]
    thickness: Float[Tensor, " T"]
    width: Float[Tensor, " J"]

    def to(self, device: torch.device | str) -> Kernels:
        """The same on another device."""
        return Kernels(self.ratio.to(device), self.thickness.to(device), self.width.to(device))


@dataclass(frozen=True, eq=False)
class _Table:
    """``ratio`` [keV, mm, gap, Gaussians] and the values of its axes; ``tissue``: 1/mm at the energies of ``tissue_kev``."""

    kev: Tensor
    thickness: Tensor
    gap: Tensor
    width: Tensor
    tissue_kev: Tensor
    tissue: Tensor
    ratio: Tensor


@cache
def _table() -> _Table:
    content = json.loads((files("raylign.simulation.physics") / "tables" / "scatter.json").read_text())
    names = ("kev", "thickness_mm", "gap_mm", "width_mm", "tissue_kev", "tissue_per_mm", "ratio")
    return _Table(*(torch.tensor(content[name], dtype=torch.float64) for name in names))


def _hats(x: Tensor, nodes: Tensor) -> Tensor:
    """Weights [..., N] of linear interpolation between ascending nodes; the nearest node beyond them."""
    x = x.clamp(nodes[0], nodes[-1])[..., None]
    low, high = nodes[:-1], nodes[1:]
    rise = ((x - low) / (high - low)).clamp(0, 1)
    one = torch.ones_like(x)
    return torch.cat([one, rise], -1) - torch.cat([rise, torch.zeros_like(x)], -1)


def kernels(kev: Float[Tensor, "B K"], share: Float[Tensor, "B K"], distance_mm: Float[Tensor, " B"]) -> Kernels:
    """The shapes of scatter for beams and places of the patient.

    Parameters
    ----------
    kev: photon energies of each beam; 20 to 150 keV are tabulated, the nearest stands for others.
    share: of the open beam's signal that each energy makes (photons times keV times what the detector absorbs); scaled to sum 1.
    distance_mm: of the patient's centre of mass from the detector, see ``centre_distance``. A ray of t mm of water is taken for
        tissue about that depth: its gap is the distance less t / 2, and 25 to 800 mm are tabulated, the nearest beyond.

    Raises
    ------
    InputError: shares that are negative or all zero; shapes that do not go together.
    """
    t = _table()
    kev, share, distance = (x.detach().to("cpu", torch.float64) for x in (kev, share, distance_mm))
    if kev.ndim != 2 or kev.shape != share.shape or distance.ndim != 1 or len({len(kev), len(distance)} - {1}) > 1:
        raise InputError(
            f"energies {tuple(kev.shape)}, shares {tuple(share.shape)}, distances {tuple(distance.shape)} do not match"
        )
    if bool((share < 0).any()) or not bool((share.sum(-1) > 0).all()):
        raise InputError("a beam whose energies make no signal", field="share")
    tissue = torch.exp(_hats(kev, t.tissue_kev) @ torch.log(t.tissue))
    through = share[:, :, None] * torch.exp(-tissue[:, :, None] * t.thickness)
    through = through / through.sum(1, keepdim=True)
    # the ratios vary little over a factor of two in the gap: linear in its logarithm
    gap = torch.log((distance[:, None] - t.thickness / 2).clamp_min(1.0))
    at_gap = torch.einsum("btg,etgj->betj", _hats(gap, torch.log(t.gap)), t.ratio)
    ratio = torch.einsum("bet,betj->btj", torch.einsum("bkt,bke->bet", through, _hats(kev, t.kev)), at_gap)
    return Kernels(ratio.float(), t.thickness.float(), t.width.float())


def centre_of_mass(density: Float[Tensor, "D H W"], affine: Float[Tensor, "4 4"]) -> Float[Tensor, " 3"]:
    """Centre of a volume's mass, mm in the volume's patient frame (float64, on the CPU).

    Raises
    ------
    InputError: a volume without mass.
    """
    sums = [density.sum(dim=[a for a in range(3) if a != axis]).double().cpu() for axis in (2, 1, 0)]
    total = float(sums[0].sum())
    if not total > 0:
        raise InputError("a volume without mass scatters nothing", field="density")
    mean = torch.stack([torch.arange(len(s), dtype=torch.float64) @ s / total for s in sums])
    a = affine.detach().double().cpu()
    return a[:3, :3] @ mean + a[:3, 3]


def centre_distance(views: Sequence[View], poses: Float[Tensor, "B 4 4"], centre: Float[Tensor, "B 3"]) -> Float[Tensor, " B"]:
    """Distance, mm, of each patient's centre of mass from the plane of the detector (float64, on the CPU).

    Parameters
    ----------
    views, poses: the exposures; ``T_world_from_volume``.
    centre: see ``centre_of_mass``.
    """
    poses, centre = poses.detach().double().cpu(), centre.detach().double().cpu()
    world = (poses[:, :3, :3] @ centre[..., None])[..., 0] + poses[:, :3, 3]
    return torch.stack([((v.origin - w) @ v.normal).abs() for v, w in zip(views, world, strict=True)])


def _spread(count: int, cells: int, block: int, pitch: Tensor, width: Tensor) -> Float[Tensor, "B J N C"]:
    """Share of a cell's scatter that each pixel's centre sees a mm along one axis: a Gaussian's integral over the cell."""
    at = torch.arange(count, device=pitch.device, dtype=pitch.dtype)
    edge = torch.arange(cells + 1, device=pitch.device, dtype=pitch.dtype) * block - 0.5
    x = (edge - at[:, None]) * pitch[:, None, None, None] / (math.sqrt(2) * width[:, None, None])
    step = torch.erf(x)
    return (step[..., 1:] - step[..., :-1]) / (2 * block * pitch[:, None, None, None])


def scattered(
    primary: Float[Tensor, "B H W"],
    thickness: Float[Tensor, "B H W"],
    lit: Float[Tensor, "B H W"],
    pitch_mm: Float[Tensor, " B"] | Float[Tensor, "B 2"],
    kernels: Kernels,
    config: ScatterConfig | Sequence[ScatterConfig] | None = None,
) -> Float[Tensor, "B H W"]:
    """Scattered signal at every pixel, in units of the open beam.

    Parameters
    ----------
    primary: signal without scatter and without the collimator's shadow, 1 in the open beam.
    thickness: mass on each ray, mm of water of the same mass (0.1 g/cm^2 a mm); up to 400 mm, thicker counts as 400.
    lit: 0 to 1, the part of each pixel's beam that the collimator lets through. What is not lit scatters nothing.
    pitch_mm: of the pixels at the detector; one number an image, or (row, column). A leading 1 serves all images.
    kernels: beam quality and gap, one an image or one for all.
    config: one for all images or one each; physics without a grid where none is given.

    Notes
    -----
    The sources are summed over at most 32 x 32 cells, their Gaussians evaluated at every pixel's centre. Scatter from beyond the
    image counts only as far as its sources are in the image: give a field with its border.
    """
    b, h, w = primary.shape
    block = (math.ceil(h / _CELLS), math.ceil(w / _CELLS))
    cells = (math.ceil(h / block[0]), math.ceil(w / block[1]))
    pad = (0, cells[1] * block[1] - w, 0, cells[0] * block[0] - h)
    sent = primary * lit
    both = torch.nn.functional.pad(torch.stack([sent, sent * thickness], 1), pad)
    both = torch.nn.functional.avg_pool2d(both, block)
    # where c is linear in t the mean of P c(t) is that of P, times c at the mean of t weighted by P
    mean = both[:, 1] / both[:, 0].clamp_min(1e-30)
    ratio = _hats(mean.flatten(1), kernels.thickness.to(mean)) @ kernels.ratio.to(mean)  # [B, cells, J]
    born = both[:, 0].flatten(1)[..., None] * ratio * (block[0] * block[1])
    born = born.transpose(1, 2).reshape(b, -1, *cells)  # [B, J, rows, columns], each Gaussian's whole scatter, in pixels' signal
    pitch = pitch_mm.to(mean)
    pitch = pitch if pitch.ndim == 2 else pitch[:, None].expand(-1, 2)
    width = kernels.width.to(mean)
    down = _spread(h, cells[0], block[0], pitch[:, 0], width).permute(0, 2, 1, 3)  # [B, H, J, rows]
    across = _spread(w, cells[1], block[1], pitch[:, 1], width).transpose(2, 3)  # [B, J, columns, W]
    area = (pitch[:, 0] * pitch[:, 1])[:, None, None]
    spread = down.reshape(down.shape[0], h, -1) @ (born @ across).reshape(b, -1, w) * area
    configs = [config or ScatterConfig()] if not isinstance(config, Sequence) else list(config)
    return spread * torch.tensor([c.gain for c in configs], device=mean.device, dtype=mean.dtype)[:, None, None]
