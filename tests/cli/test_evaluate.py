"""``raylign evaluate``: what it writes, what it refuses and with which words and codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylign.cli import evaluate as command
from raylign.evaluation.record import WORKER_DIED, Record
from raylign.evaluation.runner import RunSettings, State, run
from tests.cli.conftest import raylign  # noqa: F401
from tests.evaluation.runs import GUESS, YAML, _still, data, tiny  # noqa: F401


def test_the_protocols_that_there_are(raylign: Callable[..., Any]) -> None:  # noqa: F811
    said = raylign("evaluate", "--list")
    assert said.exit_code == 0
    assert {"smoke", "gao2024", "raylign"} <= {line.split()[0] for line in said.stdout.splitlines()}


def test_wrong_usage(raylign: Callable[..., Any], tmp_path: Path) -> None:  # noqa: F811
    for words in (("smoke",), ("-o", tmp_path / "run"), ("smoke", "-o", tmp_path / "run", "--no-such-option")):
        assert raylign("evaluate", *words).exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("no-such-protocol",), "PROTOCOL: there is no protocol 'no-such-protocol'; use one of "),
        (("no-such.yaml",), "no-such.yaml: cannot be read (No such file or directory); "),
        (("smoke", "--method", "no-such"), "methods: there is no method 'no-such'; use some of direct, "),
        (("smoke", "--method", "no.module:f"), "--method: 'no.module:f' cannot be loaded (ModuleNotFoundError: "),
        (("smoke", "--cases", "0"), "cases: "),
        (("smoke", "--seed", "-1"), "seed: "),
        (("smoke", "--workers", "0"), "--workers: 0 processes; give 1 or more"),
        (("smoke", "--workers", "2", "--dask", "tcp://a:1"), "--workers: the cluster has workers of its own; "),
        (("scans",), "--data: this protocol takes scans from a folder; "),
        (("scans", "--data", "nowhere"), "nowhere: --data: there is no such folder; "),
        (("scans", "--data", "."), "--data: "),  # a folder without scans
        (("smoke", "--replay", "6"), "--replay: there is no case 6; give 0 to 5"),
        (("--compare", "nowhere", "elsewhere"), "run.json: cannot be read (No such file or directory); "),
    ],
)
def test_one_line_and_nothing_written(
    raylign: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
    words: tuple[str, ...],
    line: str,
) -> None:
    said = raylign("evaluate", *words, "-o", tmp_path / "out")
    assert said.exit_code == 1, said.output
    assert len(said.stderr.splitlines()) == 1 and said.stderr.startswith("raylign: ") and line in said.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_case_again(raylign: Callable[..., Any], data: Path, tmp_path: Path) -> None:  # noqa: F811
    protocol = tiny(tmp_path, "direct", GUESS)
    records = run(protocol, tmp_path / "run", RunSettings(cases=1, data=data))
    # of a run's folder: the protocol as it was run, and its data
    said = raylign("evaluate", tmp_path / "run", "--replay", 0, "-o", tmp_path / "case-0")
    assert said.exit_code in (0, 3), said.output
    told = json.loads((tmp_path / "case-0" / "result.json").read_text())
    assert [x for row in told["pose"]["matrix"] for x in row] == list(records[0].pose or ())
    assert told["inputs"]["case"] == {"index": 0, "name": records[0].name, "subject": "s0", "arm": "none"}
    assert {p.name for p in (tmp_path / "case-0").iterdir()} == {"result.json", "pose.tfm", "overlay.png", "report.html"}
    assert f"mTRE {records[0].start_mtre:.2f} to {records[0].mtre:.2f} mm" in said.stdout
    kept = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    said = raylign("evaluate", tmp_path / "run", "--replay", 0, "-o", tmp_path / "run")
    assert said.exit_code == 1 and "is the folder of a run" in said.stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == kept


def test_interrupted_and_what_did_not_take_place(
    raylign: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tiny.yaml").write_text(YAML.replace("kind: folder", "kind: phantoms"))
    words = ("evaluate", tmp_path / "tiny.yaml", "--workers", 1, "-o", tmp_path / "out")

    def interrupted(protocol: object, out: Path, settings: RunSettings, tell: Callable[[State], None]) -> list[Record]:
        tell(State(3, 6, 0))
        raise KeyboardInterrupt

    monkeypatch.setattr("raylign.evaluation.runner.evaluate", interrupted)
    said = raylign(*words)
    assert said.exit_code == 1
    assert said.stderr.splitlines()[-1] == (
        f"raylign: interrupted; what is done stays in {tmp_path / 'out'}, and the same command goes on from there"
    )
    assert said.stderr.startswith("raylign evaluate: 3 of 6 registrations, ")

    records = [
        Record(0, "a", "s", "none", "direct", 0),
        Record(1, "b", "s", "none", "direct", 0, failure=f"{WORKER_DIED}: killed"),
        Record(2, "c", "s", "none", "direct", 0, failure="ValueError: no pose"),
    ]
    monkeypatch.setattr("raylign.evaluation.runner.evaluate", lambda *given: records)
    said = raylign(*words)
    assert said.exit_code == 0
    assert said.stdout.splitlines()[0].startswith("tiny: 3 cases, 3 registrations, ")
    assert said.stderr.splitlines() == [
        "raylign: 1 registrations did not take place (worker died: killed); the same command tries them again",
        "raylign: methods broke off 1 times, counted as failures; first direct on c: ValueError: no pose",
    ]


def test_durations() -> None:
    assert [command._duration(s) for s in (12, 600, 7200)] == ["12 s", "10 min", "2.0 h"]
