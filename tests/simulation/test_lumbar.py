"""The parametric lumbar spine."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.simulation.phantoms import trunk, trunk_measures
from raylign.simulation.phantoms.lumbar import LumbarConfig, lumbar
from raylign.simulation.phantoms.trunk_shape import LUMBAR
from raylign.simulation.subject import Subject

LEVELS = ("L5", "L4", "L3", "L2", "L1")
RANGES = {
    "vertebrae_L": (120, 520), "intervertebral_discs": (40, 160), "spinal_cord": (0, 110), "rib_": (120, 900),
    "kidney_left": (15, 45), "aorta": (30, 120), "colon": (-250, 60), "sacrum": (120, 480),
}  # fmt: skip


@pytest.fixture(scope="module")
def patient() -> Subject:
    return lumbar(LumbarConfig(voxel_mm=3.0, mesh_pitch_mm=1.5), seed=4)


@pytest.mark.parametrize("name", RANGES)
def test_structures_measure_what_such_tissue_measures(patient: Subject, name: str) -> None:
    low, high = RANGES[name]
    found = [n for n in patient.labels.present().values() if n.startswith(name)]
    assert found
    for structure in found:
        mean = float(patient.volume.data[patient.labels.mask([structure])].mean())
        assert low <= mean <= high, (structure, mean)


def test_vertebrae_are_closed_with_one_canal(patient: Subject) -> None:
    import trimesh

    for level in LEVELS:
        mesh = patient.meshes[f"vertebrae_{level}"]
        solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
        assert solid.is_watertight and solid.volume > 0 and solid.euler_number == 0, level
        label = float(patient.labels.mask([f"vertebrae_{level}"]).sum()) * 27.0
        assert solid.volume == pytest.approx(label, rel=0.05)


def test_bodies_measure_what_they_were_given(patient: Subject) -> None:
    """On the surface: extents in the vertebra's own axes of the part in front of the canal."""
    bones = trunk.skeleton(4)
    for vertebra in bones.spine.vertebrae[:5]:
        mesh = patient.meshes[f"vertebrae_{vertebra.level}"].vertices.numpy()
        own = (mesh - patient.landmarks[f"vertebrae_{vertebra.level}/body"].numpy()) @ vertebra.axes.T
        width, depth, height = vertebra.size
        body = own[own[:, 1] < 0]
        assert np.ptp(body[:, 0]) == pytest.approx(width, abs=1.5)
        assert -body[:, 1].min() == pytest.approx(depth / 2, abs=1.5)
        middle = own[(np.abs(own[:, 0]) < width / 4) & (np.abs(own[:, 1]) < depth / 4)]
        assert np.ptp(middle[:, 2]) == pytest.approx(height, abs=3.0)  # the ends are hollow


def test_the_curve_is_what_its_landmarks_say() -> None:
    """Lordosis between the upper faces of S1 and L1, measured on points."""
    for seed in range(5):
        bones = trunk.skeleton(seed)
        top = next(v for v in bones.spine.vertebrae if v.level == "L1")
        wedge = bones.shape.spine.body_wedge[LUMBAR.index("L1")]
        lean = np.degrees(np.arctan2(-top.axes[2, 1], top.axes[2, 2])) - wedge / 2
        measured = bones.pelvis.slope - lean
        assert trunk_measures.lumbar_traits(bones)["lordosis_deg"] == pytest.approx(measured, abs=1.5)


def test_the_column_lies_on_the_table() -> None:
    """Back of T11 and back of the sacrum lie at one height, give or take what fat and muscle make up for."""
    for seed in range(40):
        bones = trunk.skeleton(seed)
        line = bones.spine.line
        assert -15 < line[-2, 1] - line[0, 1] < 45
        assert abs(line[-1, 0]) < 20  # over the sacrum


def test_discs_lie_between_bodies(patient: Subject) -> None:
    p = patient.landmarks
    for low, high in pairwise(LEVELS):
        a, b = p[f"vertebrae_{low}/superior"], p[f"vertebrae_{high}/inferior"]
        inverse = torch.linalg.inv(patient.volume.affine)
        i, j, k = (inverse[:3, :3] @ ((a + b) / 2) + inverse[:3, 3]).round().int().tolist()
        assert patient.labels.names[int(patient.labels.data[k, j, i])] == "intervertebral_discs"
        assert float((a - b).norm()) == pytest.approx(patient.traits[f"{high}_disc_mm"], abs=1.0)


# Panjabi et al. 1992, mean of upper and lower endplates, men and women together
PANJABI = {
    "L1_width_mm": 42.3,
    "L3_width_mm": 46.1,
    "L5_width_mm": 48.4,
    "L1_depth_mm": 34.7,
    "L3_depth_mm": 35.0,
    "L5_depth_mm": 33.9,
}


def test_a_population_measures_what_people_measure() -> None:
    rows = [trunk_measures.lumbar_traits(trunk.skeleton(seed)) for seed in range(120)]
    values = {k: np.array([r[k] for r in rows]) for k in rows[0]}
    for trait, mean in PANJABI.items():
        assert abs(values[trait].mean() - mean) < 1.5, trait
        assert 0.03 < values[trait].std() / mean < 0.10
    assert 30 < values["lordosis_deg"].mean() < 55 and 6 < values["lordosis_deg"].std() < 16
    assert values["L1_disc_mm"].mean() < values["L4_disc_mm"].mean()
    assert np.corrcoef(values["lordosis_deg"], values["sacral_slope_deg"])[0, 1] > 0.6
    assert np.percentile(values["scoliosis_deg"], 90) < 12


def test_real_vertebrae_lie_within_the_population(shared: object) -> None:
    """Distances between the middles of neighbouring bodies in a real segmentation at 3 mm."""
    from raylign.io import read_labels

    labels = read_labels(f"{shared}/ct/totalseg_pelvis_3mm_seg.nii.gz")
    own = {29: "L3", 30: "L2", 28: "L4", 31: "L1"}
    middle = {}
    for number, level in own.items():
        index = torch.nonzero(labels.data == number).double().flip(1)
        points = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
        middle[level] = points.mean(0).numpy()
    real = [float(np.linalg.norm(middle[a] - middle[b])) for a, b in (("L4", "L3"), ("L3", "L2"), ("L2", "L1"))]
    drawn = []
    for seed in range(60):
        centre = {v.level: v.centre for v in trunk.skeleton(seed).spine.vertebrae}
        drawn.append([np.linalg.norm(centre[a] - centre[b]) for a, b in (("L4", "L3"), ("L3", "L2"), ("L2", "L1"))])
    low, high = np.min(drawn, 0), np.max(drawn, 0)
    assert (np.array(real) > low - 1).all() and (np.array(real) < high + 1).all(), (real, low, high)


@pytest.mark.parametrize("bad", [{"voxel_mm": 0.1}, {"z_range": (10.0, 0.0)}, {"z_range": (0.0, 900.0)}, {"noise_hu": -1.0}])
def test_sampling_out_of_range_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad)).split("_")[0]):
        LumbarConfig(**bad)  # type: ignore[arg-type]
