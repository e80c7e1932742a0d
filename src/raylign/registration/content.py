"""The part of a model that casts a shadow."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import torch

from raylign.data import Volume
from raylign.errors import InputError
from raylign.registration.pyramid import Array64


def content(model: Volume) -> tuple[Volume, Array64]:
    """The model cropped to what casts a shadow, two empty voxels around it, and its eight corners in LPS mm.

    Raises
    ------
    InputError: there is nothing but air.
    """
    data = model.data
    threshold = -700.0 if model.unit == "HU" else 0.02 * float(data.max())
    solid = data > threshold
    if not bool(solid.any()):
        raise InputError(
            "the model holds nothing but air", field="volume", remedy="check its unit (HU, 1/mm or raw) and the labels"
        )
    ranges = []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        where = np.flatnonzero(solid.any(dim=others[1]).any(dim=others[0]).numpy())
        first, last = max(int(where[0]) - 2, 0), min(int(where[-1]) + 3, data.shape[axis])
        ranges.append((first, max(last, first + 2)))
    (z0, z1), (y0, y1), (x0, x1) = ranges
    affine = model.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([x0, y0, z0], dtype=torch.float64)
    cut = model.truncated
    cropped = replace(model, data=data[z0:z1, y0:y1, x0:x1], affine=affine, truncated=cut)
    corners = np.array(list(itertools.product((0, x1 - x0 - 1), (0, y1 - y0 - 1), (0, z1 - z0 - 1))), float)
    return cropped, corners @ affine[:3, :3].numpy().T + affine[:3, 3].numpy()
