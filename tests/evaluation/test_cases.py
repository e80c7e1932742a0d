"""Cases of protocols: the same in any order, starts where they are said to be, truths that are true, disturbances as stated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from skimage.measure import block_reduce
from torch import Tensor

import raylign
from raylign import InputError
from raylign.data import Volume
from raylign.evaluation import cases, subjects
from raylign.evaluation.arms import Arm
from raylign.evaluation.cases import Case, case_count, make_case, subject_of
from raylign.evaluation.disturb import coarser, discs
from raylign.evaluation.protocol import Protocol, load_protocol, shipped
from raylign.evaluation.subjects import extended, trimmed
from raylign.geometry import Rigid
from raylign.simulation import (
    AortaConfig,
    FemurConfig,
    LumbarConfig,
    PelvisConfig,
    Subject,
    ThoraxConfig,
    aorta,
    lumbar,
    pelvis,
    proximal_femur,
    thorax,
)  # fmt: skip


def protocol(**fields: object) -> Protocol:
    values = {
        "name": "test",
        "title": "Test",
        "cases": 6,
        "per_subject": 3,
        "subjects": {"kind": "phantoms", "bodies": ["lumbar"], "people": 2},
        "views": {"shape": [96, 96], "sid": 1050, "sod": 720, "pitch": 3.0, "angles": [{"primary": [-20, 20]}]},
        "targets": {n: [-10, 10] for n in ("column_mm", "row_mm", "depth_mm", "column_deg", "row_deg", "depth_deg")},
        "exposure": {"photons": [2000, 2000], "full_scale": [1.1, 1.1], "round_field": 0, "rectangular_field": 0},
        **fields,
    }
    return Protocol.model_validate(values)


def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phantoms in few voxels: names and places of structures are the same."""

    def of(make: Callable[..., Subject], config: object, **whole: object) -> Callable[[int, bool], Subject]:
        return lambda seed, all_of_him: make(replace(config, **whole) if all_of_him else config, seed)  # type: ignore[type-var]

    chest = of(thorax, ThoraxConfig(voxel_mm=6.0, meshes=False), z_range=(-200, 190))
    hips = of(pelvis, PelvisConfig(voxel_mm=6.0, meshes=False), z_range=(-160, 230))
    box = FemurConfig(voxel_mm=(4.0, 4.0, 6.0), shape=(32, 22, 32), drop_mm=60.0, meshes=False)
    made = {
        "thorax": chest,
        "heart": chest,
        "pelvis": hips,
        "lumbar": of(lumbar, LumbarConfig(voxel_mm=6.0, z_range=(75, 285), meshes=False), z_range=(0, 338)),
        "femur": lambda seed, whole: hips(seed, True) if whole else proximal_femur(box, seed),
        "aorta": of(aorta, AortaConfig(voxel_mm=6.0, meshes=False), region="whole"),
    }
    assert set(made) == set(subjects.BODIES)
    monkeypatch.setattr(subjects, "BODIES", made)
    monkeypatch.setattr(subjects, "_patients", type(subjects._patients)())
    monkeypatch.setattr(cases, "_last", {})


def forget() -> None:
    subjects._patients.clear()
    cases._last.clear()


def same(a: Case, b: Case) -> bool:
    return (
        (a.index, a.name, a.subject, a.arm, a.start_name, a.search) == (b.index, b.name, b.subject, b.arm, b.start_name, b.search)
        and torch.equal(a.model.data, b.model.data)
        and all(torch.equal(x.image, y.image) and torch.equal(x.mask, y.mask) for x, y in zip(a.xrays, b.xrays, strict=True))
        and all(x.view == y.view for x, y in zip(a.xrays, b.xrays, strict=True))
        and torch.equal(a.pose.matrix, b.pose.matrix)
        and torch.equal(a.start.matrix, b.start.matrix)
        and torch.equal(a.targets, b.targets)
    )


def mean_distance(a: Rigid, b: Rigid, points: Tensor) -> float:
    """mTRE, written out once more."""
    p = np.c_[points.numpy(), np.ones(len(points))]
    return float(np.linalg.norm((p @ (a.matrix - b.matrix).numpy().T)[:, :3], axis=1).mean())


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse(monkeypatch)


def test_a_case_is_its_number_and_seed_whatever_was_made_before() -> None:
    arms = [{"kind": "noise", "levels": [0.1]}, {"kind": "dose", "levels": [200]}, {"kind": "occlusion", "levels": [0.1]}]
    given = protocol(starts=["near", "10-20mm"], disturbances=arms, instruments="spine")
    assert case_count(given) == 24
    forwards = [make_case(given, i) for i in (0, 1, 2, 3, 4, 13)]
    forget()
    backwards = [make_case(given, i) for i in (13, 4, 3, 2, 1, 0)][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    forget()
    assert not same(make_case(given, 1, seed=1), forwards[1])
    assert make_case(given, 1, seed=1).subject != forwards[1].subject
    # one case, four arms: one truth, one start, one patient
    assert [c.arm for c in forwards[:4]] == ["none", "noise 0.1", "dose 200", "occlusion 0.1"]
    assert all(torch.equal(c.start.matrix, forwards[0].start.matrix) for c in forwards[:4])
    assert len({c.name for c in forwards}) == 6 and forwards[0].subject == forwards[4].subject != forwards[5].subject
    with pytest.raises(InputError, match="case -1"):
        make_case(given, -1)


def test_starts_lie_in_their_bins_and_take_them_in_turn() -> None:
    given = protocol(starts="bins", bins_mm=[0, 1, 2, 5, 20, 60], repeats=11, cases=66, per_subject=6)
    made = [make_case(given, i) for i in range(22)]
    for i, case in enumerate(made):
        low, high = given.bins[i % 5]
        assert low <= mean_distance(case.start, case.pose, case.targets) < high
        assert case.search == given.start_kinds[0][1]
    # eleven starts of one exposure, then the next
    assert torch.equal(made[0].xrays[0].image, made[10].xrays[0].image)
    assert [subject_of(given, i) for i in range(22)] == [c.subject for c in made]
    assert not torch.equal(made[0].xrays[0].image, made[11].xrays[0].image)
    assert len({c.name for c in made}) == 22


def test_every_cell_of_a_grid_is_taken() -> None:
    given = protocol(starts="toth2018/grid", repeats=169, cases=169, search={"degrees": 15, "mm": 30})
    shifts = set()
    for i in (0, 1, 12, 13, 84, 168):
        case = make_case(given, i)
        where = case.start.apply(case.centre[None]) - case.pose.apply(case.centre[None])
        steps = torch.stack([case.xrays[0].view.column_step, case.xrays[0].view.row_step])
        along = (where[0] @ (steps / steps.norm(dim=1, keepdim=True)).T).tolist()
        shifts.add(tuple(round(x, 6) + 0.0 for x in along))
    assert shifts == {(-30, -30), (-25, -30), (30, -30), (-30, -25), (0, 0), (30, 30)}


def correlation(model: Volume, case: Case, pose: Rigid) -> float:
    """Of the exposure with a rendering of the whole body, within the mask: gradients, so that bone counts."""
    drawn = raylign.project(model, case.xrays[0].view, pose)[0, 0].double().numpy()
    seen, mask = case.xrays[0].image.double().numpy(), case.xrays[0].mask.numpy()
    a, b = (np.stack(np.gradient(x))[:, mask].ravel() for x in (drawn, seen))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_the_truth_is_where_the_rendering_meets_the_exposure() -> None:
    given = protocol(subjects={"kind": "phantoms", "bodies": ["lumbar", "pelvis"], "people": 2, "beyond": False})
    for index in (0, 3):
        case = make_case(given, index)
        about = torch.eye(4, dtype=torch.float64)
        about[:3, 3] = case.pose.apply(case.centre[None])[0]

        def at(turn: Tensor, shift: Tensor, case: Case = case, about: Tensor = about) -> float:
            move = torch.eye(4, dtype=torch.float64)
            move[:3, :3] = torch.from_numpy(Rotation.from_rotvec(turn.numpy(), degrees=True).as_matrix())
            move[:3, 3] = shift
            return correlation(case.model, case, Rigid(about @ move @ torch.linalg.inv(about) @ case.pose.matrix))

        still = torch.zeros(3, dtype=torch.float64)
        best = at(still, still)
        assert best > 0.9
        view = case.xrays[0].view
        for step in (view.column_step, view.row_step):
            # across the beam the correlation peaks within half a millimetre of the truth; a pixel is 2 mm wide there
            low, high = (at(still, s * step / step.norm()) for s in (-5, 5))
            assert abs(5 * (low - high) / (2 * (low + high - 2 * best))) < 0.5 and max(low, high) < best - 0.02
        for axis in (view.column_step, view.row_step, view.normal):
            for degrees in (-6, 6):
                assert at(still + degrees * axis / axis.norm(), still) < best - 0.02


def test_the_body_goes_on_beyond_the_model() -> None:
    case = make_case(protocol(), 0)
    who = subjects.patient(protocol().subjects, protocol().points.wanted, 0, 0, None)  # type: ignore[arg-type]
    assert isinstance(who.body, Subject) and case.model is who.model and case.model.truncated is None
    body = who.body.volume
    ends = [(float(v.affine[2, 3]), float(v.affine[2, 3] + v.spacing[2] * (len(v.data) - 1))) for v in (body, case.model)]
    assert ends[0][0] < ends[1][0] - 50 and ends[0][1] > ends[1][1] + 30


def only(given: Protocol, folder: str) -> Protocol:
    """Of a folder of cases one set."""
    return given.model_copy(update={"subjects": given.subjects.model_copy(update={"sets": (folder,)})})


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_protocol_makes_its_first_case(name: str) -> None:
    given = load_protocol(name)
    data = Path(__file__).resolve().parents[3] / "shared" / "data"
    if given.subjects.needs_data:
        if not (data / "ct").is_dir():
            pytest.skip("shared/data is not there")
        if name in ("deepfluoro", "ljubljana"):
            with pytest.raises(InputError, match=r"there is no such file; .* there"):
                case_count(given, data)
            pytest.skip("these data are not free to be kept beside the project; tests of their layout are below")
        if name == "scans":  # the largest scans cost seconds and gigabytes: the smallest stands for all
            small = [s for s in given.subjects.scans if s.name == "totalseg_pelvis"]  # type: ignore[union-attr]
            given = given.model_copy(update={"subjects": given.subjects.model_copy(update={"scans": tuple(small)})})
        if name == "shared":
            given = only(given, "totalseg_pelvis/plain")
    case = make_case(given, 0, None, data)
    assert subject_of(given, 0, None, data) == case.subject
    assert case.arm == "none" and case_count(given, data) >= len(given.arms)
    assert case.problem.model is case.model and case.targets.shape[1] == 3
    seen = case.xrays[0].view.project(case.pose.apply(case.targets))
    h, w = case.xrays[0].view.shape
    # small detectors see a part of a chest; of what errors are means over, something must be in the picture
    assert float(((seen >= 0) & (seen < torch.tensor([w, h]))).all(1).double().mean()) > 0.1


def test_phantoms_need_no_folder_and_scans_do(tmp_path: Path) -> None:
    scans = load_protocol("scans")
    with pytest.raises(InputError, match=r"^--data: this protocol takes scans from a folder; name the folder with --data"):
        make_case(scans, 0)
    with pytest.raises(InputError, match="there is no such folder"):
        make_case(scans, 0, None, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"ct: --data: no scan lidc0001; put lidc0001\.nii\.gz there, or a folder"):
        make_case(scans, 0, None, tmp_path)
    with pytest.raises(InputError, match=r"no cases/NAME/KIND/truth\.json"):
        case_count(load_protocol("shared"), tmp_path)
    with pytest.raises(InputError, match="no lumbago"):
        make_case(protocol(subjects={"kind": "phantoms", "bodies": ["lumbar"], "isocentre": ["lumbago"]}), 0)


def test_slices_are_left_out_and_repeated_without_moving_the_rest() -> None:
    affine = torch.diag(torch.tensor([0.8, 0.8, 2.5, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-3.0, 4.0, 100.0])
    volume = Volume(torch.arange(40.0)[:, None, None].expand(40, 6, 6).contiguous(), affine, "HU")

    def slice_at(v: Volume, z: float) -> float:
        return float(v.data[round((z - float(v.affine[2, 3])) / 2.5), 0, 0])

    less, more = trimmed(volume, 25), extended(volume, 50)
    assert (len(less.data), len(more.data)) == (20, 80)
    for z in (125.0, 150.0, 172.5):
        assert slice_at(less, z) == slice_at(more, z) == slice_at(volume, z)
    assert slice_at(more, 60.0) == 0 and slice_at(more, 240.0) == 39
    with pytest.raises(InputError, match="leave nothing of the scan"):
        trimmed(volume, 50)


def disturbed(kind: str, *levels: float, **fields: object) -> list[Case]:
    given = protocol(disturbances=[{"kind": kind, "levels": list(levels)}], **fields)
    return [make_case(given, i) for i in range(1 + len(levels))]


def test_noise_and_dose() -> None:
    plain, weak, strong = disturbed("noise", 0.1, 0.4)
    for case, level in ((weak, 0.1), (strong, 0.4)):
        assert float((case.xrays[0].image - plain.xrays[0].image).std()) == pytest.approx(level, rel=0.03)
    # nothing but quanta, each pixel by itself
    quanta = {"photons": [2000, 2000], "full_scale": [1.1, 1.1], "round_field": 0, "rectangular_field": 0, "bits": [16]}
    quanta |= {name: [0, 0] for name in ("gain", "lines", "electronic", "glare")}
    without = make_case(protocol(exposure=quanta | {"noise": "none"}), 0).xrays[0].image
    rich, _, poor = disturbed("dose", 2000, 50, exposure=quanta)
    behind = without > 1.5
    scale = [float((c.xrays[0].image - without)[behind].std()) for c in (rich, poor)]
    assert scale[1] / scale[0] == pytest.approx(np.sqrt(2000 / 50), rel=0.1)


def test_occlusion_hides_the_share_that_it_says() -> None:
    plain, *hidden = disturbed("occlusion", 0.05, 0.4)
    for case, share in zip(hidden, (0.05, 0.4), strict=True):
        change = case.xrays[0].image - plain.xrays[0].image
        assert float((change > 2)[plain.xrays[0].mask].double().mean()) == pytest.approx(share, abs=0.01)
        assert bool((change[change.abs() > 0] > 2).all())
    field = torch.zeros(50, 60, dtype=torch.bool)
    field[10:40, 5:55] = True
    assert int((discs(field, 0.3, torch.Generator().manual_seed(1)) & field).sum()) == pytest.approx(450, abs=8)


def test_metal_is_in_the_beam() -> None:
    plain, few, many = disturbed("metal", 1, 6)
    shadows = [float((c.xrays[0].image - plain.xrays[0].image > 0.3).double().mean()) for c in (few, many)]
    assert 0 < shadows[0] < shadows[1] and torch.equal(plain.pose.matrix, many.pose.matrix)


def test_a_wrong_geometry_and_the_truth_that_goes_with_it() -> None:
    both = {
        "angles": [{"primary": 0}, {"primary": 90}],
        "together": True,
        "shape": [96, 96],
        "sid": 1050,
        "sod": 720,
        "pitch": 3.0,
    }
    plain, wrong = disturbed("angles", 3.0, views=both)
    assert torch.equal(plain.xrays[0].image, wrong.xrays[0].image) and torch.equal(plain.start.matrix, wrong.start.matrix)
    assert not torch.allclose(plain.pose.matrix, wrong.pose.matrix)
    pixels = [[x.view.project(c.pose.apply(c.targets)) for x in c.xrays] for c in (plain, wrong)]
    # as the first view sees it nothing is wrong; the second is at odds with it
    assert torch.allclose(pixels[0][0], pixels[1][0], atol=1e-8)
    assert float((pixels[0][1] - pixels[1][1]).norm(dim=1).mean()) > 1
    for a, b in zip(plain.xrays, wrong.xrays, strict=True):
        # 3 degrees about each of two axes across; the isocentre stays
        turn = np.degrees(np.arccos(float(a.view.normal @ b.view.normal)))
        assert turn == pytest.approx(np.hypot(3, 3), rel=1e-3) and float(a.view.source.norm()) == pytest.approx(
            float(b.view.source.norm())
        )
    # of the primary angle alone: the first view is told rightly, and the angle between both is wrong by the level
    plain, wrong = disturbed("primary", 3.0, views=both)
    assert torch.equal(plain.pose.matrix, wrong.pose.matrix) and torch.equal(
        plain.xrays[0].view.source, wrong.xrays[0].view.source
    )
    a, b = plain.xrays[1].view, wrong.xrays[1].view
    assert np.degrees(np.arccos(float(a.normal @ b.normal))) == pytest.approx(3, rel=1e-6)
    assert float(abs(a.source[2] - b.source[2])) < 1e-9  # about the patient's long axis
    between = [np.degrees(np.arccos(float(c.xrays[0].view.normal @ c.xrays[1].view.normal))) for c in (plain, wrong)]
    assert abs(between[1] - between[0]) == pytest.approx(3, rel=1e-6)
    plain, wrong = disturbed("distances", 20.0)
    a, b = plain.xrays[0].view, wrong.xrays[0].view
    assert abs(float(b.sid - a.sid)) == pytest.approx(20) and abs(float(b.source.norm() - a.source.norm())) == pytest.approx(20)
    assert torch.allclose(plain.pose.apply(plain.targets) - a.source, wrong.pose.apply(wrong.targets) - b.source, atol=1e-8)


def test_a_truncated_field() -> None:
    plain, wrong = disturbed("truncation", 0.5)
    assert wrong.xrays[0].view.shape == (48, 48)
    assert torch.equal(wrong.xrays[0].image, plain.xrays[0].image[24:72, 24:72])
    moved = plain.xrays[0].view.project(plain.pose.apply(plain.targets)) - wrong.xrays[0].view.project(
        wrong.pose.apply(wrong.targets)
    )
    assert torch.allclose(moved, torch.full_like(moved, 24.0), atol=1e-8)


def test_a_coarser_model_lies_where_the_fine_one_did() -> None:
    data = torch.rand(24, 20, 31)
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([5.0, -7.0, 11.0])
    fine = Volume(data, affine, "1/mm")
    small = coarser(fine, Arm("downsampling", 4.0))
    assert small.spacing == (4.0, 4.0, 4.0)
    expected = block_reduce(data.numpy()[:, :20, :28], (2, 4, 4), np.mean)
    assert np.allclose(small.data.numpy(), expected, atol=1e-6)
    corner = affine @ torch.tensor([1.5, 1.5, 0.5, 1.0], dtype=torch.float64)  # the middle of the first block
    assert torch.allclose(small.affine[:3, 3], corner[:3])
    assert coarser(fine, Arm()) is fine


def test_a_folder_of_cases(shared: Path) -> None:
    given = load_protocol("shared").with_(cases=5)
    assert case_count(given, shared) == 5 and case_count(load_protocol("shared"), shared) == 44
    picked = only(given, "totalseg_pelvis/plain")
    case = make_case(picked, 2, None, shared)
    truth = json.loads((shared / "cases" / "totalseg_pelvis" / "plain" / "truth.json").read_text())
    name = list(truth["cases"])[2]
    assert case.name == f"totalseg_pelvis/plain/{name}" and case.subject == "totalseg_pelvis"
    assert np.allclose(case.pose.matrix.numpy(), truth["cases"][name]["pose_world_from_ct"])
    with pytest.raises(InputError, match=r"sets: no set totalseg_pelvis/odd; there are lidc0001/biplane"):
        case_count(only(given, "totalseg_pelvis/odd"), shared)


@pytest.fixture
def shared() -> Path:
    path = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (path / "cases").is_dir():
        pytest.skip("shared/data is not there")
    return path
