"""What every command shares with the terminal: flags, one line for an error, interruption, progress."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import typer

from raylign.errors import InputError

Flags = TypeVar("Flags")
Tell = Callable[[str, float], None]

DONE, WRONG_INPUT, NOT_TRUSTED = 0, 1, 3  # 2 is wrong usage, which typer answers
INTERRUPTED = "interrupted; nothing was written"

_interruption = threading.Event()


def complain(line: str) -> None:
    """One line on stderr, that of the command."""
    print(f"raylign: {line}", file=sys.stderr, flush=True)


def command(flags: type[Flags]) -> Callable[[Callable[[Flags], int]], Callable[..., None]]:
    """A typer command whose options are the fields of a frozen dataclass, each annotated as typer wants it.

    The function gets one such record and gives the exit code. InputError becomes one line on stderr and exit code 1, and so does
    an interruption.
    """

    def decorate(function: Callable[[Flags], int]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            try:
                code = function(flags(**values))
            except InputError as error:
                complain(INTERRUPTED if _interruption.is_set() else str(error))
                code = WRONG_INPUT
            except KeyboardInterrupt:
                complain(INTERRUPTED)
                code = WRONG_INPUT
            except BrokenPipeError:  # whoever read stdout has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                code = DONE
            except Exception:
                if not _interruption.is_set():
                    raise
                # a library that is interrupted while it loads or calls back may well raise something else
                complain(INTERRUPTED)
                code = WRONG_INPUT
            raise typer.Exit(code)

        hints = get_type_hints(flags, include_extras=True)
        described: Any = run
        described.__signature__ = inspect.Signature(
            [
                inspect.Parameter(
                    f.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if f.default is MISSING else f.default,
                    annotation=hints[f.name],
                )
                for f in fields(flags)  # type: ignore[arg-type]
            ]
        )
        run.__annotations__ = {f.name: hints[f.name] for f in fields(flags)}  # type: ignore[arg-type]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        return run

    return decorate


def catch_interruption() -> None:
    """Let Ctrl-C and SIGTERM end a command cleaned up, with its one line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(*_: object) -> None:
    _interruption.set()
    sys.unraisablehook = lambda _: None  # where it cannot be passed on (a destructor), Python would print it
    raise KeyboardInterrupt


def check_interruption() -> None:
    """Raise KeyboardInterrupt where one was swallowed on its way, by a library that was loading say."""
    if _interruption.is_set():
        raise KeyboardInterrupt


def load(*modules: str) -> None:
    """Import what a command is about to use, with interruptions held back: torch cut off while it loads aborts the process."""
    with uninterrupted():
        for module in modules:
            importlib.import_module(module)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM; they are delivered at the end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Tell]:
    """A function to call with (stage, share done): a bar on stderr where that is a terminal, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, share: check_interruption()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        def tell(stage: str, share: float) -> None:
            check_interruption()
            bar.update(task, description=stage, completed=share)

        yield tell


@contextmanager
def told() -> Iterator[Tell]:
    """Progress of long work: a bar on a terminal; where there is none, a line whenever another hundredth is done."""
    with progress() as bar:
        shown = -1

        def tell(stage: str, share: float) -> None:
            nonlocal shown
            bar(stage, share)
            if not sys.stderr.isatty() and int(100 * share) > shown:
                shown = int(100 * share)
                print(f"{shown:3d} % {stage}", file=sys.stderr, flush=True)

        yield tell
