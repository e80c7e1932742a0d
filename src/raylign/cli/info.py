"""``raylign info``: what a file or folder is, in plain words."""

from __future__ import annotations

import json as json_format
from pathlib import Path

from raylign.io.describe import Description, describe
from raylign.io.options import ExposureOptions


def info(path: Path, json: bool = False, options: ExposureOptions | None = None) -> None:
    """Print what ``path`` is: a table, or JSON for machines.

    Parameters
    ----------
    path: any supported input.
    json: print one JSON object in place of the table.
    options: geometry of a picture and overrides.

    Raises
    ------
    InputError: nothing there, unsupported or broken.
    """
    description = describe(path, options or ExposureOptions())
    if json:
        print(json_format.dumps(description.to_dict(), indent=1, ensure_ascii=False))
    else:
        _print_table(description)


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
