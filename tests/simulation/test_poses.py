"""Distributions of poses against the laws they state, by other means than they are drawn with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from raylign.errors import InputError
from raylign.evaluation.metrics import mtre
from raylign.geometry import View, carm, se3
from raylign.simulation.poses import (
    LI_AFFINE,
    STARTS,
    TARGETS,
    TOTH_FIELDS_MM,
    Binned,
    Grid,
    Motion,
    Normal,
    Ring,
    Scattered,
    TargetSampler,
    Uniform,
    mtre_bins,
    region,
    starts,
    targets,
)  # fmt: skip
from raylign.simulation.poses.laws import law_from_dict, law_to_dict, uniforms
from raylign.simulation.seeds import generator

POINT = torch.tensor([12.0, -33.0, 205.0], dtype=torch.float64)
CLOUD = POINT + 40 * torch.randn(60, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
MANY = 600


def _values(name: str, poses: torch.Tensor, base: torch.Tensor, views: list[View]) -> np.ndarray:
    """Shifts of the point (mm) and turns (degrees) from the base to the poses along each image's axes, by SciPy's rotations."""
    out = []
    for pose, before, view in zip(poses.numpy(), base.numpy(), views, strict=True):
        u = (view.column_step / view.column_step.norm()).numpy()
        v = (view.row_step / view.row_step.norm()).numpy()
        n = view.normal.numpy()
        p = POINT.numpy()
        shift = (pose[:3, :3] - before[:3, :3]) @ p + pose[:3, 3] - before[:3, 3]
        turn = pose[:3, :3] @ before[:3, :3].T
        # (u, v, n) is left-handed: in (u, v, -n) a turn about n is one about the third axis the other way round
        q = np.stack([u, v, -n])
        a, b, c = Rotation.from_matrix(q @ turn @ q.T).as_euler("xyz", degrees=True)
        out.append([shift @ u, shift @ v, shift @ n, a, b, -c])
    return np.array(out)


def _drawn(name: str, count: int = MANY) -> tuple[np.ndarray, list[View], torch.Tensor]:
    sampler = starts(name)
    views, truth = targets("raylign").draw(POINT, count, generator(1))
    poses = sampler.draw(truth, views, POINT, CLOUD, generator(2))
    canonical = se3.from_parts(torch.eye(3, dtype=torch.float64), -POINT).expand_as(truth)
    about = getattr(sampler, "about", "truth")
    return _values(name, poses, truth if about == "truth" else canonical, views), views, poses


@pytest.mark.parametrize(
    ("name", "laws"),
    [
        ("toth2018", [scipy.stats.uniform(-35, 70)] * 2 + [None] * 3 + [scipy.stats.uniform(-15, 30)]),
        (
            "gao2024/test",
            [scipy.stats.uniform(-200, 400)] * 2 + [scipy.stats.uniform(-300, 600)] + [scipy.stats.uniform(-50, 100)] * 3,
        ),
        ("gao2024/moving", [scipy.stats.norm(0, 25)] * 2 + [scipy.stats.norm(0, 60)] + [None] * 3),
        ("raylign", [scipy.stats.uniform(-35, 70)] * 3 + [scipy.stats.uniform(-20, 40)] * 3),
    ],
)
def test_starts_follow_the_law_that_their_paper_states(name: str, laws: list) -> None:
    values, _, _ = _drawn(name)
    for axis, law in enumerate(laws):
        if law is None and name == "toth2018":
            assert np.abs(values[:, axis]).max() < 1e-9  # in plane means in plane
        elif law is not None:
            assert scipy.stats.kstest(values[:, axis], law.cdf).pvalue > 1e-3, axis
    drawn = values[:, [a for a, law in enumerate(laws) if law is not None]]
    assert np.abs(np.corrcoef(drawn.T) - np.eye(drawn.shape[1])).max() < 0.16  # 4 / sqrt(600)


def test_the_turns_of_gao_s_moving_poses_are_gaussian() -> None:
    """Euler angles fold a second turn beyond 90 degrees, so the rotation is compared with one composed here."""
    sampler = starts("gao2024/moving")
    views, truth = targets("gao2024").draw(POINT, 50, generator(1))
    poses = sampler.draw(truth, views, POINT, CLOUD, generator(2))
    degrees = scipy.stats.norm(0, 25).ppf(uniforms(50, 6, generator(2)).numpy()[:, 3:])
    left, feet, front = np.eye(3)[0], -np.eye(3)[2], -np.eye(3)[1]  # columns, rows and depth of a frontal view
    for pose, (a, b, c) in zip(poses.numpy(), np.deg2rad(degrees), strict=True):
        r = (Rotation.from_rotvec(c * front) * Rotation.from_rotvec(b * feet) * Rotation.from_rotvec(a * left)).as_matrix()
        assert np.abs(pose[:3, :3] - r).max() < 1e-12


def test_gao_s_targets_lie_about_the_frontal_view() -> None:
    views, truth = targets("gao2024").draw(POINT, MANY, generator(4))
    assert all(view.isclose(views[0]) for view in views)
    arm = carm.to_carm(views[0])
    assert (arm.primary, arm.secondary) == pytest.approx((0, 0)) and (arm.sid, arm.sod) == pytest.approx((1020, 800))
    assert arm.pixel_spacing == pytest.approx((2.176, 2.176)) and arm.shape == (128, 128)
    canonical = se3.from_parts(torch.eye(3, dtype=torch.float64), -POINT).expand_as(truth)
    values = _values("gao2024", truth, canonical, views)
    for axis, limit in enumerate([25] * 3 + [15] * 3):
        assert scipy.stats.kstest(values[:, axis], scipy.stats.uniform(-limit, 2 * limit).cdf).pvalue > 1e-3


def test_toth_s_exposures() -> None:
    views, truth = targets("toth2018").draw(POINT, MANY, generator(5))
    arms = [carm.to_carm(view) for view in views]
    assert scipy.stats.kstest([a.primary for a in arms], scipy.stats.uniform(-15, 30).cdf).pvalue > 1e-3
    assert scipy.stats.kstest([a.secondary for a in arms], scipy.stats.uniform(-5, 10).cdf).pvalue > 1e-3
    for arm in arms[:5]:  # 300 mm in the plane of the isocentre
        assert arm.pixel_spacing[1] * arm.shape[1] * arm.sod / arm.sid == pytest.approx(TOTH_FIELDS_MM[0])
    at = se3.transform(truth, POINT.expand(MANY, 1, 3))[:, 0]
    normals = torch.stack([v.normal for v in views])
    assert float((at * normals).sum(1).abs().max()) < 1e-9  # within the image plane through the isocentre
    # uniform in a disc: the square of the distance is uniform
    assert scipy.stats.kstest((at.norm(dim=1) / 10).square().numpy(), scipy.stats.uniform(0, 1).cdf).pvalue > 1e-3
    assert torch.equal(truth[:, :3, :3], torch.eye(3, dtype=torch.float64).expand(MANY, 3, 3))


def test_the_region_of_interest_follows_the_ventricle() -> None:
    views, truth = targets("toth2018").draw(POINT, 8, generator(6))
    for view, pose in zip(views, truth, strict=True):
        at = se3.transform(pose, POINT[None])
        part = region(view, at[0], TOTH_FIELDS_MM[1], (128, 128))
        assert torch.allclose(part.project(at)[0], torch.tensor([63.5, 63.5], dtype=torch.float64), atol=1e-9)
        assert torch.equal(part.source, view.source) and torch.allclose(part.normal, view.normal)
        # a point of the plane of the isocentre at 60 mm from the middle lies on the edge of the part
        edge = torch.linalg.solve(
            part.camera[:, :3], torch.tensor([127.5, 63.5, 1.0], dtype=torch.float64) - 0 * part.camera[:, 3]
        )
        ray = (edge / edge.norm()) * torch.sign(edge @ view.normal)
        middle = view.directions(at[0])
        d = float(-view.source @ view.normal)
        on = [view.source + r * d / (r @ view.normal) for r in (ray, middle)]
        assert float((on[0] - on[1]).norm()) == pytest.approx(60, abs=1e-6)
    with pytest.raises(InputError, match="field"):
        region(views[0], at[0], 0.0, (128, 128))


def test_toth_s_grid_and_ring() -> None:
    grid = starts("toth2018/grid")
    assert isinstance(grid, Grid) and grid.size == 169
    values, _, _ = _drawn("toth2018/grid", 169)
    assert np.abs(values[:, 2:5]).max() < 1e-9
    cells = {(round(x), round(y)) for x, y in values[:, :2]}
    assert cells == {(x, y) for x in range(-30, 31, 5) for y in range(-30, 31, 5)}
    assert np.abs(values[:, :2] - values[:, :2].round()).max() < 1e-9
    assert scipy.stats.kstest(values[:, 5], scipy.stats.uniform(-15, 30).cdf).pvalue > 1e-3
    ring, _, _ = _drawn("toth2018/ring", 200)
    assert np.hypot(ring[:, 0], ring[:, 1]) == pytest.approx(30)
    assert np.abs(ring[:, 2:]).max() < 1e-9
    assert scipy.stats.kstest(np.arctan2(ring[:, 1], ring[:, 0]), scipy.stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


def test_jaganathan_s_exposures_are_frontal_and_lateral_and_start_up_to_60_mm_away() -> None:
    views, truth = targets("jaganathan2021").draw(POINT, MANY, generator(7))
    primary = np.array([carm.to_carm(view).primary for view in views[:200]]).round(6)
    assert set(primary) == {0.0, 90.0} and 70 < (primary == 0).sum() < 130
    poses = starts("jaganathan2021").draw(truth, views, POINT, CLOUD, generator(8))
    far = [float(mtre(p, t, CLOUD)) for p, t in zip(poses, truth, strict=True)]
    assert scipy.stats.kstest(far, scipy.stats.uniform(0, 60).cdf).pvalue > 1e-3


def test_van_houtte_s_cases_are_pairs_of_views_of_one_pose() -> None:
    for name, spread in (("vanhoutte2022", 0), ("vanhoutte2022/generalised", 30)):
        views, truth = targets(name).draw(POINT, 2 * 200, generator(9))
        assert torch.equal(truth[::2], truth[1::2])
        arms = [carm.to_carm(view) for view in views]
        assert arms[0].shape == (224, 160) and (arms[0].sid, arms[0].sod) == pytest.approx((1000, 925))
        assert arms[0].pixel_spacing == pytest.approx((0.35 * 640 / 224, 0.35 * 422 / 160))
        assert np.abs([a.secondary for a in arms]).max() < 1e-9
        off = np.array([a.primary - 90 * (i % 2) for i, a in enumerate(arms)])
        if spread:
            for one in (off[::2], off[1::2]):
                assert scipy.stats.kstest(one, scipy.stats.uniform(-30, 60).cdf).pvalue > 1e-3
            assert abs(np.corrcoef(off[::2], off[1::2])[0, 1]) < 0.28
        else:
            assert np.abs(off).max() < 1e-9
        turns = Rotation.from_matrix(truth[::2, :3, :3].numpy()).as_euler("xzy", degrees=True)  # left, head, back
        assert scipy.stats.kstest(turns[:, 0], scipy.stats.uniform(-10, 20).cdf).pvalue > 1e-3
        assert np.abs(turns).max() <= 10 + 1e-9
    with pytest.raises(InputError, match="multiple of 2"):
        targets("vanhoutte2022").draw(POINT, 3, generator(9))


def test_bins_of_starting_error() -> None:
    bins = mtre_bins()
    assert (
        len(bins) == 28
        and bins[0] == (0.0, 1.0)
        and bins[19] == (19.0, 20.0)
        and bins[20] == (20.0, 25.0)
        and bins[-1] == (55.0, 60.0)
    )
    assert mtre_bins(3)[-1] == (2.0, 3.0)
    for wrong in (0, 22, 2.5):
        with pytest.raises(InputError, match="no bin ends"):
            mtre_bins(wrong)
    sampler = starts("mtre-bin")
    views, truth = targets("raylign").draw(POINT, 10 * len(bins), generator(10))
    poses = sampler.draw(truth, views, POINT, CLOUD, generator(11))
    place = []
    for i, (pose, true) in enumerate(zip(poses, truth, strict=True)):
        low, high = bins[i % len(bins)]
        far = float(mtre(pose, true, CLOUD))
        assert low <= far < high and se3.is_rigid(pose, 1e-9)
        place.append((far - low) / (high - low))
    assert scipy.stats.kstest(place, scipy.stats.uniform(0, 1).cdf).pvalue > 1e-3
    assert starts("mtre-bin/3-4").describe().startswith("mtre-bin/3-4")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    low=st.floats(0, 100),
    width=st.floats(0.01, 50),
    spread=st.sampled_from([0.0, 1e-3, 5.0, 300.0]),
    largest=st.sampled_from([0.0, 10.0, 90.0, 180.0]),
    away=st.floats(0, 300),
)
def test_a_start_is_always_in_its_bin(seed: int, low: float, width: float, spread: float, largest: float, away: float) -> None:
    """Whatever the targets: all in one point, tight, wide, far from the centre of turning."""
    g = generator(seed)
    views, truth = targets("raylign").draw(POINT, 4, g)
    cloud = POINT + away + spread * torch.randn(7, 3, generator=g, dtype=torch.float64)
    laws = Motion(*[Uniform(-1, 1)] * 3, *[Uniform(-10, 10)] * 3)
    sampler = Binned("bin", "", "", laws, ((low, low + width),), largest)
    for pose, true in zip(sampler.draw(truth, views, POINT, cloud, g), truth, strict=True):
        assert low <= float(mtre(pose, true, cloud)) < low + width
        angle = torch.rad2deg(se3.log_rotation(pose[:3, :3] @ true[:3, :3].T).norm())
        # the three turns are made one after another: together at most the sum of their parts
        assert float(angle) <= min(180, np.sqrt(3) * largest) + 1e-6


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    name=st.sampled_from([n for n, s in STARTS.items() if isinstance(s, Scattered) and "moving" not in n]),
)
def test_no_start_leaves_its_box(seed: int, name: str) -> None:
    sampler = starts(name)
    assert isinstance(sampler, Scattered)
    values = sampler.motion.at(uniforms(50, 6, generator(seed)))
    for law, column in zip(sampler.motion.laws, values.unbind(1), strict=True):
        assert isinstance(law, Uniform) and law.low <= float(column.min()) <= float(column.max()) <= law.high


@pytest.mark.parametrize("name", TARGETS)
def test_one_stream_an_exposure_gives_it_in_any_batch(name: str) -> None:
    sampler = targets(name)
    each = sampler.views_per_case
    streams = lambda: [generator(3, i // each) for i in range(3 * each)]  # noqa: E731
    views, truth = sampler.draw(POINT, 3 * each, streams())
    again, same = sampler.draw(POINT, each, streams()[each : 2 * each])
    assert torch.equal(truth[each : 2 * each], same) and views[each] == again[0]
    one, poses = sampler.draw(POINT, 3 * each, generator(3))
    assert one[0] == sampler.draw(POINT, 3 * each, generator(3))[0][0]
    assert all(se3.is_rigid(p, 1e-9) for p in poses) and all(v.shape == sampler.carm.shape for v in one)


@pytest.mark.parametrize("name", STARTS)
def test_starts_are_seeded_rigid_and_one_a_stream(name: str) -> None:
    sampler = starts(name)
    views, truth = targets("gao2024").draw(POINT, 4, generator(1))
    a, b, c = (sampler.draw(truth, views, POINT, CLOUD, generator(s)) for s in (5, 5, 6))
    assert torch.equal(a, b) and (name == "vanhoutte2022" or not torch.equal(a, c))
    assert a.dtype == torch.float64 and all(se3.is_rigid(p, 1e-9) for p in a)
    streams = [generator(7, i) for i in range(4)]
    many = sampler.draw(truth, views, POINT, CLOUD, streams)
    if not isinstance(sampler, Binned | Grid):  # theirs also depend on the start's place in the list
        alone = sampler.draw(truth[2:3], views[2:3], POINT, CLOUD, [generator(7, 2)])
        assert torch.allclose(alone[0], many[2], atol=1e-9)
    with pytest.raises(InputError, match="generators for 4"):
        sampler.draw(truth, views, POINT, CLOUD, streams[:2])
    with pytest.raises(InputError, match="views for poses"):
        sampler.draw(truth, views[:2], POINT, CLOUD, generator(1))


def test_what_is_said_of_them() -> None:
    for sampler in (*TARGETS.values(), *STARTS.values(), LI_AFFINE):
        text = sampler.describe()
        assert text.startswith(sampler.name) and ("source:" in text or "chosen here:" in text)
        assert json.loads(json.dumps(sampler.to_dict()))["name"] == sampler.name
    for law in (Uniform(-1, 2), Normal(0, 3)):
        assert law_from_dict(json.loads(json.dumps(law_to_dict(law)))) == law
    assert {type(s) for s in STARTS.values()} == {Scattered, Grid, Ring, Binned}


def test_the_detector_keeps_its_area_in_other_pixels() -> None:
    for name in ("toth2018", "vanhoutte2022"):
        whole = targets(name)
        small = whole.resized((64, 32))
        a, b = (s.draw(POINT, 2, generator(1))[0][0] for s in (whole, small))
        assert b.shape == (64, 32) and a.resample((64, 32)).isclose(b, 1e-9)
    with pytest.raises(InputError, match="varies"):
        targets("raylign").resized((64, 64))


def test_affine_maps_turn_about_the_middle_of_the_image() -> None:
    shape = (101, 201)
    m = LI_AFFINE.draw(shape, MANY, generator(1)).numpy()
    centre = m @ np.array([100, 50, 1.0])
    shift = (centre[:, :2] - [100, 50]) / [201, 101]
    for axis in range(2):
        assert scipy.stats.kstest(shift[:, axis], scipy.stats.uniform(-0.15, 0.3).cdf).pvalue > 1e-3
    # M = rotation * upper triangular: QR has the angle, the scales and the shear
    q, r = np.linalg.qr(m[:, :2, :2])
    sign = np.sign(np.diagonal(r, axis1=1, axis2=2))
    q, r = q * sign[:, None], r * sign[:, :, None]
    found = [
        (np.rad2deg(np.arctan2(q[:, 1, 0], q[:, 0, 0])), 15),
        (np.log(r[:, 0, 0]), 0.2),
        (np.log(r[:, 1, 1]), 0.2),
        (r[:, 0, 1] / r[:, 1, 1], 0.1),
    ]
    for values, limit in found:
        assert scipy.stats.kstest(values, scipy.stats.uniform(-limit, 2 * limit).cdf).pvalue > 1e-3
    with pytest.raises(InputError, match="no pixels"):
        LI_AFFINE.draw((0, 3), 1, generator(1))


def test_refusals() -> None:
    with pytest.raises(InputError, match="there are toth2018"):
        targets("nobody")
    with pytest.raises(InputError, match="mtre-bin/LOW-HIGH"):
        starts("nobody")
    for wrong, words in (("mtre-bin/x", "no bin"), ("mtre-bin/4-3", "low < high")):
        with pytest.raises(InputError, match=words):
            starts(wrong)
    with pytest.raises(InputError, match="low <= high"):
        Uniform(2, 1)
    with pytest.raises(InputError, match="sd > 0"):
        Normal(0, 0)
    with pytest.raises(InputError, match="three numbers"):
        targets("gao2024").draw(torch.zeros(2), 1, generator(0))
    with pytest.raises(InputError, match="grid"):
        Grid("g", "", "", 30.0, 7.0, Uniform(0, 0))
    with pytest.raises(InputError, match="no C-arm position"):
        TargetSampler("t", "", "", targets("gao2024").carm, ())
    views, truth = targets("gao2024").draw(POINT, 1, generator(0))
    with pytest.raises(InputError, match="targets are points"):
        starts("mtre-bin").draw(truth, views, POINT, torch.zeros(0, 3), generator(0))
    assert isinstance(starts("toth2018/ring"), Ring)
