"""The parametric chest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.simulation import Subject, ThoraxConfig, thorax

COARSE = ThoraxConfig(voxel_mm=4.0)
# label (or the beginning of its name), range of the mean HU
RANGES = {
    "lung_left": (-890, -780), "lung_right": (-890, -780), "trachea": (-1024, -900), "subcutaneous_fat": (-115, -70),
    "muscle": (20, 65),
    "heart_myocardium": (35, 65), "heart_ventricle_left": (35, 50), "aorta": (20, 60), "liver": (45, 70), "spleen": (40, 60),
    "kidney_left": (20, 45), "intervertebral_discs": (70, 190), "costal_cartilages": (60, 150), "vertebrae_T": (200, 480),
    "rib_": (350, 800), "sternum": (150, 600), "clavicula": (350, 900), "scapula": (200, 800), "humerus": (200, 700),
}  # fmt: skip


@pytest.fixture(scope="module")
def patient() -> Subject:
    return thorax(seed=4)


@pytest.mark.parametrize("name", RANGES)
def test_structures_measure_what_such_tissue_measures(patient: Subject, name: str) -> None:
    low, high = RANGES[name]
    present = patient.labels.present()
    found = [n for n in present.values() if n == name or (n.startswith(name) and name not in present.values())]
    assert found
    for structure in found:
        if structure == "rib_left_12" or structure == "rib_right_12":
            continue  # hardly thicker than its cortex
        mean = float(patient.volume.data[patient.labels.mask([structure])].mean())
        assert low <= mean <= high, (structure, mean)


def test_every_structure_of_a_chest_is_there(patient: Subject) -> None:
    names = set(patient.labels.present().values())
    assert {f"rib_{s}_{i}" for s in ("left", "right") for i in range(1, 13)} <= names
    assert {f"vertebrae_T{i}" for i in range(1, 13)} <= names
    assert {"sternum", "scapula_left", "scapula_right", "clavicula_left", "clavicula_right", "aorta", "liver", "stomach"} <= names
    assert not any(n.startswith("label ") for n in names)


def test_landmarks_lie_inside_their_structures(patient: Subject) -> None:
    inverse = torch.linalg.inv(patient.volume.affine)
    assert len(patient.landmarks.names) > 30
    for name, point in zip(patient.landmarks.names, patient.landmarks.points, strict=True):
        i, j, k = (inverse[:3, :3] @ point + inverse[:3, 3]).round().int().tolist()
        around = (
            patient.labels.data[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2]
            if _on_a_surface(name)
            else patient.labels.data[k, j, i]
        )
        assert name.split("/")[0] in {patient.labels.names.get(n) for n in around.flatten().tolist()}


def _on_a_surface(name: str) -> bool:
    return name.split("/")[1] in ("apex", "mitral", "valve")


def test_left_is_left_and_head_is_up(patient: Subject) -> None:
    """LPS: x grows to the left, y to the back, z to the head."""
    p = patient.landmarks
    assert p["rib_left_5/middle"][0] > p["vertebrae_T5/body"][0] > p["rib_right_5/middle"][0]
    assert p["vertebrae_T3/body"][2] > p["vertebrae_T9/body"][2]
    assert p["heart_ventricle_left/middle"][1] < p["vertebrae_T8/body"][1]
    assert p["heart_ventricle_left/middle"][0] > p["heart_atrium_right/middle"][0]


def test_the_volume_knows_its_place(patient: Subject) -> None:
    v = patient.volume
    assert v.unit == "HU" and v.spacing == (2.0, 2.0, 2.0)
    assert v.truncated == ((False, False), (False, False), (True, True))
    assert float(v.centre.norm()) > 50
    assert torch.equal(v.affine, patient.labels.affine) and v.data.shape == patient.labels.data.shape
    # air at the sides, the patient at both ends
    assert float(v.data[:, 0].max()) < -900 and float(v.data[:, -1].max()) < -900
    assert float((v.data[0] > -200).float().mean()) > 0.3
    assert float((v.data[-1] > -200).float().mean()) > 0.1


def test_a_seed_is_a_patient() -> None:
    a, b, c = thorax(COARSE, seed=1), thorax(COARSE, seed=1), thorax(COARSE, seed=2)
    assert torch.equal(a.volume.data, b.volume.data)
    assert float((a.landmarks["vertebrae_T7/body"] - c.landmarks["vertebrae_T7/body"]).norm()) > 0.1
    shared = [n for n in a.landmarks.names if n in c.landmarks.names]
    assert max(float((a.landmarks[n] - c.landmarks[n]).norm()) for n in shared) > 3


def test_the_anatomy_does_not_depend_on_the_sampling() -> None:
    coarse, fine = thorax(COARSE, seed=7), thorax(ThoraxConfig(voxel_mm=2.5, z_range=(-120, 190)), seed=7)
    shared = [n for n in coarse.landmarks.names if n in fine.landmarks.names]
    assert len(shared) > 20
    assert all(torch.allclose(coarse.landmarks[n], fine.landmarks[n]) for n in shared)
    chamber = [float(p.labels.mask(["heart_ventricle_left"]).sum()) * p.volume.spacing[0] ** 3 for p in (coarse, fine)]
    assert chamber[0] == pytest.approx(chamber[1], rel=0.05)
    # a label's middle is known to a fraction of the coarser voxel of 4 mm
    for structure in ("heart_ventricle_left", "vertebrae_T6"):
        assert np.linalg.norm(_mean_position(coarse, structure) - _mean_position(fine, structure)) < 1.0


def _mean_position(p: Subject, structure: str) -> np.ndarray:
    k, j, i = torch.nonzero(p.labels.mask([structure])).double().mean(0).tolist()
    return (p.volume.affine @ torch.tensor([i, j, k, 1.0], dtype=torch.float64))[:3].numpy()


def test_contrast_agent_is_in_the_blood_alone() -> None:
    plain, bright = thorax(COARSE, seed=1), thorax(ThoraxConfig(voxel_mm=4.0, contrast_hu=250), seed=1)
    change = bright.volume.data - plain.volume.data
    deep = plain.labels.mask(["heart_ventricle_left"]) & (change != 0)
    assert float(change[deep].median()) == pytest.approx(250, abs=5)
    assert float(change[plain.labels.mask(["liver"])].abs().median()) == 0
    assert float(change[plain.labels.mask(["vertebrae_T7"])].abs().median()) == 0


@pytest.mark.parametrize("bad", [{"voxel_mm": 0.1}, {"z_range": (10.0, 0.0)}, {"z_range": (-900.0, 0.0)}, {"noise_hu": -1.0}])
def test_sampling_out_of_range_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        ThoraxConfig(**bad)  # type: ignore[arg-type]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed"):
        thorax(COARSE, seed=-1)
