"""The phantom's exact images against quadrature and closed forms; its voxels against sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from raylign.bench.phantom import Ellipsoid, body, cube, line_integrals, voxelised
from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.projection import project

D = torch.float64
VIEW = View.from_carm(primary=25, secondary=-15, sid=1000, sod=650, pixel_spacing=(14, 12), shape=(24, 28))


def inside(ellipsoid: Ellipsoid, points: np.ndarray) -> np.ndarray:
    """Whether LPS points lie within, by scipy's rotation: nothing shared with the code under test."""
    local = Rotation.from_rotvec(ellipsoid.turn).inv().apply((points - np.array(ellipsoid.centre)).reshape(-1, 3))
    return ((local / np.array(ellipsoid.axes)) ** 2).sum(-1).reshape(points.shape[:-1]) <= 1


def test_line_integrals_against_dense_quadrature() -> None:
    pose = Rigid(se3.exp(torch.tensor([0.3, -0.2, 0.5, 10.0, -20.0, 15.0], dtype=D)))
    exact = line_integrals(body(), VIEW, pose).numpy()
    back = pose.inverse()
    source = back.apply(VIEW.source[None])[0].numpy()
    ways = back.apply(VIEW.pixel_centres().reshape(-1, 3)).numpy() - source
    samples = 20_000
    found = np.zeros(len(ways))
    for n, way in enumerate(ways):
        # the body lies between 400 and 900 mm from the source
        length = float(np.linalg.norm(way))
        points = source + (400 + 500 * (np.arange(samples) + 0.5) / samples)[:, None] / length * way
        found[n] = sum(e.value * inside(e, points).sum() for e in body()) * 500 / samples
    # each of ten chords has two ends, each wrong by at most half a step of 1/40 mm
    allowed = sum(abs(e.value) for e in body()) * 500 / samples
    assert exact.max() > 3
    assert np.abs(found - exact.ravel()).max() < allowed


def test_a_ball_has_the_chord_of_school() -> None:
    ball = Ellipsoid((0, 0, 0), (50, 50, 50), 0.02)
    starts, ways = VIEW.rays()
    distance = torch.linalg.cross((-starts).expand_as(ways), ways).norm(dim=-1) / ways.norm(dim=-1)
    expected = 0.02 * 2 * (50**2 - distance**2).clamp_min(0).sqrt()
    assert float((line_integrals([ball], VIEW) - expected).abs().max()) < 1e-12
    assert int((expected > 0).sum()) > 20 and int((expected == 0).sum()) > 20


def test_a_source_inside_sees_what_lies_before_it() -> None:
    shell = Ellipsoid(tuple(VIEW.source.tolist()), (80, 80, 80), 0.01)
    assert float((line_integrals([shell], VIEW) - 0.8).abs().max()) < 1e-12


def test_a_parallel_beam_sees_the_whole_mass() -> None:
    view = View.from_parallel(primary=35, secondary=20, pixel_spacing=1.5, shape=(240, 240))
    one = Ellipsoid((5, -8, 11), (60, 40, 90), 0.02, (0.3, 0.1, -0.4))
    mass = float(line_integrals([one], view).sum()) * 1.5**2
    # the midpoint rule over pixels, on a function whose slope is infinite at its border
    assert mass == pytest.approx(0.02 * 4 / 3 * math.pi * 60 * 40 * 90, rel=5e-4)


numbers = st.floats(-1, 1, allow_nan=False)


@settings(max_examples=25, deadline=None)
@given(st.lists(numbers, min_size=6, max_size=6), st.lists(numbers, min_size=3, max_size=3))
def test_moving_the_volume_is_moving_the_ellipsoid(twist: list[float], turn: list[float]) -> None:
    scale = torch.tensor([1.0, 1.0, 1.0, 30.0, 30.0, 30.0], dtype=D)
    pose = Rigid(se3.exp(torch.tensor(twist, dtype=D) * scale))
    one = Ellipsoid((12, -20, 8), (60, 25, 40), 0.02, (turn[0], turn[1], turn[2]))
    moved = pose.matrix[:3, :3].numpy() @ Rotation.from_rotvec(one.turn).as_matrix()
    there = Ellipsoid(
        tuple(pose.apply(torch.tensor([one.centre], dtype=D))[0].tolist()),
        one.axes,
        one.value,
        tuple(Rotation.from_matrix(moved).as_rotvec().tolist()),
    )
    # the chord's slope is infinite at the silhouette: rounding shows there by its square root
    assert float((line_integrals([one], VIEW, pose) - line_integrals([there], VIEW)).abs().max()) < 1e-6


def test_voxels_are_averages_over_their_cells() -> None:
    affine = torch.tensor([[9.0, 1.0, 0, -60], [0, 8, -1, -55], [1, 0, 11, -65], [0, 0, 0, 1]], dtype=D)
    one = Ellipsoid((3, -4, 6), (40, 22, 30), 0.5, (0.4, -0.2, 0.7))
    volume = voxelised([one], (12, 13, 14), affine, lines=34)
    n = 24
    sub = (np.arange(n) + 0.5) / n - 0.5
    offsets = np.stack(np.meshgrid(sub, sub, sub, indexing="ij"), -1).reshape(-1, 3)
    k, j, i = np.indices((12, 13, 14))
    centres = np.stack([i, j, k], -1).reshape(-1, 1, 3)
    a = affine.numpy()
    share = np.concatenate([inside(one, (part + offsets) @ a[:3, :3].T + a[:3, 3]).mean(-1) for part in np.split(centres, 14)])
    difference = np.abs(volume.data.numpy().ravel() - 0.5 * share)
    assert 200 < (share > 0).sum() < 1000
    assert difference.max() < 0.5 * (1 / 34 + 1 / n)  # one line of either lattice on the wrong side
    assert difference.mean() < 0.5 * 2e-3


def test_voxels_hold_the_mass() -> None:
    volume = voxelised(body(), (64, 64, 64))
    expected = sum(e.value * 4 / 3 * math.pi * math.prod(e.axes) for e in body())
    assert float(volume.data.sum(dtype=D)) * 4**3 == pytest.approx(expected, rel=1e-4)
    assert float(volume.data.min()) >= -1e-6


def test_what_lies_outside_the_grid_is_left_out() -> None:
    assert not voxelised([Ellipsoid((500, 0, 0), (20, 20, 20), 1.0)], (8, 8, 8)).data.any()
    cut = voxelised([Ellipsoid((128, 0, 0), (40, 40, 40), 1.0)], (32, 32, 32))
    assert float(cut.data.sum()) * 8**3 == pytest.approx(2 / 3 * math.pi * 40**3, rel=5e-3)


def test_the_grids_error_falls_with_its_resolution() -> None:
    pose = Rigid(se3.exp(torch.tensor([0.1, -0.2, 0.15, 3.0, -4.0, 5.0], dtype=D)))
    view = View.from_carm(primary=20, secondary=10, sid=1100, sod=750, pixel_spacing=8.0, shape=(50, 50))
    exact = line_integrals(body(), view, pose)
    errors = []
    for n in (16, 32, 64):
        image = project(voxelised(body(), (n, n, n)), view, pose)[0, 0]
        errors.append(float((image - exact).norm() / exact.norm()))
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1]
    assert errors[2] < 0.03


def test_a_cube_is_filled_to_its_faces() -> None:
    affine = cube((4, 8, 16), 32.0)
    grid = Volume(torch.zeros(4, 8, 16), affine)
    assert torch.allclose(grid.centre, torch.zeros(3, dtype=D))
    assert grid.spacing == (2.0, 4.0, 8.0)


def test_a_flat_ellipsoid_is_refused() -> None:
    with pytest.raises(InputError, match="not positive"):
        Ellipsoid((0, 0, 0), (1, 0, 1), 1.0)
