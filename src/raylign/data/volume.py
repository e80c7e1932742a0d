"""A scalar volume: a CT, or attenuation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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

STORAGE = (torch.float16, torch.bfloat16, torch.int16)
"""Types of two bytes a voxel in which a volume can be kept to be projected; sums are float32 all the same."""

_INT16_STEPS = 32767


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
    scale: how much one unit of ``data`` is in ``unit``, where the volume was ``stored`` in fewer bits; ``None``: ``data`` says
        it as it is. Whoever reads ``data`` without asking for the scale takes ``decoded()`` first.

    Raises
    ------
    InputError: wrong number of axes, an axis shorter than two voxels, values that are not finite, a singular affine; a scale that
        is no positive number, or of HU, which are no multiple of attenuation.
    """

    data: Float[Tensor, "D H W"]
    affine: Float[Tensor, "4 4"]
    unit: Unit = "1/mm"
    truncated: tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    scale: float | None = None

    def __post_init__(self) -> None:
        data = torch.as_tensor(self.data)
        if data.ndim != 3 or min(data.shape) < 2:
            raise InputError(
                f"a volume has three axes of at least two voxels, this one has shape {tuple(data.shape)}", field="data"
            )
        if not data.is_floating_point() and not (self.scale is not None and data.dtype == torch.int16):
            data = data.to(torch.float32)
        if not bool(torch.isfinite(data.detach().sum())) and not bool(torch.isfinite(data.detach()).all()):
            count = int((~torch.isfinite(data.detach())).sum())
            raise InputError(
                f"{count} voxels are NaN or infinite", field="data", remedy="replace them (air is -1000 HU) before use"
            )
        if self.unit not in ("HU", "1/mm", "raw"):
            raise InputError(f"unknown unit {self.unit!r}", field="unit", remedy="use HU, 1/mm or raw")
        if self.scale is not None and (self.unit == "HU" or not (math.isfinite(self.scale) and self.scale > 0)):
            raise InputError(
                f"a scale of {self.scale} for numbers in {self.unit}",
                field="scale",
                remedy="give a positive number; HU become attenuation before they are stored (Volume.stored)",
            )
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

    def to(self, device: str | torch.device) -> Volume:
        """The same volume on a device, where ``project`` then renders it."""
        return replace(self, data=self.data.to(device), affine=self.affine.to(device))

    def attenuation(self, energy_kev: int = 70) -> Volume:
        """The volume as linear attenuation in 1/mm, zero in air, one number a voxel as it is.

        HU become attenuation by two segments, air to water and water to cortical bone, of the stated effective photon energy
        (xraydb/NIST; one of 40, 50, 60, 70, 80, 100 keV). "1/mm" and "raw" volumes are returned as they are, decoded where they
        were ``stored``. The conversion is kept with the volume, which a loop asks for it again and again.
        """
        if self.unit != "HU":
            return self.decoded()
        water, slope = self.attenuation_coefficients(energy_kev)

        def converted() -> Volume:
            hu = self.decoded().data
            mu = torch.where(hu > 0, water + slope * hu, water * (1 + hu / 1000)).clamp_min(0)
            return replace(self, data=mu, unit="1/mm")

        return self._kept(energy_kev, converted)

    def stored(self, dtype: torch.dtype) -> Volume:
        """The volume in two bytes a voxel: half the memory, and half of what a projection has to read.

        HU are converted to attenuation first (70 keV). ``project`` renders the result as it is and sums in float32; everything
        else decodes it. float16 (11 significant bits) and bfloat16 (8) are relative to each voxel; int16 counts steps of 1/32767
        of the largest magnitude. No gradient reaches the volume that was stored.

        Parameters
        ----------
        dtype: torch.float16, torch.bfloat16 or torch.int16.

        Raises
        ------
        InputError: another type.
        """
        if dtype not in STORAGE:
            names = ", ".join(str(t) for t in STORAGE)
            raise InputError(f"{dtype} is no type to store a volume in", field="dtype", remedy=f"use one of {names}")
        plain = self.attenuation()
        data = plain.data.detach()
        largest = float(data.abs().max()) or 1.0
        if dtype == torch.int16:
            scale = largest / _INT16_STEPS
            return replace(plain, data=(data / scale).round().clamp(-_INT16_STEPS, _INT16_STEPS).to(dtype), scale=scale)
        # a power of two loses nothing, and keeps float16 away from the ends of its range
        scale = 2.0 ** math.ceil(math.log2(largest))
        return replace(plain, data=(data / scale).to(dtype), scale=scale)

    def decoded(self) -> Volume:
        """The volume itself, or, of one that was ``stored``, that in float32 with one number a voxel as it is."""
        if self.scale is None and self.data.dtype not in STORAGE:
            return self
        scale = 1.0 if self.scale is None else self.scale
        wide = self.data.dtype if self.data.dtype == torch.float64 else torch.float32
        return self._kept("decoded", lambda: replace(self, data=self.data.to(wide) * scale, scale=None))

    def _kept(self, key: int | str, make: Callable[[], Volume]) -> Volume:
        """What ``make`` gives, made once while ``data`` is not written to; made anew where it is part of a graph."""
        if self.data.requires_grad:
            return make()
        kept: dict[int | str, tuple[int, Volume]] = self.__dict__.setdefault("_conversions", {})
        version = 0 if self.data.is_inference() else self.data._version
        known = kept.get(key)
        if known is None or known[0] != version:
            known = kept[key] = (version, make())
        return known[1]

    def attenuation_coefficients(self, energy_kev: int = 70) -> tuple[float, float]:
        """(attenuation of water, slope per HU above water), 1/mm, of the conversion in ``attenuation``."""
        if energy_kev not in _WATER:
            raise InputError(f"no table at {energy_kev} keV", field="energy_kev", remedy=f"use one of {sorted(_WATER)}")
        return _WATER[energy_kev], (_BONE[energy_kev] - _WATER[energy_kev]) / _BONE_HU
