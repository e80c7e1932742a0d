"""A scalar volume: a CT, or attenuation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import grid
from raylign.errors import InputError

# Linear attenuation, 1/mm, by photon energy in keV, computed with xraydb 4.5 (Elam tables): water, and cortical bone
# (ICRU-44, 1.92 g/cm3).
_WATER = {40: 0.02683, 50: 0.02269, 60: 0.02059, 70: 0.01929, 80: 0.01837, 100: 0.01707}
_BONE = {40: 0.12778, 50: 0.08145, 60: 0.06045, 70: 0.04935, 80: 0.04279, 100: 0.03562}
_BONE_HU = 1000 * (_BONE[70] / _WATER[70] - 1)  # what that bone measures in a scanner of 70 keV effective energy (about 120 kV)

Unit = Literal["HU", "1/mm", "raw"]


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume on a regular grid that knows its millimetres.

    Parameters
    ----------
    data: [D, H, W], indexed [slice k, row j, column i]; floating point, finite.
    affine: 4x4, voxel index (i, j, k) to patient LPS mm.
    unit: "1/mm" (linear attenuation, what a ray integrates), "HU" (converted on projection), or "raw": numbers that grow with
        attenuation and are zero where there is nothing (a bone cut out of a scan, uncalibrated).
    truncated: for each of the three axes (column, row, slice), whether the object goes on beyond the first and the last face of
        the grid. A ray that leaves through such a face misses part of the patient. ``None``: not stated.
    meta: what the file said (free text and numbers; never interpreted).

    Raises
    ------
    InputError: wrong number of axes, an axis shorter than two voxels, values that are not finite, a singular affine.
    """

    data: Float[Tensor, "D H W"]
    affine: Float[Tensor, "4 4"]
    unit: Unit = "1/mm"
    truncated: tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data = torch.as_tensor(self.data)
        if data.ndim != 3 or min(data.shape) < 2:
            raise InputError(
                f"a volume has three axes of at least two voxels, this one has shape {tuple(data.shape)}", field="data"
            )
        if not data.is_floating_point():
            data = data.to(torch.float32)
        if not bool(torch.isfinite(data.detach().sum())) and not bool(torch.isfinite(data.detach()).all()):
            count = int((~torch.isfinite(data.detach())).sum())
            raise InputError(
                f"{count} voxels are NaN or infinite", field="data", remedy="replace them (air is -1000 HU) before use"
            )
        if self.unit not in ("HU", "1/mm", "raw"):
            raise InputError(f"unknown unit {self.unit!r}", field="unit", remedy="use HU, 1/mm or raw")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", grid.checked_affine(self.affine))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel pitch in mm along (column, row, slice)."""
        return grid.spacing(self.affine)

    @property
    def centre(self) -> Float[Tensor, "3"]:
        """LPS mm of the middle of the grid."""
        return grid.centre(self.affine, self.data.shape)

    def attenuation(self, energy_kev: int = 70) -> Volume:
        """The volume as linear attenuation in 1/mm, zero in air.

        HU become attenuation by two segments, air to water and water to cortical bone, of the stated effective photon energy
        (xraydb/NIST; one of 40, 50, 60, 70, 80, 100 keV). "1/mm" and "raw" volumes are returned as they are.
        """
        if self.unit != "HU":
            return self
        water, slope = self.attenuation_coefficients(energy_kev)
        mu = torch.where(self.data > 0, water + slope * self.data, water * (1 + self.data / 1000)).clamp_min(0)
        return replace(self, data=mu, unit="1/mm")

    def attenuation_coefficients(self, energy_kev: int = 70) -> tuple[float, float]:
        """(attenuation of water, slope per HU above water), 1/mm, of the conversion in ``attenuation``."""
        if energy_kev not in _WATER:
            raise InputError(f"no table at {energy_kev} keV", field="energy_kev", remedy=f"use one of {sorted(_WATER)}")
        return _WATER[energy_kev], (_BONE[energy_kev] - _WATER[energy_kev]) / _BONE_HU
