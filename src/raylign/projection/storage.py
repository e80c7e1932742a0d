"""What of a volume is handed to the kernels: the voxels as they are stored, and what one unit of them is worth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume
from raylign.data.volume import STORAGE

# What ``operator.integrals`` and ``operator.label_integrals`` read as it is, summing in float32 or better; anything else is
# decoded to float32 first.
READ_AS_STORED: tuple[torch.dtype, ...] = (torch.float32, torch.float64, *STORAGE)


def numbers(volume: Volume) -> tuple[Float[Tensor, "D H W"], float | None]:
    """A volume's voxels for the kernels, and the factor by which an integral of them is to be multiplied, if any.

    HU become attenuation at 70 keV.
    """
    if volume.unit != "HU" and volume.data.dtype in READ_AS_STORED:
        return volume.data, volume.scale
    return volume.attenuation().data, None
