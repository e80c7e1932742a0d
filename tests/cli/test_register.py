"""``raylign register``: what it finds, writes, prints and leaves alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from raylign.data import Volume
from raylign.io.images_write import write_volume
from raylign.io.xray_dicom_write import write_xray_dicom
from tests.cli.conftest import VIEW, Scene, body

Command = Callable[..., Any]
FILES = ["overlay.png", "pose.tfm", "report.html", "result.json"]


def error_mm(matrix: Any, scene: Scene) -> float:
    """Largest distance at the corners of a cube of 60 mm about the middle of the body."""
    middle = body().centre
    corners = middle + 30 * (torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=torch.float64))
    m = torch.tensor(matrix, dtype=torch.float64)
    return float((corners @ m[:3, :3].T + m[:3, 3] - scene.pose.apply(corners)).norm(dim=1).max())


def test_the_pose_is_found_and_all_is_written(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    run = raylign("register", scene.volume, scene.xray, "--out", out)
    assert run.exit_code == 0, run.output
    assert run.stderr == ""
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert sorted(p.name for p in out.parent.iterdir()) == ["out"]
    result = json.loads((out / "result.json").read_text())
    assert error_mm(result["pose"]["matrix"], scene) < 0.5
    assert 0 <= result["confidence"]["probability"] <= 1
    assert result["seconds"] > 0
    assert result["inputs"]["volume"]["size"] == [48, 48, 48]
    assert result["inputs"]["xrays"][0]["view"]["shape"] == [128, 128]
    assert str(scene.xray) in run.stdout or "report.html" in run.stdout

    # pose.tfm as ITK reads it: its inverse takes a point of the volume into the world
    transform = sitk.ReadTransform(str(out / "pose.tfm")).GetInverse()
    m = np.array(result["pose"]["matrix"])
    point = np.array([12.0, -7.0, 150.0])
    assert np.allclose(transform.TransformPoint(point.tolist()), m[:3, :3] @ point + m[:3, 3], atol=1e-9)
    page = (out / "report.html").read_text()
    assert "<html" in page and str(scene.volume) in page


def test_other_files_stay_and_old_results_go(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "result.json").write_text("old")
    run = raylign("register", scene.volume, scene.xray, "--out", tmp_path, "--starts", "8", "--json")
    assert run.exit_code == 0, run.output
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*FILES, "notes.txt"])
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert run.stdout.count("\n") == 1
    assert json.loads(run.stdout) == json.loads((tmp_path / "result.json").read_text())


def test_a_given_start_is_where_it_starts(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    for init in (scene.truth, tmp_path / "out" / "pose.tfm", tmp_path / "out" / "result.json"):
        run = raylign("register", scene.volume, scene.xray, "--out", tmp_path / "out", "--init", init, "--starts", "1", "--json")
        assert run.exit_code == 0, run.output
        result = json.loads(run.stdout)
        assert error_mm(result["start"]["matrix"], scene) < 0.5
        assert error_mm(result["pose"]["matrix"], scene) < 0.5
        assert result["settings"]["search"]["degrees"] == 15.0
        assert result["settings"]["search"]["hypotheses"] == 1


def test_the_same_seed_gives_the_same_pose(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    poses = []
    for out in ("a", "b"):
        run = raylign("register", scene.volume, scene.xray, "--out", tmp_path / out, "--starts", "16", "--seed", "3", "--json")
        poses.append(json.loads(run.stdout)["pose"]["matrix"])
    assert poses[0] == poses[1]


def test_two_exposures_with_their_own_geometry(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    for name, angle in (("a", "0"), ("b", "80")):
        options = ["--pose", scene.truth, "--primary", angle, "--sid", "1000", "--sod", "700", "--shape", "128"]
        run = raylign("project", scene.volume, *options, "--pixel-spacing", "2.4", "-o", tmp_path / f"{name}.npy")
        assert run.exit_code == 0, run.output
    # geometry by numbers, one primary angle for each, the rest shared
    (tmp_path / "a.view.json").unlink()
    (tmp_path / "b.view.json").unlink()
    said = ["--sid", 1000, "--sod", 700, "--primary", 0, "--primary", 80, "--secondary", 0, "--pixel-spacing", "2.4,2.4"]
    said += ["--patient-position", "HFS", "--relationship", "LOG"]
    run = raylign("register", scene.volume, tmp_path / "a.npy", tmp_path / "b.npy", *said, "--out", tmp_path / "out", "--json")
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert error_mm(result["pose"]["matrix"], scene) < 0.3
    assert len(result["inputs"]["xrays"]) == 2


def test_a_result_that_is_not_to_be_trusted_is_written_and_told(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    noise = torch.randint(1000, 60000, VIEW.shape, generator=torch.Generator().manual_seed(1))
    write_xray_dicom(noise, VIEW, tmp_path / "noise.dcm")
    run = raylign("register", scene.volume, tmp_path / "noise.dcm", "--out", tmp_path / "out", "--starts", "4")
    assert run.exit_code == 3, run.output
    assert len(run.stderr.splitlines()) == 1
    assert "not to be trusted" in run.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text())["confidence"]["trusted"] is False
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES


def test_labels_restrict_the_model(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    whole = body()
    write_volume(Volume((whole.data > 600).float() * 4, whole.affine, "HU"), tmp_path / "bones.nii.gz")
    (tmp_path / "bones.csv").write_text("id,name\n4,skeleton\n")
    run = raylign(
        "register",
        scene.volume,
        scene.xray,
        "--labels",
        f"{tmp_path / 'bones.nii.gz'}:Skeleton",
        "--rest",
        "none",
        "--out",
        tmp_path / "out",
        "--json",
    )
    assert run.exit_code in (0, 3), run.output
    result = json.loads(run.stdout)
    # begun where the whole volume's centre is at the isocentre
    assert np.allclose(np.array(result["start"]["matrix"])[:3, 3], -whole.centre.numpy())
    assert error_mm(result["pose"]["matrix"], scene) < error_mm(result["start"]["matrix"], scene) / 2
    assert result["inputs"]["labels"].endswith(":Skeleton")


def test_another_method(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    options = ["--method", "cmaes+direct", "--search-degrees", "6", "--search-mm", "9"]
    run = raylign("register", scene.volume, scene.xray, *options, "--out", tmp_path / "out", "--json")
    assert run.exit_code in (0, 3), run.output
    result = json.loads(run.stdout)
    assert result["method"] == "cmaes+direct"
    assert error_mm(result["pose"]["matrix"], scene) < 5.0


def test_the_last_step_is_told(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    run = raylign("register", scene.volume, scene.xray, "--method", "direct+polish", "--trust", "0.5", "--out", tmp_path / "out")
    assert run.exit_code in (0, 3), run.output
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    (told,) = [line.removeprefix("last step: ") for line in run.stdout.splitlines() if line.startswith("last step: ")]
    assert told.startswith("taken" if result["settings"]["polish"]["steps_taken"] else "none, as no step explains")
    assert told in (tmp_path / "out" / "report.html").read_text()
    assert told.endswith("by counted photons") == result["settings"]["polish"].get("counted", False)
    assert result["method"] == ("direct+polish" if told.startswith("taken") else "direct")
    assert result["confidence"]["trusted"] == (result["confidence"]["probability"] >= 0.5)
    assert error_mm(result["pose"]["matrix"], scene) < 5.0


def test_the_volume_as_dicom(raylign: Command, scene: Scene, tmp_path: Path, ct_dicom: Path) -> None:
    run = raylign("register", ct_dicom, scene.xray, "--out", tmp_path / "out", "--starts", "1", "--json")
    assert run.exit_code in (0, 3), run.output
    assert json.loads(run.stdout)["inputs"]["volume"]["size"] == [48, 48, 12]
