"""``raylign evaluate``: methods on the cases of a protocol, in one command."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.cli.console import DONE, NOT_TRUSTED, WRONG_INPUT, command, complain, load, progress
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.evaluation.protocol import Protocol
    from raylign.evaluation.record import Record
    from raylign.evaluation.runner import RunSettings, State

_TABLE, _TABLE_JSON, _REPORT = "table.csv", "table.json", "report.html"
_EVERY = 10.0  # seconds between two lines of progress where there is no terminal


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Options of ``raylign evaluate``."""

    protocol: Annotated[
        str | None,
        typer.Argument(
            help="A shipped protocol (--list), a YAML file, or the folder of a run, whose protocol it takes.", show_default=False
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder of the run, new or to be gone on with; of what else is written.", show_default=False
        ),
    ] = None
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="In place of the protocol's; once for each. As raylign register names them, search+direct, or MODULE:FACTORY.",
            metavar="NAME",
        ),
    ] = None
    cases: Annotated[int | None, typer.Option(help="In place of the protocol's; of each arm.", metavar="N")] = None
    seed: Annotated[int | None, typer.Option(help="In place of the protocol's.", metavar="N")] = None
    data: Annotated[
        Path | None, typer.Option(help="Folder of scans and cases, for protocols that need one.", metavar="FOLDER")
    ] = None
    workers: Annotated[int | None, typer.Option(help="Processes on this machine; by default one for each core.", metavar="N")] = (
        None
    )
    dask: Annotated[
        str | None, typer.Option(help="Scheduler (or its file) of a Dask cluster that does the work instead.", metavar="ADDRESS")
    ] = None
    replay: Annotated[
        int | None, typer.Option(help="Register this one case again, and write the report of that.", metavar="CASE")
    ] = None
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Compare two runs, case by case.", metavar="A B", show_default=False)
    ] = None
    listed: Annotated[bool, typer.Option("--list", help="Say which protocols there are.")] = False


@command(EvaluateFlags)
def evaluate(flags: EvaluateFlags) -> int:
    """Measure methods by a PROTOCOL: table.csv, table.json and report.html in the folder of -o.

    Every case depends on the seed and its number alone: processes, clusters and interruptions change nothing in the tables. What
    was broken off, killed even, goes on where it was, by the same command.
    """
    if flags.listed:
        return _list()
    if flags.out is None:
        raise typer.BadParameter("name a folder: -o FOLDER")
    if flags.compare is not None:
        return _compare(flags.compare, flags.out)
    if flags.protocol is None:
        raise typer.BadParameter("name a PROTOCOL: one of --list, or a YAML file")
    load("raylign.registration", "pydantic")
    from raylign.evaluation.replay import protocol_of

    protocol, data = protocol_of(flags.protocol)
    given, out = replace(flags, data=flags.data or data), flags.out
    return _run(given, protocol, out) if flags.replay is None else _replay(given, protocol, out)


def _list() -> int:
    load("raylign.registration", "pydantic")
    from raylign.evaluation.protocol import shipped

    titles = shipped()
    wide = max(map(len, titles))
    for name, title in titles.items():
        print(f"{name:{wide}s}  {title}")
    return DONE


def _settings(flags: EvaluateFlags) -> RunSettings:
    from raylign.evaluation.runner import RunSettings
    from raylign.projection.threads import threads

    if flags.workers is not None and flags.workers < 1:
        raise InputError(f"{flags.workers} processes", field="--workers", remedy="give 1 or more")
    if flags.workers is not None and flags.dask is not None:
        raise InputError("the cluster has workers of its own", field="--workers", remedy="give --workers or --dask")
    methods = tuple(dict.fromkeys(flags.method)) if flags.method else None
    return RunSettings(flags.seed, flags.cases, methods, flags.data, flags.workers or threads(), flags.dask)


def _run(flags: EvaluateFlags, protocol: Protocol, out: Path) -> int:
    from raylign.evaluation.runner import evaluate as evaluate_protocol

    settings, began = _settings(flags), time.monotonic()
    try:
        with _estimated() as tell:
            records = evaluate_protocol(protocol, out, settings, tell)
    except KeyboardInterrupt:
        complain(f"interrupted; what is done stays in {out}, and the same command goes on from there")
        return WRONG_INPUT
    _say(records, protocol, out, time.monotonic() - began)
    return DONE


@contextmanager
def _estimated() -> Iterator[Callable[[State], None]]:
    """Progress with how long it will take yet, by the pace since the start; lines where there is no terminal."""
    with progress() as bar:
        began, said, lines = time.monotonic(), -_EVERY, not sys.stderr.isatty()

        def tell(state: State) -> None:
            nonlocal said
            now = time.monotonic()
            left = ""
            if state.done > state.kept:
                left = f", {_duration((now - began) / (state.done - state.kept) * (state.total - state.done))} left"
            words = f"{state.done} of {state.total} registrations{left}"
            bar(words, state.done / max(state.total, 1))
            if lines and (now - said >= _EVERY or state.done == state.total):
                print(f"raylign evaluate: {words}", file=sys.stderr, flush=True)
                said = now

        yield tell


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _say(records: list[Record], protocol: Protocol, out: Path, seconds: float) -> None:
    cases = len({r.case for r in records})
    print(f"{protocol.name}: {cases} cases, {len(records)} registrations, {_duration(seconds)}")
    for name in (_REPORT, _TABLE, _TABLE_JSON):
        print(out / name)
    lost = [r for r in records if r.of_the_machine]
    if lost:
        complain(f"{len(lost)} registrations did not take place ({lost[0].failure}); the same command tries them again")
    broke = [r for r in records if r.failure and not r.of_the_machine]
    if broke:
        first = broke[0]
        complain(
            f"methods broke off {len(broke)} times, counted as failures; first {first.method} on {first.name}: {first.failure}"
        )


def _compare(runs: tuple[Path, Path], out: Path) -> int:
    load("raylign.registration", "pydantic")
    from raylign.evaluation.comparison import compare

    print(compare(*runs, out))
    return DONE


def _replay(flags: EvaluateFlags, protocol: Protocol, out: Path) -> int:
    """``--replay CASE``: the usual files of ``raylign register``."""
    from raylign.cli.about import command_line, distrust, summary
    from raylign.cli.outputs import OUTPUTS, About, staged, write_outputs
    from raylign.cli.warm import warm_kernels
    from raylign.evaluation import Truth
    from raylign.evaluation.replay import replay
    from raylign.evaluation.runner import RUN, settled

    assert flags.replay is not None
    if (out / RUN).exists():
        raise InputError("is the folder of a run, whose report would be lost", file=out, field="-o", remedy="name another folder")
    settings = _settings(replace(flags, workers=1, dask=None))
    protocol = settled(protocol, settings)
    with staged(out, OUTPUTS) as folder, progress() as tell:
        tell("loading the kernels", 0.0)
        warm_kernels()
        tell(f"case {flags.replay}, {protocol.methods[0]}", 0.1)
        case, result = replay(protocol, flags.replay, data=flags.data)
        tell("writing the report", 0.85)
        inputs: dict[str, Any] = {
            "protocol": protocol.model_dump(mode="json"),
            "case": {"index": case.index, "name": case.name, "subject": case.subject, "arm": case.arm},
            "xrays": [{"name": x.name, "scale": x.scale, "view": x.view.to_dict()} for x in case.xrays],
        }
        words = {"Protocol": f"{protocol.name}, seed {protocol.seed}", "Case": f"{case.index}: {case.name}, arm {case.arm}"}
        about = About(command_line(), inputs, words, truth=Truth(case.pose, case.targets))
        write_outputs(folder, case.problem, result, about)
    print("\n".join(summary(result, out, [f"case {case.index}: {case.name}, {_off(case, result)}"])))
    if not result.confidence.trusted:
        complain(distrust(result))
        return NOT_TRUSTED
    return DONE


def _off(case: Any, result: Any) -> str:
    from raylign.evaluation.metrics import mrpd, mtre

    views = [x.view for x in case.xrays]
    both = [
        (float(mtre(p, case.pose, case.targets)), float(mrpd(p, case.pose, case.targets, views)))
        for p in (case.start, result.transform)
    ]
    return f"mTRE {both[0][0]:.2f} to {both[1][0]:.2f} mm, mRPD {both[0][1]:.2f} to {both[1][1]:.2f} mm"
