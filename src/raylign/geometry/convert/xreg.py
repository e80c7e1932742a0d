"""xReg's camera model and poses (LPS mm, pixel centres at integers).

A camera is an extrinsic 4x4 (world to camera) and a 3x3 intrinsic matrix, its origin at the focal spot, x along the image
columns and y along the rows. The detector lies at negative z ("origin-at-focal-pt-det-neg-z", focal lengths negative) or at
positive z ("...-pos-z", focal lengths positive). The two differ in handedness, so every view is exactly one of them: a C-arm
shown the usual way is the first.

Poses are stored the other way round than ours: ``cam-to-X-vol`` maps the camera *world*, the frame that the extrinsic starts
from, to the volume. A point of the volume is seen at ``intrinsic @ extrinsic @ inverse(cam-to-X-vol) @ point``.

Sources: xReg (MIT), CameraModel and its HDF5 projection data; Grupp et al., "Automatic annotation of hip anatomy in
fluoroscopy" (IPCAI 2020), data set description, "HDF5 layouts": the frames of ``extrinsic`` and ``cam-to-pelvis-vol``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import se3
from raylign.geometry.convert.pinhole import intrinsics, matrix, pinhole, rotation, view_from_rays
from raylign.geometry.transform import Rigid
from raylign.geometry.view import View

NEG_Z = "origin-at-focal-pt-det-neg-z"
POS_Z = "origin-at-focal-pt-det-pos-z"

DEEPFLUORO_SHIFT = (-0.5, -0.5, -0.5)
"""mm; the loader of the DeepFluoro data set moves the stored ``cam-to-...-vol`` by it: pass as ``shift``."""


@dataclass(frozen=True, eq=False)
class XRegCamera:
    """What ``proj-NNN/cam`` holds: ``extrinsic`` 4x4 world to camera, ``shape`` (num-rows, num-cols), ``spacing`` (row, col)."""

    intrinsic: Float[Tensor, "3 3"]
    extrinsic: Float[Tensor, "4 4"]
    shape: tuple[int, int]
    spacing: tuple[float, float]
    frame_type: str = NEG_Z


def to_xreg(view: View) -> XRegCamera:
    """xReg's camera of a view, without any mirroring of the image."""
    camera = pinhole(view)
    k, axes, frame = camera.K, camera.axes, POS_Z
    if camera.mirrored:
        # turning z round makes the frame right-handed; the focal lengths change sign with it
        sign = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
        k, axes, frame = k * sign, axes * torch.tensor([[1.0], [1.0], [-1.0]], dtype=torch.float64), NEG_Z
    return XRegCamera(k, se3.from_parts(axes, -(axes @ camera.source)), view.shape, view.pixel_spacing, frame)


def from_xreg(camera: XRegCamera) -> View:
    """View of an xReg camera.

    Raises
    ------
    InputError: another frame type, a spacing that is not positive, focal lengths that contradict the frame type or that give
        different detector distances by rows and by columns (more than 0.1 %).
    """
    if camera.frame_type not in (NEG_Z, POS_Z):
        raise InputError(f"unknown frame {camera.frame_type!r}", field="cam-coord-frame-type", remedy=f"use {NEG_Z} or {POS_Z}")
    k = intrinsics(camera.intrinsic, "intrinsic")
    extrinsic = matrix(camera.extrinsic, (4, 4), "extrinsic")
    r = rotation(extrinsic[:3, :3], "extrinsic")
    row, column = (float(s) for s in camera.spacing)
    if not (row > 0 and column > 0):
        raise InputError(f"spacing {row:g}, {column:g} mm is not positive", field="row-spacing")
    depth = float(k[0, 0].detach()) * column
    skew = float((k[0, 1] / k[0, 0]).detach())
    # with skew a row's step is slanted, and fy counts only its part perpendicular to the columns
    perpendicular = row**2 - (skew * float(k[0, 0].detach() / k[1, 1].detach()) * column) ** 2
    by_rows = abs(float(k[1, 1].detach())) * max(perpendicular, 0.0) ** 0.5
    if abs(abs(depth) - by_rows) > 1e-3 * abs(depth):
        raise InputError(
            f"focal lengths and spacings give {abs(depth):.6g} mm to the detector by columns and {by_rows:.6g} mm by rows",
            field="intrinsic",
            remedy="check row-spacing and col-spacing",
        )
    if (depth < 0) != (camera.frame_type == NEG_Z) or (float(k[1, 1].detach()) < 0) != (depth < 0):
        raise InputError(f"focal lengths of this sign do not go with {camera.frame_type}", field="intrinsic")
    inverse = torch.linalg.inv(r)
    return view_from_rays(-inverse @ extrinsic[:3, 3], depth * inverse @ torch.linalg.inv(k), camera.shape)


def pose_to_xreg(pose: Rigid, shift: Any = (0.0, 0.0, 0.0)) -> Float[Tensor, "4 4"]:
    """The pose as xReg stores it: camera world to volume, LPS mm; ``shift`` undoes the one that a loader will apply."""
    return _shifted(pose.inverse().matrix, -matrix(shift, (3,), "shift"))


def pose_from_xreg(stored: Any, shift: Any = (0.0, 0.0, 0.0)) -> Rigid:
    """``T_world_from_volume`` of a stored ``cam-to-...-vol`` matrix, first moved by ``shift`` (``DEEPFLUORO_SHIFT``).

    Raises
    ------
    InputError: the matrix is not rigid.
    """
    return Rigid(_shifted(matrix(stored, (4, 4), "cam-to-vol"), matrix(shift, (3,), "shift"))).inverse()


def _shifted(stored: Tensor, shift: Tensor) -> Tensor:
    """``stored`` followed by a translation of the volume."""
    return torch.cat([torch.cat([stored[:3, :3], (stored[:3, 3] + shift)[:, None]], 1), stored[3:]])
