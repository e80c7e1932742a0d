"""What domain randomisation does and costs: ``python benchmarks/appearance.py [--picture docs/images/appearance.png] [--json]``.

One exposure of the parametric chest, 128 x 128, under every preset. The table gives processor time for one image (the least of
the repetitions); the picture shows a row for each preset, every image in its own range of grey.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from raylign.projection.threads import threads
from raylign.simulation.appearance import PRESETS, Sequence
from raylign.simulation.datasets.recipes import Recipe, SubjectsFrom
from raylign.simulation.datasets.streams import Stream, StreamConfig
from raylign.simulation.labelled import Labelled
from raylign.simulation.seeds import generator

COLUMNS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    torch.set_num_threads(threads())
    exposed = chest(said.batch, said.device)
    measured = {name: cost(preset, exposed, said.repeat) for name, preset in PRESETS.items()}
    if said.json:
        print(json.dumps({"ms": measured, "batch": said.batch, "device": said.device, "torch": torch.__version__}))
    else:
        print(f"{'':16}processor ms an image (batch {said.batch}, {threads()} threads, {said.device})")
        for name, ms in measured.items():
            print(f"{name:16}{ms:6.2f}")
    if said.picture is not None:
        sheet(exposed, said.picture)


def chest(count: int, device: str) -> Labelled:
    """One exposure of seed 0, as often as there are images in a batch."""
    recipe = Recipe(
        "chest",
        (SubjectsFrom("thorax", (0, 0), {"voxel_mm": 2.5, "z_range": [-220.0, 165.0]}),),
        resident=1,
        targets="toth2018/clinical",
        isocentre=("heart_ventricle_left",),
        exposure={"round_field": 0.0, "rectangular_field": 0.0, "photons": [3000.0, 3000.0]},
    )
    with Stream(recipe, StreamConfig(batch=1, part=None)) as stream:
        one = stream.cases([0]).labelled
    return Labelled(
        one.image.repeat(count, 1, 1).to(device), one.valid.repeat(count, 1, 1).to(device), one.views * count,
        one.poses.repeat(count, 1, 1).to(device), one.points.repeat(count, 1, 1).to(device),
        one.segments.repeat(count, 1, 1, 1).to(device),
    )  # fmt: skip


def cost(preset: Sequence, exposed: Labelled, repeat: int) -> float:
    """Least processor time for an image, ms."""
    best = float("inf")
    for _ in range(repeat):
        streams = [generator(0, n) for n in range(len(exposed))]
        begin = time.process_time()
        preset(exposed, streams)
        if exposed.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.process_time() - begin)
    return round(1000 * best / len(exposed), 3)


def sheet(exposed: Labelled, path: Path) -> None:
    """A row of images for each preset that changes any."""
    from PIL import Image

    rows = []
    for preset in (p for p in PRESETS.values() if p.steps):
        images = preset(exposed, [generator(1, n) for n in range(len(exposed))]).image[:COLUMNS].cpu()
        low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
        grey = ((images - low) / (high - low) * 255).to(torch.uint8).numpy()
        # dark where much is attenuated, as on a fluoroscope
        rows.append(np.concatenate(list(255 - grey), 1))
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


if __name__ == "__main__":
    main()
