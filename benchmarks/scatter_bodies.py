"""Bodies and exposures for ``scatter``: slabs, trunks, the phantom thorax, CTs; the Monte Carlo beside the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import montecarlo as mc
import montecarlo_voxels as mv
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import raylign
from raylign.data import Volume
from raylign.geometry import View
from raylign.simulation import thorax
from raylign.simulation.physics import scatter

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ct"
NAMES = ("soft", "spongy", "bone")
_VOXEL = 2.8  # mm, about: scans are averaged to it


@dataclass(frozen=True)
class Case:
    """A body, centred on the isocentre, exposed along y.

    ``field``: side of the square detector, mm; ``lit``: part of it; ``endless``: no trunk, but a slab that is wide enough.
    """

    name: str
    body: mv.Body
    kv: float = 80.0
    sid: float = 1200.0
    sod: float = 800.0
    field: float = 300.0
    lit: float = 1.0
    endless: bool = False

    def detector(self, cells: int = 32) -> mv.Detector:
        """In the body's frame."""
        spacing = np.array(self.body.spacing)
        centre = spacing * np.array(self.body.density.shape[::-1]) / 2
        across, down = np.array([self.field, 0, 0]), np.array([0, 0, self.field])
        corner = centre + np.array([0, self.sid - self.sod, 0]) - across / 2 - down / 2
        edge = (1 - self.lit) / 2
        return mv.Detector(
            centre - np.array([0, self.sod, 0]), corner, across, down, (cells, cells), (edge, 1 - edge, edge, 1 - edge)
        )


@cache
def beam(kv: float, aluminium: float = 3.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """keV and photons of a tungsten tube behind mm of aluminium (SpekPy: Poludniowski, Omar, Bujila and Andreo 2021)."""
    import spekpy

    spectrum = spekpy.Spek(kvp=kv, th=12, dk=1.0)
    spectrum.filter("Al", aluminium)
    kev, photons = spectrum.get_spectrum(edges=False)
    keep = (kev > 15) & (kev < 150)
    return kev[keep], photons[keep]


def slab(name: str, thick: float, side: float = 600.0, density: float = 0.0) -> mv.Body:
    """A block ``thick`` mm from front to back."""
    shape = (round(side / 10), round(thick / 5), round(side / 10))
    full = np.full(shape, density or mc.COMPOSITIONS[name][0], np.float32)
    return mv.Body(full, np.zeros(shape, np.uint8), (10.0, 5.0, 10.0), (name,))


def trunk(wide: float, deep: float, spine: float = 0.0, long: float = 500.0, voxel: float = 4.0) -> mv.Body:
    """An elliptic cylinder of soft tissue with a column of spongy bone at its back, ``spine`` mm across."""
    shape = (round(long / voxel), round(deep / voxel) + 2, round(wide / voxel) + 2)
    x, y = (np.arange(n) + 0.5 - n / 2 for n in (shape[2], shape[1]))
    inside = (2 * x * voxel / wide) ** 2 + (2 * y[:, None] * voxel / deep) ** 2 < 1
    column = (x * voxel) ** 2 + (y[:, None] * voxel - deep / 5) ** 2 < (spine / 2) ** 2
    density = np.where(column, 1.18, np.where(inside, 1.05, 0)).astype(np.float32)
    return mv.Body(
        np.repeat(density[None], shape[0], 0), np.repeat(column[None], shape[0], 0).astype(np.uint8), (voxel,) * 3, NAMES
    )


def scan(volume: Volume, beyond: float = 60.0) -> mv.Body:
    """A volume in HU, its first and last slice going on for ``beyond`` mm: the patient does not end where the scan does.

    Densities follow Schneider, Pedroni and Lomax (1996): 1 + HU / 1000 up to 100 HU, 1.041 + 0.592 HU / 1000 above. Bone is
    spongy from 200 and cortical from 700 HU; what is under -900 is air and weighs nothing.
    """
    more = round(beyond / float(volume.spacing[2]))
    hu = volume.data.float()
    hu = torch.cat([hu[:1].expand(more, -1, -1), hu, hu[-1:].expand(more, -1, -1)])
    block = [max(1, round(_VOXEL / float(s))) for s in volume.spacing]
    hu = torch.nn.functional.avg_pool3d(hu[None, None], block[::-1])[0, 0].numpy()
    density = np.where(hu < 100, np.clip(1 + hu / 1000, 0, None), 1.041 + 0.592 * hu / 1000).clip(max=2.5)
    density[hu < -900] = 0
    material = (hu > 200).astype(np.uint8) + (hu > 700).astype(np.uint8)
    return mv.Body(
        density.astype(np.float32), material, tuple(float(s) * b for s, b in zip(volume.spacing, block, strict=True)), NAMES
    )


def patients() -> dict[str, mv.Body]:
    """The phantom thorax, and the CTs where they are at hand."""
    bodies = {"phantom thorax": scan(thorax(seed=3).volume)}
    for name, file in {
        "chest CT": "lidc0001_chest",
        "pelvis CT, 3 mm": "totalseg_pelvis_3mm_ct.nii.gz",
        "pelvis CT, 1 mm": "vhf_pelvis_ct.nii.gz",
    }.items():
        if (DATA / file).exists():
            bodies[name] = scan(raylign.read_volume(DATA / file))
    return bodies


def share(beam: tuple[NDArray, NDArray]) -> NDArray[np.float64]:
    """Part of the open beam's signal that each energy makes."""
    kev, photons = beam
    signal = kev * photons * (1 - np.exp(-np.interp(kev, mc.KEV, mc.response())))
    return signal / signal.sum()


def modelled(case: Case, detector: mv.Detector, picture: mv.Picture) -> NDArray[np.float64]:
    """The kernels' scatter, from the primary and the mass on the rays of the Monte Carlo's own body."""
    body = case.body
    affine = torch.diag(torch.tensor([*body.spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor(body.spacing, dtype=torch.float64) / 2
    centre = scatter.centre_of_mass(torch.as_tensor(body.density), affine)
    rows, columns = detector.cells
    steps = (detector.across / columns, detector.down / rows)
    view = View(
        torch.tensor(detector.source), torch.tensor(detector.corner + steps[0] / 2 + steps[1] / 2),
        torch.tensor(steps[0]), torch.tensor(steps[1]), detector.cells,
    )  # fmt: skip
    distance = scatter.centre_distance([view], torch.eye(4)[None], centre[None])
    quality = beam(case.kv)
    kernels = scatter.kernels(torch.tensor(quality[0])[None], torch.tensor(share(quality))[None], distance)
    primary, mass = (torch.tensor(x)[None].float() for x in (picture.primary, picture.mass))
    config = scatter.ScatterConfig(1 / scatter.TRUNK if case.endless else 1.0)
    lit = torch.zeros_like(primary)
    lit[:, lit_cells(detector)[0], lit_cells(detector)[1]] = 1
    return scatter.scattered(primary, mass, lit, torch.tensor([case.field / columns]), kernels, config)[0].numpy().astype(float)


def lit_cells(detector: mv.Detector) -> tuple[slice, slice]:
    """Rows and columns that the beam covers."""
    (rows, columns), lit = detector.cells, detector.lit
    return slice(round(lit[0] * rows), round(lit[1] * rows)), slice(round(lit[2] * columns), round(lit[3] * columns))


def compared(case: Case, photons: int, seed: int = 0) -> dict[str, float | str]:
    """One row of the table: where the primary is under 0.6 within the field, both maps smoothed by two cells (of 32 or so)."""
    detector = case.detector()
    picture = mv.voxels(case.body, detector, beam(case.kv), photons, seed)
    model = modelled(case, detector, picture)
    part = lit_cells(detector)
    true, found, primary = picture.scatter[part], model[part], picture.primary[part]
    behind = primary < 0.6
    smooth_true, smooth_found = (gaussian_filter(x, 2.0, mode="nearest") for x in (true, found))
    middle = tuple(slice(n // 2 - 4, n // 2 + 4) for n in true.shape)
    return {
        "case": case.name,
        "kv": case.kv,
        "field_mm": case.field * case.lit,
        "distance_mm": case.sid - case.sod,
        "spr": float(true[behind].sum() / primary[behind].sum()),
        "spr_model": float(found[behind].sum() / primary[behind].sum()),
        "spr_centre": float((true[middle] / primary[middle]).mean()),
        "spr_centre_model": float((found[middle] / primary[middle]).mean()),
        "ratio": float(found[behind].sum() / true[behind].sum()),
        "map_rms": float(np.sqrt(((smooth_found - smooth_true)[behind] ** 2).mean()) / true[behind].mean()),
        "spr_rms": float(np.sqrt((((smooth_found - smooth_true) / smooth_true)[behind] ** 2).mean())),
        "noise": picture.noise / np.sqrt(4 * np.pi * 4),
    }
