"""From a scan in HU, with labels or without, to what attenuates X-rays of any energy.

A scanner of effective energy 70 keV (about 120 kV behind a patient) measures ``HU = 1000 (mu / mu_water - 1)``. Which tissue a
voxel holds is read off its HU: a mixture by volume of the two neighbours in

    air -1000,  lung -741,  adipose tissue -77,  water 0,  soft tissue 43,  cortical bone 1559

(compositions of ICRU Report 44 (1989), HU computed at 70 keV)

and denser bone beyond, so that the mixture has the attenuation that was measured, exactly, at 70 keV. From ``METAL_HU`` on it is
metal: scanners store no more than 3071. HU alone cannot tell contrast agent from bone; labels can: what enhances above its own
HU in a vessel, a chamber of the heart or an organ is iodine.

From 20 to 150 keV every tissue attenuates as some water and some cortical bone do (two processes, photoelectric and Compton:
Alvarez and Macovski 1976): soft tissue and blood within 0.3 %, lung too, adipose tissue within 0.7 % from 25 keV on. So a patient
is two volumes, of water and of bone, and one more each of iodine and metal where there is any; all are linear in what a ray sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.data import LabelMap, Volume
from raylign.data.grid import centre
from raylign.errors import InputError
from raylign.simulation.physics import spectrum
from raylign.simulation.physics.pairs_cpu import Pair, pair
from raylign.simulation.physics.scatter import centre_of_mass
from raylign.simulation.subject import Subject

CT_KEV = 70.0
METAL_HU = 3000.0
TISSUES = ("lung", "adipose", "water", "soft", "bone")
# what blood with contrast agent fills or reaches: names of structures contain one of these
ENHANCING = (
    "aorta", "artery", "arteries", "vein", "vena", "ventricle", "atrium", "atrial", "heart", "vessel", "blood", "iliac_",
    "femoral_a", "carotid", "subclavian", "brachiocephalic", "arch_branches", "kidney", "spleen", "liver", "thyroid", "renal",
    "celiac", "mesenteric", "root", "valve", "pulmonary",
)  # fmt: skip
_ENOUGH = 1000  # voxels that tell whether a structure enhances
_NOT_ENHANCING = ("vertebra", "rib", "hip", "femur", "sacrum", "nerve")


def at_ct(material: str) -> float:
    """Attenuation at the scanner's effective energy, 1/mm."""
    return float(spectrum.attenuation(material, CT_KEV))


@lru_cache(maxsize=1)
def knots() -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """HU of air and of the ``TISSUES``, ascending, and the volume fractions of these there."""
    hu = tuple(1000 * (at_ct(name) / at_ct("water") - 1) for name in TISSUES)
    unit = tuple(tuple(float(i == j) for j in range(len(TISSUES))) for i in range(len(TISSUES)))
    return (-1000.0, *hu), ((0.0,) * len(TISSUES), *unit)


@lru_cache(maxsize=64)
def as_water_and_bone(material: str) -> tuple[float, float]:
    """mm of water and of cortical bone that attenuate as a mm of a tissue does: relative least squares, 25 to 120 keV.

    The water part is then chosen so that attenuation at 70 keV is exact.
    """
    if material in ("water", "bone"):
        return float(material == "water"), float(material == "bone")
    energies = np.arange(25.0, 121.0)
    mu, water, bone = (spectrum.attenuation(name, energies) for name in (material, "water", "bone"))
    w, b = water / mu, bone / mu
    ww, wb, bb = (w * w).sum(), (w * b).sum(), (b * b).sum()
    part = float((ww * b.sum() - wb * w.sum()) / (ww * bb - wb * wb))
    return (at_ct(material) - part * at_ct("bone")) / at_ct("water"), part


def hu_of_iodine() -> float:
    """HU that iodine would add if it filled the voxel (4.93 g/cm3): about 26 HU for each mg/ml."""
    return 1000 * at_ct("iodine") / at_ct("water")


def blood_hu() -> float:
    """HU of blood without contrast agent."""
    return 1000 * (at_ct("blood") / at_ct("water") - 1)


def fractions(hu: Float[Tensor, "*any"]) -> dict[str, Float[Tensor, "*any"]]:
    """Volume fractions of the ``TISSUES`` by HU; bone goes on beyond one, metal is not looked at."""
    at, rows = knots()
    out: dict[str, Tensor] = {}
    for i, name in enumerate(TISSUES):
        out[name] = _piecewise(hu, at, tuple(row[i] for row in rows), last=1 / (at[-1] + 1000) if name == "bone" else 0.0)
    return out


def _piecewise(x: Tensor, at: Sequence[float], values: Sequence[float], last: float) -> Tensor:
    """Linear between nodes, constant below, of slope ``last`` beyond."""
    out = torch.full_like(x, values[0])
    for i in range(len(at) - 1):
        slope = (values[i + 1] - values[i]) / (at[i + 1] - at[i])
        if slope:
            out.add_((x - at[i]).clamp_(0, at[i + 1] - at[i]), alpha=slope)
    if last:
        out.add_((x - at[-1]).clamp_min_(0), alpha=last)
    return out


def enhancing(hu: Float[Tensor, "D H W"], labels: LabelMap, least_hu: float = 40.0) -> Bool[Tensor, "D H W"]:
    """Voxels of structures whose blood holds contrast agent: named as in ``ENHANCING``, upper quartile well above blood's HU."""
    counted = np.zeros(max([0, *labels.present()]) + 1, bool)
    some, sampled = hu[::2, ::2, ::2], labels.data[::2, ::2, ::2]  # a quartile needs no more
    for number, name in labels.present().items():
        lowered = name.lower()
        if number < 0 or not any(part in lowered for part in ENHANCING) or any(part in lowered for part in _NOT_ENHANCING):
            continue
        values = some[sampled == number]
        if len(values) < _ENOUGH:
            values = hu[labels.data == number]
        # the upper quartile: edges that share their voxels with lung or fat are much of a thin vessel
        counted[number] = float(values.quantile(0.75) if len(values) < 2**24 else values.median()) > blood_hu() + least_hu
    if not counted.any():
        return torch.zeros_like(hu, dtype=torch.bool)
    table = torch.from_numpy(counted).to(labels.data.device)
    return table[labels.data.clamp(0, len(counted) - 1).to(torch.int64)]


@dataclass(frozen=True, eq=False)
class Matter:
    """A patient as volumes of materials on one grid, resident on a device, ready to be exposed many times.

    Parameters
    ----------
    amounts: material to [D, H, W] float32, mm of it (at the table's density) in a mm of patient; water and bone stand for all
        tissues and may be negative (adipose tissue: a little less bone than none).
    affine: 4x4, voxel index (i, j, k) to patient LPS mm.
    mass_centre: of the patient's mass, LPS mm: scatter asks how far it is to the detector.
    """

    amounts: Mapping[str, Float[Tensor, "D H W"]]
    affine: Float[Tensor, "4 4"]
    mass_centre: Float[Tensor, " 3"]

    @staticmethod
    def of(patient: Subject | Volume, labels: LabelMap | None = None, *, metal: str = "titanium") -> Matter:
        """The materials of a subject, or of a scan with labels on its grid or without.

        Parameters
        ----------
        patient: a Subject (its labels are used) or a volume in HU.
        labels: of a volume; which structures hold contrast agent. Without, all that is dense is bone.
        metal: what voxels of ``METAL_HU`` and more are made of.

        Raises
        ------
        InputError: a volume that is not in HU; labels on another grid; a metal without a table.
        """
        volume = patient.volume if isinstance(patient, Subject) else patient
        labels = patient.labels if isinstance(patient, Subject) and labels is None else labels
        hu = checked(volume, labels, metal)
        amounts = _amounts(hu, None if labels is None else enhancing(hu, labels), metal)
        return Matter(amounts, volume.affine, mass_centre(hu, volume.affine))

    @property
    def device(self) -> torch.device:
        """Where the volumes lie."""
        return next(iter(self.amounts.values())).device

    @cached_property
    def pair(self) -> Pair:
        """Water and bone as the kernel for the CPU reads them, made once."""
        return pair(self.amounts["water"], self.amounts["bone"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (D, H, W)."""
        d, h, w = next(iter(self.amounts.values())).shape
        return d, h, w

    def to(self, device: str | torch.device) -> Matter:
        """The same on a device."""
        return replace(self, amounts={name: data.to(device) for name, data in self.amounts.items()})


def checked(volume: Volume, labels: LabelMap | None, metal: str) -> Float[Tensor, "D H W"]:
    """A scan's HU in float32, once it and its labels are fit to be exposed."""
    if volume.unit != "HU":
        raise InputError(
            f"the volume is in {volume.unit}, not in HU", field="unit", remedy="materials can only be told apart in HU"
        )
    if labels is not None and (labels.data.shape != volume.data.shape or not torch.allclose(labels.affine, volume.affine)):
        raise InputError("the labels lie on another grid than the scan", field="labels", remedy="resample them onto it")
    spectrum.density(metal)
    return volume.data.detach().to(torch.float32)


def mass_centre(hu: Float[Tensor, "D H W"], affine: Float[Tensor, "4 4"]) -> Float[Tensor, " 3"]:
    """Centre of a scan's mass, LPS mm, float64 on the CPU; the middle of the grid where there is nothing but air."""
    mass = (1 + hu / 1000).clamp_(0, 3)
    if not bool((mass > 0).any()):
        return centre(affine, hu.shape).cpu()
    return centre_of_mass(mass, affine).cpu().double()


def _amounts(hu: Tensor, contrast: Tensor | None, metal: str) -> dict[str, Tensor]:
    at, rows = knots()
    basis = [as_water_and_bone(name) for name in TISSUES]
    out: dict[str, Tensor] = {}
    for i, name in enumerate(("water", "bone")):
        values = tuple(sum(f * basis[t][i] for t, f in enumerate(row)) for row in rows)
        # denser than cortical bone: more of the same, in proportion to its attenuation
        out[name] = _piecewise(hu, at, values, last=1 / (at[-1] + 1000) if name == "bone" else 0.0)
    if contrast is not None:
        agent = contrast & (hu > blood_hu())
        if bool(agent.any()):
            excess = torch.where(agent, hu - blood_hu(), 0.0)
            for i, name in enumerate(("water", "bone")):
                out[name] = torch.where(agent, as_water_and_bone("blood")[i], out[name])
            out["iodine"] = excess / hu_of_iodine()
            hu = torch.where(agent, 0.0, hu)
    dense = hu >= METAL_HU
    if bool(dense.any()):
        out = {name: torch.where(dense, 0.0, data) for name, data in out.items()}
        out[metal] = dense.to(torch.float32) + out.get(metal, 0.0)
    return {name: data.contiguous() for name, data in out.items()}
