"""``raylign register``: starts from landmarks and from nothing, structures, geometry; and what it refuses of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylign.data import Landmarks, Volume
from raylign.geometry import Rigid, View, se3
from raylign.io.images_write import write_volume
from raylign.io.landmark_files import write_marked
from raylign.io.landmarks import write_landmarks
from tests.cli.conftest import VIEW, Scene, body
from tests.cli.test_bad_input import refused
from tests.cli.test_register import error_mm

Command = Callable[..., Any]
NAMES = ("head", "bar_top", "bar_end", "left", "right", "back")


def points() -> Landmarks:
    """Six points of the body, patient LPS mm."""
    away = torch.tensor(
        [[-24.0, -16, -28], [-4, 28, 48], [-4, 28, -48], [60, 0, 10], [-62, 5, -5], [10, 64, 20]], dtype=torch.float64
    )
    return Landmarks(NAMES, body().centre + away)


def marks(pose: Rigid, view: View = VIEW, seed: int = 0, pixels: float = 0.4) -> Landmarks:
    """Where somebody would click."""
    noise = pixels * torch.randn(6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Landmarks(NAMES, view.project(pose.apply(points().points)) + noise)


@pytest.fixture
def clicked(scene: Scene, tmp_path: Path) -> Path:
    """A landmarks file of the scene."""
    write_marked(tmp_path / "landmarks.json", points(), {"xray.dcm": marks(scene.pose)})
    return tmp_path / "landmarks.json"


def changed(file: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    return file


def test_landmarks_are_where_it_starts(raylign: Command, scene: Scene, tmp_path: Path, clicked: Path) -> None:
    changed(clicked, lambda v: v["images"]["xray.dcm"].update(left=[30.0, 100.0]))
    run = raylign("register", scene.volume, scene.xray, "--init", clicked, "--out", tmp_path / "out")
    assert run.exit_code == 0, run.output
    lines = run.stdout.splitlines()
    assert any(line.startswith("landmarks: 5 of 6 marks used, rms ") for line in lines), lines
    assert any(line.startswith("landmarks left out: left (") for line in lines), lines
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert error_mm(result["start"]["matrix"], scene) < 15
    assert error_mm(result["pose"]["matrix"], scene) < 0.5
    said = result["landmarks"]
    assert {m["name"]: m["used"] for m in said["marks"]} == {n: n != "left" for n in NAMES}
    assert said["rms_px"]["pose"] < 1.5
    search = result["settings"]["search"]
    assert 3 <= search["degrees"] <= 15 and 5 <= search["mm"] <= 15 and search["depth"] >= 5
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Landmarks" in page and "5 of 6 marks used" in page


def test_points_of_slicer_and_a_table_of_pixels(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    write_landmarks(points(), tmp_path / "points.mrk.json")
    found = marks(scene.pose)
    write_landmarks(Landmarks(found.names[:5], found.points[:5]), tmp_path / "frontal.csv")
    given = ["--init", tmp_path / "points.mrk.json", "--landmarks-2d", tmp_path / "frontal.csv", "--search-degrees", "2"]
    run = raylign("register", scene.volume, scene.xray, *given, "--starts", "1", "--out", tmp_path / "out", "--json")
    assert run.exit_code in (0, 3), run.output
    result = json.loads(run.stdout)
    assert error_mm(result["start"]["matrix"], scene) < 15
    assert len(result["landmarks"]["marks"]) == 5
    assert result["settings"]["search"]["degrees"] == 2.0
    # the same points within the file of marks, by name
    listed = {"schema": "raylign.landmarks/1", "volume": "points.mrk.json", "images": ["frontal.csv"]}
    (tmp_path / "both.json").write_text(json.dumps(listed))
    again = raylign(
        "register",
        scene.volume,
        scene.xray,
        "--init",
        tmp_path / "both.json",
        "--starts",
        "1",
        "--out",
        tmp_path / "out",
        "--json",
    )
    assert json.loads(again.stdout)["start"] == result["start"]


def test_frames_are_honoured(raylign: Command, scene: Scene, tmp_path: Path, clicked: Path) -> None:
    def to_ras(values: dict[str, Any]) -> None:
        values["frame"] = "RAS"
        values["volume"] = {n: [-x, -y, z] for n, (x, y, z) in values["volume"].items()}

    starts = []
    for change in (lambda v: None, to_ras):
        changed(clicked, change)
        run = raylign("register", scene.volume, scene.xray, "--init", clicked, "--starts", "1", "--out", tmp_path / "o", "--json")
        starts.append(json.loads(run.stdout)["start"]["matrix"])
    assert np.allclose(starts[0], starts[1])


def _without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for key in keys:
            del values[key]

    return change


def _marks(update: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda values: values["images"]["xray.dcm"].update(update)


BAD: list[tuple[Callable[[dict[str, Any]], None], tuple[str, ...]]] = [
    (_without("schema"), ("landmarks.json", "schema", "raylign.landmarks/1")),
    (_without("frame"), ("landmarks.json", "frame", "LPS or RAS")),
    (_without("images"), ("landmarks.json", "images|schema")),
    (lambda v: v.update(frame="scanner"), ("landmarks.json", "frame", "SCANNER")),
    (lambda v: v.update(points=[]), ("landmarks.json", "points", "no key")),
    (lambda v: v.update(volume={"head": [1, 2]}), ("landmarks.json", "volume: head", "x, y, z")),
    (lambda v: v.update(volume="gone.mrk.json"), ("landmarks.json", "frame", "gone.mrk.json states its own")),
    (lambda v: v.update(images={"other.dcm": {"head": [1, 2]}}), ("images: other.dcm", "xray.dcm")),
    (lambda v: v.update(images=[{}, {}]), ("images", "2 for 1 X-ray")),
    (_marks({"head": "here"}), ("images: xray.dcm: head", "column, row")),
    (_marks({"hed": [10, 10]}), ("landmarks.json", "hed", "no point of the volume")),
    (_marks({"head": [400, 10]}), ("landmarks.json", "head", "outside of xray.dcm")),
    (_marks(dict.fromkeys(NAMES[2:])), ("landmarks.json", "2 of the 6 landmarks", "head, bar_top", "bar_end")),
    (lambda v: v["volume"].update(head=[0.0, 0.0, 900.0]), ("landmarks.json", "head", "outside the volume", "RAS")),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_landmarks_that_cannot_be(
    raylign: Command,
    scene: Scene,
    tmp_path: Path,
    clicked: Path,
    change: Callable[[dict[str, Any]], None],
    words: tuple[str, ...],
) -> None:
    changed(clicked, change)
    refused(
        raylign, tmp_path / "out", ["register", scene.volume, scene.xray, "--init", clicked, "--out", tmp_path / "out"], *words
    )


def test_marks_that_fit_no_patient(raylign: Command, scene: Scene, tmp_path: Path, clicked: Path) -> None:
    places = np.random.default_rng(4).uniform(10, 118, (6, 2)).tolist()
    changed(clicked, _marks(dict(zip(NAMES, places, strict=True))))
    arguments = ["register", scene.volume, scene.xray, "--init", clicked, "--out", tmp_path / "out"]
    refused(raylign, tmp_path / "out", arguments, "landmarks.json", "marks agree|no pose explains", "check names")


def test_slicer_files_must_state_their_frame(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    held = {"markups": [{"type": "Fiducial", "controlPoints": [{"label": "head", "position": [1, 2, 3]}]}]}
    (tmp_path / "p.mrk.json").write_text(json.dumps(held))
    write_landmarks(marks(scene.pose), tmp_path / "px.csv")
    given = ["register", scene.volume, scene.xray, "--init", tmp_path / "p.mrk.json", "--out", tmp_path / "out"]
    refused(
        raylign, tmp_path / "out", [*given, "--landmarks-2d", tmp_path / "px.csv"], "p.mrk.json", "coordinateSystem", "LPS or RAS"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--landmarks-2d", "px.csv"], ("--landmarks-2d", "--init")),
        (["--init", "search", "--landmarks-2d", "px.csv"], ("--landmarks-2d", "--init")),
        (["--landmark-degrees", "200"], ("--landmark-degrees", "0 to 180")),
        (["--search-depth", "-1"], ("--search-depth", "0 to 1000")),
        (["--geometry-sid", "-2"], ("--geometry-sid", "0 to 500")),
        (["--geometry-principal", "nan"], ("--geometry-principal", "0 to 500")),
        (["--geometry-angle", "45"], ("--geometry-angle", "0 to 30")),
        (["--geometry-angle", "2"], ("--geometry-angle", "one X-ray", "two")),
        (["--labels", "a.nii:x", "--method", "cmaes"], ("--method", "cmaes", "--rest none")),
        (["--labels", "a.nii:x", "--geometry-sid", "5"], ("--geometry-sid", "--labels")),
        (["--labels", "gone.nii:x"], ("gone.nii", "no such file")),
        (["--labels", "nothing"], ("--labels", "LABELMAP:NAME")),
        (["--rest", "masked"], ("--rest", "--labels")),
        (["--starts", "8", "--method", "cmaes"], ("--starts", "--method direct")),
        (["--labels", "a.nii:x", "--rest", "none", "--method", "direct+polish"], ("--method", "last step", "use direct")),
        (["--geometry-sid", "5", "--method", "direct+polish"], ("--geometry-sid", "--method direct")),
        (["--search-mm", "8", "--method", "xreg"], ("--search-mm", "box of its own")),
        (["--search-degrees", "8", "--method", "xreg-wide"], ("--search-degrees", "box of its own")),
        (["--init", "Center"], ("--init", "'Center' is no start; give center, search, anywhere or a file")),
    ],
)
def test_options_that_cannot_be(
    raylign: Command, scene: Scene, tmp_path: Path, options: Sequence[str], words: tuple[str, ...]
) -> None:
    refused(raylign, tmp_path / "out", ["register", scene.volume, scene.xray, *options, "--out", tmp_path / "out"], *words)


def test_points_alone_need_marks_and_poses_take_none(raylign: Command, scene: Scene, tmp_path: Path, clicked: Path) -> None:
    write_landmarks(points(), tmp_path / "p.fcsv")
    write_landmarks(marks(scene.pose), tmp_path / "px.csv")
    given = ["register", scene.volume, scene.xray, "--out", tmp_path / "out", "--init"]
    refused(raylign, tmp_path / "out", [*given, tmp_path / "p.fcsv"], "p.fcsv", "--landmarks-2d", "name,column,row")
    refused(
        raylign, tmp_path / "out", [*given, clicked, "--landmarks-2d", tmp_path / "px.csv"], "landmarks.json", "--landmarks-2d"
    )
    refused(raylign, tmp_path / "out", [*given, scene.truth, "--landmarks-2d", tmp_path / "px.csv"], "truth.json", "pose")
    swapped = [*given, tmp_path / "px.csv", "--landmarks-2d", tmp_path / "px.csv"]
    refused(raylign, tmp_path / "out", swapped, "px.csv", "points in space")


def test_search_begins_wide(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    narrowed = ["--search-degrees", "8", "--search-mm", "12", "--search-depth", "20", "--starts", "64"]
    run = raylign("register", scene.volume, scene.xray, "--init", "search", *narrowed, "--out", tmp_path / "out", "--json")
    assert run.exit_code in (0, 3), run.output
    result = json.loads(run.stdout)
    assert result["inputs"]["init"] == "search"
    assert error_mm(result["pose"]["matrix"], scene) < 0.5


@pytest.fixture
def bones(tmp_path: Path) -> Path:
    whole = body()
    write_volume(Volume((whole.data > 600).float() * 4, whole.affine, "HU"), tmp_path / "bones.nii.gz")
    (tmp_path / "bones.csv").write_text("id,name\n4,skeleton\n")
    return tmp_path / "bones.nii.gz"


@pytest.mark.parametrize("rest", ["modelled", "masked"])
def test_a_structure_among_the_rest(raylign: Command, scene: Scene, tmp_path: Path, bones: Path, rest: str) -> None:
    labels = ["--labels", f"{bones}:skeleton", "--rest", rest]
    run = raylign("register", scene.volume, scene.xray, *labels, "--starts", "16", "--out", tmp_path / "out")
    assert run.exit_code in (0, 3), run.output
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert error_mm(result["pose"]["matrix"], scene) < 2
    # begun where the whole volume was found, which is told beside it
    assert result["start"]["matrix"] == result["structure"]["whole"]["pose"]["matrix"]
    assert result["structure"]["rest"] == rest
    assert result["structure"]["words"] in run.stdout
    assert "skeleton" in (tmp_path / "out" / "report.html").read_text()


def test_a_name_that_is_not_in_the_label_map(raylign: Command, scene: Scene, tmp_path: Path, bones: Path) -> None:
    """Told of the label map, and before the volume is read: there is none."""
    given = ["register", tmp_path / "gone.nii", scene.xray, "--out", tmp_path / "out", "--labels"]
    refused(raylign, tmp_path / "out", [*given, f"{bones}:skull"], "bones.nii.gz: labels: no voxel is labelled 'skull'")


def test_landmarks_are_judged_by_the_whole_scan(
    raylign: Command, scene: Scene, tmp_path: Path, clicked: Path, bones: Path
) -> None:
    labels = ["--labels", f"{bones}:skeleton", "--init", clicked, "--starts", "1"]
    run = raylign("register", scene.volume, scene.xray, *labels, "--out", tmp_path / "out", "--json")
    assert run.exit_code in (0, 3), run.output
    result = json.loads(run.stdout)
    whole, own = (Rigid(torch.tensor(r["pose"]["matrix"])) for r in (result["structure"]["whole"], result))
    away = {m["name"]: m["pose_px"] for m in result["landmarks"]["marks"]}
    clicks = marks(scene.pose)
    told, moved = ((VIEW.project(p.apply(points().points)) - clicks.points).norm(dim=1) for p in (whole, own))
    assert torch.allclose(torch.tensor([away[n] for n in NAMES], dtype=torch.float64), told, atol=1e-4)
    assert not torch.allclose(told, moved, atol=1e-3)


def test_geometry_is_refined(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    """The header's distance is 20 mm short; the pose goes with the corrected view, which the result names."""
    run = raylign("register", scene.volume, scene.xray, "--sid", "980", "--geometry-sid", "30", "--out", tmp_path / "out")
    assert run.exit_code in (0, 3), run.output
    assert any(line.startswith("geometry of xray.dcm: sid ") for line in run.stdout.splitlines()), run.stdout
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    (offsets,) = result["geometry"]["offsets"]
    xray = result["inputs"]["xrays"][0]
    given, refined = (View.from_dict(xray[key]) for key in ("view_given", "view"))
    assert float(given.sid) == pytest.approx(980)
    assert float(refined.sid) - 980 == pytest.approx(offsets[0], abs=1e-6)
    assert offsets[0] != 0 and offsets[1:] == [0] * 5
    for field in ("covariance", "centre"):
        assert np.isfinite(result["uncertainty"][field]).all()
    assert se3.is_rigid(torch.tensor(result["pose"]["matrix"], dtype=torch.float64))


def test_the_scanners_table_is_taken_out_where_asked(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    lying = body()
    lying.data[:, 45, 3:45] = 150.0  # a plate under the back, from the first slice to the last
    write_volume(lying, tmp_path / "lying.nii.gz")
    results, said = [], []
    for volume, table in ((tmp_path / "lying.nii.gz", "remove"), (tmp_path / "lying.nii.gz", "keep"), (scene.volume, "remove")):
        run = raylign("register", volume, scene.xray, "--table", table, "--starts", "1", "--out", tmp_path / "out")
        assert run.exit_code in (0, 3), run.output
        results.append(json.loads((tmp_path / "out" / "result.json").read_text()))
        said.append([line for line in run.stdout.splitlines() if line.startswith(("table", "no table"))])
    removed, kept, without = results
    assert removed["inputs"]["table"].startswith("table taken out: ")
    assert "table" not in kept["inputs"]
    assert without["inputs"]["table"] == "no table was found"
    assert said == [[removed["inputs"]["table"]], [], ["no table was found"]]
    assert "no table was found" in (tmp_path / "out" / "report.html").read_text()
    assert removed["pose"] == without["pose"]  # what was registered is the scan without the plate, to the last voxel
    assert kept["pose"] != without["pose"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "one X-ray does not say where in space a model is"),
        (("--search-mm", 5), "there is no box to state"),
    ],
)
def test_from_nowhere_wants_two_exposures_and_no_box(
    raylign: Command, scene: Scene, tmp_path: Path, more: tuple[object, ...], said: str
) -> None:
    out = tmp_path / "out"
    refused(raylign, out, ["register", scene.volume, scene.xray, "--init", "anywhere", *more, "--out", out], said)


@pytest.mark.parametrize("method", ["cmaes", "xreg"])
def test_from_nowhere_is_the_direct_methods(raylign: Command, scene: Scene, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    words = ["register", scene.volume, scene.xray, scene.xray, "--init", "anywhere", "--method", method, "--out", out]
    refused(raylign, out, words, f"{method} wants a start")


def test_from_nowhere_is_no_start_of_several_bones(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["objects", scene.volume, "--xray", scene.xray, "--init", "anywhere", "--out", out]
    refused(raylign, out, words, "raylign register --init anywhere first")
