"""Tracking of simulated fluoroscopy: error a frame, frames to recover, processor time.

``python benchmarks/tracking.py --cache FOLDER [--scenes phantom,chest] [--cover shutter] [--views 1] [--pixels 128] [--json]``

``tracking_frames.py`` says what happens in a sequence and makes its frames, kept in FOLDER (some ten minutes of processor time
a sequence the first time). Errors are over 200 points on bone: mTRE in space, mRPD across the rays, depth along them. A frame
counts as seen where nothing covers the patient. CPU milliseconds are ``time.process_time``, all threads together; wall
milliseconds mean something on a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tracking_frames as sequence

from raylign.cli.warm import warm_kernels
from raylign.data import XRay
from raylign.evaluation.metrics import mrpd, mtre, pose_error
from raylign.io import read_volume
from raylign.registration.tracking import TrackedPose, Tracker, TrackingConfig
from raylign.registration.tracking_gating import breathing
from raylign.registration.versions import versions


def run(scenes: list[sequence.Scene], cache: Path, cover: str, config: TrackingConfig, most: int) -> list[dict[str, Any]]:
    """One sequence, tracked: a record a frame. Several scenes are the cameras of one rig, of the same patient."""
    counts = [sequence.counts_of(scene, cache, most) for scene in scenes]
    valid = [np.load(cache / scene.folder / "valid.npy") for scene in scenes]
    scene = scenes[0]
    tracker = Tracker(scene.model, [s.view for s in scenes], config)
    records = []
    for frame in range(most):
        xrays: list[XRay] = []
        for k, s in enumerate(scenes):
            stored = counts[k][frame]
            if frame in sequence.OCCLUDED:
                stored = sequence.covered(stored, frame, cover)
            xrays.append(sequence.as_xray(stored, s.view, valid[k], f"{frame}"))
        begun, wall = time.process_time(), time.perf_counter()
        pose = tracker.step(xrays, frame / sequence.RATE)
        cpu, wall = time.process_time() - begun, time.perf_counter() - wall
        records.append(record(scenes, pose, 1e3 * cpu, 1e3 * wall))
    return records


def record(scenes: list[sequence.Scene], pose: TrackedPose, cpu: float, wall: float) -> dict[str, Any]:
    """One frame in numbers."""
    scene = scenes[0]
    truth = sequence.pose_at(scene, pose.index)
    error = pose_error(pose.transform, truth, scene.targets, scene.view)
    return {
        "frame": pose.index,
        "state": str(pose.state),
        "probability": pose.probability,
        "explained": pose.explained,
        "misfit": pose.misfit,
        "mtre": float(mtre(pose.transform, truth, scene.targets)),
        "mrpd": float(mrpd(pose.transform, truth, scene.targets, [s.view for s in scenes])),
        "depth": error.depth,
        "degrees": error.angle,
        "mahalanobis": mahalanobis(pose, truth.matrix),
        "height": float(pose.centre[2]),
        "renders": pose.renders,
        "cpu_ms": cpu,
        "wall_ms": wall,
    }


def mahalanobis(pose: TrackedPose, truth: torch.Tensor) -> float:
    """Squared length of the true error in stated standard deviations: about 6 where these are right."""
    from raylign.geometry import se3

    turn = se3.log_rotation(truth[:3, :3] @ pose.transform.matrix[:3, :3].T)
    centre = pose.transform.inverse().apply(pose.centre[None])
    shift = se3.transform(truth, centre)[0] - pose.centre
    error = torch.cat([turn, shift])
    return float(error @ torch.linalg.pinv(pose.covariance, hermitian=True) @ error)


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What a sequence comes to."""
    seen = [r for r in records if r["frame"] not in sequence.OCCLUDED]
    held = [r for r in seen if r["state"] in ("tracking", "recovered")]
    steady = [r for r in records if 0 < r["frame"] < sequence.OCCLUDED.start]

    def share(rows: list[dict[str, Any]], name: str, limit: float) -> float:
        return round(100 * float(np.mean([r[name] < limit for r in rows])), 1) if rows else float("nan")

    def middle(rows: list[dict[str, Any]], name: str, at: float = 50) -> float:
        return float(np.percentile([r[name] for r in rows], at)) if rows else float("nan")

    def regained(first: int) -> int | None:
        for r in records[first:]:
            if r["state"] in ("tracking", "recovered"):
                return int(r["frame"]) - first + 1
        return None

    times = np.arange(len(records)) / sequence.RATE
    heights = [r["height"] if r in held else float("nan") for r in records]
    breath = breathing(times[: sequence.JUMP], heights[: sequence.JUMP])
    return {
        "frames": len(records),
        "seen": len(seen),
        "under_1mm_mtre": share(seen, "mtre", 1.0),
        "under_1mm_mrpd": share(seen, "mrpd", 1.0),
        "mtre_median": middle(seen, "mtre"),
        "mtre_p95": middle(seen, "mtre", 95),
        "mrpd_median": middle(seen, "mrpd"),
        "mrpd_p95": middle(seen, "mrpd", 95),
        "depth_p95": float(np.percentile([abs(r["depth"]) for r in seen], 95)),
        "supported": len(held),
        "supported_and_wrong": sum(r["mtre"] > 10 for r in records if r["state"] in ("tracking", "recovered")),
        "occluded_but_supported": sum(r["state"] == "tracking" for r in records if r["frame"] in sequence.OCCLUDED),
        "frames_to_recover": {
            "after occlusion": regained(sequence.OCCLUDED.stop) if len(records) > sequence.OCCLUDED.stop else None,
            "after the jump": regained(sequence.JUMP) if len(records) > sequence.JUMP else None,
        },
        "mahalanobis_median": middle(held, "mahalanobis"),
        "breath_hz": None if breath is None else breath.hertz,
        "cpu_ms_median": middle(steady, "cpu_ms"),
        "cpu_ms_p95": middle(steady, "cpu_ms", 95),
        "cpu_ms_lost": middle([r for r in records if r["state"] in ("lost", "recovered")], "cpu_ms"),
        "wall_ms_median": middle(steady, "wall_ms"),
        "wall_ms_p95": middle(steady, "wall_ms", 95),
        "renders_mean": float(np.mean([r["renders"] for r in steady])),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """The summaries as text, mm and milliseconds."""
    print(
        f"{'scene':9s} {'cover':8s} {'n':>4s} {'%<1 mTRE':>8s} {'%<1 mRPD':>8s} {'mTRE':>6s} {'p95':>6s} {'mRPD':>5s} {'p95':>6s}"
        f" {'recover':>8s} {'jump':>5s} {'wrong':>5s} {'CPU ms':>7s} {'p95':>6s} {'wall ms':>7s} {'p95':>6s} {'M^2':>5s}"
    )
    for r in rows:
        again = r["frames_to_recover"]
        print(
            f"{r['scene']:9s} {r['cover']:8s} {r['seen']:4d} {r['under_1mm_mtre']:8.1f} {r['under_1mm_mrpd']:8.1f}"
            f" {r['mtre_median']:6.2f} {r['mtre_p95']:6.2f} {r['mrpd_median']:6.2f} {r['mrpd_p95']:6.2f}"
            f" {again['after occlusion'] or '-':>8} {again['after the jump'] or '-':>5} {r['supported_and_wrong']:5d}"
            f" {r['cpu_ms_median']:7.1f} {r['cpu_ms_p95']:6.1f} {r['wall_ms_median']:7.1f} {r['wall_ms_p95']:6.1f}"
            f" {r['mahalanobis_median']:5.1f}"
        )
    print("recover, jump: frames until the first that supports its pose again; wrong: supported and off by over 10 mm (mTRE)")


def scenes_of(name: str, data: Path, views: int) -> list[sequence.Scene]:
    """The cameras of a scene: a frontal one, and a lateral one where two are asked for."""
    angles = (10.0, -80.0)[:views]
    if name == "phantom":
        return [sequence.phantom_scene(a) for a in angles]
    volume = read_volume(data / "ct" / "lidc0001_chest")
    return [sequence.chest_scene(volume, a) for a in angles]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--cache", type=Path, required=True, help="where simulated frames are kept")
    parser.add_argument("--scenes", default="phantom,chest")
    parser.add_argument("--cover", default="shutter,hand")
    parser.add_argument("--views", type=int, default=1, choices=(1, 2))
    parser.add_argument("--pixels", type=int, default=TrackingConfig().pixels)
    parser.add_argument("--frames", type=int, default=sequence.FRAMES)
    parser.add_argument("--verbose", action="store_true", help="a line for every frame")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    warm_kernels()
    config = TrackingConfig(pixels=given.pixels)
    rows = []
    for name in given.scenes.split(","):
        scenes = scenes_of(name, given.data, given.views)
        for cover in given.cover.split(","):
            records = run(scenes, given.cache, cover, config, given.frames)
            rows.append({"scene": name, "cover": cover, "views": given.views, **summary(records), "poses": records})
            if given.verbose:
                for r in records:
                    words = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in r.items())
                    print(" ".join(words), file=sys.stderr)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    if given.json:
        print(json.dumps({"machine": machine, "versions": versions(), "rows": rows}, indent=1))
    else:
        print(f"{machine}; " + ", ".join(f"{k} {v}" for k, v in versions().items()))
        print_table(rows)


if __name__ == "__main__":
    main()
