"""The parametric upper femur."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.io import read_mesh
from raylign.simulation.phantoms import trunk
from raylign.simulation.phantoms.femur import FemurConfig, proximal_femur
from raylign.simulation.phantoms.femur_shape import UpperFemur
from raylign.simulation.subject import Subject


@pytest.fixture(scope="module")
def patient() -> Subject:
    return proximal_femur(FemurConfig(voxel_mm=(1.6, 1.6, 1.6), shape=(96, 96, 128)), seed=2)


def test_the_grid_of_van_houtte() -> None:
    config = FemurConfig.van_houtte("right")
    coarse = FemurConfig(
        config.side, tuple(4 * v for v in config.voxel_mm), tuple(n // 4 for n in config.shape), config.drop_mm, meshes=False
    )  # type: ignore[arg-type]
    made = proximal_femur(coarse, seed=1)
    assert config.shape == (192, 128, 192) and config.voxel_mm == (0.664, 0.664, 1.0)
    assert tuple(made.volume.data.shape) == (48, 32, 48)
    head, inside = made.landmarks["femur_right/fh"], made.labels.mask(["femur_right"])
    assert float(inside.float().mean()) > 0.02
    assert float((made.volume.centre - head).abs().max()) < 70
    # the right side lies at the patient's right
    assert float(head[0]) < float(made.volume.centre[0]) + 60 and float(head[0]) < -40


def test_the_surface_measures_what_it_was_given(patient: Subject) -> None:
    """Head by a ball through its upper surface; neck and shaft axes through middles of cross-sections."""
    bones = trunk.skeleton(2)
    found = _measured(patient.meshes["femur_left"].vertices.numpy() - np.asarray(FemurConfig().origin), bones.femora[0])
    size = bones.femora[0].size
    assert found["head"] == pytest.approx(2 * size.head_radius, abs=0.6)
    assert found["offset"] == pytest.approx(size.offset, abs=2.0)
    assert found["shaft"] == pytest.approx(2 * size.shaft_radius, abs=2.0)


def test_neck_and_head_follow_their_sizes() -> None:
    """Measured on surfaces of a dozen people, the neck's angle follows the drawn one."""
    drawn, found = [], []
    for seed in range(12):
        femur = trunk.skeleton(seed).femora[0]
        drawn.append(femur.size.neck_shaft)
        found.append(_measured(femur.web.mesh(2.0, "femur").vertices.numpy(), femur)["neck_shaft"])
    assert np.corrcoef(drawn, found)[0, 1] > 0.8
    assert abs(np.mean(drawn) - np.mean(found)) < 6


def test_real_femora_lie_within_the_population(shared: Path) -> None:
    """Head diameters of real bones by the same ball."""
    real = []
    for name in ("m3_lfemur_mm", "m4_lfemur_mm", "m8_lfemur_mm"):
        v = read_mesh(shared / "meshes" / "femur" / f"{name}.stl").vertices.numpy()
        top = v[v[:, 2] > v[:, 2].max() - 60]
        medial = top[top[:, 0] < top[:, 0].min() + 22]
        real.append(2 * _ball(medial)[1])
    drawn = [2 * trunk.skeleton(seed).femora[0].size.head_radius for seed in range(80)]
    assert np.percentile(drawn, 1) - 1 < min(real) and max(real) < np.percentile(drawn, 99) + 1, real


def test_the_shaft_is_a_tube_of_compact_bone_about_marrow() -> None:
    """Across the shaft 110 mm below the head: fat, then compact bone as thick as stated, then muscle."""
    config = FemurConfig(voxel_mm=(0.7, 0.7, 2.0), shape=(128, 128, 80), drop_mm=90.0, noise_hu=0.0, meshes=False)
    made, size = proximal_femur(config, seed=5), trunk.skeleton(5).femora[0].size
    inverse = torch.linalg.inv(made.volume.affine)
    i, j, k = (inverse[:3, :3] @ made.landmarks["femur_left/shaft"] + inverse[:3, 3]).round().int().tolist()
    line = made.volume.data[k, j, i:].numpy()
    assert line[0] < 100
    dense = np.flatnonzero(line[: int(20 / 0.7)] > 650)
    assert line[dense].max() > 950
    assert len(dense) * 0.7 == pytest.approx(size.cortex, abs=1.6)
    assert dense[-1] * 0.7 == pytest.approx(size.shaft_radius, abs=1.8)
    assert -120 < line[int((size.shaft_radius + 6) / 0.7)] < 120


def test_spongy_bone_carries_pressure_and_thins_with_age() -> None:
    bones = [trunk.skeleton(seed) for seed in range(60)]
    age = np.array([b.shape.person.age_years for b in bones])
    density = np.array([b.shape.trabecular for b in bones])
    assert np.corrcoef(age, density)[0, 1] < -0.5
    young = proximal_femur(
        FemurConfig(voxel_mm=(2.0, 2.0, 2.0), shape=(96, 64, 96), noise_hu=0.0, meshes=False), seed=int(age.argmin())
    )
    head = young.landmarks["femur_left/fh"]
    shaft = young.landmarks["femur_left/shaft"]
    assert _hu(young, head) > 150 > _hu(young, shaft)


def test_both_sides_are_alike_but_not_the_same() -> None:
    for seed in range(5):
        left, right = trunk.skeleton(seed).femora
        assert 0 < abs(left.size.head_radius - right.size.head_radius) < 1.2
        assert abs(left.size.neck_shaft - right.size.neck_shaft) < 8
        assert left.centre[0] == -right.centre[0]


@pytest.mark.parametrize("bad", [{"side": "both"}, {"shape": (4, 100, 100)}, {"voxel_mm": (0.1, 1.0, 1.0)}, {"noise_hu": -1.0}])
def test_sampling_out_of_range_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad)).split("_")[0]):
        FemurConfig(**bad)  # type: ignore[arg-type]


def _hu(p: Subject, point: torch.Tensor) -> float:
    inverse = torch.linalg.inv(p.volume.affine)
    i, j, k = (inverse[:3, :3] @ point + inverse[:3, 3]).round().int().tolist()
    return float(p.volume.data[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2].mean())


def _ball(points: np.ndarray) -> tuple[np.ndarray, float]:
    s = np.linalg.lstsq(np.c_[2 * points, np.ones(len(points))], (points**2).sum(1), rcond=None)[0]
    return s[:3], float(np.sqrt(s[3] + s[:3] @ s[:3]))


def _measured(vertices: np.ndarray, femur: UpperFemur) -> dict[str, float]:
    """Sizes of a surface in the trunk's frame; of the femur only the axes are taken for granted."""
    own = (vertices - femur.centre) @ femur.frame.T
    upper = own[(own[:, 2] > -5) & (own[:, 0] < 8)]
    centre, radius = _ball(upper)
    for _ in range(5):  # without what is not the head
        centre, radius = _ball(upper[np.abs(np.linalg.norm(upper - centre, axis=1) - radius) < 1.0])
    low = own[(own[:, 2] < -95) & (own[:, 2] > -105)]
    axis = (low[:, :2].min(0) + low[:, :2].max(0)) / 2
    # the neck: middles of the shells around the head, where the bone is narrowest
    distance = np.linalg.norm(own - centre, axis=1)
    shells = [own[np.abs(distance - k * radius) < 1.0] for k in (1.15, 1.3, 1.45)]
    middles = np.array([(s.min(0) + s.max(0)) / 2 for s in shells])
    direction = (middles - centre).mean(0)
    angle = np.degrees(np.arccos(-direction[2] / np.linalg.norm(direction)))
    return {
        "head": 2 * radius,
        "offset": float(np.linalg.norm(axis - centre[:2])),
        "shaft": float(np.mean(np.ptp(low[:, :2], 0))),
        "neck_shaft": float(180 - angle),
    }
