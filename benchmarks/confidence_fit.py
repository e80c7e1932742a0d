"""The logistic regression of ``benchmarks/confidence.py``, how it does on people left out of the fit, and pictures of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from raylign.evaluation.statistics import calibration, expected_calibration_error, roc
from raylign.registration import trust
from raylign.registration.confidence import Evidence, features, near_enough

Array = NDArray[np.float64]
# which way each feature may count: what can only speak for a pose must not be fitted to speak against it
SIGNS = {"agreement": 1, "rival": -1, "mirror": -1, "drift": -1, "held": 1}
_FOLDS = 8
_WRONG = 10.0  # mm


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a set of attempts says about the confidence.

    Parameters
    ----------
    weights: intercept and weights by name, of all attempts. folds: probability of each attempt by weights that were fitted
        without its person. stated: the probability that the registration itself gave, by the weights in the package.
    """

    threshold: float
    rows: list[dict[str, Any]]
    intercept: float
    weights: dict[str, float]
    success: NDArray[np.bool_]
    folds: Array
    stated: Array


def judged(rows: list[dict[str, Any]], threshold: float) -> Judgement:
    """Fit, and judge by people left out: a fold's people are in no attempt of its fit, neither on the image nor as the model."""
    rows = [r for r in rows if "refused" not in r]
    x = np.array([list(features(_evidence(r)).values()) for r in rows])
    names = list(features(_evidence(rows[0])))
    signs = np.array([SIGNS[n] for n in names])
    near = np.array([near_enough(_evidence(r)) for r in rows])
    good = np.array([r["mtre"] is not None and r["mtre"] < _WRONG for r in rows])
    people = sorted({r["subject"] for r in rows})
    fold = {p: i % _FOLDS for i, p in enumerate(np.random.default_rng(0).permutation(people))}
    p = np.zeros(len(rows))
    for k in range(_FOLDS):
        left = np.array([fold[r["subject"]] == k for r in rows])
        touched = left | np.array([fold.get(r["model"], -1) == k for r in rows])
        if left.any():
            w = fit(x[~touched], good[~touched], near[~touched], signs)
            p[left] = near[left] * _sigmoid(_with_one(x[left]) @ w)
    w = fit(x, good, near, signs)
    now = np.array([trust.INTERCEPT + sum(trust.WEIGHTS[n] * v for n, v in zip(names, row, strict=True)) for row in x])
    return Judgement(threshold, rows, float(w[0]), dict(zip(names, w[1:].tolist(), strict=True)), good, p, near * _sigmoid(now))


def _evidence(row: dict[str, Any]) -> Evidence:
    return Evidence(**{name: row["evidence"][name] for name in Evidence.__dataclass_fields__})


def _with_one(x: Array) -> Array:
    return np.concatenate([np.ones((len(x), 1)), x], 1)


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(z, -30, 30)))


def fit(x: Array, y: NDArray[np.bool_], near: Array, signs: Array, ridge: float = 1.0) -> Array:
    """Logistic regression of what is then multiplied by ``near``, intercept first; each weight of the sign that it may have.

    ``ridge`` on standardised features: a weight of one standard deviation costs as much as half an attempt missed by a factor e.
    """
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-9)
    z = _with_one((x - mean) / scale)

    def loss(w: Array) -> tuple[float, Array]:
        t = z @ w
        p = _sigmoid(t)
        missed = np.maximum(1 - near * p, 1e-12)
        # -log(near p) of a success, -log(1 - near p) of a failure
        value = float(np.sum(np.where(y, np.logaddexp(0, -t), -np.log(missed))) + 0.5 * ridge * np.sum(w[1:] ** 2))
        slope = z.T @ np.where(y, p - 1, near * p * (1 - p) / missed) + ridge * np.concatenate([[0], w[1:]])
        return value, slope

    bounds = [(None, None), *((0, None) if s > 0 else (None, 0) for s in signs)]
    w = minimize(loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000}).x
    plain = w[1:] / scale
    return np.concatenate([[w[0] - plain @ mean], plain])


def reliability(p: Array, good: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """Mean stated probability, observed share and count of each tenth of the scale that holds anything."""
    return [(c.probability, c.right, c.n) for c in calibration(p, good)]


def fine(row: dict[str, Any]) -> bool:
    """A good registration: a success at 2 mm (mTRE)."""
    return row["mtre"] is not None and row["mtre"] < 2


def fair(row: dict[str, Any]) -> bool:
    """One that is right as far as its images can show: under 2 mm across the rays with one view, under 5 mm mTRE with more."""
    if row["mtre"] is None or row["mtre"] >= _WRONG:
        return False
    return bool(row["mrpd"] < 2) if row["views"] == 1 else bool(row["mtre"] < 5)


def _summary(p: Array, good: NDArray[np.bool_]) -> str:
    error = expected_calibration_error(p, good)
    return f"area {roc(p, good).area:.4f}, Brier {np.mean((p - good) ** 2):.4f}, calibration error {error:.4f}"


def print_judgement(found: Judgement) -> None:
    """All figures as text."""
    rows, good = found.rows, found.success
    print(f"{len(rows)} attempts, {good.sum()} right, {len({r['subject'] for r in rows})} people on the images")
    print("weights:", ", ".join([f"intercept {found.intercept:.2f}"] + [f"{k} {v:.2f}" for k, v in found.weights.items()]))
    fine_, fair_ = np.array([fine(r) for r in rows]), np.array([fair(r) for r in rows])
    for name, p in (("people left out", found.folds), ("weights of the package", found.stated)):
        yes = p >= found.threshold
        print(
            f"{name}: {_summary(p, good)}; at {found.threshold}: silent {int((yes & ~good).sum())} of {int((~good).sum())}, good"
            f" called good {int((yes & fine_).sum())} of {int(fine_.sum())} ({100 * yes[fine_].mean():.1f} %)"
        )
        for low in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
            at = p >= low
            print(
                f"    threshold {low}: silent {int((at & ~good).sum())}, good called good {100 * at[fine_].mean():.1f} %,"
                f" across the rays {100 * at[fair_].mean():.1f} %"
            )
    asked = np.array([r.get("trusted", False) for r in rows])
    said = np.array([r["probability"] for r in rows])  # vetoes included
    print(f"as registered: {_summary(said, good)}; silent {int((asked & ~good).sum())}, good {100 * asked[fine_].mean():.1f} %,"
          f" across the rays {100 * asked[fair_].mean():.1f} %")  # fmt: skip
    print(
        "reliability (people left out): " + "; ".join(f"{s:.2f} -> {o:.2f} ({n})" for s, o, n in reliability(found.folds, good))
    )
    print(f"{'kind':10s} {'n':>4s} {'right':>5s} {'fine':>5s} {'called':>6s} {'silent':>6s}  median probability of right / wrong")
    yes = found.folds >= found.threshold
    for kind in dict.fromkeys(r["kind"] for r in rows):
        it = np.array([r["kind"] == kind for r in rows])
        of = [f"{np.median(found.folds[it & g]):.3f}" if (it & g).any() else "-" for g in (good, ~good)]
        print(
            f"{kind:10s} {it.sum():4d} {(it & good).sum():5d} {(it & fine_).sum():5d} {(it & fine_ & yes).sum():6d} "
            f"{(it & ~good & yes).sum():6d}  {of[0]} / {of[1]}"
        )
    for views, one in (("one view", True), ("two views", False)):
        d = [r["mahalanobis"] for r, f in zip(rows, fine_, strict=True) if f and (r["views"] == 1) == one and r["kind"] != "warp"]
        if d:
            print(f"squared Mahalanobis length of good ones, {views}: median {np.median(d):.1f}, 90 % {np.quantile(d, 0.9):.1f} "
                  f"(5.3 and 10.6 for a perfect covariance)")  # fmt: skip
    print(f"CPU seconds of a registration: median {np.median([r.get('seconds', np.nan) for r in rows]):.2f}")


def table_of_weights(found: Judgement) -> str:
    """The module ``raylign.registration.trust``."""
    lines = "".join(f'    "{k}": {v:.2f},\n' for k, v in found.weights.items())
    return (
        '"""Weights of the probability of success, as ``python benchmarks/confidence.py --fit FILE --write`` leaves them."""\n\n'
        f"from __future__ import annotations\n\nINTERCEPT = {found.intercept:.2f}\nWEIGHTS = {{\n{lines}}}\n"
    )


def draw(found: Judgement, folder: Path) -> None:
    """``roc.png`` and ``reliability.png``, of people left out of the fit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    p, good = found.folds, found.success
    order = np.argsort(-p, kind="stable")
    false, true = (np.concatenate([[0], np.cumsum(g[order]) / max(g.sum(), 1)]) for g in (~good, good))
    figure, axes = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
    axes.plot(false, true, color="#1f5fbf")
    at = p >= found.threshold
    axes.plot((at & ~good).sum() / max((~good).sum(), 1), (at & good).sum() / max(good.sum(), 1), "o", color="#b3470b")
    axes.annotate(f"threshold {found.threshold}", (0.05, 0.9), color="#b3470b")
    axes.set(xlabel="failures trusted", ylabel="successes trusted", title=f"area {roc(p, good).area:.4f}, {len(p)} attempts")
    figure.savefig(folder / "roc.png", dpi=130)
    figure, axes = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
    axes.plot([0, 1], [0, 1], color="#999", lw=1)
    for stated, seen, n in reliability(p, good):
        error = np.sqrt(max(seen * (1 - seen), 0.25 / n) / n)
        axes.errorbar(stated, seen, error, fmt="o", color="#1f5fbf", capsize=2)
        axes.annotate(str(n), (stated, seen), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axes.set(
        xlabel="stated probability",
        ylabel="share that is right",
        title="reliability, people left out",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    figure.savefig(folder / "reliability.png", dpi=130)
