"""A trained agent: its network or networks, what it sees, how sure its agreement with itself makes it; in one file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.imitation_agent.domain import domain_of
from raylign.methods.imitation_agent.network import AgentNetwork, Ensemble, NetworkConfig
from raylign.methods.imitation_agent.world import World, WorldConfig
from raylign.methods.weights import read_weights, write_weights
from raylign.simulation.datasets.typed import typed

METHOD = "imitation-agent"
_BATCH = 128  # states that the network sees at once
_SCHEMAS = (1, 2)  # of one network, of several


@dataclass(frozen=True)
class Agreement:
    """Probability that a registration is right, from how far the ends of several starts lie apart.

    ``1 / (1 + exp(-(intercept + slope log(spread + 0.1 mm))))``: a logistic regression on registrations of patients whom the
    agent was not trained on. Right is a TRE under ``right_mm``.

    Parameters
    ----------
    intercept, slope: of the regression.
    right_mm: what was called right.
    cases: from how many registrations.
    """

    intercept: float
    slope: float
    right_mm: float
    cases: int

    def probability(self, spread_mm: float) -> float:
        """Of ends with a root mean square distance from their middle of so many mm."""
        z = self.intercept + self.slope * math.log(spread_mm + 0.1)
        return 1 / (1 + math.exp(-min(max(z, -30.0), 30.0)))


@dataclass(frozen=True, eq=False)
class Agent:
    """A network, or several that vote, and what goes with it.

    Parameters
    ----------
    network: in evaluation mode.
    world: what it was trained to see.
    agreement: None where nobody has found out how far its agreement with itself is to be trusted.
    about: recipe, seed, settings, figures: what the model card says; ``domain.domain_of`` reads the settings.
    """

    network: AgentNetwork | Ensemble
    world: WorldConfig = field(default_factory=WorldConfig)
    agreement: Agreement | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def members(self) -> tuple[Agent, ...]:
        """One agent for each network."""
        if isinstance(self.network, AgentNetwork):
            return (self,)
        return tuple(replace(self, network=one) for one in self.network.members if isinstance(one, AgentNetwork))

    def rewards(self, world: World, which: Int64[Tensor, " B"], states: Float[Tensor, "B 3"]) -> tuple[Tensor, Tensor]:
        """Predicted rewards [B, 6] of states, on the CPU, and the share of each field that the exposure shows [B].

        Of several networks, the mean of what they predict.
        """
        found, shares = [], []
        with torch.no_grad():
            for first in range(0, len(which), _BATCH):
                some = slice(first, first + _BATCH)
                fixed, moving, share = world.observe(which[some], states[some])
                found.append(self.network(fixed, moving).cpu())
                shares.append(share)
        return torch.cat(found), torch.cat(shares)

    def save(self, path: str | Path) -> None:
        """Write the agent as safetensors.

        Raises
        ------
        InputError: the file cannot be written.
        """
        sizes = [asdict(one.network.config) for one in self.members if isinstance(one.network, AgentNetwork)]
        about = {
            "method": METHOD,
            "schema": _SCHEMAS[len(sizes) > 1],
            "network": sizes if len(sizes) > 1 else sizes[0],
            "world": asdict(self.world),
            "agreement": None if self.agreement is None else asdict(self.agreement),
            "about": dict(self.about),
        }
        write_weights(path, self.network.state_dict(), about)


def together(agents: Sequence[Agent]) -> Agent:
    """Agents that see the same as one whose members vote; how far it is to be trusted has to be measured anew.

    Raises
    ------
    InputError: fewer than two, or agents that see different fields.
    """
    if len({agent.world for agent in agents}) > 1:
        raise InputError("they see different fields", field="members", remedy="join agents of one recipe")
    networks = [one.network for agent in agents for one in agent.members if isinstance(one.network, AgentNetwork)]
    return Agent(Ensemble(networks).eval(), agents[0].world)


def read_agent(path: str | Path, device: str | torch.device = "cpu") -> Agent:
    """An agent as ``Agent.save`` wrote it.

    Raises
    ------
    InputError: no such file, a damaged one, one of another method.
    """
    tensors, said = read_weights(path)
    if said.get("method") != METHOD or said.get("schema") not in _SCHEMAS:
        raise InputError(
            f"holds {said.get('method', 'something else')}, not an {METHOD} of schema 1 or 2", file=path,
            remedy="name the agent.safetensors of a raylign train of recipes/toth2018.yaml",
        )  # fmt: skip
    try:
        world = typed(WorldConfig, said["world"], "world", path)
        network = _networks(said, world.pixels, path)
        network.load_state_dict(tensors)
        agreement = None if said["agreement"] is None else typed(Agreement, said["agreement"], "agreement", path)
        about = said["about"]
        if not isinstance(about, Mapping):
            raise TypeError("about holds no names and values")
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"its weights do not fit ({str(error).splitlines()[0]})", file=path) from None
    domain_of(about, path)  # what it says of its training can be read, or is refused here and not later
    return Agent(network.to(device).eval(), world, agreement, about)


def _networks(said: Mapping[str, Any], pixels: int, path: str | Path) -> AgentNetwork | Ensemble:
    """The network or networks of a file, without their weights."""
    if said["schema"] == 1:
        return AgentNetwork(typed(NetworkConfig, said["network"], "network", path), pixels)
    if not isinstance(said["network"], list):
        raise TypeError("network is no list")
    sizes = [typed(NetworkConfig, one, f"network.{n}", path) for n, one in enumerate(said["network"])]
    return Ensemble([AgentNetwork(size, pixels) for size in sizes])
