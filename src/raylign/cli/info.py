"""``raylign info``: what a file or folder is, in plain words."""

from __future__ import annotations

import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raylign.cli.console import DONE, command, load
from raylign.cli.exposures import ExposureFlags, exposure_options

if TYPE_CHECKING:
    from raylign.io.describe import Description


@dataclass(frozen=True, kw_only=True)
class InfoFlags(ExposureFlags):
    """Options of ``raylign info``."""

    path: Annotated[Path, typer.Argument(metavar="FILE_OR_DIR", help="Any supported input.", show_default=False)]
    json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False


@command(InfoFlags)
def info(flags: InfoFlags) -> int:
    """Say what FILE_OR_DIR is: geometry and content of any supported input, in plain words."""
    load("raylign.io.describe")
    from raylign.io.describe import describe

    description = describe(flags.path, exposure_options(flags, 1)[0])
    if flags.json:
        print(json_format.dumps(description.to_dict(), indent=1, ensure_ascii=False))
    else:
        _print_table(description)
    return DONE


def _print_table(description: Description) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(description.title, style="bold"))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for what, value in description.rows:
        table.add_row(Text(what), Text(value))
    console.print(table)
    for warning in description.warnings:
        console.print(Text.assemble(("note: ", "yellow"), warning))
