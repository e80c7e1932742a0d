"""A view and a pose in another package's terms, as plain numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import torch

from raylign.errors import InputError
from raylign.geometry import se3
from raylign.geometry.convert import patient, pinhole, renderers, rtk, xreg
from raylign.geometry.transform import Rigid
from raylign.geometry.view import View

_MIRROR = (
    "The image is the mirror image of what this camera sees: flip it left to right first, or use W - 1 - column. (mirrored: true)"
)


def plain(value: Any) -> Any:
    """Tensors, dataclasses and tuples as lists, dicts and numbers, for JSON."""
    if isinstance(value, torch.Tensor):
        return value.detach().tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def _opencv(view: View, pose: Rigid) -> dict[str, Any]:
    camera = pinhole.to_opencv(view.transformed(pose.inverse().matrix))
    vector = se3.log_rotation(camera.R)
    note = (
        "x_camera = R x_volume + t with x_volume in patient LPS mm of the volume; (column, row, 1) ~ K x_camera; pixel centres at"
        " integers. rvec and t are what cv2.projectPoints takes."
    )
    return {**plain(camera), "rvec": plain(vector), "note": f"{note} {_MIRROR}" if camera.mirrored else note}


def _itk(_: View | None, pose: Rigid) -> dict[str, Any]:
    note = (
        "y = matrix (x - centre) + centre + translation, LPS mm; x in the world (fixed image), y in the volume (moving image):"
        " the inverse of T_world_from_volume, as a resampling filter takes it."
    )
    return {**plain(patient.pose_to_itk(pose)), "note": note}


def _slicer(_: View | None, pose: Rigid) -> dict[str, Any]:
    note = "RAS mm, transform to parent: put the volume under a linear transform node with this matrix to see it in the world."
    return {"matrix_to_parent": plain(patient.to_slicer(pose)), "note": note}


def _xreg(view: View, pose: Rigid) -> dict[str, Any]:
    camera = xreg.to_xreg(view)
    note = (
        "extrinsic: world LPS mm to camera; cam_to_vol: that world to volume LPS mm, as xReg stores poses; pixel centres at"
        " integers; spacing is (row, column)."
    )
    return {**plain(camera), "cam_to_vol": plain(xreg.pose_to_xreg(pose)), "note": note}


def _nanodrr(view: View, pose: Rigid) -> dict[str, Any]:
    note = (
        "render(subject, k_inv[None], rt_inv[None], sdd, height, width) with the volume in its own RAS frame; rt_inv is camera to"
        " RAS mm and has determinant -1 for a C-arm image; k_inv counts pixels from the first one's corner."
    )
    return {**plain(renderers.to_nanodrr(view, pose)), "note": note}


def _diffdrr(view: View, pose: Rigid) -> dict[str, Any]:
    camera = plain(renderers.to_diffdrr(view, pose))
    height, width = camera.pop("shape")
    note = (
        "read(volume, orientation=orientation, center_volume=False), then DRR(subject, sdd, height, delx, width, dely, x0, y0,"
        " reverse_x_axis=True) called with RigidTransform(matrix): RAS mm of the volume."
    )
    return {**camera, "height": height, "width": width, "note": note}


def _deepdrr(view: View, pose: Rigid) -> dict[str, Any]:
    camera = renderers.to_deepdrr(view, pose)
    note = (
        "CameraProjection(intrinsic, extrinsic): extrinsic maps RAS mm of the volume (world_from_anatomical the identity) to the"
        " camera; the principal point counts from the first pixel's corner. Taken from DeepDRR's documentation, never run."
    )
    return {**plain(camera), "note": f"{note} {_MIRROR}" if camera.mirrored else note}


def _rtk(view: View, pose: Rigid) -> dict[str, Any]:
    projection, image = rtk.to_rtk(view)
    note = (
        "IEC 61217 frame with its origin at the isocentre. volume_to_iec maps LPS mm of the volume there: apply it to its origin"
        " and direction."
    )
    return {
        "projection": asdict(projection),
        "image": plain(image),
        "xml": rtk.rtk_xml([projection]),
        "volume_to_iec": plain(rtk.iec_from_lps() @ pose.matrix),
        "note": note,
    }


_EXPORTS: dict[str, tuple[Callable[[Any, Rigid], dict[str, Any]], bool]] = {
    "opencv": (_opencv, True),
    "itk": (_itk, False),
    "slicer": (_slicer, False),
    "xreg": (_xreg, True),
    "deepdrr": (_deepdrr, True),
    "diffdrr": (_diffdrr, True),
    "nanodrr": (_nanodrr, True),
    "rtk": (_rtk, True),
}

FORMATS = tuple(_EXPORTS)
"""Names that ``export`` knows."""


def export(view: View | None, pose: Rigid, to: str) -> dict[str, Any]:
    """What another package needs to reproduce a view of a posed volume: JSON-able numbers and a ``note`` on their frame.

    Parameters
    ----------
    view: the exposure in world mm; "itk" and "slicer" do without.
    pose: ``T_world_from_volume``, LPS mm.
    to: one of ``FORMATS``.

    Raises
    ------
    InputError: an unknown format; no view where one is needed; a view that the format cannot say (skewed pixels).
    """
    if to not in _EXPORTS:
        raise InputError(f"unknown format {to!r}", field="--to", remedy=f"use one of {', '.join(FORMATS)}")
    make, needs_view = _EXPORTS[to]
    if needs_view and view is None:
        raise InputError(
            f"{to} describes a camera, and no view was given", field="--view", remedy="pass --view VIEW.json or an X-ray"
        )
    return {"format": to, "T_world_from_volume": plain(pose.matrix), **make(view, pose)}
