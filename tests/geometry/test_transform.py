from __future__ import annotations

import pytest
import torch

from raylign import InputError, Rigid
from raylign.geometry import se3
from tests.geometry.cases import D, points

MOTION = se3.exp(torch.tensor([0.3, -1.2, 0.5, 10.0, 20.0, 30.0], dtype=D))


def test_a_pose_moves_points_and_its_inverse_moves_them_back() -> None:
    pose = Rigid(MOTION)
    assert torch.equal(pose.matrix, MOTION)
    expected = torch.stack([MOTION[:3, :3] @ p + MOTION[:3, 3] for p in points()])
    assert torch.allclose(pose.apply(points()), expected, atol=1e-12)
    assert torch.allclose(pose.inverse().apply(pose.apply(points())), points(), atol=1e-12)


@pytest.mark.parametrize("digits", [5, 7])
def test_a_rotation_of_few_digits_still_has_an_exact_inverse(digits: int) -> None:
    coarse = MOTION.clone()
    coarse[:3, :3] = (coarse[:3, :3] * 10**digits).round() / 10**digits
    pose = Rigid(coarse)
    assert float((pose.matrix - coarse).abs().max()) < 10.0**-digits
    far = points() * 10
    assert float((pose.inverse().apply(pose.apply(far)) - far).abs().max()) < 1e-9
    assert float((pose.matrix[:3, 3] - MOTION[:3, 3]).abs().max()) == 0


def test_single_precision_and_lists_are_taken() -> None:
    assert Rigid(MOTION.float()).matrix.dtype == D
    assert torch.equal(Rigid(MOTION.tolist()).matrix, MOTION)


def test_gradients_pass_through() -> None:
    twist = torch.tensor([0.1, 0.2, 0.3, 1.0, 2.0, 3.0], requires_grad=True)  # float32: not orthonormal to double rounding
    Rigid(se3.exp(twist)).apply(points()).sum().backward()
    assert twist.grad is not None and bool(torch.isfinite(twist.grad).all()) and float(twist.grad.abs().min()) > 0


@pytest.mark.parametrize(
    "matrix",
    [
        torch.zeros(4, 4),
        torch.diag(torch.tensor([-1.0, 1, 1, 1])),
        torch.diag(torch.tensor([2.0, 2, 2, 1])),
        torch.diag(torch.tensor([1.0, 1, 1, 2])),
        torch.full((4, 4), torch.nan),
        torch.eye(3),
    ],
)
def test_what_is_not_rigid_is_refused(matrix: torch.Tensor) -> None:
    with pytest.raises(InputError, match="not rigid"):
        Rigid(matrix)
