"""The parametric pelvis: bones, joints, landmarks, tissue, and the population they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.io import read_mesh
from raylign.simulation.phantoms import trunk, trunk_measures
from raylign.simulation.phantoms.field import Grid
from raylign.simulation.phantoms.lumbar import LumbarConfig, lumbar
from raylign.simulation.phantoms.pelvis import PelvisConfig, pelvis
from raylign.simulation.phantoms.trunk_bones import compact_bones
from raylign.simulation.phantoms.trunk_webs import Web
from raylign.simulation.subject import Subject

BONES = ("hip_left", "hip_right", "sacrum", "femur_left", "femur_right", "vertebrae_L5", "vertebrae_L4")
COARSE = PelvisConfig(voxel_mm=4.0, meshes=False)
# label, range of the mean HU
RANGES = {
    "subcutaneous_fat": (-115, -80), "muscle": (15, 65), "visceral_fat": (-90, 0), "iliopsoas_left": (20, 85),
    "urinary_bladder": (-10, 30), "bowel_gas": (-1024, -350), "intervertebral_discs": (50, 190), "pubic_symphysis": (60, 350),
    "hip_left": (250, 700), "hip_right": (250, 700), "sacrum": (120, 450), "femur_left": (250, 900), "femur_right": (250, 900),
    "vertebrae_L5": (120, 500), "iliac_artery_left": (0, 200),
}  # fmt: skip


@pytest.fixture(scope="module")
def patient() -> Subject:
    return pelvis(PelvisConfig(voxel_mm=3.0, mesh_pitch_mm=1.5), seed=4)


@pytest.mark.parametrize("name", RANGES)
def test_structures_measure_what_such_tissue_measures(patient: Subject, name: str) -> None:
    low, high = RANGES[name]
    inside = patient.labels.mask([name])
    assert int(inside.sum()) > 20
    assert low <= float(patient.volume.data[inside].mean()) <= high


def test_every_bone_is_there_under_a_name(patient: Subject) -> None:
    names = set(patient.labels.present().values())
    assert set(BONES) <= names and not any(n.startswith("label ") for n in names)
    assert set(BONES) <= set(patient.meshes)


@pytest.mark.parametrize("bone", [b for b in BONES if "right" not in b])
def test_surfaces_are_closed_and_agree_with_the_labels(patient: Subject, bone: str) -> None:
    import trimesh

    mesh = patient.meshes[bone]
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert solid.is_watertight and solid.is_winding_consistent and solid.volume > 0
    assert len(solid.split(only_watertight=False)) == 1
    label = patient.labels.mask([bone]).numpy()
    filled = _filled(mesh, patient)
    assert 2 * (label & filled).sum() / (label.sum() + filled.sum()) > 0.97


def test_holes_are_where_anatomy_has_them(patient: Subject) -> None:
    """Euler's number is 2 - 2 holes: the obturator foramen, the vertebral canal, none in the femur, the sacrum's 18 openings."""
    import trimesh

    number = {
        name: trimesh.Trimesh(m.vertices.numpy(), m.faces.numpy(), process=False).euler_number
        for name, m in patient.meshes.items()
    }
    assert number["hip_left"] == number["hip_right"] == 0
    assert number["vertebrae_L5"] == 0
    assert number["femur_left"] == number["femur_right"] == 2
    assert -40 <= number["sacrum"] <= -32  # a spicule may add a handle


def test_heads_sit_in_their_sockets(patient: Subject) -> None:
    """A ball fitted to the acetabulum's surface has the femoral head's centre, and a joint space more radius."""
    for side in ("left", "right"):
        head = patient.landmarks[f"femur_{side}/fh"].numpy()
        vertices = patient.meshes[f"hip_{side}"].vertices.numpy()
        cup = patient.traits["acetabulum_mm"] / 2
        socket = vertices[np.abs(np.linalg.norm(vertices - head, axis=1) - cup) < 1.0]
        assert len(socket) > 500
        centre, radius = _sphere(socket)
        assert np.linalg.norm(centre - head) < 0.6
        assert radius == pytest.approx(cup, abs=0.4)
        bone = patient.meshes[f"femur_{side}"].vertices.numpy()
        assert np.linalg.norm(vertices - head, axis=1).min() > cup - 0.3
        near = bone[np.linalg.norm(bone - head, axis=1) < cup]
        assert radius - np.percentile(np.linalg.norm(near - head, axis=1), 50) == pytest.approx(
            patient.traits["joint_space_mm"], abs=0.8
        )


def test_no_bone_cuts_another_or_falls_apart() -> None:
    from scipy.ndimage import label

    for seed in range(8):
        solids = compact_bones(trunk.skeleton(seed))
        grid = Grid(*(np.arange(a, b, 2.5, dtype=np.float32) for a, b in ((-200, 200), (-90, 150), (-180, 340))), 2.5)
        owner = np.zeros(grid.shape, np.uint8)
        for number, solid in enumerate(solids, 1):
            made = solid.web.on(grid)
            assert made is not None
            inside = made[1] < 0
            assert not owner[made[0]][inside].any(), (seed, solid.name, owner[made[0]][inside].max())
            assert label(inside, np.ones((3, 3, 3)))[1] == 1, (seed, solid.name)
            owner[made[0]][inside] = number


def test_a_web_is_the_distance_to_interpolated_balls() -> None:
    """Against balls placed densely over a triangle and a cone, in double precision."""
    balls = np.array([[0, 0, 0, 5.0], [30, 0, 0, 2], [5, 25, 4, 3], [-20, -10, 12, 6]])
    web = Web(balls, np.array([[0, 1, 2], [0, 3, 3]]))
    a = np.linspace(0, 1, 201)
    u, v = (w.ravel() for w in np.meshgrid(a, a))
    u, v = u[u + v <= 1], v[u + v <= 1]
    dense = np.concatenate(
        [
            balls[0] + u[:, None] * (balls[1] - balls[0]) + v[:, None] * (balls[2] - balls[0]),
            balls[0] + a[:, None] * (balls[3] - balls[0]),
        ]
    )
    points = np.random.default_rng(0).uniform(-25, 40, (60, 3))
    exact = (np.linalg.norm(points[:, None] - dense[None, :, :3], axis=2) - dense[:, 3]).min(1)
    found = web.at(points)
    near = exact < 30
    # where radii change fast the nearest of the interpolated balls is not at the foot of the perpendicular: up to 2 %
    assert np.abs(found - exact)[near].max() < 0.02 * 30 and np.median(np.abs(found - exact)[near]) < 0.15


def test_landmarks_lie_on_their_bones(patient: Subject) -> None:
    named = ("asis", "sps", "ips", "gsn", "iof", "mof")
    assert {f"hip_{s}/{p}" for s in ("left", "right") for p in named} <= set(patient.landmarks.names)
    for name, point in zip(patient.landmarks.names, patient.landmarks.points.numpy(), strict=True):
        bone, which = name.split("/")
        if bone.startswith("hip"):
            gap = np.linalg.norm(patient.meshes[bone].vertices.numpy() - point, axis=1).min()
            assert gap < 2.5, (name, gap)
        elif which in ("fh", "neck", "body", "shaft"):
            i, j, k = _index(patient, point)
            assert patient.labels.names[int(patient.labels.data[k, j, i])] == bone


def test_left_is_left_and_front_is_front(patient: Subject) -> None:
    p = patient.landmarks
    assert p["hip_left/asis"][0] > p["femur_right/fh"][0] + 100
    assert p["hip_left/asis"][1] < p["hip_left/psis"][1] - 80
    assert p["hip_left/sps"][2] > p["hip_left/ips"][2] > p["hip_left/ischial_tuberosity"][2]
    assert p["femur_left/greater_trochanter"][0] > p["femur_left/lesser_trochanter"][0]
    assert p["vertebrae_L4/body"][2] > p["vertebrae_L5/body"][2] > p["femur_left/fh"][2]
    # the spine of the ilium is its foremost point above the hip
    ilium = patient.meshes["hip_left"].vertices.numpy()
    upper = ilium[ilium[:, 2] > float(p["femur_left/fh"][2]) + 50]
    assert float(p["hip_left/asis"][1]) == pytest.approx(upper[:, 1].min(), abs=2.5)


def test_a_seed_is_a_patient_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    a = pelvis(COARSE, seed=1)
    monkeypatch.setenv("RAYLIGN_THREADS", "3")
    b, c = pelvis(COARSE, seed=1), pelvis(COARSE, seed=2)
    assert torch.equal(a.volume.data, b.volume.data) and torch.equal(a.labels.data, b.labels.data)
    assert a.id == "pelvis-000001" and c.id == "pelvis-000002"
    shared = [n for n in a.landmarks.names if n in c.landmarks.names]
    assert max(float((a.landmarks[n] - c.landmarks[n]).norm()) for n in shared) > 5


def test_the_anatomy_does_not_depend_on_the_sampling() -> None:
    coarse, fine = pelvis(COARSE, seed=7), pelvis(PelvisConfig(voxel_mm=2.5, z_range=(-90, 180), meshes=False), seed=7)
    shared = [n for n in coarse.landmarks.names if n in fine.landmarks.names]
    assert len(shared) > 25 and all(torch.allclose(coarse.landmarks[n], fine.landmarks[n]) for n in shared)
    for bone in ("hip_left", "sacrum"):
        size = [float(p.labels.mask([bone]).sum()) * p.volume.spacing[0] ** 3 for p in (coarse, fine)]
        assert size[0] == pytest.approx(size[1], rel=0.03)


def test_pelvis_and_lumbar_spine_are_one_patient() -> None:
    low, high = pelvis(COARSE, seed=3), lumbar(LumbarConfig(voxel_mm=4.0, meshes=False), seed=3)
    assert torch.allclose(low.landmarks["vertebrae_L4/body"], high.landmarks["vertebrae_L4/body"])
    assert all(low.traits[k] == high.traits[k] for k in ("age_years", "female", "height_mm", "sacral_slope_deg"))


def test_contrast_agent_is_in_the_blood_alone() -> None:
    plain, bright = pelvis(COARSE, seed=1), pelvis(PelvisConfig(voxel_mm=4.0, meshes=False, contrast_hu=300), seed=1)
    change = bright.volume.data - plain.volume.data
    artery = change[plain.labels.mask(["iliac_artery_left", "inferior_vena_cava"])]
    assert float(artery.quantile(0.9)) == pytest.approx(300, abs=5)
    assert float(change[plain.labels.mask(["hip_left", "femur_left", "muscle"])].abs().median()) == 0


@pytest.fixture(scope="module")
def population() -> dict[str, np.ndarray]:
    rows = []
    for seed in range(150):
        bones = trunk.skeleton(seed)
        person = bones.shape.person.traits()
        rows.append(person | trunk_measures.pelvis_traits(bones) | trunk_measures.femur_traits(bones))
    return {k: np.array([r[k] for r in rows]) for k in rows[0]}


# trait, sex (1 female), published mean, tolerance, spread at least and at most; sources in docs/phantoms_bones.md
PUBLISHED = (
    ("subpubic_deg", 0, 104, 6, 7, 16), ("subpubic_deg", 1, 136, 9, 7, 16), ("head_diameter_mm", 0, 48, 1.5, 1.5, 3.5),
    ("head_diameter_mm", 1, 43, 1.5, 1.5, 3.0), ("neck_shaft_deg", 0, 121.5, 2.5, 3.5, 8),
    ("neck_shaft_deg", 1, 123.0, 2.5, 3.5, 8),
    ("anteversion_deg", 0, 12.1, 3, 6, 12), ("anteversion_deg", 1, 16.4, 3, 6, 12), ("joint_space_mm", 1, 4.5, 0.8, 0.3, 1.0),
)  # fmt: skip


@pytest.mark.parametrize(("trait", "female", "mean", "off", "least", "most"), PUBLISHED)
def test_a_population_measures_what_people_measure(
    population: dict[str, np.ndarray], trait: str, female: int, mean: float, off: float, least: float, most: float
) -> None:
    values = population[trait][population["female"] == female]
    assert abs(values.mean() - mean) < off and least < values.std() < most


def test_sizes_go_together_as_in_people(population: dict[str, np.ndarray]) -> None:
    p = population
    assert np.corrcoef(p["head_diameter_mm"], p["height_mm"])[0, 1] > 0.6
    assert np.corrcoef(p["hip_height_mm"], p["height_mm"])[0, 1] > 0.6
    men = p["female"] == 0
    assert 0.2 < np.corrcoef(p["head_diameter_mm"][men], p["offset_mm"][men])[0, 1] < 0.8
    assert np.corrcoef(p["canal_mm"], p["age_years"])[0, 1] > 0.15


def test_real_hip_bones_lie_within_the_population(population: dict[str, np.ndarray], shared: object) -> None:
    real = read_mesh(f"{shared}/meshes/pelvis/coxae.stl").vertices.numpy()
    height = float(np.ptp(real[:, 2]))
    assert np.percentile(population["hip_height_mm"], 2) < height < np.percentile(population["hip_height_mm"], 98)
    drawn = [np.ptp(trunk.skeleton(s).pelvis.webs["hip_left"].balls[:, 1]) for s in range(30)]
    assert min(drawn) < float(np.ptp(real[:, 1])) - 5 < max(drawn)


@pytest.mark.parametrize(
    "bad",
    [
        {"voxel_mm": 0.1},
        {"z_range": (10.0, 0.0)},
        {"z_range": (-900.0, 0.0)},
        {"noise_hu": -1.0},
        {"mesh_pitch_mm": 0.0},
        {"half_width_mm": 5.0},
    ],
)
def test_sampling_out_of_range_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad)).split("_")[0]):
        PelvisConfig(**bad)  # type: ignore[arg-type]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed"):
        pelvis(COARSE, seed=-1)


def _index(p: Subject, point: np.ndarray) -> list[int]:
    inverse = torch.linalg.inv(p.volume.affine).numpy()
    return np.round(inverse[:3, :3] @ point + inverse[:3, 3]).astype(int).tolist()


def _sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Least-squares ball through points."""
    a = np.c_[2 * points, np.ones(len(points))]
    s = np.linalg.lstsq(a, (points**2).sum(1), rcond=None)[0]
    return s[:3], float(np.sqrt(s[3] + s[:3] @ s[:3]))


def _filled(mesh: Mesh, p: Subject) -> np.ndarray:
    """A surface's inside on the labels' grid, by counting crossings along the slices' axis: not the way the labels were made."""
    (v, _, _), origin = p.volume.spacing, p.volume.affine[:3, 3].numpy()
    shape = p.volume.data.shape
    out = np.zeros(shape, bool)
    at = (mesh.vertices.numpy() - origin) / v + np.array([1e-5, 2e-5, 0])
    for a, b, c in at[mesh.faces.numpy()]:
        low, high = np.ceil(np.min([a, b, c], 0)[:2]), np.floor(np.max([a, b, c], 0)[:2])
        det = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        if (low > high).any() or abs(det) < 1e-12:
            continue
        for i in range(max(int(low[0]), 0), min(int(high[0]), shape[2] - 1) + 1):
            for j in range(max(int(low[1]), 0), min(int(high[1]), shape[1] - 1) + 1):
                s = ((i - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (j - a[1])) / det
                t = ((b[0] - a[0]) * (j - a[1]) - (i - a[0]) * (b[1] - a[1])) / det
                if s >= 0 and t >= 0 and s + t <= 1:
                    k = int(np.ceil(a[2] + s * (b[2] - a[2]) + t * (c[2] - a[2])))
                    out[max(k, 0) :, j, i] ^= True
    return out


def test_contrast_agent_is_in_the_vessels_alone() -> None:
    """Of a woman and of a man: uterus and prostate measure as blood does, and are none."""
    for seed in (3, 7):
        plain = pelvis(PelvisConfig(voxel_mm=4.0, noise_hu=0, meshes=False), seed)
        bright = pelvis(PelvisConfig(voxel_mm=4.0, noise_hu=0, contrast_hu=300.0, meshes=False), seed)
        change = bright.volume.data - plain.volume.data
        for name in set(plain.labels.present().values()) & {"uterus", "prostate", "urinary_bladder", "colon"}:
            assert float(change[plain.labels.mask([name])].median()) == 0, name
        assert float(change[plain.labels.mask(["iliac_artery_left"])].median()) > 100


def test_a_scan_without_a_landmark_is_a_scan() -> None:
    assert pelvis(PelvisConfig(voxel_mm=4.0, z_range=(-210.0, -190.0), meshes=False), 1).landmarks.names is not None
