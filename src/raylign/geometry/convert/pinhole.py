"""A view as a pinhole camera, and OpenCV's (K, R, t).

OpenCV: ``x_camera = R x_world + t`` with x to the right, y down, z forward; ``(column, row, 1) ~ K x_camera``; pixel centres at
integers, as ours. A C-arm image shown the usual way looks from the detector towards the source, so it is the mirror image of
what a right-handed camera with positive focal lengths sees from the source: ``column' = W - 1 - column``. The mirror is said
aloud (``mirrored``) and never hidden in a "rotation" of determinant -1.

Source: OpenCV documentation, module calib3d, "Detailed description"; Hartley and Zisserman, "Multiple View Geometry", chapter 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import se3
from raylign.geometry.view import View, require_cone

_ROTATION_TOLERANCE = 1e-3  # of R R^T against the identity: calibration files have few digits


@dataclass(frozen=True, eq=False)
class Pinhole:
    """A view's camera: ``K`` (3x3, positive focal lengths), ``axes`` (rows x, y, z in world), ``source`` and ``sid`` in mm.

    ``(column, row, 1) ~ K axes (p - source)``; z runs from the source to the detector. ``axes`` has determinant -1 where the
    image is the mirror image of what a right-handed camera sees, as on any C-arm shown the usual way.
    """

    K: Float[Tensor, "3 3"]
    axes: Float[Tensor, "3 3"]
    source: Float[Tensor, "3"]
    sid: Float[Tensor, ""]

    @property
    def mirrored(self) -> bool:
        """Whether ``axes`` is left-handed."""
        return float(torch.linalg.det(self.axes.detach())) < 0


def detector_axes(view: View) -> Float[Tensor, "3 3"]:
    """Unit vectors of a detector as rows: x along its columns, y on the side of its rows, z away from where rays begin."""
    z, x = view.normal, view.column_step / view.column_step.norm()
    y = torch.linalg.cross(z, x)
    return torch.stack([x, torch.where(view.row_step @ y < 0, -y, y), z])


def pinhole(view: View) -> Pinhole:
    """The camera of a view, exact and differentiable; ``K`` has skew where rows and columns are not perpendicular.

    Raises
    ------
    InputError: a parallel beam, which no pinhole camera sees.
    """
    require_cone(view, "a camera")
    sid, pitch = view.sid, view.column_step.norm()
    detector = detector_axes(view)
    x, y, _ = detector
    a, b = view.row_step @ x, view.row_step @ y
    foot = detector @ (view.source - view.origin)  # of the perpendicular from the source, seen from the first pixel
    row = foot[1] / b
    column = (foot[0] - a * row) / pitch
    zero, one = torch.zeros_like(sid), torch.ones_like(sid)
    k = torch.stack([sid / pitch, -sid * a / (pitch * b), column, zero, sid / b, row, zero, zero, one]).reshape(3, 3)
    return Pinhole(k, detector, view.source, sid)


def view_from_rays(source: Tensor, rays: Float[Tensor, "3 3"], shape: tuple[int, int]) -> View:
    """The view whose pixel (column, row) lies at ``source + rays @ (column, row, 1)``."""
    column_step, row_step, first = rays.unbind(1)
    return View(source, source + first, column_step, row_step, shape)


def matrix(value: Any, shape: tuple[int, ...], field: str) -> Tensor:
    """A finite float64 tensor of a shape, or an InputError that names the argument."""
    try:
        m = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"not a matrix of numbers ({error})", field=field) from None
    if tuple(m.shape) != shape or not bool(torch.isfinite(m.detach()).all()):
        raise InputError(f"expected {'x'.join(map(str, shape))} finite numbers, got shape {tuple(m.shape)}", field=field)
    return m


def intrinsics(value: Any, field: str = "K") -> Tensor:
    """A checked 3x3 intrinsic matrix, scaled so that its last entry is 1; focal lengths of either sign, skew allowed."""
    k = matrix(value, (3, 3), field)
    if float(k[1, 0].detach()) != 0 or bool((k[2, :2].detach() != 0).any()) or float(k[2, 2].detach()) == 0:
        raise InputError(
            "not an intrinsic matrix: it must be upper triangular with 1 in its last corner",
            field=field,
            remedy="give [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in pixels (not a projection matrix)",
        )
    k = k / k[2, 2]
    if float(k[0, 0].detach()) == 0 or float(k[1, 1].detach()) == 0:
        raise InputError("a focal length of zero pixels", field=field)
    return k


def rotation(value: Any, field: str = "R") -> Tensor:
    """A checked 3x3 rotation; a 3-vector is taken as OpenCV's rotation vector (axis times angle in radians)."""
    r = torch.as_tensor(value, dtype=torch.float64)
    if r.numel() == 3:
        r = se3.exp(torch.cat([matrix(r.reshape(3), (3,), field), torch.zeros(3, dtype=torch.float64)]))[:3, :3]
    r = matrix(r, (3, 3), field)
    with torch.no_grad():
        off = float((r @ r.T - torch.eye(3, dtype=r.dtype)).abs().max())
        determinant = float(torch.linalg.det(r))
    if off > _ROTATION_TOLERANCE:
        raise InputError(
            f"not a rotation: R R^T differs from the identity by {off:.2g}", field=field, remedy="give an orthonormal 3x3 matrix"
        )
    if determinant < 0:
        raise InputError(
            "a reflection (determinant -1), not a rotation", field=field, remedy="give a rotation, and mirrored=True for the flip"
        )
    return r


@dataclass(frozen=True, eq=False)
class OpenCVCamera:
    """OpenCV's camera: ``x_camera = R x_world + t`` in mm, pixel ``~ K x_camera``.

    ``mirrored``: the camera belongs to the image flipped left to right, ``column' = W - 1 - column``. ``shape`` (rows, columns)
    and ``sdd`` (source to detector, mm) are what K leaves out; ``from_opencv(**vars(camera))`` gives the view back.
    """

    K: Float[Tensor, "3 3"]
    R: Float[Tensor, "3 3"]
    t: Float[Tensor, "3"]
    shape: tuple[int, int]
    sdd: float
    mirrored: bool


def from_opencv(K: Any, R: Any, t: Any, shape: tuple[int, int], *, sdd: float | None = None, mirrored: bool = False) -> View:
    """View of a calibrated pinhole camera without lens distortion.

    Parameters
    ----------
    K: 3x3 intrinsics in pixels, pixel centres at integers; skew and negative focal lengths are honoured.
    R, t: world to camera, ``x_camera = R x_world + t``, mm; R as 3x3 or as a rotation vector.
    shape: (rows, columns) of the image.
    sdd: source to pixel plane, mm. K alone does not tell it, and where nothing is known the plane is put beyond anything that
        is imaged, ``max(2 |t|, 1000)`` mm from the source. That leaves every projected point where it is; only ``pixel_spacing``
        and the path length beyond the object depend on it.
    mirrored: the camera describes the image flipped left to right (see ``to_opencv``).

    Raises
    ------
    InputError: K not triangular or with a zero focal length, R not a rotation, numbers that are not finite.
    """
    k, r = intrinsics(K), rotation(R)
    t = matrix(torch.as_tensor(t, dtype=torch.float64).reshape(-1), (3,), "t")
    if sdd is None:
        sdd = max(2 * float(t.detach().norm()), 1000.0)
    if not float(sdd) > 0:
        raise InputError(f"{float(sdd):g} mm is not a positive distance", field="sdd")
    # the inverse, not the transpose: an R of few digits then still maps points to exactly the pixels that K [R | t] says
    inverse = torch.linalg.inv(r)
    view = view_from_rays(-inverse @ t, sdd * inverse @ torch.linalg.inv(k), shape)
    return view.flip(columns=True) if mirrored else view


def to_opencv(view: View) -> OpenCVCamera:
    """OpenCV's camera of a view, right-handed and with positive focal lengths.

    Where the view's image is the mirror image of what such a camera sees (any C-arm view shown the usual way), the camera is
    that of the image flipped left to right, and ``mirrored`` says so: flip the image, or use ``W - 1 - column``.
    """
    camera = pinhole(view)
    mirrored = camera.mirrored
    if mirrored:
        camera = pinhole(view.flip(columns=True))
    return OpenCVCamera(camera.K, camera.axes, -(camera.axes @ camera.source), view.shape, float(camera.sid.detach()), mirrored)
