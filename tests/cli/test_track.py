"""``raylign track``: what it finds, writes and refuses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from raylign.geometry import Rigid
from raylign.io.xray_dicom_write import counts_from_integrals, write_xray_dicom
from raylign.projection import project
from tests.cli.conftest import VIEW, Scene, body

Command = Callable[..., Any]
FILES = ["film.gif", "poses.json", "report.html", "table.csv"]


def moved(pose: Rigid, frame: int) -> Rigid:
    """Half a millimetre a frame to the head, and to the front."""
    step = torch.eye(4, dtype=torch.float64)
    step[:3, 3] = torch.tensor([0, -0.25, 0.5]) * frame
    return Rigid(step @ pose.matrix)


@pytest.fixture(scope="module")
def frames(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames as DICOM files; the third is black."""
    folder = tmp_path_factory.mktemp("frames")
    for k in range(4):
        counts = counts_from_integrals(project(body(), VIEW, moved(scene.pose, k))[0, 0])
        write_xray_dicom(counts * (k != 2), VIEW, folder / f"frame{k + 8}.dcm")
    return folder


def test_a_sequence_is_followed_and_all_is_written(raylign: Command, scene: Scene, frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = raylign("track", scene.volume, "--frames", frames, "--rate", "15", "--out", out)
    assert run.exit_code == 0, run.output
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert "3 of 4 frames support their pose" in run.stdout
    with open(out / "table.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["tracking", "tracking", "lost", "recovered"]
    assert [float(row["time_s"]) for row in rows] == pytest.approx([0, 1 / 15, 2 / 15, 0.2], abs=1e-4)
    assert float(rows[3]["head_mm"]) == pytest.approx(1.5, abs=0.3)
    written = json.loads((out / "poses.json").read_text())
    assert written["schema"] == "raylign.track/1"
    assert [f["names"] for f in written["frames"]] == [[f"frame{k + 8}.dcm"] for k in range(4)]
    points = body().centre + 30 * torch.eye(3, dtype=torch.float64)
    for k in (0, 1, 3):
        matrix = torch.tensor(written["frames"][k]["matrix"], dtype=torch.float64)
        assert float((Rigid(matrix).apply(points) - moved(scene.pose, k).apply(points)).norm(dim=1).max()) < 0.8
        line = [float(rows[k][f"m{r}{c}"]) for r in range(3) for c in range(4)]
        assert line == pytest.approx(matrix[:3].flatten().tolist(), rel=1e-7, abs=1e-7)
    with Image.open(out / "film.gif") as film:
        assert film.n_frames == 4
    page = (out / "report.html").read_text()
    assert "<script" not in page and "frame" in page and "lost" in page


def test_a_summary_without_a_film(raylign: Command, scene: Scene, frames: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.json"
    start.write_text(json.dumps({"T_world_from_volume": scene.pose.matrix.tolist()}))
    run = raylign(
        "track", scene.volume, "--frames", frames, "--rate", 5, "--out", tmp_path / "o", "--film", "none", "--json",
        "--init", start, "--starts", 1,
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    said = json.loads(run.stdout)
    assert said["count"] == 4 and said["states"]["lost"] == 1 and said["breathing"] is None
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [name for name in FILES if name != "film.gif"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "15", "--frame", "1"], "a sequence has all of its frames"),
        ([], "--rate"),
        (["--rate", "0"], "--rate"),
        (["--rate", "15", "--film-size", "10"], "--film-size"),
        (["--rate", "15", "--trust", "2"], "--trust"),
        (["--rate", "15", "--film", "mp4"], "--film gif"),
        (["--rate", "15", "--sid", "1000", "--sid", "900"], "given 2 times"),
        (["--rate", "15", "--material", "metal"], "no model is a surface"),
    ],
)
def test_refusals_leave_nothing(
    raylign: Command, scene: Scene, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, words: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    run = raylign("track", scene.volume, "--frames", frames, "--out", tmp_path / "out", *arguments)
    assert run.exit_code == 1
    assert words in run.stderr and run.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_that_the_frames_do_not_show_is_not_to_be_trusted(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    r = torch.arange(128)
    for k in range(3):  # stripes
        counts = (20000 + 15000 * torch.sin(0.4 * (r[:, None] + 2 * r[None] + 3 * k))).to(torch.uint16)
        write_xray_dicom(counts, VIEW, folder / f"{k}.dcm")
    run = raylign(
        "track", scene.volume, "--frames", folder, "--rate", 15, "--out", tmp_path / "out", "--film", "none", "--starts", 8
    )
    assert run.exit_code == 3, run.output
    assert "not to be trusted: 0 of 3" in run.stderr
    assert (tmp_path / "out" / "table.csv").exists()
