"""Rigid motions of space: SE(3) as 4x4 matrices and as twists.

A twist is a 6-vector ``(rotation in radians, translation in mm)``; ``exp`` takes it to the 4x4 matrix of the motion and
``log`` back. All functions take any leading batch shape, keep the dtype and the device of their input, and are
differentiable everywhere, zero included; ``log`` is exact up to and including rotations by pi, where the axis is
determined up to its sign and one of the two is returned.

The coefficients ``sin(x)/x`` and their like cancel near zero; there they are replaced by their Taylor series, selected
with the double-``where`` idiom so that no NaN reaches a gradient through the branch that was not taken.

Source: Ethan Eade, "Lie Groups for 2D and 3D Transformations"; Murray, Li and Sastry, "A Mathematical Introduction to
Robotic Manipulation", appendix A.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_SERIES_BELOW = 0.5  # radians; seven series terms are exact to 1e-16 there, and the closed forms cancel little above


def hat(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Skew matrix: ``hat(w) @ x == cross(w, x)``."""
    zero = torch.zeros_like(w[..., 0])
    x, y, z = w.unbind(-1)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def _series(x2: Tensor, first: float, denominators: tuple[float, ...]) -> Tensor:
    """``first * (1 - x2/d0 * (1 - x2/d1 * (1 - ...)))``: an alternating Taylor series in Horner form."""
    total = torch.ones_like(x2)
    for d in reversed(denominators):
        total = 1 - x2 / d * total
    return first * total


def _coefficients(x2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``sin x / x``, ``(1 - cos x) / x^2`` and ``(x - sin x) / x^3`` from ``x^2``, smooth at zero."""
    small = x2 < _SERIES_BELOW**2
    safe2 = torch.where(small, torch.ones_like(x2), x2)
    x = safe2.sqrt()
    half_sine = torch.sin(x / 2)
    a = torch.where(small, _series(x2, 1.0, (6.0, 20.0, 42.0, 72.0, 110.0, 156.0, 210.0)), torch.sin(x) / x)
    b = torch.where(small, _series(x2, 0.5, (12.0, 30.0, 56.0, 90.0, 132.0, 182.0, 240.0)), 2 * half_sine**2 / safe2)
    c = torch.where(
        small,
        _series(x2, 1 / 6, (20.0, 42.0, 72.0, 110.0, 156.0, 210.0, 272.0)),
        (x - torch.sin(x)) / (x * safe2),
    )
    return a, b, c


def exp(twist: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """The motion of a twist ``(rotation vector in radians, translation part in mm)``.

    The translation of the result is ``V(w) t``, the screw motion of the twist, as usual for the exponential of SE(3);
    it equals ``t`` only for a pure translation.
    """
    w, t = twist[..., :3], twist[..., 3:]
    a, b, c = (k[..., None, None] for k in _coefficients((w * w).sum(-1)))
    k = hat(w)
    kk = k @ k
    eye = torch.eye(3, dtype=twist.dtype, device=twist.device)
    rotation = eye + a * k + b * kk
    translation = (eye + b * k + c * kk) @ t[..., None]
    return from_parts(rotation, translation[..., 0])


def from_parts(rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """The 4x4 matrix of ``x -> rotation @ x + translation``."""
    top = torch.cat([rotation, translation[..., None]], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 0, 3] = 1
    return torch.cat([top, bottom], -2)


def _quaternion(r: Tensor) -> Tensor:
    """Unit quaternion (w, x, y, z), w >= 0, of a rotation matrix, from the best conditioned of four formulas."""
    m00, m01, m02 = r[..., 0, 0], r[..., 0, 1], r[..., 0, 2]
    m10, m11, m12 = r[..., 1, 0], r[..., 1, 1], r[..., 1, 2]
    m20, m21, m22 = r[..., 2, 0], r[..., 2, 1], r[..., 2, 2]
    # Row i of `rows` is 4 q_i q; its i-th entry 4 q_i^2 >= 1 for at least one i, so the largest is safe to divide by.
    rows = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20], -1),
            torch.stack([m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21], -1),
            torch.stack([m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22], -1),
        ],
        -2,
    )
    best = torch.diagonal(rows, dim1=-2, dim2=-1).argmax(-1)
    q = torch.gather(rows, -2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def log_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vector (radians, length at most pi) of a rotation matrix."""
    q = _quaternion(rotation)
    w, v = q[..., 0], q[..., 1:]
    s2 = (v * v).sum(-1)  # sin^2 of half the angle
    small = s2 < 1e-6
    safe = torch.where(small, torch.ones_like(s2), s2).sqrt()
    # angle / sin(angle/2): by the series of 2 asin(s)/s near zero, by atan2 elsewhere
    near = 2 * (1 + s2 / 6 * (1 + s2 * 9 / 20 * (1 + s2 * 25 / 42)))
    far = 2 * torch.atan2(safe, w) / safe
    return torch.where(small, near, far)[..., None] * v


def log(matrix: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6"]:
    """The twist of a rigid motion: ``exp(log(T)) == T``."""
    w = log_rotation(matrix[..., :3, :3])
    x2 = (w * w).sum(-1)
    a, b, _ = _coefficients(x2)
    # V^-1 = I - K/2 + (1 - a/(2b)) / x^2 K^2 ; the last factor tends to 1/12 at zero and cancels near it
    small = x2 < _SERIES_BELOW**2
    safe2 = torch.where(small, torch.ones_like(x2), x2)
    series = 1 / 12 + x2 * (1 / 720 + x2 * (1 / 30240 + x2 * (1 / 1209600 + x2 * (1 / 47900160 + x2 * (691 / 1307674368000)))))
    d = torch.where(small, series, (1 - a / (2 * b)) / safe2)
    k = hat(w)
    eye = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    v_inverse = eye - 0.5 * k + d[..., None, None] * (k @ k)
    t = (v_inverse @ matrix[..., :3, 3:])[..., 0]
    return torch.cat([w, t], -1)


def compose(*matrices: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Product of motions, the last applied first: ``compose(A, B)`` maps ``x`` to ``A(B(x))``."""
    result = matrices[0]
    for m in matrices[1:]:
        result = result @ m
    return result


def inverse(matrix: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of a rigid motion by transposition: exact orthogonality in, exact orthogonality out."""
    r = matrix[..., :3, :3].transpose(-1, -2)
    return from_parts(r, -(r @ matrix[..., :3, 3:])[..., 0])


def transform(matrix: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 3"]:
    """Points under an affine or rigid 4x4 matrix."""
    return points @ matrix[..., :3, :3].transpose(-1, -2) + matrix[..., None, :3, 3]


def geodesic(
    a: Float[Tensor, "*batch 4 4"], b: Float[Tensor, "*batch 4 4"], *, mm_per_radian: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Length of the left-invariant product geodesic from ``a`` to ``b``.

    ``sqrt((mm_per_radian * angle)^2 + |t_a - t_b|^2)``, the distance of SO(3) x R^3: symmetric, a metric, and unchanged when
    both poses are moved by a common rotation. ``mm_per_radian`` says how many millimetres one radian is worth.
    The gradient at ``a == b`` is zero.
    """
    w = log_rotation(a[..., :3, :3].transpose(-1, -2) @ b[..., :3, :3])
    t = a[..., :3, 3] - b[..., :3, 3]
    squared = mm_per_radian**2 * (w * w).sum(-1) + (t * t).sum(-1)
    zero = squared == 0
    return torch.where(zero, torch.zeros_like(squared), torch.where(zero, torch.ones_like(squared), squared).sqrt())


def is_rigid(matrix: Float[Tensor, "4 4"], tolerance: float = 1e-4) -> bool:
    """Whether a 4x4 matrix is finite, orthonormal with determinant +1 and has the last row (0, 0, 0, 1)."""
    m = torch.as_tensor(matrix, dtype=torch.float64)
    if m.shape != (4, 4) or not bool(torch.isfinite(m).all()):
        return False
    r = m[:3, :3]
    orthonormal = (r.T @ r - torch.eye(3, dtype=m.dtype)).abs().max() <= tolerance
    last = (m[3] - m.new_tensor([0, 0, 0, 1])).abs().max() <= tolerance
    return bool(orthonormal and last and torch.linalg.det(r) > 0)
