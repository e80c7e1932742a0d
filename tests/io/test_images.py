from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from raylign import InputError
from raylign.geometry import se3
from raylign.io.images import read_volume_image


def ct(generator: torch.Generator, *, oblique: bool = True) -> sitk.Image:
    data = torch.randint(-1000, 1500, (4, 5, 6), generator=generator).numpy().astype(np.int16)
    data[0, 0, 0] = -1000
    image = sitk.GetImageFromArray(data)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-12.5, 33.25, 400.0))
    if oblique:
        turn = se3.exp(torch.tensor([0.2, -0.3, 0.4, 0, 0, 0], dtype=torch.float64))[:3, :3]
        image.SetDirection(turn.flatten().tolist())
    return image


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd", "v.nhdr", "v.mha", "v.mhd"])
def test_voxels_lie_where_itk_puts_them(tmp_path: Path, generator: torch.Generator, name: str) -> None:
    image = ct(generator)
    sitk.WriteImage(image, str(tmp_path / name))
    volume = read_volume_image(tmp_path / name)
    assert volume.unit == "HU"
    assert np.array_equal(volume.data.numpy(), sitk.GetArrayFromImage(image))
    for index in ((0, 0, 0), (5, 0, 0), (0, 4, 0), (0, 0, 3), (3, 2, 1)):
        here = volume.affine @ torch.tensor([*index, 1.0], dtype=torch.float64)
        assert here[:3].tolist() == pytest.approx(image.TransformIndexToPhysicalPoint(index), abs=2e-4)


def patched(image: sitk.Image, file: Path, *changes: tuple[int, str, tuple[float, ...]]) -> Path:
    sitk.WriteImage(image, str(file))
    header = bytearray(file.read_bytes())
    for at, code, values in changes:
        struct.pack_into(code, header, at, *values)
    file.write_bytes(header)
    return file


def test_a_sheared_nifti_is_read_as_it_says(
    tmp_path: Path, generator: torch.Generator, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = (0.7, 0.1, 0.0, 5.0, 0.0, 0.8, 0.0, 6.0, 0.0, 0.0, 2.5, 7.0)
    file = patched(ct(generator), tmp_path / "s.nii", (252, "<2h", (0, 1)), (280, "<12f", rows))
    volume = read_volume_image(file)
    lps = volume.affine @ torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64)
    assert lps[:3].tolist() == pytest.approx([-(0.7 + 0.2 + 5), -(1.6 + 6), 7.5 + 7], abs=1e-5)
    assert capfd.readouterr().err == ""


def test_qform_alone_and_sform_alone_agree(tmp_path: Path, generator: torch.Generator) -> None:
    image = ct(generator)
    q = read_volume_image(patched(image, tmp_path / "q.nii", (252, "<2h", (1, 0))))
    s = read_volume_image(patched(image, tmp_path / "s.nii", (252, "<2h", (0, 1))))
    assert torch.allclose(q.affine, s.affine, atol=1e-4)


def test_the_scanners_form_beats_another_and_rivals_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    image = ct(generator)
    elsewhere = (292, "<f", (500.0,))
    first = read_volume_image(patched(image, tmp_path / "a.nii", (252, "<2h", (1, 2)), elsewhere))
    assert torch.allclose(first.affine, read_volume_image(patched(image, tmp_path / "b.nii")).affine, atol=1e-4)
    with pytest.raises(InputError, match=r"c\.nii: sform, qform: .* different places"):
        read_volume_image(patched(image, tmp_path / "c.nii", (252, "<2h", (1, 1)), elsewhere))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((252, "<2h", (0, 0)), "neither sform nor qform"),
        ((80, "<f", (0.0,)), "voxel size"),
        ((344, "<4s", (b"\0\0\0\0",)), "ANALYZE"),
    ],
)
def test_nifti_without_geometry_is_refused(tmp_path: Path, generator: torch.Generator, change: tuple, says: str) -> None:
    file = patched(ct(generator), tmp_path / "x.nii", change)
    with pytest.raises(InputError, match=says) as caught:
        read_volume_image(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("v.nrrd", b"space: left-posterior-superior\n", b"", "space"),
        ("v.nrrd", b"left-posterior-superior", b"scanner-xyz", "scanner-xyz"),
        ("v.nrrd", b"space directions: (0.69999999999999996", b"space directions: (0.0", "voxel size"),
        ("v.mha", b"ElementSpacing", b"ElementNothing", "ElementSpacing"),
        ("v.mha", b"ElementSpacing = 0.69999999999999996", b"ElementSpacing = 0.0", "voxel size"),
    ],
)
def test_nrrd_and_mha_without_geometry_are_refused(
    tmp_path: Path, generator: torch.Generator, name: str, old: bytes, new: bytes, says: str
) -> None:
    file = tmp_path / name
    sitk.WriteImage(ct(generator, oblique=False), str(file))
    before = file.read_bytes()
    after = before.replace(old, new)
    assert after != before
    file.write_bytes(after)
    with pytest.raises(InputError, match=says) as caught:
        read_volume_image(file)
    assert str(file) in str(caught.value)


def test_a_series_in_time_colour_and_a_plane_are_refused(tmp_path: Path) -> None:
    for name, image in {
        "time.nii": sitk.Image([3, 3, 3, 2], sitk.sitkInt16),
        "colour.nrrd": sitk.Image([3, 3, 3], sitk.sitkVectorUInt8, 3),
        "plane.mha": sitk.Image([3, 3], sitk.sitkInt16),
        "thin.mha": sitk.Image([3, 3, 1], sitk.sitkInt16),
    }.items():
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(InputError, match=name):
            read_volume_image(tmp_path / name)


def test_nan_is_counted_and_refused(tmp_path: Path) -> None:
    data = np.full((3, 3, 3), -1000, np.float32)
    data[1, 1, :2] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(data), str(tmp_path / "n.nii"))
    with pytest.raises(InputError, match=r"n\.nii: data: 2 voxels are NaN"):
        read_volume_image(tmp_path / "n.nii")


def test_the_unit_is_told_by_clear_numbers_or_asked_for(tmp_path: Path) -> None:
    def write(low: float, high: float, kind: type = np.int16) -> Path:
        data = np.full((3, 3, 3), low, kind)
        data[1, 1, 1] = high
        sitk.WriteImage(sitk.GetImageFromArray(data), str(tmp_path / "u.mha"))
        return tmp_path / "u.mha"

    assert read_volume_image(write(-1000, 1500)).unit == "HU"
    assert read_volume_image(write(0, 4095)).unit == "raw"
    assert read_volume_image(write(0, 4095), unit="HU").unit == "HU"
    for low, high, kind in ((-100, 300, np.int16), (0, 255, np.uint8), (0, 0.05, np.float32), (0, 1000.5, np.float32)):
        with pytest.raises(InputError, match=r"u\.mha: unit: .*--unit"):
            read_volume_image(write(low, high, kind))
    assert read_volume_image(write(0, 0.05, np.float32), unit="1/mm").unit == "1/mm"


def test_the_cut_out_radius_is_not_taken_for_hu(shared: Path) -> None:
    radius = read_volume_image(shared / "xray" / "wrist_biplane" / "models" / "radius.nrrd")
    assert radius.unit == "raw"
    assert radius.spacing == pytest.approx((0.39625, 0.39625, 0.625))
    assert read_volume_image(shared / "ct" / "totalseg_pelvis_3mm_ct.nii.gz").unit == "HU"


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd", "v.mha"])
@pytest.mark.parametrize("keep", [0, 10, 300, 0.6])
def test_files_cut_short_are_one_clear_line(tmp_path: Path, generator: torch.Generator, name: str, keep: float) -> None:
    image = sitk.GetImageFromArray(torch.randint(-1000, 1500, (20, 20, 20), generator=generator).numpy().astype(np.int16))
    sitk.WriteImage(image, str(tmp_path / name))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(InputError) as caught:
        read_volume_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def minimal_nifti(order: str, two: bool, slope: float, intercept: float) -> bytes:
    """A 4 x 3 x 2 image of int16 with an oblique qform, written field by field."""
    header = bytearray(544 if two else 352)

    def put(one: int, second: int, formats: tuple[str, str], *values: float) -> None:
        struct.pack_into(order + formats[two], header, second if two else one, *values)

    struct.pack_into(order + "i", header, 0, 540 if two else 348)
    header[4:12] = b"n+2\0\r\n\x1a\n" if two else header[4:12]
    header[344:348] = b"n+1\0" if not two else header[344:348]
    put(40, 16, ("8h", "8q"), 3, 4, 3, 2, 1, 1, 1, 1)
    put(70, 12, ("h", "h"), 4)
    put(72, 14, ("h", "h"), 16)
    put(76, 104, ("8f", "8d"), -1, 0.5, 0.75, 2, 0, 0, 0, 0)
    put(108, 168, ("f", "q"), len(header))
    put(112, 176, ("2f", "2d"), slope, intercept)
    put(123, 500, ("B", "i"), 2)
    put(252, 344, ("2h", "2i"), 1, 0)
    put(256, 352, ("6f", "6d"), 0.1, 0.2, -0.3, 10, -20, 30)
    return bytes(header) + np.arange(-1200, 1200, 100, dtype=order + "i2").tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("scale", [(0.0, 0.0), (1.0, 0.0), (2.0, -50.0)])
def test_nifti_of_either_kind_and_order_agrees_with_itk(
    tmp_path: Path, order: str, two: bool, scale: tuple[float, float]
) -> None:
    (tmp_path / "n.nii").write_bytes(minimal_nifti(order, two, *scale))
    volume = read_volume_image(tmp_path / "n.nii")
    (tmp_path / "one.nii").write_bytes(minimal_nifti(order, False, *scale))
    image = sitk.ReadImage(str(tmp_path / "one.nii"))  # ITK does not know NIfTI-2: the same image in the old form
    assert np.array_equal(volume.data.numpy(), sitk.GetArrayFromImage(image))
    assert float(volume.data[0, 0, 0]) == (-1200 if scale[0] in (0, 1) else -2450)
    for index in ((0, 0, 0), (3, 2, 1)):
        here = volume.affine @ torch.tensor([*index, 1.0], dtype=torch.float64)
        assert here[:3].tolist() == pytest.approx(image.TransformIndexToPhysicalPoint(index), abs=1e-4)
