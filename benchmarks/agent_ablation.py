"""What was chosen where Toth et al. (2018) are silent, and what else would have come of it.

    python benchmarks/agent_ablation.py --pool DIR --weights FILE [--preset small] [--exposures 64] [--json FILE]
    python benchmarks/agent_ablation.py --pool DIR --widths 0.5 1 2 --iterations 1000 --out DIR

With weights: one trained agent, walking by other steps and other rules of when to stop, one start on each validation exposure.
With widths: trainings from the same pool, seed and settings, with so many times the preset's channels; what is broken off goes
on. Costs are looks at states, and processor seconds of one thread. Validation patients only: no test patient enters a choice.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from raylign.methods.imitation_agent.agent import Agent, read_agent
from raylign.methods.imitation_agent.mdp import ACTIONS, cross_error
from raylign.methods.imitation_agent.network import NetworkConfig
from raylign.methods.imitation_agent.rollout import RolloutConfig, walk
from raylign.methods.imitation_agent.training import AgentTraining
from raylign.methods.imitation_agent.world import World
from raylign.simulation.seeds import generator
from raylign.training.loop import LOG, LoopConfig, train
from raylign.training.recipes import read_training

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "toth2018.yaml"
HALVES = (4.0, 2.0, 1.0, 0.5, 0.25)
STEPS = (
    HALVES,
    (1.0, 0.5, 0.25),
    (1.0,),
    (4.0, 2.0, 1.0),
    (2.0, 1.0, 0.5, 0.25),
    (8.0, *HALVES),
    (4.0, 1.0, 0.25),
    (*HALVES, 0.125),
)
Row = dict[str, float]


@dataclass(frozen=True)
class Cases:
    """Exposures by number, and a start of each."""

    world: World
    which: Tensor
    starts: Tensor


def cases(task: AgentTraining, many: int) -> Cases:
    """Validation exposures spread over all patients, starts uniform within the box; others than a training's own."""
    world = task.world("validation")
    many = min(many, len(world.exposures))
    which = torch.arange(many) * len(world.exposures) // many
    return Cases(world, which, replace(task.config.states, near=0.0).draw(many, generator(20261122, 1)))


def while_worth(agent: Agent, on: Cases, steps: tuple[float, ...], limit: int = 120) -> tuple[Tensor, Tensor]:
    """Ends and looks of walks that stop, or shorten their steps, where no action is expected to be worth anything."""
    states, level = on.starts.clone(), torch.zeros(len(on.which), dtype=torch.int64)
    looks, taken = torch.zeros_like(level), torch.zeros_like(level)
    sizes = torch.tensor([*steps, 0.0], dtype=torch.float64)
    while len(rows := (level < len(steps)).nonzero()[:, 0]):
        rewards, _ = agent.rewards(on.world, on.which[rows], states[rows])
        best, action = rewards.max(1)
        looks[rows] += 1
        go = (best > 0) & (taken[rows] < limit)
        states[rows] += torch.where(go, sizes[level[rows]], 0.0)[:, None] * ACTIONS[action]
        taken[rows] = torch.where(go, taken[rows] + 1, 0)
        level[rows] += (~go).to(torch.int64)
    return states, looks


def row(on: Cases, ends: Tensor, looks: Tensor, seconds: float) -> Row:
    """What one way to walk comes to."""
    error = cross_error(ends)
    return {
        "TRE mean": float(error.mean()),
        "median": float(error.median()),
        "90 %": float(error.quantile(0.9)),
        "largest": float(error.max()),
        "angle": float(ends[:, 2].abs().mean()),
        "worse": float((error > cross_error(on.starts)).double().mean()),
        "looks": float(looks.double().mean()),
        "CPU s": seconds / len(ends),
    }


def ways(agent: Agent, on: Cases) -> dict[str, Row]:
    """Every way to walk, by name."""
    out = {"(starts)": row(on, on.starts, torch.zeros(1), 0.0)}

    def measure(name: str, work: Callable[[], tuple[Tensor, Tensor]]) -> None:
        begun = time.process_time()
        ends, looks = work()
        out[name] = row(on, ends, looks, time.process_time() - begun)

    def again(config: RolloutConfig) -> tuple[Tensor, Tensor]:
        found = walk(agent, on.world, on.which, on.starts, config)
        return found.ends, found.count

    for steps in STEPS:
        measure(f"{', '.join(f'{s:g}' for s in steps)}; until a state comes again", lambda s=steps: again(RolloutConfig(s)))  # type: ignore[misc]
    for limit in (10, 20):
        measure(f"the first; at most {limit} actions of a size", lambda n=limit: again(RolloutConfig(HALVES, limit=n)))  # type: ignore[misc]
    measure("the first; while an action is worth something", lambda: while_worth(agent, on, HALVES))
    measure("1, 0.5, 0.25; while an action is worth something", lambda: while_worth(agent, on, HALVES[2:]))
    return out


def scaled(config: NetworkConfig, factor: float) -> NetworkConfig:
    """A network with so many times the channels and units."""
    c, h = ([max(1, round(factor * n)) for n in sizes] for sizes in (config.channels, config.hidden))
    return replace(config, channels=(c[0], c[1], c[2], c[3]), hidden=(h[0], h[1], h[2]))


def widths(factors: list[float], preset: str, pool: Path, out: Path, iterations: int) -> dict[str, Row]:
    """Train a network of each width and read its log."""
    rows = {}
    for factor in factors:
        chosen = read_training(RECIPE, preset)
        settings = replace(chosen.settings, network=scaled(chosen.settings.network, factor))
        chosen, folder = replace(chosen, settings=settings), out / f"width-{factor:g}"
        task: AgentTraining = chosen.make(settings, chosen.seed, pool)
        task.prepare(1)
        train(task, LoopConfig(folder, chosen.fingerprint(), until=iterations))
        with (folder / LOG).open(encoding="utf-8", newline="") as file:
            log = list(csv.DictReader(file))
        for line in log:
            if line["tre_mean"]:
                weights = sum(p.numel() for p in task.network.parameters())
                said = {
                    name: float(line[name]) for name in ("loss", "tre_mean", "tre_median", "tre_p90", "angle_mean", "cpu_seconds")
                }
                rows[f"x {factor:g}, {line['iteration']} iterations"] = {"weights": float(weights), **said}
    return rows


def table(rows: dict[str, Row]) -> str:
    """Markdown."""
    first = next(iter(rows.values()))
    lines = [f"| | {' | '.join(first)} |", "|---" * (1 + len(first)) + "|"]
    return "\n".join(
        [*lines, *(f"| {name} | {' | '.join(f'{v:.4g}' for v in values.values())} |" for name, values in rows.items())]
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--exposures", type=int, default=64)
    parser.add_argument("--widths", type=float, nargs="*", default=[])
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    if said.widths and said.out is None:
        parser.error("--widths needs --out")
    torch.set_num_threads(1)
    out: dict[str, dict[str, Row]] = {}
    if said.weights is not None:
        chosen = read_training(RECIPE, said.preset)
        task: AgentTraining = chosen.make(chosen.settings, chosen.seed, said.pool)
        task.prepare(1, parts=("validation",))
        out["ways"] = ways(read_agent(said.weights), cases(task, said.exposures))
        print(f"{said.exposures} validation exposures, one start each; mm, degrees\n\n{table(out['ways'])}\n", flush=True)
    if said.widths:
        out["widths"] = widths(said.widths, said.preset, said.pool, said.out, said.iterations)
        print(table(out["widths"]))
    if said.json:
        said.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
