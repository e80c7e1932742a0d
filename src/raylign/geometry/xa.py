"""The View that a DICOM X-ray header describes: XA, RF, DX, CR and Enhanced XA/XRF.

Sources: DICOM PS3.3 C.8.7.5 (XA positioner; angles "shall be with respect to the patient", C.8.7.5.1.2; increments C.8.7.5.1.3),
C.8.19.6.13 (isocentre reference system), C.8.19.5 (detector, position of the isocentre's projection), C.8.11.4 (field of view),
C.7.6.1.1.1 (patient orientation), 10.7 (pixel spacing and its calibration); PS3.17 FFF.2.1.5.2 (the isocentre falls on the middle
of the field of view where nothing else is stated).

What the rules come to
----------------------
- Positioner angles are relative to the patient, whatever the patient's position on the table: LAO 90 has the detector at the
  patient's left, supine or prone, head or feet first. World axes are the patient's L, P, S; so source and detector do not
  depend on PatientPosition.
- PatientPosition matters in two places. A detector is fixed in its C-arm, so a patient lying feet first appears upside down
  unless the system turned the image: without PatientOrientation the image axes of FF* are turned by half a turn. And isocentre
  angles (0018,9463/9464) are relative to the equipment: they are turned into the patient's frame.
- PatientOrientation ``L\\F`` is the heads-up display at every angle: exporters write it as a constant, on laterals too. Other
  values are read by the anatomical direction of the image axes at the header's angles, or, where an axis is more than about 50
  degrees off its letter, as the display at angles 0/0.

Unverified against a scanner: the signs of the isocentre angles (their text, "from -Y to +X is positive", with Y from isocentre
to source at zero, agrees with LAO for a head-first supine patient), and field-of-view rotation and flip without
PatientOrientation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import carm
from raylign.geometry.detector import isocentre_pixel, turned
from raylign.geometry.header import Header
from raylign.geometry.view import View

# Patient axes in the room's: columns are where L, P, S of the patient point, in the axes of a head-first supine one.
_TURN = {
    "S": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "P": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "DR": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),  # right side down: L points up (-y), P to the room's +x
    "DL": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
}
_FEET = ((-1, 0, 0), (0, 1, 0), (0, 0, -1))  # feet first: half a turn about the vertical
POSITIONS = ("HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL")
_LETTERS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}
_CLEAR = 0.64  # cosine of 50 degrees


@dataclass(frozen=True)
class Overrides:
    """Numbers that beat the header's; ``None`` leaves them to it. Degrees, mm, and (row, column) pitch at the detector."""

    sid: float | None = None
    sod: float | None = None
    primary: float | None = None
    secondary: float | None = None
    pixel_spacing: tuple[float, float] | None = None
    patient_position: str | None = None


_NOTHING = Overrides()


def view_from_header(dataset: Any, frame: int = 0, overrides: Overrides = _NOTHING) -> View:
    """The geometry of one frame in world mm: origin at the isocentre, axes parallel to the patient's L, P, S.

    Parameters
    ----------
    dataset: anything with DICOM keywords as attributes (a ``pydicom.Dataset``).
    frame: which frame, from 0; angles follow the increments (0018,1520/1521) or the functional groups.
    overrides: what to use in place of the header's numbers.

    Raises
    ------
    InputError: a distance, spacing, angle or orientation that is missing, without sense or contradictory, naming its tag.
    """
    header = Header(dataset, frame)
    count = int(header.number("NumberOfFrames") or 1)
    if not 0 <= frame < max(count, 1):
        raise InputError(f"frame {frame} of {count}", field="--frame", remedy=f"frames count from 0 to {count - 1}")
    rows, columns = header.number("Rows"), header.number("Columns")
    if rows is None or columns is None:
        raise InputError("missing", field=header.label("Rows"), remedy="give a DICOM image")
    shape = (int(rows), int(columns))
    position = _position(header, overrides)
    sid, sod = distances(header, overrides)
    spacing = detector_spacing(header, overrides, sid, sod)
    axes = _axes(header, overrides, position, count)
    row, column = isocentre_pixel(header, shape, spacing)
    u, v, d = axes
    column_step, row_step = spacing[1] * u, spacing[0] * v
    return View(-sod * d, (sid - sod) * d - column * column_step - row * row_step, column_step, row_step, shape)


def distances(header: Header, overrides: Overrides = _NOTHING) -> tuple[float, float]:
    """(source to detector, source to isocentre), mm.

    DistanceSourceToIsocenter (0018,9402) beats DistanceSourceToPatient (0018,1111); either distance may follow from the other
    and the magnification (0018,1114).

    Raises
    ------
    InputError: missing, not positive, or not 0 < SOD < SID.
    """
    sid = overrides.sid if overrides.sid is not None else header.number("DistanceSourceToDetector")
    sod = overrides.sod
    sod_field = "sod" if sod is not None else "DistanceSourceToPatient"
    if sod is None and (sod := header.number("DistanceSourceToIsocenter")) is not None:
        sod_field = "DistanceSourceToIsocenter"
    if sod is None:
        sod = header.number("DistanceSourceToPatient")
    magnification = header.number("EstimatedRadiographicMagnificationFactor")
    if magnification is not None and magnification > 1:
        if sod is None and sid is not None:
            sod, sod_field = sid / magnification, "EstimatedRadiographicMagnificationFactor"
        elif sid is None and sod is not None:
            sid = sod * magnification
    sid_label, sod_label = header.label("DistanceSourceToDetector"), header.label(sod_field)
    if sid is None:
        raise InputError("the source-to-detector distance is missing", field=sid_label, remedy="give it in mm with --sid")
    if sod is None:
        raise InputError("the source-to-isocentre distance is missing", field=sod_label, remedy="give it in mm with --sod")
    for value, field, option in ((sid, sid_label, "--sid"), (sod, sod_label, "--sod")):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{value:g} mm is not a positive distance", field=field, remedy=f"give it in mm with {option}")
    if sod >= sid:
        raise InputError(
            f"the source-to-isocentre distance {sod:g} mm is not below the source-to-detector distance {sid:g} mm (0018,1110)",
            field=sod_label,
            remedy="give the right ones with --sod and --sid",
        )
    return float(sid), float(sod)


def detector_spacing(header: Header, overrides: Overrides, sid: float, sod: float) -> tuple[float, float]:
    """(row, column) pitch at the detector, mm.

    ImagerPixelSpacing (0018,1164) beats PixelSpacing (0028,0030), which is a length in the patient: it counts only where
    PixelSpacingCalibrationType (0028,0A02) says that it was calibrated, as the pitch in the plane of the isocentre, so that
    the focal length in pixels is SOD / spacing.

    Raises
    ------
    InputError: missing, of unknown meaning, or not positive.
    """
    remedy = "give the pitch at the detector in mm with --pixel-spacing"
    if overrides.pixel_spacing is not None:
        spacing, field, scale = tuple(overrides.pixel_spacing), "pixel_spacing", 1.0
    elif (imager := header.numbers("ImagerPixelSpacing", 2)) is not None:
        spacing, field, scale = tuple(imager), "ImagerPixelSpacing", 1.0
    elif (patient := header.numbers("PixelSpacing", 2)) is not None:
        kind = header.text("PixelSpacingCalibrationType").upper()
        if kind not in ("GEOMETRY", "FIDUCIAL"):
            raise InputError(
                "only PixelSpacing (0028,0030) is given, and not whether it holds at the detector or in the patient",
                field=header.label("ImagerPixelSpacing"),
                remedy=remedy,
            )
        spacing, field, scale = tuple(patient), "PixelSpacing", sid / sod
    else:
        raise InputError("the pixel spacing is missing", field=header.label("ImagerPixelSpacing"), remedy=remedy)
    if len(spacing) != 2 or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"{list(spacing)} mm is not a positive pitch", field=header.label(field), remedy=remedy)
    return spacing[0] * scale, spacing[1] * scale


def angles(header: Header, overrides: Overrides, count: int) -> tuple[float, float] | None:
    """(primary, secondary) of the frame, degrees, relative to the patient; ``None`` where the header has neither.

    Raises
    ------
    InputError: one of two given, out of range, or moving without being told how.
    """
    found: list[float | None] = []
    for name, given in (("Primary", overrides.primary), ("Secondary", overrides.secondary)):
        if given is not None:
            found.append(float(given))
            continue
        keyword = f"Positioner{name}Angle"
        first = header.number(keyword)
        found.append(None if first is None else first + _increment(header, f"{keyword}Increment", count))
    primary, secondary = found
    if primary is None and secondary is None:
        return None
    for value, name in ((primary, "Primary"), (secondary, "Secondary")):
        limit, field = (360, 180)[name == "Secondary"], header.label(f"Positioner{name}Angle")
        remedy = f"give it in degrees with --{name.lower()}"
        if value is None:
            raise InputError(f"the {name.lower()} angle is missing", field=field, remedy=remedy)
        if not (math.isfinite(value) and abs(value) <= limit):
            raise InputError(f"{value:g} degrees is not a C-arm's angle", field=field, remedy=remedy)
    assert primary is not None and secondary is not None
    return primary, secondary


def _increment(header: Header, keyword: str, count: int) -> float:
    steps = header.numbers(keyword)
    if header.frame == 0 and (not steps or len(steps) != count):
        return 0.0
    if not steps:
        if header.text("PositionerMotion").upper() == "DYNAMIC" and not header.per_frame:
            raise InputError("missing, but the C-arm moved", field=header.label(keyword), remedy="give --primary and --secondary")
        return 0.0
    if len(steps) == 1:  # one value: the step from frame to frame
        return header.frame * steps[0]
    if len(steps) != count:
        raise InputError(
            f"{len(steps)} values for {count} frames", field=header.label(keyword), remedy="give --primary and --secondary"
        )
    return steps[header.frame]  # a list: offsets from the first angle


def _position(header: Header, overrides: Overrides) -> str:
    said = overrides.patient_position or header.text("PatientPosition")
    position = said.strip().upper()
    if position not in POSITIONS:
        what = f"unknown patient position {said!r}" if position else "the patient position is missing"
        raise InputError(
            what, field=header.label("PatientPosition"), remedy=f"give one of {', '.join(POSITIONS)} with --patient-position"
        )
    return position


def room_from_patient(position: str) -> Tensor:
    """[3, 3] rotation from patient L, P, S to the room's axes, which are those of a head-first supine patient."""
    turn = torch.tensor(_TURN[position[2:]], dtype=torch.float64)
    return torch.tensor(_FEET, dtype=torch.float64) @ turn if position.startswith("FF") else turn


def _axes(header: Header, overrides: Overrides, position: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit directions of image columns and rows and from isocentre to detector, in the patient's axes."""
    found = angles(header, overrides, count)
    if found is not None:
        u, v, d = carm.frame(*found).unbind(1)
        if position.startswith("FF"):
            u_fixed, v_fixed = -u, -v
        else:
            u_fixed, v_fixed = u, v
    else:
        u, v, d = _equipment_axes(header, position)
        u_fixed, v_fixed = u, v
    orientation = header.texts("PatientOrientation")
    if not any(orientation):
        return (*turned(header, u_fixed, v_fixed), d)
    return (*_oriented(header, orientation, u, v), d)


def _equipment_axes(header: Header, position: str) -> Sequence[Tensor]:
    """The same from the isocentre angles (0018,9463/9464), which are relative to the equipment."""
    primary, secondary = header.number("PositionerIsocenterPrimaryAngle"), header.number("PositionerIsocenterSecondaryAngle")
    if primary is None or secondary is None:
        raise InputError(
            "the C-arm's angles are missing",
            field=header.label("PositionerPrimaryAngle"),
            remedy="give them in degrees with --primary and --secondary, or the whole geometry with --view",
        )
    for name, what in (
        ("PositionerIsocenterDetectorRotationAngle", "a turned detector"),
        ("TableHorizontalRotationAngle", "a turned table"),
        ("TableHeadTiltAngle", "a tilted table"),
        ("TableCradleTiltAngle", "a tilted table"),
    ):
        if abs(header.number(name) or 0.0) > 0.01:
            raise InputError(
                f"{what} is not supported with isocentre angles alone",
                field=header.label(name),
                remedy="give the angles to the patient with --primary and --secondary, or the whole geometry with --view",
            )
    turn = room_from_patient(position).T
    return [turn @ axis for axis in carm.frame(primary, secondary).unbind(1)]


def _oriented(header: Header, orientation: Sequence[str], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Image axes (columns, rows) that PatientOrientation (0020,0020) names, from those of the heads-up display."""
    field = header.label("PatientOrientation")
    letters = [text.strip().upper()[:1] for text in orientation]
    shown = "\\".join(orientation)
    if len(letters) != 2 or any(letter not in _LETTERS for letter in letters):
        raise InputError(f"{shown!r} are not two anatomical directions", field=field, remedy="correct it, or give --view")
    if letters == ["L", "F"]:
        return u, v
    axes = []
    for letter in letters:
        along = [float(axis @ torch.tensor(_LETTERS[letter], dtype=torch.float64)) for axis in (u, v)]
        best = max((0, 1), key=lambda k: abs(along[k]))
        if abs(along[best]) >= _CLEAR:
            axes.append((best, math.copysign(1, along[best])))
        elif letter in "LRHF":
            axes.append((int(letter in "HF"), 1.0 if letter in "LF" else -1.0))
        else:
            break
    if len(axes) != 2 or axes[0][0] == axes[1][0]:
        raise InputError(f"{shown!r} contradicts the C-arm's angles", field=field, remedy="correct it, or give --view")
    (first, a), (second, b) = axes
    return a * (u, v)[first], b * (u, v)[second]
