"""The probability of success: registrations that succeed and that fail, and a logistic regression on their evidence.

``python benchmarks/confidence.py --attempts 2000 -o attempts.jsonl [--shard 1/2] [--once] [--data FOLDER]`` appends a JSON line
an attempt and goes on where it stopped; shards may run side by side, each into a file of its own. ``--fit attempts.jsonl ...``
prints the weights and how they do on people whom they were not fitted to; ``--write`` puts them into ``registration/trust.py``;
``--report DIR`` draws the ROC and the reliability.

What is attempted is in ``confidence_cases.py``. Success is an mTRE under 10 mm in the frame of every exposure; with another
person's, a mirrored or a flipped model there is no success. With ``--once`` an attempt is a single search; without, all that
``Direct`` does, second looks included. A wrong sign of a single view's angles turns patient and camera together, so that no image
can show it: such an attempt is right if the pose in the camera's frame is.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from cases import mahalanobis
from confidence_cases import BLOCK, Attempt, attempt, describe
from confidence_fit import judged, print_judgement, table_of_weights

from raylign.cli.warm import warm_kernels
from raylign.errors import InputError
from raylign.evaluation.metrics import mrpd, mtre, pose_error
from raylign.registration import Direct, DirectConfig


def outcome(made: Attempt, seed: int, once: bool) -> dict[str, Any]:
    """Register, and say how it ended."""
    registrar = Direct(DirectConfig(seed=seed) if made.search is None else DirectConfig(seed=seed, search=made.search))
    begun = time.process_time()
    try:
        result = (registrar.search_once if once else registrar.register)(made.problem)
    except InputError as error:
        return {"refused": str(error)}
    seconds = time.process_time() - begun
    views = [x.view for x in made.problem.xrays]
    first = made.poses[0] if made.poses else None
    return {
        "mtre": max((float(mtre(result.transform, p, made.targets)) for p in made.poses), default=None),
        "mrpd": max(
            (float(mrpd(result.transform, p, made.targets, [v])) for p, v in zip(made.poses, views, strict=False)), default=None
        ),
        "depth": None if first is None else pose_error(result.transform, first, made.targets, views[0]).depth,
        "mahalanobis": None if first is None else mahalanobis(result, first),
        "evidence": {k: float(v) for k, v in result.confidence.evidence.items()},
        "probability": result.confidence.probability,
        "trusted": result.confidence.trusted,
        "seconds": seconds,
    }


def campaign(chosen: argparse.Namespace) -> None:
    """Attempts that the file does not hold yet, one line each."""
    done = {json.loads(line)["id"] for line in chosen.out.read_text().splitlines()} if chosen.out.exists() else set()
    shard, shards = (int(n) for n in chosen.shard.split("/"))
    data = chosen.data if (chosen.data / "cases").is_dir() else None
    warm_kernels()
    with chosen.out.open("a") as out:
        for index in range(chosen.attempts):
            if (index // BLOCK) % shards != shard - 1 or index in done:
                continue
            made = attempt(index, chosen.seed, data)
            start = [float(mtre(made.problem.start, p, made.targets)) for p in made.poses]
            row = {
                "id": index,
                **{name: getattr(made, name) for name in ("kind", "subject", "model", "anatomy")},
                "views": len(made.problem.xrays),
                "start": max(start, default=None),
                **outcome(made, index, chosen.once),
            }
            out.write(json.dumps(row) + "\n")
            out.flush()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    arguments.add_argument("--attempts", type=int, default=2000)
    arguments.add_argument("-o", "--out", type=Path, default=Path("attempts.jsonl"))
    arguments.add_argument("--shard", default="1/1", help="which part of how many: 1/2 and 2/2 share the work")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--once", action="store_true", help="one search an attempt, no second look")
    arguments.add_argument("--fit", type=Path, nargs="+", help="files of attempts")
    arguments.add_argument("--threshold", type=float, default=DirectConfig().trust)
    arguments.add_argument("--write", action="store_true", help="put the weights into the package")
    arguments.add_argument("--report", type=Path, help="folder for roc.png and reliability.png")
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    if not chosen.fit:
        print("a block of attempts:", ", ".join(f"{n} {kind}" for kind, n in describe().items()))
        campaign(chosen)
        return
    rows = [json.loads(line) for file in chosen.fit for line in file.read_text().splitlines()]
    found = judged(rows, chosen.threshold)
    if chosen.json:
        print(json.dumps(asdict(found), indent=1, default=np.ndarray.tolist))
    else:
        print_judgement(found)
    if chosen.write:
        target = Path(__file__).resolve().parents[1] / "src" / "raylign" / "registration" / "trust.py"
        target.write_text(table_of_weights(found))
    if chosen.report:
        from confidence_fit import draw

        draw(found, chosen.report)


if __name__ == "__main__":
    main()
