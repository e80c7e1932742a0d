"""Fit the parametric left ventricle to contrasted CTs, from two points given by hand, and draw what came of it.

    python benchmarks/lv_fit.py src/raylign/evaluation/toth2018_scans.json --data ../shared/data [--only NAME] [--pictures DIR]

Each entry of ``scans`` needs name, ct and marks (base and apex, patient LPS mm); heart and the fit's figures are written into it.
Pictures show axial, coronal and sagittal slices through the ventricle's middle: blue the cavity, yellow the outer surface.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from raylign.data import Volume
from raylign.io import read_volume
from raylign.methods.imitation_agent.lv import LVFit, LVMarks, fit_left_ventricle
from raylign.methods.imitation_agent.scans import fitted_list
from raylign.simulation.phantoms.thorax_heart import left_cavity, left_outside

_HALF = 75.0  # mm about the ventricle's middle that a picture shows


def drawn(volume: Volume, fit: LVFit, path: Path, words: str) -> None:
    """Three slices with both outlines."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from scipy.ndimage import map_coordinates

    steps = np.arange(-_HALF, _HALF + 0.5, 1.0)
    back = torch.linalg.inv(volume.affine.double()).numpy()
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 4.2))
    for axis, (along, across, down, name) in zip(
        axes, ((2, 0, 1, "axial"), (1, 0, 2, "coronal"), (0, 1, 2, "sagittal")), strict=True
    ):
        points = np.empty((len(steps), len(steps), 3))
        points[..., along] = 0
        points[..., across], points[..., down] = np.meshgrid(steps, steps)
        points += fit.heart.centre
        index = np.moveaxis((points @ back[:3, :3].T + back[:3, 3])[..., ::-1], -1, 0)
        hu = map_coordinates(volume.data.numpy().astype(np.float32), index, order=1, cval=-1000)
        axis.imshow(hu, cmap="gray", vmin=-150, vmax=600, origin="upper" if along == 2 else "lower")
        for solid, colour in ((left_cavity, "#60a5ff"), (left_outside, "#ffd23d")):
            axis.contour(solid(fit.heart, tuple(points.reshape(-1, 3).T)).reshape(hu.shape), [0], colors=colour, linewidths=1.2)
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    figure.text(0.5, 0.02, words, ha="center", fontsize=7)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Parse, fit, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("listed", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only")
    parser.add_argument("--pictures", type=Path)
    said = parser.parse_args()
    entries = json.loads(said.listed.read_text(encoding="utf-8"))["scans"]
    if said.only is not None and said.only not in {entry["name"] for entry in entries}:
        parser.error(f"no scan {said.only!r}; use one of {', '.join(entry['name'] for entry in entries)}")
    if said.pictures is not None:
        said.pictures.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        if said.only not in (None, entry["name"]):
            continue
        volume = read_volume(said.data / entry["ct"])
        marks = LVMarks(tuple(entry["marks"]["base"]), tuple(entry["marks"]["apex"]))
        fit = fit_left_ventricle(volume, marks)
        entry |= fit.said()
        print(
            f"{entry['name']}: blood {fit.blood_hu:.0f} HU, muscle {fit.muscle_hu:.0f} HU; cavity {fit.heart.volume_ml():.0f} ml,"
            f" muscle {fit.heart.mass_g():.0f} g; median distance of edges: cavity {fit.cavity_mm:.1f} mm, outside"
            f" {fit.outside_mm:.1f} mm"
        )
        if said.pictures is not None:
            drawn(volume, fit, said.pictures / f"lv_{entry['name']}.png", entry["source"])
    fitted_list(said.listed, entries)


if __name__ == "__main__":
    main()
