"""Poses from landmarks: how good, how honest, how often refused. One row a kind of problem.

``python benchmarks/landmarks.py [--draws 40] [--json]``

Points are uniform in a box of 180 x 120 x 180 mm, poses up to 20 degrees about each axis and 40 mm along it from the nominal
start, marks have Gaussian errors of 2 mm on the detector (SID 1050, SOD 720), wrong ones lie 57 to 210 mm off. "wrong" are
answers more than 30 mm or 10 degrees off, "chi2" is the mean of the squared error under the stated covariance (6 where it is
right; the median of chi-squared is 5.3). Seconds are of the process.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.registration.landmarks import pnp

NOMINAL = Rigid(torch.eye(4, dtype=torch.float64))
NOISE = 2.0
PITCH = 0.6


@dataclass(frozen=True)
class Kind:
    """A kind of problem: landmarks, wrong marks among them, views, whether the points lie in a frontal plane."""

    landmarks: int
    wrong: int = 0
    views: int = 1
    flat: bool = False


KINDS = (
    *(Kind(n) for n in (3, 4, 6, 10)),
    *(Kind(6, flat=True), Kind(6, 1), Kind(6, 2), Kind(10, 3)),
    *(Kind(3, views=2), Kind(6, views=2), Kind(6, 2, views=2)),
)


def drawn(kind: Kind, rng: np.random.Generator) -> tuple[str, list[float], float]:
    """One problem: refused or not, [degrees, mm, chi-squared, wrong marks kept] of the answer, seconds."""
    points = rng.uniform(-1, 1, (kind.landmarks, 3)) * [90, 0 if kind.flat else 60, 90]
    motion = se3.exp(torch.tensor([*np.radians(rng.uniform(-20, 20, 3)), 0, 0, 0]))
    motion[:3, 3] = torch.from_numpy(rng.uniform(-40, 40, 3))
    truth, where = Rigid(motion), torch.from_numpy(points)
    views = [
        View.from_carm(primary=p, secondary=4, sid=1050, sod=720, pixel_spacing=PITCH, shape=(512, 512))
        for p in (0, 90)[: kind.views]
    ]
    pixels = [v.project(truth.apply(where)).numpy() + rng.normal(size=(len(points), 2)) * NOISE / PITCH for v in views]
    wrong = rng.choice(len(points), kind.wrong, replace=False)
    pixels[0][wrong] += rng.choice([-1, 1], (kind.wrong, 2)) * rng.uniform(40, 150, (kind.wrong, 2)) / PITCH
    begun = time.process_time()
    try:
        found = pnp(where, [torch.from_numpy(p) for p in pixels], views, NOMINAL)
    except InputError as error:
        return str(error), [], time.process_time() - begun
    seconds = time.process_time() - begun
    away = truth.matrix @ found.pose.inverse().matrix
    shift = away[:3, :3] @ found.centre + away[:3, 3] - found.centre
    x = torch.cat([se3.log_rotation(away[:3, :3]), shift])
    kept = sum(m.view == 0 and int(m.name) - 1 in wrong for m in found.inliers)
    chi = float(x @ torch.linalg.solve(found.covariance, x))
    return "", [float(np.degrees(x[:3].norm())), float(shift.norm()), chi, float(kept)], seconds


def row(kind: Kind, draws: int) -> dict[str, object]:
    """The figures of a kind."""
    rng = np.random.default_rng(0)
    told = [drawn(kind, rng) for _ in range(draws)]
    answers = np.array([a for _, a, _ in told if a]).reshape(-1, 4)
    out: dict[str, object] = {**asdict(kind), "draws": draws, "refused": draws - len(answers)}
    out["seconds"] = float(np.median([s for _, _, s in told]))
    if len(answers):
        out["degrees"], out["mm"] = (float(np.median(answers[:, k])) for k in (0, 1))
        out["mm_95"], out["chi2"] = float(np.quantile(answers[:, 1], 0.95)), float(np.mean(answers[:, 2]))
        out["wrong_answers"] = int(((answers[:, 0] > 10) | (answers[:, 1] > 30)).sum())
        out["chi2_beyond_22"] = int((answers[:, 2] > 22.5).sum())  # 0.1 % of chi-squared of six degrees of freedom
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = []
    if not asked.json:
        print(
            f"{'landmarks':>9} {'wrong':>5} {'views':>5} {'plane':>5} {'refused':>9} {'degrees':>8} {'mm':>6} {'95 %':>6}"
            f" {'chi2':>6} {'>22.5':>6} {'wrong':>6} {'CPU s':>6}"
        )
    for kind in KINDS:
        rows.append(r := row(kind, asked.draws))
        if not asked.json:
            numbers = [r.get(k, float("nan")) for k in ("degrees", "mm", "mm_95", "chi2")]
            print(
                f"{kind.landmarks:9d} {kind.wrong:5d} {kind.views:5d} {'yes' if kind.flat else '':>5}"
                f" {r['refused']:4d} of {asked.draws:<2d} {numbers[0]:8.2f} {numbers[1]:6.1f} {numbers[2]:6.1f} {numbers[3]:6.1f}"
                f" {r.get('chi2_beyond_22', ''):>6} {r.get('wrong_answers', ''):>6} {r['seconds']:6.2f}",
                flush=True,
            )
    if asked.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
