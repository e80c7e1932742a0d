"""What a labelled exposure of a stream costs, from resident subjects: ``python benchmarks/streams.py recipes/thorax.yaml``.

Prints processor time and wall time of an exposure, the making of subjects apart, with the appearance and without. On a GPU:
``--device cuda --batch 512``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from typing import Any

import torch

from raylign import __version__
from raylign.projection.threads import threads
from raylign.simulation.datasets.recipes import Recipe, read_recipe
from raylign.simulation.datasets.streams import Stream, StreamConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--batch", type=int, default=32, help="cases in a batch")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--resident", type=int, default=2, help="subjects")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    recipe = replace(read_recipe(said.recipe), resident=said.resident, cases_per_subject=10**9)
    rows = {
        "as the recipe says": recipe,
        "plain appearance": replace(recipe, appearance="plain"),
        "and no instruments": replace(recipe, appearance="plain", instruments=None),
        "and no segments": replace(recipe, appearance="plain", instruments=None, segments=()),
    }
    torch.set_num_threads(threads())
    measured = {name: measure(row, said) for name, row in rows.items()}
    about = {
        "raylign": __version__, "torch": torch.__version__, "machine": platform.machine(), "threads": threads(),
        "device": torch.cuda.get_device_name() if said.device.startswith("cuda") else "cpu", "batch": said.batch,
    }  # fmt: skip
    if said.json:
        print(json.dumps({"about": about, "rows": measured}, indent=1))
        return
    print(f"{recipe.name}: {', '.join(f'{k} {v}' for k, v in about.items())}")
    print(f"{'':24}{'processor ms':>14}{'wall ms':>10}{'a second':>10}")
    for name, row in measured.items():
        print(f"{name:24}{row['processor_ms']:14.2f}{row['wall_ms']:10.2f}{1000 / row['wall_ms']:10.0f}")


def measure(recipe: Recipe, said: Any) -> dict[str, float]:
    """Least time of an exposure over the batches, milliseconds."""
    with Stream(recipe, StreamConfig(batch=said.batch, device=said.device, part=None)) as stream:
        stream.cases(list(range(said.batch)))  # kernels are compiled
        stream.settle()  # and no subject is made meanwhile
        best: list[tuple[float, float]] = []
        for n in range(said.batches):
            numbers = list(range((n + 1) * said.batch, (n + 2) * said.batch))
            processor, wall = time.process_time(), time.perf_counter()
            count = len(stream.cases(numbers))
            if said.device.startswith("cuda"):
                torch.cuda.synchronize()
            best.append((time.process_time() - processor, time.perf_counter() - wall))
    return {"processor_ms": 1000 * min(b[0] for b in best) / count, "wall_ms": 1000 * min(b[1] for b in best) / count}


if __name__ == "__main__":
    main()
