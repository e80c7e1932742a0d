"""The patient apart from what he lies on: the scanner's table taken out of a CT."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool
from scipy import ndimage
from torch import Tensor

from raylign.data.volume import Volume

_PITCH = 2.5  # mm of the grid on which body and table are told apart
_SOLID = 0.5  # of water's attenuation (-500 HU): skin and shells, no foam and no lung
_CORE = 7.0  # mm: a body holds balls of this radius, a table's shell does not
_SHARE = 0.85  # of the slices in which a voxel column of a table is solid: it is drawn through the scan, a patient is not
_WIDTH = 100.0  # mm across that a table has at least
_TOUCHING = 0.1  # share of the slices in which a table may lie against the body
_TILT = math.cos(math.radians(3))


@dataclass(frozen=True, eq=False)
class Tabled:
    """A scan without its table.

    Parameters
    ----------
    volume: with air where the table was; the volume itself, not a copy, where nothing was taken out.
    removed: [D, H, W] voxels that were made air; ``None`` where none were.
    words: one plain sentence on what was done, or why nothing was.
    """

    volume: Volume
    removed: Bool[Tensor, "D H W"] | None
    words: str


def without_table(volume: Volume) -> Tabled:
    """Take the scanner's table out of a CT, where it is clearly apart from the patient.

    A table is solid (over -500 HU), thin, outside the body, the same in nearly all slices, and at least 100 mm wide. What its
    shells enclose (foam) goes with them. Sheets, cables and arms stay: they differ from slice to slice or are as thick as a body.
    Where the table lies against the body nothing is touched, because no boundary would be the right one.

    Parameters
    ----------
    volume: HU or 1/mm; the slices, or another axis of the grid, along the patient's head-feet axis within 3 degrees.
    """
    if volume.unit == "raw":
        return Tabled(volume, None, "table kept: the numbers are neither HU nor 1/mm")
    affine = volume.affine.numpy()
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = int(np.abs(directions[2]).argmax())
    if abs(directions[2, along]) < _TILT:
        return Tabled(volume, None, "table kept: no axis of the grid runs from head to feet")
    dense, factors = _reduced(volume)
    # what follows counts the axes of the array: slices, rows, columns
    pitch = np.array([s * f for s, f in zip(reversed(volume.spacing), factors, strict=True)])
    solid = dense > _SOLID
    body = _body(solid, pitch)
    if body is None:
        return Tabled(volume, None, "table kept: no body was found")
    axis = 2 - along
    apart = solid & ~body
    drawn = apart.sum(axis) >= _SHARE * solid.shape[axis]
    across = np.delete(pitch, axis)
    # shells lean against the grid and waver by a voxel from slice to slice
    drawn |= ndimage.binary_dilation(drawn) & (apart.sum(axis) >= 0.3 * solid.shape[axis])
    widest = max((_extent(np.flatnonzero(drawn.any(k))) * across[1 - k] for k in (0, 1)), default=0.0)
    if widest < _WIDTH:
        return Tabled(volume, None, "no table was found")
    table = apart & np.expand_dims(drawn, axis)
    near = table & ndimage.binary_dilation(body, np.ones((3, 3, 3)))
    if near.any(tuple(k for k in range(3) if k != axis)).mean() > _TOUCHING:
        return Tabled(volume, None, "table kept: it lies against the body")
    profile = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(drawn, 4), iterations=3))[4:-4, 4:-4]
    profile = ndimage.binary_dilation(profile, iterations=1)
    gone = np.broadcast_to(np.expand_dims(profile, axis), solid.shape) & ~ndimage.binary_dilation(body)
    removed = _enlarged(gone, factors, tuple(volume.data.shape))
    air = -1000.0 if volume.unit == "HU" else 0.0
    plain = volume.decoded()
    cleaned = replace(plain, data=torch.where(removed, torch.full_like(plain.data, air), plain.data))
    return Tabled(cleaned, removed, f"table taken out: {widest:.0f} mm wide")


def _reduced(volume: Volume) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Attenuation over water's, averaged over blocks of about 2.5 mm, and how many voxels these are (slices, rows, columns)."""
    spacing = tuple(reversed(volume.spacing))
    factors = tuple(max(1, min(n // 2, round(_PITCH / s))) for s, n in zip(spacing, volume.data.shape, strict=True))
    values = volume.decoded().data.detach().float()[None, None]
    coarse = torch.nn.functional.avg_pool3d(values, factors, ceil_mode=True, count_include_pad=False)[0, 0]
    water, _ = volume.attenuation_coefficients()
    share = coarse / 1000 + 1 if volume.unit == "HU" else coarse / water
    return share.numpy(), factors  # type: ignore[return-value]


def _body(solid: np.ndarray, pitch: np.ndarray) -> np.ndarray | None:
    """Everything solid that belongs to something thick, with what it encloses; ``None`` where nothing is thick."""
    # slices at both ends are repeated: a body that was cut off there is thick all the same
    reach = max(1, math.ceil(_CORE / float(pitch.min())))
    padded = np.pad(solid, [(reach + 1, reach + 1)] * 3, mode="edge")
    filled = np.stack([ndimage.binary_fill_holes(layer) for layer in padded])
    inner = ndimage.distance_transform_edt(filled, sampling=pitch) > _CORE
    if not inner.any():
        return None
    grown = ndimage.distance_transform_edt(~inner, sampling=pitch) <= _CORE + 1.5 * float(pitch.max())
    kept = filled & grown
    cut = slice(reach + 1, -reach - 1)
    return kept[cut, cut, cut]


def _extent(where: np.ndarray) -> int:
    return int(where[-1] - where[0] + 1) if len(where) else 0


def _enlarged(coarse: np.ndarray, factors: tuple[int, int, int], shape: tuple[int, ...]) -> Tensor:
    full = torch.from_numpy(np.ascontiguousarray(coarse))
    for dim, factor in enumerate(factors):
        full = full.repeat_interleave(factor, dim)
    return full[: shape[0], : shape[1], : shape[2]]
