"""What a learned similarity, or a regressor, is worth before a registration: held-out made pelves, the starts of Gao et al. 2024.

    python benchmarks/convex_registration.py --weights FILE [--patients 20] [--cases 2] [--methods prost,direct,...] [--json FILE]

Patients are the test patients of the weights, exposures those that its training measured on, starts others of the same law (200
mm in plane, 300 mm in depth, 50 degrees); no domain randomisation. ``prost`` descends from the start with the labelled bones,
``prost, CT`` with what of the whole CT is dense enough; ``direct`` registers the whole CT within 20 degrees and 35 mm of the
start; ``prost+direct`` the same from where the descent ended; ``direct, search`` looks through 50 degrees, 200 mm and 300 mm
about the start that knows nothing; ``prost+xreg`` and ``xreg-wide`` are xReg's recipe (CMA-ES on patch gradient NCC), from there
and in the wide box. Of the weights of a regressor (``recipes/gao2024_regression.yaml``) ``prost`` stands for its iterations,
and is printed as its name. TRE is the mean over points of the model's surface; processor seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from raylign.cli.warm import warm_kernels
from raylign.data import Volume, XRay
from raylign.data.restrict import restricted
from raylign.geometry import Rigid
from raylign.methods.convex_similarity.registrar import ConvexSimilarity
from raylign.methods.convex_similarity.training import TrainingConfig as SimilarityConfig
from raylign.methods.convex_similarity.weights import read_learned as read_similarity
from raylign.methods.cubes import centred as centred_at
from raylign.methods.cubes import cube_of, uncentred
from raylign.methods.patients import case_recipe
from raylign.methods.pose_regression.registrar import PoseRegression
from raylign.methods.pose_regression.training import TrainingConfig as RegressionConfig
from raylign.methods.pose_regression.weights import METHOD as REGRESSION
from raylign.methods.pose_regression.weights import read_learned as read_regressor
from raylign.methods.weights import read_weights
from raylign.registration import Problem, SearchConfig, registrar
from raylign.registration.problem import centred
from raylign.registration.register import WIDE
from raylign.simulation.datasets.cases import make_cases
from raylign.simulation.datasets.plan import Plan
from raylign.simulation.datasets.residents import reside
from raylign.simulation.datasets.typed import typed
from raylign.simulation.poses import starts
from raylign.simulation.seeds import generator

METHODS = ("prost", "prost, CT", "direct", "prost+direct", "direct, search")
NEAR = SearchConfig(degrees=20.0, mm=35.0)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--methods", default=",".join(METHODS).replace(", ", "_"))
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    torch.set_num_threads(1)
    warm_kernels()
    label, far = _far(said.weights)
    learned = far.learned
    kind = SimilarityConfig if isinstance(far, ConvexSimilarity) else RegressionConfig
    settings = typed(kind, learned.about["settings"], "settings", said.weights)
    data, law = settings.data, settings.start
    zero = torch.zeros(3, dtype=torch.float64)
    wanted = [name.replace("_", ", ") for name in said.methods.split(",")]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("start", *wanted)}
    for seed in data.seeds("test")[: said.patients]:
        recipe = case_recipe(data, seed)
        plan = Plan(recipe)
        resident = reside(recipe, plan.roster[0])
        ct, bones = resident.subject.volume, restricted(resident.subject.volume, resident.subject.labels, data.structures)
        batch = make_cases(plan, [(seed << 20) + k for k in range(said.cases)], [resident] * said.cases)
        _, middle = cube_of(bones, learned.cube)
        for k in range(said.cases):
            shown = batch.labelled
            xray = XRay(shown.image[k], shown.views[k], shown.valid[k])
            truth, points = shown.poses[k], resident.targets
            drawn = starts(law).draw(
                centred_at(truth[None], middle), (shown.views[k],), zero, zero[None], generator(20261122, seed, k)
            )
            start = uncentred(drawn, middle)[0]

            def error(pose: Tensor, truth: Tensor = truth, points: Tensor = points) -> float:
                return float((Rigid(pose).apply(points) - Rigid(truth).apply(points)).norm(dim=-1).mean())

            begun = time.process_time()
            came = far.register(Problem(bones, (xray,), Rigid(start))).transform
            descent = time.process_time() - begun
            begun = time.process_time()
            whole = far.register(Problem(ct, (xray,), Rigid(start))).transform
            longer = time.process_time() - begun
            ways: dict[str, tuple[Callable[[], Tensor], float]] = {
                "start": (lambda start=start: start, 0.0),
                "prost": (lambda came=came: came.matrix, descent),
                "prost, CT": (lambda whole=whole: whole.matrix, longer),
                "direct": (_by("direct", NEAR, ct, xray, Rigid(start)), 0.0),
                "prost+direct": (_by("direct", NEAR, ct, xray, came), descent),
                "direct, search": (_by("direct", WIDE, ct, xray, centred(ct)), 0.0),
                "prost+xreg": (_by("xreg", None, bones, xray, came), descent),
                "xreg-wide": (_by("xreg-wide", None, bones, xray, Rigid(start)), 0.0),
            }
            for name, kept in found.items():
                way, before = ways[name]
                begun = time.process_time()
                end = way()
                kept.append((error(end), before + time.process_time() - begun))
    count = len(found["start"])
    print(f"{count} cases of {said.patients} test patients; mm\n")
    print("| | 25 % | median | 75 % | under 2 / 10 / 20 mm, % | seconds, median |\n|---|---|---|---|---|---|")
    for name, pairs in found.items():
        errors, seconds = torch.tensor(pairs, dtype=torch.float64).unbind(1)
        low, middle_, high = (float(errors.quantile(q)) for q in (0.25, 0.5, 0.75))
        under = " / ".join(f"{100 * float((errors < limit).double().mean()):.0f}" for limit in (2, 10, 20))
        row = name.replace("prost", label)
        print(f"| {row} | {low:.1f} | {middle_:.1f} | {high:.1f} | {under} | {float(seconds.median()):.1f} |")
    if said.json:
        said.json.write_text(json.dumps(found, indent=1))


def _far(weights: Path) -> tuple[str, ConvexSimilarity | PoseRegression]:
    """What brings poses nearer, and its name."""
    if read_weights(weights)[1].get("method") == REGRESSION:
        regressor = read_regressor(weights)
        return regressor.network.config.kind, PoseRegression(regressor)
    return "prost", ConvexSimilarity(read_similarity(weights))


def _by(method: str, search: SearchConfig | None, model: Volume, xray: XRay, start: Rigid) -> Callable[[], Tensor]:
    """A registration that is still to be made; the start where it refuses to."""

    def way() -> Tensor:
        from raylign.errors import InputError

        try:
            result = registrar(method, search=search).register(Problem(model, (xray,), start))
        except InputError:
            return start.matrix
        return result.transform.matrix

    return way


if __name__ == "__main__":
    main()
