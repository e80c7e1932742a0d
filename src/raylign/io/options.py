"""What a user may say about an exposure beside its file: one frozen record, shared by every X-ray reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raylign.geometry import View

Relationship = Literal["LIN", "LOG", "DISP"]


@dataclass(frozen=True)
class ExposureOptions:
    """How to read one exposure. A value given here beats what the file says; ``None`` leaves it to the file.

    Parameters
    ----------
    frame: which frame of a multi-frame file, from 0.
    view: geometry to use in place of the file's: a ``View``, or a path to a ``view.json`` or an OpenCV calibration.
    mask: "auto" finds the valid pixels, "none" takes all, a path names a mask image (non-zero is valid).
    relationship: what the stored values are, DICOM (0028,1040): "LIN" counts, "LOG" line integrals, "DISP" display values.
    sid: source to detector, mm.
    sod: source to isocentre, mm.
    primary, secondary: C-arm angles in degrees, + = LAO and + = CRA.
    pixel_spacing: (row, column) pitch at the detector, mm.
    patient_position: HFS, HFP, FFS, FFP, HFDR, HFDL, FFDR or FFDL, DICOM (0018,5100).
    bright: what bright pixels of a picture (PNG, TIFF, npy, ...) show, "air" as on a fluoroscope or "bone" as on a radiograph.
        ``None``: air, except where the values are line integrals ("LOG"). DICOM files state it themselves.
    """

    frame: int = 0
    view: str | Path | View | None = None
    mask: str | Path = "auto"
    relationship: Relationship | None = None
    sid: float | None = None
    sod: float | None = None
    primary: float | None = None
    secondary: float | None = None
    pixel_spacing: tuple[float, float] | None = None
    patient_position: str | None = None
    bright: Literal["air", "bone"] | None = None
