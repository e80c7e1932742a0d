"""What an arm of a robustness study does to a case: to how it is exposed, to the exposure, to what the method is told of it.

The truth of a case whose geometry is told wrongly is the pose as its first view sees it: turning or shifting all of the world
alike changes no image, so that a wrong angle of a single view moves the start and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from raylign.data import Volume, XRay
from raylign.evaluation.arms import Arm
from raylign.geometry import View, se3
from raylign.simulation.instruments import InstrumentSet
from raylign.simulation.physics.apparatus import Dose, ExposureConfig

_OPAQUE = 3.0
"""Line integral that a disc adds: one photon in twenty comes through."""
_DISC = 0.06
"""Of the field's area that one disc hides, at most."""


def exposed(config: ExposureConfig, arm: Arm) -> ExposureConfig:
    """How a case of an arm is exposed."""
    return replace(config, dose=Dose(arm.level, per="mm2")) if arm.kind == "dose" else config


def in_beam(usual: InstrumentSet | None, arm: Arm) -> InstrumentSet | None:
    """What lies in the beam of a case of an arm: so many instruments of the usual kinds, or of all."""
    if arm.kind != "metal":
        return usual
    count = round(arm.level)
    return replace(usual or InstrumentSet(), least=count, most=count, any=1.0)


def seen(xray: XRay, arm: Arm, stream: torch.Generator) -> XRay:
    """The exposure as a method of an arm gets it."""
    if arm.kind == "noise":
        return replace(xray, image=xray.image + arm.level * torch.randn(xray.image.shape, generator=stream))
    if arm.kind == "occlusion":
        hidden = discs(xray.mask, arm.level, stream)
        grain = 0.1 * torch.randn(xray.image.shape, generator=stream)
        return replace(xray, image=torch.where(hidden, xray.image + _OPAQUE + grain, xray.image))
    if arm.kind == "truncation":
        h, w = xray.view.shape
        rows, columns = (_middle(n, arm.level) for n in (h, w))
        mask = xray.mask[rows, columns]
        # a collimator may leave nothing valid in the middle of nothing; then there is no exposure to speak of
        return replace(xray, image=xray.image[rows, columns], mask=mask, view=xray.view.crop(rows, columns))
    return xray


def _middle(size: int, share: float) -> slice:
    kept = max(16, round(share * size))
    first = (size - kept) // 2
    return slice(max(first, 0), max(first, 0) + min(kept, size))


def discs(field: Bool[Tensor, "H W"], share: float, stream: torch.Generator) -> Bool[Tensor, "H W"]:
    """Discs at random places that hide a share of the field, to within a pixel's row or so."""
    hidden = torch.zeros_like(field)
    size, places = int(field.sum()), field.nonzero()
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in field.shape)
    while (missing := share * size - int((hidden & field).sum())) >= 1:
        centre = places[int(torch.randint(len(places), (), generator=stream))]
        # no larger than what is missing, so that the last disc does not hide too much
        area = min(_DISC * size * (0.3 + 0.7 * float(torch.rand((), generator=stream))), missing)
        radius = math.sqrt(area / math.pi)
        near = (rows[:, None] - float(centre[0])) ** 2 + (columns[None] - float(centre[1])) ** 2 <= radius**2
        hidden |= near
    return hidden


def told(view: View, arm: Arm, stream: torch.Generator, number: int = 0) -> tuple[View, Tensor]:
    """The geometry that a method of an arm is told, and the 4x4 motion that brings the true focal spot and axes to the told ones.

    "angles": the C-arm is turned about the isocentre by the level about the image's vertical and by it about its horizontal, each
    way round. "primary": of every view but the first (``number`` 0) it is turned about the image's vertical alone, either way, as
    Van Houtte et al. (2022) err the LAO/RAO angle: the angle between two views is then wrong by the level exactly.
    "distances": source to isocentre is wrong by the level, either way, and source to detector by it, either way.
    """
    signs = torch.randint(2, (2,), generator=stream).mul(2).sub(1).to(torch.float64)
    motion = torch.eye(4, dtype=torch.float64)
    if arm.kind == "angles" or (arm.kind == "primary" and number > 0):
        across, down = view.column_step / view.column_step.norm(), view.row_step / view.row_step.norm()
        turn = math.radians(arm.level) * (signs[0] * down + (signs[1] * across if arm.kind == "angles" else 0.0))
        motion = se3.exp(torch.cat([turn, torch.zeros(3, dtype=torch.float64)]))
        return view.transformed(motion), motion
    if arm.kind == "distances":
        motion[:3, 3] = signs[0] * arm.level * view.normal
        moved = view.transformed(motion)
        return replace(moved, origin=moved.origin + signs[1] * arm.level * view.normal), motion
    return view, motion


def coarser(volume: Volume, arm: Arm) -> Volume:
    """The model in voxels of the level's size (at least), averaged over as many whole voxels as come nearest to it."""
    if arm.kind != "downsampling":
        return volume
    factors = [max(1, round(arm.level / s)) for s in reversed(volume.spacing)]  # of slices, rows, columns
    data = volume.data
    for axis, factor in enumerate(factors):
        kept = data.shape[axis] // factor * factor
        data = data.narrow(axis, 0, kept).unflatten(axis, (-1, factor)).mean(axis + 1)
    affine = volume.affine.clone()
    step = torch.tensor(factors[::-1], dtype=affine.dtype)
    affine[:3, 3] += affine[:3, :3] @ ((step - 1) / 2)
    affine[:3, :3] *= step
    return replace(volume, data=data.contiguous(), affine=affine)
