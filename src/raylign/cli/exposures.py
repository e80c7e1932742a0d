"""Options about X-ray exposures: given once for all of them, or once for each."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.io import ExposureOptions

_PANEL = "Exposure (once for all X-rays, or once for each)"


class Relationship(enum.StrEnum):
    """What stored values stand for, DICOM (0028,1040)."""

    LIN = "LIN"
    LOG = "LOG"
    DISP = "DISP"


class Bright(enum.StrEnum):
    """What bright pixels of a picture show."""

    AIR = "air"
    BONE = "bone"


def _option(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=_PANEL)


@dataclass(frozen=True, kw_only=True)
class ExposureFlags:
    """Options that say how exposures are read; each beats what the file says."""

    frame: Annotated[list[int] | None, _option("Frame of a multi-frame file, from 0.")] = None
    view: Annotated[list[Path] | None, _option("Geometry: view.json or an OpenCV calibration.")] = None
    mask: Annotated[list[str] | None, _option("Valid pixels: auto, none, or a mask image.", "auto|none|FILE")] = None
    relationship: Annotated[list[Relationship] | None, _option("Values are counts, line integrals or display values.")] = None
    bright: Annotated[list[Bright] | None, _option("What bright pixels of a picture show.")] = None
    sid: Annotated[list[float] | None, _option("Source to detector, mm.", "MM")] = None
    sod: Annotated[list[float] | None, _option("Source to isocentre, mm.", "MM")] = None
    primary: Annotated[list[float] | None, _option("C-arm angle, + is LAO.", "DEGREES")] = None
    secondary: Annotated[list[float] | None, _option("C-arm angle, + is CRA.", "DEGREES")] = None
    pixel_spacing: Annotated[list[str] | None, _option("Detector pixel pitch, mm: row,column or one number.", "R,C")] = None
    patient_position: Annotated[list[str] | None, _option("HFS, HFP, FFS, FFP, HFDR, ...", "POSITION")] = None


def exposure_options(flags: ExposureFlags, count: int) -> list[ExposureOptions]:
    """One record of options for each of ``count`` exposures.

    Raises
    ------
    InputError: an option given neither once nor once for each, numbers that are none.
    """
    from raylign.io import ExposureOptions

    def each(name: str, values: Sequence[Any] | None, default: Any = None) -> list[Any]:
        given = list(values or ())
        if len(given) not in (0, 1, count):
            raise InputError(
                f"given {len(given)} times for {count} X-ray{'s' if count > 1 else ''}",
                field=f"--{name}",
                remedy="give it once for all, or once for each in their order",
            )
        return given * count if len(given) == 1 else given or [default] * count

    spacings = [None if text is None else pixel_spacing(text) for text in each("pixel-spacing", flags.pixel_spacing)]
    relationships, brights = each("relationship", flags.relationship), each("bright", flags.bright)
    columns = {
        "frame": each("frame", flags.frame, 0),
        "view": each("view", flags.view),
        "mask": each("mask", flags.mask, "auto"),
        "relationship": [None if r is None else Relationship(r).value for r in relationships],
        "bright": [None if b is None else Bright(b).value for b in brights],
        "sid": each("sid", flags.sid),
        "sod": each("sod", flags.sod),
        "primary": each("primary", flags.primary),
        "secondary": each("secondary", flags.secondary),
        "pixel_spacing": spacings,
        "patient_position": each("patient-position", flags.patient_position),
    }
    return [ExposureOptions(**{name: values[i] for name, values in columns.items()}) for i in range(count)]


def pixel_spacing(text: str) -> tuple[float, float]:
    """(row, column) in mm from "0.3,0.3" or "0.3".

    Raises
    ------
    InputError: no one or two positive numbers.
    """
    return _pair(text, "--pixel-spacing", "give row,column in mm: 0.3,0.3")


def _pair(text: str, field: str, remedy: str) -> tuple[float, float]:
    try:
        numbers = [float(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 < n < 1e6 for n in numbers):
        raise InputError(f"{text!r} is not one or two positive numbers", field=field, remedy=remedy)
    return numbers[0], numbers[-1]


def image_shape(text: str) -> tuple[int, int]:
    """(rows, columns) from "512,512" or "512".

    Raises
    ------
    InputError: no one or two positive whole numbers.
    """
    rows, columns = _pair(text, "--shape", "give rows,columns: 512,512")
    if rows != int(rows) or columns != int(columns):
        raise InputError(f"{text!r} is not whole numbers", field="--shape", remedy="give rows,columns: 512,512")
    return int(rows), int(columns)
