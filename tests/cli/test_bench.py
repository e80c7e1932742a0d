"""``raylign bench projector``: what scripts read, what is refused, and workers that go wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raylign.bench.process import Failed, Missing, Worker
from raylign.cli.main import app

TINY = ("--sizes", "16,24", "--batches", "1,2", "--volume", "24", "--what", "forward,forward+pose")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """One run of the command without peers, but for one that is not there."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder))  # no plastimatch
        words = ["bench", "projector", *TINY, "--peers", "plastimatch", "--json", "-o", str(folder / "out")]
        result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result, folder / "out"


def test_the_json_is_what_scripts_read(run: tuple[Any, Path]) -> None:
    result, _ = run
    report = json.loads(result.stdout)  # exactly one object, and nothing else
    cases = {(row["what"], row["batch"], row["size"]) for row in report["rows"]}
    assert cases == {(what, batch, size) for what in ("forward", "forward+pose") for batch in (1, 2) for size in (16, 24)}
    for row in report["rows"]:
        assert row["who"] == "raylign"
        assert 0 < row["ms_min"] <= row["ms"] < math.inf
        assert 0 < row["error"] < 0.2
        assert row["reached"] and row["error"] <= row["target"]
        assert row["peak_mb"] >= 0 and row["compile_s"] >= 0 and row["repeats"] >= 1
    assert report["skipped"] == []
    # the settings tried, and how cost grows
    assert min(trial["error"] for trial in report["trials"]) > 0
    assert {entry["margin"] for entry in report["series"]["empty"]} == {1.0, 1.25, 1.5, 2.0}
    assert len({entry["voxels"] for entry in report["series"]["crossed"]}) >= 4


def test_a_peer_that_is_not_there_is_named_with_how_to_get_it(run: tuple[Any, Path]) -> None:
    result, _ = run
    assert "apt-get install plastimatch" in json.loads(result.stdout)["missing"]["plastimatch"]
    assert "apt-get install plastimatch" in result.stderr


def test_what_is_written(run: tuple[Any, Path]) -> None:
    result, folder = run
    assert sorted(path.name for path in folder.iterdir()) == ["projector.json", "projector.png"]
    assert json.loads((folder / "projector.json").read_text()) == json.loads(result.stdout)
    assert (folder / "projector.png").read_bytes().startswith(b"\x89PNG")


def test_rows_that_take_too_long_are_named(raylign: Callable[..., Any]) -> None:
    words = ("--sizes", "16,64", "--batches", "1", "--volume", "16", "--what", "forward", "--model", "trilinear")
    result = raylign("bench", "projector", *words, "--peers", "none", "--seconds", "1e-5")
    assert result.exit_code == 0
    assert "left out: raylign, forward: 1 of 16 x 16, 1 of 64 x 64: one call would take about" in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--sizes", "big"), "--sizes: 'big' is no list of whole numbers"),
        (("--sizes", "2"), "--sizes: 2 is out of range"),
        (("--batches", "0"), "--batches: 0 is out of range"),
        (("--peers", "rtk,gvirtualxray"), "--peers: no 'gvirtualxray'"),
        (("--what", "backward"), "--what: no 'backward'"),
        (("--volume", "4"), "--volume: 4 voxels an edge"),
        (("--error", "-1"), "--error: -1 is not a positive number"),
        (("--seconds", "nan"), "--seconds: nan is not a positive number"),
        (("--device", "tpu"), "--device: no device 'tpu'"),
        (("--model", "cubic"), "--model: no model 'cubic'"),
        (("--peer-python", "no/such/python"), "no/such/python: --peer-python: is no program"),
    ],
)
def test_wrong_options_are_one_line(raylign: Callable[..., Any], words: tuple[str, ...], says: str) -> None:
    result = raylign("bench", "projector", *words)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"raylign: {says}")
    assert len(result.stderr.splitlines()) == 1


def test_a_file_is_no_folder(raylign: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    result = raylign("bench", "projector", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "is a file" in result.stderr and (tmp_path / "out").read_text() == "mine"


def test_another_subject_is_wrong_usage(raylign: Callable[..., Any]) -> None:
    assert raylign("bench", "reading").exit_code == 2


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Worker("plastimatch") as worker, pytest.raises(Missing, match="plastimatch"):
        worker.ask("hello", 60)


def test_a_worker_says_what_went_wrong_and_goes_on(tmp_path: Path) -> None:
    with Worker("plastimatch") as worker:
        with pytest.raises((Failed, Missing)):
            worker.ask("setup", 60, scene={"volume": str(tmp_path / "none.npy"), "affine": []})
        assert worker.alive


def test_a_worker_that_takes_too_long_or_too_much_is_ended() -> None:
    with Worker("raylign") as worker:
        with pytest.raises(Failed, match="took longer than 0 s"):
            worker.ask("hello", 0.0)
        assert not worker.alive
    with Worker("raylign", limit_mb=1.0) as worker, pytest.raises(Failed, match="took more than 1 MB"):
        worker.ask("hello", 60)


def test_a_worker_that_dies_says_why(tmp_path: Path) -> None:
    with Worker("raylign", str(_broken(tmp_path))) as worker, pytest.raises(Failed, match="ended with 3: no such luck"):
        worker.ask("hello", 60)


def _broken(folder: Path) -> Path:
    """An interpreter that leaves one line and an exit status."""
    path = folder / "python"
    path.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "powell"], "no method 'powell'"),
        (["--cases", "0"], "0 cases"),
        (["--start", "nowhere"], "nowhere"),
        (["--bodies", "foot"], "no body 'foot'"),
        (["--data", "not/there"], "is no folder"),
    ],
)
def test_comparisons_of_registrars_that_cannot_be_made(raylign: Callable[..., Any], words: list[str], said: str) -> None:
    result = raylign("bench", "registration", *words)
    assert result.exit_code == 1 and said in result.stderr and result.stderr.count("\n") == 1


def test_registrars_as_scripts_read_them(raylign: Callable[..., Any]) -> None:
    words = ["--methods", "direct", "--cases", "1", "--bodies", "lumbar", "--start", "near", "--json"]
    result = raylign("bench", "registration", *words)
    assert result.exit_code == 0
    made = json.loads(result.stdout)
    assert made["rows"][0]["method"] == "direct" and made["rows"][0]["n"] == 1 and made["attempts"][0]["kind"] == "lumbar"
    assert {"mtre_under_1", "mtre_under_10", "mtre_median", "mrpd_median", "seconds_median", "renders_median"} <= set(
        made["rows"][0]
    )
