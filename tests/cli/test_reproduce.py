"""``raylign reproduce``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylign.evaluation import gao2024
from raylign.evaluation.gao2024_figures import FiguresConfig, figures
from raylign.methods.convex_similarity.descent import DescentConfig
from raylign.methods.imitation_agent.agent import Agent
from raylign.methods.imitation_agent.network import make_network
from raylign.methods.imitation_agent.world import WorldConfig
from tests.methods.test_convex_registrar import learned
from tests.methods.test_imitation_agent import SMALL

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent") / "agent.safetensors"
    seen = {"settings": {"data": {"train": [0, 701], "validation": [702, 733]}}}
    Agent(make_network(SMALL, 32, 0).eval(), WorldConfig(pixels=32), about=seen).save(path)
    return path


def test_one_case_from_nothing_to_the_report(raylign: Command, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = raylign("reproduce", "toth2018", "--cases", 1, "--seed", 4, "--grid", 0, "--weights", weights, "-o", out)
    assert run.exit_code == 0, run.output
    assert "toth2018: 1 cases" in run.output
    said = json.loads((out / "table.json").read_text())
    assert (said["seed"], said["robustness"]) == (4, None)
    rows = {r["method"]: r for r in said["rows"]}
    assert {"start", "GO", "GO+", "GC", "GC+", "GI", "GI+", "agent", "agent+refinement"} <= set(rows)
    assert rows["start"]["mean"] > 1
    assert (out / "report.html").exists()
    # settings of another run are refused before anything is made
    run = raylign("reproduce", "toth2018", "--cases", 1, "--seed", 5, "--grid", 0, "--weights", weights, "-o", out)
    assert run.exit_code == 1
    assert "a run with other compare and robust" in run.output


def test_one_case_of_the_convex_similarity_from_nothing_to_the_report(
    raylign: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CMA-ES takes minutes, and so do figures of twenty patients; one part is like another
    monkeypatch.setattr(gao2024.ReproduceConfig, "parts", ("pelvis",))
    monkeypatch.setattr(gao2024, "CLASSICAL", "direct")
    monkeypatch.setattr(gao2024, "figures", lambda file, _, seed: figures(file, FiguresConfig(1, 2, 2), seed))
    weights, out = tmp_path / "similarity.safetensors", tmp_path / "run"
    learned().save(weights)
    words = ("reproduce", "gao2024", "--cases", 1, "--weights", weights, "--workers", 1, "-o", out)
    run = raylign(*words)
    assert run.exit_code == 0, run.output
    assert "gao2024: 1 cases" in run.output and "correlation with the distance, learned" in run.output
    said = json.loads((out / "table.json").read_text())
    rows = {(r["part"], r["method"]): r for r in said["rows"]}
    assert {part for part, _ in rows} == {"pelvis"}
    assert {m for _, m in rows} == {
        "start", "ProST (similarity)", "ProST (similarity) + direct", "ProST (similarity) + CMA-ES", "CMA-ES",
        "direct about the start", "direct, global search",
    }  # fmt: skip
    assert rows["pelvis", "start"]["tre_p50"] > 10 > rows["pelvis", "direct, global search"]["tre_p50"]
    assert (out / "report.html").exists() and (out / "pelvis" / "report.html").exists()
    # the same command finds everything there; other weights of the same name are another run
    before = (out / "table.csv").read_bytes()
    assert raylign(*words).exit_code == 0 and (out / "table.csv").read_bytes() == before
    replace(learned(), descent=DescentConfig(steps=2)).save(weights)
    run = raylign(*words)
    assert run.exit_code == 1 and "the digest of weights was" in run.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("li2021",), "no evaluation of 'li2021'"),
        (("toth2018", "--cases", 0), "give 1 or more"),
        (("toth2018", "--also", "other.safetensors"), "is not of toth2018"),
        (("gao2024", "--grid", 3), "is not of gao2024"),
        (("gao2024", "--weights", "none.safetensors"), "there are no weights"),
        (("toth2018", "--seed", -1), "is negative"),
        (("toth2018", "--grid", 101), "give 0 to 100"),
        (("toth2018", "--weights", "none.safetensors"), "no such file"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    raylign: Command, weights: Path, tmp_path: Path, words: tuple[Any, ...], message: str
) -> None:
    given = words if "--weights" in words else (*words, "--weights", weights)
    run = raylign("reproduce", *given, "-o", tmp_path / "out")
    assert run.exit_code == 1, run.output
    assert message in run.output
    assert not (tmp_path / "out").exists()
