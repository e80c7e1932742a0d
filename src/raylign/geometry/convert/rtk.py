"""RTK's ThreeDCircularProjectionGeometry: nine numbers a projection, the image beside it, and its XML.

RTK's fixed frame is IEC 61217; for a head-first supine patient ``(x, y, z)_IEC = (L, S, -P)``, origin at the isocentre. With
``R = Rz(-InPlaneAngle) Rx(-OutOfPlaneAngle) Ry(-GantryAngle)`` the source lies at ``R s = (SourceOffsetX, SourceOffsetY,
SourceToIsocenterDistance)`` and a point (u, v) of the projection image, in mm, at ``(ProjectionOffsetX + u, ProjectionOffsetY +
v, SourceToIsocenterDistance - SourceToDetectorDistance)``. A C-arm view shown the usual way is ``GantryAngle = 180 + primary``,
``OutOfPlaneAngle = secondary``, ``InPlaneAngle = 180``. RTK calls the source-to-*isocentre* distance SID; DICOM's SID is the
other one. Parallel beams have ``SourceToDetectorDistance`` 0; rays then run perpendicular to the detector, which stands as far
behind the isocentre as ``SourceToIsocenterDistance`` says, and begin as far before it.

Source: RTK documentation, "RTK 3D circular projection geometry" (Apache 2.0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from xml.etree import ElementTree

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry.convert.pinhole import detector_axes
from raylign.geometry.transform import Rigid
from raylign.geometry.view import View


@dataclass(frozen=True)
class RTKProjection:
    """One projection's geometry: distances and offsets in mm, angles in degrees; names as in RTK's XML."""

    source_to_isocenter_distance: float
    source_to_detector_distance: float
    gantry_angle: float = 0.0
    out_of_plane_angle: float = 0.0
    in_plane_angle: float = 0.0
    projection_offset_x: float = 0.0
    projection_offset_y: float = 0.0
    source_offset_x: float = 0.0
    source_offset_y: float = 0.0


@dataclass(frozen=True)
class RTKImage:
    """The projection image's grid as ITK says it: ``size`` (columns, rows), ``spacing`` and ``origin`` (u, v) in mm.

    ``direction``: the sign of u along the columns and of v along the rows; (1, -1) for a view that is not the mirror image of
    a usual one (an image flipped once).
    """

    size: tuple[int, int]
    spacing: tuple[float, float]
    origin: tuple[float, float]
    direction: tuple[int, int] = (1, 1)


_TAGS = {
    "source_to_isocenter_distance": "SourceToIsocenterDistance",
    "source_to_detector_distance": "SourceToDetectorDistance",
    "source_offset_x": "SourceOffsetX",
    "source_offset_y": "SourceOffsetY",
    "projection_offset_x": "ProjectionOffsetX",
    "projection_offset_y": "ProjectionOffsetY",
    "in_plane_angle": "InPlaneAngle",
    "out_of_plane_angle": "OutOfPlaneAngle",
    "gantry_angle": "GantryAngle",
}
_FIELDS = {tag: name for name, tag in _TAGS.items()}
_REQUIRED = ("source_to_isocenter_distance", "source_to_detector_distance", "gantry_angle")


def iec_from_lps() -> Float[Tensor, "4 4"]:
    """The 4x4 map from our world (LPS, isocentre) to RTK's fixed frame (IEC 61217, head-first supine)."""
    m = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]
    return torch.tensor(m, dtype=torch.float64)


def to_rtk(view: View, pose: Rigid | None = None) -> tuple[RTKProjection, RTKImage]:
    """RTK's geometry of a view, and the grid of its image, centred on (u, v) = (0, 0).

    Without ``pose`` the fixed frame is our world turned to IEC, and the volume must be put there too:
    ``iec_from_lps() @ pose.matrix @ volume.affine``. With a pose it is the volume's own frame turned to IEC:
    ``iec_from_lps() @ volume.affine``.

    Of a parallel beam RTK knows one distance, before and behind the isocentre: the larger of the view's two.

    Raises
    ------
    InputError: rows and columns are not perpendicular, or a parallel beam not to the detector, which RTK cannot say.
    """
    if pose is not None:
        view = view.transformed(pose.inverse().matrix)
    view = view.transformed(iec_from_lps())
    axes = detector_axes(view).detach()
    x, y, z = axes.unbind(0)
    across, down, _ = (axes @ view.row_step.detach()).tolist()
    if abs(across) > 1e-6 * abs(down):
        raise InputError("rows and columns are not perpendicular, and RTK has no skew", field="View")
    mirrored = float(torch.linalg.det(axes)) < 0
    # RTK's third axis runs from the detector to the source; its second follows the rows, or runs against them where it must
    r = torch.stack([x, y if mirrored else -y, -z])
    gantry, out_of_plane, in_plane = _angles(r)
    h, w = view.shape
    centre = view.origin + (w - 1) / 2 * view.column_step + (h - 1) / 2 * view.row_step
    s, c = (r @ view.source.detach()).tolist(), (r @ centre.detach()).tolist()
    if view.beam == "parallel":
        along = (axes @ (view.origin - view.source).detach()).tolist()
        if max(abs(along[0]), abs(along[1])) > 1e-6 * along[2]:
            raise InputError("the beam is not perpendicular to the detector, as RTK's parallel beams are", field="View")
        projection = RTKProjection(max(abs(s[2]), abs(c[2])), 0.0, gantry, out_of_plane, in_plane, c[0], c[1])
    else:
        projection = RTKProjection(s[2], s[2] - c[2], gantry, out_of_plane, in_plane, c[0], c[1], s[0], s[1])
    row, column = view.pixel_spacing
    sign = 1 if mirrored else -1
    return projection, RTKImage((w, h), (column, row), (-(w - 1) / 2 * column, -sign * (h - 1) / 2 * row), (1, sign))


def from_rtk(projection: RTKProjection, image: RTKImage, pose: Rigid | None = None) -> View:
    """View of an RTK projection, in world mm; with ``pose`` the fixed frame is the volume's, as in ``to_rtk``.

    A source-to-detector distance of zero is RTK's way to say parallel beam.

    Raises
    ------
    InputError: spacing that is not positive, a parallel beam of no length.
    """
    parallel = projection.source_to_detector_distance == 0
    if parallel and not projection.source_to_isocenter_distance > 0:
        raise InputError(
            f"{projection.source_to_isocenter_distance:g} mm leaves parallel rays no length",
            field="SourceToIsocenterDistance",
            remedy="give the distance of the detector from the isocentre",
        )
    if min(image.spacing) <= 0:
        raise InputError(f"spacing {image.spacing} is not positive", field="spacing")
    back = _rotation(projection).T
    p, depth = projection, projection.source_to_isocenter_distance
    u, v = p.projection_offset_x + image.origin[0], p.projection_offset_y + image.origin[1]
    begin = (u, v, depth) if parallel else (p.source_offset_x, p.source_offset_y, depth)
    end = (u, v, -depth if parallel else depth - p.source_to_detector_distance)
    source, first = torch.tensor(begin, dtype=torch.float64), torch.tensor(end, dtype=torch.float64)
    column, row = image.direction[0] * image.spacing[0] * back[:, 0], image.direction[1] * image.spacing[1] * back[:, 1]
    size = (image.size[1], image.size[0])
    view = View(back @ source, back @ first, column, row, size, "parallel" if parallel else "cone")
    view = view.transformed(torch.linalg.inv(iec_from_lps()))
    return view if pose is None else view.transformed(pose.matrix)


def rtk_matrix(projection: RTKProjection) -> Float[Tensor, "3 4"]:
    """RTK's projection matrix: IEC mm to homogeneous (u, v) mm of the projection image, scaled as RTK scales it."""
    p = projection
    at_source = torch.eye(4, dtype=torch.float64)
    at_source[:3, :3] = _rotation(p)
    at_source[:3, 3] = -torch.tensor([p.source_offset_x, p.source_offset_y, p.source_to_isocenter_distance], dtype=torch.float64)
    d = p.source_to_detector_distance
    last = [0.0, 0.0, 0.0, 1.0] if d == 0 else [0.0, 0.0, 1.0, 0.0]
    scale = 1.0 if d == 0 else -d
    magnify = torch.tensor([[scale, 0.0, 0.0, 0.0], [0.0, scale, 0.0, 0.0], last], dtype=torch.float64)
    shift = torch.eye(3, dtype=torch.float64)
    shift[0, 2], shift[1, 2] = p.source_offset_x - p.projection_offset_x, p.source_offset_y - p.projection_offset_y
    return shift @ magnify @ at_source


def _rotation(p: RTKProjection) -> Tensor:
    def turn(degrees: float, i: int, j: int) -> Tensor:
        # by minus the angle, in the plane of axes i and j
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        m = torch.eye(3, dtype=torch.float64)
        m[i, i] = m[j, j] = c
        m[i, j], m[j, i] = s, -s
        return m

    return turn(p.in_plane_angle, 0, 1) @ turn(p.out_of_plane_angle, 1, 2) @ turn(p.gantry_angle, 2, 0)


def _angles(r: Tensor) -> tuple[float, float, float]:
    """Gantry, out-of-plane and in-plane angle in degrees, [0, 360), of a rotation; out-of-plane within 90 of zero."""
    across = math.hypot(float(r[2, 0]), float(r[2, 2]))
    out_of_plane = -math.atan2(float(r[2, 1]), across)
    # at 90 degrees gantry and in-plane turn about one axis: all of it is given to the gantry
    gantry = math.atan2(float(r[2, 0]), float(r[2, 2])) if across > 1e-12 else math.atan2(-float(r[0, 2]), float(r[0, 0]))
    # the in-plane angle from what the gantry leaves, so that an ill-determined gantry angle does no harm
    c, s = math.cos(gantry), math.sin(gantry)
    left = r @ torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    in_plane = -math.atan2(float(left[1, 0]), float(left[0, 0]))
    # twice: the remainder of a tiny negative angle rounds to 360 itself
    g, o, i = (math.degrees(a) % 360.0 % 360.0 for a in (gantry, out_of_plane, in_plane))
    return g, o, i


def rtk_xml(projections: Sequence[RTKProjection]) -> str:
    """RTK's geometry file, version 3, as text; RTK reads it back to the last digit.

    Raises
    ------
    InputError: no projection.
    """
    if not projections:
        raise InputError("no projection to write", field="projections")
    rows = [asdict(p) for p in projections]
    shared = [name for name in _TAGS if name != "gantry_angle" and len({row[name] for row in rows}) == 1]
    lines = ['<?xml version="1.0"?>', "<!DOCTYPE RTKGEOMETRY>", '<RTKThreeDCircularGeometry version="3">']
    lines += [f"  <{_TAGS[name]}>{rows[0][name]!r}</{_TAGS[name]}>" for name in shared]
    for projection, row in zip(projections, rows, strict=True):
        lines.append("  <Projection>")
        lines += [f"    <{tag}>{row[name]!r}</{tag}>" for name, tag in _TAGS.items() if name not in shared]
        lines.append("    <Matrix>")
        lines += ["      " + " ".join(f"{x:.15g}" for x in line) for line in rtk_matrix(projection).tolist()]
        lines += ["    </Matrix>", "  </Projection>"]
    return "\n".join([*lines, "</RTKThreeDCircularGeometry>", ""])


def parse_rtk_xml(text: str) -> tuple[RTKProjection, ...]:
    """The projections of an RTK geometry file's text.

    Numbers outside ``<Projection>`` hold for all of them. Collimation is not part of a view and is left aside.

    Raises
    ------
    InputError: not XML, another root or version, a missing distance or gantry angle, text that is no number, a cylindrical
        detector, a stored matrix that contradicts the nine numbers.
    """
    if "<!ENTITY" in text:
        raise InputError("XML entities are not accepted", field="RTK geometry", remedy="export the geometry with RTK")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"not XML ({error})", field="RTK geometry", remedy="give the file that RTK wrote") from None
    if root.tag != "RTKThreeDCircularGeometry":
        raise InputError(f"root element <{root.tag}>", field="RTK geometry", remedy="it must be <RTKThreeDCircularGeometry>")
    if root.get("version") != "3":
        raise InputError(f"version {root.get('version')!r}", field="RTK geometry", remedy="only version 3 is understood")
    if _number(root.findtext("RadiusCylindricalDetector", "0"), "RadiusCylindricalDetector") != 0:
        raise InputError("cylindrical detectors are not supported", field="RadiusCylindricalDetector")
    common = _numbers(root)
    found = tuple(_projection(element, common) for element in root.findall("Projection"))
    if not found:
        raise InputError("no <Projection> in it", field="RTK geometry")
    return found


def _number(text: str | None, tag: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{(text or '').strip()!r} is not a number", field=tag)
    return value


def _numbers(element: ElementTree.Element) -> dict[str, float]:
    return {_FIELDS[child.tag]: _number(child.text, child.tag) for child in element if child.tag in _FIELDS}


def _projection(element: ElementTree.Element, common: dict[str, float]) -> RTKProjection:
    numbers = {**common, **_numbers(element)}
    missing = [_TAGS[name] for name in _REQUIRED if name not in numbers]
    if missing:
        raise InputError(f"missing {', '.join(missing)}", field="Projection", remedy="RTK's geometry needs it")
    projection = RTKProjection(**numbers)
    text = element.findtext("Matrix")
    if text is not None:
        stored = torch.tensor([_number(part, "Matrix") for part in text.split()], dtype=torch.float64)
        made = rtk_matrix(projection)
        if stored.numel() != 12 or float((stored.reshape(3, 4) - made).abs().max()) > 1e-6 * float(made.abs().max()):
            raise InputError(
                "the stored matrix contradicts the angles and distances beside it",
                field="Matrix",
                remedy="export the geometry again, or remove <Matrix>",
            )
    return projection
