"""CT from DICOM: where every voxel lies, what it measures, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.sequence import Sequence

from raylign import InputError
from raylign.io import list_series, read_volume
from tests.io.dicom_files import ENHANCED_CT, FRAME, ct_folder, ct_slice, group, item, new, set_pixels, slice_pixels


def test_slices_are_ordered_by_position_and_become_hounsfield_units(tmp_path: Path) -> None:
    volume = read_volume(ct_folder(tmp_path))
    expected = np.stack([slice_pixels(k) for k in range(5)]).astype(np.float32) - 1024
    assert volume.unit == "HU" and volume.data.dtype == torch.float32
    assert np.array_equal(volume.data.numpy(), expected)
    # voxel (i, j, k) = (column, row, slice)
    at = volume.affine @ torch.tensor([3.0, 2.0, 4.0, 1.0], dtype=torch.float64)
    assert at[:3].tolist() == pytest.approx([-10 + 3 * 0.5, -20 + 2 * 0.8, 30 + 4 * 2.5])


@pytest.mark.parametrize(
    "axes",
    [
        ([1, 0, 0], [0, 0, -1]),  # coronal
        ([0, 1, 0], [0, 0, -1]),  # sagittal
        ([-1, 0, 0], [0, -1, 0]),  # axial, feet first display
        ([0.8, 0.6, 0], [-0.6, 0.8, 0]),
    ],
)
def test_any_orientation_agrees_with_itk(tmp_path: Path, axes: tuple[list[float], list[float]]) -> None:
    sitk = pytest.importorskip("SimpleITK")
    normal = np.cross(*axes)
    for k in range(4):
        position = (np.array([5.0, -7.0, 11.0]) + 1.5 * k * normal).tolist()
        ct_slice(tmp_path / f"{k}.dcm", k, ImageOrientationPatient=[*axes[0], *axes[1]], ImagePositionPatient=position)
    volume = read_volume(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    for index in ((0, 0, 0), (7, 0, 0), (0, 5, 0), (0, 0, 3), (3, 2, 1)):
        i, j, k = index
        ours = (volume.affine @ torch.tensor([i, j, k, 1.0], dtype=torch.float64))[:3].tolist()
        assert ours == pytest.approx(image.TransformIndexToPhysicalPoint(index), abs=1e-5)
        assert float(volume.data[k, j, i]) == image.GetPixel(index)


def test_padding_is_air(tmp_path: Path) -> None:
    for k in range(3):
        pixels = slice_pixels(k)
        pixels[0, :3] = -2000
        # 63536 is -2000 as many scanners write it; the element is unsigned in the file
        path = ct_slice(tmp_path / f"{k}.dcm", k, pixels)
        ds = pydicom.dcmread(path)
        ds.add_new(0x00280120, "US", 63536)
        ds.save_as(path)
    data = read_volume(tmp_path).data
    assert bool((data[:, 0, :3] == -1000).all()) and float(data[0, 0, 3]) == 1003 - 1024


def test_rescale_of_each_slice_counts(tmp_path: Path) -> None:
    for k in range(3):
        ct_slice(tmp_path / f"{k}.dcm", k, RescaleSlope=1 + 0.5 * k, RescaleIntercept=-1000 - k)
    data = read_volume(tmp_path).data.numpy()
    for k in range(3):
        assert np.allclose(data[k], slice_pixels(k) * (1 + 0.5 * k) - 1000 - k)


def test_unused_high_bits_are_not_values(tmp_path: Path) -> None:
    for k in range(2):
        pixels = (np.arange(48).reshape(6, 8).astype(np.uint16) + 100) | np.uint16(0xF000)
        ct_slice(tmp_path / f"{k}.dcm", k, pixels, BitsStored=12, HighBit=11)
    assert float(read_volume(tmp_path).data.max()) == 147 - 1024


def test_one_slice_names_its_series(tmp_path: Path) -> None:
    ct_folder(tmp_path)
    assert read_volume(tmp_path / "2.dcm").data.shape == (5, 6, 8)


def test_two_series_are_listed_and_chosen_by_uid(tmp_path: Path) -> None:
    ct_folder(tmp_path / "a", SeriesDescription="thin")
    ct_folder(tmp_path / "b", 3, SeriesInstanceUID="1.2.3.4", SeriesDescription="bone")
    with pytest.raises(InputError, match=r"2 CT series.*thin, 5 slices.*1\.2\.3\.4 \(bone, 3 slices\).*--series UID"):
        read_volume(tmp_path)
    assert read_volume(tmp_path, series="1.2.3.4").data.shape[0] == 3
    with pytest.raises(InputError, match=r"no CT series has the UID '9'"):
        read_volume(tmp_path, series="9")


def test_scouts_captures_and_notes_are_no_part_of_the_volume(tmp_path: Path) -> None:
    ct_folder(tmp_path)
    ct_slice(tmp_path / "scout.dcm", 0, SeriesInstanceUID="1.2.3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    ct_slice(tmp_path / "capture.dcm", 0, SeriesInstanceUID="1.2.4", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    ct_slice(tmp_path / "single.dcm", 0, SeriesInstanceUID="1.2.5")
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / "DICOMDIR").write_bytes(b"nothing")
    assert read_volume(tmp_path).data.shape[0] == 5
    assert {s.slices for s in list_series(tmp_path)} == {5, 1}


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"PixelSpacing": None}, r"PixelSpacing \(0028,0030\): missing"),
    ({"PixelSpacing": [0, 0.5]}, r"PixelSpacing \(0028,0030\): .*not a positive"),
    ({"PixelSpacing": [0.5]}, r"PixelSpacing \(0028,0030\): has 1 values"),
    ({"ImagePositionPatient": None}, r"ImagePositionPatient \(0020,0032\): missing"),
    ({"ImageOrientationPatient": None}, r"ImageOrientationPatient \(0020,0037\): missing"),
    ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, r"ImageOrientationPatient .*not two perpendicular"),
    ({"RescaleSlope": None}, r"RescaleSlope \(0028,1053\): missing"),
    ({"RescaleSlope": 0}, r"RescaleSlope .*zero"),
    ({"RescaleIntercept": None}, r"RescaleIntercept \(0028,1052\): missing"),
    ({"RescaleType": "US"}, r"RescaleType .*'US', not HU"),
    ({"FrameOfReferenceUID": None}, r"FrameOfReferenceUID \(0020,0052\): missing"),
    ({"FrameOfReferenceUID": "1.2.3"}, r"FrameOfReferenceUID .*two frames of reference"),
    ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, r"ImageOrientationPatient .*mixed orientation"),
    ({"PixelSpacing": [0.8, 0.7]}, r"PixelSpacing .*\(0\.8, 0\.7\) mm, but"),
    ({"Rows": 3}, r"Rows .*3 x 8 pixels, but"),
    ({"Rows": 0}, r"Rows .*no pixels"),
    ({"Rows": 65535, "Columns": 65535}, r"Rows .*not plausible"),
    ({"PatientPosition": "XYZ"}, r"PatientPosition .*'XYZ'"),
    ({"ImagePositionPatient": [-10.0, -20.0, 32.5]}, r"ImagePositionPatient .*same place"),
    ({"ImagePositionPatient": [-10.0, -20.0, 36.0]}, r"ImagePositionPatient .*not uniform"),
    ({"PixelData": None}, r"PixelData \(7FE0,0010\): .*no pixels"),
    ({"PixelData": b"\0" * 40}, r"PixelData \(7FE0,0010\): 40 bytes of pixels where 96"),
]


@pytest.mark.parametrize(("changes", "words"), CHANGES, ids=lambda v: str(v)[:40])
def test_one_bad_slice_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    ct_folder(tmp_path)
    ct_slice(tmp_path / "4.dcm", 2, **changes)  # the third of five by position
    with pytest.raises(InputError, match=words) as caught:
        read_volume(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value) and caught.value.remedy


def test_a_missing_slice_is_located(tmp_path: Path) -> None:
    ct_folder(tmp_path, 8)
    gone = next(p for p in tmp_path.iterdir() if read_z(p) == 30 + 2.5 * 3)
    gone.unlink()
    with pytest.raises(InputError, match=r"a slice is missing between 35\.00 mm .* and 40\.00 mm .*2\.50 mm apart"):
        read_volume(tmp_path)


def read_z(path: Path) -> float:
    return float(pydicom.dcmread(path).ImagePositionPatient[2])


def test_gantry_tilt_is_refused(tmp_path: Path) -> None:
    for k in range(5):
        ct_slice(tmp_path / f"{k}.dcm", k, ImagePositionPatient=[0, 0.3 * k, 2.5 * k])
    with pytest.raises(InputError, match=r"gantry tilt of 6\.8 degrees"):
        read_volume(tmp_path)


def test_what_is_no_ct_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_volume(tmp_path / "nowhere")
    with pytest.raises(InputError, match="folder is empty"):
        read_volume(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match="no DICOM file here"):
        read_volume(tmp_path)
    (tmp_path / "a.dcm").write_text("hello " * 100)
    with pytest.raises(InputError, match=r"a\.dcm: not a DICOM file"):
        read_volume(tmp_path)
    with pytest.raises(InputError, match=r"a\.dcm: not a DICOM file"):
        read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("keep", [0, 100, 140, 300, 700, -10])
def test_truncated_files_are_named(tmp_path: Path, keep: int) -> None:
    ct_folder(tmp_path)
    path = tmp_path / "3.dcm"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"3\.dcm|no CT"):
        read_volume(tmp_path)


def enhanced(path: Path, count: int = 4, **changes: Any) -> Path:
    ds = new(ENHANCED_CT, "CT")
    order = [2, 0, 3, 1][:count]
    set_pixels(ds, np.stack([slice_pixels(k) for k in order]))
    ds.FrameOfReferenceUID = FRAME
    ds.SharedFunctionalGroupsSequence = Sequence(
        [
            group(
                PixelMeasuresSequence=item(PixelSpacing=[0.8, 0.5], SliceThickness=2.5),
                PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
                PixelValueTransformationSequence=item(RescaleSlope=2, RescaleIntercept=-1000, RescaleType="HU"),
            )
        ]
    )
    ds.PerFrameFunctionalGroupsSequence = Sequence(
        [group(PlanePositionSequence=item(ImagePositionPatient=[1, 2, 2.5 * k])) for k in order]
    )
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    return path


def test_multi_frame_ct(tmp_path: Path) -> None:
    volume = read_volume(enhanced(tmp_path / "e.dcm"))
    assert np.array_equal(volume.data.numpy(), np.stack([slice_pixels(k) for k in range(4)]) * 2.0 - 1000)
    assert volume.affine[:3, 3].tolist() == [1, 2, 0] and volume.spacing == (0.5, 0.8, 2.5)


def test_multi_frame_ct_without_positions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"PerFrameFunctionalGroupsSequence \(5200,9230\): 0 items for 4 frames"):
        read_volume(enhanced(tmp_path / "e.dcm", PerFrameFunctionalGroupsSequence=Sequence([])))


def test_a_real_ct_agrees_with_itk(shared: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    folder = shared / "ct" / "lidc0001_chest"
    if not folder.is_dir():
        pytest.skip("the chest CT is not on this machine")
    volume = read_volume(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    theirs = sitk.GetArrayFromImage(image)
    kept = theirs != -2000 - 1024  # padding
    assert np.array_equal(volume.data.numpy()[kept], theirs[kept].astype(np.float32))
    assert volume.spacing == pytest.approx(image.GetSpacing(), rel=1e-6)
    assert volume.affine[:3, 3].tolist() == pytest.approx(image.GetOrigin(), abs=1e-4)
