"""How well an agent, or several that vote, know when they are wrong: validation patients, and cases made to go wrong.

    python benchmarks/agent_confidence.py --pool DIR --weights FILE [--weights FILE ...] [--exposures 64] [--json FILE]

Each exposure three times: **box**, a start within the trained box; **far**, one 45 to 90 mm off, farther than any start of
training; **wrong**, the model of another patient in the right one's place. Signals, all of five starts: the spread of the ends,
and what the best action is expected to be worth where they end (-1 at the goal, and nearer to zero the less is known); of each
agent alone, and of all together, whose ends have one median. A failure is a TRE over 5 mm; of ``wrong`` it is counted also
whatever the TRE. Printed: TRE, failures, and the area under the ROC by which a signal tells failures.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from raylign.methods.imitation_agent.agent import Agent, read_agent, together
from raylign.methods.imitation_agent.mdp import cross_error
from raylign.methods.imitation_agent.rollout import RolloutConfig
from raylign.methods.imitation_agent.training import AgentTraining
from raylign.methods.imitation_agent.trust import agreed, voted
from raylign.methods.imitation_agent.world import Exposures, World
from raylign.simulation.seeds import generator
from raylign.training.recipes import read_training

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "toth2018.yaml"
KINDS = ("box", "far", "wrong")


@dataclass(frozen=True)
class Seen:
    """What an agent, or several, made of all cases: [N] each."""

    error: Tensor
    spread: Tensor
    worth: Tensor


def swapped(it: Exposures) -> Exposures:
    """Every exposure with the model of the next patient, its middle and its directions where the right one's were."""
    model = (it.model + 1) % len(it.meshes)
    base = it.base.clone()
    shift = it.centres[it.model] - it.centres[model]
    base[:, :3, 3] += (base[:, :3, :3] @ shift[..., None])[..., 0]
    return replace(it, base=base, model=model)


def starts(kind: str, count: int, task: AgentTraining) -> Tensor:
    """Starts of a kind of cases, counted from the truth."""
    stream = generator(20261122, 2, KINDS.index(kind))
    drawn = replace(task.config.states, near=0.0).draw(count, stream)
    if kind == "far":
        u = torch.rand(count, 2, generator=stream, dtype=torch.float64)
        angle, mm = 2 * math.pi * u[:, 0], 45 + 45 * u[:, 1]
        drawn[:, 0], drawn[:, 1] = mm * angle.cos(), mm * angle.sin()
    return drawn


def ends(agent: Agent, world: World, which: Tensor, begun: Tensor, how: tuple[int, RolloutConfig]) -> tuple[Tensor, Tensor]:
    """[B, 5, 3] ends of an agent, and what the best action is expected to be worth in their median [B]."""
    found, _ = voted(agent, world, which, begun, how)
    rewards, _ = agent.rewards(world, which, agreed(found)[0])
    return found, rewards.max(1).values


def area(signal: Tensor, bad: Tensor) -> float:
    """Area under the ROC: how often a failure has the larger signal; ties count half."""
    a, b = signal[bad][:, None], signal[~bad][None]
    return float(((a > b).double() + 0.5 * (a == b).double()).mean()) if bad.any() and not bad.all() else math.nan


def measured(agents: list[Agent], task: AgentTraining, many: int, of: list[str]) -> tuple[list[str], dict[str, Seen]]:
    """Kinds of all cases, and what each agent and all together made of them."""
    world = task.world("validation")
    wrong = World(swapped(world.exposures), task.config.world)
    many = min(many, len(world.exposures))
    which = torch.arange(many) * len(world.exposures) // many
    how = (task.config.agreement_starts, task.config.rollout)
    kinds, names = [], [f"agent {n + 1}" for n in range(len(agents))]
    found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in (*names, "all")}
    for kind in of:
        place, begun = wrong if kind == "wrong" else world, starts(kind, many, task)
        apart = [ends(agent, place, which, begun, how) for agent in agents]
        groups = dict(zip(names, ([one] for one in apart), strict=True)) | {"all": apart}
        for name, group in groups.items():
            middle, spread = agreed(torch.cat([e for e, _ in group], 1))
            found[name].append((cross_error(middle), spread, torch.stack([w for _, w in group]).mean(0)))
        kinds += [kind] * many
    return kinds, {name: Seen(*(torch.cat(column) for column in zip(*parts, strict=True))) for name, parts in found.items()}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--weights", type=Path, action="append", required=True)
    parser.add_argument("--exposures", type=int, default=64)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    torch.set_num_threads(1)
    chosen = read_training(RECIPE, said.preset)
    task: AgentTraining = chosen.make(chosen.settings, chosen.seed, said.pool)
    task.prepare(1, parts=("validation",))
    agents = [read_agent(file) for file in said.weights]
    if len(agents) > 1:
        together(agents)  # refuses those that see different fields
    kinds, seen = measured(agents, task, said.exposures, said.kinds)
    if len(agents) == 1:
        del seen["all"]
    of = {kind: torch.tensor([k == kind for k in kinds]) for kind in said.kinds}
    print(
        "TRE, mm: mean / median / largest, and how many are over 5 mm\n\n| | "
        + " | ".join(of)
        + " |\n|---"
        + "|---" * len(of)
        + "|"
    )
    for name, one in seen.items():
        shown = [one.error[rows] for rows in of.values()]
        cells = [f"{e.mean():.2f} / {e.median():.2f} / {e.max():.1f}; {int((e > 5).sum())} of {len(e)}" for e in shown]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| area under the ROC | over 5 mm, box and far | over 5 mm, all | over 5 mm, or the wrong model |\n|---|---|---|---|")
    strange = torch.tensor([k == "wrong" for k in kinds])
    for name, one in seen.items():
        bad = one.error > 5
        both = one.spread.add(0.1).log() + 2 * one.worth
        for signal, value in (("spread", one.spread), ("worth", one.worth), ("log spread + 2 worth", both)):
            areas = (area(value[~strange], bad[~strange]), area(value, bad), area(value, bad | strange))
            print(f"| {name}, {signal} | {' | '.join(f'{a:.3f}' for a in areas)} |")
    if said.json:
        plain = {name: {k: getattr(one, k).tolist() for k in ("error", "spread", "worth")} for name, one in seen.items()}
        said.json.write_text(json.dumps({"kinds": kinds, **plain}, indent=1))


if __name__ == "__main__":
    main()
