"""A vertebra that moved among neighbours that did not; what a scan is taken apart into."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from raylign.data import LabelMap, Volume, XRay
from raylign.data.excess import SplitConfig, split
from raylign.errors import InputError
from raylign.evaluation.metrics import mrpd, mtre
from raylign.geometry import Rigid, View, se3
from raylign.io import read_labels, read_volume, read_xray
from raylign.projection import project
from raylign.registration import DirectConfig, Result, SearchConfig, centred
from raylign.registration.result import Confidence
from raylign.registration.search import Bounds
from raylign.registration.structure_levels import shadow, structure_scales
from raylign.registration.structure_trust import StructureEvidence, judge_structure
from raylign.registration.structures import (
    Motion,
    StructureConfig,
    StructureProblem,
    Structures,
    drawn_in,
    motion_between,
)
from raylign.simulation import ExposureConfig, LumbarConfig, Subject, expose, lumbar

NAME = "vertebrae_L3"


@lru_cache(maxsize=2)
def spine(voxel: float = 3.0, low: float = 95.0, high: float = 245.0) -> Subject:
    return lumbar(LumbarConfig(voxel_mm=voxel, z_range=(low, high), meshes=False), seed=4)


def middle(subject: Subject) -> torch.Tensor:
    index = (subject.labels.mask([NAME])).nonzero().double().mean(0).flip(0)
    return subject.labels.affine[:3, :3] @ index + subject.labels.affine[:3, 3]


def points() -> torch.Tensor:
    mask = spine().labels.mask([NAME])
    index = mask.nonzero()[::40].flip(1).double()
    return index @ spine().labels.affine[:3, :3].T + spine().labels.affine[:3, 3]


def pose() -> Rigid:
    about = torch.eye(4, dtype=torch.float64)
    about[:3, 3] = -middle(spine())
    return Rigid(se3.exp(torch.tensor([0.05, -0.04, 0.06, 4.0, -3.0, 5.0], dtype=torch.float64)) @ about)


def motion() -> torch.Tensor:
    """4 degrees about a slanted axis through the vertebra, and 6 mm."""
    about = torch.eye(4, dtype=torch.float64)
    about[:3, 3] = middle(spine())
    turn = se3.exp(torch.tensor([0.05, 0.02, -0.04, 0.0, 0.0, 0.0], dtype=torch.float64))
    out = about @ turn @ se3.inverse(about)
    out[:3, 3] += torch.tensor([4.0, 2.0, -4.0], dtype=torch.float64)
    return out


@lru_cache(maxsize=1)
def copy() -> Volume:
    """The patient, in finer voxels and longer, with the vertebra moved: cut out, filled with muscle, resampled."""
    from scipy import ndimage

    patient = spine(2.0, 70.0, 270.0)
    hu, affine = patient.volume.data.numpy().copy(), patient.volume.affine.numpy()
    mask = patient.labels.mask([NAME]).numpy()
    bone = np.isin(
        patient.labels.data.numpy(), [n for n, name in patient.labels.present().items() if "vertebrae" in name and name != NAME]
    )
    hole = mask | (ndimage.binary_dilation(mask) & ~bone)
    back = np.linalg.inv(affine) @ np.linalg.inv(motion().numpy()) @ affine
    k, j, i = np.indices(hu.shape)
    where = (back @ np.stack([i, j, k, np.ones_like(i)], 0).reshape(4, -1).astype(float))[:3][::-1]
    weight = ndimage.map_coordinates(hole.astype(np.float32), where, order=1).reshape(hu.shape)
    carried = ndimage.map_coordinates(np.where(hole, hu + 1024, 0), where, order=1).reshape(hu.shape)
    emptied = np.where(hole, 50 + 10 * np.random.default_rng(0).standard_normal(hu.shape).astype(np.float32), hu)
    return Volume(torch.from_numpy((1 - weight) * (emptied + 1024) + carried - 1024), patient.volume.affine, "HU")


@lru_cache(maxsize=4)
def exposure(primary: float, moved: bool = True) -> XRay:
    view = View.from_carm(primary=primary, secondary=3, sid=1050, sod=720, pixel_spacing=1.25, shape=(176, 176))
    patient = copy() if moved else spine(2.0, 70.0, 270.0).volume
    return expose(patient, view, pose(), ExposureConfig(), torch.Generator().manual_seed(2)).xray


def problem(*angles: float, moved: bool = True) -> StructureProblem:
    turned = Rigid(se3.exp(torch.tensor([0.03, 0.03, -0.02, 3.0, 3.0, -4.0], dtype=torch.float64)) @ pose().matrix)
    return StructureProblem(spine().volume, spine().labels, (NAME,), tuple(exposure(a, moved) for a in angles), turned)


@lru_cache(maxsize=1)
def of_two_views():  # type: ignore[no-untyped-def]
    return Structures().register(problem(5.0, 95.0))


# --- the two parts


def test_both_parts_add_up_to_the_scan() -> None:
    volume = spine().volume
    parts = split(volume, spine().labels, [NAME])
    whole, rest = volume.attenuation().data, parts.rest.attenuation().data
    difference = whole - rest
    first = torch.linalg.inv(volume.affine) @ parts.structure.affine[:, 3]
    i, j, k = (round(float(x)) for x in first[:3])
    d, h, w = parts.structure.data.shape
    placed = torch.zeros_like(whole)
    placed[k : k + d, j : j + h, i : i + w] = parts.structure.data
    assert torch.allclose(placed, difference, atol=1e-6)
    mask = spine().labels.mask([NAME])
    assert float(volume.data[mask].mean()) > 250
    assert float(parts.rest.data[mask].min()) > -100 and float(parts.rest.data[mask].max()) < 130  # soft tissue
    far = parts.structure.data == 0
    assert bool(far[0].any() and far[-1].any())


def test_the_fill_is_a_membrane() -> None:
    """A harmonic function is its own membrane: a hole in it is filled with what was there, on voxels of unequal sides too."""
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.5, 1.0], dtype=torch.float64))
    k, j, i = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (24, 48, 48)), indexing="ij")
    x, y, z = i - 23.5, j - 23.5, 2.5 * (k - 11.5)
    field = 0.012 + 1e-5 * (x * x - 0.5 * y * y - 0.5 * z * z) + 1e-4 * x
    labels = ((x**2 + y**2 + z**2) < 10**2).to(torch.uint8)
    damaged = Volume(torch.where(labels != 0, 0.06, field), affine, "1/mm")
    parts = split(damaged, LabelMap(labels, affine, {1: "ball"}), ["ball"], SplitConfig(around_mm=20))
    error = (parts.rest.data - field)[labels != 0].abs().max()
    assert float(error) < 0.1 * float(field[labels != 0].max() - field[labels != 0].min())
    far = x**2 + y**2 + z**2 > 14**2
    assert torch.equal(parts.rest.data[far], damaged.data[far])


def test_before_the_rest_the_structure_makes_the_whole() -> None:
    """Structure and backdrop together at the unmoved pose: the projection of the scan by the library's own projector."""
    parts = split(spine().volume, spine().labels, [NAME])
    xray = exposure(5.0)
    matrix = pose().matrix.numpy()
    scale = structure_scales(parts.structure, parts.rest, (xray,), matrix, DirectConfig())[0]
    image = scale.images[0]
    assert image.background is not None
    own = shadow(scale.model, image, matrix, DirectConfig())
    whole = project(spine().volume, image.view, pose().matrix[None], step=1.0)[0, 0].numpy()
    assert float(own.max()) > 0.3
    error = np.abs(own + image.background - whole)[image.valid]
    assert float(error.mean()) < 0.01 * float(whole[image.valid].mean())
    assert float(error.mean()) < 0.1 * float(own[image.valid & (own > 0)].mean())


# --- registrations


def test_a_moved_vertebra_is_found_by_two_views() -> None:
    result = of_two_views()
    gold = Rigid(pose().matrix @ motion())
    assert float(mtre(pose(), gold, points())) > 5
    assert result.whole is not None and result.motion is not None
    assert float(mtre(result.whole.transform, pose(), points())) < 0.7  # it does not follow the one that moved
    assert float(mtre(result.structure.transform, gold, points())) < 1.0
    assert result.structure.confidence.trusted
    assert abs(result.motion.mm - 6.0) < 0.8 and abs(result.motion.degrees - 3.84) < 1.0
    assert result.motion.certain
    assert result.words.startswith(f"{NAME} moved 6.") or result.words.startswith(f"{NAME} moved 5.")
    assert "to the left" in result.words and "to the feet" in result.words


def known() -> Result:
    """The whole scan's pose to within a tenth of a millimetre, as if registered before."""
    off = se3.exp(torch.tensor([3e-4, -3e-4, 3e-4, 0.06, -0.05, 0.06], dtype=torch.float64))
    covariance = torch.diag(torch.tensor([1e-6] * 3 + [0.01] * 3, dtype=torch.float64))
    return _result(off @ pose().matrix, covariance, torch.zeros(3, dtype=torch.float64))


def test_one_view_finds_it_across_the_beam() -> None:
    found = Structures().register(problem(5.0), known())
    gold = Rigid(pose().matrix @ motion())
    assert float(mrpd(found.structure.transform, gold, points(), [exposure(5.0).view])) < 1.0
    _, mm = found.structure.standard_deviations
    assert float(mm.max()) > 2  # depth: it says that it does not know
    assert found.structure.start is found.problem.start and torch.equal(found.problem.start.matrix, known().transform.matrix)


def test_one_that_did_not_move_is_where_the_rest_is() -> None:
    result = Structures().register(problem(5.0, 95.0, moved=False), known())
    assert result.motion is not None
    assert float(mtre(result.structure.transform, pose(), points())) < 1.0
    assert result.motion.mm < 0.8 and result.motion.degrees < 1.0


def test_the_other_treatments_run() -> None:
    masked = Structures(StructureConfig(rest="masked")).register(problem(5.0, 95.0), known())
    assert masked.rest == "masked" and masked.motion is not None
    assert masked.to_dict()["whole"]["method"] == "direct"
    alone = Structures(StructureConfig(rest="none", search=SearchConfig(2, 2, 1, 1, 1, 1))).register(problem(5.0))
    assert alone.whole is None and alone.motion is None and "nothing is known of the rest" in alone.words
    assert alone.to_dict()["motion"] is None


def test_unmoved_structures_in_exposures_of_a_real_ct(shared: Path) -> None:
    """Another simulator's exposure of a chest: a vertebra and the heart are where the whole CT is; the CT is registered once."""
    folder = shared / "cases" / "lidc0001" / "real"
    case = json.loads((folder / "truth.json").read_text())["cases"]["001"]
    gold = Rigid(torch.tensor(case["pose_world_from_ct"], dtype=torch.float64))
    volume = read_volume(shared / "ct" / "lidc0001_chest")
    labels = read_labels(shared / "ct" / "lidc0001_chest_seg.nii.gz")
    xrays = tuple(read_xray(folder / f) for f in case["files"])
    whole = None
    for name in ("vertebrae_T8", "heart"):
        asked = StructureProblem(volume, labels, (name,), xrays, centred(volume))
        found = Structures().register(asked, whole)
        whole = found.whole
        index = labels.mask([name]).nonzero()[::997].flip(1).double()
        places = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
        assert float(mrpd(found.structure.transform, gold, places, [x.view for x in xrays])) < 0.5
        assert float(mtre(found.structure.transform, gold, places)) < 2.0
        assert found.structure.confidence.trusted
        assert found.motion is not None and not found.motion.certain


# --- the parts of it


def _result(matrix: torch.Tensor, covariance: torch.Tensor, centre: torch.Tensor, trusted: bool = True) -> Result:
    return Result(Rigid(matrix), Rigid(matrix), covariance, centre, 0.5, Confidence(0.9 if trusted else 0.2, trusted, ("blind",)))


def test_motion_is_told_in_the_patients_axes() -> None:
    """Against samples of both poses; the C-arm's own turn leaves the numbers alone."""
    rng = torch.Generator().manual_seed(1)
    whole = se3.exp(torch.tensor([0.4, -0.3, 0.8, 10.0, 20.0, -5.0], dtype=torch.float64))
    moved = torch.eye(4, dtype=torch.float64)
    moved[:3, :3] = se3.exp(torch.tensor([0.03, 0.0, 0.0, 0, 0, 0], dtype=torch.float64))[:3, :3]
    inside = torch.tensor([12.0, -30.0, 55.0], dtype=torch.float64)
    moved[:3, 3] = inside - moved[:3, :3] @ inside + torch.tensor([0.0, -3.0, 1.0], dtype=torch.float64)
    a, b = (torch.randn(6, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    scale = torch.tensor([1e-3] * 3 + [0.1] * 3, dtype=torch.float64)
    ca, cb = (scale[:, None] * m @ m.T * scale for m in (a, b))
    there = whole @ moved
    centre = (there @ torch.cat([inside, inside.new_ones(1)]))[:3]
    other = torch.tensor([3.0, 4.0, -60.0], dtype=torch.float64)
    got = motion_between(_result(whole, ca, other), _result(there, cb, centre))
    assert torch.allclose(got.shift, torch.tensor([0.0, -3.0, 1.0], dtype=torch.float64), atol=1e-9)
    assert torch.allclose(got.turn, torch.rad2deg(torch.tensor([0.03, 0, 0], dtype=torch.float64)), atol=1e-9)
    assert got.certain

    def about(matrix: torch.Tensor, twist: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        shift = torch.eye(4, dtype=torch.float64)
        shift[:3, 3] = point
        return shift @ se3.exp(twist) @ se3.inverse(shift) @ matrix

    samples = 4000
    xa = torch.randn(samples, 6, generator=rng, dtype=torch.float64) @ torch.linalg.cholesky(ca).T
    xb = torch.randn(samples, 6, generator=rng, dtype=torch.float64) @ torch.linalg.cholesky(cb).T
    matrices = torch.linalg.inv(about(whole, xa, other)) @ about(there, xb, centre)
    shifts = (matrices @ torch.cat([inside, inside.new_ones(1)]))[:, :3] - inside
    turns = torch.rad2deg(torch.stack([se3.log_rotation(m[:3, :3]) for m in matrices]))
    assert torch.allclose(shifts.std(0), got.shift_sd, rtol=0.06)
    assert torch.allclose(turns.std(0), got.turn_sd, rtol=0.06)


def test_a_pose_is_drawn_in_only_where_nothing_holds_it() -> None:
    axes = np.eye(3)
    start = np.eye(4)
    matrix = np.eye(4)
    matrix[:3, 3] = [4.0, -2.0, 12.0]
    centre = np.array([30.0, 10.0, 5.0])
    covariance = np.diag([1e-8] * 3 + [0.01, 0.01, 49.0])
    bounds = Bounds(start, axes, centre, 14.0, 14.0, 14.0)
    drawn, left = drawn_in(matrix, covariance, bounds)
    assert np.allclose(drawn[:2, 3], [4.0, -2.0], atol=0.01)
    assert drawn[2, 3] == pytest.approx(6.0, abs=0.05)  # as much from the images as from the box: 7 mm each
    assert left[5, 5] == pytest.approx(24.5)


def test_words_for_what_may_be_nothing() -> None:
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    still = Motion(torch.eye(4, dtype=torch.float64), zero, 0.5 * one, 0.1 * one, one, one)
    assert not still.certain
    assert Motion(torch.eye(4, dtype=torch.float64), zero, 5 * one, zero, one, one).certain


def test_a_distrusted_whole_is_told_first() -> None:
    good = StructureEvidence(0.4, 0.0, 0.1, 1.0, 0.3, 0.3, True)
    eye = torch.eye(6, dtype=torch.float64)
    matrix, centre = torch.eye(4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    assert judge_structure(good, _result(matrix, eye, centre), 0.6).trusted
    told = judge_structure(good, _result(matrix, eye, centre, trusted=False), 0.6)
    assert not told.trusted and told.probability <= 0.2
    assert told.reasons[0].startswith("the pose of the whole CT") and "blind" in told.reasons[0]
    absent = StructureEvidence(0.01, 0.0, 0.95, 1.0, 1.5, 3.0, True)
    doubted = judge_structure(absent, _result(matrix, eye, centre), 0.6)
    assert not doubted.trusted and any("another place" in r for r in doubted.reasons)


# --- refusals


def test_refusals() -> None:
    with pytest.raises(InputError, match="no treatment 'blurred'"):
        StructureConfig(rest="blurred")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no structure is named"):
        StructureProblem(spine().volume, spine().labels, (), (exposure(5.0),), pose())
    with pytest.raises(InputError, match="no voxel is labelled 'skull'"):
        split(spine().volume, spine().labels, ["skull"])
    everything = LabelMap(torch.ones_like(spine().labels.data), spine().labels.affine, {1: "everything"})
    with pytest.raises(InputError, match="nothing lies around"):
        split(spine().volume, everything, ["everything"])
    away = Rigid(se3.exp(torch.tensor([0, 0, 0, 0, 0, 150.0], dtype=torch.float64)) @ pose().matrix)
    parts = split(spine().volume, spine().labels, [NAME])
    with pytest.raises(InputError, match=r"does not project|pixels that can be compared"):
        structure_scales(parts.structure, parts.rest, (exposure(5.0),), away.matrix.numpy(), DirectConfig())


# --- structures of other shapes and densities


def _thigh() -> tuple[Volume, LabelMap]:
    """A bone of 200 mm, an airless limb about it, a bone that stays, and a tube of air."""
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.5, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-70.0, -60.0, -120.0])
    k, j, i = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (97, 61, 71)), indexing="ij")
    x, y, z = 2 * i - 70, 2 * j - 60, 2.5 * k - 120
    hu = torch.where((x / 66) ** 2 + (y / 56) ** 2 < 1, 40.0, -1000.0)
    labels = torch.zeros(hu.shape, dtype=torch.uint8)
    bow = x - 18 - 6 * torch.sin(z / 50) - 0.002 * z * z / 10  # bowed, so that it shows where along itself it lies
    width = 7 + 3 * (z / 100) ** 4
    labels[(bow**2 + y**2 < width**2) & (z.abs() < 100)] = 1
    labels[((x + 30) ** 2 + (y - 10 - z / 12) ** 2 < 8**2) & (z.abs() < 110)] = 2
    labels[((x + 4 + z / 25) ** 2 + (y + 34) ** 2 < 7**2) & (z.abs() < 60)] = 3
    hu = torch.where(labels == 1, 700.0, torch.where(labels == 2, 900.0, torch.where(labels == 3, -1000.0, hu)))
    return Volume(hu, affine, "HU"), LabelMap(labels, affine, {1: "long", 2: "other", 3: "tube"})


def _moved_alone(name: str, shift: torch.Tensor) -> tuple[StructureProblem, Result]:
    """Exposures of the limb with a structure of it moved: line integrals of both parts, added up."""
    volume, labels = _thigh()
    parts = split(volume, labels, [name])
    placed = Rigid(se3.exp(torch.tensor([0.03, -0.02, 0.04, 3.0, -2.0, 1.0], dtype=torch.float64)))
    away = torch.eye(4, dtype=torch.float64)
    away[:3, 3] = shift
    xrays = []
    for angle in (10.0, 100.0):
        view = View.from_carm(primary=angle, secondary=3, sid=1050, sod=720, pixel_spacing=1.5, shape=(224, 176))
        shown = ((parts.rest, placed.matrix), (parts.structure, placed.matrix @ away))
        image = sum(project(v, view, m[None], step=1.0)[0, 0] for v, m in shown)
        assert isinstance(image, torch.Tensor)
        xrays.append(XRay(image, view, torch.ones_like(image, dtype=torch.bool)))
    covariance = torch.diag(torch.tensor([1e-6] * 3 + [0.01] * 3, dtype=torch.float64))
    whole = _result(placed.matrix, covariance, torch.zeros(3, dtype=torch.float64))
    return StructureProblem(volume, labels, (name,), tuple(xrays), placed), whole


def test_a_long_bone_is_searched_for() -> None:
    """It is so thin for its length that its pyramid has one level: candidates are chosen and refined at that."""
    shift = torch.tensor([10.0, -5.0, 4.0], dtype=torch.float64)
    asked, whole = _moved_alone("long", shift)
    parts = split(asked.volume, asked.labels, ["long"])
    config = DirectConfig(search=StructureConfig().search)
    assert len(structure_scales(parts.structure, parts.rest, asked.xrays, asked.start.matrix.numpy(), config)) == 1
    found = Structures().register(asked, whole)
    assert found.motion is not None
    assert float((found.motion.shift - shift).norm()) < 1.0 and found.motion.degrees < 1.0


def test_a_structure_thinner_than_its_surroundings_is_registered() -> None:
    shift = torch.tensor([2.0, 1.0, -3.0], dtype=torch.float64)
    found = Structures().register(*_moved_alone("tube", shift))
    assert found.motion is not None
    assert float((found.motion.shift - shift).norm()) < 1.0
