"""Data sets on disk: made by several processes, broken off and gone on with, the same bytes whatever the number of processes."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from raylign._version import __version__
from raylign.errors import InputError
from raylign.io.atomic import write_text
from raylign.simulation.datasets.plan import Plan
from raylign.simulation.datasets.recipes import SCHEMA, Recipe
from raylign.simulation.datasets.shards import INDEX
from raylign.simulation.datasets.units import MAKING, TRUTH, Unit, finished, make_unit, units

Tell = Callable[[int, int], None]
"""Called with the cases that are there, and how many there will be."""

_LOCK = ".lock"
_HEADER = 3000.0  # bytes of one exposure besides its pixels
_SCAN = 8e6  # bytes of a compressed scan, about


@dataclass(frozen=True)
class Made:
    """What there is at the end: cases, exposures, subjects, bytes, and how many of the cases were there before."""

    cases: int
    exposures: int
    subjects: int
    bytes: int
    kept: int


class _Stopped(Exception):
    """The run is to end between two batches."""


def make_dataset(recipe: Recipe, folder: str | Path, *, workers: int = 1, tell: Tell | None = None) -> Made:
    """Make a data set, or go on with one.

    Parameters
    ----------
    recipe: what it is made of.
    folder: where; new, empty, or with a part of this same data set, which is kept.
    workers: processes, each with one thread. 1 works in this process.
    tell: progress.

    Raises
    ------
    InputError: another data set or other files lie there, another process is writing there, too little space, a worker that died;
        whatever making a subject raises.
    KeyboardInterrupt: after the workers have ended; what is finished is kept.
    """
    if workers < 1:
        raise InputError(f"{workers} processes", field="workers", remedy="give 1 or more")
    plan, target = Plan(recipe), Path(folder)
    every = units(plan)
    _prepared(recipe, target)
    with _locked(target):
        _swept(target)
        missing = [unit for unit in every if not finished(plan, unit, target)]
        _enough_space(plan, missing, target)
        _write_index(plan, every, target, complete=not missing)
        total = sum(map(len, every))
        kept = total - sum(map(len, missing))
        say = tell or (lambda done, all: None)
        say(kept, total)
        if workers == 1 or len(missing) < 2:
            _alone(plan, missing, target, lambda done: say(kept + done, total))
        else:
            _together(recipe, missing, target, min(workers, len(missing)), lambda done: say(kept + done, total))
        _write_index(plan, every, target, complete=True)
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    entries = {k for unit in every for k in unit.entries}
    return Made(total, total * plan.targets.views_per_case, len(entries), size, kept)


# -- one process or several ------------------------------------------------------------------------------------------------


def _alone(plan: Plan, missing: list[Unit], target: Path, say: Callable[[int], None]) -> None:
    import torch

    done = 0

    def count(cases: int) -> None:
        nonlocal done
        done += cases
        say(done)

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: sums in torch may depend on how they are divided among threads
    try:
        for unit in missing:
            make_unit(plan, unit, target, count)
    finally:
        torch.set_num_threads(before)


def _together(recipe: Recipe, missing: list[Unit], target: Path, workers: int, say: Callable[[int], None]) -> None:
    failure: InputError | None = None
    try:
        _shared_out(recipe, missing, target, workers, say)
    except BrokenProcessPool:
        failure = InputError(
            "a worker process died, perhaps for want of memory", field="workers", remedy="run it again with fewer workers"
        )
    except InputError as error:
        failure = error.with_traceback(None)
    if failure is not None:  # raised here, where nothing holds the pool any more: its semaphores go before the process does
        gc.collect()
        raise failure


def _shared_out(recipe: Recipe, missing: list[Unit], target: Path, workers: int, say: Callable[[int], None]) -> None:
    context = multiprocessing.get_context("spawn")
    stop, done = context.Event(), context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(stop, done))
    try:
        waiting: set[Future[None]] = {pool.submit(_work, recipe, unit, str(target)) for unit in missing}
        while waiting:
            ready, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
            for future in ready:
                future.result()
            say(done.value)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


_stop: Any = None
_done: Any = None


def _begin(stop: Any, done: Any) -> None:
    """What a worker process does first."""
    global _stop, _done
    _stop, _done = stop, done
    import torch

    os.environ["RAYLIGN_THREADS"] = "1"
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the first one decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # nobody is left to hand results to

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=1)
def _plan(recipe_text: str) -> Plan:
    from raylign.simulation.datasets.typed import typed

    return Plan(typed(Recipe, json.loads(recipe_text), ""))


def _work(recipe: Recipe, unit: Unit, folder: str) -> None:
    """One unit, in a worker process."""

    def count(cases: int) -> None:
        with _done.get_lock():
            _done.value += cases
        if _stop.is_set():
            raise _Stopped

    if _stop.is_set():
        return
    with suppress(_Stopped):
        make_unit(_plan(json.dumps(recipe.to_dict())), unit, Path(folder), count)


# -- the folder ------------------------------------------------------------------------------------------------------------


def _prepared(recipe: Recipe, target: Path) -> None:
    """Make the folder, or see that what lies in it is part of this data set."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        others = [p.name for p in target.iterdir() if not p.name.startswith(MAKING) and p.name != _LOCK and not _unfinished(p)]
    except FileExistsError:
        raise InputError("is a file, not a folder", file=target, field="--out", remedy="name a folder") from None
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror})", file=target, field="--out", remedy="name another folder") from None
    if INDEX not in others:
        if others:
            raise InputError(
                f"holds {others[0]} and no {INDEX}: it is no data set", file=target, field="--out", remedy="name a new folder"
            )
        return
    try:
        said = json.loads((target / INDEX).read_text(encoding="utf-8"))
        known = (said["schema"], said["fingerprint"], said["versions"]["raylign"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError("cannot be read", file=target / INDEX, remedy="name a new folder") from None
    if known[1] != recipe.fingerprint():
        field = _difference(said.get("recipe", {}), recipe.to_dict())
        raise InputError(
            f"holds a data set of another recipe: {field} differs", file=target, field="--out", remedy="name a new folder"
        )
    before = said.get("recipe", {}).get("count", 0)
    if recipe.count < before:
        raise InputError(
            f"holds {before} cases, more than the {recipe.count} asked for",
            file=target,
            field="--count",
            remedy="ask for as many or more, or name a new folder",
        )
    if known[::2] != (SCHEMA, __version__):
        raise InputError(
            f"holds a data set of raylign {known[2]}, this is {__version__}",
            file=target,
            field="--out",
            remedy="name a new folder: its exposures would not be alike",
        )


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [n for n in now if n != "count" and before.get(n) != now[n]]
    return names[0] if names else "something"


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock however the process ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with (target / _LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                "another process is writing there", file=target, field="--out", remedy="let it end, or name another folder"
            ) from None
        try:
            yield
        finally:
            with suppress(OSError):
                (target / _LOCK).unlink()


def _unfinished(path: Path) -> bool:
    """Whether a file is one that a killed run was writing: named after what it was to become, behind a dot."""
    return path.is_file() and re.match(r"\.(index\.json|(train|validation|test)-\d{6}\.\w+)\.", path.name) is not None


def _swept(target: Path) -> None:
    """Remove what a run that was killed left unfinished."""
    for path in [*(p for p in target.glob(".*") if _unfinished(p)), *(target / "subjects").glob(".*.nii.gz")]:
        path.unlink(missing_ok=True)
    for place in target.glob(f"{MAKING}*"):
        shutil.rmtree(place, ignore_errors=True)


def _enough_space(plan: Plan, missing: list[Unit], target: Path) -> None:
    recipe, (h, w) = plan.recipe, plan.targets.carm.shape
    exposures = sum(map(len, missing)) * plan.targets.views_per_case
    pixel = 2.0 if recipe.output.format == "dicom" or recipe.output.pixels == "png16" else 4.0
    if recipe.output.format == "shards":
        pixel += 2.0 * len(recipe.segments)
    need = exposures * (pixel * h * w + _HEADER)
    if recipe.output.format == "dicom" or recipe.output.volumes:
        need += _SCAN * len({k for unit in missing for k in unit.entries})
    free = shutil.disk_usage(target).free
    if need > free:
        raise InputError(
            f"about {need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free",
            file=target,
            field="--out",
            remedy="free space, or give a smaller --count",
        )


def _write_index(plan: Plan, every: list[Unit], target: Path, complete: bool) -> None:
    """What the data set is, where it came from and which files it consists of."""
    import numpy
    import torch

    recipe, each = plan.recipe, plan.targets.views_per_case
    suffix = ".tar" if recipe.output.format == "shards" else f"/{TRUTH}"
    shown = {k: unit.part for unit in every for k in unit.entries}
    said = {
        "schema": SCHEMA,
        "name": recipe.name,
        "complete": complete,
        "fingerprint": recipe.fingerprint(),
        "versions": {"raylign": __version__, "torch": torch.__version__, "numpy": numpy.__version__},
        "recipe": recipe.to_dict(),
        "cases": sum(map(len, every)),
        "exposures": sum(map(len, every)) * each,
        "sources": sorted({s.source or f"phantom {s.phantom}, made by raylign" for s in recipe.subjects}),
        "subjects": [{"name": plan.roster[k].name, "id": plan.roster[k].id, "part": shown[k]} for k in sorted(shown)],
        "units": [{"file": unit.name + suffix, "part": unit.part, "cases": len(unit)} for unit in every],
    }
    write_text(target / INDEX, json.dumps(said, indent=1, allow_nan=False) + "\n")
