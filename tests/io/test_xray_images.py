from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch

from raylign import InputError, View
from raylign.io.images import read_xray_image
from raylign.io.options import ExposureOptions
from raylign.io.views import write_view

H, W = 40, 50
VIEW = View.from_carm(primary=10, secondary=5, sid=1000, sod=700, pixel_spacing=(0.4, 0.4), shape=(H, W))
NONE = ExposureOptions(mask="none", view=VIEW)
# a "bone" that lets less through: dark in counts
COUNTS = np.full((H, W), 200, np.uint8)
COUNTS[15:25, 20:30] = 50


def bone_minus_air(image: torch.Tensor) -> float:
    return float(image[20, 25] - image[2, 2])


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.bmp", "x.nrrd", "x.mha", "x.npy"])
def test_bright_is_air_where_nothing_is_said(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    np.save(file, COUNTS) if name.endswith("npy") else sitk.WriteImage(sitk.GetImageFromArray(COUNTS), str(file))
    xray = read_xray_image(file, NONE)
    assert xray.scale == "monotone"
    assert bone_minus_air(xray.image) == 150
    assert (xray.meta["bright"], xray.meta["bright stated"]) == ("air", False)
    radiograph = read_xray_image(file, ExposureOptions(mask="none", view=VIEW, bright="bone"))
    assert bone_minus_air(radiograph.image) == -150


def test_sixteen_bits_counts_and_stacks(tmp_path: Path) -> None:
    values = COUNTS.astype(np.uint16) * 100
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "x.png"))
    xray = read_xray_image(tmp_path / "x.png", ExposureOptions(mask="none", view=VIEW, relationship="LIN"))
    assert xray.scale == "line-integral"
    assert bone_minus_air(xray.image) == pytest.approx(np.log(4.0), abs=1e-5)
    tifffile.imwrite(tmp_path / "s.tif", np.stack([values, values[::-1] // 2]), photometric="minisblack")
    second = read_xray_image(tmp_path / "s.tif", ExposureOptions(frame=1, mask="none", view=VIEW))
    assert bone_minus_air(second.image) == 7500
    with pytest.raises(InputError, match=r"s\.tif: --frame: there is no frame 2; frames count from 0 to 1"):
        read_xray_image(tmp_path / "s.tif", ExposureOptions(frame=2, view=VIEW))


def test_a_tiff_whose_zero_is_white_is_turned(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", 255 - COUNTS, photometric="miniswhite")
    assert bone_minus_air(read_xray_image(tmp_path / "x.tif", NONE).image) == 150


def test_line_integrals_with_their_view_beside_them(tmp_path: Path) -> None:
    integrals = np.where(COUNTS < 100, 3.5, 0.25).astype(np.float32)
    np.save(tmp_path / "drr.npy", integrals)
    write_view(VIEW, tmp_path / "drr.view.json", relationship="LOG")
    xray = read_xray_image(tmp_path / "drr.npy", ExposureOptions(mask="none"))
    assert xray.view == VIEW
    assert xray.scale == "line-integral"
    assert bone_minus_air(xray.image) == 3.25
    write_view(VIEW, tmp_path / "drr.view.json")
    with pytest.raises(InputError, match=r"drr\.npy: relationship: floating-point .*--relationship"):
        read_xray_image(tmp_path / "drr.npy")


def test_grey_in_three_channels_is_taken_and_colour_is_not(tmp_path: Path) -> None:
    grey = np.stack([COUNTS] * 3, -1)
    sitk.WriteImage(sitk.GetImageFromArray(grey, isVector=True), str(tmp_path / "grey.png"))
    assert bone_minus_air(read_xray_image(tmp_path / "grey.png", NONE).image) == 150
    grey[3, 4, 1] = 7
    sitk.WriteImage(sitk.GetImageFromArray(grey, isVector=True), str(tmp_path / "red.png"))
    with pytest.raises(InputError, match=r"red\.png: channels: the picture is coloured"):
        read_xray_image(tmp_path / "red.png", NONE)


def test_the_geometry_comes_from_numbers_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", COUNTS)
    carm = {"sid": 1000.0, "sod": 700.0, "primary": 10.0, "secondary": 5.0, "pixel_spacing": (0.4, 0.4)}
    xray = read_xray_image(tmp_path / "x.npy", ExposureOptions(mask="none", patient_position="HFS", **carm))  # type: ignore[arg-type]
    assert xray.view.isclose(VIEW)
    with pytest.raises(InputError, match="patient position is missing"):
        read_xray_image(tmp_path / "x.npy", ExposureOptions(**carm))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="both given"):
        read_xray_image(tmp_path / "x.npy", ExposureOptions(view=VIEW, sid=1000.0))


def test_what_is_missing_or_contradicts_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", COUNTS)
    with pytest.raises(InputError, match=r"x\.npy: view: .* --view .* x\.view\.json"):
        read_xray_image(tmp_path / "x.npy")
    with pytest.raises(InputError, match=r"40 x 50 pixels, its geometry 20 x 25"):
        read_xray_image(tmp_path / "x.npy", ExposureOptions(view=VIEW.resample((20, 25))))
    (tmp_path / "x.view.json").write_text(json.dumps({**VIEW.to_dict(), "relationship": "COUNTS"}))
    with pytest.raises(InputError, match=r"x\.view\.json: relationship: 'COUNTS'"):
        read_xray_image(tmp_path / "x.npy")
    for name, values in {"black.npy": np.zeros((H, W), np.uint8), "line.npy": np.zeros(5), "text.npy": np.array(["a"])}.items():
        np.save(tmp_path / name, values)
        with pytest.raises(InputError, match=name):
            read_xray_image(tmp_path / name, NONE)
    np.save(tmp_path / "nan.npy", np.where(COUNTS < 100, np.nan, 1.0))
    with pytest.raises(InputError, match="NaN or infinite"):
        read_xray_image(tmp_path / "nan.npy", ExposureOptions(view=VIEW, relationship="LOG"))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n123")
    (tmp_path / "cut.mha").write_bytes(b"ObjectType = Image\nNDims = 2\nElementDataFile = LOCAL\n")
    capfd.readouterr()
    for name in ("objects.npy", "cut.png", "cut.mha", "none.png", "x.xyz"):
        with pytest.raises(InputError, match=name):
            read_xray_image(tmp_path / name, NONE)
    assert capfd.readouterr().err == ""  # the libraries' C code keeps quiet too


def test_a_wrist_frame_with_its_calibration(shared: Path) -> None:
    folder = shared / "xray" / "wrist_biplane"
    options = ExposureOptions(view=folder / "xr_calib_wrist_cam01.txt")
    xray = read_xray_image(folder / "cam01" / "xr_rad_uln_cam01_UND.0099.tif", options)
    assert xray.view.shape == tuple(xray.image.shape) == (1760, 1760)
    # the wrist attenuates more than the air beside it (bone is dark in these pictures)
    assert float(xray.image[850, 850]) > float(xray.image[850, 1500]) + 50
    # the circle of the intensifier: corners out, the hand in
    assert not bool(xray.mask[5, 5]) and not bool(xray.mask[1750, 5])
    assert bool(xray.mask[820, 840]) and 0.1 < float(xray.mask.float().mean()) < 0.85
