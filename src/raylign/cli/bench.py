"""``raylign bench``: the projector beside other packages, and registrars side by side."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.cli.console import DONE, command, load, progress
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.bench import registration
    from raylign.bench.cases import Plan

_PEERS = "nanodrr,diffdrr,rtk,plastimatch"
_MODELS = ("trilinear", "joseph", "siddon")
_PROJECTOR, _REGISTRATION = "Projector", "Registration"
_SIZES, _BATCHES, _WHATS = "128,200,512,1024", "1,8,64", "forward,forward+pose,forward+volume,double-backward"


class Subject(StrEnum):
    """What can be measured."""

    projector = "projector"
    registration = "registration"


def _projector(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=_PROJECTOR)


def _registration(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=_REGISTRATION)


@dataclass(frozen=True, kw_only=True)
class BenchFlags:
    """Options of ``raylign bench``."""

    subject: Annotated[Subject, typer.Argument(help="What is measured.", show_default=False)]
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object in place of the table.")] = False
    peers: Annotated[str, _projector("Packages beside raylign, or none.", "NAMES")] = _PEERS
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for projector.json and projector.png; also measures how cost grows.",
            rich_help_panel=_PROJECTOR,
        ),
    ] = None
    sizes: Annotated[str, _projector("Pixels along an edge of the square images.", "N,...")] = _SIZES
    batches: Annotated[str, _projector("Images rendered in one call.", "N,...")] = _BATCHES
    what: Annotated[str, _projector("What is computed.", "NAMES")] = _WHATS
    volume: Annotated[int, _projector("Voxels along an edge of the cube of 256 mm.", "N")] = 256
    error: Annotated[
        float | None, _projector("Relative RMS error that every setting must reach; that of RTK's Joseph projector if not given.")
    ] = None
    model: Annotated[str, _projector("raylign's: trilinear, joseph, siddon or the cheapest.", "NAME")] = "cheapest"
    seconds: Annotated[float, _projector("A row of which one call takes longer is left out.", "S")] = 12.0
    device: Annotated[str, _projector("cpu or cuda; RTK and plastimatch stay on the CPU.")] = "cpu"
    peer_python: Annotated[
        Path | None, _projector("Interpreter of another environment, in which peers are looked for first.")
    ] = None
    methods: Annotated[str, _registration("Methods side by side, as raylign register names them.", "NAMES")] = "direct,cmaes,xreg"
    cases: Annotated[int, _registration("Exposures that every method registers.", "N")] = 12
    start: Annotated[
        str,
        _registration(
            "Where they start: center, search, near, 0-60mm (mTRE), 30,15 (mm, degrees) or a named distribution.", "START"
        ),
    ] = "center"
    data: Annotated[Path | None, _registration("Folder with ct and cases, in place of made patients.", "DIR")] = None
    bodies: Annotated[str, _registration("Made patients, in turn: thorax, pelvis, lumbar, heart, femur, aorta.", "NAMES")] = (
        "thorax,pelvis,lumbar"
    )
    seed: Annotated[int, _registration("Of patients, exposures, starts and methods.", "N")] = 0


@command(BenchFlags)
def bench(flags: BenchFlags) -> int:
    """Measure the projector beside other packages at equal error, or registration methods on equal cases and starts."""
    if flags.subject is Subject.registration:
        return _compare_registrars(flags)
    plan = _plan(flags)
    load("raylign.bench.measure", "raylign.bench.report")
    from raylign.bench import measure, report
    from raylign.bench.process import Failed

    with progress() as tell:
        try:
            outcome = measure.compare(plan, _saying(tell), scaling=flags.output is not None)
        except Failed as error:
            raise InputError(f"raylign's own projector could not be measured ({error})", field="bench") from None
    if flags.output is not None:
        for path in report.write(outcome, plan, flags.output):
            print(path, file=sys.stderr)
    if flags.as_json:
        print(json.dumps(report.as_dict(outcome, plan)))
    else:
        from rich.console import Console

        report.show(outcome, plan, Console(width=max(120, shutil.get_terminal_size().columns), soft_wrap=True))
    return DONE


def _saying(tell: Any) -> Any:
    """Progress as a bar on a terminal, as lines elsewhere."""
    bar = sys.stderr.isatty()

    def say(stage: str, share: float) -> None:
        tell(stage, share)
        if not bar:
            print(f"raylign bench: {100 * share:3.0f} % {stage}", file=sys.stderr, flush=True)

    return say


def _compare_registrars(flags: BenchFlags) -> int:
    """``raylign bench registration``."""
    load("raylign.registration", "raylign.bench.registration", "raylign.bench.report")
    from raylign.bench import registration, report
    from raylign.cli.warm import warm_kernels

    plan = _registration_plan(flags)
    with progress() as tell:
        say = _saying(tell)
        say("loading the kernels", 0.0)
        warm_kernels()
        attempts = registration.compare(plan, say)
    if flags.as_json:
        print(json.dumps(registration.as_dict(attempts, plan, report.machine("cpu"))))
    else:
        print("\n".join(registration.table(attempts, plan)))
    return DONE


def _registration_plan(flags: BenchFlags) -> registration.Plan:
    from raylign.bench.registration import Plan
    from raylign.bench.registration_cases import Start

    if flags.data is not None and not flags.data.is_dir():
        raise InputError("is no folder", file=flags.data, field="--data", remedy="name the folder that holds ct and cases")
    methods = tuple(dict.fromkeys(word.strip() for word in flags.methods.split(",") if word.strip()))
    bodies = tuple(dict.fromkeys(word.strip() for word in flags.bodies.split(",") if word.strip()))
    return Plan(methods, flags.cases, Start(flags.start), flags.seed, flags.data, bodies)


def _plan(flags: BenchFlags) -> Plan:
    """The options checked before anything is loaded that takes long."""
    values = {
        "sizes": _numbers(flags.sizes, "--sizes", 4, 8192),
        "batches": _numbers(flags.batches, "--batches", 1, 4096),
        "whats": _names(flags.what, "--what", _WHATS),
        "peers": () if flags.peers.strip() in ("", "none") else _names(flags.peers, "--peers", _PEERS),
        "seconds": _positive(flags.seconds, "--seconds"),
        "error": None if flags.error is None else _positive(flags.error, "--error"),
    }
    if not 8 <= flags.volume <= 1024:
        raise InputError(f"{flags.volume} voxels an edge", field="--volume", remedy="give 8 to 1024")
    if flags.model not in ("cheapest", *_MODELS):
        raise InputError(f"no model {flags.model!r}", field="--model", remedy=f"use cheapest, {', '.join(_MODELS)}")
    python = None
    if flags.peer_python is not None:
        python = shutil.which(os.fspath(flags.peer_python))
        if python is None:
            raise InputError(
                "is no program that can be run", file=flags.peer_python, field="--peer-python", remedy="name a python"
            )
    if flags.output is not None and flags.output.exists() and not flags.output.is_dir():
        raise InputError("is a file", file=flags.output, field="--output", remedy="name a folder")
    if flags.device not in ("cpu", "cuda"):
        raise InputError(f"no device {flags.device!r}", field="--device", remedy="use cpu or cuda")
    if flags.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError(
                "PyTorch finds no CUDA device", field="--device", remedy="use cpu, or install a CUDA build of PyTorch"
            )
    from raylign.bench.cases import Plan

    model = None if flags.model == "cheapest" else flags.model
    return Plan(**values, voxels=flags.volume, model=model, device=flags.device, peer_python=python)  # type: ignore[arg-type]


def _numbers(text: str, field: str, least: int, most: int) -> tuple[int, ...]:
    try:
        numbers = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise InputError(f"{text!r} is no list of whole numbers", field=field, remedy="give e.g. 128,200") from None
    if not all(least <= n <= most for n in numbers):
        raise InputError(f"{text} is out of range", field=field, remedy=f"give {least} to {most}")
    return numbers


def _names(text: str, field: str, known: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    unknown = [name for name in names if name not in known.split(",")]
    if unknown:
        raise InputError(f"no {unknown[0]!r}", field=field, remedy=f"use {known}")
    return names


def _positive(number: float, field: str) -> float:
    if not 0 < number < float("inf"):
        raise InputError(f"{number:g} is not a positive number", field=field)
    return number
