"""Whatever is wrong with the input: exit code 1, one line that names file, field, reason and remedy, and nothing left behind."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
import trimesh

from raylign.data import Volume, XRay
from raylign.geometry import View
from raylign.io.images_write import write_volume
from tests.cli.conftest import Scene, body
from tests.io.dicom_files import xa_file

Command = Callable[..., Any]


def refused(raylign: Command, out: Path, arguments: list[object], *words: str) -> str:
    before = sorted(out.parent.rglob("*"))
    result = raylign(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("raylign: ")
    assert ";" in lines[0], "no remedy"
    for word in words:
        assert re.search(word, lines[0]), f"{word!r} is not in {lines[0]!r}"
    assert sorted(out.parent.rglob("*")) == before
    return lines[0]


XRAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no SID": ({"DistanceSourceToDetector": None}, (r"DistanceSourceToDetector \(0018,1110\)", "--sid")),
    "SOD >= SID": ({"DistanceSourceToPatient": 1000.0}, (r"\(0018,1111\)", "1000")),
    "zero spacing": ({"ImagerPixelSpacing": [0.0, 0.0]}, (r"ImagerPixelSpacing \(0018,1164\)", "positive|0")),
    "angles absent": (
        {"PositionerPrimaryAngle": None, "PositionerSecondaryAngle": None},
        (r"PositionerPrimaryAngle \(0018,1510\)", "--primary"),
    ),
    "unknown position": ({"PatientPosition": "XYZ"}, (r"PatientPosition \(0018,5100\)", "XYZ")),
    "no pixels": ({"PixelData": None}, (r"PixelData \(7FE0,0010\)", "no pixels")),
}


@pytest.mark.parametrize("case", XRAYS)
def test_xray_header(raylign: Command, scene: Scene, tmp_path: Path, case: str) -> None:
    changes, words = XRAYS[case]
    xray = xa_file(tmp_path / "bad.dcm", **changes)
    refused(raylign, tmp_path / "out", ["register", scene.volume, xray, "--out", tmp_path / "out"], "bad.dcm", *words)


def test_all_black(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    xray = xa_file(tmp_path / "black.dcm", np.zeros((48, 64), np.uint16))
    refused(raylign, tmp_path / "out", ["register", scene.volume, xray, "--out", tmp_path / "out"], "black.dcm", "all black")


def test_no_dicom(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    xray = tmp_path / "note.dcm"
    xray.write_text("not an image\n" * 50)
    refused(raylign, tmp_path / "out", ["register", scene.volume, xray, "--out", tmp_path / "out"], "note.dcm", "DICOM")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_xray(raylign: Command, scene: Scene, tmp_path: Path, share: float) -> None:
    xray = tmp_path / "cut.dcm"
    whole = scene.xray.read_bytes()
    xray.write_bytes(whole[: int(share * len(whole))])
    refused(raylign, tmp_path / "out", ["register", scene.volume, xray, "--out", tmp_path / "out"], "cut.dcm")


def test_truncated_volume(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    volume = tmp_path / "cut.nii.gz"
    whole = scene.volume.read_bytes()
    volume.write_bytes(whole[: len(whole) // 2])
    refused(raylign, tmp_path / "out", ["register", volume, scene.xray, "--out", tmp_path / "out"], "cut.nii.gz")


def _without_one(folder: Path) -> None:
    (folder / "05.dcm").unlink()


def _shifted(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "05.dcm")
    dataset.ImagePositionPatient = [-90.0, -80.0, float(dataset.ImagePositionPatient[2]) + 3.0]
    dataset.save_as(folder / "05.dcm")


def _two_series(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID += ".2"
        dataset.SOPInstanceUID += ".2"
        dataset.save_as(folder / f"other{file.name}")


def _flat(folder: Path) -> None:
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PixelSpacing = [0.0, 0.0]
        dataset.save_as(file)


def _cut_slice(folder: Path) -> None:
    file = folder / "05.dcm"
    file.write_bytes(file.read_bytes()[:2000])


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without_one, ("missing|gap",)),
        (_shifted, ("spac|uniform|distance|apart",)),
        (_two_series, ("--series",)),
        (_flat, (r"PixelSpacing \(0028,0030\)",)),
        (_cut_slice, (r"05\.dcm",)),
        (_empty, ("DICOM|empty|no ",)),
    ],
)
def test_ct_folder(
    raylign: Command, scene: Scene, tmp_path: Path, ct_dicom: Path, damage: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    damage(ct_dicom)
    refused(raylign, tmp_path / "out", ["register", ct_dicom, scene.xray, "--out", tmp_path / "out"], "/ct", *words)


def test_nan(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    sound = body()
    write_volume(Volume(sound.data, sound.affine, "1/mm"), tmp_path / "nan.nii")
    content = bytearray((tmp_path / "nan.nii").read_bytes())
    content[-400:-396] = np.float32(np.nan).tobytes()
    (tmp_path / "nan.nii").write_bytes(content)
    refused(
        raylign, tmp_path / "out", ["register", tmp_path / "nan.nii", scene.xray, "--out", tmp_path / "out"], "nan.nii", "NaN"
    )


def test_empty_mask(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.zeros((128, 128), np.uint8))
    refused(
        raylign,
        tmp_path / "out",
        ["register", scene.volume, scene.xray, "--mask", tmp_path / "mask.npy", "--out", tmp_path / "out"],
        "mask.npy",
        "--mask",
        "empty",
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("{map}:spleen", ("labels.nii", "spleen", "femur")),
        ("{map}:", ("--labels", "LABELMAP:NAME")),
        ("{map}", ("--labels", "LABELMAP:NAME")),
        ("/nowhere/map.nii:femur", ("/nowhere/map.nii", "no such file")),
    ],
)
def test_labels(raylign: Command, scene: Scene, tmp_path: Path, labels: str, words: tuple[str, ...]) -> None:
    bone = body()
    write_volume(Volume((bone.data > 600).float(), bone.affine, "HU"), tmp_path / "labels.nii")
    (tmp_path / "labels.csv").write_text("id,name\n1,femur\n")
    chosen = labels.format(map=tmp_path / "labels.nii")
    refused(
        raylign, tmp_path / "out", ["register", scene.volume, scene.xray, "--labels", chosen, "--out", tmp_path / "out"], *words
    )


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.zeros((4, 4)), ("pose.json",)),
        (np.diag([1.1, 1.1, 1.1, 1.0]), ("pose.json", "rigid|rotation")),
        (np.diag([-1.0, 1.0, 1.0, 1.0]), ("pose.json", "mirror|rigid|rotation|reflection")),
        (np.eye(4)[:3], ("pose.json", "4x4")),
    ],
)
def test_start_pose(raylign: Command, scene: Scene, tmp_path: Path, matrix: np.ndarray, words: tuple[str, ...]) -> None:
    (tmp_path / "pose.json").write_text(json.dumps({"T_world_from_volume": matrix.tolist()}))
    refused(
        raylign,
        tmp_path / "out",
        ["register", scene.volume, scene.xray, "--init", tmp_path / "pose.json", "--out", tmp_path / "out"],
        *words,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--init", "landmarks.json"], ("landmarks.json", "no such file")),
        (["--init", "nothing.json"], ("nothing.json", "no such file")),
        (["--starts", "0"], ("--starts",)),
        (["--seed", "-1"], ("--seed",)),
        (["--trust", "7"], ("--trust",)),
        (["--search-mm", "nan"], ("--search-mm",)),
        (["--sid", "900", "--sid", "901"], ("--sid", "2 times for 1 X-ray")),
        (["--pixel-spacing", "wide"], ("--pixel-spacing", "wide")),
        (["--frame", "3"], ("--frame", "xray.dcm")),
        (["--view", "gone.json"], ("gone.json", "no such file")),
        (["--material", "metal"], ("--material", "no model is a surface")),
    ],
)
def test_options(raylign: Command, scene: Scene, tmp_path: Path, options: list[str], words: tuple[str, ...]) -> None:
    refused(raylign, tmp_path / "out", ["register", scene.volume, scene.xray, *options, "--out", tmp_path / "out"], *words)


def test_a_model_of_air(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    sound = body()
    write_volume(Volume(torch.full_like(sound.data, -1000.0), sound.affine, "HU"), tmp_path / "air.nii")
    refused(
        raylign, tmp_path / "out", ["register", tmp_path / "air.nii", scene.xray, "--out", tmp_path / "out"], "air.nii", "air"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--unit", "HU"], ("--unit", "a surface has no numbers")),
        (["--series", "1.2"], ("--series", "it is about a CT")),
        (["--table", "remove"], ("--table", "it is about a CT")),
    ],
)
def test_what_only_a_ct_has(raylign: Command, scene: Scene, tmp_path: Path, options: list[str], words: tuple[str, ...]) -> None:
    given = ["register", tmp_path / "bone.stl", scene.xray, *options, "--out", tmp_path / "out"]
    refused(raylign, tmp_path / "out", given, *words)


def test_a_mesh_in_metres(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    box = trimesh.creation.box((0.04, 0.05, 0.06))
    box.export(tmp_path / "bone.stl")
    given = ["register", tmp_path / "bone.stl", scene.xray, "--out", tmp_path / "out"]
    refused(raylign, tmp_path / "out", given, "bone.stl", "looks like metres")


def test_mesh_without_faces(raylign: Command, tmp_path: Path) -> None:
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    refused(raylign, tmp_path / "out", ["info", tmp_path / "points.obj"], "points.obj", "no faces")


@pytest.mark.parametrize("verb", ["register", "demo", "project", "convert"])
def test_unwritable_output(raylign: Command, scene: Scene, tmp_path: Path, verb: str) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    arguments = {
        "register": ["register", scene.volume, scene.xray, "--out", out],
        "demo": ["demo", "--out", out],
        "project": ["project", scene.volume, "--shape", "16", "-o", out / "drr.npy"],
        "convert": ["convert", scene.truth, "--to", "itk", "-o", out / "pose.json"],
    }[verb]
    refused(raylign, tmp_path / "out", arguments, "file", "cannot be written")  # type: ignore[arg-type]


def test_output_that_is_a_file(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(raylign, tmp_path / "out", ["register", scene.volume, scene.xray, "--out", tmp_path / "file"], "file", "not a folder")


def test_wrong_usage_is_exit_code_two(raylign: Command, scene: Scene) -> None:
    for arguments in (
        ["register"],
        ["register", scene.volume, scene.xray],
        ["convert", "x", "--to", "maya"],
        ["fly"],
        ["demo", "--out"],
    ):
        assert raylign(*arguments).exit_code == 2


def test_a_folder_in_the_place_of_an_output(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    """Noticed at once: before the X-ray is, which is not there."""
    (tmp_path / "out" / "result.json").mkdir(parents=True)
    given = ["register", scene.volume, tmp_path / "gone.dcm", "--out", tmp_path / "out"]
    refused(raylign, tmp_path / "out", given, "result.json", "is a folder", "move it away")


def test_what_the_system_says_is_told_of_the_right_file(tmp_path: Path) -> None:
    from raylign.cli.outputs import staged
    from raylign.errors import InputError

    with pytest.raises(FileNotFoundError), staged(tmp_path / "out"):
        (tmp_path / "input").read_bytes()
    with pytest.raises(InputError, match="--out: cannot be written"), staged(tmp_path / "out") as folder:
        (folder / "missing" / "result.json").write_text("")
    with pytest.raises(InputError, match=r"--out: cannot be written \(No space"), staged(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_pictures_take_the_faces_as_the_registration_did() -> None:
    from raylign.cli.outputs import _for_display
    from raylign.registration import Problem, Result, centred
    from raylign.registration.problem import as_read
    from raylign.registration.result import Confidence

    sides = torch.full((12, 12, 12), 40.0)
    model = Volume(sides, torch.eye(4, dtype=torch.float64), "HU")
    view = View.from_carm(primary=0, secondary=0, sid=1000, sod=700, pixel_spacing=4, shape=(16, 16))
    xray = XRay(torch.zeros(16, 16), view, torch.ones(16, 16, dtype=torch.bool))
    pose = centred(model)
    problem = Problem(model, (xray,), pose)
    for ends in (True, False):
        faces = ((ends, ends), (False, False), (ends, False))
        result = Result(pose, pose, torch.eye(6), torch.zeros(3), 0.5, Confidence(0.9, True), settings={"cut_faces": faces})
        assert _for_display(as_read(problem, result)).truncated == faces
