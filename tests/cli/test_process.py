"""The command as a process of its own: start-up, interruption, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Scene

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "raylign", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def test_help_loads_neither_torch_nor_numba() -> None:
    code = (
        "import sys\nfrom raylign.cli.main import app\n"
        "try:\n    app(['register', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'numba', 'scipy', 'SimpleITK', 'pydicom', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert run.returncode == 0, run.stderr
    assert "--search-degrees" in run.stdout


def test_exit_codes(scene: Scene, tmp_path: Path) -> None:
    wrong = subprocess.run(
        command("register", scene.volume, tmp_path / "none.dcm", "--out", tmp_path / "out"),
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(f"raylign: {tmp_path / 'none.dcm'}: ")
    assert len(wrong.stderr.splitlines()) == 1
    usage = subprocess.run(command("register"), capture_output=True, text=True, env=environment())
    assert usage.returncode == 2
    version = subprocess.run(command("--version"), capture_output=True, text=True, env=environment())
    assert version.returncode == 0 and version.stdout.startswith("raylign ")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(scene: Scene, tmp_path: Path, sent: signal.Signals) -> None:
    arguments = ["register", scene.volume, scene.xray, "--out", tmp_path / "deep" / "out", "--method", "cmaes"]
    # a search so wide and a population of so many starts that it cannot be done before the signal arrives
    process = subprocess.Popen(
        command(*arguments, "--search-degrees", 90, "--search-mm", 200),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        _wait_for(lambda: any((tmp_path / "deep").glob(".raylign-*")), process)
        time.sleep(0.5)
        process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 1, stderr
    assert stdout == ""
    assert stderr == "raylign: interrupted; nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def _wait_for(condition, process: subprocess.Popen[str]) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
