"""A real bone in real X-rays: one camera against two, and pictures of where the contours fall.

``python benchmarks/wrist.py [--data FOLDER] [-o DIR]``

FOLDER holds Autoscoper's sample wrist (``xray/wrist_biplane``: two calibrated cameras, the radius cut out of a CT, a rough
start). There is no true pose; what can be measured is how far the pose of each camera alone lies from that of both together,
in the camera's own image plane and along its beam.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import raylign
from raylign.cli.warm import warm_kernels
from raylign.data import Volume, XRay
from raylign.evaluation import overlay
from raylign.evaluation.gather import surface_points
from raylign.evaluation.metrics import pose_error
from raylign.evaluation.pictures import write_png
from raylign.geometry import Rigid
from raylign.io import ExposureOptions
from raylign.projection import project


def picture(model: Volume, xray: XRay, start: Rigid, end: Rigid, margin: int = 90, width: int = 520) -> overlay.Picture:
    """The bone's neighbourhood: as it is, with the model's contours at the start, and at the end."""
    pixels = xray.view.project(torch.cat([p.apply(surface_points(model)) for p in (start, end)])).numpy()
    low, high = np.floor(pixels.min(0)).astype(int) - margin, np.ceil(pixels.max(0)).astype(int) + margin
    rows = slice(max(low[1], 0), min(high[1], xray.view.shape[0]))
    columns = slice(max(low[0], 0), min(high[0], xray.view.shape[1]))
    view = xray.view.crop(rows, columns)
    shape = (round(view.shape[0] * width / view.shape[1]), width)
    fixed = overlay.resized(xray.image[rows, columns], shape)
    base = overlay.radiograph(overlay.flattened(fixed))
    panels = [base]
    for pose, colour in ((start, overlay.START), (end, overlay.END)):
        moving = project(model, view.resample(shape), pose.matrix, step=min(model.spacing) / 2)[0, 0]
        panels.append(overlay.painted(base, overlay.contours(moving, width=1.6, sigma=1.2, detail=0.35), colour))
    return np.concatenate(panels, axis=1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    arguments.add_argument("-o", "--out", type=Path, default=None, help="folder for the pictures")
    chosen = arguments.parse_args()
    folder = chosen.data / "xray" / "wrist_biplane"
    radius = raylign.read_volume(folder / "models" / "radius.nrrd")
    start = raylign.read_pose(folder / "start_radius_0099.json")
    xrays = [
        raylign.read_xray(
            folder / f"cam0{n}" / f"xr_rad_uln_cam0{n}_UND.0099.tif",
            ExposureOptions(view=folder / f"xr_calib_wrist_cam0{n}.txt"),
        )
        for n in (1, 2)
    ]
    warm_kernels()
    both = raylign.register(radius, xrays, init=start)
    degrees, mm = both.moved
    trust = f"p = {both.confidence.probability:.2f}; {both.seconds:.2f} s"
    print(f"both cameras: {degrees:.1f} degrees, {mm:.1f} mm from the start; {trust}")
    points = surface_points(radius)
    for n, xray in enumerate(xrays, 1):
        for seed in range(5):
            alone = raylign.register(radius, xray, init=start, seed=seed)
            off = pose_error(alone.transform, both.transform, points, xray.view)
            print(
                f"camera {n} alone, seed {seed}: {off.in_plane:.2f} mm in its plane, {off.depth:+.1f} mm along its beam, "
                f"{off.angle:.1f} degrees from both; p = {alone.confidence.probability:.2f}; {alone.seconds:.2f} s"
            )
        if chosen.out is not None:
            write_png(chosen.out / f"wrist_camera{n}.png", picture(radius, xray, start, both.transform))


if __name__ == "__main__":
    main()
