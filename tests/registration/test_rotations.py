"""Numbers of single poses, against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from raylign.registration.refinement import damped_step
from raylign.registration.rotations import carried, offset_of, rays_into, shown_at

Array = NDArray[np.float64]
seeds = st.integers(0, 10_000)


def pose(random: np.random.Generator) -> Array:
    out = np.eye(4)
    out[:3, :3] = Rotation.random(random_state=int(random.integers(1 << 30))).as_matrix()
    out[:3, 3] = 200 * random.normal(size=3)
    return out


@settings(deadline=None)
@given(seeds)
def test_rays_enter_a_models_voxels_as_its_inverse_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    placed, affine = pose(random), pose(random)
    affine[:3, :3] *= random.uniform(0.3, 3.0, size=3)
    affine[0, 1] += 0.2  # shears too
    source, steps = 700 * random.normal(size=3), random.normal(size=(3, 3))
    rays, back = rays_into(affine, placed, source, steps)
    right = np.linalg.inv(placed @ affine)
    assert np.allclose(back, right, atol=1e-9 * np.abs(right).max())
    assert np.allclose(rays[0], right[:3, :3] @ source + right[:3, 3], atol=1e-8 * np.abs(right).max())
    assert np.allclose(rays[1:], steps @ right[:3, :3].T, atol=1e-9 * np.abs(right).max())


@settings(deadline=None)
@given(seeds)
def test_points_show_where_their_rays_meet_the_pixel_grid(seed: int) -> None:
    random = np.random.default_rng(seed)
    placed, source = pose(random), 700 * random.normal(size=3)
    steps = np.array([[-90.0, -80.0, 1000.0], [0.9, 0.1, 0.0], [-0.1, 0.8, 0.2]])
    pixels, shares = random.uniform(0, 200, size=(5, 2)), random.uniform(0.3, 0.9, size=5)
    world = source + shares[:, None] * (steps[0] + pixels[:, :1] * steps[1] + pixels[:, 1:] * steps[2])
    points = (world - placed[:3, 3]) @ placed[:3, :3]
    assert np.allclose(carried(placed, points[0]), world[0])
    assert np.allclose(shown_at(points, placed, source, steps), pixels, atol=1e-6)


@settings(deadline=None)
@given(seeds)
def test_an_offset_is_scipys_rotation_vector_and_the_shift_of_the_centre(seed: int) -> None:
    random = np.random.default_rng(seed)
    start, axes, centre = pose(random), pose(random)[:3, :3], 100 * random.normal(size=3)
    turn, shift = Rotation.from_rotvec(random.normal(size=3)), 30 * random.normal(size=3)
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = turn.as_matrix(), centre - turn.apply(centre) + shift
    found = offset_of(moved @ start, start, axes, centre)
    assert np.allclose(found[0], np.degrees(axes.T @ turn.as_rotvec()), atol=1e-6)
    assert np.allclose(found[1], axes.T @ shift, atol=1e-8)


@pytest.mark.parametrize("lost", [None, 5, 2])
@settings(deadline=None)
@given(seed=seeds)
def test_a_damped_step_solves_its_system(lost: int | None, seed: int) -> None:
    """Also where one direction is not seen at all."""
    random = np.random.default_rng(seed)
    columns = random.normal(size=(9, 6)) * np.array([100.0] * 3 + [1.0] * 3)
    if lost is not None:
        columns[:, lost] = 0
    hessian, gradient, away = columns.T @ columns, random.normal(size=6), random.normal(size=6)
    basis, stiffness = np.zeros((6, 6)), random.uniform(0, 2, size=6)
    basis[:3, :3] = basis[3:, 3:] = pose(random)[:3, :3]
    system = basis.T @ hessian @ basis + np.diag(stiffness)
    right = basis.T @ gradient - stiffness * away
    damped = system + 0.01 * np.diag(np.diag(system)) + 1e-9 * np.trace(system) * np.eye(6)
    step, promised = damped_step(hessian, gradient, basis, stiffness, away, 0.01)
    expected = np.linalg.solve(damped, right)
    assert np.allclose(damped @ (basis.T @ step), right, atol=1e-7 * np.abs(right).max())
    assert promised == pytest.approx(float(expected @ right), rel=1e-6)
