"""What each similarity costs, and what it looks like around the truth.

``python benchmarks/similarities.py [--size 128] [--batch 64] [--json FILE]``
    CPU milliseconds on one thread under one round mask: one image, a batch, and the batch with its gradient by the moving images.

``python benchmarks/similarities.py --landscapes DIR [--exposures 4] [--json FILE]``
    Chest phantoms exposed by ``raylign.simulation.expose`` (polyenergetic, scattered, noisy, collimated; finer voxels than the
    model has, more of the patient) against ``raylign.project`` renderings of the model, turned about the image's horizontal, its
    vertical and the direction of view by up to 20 degrees and moved along them by up to 40 mm, one parameter at a time. Draws the
    first exposure's curves into DIR, and prints for each metric over the exposures: the median of how far the curve falls on
    both sides of its maximum (until it rises again by 1 % of its range), the median distance of the maximum from the truth, and
    the mean number of maxima that stand out by at least 1 % of the range.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("RAYLIGN_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import find_peaks
from torch import Tensor

import raylign
from raylign.data import Volume, XRay
from raylign.geometry import Rigid, View, se3
from raylign.similarity import SIMILARITIES, similarity
from raylign.simulation import ExposureConfig, ThoraxConfig, expose, thorax
from raylign.simulation.physics.apparatus import Collimator

F64 = NDArray[np.float64]
AXES = (
    ("about horizontal", "°", 20.0),
    ("about vertical", "°", 20.0),
    ("about the ray", "°", 20.0),
    ("horizontal", "mm", 40.0),
    ("vertical", "mm", 40.0),
    ("depth", "mm", 40.0),
)
FAMILIES = {
    "intensities": ("ssd", "ncc", "ssim"),
    "information": ("mi", "nmi"),
    "windows": ("multiscale-ncc", "patch-ncc", "patch-gradient-ncc"),
    "edges correlated": ("gradient-ncc", "gc", "gc+"),
    "edges' angles": ("gi", "gi+", "go", "go+"),
    "differences": ("gradient-difference", "pattern-intensity"),
}
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "patch-gradient-ncc, by variance": ("patch-gradient-ncc", {"weights": "variance"}),
    "patch-gradient-ncc, radius 10": ("patch-gradient-ncc", {"radius": 10}),
    "gc+ rising": ("gc+", {"half": "rising"}),
    "gc+ falling": ("gc+", {"half": "falling"}),
    "gi, own units": ("gi", {"normalise": False}),
    "gi+, own units": ("gi+", {"normalise": False}),
    "gi+ rising": ("gi+", {"half": "rising"}),
    "go+ rising": ("go+", {"half": "rising"}),
}
SCENES = ((3, 10.0), (4, -20.0), (5, 25.0), (6, 0.0), (7, -40.0), (8, 60.0))
"""Phantom seeds and primary angles, degrees."""
SAMPLES = 81


@dataclass(frozen=True)
class Shape:
    """One curve's measures, in the axis's own unit."""

    capture: float
    bias: float
    maxima: int


def metrics() -> dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]]:
    """Every metric as it comes, then the variants."""
    return {name: similarity(name) for name in SIMILARITIES} | {k: similarity(n, **o) for k, (n, o) in VARIANTS.items()}


def milliseconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Median CPU time of a call that has been made before."""
    call()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return 1e3 * float(np.median(taken))


def costs(size: int, batch: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each metric for one image, a batch, and a batch with its gradient."""
    generator = torch.Generator().manual_seed(0)
    moving, fixed = torch.rand(batch, size, size, generator=generator), torch.rand(size, size, generator=generator)
    place = torch.arange(size) - (size - 1) / 2
    mask = place[:, None] ** 2 + place**2 < (0.48 * size) ** 2
    slope = moving.clone().requires_grad_()
    found = {}
    for name, metric in metrics().items():
        if name in SIMILARITIES:
            found[name] = {
                "one": milliseconds(lambda metric=metric: metric(moving[:1], fixed, mask), 21),
                "batch": milliseconds(lambda metric=metric: metric(moving, fixed, mask)),
                "gradient": milliseconds(lambda metric=metric: torch.autograd.grad(metric(slope, fixed, mask).sum(), slope), 3),
            }
    return found


def scene(seed: int, primary: float, size: int) -> tuple[Volume, XRay, Rigid]:
    """A model, an exposure of the same patient, and the pose in which it was made."""
    view = View.from_carm(primary=primary, secondary=4, sid=1050, sod=720, pixel_spacing=300 / size, shape=(size, size))
    patient = thorax(ThoraxConfig(voxel_mm=2.5, z_range=(-235, 205), meshes=False), seed=seed).volume
    model = thorax(ThoraxConfig(voxel_mm=3.0, z_range=(-210, 195), meshes=False), seed=seed).volume
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = -model.centre
    truth = Rigid(se3.exp(torch.tensor([0.12, -0.10, 0.14, 9.0, -6.0, 12.0], dtype=torch.float64)) @ matrix)
    config = ExposureConfig(collimator=Collimator.round(0.95))
    return model, expose(patient, view, truth, config, torch.Generator().manual_seed(seed)).xray, truth


def poses(model: Volume, view: View, truth: Rigid, axis: int) -> tuple[F64, Tensor]:
    """Offsets from the truth in the axis's unit, and the poses that they make, turned about the model's centre."""
    across, down = (v / v.norm() for v in (view.column_step, view.row_step))
    along = torch.linalg.cross(across, down)
    along = along * torch.sign(along @ (view.origin - view.source))
    offsets = np.linspace(-1, 1, SAMPLES) * AXES[axis][2]
    amount = torch.from_numpy(offsets)[:, None] * (torch.pi / 180 if axis < 3 else 1)
    twist = torch.zeros(SAMPLES, 6, dtype=torch.float64)
    twist[:, :3] = amount * (across, down, along)[axis] if axis < 3 else 0.0
    twist[:, 3:] = amount * (across, down, along)[axis - 3] if axis >= 3 else 0.0
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = truth.apply(model.centre[None])[0]
    return offsets, shift @ se3.exp(twist) @ torch.linalg.inv(shift) @ truth.matrix


def curves(seed: int, primary: float, size: int) -> dict[str, list[F64]]:
    """Each metric's values along the six axes."""
    model, xray, truth = scene(seed, primary, size)
    found: dict[str, list[F64]] = {name: [] for name in metrics()}
    for axis in range(6):
        _, matrices = poses(model, xray.view, truth, axis)
        rendered = raylign.project(model, xray.view, matrices)[:, 0]
        for name, metric in metrics().items():
            found[name].append(metric(rendered, xray.image, xray.mask).numpy().astype(np.float64))
    return found


def shape(offsets: F64, values: F64) -> Shape:
    """Capture range, bias and number of maxima of one curve."""
    best = int(values.argmax())
    reach = []
    rise = 0.01 * np.ptp(values)
    for side in (values[best::-1], values[best:]):
        lowest = np.minimum.accumulate(side)
        back = np.flatnonzero(side > lowest + rise)
        # a curve that falls to the end of the axis is taken to go on
        reach.append(np.argmin(side[: back[0]]) * (offsets[1] - offsets[0]) if len(back) else np.inf)
    bias = offsets[best]
    if 0 < best < len(values) - 1:
        left, middle, right = values[best - 1 : best + 2]
        bend = left - 2 * middle + right
        bias += 0.5 * (left - right) / bend * (offsets[1] - offsets[0]) if bend < 0 else 0.0
    peaks, _ = find_peaks(np.concatenate([[-np.inf], values, [-np.inf]]), prominence=0.01 * np.ptp(values))
    return Shape(min(*reach, float(offsets[-1])), float(bias), len(peaks))


def summary(scenes: list[dict[str, list[F64]]]) -> dict[str, list[Shape]]:
    """Medians over the exposures; of the bias, the median of its size; of the maxima, the mean."""
    found = {}
    for name in scenes[0]:
        rows = []
        for axis, (_, _, reach) in enumerate(AXES):
            offsets = np.linspace(-1, 1, SAMPLES) * reach
            each = [shape(offsets, curve[name][axis]) for curve in scenes]
            rows.append(
                Shape(
                    float(np.median([s.capture for s in each])),
                    float(np.median([abs(s.bias) for s in each])),
                    float(np.mean([s.maxima for s in each])),  # type: ignore[arg-type]
                )
            )
        found[name] = rows
    return found


def draw(found: dict[str, list[F64]], path: Path) -> None:
    """One row a family, one column an axis; each metric between its smallest and largest value over all axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots(len(FAMILIES), 6, figsize=(13.5, 12.2), sharey=True, sharex="col")
    styles = ("-", "--", ":", "-.")
    for plot, (title, unit, _) in zip(axes[0], AXES, strict=True):
        plot.set_title(f"{title}, {unit}", fontsize=10)
    for row, (family, names) in zip(axes, FAMILIES.items(), strict=True):
        for column, (plot, (_, _, reach)) in enumerate(zip(row, AXES, strict=True)):
            offsets = np.linspace(-1, 1, SAMPLES) * reach
            for k, name in enumerate(names):
                low, high = min(v.min() for v in found[name]), max(v.max() for v in found[name])
                plot.plot(offsets, (found[name][column] - low) / (high - low), styles[k], color=f"C{k}", lw=1.4, label=name)
            plot.axvline(0, color="0.75", lw=0.8, zorder=0)
            plot.set_ylim(-0.04, 1.04)
            plot.set_yticks([0, 0.5, 1])
            plot.tick_params(labelsize=8)
        row[0].set_ylabel(family, fontsize=10)
        row[5].legend(fontsize=8, loc="lower center", framealpha=0.85, handlelength=2.4, borderpad=0.3)
    figure.tight_layout(h_pad=0.5, w_pad=0.4)
    figure.savefig(path, dpi=85)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def print_costs(found: dict[str, dict[str, float]], size: int, batch: int) -> None:
    print(f"CPU ms, one thread, {size}x{size}, round mask, torch {torch.__version__}")
    print(f"{'metric':22s} {'1 image':>9s} {f'{batch} images':>10s} {'and gradient':>13s}")
    for name, row in found.items():
        print(f"{name:22s} {row['one']:9.2f} {row['batch']:10.1f} {row['gradient']:13.1f}")


def print_shapes(found: dict[str, list[Shape]], exposures: int) -> None:
    print(f"{exposures} exposures; falls for (median) / off the truth by (median) / maxima (mean)")
    print(f"{'metric':32s} " + " ".join(f"{f'{title}, {unit}':>21s}" for title, unit, _ in AXES))
    for name, rows in found.items():
        print(f"{name:32s} " + " ".join(f"{f'{s.capture:.0f} / {s.bias:.2f} / {s.maxima:.1f}':>21s}" for s in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--batch", type=int, default=64, help="moving images of the batch")
    parser.add_argument("--landscapes", type=Path, metavar="DIR", help="curves around the truth instead of costs")
    parser.add_argument("--exposures", type=int, default=4, choices=range(1, len(SCENES) + 1), help="exposures of the curves")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, object]
    if arguments.landscapes is None:
        taken = costs(arguments.size, arguments.batch)
        print_costs(taken, arguments.size, arguments.batch)
        told = {"size": arguments.size, "batch": arguments.batch, "milliseconds": taken}
    else:
        arguments.landscapes.mkdir(parents=True, exist_ok=True)
        scenes = [curves(seed, primary, arguments.size) for seed, primary in SCENES[: arguments.exposures]]
        draw(scenes[0], arguments.landscapes / "similarity_landscapes.png")
        found = summary(scenes)
        print_shapes(found, arguments.exposures)
        told = {
            "exposures": arguments.exposures,
            "axes": [title for title, _, _ in AXES],
            "shapes": {name: [vars(s) for s in rows] for name, rows in found.items()},
            "curves": [{name: [c.tolist() for c in rows] for name, rows in one.items()} for one in scenes],
        }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
