"""What a sample costs on one core where the volume lies in the first cache, the second, or beyond.

The same rays cross the same 256 mm cube, divided into more and more voxels. The trilinear model takes the same samples of each,
so that only where the voxels come from differs. Joseph takes a sample a plane, so its samples grow with the cube's voxels.

    python benchmarks/projector_limits.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from raylign import View
from raylign.data import Volume
from raylign.projection import cpu, cpu_adjoint
from raylign.projection.cpu_grid import PADDING, whole_box
from raylign.projection.rays import samples_per_ray, voxel_rays

PIXELS, SIDE_MM, STEP_MM, ROUNDS = 200, 256.0, 1.0, 10


def adjoint(model: str, size: int, rays: np.ndarray, samples: np.ndarray) -> Callable[[], object]:
    """One thread's walk through all slabs; the buffer is there already."""
    n = size + 2 * PADDING
    target, shape = np.zeros(n**3, np.float32), (PIXELS, PIXELS)
    box = whole_box((n, n, n))
    weights, slopes = np.random.default_rng(0).random(PIXELS**2, np.float32), np.zeros((1, 6), np.float32)
    slices = np.empty((PIXELS**2, 2), np.int32)
    cpu_adjoint.extents((n, n, n), box, rays, shape, weights, slopes, False, slices, 0, PIXELS**2)
    kernel = getattr(cpu_adjoint, model)(False)
    slabs = [(z, min(z + cpu_adjoint.SLAB, n)) for z in range(0, n, cpu_adjoint.SLAB)]

    def call() -> None:
        for z0, z1 in slabs:
            kernel(target, (n, n, n), box, rays, shape, samples, slices, weights, slopes, z0, z1)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    view = View.from_carm(primary=30, secondary=10, sid=1000, sod=700, pixel_spacing=(300 / PIXELS,) * 2, shape=(PIXELS, PIXELS))
    samples = np.array([samples_per_ray(view, STEP_MM)])
    rows = []
    for size in (20, 64, 128, 256):
        pitch = SIDE_MM / size
        affine = torch.diag(torch.tensor([pitch, pitch, pitch, 1.0], dtype=torch.float64))
        affine[:3, 3] = -(size - 1) / 2 * pitch
        data = torch.rand(size, size, size, generator=torch.Generator().manual_seed(0)) + 0.1
        volume = Volume(data, affine)
        rays = cpu.six(voxel_rays(volume, view, torch.eye(4, dtype=torch.float64))[None].numpy())
        ones = cpu.grid(torch.ones_like(data))
        grid, half = cpu.grid(data), cpu.grid((data * 1000).to(torch.int16))
        for model in ("trilinear", "joseph"):
            # the number of samples inside, from the integral of ones
            unit = samples[0] if model == "trilinear" else np.abs(rays[0, 1]).max()
            count = float(cpu.forward(ones, rays, view.shape, samples, model=model)[0].astype(float).sum() * unit)
            image = partial(cpu.forward, rays=rays, shape=view.shape, samples=samples, model=model, threaded=False)
            calls: dict[str, Callable[[], object]] = {
                "image": partial(image, grid),
                "image and slopes": partial(image, grid, gradients=True),
                "image, int16": partial(image, half),
            }
            calls["adjoint"] = adjoint(model, size, rays, samples)
            best = dict.fromkeys(calls, float("inf"))
            for call in calls.values():
                call()
            for _ in range(ROUNDS):
                for name, call in calls.items():
                    begin = time.thread_time()
                    call()
                    best[name] = min(best[name], time.thread_time() - begin)
            megabytes = grid.data.nbytes / 1e6
            for name, seconds in best.items():
                rows.append({"model": model, "what": name, "voxels": size, "MB": megabytes, "ns": 1e9 * seconds / count})
                print(f"{model:10s} {name:17s} {size:4d}^3 {megabytes:7.1f} MB  {rows[-1]['ns']:6.2f} ns a sample", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
