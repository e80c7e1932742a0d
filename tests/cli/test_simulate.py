"""``raylign simulate`` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raylign.cli.main import app
from raylign.io.images_write import write_volume
from raylign.simulation.datasets.shards import read_shards
from tests.cli.conftest import body

RECIPE = """
name: small
subjects: [{ct: p0.nii.gz, source: "made, CC0"}, {ct: p1.nii.gz, source: "made, CC0"}]
count: 6
cases_per_subject: 3
targets: gao2024
image: [40, 48]
exposure: {round_field: 0.0, rectangular_field: 0.0}
output: {cases_per_shard: 2}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    for n in range(2):
        write_volume(body(), folder / f"p{n}.nii.gz")
    (folder / "small.yaml").write_text(RECIPE)
    return folder / "small.yaml"


def simulate(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["simulate", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_shards(recipe: Path, tmp_path: Path) -> None:
    code, said, complained = simulate(recipe, "-o", tmp_path / "set", "--workers", "1")
    assert (code, complained) == (0, "")
    assert "6 exposures of 2 subjects" in said
    assert len(list(read_shards(tmp_path / "set"))) == 6
    code, said, _ = simulate(recipe, "-o", tmp_path / "set", "--workers", "1")
    assert code == 0
    assert "6 cases were there already" in said
    # options take the place of what the recipe says
    code, said, _ = simulate(recipe, "-o", tmp_path / "other", "--workers", "1", "--count", "2", "--seed", "5")
    assert code == 0
    index = json.loads((tmp_path / "other" / "index.json").read_text())
    assert (index["cases"], index["recipe"]["seed"], index["sources"]) == (2, 5, ["made, CC0"])


def test_dicom(recipe: Path, tmp_path: Path) -> None:
    code, said, _ = simulate(recipe, "-o", tmp_path / "set", "--workers", "1", "--format", "dicom", "--count", "2")
    assert code == 0
    assert "truth.json" in said
    (folder,) = (p for p in (tmp_path / "set").iterdir() if p.is_dir())
    names = {p.name for p in folder.iterdir()}
    assert names == {"ct.nii.gz", "truth.json", *(f"{n:06d}{e}" for n in (0, 1) for e in (".dcm", "-start.tfm"))}
    result = CliRunner().invoke(app, ["info", str(folder / "000000.dcm")])
    assert result.exit_code == 0
    assert "an X-ray exposure (DICOM XA)" in result.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["none.yaml", "-o", "out"], "none.yaml: cannot be read"),
        (["{recipe}", "-o", "out", "--count", "0"], "--count: 0 is too few"),
        (["{recipe}", "-o", "out", "--seed", "-1"], "--seed: -1 is too few"),
        (["{recipe}", "-o", "out", "--workers", "0"], "--workers: 0 is too few"),
        (["{recipe}", "-o", "{recipe}"], "is a file, not a folder"),
    ],
)
def test_wrong_input_is_one_line(
    recipe: Path, tmp_path: Path, words: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, complained = simulate(*[w.replace("{recipe}", str(recipe)) for w in words])
    assert code == 1
    assert line in complained
    assert len(complained.strip().splitlines()) == 1


def test_wrong_usage_is_exit_code_2(recipe: Path) -> None:
    assert simulate(recipe)[0] == 2
    assert simulate(recipe, "-o", "out", "--format", "zip")[0] == 2


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_an_interruption_keeps_what_is_finished(recipe: Path, tmp_path: Path) -> None:
    target = tmp_path / "set"
    words = ["simulate", str(recipe), "-o", str(target), "--workers", "1", "--count", "240"]
    code = "from raylign.cli import main; main()"
    run = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    while len(list(target.glob("*.tar"))) < 2 and run.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, complained = run.communicate(timeout=60)
    assert run.returncode == 1
    assert complained.strip().splitlines()[-1].startswith("raylign: interrupted; what is finished stays in")
    assert len(complained.strip().splitlines()) == 1
    assert not list(target.glob(".making-*"))
    index = json.loads((target / "index.json").read_text())
    assert not index["complete"]
    there = len(list(target.glob("*.tar")))
    assert there >= 2
    code_, _, said = simulate(recipe, "-o", target, "--workers", "1", "--count", "12")
    assert code_ == 1 and "more than the 12 asked for" in said
    code_, said, _ = simulate(recipe, "-o", target, "--workers", "1", "--count", "240")
    assert code_ == 0
    assert "cases were there already" in said
