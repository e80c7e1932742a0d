"""Fits and checks the probability of success: attempts that succeed and fail, and a logistic regression on their evidence.

``python benchmarks/confidence.py [--data FOLDER] [--attempts 240] [--seed 1] [-o attempts.jsonl]``

Each attempt draws an exposure of known pose, a start up to 37 degrees and 75 mm per axis from the truth, one of the two ways to
read cut faces, and in one attempt of seven the CT of another patient, which must fail. An attempt is one search, as ``Direct``
makes them, without the second one that a distrusted result sets off. Success is an mTRE under 10 mm. The regression is judged on
the exposures that it was not fitted to, leaving out one at a time.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

import raylign
from raylign.cli.warm import warm_kernels
from raylign.data import Volume
from raylign.errors import InputError
from raylign.evaluation.metrics import mtre
from raylign.geometry import Rigid
from raylign.registration import Direct, DirectConfig, Problem, centred
from raylign.registration.confidence import Evidence, features
from raylign.registration.search import moved

CTS = {
    "lidc0001": "lidc0001_chest",
    "vhf_pelvis": "vhf_pelvis_ct.nii.gz",
    "totalseg_pelvis": "totalseg_pelvis_3mm_ct.nii.gz",
}
WHOLE = ((False, False),) * 3


def attempts(data: Path, count: int, seed: int) -> list[dict]:
    """``count`` searches with their evidence and whether they succeeded."""
    rng = np.random.default_rng(seed)
    models = {name: raylign.read_volume(data / "ct" / file) for name, file in CTS.items()}
    cases = []
    for folder in sorted((data / "cases").glob("*/*")):
        truth = json.loads((folder / "truth.json").read_text())
        cases += [(folder, truth, name, case) for name, case in sorted(truth["cases"].items())]
    done: list[dict] = []
    while len(done) < count:
        folder, truth, name, case = cases[rng.integers(len(cases))]
        right = folder.parent.name
        stranger = rng.random() < 1 / 7
        who = right if not stranger else [m for m in models if m != right][rng.integers(len(models) - 1)]
        model: Volume = replace(models[who], truncated=WHOLE) if rng.random() < 0.25 else models[who]
        gold = np.array(case["pose_world_from_ct"])
        start = centred(model)
        if not stranger and rng.random() < 0.7:
            reach = 2.5 * rng.random()
            twist = np.concatenate([rng.uniform(-1, 1, 3) * np.radians(15), rng.uniform(-1, 1, 3) * 30]) * reach
            start = Rigid(torch.from_numpy(moved(gold, twist, gold[:3, :3] @ model.centre.numpy() + gold[:3, 3])))
        xrays = tuple(raylign.read_xray(folder / f) for f in case["files"])
        config = DirectConfig(seed=int(rng.integers(1000)))
        try:
            result = Direct(config).search_once(Problem(model, xrays, start))
        except InputError:  # the start puts the model outside the image
            continue
        targets = torch.tensor(truth["targets_ct"], dtype=torch.float64)
        error = None if stranger else float(mtre(result.transform, Rigid(torch.from_numpy(gold)), targets))
        case_name = f"{right}/{folder.name}/{name}"
        done.append({"case": case_name, "model": who, "mtre": error, "evidence": dict(result.confidence.evidence)})
    return done


def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logistic regression with a weak ridge (one observation's worth)."""

    def loss(w: np.ndarray) -> float:
        z = x @ w
        return float(np.sum(np.logaddexp(0, z) - y * z) + np.sum(w[1:] ** 2))

    return minimize(loss, np.zeros(x.shape[1])).x


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    arguments.add_argument("--attempts", type=int, default=240)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("-o", "--out", type=Path, default=None)
    chosen = arguments.parse_args()
    warm_kernels()
    rows = attempts(chosen.data, chosen.attempts, chosen.seed)
    if chosen.out is not None:
        chosen.out.write_text("".join(json.dumps(r) + "\n" for r in rows))
    x = np.array([(1.0, *features(Evidence(**r["evidence"]))) for r in rows])
    good = np.array([r["mtre"] is not None and r["mtre"] < 10 for r in rows])
    names = np.array([r["case"] for r in rows])
    p = np.zeros(len(rows))
    for name in sorted(set(names)):
        left = names == name
        p[left] = 1 / (1 + np.exp(-x[left] @ fit(x[~left], good[~left])))
    area = mannwhitneyu(p[good], p[~good]).statistic / (good.sum() * (~good).sum())
    trust = DirectConfig().trust
    print(f"{len(rows)} attempts, {good.sum()} successful, {len(set(names))} exposures, seed {chosen.seed}")
    print("weights (intercept, explained, rival, wobble):", np.round(fit(x, good), 2).tolist())
    print(f"on exposures left out: area under the ROC {area:.3f}, Brier score {np.mean((p - good) ** 2):.3f}")
    print(f"at the threshold {trust}: {int((p[~good] >= trust).sum())} of {int((~good).sum())} failures trusted, "
          f"{int((p[good] < trust).sum())} of {int(good.sum())} successes not trusted")  # fmt: skip
    for low in np.arange(0, 1, 0.2):
        inside = (p >= low) & (p < low + 0.2 + 1e-9)
        if inside.any():
            print(f"  stated {low:.1f} to {low + 0.2:.1f}: {inside.sum()} attempts, {100 * good[inside].mean():.0f} % successful")


if __name__ == "__main__":
    main()
