"""``raylign project``: a digitally reconstructed radiograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raylign.cli.console import DONE, command, load, progress
from raylign.cli.exposures import image_shape, pixel_spacing
from raylign.cli.register import Unit
from raylign.cli.views import view_of
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.geometry import View

_FORMATS = (".dcm", ".png", ".nrrd", ".npy")
_SID, _SOD, _SPACING, _SHAPE = 1100.0, 750.0, "0.75", "512,512"


@dataclass(frozen=True, kw_only=True)
class ProjectFlags:
    """Options of ``raylign project``."""

    volume: Annotated[Path, typer.Argument(help="CT: DICOM folder, NIfTI, NRRD or MetaImage.", show_default=False)]
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="drr.dcm (counts, for raylign register), .nrrd or .npy (line integrals), .png (display);"
            " a view.json goes beside all but the first.",
            show_default=False,
        ),
    ]
    primary: Annotated[float | None, typer.Option(help="C-arm angle, + is LAO [0].", metavar="DEGREES")] = None
    secondary: Annotated[float | None, typer.Option(help="C-arm angle, + is CRA [0].", metavar="DEGREES")] = None
    sid: Annotated[float | None, typer.Option(help=f"Source to detector [{_SID:g}].", metavar="MM")] = None
    sod: Annotated[float | None, typer.Option(help=f"Source to isocentre [{_SOD:g}].", metavar="MM")] = None
    spacing: Annotated[
        str | None, typer.Option("--pixel-spacing", help=f"Detector pixel pitch, mm: row,column [{_SPACING}].", metavar="R,C")
    ] = None
    shape: Annotated[str | None, typer.Option(help=f"Rows,columns [{_SHAPE}].", metavar="H,W")] = None
    view: Annotated[Path | None, typer.Option(help="view.json, calibration or X-ray, in place of the C-arm's numbers.")] = None
    pose: Annotated[
        Path | None, typer.Option(help="Pose (.json, .tfm, .h5) [the volume's centre at the isocentre, not turned].")
    ] = None
    energy: Annotated[int, typer.Option(help="Effective photon energy, keV: 40, 50, 60, 70, 80 or 100.", metavar="KEV")] = 70
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID, where a folder holds several.", metavar="UID")] = None
    unit: Annotated[Unit | None, typer.Option(help="The volume's numbers, where they do not tell.")] = None


@command(ProjectFlags)
def project(flags: ProjectFlags) -> int:
    """Render VOLUME as an X-ray: line integrals along every ray of a C-arm, or of any calibrated view."""
    kind = flags.output.suffix.lower()
    if kind not in _FORMATS:
        raise InputError(
            f"{kind or 'no suffix'!r} cannot be written", file=flags.output, field="--output", remedy=f"use {', '.join(_FORMATS)}"
        )
    with progress() as tell:
        load("raylign.registration", "raylign.io.dicom")
        tell("reading the volume", 0.0)
        _render(flags, kind)
    print(flags.output)
    return DONE


def _render(flags: ProjectFlags, kind: str) -> None:
    from raylign.io import read_pose, read_volume
    from raylign.io.images_write import write_line_integrals
    from raylign.io.xray_dicom_write import XRayDicomOptions, counts_from_integrals, write_xray_dicom
    from raylign.projection import project as line_integrals
    from raylign.registration.problem import centred

    view = _view(flags)
    given = None if flags.pose is None else read_pose(flags.pose)
    volume = read_volume(flags.volume, series=flags.series, unit=None if flags.unit is None else flags.unit.value)
    pose = centred(volume) if given is None else given
    image = line_integrals(volume.attenuation(flags.energy), view, pose)[0, 0]
    if not bool((image > 0).any()):
        raise InputError(
            "no ray meets the volume", file=flags.volume, field="--pose and view", remedy="check that the C-arm looks at it"
        )
    if kind == ".dcm":
        options = XRayDicomOptions(description="Digitally reconstructed radiograph")
        write_xray_dicom(counts_from_integrals(image), view, flags.output, options)
    else:
        write_line_integrals(image, view, flags.output)


def _view(flags: ProjectFlags) -> View:
    from raylign.geometry import View

    numbers = (flags.primary, flags.secondary, flags.sid, flags.sod, flags.spacing, flags.shape)
    if flags.view is not None:
        if any(n is not None for n in numbers):
            raise InputError("a view and C-arm numbers are both given", field="--view", remedy="give one of them")
        return view_of(flags.view)
    rows, columns = image_shape(flags.shape or _SHAPE)
    if rows * columns > 2**26:
        raise InputError(f"{rows} x {columns} pixels", field="--shape", remedy="give at most 8192 x 8192")
    for name, angle in (("--primary", flags.primary), ("--secondary", flags.secondary)):
        if angle is not None and not abs(angle) <= 360:
            raise InputError(f"{angle:g} degrees", field=name, remedy="give -360 to 360")
    return View.from_carm(
        primary=flags.primary or 0.0,
        secondary=flags.secondary or 0.0,
        sid=_SID if flags.sid is None else flags.sid,
        sod=_SOD if flags.sod is None else flags.sod,
        pixel_spacing=pixel_spacing(flags.spacing or _SPACING),
        shape=(rows, columns),
    )
