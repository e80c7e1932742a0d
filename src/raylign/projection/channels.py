"""Label maps in one exposure: an image for every structure, or for every mixture of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raylign.data import LabelMap, Volume
from raylign.data.resample import resample_labels
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.geometry.view import as_views
from raylign.projection import operator
from raylign.projection.rays import checked_step, default_step, pose_matrices, ray_batch, ray_lengths, sample_counts
from raylign.projection.reference import checked_model
from raylign.projection.storage import numbers

_MOST = 256  # what a kernel's one byte a voxel tells apart
_BACKGROUND = ("0", "background")

Shares = Float[Tensor, "L C"] | Mapping[str | int, Float[Tensor, " C"] | Sequence[float]]


def project_labels(
    labels: LabelMap,
    views: View | Sequence[View],
    poses: Float[Tensor, "P 4 4"] | Rigid | None = None,
    *,
    volume: Volume | None = None,
    weights: Shares | None = None,
    step: float | None = None,
    model: str = "trilinear",
) -> Float[Tensor, "P V C H W"]:
    """An image of every structure of a label map, all of them in one pass over the voxels.

    Parameters
    ----------
    labels: which structure each voxel belongs to; any whole numbers, 0 is background.
    views, poses, step, model: as for ``project``.
    volume: whose attenuation within each structure is integrated (HU are converted at 70 keV). The label map is taken at its
        voxels, by nearest neighbour where the grids differ. Where none is given, a structure's image is its thickness in mm.
    weights: each label's share in each output channel: channel c is the sum over labels of ``weights[l, c]`` times the label's
        image. Either [L, C], with a row for each of ``labels.present()`` in that order, or a row by the name or number of each
        label that counts; labels that are not named, the background among them, then have no share. The background has a row
        where it is named: 0 or "background". Without weights, each label of ``labels.present()`` is a channel, in that order.

    Returns
    -------
    [P, V, C, H, W], float32; mm, or dimensionless with a volume in 1/mm. With the trilinear model a structure's border is where
    its indicator falls from one to zero, over a voxel's pitch; with "siddon" voxels are boxes, and thickness is exact for them.
    With the background named beside all labels, the channels add up to the image of the whole grid.

    Differentiable by weights, poses and views, and by the volume.

    Raises
    ------
    InputError: as for ``project``; no label at all, more than 256 of them, weights of another shape, a name that no voxel bears,
        labels outside the volume.
    """
    many = as_views(views)
    checked_model(model)
    if model != "trilinear" and step is not None:
        raise InputError(f"the {model} model takes no samples to space", field="step", remedy="leave step out")
    chosen, shares = _shares(labels, weights)
    grid: LabelMap | Volume = labels if volume is None else volume
    data, scale = (None, None) if volume is None else numbers(volume)
    device = labels.data.device if data is None else data.device
    indices = _indexed(labels, chosen, volume)
    rays = ray_batch(grid.affine, many, pose_matrices(poses), device)
    pitch = default_step(grid)
    samples = sample_counts(many, pitch if step is None else checked_step(step)).to(device).repeat(len(rays))
    parts = operator.label_integrals(data, indices.to(device), len(chosen), rays.flatten(0, 1), many[0].shape, samples, model)
    parts = parts.unflatten(0, rays.shape[:2])
    if shares is not None:
        parts = torch.einsum("pvlhw,lc->pvchw", parts, shares.to(device=parts.device, dtype=parts.dtype))
    lengths = ray_lengths(many, parts.device, parts.dtype)[:, None]
    return parts * (lengths if scale is None else lengths * scale)


def _shares(labels: LabelMap, weights: Shares | None) -> tuple[tuple[int, ...], Float[Tensor, "L C"] | None]:
    """The numbers of the labels that count, and each one's share in each channel."""
    present = tuple(labels.present())
    if isinstance(weights, Mapping):
        numbers_of = [0 if str(n).strip().lower() in _BACKGROUND else labels.number(n) for n in weights]
        if not weights:
            raise InputError("no label is named", field="weights", remedy="name at least one")
        rows = [torch.as_tensor(row) for row in weights.values()]
        if len({row.shape for row in rows}) > 1 or rows[0].ndim != 1:
            raise InputError("rows of different lengths", field="weights", remedy="give each label one number for each channel")
        if len(set(numbers_of)) < len(numbers_of):
            raise InputError("a label is named twice", field="weights", remedy="name it once, by name or by number")
        return tuple(numbers_of), torch.stack([row.to(torch.float64) for row in rows])
    if not present:
        raise InputError("every voxel is background", field="labels", remedy="give a map with labels other than 0")
    if weights is None:
        return present, None
    shares = torch.as_tensor(weights)
    if shares.ndim != 2 or shares.shape[0] != len(present):
        raise InputError(
            f"weights of shape {tuple(shares.shape)} for {len(present)} labels",
            field="weights",
            remedy="give a row for each label that occurs, and a column for each channel",
        )
    return present, shares


def _indexed(labels: LabelMap, chosen: tuple[int, ...], volume: Volume | None) -> UInt8[Tensor, "D H W"]:
    """The chosen labels as 0, 1, ... on the volume's grid, and all others as the number after, which no channel has."""
    counted = len(chosen) + (len({0, *labels.present()} - set(chosen)) > 0)
    if counted > _MOST:
        raise InputError(
            f"{len(chosen)} labels in one pass, of at most {_MOST}, the background counted",
            field="labels",
            remedy="name fewer at a time in weights",
        )
    # a pass over all voxels or two, and the same one at every call of a loop: the last is kept with the map
    place = None if volume is None else (tuple(volume.data.shape), tuple(volume.affine.flatten().tolist()))
    key = (labels.data._version, chosen, place)
    known = labels.__dict__.get("_indexed")
    if known is None or known[0] != key:
        placed = labels if volume is None else resample_labels(labels, volume)
        known = labels.__dict__["_indexed"] = (key, _positions(placed.data, chosen))
    return known[1]


def _positions(data: Tensor, chosen: tuple[int, ...]) -> UInt8[Tensor, "D H W"]:
    """Where each voxel's number stands in ``chosen``; their count for all others."""
    ordered, places = torch.tensor(chosen, dtype=torch.int64, device=data.device).sort()
    out = torch.empty(data.shape, dtype=torch.uint8, device=data.device)
    for k in range(data.shape[0]):  # slice by slice: eight bytes a voxel of the whole would be many times the map
        found = data[k].to(torch.int64).contiguous()
        at = torch.searchsorted(ordered, found).clamp_max(len(chosen) - 1)
        out[k] = torch.where(ordered[at] == found, places[at], len(chosen)).to(torch.uint8)
    return out
