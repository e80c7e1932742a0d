"""Labelled exposures a second: resident patients of 128 x 128 x 128 voxels, images of 128 x 128 pixels, everything on.

    python benchmarks/simulation.py [--device cuda] [--size 128] [--shape 128] [--batch 32] [--residents 4] [--json FILE]

An exposure here is: a pose and a C-arm geometry, mm of water, bone and iodine on every ray, twelve energies, scatter, collimator,
automatic exposure, quantum noise, glare and blur, read-out noise, and the landmarks' pixels, each exposure with an apparatus of
its own drawn from ``ExposureRanges`` and a seed of its own. Patients are made and moved to the device before the clock starts.
Processor time is that of all threads together.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from raylign.data import Volume
from raylign.geometry import View, se3
from raylign.projection.threads import threads
from raylign.simulation.labelled import Labelled
from raylign.simulation.phantoms import ThoraxConfig, thorax
from raylign.simulation.physics.exposure import Exposures, expose_batch
from raylign.simulation.physics.materials import Matter
from raylign.simulation.physics.ranges import ExposureRanges
from raylign.simulation.physics.traversal import traversed
from raylign.simulation.seeds import generator
from raylign.simulation.subject import Subject


def resident(seed: int, size: int) -> tuple[Matter, torch.Tensor]:
    """A chest with contrast agent on a grid of size^3, and its landmarks."""
    made: Subject = thorax(ThoraxConfig(voxel_mm=3.0, contrast_hu=150.0), seed)
    grid = torch.Size((size, size, size))
    hu = torch.nn.functional.interpolate(made.volume.data[None, None], size=grid, mode="trilinear", align_corners=True)[0, 0]
    labels = torch.nn.functional.interpolate(made.labels.data[None, None].float(), size=grid, mode="nearest-exact")[0, 0]
    scale = torch.diag(
        torch.tensor([*((n - 1) / (size - 1) for n in reversed(made.volume.data.shape)), 1.0], dtype=torch.float64)
    )
    affine = made.volume.affine @ scale
    volume = Volume(hu, affine, unit="HU")
    labelled = type(made.labels)(labels.to(torch.uint8), affine, made.labels.names)
    return Matter.of(volume, labelled), made.landmarks.points


def scene(matter: Matter, count: int, shape: int, seed: int) -> tuple[list[View], torch.Tensor]:
    """Views about the front of the chest, and poses about the isocentre."""
    g = generator(seed, 1)
    angles = torch.rand(count, 2, generator=g, dtype=torch.float64) * torch.tensor([60.0, 30.0]) - torch.tensor([30.0, 15.0])
    views = [
        View.from_carm(primary=float(p), secondary=float(s), sid=1050, sod=720, pixel_spacing=300 / shape, shape=(shape, shape))
        for p, s in angles
    ]
    twists = torch.randn(count, 6, generator=g, dtype=torch.float64) * torch.tensor([0.1, 0.1, 0.1, 10, 10, 10])
    poses = se3.exp(twists)
    centred = torch.eye(4, dtype=torch.float64)
    centred[:3, 3] = -matter.mass_centre
    return views, poses @ centred


def clocked(work: Callable[[], object], device: torch.device, rounds: int) -> tuple[float, float]:
    """Least wall and processor seconds of several rounds."""
    wall, processor = [], []
    for _ in range(rounds):
        a, b = time.perf_counter(), time.process_time()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        wall.append(time.perf_counter() - a)
        processor.append(time.process_time() - b)
    return min(wall), min(processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=128, help="voxels along each side")
    parser.add_argument("--shape", type=int, default=128, help="pixels along each side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--residents", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows here")
    chosen = parser.parse_args()
    device, b = torch.device(chosen.device), chosen.batch
    made = [resident(chosen.seed + i, chosen.size) for i in range(chosen.residents)]
    matters, points = [m.to(device) for m, _ in made], [p for _, p in made]
    least = min(len(p) for p in points)
    index = [i % len(matters) for i in range(b)]
    views, poses = scene(matters[0], b, chosen.shape, chosen.seed)
    marks = torch.stack([points[i][:least] for i in index])
    ranges = ExposureRanges()

    def whole() -> Labelled:
        configs = [ranges.draw(generator(chosen.seed, 2, i)) for i in range(b)]
        generators = [generator(chosen.seed, 3, i, device=device) for i in range(b)]
        shot: Exposures = expose_batch(matters, index, views, poses, configs, generators)
        cameras = torch.stack([view.camera for view in views])
        world = se3.transform(poses, marks)
        homogeneous = world @ cameras[:, :, :3].transpose(1, 2) + cameras[:, None, :, 3]
        pixels = (homogeneous[..., :2] / homogeneous[..., 2:]).to(device)
        return Labelled(shot.image, shot.valid, tuple(views), poses, pixels, shot.image.new_zeros(b, 0, *views[0].shape))

    def projection() -> object:
        vectors = torch.stack([view.ray_vectors for view in views])
        return traversed(matters, index, vectors, poses, views[0].shape)

    rows = []
    for what, work in (("labelled exposure", whole), ("of which projection", projection)):
        work()
        wall, processor = clocked(work, device, chosen.rounds)
        rows.append(
            {"what": what, "device": str(device), "batch": b, "size": chosen.size, "shape": chosen.shape, "threads": threads(),
             "per_second": b / wall, "processor_ms": 1e3 * processor / b}
        )  # fmt: skip
    print(f"{'':22}{'a second':>12}{'processor ms each':>20}")
    for row in rows:
        print(f"{row['what']:22}{row['per_second']:12.0f}{row['processor_ms']:20.2f}")
    print(f"{device}, {threads()} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {chosen.residents} patients")
    if chosen.json:
        chosen.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
