"""Jobs of an evaluation on an existing Dask cluster.

Every job is one task. Messages are small: the protocol, indices and a path go out, lines of numbers come back. Dask sends
functions by pickling their names; join clusters of your own only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raylign.errors import InputError
from raylign.evaluation.execution import SOURCE, Job, Work, died, loadable, one_torch_thread, ours, perform
from raylign.evaluation.record import Records, from_line, one_line

_PATIENCE = 15.0  # seconds in which a scheduler must answer
_one_at_a_time = threading.Lock()


def cluster(work: Work, todo: Sequence[Job], address: str) -> Records:
    """Records in the order in which they are done.

    A task whose worker dies is given to another one by the scheduler (three times by default, ``allowed-failures``). What that
    gives up is cut into single registrations, which are done at the end with nothing beside them; those of which as many workers
    die again are recorded as failures.

    Parameters
    ----------
    address: of the scheduler, or the file that it writes with ``--scheduler-file``.

    Raises
    ------
    InputError: no Dask, no scheduler at that address, no worker, or workers that would not give the same numbers: another
        raylign, NumPy, Numba, SciPy or PyTorch, several threads, a folder of data that they do not see.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError:
        raise InputError("Dask is not installed", field="--dask", remedy='pip install "raylign[dask]"') from None

    waiting: dict[Any, Job] = {}
    suspects: deque[Job] = deque()
    with _quiet():
        client = _connected(Client, address)

        def submit(job: Job) -> Any:
            # those that come first in the protocol first
            future = client.submit(remote, work.text(), job.text(), pure=False, priority=-job.cases[0][0])
            waiting[future] = job
            return future

        try:
            _check_workers(client, work)
            alone = False
            done = as_completed([submit(job) for job in todo], loop=client.loop)
            for future in done:
                job = waiting.pop(future)
                lines, error = _outcome(future, address)
                yield from map(from_line, lines)
                if isinstance(error, KilledWorker) and alone:
                    ((index, methods),) = job.cases
                    yield from died(work, index, methods, "each time it was tried")
                elif isinstance(error, KilledWorker):
                    suspects += job.apart()
                elif error is not None:
                    raise _broken(error)
                future.release()
                if not waiting and suspects:  # a task is blamed for its neighbours' deaths too: now nothing runs beside it
                    alone = True
                    done.add(submit(suspects.popleft()))
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be gone
                client.cancel(list(waiting), force=True)
            with contextlib.suppress(Exception):
                client.close(timeout=5)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask tells of lost connections with tracebacks on stderr; here they end in one line."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado", "asyncio")]
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _connected(client: Any, address: str) -> Any:
    try:
        where = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
        return client(**where, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address} ({one_line(error)})",
            field="--dask",
            remedy="give what `dask scheduler` prints, e.g. tcp://10.0.0.1:8786, or its scheduler file",
        ) from None


def _outcome(future: Any, address: str) -> tuple[list[str], BaseException | None]:
    """Lines of records, or what the task broke off with."""
    try:
        if future.status == "finished":
            return future.result(), None
        if future.status == "error":
            return [], future.exception()
    except Exception as error:
        if isinstance(error, InputError):
            raise
    raise InputError(  # cancelled, lost, or finished where nobody can fetch it
        f"the scheduler at {address} is gone", field="--dask", remedy="start it again; the same command goes on from here"
    )


def _broken(error: BaseException) -> InputError:
    if isinstance(error, InputError):
        return error
    return InputError(f"a worker cannot do its part ({one_line(error)})", field="--dask", remedy="see the worker's own output")


# -- at the workers --------------------------------------------------------------------------------------------------------


def remote(work_text: str, job_text: str) -> list[str]:
    """A job, in a worker of the cluster: lines of records.

    Raises
    ------
    InputError: this worker would not give the same numbers, or cannot load a method.
    """
    work, job, address = Work.of_text(work_text), Job.of_text(job_text), None
    with contextlib.suppress(ImportError, ValueError):  # called by hand there is none
        from distributed import get_worker

        address = get_worker().address
    complaint = None
    if address is not None:
        complaint = unlike(work, address, dict(ours()), work.data is None or Path(work.data).is_dir())
    if complaint is not None:
        raise complaint
    loadable(method for _, methods in job.cases for method in methods)
    os.environ.setdefault("RAYLIGN_THREADS", "1")  # there is a worker for each core
    with _one_at_a_time, one_torch_thread():
        return [record.line() for record in perform(work, job)]


def unlike(work: Work, address: str, versions: dict[str, str], sees_data: bool) -> InputError | None:
    """Why a worker may not take part, where it may not."""
    for name, version in work.versions:
        if name == SOURCE and versions.get(name) != version:
            return InputError(
                f"worker {address} has another source of raylign, of the same version number",
                field="--dask",
                remedy="install the same everywhere, and start workers again after a change",
            )
        if name != "python" and versions.get(name) != version:
            return InputError(
                f"worker {address} has {name} {versions.get(name)}, this is {version}",
                field="--dask",
                remedy="install the same versions everywhere: results of different ones do not belong into one table",
            )
    if not sees_data:
        return InputError(
            f"worker {address} does not see the folder {work.data}", field="--data", remedy="name one on a shared file system"
        )
    return None


def _check_workers(client: Any, work: Work) -> None:
    """Look at all workers that are there now; those that come later look at themselves."""
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError:
        raise InputError(
            "the scheduler has no workers", field="--dask", remedy="start some: dask worker ADDRESS --nthreads 1"
        ) from None
    data, names = work.data, [name for name, _ in work.versions if name not in ("python", "raylign", SOURCE)]

    # written out here, so that it is sent by value: a worker without raylign could not look it up. It loads nothing that takes
    # long, because it runs in the worker's event loop
    def look() -> Any:
        import importlib.metadata
        import os

        from raylign._version import __version__

        return [
            {"raylign": __version__, **{n: importlib.metadata.version(n) for n in names}},
            data is None or os.path.isdir(data),
        ]

    threads = {address: told["nthreads"] for address, told in client.scheduler_info(n_workers=-1)["workers"].items()}
    for address, count in threads.items():
        if count != 1:
            raise InputError(
                f"worker {address} runs {count} threads",
                field="--dask",
                remedy="start workers with --nthreads 1, as many as there are cores (--nworkers)",
            )
    try:
        found = client.run(look)
    except ModuleNotFoundError as error:
        raise InputError(
            f"a worker has no {error.name}", field="--dask", remedy="install the same raylign wherever workers run"
        ) from None
    except Exception as error:
        raise InputError(f"a worker does not answer ({one_line(error)})", field="--dask", remedy="see its own output") from None
    for address, (versions, sees_data) in found.items():
        said = {**dict(work.versions), **dict(versions)}  # of its source it tells with its first task
        complaint = unlike(work, address, said, sees_data)
        if complaint is not None:
            raise complaint
