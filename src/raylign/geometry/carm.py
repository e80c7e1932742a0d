"""C-arm angles and distances (DICOM XA) to a View and back.

World: origin at the isocentre, axes parallel to LPS of a head-first supine patient, mm. Primary angle positive towards LAO,
secondary positive towards CRA (DICOM PS3.3 C.8.7.5, tags (0018,1510) and (0018,1511)); 0/0 is the detector facing the chest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry.view import View, require_cone


@dataclass(frozen=True)
class CArm:
    """A C-arm's own numbers: degrees and mm; ``pixel_spacing`` is (row, column) at the detector."""

    primary: float
    secondary: float
    sid: float
    sod: float
    pixel_spacing: tuple[float, float]
    shape: tuple[int, int]


def _scalar(value: Any) -> Tensor:
    # a plain number goes to float64 at once: through float32 it would lose what the header says
    return torch.as_tensor(value, dtype=torch.float64)


def frame(primary: Any, secondary: Any) -> Float[Tensor, "3 3"]:
    """Columns: direction of image columns ``u``, of image rows ``v``, and from the isocentre to the detector ``d``.

    ``Q = Rz(primary) Rx(-secondary)``, ``u = Q (1,0,0)``, ``v = Q (0,0,-1)``, ``d = Q (0,-1,0)``; angles in degrees.
    """
    p, s = _scalar(primary) * (math.pi / 180), _scalar(secondary) * (math.pi / 180)
    cp, sp, cs, ss = torch.cos(p), torch.sin(p), torch.cos(s), torch.sin(s)
    zero = torch.zeros_like(cp + cs)
    u = torch.stack([cp + zero, sp + zero, zero])
    v = torch.stack([sp * ss, -cp * ss, -cs + zero])
    d = torch.stack([sp * cs, -cp * cs, ss + zero])
    return torch.stack([u, v, d], 1)


def frame_along(direction: Any, up: Any = (0.0, 0.0, 1.0)) -> Float[Tensor, "3 3"]:
    """The columns of ``frame`` for a beam along ``direction``, with ``up`` (world, not along the beam) pointing up in the image.

    Raises
    ------
    InputError: no three finite numbers, a direction of no length, or ``up`` along it.
    """
    d, above = (_scalar(value).reshape(-1) for value in (direction, up))
    for name, value in (("direction", d), ("up", above)):
        if value.shape != (3,) or not bool(torch.isfinite(value.detach()).all()) or not float(value.detach().norm()) > 0:
            raise InputError("expected three finite numbers, not all zero", field=name, remedy="give a vector in the world")
    d, above = d / d.norm(), above / above.norm()
    across = above - (above @ d) * d
    if float(across.detach().norm()) < 1e-6:
        raise InputError("points along the beam, which leaves the image's turn open", field="up", remedy="give another vector")
    v = -across / across.norm()
    return torch.stack([torch.linalg.cross(d, v), v, d], 1)


def _length(value: Any, name: str) -> Tensor:
    length = _scalar(value)
    if not (math.isfinite(float(length.detach())) and float(length.detach()) > 0):
        raise InputError(f"{float(length.detach()):g} mm is not a positive length", field=name, remedy="give it in mm")
    return length


def _pitches(pixel_spacing: Any) -> tuple[Tensor, Tensor]:
    """Row and column pitch."""
    spacing = _scalar(pixel_spacing).reshape(-1)
    if spacing.numel() not in (1, 2):
        raise InputError("pixel_spacing takes one number or (row, column)", field="pixel_spacing")
    return _length(spacing[0], "pixel_spacing"), _length(spacing[-1], "pixel_spacing")


def from_carm(
    *, primary: Any = 0.0, secondary: Any = 0.0, sid: Any, sod: Any, pixel_spacing: Any, shape: tuple[int, int]
) -> View:
    """View of a centred flat detector on a C-arm.

    Parameters
    ----------
    primary, secondary: positioner angles in degrees.
    sid: source to detector, mm (DICOM (0018,1110)).
    sod: source to isocentre, mm (DICOM (0018,1111)); 0 < sod < sid.
    pixel_spacing: (row, column) pitch at the detector, mm, or one number for both.
    shape: (rows, columns).

    Numbers may be tensors that require gradients; the view is differentiable by all of them.

    Raises
    ------
    InputError: a distance or spacing that is not positive, or sod >= sid.
    """
    sid, sod = _length(sid, "sid"), _length(sod, "sod")
    row_pitch, column_pitch = _pitches(pixel_spacing)
    if float(sod.detach()) >= float(sid.detach()):
        raise InputError(
            f"the source-to-isocentre distance {float(sod.detach()):g} mm is not below"
            f" the source-to-detector distance {float(sid.detach()):g} mm",
            field="sod",
            remedy="check SOD (0018,1111) and SID (0018,1110)",
        )
    u, v, d = frame(primary, secondary).unbind(1)
    h, w = shape
    column_step, row_step = column_pitch * u, row_pitch * v
    origin = (sid - sod) * d - (w - 1) / 2 * column_step - (h - 1) / 2 * row_step
    return View(-sod * d, origin, column_step, row_step, (h, w))


def from_parallel(axes: Float[Tensor, "3 3"], *, pixel_spacing: Any, shape: tuple[int, int], reach: float = 1000.0) -> View:
    """View of a parallel beam that a detector perpendicular to it sees, the world's origin in the middle of the image.

    ``View.from_parallel`` makes the axes from C-arm angles (``primary``, ``secondary``), or from a ``direction`` of the beam and
    the vector that points ``up`` in the image, the patient's head by default: the same orientation, said otherwise.

    Parameters
    ----------
    axes: columns u, v, d as ``frame`` gives them.
    pixel_spacing: (row, column) pitch, mm, or one number for both. Nothing is magnified: it is the pitch at the patient too.
    shape: (rows, columns).
    reach: how far before and behind the world's origin rays begin and end, mm. What lies beyond is not seen.

    Raises
    ------
    InputError: a length that is not positive.
    """
    row_pitch, column_pitch = _pitches(pixel_spacing)
    far = _length(reach, "reach")
    u, v, d = axes.unbind(1)
    h, w = shape
    column_step, row_step = column_pitch * u, row_pitch * v
    first = -(w - 1) / 2 * column_step - (h - 1) / 2 * row_step
    return View(first - far * d, first + far * d, column_step, row_step, (h, w), "parallel")


def to_carm(view: View, tolerance: float = 1e-3) -> CArm:
    """The C-arm numbers of a view that a centred C-arm without detector rotation can make.

    At secondary angles of +-90 degrees the primary angle is not determined by the ray direction; it is read from the columns,
    which determine it everywhere.

    Raises
    ------
    InputError: the view is not of that kind (rotated or flipped detector, principal point off centre, source off axis): naming
        what differs, by more than ``tolerance`` mm at the detector's corners; or its rays are parallel.
    """
    require_cone(view, "a C-arm's set of angles and distances")
    v64 = view.vectors.detach()
    source, origin, column_step, row_step = v64.unbind(0)
    h, w = view.shape
    centre = origin + (w - 1) / 2 * column_step + (h - 1) / 2 * row_step
    axis = centre - source
    sid = float(axis.norm())
    d = axis / sid
    u = column_step / column_step.norm()
    primary = math.degrees(math.atan2(float(u[1]), float(u[0])))
    # d = (sin p cos s, -cos p cos s, sin s): remove p, then read s with its sign over the whole circle
    p = math.radians(primary)
    secondary = math.degrees(math.atan2(float(d[2]), float(math.sin(p) * d[0] - math.cos(p) * d[1])))
    sod = float(-(source @ d))
    made = None
    if 0 < sod < sid:
        made = from_carm(
            primary=primary, secondary=secondary, sid=sid, sod=sod, pixel_spacing=view.pixel_spacing, shape=view.shape
        )
    if made is None or _corner_error(made, view) > tolerance:
        raise InputError(
            "not the view of a centred C-arm (detector rotated, flipped, shifted or off the isocentre)",
            field="View",
            remedy="keep the four vectors, or convert with to_opencv or to_xreg",
        )
    return CArm(primary, secondary, sid, sod, view.pixel_spacing, view.shape)


def _corner_error(a: View, b: View) -> float:
    h, w = a.shape
    corners = torch.tensor([[0, 0], [w - 1, 0], [0, h - 1], [w - 1, h - 1]], dtype=torch.float64)
    at = [v.origin.detach() + corners @ torch.stack([v.column_step.detach(), v.row_step.detach()]) for v in (a, b)]
    return max(float((at[0] - at[1]).norm(dim=1).max()), float((a.source - b.source).detach().norm()))
