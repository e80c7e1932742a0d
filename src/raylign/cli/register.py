"""``raylign register``: the pose of a volume under which it explains X-rays."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.cli.about import about_inputs, command_line, distrust, summary
from raylign.cli.console import DONE, NOT_TRUSTED, Tell, command, complain, load, progress
from raylign.cli.exposures import exposure_options
from raylign.cli.models import ModelFlags, check_models, start_option
from raylign.cli.outputs import OUTPUTS, About, result_dict, staged, write_outputs
from raylign.cli.solve import Solved, check_solve, read_structure, solve
from raylign.cli.starts import ANYWHERE, WORDS, begin, check_start, landmark_words, read_start
from raylign.cli.surfaces import is_surface, read_surface
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.registration import Result

_STRUCTURE, _GEOMETRY = "One structure", "Geometry that is not quite known (0: as given)"


class Method(enum.StrEnum):
    """``raylign.registration.METHODS`` and methods that learn, known without loading them."""

    DIRECT = "direct"
    DIRECT_POLISH = "direct+polish"
    CMAES = "cmaes"
    CMAES_DIRECT = "cmaes+direct"
    CONTOUR = "contour"
    XREG = "xreg"
    XREG_WIDE = "xreg-wide"
    GO = "go"
    GO_PLUS = "go+"
    GC = "gc"
    GC_PLUS = "gc+"
    GI = "gi"
    GI_PLUS = "gi+"
    NCC = "ncc"
    MI = "mi"
    GRADIENT_NCC = "gradient-ncc"
    PATCH_GRADIENT_NCC = "patch-gradient-ncc"
    NCC_ADAM = "ncc-adam"
    GRADIENT_NCC_ADAM = "gradient-ncc-adam"
    MI_ADAM = "mi-adam"
    IMITATION_AGENT = "imitation-agent"
    CONVEX_SIMILARITY = "convex-similarity"


SURFACES_ALONE = {Method.CONTOUR: "contours are those", Method.IMITATION_AGENT: "an imitation-agent moves the model"}
"""Methods that take no volume, and why."""
VOLUMES_ALONE = {
    Method.CONVEX_SIMILARITY: "it was trained on bones of CTs",
    Method.DIRECT_POLISH: "a surface does not tell what attenuates how much",
}
"""Methods that take no surface, and why."""


class Table(enum.StrEnum):
    """What is done about the scanner's table in a CT."""

    KEEP = "keep"
    REMOVE = "remove"


class Rest(enum.StrEnum):
    """``raylign.registration.structures.RESTS``, known without loading them."""

    MODELLED = "modelled"
    MASKED = "masked"
    NONE = "none"


def _geometry(help: str, metavar: str) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=_GEOMETRY)


@dataclass(frozen=True, kw_only=True)
class RegisterFlags(ModelFlags):
    """Options of ``raylign register``."""

    volume: Annotated[
        Path,
        typer.Argument(
            help="CT: DICOM folder, NIfTI, NRRD or MetaImage; or a closed surface in mm: STL, PLY, OBJ or VTK.",
            show_default=False,
        ),
    ]
    xrays: Annotated[
        list[Path], typer.Argument(metavar="XRAY...", help="One exposure, or several of the same pose.", show_default=False)
    ]
    out: Annotated[Path, typer.Option(help="Folder for result.json, pose.tfm, overlay.png and report.html.", show_default=False)]
    method: Annotated[Method, typer.Option(help="How the pose is found.")] = Method.DIRECT
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Of a method that learns, in place of those that come with raylign.", metavar="FILE", show_default=False
        ),
    ] = None
    init: Annotated[
        str,
        start_option(
            "center: the CT's middle at the isocentre; search: in a wide box about that; anywhere: any turn, any place that two"
            " X-rays see (a minute); or a file: pose (.json, .tfm, .h5),"
            " landmarks with their marks (landmarks.json), landmarks alone (.mrk.json, .fcsv, .csv).",
            "center|search|anywhere|FILE",
        ),
    ] = "center"
    landmarks_2d: Annotated[
        list[Path] | None,
        start_option("Marks (.csv: name,column,row) for landmarks alone; once for each X-ray, in their order.", "FILE"),
    ] = None
    landmark_degrees: Annotated[
        float, start_option("Largest turn from lying straight that landmarks may tell; 180: any.", "DEG")
    ] = 60.0
    search_degrees: Annotated[
        float | None,
        start_option(
            "Searched about the start, either way: center 20, search 50, a pose 15, landmarks by their accuracy.", "DEG"
        ),
    ] = None
    search_mm: Annotated[
        float | None,
        start_option("The same in mm: center 35, search 200, a pose 15, landmarks by their accuracy.", "MM"),
    ] = None
    labels: Annotated[
        str | None,
        typer.Option(
            help="Register these structures of a label map, which move by themselves.",
            metavar="LABELMAP:NAME,...",
            rich_help_panel=_STRUCTURE,
        ),
    ] = None
    rest: Annotated[
        Rest,
        typer.Option(
            help="The rest of the patient: modelled (whole CT first, then the structure before it), masked, or none.",
            rich_help_panel=_STRUCTURE,
        ),
    ] = Rest.MODELLED
    geometry_sid: Annotated[float | None, _geometry("Source to detector, refined within this.", "MM")] = None
    geometry_principal: Annotated[
        float | None, _geometry("Where the beam's axis meets the detector, refined within this.", "MM")
    ] = None
    geometry_angle: Annotated[
        float | None, _geometry("Angles of each X-ray after the first, refined within this.", "DEGREES")
    ] = None
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID, where a folder holds several.", metavar="UID")] = None
    table: Annotated[Table, typer.Option(help="The scanner's table in the CT: taken out where it is clear of the patient.")] = (
        Table.KEEP
    )
    trust: Annotated[
        float | None,
        typer.Option(help="Probability of success from which a result is trusted; 0.85, of a structure 0.6.", show_default=False),
    ] = None


@command(RegisterFlags)
def register(flags: RegisterFlags) -> int:
    """Find the pose of VOLUME under which it explains the XRAYs.

    Exit code 0: done; 1: the input is wrong (one line says what, and how to mend it); 2: usage; 3: finished, but the result
    is not to be trusted.
    """
    if flags.seed < 0:
        raise InputError(f"{flags.seed} is negative", field="--seed", remedy="give 0, 1, 2, ...")
    if is_surface(flags.volume) and flags.labels is not None:
        raise InputError("a surface has no structures within it", field="--labels", remedy="leave it out, or give a CT")
    check_models(flags, [flags.volume])
    if is_surface(flags.volume) and (flags.series is not None or flags.table == Table.REMOVE):
        field = "--table" if flags.series is None else "--series"
        raise InputError("it is about a CT, and the model is a surface", field=field, remedy="leave it out")
    if flags.method in SURFACES_ALONE and not is_surface(flags.volume):
        raise InputError(
            f"{SURFACES_ALONE[flags.method]} of a surface",
            field="--method",
            remedy="give STL, PLY, OBJ or VTK, or another method",
        )
    if flags.method == Method.CONTOUR and (flags.init in WORDS or flags.search_degrees or flags.search_mm or flags.search_depth):
        raise InputError("contours do not search: they begin near", field="--init", remedy="give a pose, and no --search")
    if flags.method in VOLUMES_ALONE and is_surface(flags.volume):
        raise InputError(VOLUMES_ALONE[flags.method], field="--method", remedy="give a CT, or another method")
    if is_surface(flags.volume) and flags.init == ANYWHERE:
        raise InputError("a surface is not sought from nowhere", field="--init", remedy="give a pose, or a volume of the bone")
    check_start(flags, nowhere=True)
    check_solve(flags, len(flags.xrays))
    with staged(flags.out, OUTPUTS) as folder, progress(quiet=flags.json) as tell:
        result, about, said = _registered(flags, folder, tell)
    if flags.json:
        print(json.dumps(result_dict(result, about), separators=(",", ":"), allow_nan=False))
    else:
        print("\n".join(summary(result, flags.out, said)))
    if not result.confidence.trusted:
        complain(distrust(result))
        return NOT_TRUSTED
    return DONE


def _registered(flags: RegisterFlags, folder: Path, tell: Tell) -> tuple[Result, About, list[str]]:
    """Read, register, and write everything into ``folder``; besides the result, what more there is to tell."""
    load("raylign.registration", "raylign.io.dicom", "raylign.io.xray_dicom", "pydicom")
    from raylign.data.body import without_table
    from raylign.io import read_volume, read_xray

    options = exposure_options(flags, len(flags.xrays))
    tell("reading the X-rays", 0.0)
    xrays = tuple(read_xray(path, option) for path, option in zip(flags.xrays, options, strict=True))
    given = read_start(flags, flags.xrays)
    structure = None if flags.labels is None else read_structure(flags.labels)
    tell("reading the volume", 0.05)
    surface = read_surface(flags.volume, flags.material.value) if is_surface(flags.volume) else None
    if surface is None:
        volume = read_volume(flags.volume, series=flags.series, unit=None if flags.unit is None else flags.unit.value)
    else:
        volume = surface.volume
    cleared = without_table(volume) if flags.table == Table.REMOVE and surface is None else None
    volume = volume if cleared is None else cleared.volume
    start = begin(flags, given, volume, xrays)
    try:
        model = volume if surface is None else surface
        solved = solve(flags, model, xrays, start, structure, lambda stage, share: tell(stage, 0.2 + 0.6 * share))
    except InputError as error:  # it knows the model and the exposures, but not the files that they came from
        raise error.at(flags.volume if error.field in ("volume", "unit", "data") else ", ".join(map(str, flags.xrays))) from None
    tell("writing the report", 0.85)
    about = about_inputs(flags.volume, volume, flags.xrays, xrays, command_line())
    about = _more(about, flags, solved)
    said = list(solved.said)
    if cleared is not None:
        about = replace(about, inputs={**about.inputs, "table": cleared.words}, words={**about.words, "Table": cleared.words})
        said = [cleared.words, *said]
    if surface is not None:
        words = {**about.words, "Volume": surface.about(flags.volume)}
        about = replace(about, inputs={**about.inputs, "material": flags.material.value}, words=words)
        said = [*((surface.words,) if surface.words else ()), *said]
    if start.landmarks is not None:
        numbers, lines = landmark_words(start, solved.whole or solved.result.transform, solved.problem.xrays)
        words = {**about.words, "Landmarks": "; ".join(line.removeprefix("landmarks: ") for line in lines)}
        about, said = replace(about, more={**about.more, "landmarks": numbers}, words=words), [*lines, *said]
    write_outputs(folder, solved.problem, solved.result, about)
    return solved.result, about, said


def _more(about: About, flags: RegisterFlags, solved: Solved) -> About:
    """The inputs with what only this command has: start, structures, refined views."""
    inputs = {**about.inputs, "init": flags.init}
    if flags.labels is not None:
        inputs["labels"] = flags.labels
    if "geometry" in solved.more:  # the pose goes with the refined view, which is what readers of the result take
        refined = [x.view.to_dict() for x in solved.problem.xrays]
        inputs["xrays"] = [{**x, "view": v, "view_given": x["view"]} for x, v in zip(inputs["xrays"], refined, strict=True)]
    words = {**about.words, **solved.words, "Start": flags.init}
    return replace(about, inputs=inputs, words=words, more={**about.more, **solved.more})
