"""What climbing by a metric, or the silhouette, makes of a state that is nearly right, as an agent's end is.

    python benchmarks/agent_refinement.py --pool DIR [--patients 8] [--seed 0] [--mm 2]

Validation patients of recipes/toth2018.yaml, four exposures each; ``--pool`` as of ``raylign train``, patients that are missing
are made. States are off by a normal number of so many mm and degrees along each axis. Each of the six gradient metrics climbs
from them as the row agent+refinement of ``raylign reproduce toth2018`` does, and steps of its row silhouette are made from them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from raylign.methods.imitation_agent.baselines import BASELINES, refined
from raylign.methods.imitation_agent.mdp import cross_error
from raylign.methods.imitation_agent.pool import Pool, PoolConfig, as_exposures, read_patient
from raylign.methods.imitation_agent.silhouette import silhouette_refined
from raylign.methods.imitation_agent.world import World
from raylign.simulation.seeds import generator


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mm", type=float, default=2.0)
    said = parser.parse_args()
    torch.set_num_threads(1)
    data = PoolConfig()
    data = replace(data, validation=(data.validation[0], data.validation[0] + said.patients - 1))
    pool, count = Pool(said.pool, data), data.exposures["validation"]
    pool.make(("validation",), 1)
    begun: list[torch.Tensor] = []
    ends: dict[str, list[torch.Tensor]] = {name: [] for name in (*BASELINES, "silhouette")}
    for seed in data.seeds("validation"):
        world = World(as_exposures(read_patient(pool.path(seed, count))))
        for exposure in range(count):
            near = said.mm * torch.randn(3, generator=generator(said.seed, seed, exposure), dtype=torch.float64)
            begun.append(near)
            for name, metric in BASELINES.items():
                ends[name].append(refined(world, exposure, near, metric).end)
            ends["silhouette"].append(silhouette_refined(world, exposure, near).end)
    print(f"{len(begun)} exposures of {said.patients} validation patients; TRE in mm, angle in degrees\n")
    print("| | mean | median | 90 % | angle |\n|---|---|---|---|---|")
    for name, states in {"begun": begun, **ends}.items():
        errors, angles = cross_error(torch.stack(states)), torch.stack(states)[:, 2].abs()
        figures = (errors.mean(), errors.median(), errors.quantile(0.9), angles.mean())
        print(f"| {name} | " + " | ".join(f"{float(v):.2f}" for v in figures) + " |")


if __name__ == "__main__":
    main()
