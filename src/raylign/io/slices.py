"""CT slices as planes in space, and the one affine of a stack of them.

Sources: DICOM PS3.3 C.7.6.2.1.1 (position and orientation), C.7.6.16.2 (functional groups of multi-frame images).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raylign.errors import InputError
from raylign.io import dicomfile as df

_POSITIONS = {
    *("HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL"),
    *("LFS", "LFP", "RFS", "RFP", "AFDR", "AFDL", "PFDR", "PFDL"),
}
_EXPORT = "export the series again with this field"
# Where an attribute lives in a multi-frame file's functional groups
_GROUPS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "FrameType": "CTImageFrameTypeSequence",
}


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice: where it comes from, where it lies (mm, LPS) and how its stored values become HU.

    Parameters
    ----------
    file, dataset, frame: the file, its number among those read, and the frame in it.
    position: [3] centre of the first pixel.
    row, column: [3] unit directions in which the column and the row index grow.
    spacing: (between rows, between columns), mm.
    shape: (rows, columns).
    slope, intercept: HU = slope * stored + intercept.
    padding: range of stored values that mean "nothing here", or ``None``.
    """

    file: Path
    dataset: int
    frame: int
    position: np.ndarray
    row: np.ndarray
    column: np.ndarray
    spacing: tuple[float, float]
    shape: tuple[int, int]
    slope: float
    intercept: float
    padding: tuple[int, int] | None
    frame_of_reference: str

    @property
    def normal(self) -> np.ndarray:
        """Unit normal, right-handed: row direction x column direction."""
        return np.cross(self.row, self.column)

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self.file.name if self.frame == 0 else f"{self.file.name} frame {self.frame}"


def slices_of(dataset: Any, file: Path, number: int) -> list[Slice]:
    """The slices of one dataset: one, or one a frame of a multi-frame image. Localizer frames are left out.

    Raises
    ------
    InputError: a required element missing or without sense, naming it.
    """
    shape = df.frame_shape(dataset)
    count = df.frame_count(dataset)
    reference = df.text(dataset, "FrameOfReferenceUID")
    if not reference:
        raise InputError("missing", field=df.label("FrameOfReferenceUID"), remedy=_EXPORT)
    position = df.text(dataset, "PatientPosition")
    if position and position not in _POSITIONS:
        raise InputError(f"unknown value {position!r}", field=df.label("PatientPosition"), remedy="correct it or remove it")
    padding = _padding(dataset)
    per_frame = getattr(dataset, "PerFrameFunctionalGroupsSequence", None)
    if per_frame is None:
        if count > 1:
            raise InputError(
                f"{count} frames without their positions", field=df.label("PerFrameFunctionalGroupsSequence"), remedy=_EXPORT
            )
        return [_slice((dataset,), _Origin(file, number, 0, shape, padding, reference))]
    if len(per_frame) != count:
        raise InputError(
            f"{len(per_frame)} items for {count} frames",
            field=df.label("PerFrameFunctionalGroupsSequence"),
            remedy="export the series again, it is not complete",
        )
    shared = list(getattr(dataset, "SharedFunctionalGroupsSequence", None) or [])
    out = []
    for frame, item in enumerate(per_frame):
        sources = (item, *shared)
        kind = _group(sources, "FrameType")
        if kind is not None and "LOCALIZER" in {str(x).upper() for x in (getattr(kind, "FrameType", None) or [])}:
            continue
        out.append(_slice(sources, _Origin(file, number, frame, shape, padding, reference)))
    return out


@dataclass(frozen=True)
class _Origin:
    file: Path
    dataset: int
    frame: int
    shape: tuple[int, int]
    padding: tuple[int, int] | None
    frame_of_reference: str


def _group(sources: Sequence[Any], keyword: str) -> Any:
    """The item that holds a keyword: the dataset itself, or the functional group, the frame's own before the shared one."""
    for source in sources:
        if getattr(source, keyword, None) is not None:
            return source
        for item in getattr(source, _GROUPS[keyword], None) or []:
            if getattr(item, keyword, None) is not None:
                return item
    return None


def _required(sources: Sequence[Any], keyword: str, count: int) -> list[float]:
    item = _group(sources, keyword)
    found = None if item is None else df.numbers(item, keyword, count)
    if found is None:
        raise InputError("missing", field=df.label(keyword), remedy=_EXPORT)
    return found


def _slice(sources: Sequence[Any], origin: _Origin) -> Slice:
    spacing = _required(sources, "PixelSpacing", 2)
    if min(spacing) <= 0:
        raise InputError(f"{spacing} mm is not a positive length", field=df.label("PixelSpacing"), remedy=_EXPORT)
    axes = np.array(_required(sources, "ImageOrientationPatient", 6)).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(float(axes[0] @ axes[1])) > 1e-2:
        raise InputError(
            f"{axes.ravel().tolist()} are not two perpendicular unit vectors",
            field=df.label("ImageOrientationPatient"),
            remedy="export the series again, it is damaged",
        )
    row = axes[0] / lengths[0]
    column = axes[1] - (axes[1] @ row) * row  # the header rounds to a few digits: make it exactly perpendicular again
    column /= np.linalg.norm(column)
    slope, intercept = _required(sources, "RescaleSlope", 1)[0], _required(sources, "RescaleIntercept", 1)[0]
    if slope == 0:
        raise InputError("a slope of zero leaves no image", field=df.label("RescaleSlope"), remedy=_EXPORT)
    kind = _group(sources, "RescaleType")
    unit = "" if kind is None else df.text(kind, "RescaleType").upper()
    if unit not in ("", "HU", "HU_MOD"):
        raise InputError(f"values are in {unit!r}, not HU", field=df.label("RescaleType"), remedy="give the CT in HU")
    position = np.array(_required(sources, "ImagePositionPatient", 3))
    return Slice(
        origin.file,
        origin.dataset,
        origin.frame,
        position,
        row,
        column,
        (spacing[0], spacing[1]),
        origin.shape,
        slope,
        intercept,
        origin.padding,
        origin.frame_of_reference,
    )


def _padding(dataset: Any) -> tuple[int, int] | None:
    """PixelPaddingValue (0028,0120) to PixelPaddingRangeLimit (0028,0121), in stored values."""
    ends = [getattr(dataset, key, None) for key in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None or ends[0] == "":
        return None
    first = df.whole_number(dataset, "PixelPaddingValue")
    last = first if ends[1] is None or ends[1] == "" else df.whole_number(dataset, "PixelPaddingRangeLimit")
    if df.whole_number(dataset, "PixelRepresentation", 0) == 1:
        # written as unsigned by many: 63536 stands for -2000
        first, last = (v - 65536 if v >= 32768 else v for v in (first, last))
    return min(first, last), max(first, last)


def stack_affine(slices: Sequence[Slice], path: Path) -> tuple[list[Slice], np.ndarray]:
    """The slices ordered along their normal, and the 4x4 affine (column, row, slice) -> LPS mm.

    Raises
    ------
    InputError: they do not make one regular, complete, unsheared stack.
    """
    if len(slices) < 2:
        raise InputError(f"{len(slices)} slice is no volume", file=path, remedy="name the folder that holds the whole series")
    first = slices[0]
    for s in slices[1:]:
        _same(first, s)
    normal = first.normal
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    positions = np.array([s.position for s in ordered])
    along = positions @ normal
    steps = np.diff(along)
    _evenly_spaced(ordered, along, steps)
    shift = positions[-1] - positions[0]
    lateral = shift - (shift @ normal) * normal
    tilt = float(np.degrees(np.arctan2(np.linalg.norm(lateral), abs(shift @ normal))))
    if tilt > 0.1:
        raise InputError(
            f"slices are shifted sideways by {np.linalg.norm(lateral):.2f} mm in all (gantry tilt of {tilt:.1f} degrees)",
            file=path,
            field=df.label("ImagePositionPatient"),
            remedy="resample the series to a straight stack first",
        )
    affine = np.eye(4)
    affine[:3, 0] = first.row * first.spacing[1]
    affine[:3, 1] = first.column * first.spacing[0]
    affine[:3, 2] = shift / (len(ordered) - 1)
    affine[:3, 3] = positions[0]
    line = positions[0] + np.arange(len(ordered))[:, None] * affine[:3, 2]
    off = np.abs(positions - line).max(axis=1)
    worst = int(off.argmax())
    if off[worst] > max(0.1 * float(np.median(steps)), 0.05):
        raise InputError(
            f"the slice lies {off[worst]:.2f} mm off the straight, even stack that the others make",
            file=ordered[worst].file,
            field=df.label("ImagePositionPatient"),
            remedy="resample the series, or export it again",
        )
    return ordered, affine


def _same(a: Slice, b: Slice) -> None:
    """Refuses two slices that cannot belong to one volume."""
    if a.frame_of_reference != b.frame_of_reference:
        problem, key = f"differs from that of {a.name}: slices of two frames of reference", "FrameOfReferenceUID"
    elif a.shape != b.shape:
        problem, key = f"{b.shape[0]} x {b.shape[1]} pixels, but {a.name} has {a.shape[0]} x {a.shape[1]}", "Rows"
    elif max(abs(p - q) for p, q in zip(a.spacing, b.spacing, strict=True)) > 1e-4 * max(a.spacing):
        problem, key = f"{b.spacing} mm, but {a.name} has {a.spacing} mm", "PixelSpacing"
    elif max(np.abs(a.row - b.row).max(), np.abs(a.column - b.column).max()) > 1e-3:
        problem, key = f"differs from that of {a.name}: slices of mixed orientation", "ImageOrientationPatient"
    else:
        return
    raise InputError(problem, file=b.file, field=df.label(key), remedy="keep the slices of one volume only")


def _evenly_spaced(ordered: Sequence[Slice], along: np.ndarray, steps: np.ndarray) -> None:
    usual = float(np.median(steps))
    k = int(steps.argmin())
    if steps[k] <= max(1e-3 * usual, 1e-4):
        raise InputError(
            f"lies at the same place as {ordered[k].name} ({along[k]:.2f} mm along the normal)",
            file=ordered[k + 1].file,
            field=df.label("ImagePositionPatient"),
            remedy="remove the doubled slices, or split the phases of the series",
        )
    k = int(steps.argmax())
    if abs(steps[k] - usual) <= 0.02 * usual and abs(steps.min() - usual) <= 0.02 * usual:
        return
    where = f"between {along[k]:.2f} mm ({ordered[k].name}) and {along[k + 1]:.2f} mm ({ordered[k + 1].name}) along the normal"
    missing = round(float(steps[k]) / usual) - 1
    if missing >= 1 and abs(steps[k] - (missing + 1) * usual) <= 0.05 * usual:
        what = "a slice is missing" if missing == 1 else f"{missing} slices are missing"
        problem, remedy = f"{what} {where}: the others lie {usual:.2f} mm apart", "export the whole series"
    else:
        problem = f"the slice spacing is not uniform: {steps.min():.2f} to {steps[k]:.2f} mm, the widest {where}"
        remedy = "resample the series to even spacing, or export it again"
    raise InputError(problem, file=ordered[k].file.parent, field=df.label("ImagePositionPatient"), remedy=remedy)
