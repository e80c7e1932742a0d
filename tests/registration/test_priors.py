"""Priors against the densities of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import foldnorm, norm

from raylign.errors import InputError
from raylign.geometry import View
from raylign.registration.priors import FoldedNormal, Frame, Magnitudes, PerAxis, Reprojection, penalties
from raylign.registration.search import camera_axes, moved

VIEW = View.from_carm(primary=25, secondary=-10, sid=1050, sod=720, pixel_spacing=1.5, shape=(160, 200))
AXES = camera_axes(VIEW)
CENTRE = np.array([4.0, -7.0, 12.0])


def frame() -> Frame:
    start = np.eye(4)
    start[:3, :3] = Rotation.from_euler("xyz", [30, -40, 70], degrees=True).as_matrix()
    start[:3, 3] = [20.0, -30.0, 5.0]
    return Frame(start, AXES, CENTRE)


def pose(turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The start moved by a rotation and a shift given in the camera's axes."""
    vector = Rotation.from_matrix(AXES @ turn @ AXES.T).as_rotvec()
    return moved(frame().start, np.concatenate([vector, AXES @ shift]), CENTRE)[None]


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 15.0), (5.0, 10.0), (30.0, 8.0), (10.0, 10.0)])
def test_folded_normal(mean: float, sd: float) -> None:
    r = np.linspace(0, 60, 2001)
    expected = -foldnorm.logpdf(r, mean / sd, scale=sd)
    found = FoldedNormal(mean, sd).penalty(r)
    assert np.allclose(found - found[0], expected - expected[0], atol=1e-9)
    assert -1e-9 <= found.min() < 1e-4


def test_euler_angles_and_shifts_along_the_cameras_axes() -> None:
    degrees, mm = np.array([9.0, -14.0, 21.0]), np.array([11.0, -6.0, 70.0])
    turn = Rotation.from_euler("XYZ", degrees, degrees=True).as_matrix()  # Rx Ry Rz
    prior = PerAxis((15, 15, 10), (30, 30, 150))
    expected = sum(
        -norm.logpdf(v, 0, s) + norm.logpdf(0, 0, s) for v, s in zip([*degrees, *mm], [15, 15, 10, 30, 30, 150], strict=True)
    )
    assert prior.penalty(pose(turn, mm), frame())[0] == pytest.approx(expected, rel=1e-9)


def test_angle_and_distance_whatever_their_direction() -> None:
    prior = Magnitudes(FoldedNormal(0, 12), FoldedNormal(20, 9))
    generator = np.random.default_rng(0)
    for _ in range(5):
        axis, direction = generator.standard_normal((2, 3))
        turn = Rotation.from_rotvec(np.radians(25) * axis / np.linalg.norm(axis)).as_matrix()
        found = prior.penalty(pose(turn, 33 * direction / np.linalg.norm(direction)), frame())[0]
        assert found == pytest.approx(
            FoldedNormal(0, 12).penalty(np.array([25.0]))[0] + FoldedNormal(20, 9).penalty(np.array([33.0]))[0]
        )


def test_nothing_moved_costs_nothing() -> None:
    start = frame().start[None]
    assert PerAxis().penalty(start, frame())[0] == pytest.approx(0, abs=1e-12)
    assert Magnitudes().penalty(start, frame())[0] == pytest.approx(0, abs=1e-12)
    assert penalties((), start, frame()).tolist() == [0.0]


def test_landmarks_under_their_pixels() -> None:
    generator = torch.Generator().manual_seed(1)
    points = 60 * torch.randn(7, 3, generator=generator, dtype=torch.float64)
    other = View.from_carm(primary=-60, secondary=0, sid=1050, sod=720, pixel_spacing=1.5, shape=(160, 200))
    start = torch.from_numpy(frame().start)
    world = points @ start[:3, :3].T + start[:3, 3]
    seen = [v.project(world).detach() + torch.tensor([3.0, 4.0]) for v in (VIEW, other)]
    seen[1][2:] = torch.nan
    prior = Reprojection(points, tuple(seen), (VIEW, other), sd=2.0)
    poses = np.stack([frame().start, pose(np.eye(3), np.array([10.0, 0, 0]))[0]])
    found = prior.penalty(poses, frame())
    assert found[0] == pytest.approx(25 / 8)  # every landmark five pixels off
    assert found[1] > found[0]
    assert penalties((prior, PerAxis()), poses, frame()) == pytest.approx(found + PerAxis().penalty(poses, frame()))


def test_refusals() -> None:
    with pytest.raises(InputError, match="standard deviations"):
        PerAxis((15, 0, 10))
    with pytest.raises(InputError, match="mean"):
        FoldedNormal(-1, 2)
    with pytest.raises(InputError, match="no landmark is seen"):
        Reprojection(torch.zeros(2, 3), (torch.full((2, 2), torch.nan),), (VIEW,))
    with pytest.raises(InputError, match="for each view"):
        Reprojection(torch.zeros(2, 3), (torch.zeros(2, 2),), (VIEW, VIEW))


def test_landmarks_behind_the_source_are_next_to_impossible() -> None:
    """Mirrored through the source a point has the very same pixel."""
    point = torch.tensor([[10.0, -5.0, 20.0]], dtype=torch.float64)
    prior = Reprojection(point, (VIEW.project(point),), (VIEW,), sd=1.0)
    right, behind = np.eye(4), np.eye(4)
    behind[:3, 3] = (2 * VIEW.source - 2 * point[0]).numpy()
    frame = Frame(right, camera_axes(VIEW), np.zeros(3))
    assert np.allclose(VIEW.project(point + torch.from_numpy(behind[:3, 3])), VIEW.project(point), atol=1e-6)
    found = prior.penalty(np.stack([right, behind]), frame)
    assert found[0] == pytest.approx(0.0, abs=1e-9) and found[1] > 1e6
