"""Runs on a Dask cluster: a scheduler and two workers as processes, of which one is killed in the middle."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from raylign.errors import InputError
from raylign.evaluation.cluster import remote, unlike
from raylign.evaluation.execution import SOURCE, Job, Work, ours
from raylign.evaluation.record import from_line
from raylign.evaluation.runner import RunSettings, State, run
from raylign.evaluation.table import write_tables
from tests.evaluation.runs import CASES, GUESS, ROOT, SLOW, _still, data, plain, tiny  # noqa: F401

pytest.importorskip("distributed")


def start(place: Path, *words: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dask", *map(str, words), "--no-dashboard"]
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dask")


@pytest.fixture(scope="module")
def scheduler(place: Path) -> Iterator[str]:
    """Address of a scheduler without workers."""
    import json

    file = place / "scheduler.json"
    process = start(place, "scheduler", "--host", "127.0.0.1", "--port", 0, "--scheduler-file", file)
    try:
        end = time.monotonic() + 120
        while not file.exists() or not file.read_text().strip():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"]
    finally:
        process.kill()
        process.wait()


def test_no_scheduler_and_no_workers(
    data: Path,  # noqa: F811
    tmp_path: Path,
    scheduler: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raylign.evaluation.cluster._PATIENCE", 0.5)
    with pytest.raises(InputError, match=r"--dask: no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run(tiny(tmp_path), tmp_path / "run", RunSettings(data=data, dask="tcp://127.0.0.1:9"))
    with pytest.raises(InputError, match="the scheduler has no workers; start some"):
        run(tiny(tmp_path), tmp_path / "run", RunSettings(data=data, dask=scheduler))


def test_a_cluster_of_which_one_worker_is_killed(data: Path, tmp_path: Path, scheduler: str, place: Path) -> None:  # noqa: F811
    workers = [start(place, "worker", scheduler, "--nthreads", 1, "--no-nanny", "--name", n) for n in range(2)]
    killed = threading.Event()

    def kill(state: State) -> None:
        if state.done >= 3:  # the first job is back, and the other worker at one
            workers[0].kill()
            killed.set()

    try:
        _both_there(scheduler, workers)
        protocol = tiny(tmp_path, SLOW, GUESS)
        file = str(place / "scheduler.json")  # the address is in it
        records = run(protocol, tmp_path / "cluster", RunSettings(data=data, dask=file), kill)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert killed.is_set() and len(records) == 2 * CASES
    assert {r.failure for r in records} == {""}
    alone = run(protocol, tmp_path / "alone", RunSettings(data=data))
    assert plain(records) == plain(alone)
    for found, name in ((records, "cluster"), (alone, "alone")):
        write_tables(found, protocol, tmp_path / name)
    for name in ("table.csv", "table.json"):
        assert (tmp_path / "cluster" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def _both_there(scheduler: str, workers: list[subprocess.Popen[bytes]]) -> None:
    from distributed import Client

    with Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(len(workers), timeout=120)


def test_a_late_worker_looks_at_itself(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(address="tcp://late:1"))
    work = Work(tiny(tmp_path).model_dump_json(), 0, str(data), ours())
    job = Job(((0, (GUESS,)),))
    (line,) = remote(work.text(), job.text())
    assert from_line(line).failure == ""
    other = replace(work, versions=tuple((n, "0" if n == SOURCE else v) for n, v in work.versions))
    with pytest.raises(InputError, match="worker tcp://late:1 has another source of raylign") as caught:
        remote(other.text(), job.text())
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # as it is sent
    with pytest.raises(InputError, match="worker tcp://late:1 does not see the folder"):
        remote(replace(work, data=str(tmp_path / "gone")).text(), job.text())
    with pytest.raises(InputError, match="'nowhere_at_all:make' cannot be loaded"):
        remote(work.text(), Job(((0, ("nowhere_at_all:make",)),)).text())


def test_workers_that_are_not_alike_are_refused() -> None:
    work = Work("{}", 0, "/data", ours())
    versions = dict(ours())
    assert unlike(work, "tcp://a:1", versions, True) is None
    assert unlike(work, "tcp://a:1", {**versions, "python": "3.99"}, True) is None
    other = unlike(work, "tcp://a:1", {**versions, "raylign": "0.0.0"}, True)
    assert str(other).startswith(f"--dask: worker tcp://a:1 has raylign 0.0.0, this is {versions['raylign']}; ")
    assert "another source of raylign, of the same version" in str(unlike(work, "tcp://a:1", {**versions, "source": "0"}, True))
    assert "has numba None" in str(unlike(work, "tcp://a:1", {k: v for k, v in versions.items() if k != "numba"}, True))
    assert "does not see the folder /data; name one on a shared" in str(unlike(work, "tcp://a:1", versions, False))
