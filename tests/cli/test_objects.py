"""``raylign objects``: what it writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylign.cli.objects import Model, _model
from raylign.data import Mesh, Volume
from raylign.io import read_pose
from raylign.io.images_write import write_volume
from raylign.io.meshes import write_mesh
from tests.cli.conftest import Scene, body

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def labels(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label map of the bar (1) in the scene's body."""
    volume = body()
    z, y, x = np.mgrid[:48, :48, :48]
    bar = (abs(x - 23) < 3) & (abs(y - 31) < 4) & (abs(z - 24) < 12)
    path = tmp_path_factory.mktemp("labels") / "bones.nii.gz"
    write_volume(Volume(torch.from_numpy(bar.astype(np.float32)), volume.affine, "raw"), path)
    return path


def _point() -> str:
    """The bar's upper end, LPS mm."""
    affine = body().affine
    at = affine[:3, :3] @ torch.tensor([23.0, 31.0, 34.0], dtype=torch.float64) + affine[:3, 3]
    return ",".join(f"{v:.1f}" for v in at.tolist())


def test_a_bone_and_the_rest(raylign: Command, scene: Scene, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = [f"bar={labels}:1", "--volume", scene.volume, "--xray", scene.xray, "--joint", f"rest:bar@{_point()}"]
    run = raylign("objects", *given, "--joint-degrees", "8", "--out", out)
    assert run.exit_code in (0, 3), run.stderr
    assert {p.name for p in out.iterdir()} == {"result.json", "rest.tfm", "bar.tfm", "overlay.png", "report.html"}
    said = json.loads((out / "result.json").read_text())
    assert said["schema"] == "raylign.objects/1"
    assert list(said["bodies"]) == ["rest", "bar"]
    assert said["trusted"] == (run.exit_code == 0)
    assert said["inputs"]["models"]["bar"].endswith(":1")
    centre = body().centre[None]
    rest = read_pose(out / "rest.tfm")
    assert float((rest.apply(centre) - scene.pose.apply(centre)).norm()) < 5
    # the bar did not move against the rest, and does not seem to have
    motion = said["motions"][0]
    assert (motion["first"], motion["second"]) == ("rest", "bar")
    assert motion["mm"] < 3
    assert motion["degrees"] < 4
    page = (out / "report.html").read_text()
    assert "bar against rest" in page
    assert "http" not in page.split("</style>")[1].replace("http-equiv", "")
    assert "bar: probability" in run.stdout
    assert ("not to be trusted" in run.stderr) == (run.exit_code == 3)


def test_json_on_stdout_and_a_mesh_from_its_pose(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    box = torch.tensor([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)], dtype=torch.float64)
    faces = [
        [0, 1, 3],
        [0, 3, 2],
        [4, 6, 7],
        [4, 7, 5],
        [0, 4, 5],
        [0, 5, 1],
        [2, 3, 7],
        [2, 7, 6],
        [0, 2, 6],
        [0, 6, 4],
        [1, 5, 7],
        [1, 7, 3],
    ]
    affine = body().affine
    low, high = (
        affine[:3, :3] @ torch.tensor(v, dtype=torch.float64) + affine[:3, 3] for v in ([20.5, 27.5, 12.5], [25.5, 34.5, 35.5])
    )
    write_mesh(Mesh(low + box * (high - low), torch.tensor(faces)), tmp_path / "bar.stl")
    given = ["objects", tmp_path / "bar.stl", "--xray", scene.xray, "--start", f"bar={scene.truth}", "--out", tmp_path / "out"]
    run = raylign(*given, "--starts", "1", "--json")
    assert run.exit_code in (0, 3), run.stderr
    said = json.loads(run.stdout)
    matrix = torch.tensor(said["bodies"]["bar"]["pose"]["matrix"], dtype=torch.float64)
    middle = torch.cat([(low + high) / 2, torch.ones(1, dtype=torch.float64)])
    off = (matrix @ middle)[:3] - scene.pose.apply(middle[None, :3])[0]
    assert float(off.norm()) < 15  # depth of one view
    assert not said["motions"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{map}:1"], ("--volume", "give both or neither")),
        (["a.stl", "--volume", "{ct}"], ("--volume", "give both or neither")),
        (["a.stl", "b/a.stl"], ("two bodies are called 'a'", "NAME=MODEL")),
        (["rest={map}:1", "--volume", "{ct}"], ("what is left of the CT",)),
        (["{map}:", "--volume", "{ct}"], ("names no label",)),
        (["{map}:1", "--volume", "{ct}"], ("nothing says where 1 may have gone", "rest:1")),
        (["{map}:7", "--volume", "{ct}", "--joint", "rest:7"], ("bones.nii.gz", "7")),
        (
            ["bar={map}:1", "--volume", "{ct}", "--joint", "rest:leg@0,0,0", "--joint", "rest:bar@0,0,0"],
            ("no body 'leg'", "rest, bar"),
        ),
        (["bar={map}:1", "--volume", "{ct}", "--joint", "rest:bar@0,0"], ("'0,0' is no point",)),
        (["bar={map}:1", "--volume", "{ct}", "--joint", "bar"], ("joins no two bodies",)),
        (["gone.stl"], ("gone.stl",)),
        (["a.stl", "--start", "b=c.json"], ("the start of no body", "a")),
        (["a.stl", "--trust", "2"], ("--trust", "give 0 to 1")),
        (["a.stl", "--seed", "-1"], ("--seed",)),
        (["a.stl", "--joint-mm", "0"], ("--joint-mm",)),
        (["a.stl", "--material", "metal"], ("--material", "raylign register MODEL XRAY --material metal")),
        (["a.nii.gz", "--material", "soft"], ("--material", "no model is a surface")),
        (["a.stl", "--unit", "HU"], ("--unit", "a surface has no numbers")),
    ],
)  # fmt: skip
def test_refusals(
    raylign: Command, scene: Scene, labels: Path, tmp_path: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    given = [a.format(map=labels, ct=scene.volume) for a in arguments]
    run = raylign("objects", *given, "--xray", scene.xray, "--out", tmp_path / "out")
    assert run.exit_code == 1
    assert run.stderr.count("\n") == 1
    for word in words:
        assert word in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("femur.stl", Model("femur", Path("femur.stl"))),
        ("left=bones/femur.stl", Model("left", Path("bones/femur.stl"))),
        ("seg.nii.gz:femur_left,femur_right", Model("femur_left", Path("seg.nii.gz"), ("femur_left", "femur_right"))),
        ("legs=seg.nii.gz:75, 76", Model("legs", Path("seg.nii.gz"), ("75", "76"))),
        ("a/b=c/radius.nrrd", Model("radius", Path("a/b=c/radius.nrrd"))),
    ],
)
def test_what_a_model_names(text: str, model: Model) -> None:
    assert _model(text) == model
