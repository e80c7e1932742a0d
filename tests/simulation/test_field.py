"""Solids on a voxel grid, held to sums over every voxel in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from raylign.simulation.phantoms.field import FAR, Canvas, Ellipsoid, Grid, Union

F64 = NDArray[np.float64]
GRID = Grid(*(np.arange(n, dtype=np.float32) * 1.5 - 18 for n in (27, 24, 31)), 1.5)
CHAIN = np.array([[-9.0, -6, -20], [2, 3, -4], [5.5, 3, 9], [-12, 8, 26]])  # leaves the grid at both ends
RADII = np.array([3.0, 5.0, 2.0, 4.0])


def _voxels() -> F64:
    z, y, x = np.meshgrid(GRID.z, GRID.y, GRID.x, indexing="ij")
    return np.stack([x, y, z], -1).astype(np.float64)


def _cone(p: F64, a: F64, b: F64, ra: float, rb: float) -> F64:
    u = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return np.asarray(np.linalg.norm(p - a - u[..., None] * (b - a), axis=-1) - ra - u * (rb - ra))


def _quadric(parts: list[F64], radii: list[float]) -> F64:
    value = np.sqrt(sum((c / r) ** 2 for c, r in zip(parts, radii, strict=True)))
    slope = np.sqrt(sum((c / r**2) ** 2 for c, r in zip(parts, radii, strict=True)))
    return np.asarray((value - 1) * np.maximum(value, 1e-3) / np.maximum(slope, 1e-3 / min(radii)))


def _same_near(union: Union, wanted: F64) -> None:
    """Equal wherever the surface or the inside is, and never nearer elsewhere."""
    near = wanted < 1.5 * GRID.voxel
    assert near.sum() > 100
    np.testing.assert_allclose(union.distance[near], wanted[near], atol=1e-4)
    assert (union.distance[~near] > 1.4 * GRID.voxel).all()
    assert (union.owner[wanted < 0] == 7).all()


def test_a_tube_is_a_chain_of_round_cones() -> None:
    union = Union.empty(GRID)
    union.tube(CHAIN, RADII, 7)
    p = _voxels()
    _same_near(union, np.min([_cone(p, CHAIN[i], CHAIN[i + 1], RADII[i], RADII[i + 1]) for i in range(3)], 0))


def test_many_tubes_at_once_are_the_same_tubes() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(-20, 20, (90, 3))
    b, r = a + rng.normal(0, 6, a.shape), rng.uniform(0.5, 3, (90, 2))
    one, many = Union.empty(GRID), Union.empty(GRID)
    for i in range(90):
        one.tube(np.stack([a[i], b[i]]), r[i], 7)
    many.tubes(a, b, r, 7)
    assert np.array_equal(one.distance, many.distance) and np.array_equal(one.owner, many.owner)


def test_a_band_has_elliptical_cross_sections() -> None:
    union = Union.empty(GRID)
    radii = np.array([[2.0, 5.0], [3.0, 6.0], [2.5, 4.0], [2.5, 4.0]])
    thin = np.array([[1.0, 0, 0], [1, 0.2, 0], [0.8, -0.3, 0], [1, 0, 0.1]])
    union.band(CHAIN, radii, thin, 7)
    p, parts = _voxels(), []
    for i in range(3):
        a, b = CHAIN[i], CHAIN[i + 1]
        t = (b - a) / np.linalg.norm(b - a)
        n = thin[i] + thin[i + 1]
        n -= (n @ t) * t
        n /= np.linalg.norm(n)
        u = np.clip((p - a) @ t / np.linalg.norm(b - a), 0, 1)
        r = p - a - u[..., None] * (b - a)
        half, wide = (radii[i] + radii[i + 1]) / 2
        parts.append(_quadric([r @ n, r @ np.cross(t, n), r @ t], [half, wide, half]))
    _same_near(union, np.min(parts, 0))


@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (0.5, -0.3, 0.9)])
def test_an_ellipsoid_is_the_same_on_the_grid_and_at_points(axis: tuple[float, float, float]) -> None:
    solid, union = Ellipsoid((3.0, -2.0, 1.0), (6.0, 9.0, 14.0), axis), Union.empty(GRID)
    union.ellipsoid(solid, 7)
    local = (_voxels() - solid.centre) @ solid.frame.T
    wanted = _quadric([local[..., i] for i in range(3)], list(solid.radii))
    _same_near(union, wanted)
    np.testing.assert_allclose(solid.distance(*GRID.coordinates(GRID.whole)), wanted, atol=1e-3)
    np.testing.assert_allclose(solid.frame @ solid.frame.T, np.eye(3), atol=1e-12)


def test_a_union_keeps_the_nearest_and_its_label() -> None:
    union = Union.empty(GRID)
    box = (slice(2, 9), slice(3, 8), slice(4, 6))
    union.add(box, np.full((7, 5, 1), 2.0, np.float32), 3)
    union.add(GRID.whole, np.full((1, 1, 1), 5.0, np.float32), 4)
    assert (union.distance[box] == 2).all() and (union.owner[box] == 3).all()
    assert (union.owner == 4).sum() == union.owner.size - 70 and float(union.distance.max()) == 5 < FAR


def test_layers_cover_by_the_share_of_the_voxel_that_they_fill() -> None:
    canvas = Canvas.of_air(GRID)
    x, y, z = GRID.coordinates(GRID.whole)
    wall = (x - np.float32(0.4)) + 0 * y + 0 * z
    canvas.fill(wall, 100.0, 5)
    canvas.fill(wall[3:9] + 6, np.broadcast_to(GRID.x * 2, (6, 24, 27)), None, (slice(3, 9), slice(0, 24), slice(0, 27)))
    cover = np.clip(0.5 - (GRID.x.astype(float) - 0.4) / 1.5, 0, 1)
    first = -1000 + cover * 1100
    np.testing.assert_allclose(canvas.hu[0, 0], first, atol=1e-3)
    second = np.clip(0.5 - (GRID.x.astype(float) + 5.6) / 1.5, 0, 1)
    np.testing.assert_allclose(canvas.hu[5, 7], first + second * (2 * GRID.x - first), atol=1e-3)
    assert np.array_equal(canvas.labels[5, 7] == 5, GRID.x < 0.4)


def test_a_bone_is_a_shell_around_marrow() -> None:
    canvas, union = Canvas.of_air(GRID), Union.empty(GRID)
    union.ellipsoid(Ellipsoid((0, 0, 0), (12, 12, 12)), 9)
    tables = [np.zeros(256, np.float32) for _ in range(3)]
    for table, value in zip(tables, (2.0, 1000.0, 200.0), strict=True):
        table[9] = value
    canvas.paint_bone(union, *tables)
    r = np.linalg.norm(_voxels(), axis=-1)
    assert canvas.hu[r < 8.9].mean() == pytest.approx(200) and (canvas.labels[r < 11.9] == 9).all()
    assert canvas.hu[(r > 10.8) & (r < 11.2)].mean() == pytest.approx(1000) and (canvas.hu[r > 12.8] == -1000).all()
    plain = Canvas.of_air(GRID)
    plain.paint(union, tables[1], labelled=False)
    assert plain.hu[r < 11.2].min() == 1000 and plain.labels.max() == 0


def test_a_grid_is_evaluated_by_slabs_as_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    solid = Ellipsoid((3.0, -2.0, 1.0), (6.0, 9.0, 14.0), (0.5, -0.3, 0.9))
    box = (slice(4, 25), slice(2, 20), slice(1, 26))
    monkeypatch.setattr("raylign.simulation.phantoms.field._SLAB", 1000)
    for threads in ("1", "3"):
        monkeypatch.setenv("RAYLIGN_THREADS", threads)
        assert np.array_equal(GRID.evaluate(solid.distance, box), solid.distance(*GRID.coordinates(box)))


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a = rng.uniform(-20, 20, (200, 3))
    made = []
    for threads in ("1", "4"):
        monkeypatch.setenv("RAYLIGN_THREADS", threads)
        union, canvas = Union.empty(GRID), Canvas.of_air(GRID)
        union.tubes(a, a + 5, np.tile([1.0, 2.0], (200, 1)), 7)
        canvas.fill(union.distance, 30.0, 2)
        canvas.paint(union, 80.0)
        made.append((union.distance, canvas.hu, canvas.labels))
    assert all(np.array_equal(one, two) for one, two in zip(*made, strict=True))
