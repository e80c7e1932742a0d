from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from raylign import InputError, View
from raylign.data import Landmarks, Mesh
from raylign.geometry import Rigid, se3
from raylign.io.describe import Description, describe
from raylign.io.landmarks import write_landmarks
from raylign.io.meshes import write_mesh
from raylign.io.options import ExposureOptions
from raylign.io.transforms import write_pose
from raylign.io.views import write_view
from raylign.io.wording import direction, view_words

VIEW = View.from_carm(primary=-20, secondary=5, sid=1100, sod=700, pixel_spacing=(0.44, 0.44), shape=(40, 50))


def rows(description: Description) -> dict[str, str]:
    return dict(description.rows)


def test_directions_in_words() -> None:
    assert direction(torch.tensor([0.0, 0.0, -2.0])) == "the feet"
    assert direction(torch.tensor([-1.0, 0.0, 0.0])) == "the patient's right"
    assert direction(torch.tensor([0.0, 1.0, 1.0]) * torch.tensor([1.0, 1.0, 0.5])) == "the back (27 degrees oblique)"


def test_a_carm_in_words_however_the_image_is_turned() -> None:
    said = dict(view_words(VIEW))
    assert said["geometry"] == "C-arm 20.0 degrees RAO, 5.0 degrees cranial"
    assert "source 700.0 mm before the isocentre" in said["distances"]
    assert said["pixel at the isocentre"] == "0.28 x 0.28 mm"
    assert dict(view_words(VIEW.flip(columns=True)))["geometry"].startswith("C-arm 20.0 degrees RAO, 5.0 degrees cranial, image ")
    assert dict(view_words(VIEW.rotate(1)))["geometry"].startswith("C-arm 20.0 degrees RAO, 5.0 degrees cranial, image turned")
    assert "calibrated camera" in dict(view_words(VIEW.crop(slice(0, 20), slice(0, 50))))["geometry"]


def test_a_volume_and_its_cut_faces(tmp_path: Path) -> None:
    data = np.full((10, 20, 20), -1000, np.int16)
    data[:8, 5:15, 5:15] = 40
    image = sitk.GetImageFromArray(data)
    image.SetSpacing((1.0, 1.0, 5.0))
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    found = describe(tmp_path / "ct.nii.gz")
    said = rows(found)
    assert found.kind == "ct"
    assert said["size"] == "20 columns x 20 rows x 10 slices"
    assert said["extent"] == "20 x 20 x 50 mm"
    assert said["orientation"] == "columns run to the patient's left, rows to the back, slices to the head"
    assert said["values"] == "-1000 to 40 HU"
    assert said["cut faces"] == "the body goes on beyond the first slice"
    assert any("5 mm thick" in warning for warning in found.warnings)


def test_labels_with_their_volumes(tmp_path: Path) -> None:
    data = np.zeros((10, 10, 10), np.uint8)
    data[:5] = 3
    image = sitk.GetImageFromArray(data)
    image.SetSpacing((2.0, 2.0, 2.0))
    sitk.WriteImage(image, str(tmp_path / "s_seg.nrrd"))
    (tmp_path / "s_labels.csv").write_text("id,name\n3,femur\n")
    assert rows(describe(tmp_path / "s_seg.nrrd"))["label 3"] == "femur, 4 ml"
    assert describe(tmp_path / "s_labels.csv").kind == "label names"


def test_a_volume_of_unknown_unit_says_so(tmp_path: Path) -> None:
    data = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
    sitk.WriteImage(sitk.GetImageFromArray(data), str(tmp_path / "v.mha"))
    found = describe(tmp_path / "v.mha")
    assert found.kind == "volume"
    assert any("--unit" in warning for warning in found.warnings)


def test_a_picture_before_and_after_it_has_its_geometry(tmp_path: Path) -> None:
    pixels = np.full((40, 50), 180, np.uint8)
    pixels[10:20, 10:30] = 60
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / "x.png"))
    before = describe(tmp_path / "x.png")
    assert before.kind == "picture"
    assert any("x.view.json" in warning for warning in before.warnings)
    write_view(VIEW, tmp_path / "x.view.json")
    after = describe(tmp_path / "x.png", ExposureOptions(mask="none"))
    assert after.kind == "xray"
    assert "20.0 degrees RAO" in rows(after)["geometry"]
    assert any("--bright bone" in warning for warning in after.warnings)
    assert describe(tmp_path / "x.view.json").kind == "view"


def test_a_closed_and_an_open_mesh(tmp_path: Path) -> None:
    corners = torch.tensor([[0.0, 0, 0], [60, 0, 0], [0, 60, 0], [0, 0, 60]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    write_mesh(Mesh(corners, faces), tmp_path / "closed.stl")
    closed = rows(describe(tmp_path / "closed.stl"))
    assert (closed["closed"], closed["volume"], closed["frame"]) == ("yes, watertight", "36 ml", "LPS, as the file says")
    write_mesh(Mesh(corners / 1000, faces[:3]), tmp_path / "open.ply")
    found = describe(tmp_path / "open.ply")
    assert rows(found)["closed"].startswith("no, 3 edges")
    assert any("millimetres" in warning for warning in found.warnings)


def test_points_poses_and_hdf5(tmp_path: Path) -> None:
    write_landmarks(Landmarks(("a",), torch.tensor([[1.0, 2.0, 3.0]])), tmp_path / "p.mrk.json")
    assert rows(describe(tmp_path / "p.mrk.json"))["a"] == "1.00, 2.00, 3.00"
    pose = Rigid(se3.exp(torch.tensor([0.0, 0.0, torch.pi / 6, 0.0, 0.0, 9.0], dtype=torch.float64)))
    for name in ("pose.tfm", "pose.txt", "pose.h5", "pose.json"):
        write_pose(pose, tmp_path / name)
        assert rows(describe(tmp_path / name))["rotation"] == "30.000 degrees about (0.000, 0.000, 1.000)", name
    with h5py.File(tmp_path / "other.h5", "w") as h5:
        h5["x"] = 1
    with pytest.raises(InputError, match="unknown layout"):
        describe(tmp_path / "other.h5")


def test_a_folder_of_exposures_and_one_with_nothing(shared: Path, tmp_path: Path) -> None:
    found = describe(shared / "cases" / "lidc0001" / "plain")
    assert found.kind == "folder"
    assert rows(found)["000.dcm"] == "DICOM XA"
    with pytest.raises(InputError):
        describe(tmp_path)


def test_the_chest_and_an_exposure_of_it(shared: Path) -> None:
    ct = describe(shared / "ct" / "lidc0001_chest")
    assert ct.kind == "ct"
    assert rows(ct)["size"] == "512 columns x 512 rows x 133 slices"
    assert rows(ct)["body part"] == "CHEST"
    xray = rows(describe(shared / "cases" / "lidc0001" / "real" / "000.dcm"))
    assert xray["geometry"] == "C-arm 20.1 degrees LAO, 7.1 degrees cranial"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.md", b"text"),
        ("a.json", b'{"x": 1}'),
        ("a.json", b"[]"),
        ("a.csv", b"1;2;3"),
        ("a.txt", b"hello\n"),
        ("a.dcm", b"nothing"),
        ("a.nii.gz", b"\x1f\x8b\x08garbage"),
        ("a.nrrd", b"NRRD0004\ntype: short\n\n"),
        ("a.mha", b"ObjectType = Image\n"),
        ("a.png", b"\x89PNG"),
        ("a.vtk", b"# vtk DataFile"),
        ("a", b"x"),
        ("a.yml", b"- 1\n"),
    ],
)
def test_what_is_unsupported_or_broken_is_one_line(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        describe(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
