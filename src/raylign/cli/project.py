"""``raylign project``: a digitally reconstructed radiograph."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.cli.console import DONE, command, load, progress
from raylign.cli.exposures import image_shape, pixel_spacing
from raylign.cli.models import Unit
from raylign.cli.outputs import staged
from raylign.cli.views import view_of
from raylign.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from raylign.data import LabelMap, Volume
    from raylign.geometry import Rigid, View

_FORMATS = (".dcm", ".png", ".nrrd", ".npy")
_SID, _SOD, _SPACING, _SHAPE = 1100.0, 750.0, "0.75", "512,512"


class Model(enum.StrEnum):
    """``raylign.projection.reference.MODELS``, known without loading them."""

    TRILINEAR = "trilinear"
    JOSEPH = "joseph"
    SIDDON = "siddon"


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
    parallel: Annotated[
        bool, typer.Option("--parallel", help="Parallel rays, perpendicular to the detector: nothing is magnified.")
    ] = False
    view: Annotated[Path | None, typer.Option(help="view.json, calibration or X-ray, in place of the C-arm's numbers.")] = None
    pose: Annotated[
        Path | None, typer.Option(help="Pose (.json, .tfm, .h5); by default the volume's centre at the isocentre, not turned.")
    ] = None
    labels: Annotated[
        str | None,
        typer.Option(
            help="An image of each structure of a label map alone, NAME added to the file's name.", metavar="LABELMAP[:NAME,...]"
        ),
    ] = None
    model: Annotated[Model, typer.Option(help="What the volume is between its voxels.")] = Model.TRILINEAR
    error: Annotated[
        float | None,
        typer.Option(
            help="Relative integration error, from which the step follows; by default the step is half a voxel.", metavar="0.001"
        ),
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
        written = _structures(flags) if flags.labels is not None else _whole(flags)
    for path in written:
        print(path)
    return DONE


@dataclass(frozen=True)
class _Exposed:
    """What is projected, and how."""

    volume: Volume
    view: View
    pose: Rigid
    model: str
    step: float | None


def _exposed(flags: ProjectFlags) -> _Exposed:
    from raylign.io import read_pose, read_volume
    from raylign.projection import step_within
    from raylign.registration.problem import centred

    view = _view(flags)
    if view.beam != "cone" and flags.output.suffix.lower() == ".dcm":
        raise InputError(
            "DICOM knows no X-ray image of parallel rays", file=flags.output, field="--output", remedy="write .nrrd, .npy or .png"
        )
    if flags.error is not None and flags.model is not Model.TRILINEAR:
        raise InputError(f"the {flags.model} model takes no samples", field="--error", remedy="leave it out, or --model")
    given = None if flags.pose is None else read_pose(flags.pose)
    volume = read_volume(flags.volume, series=flags.series, unit=None if flags.unit is None else flags.unit.value)
    pose = centred(volume) if given is None else given
    volume = volume.attenuation(flags.energy)
    step = None if flags.error is None else step_within(flags.error, volume, view, pose.matrix[None])
    return _Exposed(volume, view, pose, flags.model.value, step)


def _whole(flags: ProjectFlags) -> list[Path]:
    from raylign.projection import project as line_integrals

    what = _exposed(flags)
    image = line_integrals(what.volume, what.view, what.pose, step=what.step, model=what.model)[0, 0]
    if not bool((image > 0).any()):
        raise InputError(
            "no ray meets the volume", file=flags.volume, field="--pose and view", remedy="check that the C-arm looks at it"
        )
    _write(image, what.view, flags.output)
    return [flags.output]


def _structures(flags: ProjectFlags) -> list[Path]:
    """One file a structure, all of them or none."""
    import torch

    from raylign.projection import project_labels

    path, labels, names = _labels(str(flags.labels))
    what = _exposed(flags)
    try:
        rows: Any = dict(zip(names, torch.eye(len(names)), strict=True))
        options: dict[str, Any] = {"volume": what.volume, "step": what.step, "model": what.model}
        images = project_labels(labels, what.view, what.pose, weights=rows, **options)[0, 0]
    except InputError as error:
        raise error.at(path) from None
    if not bool((images > 0).any()):
        raise InputError(
            "no ray meets any of the structures", file=path, field="--pose and view", remedy="check that the C-arm looks at them"
        )
    written: list[Path] = []
    with staged(flags.output.parent) as folder:
        for number, image in zip(names, images, strict=True):
            name = re.sub(r"[^\w.-]+", "_", labels.present()[number]).strip("._") or str(number)
            file = f"{flags.output.stem}_{name}{flags.output.suffix}"
            if any(p.name.lower() == file.lower() for p in written):  # two structures of one name
                file = f"{flags.output.stem}_{name}_{number}{flags.output.suffix}"
            _write(image, what.view, folder / file)
            written.append(flags.output.parent / file)
    return written


def _labels(text: str) -> tuple[Path, LabelMap, list[int]]:
    """A label map and the numbers in it that are meant by ``LABELMAP`` or ``LABELMAP:NAME,...``."""
    from raylign.io import read_labels

    path, colon, names = (text, "", "") if Path(text).exists() else text.rpartition(":")
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not path or (colon and not chosen):
        raise InputError(f"{text!r} names no structure", field="--labels", remedy="give LABELMAP, or LABELMAP:NAME,NAME")
    labels = read_labels(path)
    try:
        return Path(path), labels, list(dict.fromkeys(labels.number(name) for name in chosen)) or list(labels.present())
    except InputError as error:
        raise error.at(path) from None


def _write(image: Float[Tensor, "H W"], view: View, path: Path) -> None:
    from raylign.io.images_write import write_line_integrals
    from raylign.io.xray_dicom_write import XRayDicomOptions, counts_from_integrals, write_xray_dicom

    if path.suffix.lower() == ".dcm":
        options = XRayDicomOptions(description="Digitally reconstructed radiograph")
        write_xray_dicom(counts_from_integrals(image), view, path, options)
    else:
        write_line_integrals(image, view, path)


def _view(flags: ProjectFlags) -> View:
    from raylign.geometry import View

    numbers = (flags.primary, flags.secondary, flags.sid, flags.sod, flags.spacing, flags.shape)
    if flags.view is not None:
        if any(n is not None for n in numbers) or flags.parallel:
            raise InputError("a view and C-arm numbers are both given", field="--view", remedy="give one of them")
        return view_of(flags.view)
    rows, columns = image_shape(flags.shape or _SHAPE)
    if rows * columns > 2**26:
        raise InputError(f"{rows} x {columns} pixels", field="--shape", remedy="give at most 8192 x 8192")
    for name, angle in (("--primary", flags.primary), ("--secondary", flags.secondary)):
        if angle is not None and not abs(angle) <= 360:
            raise InputError(f"{angle:g} degrees", field=name, remedy="give -360 to 360")
    common: dict[str, Any] = {
        "primary": flags.primary or 0.0,
        "secondary": flags.secondary or 0.0,
        "pixel_spacing": pixel_spacing(flags.spacing or _SPACING),
        "shape": (rows, columns),
    }
    if not flags.parallel:
        return View.from_carm(
            sid=_SID if flags.sid is None else flags.sid, sod=_SOD if flags.sod is None else flags.sod, **common
        )
    if flags.sid is not None or flags.sod is not None:
        raise InputError("parallel rays have no source", field="--parallel", remedy="leave --sid and --sod out")
    return View.from_parallel(**common)
