"""Frames of bones, held to shapes of which they are known, and motions to rotations that were put in."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from raylign import InputError
from raylign.geometry import se3
from raylign.geometry.anatomy import (
    JointAngles,
    frame_from,
    helical_axis,
    joint_angles,
    long_bone,
    relative,
    rotation_of,
    samples,
    side_of,
)

X, Y, Z = torch.eye(3, dtype=torch.float64)


def pose(*twist: float) -> torch.Tensor:
    return se3.exp(torch.tensor(twist, dtype=torch.float64))


def bone(bow: float = 3.0) -> torch.Tensor:
    """A tube 80 mm long along z, distal end at z = 0, hollow towards +y, with a styloid on +x."""
    g = torch.Generator().manual_seed(0)
    u = torch.rand(60_000, 3, dtype=torch.float64, generator=g)
    radius, angle, z = 6 * u[:, 0].sqrt(), 2 * math.pi * u[:, 1], 80 * u[:, 2]
    bent = bow * (2 * z / 80 - 1) ** 2
    tube = torch.stack([radius * angle.cos(), radius * angle.sin() + bent, z], 1)
    styloid = torch.tensor([9.0, bow, -6.0], dtype=torch.float64) + 0.5 * torch.randn(50, 3, dtype=torch.float64, generator=g)
    return torch.cat([tube, styloid])


def test_a_bone_says_its_axis_its_tip_and_where_it_is_hollow() -> None:
    turned = pose(0.3, -0.7, 1.2, 40, -20, 700)
    points = bone() @ turned[:3, :3].T + turned[:3, 3]
    found = long_bone(points, -turned[:3, 2] + 0.3 * turned[:3, 0])
    assert float(found.proximal @ turned[:3, 2]) > math.cos(math.radians(1))
    assert float((found.tip - (turned[:3, :3] @ torch.tensor([9.0, 3, -7], dtype=torch.float64) + turned[:3, 3])).norm()) < 2
    assert float(found.arch @ turned[:3, 1]) > math.cos(math.radians(5))
    assert 0.5 < found.bow < 3
    # the other end: the axis turns round
    assert float(long_bone(points, turned[:3, 2]).proximal @ turned[:3, 2]) < -0.99


def test_what_is_no_long_bone() -> None:
    g = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match="not long"):
        long_bone(torch.randn(500, 3, dtype=torch.float64, generator=g), -Z)
    with pytest.raises(InputError, match="across the bone"):
        long_bone(bone(), X)
    with pytest.raises(InputError, match="points"):
        long_bone(torch.zeros(3, 3), X)


@pytest.mark.parametrize("side", ["right", "left"])
def test_radial_ulnar_palmar_and_dorsal_say_the_same_frame(side: str) -> None:
    # anatomical position seen as patient LPS: up is +z, front -y, right of the patient -x
    radial = -X if side == "right" else X
    frames = [
        frame_from(torch.zeros(3), Z, mark, kind, side).matrix  # type: ignore[arg-type]
        for kind, mark in (("radial", radial + 0.4 * Z), ("ulnar", -radial), ("palmar", -Y - 0.2 * Z), ("dorsal", Y))
    ]
    for frame in frames:
        assert torch.allclose(frame[:3, :3], torch.stack([-Y, Z, -X], 1))  # x forward, y up, z to the right
        assert float(torch.linalg.det(frame[:3, :3])) == pytest.approx(1)


@pytest.mark.parametrize("side", ["right", "left"])
def test_signs_by_where_the_hand_goes(side: str) -> None:
    """A hand that hangs along -y: flexion takes it forward, ulnar deviation to the little finger, pronation turns the palm in."""
    ulnar = -Z if side == "right" else Z
    hand, palm = -Y, X
    for angles, what, where in (
        (JointAngles(30, 0, 0), hand, X),
        (JointAngles(0, 30, 0), hand, ulnar),
        (JointAngles(0, 0, 30), palm, ulnar),
    ):
        assert float(rotation_of(angles, side) @ what @ where) == pytest.approx(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["right", "left"])
def test_angles_come_back_and_are_scipys(side: str) -> None:
    sign = 1 if side == "right" else -1
    for flexion, deviation, pronation in ((40, -25, 70), (-80, 30, -120), (5, 0, 0)):
        r = rotation_of(JointAngles(flexion, deviation, pronation), side)  # type: ignore[arg-type]
        back = joint_angles(r, side)  # type: ignore[arg-type]
        assert (back.flexion, back.ulnar_deviation, back.pronation) == pytest.approx((flexion, deviation, pronation))
        made = Rotation.from_euler("ZXY", [flexion, sign * deviation, sign * pronation], degrees=True).as_matrix()
        assert torch.allclose(r, torch.from_numpy(made))


def test_motion_does_not_depend_on_the_world() -> None:
    radius = frame_from(torch.tensor([3.0, 4, 5]), Z, X, "radial", "right")
    metacarpal = frame_from(torch.tensor([1.0, -2, 60]), Z + 0.1 * X, -Y, "palmar", "right")
    a, b, world = pose(0.1, 0.2, -0.4, 5, 9, 2), pose(0.7, -0.2, 0.3, 1, 2, 80), pose(1.1, -0.8, 2.0, -30, 40, 900)
    assert torch.allclose(relative(a, b, radius, metacarpal), relative(world @ a, world @ b, radius, metacarpal))


def test_a_screw_comes_back() -> None:
    n = torch.nn.functional.normalize(torch.tensor([0.2, -0.5, 0.8], dtype=torch.float64), dim=0)
    point = torch.tensor([10.0, 20.0, -5.0], dtype=torch.float64)
    r = se3.exp(torch.cat([n * math.radians(37), torch.zeros(3, dtype=torch.float64)]))[:3, :3]
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3], motion[:3, 3] = r, point - r @ point + 4.0 * n
    found = helical_axis(motion)
    assert found.degrees == pytest.approx(37) and found.shift == pytest.approx(4)
    assert torch.allclose(found.direction, n)
    assert torch.allclose(found.point, point - (point @ n) * n)
    still = helical_axis(torch.eye(4, dtype=torch.float64))
    assert still.degrees == 0 and still.shift == 0


def test_samples_have_the_covariance_that_was_stated() -> None:
    base, centre = pose(0.4, 0.1, -0.3, 10, 0, 700), torch.tensor([30.0, -10, 650], dtype=torch.float64)
    a = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor([1e-3] * 3 + [0.3] * 3, dtype=torch.float64)
    covariance = (a @ a.T) * scale * scale[:, None]
    drawn = samples(base, covariance, centre, 20_000, torch.Generator().manual_seed(2))
    at = torch.linalg.inv(base)[:3, :3] @ centre + torch.linalg.inv(base)[:3, 3]
    moved = drawn[:, :3, :3] @ at + drawn[:, :3, 3] - centre
    turns = torch.stack([se3.log_rotation(d[:3, :3] @ base[:3, :3].T) for d in drawn[:4000]])
    assert torch.allclose(torch.cov(moved.T), covariance[3:, 3:], rtol=0.1, atol=0.01)
    assert torch.allclose(torch.cov(turns.T), covariance[:3, :3], rtol=0.15, atol=3e-7)


def test_what_is_not_stated_is_refused() -> None:
    with pytest.raises(InputError, match="side"):
        frame_from(torch.zeros(3), Z, X, "radial", "")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="radial, ulnar"):
        frame_from(torch.zeros(3), Z, X, "thumb", "right")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="on the long axis"):
        frame_from(torch.zeros(3), Z, Z, "radial", "right")


def test_the_side_that_directions_tell() -> None:
    # a right arm hanging with its palm forward, seen from in front: x left of the body, y up, z forward
    palmar, proximal, radial = (torch.tensor(v, dtype=torch.float64) for v in ((0.0, 0, 1), (0.0, 1, 0), (-1.0, 0, 0)))
    turn = torch.from_numpy(Rotation.random(rng=5).as_matrix())
    assert side_of(turn @ palmar, turn @ proximal, turn @ radial) == "right"
    assert side_of(turn @ palmar, turn @ proximal, -turn @ radial) == "left"
    oblique = radial + 0.8 * proximal + 0.5 * palmar
    assert side_of(palmar, proximal, oblique) == "right"
    frame = frame_from(torch.zeros(3), proximal, palmar, "palmar", "right")
    assert float(frame.matrix[:3, 2] @ radial) == pytest.approx(1.0)  # right of the body is radial of a right arm
    with pytest.raises(InputError, match="one plane"):
        side_of(palmar, proximal, proximal + 0.2 * radial)
