"""Ventricles from scans: the parametric one found again in voxels drawn from it, and surfaces of labels."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raylign.data import LabelMap, Volume
from raylign.errors import InputError
from raylign.geometry import View
from raylign.methods.imitation_agent.lv import LVMarks, epicardium, fit_left_ventricle, heart_of, labelled_epicardium
from raylign.methods.imitation_agent.models import middle
from raylign.methods.imitation_agent.scans import between_cut_sides, fitted_list, read_scans
from raylign.simulation.phantoms.thorax_heart import Heart, left_cavity, left_outside, pericardium

AXIS = np.array([0.74, -0.45, -0.5]) / np.linalg.norm([0.74, -0.45, -0.5])
TRUTH = Heart(
    (20.0, -10.0, 40.0), tuple(AXIS.tolist()), 82.0, 25.0, 1.06, 0.6, 0.05, (3.0, -2.0),
    (0.03, -0.02, 0.02, 0.01, 0.0, 0.02, 0.0, 0.0), 8.0, 5.0, 1.0, 1.0, (1.0, 1.0),
)  # fmt: skip
PITCH = 2.0


def drawn(noise: float = 15.0) -> Volume:
    """A heart in lung, in voxels: blood in all chambers, muscle about the left ventricle, a papillary muscle in it."""
    first = np.array([-75.0, -110.0, -60.0])
    count = np.array([104, 92, 84])
    z, y, x = np.meshgrid(*(first[k] + PITCH * np.arange(count[k]) for k in (2, 1, 0)), indexing="ij")
    xyz = tuple(a.astype(np.float32) for a in (x, y, z))
    hu = np.full(x.shape, -850.0)
    hu[pericardium(TRUTH, xyz) < 0] = -60.0
    for solid in TRUTH.cavities.values():
        hu[solid.distance(*xyz) < 0] = 420.0
    hu[left_outside(TRUTH, xyz) < 0] = 110.0
    hu[left_cavity(TRUTH, xyz) < 0] = 400.0
    papillary = np.linalg.norm(np.stack([x, y, z], -1) - (TRUTH.centre + np.array([0, 8, 8])), axis=-1) < 5
    hu[papillary] = 110.0
    hu += noise * np.random.default_rng(3).standard_normal(hu.shape)
    affine = torch.diag(torch.tensor([PITCH, PITCH, PITCH, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.from_numpy(first)
    return Volume(torch.from_numpy(hu.astype(np.float32)), affine, "HU")


def marks(off: float = 0.0) -> LVMarks:
    base, apex = TRUTH.along(0.0), TRUTH.along(TRUTH.length)
    side = np.array([off, -off, off])
    return LVMarks(tuple((base + side).tolist()), tuple((apex - side).tolist()))


@pytest.fixture(scope="module")
def scan() -> Volume:
    return drawn()


@pytest.mark.parametrize("off", [0.0, 3.0])
def test_a_ventricle_is_found_again(scan: Volume, off: float) -> None:
    """Marks as a hand gives them, some mm off: the outer surface within a voxel, volumes within some per cent."""
    fit = fit_left_ventricle(scan, marks(off))
    surface = epicardium(fit.heart).vertices.numpy()
    away = np.abs(left_outside(TRUTH, tuple(surface.T)))
    assert float(np.median(away)) < 0.8
    assert float(np.percentile(away, 90)) < 3.0
    assert fit.heart.volume_ml() == pytest.approx(TRUTH.volume_ml(), rel=0.12)
    assert np.linalg.norm(middle(epicardium(fit.heart)).numpy() - middle(epicardium(TRUTH)).numpy()) < 2.5
    assert fit.blood_hu == pytest.approx(400, abs=10)
    assert fit.muscle_hu == pytest.approx(110, abs=15)
    assert max(fit.cavity_mm, fit.outside_mm) < 1.0


def test_what_cannot_be_fitted_is_refused(scan: Volume) -> None:
    with pytest.raises(InputError, match="30 to 150 mm"):
        LVMarks((0.0, 0.0, 0.0), (5.0, 0.0, 0.0))
    with pytest.raises(InputError, match="outside the scan"):
        fit_left_ventricle(scan, LVMarks((500.0, 0.0, 0.0), (560.0, 0.0, 0.0)))
    with pytest.raises(InputError, match="give a scan in HU"):
        fit_left_ventricle(replace(scan, unit="raw"), marks())
    plain = replace(scan, data=scan.data.clamp(max=120.0))
    with pytest.raises(InputError, match="cannot be told apart"):
        fit_left_ventricle(plain, marks())


def test_a_surface_of_labels_encloses_muscle_and_blood(scan: Volume) -> None:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in scan.data.shape), indexing="ij"), -1)[..., ::-1]
    points = index * PITCH + scan.affine.numpy()[:3, 3]
    xyz = tuple(points.reshape(-1, 3).T.astype(np.float32))
    data = np.zeros(len(xyz[0]), np.uint8)
    data[left_outside(TRUTH, xyz) < 0] = 1
    data[left_cavity(TRUTH, xyz) < 0] = 2
    names = {1: "heart_myocardium", 2: "heart_ventricle_left"}
    labels = LabelMap(torch.from_numpy(data.reshape(scan.data.shape)), scan.affine, names)
    mesh = labelled_epicardium(labels, tuple(names.values()))
    away = np.abs(left_outside(TRUTH, tuple(mesh.vertices.numpy().T)))
    assert float(np.percentile(away, 95)) < 1.5
    with pytest.raises(InputError):
        labelled_epicardium(labels, ("heart_myocardium", "nothing"))


def test_hearts_survive_their_records(tmp_path: Path) -> None:
    said = {"name": "one", "ct": "a.nii", "source": "made", "heart": asdict(TRUTH)}
    (tmp_path / "a.nii").write_text("")
    fitted_list(tmp_path / "list.json", [said])
    (scan,) = read_scans(tmp_path / "list.json", tmp_path)
    for name, value in asdict(TRUTH).items():
        np.testing.assert_allclose(getattr(scan.heart, name), value, atol=6e-4)
    assert heart_of(asdict(TRUTH)) == TRUTH
    with pytest.raises(InputError, match="no fitted ventricle"):
        heart_of({"base": [0, 0, 0]})
    (tmp_path / "a.nii").unlink()
    with pytest.raises(InputError, match="is not there"):
        read_scans(tmp_path / "list.json", tmp_path)
    (tmp_path / "list.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        read_scans(tmp_path / "list.json", tmp_path)


def test_rays_beyond_a_cut_side_show_nothing() -> None:
    """A frontal view of a slab of 200 mm: the beam widens, so that rays by its side leave it before its far face."""
    data = torch.full((50, 30, 50), 0.0)
    affine = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-98.0, -58.0, -98.0], dtype=torch.float64)
    view = View.from_carm(primary=0, secondary=0, sid=1200, sod=800, pixel_spacing=3.0, shape=(160, 160))
    pose = torch.eye(4, dtype=torch.float64)
    cut = Volume(data, affine, "HU", truncated=((True, True), (True, True), (False, True)))
    seen = between_cut_sides(cut, view, pose)
    assert seen[80, 80]
    columns, rows = seen[80].nonzero()[:, 0], seen[:, 80].nonzero()[:, 0]
    # the slab's front and back lie within 58 mm of the isocentre; a ray at its side there is 2 mm pixels off the middle
    half = 100 * (800 / (800 + 58)) / 2.0
    assert (len(columns) - 1) / 2 == pytest.approx(half, abs=1.0)
    assert rows[-1] - rows[0] > len(columns)  # the feet were not cut: that side is seen to the image's edge
    assert bool(seen.any(1)[[0, -1]].any())
    assert bool(between_cut_sides(replace(cut, truncated=((False, False), (True, True), (False, False))), view, pose).all())
