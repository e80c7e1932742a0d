"""Runs in processes of their own: as in one, whoever dies; killed and gone on with, the same bytes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from raylign.errors import InputError
from raylign.evaluation import local
from raylign.evaluation.cases import make_case
from raylign.evaluation.execution import Job, Work, ours
from raylign.evaluation.metrics import mtre
from raylign.evaluation.protocol import load_protocol
from raylign.evaluation.record import WORKER_DIED, Record, read_records
from raylign.evaluation.runner import RunSettings, run
from raylign.evaluation.table import write_tables
from tests.evaluation.runs import CASES, DEADLY, GUESS, ROOT, SLOW, _still, data, plain, tiny  # noqa: F401


def test_who_dies_is_replaced_and_what_it_was_at_tried_again(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAYLIGN_TEST_FIRST", str(tmp_path / "first"))
    monkeypatch.setattr(local, "RETRIES", 1)  # each death costs a start
    protocol = tiny(tmp_path, GUESS, DEADLY)
    records = run(protocol, tmp_path / "two", RunSettings(data=data, workers=2))
    dead = [r for r in records if r.failure]
    assert [(r.case, r.method, r.subject) for r in dead] == [(3, DEADLY, "s1")]
    assert dead[0].failure == f"{WORKER_DIED}: killed, for want of memory perhaps" and dead[0].mtre is None
    case = make_case(protocol, 3, 0, data)  # where it began was told before
    assert dead[0].name == case.name and dead[0].start == tuple(case.start.matrix.flatten().tolist())
    assert dead[0].start_mtre == pytest.approx(float(mtre(case.start, case.pose, case.targets)))
    assert (tmp_path / "first").exists()  # and case 1, of which a worker died once, has its result
    # all else as in this process
    alone = run(tiny(tmp_path, GUESS), tmp_path / "one", RunSettings(data=data))
    assert plain([r for r in records if r.method == GUESS]) == plain(alone)
    poses = {(r.case, r.method): r.pose for r in records if not r.failure}
    assert all(poses[r.case, DEADLY] == r.pose for r in alone if r.case != 3)


def test_a_worker_that_dies_before_it_says_a_word_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(load_protocol("smoke").model_dump_json(), 0, None, ours())
    crew = local._Crew(work, [], 1)
    hired: list[int] = []
    monkeypatch.setattr(crew, "hire", lambda: hired.append(0))
    crew.waiting.append(Job(((2, ("direct",)),)))
    lost: list[Record] = []
    while crew.waiting and len(hired) < 10:
        silent = Mock(job=crew.waiting.popleft(), at=None, begun=None, ready=True)
        silent.how_it_ended, silent.close = lambda: "signal SIGSEGV", lambda: None
        lost += crew._lost(silent)
    assert len(hired) == local.RETRIES
    assert [(r.case, r.method, r.failure) for r in lost] == [(2, "direct", f"{WORKER_DIED}: signal SIGSEGV")]


def test_an_end_is_noticed_though_another_holds_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that leaves a process of its own behind, which its output is open in: both are gone in the end."""
    script = "import os, subprocess, sys; p = subprocess.Popen(['sleep', '300']); sys.stderr.write(str(p.pid)); os._exit(3)"
    monkeypatch.setattr(local, "_STILLBORN", 1)
    made = subprocess.Popen

    def popen(command: list[str], **how: object) -> object:
        return made([command[0], "-c", script], **how)  # type: ignore[call-overload]

    monkeypatch.setattr(local.subprocess, "Popen", popen)
    work = Work(load_protocol("smoke").model_dump_json(), 0, None, ours())
    with pytest.raises(InputError, match=r"do not start \(exit code 3, (\d+)\)") as caught:
        list(local.processes(work, [Job(((0, ("direct",)),))], 1))
    child = re.search(r"3, (\d+)", str(caught.value))
    assert child is not None
    _until(lambda: not _running(int(child[1])))


def _running(pid: int) -> bool:
    """Whether a process is there and no mere entry that nobody has asked after."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_method_that_workers_cannot_load_ends_the_run(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "_STILLBORN", 1)
    (tmp_path / "lone_module.py").write_text("from tests.evaluation.registrars import guess\n")
    monkeypatch.syspath_prepend(tmp_path)  # of this process alone
    protocol = tiny(tmp_path, "lone_module:guess")
    with pytest.raises(InputError, match=r"do not start \(exit code 1, --method: 'lone_module:guess' cannot be loaded"):
        run(protocol, tmp_path / "run", RunSettings(data=data, workers=1))
    assert read_records(tmp_path / "run") == []


def test_processes_that_do_not_start_are_said_once(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=r"worker processes do not start \(exit code 1\)"):
        run(tiny(tmp_path), tmp_path / "run", RunSettings(data=data, workers=2))
    assert read_records(tmp_path / "run") == []


def test_killed_and_gone_on_with_leaves_the_same_tables(data: Path, tmp_path: Path) -> None:  # noqa: F811
    tiny(tmp_path)
    out = tmp_path / "run"
    words = ["evaluate", tmp_path / "tiny.yaml", "--method", SLOW, "--data", data, "--workers", 1, "-o", out]
    command = [sys.executable, "-c", "from raylign.cli import main; main()", *map(str, words)]
    # no git: a commit in between would, rightly, end this
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "GIT_DIR": str(tmp_path)}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _until(lambda: (out / "records.jsonl").exists() and len((out / "records.jsonl").read_bytes().splitlines()) >= 2, first)
        workers = _children(first.pid)
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=30)
    finally:
        first.kill()
    before = (out / "records.jsonl").read_bytes().splitlines()
    assert 2 <= len(before) < CASES
    assert not (out / "table.csv").exists()
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))  # nobody stays behind

    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert f"raylign evaluate: {len(before)} of {CASES} registrations" in second.stderr
    assert f"tiny: {CASES} cases, {CASES} registrations" in second.stdout and str(out / "report.html") in second.stdout
    lines = (out / "records.jsonl").read_bytes().splitlines()
    assert len(lines) == CASES and lines[: len(before)] == before

    protocol = tiny(tmp_path, SLOW)
    alone = run(protocol, tmp_path / "alone", RunSettings(data=data))
    write_tables(alone, protocol, tmp_path / "alone")
    for name in ("table.csv", "table.json"):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert (out / "report.html").stat().st_size > 1000


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # no such files on this system
        return []


def _until(condition, process: subprocess.Popen[str] | None = None) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
