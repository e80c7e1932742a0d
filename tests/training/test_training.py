"""Training that is broken off: recipes, the loop, checkpoints, curves, and the whole way from a recipe to weights."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from raylign.errors import InputError
from raylign.methods.imitation_agent.agent import Agreement, read_agent
from raylign.methods.imitation_agent.mdp import rewards
from raylign.methods.imitation_agent.policy import PolicyConfig
from raylign.methods.imitation_agent.pool import Pool
from raylign.methods.imitation_agent.rollout import RolloutConfig
from raylign.methods.imitation_agent.training import AgentTraining
from raylign.methods.imitation_agent.world import Exposures, World
from raylign.methods.weights import read_weights, write_weights
from raylign.training.curves import draw_curves, read_log
from raylign.training.loop import CHECKPOINT, LOG, LoopConfig, train
from raylign.training.recipes import Weights, merged, read_training
from raylign.training.run import RunConfig, join, run

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "toth2018.yaml"


class Line:
    """Learns a line; breaks off where it is told to, as a process does that is killed."""

    columns = ("slope",)
    iterations, validate_every = 230, 60

    def __init__(self, dies_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.optimiser = torch.optim.RMSprop(self.network.parameters(), lr=1e-2, momentum=0.9)
        self.dies_at = dies_at

    def rate(self, iteration: int) -> float:
        return 1e-2 * 0.5 ** (iteration // 100)

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(16, 1, generator=torch.Generator().manual_seed(iteration))
        return x, 3 * x

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        if self.dies_at is not None and torch.equal(x, self.batch(self.dies_at)[0]):
            raise KeyboardInterrupt
        return (self.network(x) - y).square().mean()

    def validate(self) -> dict[str, float]:
        self.network.eval()
        with torch.no_grad():
            low, high = self.network(torch.tensor([[-1.0], [1.0]]))
        return {"slope": float(high - low) / 2, "ignored": 1.0}


def test_a_training_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = Line()
    assert train(whole, LoopConfig(tmp_path / "whole", "f", 25)) == 230
    for death in (140, 201):
        with pytest.raises(KeyboardInterrupt):
            train(Line(death), LoopConfig(tmp_path / "killed", "f", 25))
    again = Line()
    assert train(again, LoopConfig(tmp_path / "killed", "f", 25)) == 230
    for a, b in zip(whole.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)

    def rows(name: str) -> list[tuple[str, ...]]:
        with (tmp_path / name / LOG).open() as file:
            return [(r["iteration"], r["loss"], r["rate"], r["slope"]) for r in csv.DictReader(file)]

    assert rows("killed") == rows("whole")
    assert [r[0] for r in rows("whole")] == ["60", "100", "120", "180", "200", "230"]
    assert float(rows("whole")[-1][3]) == pytest.approx(3, abs=0.2)


def test_momentum_is_kept(tmp_path: Path) -> None:
    """What a checkpoint without the optimiser's state would give is something else."""
    train(Line(), LoopConfig(tmp_path, "f", 25, until=50))
    tensors, about = read_weights(tmp_path / CHECKPOINT)
    assert about["iteration"] == 50
    assert {"optimiser.0.momentum_buffer", "optimiser.0.square_avg", "network.0.weight"} <= set(tensors)
    with_state, without = Line(), Line()
    train(with_state, LoopConfig(tmp_path, "f", 25, until=60))
    without.network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})
    for iteration in range(50, 60):
        without.network.train()
        without.optimiser.zero_grad()
        without.loss(without.batch(iteration)).backward()
        without.optimiser.step()
    assert not torch.allclose(with_state.network[0].weight, without.network[0].weight, atol=1e-4)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    train(Line(), LoopConfig(tmp_path, "one", 25, until=25))
    with pytest.raises(InputError, match="other settings"):
        train(Line(), LoopConfig(tmp_path, "other", 25))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train(Line(), LoopConfig(tmp_path, "one", 25, until=25))
    tensors, about = read_weights(tmp_path / CHECKPOINT)
    few = {name: t for name, t in tensors.items() if name != "network.0.weight"}
    for content, said in ((few, about), (tensors, {"fingerprint": "one"}), (tensors, {**about, "losses": [1.0]})):
        write_weights(tmp_path / CHECKPOINT, content, said)
        with pytest.raises(InputError, match="is damaged"):
            train(Line(), LoopConfig(tmp_path, "one", 25))


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    class Broken(Line):
        def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return super().loss(batch) * float("nan")

    with pytest.raises(InputError, match=r"a loss among iterations 1 to 10 is not finite.*lower rate"):
        train(Broken(), LoopConfig(tmp_path, "f", 10))
    assert not (tmp_path / CHECKPOINT).exists()


def test_curves_are_drawn_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / LOG
    log.write_text("iteration,loss,rate,cpu_seconds,tre_mean\n100,0.5,0.01,1.0,\n200,0.25,0.008,2.0,7.5\n")
    assert read_log(log)["tre_mean"] == [(200, 7.5)]
    assert read_log(log)["loss"] == [(100, 0.5), (200, 0.25)]
    draw_curves(log, tmp_path / "curves.png", "a title")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 800
        assert len(set(picture.convert("L").tobytes())) > 20


def test_presets_take_the_place_of_settings() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 5}, "d": {"e": 1}}) == {"a": {"b": 1, "c": 5}, "d": {"e": 1}}


def test_the_recipe_is_as_published() -> None:
    paper, small = (read_training(RECIPE, preset) for preset in ("paper", "small"))
    o, s, data = paper.settings.optimiser, paper.settings.states, paper.settings.data
    assert (o.rate, o.momentum, o.decay, o.decay_every, paper.settings.batch) == (0.01, 0.9, 0.8, 10_000, 80)
    assert (s.mm, s.degrees, s.near) == (35.0, 15.0, 0.0)
    assert (len(data.seeds("train")), len(data.seeds("test")), data.targets, data.appearance) == (
        702,
        100,
        "toth2018",
        "toth2018",
    )
    assert paper.fingerprint() != small.fingerprint()
    assert small.fingerprint() == read_training(RECIPE, "small").fingerprint()
    assert small.fingerprint() != read_training(RECIPE, "small", seed=1).fingerprint()
    assert small.settings.data.fingerprint() == data.fingerprint()  # they may share a pool
    # options that came later leave it what it was: trainings that were begun before go on
    assert small.fingerprint() == "ca94d5d55597eb650d0d1c48d985080c4eeddff6d4d4edc8a8b5dcfb0e355ffb"


def test_presets_that_go_on_from_small_differ_in_their_states_alone() -> None:
    small, own, control = (read_training(RECIPE, name).settings for name in ("small", "small-policy", "small-further"))
    assert own.policy is not None and own.begin == "small"
    assert replace(own, policy=None) == control
    assert own.far is not None and small.far is None
    assert (own.network, own.world, own.states, own.data) == (small.network, small.world, small.states, small.data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nmethod: other\npresets: {small: {}}\n", "no method 'other'"),
        ("name: x\nmethod: imitation-agent\npresets: {big: {}}\n", "no preset 'small'"),
        ("name: x\nmethod: imitation-agent\npresets: {small: {bath: 8}}\n", "there is no 'bath' here"),
        ("name: x\nmethod: imitation-agent\npresets: {small: {batch: many}}\n", "batch"),
        ("name: x\nmethod: imitation-agent\npresets: {small: {data: {train: [5, 2]}}}\n", "seeds are ranges"),
        ("name: x\nmethod: imitation-agent\npresets: {}\n", "presets"),
    ],
)
def test_wrong_recipes_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_training(file, "small")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The recipe's smallest preset, smaller still, and the pool that it learns from."""
    chosen = read_training(RECIPE, "smoke")
    data = replace(chosen.settings.data, train=(0, 1), validation=(702, 702), voxel_mm=6.0, pixels=64)
    settings = replace(chosen.settings, data=data, iterations=8, validate_every=8, validation_cases=2, batch=6, test_starts=2)
    folder = tmp_path_factory.mktemp("pool")
    Pool(folder, data).make(("train", "validation", "test"))
    return replace(chosen, settings=settings), folder


def test_patients_of_a_pool_depend_on_their_seeds_alone(smoke: tuple[Any, Path], tmp_path: Path) -> None:
    chosen, folder = smoke
    config = chosen.settings.data
    alone = Pool(tmp_path, replace(config, train=(1, 1)))
    alone.make(("train",))
    one, other = alone.read("train"), Pool(folder, config).read("train")
    assert len(one) == 2 and len(other) == 4
    assert torch.equal(one.images.nan_to_num(-1), other.images[2:].nan_to_num(-1))
    assert torch.equal(one.base, other.base[2:])
    assert other.model.tolist() == [0, 0, 1, 1]
    with pytest.raises(InputError, match="pool of other settings"):
        Pool(folder, replace(config, voxel_mm=4.0))


def test_at_the_true_pose_the_model_lies_on_its_shadow(smoke: tuple[Any, Path], tmp_path: Path) -> None:
    """In a batch of its own pool: rewards belong to the states that are seen."""
    chosen, folder = smoke
    task = AgentTraining(chosen.settings, 0, folder)
    world = task.world("train")
    zero = torch.zeros(len(world.exposures), 3, dtype=torch.float64)
    fixed, moving, shown = world.observe(torch.arange(len(world.exposures)), zero)
    assert float(shown.min()) > 0.9
    # the ventricle's centre was brought to within 10 mm of the isocentre
    poses = world.poses(torch.arange(len(zero)), zero)
    at = (poses[:, :3, :3] @ world.centres[..., None])[..., 0] + poses[:, :3, 3]
    assert float(at.norm(dim=1).max()) < 20
    # on its shadow the model is where the picture is dark; 40 mm towards the patient's left it would be in the lung
    beside = world.observe(torch.arange(len(zero)), zero + torch.tensor([40.0, 0.0, 0.0], dtype=torch.float64))
    assert all(alike(f, m) > alike(g, n) + 0.3 for f, m, g, n in zip(fixed, moving, *beside[:2], strict=True))
    first, again = task.batch(3), task.batch(3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[2], task.batch(4)[2])
    assert float(first[2].abs().max()) <= 1
    assert torch.equal(rewards(torch.zeros(1, 3, dtype=torch.float64)), -torch.ones(1, 6, dtype=torch.float64))


def alike(a: Tensor, b: Tensor) -> float:
    """Correlation of two pictures."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_from_a_recipe_to_weights_with_a_break(smoke: tuple[Any, Path], tmp_path: Path) -> None:
    chosen, pool = smoke
    whole = run(chosen, RunConfig(tmp_path / "whole", pool, save_every=3))
    assert whole.finished and whole.iteration == 8
    stopped = run(chosen, RunConfig(tmp_path / "broken", pool, save_every=3, until=5))
    assert not stopped.finished and not (tmp_path / "broken" / "agent.safetensors").exists()
    assert run(chosen, RunConfig(tmp_path / "broken", pool, save_every=3)).finished
    agents = [read_agent(tmp_path / name / "agent.safetensors") for name in ("whole", "broken")]
    for a, b in zip(agents[0].network.state_dict().values(), agents[1].network.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    assert agents[0].agreement is not None
    assert agents[0].about["figures"] == whole.figures
    names = {p.name for p in (tmp_path / "whole").iterdir()}
    assert names == {
        "settings.json", "log.csv", "curves.png", "checkpoint.safetensors", "agent.safetensors", "card.json", "card.md",
    }  # fmt: skip
    card = (tmp_path / "whole" / "card.md").read_text()
    assert "seeds 0 to 1 for training" in card and "Made patients" in card
    assert "primary" in card and "starts within 35 mm and 15 degrees" in card and "no instruments" in card
    with pytest.raises(InputError, match="other settings"):
        run(replace(chosen, seed=4), RunConfig(tmp_path / "whole", pool))


class Memory(Line):
    """A line whose minibatches depend on what its network was like before."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(dies_at)
        self.kept: list[tuple[int, float]] = []

    def gather(self, done: int) -> None:
        if done % 20 == 0 and all(after < done for after, _ in self.kept):
            self.kept.append((done, float(self.network[0].weight.detach().sum())))

    def gathered(self) -> dict[str, Tensor]:
        return {"kept": torch.tensor(self.kept, dtype=torch.float64)}

    def regain(self, gathered: Mapping[str, Tensor]) -> None:
        self.kept = [(int(after), weight) for after, weight in gathered["kept"].tolist()]

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        x, y = super().batch(iteration)
        return x, y + 0.1 * sum(weight for after, weight in self.kept if after < iteration)


def test_what_was_gathered_outlives_a_kill(tmp_path: Path) -> None:
    """Killed before a collection is used, between collections, and stopped at one."""
    whole = Memory()
    train(whole, LoopConfig(tmp_path / "whole", "f", 30))
    assert [after for after, _ in whole.kept] == list(range(0, 230, 20))
    for death in (21, 47, 130):
        with pytest.raises(KeyboardInterrupt):
            train(Memory(death), LoopConfig(tmp_path / "killed", "f", 30))
    train(Memory(), LoopConfig(tmp_path / "killed", "f", 30, until=200))
    again = Memory()
    train(again, LoopConfig(tmp_path / "killed", "f", 30))
    assert again.kept == whole.kept
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), again.network.parameters(), strict=True))
    plain = Line()
    train(plain, LoopConfig(tmp_path / "plain", "f", 30))
    assert not torch.equal(plain.network[0].weight, whole.network[0].weight)
    tensors, about = read_weights(tmp_path / "whole" / CHECKPOINT)
    write_weights(tmp_path / "whole" / CHECKPOINT, {n: t for n, t in tensors.items() if n != "gathered.kept"}, about)
    with pytest.raises(InputError, match="is damaged"):
        train(Memory(), LoopConfig(tmp_path / "whole", "f", 30))


@pytest.fixture(scope="module")
def trained(smoke: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent of a short training."""
    chosen, pool = smoke
    folder = tmp_path_factory.mktemp("trained")
    run(chosen, RunConfig(folder, pool))
    return folder / "agent.safetensors"


def test_a_training_on_its_own_states_ends_the_same_after_breaks(smoke: tuple[Any, Path], trained: Path, tmp_path: Path) -> None:
    chosen, pool = smoke
    settings = replace(chosen.settings, policy=PolicyConfig(every=3, exposures=2, share=0.5), iterations=7)
    own = replace(chosen, settings=settings, begin=Weights.of(trained))
    run(own, RunConfig(tmp_path / "whole", pool, save_every=2))
    for until in (1, 3, 5):
        run(own, RunConfig(tmp_path / "broken", pool, save_every=2, until=until))
    run(own, RunConfig(tmp_path / "broken", pool, save_every=2))
    whole, broken = (read_weights(tmp_path / name / CHECKPOINT)[0] for name in ("whole", "broken"))
    assert whole.keys() == broken.keys() and all(torch.equal(whole[name], broken[name]) for name in whole)
    assert sorted(set(whole["gathered.after"].tolist())) == [0, 3, 6]
    without = run(replace(own, settings=replace(settings, policy=None)), RunConfig(tmp_path / "without", pool))
    assert without.finished and "gathered.after" not in read_weights(tmp_path / "without" / CHECKPOINT)[0]
    assert "50 % of them from its own walks; begun from weights" in (tmp_path / "whole" / "card.md").read_text()


def test_minibatches_hold_states_of_the_agents_own_walks(smoke: tuple[Any, Path], trained: Path) -> None:
    chosen, pool = smoke
    task = AgentTraining(replace(chosen.settings, policy=PolicyConfig(every=3, exposures=2, share=0.5)), 0, pool)
    task.begin(trained)
    agent = read_agent(trained)
    assert all(torch.equal(t, task.network.state_dict()[name]) for name, t in agent.network.state_dict().items())
    task.gather(0)
    assert float(task.visited.errors[0].abs().max()) > 1  # where walks began
    first, later = task.batch(0), task.batch(1)
    seen = {tuple(row) for row in rewards(task.visited.errors).float().tolist()}
    assert [tuple(row) in seen for row in later[2].tolist()] == [True] * 3 + [False] * 3
    assert not any(tuple(row) in seen for row in first[2].tolist())
    before = len(task.visited)
    task.gather(0)  # a second time, after a break
    task.gather(1)
    assert len(task.visited) == before


def test_what_a_training_begins_from_must_fit(smoke: tuple[Any, Path], trained: Path, tmp_path: Path) -> None:
    chosen, pool = smoke
    config = RunConfig(tmp_path / "out", pool)
    with pytest.raises(InputError, match="begins from the weights of preset small"):
        run(replace(chosen, settings=replace(chosen.settings, begin="small")), config)
    with pytest.raises(InputError, match="cannot be read"):
        read_training(RECIPE, "small-policy", begin=tmp_path / "none.safetensors")
    wide = replace(chosen.settings, network=replace(chosen.settings.network, channels=(4, 4, 8, 16)))
    with pytest.raises(InputError, match="its network is another"):
        run(replace(chosen, settings=wide, begin=Weights.of(trained)), config)
    agent = read_agent(trained)
    data = {**agent.about["settings"]["data"], "train": [702, 702]}
    replace(agent, about={"settings": {"data": data}}).save(tmp_path / "knows.safetensors")
    with pytest.raises(InputError, match="was trained on patients 702 to 702, and the recipe on"):
        run(replace(chosen, begin=Weights.of(tmp_path / "knows.safetensors")), config)
    replace(agent, about={}).save(tmp_path / "silent.safetensors")
    with pytest.raises(InputError, match="does not say whom it was trained on"):
        run(replace(chosen, begin=Weights.of(tmp_path / "silent.safetensors")), config)
    assert replace(chosen, begin=Weights.of(trained)).fingerprint() != chosen.fingerprint()


def test_agents_are_joined_and_measured(smoke: tuple[Any, Path], trained: Path, tmp_path: Path) -> None:
    chosen, pool = smoke
    run(replace(chosen, seed=1), RunConfig(tmp_path / "other", pool))
    files = (trained, tmp_path / "other" / "agent.safetensors")
    both = replace(chosen, members=tuple(map(Weights.of, files)))
    done = join(both, RunConfig(tmp_path / "both", pool))
    agent = read_agent(tmp_path / "both" / "agent.safetensors")
    assert len(agent.members) == 2 and agent.agreement is not None and agent.agreement.cases == 2
    for member, file in zip(agent.members, files, strict=True):
        mine = read_agent(file).network.state_dict()
        assert all(torch.equal(t, mine[name]) for name, t in member.network.state_dict().items())
    assert agent.about["members"] == [one.sha256 for one in both.members] and agent.about["figures"] == done.figures
    assert "2 agents whose walks vote" in (tmp_path / "both" / "card.md").read_text()
    # of one, the same anew: here with failures among what its confidence is fitted on
    anew = replace(both, settings=replace(chosen.settings, far=(45.0, 90.0)), members=both.members[:1])
    assert join(anew, RunConfig(tmp_path / "anew", pool)).figures == read_agent(trained).about["figures"]
    again, before = read_agent(tmp_path / "anew" / "agent.safetensors"), read_agent(trained)
    assert all(torch.equal(t, before.network.state_dict()[name]) for name, t in again.network.state_dict().items())
    assert again.agreement is not None and 2 <= again.agreement.cases <= 4
    assert "measured anew" in (tmp_path / "anew" / "card.md").read_text() and again.about["iterations"] == 8
    with pytest.raises(InputError, match="is there twice"):
        join(replace(chosen, members=(both.members[0],) * 2), RunConfig(tmp_path / "twice", pool))
    with pytest.raises(InputError, match="several agents"):
        again = Weights.of(tmp_path / "both" / "agent.safetensors")
        join(replace(chosen, members=(again, both.members[0])), RunConfig(tmp_path / "nested", pool))


@dataclass(frozen=True)
class Shortsighted:
    """Knows the truth from within 62 mm; from farther away each of its walks goes to a place of its own."""

    agreement: Any = None
    about: Any = field(default_factory=dict)

    def rewards(self, world: World, which: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        lost = 12 * (states[:, :2] / 12).round()  # the nearest of many false goals
        goal = torch.where((states[:, :2].norm(dim=1) > 62)[:, None], lost, 0.0)
        return rewards(states - torch.cat([goal, torch.zeros(len(goal), 1)], 1)), torch.ones(len(states))


def test_confidence_is_fitted_on_failures_where_the_recipe_asks_for_them(smoke: tuple[Any, Path]) -> None:
    chosen, pool = smoke
    data = replace(chosen.settings.data, validation=(0, 1), train=(702, 702), validation_exposures=2)  # patients that are there
    settings = replace(chosen.settings, data=data, rollout=RolloutConfig((4.0, 1.0)))
    judge: Any = Shortsighted()

    def fitted(far: tuple[float, float] | None) -> Agreement:
        task = AgentTraining(replace(settings, far=far), 0, pool)
        # the four exposures, many times over: an oracle does not look at them
        one = task.world("validation")
        many = replace(one.exposures, images=one.exposures.images.repeat(30, 1, 1))
        task._worlds["validation"] = replace_exposures(one, many)
        found, figures = task.measured(judge)
        assert figures["validation"]["tre_max"] < 5  # figures are those of the box
        assert found.agreement is not None
        return found.agreement

    without, with_failures = fitted(None), fitted((75.0, 90.0))
    assert without.cases == 120 < with_failures.cases <= 240
    assert without.probability(8.0) > 0.5 > with_failures.probability(8.0)  # who saw no failure takes all for right
    assert with_failures.probability(0.5) > 0.9
    for wrong in ((10.0, 90.0), (90.0, 45.0), (45.0, float("inf"))):
        with pytest.raises(InputError, match="two distances from 35 mm on"):
            replace(settings, far=wrong)


def replace_exposures(world: World, exposures: Exposures) -> World:
    """A world that only says how many exposures it has."""
    out = copy(world)
    out.exposures = exposures
    return out
