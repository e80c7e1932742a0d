"""The chest as it is described, without voxels: sizes against published intervals, variation, and who cuts into whom."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from raylign.simulation import Subject, ThoraxConfig, thorax
from raylign.simulation.phantoms import thorax_heart, thorax_marks
from raylign.simulation.phantoms.surface_checks import self_intersections
from raylign.simulation.phantoms.surfaces import mesh_volume
from raylign.simulation.phantoms.thorax import chest_of
from raylign.simulation.phantoms.thorax_checks import clearances
from raylign.simulation.phantoms.thorax_draw import Chest

# measure: interval of healthy women, of healthy men; sources in docs/phantoms.md
PUBLISHED = {
    "lv_volume_ml": ((86, 178), (106, 214)),
    "lv_long_axis_mm": ((70, 95), (76, 107)),
    "wall_thickness_mm": ((3.5, 7.1), (4.1, 8.5)),
    "heart_width_mm": ((103, 155), (106.8, 154.8)),
    "cardiothoracic_ratio": ((0.382, 0.574), (0.388, 0.544)),
    "rib_pairs": ((11, 13), (11, 13)),
}


@pytest.fixture(scope="module")
def chests() -> list[Chest]:
    return [chest_of(seed) for seed in range(200, 280)]


@pytest.fixture(scope="module")
def someone() -> Subject:
    return thorax(ThoraxConfig(voxel_mm=2.0), seed=11)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_healthy_people(chests: list[Chest], name: str) -> None:
    values = []
    for chest in chests:
        low, high = PUBLISHED[name][0 if chest.person.female else 1]
        value = thorax_marks.traits(chest)[name]
        assert low <= value <= high
        values.append((value - low) / (high - low))
    if name != "rib_pairs":
        assert np.std(values) > 0.08 and 0.25 < np.mean(values) < 0.75  # spread over the interval, not in a corner of it


def test_parameters_are_tied_as_in_people(chests: list[Chest]) -> None:
    def column(of: object) -> NDArray[np.float64]:
        return np.array([of(c) for c in chests], float)  # type: ignore[operator]

    pairs = {
        "height, length of the spine": (lambda c: c.person.height_mm, lambda c: c.shape.height("T1") - c.shape.height("T12")),
        "body mass index, fat": (lambda c: c.person.bmi, lambda c: c.shape.fat),
        "body surface, ventricle": (lambda c: c.person.bsa_m2, lambda c: c.heart.volume_ml()),
        "age, kyphosis": (lambda c: c.person.age_years, lambda c: c.shape.kyphosis),
        "age, aorta": (lambda c: c.person.age_years, lambda c: c.aorta.ascending),
        "age, loss of bone": (lambda c: c.person.age_years, lambda c: -c.shape.bone_hu),
        "body mass index, level heart": (lambda c: c.person.bmi, lambda c: c.heart.axis[2]),
    }
    for name, (a, b) in pairs.items():
        assert np.corrcoef(column(a), column(b))[0, 1] > 0.25, name
    men, women = ([c.heart.volume_ml() for c in chests if c.person.female == f] for f in (False, True))
    assert np.mean(men) - np.mean(women) > 20


def test_shapes_do_not_collapse_onto_a_few_components(chests: list[Chest]) -> None:
    def spectrum(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        a = np.stack([r.ravel() for r in rows])
        values = np.linalg.svd(a - a.mean(0), compute_uv=False) ** 2
        return np.asarray(np.cumsum(values) / values.sum())

    marks = [thorax_marks.points(c) for c in chests]
    shared = sorted(set.intersection(*(set(m) for m in marks)))
    points = spectrum([np.stack([m[k] for k in shared]) for m in marks])
    assert points[0] < 0.7 and int(np.searchsorted(points, 0.95)) + 1 >= 7
    left = spectrum([(c.heart.left_points(12, 16, True) - c.heart.base) @ c.heart.frame.T / c.heart.length for c in chests])
    assert left[0] < 0.6 and int(np.searchsorted(left, 0.95)) + 1 >= 5


@pytest.mark.parametrize("seed", [0, 17, 206, 233, 271])
def test_nothing_cuts_into_anything(seed: int) -> None:
    gaps = clearances(chest_of(seed))
    assert gaps.pop("wall") > 1.5 and gaps.pop("heart_chest") > 2 and gaps.pop("ribs_ribs") > 3
    assert gaps.pop("ribs_shoulder") > -1.5  # the clavicle glides on the first rib
    assert all(gap > -1e-3 for gap in gaps.values()), gaps


def test_the_ventricle_is_what_its_numbers_say(chests: list[Chest]) -> None:
    for chest in chests[:12]:
        heart = chest.heart
        for outside, solid in ((False, thorax_heart.left_cavity), (True, thorax_heart.left_outside)):
            points = heart.left_points(20, 24, outside)
            x, y, z = (c.astype(np.float32) for c in points.T)
            assert abs(solid(heart, (x, y, z))).max() < 0.05
        ring = np.linalg.norm(heart.left_points(2, 64, False)[:64] - heart.base, axis=1)
        assert 0.7 * heart.radius < ring.min() and ring.max() < 1.25 * heart.radius
        apex, tip = (heart.left_points(2, 1, outside)[-1] for outside in (False, True))
        assert np.linalg.norm(tip - apex) == pytest.approx(heart.apex_wall, rel=0.25)
        assert heart.apex_wall < 0.75 * heart.wall


def test_meshes_are_closed_and_agree_with_numbers_and_voxels(someone: Subject) -> None:
    counts = {"heart_ventricle_left": 0.03, "vertebrae_T7": 0.1, "rib_left_6": 0.12, "sternum": 0.1, "heart_atrium_left": 0.1}
    assert {"heart_lv_epicardium", "heart_ventricle_right", "heart_atrium_left", "sternum", "body"} < set(someone.meshes)
    for name, mesh in someone.meshes.items():
        body = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
        assert body.is_watertight and body.is_winding_consistent and body.volume > 0, name
        assert mesh.name == name
        if name.startswith(("heart", "rib_left_1", "vertebrae_T")):
            assert self_intersections(mesh) == 0, name
    assert mesh_volume(someone.meshes["heart_ventricle_left"]) / 1000 == pytest.approx(someone.traits["lv_volume_ml"], rel=0.01)
    outer = mesh_volume(someone.meshes["heart_lv_epicardium"]) / 1000
    assert (outer - someone.traits["lv_volume_ml"]) * 1.05 == pytest.approx(
        someone.traits["lv_mass_g"], rel=0.12
    )  # and the valves' plate
    for name, tolerance in counts.items():
        voxels = float(someone.labels.mask([name]).sum()) * 8.0
        assert voxels == pytest.approx(mesh_volume(someone.meshes[name]), rel=tolerance), name


def test_a_vertex_of_the_cavity_lies_within_the_outer_surface_and_other_blood_without(someone: Subject) -> None:
    heart = chest_of(11).heart
    origin = np.array(ThoraxConfig().origin)

    def at(name: str) -> tuple[NDArray[np.float32], ...]:
        return tuple(c.astype(np.float32) for c in (someone.meshes[name].vertices.numpy() - origin).T)

    assert thorax_heart.left_outside(heart, at("heart_ventricle_left")).max() < -1.0  # type: ignore[arg-type]
    for name in ("heart_ventricle_right", "heart_atrium_left", "heart_atrium_right", "aorta", "pulmonary_artery"):
        assert thorax_heart.left_outside(heart, at(name)).min() > 0.0, name  # type: ignore[arg-type]
    for name in ("lung_left", "lung_right", "liver"):
        assert thorax_heart.pericardium(heart, at(name)).min() > -0.5, name  # type: ignore[arg-type]


def test_meshes_are_made_when_asked_for_and_can_be_left_out(someone: Subject) -> None:
    assert someone.meshes["sternum"] is someone.meshes["sternum"]
    with pytest.raises(KeyError):
        someone.meshes["tail"]
    assert len(thorax(ThoraxConfig(voxel_mm=8.0, meshes=False), seed=11).meshes) == 0


def test_traits_tell_who_and_how_big(someone: Subject) -> None:
    traits = someone.traits
    assert traits["rib_pairs"] in (11, 12, 13) and traits["age_years"] >= 20
    labelled = float(someone.labels.mask(["heart_ventricle_left"]).sum()) * 0.008
    assert labelled == pytest.approx(traits["lv_volume_ml"], rel=0.02)
    apex, mitral = (someone.landmarks[f"heart_ventricle_left/{p}"] for p in ("apex", "mitral"))
    assert 0.85 < float((apex - mitral).norm()) / traits["lv_long_axis_mm"] < 1.15


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for threads in ("1", "3"):
        monkeypatch.setenv("RAYLIGN_THREADS", threads)
        made.append(thorax(ThoraxConfig(voxel_mm=5.0), seed=2))
    assert made[0].volume.data.equal(made[1].volume.data) and made[0].labels.data.equal(made[1].labels.data)
