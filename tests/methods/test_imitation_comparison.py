"""The gradient metrics beside the agent, and its 169 starts: searches against known answers, records against their promises."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.imitation_agent.agent import Agent, together
from raylign.methods.imitation_agent.baselines import (
    BASELINES,
    SearchConfig,
    best_places,
    climbed,
    refined,
    scorer,
    searched,
    seen,
)
from raylign.methods.imitation_agent.comparison import METHODS, CompareConfig, by_agent, case_path, compare, read_record
from raylign.methods.imitation_agent.mdp import cross_error
from raylign.methods.imitation_agent.network import make_network
from raylign.methods.imitation_agent.pool import Pool, PoolConfig
from raylign.methods.imitation_agent.robustness import RobustConfig, robust
from raylign.methods.imitation_agent.rollout import RolloutConfig
from raylign.methods.imitation_agent.trust import agreed, voted
from raylign.methods.imitation_agent.world import Exposures, World, WorldConfig
from raylign.similarity import similarity
from tests.methods.test_imitation_agent import SMALL, Oracle
from tests.methods.test_imitation_mdp import scene

PEOPLE = PoolConfig(train=(0, 0), validation=(1, 1), test=(990_000, 990_001))
QUICK = SearchConfig(mm=10, degrees=5, coarse_pixels=24, fine_pixels=32, places=1, climb=(2.0, 1.0), limit=4)


def stored(exposures: Exposures, pool: Pool) -> Pool:
    """A pool whose test patients are all the same made-up one."""
    mesh = exposures.meshes[0]
    for seed in pool.config.seeds("test"):
        np.savez(
            pool.path(seed, 1), images=exposures.images.to(torch.float16).numpy(), vectors=exposures.vectors.numpy(),
            poses=exposures.base.numpy(), vertices=mesh.vertices.to(torch.float32).numpy(),
            faces=mesh.faces.to(torch.int32).numpy(), centre=exposures.centres[0].numpy(),
        )  # fmt: skip
    return pool


def test_climbing_comes_to_the_top_of_a_hill_by_the_step() -> None:
    top = torch.tensor([3.3, -7.2, 4.1], dtype=torch.float64)

    def hill(states: Tensor) -> Tensor:
        return -(states - top).square().sum(-1)

    starts = torch.tensor([[0.0, 0, 0], [30, -20, 10]], dtype=torch.float64)
    ends, values, looks = climbed(hill, starts, (2.0, 1.0, 0.5, 0.25), 60)
    assert float((ends - top).abs().max()) <= 0.125 + 1e-9  # a half of the last step along every axis
    torch.testing.assert_close(values, hill(ends))
    assert looks % 6 == 2  # both starts, and six about each state
    assert float((climbed(hill, starts, (1.0,), 3)[0] - starts).abs().sum(1).max()) <= 3  # no more looks than allowed


def test_best_places_are_the_highest_that_are_not_neighbours() -> None:
    config = SearchConfig(mm=10, degrees=5, places=2)
    grid = config.grid()
    assert len(grid) == 5 * 5 * 3
    peaks = torch.tensor([[5.0, 5, 0], [5, 0, 0], [-10, -5, 5]], dtype=torch.float64)
    values = sum(h * ((grid == p).all(1)).double() for p, h in zip(peaks, (3.0, 2.5, 2.0), strict=True))
    assert isinstance(values, Tensor)
    torch.testing.assert_close(best_places(grid, values, config), peaks[[0, 2]])


def test_the_grid_is_the_box_of_published_starts() -> None:
    grid = SearchConfig().grid()
    assert len(grid) == 15 * 15 * 7
    assert grid.abs().amax(0).tolist() == [35, 35, 15]


def test_every_metric_finds_a_model_that_is_alone_in_its_image() -> None:
    world = World(scene())
    start = torch.tensor([-14.0, 11.0, 4.0], dtype=torch.float64)
    config = SearchConfig(mm=15, degrees=5, places=2, fine_pixels=64)
    found = searched(world, 0, start, tuple(BASELINES.values()), config)
    errors = {name: float(cross_error(f.end)) for name, f in zip(BASELINES, found, strict=True)}
    assert max(errors.values()) < 1.0, errors
    assert all(f.looks > len(config.grid()) for f in found)
    near = torch.tensor([1.5, -1.0, 2.0], dtype=torch.float64)
    assert float(cross_error(refined(world, 0, near, "gc").end)) < min(1.0, float(cross_error(near)))


def test_where_nothing_is_seen_a_metric_stays_at_its_start() -> None:
    exposures = scene()
    exposures.images[:] = torch.nan
    start = torch.tensor([-4.0, 1.0, 4.0], dtype=torch.float64)
    for found in searched(World(exposures), 0, start, ("gc", "gi"), QUICK):
        assert found.end.tolist() == start.tolist()
        assert found.score == -math.inf


def test_several_agents_vote_in_the_row_of_many_starts() -> None:
    start = torch.tensor([6.0, -4.0, 3.0], dtype=torch.float64)
    agent = together([Agent(make_network(SMALL, 32, n).eval(), WorldConfig(pixels=32)) for n in range(2)])
    world = World(scene(), agent.world)
    config = CompareConfig(cases=1, search=QUICK, rollout=RolloutConfig((4.0,), limit=6), walks=3)
    ends, found = voted(agent, world, torch.zeros(1, dtype=torch.int64), start[None], (3, config.rollout))
    row = by_agent(world, agent, start, config)["agent-starts"]
    assert ends.shape[1] == 6  # three starts of two members
    torch.testing.assert_close(torch.tensor(row["end"], dtype=torch.float64), agreed(ends[0])[0])
    assert row["looks"] == int(found.count.sum())


def test_a_score_is_the_similarity_of_what_is_seen() -> None:
    exposures = scene()
    exposures.images[0, :, :118] = torch.nan  # the exposure ends beside the model's middle
    world = World(exposures)
    here = torch.zeros(1, 3, dtype=torch.float64)
    fixed, moving, share = world.observe(torch.zeros(1, dtype=torch.int64), here)
    assert 0.3 < float(share[0]) < 0.9
    mask = (fixed != 0)[:, 0]
    for name in BASELINES.values():
        (value,) = scorer(world, 0, (name,))(here)
        torch.testing.assert_close(value.float(), similarity(name)(moving[:, 0], fixed[:, 0], mask))
        assert float(value) != pytest.approx(float(similarity(name)(moving[:, 0], fixed[:, 0], None)), abs=1e-4)
    (away,) = scorer(world, 0, ("gc",))(torch.tensor([[-90.0, 0, 0]], dtype=torch.float64))
    assert float(away) == -torch.inf


def test_coarse_images_are_means_of_the_pixels_they_stand_for() -> None:
    exposures = scene()
    flat = exposures.images.clone()
    flat[0] = (torch.arange(256)[:, None] + torch.arange(240)) % 2  # a chessboard, of which a mean is a half
    board = World(replace(exposures, images=flat))
    here = (torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.float64))
    assert float(board.observe(*here)[0].abs().amax()) > 0.9
    coarse = seen(board, 48)
    assert float((coarse.exposures.images[0] - 0.5).abs().max()) < 1e-6
    # and they lie where those do: the model stands on its own shadow
    fixed, moving, _ = seen(World(exposures), 48).observe(*here)
    assert float(similarity("ncc")(moving[:, 0], fixed[:, 0], None)) > 0.999
    assert seen(World(exposures), 128).exposures is exposures  # nothing to be averaged


def test_starts_are_those_published_and_do_not_depend_on_how_many_there_are() -> None:
    few, many = CompareConfig(cases=3), CompareConfig(cases=1000)
    starts = torch.stack([many.start(case) for case in range(1000)])
    assert torch.equal(starts[:3], torch.stack([few.start(case) for case in range(3)]))
    assert (starts.abs() <= torch.tensor([35, 35, 15])).all()
    assert len(torch.unique(starts, dim=0)) == 1000
    # a uniform square of 35 mm has a mean distance of 0.7652 half sides from its middle
    assert float(starts[:, :2].norm(dim=1).mean()) == pytest.approx(0.7652 * 35, rel=0.04)
    assert {many.of(case)[0] for case in range(1000)} == set(range(990_000, 990_100))
    assert many.of(999) == (990_099, 9)
    assert not torch.equal(CompareConfig(seed=1).start(0), few.start(0))


def test_records_are_gone_on_with_and_come_out_the_same(tmp_path: Path) -> None:
    config = CompareConfig(cases=3, data=PEOPLE, search=QUICK, rollout=RolloutConfig((4.0, 1.0)), walks=3)
    pool = stored(scene(), Pool(tmp_path / "pool", config.pool))
    oracle = Oracle(torch.zeros(3, dtype=torch.float64))
    first = compare(oracle, pool, tmp_path / "cases", config)  # type: ignore[arg-type]
    assert [r["subject"] for r in first] == [990_000, 990_001, 990_000]
    assert [r["repeat"] for r in first] == [0, 0, 1]
    for record in first:
        assert tuple(record["methods"]) == METHODS
        path = torch.tensor(record["methods"]["agent"]["path"])
        torch.testing.assert_close(path[0], torch.tensor(record["methods"]["start"]["end"]))
        assert path[-1].abs().max() <= 1  # an oracle comes to rest within a step
    agents, metrics = tmp_path / "cases" / "agent", tmp_path / "cases" / "metrics"
    case_path(agents, 1).unlink()
    kept = case_path(agents, 0).stat().st_mtime_ns
    again = compare(oracle, pool, tmp_path / "cases", config)  # type: ignore[arg-type]
    assert case_path(agents, 0).stat().st_mtime_ns == kept
    assert [r["methods"][m]["end"] for r in again for m in METHODS] == [r["methods"][m]["end"] for r in first for m in METHODS]
    # of fewer cases by metrics the others stay as they are
    for case in (1, 2):
        case_path(metrics, case).unlink()
    few = compare(oracle, pool, tmp_path / "cases", replace(config, metrics=1))  # type: ignore[arg-type]
    assert few[0] == again[0]
    assert [tuple(r["methods"]) for r in few[1:]] == [("start", "agent", "agent-starts", "agent+refinement")] * 2
    assert not case_path(metrics, 1).exists()


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    case_path(tmp_path, 0).write_text("{")
    with pytest.raises(InputError, match="delete it: the same command makes it again"):
        read_record(case_path(tmp_path, 0))


def test_an_agent_that_knows_ends_in_one_place_from_169_starts(tmp_path: Path) -> None:
    config = RobustConfig(exposures=1, data=PEOPLE, ring=8, rollout=RolloutConfig((4.0, 1.0, 0.25)))
    grid = config.grid(990_000)
    assert grid.shape == (169, 3)
    rough = grid[:, :2].mean(0)
    assert rough.abs().max() <= 5
    torch.testing.assert_close((grid[:, :2] - rough).abs().amax(0), torch.full((2,), 30.0, dtype=torch.float64))
    assert sorted(set((grid[:, 0] - rough[0]).round().tolist())) == list(range(-30, 31, 5))
    assert 10 < float((grid[:, 2]).abs().max()) <= 20
    circle = config.circle(990_000)
    torch.testing.assert_close((circle[:, :2] - rough).norm(dim=1), torch.full((8,), 30.0, dtype=torch.float64))
    pool = stored(scene(), Pool(tmp_path / "pool", config.pool))
    truth = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    (record,) = robust(Oracle(truth), pool, tmp_path / "cases", config)  # type: ignore[arg-type]
    assert float((torch.tensor(record["ends"]) - truth).abs().max()) <= 0.25
    assert all(record["arrived"])
    assert len(record["ways"]) == 8
    torch.testing.assert_close(torch.tensor([w[0] for w in record["ways"]]), circle[:, :2].float(), atol=1e-5, rtol=0)


def test_pools_hold_test_patients_and_nobody_else() -> None:
    config, walks = CompareConfig(cases=20), RobustConfig(exposures=3, seed=2)
    assert (config.pool.seeds("test"), walks.pool.seeds("test")) == (range(990_000, 990_020), range(990_000, 990_003))
    assert config.pool.fingerprint() == CompareConfig(cases=1000).pool.fingerprint() == PoolConfig().fingerprint()
    assert walks.pool.fingerprint() != replace(walks, seed=0).pool.fingerprint()
    assert (walks.pool.targets, walks.pool.instruments) == ("toth2018/clinical", "cardiac")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CompareConfig(cases=0), "--cases"),
        (lambda: CompareConfig(seed=-1), "--seed"),
        (lambda: CompareConfig(walks=1), "no median"),
        (lambda: RobustConfig(exposures=101), "give 0 to 100"),
        (lambda: RobustConfig(step_mm=40), "a grid has steps"),
        (lambda: SearchConfig(places=0), "positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(InputError, match=message):
        make()
