"""``raylign motion``: how one bone moves against another, in anatomical terms."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.cli.console import DONE, command, load
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.geometry.joint_motion import JointState

_ANGLES = ("flexion", "ulnar_deviation", "pronation")
_AXES = ("palmar", "proximal", "right")


@dataclass(frozen=True, kw_only=True)
class MotionFlags:
    """Options of ``raylign motion``."""

    proximal: Annotated[
        list[Path], typer.Option(help="result.json of the proximal bone, once for each time.", show_default=False)
    ]
    distal: Annotated[list[Path], typer.Option(help="The same of the distal bone, at the same times.", show_default=False)]
    frames: Annotated[
        Path, typer.Option(help="JSON: side, and the frames of both bones (docs/rigs.md).", metavar="FILE", show_default=False)
    ]
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A .csv file [print the table].")] = None
    seed: Annotated[int, typer.Option(help="Of the poses that are drawn for the deviations.")] = 0


@command(MotionFlags)
def motion(flags: MotionFlags) -> int:
    """Joint angles, position and helical axis from registrations of two bones, with standard deviations, as a table."""
    if len(flags.proximal) != len(flags.distal):
        raise InputError(
            f"{len(flags.proximal)} proximal and {len(flags.distal)} distal poses",
            field="--distal",
            remedy="give one of each for every time, in the same order",
        )
    load("raylign.geometry.joint_motion")

    from raylign.geometry.joint_motion import joint_motion
    from raylign.io.anatomy_files import read_bone_pose, read_frames
    from raylign.io.atomic import write_text

    frames = read_frames(flags.frames)
    states = joint_motion(
        [read_bone_pose(p) for p in flags.proximal], [read_bone_pose(p) for p in flags.distal], frames, flags.seed
    )
    text = table(states)
    if flags.output is None:
        print(text, end="")
    else:
        write_text(flags.output, text)
    for frame, name in zip(frames, ("proximal", "distal"), strict=True):
        typer.echo(f"{name} frame: {frame.taken}", err=True)
    return DONE


def table(states: list[JointState]) -> str:
    """A line a time: angles, position, helical axis since the first."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(
        ["time"]
        + [f"{name}_deg" for name in _ANGLES]
        + [f"{name}_sd_deg" for name in _ANGLES]
        + [f"{name}_mm" for name in _AXES]
        + [f"{name}_sd_mm" for name in _AXES]
        + ["helical_deg", "helical_sd_deg", "helical_shift_mm"]
        + [f"axis_{name}" for name in _AXES]
        + [f"axis_at_{name}_mm" for name in _AXES]
    )
    for number, state in enumerate(states):
        numbers: list[Any] = [*vars(state.angles).values(), *vars(state.angles_sd).values()]
        numbers += [*state.position.tolist(), *state.position_sd.tolist(), state.degrees, state.degrees_sd, state.shift]
        numbers += [*state.direction.tolist(), *state.point.tolist()]
        rows.writerow([number, *(f"{value:.4f}" for value in numbers)])
    return out.getvalue()
