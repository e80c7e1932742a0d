"""Calibrations as other packages write them, held to OpenCV's own projection and to RTK's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from raylign import InputError, View
from raylign.geometry import se3
from raylign.geometry.convert import RTKProjection, rtk_xml, to_rtk
from raylign.io.rigs import read_rig
from raylign.io.views import read_view

K = np.array([[1000.0, 0.0, 63.0], [0.0, 1010.0, 47.5], [0.0, 0.0, 1.0]])
R = se3.exp(torch.tensor([0.1, -0.4, 0.2, 0, 0, 0], dtype=torch.float64))[:3, :3].numpy()
T = np.array([10.0, -20.0, 800.0])
POINTS = np.random.default_rng(0).uniform(-60, 60, (20, 3))


def opencv(k: np.ndarray, r: np.ndarray, t: np.ndarray, points: np.ndarray) -> np.ndarray:
    cv2 = pytest.importorskip("cv2")
    return np.asarray(cv2.projectPoints(points, cv2.Rodrigues(r)[0], t, k, None)[0]).reshape(-1, 2)


def close(view: View, pixels: np.ndarray) -> bool:
    return bool(np.allclose(view.project(torch.from_numpy(POINTS)).numpy(), pixels, atol=1e-6))


def storage(path: Path, values: dict[str, np.ndarray | tuple[int, int]]) -> Path:
    cv2 = pytest.importorskip("cv2")
    out = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for name, value in values.items():
        out.write(name, np.asarray(value).reshape(len(value), -1))
    out.release()
    return path


@pytest.mark.parametrize("kind", ["yml", "xml", "json"])
def test_what_opencv_writes_is_what_it_projects(tmp_path: Path, kind: str) -> None:
    values = {"camera_matrix": K, "R": R, "t": T, "distortion_coefficients": np.zeros(5), "image_size": (128, 96)}
    view = read_view(storage(tmp_path / f"c.{kind}", values))
    assert view.shape == (96, 128)
    assert close(view, opencv(K, R, T, POINTS))
    bent = storage(tmp_path / f"bent.{kind}", {**values, "distortion_coefficients": np.array([0.1, 0, 0, 0, 0])})
    with pytest.raises(InputError, match="lens distortion"):
        read_view(bent)


@pytest.mark.parametrize("kind", ["yml", "xml", "json"])
@pytest.mark.parametrize("names", [("K1", "K2", "D1", "D2"), ("cameraMatrix1", "cameraMatrix2", "distCoeffs1", "distCoeffs2")])
def test_a_stereo_pair(tmp_path: Path, kind: str, names: tuple[str, ...]) -> None:
    second = K + np.array([[50, 0, 3], [0, 40, -2], [0, 0, 0]])
    matrices = (K, second, np.zeros(5), np.zeros(5))
    path = storage(
        tmp_path / f"pair.{kind}", {**dict(zip(names, matrices, strict=True)), "R": R, "T": T, "image_size": (128, 96)}
    )
    points = POINTS + np.array([0, 0, 700.0])
    first, other = read_rig(path)
    assert np.allclose(first.project(torch.from_numpy(points)), opencv(K, np.eye(3), np.zeros(3), points), atol=1e-6)
    assert np.allclose(other.project(torch.from_numpy(points)), opencv(second, R, T, points), atol=1e-6)
    with pytest.raises(InputError, match="two cameras"):
        read_view(path)
    for number, words in (("3", "no camera 3"), ("x", "no camera"), ("0", "no camera")):
        with pytest.raises(InputError, match=words):
            read_view(f"{path}#{number}")


def test_one_camera_has_no_second(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"K": K.tolist(), "R": R.tolist(), "t": T.tolist(), "image_size": [128, 96]}))
    assert close(read_view(f"{path}#1"), (lambda c: c[:, :2] / c[:, 2:])((POINTS @ R.T + T) @ K.T))
    assert len(read_rig(path)) == 1
    with pytest.raises(InputError, match="no camera 2"):
        read_view(f"{path}#2")


def test_a_number_that_a_file_of_one_camera_does_not_have_is_refused(tmp_path: Path) -> None:
    views = {"sid": 1000, "sod": 700, "pixel_spacing": [1, 1], "shape": [9, 9], "primary": 0, "secondary": 0}
    (tmp_path / "view.json").write_text(json.dumps(views))
    (tmp_path / "cam.csv").write_text(mayacam(np.array([0, 0, 900.0]), (0, 0, 0), 65, 49, -3000, (128, 96)))
    parallel = {"beam": "parallel", "pixel_spacing": [1, 1], "shape": [9, 9], "primary": 0, "secondary": 0}
    (tmp_path / "parallel.json").write_text(json.dumps(parallel))
    (tmp_path / "rtk.json").write_text(json.dumps({"rtk": "geometry.xml", "projection": 1, "size": [9, 9], "spacing": [1, 1]}))
    for name in ("view.json", "cam.csv", "parallel.json"):
        assert read_view(f"{tmp_path / name}#1").shape == read_view(tmp_path / name).shape
    for name in ("view.json", "cam.csv", "parallel.json", "rtk.json"):
        with pytest.raises(InputError, match="no camera 2") as caught:
            read_view(f"{tmp_path / name}#2")
        assert caught.value.file == str(tmp_path / name)


def mayacam(place: np.ndarray, degrees: tuple[float, float, float], u0: float, v0: float, z: float, size: tuple[int, int]) -> str:
    lines = [place, degrees, (0, 0, 0), (u0, v0, z), (0.1, *size)]
    return "\n".join(",".join(f"{v:.12g}" for v in line) for line in lines) + "\n"


def test_mayacam_1_looks_along_minus_z_with_y_up(tmp_path: Path) -> None:
    path = tmp_path / "cam1.csv"
    # not turned at all: the camera stands before the origin on z and sees x to the right, y up
    path.write_text(mayacam(np.array([0, 0, 900.0]), (0, 0, 0), 65, 49, -3000, (128, 96)))
    view = read_view(path)
    column, row = view.project(torch.tensor([[0.0, 0, 0]], dtype=torch.float64))[0].tolist()
    assert (column, row) == pytest.approx((64.0, 47.0))  # u0 from 1; v0 = 49 from the lowest of 96 rows
    right, up = view.project(torch.tensor([[3.0, 0, 0], [0, 3.0, 0]], dtype=torch.float64)).tolist()
    assert right == pytest.approx([74.0, 47.0]) and up == pytest.approx([64.0, 37.0])


def test_mayacam_1_turned(tmp_path: Path) -> None:
    place, degrees = np.array([-737.5, -514.9, 94.3]), (89.7, -2.0, -55.2)
    path = tmp_path / "cam1.csv"
    path.write_text(mayacam(place, degrees, 840.2, 839.2, -6325.8, (1760, 1700)))
    x, y, z = (math.radians(a) for a in degrees)
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    local = (POINTS - place) @ (about_z @ about_y @ about_x)
    assert (local[:, 2] < 0).all()  # the rig looks at the origin
    pixels = np.stack([839.2 - 6325.8 * local[:, 0] / local[:, 2], 1700 - 839.2 + 6325.8 * local[:, 1] / local[:, 2]], 1)
    assert close(read_view(path), pixels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"z": 3000.0}, "before the camera"),
        ({"place": np.array([0, 0, 90.0])}, "centimetres"),
        ({"size": (0, 0)}, "width and height"),
    ],
)
def test_mayacam_1_refuses_what_may_be_meant_otherwise(tmp_path: Path, change: dict, words: str) -> None:
    told = {"place": np.array([0, 0, 900.0]), "degrees": (0, 0, 0), "u0": 65, "v0": 49, "z": -3000.0, "size": (128, 96)}
    path = tmp_path / "cam1.csv"
    path.write_text(mayacam(**{**told, **change}))
    with pytest.raises(InputError, match=words):
        read_view(path)
    path.write_text("1,2,3\n4,5,6\n")
    with pytest.raises(InputError, match="five lines"):
        read_view(path)


def test_a_projection_of_rtk(tmp_path: Path) -> None:
    first = View.from_carm(primary=20, secondary=-7, sid=1100, sod=700, pixel_spacing=(0.3, 0.4), shape=(100, 120))
    second = View.from_carm(primary=-40, secondary=5, sid=1100, sod=700, pixel_spacing=(0.3, 0.4), shape=(100, 120))
    made: list[RTKProjection] = []
    for number, view in enumerate((first, second), 1):
        projection, image = to_rtk(view)
        made.append(projection)
        said = {"rtk": "g.xml", "projection": number, "size": image.size, "spacing": image.spacing, "origin": image.origin}
        (tmp_path / f"v{number}.json").write_text(json.dumps(said))
    (tmp_path / "g.xml").write_text(rtk_xml(made))
    # RTK's image is stored with its rows upwards: the same pixels, the other way up
    for number, view in enumerate((first, second), 1):
        read = read_view(tmp_path / f"v{number}.json")
        points = torch.from_numpy(POINTS)
        pixels, stored = view.project(points), read.project(points)
        assert torch.allclose(stored[:, 0], pixels[:, 0]) or torch.allclose(stored[:, 0], 119 - pixels[:, 0])
        assert torch.allclose(stored[:, 1], pixels[:, 1]) or torch.allclose(stored[:, 1], 99 - pixels[:, 1])
    with pytest.raises(InputError, match="how its images are sampled"):
        read_view(tmp_path / "g.xml")
    (tmp_path / "v1.json").write_text(json.dumps({"rtk": "g.xml", "projection": 3, "size": [2, 2], "spacing": [1, 1]}))
    with pytest.raises(InputError, match="3 of 2"):
        read_view(tmp_path / "v1.json")
