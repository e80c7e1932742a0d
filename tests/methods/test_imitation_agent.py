"""The agent's network, how it walks, what it says of itself; with an oracle in the network's place where that is enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from raylign.data import XRay
from raylign.data.solids import material, solid_volume
from raylign.errors import InputError
from raylign.evaluation.metrics import cross_tre
from raylign.evaluation.subjects import HELD_OUT
from raylign.geometry import Rigid, View
from raylign.methods.imitation_agent.agent import Agent, Agreement, read_agent
from raylign.methods.imitation_agent.domain import Domain, domain_of
from raylign.methods.imitation_agent.mdp import image_frame, rewards
from raylign.methods.imitation_agent.network import AgentNetwork, NetworkConfig, make_network
from raylign.methods.imitation_agent.pool import PoolConfig, read_patient
from raylign.methods.imitation_agent.registrar import AgentConfig, ImitationAgent, shipped
from raylign.methods.imitation_agent.rollout import RolloutConfig, walk
from raylign.methods.imitation_agent.training import OptimiserConfig, StatesConfig, _figures
from raylign.methods.imitation_agent.trust import about, agreed, fitted
from raylign.methods.imitation_agent.world import World, WorldConfig
from raylign.methods.weights import read_weights, write_weights
from raylign.registration import Problem
from tests.methods.test_imitation_mdp import VIEW, egg, scene

SMALL = NetworkConfig((2, 2, 3, 3), (8, 8, 8))


@dataclass(frozen=True)
class Oracle:
    """Knows where the truth lies: what a perfect agent would say."""

    truth: Tensor
    world: WorldConfig = WorldConfig()  # noqa: RUF009
    agreement: Agreement | None = Agreement(4.0, -3.0, 5.0, 100)  # noqa: RUF009
    about: Any = field(default_factory=dict)
    noise: float = 0.0

    def rewards(self, world: World, which: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        stream = torch.Generator().manual_seed(int(states.abs().sum() * 1000))
        said = rewards(states - self.truth)
        return said + self.noise * torch.randn(said.shape, generator=stream), torch.ones(len(states))


def test_the_network_is_that_of_the_paper() -> None:
    network = AgentNetwork(NetworkConfig(), 128)
    for encoder in (network.fixed, network.moving):
        assert [type(layer) for layer in encoder][:-1] == [nn.Conv2d, nn.MaxPool2d, nn.ReLU, nn.BatchNorm2d] * 4
    kinds = [type(layer) for layer in network.decoder]
    assert kinds == [nn.Linear, nn.ReLU, nn.BatchNorm1d] * 3 + [nn.Linear]
    fixed, moving = torch.randn(3, 1, 128, 128), torch.randn(3, 1, 128, 128)
    assert network.eval()(fixed, moving).shape == (3, 6)
    own = [p for p in network.fixed.parameters() for q in network.moving.parameters() if p is q]
    assert not own  # encoders of their own


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, same, other = (make_network(SMALL, 32, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("steps", [(1.0,), (4.0, 2.0, 1.0, 0.5, 0.25)])
def test_a_perfect_agent_arrives_from_everywhere(steps: tuple[float, ...]) -> None:
    world, truth = World(scene()), torch.tensor([3.3, -7.2, 4.1], dtype=torch.float64)
    start = torch.tensor([[0.0, 0, 0], [35.0, -35.0, 15.0], [-30.0, 2.0, -15.0]], dtype=torch.float64)
    found = walk(Oracle(truth), world, torch.zeros(3, dtype=torch.int64), start, RolloutConfig(steps))
    assert bool(found.arrived.all())
    # it comes to rest within a step of the truth along every axis
    assert float((found.ends - truth).abs().max()) <= steps[-1]
    distances = (found.paths - truth).norm(dim=-1)
    assert bool((distances[:, 1:-1].diff() <= 4.01).all())
    assert torch.equal(found.paths[:, 0], start)
    assert int(found.count.max()) < 110
    assert torch.equal(found.paths[:, -1], found.ends)


def test_coarse_steps_are_fewer() -> None:
    world, truth = World(scene()), torch.zeros(3, dtype=torch.float64)
    start, which = torch.tensor([[30.0, -25.0, 12.0]], dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    counts = [
        int(walk(Oracle(truth), world, which, start, RolloutConfig(steps)).count)
        for steps in ((1.0, 0.5, 0.25), (4.0, 2.0, 1.0, 0.5, 0.25))
    ]
    assert counts[1] < counts[0] / 2


def test_a_walk_ends_when_the_agent_sees_nothing_or_never_comes_back() -> None:
    world, which = World(scene()), torch.zeros(1, dtype=torch.int64)
    start = torch.zeros(1, 3, dtype=torch.float64)

    class Blind(Oracle):
        def rewards(self, world: World, which: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
            return super().rewards(world, which, states)[0], (states[:, 0] < 5).double()

    far = torch.tensor([100.0, 0.0, 0.0], dtype=torch.float64)
    found = walk(Blind(far), world, which, start)
    assert not bool(found.arrived[0])
    assert 5 <= float(found.ends[0, 0]) <= 12
    limited = walk(Oracle(far), world, which, start, RolloutConfig((1.0,), limit=7))
    assert float(limited.ends[0, 0]) == 7.0
    assert not bool(limited.arrived[0])


def test_steps_must_fit_into_each_other() -> None:
    for steps in ((), (1.0, 2.0), (1.0, 0.4), (1.0, 0.0)):
        with pytest.raises(InputError, match="steps"):
            RolloutConfig(steps)


def test_walks_do_not_depend_on_their_company() -> None:
    """Batched or alone, an agent sees the same states: evaluation mode has no statistics of the batch."""
    it = scene()
    world = World(it, WorldConfig(pixels=32))
    agent = Agent(make_network(SMALL, 32, 3).eval(), WorldConfig(pixels=32))
    starts = torch.tensor([[0.0, 0, 0], [9.0, -5.0, 3.0], [-12.0, 7.0, -6.0]], dtype=torch.float64)
    config = RolloutConfig((2.0, 1.0), limit=10)
    together = walk(agent, world, torch.zeros(3, dtype=torch.int64), starts, config)
    for n in range(3):
        alone = walk(agent, world, torch.zeros(1, dtype=torch.int64), starts[n : n + 1], config)
        assert torch.equal(alone.ends[0], together.ends[n])


def problem() -> tuple[Problem, Rigid]:
    """The egg exposed, and a start 14 mm and 6 degrees away in plane."""
    it = scene()
    world = World(it)
    xray = XRay(it.images[0], VIEW, torch.ones(VIEW.shape, dtype=torch.bool))
    start = world.poses(torch.zeros(1, dtype=torch.int64), torch.tensor([[11.0, -9.0, 6.0]], dtype=torch.float64))[0]
    return Problem(solid_volume(egg(), material("soft")), (xray,), Rigid(start)), Rigid(it.base[0])


MEASURED = {"figures": {"validation": {"tre_median": 2.0}}, "settings": {"data": {"cell_mm": 0.0}}}


def test_the_registrar_ends_at_the_truth_with_a_perfect_agent() -> None:
    given, truth = problem()
    agent = Oracle(torch.tensor([-11.0, 9.0, -6.0], dtype=torch.float64), about=MEASURED)
    result = ImitationAgent(egg(), agent).register(given)  # type: ignore[arg-type]
    centre = scene().centres[0]
    assert float(cross_tre(given.start, truth, centre, VIEW)) > 10
    assert float(cross_tre(result.transform, truth, centre, VIEW)) < 0.5
    assert result.method == "imitation-agent"
    assert result.confidence.trusted
    assert result.confidence.probability > 0.9
    assert result.trajectory[0].level > result.trajectory[-1].level == 0
    assert float((result.trajectory[-1].matrix - result.transform.matrix).abs().max()) < 1
    values = torch.linalg.eigvalsh(result.covariance)
    assert float(values.min()) > 0
    normal = VIEW.normal
    assert float(normal @ result.covariance[3:, 3:] @ normal) == pytest.approx(35.0**2)
    assert float(VIEW.column_step @ result.covariance[3:, 3:] @ VIEW.column_step) / float(VIEW.column_step.norm() ** 2) < 9


def test_the_registrar_says_what_it_does_not_know() -> None:
    given, _ = problem()
    agent = perfect()
    uncalibrated = ImitationAgent(egg(), replace(agent, agreement=None)).register(given)
    assert not uncalibrated.confidence.trusted
    assert uncalibrated.confidence.reasons == ("nobody has measured how far this agent is to be trusted",)
    astray = replace(agent, truth=torch.tensor([60.0, 0.0, 0.0], dtype=torch.float64))
    far = ImitationAgent(egg(), astray).register(given)
    assert far.confidence.probability == 0
    assert "farther than it was trained for" in far.confidence.reasons[0]


def perfect(**about: Any) -> Any:
    return Oracle(torch.tensor([-11.0, 9.0, -6.0], dtype=torch.float64), about={**MEASURED, **about})


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (AgentConfig(starts=3), "starts"),
        (AgentConfig(rollout=RolloutConfig((1.0, 0.5))), "rollout"),
        (AgentConfig(cell_mm=3.0), "cell_mm"),
    ],
)
def test_measured_one_way_nothing_is_known_of_another(other: AgentConfig, word: str) -> None:
    given, _ = problem()
    found = ImitationAgent(egg(), perfect(), other).register(given).confidence
    assert found.probability == 0 and not found.trusted
    assert found.reasons == (f"how far it is to be trusted was measured with another {word}",)


def test_an_agent_is_used_as_it_was_measured() -> None:
    given, _ = problem()
    settings = {"data": {"cell_mm": 0.0}, "rollout": {"steps": [2.0, 1.0], "limit": 50, "shown": 0.3}, "agreement_starts": 7}
    result = ImitationAgent(egg(), perfect(settings=settings)).register(given)
    assert result.confidence.trusted
    assert result.settings["starts"] == 7 and result.settings["cell_mm"] == 0
    assert result.settings["rollout"]["steps"] == (2.0, 1.0) and result.settings["rollout"]["limit"] == 50
    assert {step.level for step in result.trajectory} <= {0, 1}


def test_what_an_agents_file_says_of_its_training_is_read() -> None:
    assert domain_of({}) == Domain() == domain_of({"settings": {}})
    said = {"data": {"cell_mm": 5.0, "pixels": 100, "targets": "li2021"}, "states": {"mm": 20.0, "degrees": 9.0}}
    found = domain_of({"settings": said})
    assert (found.cell_mm, found.pixel_mm, found.far, found.beam) == (5.0, 3.0, (30.0, 15.0), None)
    for damaged in ({"settings": 3}, {"settings": {"data": {"cell_mm": "wide"}}}, {"settings": {"rollout": {"steps": []}}}):
        with pytest.raises(InputError):
            domain_of(damaged)


@pytest.mark.parametrize(
    ("primary", "secondary", "inside"), [(0, 0, True), (-15, 5, True), (30, 0, False), (90, 0, False), (180, 0, False)]
)
def test_views_are_those_of_training_or_not_trusted(primary: float, secondary: float, inside: bool) -> None:
    view = View.from_carm(primary=primary, secondary=secondary, sid=1200, sod=785, pixel_spacing=1.8, shape=(256, 240))
    frame = image_frame(view.vectors[None])[0]
    still = torch.eye(3, dtype=torch.float64)
    assert (Domain().outside(still, frame) == ()) is inside
    # what counts is how the beam passes the model: a patient turned with the C-arm shows the same picture
    angle = torch.tensor(primary * torch.pi / 180, dtype=torch.float64)
    turned = torch.eye(3, dtype=torch.float64)
    turned[:2, :2] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    assert Domain().outside(turned, frame) == ()
    flipped = frame * torch.tensor([-1.0, 1.0, 1.0])[:, None]
    assert any("flipped" in reason for reason in Domain().outside(turned, flipped))


def test_a_lateral_view_is_not_trusted() -> None:
    given, _ = problem()
    sideways = View.from_carm(primary=90, secondary=0, sid=1200, sod=785, pixel_spacing=1.8, shape=(256, 240))
    found = ImitationAgent(egg(), perfect()).register(replace(given, xrays=(replace(given.xrays[0], view=sideways),)))
    assert found.confidence.probability == 0 and not found.confidence.trusted
    assert found.confidence.reasons == ("the beam passes the model 90 degrees from the direction that it was trained for",)


def test_the_registrar_refuses_what_it_cannot_do() -> None:
    given, _ = problem()
    registrar = ImitationAgent(egg(), Oracle(torch.zeros(3, dtype=torch.float64), about={}))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 X-rays for an agent that looks at one"):
        registrar.register(replace(given, xrays=given.xrays * 2))
    away = given.start.matrix.clone()
    away[0, 3] += 500
    with pytest.raises(InputError, match="outside the image"):
        registrar.register(replace(given, start=Rigid(away)))


def test_agreement_is_what_validation_makes_it() -> None:
    spread = torch.tensor([0.2, 0.4, 0.5, 0.8, 1.0, 6.0, 8.0, 9.0, 14.0, 20.0])
    errors = torch.tensor([1.0, 2.0, 1.5, 2.0, 9.0, 4.0, 12.0, 9.0, 22.0, 30.0])
    found = fitted(errors, spread)
    assert found.cases == 10
    assert found.probability(0.3) > 0.8 > 0.3 > found.probability(15.0)
    # the best weights, and not merely good ones: the cost rises to every side
    x, right = (spread + 0.1).log(), errors < 5

    def cost(a: float, b: float) -> float:
        z = torch.where(right, 1.0, -1.0) * (a + b * x)
        return float(torch.nn.functional.softplus(-z).sum() + 0.05 * (a * a + b * b))

    best = cost(found.intercept, found.slope)
    assert all(cost(found.intercept + da, found.slope + db) > best for da, db in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)))


def test_further_starts_lie_about_the_given_one_and_the_middle_is_the_median() -> None:
    start = torch.tensor([4.0, -2.0, 1.0], dtype=torch.float64)
    many = about(start, 5)
    assert torch.equal(many[0], start)
    torch.testing.assert_close((many[1:] - start)[:, :2].norm(dim=1), torch.full((4,), 10.0, dtype=torch.float64))
    assert (many[1:] - start)[:, 2].abs().tolist() == [6.0] * 4
    ends = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 0, 0], [50, 40, 9]], dtype=torch.float64)
    middle, spread = agreed(ends)
    assert middle.tolist() == [1.0, 0.0, 0.0]  # of five, one may be anywhere
    assert float(spread) == pytest.approx((((ends - middle) ** 2).sum() / 5) ** 0.5)


def test_agents_are_kept_in_files_that_hold_numbers_only(tmp_path: Path) -> None:
    agent = Agent(make_network(SMALL, 32, 3).eval(), WorldConfig(pixels=32), Agreement(1.5, -2.0, 5.0, 12), {"name": "x"})
    agent.save(tmp_path / "agent.safetensors")
    again = read_agent(tmp_path / "agent.safetensors")
    assert again.world == agent.world and again.agreement == agent.agreement and again.about == agent.about
    pictures = torch.randn(2, 1, 32, 32), torch.randn(2, 1, 32, 32)
    assert torch.equal(again.network(*pictures), agent.network(*pictures))
    assert not again.network.training


def test_files_that_are_no_agents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_agent(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not at all")
    with pytest.raises(InputError, match="cannot be read"):
        read_agent(tmp_path / "broken.safetensors")
    write_weights(tmp_path / "other.safetensors", {"a": torch.zeros(2)}, {"method": "something"})
    with pytest.raises(InputError, match="holds something, not an imitation-agent"):
        read_agent(tmp_path / "other.safetensors")
    assert read_weights(tmp_path / "other.safetensors")[1] == {"method": "something"}
    agent = Agent(make_network(SMALL, 32, 3), WorldConfig(pixels=32))
    agent.save(tmp_path / "agent.safetensors")
    tensors, said = read_weights(tmp_path / "agent.safetensors")
    write_weights(tmp_path / "agent.safetensors", {n: t for n, t in tensors.items() if "fixed.0" not in n}, said)
    with pytest.raises(InputError, match="weights do not fit"):
        read_agent(tmp_path / "agent.safetensors")
    for name, value in (
        ("agreement", {"slope": 1.0}), ("agreement", 3), ("about", None), ("world", 3), ("about", {"settings": {"rollout": 1}}),
    ):  # fmt: skip
        write_weights(tmp_path / "agent.safetensors", tensors, {**said, name: value})
        with pytest.raises(InputError, match=r"agent\.safetensors"):
            read_agent(tmp_path / "agent.safetensors")
    write_weights(tmp_path / "agent.safetensors", tensors, {n: v for n, v in said.items() if n != "about"})
    with pytest.raises(InputError, match="weights do not fit"):
        read_agent(tmp_path / "agent.safetensors")
    for text in ("{", "[1, 2]"):
        (tmp_path / "words.safetensors").write_bytes(save(tensors, {"raylign": text}))
        with pytest.raises(InputError, match="damaged"):
            read_agent(tmp_path / "words.safetensors")


def test_without_weights_the_way_to_get_some_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("raylign.methods.imitation_agent.registrar.SHIPPED", tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"raylign train recipes/toth2018\.yaml"):
        shipped()


def test_nobody_is_in_two_parts() -> None:
    config = PoolConfig()
    parts = [set(config.seeds(part)) for part in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [702, 32, 100]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert min(parts[2]) >= HELD_OUT > max(parts[0] | parts[1])  # nothing is trained on whom `raylign evaluate` tests
    with pytest.raises(InputError, match="in two of"):
        PoolConfig(validation=(700, 710))
    for wrong in ({"train": (HELD_OUT - 9, HELD_OUT + 9), "test": (0, 0)}, {"validation": (HELD_OUT + 200, HELD_OUT + 210)}):
        with pytest.raises(InputError, match="held out"):
            PoolConfig(**wrong)  # type: ignore[arg-type]
    assert PoolConfig(train=(0, 1), validation=(HELD_OUT - 5, HELD_OUT - 1)).validation[1] == HELD_OUT - 1


def test_damaged_files_of_a_pool_are_refused(tmp_path: Path) -> None:
    whole = {
        "images": np.zeros((2, 4, 4), np.float16), "vectors": np.zeros((2, 4, 3)), "poses": np.zeros((2, 4, 4)),
        "vertices": np.zeros((5, 3), np.float32), "faces": np.zeros((6, 3), np.int32), "centre": np.zeros(3),
    }  # fmt: skip
    file = tmp_path / "000000-2.npz"
    np.savez(file, **whole)  # type: ignore[arg-type]
    assert set(read_patient(file)) == set(whole)
    good = file.read_bytes()
    np.savez(tmp_path / "few.npz", images=whole["images"])
    np.savez(tmp_path / "odd.npz", **{**whole, "poses": whole["poses"][:1]})  # type: ignore[arg-type]
    np.save(tmp_path / "one.npy", whole["images"])
    damaged = [good[: len(good) // 2], b"PK\x03\x04 and no more", b"", good[:200] + b"\xff" * 40 + good[240:]]
    damaged += [(tmp_path / name).read_bytes() for name in ("few.npz", "odd.npz", "one.npy")]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(InputError, match="delete it"):
            read_patient(file)


def test_states_and_rates_are_as_published() -> None:
    drawn = StatesConfig().draw(4000, torch.Generator().manual_seed(0))
    for axis, limit in ((0, 35.0), (1, 35.0), (2, 15.0)):
        values = drawn[:, axis]
        assert -limit <= float(values.min()) < -0.99 * limit and 0.99 * limit < float(values.max()) <= limit
        assert float(values.std()) == pytest.approx(limit / 3**0.5, rel=0.03)
    near = StatesConfig(near=0.5).draw(4000, torch.Generator().manual_seed(0))
    close = [d[:, :2].norm(dim=1) < 2 for d in (drawn, near)]
    assert float(close[0].double().mean()) < 0.006 < 0.1 < float(close[1].double().mean())
    assert float(near[close[1], 2].abs().mean()) > 3  # whoever has arrived may still have to turn
    published = OptimiserConfig()
    assert [published.at(n) for n in (0, 9999, 10_000, 25_000)] == pytest.approx([0.01, 0.01, 0.008, 0.0064])
    assert OptimiserConfig(warm_up=10).at(4) == pytest.approx(0.005)
    for wrong in ({"warm_up": -1}, {"rate": float("inf")}, {"rate": float("nan")}):
        with pytest.raises(InputError, match="optimiser"):
            OptimiserConfig(**wrong)  # type: ignore[arg-type]


def test_figures_of_one_case_are_numbers() -> None:
    one = torch.tensor([[3.0, 4.0, 2.0]], dtype=torch.float64)
    found = _figures(one, one / 2)
    assert found["tre_sd"] == found["angle_sd"] == 0
    assert all(math.isfinite(v) for v in found.values())
