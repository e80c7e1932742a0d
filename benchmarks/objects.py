"""Two femurs and a pelvis in one image: sequential against joint registration, one view and two, CT models and meshes.

``python benchmarks/objects.py --data FOLDER [--patients N] [--models ct,mesh] [--views 1,2] [--scan] [--seed S] [--json]``

In a copy of a phantom's pelvis (``simulation.pelvis``, one anatomy a case) each femur is turned about the centre of its head:
flexed by 0 to 30 degrees, abducted by -10 to 15, turned about its axis by -15 to 15. The copy is exposed by
``raylign.simulation.expose`` (several energies, scatter, noise, a round collimator) from one and from two directions. What is
registered is the same anatomy as another scan shows it, shorter at both ends: ``ct`` its two femurs and all the rest as three
bodies, ``mesh`` the surfaces of pelvis and femurs without intensities. The start has the point between the hips at the isocentre,
not turned, up to 12 degrees and 25 mm per axis from the truth. Joints' centres are found by ``ball_between``. ``--scan`` takes
the right femur and the rest of a real CT (totalseg_pelvis_3mm, whose left hip holds an implant) instead of phantoms.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from structures import aimed, moved_copy, shortened, surface

from raylign.cli.warm import warm_kernels
from raylign.data import LabelMap, Mesh, Volume, XRay
from raylign.data.solids import Solidity, solid_volume
from raylign.errors import InputError
from raylign.evaluation.metrics import mpd, mrpd, mtre
from raylign.geometry import Rigid, View, se3
from raylign.io import read_labels, read_volume
from raylign.registration.objects import Body, Joint, Objects, ObjectsConfig, ObjectsProblem, ObjectsResult, bodies_of_scan
from raylign.registration.objects_contact import ball_between
from raylign.registration.settings import SearchConfig
from raylign.registration.versions import versions
from raylign.simulation import ExposureConfig, PelvisConfig, expose, pelvis
from raylign.simulation.physics.apparatus import Collimator

_SUCCESS, _WRONG = 2.0, 5.0  # mm of mPD; mm across the beams at which a trusted body is a silent failure
_PIXELS, _WIDTH = 384, 480.0
_SIDES = ("left", "right")
_TURNS = ((0.0, 30.0), (-10.0, 15.0), (-15.0, 15.0))  # degrees: flexion, abduction, outwards about the axis
_SEARCH = SearchConfig(degrees=20, mm=35)
Grid = TypeVar("Grid", Volume, LabelMap)


@dataclass(frozen=True, eq=False)
class Case:
    """A patient as exposed and what is known of him.

    Parameters
    ----------
    name: of the patient. volume, labels: the scan that is registered. femurs, hips: label names.
    meshes: surfaces by label name, empty where there are none.
    xrays: two of them. poses: the truth by body. targets: [n, 3] LPS mm by body. aim: [3] LPS mm, at the isocentre in the start.
    """

    name: str
    volume: Volume
    labels: LabelMap
    femurs: dict[str, str | int]
    hips: tuple[str | int, ...]
    meshes: dict[str, Mesh]
    xrays: tuple[XRay, ...]
    poses: dict[str, Rigid]
    targets: dict[str, torch.Tensor]
    aim: torch.Tensor


@dataclass(frozen=True)
class Outcome:
    """One body of one registration: mm, sequential and joint, and how sure it was."""

    case: str
    models: str
    views: int
    body: str
    flexion: float
    mtre: tuple[float, float]
    mpd: tuple[float, float]
    mrpd: tuple[float, float]
    depth_sd: float
    trusted: bool
    probability: float
    evidence: dict[str, float]
    seconds: tuple[float, float]


def turned(centre: torch.Tensor, side: str, generator: torch.Generator) -> tuple[torch.Tensor, float]:
    """A motion [4, 4] of a femur about the centre of its head (LPS mm), and the degrees of its flexion."""
    flexion, abduction, outwards = (low + (high - low) * float(torch.rand(1, generator=generator)) for low, high in _TURNS)
    out = 1.0 if side == "left" else -1.0  # L is +x; abduction takes the knee away from the middle
    turns = [(-flexion, (1.0, 0.0, 0.0)), (-out * abduction, (0.0, 1.0, 0.0)), (out * outwards, (0.0, 0.0, 1.0))]
    motion = torch.eye(4, dtype=torch.float64)
    for degrees, axis in turns:
        twist = torch.tensor([math.radians(degrees) * a for a in axis] + [0.0, 0.0, 0.0], dtype=torch.float64)
        motion = motion @ se3.exp(twist)
    about = torch.eye(4, dtype=torch.float64)
    about[:3, 3] = centre
    return about @ motion @ se3.inverse(about), flexion


def exposures(copy: Volume, aim: torch.Tensor, generator: torch.Generator) -> tuple[tuple[XRay, ...], Rigid]:
    """Two exposures at a right angle of one pose, up to 12 degrees and 25 mm per axis from ``aim`` (LPS mm) at the isocentre."""
    u = 2 * torch.rand(8, generator=generator, dtype=torch.float64) - 1
    pose = Rigid(se3.exp(torch.cat([torch.deg2rad(12 * u[:3]), 25 * u[3:6]])) @ aimed(aim).matrix)
    config = ExposureConfig(collimator=Collimator.round(0.97))
    out = []
    for angle in (0.0, 90.0):
        primary, secondary = angle + 15 * float(u[6]), 8 * float(u[7])
        view = View.from_carm(
            primary=primary,
            secondary=secondary,
            sid=1050,
            sod=760,
            pixel_spacing=_WIDTH / _PIXELS,
            shape=(_PIXELS, _PIXELS),
        )
        out.append(expose(copy, view, pose, config, generator).xray)
    return tuple(out), pose


def phantom(number: int, seed: int) -> tuple[Case, dict[str, float]]:
    """A phantom: 1.2 mm voxels as exposed, 2.5 mm voxels and 90 mm shorter below, 30 mm above, as registered.

    Nobody's bones are as blurred as voxels of 2 mm would make them.
    """
    anatomy = 1000 * seed + 20 + number
    generator = torch.Generator().manual_seed(anatomy)
    patient = pelvis(PelvisConfig(voxel_mm=1.2, z_range=(-200, 200), meshes=False), seed=anatomy)
    model = pelvis(PelvisConfig(voxel_mm=2.5, z_range=(-110, 170), mesh_pitch_mm=2.5), seed=anatomy)
    marks = model.landmarks
    heads = {s: marks.points[marks.names.index(f"femur_{s}/fh")] for s in _SIDES}
    return _case(
        f"phantom {anatomy}",
        (patient.volume, patient.labels),
        (model.volume, model.labels, model.meshes),
        ({s: f"femur_{s}" for s in _SIDES}, ("hip_left", "hip_right", "sacrum"), heads),
        generator,
    )


def real(data: Path, number: int, seed: int) -> tuple[Case, dict[str, float]]:
    """The pelvis CT of the folder, of which the model lacks 2 slices at both ends. It has an implant in the left hip.

    In the exposures its end slices go on for 90 mm: sawn off a little beyond the model, a patient shows edges that nobody has.
    """
    scan = read_volume(data / "ct" / "totalseg_pelvis_3mm_ct.nii.gz")
    scan = replace(scan, data=scan.data.to(torch.float32).clamp_min(-1024))
    labels = read_labels(data / "ct" / "totalseg_pelvis_3mm_seg.nii.gz")
    model = shortened(scan, 2)
    long = prolonged(scan, 30), prolonged(labels, 30)
    heads = {s: ball_between(*_pair(scan, labels, n)).centre for s, n in (("right", 76),)}
    names: dict[str, str | int] = {"right": 76}
    generator = torch.Generator().manual_seed(7000 + 100 * seed + number)
    return _case("pelvis CT", long, (model, labels, {}), (names, (77, 78, 25), heads), generator)


def prolonged(volume: Grid, slices: int) -> Grid:
    """The first and last slice (axis k) repeated as many times beyond both ends."""
    affine = volume.affine.clone()
    affine[:3, 3] -= slices * affine[:3, 2]
    ends = [volume.data[i : i + 1 or None].expand(slices, -1, -1) for i in (0, -1)]
    return replace(volume, data=torch.cat([ends[0], volume.data, ends[1]]), affine=affine)


def _pair(scan: Volume, labels: LabelMap, name: int) -> tuple[Volume, Volume]:
    rest, femur = bodies_of_scan(scan, labels, [("femur", [name])], Rigid(torch.eye(4, dtype=torch.float64)), _SEARCH)
    return rest.model, femur.model


def _case(
    name: str,
    patient: tuple[Volume, LabelMap],
    model: tuple[Volume, LabelMap, dict[str, Mesh]],
    bones: tuple[dict[str, Any], tuple[str | int, ...], dict[str, torch.Tensor]],
    generator: torch.Generator,
) -> tuple[Case, dict[str, float]]:
    femurs, hips, heads = bones
    copy, motions, flexions = patient[0], {}, {}
    for side, femur in femurs.items():
        motions[side], flexions[side] = turned(heads[side], side, generator)
        copy = moved_copy(copy, patient[1], (femur,), motions[side])
    middle = torch.stack(list(heads.values())).mean(0)
    if len(heads) == 1:
        middle = torch.tensor([float(patient[0].centre[0]), *middle[1:].tolist()], dtype=torch.float64)
    aim = middle + torch.tensor([0.0, 0.0, 10.0], dtype=torch.float64)
    xrays, pose = exposures(copy, aim, generator)
    volume, labels, meshes = model
    targets = {"rest": surface(volume, labels, hips)} | {s: surface(volume, labels, (f,)) for s, f in femurs.items()}
    poses = {"rest": pose} | {s: Rigid(pose.matrix @ m) for s, m in motions.items()}
    return Case(name, volume, labels, femurs, hips, meshes, xrays, poses, targets, aim), flexions


def merged(meshes: list[Mesh]) -> Mesh:
    """Several surfaces as one."""
    counts = np.cumsum([0] + [len(m.vertices) for m in meshes])
    faces = torch.cat([m.faces + int(n) for m, n in zip(meshes, counts[:-1], strict=True)])
    return Mesh(torch.cat([m.vertices for m in meshes]), faces, meshes[0].name)


def solid(mesh: Mesh, *, cut: bool) -> Volume:
    """A mesh as a bone; ``cut``: it was cut off at its lowest slice, where the bone goes on."""
    volume = solid_volume(mesh, Solidity(voxel_mm=1.5))
    if not cut:
        return volume
    low = int((volume.data > 0.5 * volume.data.max()).any(2).any(1).nonzero()[0]) + 3  # the shell closes it there
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([0.0, 0.0, low], dtype=torch.float64)
    ends = ((False, False), (False, False), (True, False))
    return replace(volume, data=volume.data[low:].contiguous(), affine=affine, truncated=ends)


def bodies_of(case: Case, models: str) -> tuple[Body, ...]:
    """The three bodies: parts of the scan, or solids made of meshes."""
    start = aimed(case.aim)
    if models == "ct":
        return bodies_of_scan(case.volume, case.labels, [(s, [f]) for s, f in case.femurs.items()], start, _SEARCH)
    base = merged([case.meshes[str(h)] for h in case.hips])
    found = [Body("rest", solid(base, cut=False), start, _SEARCH)]
    return (*found, *(Body(s, solid(case.meshes[str(f)], cut=True), start) for s, f in case.femurs.items()))


def outcomes(case: Case, models: str, count: int, flexions: dict[str, float], config: ObjectsConfig) -> list[Outcome]:
    """One registration's bodies."""
    bodies = bodies_of(case, models)
    joints = tuple(
        Joint("rest", s, ball_between(bodies[0].model, b.model).centre) for s, b in zip(case.femurs, bodies[1:], strict=True)
    )
    problem = ObjectsProblem(bodies, case.xrays[:count], joints)
    clock: list[tuple[str, float]] = []
    result = Objects(config, lambda stage, _: clock.append((stage, time.process_time()))).register(problem)
    end = time.process_time()
    begun = clock[0][1]
    joint = next(t for s, t in clock if s == "together")
    return [
        _outcome(case, (models, count, b.name), result, flexions.get(b.name, 0.0), (joint - begun, end - joint)) for b in bodies
    ]


def _outcome(
    case: Case, what: tuple[str, int, str], result: ObjectsResult, flexion: float, seconds: tuple[float, float]
) -> Outcome:
    _, count, body = what
    own, gold, points = result.results[body], case.poses[body], case.targets[body]
    views = [x.view for x in case.xrays[:count]]
    both = (own.start, own.transform)
    return Outcome(
        case.name,
        *what,
        flexion=flexion,
        mtre=tuple(float(mtre(p, gold, points)) for p in both),
        mpd=tuple(float(mpd(p, gold, points, views)) for p in both),
        mrpd=tuple(float(mrpd(p, gold, points, views)) for p in both),
        depth_sd=float(own.confidence.evidence["depth"]),
        trusted=own.confidence.trusted,
        probability=own.confidence.probability,
        evidence=dict(own.confidence.evidence),
        seconds=seconds,
    )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--patients", type=int, default=10)
    parser.add_argument("--models", default="ct,mesh")
    parser.add_argument("--views", default="1,2")
    parser.add_argument("--scan", action="store_true", help="the pelvis CT of the folder instead of phantoms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--append", type=Path, help="a file to which each body is added as a line of JSON")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    warm_kernels()
    found: list[Outcome] = []
    for outcome in _run(given):
        found.append(outcome)
        if given.append is not None:
            with given.append.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
    rows = _rows(found)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    if given.json:
        cases = [asdict(o) for o in found]
        print(
            json.dumps({"rows": rows, "cases": cases, "seed": given.seed, "machine": machine, "versions": versions()}, indent=1)
        )
    else:
        print(f"{machine}; seed {given.seed}; " + ", ".join(f"{k} {v}" for k, v in versions().items()))
        _print(rows)


def _run(given: argparse.Namespace) -> Iterator[Outcome]:
    for number in range(given.patients):
        case, flexions = real(given.data, number, given.seed) if given.scan else phantom(number, given.seed)
        for models in given.models.split(","):
            if models == "mesh" and not case.meshes:
                continue
            for views in given.views.split(","):
                yield from outcomes(case, models, int(views), flexions, ObjectsConfig())


def _rows(found: list[Outcome]) -> list[dict[str, Any]]:
    """A row by models, number of views and kind of body."""
    groups: dict[tuple[str, int, str], list[Outcome]] = {}
    for o in found:
        groups.setdefault((o.models, o.views, "pelvis" if o.body == "rest" else "femur"), []).append(o)
    return [_row(key, group) for key, group in groups.items()]


def _row(key: tuple[str, int, str], group: list[Outcome]) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(("models", "views", "body"), key, strict=True)) | {"n": len(group)}
    for step, i in (("one by one", 0), ("together", 1)):
        for measure in ("mtre", "mpd", "mrpd"):
            values = np.array([getattr(o, measure)[i] for o in group])
            row[f"{measure} {step}"] = [float(np.median(values)), float(np.quantile(values, 0.95)), float(values.max())]
        row[f"success {step}"] = round(100 * float((np.array([o.mpd[i] for o in group]) < _SUCCESS).mean()), 1)
        row[f"cpu {step}"] = float(np.median([o.seconds[i] for o in group]))
    good = [o for o in group if o.mpd[1] < _SUCCESS]
    row["good called good"] = sum(o.trusted for o in good)
    row["good"] = len(good)
    row["silent failures"] = sum(o.trusted and o.mrpd[1] > _WRONG for o in group)
    return row


def _print(rows: list[dict[str, Any]]) -> None:
    for step in ("one by one", "together"):
        print(f"\n{step}: median / p95 / max, mm")
        print(f"{'models':6s} views {'body':7s}  n  {'mTRE':>18s}  {'mPD':>18s}  {'mRPD':>18s}  success, %   CPU s")
        for r in rows:
            numbers = "  ".join(f"{' / '.join(f'{v:.2f}' for v in r[f'{m} {step}']):>18s}" for m in ("mtre", "mpd", "mrpd"))
            head = f"{r['models']:6s} {r['views']:5d} {r['body']:7s} {r['n']:2d}"
            print(f"{head}  {numbers}  {r[f'success {step}']:10.1f}  {r[f'cpu {step}']:6.1f}")
    print(
        "\nconfidence, after the joint step: good results called good, and silent failures (trusted, over 5 mm across the beams)"
    )
    for r in rows:
        print(f"{r['models']:6s} {r['views']:5d} {r['body']:7s}  {r['good called good']} of {r['good']}, {r['silent failures']}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
