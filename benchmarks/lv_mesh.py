"""What a mesh of the left ventricle, and one of the heart, tell of the pose in exposures of a chest.

    python benchmarks/lv_mesh.py [--data FOLDER] [--kinds plain,real,biplane] [--cases 2] [--starts toth2018,near] [--json FILE]

Models: the left ventricle and the whole heart as homogeneous solids without intensities, the heart's own voxels, the whole CT.
The labels of that CT have the heart as a whole. Its left ventricle is estimated: the part of the heart's contrast-filled blood
that lies farthest to the left, with the wall about it (10 mm). Starts are Toth et al.'s (2018): up to 35 mm and 15 degrees in
the imaging plane; and "near" ones of 5 mm and 3 degrees in it. Given are, against the truth: Toth's error (a cross of 10 mm at
the ventricle's centre, in the imaging plane), the shift in the plane and along the beam, turns by axis, and whether the result
was trusted. Seconds are processor time.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from cases import cases, scan

from raylign.data import LabelMap, Mesh, Volume, restricted
from raylign.data.solids import Axes, Solidity, solid_volume
from raylign.evaluation.metrics import cross_tre, pose_error
from raylign.geometry import Rigid, View, se3
from raylign.io import read_volume, read_xray
from raylign.io.labels import read_labels
from raylign.registration import Direct, DirectConfig, Problem, SearchConfig

_PITCH = 1.5  # mm
_WALL = 10.0  # mm
_NUMBERS = (
    "start", "cross", "in_plane", "depth", "turn_horizontal", "turn_vertical", "turn_beam", "trusted", "seconds",
)  # fmt: skip
_STARTS = {"toth2018": (35.0, 15.0), "near": (5.0, 3.0)}


@dataclass(frozen=True)
class Outcome:
    """One registration: errors in mm and degrees."""

    model: str
    kind: str
    case: str
    starts: str
    start: float
    cross: float
    in_plane: float
    depth: float
    turn_horizontal: float
    turn_vertical: float
    turn_beam: float
    probability: float
    trusted: bool
    seconds: float


def surface(mask: np.ndarray, axes: Axes, name: str) -> Mesh:
    """The smoothed surface of voxels [D, H, W]."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    from raylign.simulation.phantoms.surfaces import isosurface

    distance = (distance_transform_edt(~mask) - distance_transform_edt(mask)) * axes.voxel
    smooth = gaussian_filter(distance, 2.0 / axes.voxel).astype(np.float32)
    return isosurface(axes, smooth, name)  # type: ignore[arg-type]


def heart(volume: Volume, labels: LabelMap) -> tuple[Mesh, Mesh]:
    """Surfaces of the heart and of what is taken for its left ventricle, patient LPS mm."""
    from scipy import ndimage

    number = {name: k for k, name in labels.names.items()}["heart"]
    mask = (labels.data == number).numpy()
    where = np.argwhere(mask)
    low, high = where.min(0) - 4, where.max(0) + 5
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    pitch = np.linalg.norm(volume.affine.numpy()[:3, :3], axis=0)[::-1]
    zoom = pitch / _PITCH
    hu = ndimage.zoom(ndimage.gaussian_filter(volume.data.numpy()[box].astype(np.float32), (0, 1, 1)), zoom, order=1)
    inside = ndimage.zoom(mask[box].astype(np.float32), zoom, order=1) > 0.5
    first = volume.affine.numpy() @ np.array([*low[::-1], 1.0])
    # zoom brings the first and the last sample to the ends: the pitch differs a little from the one asked for, and by axis
    steps = [pitch[k] * (high[k] - low[k] - 1) / (inside.shape[k] - 1) for k in range(3)]
    z, y, x = (first[2 - k] + steps[k] * np.arange(inside.shape[k]) for k in range(3))
    axes = Axes(x.astype(np.float32), y.astype(np.float32), z.astype(np.float32), float(np.mean(steps)))
    blood = ndimage.binary_opening(inside & (hu > 300))
    core, count = ndimage.label(ndimage.distance_transform_edt(blood) * _PITCH > 7)
    sizes = ndimage.sum(core > 0, core, np.arange(count + 1)) * _PITCH**3 / 1000
    large = [k for k in range(1, count + 1) if sizes[k] > 1]
    left = max(large, key=lambda k: ndimage.center_of_mass(core == k)[2])  # x runs to the patient's left
    nearest = ndimage.distance_transform_edt(~np.isin(core, large), return_distances=False, return_indices=True)
    cavity = blood & (core[tuple(nearest)] == left)
    wall = inside & (ndimage.distance_transform_edt(~cavity) * _PITCH <= _WALL)
    return surface(inside, axes, "heart"), surface(wall, axes, "left ventricle")


def started(gold: Rigid, centre: torch.Tensor, view: View, most: tuple[float, float], rng: np.random.Generator) -> Rigid:
    """The gold pose moved and turned in the imaging plane about the ventricle's centre, uniform within limits (mm, degrees)."""
    mm, degrees = most
    across, down = (step.detach() / step.norm() for step in (view.column_step, view.row_step))
    about = torch.eye(4, dtype=torch.float64)
    about[:3, 3] = gold.apply(centre[None])[0]
    a, b, c = rng.uniform(-1, 1, 3)
    twist = torch.cat([math.radians(degrees) * c * view.normal.detach(), mm * (a * across + b * down)])
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3] = se3.exp(torch.cat([twist[:3], torch.zeros(3, dtype=torch.float64)]))[:3, :3]
    move[:3, 3] = twist[3:]
    return Rigid(about @ move @ se3.inverse(about) @ gold.matrix)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--kinds", default="plain,real,biplane")
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--starts", default="toth2018,near")
    parser.add_argument("--models", default="ventricle,heart,voxels,ct")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    volume = read_volume(scan(given.data, "lidc0001"))
    labels = read_labels(given.data / "ct" / "lidc0001_chest_seg.nii.gz")
    whole, ventricle = heart(volume, labels)
    centre = (ventricle.vertices.amin(0) + ventricle.vertices.amax(0)) / 2
    soft = Solidity(excess=0.015, shell_mm=0.0, voxel_mm=1.5)
    models = {
        "ventricle": solid_volume(ventricle, soft),
        "heart": solid_volume(whole, soft),
        "voxels": restricted(volume, labels, ["heart"]),
        "ct": volume,
    }
    print(
        "model      exposure starts    n  start  |  cross: median  under 2  5 mm  |  plane  |depth|"
        "  turns: horizontal vertical beam  |  trusted  CPU s"
    )
    outcomes: list[Outcome] = []
    for kind in given.kinds.split(","):
        some = list(cases(given.data / "cases" / "lidc0001" / kind))[: given.cases]
        for name in given.models.split(","):
            for starts in given.starts.split(","):
                found = []
                for number, case in enumerate(some):
                    xrays = tuple(read_xray(file) for file in case.files)
                    view = xrays[0].view
                    start = started(case.pose, centre, view, _STARTS[starts], np.random.default_rng([7, number]))
                    mm, degrees = _STARTS[starts]
                    config = DirectConfig(search=SearchConfig(degrees=degrees, mm=mm, depth=15.0))
                    begun = time.process_time()
                    result = Direct(config).register(Problem(models[name], xrays, start))
                    seconds = time.process_time() - begun
                    split = pose_error(result.transform, case.pose, ventricle.vertices[::50], view)
                    before, after = (float(cross_tre(p, case.pose, centre, view)) for p in (start, result.transform))
                    turns = [abs(t) for t in split.rotation]
                    sure = result.confidence
                    found.append(
                        Outcome(
                            name, kind, case.name, starts, before, after, split.in_plane, split.depth, *turns,
                            sure.probability, sure.trusted, seconds,
                        )
                    )  # fmt: skip
                outcomes += found
                get = {
                    k: np.array([getattr(o, k) for o in found], float)
                    for k in asdict(found[0])
                    if k not in ("model", "kind", "case", "starts")
                }
                print(
                    f"{name:10s} {kind:8s} {starts:8s} {len(found):3d}  {np.median(get['start']):5.1f}"
                    f"  |  {np.median(get['cross']):13.2f}"
                    f"  {(get['cross'] < 2).sum():7d} {(get['cross'] < 5).sum():5d}  |  {np.median(get['in_plane']):5.1f}"
                    f"  {np.median(np.abs(get['depth'])):7.1f}  {np.median(get['turn_horizontal']):17.1f}"
                    f" {np.median(get['turn_vertical']):8.1f} {np.median(get['turn_beam']):4.1f}"
                    f"  |  {int(get['trusted'].sum()):7d}"
                    f"  {np.median(get['seconds']):5.1f}",
                    flush=True,
                )
    if given.json:
        given.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))


if __name__ == "__main__":
    main()
