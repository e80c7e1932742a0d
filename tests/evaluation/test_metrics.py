"""Against cases that are worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylign import InputError
from raylign.evaluation import metrics
from raylign.geometry import Rigid, View, se3

SID, SOD = 1000.0, 500.0
EYE = torch.eye(4, dtype=torch.float64)


def frontal() -> View:
    """Source at y = +500 (behind the patient), detector at y = -500; magnification 2 at the isocentre."""
    return View.from_carm(primary=0, secondary=0, sid=SID, sod=SOD, pixel_spacing=(1.0, 1.0), shape=(101, 101))


def shifted(x: float, y: float, z: float) -> torch.Tensor:
    m = EYE.clone()
    m[:3, 3] = torch.tensor([x, y, z], dtype=torch.float64)
    return m


ISOCENTRE = torch.zeros(1, 3, dtype=torch.float64)


def test_a_shift_is_its_own_mtre_whatever_the_targets(generator: torch.Generator) -> None:
    points = torch.randn(20, 3, generator=generator, dtype=torch.float64) * 50
    assert float(metrics.mtre(shifted(3, 0, -4), EYE, points)) == pytest.approx(5)


def test_a_turn_moves_each_target_by_its_chord() -> None:
    turned = se3.exp(torch.tensor([0, 0, math.radians(60), 0, 0, 0], dtype=torch.float64))
    points = torch.tensor([[10.0, 0, 0], [0, 20, 0], [0, 0, 99]], dtype=torch.float64)
    # chord of 60 degrees is the radius; the last target lies on the axis
    assert float(metrics.mtre(turned, EYE, points)) == pytest.approx((10 + 20 + 0) / 3)


def test_in_plane_shift_by_hand() -> None:
    pose = shifted(3, 0, 0)
    assert float(metrics.mpd(pose, EYE, ISOCENTRE, frontal())) == pytest.approx(6)  # magnified twice
    # the foot of the perpendicular from the isocentre to the ray through (3, 0, 0): 500 * 3 / |(3, 500)|
    assert float(metrics.mrpd(pose, EYE, ISOCENTRE, frontal())) == pytest.approx(500 * 3 / math.hypot(3, 500))


def test_depth_is_unseen_in_projection() -> None:
    pose = shifted(0, 25, 0)
    assert float(metrics.mtre(pose, EYE, ISOCENTRE)) == pytest.approx(25)
    assert float(metrics.mpd(pose, EYE, ISOCENTRE, frontal())) == pytest.approx(0, abs=1e-9)
    assert float(metrics.mrpd(pose, EYE, ISOCENTRE, frontal())) == pytest.approx(0, abs=1e-9)


def test_two_views_are_averaged() -> None:
    lateral = View.from_carm(primary=90, secondary=0, sid=SID, sod=SOD, pixel_spacing=(1.0, 1.0), shape=(101, 101))
    pose = shifted(0, 3, 0)  # depth for one, in plane for the other
    assert float(metrics.mpd(pose, EYE, ISOCENTRE, [frontal(), lateral])) == pytest.approx(3)


def test_oblong_pixels_are_measured_in_mm() -> None:
    oblong = View.from_carm(primary=0, secondary=0, sid=SID, sod=SOD, pixel_spacing=(0.5, 2.0), shape=(101, 101))
    assert float(metrics.mpd(shifted(3, 0, 4), EYE, ISOCENTRE, oblong)) == pytest.approx(10)


def test_batches_of_poses_give_a_number_each() -> None:
    poses = torch.stack([shifted(1, 0, 0), shifted(0, 0, 2), EYE])
    assert metrics.mtre(poses, EYE, ISOCENTRE).tolist() == pytest.approx([1, 2, 0])
    assert metrics.mpd(poses, EYE, ISOCENTRE, frontal()).tolist() == pytest.approx([2, 4, 0])
    assert metrics.mrpd(poses, Rigid(EYE), ISOCENTRE, frontal()).shape == (3,)


def test_the_split_names_the_directions() -> None:
    error = metrics.pose_error(shifted(3, -7, 4), EYE, ISOCENTRE, frontal())
    # the source is behind the patient, so away from it is -y
    assert (error.in_plane, error.depth, error.angle) == pytest.approx((5, 7, 0))
    about_ray = se3.exp(torch.tensor([0, math.radians(-2), 0, 0, 0, 0], dtype=torch.float64))
    assert metrics.pose_error(about_ray, EYE, ISOCENTRE, frontal()).rotation == pytest.approx((0, 0, 2))


@settings(max_examples=30, deadline=None)
@given(st.floats(-180, 180), st.floats(-60, 60), st.lists(st.floats(-80, 80), min_size=3, max_size=3))
def test_axes_are_orthonormal_and_follow_the_image(primary: float, secondary: float, at: list[float]) -> None:
    view = View.from_carm(primary=primary, secondary=secondary, sid=1100, sod=700, pixel_spacing=(0.3, 0.4), shape=(100, 100))
    point = torch.tensor(at, dtype=torch.float64)
    axes = metrics.view_axes(view, point)
    assert torch.allclose(axes @ axes.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    here, across, down, deeper = view.project(torch.stack([point, *(point + a for a in axes)]))
    assert across[0] > here[0] and abs(across[1] - here[1]) < 0.5 * abs(across[0] - here[0])
    assert down[1] > here[1] and abs(down[0] - here[0]) < 0.5 * abs(down[1] - here[1])
    assert torch.allclose(here, deeper, atol=1e-8)  # along the ray nothing moves


def test_no_targets_is_an_error() -> None:
    with pytest.raises(InputError, match="targets are points"):
        metrics.mtre(EYE, EYE, torch.zeros(0, 3))
    with pytest.raises(InputError, match="no view"):
        metrics.mpd(EYE, EYE, ISOCENTRE, [])


def test_the_cross_is_measured_in_the_plane_of_the_landmark() -> None:
    view = frontal()  # rays run towards -y; columns along x, rows along z
    centre = torch.tensor([20.0, 30.0, -10.0], dtype=torch.float64)
    assert float(metrics.cross_tre(shifted(3, 0, 4), EYE, centre, view)) == pytest.approx(5)  # whatever the magnification
    # a quarter turn about the ray through the isocentre, there: four ends move by 10 sqrt 2, the centre not at all
    turn = se3.exp(torch.tensor([0, math.pi / 2, 0, 0, 0, 0], dtype=torch.float64))
    assert float(metrics.cross_tre(turn, EYE, ISOCENTRE[0], view)) == pytest.approx(4 / 5 * 10 * math.sqrt(2))
    # in depth nothing but the size of the cross changes: 10 mm, 50 mm nearer to the source, are 10 / 9 as large
    nearer = metrics.cross_tre(shifted(0, 50, 0), EYE, ISOCENTRE[0], view)
    assert float(nearer) == pytest.approx(4 / 5 * (10 / 0.9 - 10))


def test_the_cross_moves_with_a_gold_pose_that_is_not_the_identity() -> None:
    gold = se3.exp(torch.tensor([0.3, -0.2, 0.5, 11.0, -7.0, 3.0], dtype=torch.float64))
    estimate = shifted(1.5, 0, -2.0) @ gold
    centre = torch.tensor([5.0, -8.0, 12.0], dtype=torch.float64)
    assert float(metrics.cross_tre(estimate, gold, centre, frontal())) == pytest.approx(2.5)
    assert float(metrics.cross_tre(gold, gold, centre, frontal())) == pytest.approx(0, abs=1e-9)


def test_a_cross_behind_the_source_is_refused() -> None:
    with pytest.raises(InputError, match="not between source and detector"):
        metrics.cross_tre(EYE, EYE, torch.tensor([0.0, 600.0, 0.0], dtype=torch.float64), frontal())
