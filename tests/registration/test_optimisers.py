"""Optimisers on functions whose minima are known."""

from __future__ import annotations

import numpy as np
import pytest

from raylign.errors import InputError
from raylign.registration.optimisers import (
    CMAES,
    LBFGS,
    OPTIMISERS,
    SGD,
    Adam,
    Array64,
    Box,
    DifferentialEvolution,
    Grid,
    Objective,
    Task,
    TrustRegion,
)


def rosenbrock(xs: Array64) -> Array64:
    return (100 * (xs[:, 1:] - xs[:, :-1] ** 2) ** 2 + (1 - xs[:, :-1]) ** 2).sum(1)


def rosenbrock_slope(x: Array64) -> tuple[float, Array64]:
    gradient = np.zeros_like(x)
    gap = x[1:] - x[:-1] ** 2
    gradient[:-1] = -400 * x[:-1] * gap - 2 * (1 - x[:-1])
    gradient[1:] += 200 * gap
    return float(rosenbrock(x[None])[0]), gradient


def sphere(xs: Array64) -> Array64:
    return ((xs - 0.3) ** 2).sum(1)


def sphere_slope(x: Array64) -> tuple[float, Array64]:
    return float(sphere(x[None])[0]), 2 * (x - 0.3)


def rastrigin(xs: Array64) -> Array64:
    """Hundreds of minima; the least is 0 at 0."""
    return (xs**2 - np.cos(2 * np.pi * xs) + 1).sum(1)


SPHERE = Objective(sphere, sphere_slope)
EVERY = {
    "cma-es": CMAES(population=16, generations=150, x_tolerance=1e-6, cost_tolerance=1e-10),
    "cobyqa": TrustRegion(tolerance=1e-5),
    "differential-evolution": DifferentialEvolution(population=32, generations=150, tolerance=1e-8),
    "grid": Grid((5, 5, 5)),
    "adam": Adam(iterations=400, halving=60),
    "sgd": SGD(iterations=400),
    "l-bfgs": LBFGS(),
}
STEADY = [name for name in EVERY if name != "grid"]


class Watched:
    """A cost that remembers where it was asked."""

    def __init__(self) -> None:
        self.seen: list[Array64] = []

    def costs(self, xs: Array64) -> Array64:
        self.seen.extend(xs)
        return sphere(xs)

    def slope(self, x: Array64) -> tuple[float, Array64]:
        self.seen.append(x)
        return sphere_slope(x)


def test_every_optimiser_is_tried_here() -> None:
    assert set(EVERY) == set(OPTIMISERS)


@pytest.mark.parametrize("name", STEADY)
def test_the_bottom_of_a_bowl(name: str) -> None:
    start = np.array([-0.7, 0.9, 0.1])
    found = EVERY[name].minimise(SPHERE, Task(start, Box.about(np.zeros(3), np.full(3, 2.0)), seed=3))
    assert np.abs(found.x - 0.3).max() < 2e-3
    assert found.cost == pytest.approx(float(sphere(found.x[None])[0]), abs=1e-12)
    assert found.history[-1] == (found.history[-1][0], found.cost)
    costs = [cost for _, cost in found.history]
    assert costs == pytest.approx(sphere(found.path), abs=1e-12)
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("name", ["cma-es", "cobyqa", "l-bfgs"])
def test_the_valley_of_rosenbrock(name: str) -> None:
    start = np.array([-1.2, 1.0, -0.5, 0.8])
    optimiser = (
        CMAES(population=24, generations=400, x_tolerance=1e-8, cost_tolerance=1e-12, spread=0.5)
        if name == "cma-es"
        else EVERY[name]
    )
    found = optimiser.minimise(
        Objective(rosenbrock, rosenbrock_slope), Task(start, Box.about(np.zeros(4), np.full(4, 3.0)), seed=1)
    )
    # four dimensions have a second, local minimum near (-1, 1, 1, 1), which a descent from here may end in
    assert found.cost < 1e-4 or np.abs(found.x - [-0.776, 0.613, 0.382, 0.146]).max() < 0.05


@pytest.mark.parametrize("name", ["cma-es", "differential-evolution"])
def test_populations_find_the_deepest_of_many_minima(name: str) -> None:
    optimiser = (
        CMAES(population=80, spread=2.0, x_tolerance=1e-6, cost_tolerance=1e-9)
        if name == "cma-es"
        else DifferentialEvolution(60, 300, 1e-8)
    )
    found = optimiser.minimise(
        Objective(rastrigin), Task(np.array([3.1, -2.2, 4.0]), Box.about(np.zeros(3), np.full(3, 5.0)), seed=2)
    )
    assert np.abs(found.x).max() < 1e-2
    local = LBFGS().minimise(
        Objective(rastrigin, lambda x: (float(rastrigin(x[None])[0]), 2 * x + 2 * np.pi * np.sin(2 * np.pi * x))),
        Task(np.array([3.1, -2.2, 4.0])),
    )
    assert np.abs(local.x).max() > 1.5  # a descent stays in its own


@pytest.mark.parametrize("name", list(EVERY))
def test_no_point_outside_the_box_is_ever_asked_for(name: str) -> None:
    """The minimum lies outside, so that everything presses against the wall."""
    watched = Watched()
    box = Box(np.array([-1.0, 0.5, -0.2]), np.array([0.1, 1.0, 0.2]))
    found = EVERY[name].minimise(Objective(watched.costs, watched.slope), Task(np.array([5.0, -5.0, 0.0]), box, seed=4))
    seen = np.stack(watched.seen)
    assert (seen >= box.lower).all() and (seen <= box.upper).all()
    assert len(seen) == found.evaluations
    if name != "grid":
        assert np.abs(found.x - [0.1, 0.5, 0.2]).max() < 5e-3


@pytest.mark.parametrize("name", list(EVERY))
def test_one_seed_one_answer_and_nobody_elses_random_numbers_are_touched(name: str) -> None:
    task = Task(np.array([0.9, 0.1, -0.4]), Box.about(np.zeros(3), np.ones(3)), budget=200, seed=7)
    np.random.seed(42)  # noqa: NPY002
    expected = np.random.random(2)  # noqa: NPY002
    np.random.seed(42)  # noqa: NPY002
    first = EVERY[name].minimise(SPHERE, task)
    assert np.array_equal(np.random.random(2), expected)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    second = EVERY[name].minimise(SPHERE, task)
    assert np.array_equal(first.x, second.x) and first.history == second.history


@pytest.mark.parametrize("name", list(EVERY))
def test_the_budget_is_kept_to_the_last_evaluation(name: str) -> None:
    watched = Watched()
    found = EVERY[name].minimise(
        Objective(watched.costs, watched.slope), Task(np.array([0.9, 0.1, -0.4]), Box.about(np.zeros(3), np.ones(3)), budget=11)
    )
    assert found.evaluations == len(watched.seen) <= 11
    assert found.reason == "budget" or name == "l-bfgs"  # which is done before
    assert found.cost == min(float(sphere(x[None])[0]) for x in watched.seen)


def test_points_without_a_cost_are_avoided() -> None:
    def holes(xs: Array64) -> Array64:
        return np.where(xs[:, 0] < 0, np.nan, sphere(xs))

    for name in ("cma-es", "differential-evolution", "cobyqa"):
        found = EVERY[name].minimise(Objective(holes), Task(np.full(3, 0.8), Box.about(np.zeros(3), np.ones(3)), seed=1))
        assert np.isfinite(found.cost) and found.cost < 1e-2


def test_the_grid_is_complete_and_keeps_single_places() -> None:
    watched = Watched()
    box = Box.about(np.zeros(3), np.ones(3))
    found = Grid((5, 1, 3), batch=4).minimise(Objective(watched.costs), Task(np.array([0.0, 0.25, 0.0]), box))
    seen = np.stack(watched.seen)
    assert len(seen) == 15 == len(np.unique(seen, axis=0)) and (seen[:, 1] == 0.25).all()
    assert found.x.tolist() == [0.5, 0.25, 0.0]


def test_what_raises_in_progress_ends_the_run() -> None:
    class Enough(Exception):
        pass

    def tell(evaluations: int, cost: float) -> None:
        if evaluations >= 32:
            raise Enough

    with pytest.raises(Enough):
        EVERY["cma-es"].minimise(SPHERE, Task(np.zeros(3), tell=tell))


@pytest.mark.parametrize("name", ["adam", "sgd", "l-bfgs"])
def test_no_gradient(name: str) -> None:
    with pytest.raises(InputError, match="needs a gradient"):
        EVERY[name].minimise(Objective(sphere), Task(np.zeros(3)))


@pytest.mark.parametrize("name", ["cobyqa", "grid", "differential-evolution"])
def test_no_bounds(name: str) -> None:
    with pytest.raises(InputError, match="needs bounds"):
        EVERY[name].minimise(SPHERE, Task(np.zeros(3)))


def test_boxes_that_are_none() -> None:
    with pytest.raises(InputError, match="no box"):
        Box(np.ones(3), np.zeros(3))
    with pytest.raises(InputError, match="no grid"):
        Grid((0, 3))
    with pytest.raises(InputError, match="another length"):
        EVERY["cma-es"].minimise(SPHERE, Task(np.zeros(2), Box.about(np.zeros(3), np.ones(3))))


@pytest.mark.parametrize("name", list(EVERY))
def test_coordinates_without_room_are_held(name: str) -> None:
    box = Box(np.array([-1.0, 0.25, -1.0]), np.array([1.0, 0.25, 1.0]))
    optimiser = Grid((5, 1, 5)) if name == "grid" else EVERY[name]
    found = optimiser.minimise(SPHERE, Task(np.array([0.9, 0.25, 0.9]), box, seed=2))
    assert found.x[1] == 0.25 and found.path.shape[1] == 3 and (found.path[:, 1] == 0.25).all()
    assert np.abs(found.x[[0, 2]] - 0.3).max() < (0.3 if name == "grid" else 5e-3)
    point = Box(np.full(3, 0.5), np.full(3, 0.5))
    for optimiser in (CMAES(), TrustRegion()):
        held = optimiser.minimise(SPHERE, Task(np.zeros(3), point))
        assert held.x.tolist() == [0.5] * 3 and held.evaluations == 1


def test_cma_es_never_ends_worse_than_it_began() -> None:
    at = np.full(3, 0.3)
    assert CMAES(population=8, generations=3).minimise(SPHERE, Task(at)).cost == 0.0
    flat = CMAES(population=8, generations=3).minimise(Objective(lambda xs: np.zeros(len(xs))), Task(at))
    assert np.array_equal(flat.x, at)


def test_a_seed_of_several_numbers() -> None:
    def run(seed: int | tuple[int, ...]) -> Array64:
        return CMAES(population=8, generations=4).minimise(SPHERE, Task(np.zeros(3), seed=seed)).x

    assert np.array_equal(run((3, 1)), run((3, 1)))
    assert not np.array_equal(run((3, 1)), run((4, 0)))
