from __future__ import annotations

import math

import pytest
import roma
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raylign.geometry import se3

D = torch.float64
number = st.floats(-1, 1, allow_nan=False, width=64)


@st.composite
def twists(draw: st.DrawFn, largest: float = math.pi - 1e-6) -> Tensor:
    """Twists of every scale of rotation, from exactly zero to almost a half turn, and translations up to a metre."""
    axis = torch.tensor([draw(number) for _ in range(3)], dtype=D)
    axis = axis / axis.norm() if float(axis.norm()) > 1e-3 else torch.tensor([0.0, 0.0, 1.0], dtype=D)
    exponent = draw(st.floats(-20, 0))
    angle = draw(st.sampled_from([0.0, 1e-12, 1e-8, 1e-4, 0.01, 0.4999999, 0.5000001, 3.0, largest])) or largest * 10**exponent
    translation = torch.tensor([draw(number) for _ in range(3)], dtype=D) * 1000
    return torch.cat([axis * angle, translation])


@settings(max_examples=100, deadline=None)
@given(twists())
def test_log_undoes_exp(x: Tensor) -> None:
    back = se3.log(se3.exp(x))
    # near a half turn the rotation vector is still well determined, but V^-1 is not the identity and scales the millimetres
    assert float((back[:3] - x[:3]).abs().max()) < 1e-12
    assert float((back[3:] - x[3:]).abs().max()) < 1e-12 * 1000


@pytest.mark.parametrize("angle", [0.0, 1e-300, 1e-16, 1e-8, 1e-4, 1e-3, 0.5, 1.0, 3.0, math.pi - 1e-9])
def test_exp_is_the_matrix_exponential(angle: float) -> None:
    w = torch.tensor([0.36, -0.48, 0.8], dtype=D) * angle
    t = torch.tensor([3.0, -2.0, 1.0], dtype=D)
    generator = torch.zeros(4, 4, dtype=D)
    generator[:3, :3], generator[:3, 3] = se3.hat(w), t
    expected = torch.from_numpy(scipy.linalg.expm(generator.numpy()))
    assert torch.allclose(se3.exp(torch.cat([w, t])), expected, rtol=0, atol=1e-13)


def test_small_motions_move_points_by_what_they_say() -> None:
    # where a coefficient cancels or is clamped, a rotation of 1e-4 rad moves the translation by millimetres
    for angle in (0.0, 1e-10, 1e-6, 1e-4):
        x = torch.tensor([0.0, 0.0, angle, 1000.0, 0.0, 0.0], dtype=D)
        moved = se3.exp(x)[:3, 3]
        exact = torch.tensor([1000 * (1 - angle**2 / 6), 1000 * angle / 2 * (1 - angle**2 / 12), 0.0], dtype=D)
        assert float((moved - exact).abs().max()) < 1e-12


@pytest.mark.parametrize("axis", [(1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (0.6, 0.0, -0.8), (0.36, -0.48, 0.8)])
@pytest.mark.parametrize("short", [0.0, 1e-15, 1e-9, 1e-7, 1e-4])
def test_a_half_turn(axis: tuple[float, float, float], short: float) -> None:
    x = torch.tensor([*axis, 10.0, -20.0, 30.0], dtype=D)
    x[:3] *= math.pi - short
    motion = se3.exp(x)
    twist = se3.log(motion)
    assert float((se3.exp(twist) - motion).abs().max()) < 1e-13 * 100
    assert abs(float(twist[:3].norm()) - (math.pi - short)) < 1e-12


def test_rotations_agree_with_roma() -> None:
    w = torch.randn(500, 3, dtype=D, generator=torch.Generator().manual_seed(1))
    w = w * torch.logspace(-9, 0, 500, dtype=D)[:, None]
    w = w * (3.0 / w.norm(dim=1, keepdim=True)).clamp_max(1)
    r = se3.exp(torch.cat([w, torch.zeros_like(w)], 1))[:, :3, :3]
    assert float((r - roma.rotvec_to_rotmat(w)).abs().max()) < 1e-12
    assert float((se3.log_rotation(r) - roma.rotmat_to_rotvec(r)).abs().max()) < 1e-10
    assert float((se3.log_rotation(r) - w).abs().max()) < 1e-12


def test_batches_are_what_single_ones_are() -> None:
    x = torch.randn(2, 3, 6, dtype=D, generator=torch.Generator().manual_seed(2))
    x[0, 0] = 0
    motions = se3.exp(x)
    assert motions.shape == (2, 3, 4, 4)
    for i in range(2):
        for j in range(3):
            # vector instructions for many and none for one: the last bit may differ
            assert torch.allclose(se3.exp(x[i, j]), motions[i, j], rtol=0, atol=1e-15)
            assert torch.allclose(se3.log(motions)[i, j], x[i, j], rtol=0, atol=1e-12)
    assert torch.allclose(se3.compose(motions, se3.inverse(motions)), torch.eye(4, dtype=D).expand(2, 3, 4, 4), atol=1e-14)


def test_single_precision_keeps_its_dtype_and_its_digits() -> None:
    x = torch.tensor([1e-4, -2e-5, 3e-5, 1.0, 2.0, 3.0])
    assert se3.exp(x).dtype == torch.float32
    assert torch.allclose(se3.log(se3.exp(x)), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.3, 0.5, 2.0, 3.1])
def test_gradients_equal_finite_differences(angle: float) -> None:
    x = torch.tensor([0.6 * angle, 0.0, -0.8 * angle, 0.3, -0.7, 0.2], dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(se3.exp, (x,), eps=1e-6, atol=1e-8)
    if angle > 3:  # a finite step would cross the half turn, where the logarithm jumps
        return
    assert torch.autograd.gradcheck(lambda y: se3.log(se3.exp(y)), (x,), eps=1e-6, atol=1e-8)
    jacobian = torch.autograd.functional.jacobian(lambda y: se3.log(se3.exp(y)), x)
    assert float((jacobian - torch.eye(6, dtype=D)).abs().max()) < 1e-12


def test_gradient_at_zero_is_the_generators() -> None:
    jacobian = torch.autograd.functional.jacobian(se3.exp, torch.zeros(6, dtype=D))
    for i in range(3):
        e = torch.zeros(3, dtype=D)
        e[i] = 1
        assert torch.equal(jacobian[:3, :3, i], se3.hat(e))
        assert torch.equal(jacobian[:3, 3, 3 + i], e)


@settings(max_examples=50, deadline=None)
@given(twists(), twists(), twists())
def test_geodesic_is_a_metric(x: Tensor, y: Tensor, z: Tensor) -> None:
    a, b, c = se3.exp(x), se3.exp(y), se3.exp(z)
    scale = 100.0
    ab, bc, ac = (float(se3.geodesic(p, q, mm_per_radian=scale)) for p, q in ((a, b), (b, c), (a, c)))
    assert ab >= 0
    assert float(se3.geodesic(a, a)) < 1e-7
    assert abs(ab - float(se3.geodesic(b, a, mm_per_radian=scale))) < 1e-6
    assert ac <= ab + bc + 1e-6
    turned = se3.exp(torch.cat([z[:3], torch.zeros(3, dtype=D)]))
    assert abs(ab - float(se3.geodesic(turned @ a, turned @ b, mm_per_radian=scale))) < 1e-6


def test_geodesic_counts_angle_and_distance() -> None:
    a = torch.eye(4, dtype=D)
    b = se3.exp(torch.tensor([0.0, 0.3, 0.0, 0.0, 0.0, 0.0], dtype=D))
    b[:3, 3] = torch.tensor([0.0, 0.0, 40.0], dtype=D)
    assert float(se3.geodesic(a, b, mm_per_radian=100.0)) == pytest.approx(50.0, abs=1e-12)


def test_geodesic_has_a_gradient_where_two_poses_meet() -> None:
    x = torch.zeros(6, dtype=D, requires_grad=True)
    se3.geodesic(se3.exp(x), torch.eye(4, dtype=D)).backward()
    assert x.grad is not None and torch.equal(x.grad, torch.zeros(6, dtype=D))


@pytest.mark.parametrize(
    ("change", "rigid"),
    [
        (lambda m: m, True),
        (lambda m: m * 1.001, False),
        (lambda m: m @ torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=D)), False),
        (lambda m: m + torch.nan, False),
        (lambda m: m[:3], False),
        (lambda m: torch.cat([m[:3], m[3:] + 0.1]), False),
    ],
)
def test_what_counts_as_rigid(change: object, rigid: bool) -> None:
    motion = se3.exp(torch.tensor([0.3, -1.2, 0.5, 10.0, 20.0, 30.0], dtype=D))
    assert se3.is_rigid(change(motion)) is rigid  # type: ignore[operator]
