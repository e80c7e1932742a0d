"""The commands put together. Importing this loads no torch: ``raylign --help`` answers at once."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from raylign._version import __version__
from raylign.cli import (
    bench,
    convert,
    demo,
    evaluate,
    info,
    motion,
    objects,
    project,
    register,
    reproduce,
    simulate,
    track,
    train,
)
from raylign.cli.console import INTERRUPTED, WRONG_INPUT, catch_interruption, complain

app = typer.Typer(
    name="raylign",
    help="Registers preoperative 3D models to intraoperative X-rays, and says how sure it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("info")(info.info)
app.command("project")(project.project)
app.command("register")(register.register)
app.command("objects")(objects.objects)
app.command("motion")(motion.motion)
app.command("track")(track.track)
app.command("convert")(convert.convert)
app.command("simulate")(simulate.simulate)
app.command("train")(train.train)
app.command("bench")(bench.bench)
app.command("evaluate")(evaluate.evaluate)
app.command("reproduce")(reproduce.reproduce)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"raylign {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")] = False,
) -> None:
    pass


def run() -> None:
    """Run the command line and exit: 0 done, 1 the input is wrong or it was interrupted, 2 wrong usage, 3 not to be trusted."""
    catch_interruption()
    try:
        app(prog_name="raylign")
    except KeyboardInterrupt:
        complain(INTERRUPTED)
        _leave(WRONG_INPUT)
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))


def _leave(code: int) -> None:
    """End the process now: everything is written, and taking torch apart module by module would take most of a second."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it may have gone
            stream.flush()
    os._exit(code)
