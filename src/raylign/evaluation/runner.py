"""An evaluation: every method on every case, in one process, in several or on a cluster; broken off at any time and gone on with.

A folder holds ``run.json`` (what is measured, with what), ``records.jsonl`` (a line for every registration, written through to
the disk as it is done) and, when all are there, the tables and the report. Cases depend on the seed and their index alone, so
that order, processes and interruptions change nothing in the tables, and cases and methods can be added later.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.errors import InputError
from raylign.evaluation import provenance
from raylign.evaluation.growth import difference, grows
from raylign.evaluation.record import RECORDS, Record, Records, latest, read_records, whole
from raylign.io.atomic import write_text

if TYPE_CHECKING:
    from raylign.evaluation.execution import Job, Work
    from raylign.evaluation.protocol import Protocol

SCHEMA = "raylign.evaluation/1"
RUN, LOCK = "run.json", ".lock"


@dataclass(frozen=True)
class RunSettings:
    """How a protocol is run.

    Parameters
    ----------
    seed, cases, methods: in place of the protocol's.
    data: the folder of scans and cases, for protocols that need one.
    workers: processes on this machine; 0 works in this one.
    dask: address of a scheduler, in place of processes of one's own.
    """

    seed: int | None = None
    cases: int | None = None
    methods: tuple[str, ...] | None = None
    data: Path | None = None
    workers: int = 0
    dask: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"{self.workers} processes", field="--workers", remedy="give 1 or more")


@dataclass(frozen=True)
class State:
    """How far a run is: registrations done, of how many, how many of them before it was gone on with, and the last one."""

    done: int
    total: int
    kept: int
    record: Record | None = None


Progress = Callable[[State], None]


def run(
    protocol: Protocol, out: str | Path, settings: RunSettings | None = None, progress: Progress | None = None
) -> list[Record]:
    """Run a protocol, or go on with a run of it.

    Parameters
    ----------
    out: folder; new, without an evaluation in it, or with a part of this very run, which is kept: fewer of its cases, fewer of
        its methods, or broken off.
    settings: see ``RunSettings``.

    Returns
    -------
    All records, by case and then in the order of methods.

    Raises
    ------
    InputError: a method, a structure or data that are not there, another run in the folder, another process at work there, a
        folder that cannot be written to, a cluster that cannot be used.
    KeyboardInterrupt: what is done is kept.
    """
    from raylign.evaluation.names import check_names

    settings = settings or RunSettings()
    protocol, target, say = settled(protocol, settings), Path(out), progress or (lambda state: None)
    told = about(protocol, settings)
    _compared(target, told)  # before anything is made
    if not (target / RUN).exists():
        check_names(protocol, None if told["data"] is None else Path(told["data"]["folder"]))
    _made(target)
    with _locked(target):
        _compared(target, told)
        if not (target / RUN).exists() or grows(read_run(target), told):
            write_text(target / RUN, json.dumps(told, indent=1, allow_nan=False) + "\n")
        _cut(target / RECORDS)
        records = latest(read_records(target)) if (target / RECORDS).exists() else {}
        wanted = [(index, method) for index in range(told["cases"]) for method in told["methods"]]
        lacking = {key for key in wanted if key not in records or records[key].of_the_machine}
        done = kept = len(wanted) - len(lacking)
        say(State(done, len(wanted), kept))
        if lacking:
            with _opened(target / RECORDS) as file, closing(_execute(protocol, told, settings, lacking)) as made:
                for record in made:
                    _append(file, record)
                    records[record.case, record.method] = record
                    done += 1
                    say(State(done, len(wanted), kept, record))
        return [records[key] for key in wanted]


def evaluate(
    protocol: Protocol, out: str | Path, settings: RunSettings | None = None, progress: Progress | None = None
) -> list[Record]:
    """``run``, and then ``table.csv``, ``table.json`` and ``report.html`` in the same folder; raises as ``run`` does."""
    from raylign.evaluation.study import write_report
    from raylign.evaluation.table import write_tables

    settings = settings or RunSettings()
    records, target = run(protocol, out, settings, progress), Path(out)
    if all(r.of_the_machine for r in records):
        raise InputError(
            records[0].failure, file=target / RECORDS, remedy="nothing was registered; mend it, the same command goes on"
        )
    told = read_run(target)
    write_tables(records, settled(protocol, settings), target)
    write_report(records, settled(protocol, settings), told, target)
    return records


def settled(protocol: Protocol, settings: RunSettings) -> Protocol:
    """The protocol with the settings in place of what it says.

    Raises
    ------
    InputError: a value out of range, an unknown method.
    """
    from raylign.evaluation.attempt import check_method

    changed = protocol.with_(seed=settings.seed, cases=settings.cases, methods=settings.methods)
    for method in changed.methods:
        check_method(method)
    return changed


def about(protocol: Protocol, settings: RunSettings) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises
    ------
    InputError: data that the protocol needs are not there.
    """
    from raylign.evaluation.cases import case_count
    from raylign.methods.named import digest, parsed

    data = _found(protocol, settings.data)
    return {
        "schema": SCHEMA,
        "protocol": protocol.model_dump(mode="json"),
        "seed": protocol.seed,
        "cases": case_count(protocol, data),
        "methods": list(protocol.methods),
        "weights": {method: digest(learned) for method in protocol.methods if (learned := parsed(method)) is not None},
        "versions": dict(provenance.versions()),
        "commit": provenance.commit(),
        "source": provenance.source(),
        "machine": provenance.machine(),
        "workers": settings.workers if settings.dask is None else "dask",
        "data": None
        if data is None
        else {"folder": str(data), "entries": provenance.listing(data, getattr(protocol.subjects, "file", None))},
    }


def _found(protocol: Protocol, given: Path | None) -> Path | None:
    """The folder of data, where the protocol needs one, with all scans that it names."""
    from raylign.evaluation.folders import scan_path
    from raylign.evaluation.subject_kinds import Scans
    from raylign.evaluation.subjects import needed

    kind = protocol.subjects
    if not kind.needs_data:
        return None
    data = needed(None if given is None else given.absolute(), "scans" if isinstance(kind, Scans) else "cases")
    if isinstance(kind, Scans):
        for scan in kind.scans:
            scan_path(data, scan.name)
    return data


def read_run(folder: str | Path) -> dict[str, Any]:
    """``run.json`` of a folder.

    Raises
    ------
    InputError: there is none, or it is not of an evaluation.
    """
    file = Path(folder) / RUN
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            raise ValueError(f"{told['schema']!r} is not {SCHEMA}")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, remedy="name the folder of an evaluation") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"is not of an evaluation ({error})", file=file, remedy="name the folder of an evaluation") from None
    return dict(told)


# -- the work --------------------------------------------------------------------------------------------------------------


def _execute(protocol: Protocol, told: dict[str, Any], settings: RunSettings, lacking: set[tuple[int, str]]) -> Records:
    from raylign.evaluation import execution

    data = None if told["data"] is None else told["data"]["folder"]
    work = execution.Work(protocol.model_dump_json(), told["seed"], data, execution.ours())
    cases = [(i, tuple(m for m in told["methods"] if (i, m) in lacking)) for i in sorted({i for i, _ in lacking})]
    most = 1 if settings.dask is None else execution.TOGETHER
    todo = execution.jobs(cases, lambda index: execution.called(work, index)[1], most)
    return _by(work, todo, settings)


def _by(work: Work, todo: list[Job], settings: RunSettings) -> Records:
    if settings.dask is not None:
        from raylign.evaluation.cluster import cluster

        return cluster(work, todo, settings.dask)
    if settings.workers > 0:
        from raylign.evaluation.local import processes
        from raylign.projection.threads import threads

        return processes(work, todo, settings.workers, max(1, threads() // settings.workers))
    from raylign.evaluation.execution import inline

    return inline(work, todo)


def _opened(file: Path) -> Any:
    try:
        return file.open("ab", buffering=0)  # nothing is held back that a full disk would refuse when it is closed
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", file=file, field="-o", remedy="name another folder") from None


def _append(file: Any, record: Record) -> None:
    rest = record.line().encode("utf-8") + b"\n"
    try:
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})", file=file.name, field="-o", remedy="free space; the same command goes on"
        ) from None


# -- the folder ------------------------------------------------------------------------------------------------------------


def _made(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError("is a file, not a folder", file=target, field="-o", remedy="name a folder") from None
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror})", file=target, field="-o", remedy="name another folder") from None


def _compared(target: Path, told: dict[str, Any]) -> None:
    """See that what lies in the folder is a part of this run."""
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError("is a file, not a folder", file=target, field="-o", remedy="name a folder")
    if not (target / RUN).exists():
        if (target / RECORDS).exists():
            raise InputError(f"holds {RECORDS} and no {RUN}", file=target, field="-o", remedy="name a new folder")
        return
    there = difference(read_run(target), told)
    if there is not None:
        raise InputError(f"holds another run: {there}", file=target, field="-o", remedy="name a new folder")


def _cut(file: Path) -> None:
    """Cut off a last line that was not written to its end."""
    try:
        with file.open("r+b") as handle:
            text = handle.read()
            if whole(text) < len(text):
                handle.truncate(whole(text))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", file=file, field="-o", remedy="name another folder") from None


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process at a time. The system lets go of the lock however its holder ends, so that none is ever left behind."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    path = target / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", file=path, field="-o", remedy="name another folder") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.fstat(handle).st_ino == path.stat().st_ino  # not one that another run just removed
        except OSError as error:
            # a file system without locks: that no two runs write there is then the user's to see to
            free = error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
            if not free and error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.ENOENT):
                raise InputError(f"cannot be locked ({error.strerror})", file=path, remedy="name another folder") from None
        if not free:
            who = os.pread(handle, 200, 0).decode(errors="replace").strip()
            raise InputError(
                f"another run is writing there{f' ({who})' if who else ''}", file=target, field="-o",
                remedy="let it end, or name another folder",
            )  # fmt: skip
        with suppress(OSError):  # a note for others, which a full disk may refuse
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
    finally:
        os.close(handle)
