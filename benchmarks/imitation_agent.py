"""What the imitation-learning agent costs, and how far it gets on patients that it was not trained on.

    python benchmarks/imitation_agent.py --pool DIR [--preset trial] [--weights FILE] [--starts 4] [--json FILE]

``--pool``: as of ``raylign train``; patients that are missing are made. Costs are processor seconds on one thread, the least of
five. With weights: every test exposure from so many starts (not those of the training), one walk each, and the agent
used as ``raylign register`` uses it, from five.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylign.methods.imitation_agent.agent import read_agent
from raylign.methods.imitation_agent.mdp import cross_error
from raylign.methods.imitation_agent.pool import make_patient
from raylign.methods.imitation_agent.rollout import walk
from raylign.methods.imitation_agent.training import AgentTraining
from raylign.methods.imitation_agent.trust import spreads
from raylign.simulation.seeds import generator
from raylign.training.recipes import read_training

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "toth2018.yaml"
PERCENTILES = (50, 60, 70, 80, 90, 100)


def least(work: Callable[[], object], times: int = 5) -> float:
    """Least processor time of a piece of work, seconds; it is done once before."""
    work()
    spent = []
    for _ in range(times):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return min(spent)


def costs(task: AgentTraining) -> dict[str, float]:
    """Processor seconds of the pieces of a training and of a registration."""
    batch, data = task.batch(0), task.config.data

    def step() -> None:
        task.network.train()
        task.optimiser.zero_grad()
        task.loss(batch).backward()
        task.optimiser.step()

    world, agent = task.world("test"), task.agent()
    out = {
        f"a patient, {data.train_exposures} exposures": least(lambda: make_patient(data, 3, data.train_exposures), 2),
        f"a minibatch of {task.config.batch} states": least(lambda: task.batch(1)),
        "a step of the optimiser": least(step),
    }
    for many in (1, 5, 40):
        which, states = torch.zeros(many, dtype=torch.int64), torch.rand(many, 3, dtype=torch.float64)
        task.network.eval()
        out[f"a look at {many} states"] = least(lambda w=which, s=states: agent.rewards(world, w, s))  # type: ignore[misc]
    return out


def row(errors: torch.Tensor, angles: torch.Tensor) -> dict[str, float]:
    """Table 1's columns, and the angle."""
    e = errors.numpy()
    shown = {f"{p} %": float(np.percentile(e, p)) for p in PERCENTILES}
    return {"mean": float(e.mean()), "sd": float(e.std()), **shown, "angle": float(angles.abs().mean())}


def figures(task: AgentTraining, weights: Path, each: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Rows of TRE, mm: starts, one walk each, the median of five; and what a registration costs."""
    agent, world = read_agent(weights), task.world("test")
    which = torch.arange(len(world.exposures)).repeat_interleave(each)
    starts = replace(task.config.states, near=0.0).draw(len(which), generator(20261122, 0))
    found = walk(agent, world, which, starts, task.config.rollout)
    begun = time.process_time()
    five, _ = spreads(agent, world, which, starts, (5, task.config.rollout))
    rows = {"start": starts, "one walk": found.ends, "five walks, median": five}
    told = {
        "looks of a walk": float(found.count.double().mean()),
        "registration, five walks, in batches": (time.process_time() - begun) / len(which),
        "worse than its start": float((cross_error(found.ends) > cross_error(starts)).double().mean()),
    }
    return {name: row(cross_error(ends), ends[:, 2]) for name, ends in rows.items()}, told


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--preset", default="trial")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--no-costs", action="store_true")
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    torch.set_num_threads(1)
    chosen = read_training(RECIPE, said.preset)
    task: AgentTraining = chosen.make(chosen.settings, chosen.seed, said.pool)
    task.prepare(1)
    out: dict[str, Any] = {}
    if said.weights is not None:
        rows, told = figures(task, said.weights, said.starts)
        out |= {"rows": rows, "told": told}
        print(f"{len(task.world('test').exposures)} exposures of test patients, {said.starts} starts each; TRE, mm\n")
        print("| | " + " | ".join(rows["start"]) + " |\n|" + "---|" * (1 + len(rows["start"])))
        for name, values in rows.items():
            print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in values.values()) + " |")
        print("\n" + "\n".join(f"{name}: {value:.3g}" for name, value in told.items()) + "\n", flush=True)
    if not said.no_costs:
        out["costs"] = costs(task)
        print("| processor seconds | |\n|---|---|")
        for name, value in out["costs"].items():
            print(f"| {name} | {value:.3f} |")
    if said.json:
        said.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
