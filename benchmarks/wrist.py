"""Three bones of a real wrist in two calibrated cameras, found from nowhere; how far each camera agrees; how the wrist moved.

``python benchmarks/wrist.py [--data FOLDER] [--frames 0002 0099] [--alone] [--poses DIR] [-o PICTURES] [--json FILE]``

FOLDER holds Autoscoper's sample wrist (``xray/wrist_biplane``). No start is given. The radius is sought everywhere; the ulna
beside it and the third metacarpal beyond its distal end, wherever the hand is bent to: that much of anatomy is stated below and
no more. Then all three are refined together. There is no true pose; what can be measured is how far the pose of each camera alone
lies from that of both together (``--alone``). ``--poses`` keeps what was found in a folder and goes on from it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import raylign
from raylign.cli.warm import warm_kernels
from raylign.data import Volume, XRay
from raylign.evaluation import overlay
from raylign.evaluation.gather import surface_points
from raylign.evaluation.metrics import pose_error
from raylign.evaluation.pictures import write_png
from raylign.geometry import Rigid, se3
from raylign.geometry.anatomy import AnatomicalFrame, frame_from, long_bone
from raylign.geometry.joint_motion import BonePose, joint_motion
from raylign.io import ExposureOptions
from raylign.projection import project
from raylign.registration import Anywhere, AnywhereConfig, Problem, SearchConfig, centred
from raylign.registration.anywhere_scan import Axis, Region
from raylign.registration.objects import Body, Objects, ObjectsProblem

BONES = ("radius", "ulna", "metacarpal3")
COLOURS = {"radius": overlay.END, "ulna": overlay.START, "metacarpal3": (255, 226, 77)}
DISTAL = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)  # the first slice of the cut-outs
SIDE = "right"
# what anatomy says once the radius is known: the ulna lies beside it, within so many mm and degrees of its middle and direction;
# a metacarpal's middle so far beyond the radius' middle (half a radius, a carpus, half a metacarpal), and the wrist bends so far
BESIDE_MM, BESIDE_DEGREES = 40.0, 25.0
BEYOND_MM, ABOUT_MM, BENT_DEGREES = 100.0, 65.0, 95.0


@dataclass(frozen=True, eq=False)
class Found:
    """A bone in a frame: pose, covariance about a centre, stated probability."""

    pose: Rigid
    covariance: torch.Tensor
    centre: torch.Tensor
    probability: float
    seconds: float


def exposures(folder: Path, frame: str) -> tuple[XRay, ...]:
    """Both cameras' exposures."""
    return tuple(
        raylign.read_xray(
            folder / f"cam0{n}" / f"xr_rad_uln_cam0{n}_UND.{frame}.tif",
            ExposureOptions(view=folder / f"xr_calib_wrist_cam0{n}.txt"),
        )
        for n in (1, 2)
    )


def middle(model: Volume, pose: Rigid) -> np.ndarray:
    return pose.apply(model.centre[None])[0].numpy()


def config_of(bone: str, models: dict[str, Volume], known: dict[str, Found]) -> AnywhereConfig:
    """What is open about a bone once others are known."""
    if bone == "radius" or "radius" not in known:
        return AnywhereConfig()
    radius = known["radius"].pose
    along = radius.matrix[:3, 2].numpy()
    z, at = np.array([0.0, 0.0, 1.0]), middle(models["radius"], radius)
    bodies = tuple((models[name], found.pose) for name, found in known.items())
    if bone == "ulna":
        axis, region = Axis(z, along, BESIDE_DEGREES), Region(at, BESIDE_MM)
        return AnywhereConfig(turns=6000, lattice=4.0, tried=500, refined=100, region=region, axis=axis, known=bodies)
    axis, region = Axis(z, along, BENT_DEGREES), Region(at - BEYOND_MM * along, ABOUT_MM)
    return AnywhereConfig(region=region, axis=axis, known=bodies)


def sought(models: dict[str, Volume], xrays: tuple[XRay, ...]) -> dict[str, Found]:
    """The bones one after the other, then together."""
    known: dict[str, Found] = {}
    for bone in BONES:
        clock = time.process_time()
        result = Anywhere(config_of(bone, models, known)).register(Problem(models[bone], xrays, centred(models[bone])))
        spent = time.process_time() - clock
        known[bone] = Found(result.transform, result.covariance, result.centre, result.confidence.probability, spent)
        print(f"  {bone}: alone p = {result.confidence.probability:.2f}, {spent:.0f} s of CPU", flush=True)
    return together(models, xrays, known)


def together(models: dict[str, Volume], xrays: tuple[XRay, ...], known: dict[str, Found]) -> dict[str, Found]:
    clock = time.process_time()
    bodies = tuple(Body(bone, models[bone], found.pose) for bone, found in known.items())
    done = Objects().together(ObjectsProblem(bodies, xrays))
    spent = time.process_time() - clock
    out = {}
    for bone, result in done.results.items():
        before = known[bone]
        moved = (result.transform.apply(surface_points(models[bone])) - before.pose.apply(surface_points(models[bone]))).norm(
            dim=1
        )
        p = result.confidence.probability
        print(f"  {bone}: the joint step moved it {float(moved.mean()):.2f} mm; p = {p:.2f}", flush=True)
        out[bone] = Found(result.transform, result.covariance, result.centre, p, before.seconds + spent / len(bodies))
    print(f"  depths of contact: { {' and '.join(k): round(v, 1) for k, v in done.collisions.items()} } mm; {spent:.0f} s of CPU")
    return out


def kept(path: Path, found: dict[str, Found]) -> None:
    rows = {
        bone: {
            "pose": {"matrix": f.pose.matrix.tolist()},
            "uncertainty": {"covariance": f.covariance.tolist(), "centre": f.centre.tolist()},
            "confidence": {"probability": f.probability},
            "cpu_seconds": f.seconds,
        }
        for bone, f in found.items()
    }
    path.write_text(json.dumps(rows, indent=1) + "\n")


def read(path: Path) -> dict[str, Found]:
    def matrix(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return {
        bone: Found(
            Rigid(matrix(row["pose"]["matrix"])),
            matrix(row["uncertainty"]["covariance"]),
            matrix(row["uncertainty"]["centre"]),
            row["confidence"]["probability"],
            row["cpu_seconds"],
        )
        for bone, row in json.loads(path.read_text()).items()
    }


def alone(model: Volume, xray: XRay, both: Rigid, seed: int) -> dict[str, Any]:
    """One camera from the pose of both (seed 0), or from 5 degrees and 4 mm beside it."""
    start = both
    if seed:
        twist = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        twist[:3] *= np.radians(5.0) / float(twist[:3].norm())
        twist[3:] *= 4.0 / float(twist[3:].norm())
        centre = both.apply(model.centre[None])[0]
        shift = torch.eye(4, dtype=torch.float64)
        shift[:3, 3] = centre
        start = Rigid(shift @ se3.exp(twist) @ torch.linalg.inv(shift) @ both.matrix)
    found = raylign.register(model, xray, init=start, search=SearchConfig(degrees=8.0, mm=8.0, hypotheses=64))
    off = pose_error(found.transform, both, surface_points(model), xray.view)
    depth = float(found.covariance[3:, 3:].diagonal().max().clamp_min(0).sqrt())
    return {
        "in_plane": off.in_plane,
        "depth": off.depth,
        "angle": off.angle,
        "probability": found.confidence.probability,
        "stated_sd": depth,
        "seconds": found.seconds,
    }


def frames_of(models: dict[str, Volume]) -> tuple[AnatomicalFrame, AnatomicalFrame]:
    """Radius: its styloid, the most distal point, is radial. Metacarpal: its shaft is hollow on the palmar side."""

    def bone(name: str) -> Any:
        model = models[name]
        voxels = (model.data > 0.02 * float(model.data.max())).nonzero().flip(1).to(torch.float64)
        return long_bone(voxels @ model.affine[:3, :3].T + model.affine[:3, 3], DISTAL)

    radius, metacarpal = bone("radius"), bone("metacarpal3")
    return (
        frame_from(radius.origin, radius.proximal, radius.tip - radius.origin, "radial", SIDE),
        frame_from(metacarpal.origin, metacarpal.proximal, metacarpal.arch, "palmar", SIDE),
    )


def picture(
    models: dict[str, Volume], found: dict[str, Found], xray: XRay, near: str | None, longest: int = 760
) -> overlay.Picture:
    """An exposure and the same with the contours of the bones: all of it, or the neighbourhood of one bone."""
    view, image = xray.view, xray.image
    if near is not None:
        pixels = view.project(found[near].pose.apply(surface_points(models[near]))).numpy()
        low, high = np.floor(pixels.min(0)).astype(int) - 70, np.ceil(pixels.max(0)).astype(int) + 70
        rows, columns = (slice(max(low[i], 0), min(high[i], view.shape[1 - i])) for i in (1, 0))
        view, image = view.crop(rows, columns), image[rows, columns]
    h, w = view.shape
    shape = (longest, round(longest * w / h)) if h > w else (round(longest * h / w), longest)
    shown = overlay.resized(image, shape)
    base = overlay.radiograph(overlay.flattened(shown) if near else shown)
    painted = base
    for bone, one in found.items():
        model = models[bone]
        moving = project(model, view.resample(shape), one.pose.matrix, step=min(model.spacing) / 2)[0, 0]
        painted = overlay.painted(painted, overlay.contours(moving, width=1.4, sigma=1.1, detail=0.35), COLOURS[bone])
    return np.concatenate([base, painted], axis=1) if near else painted


def pictures(folder: Path, frame: str, models: dict[str, Volume], found: dict[str, Found], xrays: tuple[XRay, ...]) -> None:
    whole = [picture(models, found, x, None) for x in xrays]
    write_png(folder / f"wrist_{frame}.png", np.concatenate(whole, axis=1))
    for near in [b for b in ("radius", "metacarpal3") if b in found]:
        panels = [picture(models, found, x, near, 620) for x in xrays]
        height = max(p.shape[0] for p in panels)
        panels = [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0))) for p in panels]
        write_png(folder / f"wrist_{frame}_{near}.png", np.concatenate(panels, axis=1))


def report(frame: str, found: dict[str, Found]) -> None:
    for bone, one in found.items():
        sd = one.covariance.diagonal().clamp_min(0).sqrt()
        print(
            f"{frame} {bone:12s} p = {one.probability:.2f}  sd {float(torch.rad2deg(sd[:3]).max()):.2f} degrees"
            f" {float(sd[3:].max()):.2f} mm  {one.seconds:.0f} s of CPU"
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    arguments.add_argument("--frames", nargs="+", default=["0002", "0099"])
    arguments.add_argument("--alone", action="store_true", help="each camera alone, from 3 starts")
    arguments.add_argument("--poses", type=Path, default=None, help="folder in which poses are kept")
    arguments.add_argument("-o", "--out", type=Path, default=None, help="folder for the pictures")
    arguments.add_argument("--json", type=Path, default=None, help="file for the figures")
    chosen = arguments.parse_args()
    folder = chosen.data / "xray" / "wrist_biplane"
    models = {bone: raylign.read_volume(folder / "models" / f"{bone}.nrrd") for bone in BONES}
    warm_kernels()
    by_frame: dict[str, dict[str, Found]] = {}
    figures: dict[str, Any] = {}
    for frame in chosen.frames:
        xrays = exposures(folder, frame)
        file = None if chosen.poses is None else chosen.poses / f"{frame}.json"
        if file is not None and file.exists():
            by_frame[frame] = read(file)
        else:
            by_frame[frame] = sought(models, xrays)
            if file is not None:
                kept(file, by_frame[frame])
        report(frame, by_frame[frame])
        if chosen.out is not None:
            pictures(chosen.out, frame, models, by_frame[frame], xrays)
        if chosen.alone:
            for bone, number, seed in [(b, n, s) for b in BONES for n in (1, 2) for s in range(3)]:
                row = alone(models[bone], xrays[number - 1], by_frame[frame][bone].pose, seed)
                figures[f"{frame} {bone} camera {number} start {seed}"] = row
                print(
                    f"{frame} {bone:12s} camera {number}, start {seed}: {row['in_plane']:.2f} mm in its plane,"
                    f" {row['depth']:+.1f} mm along its beam, {row['angle']:.1f} degrees from both; p = {row['probability']:.2f},"
                    f" sd {row['stated_sd']:.1f} mm",
                    flush=True,
                )
    poses = {b: [BonePose(f[b].pose.matrix, f[b].covariance, f[b].centre) for f in by_frame.values()] for b in BONES}
    for frame, state in zip(by_frame, joint_motion(poses["radius"], poses["metacarpal3"], frames_of(models)), strict=True):
        a, sd = state.angles, state.angles_sd
        print(
            f"{frame} third metacarpal in the radius' frame: flexion {a.flexion:.1f} +- {sd.flexion:.1f}, ulnar deviation"
            f" {a.ulnar_deviation:.1f} +- {sd.ulnar_deviation:.1f}, pronation {a.pronation:.1f} +- {sd.pronation:.1f} degrees;"
            f" since the first frame {state.degrees:.1f} +- {state.degrees_sd:.1f} degrees about its helical axis,"
            f" {state.shift:.1f} mm along it"
        )
        figures[f"{frame} wrist"] = {**vars(a), **{f"{k}_sd": v for k, v in vars(sd).items()}, "helical": state.degrees}
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
