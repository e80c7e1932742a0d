"""``raylign register``: the pose of a volume under which it explains X-rays."""

from __future__ import annotations

import enum
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.cli.console import DONE, NOT_TRUSTED, command, complain, load, progress
from raylign.cli.exposures import ExposureFlags, exposure_options
from raylign.cli.outputs import OVERLAY, POSE, REPORT, RESULT, About, result_dict, staged, write_outputs
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.data import Volume, XRay
    from raylign.geometry import Rigid
    from raylign.registration import Registrar, Result, SearchConfig


class Method(enum.StrEnum):
    """``raylign.registration.METHODS``, known without loading them."""

    DIRECT = "direct"
    CMAES = "cmaes"
    CMAES_DIRECT = "cmaes+direct"
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


class Unit(enum.StrEnum):
    """What a volume's numbers are, where its file does not say."""

    HU = "HU"
    RAW = "raw"
    PER_MM = "1/mm"


@dataclass(frozen=True, kw_only=True)
class RegisterFlags(ExposureFlags):
    """Options of ``raylign register``."""

    volume: Annotated[Path, typer.Argument(help="CT: DICOM folder, NIfTI, NRRD or MetaImage.", show_default=False)]
    xrays: Annotated[
        list[Path], typer.Argument(metavar="XRAY...", help="One exposure, or several of the same pose.", show_default=False)
    ]
    out: Annotated[Path, typer.Option(help="Folder for result.json, pose.tfm, overlay.png and report.html.", show_default=False)]
    method: Annotated[Method, typer.Option(help="How the pose is found.")] = Method.DIRECT
    init: Annotated[str, typer.Option(help="Start: center, or a pose (.json, .tfm, .h5).", metavar="center|POSE")] = "center"
    labels: Annotated[
        str | None, typer.Option(help="Register these structures of a label map only.", metavar="LABELMAP:NAME,...")
    ] = None
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID, where a folder holds several.", metavar="UID")] = None
    unit: Annotated[Unit | None, typer.Option(help="The volume's numbers, where they do not tell.")] = None
    search_degrees: Annotated[
        float | None, typer.Option(help="Searched about the start, either way [center: 20, a pose: 15].", metavar="DEG")
    ] = None
    search_mm: Annotated[
        float | None, typer.Option(help="Searched about the start, either way [center: 35, a pose: 15].", metavar="MM")
    ] = None
    starts: Annotated[int | None, typer.Option(help="Poses tried at the coarsest level; 1: the given one alone.")] = None
    seed: Annotated[int, typer.Option(help="Of whatever is random.")] = 0
    trust: Annotated[float, typer.Option(help="Probability of success from which a result is trusted.")] = 0.6
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False


@command(RegisterFlags)
def register(flags: RegisterFlags) -> int:
    """Find the pose of VOLUME under which it explains the XRAYs.

    Exit code 0: done; 1: the input is wrong (one line says what, and how to mend it); 2: usage; 3: finished, but the result
    is not to be trusted.
    """
    _check(flags)
    with staged(flags.out) as folder, progress(quiet=flags.json) as tell:
        result, about = _registered(flags, folder, tell)
    if flags.json:
        print(json.dumps(result_dict(result, about), separators=(",", ":"), allow_nan=False))
    else:
        print("\n".join(summary(result, flags.out)))
    if not result.confidence.trusted:
        complain(distrust(result))
        return NOT_TRUSTED
    return DONE


def _check(flags: RegisterFlags) -> None:
    """Refuse what can be refused before anything is loaded."""
    landmarks = flags.init.lower().endswith((".mrk.json", ".fcsv", ".csv")) or Path(flags.init).stem == "landmarks"
    if flags.init == "search" or landmarks:
        raise InputError(
            "this version cannot start from a search of all poses or from landmarks",
            field=f"--init {flags.init}",
            remedy="use --init center, or a rough pose as .json or .tfm",
        )
    if flags.seed < 0:
        raise InputError(f"{flags.seed} is negative", field="--seed", remedy="give 0, 1, 2, ...")
    if not 0 <= flags.trust <= 1:
        raise InputError(f"{flags.trust} is no probability", field="--trust", remedy="give 0 to 1")
    if flags.starts is not None and not 1 <= flags.starts <= 100_000:
        raise InputError(f"{flags.starts} starts", field="--starts", remedy="give 1 to 100000")
    for name, value, most in (("--search-degrees", flags.search_degrees, 180), ("--search-mm", flags.search_mm, 1000)):
        if value is not None and not 0 <= value <= most:
            raise InputError(f"{value:g} is out of range", field=name, remedy=f"give 0 to {most}")


def _registered(flags: RegisterFlags, folder: Path, tell: Any) -> tuple[Result, About]:
    """Read, register, and write everything into ``folder``."""
    load("raylign.registration", "raylign.io.dicom", "raylign.io.xray_dicom", "pydicom")
    from raylign.io import read_volume, read_xray
    from raylign.registration import Problem, centred

    options = exposure_options(flags, len(flags.xrays))
    tell("reading the X-rays", 0.0)
    xrays = tuple(read_xray(path, option) for path, option in zip(flags.xrays, options, strict=True))
    given = None if flags.init == "center" else _pose(flags.init)
    tell("reading the volume", 0.05)
    volume = read_volume(flags.volume, series=flags.series, unit=None if flags.unit is None else flags.unit.value)
    # the start "center" is that of the whole volume: where a structure lies in it is not what the C-arm was aimed at
    start = centred(volume) if given is None else given
    model = volume if flags.labels is None else _structure(volume, flags.labels)
    chosen = _registrar(flags, given is not None, lambda stage, share: tell(stage, 0.2 + 0.6 * share))
    problem = Problem(model, xrays, start)
    try:
        result = chosen.register(problem)
    except InputError as error:  # it knows the model and the exposures, but not the files that they came from
        raise error.at(flags.volume if error.field in ("volume", "unit", "data") else ", ".join(map(str, flags.xrays))) from None
    tell("writing the report", 0.85)
    about = about_inputs(flags.volume, volume, flags.xrays, xrays, command_line())
    if flags.labels is not None:
        about = replace(about, inputs={**about.inputs, "labels": flags.labels}, words={**about.words, "Structures": flags.labels})
    about = replace(about, inputs={**about.inputs, "init": flags.init}, words={**about.words, "Start": flags.init})
    write_outputs(folder, problem, result, about)
    return result, about


def _pose(path: str) -> Rigid:
    from raylign.io import read_pose

    return read_pose(path)


def _structure(volume: Volume, text: str) -> Volume:
    """The volume restricted to ``LABELMAP:NAME,...``."""
    from raylign.data import restricted
    from raylign.io import read_labels

    path, colon, names = text.rpartition(":")
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not colon or not path or not chosen:
        raise InputError(f"{text!r} names no structure", field="--labels", remedy="give LABELMAP:NAME,NAME")
    try:
        return restricted(volume, read_labels(path), chosen)
    except InputError as error:
        raise error.at(path) from None


def _registrar(flags: RegisterFlags, near: bool, tell: Any) -> Registrar:
    from raylign.registration import SearchConfig, registrar
    from raylign.registration.register import NEAR

    search: SearchConfig = NEAR if near else SearchConfig()
    if flags.search_degrees is not None:
        search = replace(search, degrees=flags.search_degrees)
    if flags.search_mm is not None:
        search = replace(search, mm=flags.search_mm)
    if flags.starts is not None:
        search = replace(search, hypotheses=flags.starts)
    return _trusting(registrar(flags.method.value, search=search, seed=flags.seed, progress=tell), flags.trust)


def _trusting(chosen: Any, trust: float) -> Registrar:
    """The registrar with another threshold of trust; of a pipeline the last stage judges."""
    from raylign.registration import Pipeline

    if isinstance(chosen, Pipeline):
        return Pipeline((*chosen.stages[:-1], _trusting(chosen.stages[-1], trust)))
    return replace(chosen, config=replace(chosen.config, trust=trust))


def command_line() -> str:
    """What was typed."""
    return shlex.join(["raylign", *sys.argv[1:]])


def about_inputs(path: Path, volume: Volume, files: Sequence[Path], xrays: Sequence[XRay], command: str) -> About:
    """The inputs in numbers, for ``result.json``, and in words, for the report."""
    columns, rows, slices = volume.data.shape[::-1]
    spacing = [round(s, 6) for s in volume.spacing]
    pitch = " x ".join(f"{s:.4g}" for s in spacing)
    inputs: dict[str, Any] = {
        "volume": {"path": str(path.absolute()), "size": [columns, rows, slices], "spacing": spacing, "unit": volume.unit},
        "xrays": [],
    }
    words = {"Volume": f"{path}: {columns} x {rows} x {slices} voxels of {pitch} mm, {volume.unit}"}
    for i, (file, xray) in enumerate(zip(files, xrays, strict=True)):
        h, w = xray.view.shape
        pixels = [round(s, 6) for s in xray.view.pixel_spacing]
        valid = float(xray.mask.float().mean())
        inputs["xrays"].append(
            {
                "path": str(file.absolute()),
                "size": [w, h],
                "pixel_spacing": pixels,
                "scale": xray.scale,
                "valid_fraction": round(valid, 4),
                "view": xray.view.to_dict(),
            }
        )
        name = "X-ray" if len(xrays) == 1 else f"X-ray {i + 1}"
        words[name] = f"{file}: {w} x {h} pixels of {pixels[1]:.4g} x {pixels[0]:.4g} mm, {100 * valid:.0f} % valid"
    return About(command, inputs, words)


def summary(result: Result, out: Path) -> list[str]:
    """What the terminal shows of a result."""
    degrees, mm = result.moved
    rotation, translation = (", ".join(f"{x:.2g}" for x in sd.tolist()) for sd in result.standard_deviations)
    return [
        f"registered ({result.method}) in {result.seconds:.2f} s, {degrees:.1f} degrees and {mm:.1f} mm from the start",
        f"probability {result.confidence.probability:.2f}; one standard deviation: {rotation} degrees, {translation} mm"
        " about and along L, P, S",
        *(str(out / name) for name in (REPORT, OVERLAY, POSE, RESULT)),
    ]


def distrust(result: Result) -> str:
    """One sentence on a result that is not to be trusted."""
    why = "; ".join(result.confidence.reasons)
    told = f"the result is not to be trusted (probability {result.confidence.probability:.2f})"
    return f"{told}: {why}" if why else f"{told}: look at {OVERLAY} before you use it"
