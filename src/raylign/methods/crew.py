"""Training data that are made once and kept, a file a patient, by processes side by side."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from raylign.errors import InputError
from raylign.io.atomic import atomic_write

DAMAGED = (OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What reading a file of arrays raises that is not there, or damaged."""

_HELD_OUT = 990_000  # evaluation.subjects.HELD_OUT: from this seed on, made patients that nothing is trained on
_NAMES = ("OMP_NUM_THREADS", "RAYLIGN_THREADS")


def checked_parts(parts: Mapping[str, tuple[int, int]]) -> None:
    """First and last seeds of the parts train, validation and test.

    Raises
    ------
    InputError: ranges that are none, parts that share patients, training or validation on patients held out for evaluation.
    """
    ranges = sorted(parts.values())
    if any(not 0 <= a <= b for a, b in ranges):
        raise InputError("seeds are ranges [first, last] from 0", field="data")
    if any(after[0] <= before[1] for before, after in pairwise(ranges)):
        raise InputError(
            "a patient is in two of train, validation and test", field="data", remedy="give ranges that do not overlap"
        )
    if max(parts["train"][1], parts["validation"][1]) >= _HELD_OUT:
        raise InputError(
            f"patients from seed {_HELD_OUT} on are held out for evaluation", field="data",
            remedy=f"train and validate on seeds under {_HELD_OUT}",
        )  # fmt: skip


def noted(folder: Path, fingerprint: str, settings: Mapping[str, Any]) -> None:
    """Note in ``pool.json`` what a folder of data is of, or see that it is of the same.

    Raises
    ------
    InputError: it holds data of other settings.
    """
    about = folder / "pool.json"
    if not about.exists():
        with atomic_write(about) as temporary:
            temporary.write_text(json.dumps({"fingerprint": fingerprint, **settings}, indent=1) + "\n", encoding="utf-8")
        return
    try:
        known = json.loads(about.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot be read ({error})", file=about, remedy="name another folder with --pool") from None
    if known != fingerprint:
        raise InputError("is a pool of other settings", file=folder, remedy="name another folder with --pool")


def done_by(work: Callable[..., None], tasks: Sequence[tuple[Any, ...]], workers: int) -> Iterator[None]:
    """``work(*task)`` of every task, in as many processes; yields after each. What was begun when it is broken off is dropped."""
    if workers <= 1 or len(tasks) < 2:
        for task in tasks:
            work(*task)
            yield
        return
    with one_thread(), ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn")) as crew:
        futures: list[Future[None]] = [crew.submit(work, *task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            crew.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes begun within it use one thread each: as many as there are processors are enough."""
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(dict.fromkeys(_NAMES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
