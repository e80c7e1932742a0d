"""CT volumes from NIfTI, NRRD and MetaImage files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from raylign.data import Volume
from raylign.data.volume import Unit
from raylign.errors import InputError
from raylign.io.files import reading
from raylign.io.grids import read_grid

_AIR_IS_BELOW = -200.0  # any air, lung or table padding in a scan in HU lies below; no image without HU does
_RAW_REACHES = 300.0


def read_volume_image(path: str | Path, unit: Unit | None = None) -> Volume:
    """A volume from NIfTI, NRRD or MetaImage.

    These formats do not say what their numbers are. ``unit=None`` decides by them, and only where they are clear:

    - a value below -200: HU (air is -1000);
    - smallest value 0, whole numbers, largest above 300: "raw", a structure cut out of a scan with nothing around it, or a scan
      whose air is 0 (CT numbers before the offset of -1024);
    - anything else is an error that asks for the unit.

    Parameters
    ----------
    path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.
    unit: "HU", "1/mm" (linear attenuation) or "raw" where it is known; beats the rule.

    Raises
    ------
    InputError: what ``read_grid`` refuses, values that are NaN or infinite, a unit that cannot be told.
    """
    grid = read_grid(path)
    with reading(path, "a volume image"):
        data = torch.from_numpy(np.ascontiguousarray(grid.data, dtype=np.float32))
        volume = Volume(data, grid.affine, unit="raw", meta={**grid.meta, "stored type": str(grid.data.dtype)})
        stated = unit or told_unit(volume)
        volume = Volume(data, grid.affine, stated, meta={**volume.meta, "unit from": "the caller" if unit else "the values"})
    return volume


def told_unit(volume: Volume) -> Unit:
    """The unit that the numbers of a volume tell, by the rule of ``read_volume_image``.

    Raises
    ------
    InputError: they do not tell.
    """
    low, high = float(volume.data.min()), float(volume.data.max())
    if low < _AIR_IS_BELOW:
        return "HU"
    if low == 0 and high > _RAW_REACHES and bool((volume.data == volume.data.round()).all()):
        return "raw"
    raise InputError(
        f"values from {low:g} to {high:g} do not tell whether they are HU",
        field="unit",
        remedy="state it with --unit HU, raw or 1/mm",
    )
