"""States of the agent's own walks, learned from, and agents that vote; oracles stand for networks where that is enough."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.imitation_agent.agent import Agent, Agreement, read_agent, together
from raylign.methods.imitation_agent.mdp import ACTIONS, distance, rewards
from raylign.methods.imitation_agent.network import Ensemble, NetworkConfig, make_network
from raylign.methods.imitation_agent.policy import PolicyConfig, Visited, visited
from raylign.methods.imitation_agent.registrar import ImitationAgent
from raylign.methods.imitation_agent.rollout import RolloutConfig, joined, walk, walks
from raylign.methods.imitation_agent.trust import agreed, spreads, voted
from raylign.methods.imitation_agent.world import World, WorldConfig
from tests.methods.test_imitation_agent import MEASURED, Oracle, problem
from tests.methods.test_imitation_mdp import egg, scene

SMALL = NetworkConfig((2, 2, 3, 3), (8, 8, 8))
NARROW = NetworkConfig((2, 2, 2, 2), (4, 4, 4))


def oracle(*truth: float) -> Oracle:
    return Oracle(torch.tensor(truth, dtype=torch.float64))


@dataclass(frozen=True)
class Panel(Oracle):
    """Several oracles that do not agree."""

    members: tuple[Oracle, ...] = ()


def test_states_are_those_in_which_a_walk_chose_an_action() -> None:
    world, wrong = World(scene()), oracle(2.0, -1.0, 0.5)  # an agent that takes another place for the truth
    which = torch.zeros(2, dtype=torch.int64)
    starts = torch.tensor([[9.0, -5.0, 3.0], [-30.0, 22.0, -12.0]], dtype=torch.float64)
    config = RolloutConfig((4.0, 1.0, 0.25))
    exposures, errors = visited(wrong, world, which, starts, config)
    alone = [walk(wrong, world, which[:1], start[None], config) for start in starts]
    assert len(errors) == len(exposures) == sum(int(one.count[0]) for one in alone)
    torch.testing.assert_close(errors, torch.cat([one.paths[0, : int(one.count[0])] for one in alone]), atol=0, rtol=0)
    # the start is among them, and so are states of the smallest step about the place that it takes for the truth
    assert any(torch.equal(e, starts[1]) for e in errors)
    last = errors[-3:]
    assert float((last - wrong.truth).abs().max()) < 1
    # where it oscillates it is wrong, and the label of the state says so: the best action leads on to the truth
    best = rewards(last).argmax(1)
    assert bool((distance(last + ACTIONS[best]) < distance(last)).all())


def test_minibatches_know_of_nothing_that_is_collected_later() -> None:
    early, late = torch.arange(5), torch.arange(100, 130)
    one = Visited.none().plus(10, early, torch.rand(5, 3, dtype=torch.float64))
    both = one.plus(20, late, torch.rand(30, 3, dtype=torch.float64))

    def drawn(it: Visited, iteration: int) -> list[int]:
        return it.draw(iteration, 40, torch.Generator().manual_seed(iteration))[0].tolist()

    assert drawn(both, 10) == [] == drawn(Visited.none(), 50)
    for iteration in (11, 15, 20):  # minibatch 20 is made while the states of 20 iterations are collected
        assert drawn(both, iteration) == drawn(one, iteration)
        assert set(drawn(both, iteration)) <= set(range(5))
    assert any(n >= 100 for n in drawn(both, 21))
    again = Visited.of(both.tensors())
    assert drawn(again, 30) == drawn(both, 30)
    with pytest.raises(KeyError):
        Visited.of({"after": both.after})
    with pytest.raises(ValueError, match="do not belong together"):
        Visited.of({**both.tensors(), "errors": both.errors[:4]})


def test_collections_are_due_from_the_beginning_on() -> None:
    config = PolicyConfig(every=50)
    assert [n for n in range(0, 260, 25) if config.due(n)] == [0, 50, 100, 150, 200, 250]
    for wrong in ({"every": 0}, {"exposures": 0}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(InputError, match="policy"):
            PolicyConfig(**wrong)  # type: ignore[arg-type]


def test_walks_of_several_are_those_of_each() -> None:
    world, which = World(scene()), torch.zeros(2, dtype=torch.int64)
    starts = torch.tensor([[9.0, -5.0, 3.0], [-30.0, 22.0, -12.0]], dtype=torch.float64)
    judges = (oracle(0.0, 0.0, 0.0), oracle(10.0, 0.0, 0.0))
    both, apart = walks(judges, world, which, starts), [walk(judge, world, which, starts) for judge in judges]
    for n, (k, b) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(both.ends[n], apart[k].ends[b])
        length = apart[k].paths.shape[1]
        assert torch.equal(both.paths[n, :length], apart[k].paths[b])
        assert bool((both.paths[n, length:] == both.ends[n]).all())
        assert int(both.rewards[n].isfinite().sum()) == int(both.count[n]) == int(apart[k].count[b])
    assert joined(apart[:1]) is apart[0]


def test_members_vote_and_their_quarrel_is_seen() -> None:
    world, which = World(scene()), torch.tensor([0, 0, 0])
    starts = torch.tensor([[9.0, -5.0, 3.0], [-30.0, 22.0, -12.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    one, other = oracle(0.0, 0.0, 0.0), oracle(12.0, 0.0, 0.0)
    how = (3, RolloutConfig((4.0, 1.0)))
    ends, found = voted(Panel(one.truth, members=(one, one, other)), world, which, starts, how)
    assert ends.shape == (3, 9, 3) and len(found.ends) == 27
    alone = voted(one, world, which, starts, how)[0]
    assert torch.equal(ends[:, :3], alone) and torch.equal(ends[:, 3:6], alone)
    assert torch.equal(ends[:, 6:], voted(other, world, which, starts, how)[0])
    middle, spread = spreads(Panel(one.truth, members=(one, one, other)), world, which, starts, how)
    assert float(middle.abs().max()) <= 1  # two of three know the truth
    assert float((spread - 12 / 3**0.5).abs().max()) < 0.5
    assert torch.equal(spreads(Panel(one.truth, members=(one,)), world, which, starts, how)[1], agreed(alone)[1])
    assert float(agreed(alone)[1].max()) < 1.5  # one agent alone sees nothing of it


def test_the_registrar_lets_members_vote() -> None:
    given, _ = problem()
    right, wrong = oracle(-11.0, 9.0, -6.0), oracle(20.0, -15.0, 6.0)
    agree = ImitationAgent(egg(), Panel(right.truth, members=(right, right), about=MEASURED)).register(given)  # type: ignore[arg-type]
    quarrel = ImitationAgent(egg(), Panel(right.truth, members=(right, right, wrong), about=MEASURED)).register(given)  # type: ignore[arg-type]
    assert agree.confidence.trusted
    assert not quarrel.confidence.trusted and quarrel.confidence.evidence["spread_mm"] > 15
    assert "15 walks that end" in quarrel.confidence.reasons[0]
    torch.testing.assert_close(agree.transform.matrix, quarrel.transform.matrix, atol=2.0, rtol=0)  # the median is the same
    assert quarrel.renders > 1.4 * agree.renders


def test_agents_of_several_members_are_kept_in_one_file(tmp_path: Path) -> None:
    world = WorldConfig(pixels=32)
    agents = [Agent(make_network(size, 32, n).eval(), world) for n, size in enumerate((SMALL, NARROW, SMALL))]
    agent = together(agents)
    replace(agent, agreement=Agreement(1.0, -1.0, 5.0, 9), about={"name": "x"}).save(tmp_path / "agent.safetensors")
    again = read_agent(tmp_path / "agent.safetensors")
    assert [m.network.config for m in again.members] == [SMALL, NARROW, SMALL]  # type: ignore[union-attr]
    assert all(m.agreement == Agreement(1.0, -1.0, 5.0, 9) and not m.network.training for m in again.members)
    pictures = torch.randn(3, 1, 32, 32), torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        said = torch.stack([m.network(*pictures) for m in agents])
        assert torch.equal(torch.stack([m.network(*pictures) for m in again.members]), said)
        torch.testing.assert_close(again.network(*pictures), said.mean(0))
    assert isinstance(together([again, agents[0]]).network, Ensemble) and len(together([again, agents[0]]).members) == 4
    with pytest.raises(InputError, match="different fields"):
        together([agents[0], Agent(make_network(SMALL, 48, 1), WorldConfig(pixels=48))])
    with pytest.raises(InputError, match="1 networks that are to vote"):
        together(agents[:1])


def test_damaged_files_of_several_members_are_refused(tmp_path: Path) -> None:
    from raylign.methods.weights import read_weights, write_weights

    world, file = WorldConfig(pixels=32), tmp_path / "agent.safetensors"
    together([Agent(make_network(SMALL, 32, n), world) for n in range(2)]).save(file)
    tensors, said = read_weights(file)
    fewer: dict[str, Tensor] = {name: t for name, t in tensors.items() if not name.startswith("members.1.")}
    wrong: list[tuple[dict[str, Tensor], dict[str, Any]]] = [
        (fewer, said),
        (tensors, {**said, "network": said["network"][:1]}),
        (tensors, {**said, "network": 3}),
        (tensors, {**said, "schema": 1}),
        (tensors, {**said, "schema": 3}),
    ]
    for content, about in wrong:
        write_weights(file, content, about)
        with pytest.raises(InputError):
            read_agent(file)
