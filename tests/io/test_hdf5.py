from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from raylign import InputError, View
from raylign.geometry import Rigid, se3
from raylign.geometry.convert import to_xreg
from raylign.io import ExposureOptions, read_xray
from raylign.io.hdf5 import (
    kind_of,
    list_deepfluoro,
    read_deepfluoro_projection,
    read_deepfluoro_specimen,
    read_xreg,
)

VIEW = View.from_carm(primary=30, secondary=-10, sid=1020, sod=600, pixel_spacing=(0.194, 0.194), shape=(12, 16))


def write_camera(group: h5py.Group, names: dict[str, str], view: View, *, frame: bool) -> None:
    camera = to_xreg(view)
    group["intrinsic"], group["extrinsic"] = camera.intrinsic.numpy(), camera.extrinsic.numpy()
    for key, value in zip(("rows", "cols"), view.shape, strict=True):
        group[f"num-{key}"] = value
    for key, value in zip(("row", "col"), view.pixel_spacing, strict=True):
        group[names[key]] = value
    if frame:
        group["cam-coord-frame-type"] = camera.frame_type


def write_image(group: h5py.Group, pixels: np.ndarray, spacing: list[float], origin: list[float]) -> None:
    n = pixels.ndim
    group["dir-mat"], group["pixels"] = np.eye(n), pixels
    group["spacing"], group["origin"] = np.reshape(spacing, (n, 1)), np.reshape(origin, (n, 1))


@pytest.fixture
def xreg(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "proj.h5", "w") as h5:
        h5.attrs["xreg-type"] = "proj-data"
        h5["num-projs"] = 2
        for n in range(2):
            group = h5.create_group(f"proj-{n:03d}")
            write_image(group.create_group("img"), np.full((12, 16), n + 0.5, np.float32), [0.194] * 2, [0, 0])
            write_camera(group.create_group("cam"), {"row": "row-spacing", "col": "col-spacing"}, VIEW, frame=True)
            group["landmarks/FH-l"] = np.array([[3.5], [7.25]])
            if n:
                group["rot-to-pat-up"] = 180
    return tmp_path / "proj.h5"


POSE = Rigid(se3.exp(torch.tensor([0.2, -0.1, 0.3, 20.0, -30.0, 900.0], dtype=torch.float64)))
HIP = [12.0, -4.0, -903.0]


@pytest.fixture
def deepfluoro(tmp_path: Path) -> Path:
    """A file of the published layout whose stored landmarks are where its own pose puts them."""
    with h5py.File(tmp_path / "full.h5", "w") as h5:
        names = {"row": "pixel-row-spacing", "col": "pixel-col-spacing"}
        write_camera(h5.create_group("proj-params"), names, VIEW, frame=False)
        s = h5.create_group("17-1882")
        voxels = np.arange(60, dtype=np.float32).reshape(3, 4, 5) - 1000
        write_image(s.create_group("vol"), voxels, [1, 1, 1], [10, -20, -900])
        write_image(
            s.create_group("vol-seg/image"), (np.arange(60).reshape(3, 4, 5) % 3).astype(np.uint8), [1] * 3, [10, -20, -900]
        )
        s["vol-seg/labels-def/1"], s["vol-seg/labels-def/2"] = "left-hemipelvis", "right-hemipelvis"
        s["vol-landmarks/FH-l"] = np.array(HIP).reshape(3, 1)
        p = s.create_group("projections/005")
        write_image(p.create_group("image"), np.ones((12, 16), np.float32), [0.194] * 2, [0, 0])
        for bone in ("pelvis", "left-femur", "right-femur"):
            p[f"gt-poses/cam-to-{bone}-vol"] = POSE.inverse().matrix.numpy()
        p["gt-poses/left-femur-good-fov"] = 0
        # pixel = intrinsic @ extrinsic @ inverse(cam-to-vol) @ point, by hand
        camera = to_xreg(VIEW)
        in_camera = camera.extrinsic @ torch.linalg.inv(POSE.inverse().matrix) @ torch.tensor([*HIP, 1.0], dtype=torch.float64)
        pixel = camera.intrinsic @ in_camera[:3]
        p["gt-landmarks/FH-l"] = (pixel[:2] / pixel[2]).numpy().reshape(2, 1)
        p["rot-180-for-up"] = 1
    return tmp_path / "full.h5"


def test_an_xreg_file(xreg: Path) -> None:
    assert kind_of(xreg) == "xreg"
    first, second = read_xreg(xreg)
    assert first.view.isclose(VIEW)
    assert float(second.pixels[0, 0]) == 1.5
    assert (first.degrees_to_up, second.degrees_to_up) == (0, 180)
    assert first.landmarks is not None
    assert first.landmarks["FH-l"].tolist() == [3.5, 7.25]


def test_a_deepfluoro_specimen(deepfluoro: Path) -> None:
    assert kind_of(deepfluoro) == "deepfluoro"
    assert list_deepfluoro(deepfluoro) == {"17-1882": ("005",)}
    specimen = read_deepfluoro_specimen(deepfluoro, "17-1882")
    assert specimen.volume.unit == "HU"
    assert (specimen.volume.affine @ torch.tensor([4.0, 3, 2, 1], dtype=torch.float64)).tolist() == [14, -17, -898, 1]
    assert float(specimen.volume.data[2, 3, 4]) == 59 - 1000
    assert specimen.labels.present() == {1: "left-hemipelvis", 2: "right-hemipelvis"}
    assert specimen.landmarks["FH-l"].tolist() == HIP


def test_the_stored_pose_puts_the_landmark_under_its_pixel(deepfluoro: Path) -> None:
    projection = read_deepfluoro_projection(deepfluoro, "17-1882", 5)
    specimen = read_deepfluoro_specimen(deepfluoro, "17-1882")
    seen = projection.view.project(projection.poses["pelvis"].apply(specimen.landmarks.points))
    assert projection.landmarks is not None
    assert torch.allclose(seen, projection.landmarks.points, atol=1e-6)
    assert projection.degrees_to_up == 180
    assert dict(projection.valid) == {"pelvis": True, "left-femur": False, "right-femur": True}


def test_the_loaders_shift_moves_the_volume_by_half_a_millimetre(deepfluoro: Path) -> None:
    stored = read_deepfluoro_projection(deepfluoro, "17-1882", "005").poses["pelvis"]
    shifted = read_deepfluoro_projection(deepfluoro, "17-1882", "005", loader_shift=True).poses["pelvis"]
    world = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    moved = shifted.inverse().apply(world) - stored.inverse().apply(world)
    assert moved[0].tolist() == pytest.approx([-0.5, -0.5, -0.5])


def test_a_projection_becomes_an_exposure(xreg: Path) -> None:
    with h5py.File(xreg, "a") as h5:
        h5["proj-001/img/pixels"][3:6, 4:9] = 3.0
    options = ExposureOptions(frame=1, mask="none", relationship="LOG")
    xray = read_xray(xreg, options)
    assert xray.view.isclose(VIEW)
    assert float(xray.image[4, 5] - xray.image[0, 0]) == 1.5
    with pytest.raises(InputError, match=r"proj\.h5: relationship: .*--relationship"):
        read_xray(xreg, replace(options, relationship=None))
    with pytest.raises(InputError, match=r"no projection 2; projections count from 0 to 1"):
        read_xray(xreg, replace(options, frame=2))
    with pytest.raises(InputError, match="own geometry"):
        read_xray(xreg, replace(options, view=VIEW))


def test_what_is_missing_is_named(tmp_path: Path, xreg: Path, deepfluoro: Path) -> None:
    with pytest.raises(InputError, match=r"full\.h5.*no specimen '99'.*17-1882"):
        read_deepfluoro_specimen(deepfluoro, "99")
    with pytest.raises(InputError, match=r"no projection 007; it has 005"):
        read_deepfluoro_projection(deepfluoro, "17-1882", 7)
    with pytest.raises(InputError, match=r"full\.h5.*num-projs"):
        read_xreg(deepfluoro)
    with h5py.File(xreg, "a") as h5:
        del h5["proj-001/cam/intrinsic"]
    with pytest.raises(InputError, match=r"proj\.h5: /proj-001/cam/intrinsic: missing"):
        read_xreg(xreg)
    with h5py.File(deepfluoro, "a") as h5:
        h5["17-1882/projections/005/gt-poses/cam-to-pelvis-vol"][0, 0] = 5.0
    with pytest.raises(InputError, match=r"cam-to-pelvis-vol.*not rigid"):
        read_deepfluoro_projection(deepfluoro, "17-1882", 5)
    (tmp_path / "no.h5").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no\.h5: cannot be read as HDF5"):
        kind_of(tmp_path / "no.h5")
