from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from raylign import InputError
from raylign.data import LabelMap, Volume, restricted
from raylign.data.excess import split
from raylign.geometry import se3
from raylign.io.labels import read_label_names, read_labels, resample_labels


def segmentation(dtype: type = np.uint8) -> sitk.Image:
    data = np.zeros((4, 5, 6), dtype)
    data[1:3, 1:4, 1:3], data[3, 4, 5] = 1, 7
    image = sitk.GetImageFromArray(data)
    image.SetSpacing((2.0, 2.0, 3.0))
    return image


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("s_labels.csv", "group,original_idx,structure,id\nbones,4,femur left,1\nbones,9,hip,7\n"),
        ("s.csv", "label,name\n1,femur left\n7,hip\n"),
        ("s_seg.json", '{"1": "femur left", "7": "hip"}'),
        ("s.json", '{"femur left": 1, "hip": 7}'),
    ],
)
def test_names_from_a_table_beside_it(tmp_path: Path, table: str, text: str) -> None:
    sitk.WriteImage(segmentation(), str(tmp_path / "s_seg.nii.gz"))
    (tmp_path / table).write_text(text)
    labels = read_labels(tmp_path / "s_seg.nii.gz")
    assert labels.present() == {1: "femur left", 7: "hip"}
    assert int(labels.mask(["hip"]).sum()) == 1


def test_names_given_beat_names_beside(tmp_path: Path) -> None:
    sitk.WriteImage(segmentation(), str(tmp_path / "s.nrrd"))
    (tmp_path / "s.csv").write_text("id,name\n1,wrong\n")
    (tmp_path / "snap.txt").write_text('# ITK-SnAP\n    0 0 0 0 0 0 0 "Clear Label"\n    1 255 0 0 1 1 1 "femur"\n')
    assert read_labels(tmp_path / "s.nrrd", tmp_path / "snap.txt").present() == {1: "femur", 7: "label 7"}


def test_a_slicer_segmentation_names_itself(tmp_path: Path) -> None:
    image = segmentation()
    for key, value in {
        "Segment0_LabelValue": "1",
        "Segment0_Name": "femur",
        "Segment1_LabelValue": "7",
        "Segment1_Name": "hip",
    }.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "s.seg.nrrd"))
    assert read_labels(tmp_path / "s.seg.nrrd").present() == {1: "femur", 7: "hip"}
    image.SetMetaData("Segment1_Layer", "1")
    sitk.WriteImage(image, str(tmp_path / "s.seg.nrrd"))
    with pytest.raises(InputError, match="overlap"):
        read_labels(tmp_path / "s.seg.nrrd")


def test_resampling_takes_the_nearest_as_itk_does(generator: torch.Generator) -> None:
    data = torch.randint(0, 9, (7, 8, 9), generator=generator)
    source = sitk.GetImageFromArray(data.numpy().astype(np.uint8))
    source.SetSpacing((2.1, 1.9, 3.3))
    source.SetOrigin((3.0, -4.0, 5.0))
    turn = se3.exp(torch.tensor([0.1, 0.2, -0.3, 0, 0, 0], dtype=torch.float64))[:3, :3]
    reference = sitk.Image([11, 12, 13], sitk.sitkInt16)
    reference.SetSpacing((1.3, 1.1, 1.7))
    reference.SetOrigin((1.0, -6.0, 4.0))
    reference.SetDirection(turn.flatten().tolist())
    expected = sitk.GetArrayFromImage(sitk.Resample(source, reference, sitk.Transform(), sitk.sitkNearestNeighbor))
    affines = []
    for image in (source, reference):
        m = torch.eye(4, dtype=torch.float64)
        direction = torch.tensor(image.GetDirection(), dtype=torch.float64).reshape(3, 3)
        m[:3, :3] = direction * torch.tensor(image.GetSpacing(), dtype=torch.float64)
        m[:3, 3] = torch.tensor(image.GetOrigin(), dtype=torch.float64)
        affines.append(m)
    like = Volume(torch.zeros(13, 12, 11), affines[1])
    result = resample_labels(LabelMap(data, affines[0], {1: "a"}), like)
    assert np.array_equal(result.data.numpy(), expected)
    assert result.names == {1: "a"}


def test_labels_of_another_place_are_refused() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    away = eye.clone()
    away[:3, 3] = 500
    with pytest.raises(InputError, match="no label lies inside"):
        resample_labels(LabelMap(torch.ones(3, 3, 3, dtype=torch.int64), away), Volume(torch.zeros(4, 4, 4), eye))


def test_a_label_between_the_voxels_is_refused_as_such() -> None:
    """A voxel of 1 mm in one of 4 mm; another label, which is large enough, does not hide it."""
    coarse, fine = torch.diag(torch.tensor([4.0, 4, 4, 1], dtype=torch.float64)), torch.eye(4, dtype=torch.float64)
    data = torch.zeros(40, 40, 40, dtype=torch.int64)
    data[22, 22, 22] = 1
    volume = Volume(torch.zeros(10, 10, 10), coarse, "HU")
    with pytest.raises(InputError, match="smaller than a voxel"):
        resample_labels(LabelMap(data, fine, {1: "nail"}), volume)
    data[4:16, 4:16, 4:16] = 2
    labels = LabelMap(data, fine, {1: "nail", 2: "cube"})
    for take in (restricted, split):
        with pytest.raises(InputError, match="smaller than a voxel"):
            take(volume, labels, ["nail"])


def test_the_chest_labels_have_their_names(shared: Path) -> None:
    labels = read_labels(shared / "ct" / "lidc0001_chest_seg.nii.gz")
    names = {name.lower() for name in labels.present().values()}
    assert {"spleen", "aorta"} <= names
    assert not any(name.startswith("label ") for name in names)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "a,b\n1,2\n"),
        ("t.csv", "id,name\nx,femur\n"),
        ("t.csv", "id,name\n1,a\n1,b\n"),
        ("t.csv", "id,name\n"),
        ("t.json", "[1]"),
        ("t.json", "{"),
        ("t.txt", "nothing"),
    ],
)
def test_tables_that_do_not_name_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_label_names(tmp_path / name)
    assert name in str(caught.value)


def test_images_and_empty_masks_are_no_label_maps(tmp_path: Path) -> None:
    for name, image in {
        "half.nii": sitk.Image([3, 3, 3], sitk.sitkFloat32) + 0.5,
        "none.nii": sitk.Image([3, 3, 3], sitk.sitkUInt8),
    }.items():
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(InputError, match=name):
            read_labels(tmp_path / name)
    (tmp_path / "seg.dcm").write_bytes(b"x")
    with pytest.raises(InputError, match="DICOM segmentations are not read"):
        read_labels(tmp_path / "seg.dcm")
