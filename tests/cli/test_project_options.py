"""``raylign project`` beyond a C-arm's image of a CT: parallel rays, models, a requested error, structures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from raylign.data import LabelMap
from raylign.geometry import View
from raylign.io import read_labels, read_volume, read_xray
from raylign.io.views import read_view
from raylign.projection import project, project_labels, step_within
from tests.cli.conftest import VIEW, Scene, body

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def labelled(scene: Scene) -> Path:
    """A label map of the body: soft tissue 1, and bone under two names that make one file name, 5 and 9."""
    hu = body()
    data = (hu.data > -500).to(torch.uint8)
    data[hu.data > 500] = 5
    data[:24][hu.data[:24] > 500] = 9
    path = scene.folder / "seg.nii.gz"
    image = sitk.GetImageFromArray(data.numpy())
    image.SetSpacing([4.0, 4.0, 4.0])
    image.SetOrigin([-90.0, -80.0, 100.0])
    sitk.WriteImage(image, str(path))
    (scene.folder / "seg_labels.csv").write_text("id,name\n1,soft tissue\n5,bone/left\n9,bone left\n")
    return path


def test_parallel_rays(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    options = ("--primary", 30, "--pixel-spacing", 3, "--shape", "64,72", "--parallel")
    run = raylign("project", scene.volume, *options, "--pose", scene.truth, "-o", tmp_path / "drr.npy")
    assert run.exit_code == 0, run.output
    at = View.from_parallel(primary=30, pixel_spacing=3, shape=(64, 72))
    expected = project(read_volume(scene.volume), at, scene.pose)[0, 0]
    assert np.allclose(np.load(tmp_path / "drr.npy"), expected.numpy(), atol=1e-5)
    assert read_view(tmp_path / "drr.view.json").isclose(at)
    assert read_xray(tmp_path / "drr.npy").view.beam == "parallel"
    again = raylign(
        "project", scene.volume, "--view", tmp_path / "drr.view.json", "--pose", scene.truth, "-o", tmp_path / "a.npy"
    )
    assert again.exit_code == 0 and np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "drr.npy"))
    said = raylign("info", tmp_path / "drr.npy")
    assert said.exit_code == 0 and "parallel beam" in said.stdout
    refused = raylign("register", scene.volume, tmp_path / "drr.npy", "--out", tmp_path / "result")
    assert refused.exit_code == 1 and "drr.npy: beam: registration needs a cone beam" in " ".join(refused.stderr.split())
    assert not (tmp_path / "result").exists()


def test_models_and_a_requested_error(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    volume = read_volume(scene.volume)
    step = step_within(1e-4, volume, VIEW, scene.pose.matrix[None])
    assert step != min(volume.spacing) / 2
    for options, same in ((["--model", "siddon"], {"model": "siddon"}), (["--error", "1e-4"], {"step": step})):
        run = raylign("project", scene.volume, "--view", scene.xray, "--pose", scene.truth, *options, "-o", tmp_path / "drr.npy")
        assert run.exit_code == 0, run.output
        expected = project(volume, VIEW, scene.pose, **same)[0, 0]  # type: ignore[arg-type]
        # the view was read back from a DICOM header's decimal strings
        assert float((torch.from_numpy(np.load(tmp_path / "drr.npy")) - expected).norm() / expected.norm()) < 1e-4


def test_an_image_of_every_structure(raylign: Command, scene: Scene, labelled: Path, tmp_path: Path) -> None:
    run = raylign("project", scene.volume, "--view", scene.xray, "--labels", labelled, "-o", tmp_path / "drr.npy")
    assert run.exit_code == 0, run.output
    names = ["drr_soft_tissue.npy", "drr_bone_left.npy", "drr_bone_left_9.npy"]
    assert run.stdout.split() == [str(tmp_path / name) for name in names]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, *(n.replace(".npy", ".view.json") for n in names)])
    volume, labels = read_volume(scene.volume), read_labels(labelled)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = -volume.centre
    expected = project_labels(labels, read_view(tmp_path / "drr_bone_left.view.json"), pose, volume=volume)[0, 0]
    for name, image in zip(names, expected, strict=True):
        assert np.allclose(np.load(tmp_path / name), image.numpy(), atol=1e-5)
    assert isinstance(labels, LabelMap) and float(expected.amax((1, 2)).min()) > 0.1


@pytest.mark.parametrize("kind", ["dcm", "png", "nrrd"])
def test_named_structures_alone(raylign: Command, scene: Scene, labelled: Path, tmp_path: Path, kind: str) -> None:
    where = f"{labelled}:bone left,5,9"
    run = raylign(
        "project", scene.volume, "--view", scene.xray, "--labels", where, "-o", tmp_path / f"x.{kind}", "--error", "1e-3"
    )
    assert run.exit_code == 0, run.output
    assert run.stdout.split() == [str(tmp_path / f"x_bone_left.{kind}"), str(tmp_path / f"x_bone_left_5.{kind}")]
    assert read_xray(tmp_path / f"x_bone_left.{kind}").view.isclose(VIEW, 1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--parallel", "--sid", "1000"], "--parallel: parallel rays have no source"),
        (["--parallel", "--view", "{}/v.json"], "--view: a view and C-arm numbers"),
        (["--parallel", "-o", "{}/x.dcm"], "no X-ray image of parallel rays"),
        (["--model", "siddon", "--error", "0.1"], "--error: the siddon model takes no samples"),
        (["--error", "2"], "error: 2.0 is no relative error"),
        (["--error", "1e-9"], "is not reached"),
        (["--labels", "{seg}:nobody"], "no voxel is labelled 'nobody'"),
        (["--labels", "{seg}:"], "--labels: "),
        (["--labels", "{}/none.nii.gz"], "none.nii.gz"),
        (["--labels", "{seg}", "--pose", "{}/far.json"], "no ray meets any of the structures"),
    ],
)
def test_what_cannot_be_projected(
    raylign: Command, scene: Scene, labelled: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    (tmp_path / "far.json").write_text('{"matrix": [[1, 0, 0, 5000], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}')
    given = [o.format(tmp_path, seg=labelled) for o in options]
    run = raylign("project", scene.volume, *([] if "-o" in given else ["-o", tmp_path / "x.npy"]), *given)
    assert run.exit_code == 1, run.output
    assert len(run.stderr.splitlines()) == 1 and words in run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["far.json"]
