"""``raylign project``, ``raylign convert``, ``raylign info`` and ``raylign demo``."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from raylign.geometry.convert.export import FORMATS
from raylign.io import read_pose, read_volume, read_xray
from raylign.io.views import read_view
from raylign.projection import project
from raylign.registration import METHODS
from raylign.registration.problem import centred
from tests.cli.conftest import VIEW, Scene

Command = Callable[..., Any]
CARM = ["--primary", "20", "--secondary", "5", "--sid", "1000", "--sod", "700", "--pixel-spacing", "2.4", "--shape", "128,128"]


@pytest.mark.parametrize("kind", ["dcm", "nrrd", "npy", "png"])
def test_what_is_projected_is_read_back(raylign: Command, scene: Scene, tmp_path: Path, kind: str) -> None:
    drr = tmp_path / f"drr.{kind}"
    run = raylign("project", scene.volume, *CARM, "--pose", scene.truth, "-o", drr)
    assert run.exit_code == 0, run.output
    expected = project(read_volume(scene.volume), VIEW, scene.pose)[0, 0]
    xray = read_xray(drr)
    assert torch.allclose(xray.view.vectors, VIEW.vectors, atol=1e-6)
    seen, wanted = xray.image[xray.mask], expected[xray.mask]
    assert float(xray.mask.float().mean()) > 0.9
    slope = 1.0
    if kind == "png":  # display values: the order and no more
        assert xray.scale == "monotone"
        slope = float((wanted.max() - wanted.min()) / (seen.max() - seen.min()))
    assert float((slope * (seen - seen.min()) - (wanted - wanted.min())).abs().max()) < 0.01
    assert sorted(p.name for p in tmp_path.iterdir()) == ([drr.name] if kind == "dcm" else [drr.name, "drr.view.json"])


def test_the_default_pose_is_centred_and_the_view_can_be_taken_from_an_xray(
    raylign: Command, scene: Scene, tmp_path: Path
) -> None:
    run = raylign("project", scene.volume, "--view", scene.xray, "-o", tmp_path / "drr.npy", "--energy", "50")
    assert run.exit_code == 0, run.output
    volume = read_volume(scene.volume)
    expected = project(volume.attenuation(50), VIEW, centred(volume))[0, 0]
    assert np.allclose(np.load(tmp_path / "drr.npy"), expected.numpy(), atol=1e-5)
    assert read_view(tmp_path / "drr.view.json").shape == VIEW.shape


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "{}/drr.gif"], "--output"),
        (["-o", "{}/drr.npy", "--sod", "2000"], "sod"),
        (["-o", "{}/drr.npy", "--shape", "0,5"], "--shape"),
        (["-o", "{}/drr.npy", "--energy", "71"], "energy"),
        (["-o", "{}/drr.npy", "--view", "{}/v.json", "--primary", "3"], "--view"),
        (["-o", "{}/drr.npy", "--pose", "{}/far.json"], "no ray meets the volume"),
    ],
)
def test_what_cannot_be_projected(raylign: Command, scene: Scene, tmp_path: Path, options: list[str], words: str) -> None:
    far = np.eye(4)
    far[0, 3] = 5000.0
    (tmp_path / "far.json").write_text(json.dumps({"matrix": far.tolist()}))
    run = raylign("project", scene.volume, *[o.format(tmp_path) for o in options])
    assert run.exit_code == 1
    assert len(run.stderr.splitlines()) == 1 and words in run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["far.json"]


@pytest.mark.parametrize("to", FORMATS)
def test_every_format_prints(raylign: Command, scene: Scene, to: str) -> None:
    run = raylign("convert", scene.truth, "--to", to, "--view", scene.xray)
    assert run.exit_code == 0, run.output
    said = json.loads(run.stdout)
    assert said["format"] == to and said["note"]
    assert np.allclose(said["T_world_from_volume"], scene.pose.matrix.numpy())


def test_opencv_projects_as_the_view_does(raylign: Command, scene: Scene) -> None:
    said = json.loads(raylign("convert", scene.truth, "--to", "opencv", "--view", scene.xray).stdout)
    points = torch.tensor([[0.0, 0.0, 190.0], [30.0, -20.0, 210.0]], dtype=torch.float64)
    K, R, t = (np.array(said[k]) for k in ("K", "R", "t"))
    pixels = (points.numpy() @ R.T + t.reshape(3)) @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    expected = VIEW.project(scene.pose.apply(points)).numpy()
    if said["mirrored"]:
        pixels[:, 0] = VIEW.shape[1] - 1 - pixels[:, 0]
    assert np.allclose(pixels, expected, atol=1e-4)


def test_files_of_other_programs(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    assert raylign("convert", scene.truth, "--to", "itk", "-o", tmp_path / "pose.tfm").exit_code == 0
    assert raylign("convert", tmp_path / "pose.tfm", "--to", "itk", "-o", tmp_path / "pose.h5").exit_code == 0
    assert sitk.ReadTransform(str(tmp_path / "pose.h5")).IsLinear()
    assert torch.allclose(read_pose(tmp_path / "pose.h5").matrix, scene.pose.matrix, atol=1e-9)
    assert raylign("convert", scene.truth, "--to", "rtk", "--view", scene.xray, "-o", tmp_path / "g.xml").exit_code == 0
    geometry = ElementTree.parse(tmp_path / "g.xml").getroot()
    assert geometry.tag == "RTKThreeDCircularGeometry"
    assert abs(float(geometry.findtext("SourceToIsocenterDistance") or 0) - 700) < 1e-6
    wrong = raylign("convert", scene.truth, "--to", "opencv", "--view", scene.xray, "-o", tmp_path / "pose.tfm")
    assert wrong.exit_code == 1 and "pose.tfm" in wrong.stderr


def test_a_camera_needs_a_view(raylign: Command, scene: Scene) -> None:
    run = raylign("convert", scene.truth, "--to", "opencv")
    assert run.exit_code == 1
    assert "--view" in run.stderr and len(run.stderr.splitlines()) == 1


def test_a_result_brings_its_own_view(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    result = {"pose": {"matrix": scene.pose.matrix.tolist()}, "inputs": {"xrays": [{"view": VIEW.to_dict()}]}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    own = raylign("convert", tmp_path / "result.json", "--to", "xreg")
    assert own.exit_code == 0, own.output
    given = raylign("convert", scene.truth, "--to", "xreg", "--view", scene.xray)
    a, b = json.loads(own.stdout), json.loads(given.stdout)
    assert np.allclose(a["intrinsic"], b["intrinsic"], atol=1e-5)


def test_info(raylign: Command, scene: Scene) -> None:
    said = json.loads(raylign("info", scene.xray, "--json").stdout)
    assert said["kind"] == "xray"
    assert "20.0 degrees LAO" in json.dumps(said)
    table = raylign("info", scene.volume)
    assert table.exit_code == 0 and "48" in table.stdout
    other = raylign("info", scene.xray, "--primary", "-30")
    assert "30.0 degrees RAO" in other.stdout


def test_names_known_without_loading_agree_with_the_library() -> None:
    from raylign.cli.convert import Format
    from raylign.cli.register import Method
    from raylign.cli.solve import LEARNED

    assert {m.value for m in Method} == {*METHODS, *LEARNED}
    assert tuple(f.value for f in Format) == FORMATS


def test_demo(raylign: Command, tmp_path: Path) -> None:
    run = raylign("demo", "--out", tmp_path / "demo", "--seed", "1")
    assert run.exit_code in (0, 3), run.output
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert names == {"volume.nii.gz", "xray.dcm", "truth.json", "result.json", "pose.tfm", "overlay.png", "report.html"}
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    truth = json.loads((tmp_path / "demo" / "truth.json").read_text())
    targets = np.array(truth["targets"])

    def moved(matrix: Any) -> np.ndarray:
        m = np.array(matrix)
        return targets @ m[:3, :3].T + m[:3, 3]

    right = moved(truth["T_world_from_volume"])
    start = np.linalg.norm(moved(result["start"]["matrix"]) - right, axis=1).mean()
    final = np.linalg.norm(moved(result["pose"]["matrix"]) - right, axis=1).mean()
    assert start > 20
    assert final < 2
    assert f"{final:.2f} mm" in run.stdout
    # the printed command registers the files that were written, from the same start
    again = [part for line in run.stdout.splitlines() if line.startswith("Again:") for part in line.split()[2:]]
    repeated = raylign(*again)
    assert repeated.exit_code == run.exit_code
    assert json.loads((tmp_path / "demo" / "again" / "result.json").read_text())["pose"] == result["pose"]
