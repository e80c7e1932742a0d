"""Bones given as meshes, sought in simulated exposures of whole pelves: success, accuracy, time and trust by bone.

``python benchmarks/mesh_bones.py [--data FOLDER] [--subjects N] [--views 1,2] [--bones NAME,...] [--json]``

Every subject is a parametric pelvis (``raylign.simulation.pelvis``, 1.2 mm voxels) with both hips, sacrum, spine, femora and
soft tissue, exposed by ``raylign.simulation.expose`` (several energies, scatter, noise, a round collimator). Without ``--data``
the model is the mesh of one of its bones, of which nothing but the surface is told. With ``--data`` (a folder with ``meshes/``)
its femur, sacrum or hip is taken out of the body, muscle put in its place, and a bone of a real person in its stead: compact bone
of 1.2 mm (of a shaft: 5 mm, with fat inside) over spongy bone. Starts are 15 degrees about a random axis and 20 mm in a random
direction away.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from raylign.cli.warm import warm_kernels
from raylign.data import Mesh, Volume
from raylign.data.solids import Axes, near_distance, solid_volume
from raylign.evaluation.metrics import mpd, mrpd, mtre
from raylign.geometry import Rigid, View, se3
from raylign.io import read_mesh
from raylign.registration import DirectConfig, Problem, SearchConfig
from raylign.registration.meshes import Meshes
from raylign.registration.versions import versions
from raylign.simulation import ExposureConfig, PelvisConfig, Subject, expose, pelvis
from raylign.simulation.correspondence import Surface
from raylign.simulation.physics.apparatus import Collimator

BONES = ("femur_left", "femur_right", "hip_left", "hip_right", "sacrum", "pelvis")
REAL = (
    ("femur/m3_lfemur_mm.stl", "femur_left"),
    ("femur/m3_rfemur_mm.stl", "femur_right"),
    ("femur/m4_lfemur_mm.stl", "femur_left"),
    ("femur/m4_rfemur_mm.stl", "femur_right"),
    ("pelvis/VHF_Left_Bone_Sacrum_smooth.stl", "sacrum"),
    ("pelvis/coxae.stl", "hip_left"),
)
_FIRST = 201  # subjects on which nothing was chosen
_RIGHT = 2.0  # mm mPD
_WRONG = 10.0  # mm mTRE: trusted beyond it is a silent failure


@dataclass(frozen=True)
class Outcome:
    """One registration: errors in mm, CPU and wall seconds, whether it was trusted."""

    bone: str
    subject: str
    views: int
    mpd: float
    mrpd: float
    mtre: float
    cpu: float
    seconds: float
    probability: float
    trusted: bool


def model_of(subject: Subject, bone: str) -> Mesh:
    """A bone's mesh; "pelvis": hips and sacrum as one body."""
    if bone != "pelvis":
        return subject.meshes[bone]
    parts = [subject.meshes[n] for n in ("hip_left", "hip_right", "sacrum")]
    first = np.cumsum([0] + [len(p.vertices) for p in parts])
    faces = torch.cat([p.faces + int(n) for p, n in zip(parts, first, strict=False)])
    return Mesh(torch.cat([p.vertices for p in parts]), faces, bone)


def fitted(mesh: Mesh, onto: Mesh) -> Mesh:
    """A bone laid onto another person's by trimmed closest points, from turns about the principal axes and shifts along one."""
    a, b = mesh.vertices.numpy(), onto.vertices.numpy()
    frames = []
    for v in (a, b):
        frame = np.linalg.eigh(np.cov((v - v.mean(0)).T))[1]
        frame[:, 0] *= np.sign(np.linalg.det(frame))
        frames.append(frame)
    sample = a[np.random.default_rng(0).choice(len(a), 500)]
    surface = Surface(b, onto.faces.numpy())
    best = (math.inf, np.eye(3), np.zeros(3))
    for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        for shift in (0.0, 40.0, -40.0):
            turn = frames[1] @ np.diag([x, y, x * y]) @ frames[0].T
            move = b.mean(0) - turn @ a.mean(0) + shift * frames[1][:, 2]
            for _ in range(25):
                placed = sample @ turn.T + move
                found, _ = surface.nearest(placed)
                gap = np.linalg.norm(placed - found, axis=1)
                near = gap <= np.quantile(gap, 0.7)
                p, q = sample[near], found[near]
                u, _, vt = np.linalg.svd((p - p.mean(0)).T @ (q - q.mean(0)))
                turn = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
                move = q.mean(0) - turn @ p.mean(0)
            if gap[near].mean() < best[0]:
                best = (float(gap[near].mean()), turn, move)
    return Mesh(torch.from_numpy(a @ best[1].T + best[2]), mesh.faces, mesh.name)


def exchanged(subject: Subject, bone: str, mesh: Mesh) -> Subject:
    """The subject with another bone: its own taken out, muscle in its place, and the mesh filled with bone."""
    hu = subject.volume.data.clone()
    own = subject.labels.mask([bone]).numpy()
    from scipy.ndimage import binary_dilation

    hu[torch.from_numpy(binary_dilation(own, iterations=1))] = 55.0
    affine, pitch = subject.volume.affine.numpy(), subject.volume.spacing[0]
    axes = [affine[i, 3] + pitch * np.arange(n) for i, n in enumerate(reversed(hu.shape))]
    low, high = (getattr(mesh.vertices, end)(0).values.numpy() for end in ("min", "max"))
    cut = [slice(*np.searchsorted(x, (a - 3, b + 3))) for x, a, b in zip(axes, low, high, strict=True)]
    inner = [x[s] for x, s in zip(axes, cut, strict=True)]
    distance = near_distance(mesh, Axes(inner[0], inner[1], inner[2], pitch), 8.0)
    shaft = np.zeros_like(inner[2])
    if bone.startswith("femur"):  # from below the lesser trochanter on
        shaft = np.clip((high[2] - 75 - inner[2]) / 20, 0, 1)
    shell = (1.2 + 3.8 * shaft)[:, None, None]
    marrow = (180 - 250 * shaft)[:, None, None]
    grain = np.random.default_rng(0).standard_normal(distance.shape) * 45 * (1 - shaft)[:, None, None]
    whole, core = (np.clip(0.5 - d / pitch, 0, 1) for d in (distance, distance + shell))
    box = (cut[2], cut[1], cut[0])
    part = hu[box].numpy()
    hu[box] = torch.from_numpy((part * (1 - whole) + 1150 * (whole - core) + (marrow + grain) * core).astype(np.float32))
    volume = Volume(hu, subject.volume.affine, "HU", subject.volume.truncated)
    return replace(subject, volume=volume, meshes={bone: mesh})


def problem(subject: Subject, bone: str, views: int, seed: int) -> tuple[Problem, Rigid, Mesh]:
    """Exposures of a subject about a bone, a start, the true pose and the mesh."""
    mesh = model_of(subject, bone)
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=generator, dtype=torch.float64))

    def direction(length: float) -> torch.Tensor:
        vector = torch.randn(3, generator=generator, dtype=torch.float64)
        return vector / vector.norm() * length

    low, high = mesh.vertices.min(0).values, mesh.vertices.max(0).values
    centre = (low + high) / 2
    if bone.startswith("femur"):  # the field ends above where the mesh does
        centre[2] = high[2] - 75
    about = torch.eye(4, dtype=torch.float64)
    about[:3, 3] = -centre
    truth = se3.exp(torch.cat([direction(math.radians(between(0, 12))), direction(between(0, 20))])) @ about
    primary, secondary = between(-25, 25), between(-15, 15)
    angles = [(primary, secondary)]
    if views == 2:
        angles.append((primary + between(40, 70) * (1 if primary < 0 else -1), between(-10, 10)))
    xrays = []
    for first, second in angles:
        view = View.from_carm(primary=first, secondary=second, sid=1050, sod=720, pixel_spacing=0.8, shape=(400, 400))
        config = ExposureConfig(collimator=Collimator.round(0.97))
        xrays.append(expose(subject, view, Rigid(truth), config, generator).xray)
    here = torch.eye(4, dtype=torch.float64)
    here[:3, 3] = truth[:3, :3] @ centre + truth[:3, 3]
    off = se3.exp(torch.cat([direction(math.radians(15.0)), direction(20.0)]))
    start = Rigid(here @ off @ se3.inverse(here) @ truth)
    return Problem(solid_volume(mesh), tuple(xrays), start), Rigid(truth), mesh


def run(subject: Subject, bone: str, views: int, seed: int) -> Outcome:
    """Register one bone of one subject."""
    asked, truth, mesh = problem(subject, bone, views, seed)
    chosen = torch.randperm(len(mesh.vertices), generator=torch.Generator().manual_seed(0))[:300]
    points = mesh.vertices[chosen]
    cpu, wall = time.process_time(), time.perf_counter()
    result = Meshes(DirectConfig(search=SearchConfig(degrees=15.0, mm=20.0))).register(asked)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    seen = [x.view for x in asked.xrays]
    pose = result.transform
    errors = (float(mpd(pose, truth, points, seen)), float(mrpd(pose, truth, points, seen)), float(mtre(pose, truth, points)))
    return Outcome(bone, subject.id, views, *errors, cpu, wall, result.confidence.probability, result.confidence.trusted)


def cases(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """Every subject, bone and number of views that was asked for."""
    views = [int(v) for v in arguments.views.split(",")]
    for number in range(_FIRST, _FIRST + arguments.subjects):
        subject = pelvis(PelvisConfig(voxel_mm=1.2, z_range=(-210, 230), mesh_pitch_mm=1.5), seed=number)
        if arguments.data is None:
            chosen = [(subject, bone) for bone in arguments.bones.split(",")]
        else:
            chosen = []
            for file, bone in REAL:
                if bone in arguments.bones.split(","):
                    mesh = fitted(read_mesh(Path(arguments.data) / "meshes" / file), subject.meshes[bone])
                    chosen.append((exchanged(replace(subject, id=f"{subject.id}/{Path(file).stem}"), bone, mesh), bone))
        for patient, bone in chosen:
            for count in views:
                yield run(patient, bone, count, 100 * number + count)


def row(name: str, outcomes: list[Outcome]) -> dict[str, float | str]:
    """One line of the table."""
    right = [o.mpd < _RIGHT for o in outcomes]
    return {
        "bone": name,
        "n": len(outcomes),
        "success": round(100 * sum(right) / len(outcomes)),
        **{f"{k}_median": float(np.median([getattr(o, k) for o in outcomes])) for k in ("mpd", "mrpd", "mtre", "cpu", "seconds")},
        "trusted": sum(o.trusted for o in outcomes),
        "trusted_and_right": sum(o.trusted and r for o, r in zip(outcomes, right, strict=True)),
        "silent_failures": sum(o.trusted and o.mtre > _WRONG for o in outcomes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", help="folder with meshes/: bones of real people in place of the phantoms' own")
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--views", default="1,2")
    parser.add_argument("--bones", default=",".join(BONES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    warm_kernels()
    outcomes = []
    for outcome in cases(arguments):
        outcomes.append(outcome)
        if not arguments.json:
            o = outcome
            print(
                f"{o.bone:12s}{o.subject:40s}{o.views} views  mPD {o.mpd:6.2f}  mTRE {o.mtre:6.2f}  p {o.probability:.2f}",
                flush=True,
            )
    names = list(dict.fromkeys(o.bone for o in outcomes))
    rows = []
    for views in sorted({o.views for o in outcomes}):
        mine = [o for o in outcomes if o.views == views]
        groups = [(n, [o for o in mine if o.bone == n]) for n in names] + [("all", mine)]
        rows += [{"views": views, **row(name, group)} for name, group in groups if group]
    if arguments.json:
        print(json.dumps({"versions": versions(), "rows": rows, "cases": [asdict(o) for o in outcomes]}, indent=1))
        return
    for r in rows:
        print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in r.items()))


if __name__ == "__main__":
    main()
