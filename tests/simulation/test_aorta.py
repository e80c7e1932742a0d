"""Parametric arteries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from raylign import View, project
from raylign.data import Mesh
from raylign.errors import InputError
from raylign.projection.mesh import project_mesh
from raylign.simulation.phantoms.aorta import AortaConfig, anatomy, aorta, centrelines, vessels
from raylign.simulation.phantoms.aorta_lumen import surface
from raylign.simulation.phantoms.aorta_sizes import draw_sizes
from raylign.simulation.phantoms.aorta_tubes import arc_length, bend, clearance
from raylign.simulation.phantoms.population import draw_person
from raylign.simulation.seeds import numpy_generator
from raylign.simulation.subject import Subject

COARSE = AortaConfig(voxel_mm=4.0, region="whole", noise_hu=0.0)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return aorta(COARSE, seed=4)


def _trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def _at(subject: Subject, point: torch.Tensor) -> tuple[int, int, int]:
    i, j, k = (torch.linalg.inv(subject.volume.affine) @ torch.cat([point, torch.ones(1)]))[:3].round().int().tolist()
    return k, j, i


@pytest.mark.parametrize("name", ["arteries_lumen", "arteries_wall"])
def test_the_tree_is_one_closed_surface(subject: Subject, name: str) -> None:
    mesh = _trimesh(subject.meshes[name])
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.body_count == 1
    assert mesh.euler_number == 2  # a sphere with branches: no handles, so that no two vessels have grown together
    assert mesh.volume > 0


def test_the_lumen_lies_inside_the_wall(subject: Subject) -> None:
    lumen, wall = (_trimesh(subject.meshes[n]) for n in ("arteries_lumen", "arteries_wall"))
    assert 1.1 < wall.volume / lumen.volume < 1.9
    some = lumen.vertices[:: len(lumen.vertices) // 200]
    gap, _ = cKDTree(wall.vertices).query(some)
    assert 0.4 < np.median(gap) < 4.0 and gap.min() > 0.3


def test_voxels_and_surface_come_from_one_description() -> None:
    """The shadow of the contrast agent in the scan is the thickness of the lumen's surface, ray by ray."""
    bright, plain = (
        aorta(AortaConfig(voxel_mm=2.0, region="lower", half_width_mm=100, noise_hu=0, contrast_hu=hu, meshes=hu > 0), 2)
        for hu in (500.0, 0.0)
    )
    blood = replace(bright.volume, data=(bright.volume.data - plain.volume.data) / 500, unit="raw")
    size = (96, 60)
    view = View.from_parallel(primary=0, secondary=0, pixel_spacing=(3.0, 3.0), shape=size)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = -bright.volume.centre
    seen = project(blood, view, pose)[0, 0].double()
    thick = project_mesh(bright.meshes["arteries_lumen"], view, pose)[0, 0].double()
    inside = slice(4, 92)  # the surface goes on beyond the scan
    assert float(seen[inside].sum()) == pytest.approx(float(thick[inside].sum()), rel=0.1)  # narrow arteries are coarse in both
    assert float(torch.corrcoef(torch.stack([seen[inside].flatten(), thick[inside].flatten()]))[0, 1]) > 0.97


def test_blood_is_in_the_arteries(subject: Subject) -> None:
    names = subject.labels.present().values()
    assert {"aorta", "iliac_artery_left", "iliac_artery_right", "femoral_artery_left", "renal_artery_right"} <= set(names)
    assert {"sacrum", "hip_left", "femur_right", "vertebrae_L4", "heart", "lung_left", "kidney_right"} <= set(names)
    assert not any(n.startswith("label ") for n in names)
    inside = subject.labels.mask(["aorta"])
    assert float(subject.volume.data[inside].quantile(0.8)) == pytest.approx(342, abs=3)
    plain = aorta(AortaConfig(voxel_mm=4.0, region="whole", noise_hu=0.0, contrast_hu=0.0, meshes=False), seed=4)
    change = subject.volume.data - plain.volume.data
    assert float(change[inside].quantile(0.8)) == pytest.approx(300, abs=3)
    assert float(change[subject.labels.mask(["vertebrae_L2"])].abs().median()) == 0


def test_landmarks_lie_where_they_say(subject: Subject) -> None:
    p = subject.landmarks
    assert len(p.names) > 40
    for name, structure in {
        "aorta/arch_apex": "aorta",
        "aorta/sinotubular_junction": "aorta",
        "iliac_artery_left/bifurcation": "iliac_artery_left",
        "vertebrae_L3/body": "vertebrae_L3",
        "femur_right/head": "femur_right",
    }.items():
        assert subject.labels.names[int(subject.labels.data[_at(subject, p[name])])] == structure
    assert p["femur_left/head"][0] > p["aorta/bifurcation"][0] > p["femur_right/head"][0]
    assert p["aorta/arch_apex"][2] > p["celiac_trunk/ostium"][2] > p["superior_mesenteric_artery/ostium"][2]
    assert p["superior_mesenteric_artery/ostium"][2] > p["renal_artery_left/ostium"][2] > p["aorta/bifurcation"][2]
    assert p["aorta/commissure_right_left"][2] > p["aorta/hinge_left"][2] - 15


def test_the_root_measures_what_it_says() -> None:
    """Hinge points, commissures and the widest part of the sinuses, on a fine surface of the root."""
    made = anatomy(3)
    root, sizes = made.tree.root, made.tree.root.sizes
    vertices = surface(made.tree, False, 1.0, np.zeros(3), "lumen").vertices.numpy()
    local = (vertices - root.centre) @ root.axes.T
    near = (
        (local[:, 2] > -3)
        & (local[:, 2] < sizes.root_height)
        & (np.hypot(local[:, 0], local[:, 1]) < 1.25 * sizes.radius["sinus"])
    )
    angle = np.degrees(np.arctan2(local[:, 1], local[:, 0]))
    for n in range(3):
        cusp = near & (np.abs((angle - 120 * n + 180) % 360 - 180) < 8)
        reach = np.hypot(local[cusp, 0], local[cusp, 1])
        # coronary arteries leave two of the sinuses
        assert np.quantile(reach, 0.9) == pytest.approx(sizes.radius["sinus"], abs=1.2 if n == 2 else 4)
        hinge = root.place(120.0 * n, sizes.radius["annulus"], 0.0)
        assert np.linalg.norm(vertices - hinge, axis=1).min() < 0.9
        between = (
            near & (np.abs((angle - 60 - 120 * n + 180) % 360 - 180) < 6) & (np.abs(local[:, 2] - 0.6 * sizes.root_height) < 3)
        )
        assert np.hypot(local[between, 0], local[between, 1]).mean() < 0.93 * sizes.radius["sinus"]
    for cusp in range(2):
        assert (root.ostium(cusp) - root.centre) @ root.axes[2] == pytest.approx(sizes.ostia[cusp], abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_no_vessel_cuts_itself_or_another(seed: int) -> None:
    tree = anatomy(seed).tree
    assert clearance(tree.tubes) > 1.0
    assert min(bend(t) for t in tree.tubes) > 1.05
    assert tree["aorta"].points[-1, 2] > tree["common_iliac_artery_left"].points[-1, 2]


def test_patients_differ_and_seeds_repeat() -> None:
    small = AortaConfig(voxel_mm=8.0, region="lower", meshes=False)
    a, b, c = aorta(small, 1), aorta(small, 1), aorta(small, 2)
    assert torch.equal(a.volume.data, b.volume.data) and a.id == "aorta-000001"
    shared = [n for n in a.landmarks.names if n in c.landmarks.names]
    assert max(float((a.landmarks[n] - c.landmarks[n]).norm()) for n in shared) > 5
    fine = aorta(AortaConfig(voxel_mm=5.0, region="whole", meshes=False), 1)
    assert all(torch.allclose(a.landmarks[n], fine.landmarks[n]) for n in a.landmarks.names if n in fine.landmarks.names)


def test_diameters_are_those_of_the_framingham_study() -> None:
    """Outer diameters, mm (Rogers et al. 2013): ascending 34.1 and 31.9, descending 25.8 and 23.1, infrarenal 19.3 and 16.7."""
    rows: dict[bool, list[tuple[float, ...]]] = {False: [], True: []}
    ages, radii = [], []
    for seed in range(600):
        person = draw_person(numpy_generator(seed, 1))
        sizes = draw_sizes(person, numpy_generator(seed, 4, 1))
        if 36 < person.age_years < 66:
            rows[person.female].append(
                tuple(2 * (sizes.radius[n] + sizes.wall) for n in ("ascending", "descending", "infrarenal"))
            )
        ages.append(person.age_years)
        radii.append(sizes.radius["ascending"])
    for woman, published in ((False, (34.1, 25.8, 19.3)), (True, (31.9, 23.1, 16.7))):
        measured = np.array(rows[woman])
        assert len(measured) > 100
        assert np.abs(measured.mean(0) - published).max() < 1.0
        assert (measured.std(0) > 1.5).all() and (measured.std(0) < 4.5).all()
    assert np.corrcoef(ages, radii)[0, 1] > 0.3


def test_centrelines_follow_the_lumen(subject: Subject) -> None:
    lines = centrelines(4, COARSE)
    assert set(lines) == {t.name for t in vessels(4)}
    points = lines["aorta"][5::7]
    number = subject.labels.number("aorta")
    hits = [int(subject.labels.data[_at(subject, p)]) == number for p in points]
    assert np.mean(hits) > 0.95
    assert float((lines["aorta"][-1] - subject.landmarks["aorta/bifurcation"]).norm()) < 1e-9


def test_old_vessels_are_longer() -> None:
    """The thoracic aorta lengthens and the vessels wander more with age; averages over the first patients of each kind."""
    ages, lengths = [], []
    for seed in range(24):
        made = anatomy(seed)
        ages.append(made.person.age_years)
        lengths.append(arc_length(made.tree["aorta"].points)[-1] / made.trunk.stature)
    assert np.corrcoef(ages, lengths)[0, 1] > 0.2


@pytest.mark.parametrize(
    "bad", [{"voxel_mm": 0.1}, {"region": "head"}, {"half_width_mm": 5.0}, {"noise_hu": -1.0}, {"mesh_mm": 9.0}]
)
def test_sampling_out_of_range_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        AortaConfig(**bad)  # type: ignore[arg-type]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="negative"):
        aorta(AortaConfig(meshes=False), seed=-1)
