"""How the agent is trained: supervised by the rewards of random states (Toth et al. 2018, "Training setup"), or its own too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.imitation_agent.agent import METHOD, Agent, Agreement, read_agent, together
from raylign.methods.imitation_agent.card import card
from raylign.methods.imitation_agent.domain import Domain, reach
from raylign.methods.imitation_agent.mdp import cross_error, rewards
from raylign.methods.imitation_agent.network import AgentNetwork, NetworkConfig, make_network
from raylign.methods.imitation_agent.policy import PolicyConfig, Visited, visited
from raylign.methods.imitation_agent.pool import Pool, PoolConfig
from raylign.methods.imitation_agent.rollout import RolloutConfig, walk
from raylign.methods.imitation_agent.trust import fitted, spreads
from raylign.methods.imitation_agent.world import World, WorldConfig
from raylign.simulation.seeds import generator

Tell = Callable[[str, float], None]

_STATES, _VALIDATION, _TEST, _AGREE, _WEIGHTS, _WALKS = range(3, 9)  # places in the tree of seeds


@dataclass(frozen=True)
class StatesConfig:
    """Where the states lie that the agent learns from, about the truth.

    Parameters
    ----------
    mm, degrees: largest perturbations, uniform (35 mm, 15 degrees).
    near: share of the states that are drawn in towards the truth: shifts by the square of a uniform number, turns by another
        uniform number. The paper has none. Drawn uniformly, one state in 400 lies within 2 mm of the truth; an agent comes there
        with most of its turn still to be made, since shifts are the greater part of D.
    step: size of the actions that are rewarded, mm and degrees.
    """

    mm: float = 35.0
    degrees: float = 15.0
    near: float = 0.0
    step: float = 1.0

    def __post_init__(self) -> None:
        if min(self.mm, self.degrees, self.step) <= 0 or not 0 <= self.near <= 1:
            raise InputError("ranges and steps are positive, near is a share", field="states")

    def draw(self, count: int, stream: torch.Generator) -> Float[Tensor, "count 3"]:
        """Errors (mm, mm, degrees) of so many states."""
        u = torch.rand(count, 6, generator=stream, dtype=torch.float64)
        far = (2 * u[:, :3] - 1) * torch.tensor([self.mm, self.mm, self.degrees], dtype=torch.float64)
        factors = torch.stack([u[:, 4] ** 2, u[:, 4] ** 2, u[:, 5]], 1)
        return torch.where(u[:, 3:4] < self.near, far * factors, far)


@dataclass(frozen=True)
class OptimiserConfig:
    """RMSProp with momentum; the rate is multiplied by ``decay`` after every ``decay_every`` iterations.

    Parameters
    ----------
    rate: at the beginning.
    momentum: of the steps.
    smoothing: of the squared gradients.
    decay, decay_every: see above.
    warm_up: iterations over which the rate grows to ``rate``, 0 for none.
    """

    rate: float = 0.01
    momentum: float = 0.9
    smoothing: float = 0.99
    decay: float = 0.8
    decay_every: int = 10_000
    warm_up: int = 0

    def __post_init__(self) -> None:
        shares = (self.momentum, self.smoothing)
        if not 0 < self.rate < math.inf or not all(0 <= x < 1 for x in shares) or not 0 < self.decay <= 1 or self.decay_every < 1:
            raise InputError("a rate, momentum, smoothing or decay is out of range", field="optimiser")
        if self.warm_up < 0:
            raise InputError(f"{self.warm_up} is negative", field="optimiser.warm_up", remedy="give 0 for none, or more")

    def at(self, iteration: int) -> float:
        """The rate of an iteration."""
        begun = min(1.0, (iteration + 1) / self.warm_up) if self.warm_up else 1.0
        return self.rate * begun * self.decay ** (iteration // self.decay_every)


@dataclass(frozen=True)
class TrainingConfig:
    """Everything about a training but its name, its seed and where its files lie.

    Parameters
    ----------
    data: whom it learns from.
    network, world, states, optimiser, rollout: see there.
    batch: states in a minibatch.
    iterations: minibatches in all.
    validation_cases, validate_every: registrations by which progress is measured, and how often.
    agreement_starts: by how many starts the ends' agreement is judged.
    test_starts: of each test exposure, in the figures of the model card.
    policy: states of the agent's own walks that it learns from too; None for random ones alone, as in the paper.
    begin: preset whose weights it begins from, which are to be given then; None for random ones.
    far: mm from the truth, from and to, of further starts on validation exposures, from which the confidence is fitted too: an
        agent that never fails from where it was trained would otherwise not show what failing looks like. None for none.
    """

    data: PoolConfig = field(default_factory=PoolConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    states: StatesConfig = field(default_factory=StatesConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    batch: int = 80
    iterations: int = 100_000
    validation_cases: int = 64
    validate_every: int = 1000
    agreement_starts: int = 5
    test_starts: int = 10
    policy: PolicyConfig | None = None
    begin: str | None = None
    far: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.far is not None and not self.states.mm <= self.far[0] <= self.far[1] < math.inf:
            raise InputError(
                f"{self.far[0]:g} to {self.far[1]:g} mm", field="far", remedy=f"two distances from {self.states.mm:g} mm on"
            )
        counts = (self.iterations, self.validation_cases, self.validate_every, self.test_starts)
        if self.batch < 2 or min(counts) < 1 or self.agreement_starts < 3:
            raise InputError("numbers of states, iterations, cases and starts are too small", field="settings")


class AgentTraining:
    """The agent's training as ``training.loop`` runs it.

    Minibatch n is a function of the seed, n and the states that were collected before, whoever makes it and when.

    Parameters
    ----------
    config, seed: what and from which random numbers.
    folder: of the pool.
    device: on which the network is and images lie.
    """

    method = METHOD
    weights = "agent.safetensors"
    columns = ("tre_mean", "tre_median", "tre_p90", "angle_mean", "worse")

    def __init__(self, config: TrainingConfig, seed: int, folder: str | Path, device: str | torch.device = "cpu") -> None:
        self.config, self.seed, self.device = config, seed, torch.device(device)
        self.pool = Pool(folder, config.data)
        self.network: AgentNetwork = make_network(config.network, config.world.pixels, self._seed()).to(self.device)
        o = config.optimiser
        self.optimiser = torch.optim.RMSprop(self.network.parameters(), lr=o.rate, alpha=o.smoothing, momentum=o.momentum)
        self.visited = Visited.none()
        self._worlds: dict[str, World] = {}

    @property
    def iterations(self) -> int:
        return self.config.iterations

    @property
    def validate_every(self) -> int:
        return self.config.validate_every

    def prepare(self, workers: int, tell: Tell | None = None, parts: tuple[str, ...] = ("train", "validation", "test")) -> None:
        """Make the exposures that are missing; see ``Pool.make``."""
        self.pool.make(parts, workers, tell)

    def begin(self, path: str | Path) -> None:
        """Take the weights of an agent to begin from.

        Raises
        ------
        InputError: no agent of the same network and fields, or one that has seen patients on whom this one is measured.
        """
        agent = self.known(path)
        if agent.network.config != self.config.network:
            raise InputError("its network is another than the recipe's", file=path, remedy="name an agent of the same recipe")
        self.network.load_state_dict(agent.network.state_dict())

    def joined(self, files: Sequence[Path]) -> Agent:
        """Agents of files as one whose members vote; one alone stays what it is.

        Raises
        ------
        InputError: as of ``known``; the same weights twice.
        """
        agents = [self.known(file) for file in files]
        for n, file in enumerate(files):
            mine = agents[n].network.state_dict()
            if any(all(torch.equal(t, mine[name]) for name, t in one.network.state_dict().items()) for one in agents[:n]):
                raise InputError("is there twice", file=file, remedy="join agents of different seeds")
        made = together(agents) if len(agents) > 1 else agents[0]
        return replace(made, about={"iterations": sum(int(one.about.get("iterations", 0)) for one in agents)})

    def known(self, path: str | Path) -> Agent:
        """An agent of one network that sees what the recipe says and was not trained on those whom it is measured on here.

        Raises
        ------
        InputError: another one.
        """
        agent = read_agent(path, self.device)
        if len(agent.members) > 1 or agent.world != self.config.world:
            raise InputError(
                "is several agents, or sees other fields than the recipe's", file=path, remedy="name one agent of the same recipe"
            )
        data = self.config.data
        (low, high), seen = (trained_on(agent, part, path) for part in ("train", "validation"))
        if not data.train[0] <= low <= high <= data.train[1]:  # none of whom is in the recipe's other parts
            # so that whoever begins from this one, or joins it, can say from its recipe alone whom it has seen
            raise InputError(
                f"was trained on patients {low} to {high}, and the recipe on {data.train[0]} to {data.train[1]}",
                file=path,
                remedy="name an agent that was trained on none but the recipe's",
            )
        if seen[0] <= data.test[1] and data.test[0] <= seen[1]:
            raise InputError(
                f"was chosen by patients {seen[0]} to {seen[1]}, some of whom it would be measured on",
                file=path,
                remedy="name an agent that knows none of them",
            )
        return agent

    def rate(self, iteration: int) -> float:
        return self.config.optimiser.at(iteration)

    def batch(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        """Fixed images, moving images and rewards of minibatch ``iteration``."""
        world, stream = self.world("train"), generator(self.seed, _STATES, iteration)
        which = torch.randint(len(world.exposures), (self.config.batch,), generator=stream)
        errors = self.config.states.draw(self.config.batch, stream)
        if self.config.policy is not None:
            own, come = self.visited.draw(iteration, round(self.config.policy.share * self.config.batch), stream)
            which[: len(own)], errors[: len(own)] = own, come
        fixed, moving, _ = world.observe(which, errors)
        return fixed, moving, rewards(errors, self.config.states.step).to(self.device, torch.float32)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Mean squared error of the six rewards."""
        fixed, moving, wanted = batch
        return torch.nn.functional.mse_loss(self.network(fixed, moving), wanted)

    def gather(self, done: int) -> None:
        """After so many iterations: collect states of the agent as it is, where it is time to."""
        policy = self.config.policy
        if policy is None or not policy.due(done) or self.visited.before(done + 1) > self.visited.before(done):
            return
        world, stream = self.world("train"), generator(self.seed, _WALKS, done)
        which = torch.randint(len(world.exposures), (policy.exposures,), generator=stream)
        starts = self._starts(len(which), stream)
        self.visited = self.visited.plus(done, *visited(self.agent(), world, which, starts, self.config.rollout))

    def gathered(self) -> dict[str, Tensor]:
        """What was collected: beside the weights, all that further minibatches depend on."""
        return self.visited.tensors() if self.config.policy is not None else {}

    def regain(self, gathered: Mapping[str, Tensor]) -> None:
        """Go on with what ``gathered`` gave; KeyError or ValueError where it is something else."""
        self.visited = Visited.of(gathered) if self.config.policy is not None else Visited.none()

    def world(self, part: str) -> World:
        """The exposures of a part, read when first asked for."""
        if part not in self._worlds:
            exposures = self.pool.read(part)
            if self.device.type != "cpu":
                exposures = replace(exposures, images=exposures.images.to(self.device))
            self._worlds[part] = World(exposures, self.config.world)
        return self._worlds[part]

    def agent(self, agreement: Agreement | None = None, about: dict[str, Any] | None = None) -> Agent:
        """The network as it stands, in evaluation mode."""
        return Agent(self.network.eval(), self.config.world, agreement, about or {})

    def validate(self) -> dict[str, float]:
        """TRE of registrations of validation exposures, one start each; the same ones every time."""
        world, stream = self.world("validation"), generator(self.seed, _VALIDATION)
        many = self.config.validation_cases
        which = torch.arange(many) * len(world.exposures) // many  # spread over all patients, whatever their number
        starts = self._starts(many, stream)
        found = walk(self.agent(), world, which, starts, self.config.rollout)
        return _figures(starts, found.ends)

    def finish(self, tell: Tell | None = None) -> tuple[Agent, dict[str, Any]]:
        """The trained agent, and what is to be said of it: how sure its agreement makes it, and its figures on test patients."""
        return self.measured(self.agent(), tell)

    def measured(self, agent: Agent, tell: Tell | None = None) -> tuple[Agent, dict[str, Any]]:
        """An agent, how sure its agreement makes it, by validation patients, and its figures on these and on test patients."""
        if tell is not None:
            tell("how sure agreement makes it", 0.0)
        world, stream = self.world("validation"), generator(self.seed, _AGREE)
        which, how = torch.arange(len(world.exposures)), (self.config.agreement_starts, self.config.rollout)
        starts = self._starts(len(which), stream)
        ends, spread = spreads(agent, world, which, starts, how)
        errors = cross_error(ends)
        if self.config.far is not None:
            begun = self._far(len(which), self.config.far, stream)
            more, wide = spreads(agent, world, which, begun, how)
            judged = ~Domain(far=reach(self.config.states.mm, self.config.states.degrees)).beyond(more - begun)
            errors, spread = torch.cat([errors, cross_error(more)[judged]]), torch.cat([spread, wide[judged]])
        agreement = fitted(errors, spread)
        if tell is not None:
            tell("registering test patients", 0.3)
        figures = {"validation": _figures(starts, ends), "test": self.test(agent)}
        return replace(agent, agreement=agreement, about={"figures": figures}), figures

    def test(self, agent: Agent) -> dict[str, float]:
        """Figures over test patients, ``test_starts`` starts of each exposure (the paper: 100 patients, 10 starts).

        One walk from each start; of an agent of several members one walk of each, and the median of their ends.
        """
        world, each = self.world("test"), self.config.test_starts
        which = torch.arange(len(world.exposures)).repeat_interleave(each)
        starts = self._starts(len(which), generator(self.seed, _TEST))
        return _figures(starts, spreads(agent, world, which, starts, (1, self.config.rollout))[0])

    def _starts(self, count: int, stream: torch.Generator) -> Tensor:
        return replace(self.config.states, near=0.0).draw(count, stream)

    def _far(self, count: int, mm: tuple[float, float], stream: torch.Generator) -> Tensor:
        """Starts in all directions, so many mm away."""
        u = torch.rand(count, 2, generator=stream, dtype=torch.float64)
        away, angle = mm[0] + (mm[1] - mm[0]) * u[:, 0], 2 * math.pi * u[:, 1]
        return torch.stack([away * angle.cos(), away * angle.sin(), self._starts(count, stream)[:, 2]], 1)

    def _seed(self) -> int:
        return int(torch.randint(2**62, (), generator=generator(self.seed, _WEIGHTS)))

    def said(self, test: Mapping[str, float]) -> str:
        """Figures of test patients in words."""
        return (
            f"{test['cases']:.0f} registrations of test patients: TRE from {test['start_mean']:.2f} to"
            f" {test['tre_mean']:.2f} mm in the mean, median {test['tre_median']:.2f}, 90 % within {test['tre_p90']:.2f};"
            f" angle {test['angle_mean']:.2f} degrees"
        )

    def card(self, about: dict[str, Any], digest: str) -> str:
        """The model card."""
        return card(about, digest)


def trained_on(agent: Agent, part: str, file: str | Path | None = None) -> tuple[int, int]:
    """First and last seed of the patients of a part of an agent's training.

    Raises
    ------
    InputError: its file does not say.
    """
    try:
        low, high = (int(seed) for seed in agent.about["settings"]["data"][part])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            "does not say whom it was trained on", field=f"data.{part}", file=file, remedy="name one that raylign train wrote"
        ) from None
    return low, high


def _figures(starts: Float[Tensor, "B 3"], ends: Float[Tensor, "B 3"]) -> dict[str, float]:
    """TRE and angles before and after, mm and degrees; standard deviations are of these cases, so that of one is 0."""
    before, after, angle = cross_error(starts), cross_error(ends), ends[:, 2].abs()
    return {
        "cases": float(len(ends)),
        "start_mean": float(before.mean()),
        "tre_mean": float(after.mean()),
        "tre_sd": float(after.std(correction=0)),
        "tre_median": float(after.median()),
        "tre_p90": float(after.quantile(0.9)),
        "tre_max": float(after.max()),
        "angle_mean": float(angle.mean()),
        "angle_sd": float(angle.std(correction=0)),
        "worse": float((after > before).double().mean()),
    }
