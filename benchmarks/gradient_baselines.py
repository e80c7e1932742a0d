"""Where the six gradient metrics of Toth et al. (2018) put the heart: an exhaustive search of their three parameters.

``python benchmarks/gradient_baselines.py [--cases N] [--seed N] [--json]``

Made chests, the whole patient in the exposure, the moving image a field of 120 mm about the heart (``heart`` of ``raylign bench
registration``). Around the true pose lies a grid of shifts in the image plane (+-35 mm by 5 mm) and turns in it (+-15 degrees by
5 degrees): 1575 poses, the truth among them. What is printed is how far from the truth the highest value of each metric stands,
and how often it stands on it: no optimiser is involved. Each metric sees the same renderings.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch

from raylign.bench.registration_cases import phantoms
from raylign.evaluation.metrics import mtre
from raylign.geometry import Rigid
from raylign.registration import Problem
from raylign.registration.comparison import Comparison, Measure, Sampling, build
from raylign.registration.levels import centre_under
from raylign.registration.search import camera_axes, moved

METRICS = ("go", "go+", "gc", "gc+", "gi", "gi+", "gradient-ncc", "ncc", "mi")


def poses_about(truth: np.ndarray, centre: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """[1575, 4, 4], the truth in the middle."""
    made = []
    for degrees in range(-15, 16, 5):
        for x in range(-35, 36, 5):
            for y in range(-35, 36, 5):
                twist = np.concatenate([axes[:, 2] * np.radians(degrees), axes[:, 0] * x + axes[:, 1] * y])
                made.append(moved(truth, twist, centre))
    return np.stack(made)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pixels", type=int, default=48, help="along the longer side of the moving field")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    errors: dict[str, list[float]] = {m: [] for m in METRICS}
    begun = time.process_time()
    for case in phantoms(given.cases, given.seed, ("heart",)):
        sampling = Sampling(pixels=given.pixels, step=1.5)
        truth = case.pose.matrix.numpy()
        level = build(Problem(case.model, case.xrays, case.pose), [sampling], 50.0)[0]
        comparisons = {m: Comparison(level, Measure(m), sampling, truth) for m in METRICS}
        axes = camera_axes(case.xrays[0].view)
        poses = poses_about(truth, centre_under(level[0], truth), axes)
        values: dict[str, list[np.ndarray]] = {m: [] for m in METRICS}
        for first in range(0, len(poses), 105):
            some = poses[first : first + 105]
            rendered = next(iter(comparisons.values())).rendered(some)
            for m, comparison in comparisons.items():
                values[m].append(comparison.compared(some, rendered))
        for m in METRICS:
            best = poses[int(np.argmax(np.concatenate(values[m])))]
            errors[m].append(float(mtre(Rigid(torch.from_numpy(best)), case.pose, case.targets)))
        print(case.name, {m: round(e[-1], 1) for m, e in errors.items()}, file=sys.stderr, flush=True)
    rows = [
        {
            "metric": m,
            "n": len(e),
            "on_truth": 100 * float(np.mean(np.array(e) < 1e-6)),
            "within_6": 100 * float(np.mean(np.array(e) < 6)),
            "median": float(np.median(e)),
            "mean": float(np.mean(e)),
            "max": float(np.max(e)),
        }
        for m, e in errors.items()
    ]
    if given.json:
        print(json.dumps({"rows": rows, "errors": errors, "cpu": time.process_time() - begun}))
        return
    print(f"{given.cases} chests, field of 120 mm about the heart, 1575 poses in plane; mTRE in mm of the highest value")
    print(f"{'metric':14s} {'on truth %':>10s} {'< 6 mm %':>9s} {'median':>7s} {'mean':>6s} {'max':>6s}")
    for r in rows:
        print(f"{r['metric']:14s} {r['on_truth']:10.0f} {r['within_6']:9.0f} {r['median']:7.1f} {r['mean']:6.1f} {r['max']:6.1f}")


if __name__ == "__main__":
    main()
