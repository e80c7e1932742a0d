"""How regressors of pose come nearer, step by step, and in which directions they end off: held-out made pelves.

    python benchmarks/regression_steps.py --weights FILE --pool DIR [--part test]

The cases are those on which the training was measured (``raylign train`` prints their medians): exposures without domain
randomisation, starts and moving poses by the laws of the recipe. TRE is the mean over points of the model's surface.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from raylign.methods.pair_training import TEST, VALIDATION
from raylign.methods.pairs import mean_tre
from raylign.methods.pose_regression.cameras import Cameras, in_camera
from raylign.methods.pose_regression.iterate import iterate
from raylign.methods.pose_regression.training import RegressionTraining, TrainingConfig
from raylign.methods.pose_regression.weights import read_learned
from raylign.simulation.datasets.typed import typed

STEPS = (0, 1, 2, 3, 5, 8, 12, 20, 30)
AXES = ("turn about x", "turn about y", "turn about z", "shift along x", "shift along y", "depth")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--part", choices=("validation", "test"), default="test")
    said = parser.parse_args()
    torch.set_num_threads(1)
    learned = read_learned(said.weights)
    settings = typed(TrainingConfig, learned.about["settings"], "settings", said.weights)
    task = RegressionTraining(settings, int(learned.about["seed"]), said.pool)
    task.network.load_state_dict(learned.network.state_dict())
    task.network.eval()
    cases = len(settings.data.seeds(said.part)) * settings.data.exposures[said.part]
    errors: dict[str, list[Tensor]] = {"moving poses": [], "starts": []}
    off: dict[str, list[Tensor]] = {name: [] for name in errors}
    for held in task.held(said.part, cases, TEST if said.part == "test" else VALIDATION):
        for name, pairs in (("moving poses", held.near), ("starts", held.begun)):
            found = iterate(task.regressor, held.patient.cube, pairs.looks, pairs.moving, learned.iterate)
            tre = [mean_tre(found.paths[:, k], pairs.truth, held.patient.points) for k in range(found.paths.shape[1])]
            errors[name].append(torch.stack(tre, 1))
            cameras = Cameras.of(pairs.looks.vectors, learned.cube.pixels)
            motion = in_camera(found.poses, pairs.truth, cameras, 1.0).abs()
            off[name].append(torch.cat([motion[:, :3] * (180 / math.pi), motion[:, 3:]], 1))
    print(f"{learned.network.config.kind}, {cases} cases; mean TRE in mm: 25 %, median, 75 %\n")
    steps = [k for k in STEPS if k <= learned.iterate.steps]
    print(f"| from | {' | '.join(str(k) for k in steps)} |\n|{'---|' * (1 + len(steps))}")
    for name, parts in errors.items():
        tre = torch.cat(parts)
        shown = [" ".join(f"{float(tre[:, k].quantile(q)):.0f}" for q in (0.25, 0.5, 0.75)) for k in steps]
        print(f"| {name} | {' | '.join(shown)} |")
    print(f"\nMedian of what is left at the end, degrees and mm, camera axes (x along rows)\n\n| from | {' | '.join(AXES)} |")
    print(f"|{'---|' * (1 + len(AXES))}")
    for name, parts in off.items():
        print(f"| {name} | {' | '.join(f'{float(m):.1f}' for m in torch.cat(parts).median(0).values)} |")


if __name__ == "__main__":
    main()
