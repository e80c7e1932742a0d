"""``raylign convert``: a pose in another package's terms."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raylign.cli.console import DONE, command, load
from raylign.cli.views import view_of
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.geometry import View

_TRANSFORMS = (".tfm", ".h5")


class Format(enum.StrEnum):
    """``raylign.geometry.convert.export.FORMATS``, known without loading them."""

    OPENCV = "opencv"
    ITK = "itk"
    SLICER = "slicer"
    XREG = "xreg"
    DEEPDRR = "deepdrr"
    DIFFDRR = "diffdrr"
    NANODRR = "nanodrr"
    RTK = "rtk"


@dataclass(frozen=True, kw_only=True)
class ConvertFlags:
    """Options of ``raylign convert``."""

    pose: Annotated[Path, typer.Argument(help="result.json, pose.json, or an ITK transform (.tfm, .h5).", show_default=False)]
    to: Annotated[Format, typer.Option(help="Whose terms.", show_default=False)]
    view: Annotated[
        Path | None,
        typer.Option(help="view.json, calibration or X-ray; a result.json of one X-ray brings its own; not for itk, slicer."),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .json file; .tfm or .h5 for itk and slicer; .xml for rtk [print the JSON]."),
    ] = None


@command(ConvertFlags)
def convert(flags: ConvertFlags) -> int:
    """Say POSE, and the view it belongs to, in another package's terms."""
    kind = _checked_suffix(flags)
    load("raylign.geometry.convert.export")

    from raylign.geometry.convert.export import export
    from raylign.io import read_pose
    from raylign.io.atomic import write_text
    from raylign.io.transforms import write_pose_itk

    pose = read_pose(flags.pose)
    view = _own_view(flags.pose) if flags.view is None else view_of(flags.view)
    said = export(view, pose, flags.to.value)
    text = said["xml"] if kind == ".xml" else json.dumps(said, indent=1) + "\n"
    if flags.output is None:
        print(text, end="")
    elif kind in _TRANSFORMS:
        write_pose_itk(pose, flags.output)
    else:
        write_text(flags.output, text)
    return DONE


def _checked_suffix(flags: ConvertFlags) -> str:
    if flags.output is None:
        return ".json"
    kind = flags.output.suffix.lower()
    possible = {Format.ITK: (".json", *_TRANSFORMS), Format.SLICER: (".json", *_TRANSFORMS), Format.RTK: (".json", ".xml")}
    kinds = possible.get(flags.to, (".json",))
    if kind not in kinds:
        raise InputError(
            f"{kind or 'no suffix'!r} is no file of {flags.to.value}",
            file=flags.output,
            field="--output",
            remedy=f"use {', '.join(kinds)}",
        )
    return kind


def _own_view(path: Path) -> View | None:
    """The view that a result.json of one X-ray holds."""
    from raylign.geometry import View
    from raylign.io.files import read_json, reading

    if path.suffix.lower() != ".json":
        return None
    with reading(path, "a pose"):
        inputs = read_json(path, "a pose").get("inputs")
        xrays = inputs.get("xrays") if isinstance(inputs, dict) else None
        if isinstance(xrays, list) and len(xrays) == 1 and "view" in xrays[0]:
            return View.from_dict(xrays[0]["view"])
    return None
