"""Cases of data that come with exposures: small files of the published layouts, written here and read back."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import raylign
from raylign import InputError, View
from raylign.data import Volume
from raylign.evaluation import recorded
from raylign.evaluation.cases import case_count, make_case, subject_of
from raylign.evaluation.protocol import Protocol, load_protocol
from raylign.evaluation.recorded import reduced
from raylign.geometry import Rigid, se3
from raylign.geometry.convert import to_xreg
from raylign.io.deepfluoro import list_projections
from raylign.io.ljubljana import list_subjects, read_angiogram, read_exposure

VIEW = View.from_carm(primary=20, secondary=5, sid=1020, sod=600, pixel_spacing=(0.97, 0.97), shape=(168, 160))
LIFTED = torch.eye(4, dtype=torch.float64)  # the volume lies 900 mm below its own origin
LIFTED[2, 3] = 900.0
POSES = [Rigid(se3.exp(torch.tensor([0.1 * n, -0.1, 0.05, 4.0 * n, -3.0, 2.0], dtype=torch.float64)) @ LIFTED) for n in range(3)]
POINTS = {"FH-l": [8.0, -4.0, -903.0], "FH-r": [-9.0, 5.0, -897.0]}


@pytest.fixture(autouse=True)
def _forget() -> None:
    recorded._models.clear()
    recorded._in_turn.cache_clear()


def body() -> Volume:
    """Three blocks in a box about (0, 0, -900)."""
    data = torch.full((30, 32, 34), -1000.0)
    data[4:26, 4:28, 4:30] = 0.0
    data[8:14, 8:14, 8:14] = 1200.0
    data[16:22, 12:24, 18:26] = 800.0
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-33.0, -31.0, -929.0])
    return Volume(data, affine, "HU")


def image(group: h5py.Group, pixels: np.ndarray, spacing: list[float], origin: list[float]) -> None:
    n = pixels.ndim
    group["dir-mat"], group["pixels"] = np.eye(n), pixels
    group["spacing"], group["origin"] = np.reshape(spacing, (n, 1)), np.reshape(origin, (n, 1))


@pytest.fixture
def deepfluoro(tmp_path: Path) -> Path:
    """Two specimens of three exposures; one of them does not show enough of the pelvis."""
    volume, file = body(), tmp_path / "deepfluoro" / "ipcai_2020_full_res_data.h5"
    file.parent.mkdir()
    with h5py.File(file, "w") as h5:
        camera = to_xreg(VIEW)
        params = h5.create_group("proj-params")
        params["intrinsic"], params["extrinsic"] = camera.intrinsic.numpy(), camera.extrinsic.numpy()
        params["num-rows"], params["num-cols"] = VIEW.shape
        params["pixel-row-spacing"], params["pixel-col-spacing"] = VIEW.pixel_spacing
        for name in ("17-1882", "18-1109"):
            s = h5.create_group(name)
            origin = volume.affine[:3, 3].tolist()
            image(s.create_group("vol"), volume.data.numpy(), [2, 2, 2], origin)
            image(s.create_group("vol-seg/image"), (volume.data.numpy() > 500).astype(np.uint8), [2] * 3, origin)
            s["vol-seg/labels-def/1"] = "left-hemipelvis"
            for key, point in POINTS.items():
                s[f"vol-landmarks/{key}"] = np.reshape(point, (3, 1))
            for n, pose in enumerate(POSES):
                p = s.create_group(f"projections/{n:03d}")
                counts = 40000 * torch.exp(-raylign.project(volume, VIEW, pose)[0, 0])
                image(p.create_group("image"), counts.numpy().astype(np.float32), [0.97] * 2, [0, 0])
                p["gt-poses/cam-to-pelvis-vol"] = pose.inverse().matrix.numpy()
                p["gt-poses/pelvis-good-fov"] = int((name, n) != ("18-1109", 1))
                p["rot-180-for-up"] = 0
                pixels = VIEW.project(pose.apply(torch.tensor(list(POINTS.values()), dtype=torch.float64)))
                for key, pixel in zip(POINTS, pixels, strict=True):
                    p[f"gt-landmarks/{key}"] = pixel.numpy().reshape(2, 1)
    return tmp_path


def small(name: str, **fields: object) -> Protocol:
    """A shipped protocol for files as small as these."""
    given = load_protocol(name)
    return given.model_copy(update={"subjects": given.subjects.model_copy(update={"reduction": 2, **fields})})


def similar(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.double().numpy().ravel(), b.double().numpy().ravel())[0, 1])


def test_the_cases_of_a_deepfluoro_file(deepfluoro: Path) -> None:
    file = deepfluoro / "deepfluoro" / "ipcai_2020_full_res_data.h5"
    assert list_projections(file) == {"17-1882": ("000", "001", "002"), "18-1109": ("000", "002")}
    assert list_projections(file, "left-femur") == {"17-1882": (), "18-1109": ()}
    given = small("deepfluoro", border=10).model_copy(update={"per_subject": 2})
    assert case_count(given, deepfluoro) == 5
    made = [make_case(given, i, None, deepfluoro) for i in range(5)]
    # two of each specimen in turn, each start in the next bin
    assert [c.name for c in made] == ["17-1882/000", "17-1882/001", "18-1109/000", "18-1109/002", "17-1882/002"]
    assert [c.subject for c in made] == ["17-1882", "17-1882", "18-1109", "18-1109", "17-1882"]
    assert [subject_of(given, i, None, deepfluoro) for i in range(5)] == [c.subject for c in made]
    assert [c.start_name for c in made] == ["0-10mm", "10-20mm", "20-30mm", "30-40mm", "40-50mm"]
    for case in made:
        xray, number = case.xrays[0], int(case.name[-3:])
        assert torch.allclose(case.pose.matrix, POSES[number].matrix) and xray.view.shape == (74, 70)
        with h5py.File(file) as h5:
            stored = h5[f"{case.subject}/projections/{number:03d}/gt-landmarks"]
            pixels = np.stack([stored[key][()].reshape(-1) for key in POINTS])
        # a pixel of the file, less the border, by two: edges coincide
        assert np.allclose(xray.view.project(case.pose.apply(case.targets)), (pixels - 10 + 0.5) / 2 - 0.5, atol=1e-6)
        assert similar(xray.image, raylign.project(case.model, xray.view, case.pose)[0, 0]) > 0.999
        assert case.model.unit == "HU"


def test_a_structure_of_a_specimen_and_specimens_by_name(deepfluoro: Path) -> None:
    given = small("deepfluoro", border=10, labels=("left-hemipelvis",), specimens=("18-1109",))
    assert case_count(given, deepfluoro) == 2
    model = make_case(given, 0, None, deepfluoro).model
    assert float(model.attenuation().data.min()) == 0 and float((model.data > 0).double().mean()) < 0.5
    with pytest.raises(InputError, match=r"specimens: there is no '99'; there are 17-1882, 18-1109"):
        case_count(small("deepfluoro", specimens=("99",)), deepfluoro)
    with pytest.raises(InputError, match=r"there is no case 2; there are 2"):
        recorded.recorded(given.subjects, 2, deepfluoro)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a border of 80 leaves too little"):
        make_case(small("deepfluoro", border=80), 0, None, deepfluoro)


def test_a_file_that_is_another(deepfluoro: Path, tmp_path: Path) -> None:
    other = deepfluoro / "ljubljana"
    other.mkdir()
    os.rename(deepfluoro / "deepfluoro" / "ipcai_2020_full_res_data.h5", other / "ljubljana.h5")
    with pytest.raises(InputError, match=r"ljubljana\.h5: subject01: it has no subjectNN/volume"):
        case_count(load_protocol("ljubljana"), deepfluoro)
    with pytest.raises(InputError, match=r"there is no such file; download .*10\.7281/T1/IFSXNV"):
        case_count(load_protocol("deepfluoro"), deepfluoro)


@pytest.fixture
def ljubljana(tmp_path: Path) -> Path:
    """Two patients, vessels of 2000 in tissue of 100; the world is the volume's frame, of which voxel 0 is the origin."""
    file = tmp_path / "ljubljana" / "ljubljana.h5"
    file.parent.mkdir()
    stored = np.full((40, 36, 32), 100.0, np.float32)  # x, y, z
    stored[5:35, 10:13, 8:11] = 2000.0
    stored[18:21, 10:30, 8:28] = 1500.0
    stored[5:9, 5:9, 20:28] = 2500.0
    clean = np.where(stored < 500, 0, stored)
    affine = torch.diag(torch.tensor([1.0, 1.2, 1.5, 1.0], dtype=torch.float64))
    volume = Volume(torch.from_numpy(np.ascontiguousarray(clean.transpose(2, 1, 0))), affine, "raw")
    to_isocentre = torch.eye(4, dtype=torch.float64)
    to_isocentre[:3, 3] = volume.centre
    with h5py.File(file, "w") as h5:
        for name in ("subject01", "subject02"):
            h5[f"{name}/volume/pixels"], h5[f"{name}/volume/spacing"] = stored, np.array([1.0, 1.2, 1.5])
            h5[f"{name}/points"] = np.array([[20.0, 13.2, 14.0], [19.0, 30.0, 27.0], [7.0, 8.4, 36.0]])
            for key, primary in (("proj-ap", 0), ("proj-lat", 90)):
                view = View.from_carm(primary=primary, secondary=0, sid=1100, sod=750, pixel_spacing=(1.1, 1.1), shape=(100, 90))
                view = view.transformed(to_isocentre)
                camera = to_xreg(view)
                g = h5.create_group(f"{name}/{key}")
                g["intrinsic"], g["extrinsic"] = camera.intrinsic.numpy(), camera.extrinsic.numpy()
                g["row-spacing"], g["col-spacing"] = view.pixel_spacing
                lines = raylign.project(volume, view, Rigid(torch.eye(4, dtype=torch.float64)))[0, 0]
                g["pixels"] = (3000 * torch.exp(-lines / lines.max())).numpy()
    return tmp_path


def test_the_cases_of_the_ljubljana_file(ljubljana: Path) -> None:
    file = ljubljana / "ljubljana" / "ljubljana.h5"
    assert list_subjects(file) == ("subject01", "subject02")
    made = read_angiogram(file, "subject01", 500)
    assert tuple(made.volume.data.shape) == (32, 36, 40) and float(made.volume.data[9, 11, 30]) == 2000
    assert made.volume.spacing == (1.0, 1.2, 1.5) and float(made.volume.data[0, 0, 0]) == 0
    given = small("ljubljana")
    assert case_count(given, ljubljana) == 2 * 2 * 20
    first, later = make_case(given, 0, None, ljubljana), make_case(given, 20, None, ljubljana)
    assert (first.name, later.name) == ("subject01/frontal/start 0", "subject01/lateral/start 0")
    for case in (first, later):
        xray = case.xrays[0]
        assert xray.view.shape == (50, 45) and bool(xray.mask.all())
        _, fine = read_exposure(file, "subject01", case.name.split("/")[1])
        lines = raylign.project(case.model, fine, case.pose)
        meant = -torch.nn.functional.avg_pool2d(torch.exp(-lines / lines.max()), 2).log()[0, 0]
        assert similar(xray.image, meant) > 0.9999 and similar(xray.image, meant.roll(1, 0)) < 0.99
        assert torch.equal(case.pose.matrix, torch.eye(4, dtype=torch.float64))
    both = make_case(small("ljubljana", views="both", subjects=("subject02",)), 0, None, ljubljana)
    assert len(both.xrays) == 2 and both.subject == "subject02" and both.name.startswith("subject02/frontal+lateral")


def test_what_is_wrong_with_a_file_of_angiograms(ljubljana: Path) -> None:
    file = ljubljana / "ljubljana" / "ljubljana.h5"
    with pytest.raises(InputError, match=r"ljubljana\.h5: /subject09: missing"):
        read_angiogram(file, "subject09")
    with pytest.raises(InputError, match=r"view: no exposure 'oblique'; there are frontal, lateral"):
        read_exposure(file, "subject01", "oblique")
    with h5py.File(file, "a") as h5:
        del h5["subject01/proj-ap/extrinsic"]
        h5["subject02/points"][...]
        del h5["subject02/points"]
        h5["subject02/points"] = np.zeros((4, 2))
    with pytest.raises(InputError, match=r"ljubljana\.h5: /subject01/proj-ap/extrinsic: missing"):
        read_exposure(file, "subject01", "frontal")
    with pytest.raises(InputError, match=r"subject02/points: points of shape \(4, 2\)"):
        read_angiogram(file, "subject02")
    (ljubljana / "text.h5").write_text("no")
    with pytest.raises(InputError, match=r"text\.h5: cannot be read as a file of angiograms"):
        list_subjects(ljubljana / "text.h5")


def test_reducing_keeps_places_and_means() -> None:
    pixels = torch.rand(168, 160)
    out, view = reduced(pixels, VIEW, 4, 3)
    assert out.shape == view.shape == (53, 50)
    assert float(out[2, 5]) == pytest.approx(float(pixels[10:13, 19:22].mean()))
    # the middle of a square of nine pixels is where its pixel looks
    assert torch.allclose(view.pixel_centres()[2, 5], VIEW.pixel_centres()[11, 20])
