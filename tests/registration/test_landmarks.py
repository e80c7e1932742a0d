"""Poses from landmarks: right where the data say enough, honest about how right, refused where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from raylign import InputError
from raylign.data import Landmarks
from raylign.geometry import Rigid, View, se3
from raylign.registration.landmarks import LandmarkPose, _enough, pnp, reprojection, start_from_landmarks
from raylign.registration.pnp import Marks, Mode, PnPConfig

Array = NDArray[np.float64]
FRONTAL = View.from_carm(primary=10, secondary=4, sid=1050, sod=720, pixel_spacing=0.6, shape=(512, 512))
LATERAL = View.from_carm(primary=95, secondary=-3, sid=1000, sod=700, pixel_spacing=0.3, shape=(1024, 1024))
NOMINAL = Rigid(torch.eye(4, dtype=torch.float64))
EXACT = PnPConfig(mm=1e7, noise_mm=0.05, inlier=20.0)  # a prior too weak to be seen in the result
NAMES = ("asis_l", "asis_r", "sacrum", "femur_l", "femur_r", "symphysis", "ischium_l", "ischium_r", "l5", "l4")


@dataclass(frozen=True)
class Case:
    points: Array
    pose: Rigid
    pixels: list[Array]


def case(seed: int, count: int, views: Sequence[View] = (FRONTAL,), noise_mm: float = 0.0, degrees: float = 20.0) -> Case:
    """Points within 90 mm, a pose up to ``degrees`` and 40 mm from the nominal one, marks with noise on the detector."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (count, 3)) * [90, 60, 90]
    motion = se3.exp(torch.tensor([*np.radians(rng.uniform(-degrees, degrees, 3)), 0, 0, 0]))
    motion[:3, 3] = torch.from_numpy(rng.uniform(-40, 40, 3))
    pose = Rigid(motion)
    world = pose.apply(torch.from_numpy(points))
    pitch = [v.pixel_spacing[0] for v in views]
    marks = [v.project(world).numpy() + rng.normal(size=(count, 2)) * noise_mm / p for v, p in zip(views, pitch, strict=True)]
    return Case(points, pose, marks)


def solved(c: Case, views: Sequence[View] = (FRONTAL,), config: PnPConfig | None = None) -> LandmarkPose:
    return pnp(
        torch.from_numpy(c.points), [torch.from_numpy(p) for p in c.pixels], views, NOMINAL, config, NAMES[: len(c.points)]
    )


def error(found: LandmarkPose, c: Case) -> torch.Tensor:
    """The twist of the covariance's definition, from the estimate to the truth."""
    motion = c.pose.matrix @ found.pose.inverse().matrix
    shift = motion[:3, :3] @ found.centre + motion[:3, 3] - found.centre
    return torch.cat([se3.log_rotation(motion[:3, :3]), shift])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("views", "count"), [((FRONTAL,), 6), ((FRONTAL, LATERAL), 4)])
def test_marks_without_noise_give_the_pose(views: tuple[View, ...], count: int, seed: int) -> None:
    c = case(seed, count, views, degrees=30)
    found = solved(c, views, EXACT)
    assert torch.allclose(found.pose.matrix, c.pose.matrix, atol=1e-3)  # the prior of the turn is not off
    assert found.rms < 1e-3
    assert not found.outliers


@pytest.mark.parametrize(("views", "count"), [((FRONTAL,), 7), ((FRONTAL, LATERAL), 4)])
def test_errors_are_as_large_as_the_covariance_says(views: tuple[View, ...], count: int) -> None:
    """chi-squared of six degrees of freedom; the scale of the errors is estimated too, which widens it a little."""
    values = []
    for seed in range(30):
        c = case(100 + seed, count, views, noise_mm=1.5)
        found = solved(c, views, PnPConfig(noise_mm=1.5, triples=30))
        x = error(found, c)
        values.append(float(x @ torch.linalg.solve(found.covariance, x)))
    # the mean of 30 has a standard deviation of 0.63 about 6
    assert 4.3 < float(np.mean(values)) < 8.2
    assert float(np.quantile(values, 0.9)) < 18


def test_it_is_where_scipy_puts_the_minimum() -> None:
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    c = case(3, 8, noise_mm=1.0)
    found = solved(c, config=PnPConfig(mm=1e7, degrees=180, noise_mm=20.0))  # wide: all agree, none beyond Huber's limit
    camera = FRONTAL.camera.numpy()

    def residuals(x: Array) -> Array:
        world = c.points @ Rotation.from_rotvec(x[:3]).as_matrix().T + x[3:]
        image = world @ camera[:, :3].T + camera[:, 3]
        return np.asarray((image[:, :2] / image[:, 2:] - c.pixels[0]).ravel())

    best = least_squares(residuals, np.zeros(6), x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    expected = se3.exp(torch.tensor([*best.x[:3], 0, 0, 0])).numpy()
    expected[:3, 3] = best.x[3:]
    assert np.allclose(found.pose.matrix.numpy(), expected, atol=1e-3)
    assert found.rms == pytest.approx(np.sqrt((best.fun.reshape(-1, 2) ** 2).sum(1).mean()), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_opencv_finds_the_same(seed: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    from raylign.geometry.convert import to_opencv

    c = case(20 + seed, 8, noise_mm=1.0)
    camera = to_opencv(FRONTAL)
    pixels = c.pixels[0].copy()
    if camera.mirrored:
        pixels[:, 0] = FRONTAL.shape[1] - 1 - pixels[:, 0]
    ok, turn, shift = cv2.solvePnP(c.points, pixels, camera.K.numpy(), None, flags=cv2.SOLVEPNP_SQPNP)
    assert ok
    turn, shift = cv2.solvePnPRefineLM(c.points, pixels, camera.K.numpy(), None, turn, shift)
    to_camera = np.eye(4)
    to_camera[:3, :3], to_camera[:3, 3] = cv2.Rodrigues(turn)[0], shift[:, 0]
    from_world = np.eye(4)
    from_world[:3, :3], from_world[:3, 3] = camera.R.numpy(), camera.t.numpy()
    expected = torch.from_numpy(np.linalg.inv(from_world) @ to_camera)
    found = solved(c, config=PnPConfig(mm=1e7, degrees=180, noise_mm=20.0))
    world = torch.from_numpy(c.points)
    assert float((found.pose.apply(world) - Rigid(expected).apply(world)).norm(dim=1).max()) < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_three_marks_of_ten_are_wrong(seed: int) -> None:
    c = case(40 + seed, 10, noise_mm=1.0)
    rng = np.random.default_rng(seed)
    wrong = rng.choice(10, 3, replace=False)
    c.pixels[0][wrong] += rng.choice([-1, 1], (3, 2)) * rng.uniform(60, 200, (3, 2))
    found = solved(c)
    assert {m.name for m in found.outliers} == {NAMES[i] for i in wrong}
    x = error(found, c)
    assert float(x @ torch.linalg.solve(found.covariance, x)) < 25


def test_exchanged_names_are_recovered_and_told() -> None:
    c = case(5, 8, noise_mm=0.5)
    c.pixels[0][[0, 1]] = c.pixels[0][[1, 0]]
    found = solved(c)
    assert {m.name for m in found.outliers} == {"asis_l", "asis_r"}
    assert "asis_l and asis_r look exchanged" in found.notes
    assert float(error(found, c)[:3].norm()) < np.radians(2)


def test_a_wrong_mark_on_one_of_two_views_is_left_out_alone() -> None:
    views = (FRONTAL, LATERAL)
    c = case(6, 5, views, noise_mm=0.5)
    c.pixels[1][2] += [300, -200]
    found = solved(c, views)
    assert [(m.name, m.view) for m in found.outliers] == [("sacrum", 1)]
    assert float(error(found, c)[3:].norm()) < 3


def test_two_views_agree_with_triangulation() -> None:
    """A point's place by its two rays, fitted to the model by the method of Kabsch, within what the noise allows."""
    views = (FRONTAL, LATERAL)
    c = case(7, 8, views, noise_mm=0.3)
    places = []
    for i in range(8):
        rows = []
        for v, marks in zip(views, c.pixels, strict=True):
            camera = v.camera.numpy()
            rows += [camera[k] - marks[i, k] * camera[2] for k in (0, 1)]
        a = np.array(rows)
        places.append(np.linalg.lstsq(a[:, :3], -a[:, 3], rcond=None)[0])
    world = np.array(places)
    u, _, vh = np.linalg.svd((c.points - c.points.mean(0)).T @ (world - world.mean(0)))
    r = vh.T @ np.diag([1, 1, np.linalg.det(vh.T @ u.T)]) @ u.T
    fitted = (c.points - c.points.mean(0)) @ r.T + world.mean(0)
    found = solved(c, views).pose.apply(torch.from_numpy(c.points)).numpy()
    assert np.linalg.norm(found - fitted, axis=1).max() < 0.4


def test_missing_marks_are_not_needed() -> None:
    c = case(8, 8, (FRONTAL, LATERAL), noise_mm=0.3)
    c.pixels[0][[0, 1, 2]] = np.nan
    c.pixels[1][[2, 3, 4, 5]] = np.nan
    found = solved(c, (FRONTAL, LATERAL))
    assert len(found.marks) == 9
    assert "sacrum" not in {m.name for m in found.marks}
    assert float(error(found, c)[3:].norm()) < 3


def test_too_few_landmarks_are_told_by_name() -> None:
    c = case(9, 5)
    c.pixels[0][2:] = np.nan
    with pytest.raises(InputError, match=r"2 of the 5 landmarks are marked on the X-rays: asis_l, asis_r; .*1 more of sacrum"):
        solved(c)


def test_a_line_leaves_a_turn_open() -> None:
    c = case(10, 4, (FRONTAL, LATERAL))
    points = np.outer([-80.0, -20.0, 30.0, 80.0], [0.6, 0.0, 0.8])
    world = c.pose.apply(torch.from_numpy(points))
    line = Case(points, c.pose, [v.project(world).numpy() for v in (FRONTAL, LATERAL)])
    with pytest.raises(InputError, match=r"leave a turn open .* mark another landmark, away from the line"):
        solved(line, (FRONTAL, LATERAL))


def test_three_landmarks_are_decided_by_the_prior_or_refused() -> None:
    """Of three points up to four poses see the same. Whatever is returned is consistent with its covariance."""
    refused, answered = 0, 0
    for seed in range(16):
        c = case(60 + seed, 3, noise_mm=0.2)
        try:
            found = solved(c, config=PnPConfig(noise_mm=0.2))
        except InputError as problem:
            assert "two poses explain" in str(problem) or "leave a turn open" in str(problem)
            refused += 1
            continue
        answered += 1
        assert "three landmarks: a wrong one would not show" in found.notes
        x = error(found, c)
        assert float(x @ torch.linalg.solve(found.covariance, x)) < 25
    assert answered >= 6
    assert refused >= 1


def test_a_plane_seen_flat_has_two_poses() -> None:
    """Four near landmarks of a plane lean either way: told, with what to mark; a second view settles it."""
    points = np.array([[-30.0, 0, -30], [30, 0, -30], [30, 0, 30], [-30, 0, 30]])
    pose = Rigid(se3.exp(torch.tensor([0.25, 0, 0, 0, 0, 0], dtype=torch.float64)))
    rng = np.random.default_rng(0)
    marks = [v.project(pose.apply(torch.from_numpy(points))).numpy() + rng.normal(size=(4, 2)) for v in (FRONTAL, LATERAL)]
    with pytest.raises(InputError, match=r"two poses explain the landmarks|leave a turn open"):
        solved(Case(points, pose, marks[:1]))
    found = solved(Case(points, pose, marks), (FRONTAL, LATERAL))
    assert float(error(found, Case(points, pose, marks))[:3].norm()) < np.radians(4)


def test_all_sides_exchanged_is_refused_and_so_is_nonsense() -> None:
    """A pelvis is nearly its own mirror image: with left for right it fits turned by half a turn, which no patient lies."""
    right = np.array([[120.0, -60, 80], [90, 40, -20], [70, 20, -90], [20, -90, 60], [45, 70, 30]])
    points = np.concatenate([right, right * [-1, 1, 1]])
    world = case(0, 3).pose.apply(torch.from_numpy(points))
    marks = FRONTAL.project(world).numpy()
    swapped = marks[[5, 6, 7, 8, 9, 0, 1, 2, 3, 4]]
    with pytest.raises(InputError, match=r"agree on a pose|turned by 1[0-9]{2} degrees"):
        solved(Case(points, NOMINAL, [swapped]))
    with pytest.raises(InputError, match=r"at most \d of 10 marks agree|no pose explains"):
        solved(Case(points, NOMINAL, [np.random.default_rng(1).uniform(50, 460, (10, 2))]))


def test_a_patient_turned_about_is_found_where_it_is_allowed() -> None:
    c = case(11, 8, noise_mm=0.5)
    turned = Rigid(se3.exp(torch.tensor([0, 0, 2.8, 0, 0, 0], dtype=torch.float64)) @ c.pose.matrix)
    marks = FRONTAL.project(turned.apply(torch.from_numpy(c.points))).numpy()
    about = Case(c.points, turned, [marks])
    with pytest.raises(InputError, match=r"only with the patient turned by 1[4-8]\d degrees from the start"):
        solved(about)
    assert float(error(solved(about, config=PnPConfig(degrees=180)), about)[:3].norm()) < np.radians(2)


def test_the_same_seed_gives_the_same_pose() -> None:
    c = case(12, 10, noise_mm=2.0)
    assert torch.equal(solved(c).pose.matrix, solved(c).pose.matrix)


def test_names_join_points_and_marks() -> None:
    c = case(13, 6, noise_mm=0.2)
    points = Landmarks(NAMES[:6], torch.from_numpy(c.points))
    order = [4, 0, 5, 2, 1]
    marks = Landmarks(tuple(NAMES[i] for i in order), torch.from_numpy(c.pixels[0][order]))
    found = start_from_landmarks(points, [marks], [FRONTAL], NOMINAL)
    assert float(error(found, c)[:3].norm()) < np.radians(2)
    away = reprojection(found.pose, points, [marks], [FRONTAL])
    assert {m.name: pytest.approx(m.pixels, rel=1e-9) for m in found.marks} == away[0]
    other = Landmarks(("asis_left",), marks.points[:1])
    with pytest.raises(InputError, match=r"asis_left: it is marked on an X-ray, but is no point of the volume \(asis_l, "):
        start_from_landmarks(points, [other], [FRONTAL], NOMINAL)


def test_the_search_is_as_wide_as_the_covariance_within_limits() -> None:
    sharp = solved(case(14, 10, (FRONTAL, LATERAL), noise_mm=0.1), (FRONTAL, LATERAL), PnPConfig(noise_mm=0.1))
    there = torch.zeros(3, dtype=torch.float64)
    assert (sharp.search(there, FRONTAL).degrees, sharp.search(there, FRONTAL).mm) == (3, 5)
    blunt = solved(case(15, 6, noise_mm=2.0))
    search = blunt.search(there, FRONTAL)
    assert 3 <= search.degrees <= 15 and 5 <= search.mm <= 15 and 5 < search.along <= 60
    # about another point: what a turn does to it is added, and undone by going back
    far = blunt.centre + torch.tensor([0.0, 0.0, 300.0], dtype=torch.float64)
    there_too = blunt.covariance_about(far)
    assert float(there_too[3:, 3:].trace()) > float(blunt.covariance[3:, 3:].trace())
    lever = torch.eye(6, dtype=torch.float64)
    lever[3:, :3] = -se3.hat(far - blunt.centre)
    assert torch.allclose(there_too, lever @ blunt.covariance @ lever.T)


def test_parallel_beams_and_wrong_shapes_are_refused() -> None:
    c = case(16, 5)
    parallel = View.from_parallel(primary=0, pixel_spacing=0.5, shape=(512, 512))
    with pytest.raises(InputError, match="parallel"):
        pnp(torch.from_numpy(c.points), [torch.from_numpy(c.pixels[0])], [parallel], NOMINAL)
    with pytest.raises(InputError, match="observations of shape"):
        pnp(torch.from_numpy(c.points), [torch.from_numpy(c.pixels[0][:3])], [FRONTAL], NOMINAL)
    with pytest.raises(InputError, match="0 arrays of observations"):
        pnp(torch.from_numpy(c.points), [], [FRONTAL], NOMINAL)


def test_chance_is_reckoned_with_for_many_marks_too() -> None:
    """Choices of a thousand and more overflow a float; for few marks the product itself says the same."""
    rng = np.random.default_rng(0)
    for total, near, expected in ((1500, 1000, True), (1500, 760, True), (12, 7, True), (9, 5, False)):
        marks = Marks(
            np.zeros((total, 3)),
            np.vstack([[[0.0, 0.0], [300.0, 300.0]], rng.uniform(0, 300, (total - 2, 2))]),
            np.zeros((total, 3, 4)),
            np.broadcast_to(np.eye(2), (total, 2, 2)),
            np.arange(total),
            np.zeros(total, np.int64),
            np.zeros(3),
        )
        agree = np.arange(total) < near
        away = 1.0 if expected else 60.0
        errors = np.where(agree, away, 100.0)[:, None] * [[1.0, 0.0]]
        mode = Mode(np.eye(3), np.zeros(3), errors, agree, 1.0, np.eye(6), 0.0)
        assert _enough(mode, marks) is expected
        if total < 100:
            chance = np.pi * away**2 / 300.0**2
            alarms = (total - 3) * comb(total, near) * comb(near, 3) * chance ** (near - 3)
            assert (alarms < 0.1) is expected
