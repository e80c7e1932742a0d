"""The tables and the page of ``raylign reproduce toth2018``, from records whose figures are known."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.evaluation import toth2018 as t
from raylign.evaluation.metrics import cross_tre
from raylign.evaluation.toth2018_pictures import towards
from raylign.geometry import Rigid, View
from raylign.methods.imitation_agent.agent import Agent
from raylign.methods.imitation_agent.comparison import METHODS, METRICS, CompareConfig
from raylign.methods.imitation_agent.network import make_network
from raylign.methods.imitation_agent.pool import Pool
from raylign.methods.imitation_agent.robustness import RobustConfig
from raylign.methods.imitation_agent.rollout import RolloutConfig
from raylign.methods.imitation_agent.world import World, WorldConfig
from tests.methods.test_imitation_agent import SMALL
from tests.methods.test_imitation_comparison import PEOPLE, QUICK, stored
from tests.methods.test_imitation_mdp import scene


def record(case: int, ends: dict[str, tuple[float, float, float]], path: list[list[float]] | None = None) -> dict[str, Any]:
    """A record in which every method ends where it is said, and where nothing is said 3 mm away."""
    methods: dict[str, Any] = {
        name: {"end": list(ends.get(name, (3.0, 0.0, 0.0))), "seconds": 0.1, "looks": 7} for name in METHODS
    }
    methods["agent"]["path"] = path or [[9.0, 0, 0], [3.0, 0, 0]]
    return {"case": case, "subject": 990_000 + case, "repeat": 0, "methods": methods}


def test_rows_are_the_statistics_of_the_errors() -> None:
    agent = [(1.0, 0, 0), (0.0, -4, 0), (6.0, 8, 0), (0.0, 0, 0)]
    found = {r["method"]: r for r in t.rows([record(k, {"start": (5.0, 0, 0), "agent": e}) for k, e in enumerate(agent)])}
    assert tuple(found) == METHODS
    one = found["agent"]
    errors = np.array([1.0, 4, 10, 0])
    assert (one["mean"], one["median"]) == (pytest.approx(errors.mean()), pytest.approx(np.median(errors)))
    assert (one["p90"], one["p100"]) == (pytest.approx(np.percentile(errors, 90)), 10)
    assert (one["success_2mm"], one["success_5mm"], one["success_10mm"]) == (0.5, 0.75, 0.75)
    assert one["worse"] == 0.25
    assert one["mean_low"] <= one["mean"] <= one["mean_high"]
    assert found["GO"]["mean"] == 3


def test_metrics_may_have_seen_fewer_cases_than_the_agent() -> None:
    records = [record(k, {"start": (5.0, 0, 0), "agent": (k, 0, 0), "GC": (9.0, 0, 0)}) for k in range(4)]
    for late in records[1:]:
        for name in METRICS:
            del late["methods"][name]
    found = {r["method"]: r for r in t.rows(records)}
    assert (found["agent"]["n"], found["agent"]["mean"]) == (4, 1.5)
    assert (found["GC"]["n"], found["GC"]["mean"], found["GC"]["worse"]) == (1, 9.0, 1.0)
    assert {r["method"]: r["n"] for r in t.times(records)}["silhouette"] == 1
    assert (wrong := t.failure(records)) is not None
    assert wrong.record["case"] == 0


def test_errors_are_those_of_the_cross_between_two_poses() -> None:
    world, state = World(scene()), torch.tensor([2.0, -3.0, 12.0], dtype=torch.float64)
    source, origin, column, row = world.exposures.vectors[0]
    view = View(source, origin, column, row, (256, 240))
    pose = Rigid(world.poses(torch.zeros(1, dtype=torch.int64), state[None])[0])
    truth = Rigid(world.exposures.base[0])
    (measured,) = t.errors([record(0, {"agent": tuple(state.tolist())})], "agent")  # type: ignore[dict-item]
    assert measured == pytest.approx(float(cross_tre(pose, truth, world.centres[0], view)), abs=0.01)
    assert t.angles([record(0, {"agent": (0, 0, -12.0)})], "agent").tolist() == [12.0]


def test_walks_that_have_ended_stay() -> None:
    states = t.evolution([record(0, {}, [[4.0, 0, 0], [2.0, 0, 0], [1.0, 0, 0]]), record(1, {}, [[8.0, 1, 2]])])
    assert states.shape == (2, 3, 3)
    assert states[:, -1].tolist() == [[1, 0, 0], [8, 1, 2]]


def test_the_failure_that_is_shown_is_the_largest_whose_plus_form_is_right() -> None:
    cases = [
        record(0, {"GO": (60.0, 0, 0), "GO+": (50.0, 0, 0)}),  # larger, but nobody is right
        record(1, {"GI": (0.0, 30, 0), "GI+": (1.0, 0, 0)}),
        record(2, {"GC": (0.0, 20, 0), "GC+": (1.0, 0, 0)}),
    ]
    found = t.failure(cases)
    assert found is not None
    assert (found.record["case"], found.plain, found.plus, found.tre_mm, found.plus_mm) == (1, "GI", "GI+", 30, 1)
    assert t.failure(cases[:1]) is None


def test_deviations_are_from_the_median_of_an_exposure() -> None:
    ends = [[0.0, 0, 9], [0.0, 0, 1], [3.0, 4, 0], [0.0, 0, 0], [0.0, 0, 0]]
    first = {"ends": ends, "arrived": [True] * 4 + [False]}
    second = {"ends": [[x + 50, y, a] for x, y, a in ends], "arrived": [True] * 5}
    assert t.deviations(second).tolist() == [0, 0, 5, 0, 0]  # blind to where the median lies, and to turns
    found = t.robustness([first, second])
    assert found is not None
    assert (found["exposures"], found["starts"], found["median"], found["max"]) == (2, 10, 0, 5)
    assert (found["within_5mm"], found["arrived"]) == (0.8, 0.9)  # 5 mm are not under 5 mm
    assert found["median_end_tre_mean"] == pytest.approx(25, abs=0.01)
    assert t.robustness([]) is None


def test_sides_are_the_patients() -> None:
    """Along the image's axes as the projection of points of the model has them."""
    world = World(scene())
    source, origin, column, row = world.exposures.vectors[0]
    view = View(source, origin, column, row, (256, 240))
    base = Rigid(world.exposures.base[0])
    here = view.project(base.apply(world.centres))[0]
    for axis, names in ((0, ("left", "right")), (2, ("head", "feet"))):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = 20.0  # LPS mm
        there = view.project(base.apply(world.centres + step))[0]
        moved = torch.cat([(there - here).sign() * ((there - here).abs() > 5) * 15, torch.zeros(1)]).to(torch.float64)
        assert f"towards the {names[0]}" in towards(world, moved).split(" and ")[0]
        assert f"towards the {names[1]}" in towards(world, -moved).split(" and ")[0]
    assert towards(world, torch.zeros(3, dtype=torch.float64)) == "less than 3 mm"


@pytest.fixture
def quick(tmp_path: Path) -> tuple[Agent, tuple[CompareConfig, RobustConfig], Path]:
    """An agent that knows nothing, few settings, and a folder whose pools are there already."""
    walk = RolloutConfig((4.0, 1.0), limit=10)
    config = CompareConfig(cases=2, data=PEOPLE, search=QUICK, rollout=walk, walks=3)
    walks = RobustConfig(exposures=1, data=PEOPLE, ring=5, step_mm=15, rollout=walk)
    stored(scene(), Pool(tmp_path / "pool", config.pool))
    stored(scene(), Pool(tmp_path / "out" / "clinical", walks.pool))
    return Agent(make_network(SMALL, 32, 0).eval(), WorldConfig(pixels=32)), (config, walks), tmp_path


def test_a_run_leaves_tables_and_a_page_and_goes_on(quick: tuple[Agent, Any, Path]) -> None:
    agent, settings, folder = quick
    out, shares = folder / "out", []
    done = t.reproduce(agent, settings, out, folder / "pool", lambda said, share: shares.append(share))
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    tables = {name: (out / name).read_bytes() for name in ("table.csv", "table.json")}
    said = json.loads(tables["table.json"])
    assert [r["method"] for r in said["rows"]] == list(METHODS)
    assert {"mean", "median", "p90", "success_2mm", "success_10mm"} <= set(said["rows"][0])
    assert said["robustness"]["starts"] == 25
    assert tables["table.csv"].decode().startswith("method,n,subjects,mean,sd,median")
    assert "seconds" not in tables["table.csv"].decode()
    assert (out / "times.csv").read_text().startswith("method,n,seconds_median")
    page = (out / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing is fetched
    for words in ("Table 1", "Figure 5", "Figures 6 and 7", "Where metrics go astray", "agent+refinement"):
        assert words in page
    assert page.count("<polyline points=") == 5  # a way from each start on the circle
    # what is missing is made again, with the same tables; a further case leaves those before it as they are
    for path in (out / "cases").glob("**/*-0*1.json"):
        path.unlink()
    t.reproduce(agent, settings, out, folder / "pool", lambda said, share: None)
    assert {name: (out / name).read_bytes() for name in tables} == tables
    more = (replace(settings[0], cases=3), settings[1])
    again = t.reproduce(agent, more, out, folder / "pool", lambda said, share: None)
    ends = [[r["methods"][m]["end"] for m in METHODS] for r in again.cases]
    assert ends[:2] == [[r["methods"][m]["end"] for m in METHODS] for r in done.cases]
    assert len(again.cases) == 3
    # another agent, or another seed, has to go elsewhere
    other = Agent(make_network(SMALL, 32, 1).eval(), WorldConfig(pixels=32))
    with pytest.raises(InputError, match="a run with other weights"):
        t.reproduce(other, settings, out, folder / "pool", lambda said, share: None)
    with pytest.raises(InputError, match="a run with other compare"):
        t.reproduce(agent, (replace(settings[0], seed=3), settings[1]), out, folder / "pool", lambda said, share: None)


def test_an_agent_that_knows_test_patients_is_refused() -> None:
    network = make_network(SMALL, 32, 0).eval()
    honest = Agent(network, about={"settings": {"data": {"train": [0, 701], "validation": [702, 733]}}})
    compare, walks = t.settled(20, 3, None, honest)
    assert (compare.cases, compare.seed, walks.exposures, walks.seed) == (20, 3, 12, 3)
    assert t.settled(5, 0, None, honest)[1].exposures == 5
    assert t.settled(5, 0, 0, honest)[1].exposures == 0
    knows = Agent(network, about={"settings": {"data": {"train": [0, 701], "validation": [990_050, 990_060]}}})
    with pytest.raises(InputError, match="some of whom are test patients"):
        t.settled(20, 0, None, knows)
    for silent in ({}, {"settings": {"data": {"train": [0, 701], "validation": [702]}}}):
        with pytest.raises(InputError, match=r"quiet\.safetensors.*does not say whom it was trained on"):
            t.settled(20, 0, None, Agent(network, about=silent), file=Path("quiet.safetensors"))


def test_published_figures_are_those_of_the_paper() -> None:
    assert all(len(v) == 4 and all(math.isfinite(x) for x in v) for v in t.PUBLISHED.values())
    assert t.PUBLISHED["agent"] == (2.92, 2.22, 2.34, 5.76)
    assert set(t.PUBLISHED) < set(METHODS)
