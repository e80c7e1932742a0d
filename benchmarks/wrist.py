"""Three bones of a real wrist in two calibrated cameras, found from nowhere; how far each camera agrees; how the wrist moved.

``python benchmarks/wrist.py [--data FOLDER] [--frames 0002 0099] [--alone] [--turned N] [--poses DIR] [-o PICTURES]
[--json FILE]``

FOLDER holds Autoscoper's sample wrist (``xray/wrist_biplane``). No start is given. The radius is sought everywhere, the ulna
beside it, and the second and third metacarpal, cut out together, as one model, where a hand can be once the forearm is known
(``wrist_anatomy``): two bones side by side are harder to confuse with their neighbours than one. Then all four bones are refined
together, each for itself. There is no true pose; what can be measured is how far the pose of each camera alone lies from that
of both together (``--alone``); and what the search finds of the same frame in a world that is turned and shifted at random, where
it looks through other turns at other places (``--turned``). ``--poses`` keeps what was found in a folder and goes on from it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from wrist_anatomy import BONES, Hand, beside, beyond, hand, side_seen

import raylign
from raylign.cli.motion import table
from raylign.cli.warm import warm_kernels
from raylign.data import Volume, XRay
from raylign.evaluation import overlay
from raylign.evaluation.gather import surface_points
from raylign.evaluation.metrics import pose_error
from raylign.evaluation.pictures import write_png
from raylign.geometry import Rigid, se3
from raylign.geometry.joint_motion import BonePose, JointState, joint_motion
from raylign.io import ExposureOptions
from raylign.projection import project
from raylign.registration import Anywhere, AnywhereConfig, Problem, SearchConfig, centred
from raylign.registration.objects import Body, Objects, ObjectsProblem
from raylign.registration.result import Result

REFINED = ("radius", "ulna", "metacarpal2", "metacarpal3")
COLOURS = {
    "radius": overlay.END,
    "ulna": overlay.START,
    "metacarpal2": (96, 170, 255),
    "metacarpal3": (255, 226, 77),
}


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


def found_in(result: Result, seconds: float) -> Found:
    return Found(result.transform, result.covariance, result.centre, result.confidence.probability, seconds)


def sought(hand: Hand, xrays: tuple[XRay, ...], file: Path | None) -> dict[str, Found]:
    """The bones one after the other, then together; what is kept in a file is not sought again."""
    known = read(file) if file is not None and file.exists() else {}
    if set(REFINED) <= set(known):
        return known
    for bone in [b for b in ("radius", "ulna", "pair") if b not in known]:
        clock = time.process_time()
        poses = {name: found.pose for name, found in known.items()}
        config = {"radius": lambda _h, _p: AnywhereConfig(), "ulna": beside, "pair": beyond}[bone](hand, poses)
        result = Anywhere(config).register(Problem(hand.models[bone], xrays, centred(hand.models[bone])))
        known[bone] = found_in(result, time.process_time() - clock)
        confidence = result.confidence
        print(
            f"  {bone}: alone p = {confidence.probability:.2f}, explains {confidence.evidence['explained']:.2f}, the next best"
            f" other pose {confidence.evidence['rival']:.2f} of that, {known[bone].seconds:.0f} s of CPU",
            flush=True,
        )
        kept(file, known)
    pair = known.pop("pair")
    starts = {**known, "metacarpal2": pair, "metacarpal3": pair}
    poses = {bone: hand.third(f.pose) if bone == "metacarpal3" else f.pose for bone, f in starts.items()}
    done = together(hand, xrays, poses, {bone: f.seconds for bone, f in starts.items()})
    kept(file, done)
    return done


def together(hand: Hand, xrays: tuple[XRay, ...], poses: dict[str, Rigid], seconds: dict[str, float]) -> dict[str, Found]:
    """All bones refined in the same exposures from where they were found."""
    clock = time.process_time()
    bodies = tuple(Body(bone, hand.models[bone], pose) for bone, pose in poses.items())
    done = Objects().together(ObjectsProblem(bodies, xrays, (hand.together(),)))
    spent = time.process_time() - clock
    out = {}
    for bone, result in done.results.items():
        points = surface_points(hand.models[bone])
        moved = (result.transform.apply(points) - poses[bone].apply(points)).norm(dim=1)
        p = result.confidence.probability
        print(f"  {bone}: the joint step moved it {float(moved.mean()):.2f} mm; p = {p:.2f}", flush=True)
        out[bone] = found_in(result, seconds[bone] + spent / len(bodies))
    deep = {" and ".join(k): round(v, 1) for k, v in done.collisions.items()}
    print(f"  depths of contact: {deep} mm; {spent:.0f} s of CPU", flush=True)
    return out


def kept(path: Path | None, found: dict[str, Found]) -> None:
    if path is None:
        return
    rows = {
        bone: {
            "pose": {"matrix": f.pose.matrix.tolist()},
            "uncertainty": {"covariance": f.covariance.tolist(), "centre": f.centre.tolist()},
            "confidence": {"probability": f.probability},
            "cpu_seconds": f.seconds,
        }
        for bone, f in found.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
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


def beside_it(model: Volume, pose: Rigid, seed: int) -> Rigid:
    """A pose (seed 0), or one 5 degrees and 4 mm beside it."""
    if not seed:
        return pose
    twist = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    twist[:3] *= np.radians(5.0) / float(twist[:3].norm())
    twist[3:] *= 4.0 / float(twist[3:].norm())
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = pose.apply(model.centre[None])[0]
    return Rigid(shift @ se3.exp(twist) @ torch.linalg.inv(shift) @ pose.matrix)


def against(model: Volume, result: Result, both: Rigid, xray: XRay) -> dict[str, float]:
    """A result of one camera beside the pose of both, and what it says of itself."""
    off = pose_error(result.transform, both, surface_points(model), xray.view)
    beam = xray.view.directions(result.centre)
    return {
        "in_plane": off.in_plane,
        "depth": off.depth,
        "angle": off.angle,
        "probability": result.confidence.probability,
        "depth_sd": float((beam @ result.covariance[3:, 3:] @ beam).clamp_min(0).sqrt()),
        "angle_sd": float(torch.rad2deg(result.covariance[:3, :3].diagonal().clamp_min(0).sqrt()).max()),
    }


def alone(hand: Hand, xray: XRay, both: dict[str, Found], seed: int) -> dict[str, dict[str, float]]:
    """Radius and ulna in one camera, each for itself, then both together from there."""
    rows: dict[str, dict[str, float]] = {}
    bodies = []
    for bone in ("radius", "ulna"):
        model, pose = hand.models[bone], both[bone].pose
        start = beside_it(model, pose, seed)
        result = raylign.register(model, xray, init=start, search=SearchConfig(degrees=8.0, mm=8.0, hypotheses=64))
        rows[f"{bone} by itself"] = against(model, result, pose, xray)
        bodies.append(Body(bone, model, result.transform))
    done = Objects().together(ObjectsProblem(tuple(bodies), (xray,)))
    for bone, result in done.results.items():
        rows[f"{bone} beside the other"] = against(hand.models[bone], result, both[bone].pose, xray)
    return rows


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


def report(frame: str, found: dict[str, Found]) -> dict[str, Any]:
    rows = {}
    for bone, one in found.items():
        sd = one.covariance.diagonal().clamp_min(0).sqrt()
        turn, shift = float(torch.rad2deg(sd[:3]).max()), float(sd[3:].max())
        rows[f"{frame} {bone}"] = {"probability": one.probability, "degrees": turn, "mm": shift, "cpu_seconds": one.seconds}
        print(f"{frame} {bone:12s} p = {one.probability:.2f}  sd {turn:.2f} degrees {shift:.2f} mm  {one.seconds:.0f} s of CPU")
    return rows


def each_camera(hand: Hand, frame: str, xrays: tuple[XRay, ...], found: dict[str, Found]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for number, seed in [(n, s) for n in (1, 2) for s in range(2)]:
        for what, row in alone(hand, xrays[number - 1], found, seed).items():
            figures[f"{frame} {what}, camera {number}, start {seed}"] = row
            print(
                f"{frame} {what:24s} camera {number}, start {seed}: {row['in_plane']:.2f} mm in its plane,"
                f" {row['depth']:+.1f} +- {row['depth_sd']:.1f} mm along its beam, {row['angle']:.1f} +- {row['angle_sd']:.1f}"
                f" degrees from both; p = {row['probability']:.2f}",
                flush=True,
            )
    return figures


def turned_worlds(hand: Hand, frame: str, xrays: tuple[XRay, ...], found: dict[str, Found], count: int) -> dict[str, Any]:
    """The whole search again in turned worlds: how far each bone ends from where it was found (mean over its surface, mm)."""
    figures: dict[str, Any] = {}
    for seed in range(1, count + 1):
        generator = torch.Generator().manual_seed(seed)
        quaternion = torch.randn(4, dtype=torch.float64, generator=generator).numpy()
        world = torch.eye(4, dtype=torch.float64)
        world[:3, :3] = torch.from_numpy(Rotation.from_quat(quaternion).as_matrix())
        world[:3, 3] = 10 * (2 * torch.rand(3, dtype=torch.float64, generator=generator) - 1)
        again = sought(hand, tuple(replace(x, view=x.view.transformed(world)) for x in xrays), None)
        for bone, one in again.items():
            points = surface_points(hand.models[bone])
            off = (one.pose.apply(points) - Rigid(world @ found[bone].pose.matrix).apply(points)).norm(dim=1)
            figures[f"{frame} {bone}, world {seed}"] = {"off": float(off.mean()), "probability": one.probability}
            print(f"{frame} {bone:12s} world {seed}: {float(off.mean()):.2f} mm off, p = {one.probability:.2f}", flush=True)
    return figures


def told(frames: list[str], name: str, states: list[JointState]) -> dict[str, Any]:
    figures = {}
    for frame, state in zip(frames, states, strict=True):
        a, sd = state.angles, state.angles_sd
        print(
            f"{frame} {name}: flexion {a.flexion:.1f} +- {sd.flexion:.1f}, ulnar deviation {a.ulnar_deviation:.1f} +-"
            f" {sd.ulnar_deviation:.1f}, pronation {a.pronation:.1f} +- {sd.pronation:.1f} degrees; since the first frame"
            f" {state.degrees:.1f} +- {state.degrees_sd:.1f} degrees about its helical axis, {state.shift:.1f} mm along it"
        )
        figures[f"{frame} {name}"] = {**vars(a), **{f"{k}_sd": v for k, v in vars(sd).items()}, "helical": state.degrees}
    return figures


def moved(hand: Hand, by_frame: dict[str, dict[str, Found]], folder: Path | None) -> dict[str, Any]:
    """The third metacarpal against the radius, and the radius against the ulna, frame by frame."""
    seen = {f: side_seen(hand, {b: one.pose for b, one in found.items()}) for f, found in by_frame.items()}
    print(f"side: {hand.side} by the shape of the metacarpals; by where the bones were found: {seen}")
    figures: dict[str, Any] = {"side": hand.side, "side by poses": seen}
    poses = {b: [BonePose(f[b].pose.matrix, f[b].covariance, f[b].centre) for f in by_frame.values()] for b in BONES}
    for name, still, moving in (("wrist", "radius", "metacarpal3"), ("forearm", "ulna", "radius")):
        states = joint_motion(poses[still], poses[moving], (hand.frames[still], hand.frames[moving]))
        figures |= told(list(by_frame), name, states)
        if folder is not None:
            (folder / f"{name}.csv").write_text(table(states))
    return figures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    arguments.add_argument("--frames", nargs="+", default=["0002", "0099"])
    arguments.add_argument("--alone", action="store_true", help="each camera alone, from 2 starts")
    arguments.add_argument("--turned", type=int, default=0, metavar="N", help="the search again in N worlds turned at random")
    arguments.add_argument("--poses", type=Path, default=None, help="folder in which poses and joint angles are kept")
    arguments.add_argument("-o", "--out", type=Path, default=None, help="folder for the pictures")
    arguments.add_argument("--json", type=Path, default=None, help="file for the figures")
    chosen = arguments.parse_args()
    folder = chosen.data / "xray" / "wrist_biplane"
    bones = hand(folder / "models")
    warm_kernels()
    by_frame: dict[str, dict[str, Found]] = {}
    figures: dict[str, Any] = {}
    for frame in chosen.frames:
        xrays = exposures(folder, frame)
        file = None if chosen.poses is None else chosen.poses / f"{frame}.json"
        by_frame[frame] = sought(bones, xrays, file)
        figures |= report(frame, by_frame[frame])
        if chosen.out is not None:
            pictures(chosen.out, frame, bones.models, by_frame[frame], xrays)
        figures |= turned_worlds(bones, frame, xrays, by_frame[frame], chosen.turned)
        if chosen.alone:
            figures |= each_camera(bones, frame, xrays, by_frame[frame])
    figures |= moved(bones, by_frame, chosen.poses)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
