"""A structure that moved among neighbours that did not: accuracy of its registration by treatment of the rest.

``python benchmarks/structures.py --data FOLDER [--structures NAME;NAME,NAME] [--rests modelled,...] [--motions N] [--json]``

FOLDER holds ``ct/`` with scans and label maps. In a copy of the scan the structure is moved by up to 5 degrees and 8 mm: cut out
with a rim, its place filled from the nearest soft tissue, and put down elsewhere over what lies there. The copy is exposed by
``raylign.simulation.expose`` (several energies, scatter, noise, a round collimator) from one and from two directions. What is
registered is the scan as it was, some slices shorter at both ends, so that the body goes on beyond it. It begins with the
point at the isocentre that was aimed at (near the structure), not turned, up to 12 degrees and 25 mm per axis from the truth.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylign.cli.warm import warm_kernels
from raylign.data import LabelMap, Volume, XRay
from raylign.data.resample import resample_labels
from raylign.errors import InputError
from raylign.evaluation.gather import surface_points
from raylign.evaluation.metrics import mrpd, mtre, pose_error
from raylign.geometry import Rigid, View, se3
from raylign.io import read_labels, read_volume
from raylign.registration import Result
from raylign.registration.structures import StructureConfig, StructureProblem, StructureResult, Structures
from raylign.registration.versions import versions
from raylign.simulation import (
    ExposureConfig,
    LumbarConfig,
    PelvisConfig,
    Subject,
    ThoraxConfig,
    expose,
    lumbar,
    pelvis,
    thorax,
)
from raylign.simulation.physics.apparatus import Collimator

_DEGREES, _MM = 5.0, 8.0  # motions of a structure, at most
_WRONG = 5.0  # mm across the beams: a structure that far off and trusted is a silent failure
_PIXELS = 384


@dataclass(frozen=True)
class Patient:
    """Who is exposed, what is registered, and which structures are moved.

    Parameters
    ----------
    scans: (the patient as exposed, the model as registered, their labels), given the folder of data; the model ends before the
        patient does.
    structures: by name; those that move as one separated by commas.
    width: mm of the detector.
    """

    name: str
    scans: Callable[[Path], tuple[Volume, Volume, LabelMap]]
    structures: tuple[str, ...]
    width: float = 400.0


def scanned(ct: str, labels: str, beyond: int) -> Callable[[Path], tuple[Volume, Volume, LabelMap]]:
    """A scan of the folder; ``beyond`` slices at both ends are not in the model."""

    def read(data: Path) -> tuple[Volume, Volume, LabelMap]:
        scan = read_volume(data / "ct" / ct)
        scan = replace(scan, data=scan.data.to(torch.float32).clamp_min(-1024))
        return scan, shortened(scan, beyond), read_labels(data / "ct" / labels)

    return read


def phantom(
    make: Callable[..., Subject], seed: int, z_range: tuple[float, float]
) -> Callable[[Path], tuple[Volume, Volume, LabelMap]]:
    """A phantom of 1.6 mm voxels, and a model of the same anatomy of 2.5 mm voxels, 30 mm shorter at both ends."""

    def made(data: Path) -> tuple[Volume, Volume, LabelMap]:
        kind = {pelvis: PelvisConfig, lumbar: LumbarConfig, thorax: ThoraxConfig}[make]
        own = {} if make is thorax else {"meshes": False}
        patient = make(kind(voxel_mm=1.6, z_range=z_range, **own), seed=seed)
        model = make(kind(voxel_mm=2.5, z_range=(z_range[0] + 30, z_range[1] - 30), **own), seed=seed)
        return patient.volume, model.volume, patient.labels

    return made


_CHEST, _PELVIS = (
    scanned("lidc0001_chest", "lidc0001_chest_seg.nii.gz", 15),
    scanned("totalseg_pelvis_3mm_ct.nii.gz", "totalseg_pelvis_3mm_seg.nii.gz", 8),
)
_RIBS = "rib_right_5,rib_right_6,rib_right_7,rib_right_8"
PATIENTS = (
    Patient("chest CT", _CHEST, ("vertebrae_T8", "vertebrae_T10", _RIBS, "heart"), 340.0),
    Patient("pelvis CT", _PELVIS, ("28", "29", "77", "78")),  # TotalSegmentator's numbers of L4, L3 and the hip bones
    Patient("lumbar phantom", phantom(lumbar, 11, (15.0, 340.0)), ("vertebrae_L2", "vertebrae_L3", "vertebrae_L4")),
    Patient("pelvis phantom", phantom(pelvis, 12, (-120.0, 200.0)), ("femur_left", "hip_right", "sacrum")),
)


@dataclass(frozen=True)
class Outcome:
    """One registration: errors of the structure's pose in mm (mTRE over its surface), how far it had moved, how sure it was."""

    patient: str
    structure: str
    views: int
    rest: str
    start: float
    mtre: float
    mrpd: float
    depth: float
    whole_mtre: float
    whole_trusted: bool
    seconds: float
    with_whole: bool
    present: bool
    probability: float
    trusted: bool
    evidence: dict[str, float]
    moved: tuple[float, float] | None
    words: str


def cut_out(volume: Volume, labels: LabelMap, names: Sequence[str], rim: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mask of the structure with a rim, in a box; the scan with soft tissue in its place; the box's first voxel, x y z)."""
    from scipy import ndimage

    placed = resample_labels(labels, volume)
    inside = placed.mask(names).numpy()
    wide = tuple(slice(max(0, s.start - 12), s.stop + 12) for s in ndimage.find_objects(inside.astype(np.int8))[0])
    near, inside, hu = placed.data.numpy()[wide], inside[wide], volume.data.numpy()[wide]
    bones = [n for n in np.unique(near) if n and np.median(hu[near == n]) > 120]
    hole = inside | (ndimage.binary_dilation(inside, iterations=rim) & ~np.isin(near, bones))
    soft = (hu > -150) & (hu < 120) & ~hole
    nearest = ndimage.distance_transform_edt(~soft, sampling=volume.spacing[::-1], return_distances=False, return_indices=True)
    smooth = ndimage.gaussian_filter(hu[tuple(nearest)], [3.0 / p for p in volume.spacing[::-1]])
    smooth += 12 * np.random.default_rng(0).standard_normal(smooth.shape).astype(np.float32)
    out = volume.data.numpy().copy()
    out[wide] = np.where(hole, smooth, hu)
    return hole, out, np.array([s.start for s in wide[::-1]])


def moved_copy(volume: Volume, labels: LabelMap, names: Sequence[str], motion: torch.Tensor) -> Volume:
    """The scan with the structure elsewhere: ``motion`` [4, 4] takes patient LPS mm to the same."""
    from scipy import ndimage

    hole, out, corner = cut_out(volume, labels, names)
    affine = volume.affine.numpy()
    back = np.linalg.inv(affine) @ np.linalg.inv(motion.numpy()) @ affine  # voxel of the copy to voxel of the scan, (i, j, k)
    index = np.argwhere(hole)[:, ::-1] + corner
    low, high = index.min(0), index.max(0)
    corners = np.array([[x, y, z, 1] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])], float)
    reached = corners @ np.linalg.inv(back).T
    first = np.maximum(np.floor(reached.min(0)[:3]).astype(int) - 2, 0)
    last = np.minimum(np.ceil(reached.max(0)[:3]).astype(int) + 3, volume.data.shape[::-1])
    k, j, i = np.mgrid[first[2] : last[2], first[1] : last[1], first[0] : last[0]]
    at = np.stack([i, j, k, np.ones_like(i)], 0).reshape(4, -1)
    where = ((back @ at)[:3] - corner[:, None])[::-1]
    part = volume.data.numpy()[tuple(slice(a, a + n) for a, n in zip(corner[::-1], hole.shape, strict=True))]
    weight = ndimage.map_coordinates(hole.astype(np.float32), where, order=1).reshape(i.shape)
    carried = ndimage.map_coordinates(np.where(hole, part + 1024, 0), where, order=1).reshape(i.shape)
    target = tuple(slice(a, b) for a, b in zip(first[::-1], last[::-1], strict=True))
    out[target] = (1 - weight) * (out[target] + 1024) + carried - 1024
    return replace(volume, data=torch.from_numpy(out))


def surface(volume: Volume, labels: LabelMap, names: Sequence[str], count: int = 200) -> torch.Tensor:
    """[n, 3] LPS mm on the structure's surface."""
    from scipy import ndimage

    mask = resample_labels(labels, volume).mask(names).numpy()
    box = ndimage.find_objects(mask.astype(np.int8))[0]
    index = np.argwhere(mask[box] & ~ndimage.binary_erosion(mask[box]))[:, ::-1] + np.array([s.start for s in box[::-1]])
    chosen = np.random.default_rng(0).permutation(len(index))[:count]
    points = torch.from_numpy(index[chosen].astype(np.float64))
    return points @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def drawn_motion(points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A turn of 1 to 5 degrees and a shift of 2 to 8 mm about the middle of points, in directions that all are as likely."""
    u = torch.rand(2, generator=generator, dtype=torch.float64)
    turn, shift = (d / d.norm() for d in torch.randn(2, 3, generator=generator, dtype=torch.float64))
    twist = torch.cat([turn * torch.deg2rad(1 + (_DEGREES - 1) * u[0]), shift * (2 + (_MM - 2) * u[1])])
    about = torch.eye(4, dtype=torch.float64)
    about[:3, 3] = points.mean(0)
    motion = se3.exp(torch.cat([twist[:3], torch.zeros(3, dtype=torch.float64)]))
    motion = about @ motion @ se3.inverse(about)
    motion[:3, 3] += twist[3:]
    return motion


def shortened(volume: Volume, slices: int) -> Volume:
    """The scan without as many slices at both ends."""
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([0.0, 0.0, slices], dtype=torch.float64)
    return replace(volume, data=volume.data[slices:-slices].contiguous(), affine=affine)


def aimed(point: torch.Tensor) -> Rigid:
    """The start: a point of the patient (LPS mm) at the isocentre, not turned."""
    start = torch.eye(4, dtype=torch.float64)
    start[:3, 3] = -point
    return Rigid(start)


def exposures(width: float, copy: Volume, aim: torch.Tensor, generator: torch.Generator) -> tuple[list[XRay], Rigid]:
    """Two exposures at a right angle of one pose: up to 12 degrees and 25 mm per axis from ``aim`` (LPS mm) at the isocentre."""
    u = 2 * torch.rand(8, generator=generator, dtype=torch.float64) - 1
    pose = Rigid(se3.exp(torch.cat([torch.deg2rad(12 * u[:3]), 25 * u[3:6]])) @ aimed(aim).matrix)
    pitch, shape = width / _PIXELS, (_PIXELS, _PIXELS)
    config = ExposureConfig(collimator=Collimator.round(0.95))
    out = []
    for angle in (0.0, 90.0):
        primary, secondary = angle + 25 * float(u[6]), 10 * float(u[7])
        view = View.from_carm(primary=primary, secondary=secondary, sid=1050, sod=720, pixel_spacing=pitch, shape=shape)
        out.append(expose(copy, view, pose, config, generator).xray)
    return out, pose


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--patients", default=",".join(p.name for p in PATIENTS))
    parser.add_argument("--structures", default="", help="names separated by semicolons; those that move as one by commas")
    parser.add_argument("--rests", default="modelled,masked,none")
    parser.add_argument("--views", default="1,2")
    parser.add_argument("--motions", type=int, default=4, help="of each structure; 0: not moved at all, one pose")
    parser.add_argument(
        "--absent", type=int, default=0, help="exposures of each structure's patient without it, to be distrusted"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--append", type=Path, help="a file to which each registration is added as a line of JSON")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    warm_kernels()
    outcomes: list[Outcome] = []
    for patient in PATIENTS:
        if patient.name not in given.patients.split(","):
            continue
        for outcome in _run(patient, given):
            outcomes.append(outcome)
            line = json.dumps(asdict(outcome))
            if given.append is not None:
                with given.append.open("a") as file:
                    file.write(line + "\n")
    rows = _rows(outcomes)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    if given.json:
        cases = [asdict(o) for o in outcomes]
        print(
            json.dumps({"rows": rows, "cases": cases, "seed": given.seed, "machine": machine, "versions": versions()}, indent=1)
        )
    else:
        _print(rows, f"{machine}; seed {given.seed}; " + ", ".join(f"{k} {v}" for k, v in versions().items()))


def _run(patient: Patient, given: argparse.Namespace) -> Iterator[Outcome]:
    scan, model, labels = patient.scans(given.data)
    structures = tuple(s for s in given.structures.split(";") if s) or patient.structures
    for number, structure in enumerate(structures):
        names = tuple(structure.split(","))
        points = surface(model, labels, names)
        for i in range(max(1, given.motions) + given.absent):
            present = i < max(1, given.motions)
            generator = torch.Generator().manual_seed(10_000 * given.seed + 100 * number + i)
            motion = drawn_motion(points, generator) if given.motions else torch.eye(4, dtype=torch.float64)
            copy = moved_copy(scan, labels, names, motion) if given.motions else scan
            if not present:
                copy = replace(scan, data=torch.from_numpy(cut_out(scan, labels, names)[1]))
            aim = 0.3 * model.centre + 0.7 * points.mean(0)
            xrays, pose = exposures(patient.width, copy, aim, generator)
            for count in (int(v) for v in given.views.split(",")):
                problem = StructureProblem(model, labels, names, tuple(xrays[:count]), aimed(aim))
                whole: Result | None = None
                for rest in given.rests.split(","):
                    begun = time.process_time()
                    result = Structures(StructureConfig(rest=rest)).register(problem, whole)  # type: ignore[arg-type]
                    seconds = time.process_time() - begun
                    fresh, whole = whole is None and result.whole is not None, whole or result.whole
                    outcome = _outcome(patient, (structure, count, rest), problem, result, (pose, motion, points))
                    yield replace(outcome, seconds=seconds, with_whole=fresh, present=present)


def _outcome(
    patient: Patient,
    what: tuple[str, int, str],
    problem: StructureProblem,
    result: StructureResult,
    truth: tuple[Rigid, torch.Tensor, torch.Tensor],
) -> Outcome:
    pose, motion, points = truth
    gold, own = Rigid(pose.matrix @ motion), result.structure
    whole, known = result.whole, result.motion
    return Outcome(
        patient.name,
        *what,
        start=float(mtre(pose, gold, points)),
        mtre=float(mtre(own.transform, gold, points)),
        mrpd=float(mrpd(own.transform, gold, points, [x.view for x in problem.xrays])),
        depth=pose_error(own.transform, gold, points, problem.xrays[0].view).depth,
        whole_mtre=float("nan") if whole is None else float(mtre(whole.transform, pose, surface_points(problem.volume))),
        whole_trusted=whole is not None and whole.confidence.trusted,
        seconds=0.0,
        with_whole=False,
        present=True,
        probability=own.confidence.probability,
        trusted=own.confidence.trusted,
        evidence=dict(own.confidence.evidence),
        moved=None if known is None else (known.degrees, known.mm),
        words=result.words,
    )


def _rows(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """A row a patient, structure, number of views and treatment; then one for all structures of a treatment."""
    groups: dict[tuple[str, str, int, str], list[Outcome]] = {}
    for o in outcomes:
        groups.setdefault((o.patient, o.structure, o.views, o.rest), []).append(o)
    for o in outcomes:
        groups.setdefault(("all", "", o.views, o.rest), []).append(o)
    return [_row(key, group) for key, group in groups.items()]


def _row(key: tuple[str, str, int, str], everything: list[Outcome]) -> dict[str, Any]:
    group = [o for o in everything if o.present]
    space, plane = np.array([o.mtre for o in group]), np.array([o.mrpd for o in group])
    seconds = [o.seconds for o in group if not o.with_whole] or [o.seconds for o in group]
    return {
        **dict(zip(("patient", "structure", "views", "rest"), key, strict=True)),
        "n": len(group),
        "start_median": float(np.median([o.start for o in group])),
        "mtre_median": float(np.median(space)),
        "mtre_max": float(space.max()),
        "mtre_under_2": round(100 * float((space < 2).mean())),
        "mtre_under_5": round(100 * float((space < 5).mean())),
        "mrpd_median": float(np.median(plane)),
        "mrpd_max": float(plane.max()),
        "mrpd_under_2": round(100 * float((plane < 2).mean())),
        "whole_median": float(np.median([o.whole_mtre for o in group])),
        "cpu_seconds": float(np.median(seconds)),
        "trusted": sum(o.trusted for o in group),
        "silent_failures": sum(o.trusted and (o.mrpd > _WRONG or not o.present) for o in everything),
        "absent": sum(not o.present for o in everything),
    }


def _print(rows: list[dict[str, Any]], head: str) -> None:
    print(head)
    names = ("start", "mTRE", "max", "% < 2/5", "mRPD", "max", "% < 2", "whole", "CPU s", "trusted", "silent")
    print(f"{'patient':14s} {'structure':20s} views {'rest':8s}  n " + " ".join(f"{name:>7s}" for name in names))
    for r in rows:
        under = f"{r['mtre_under_2']}/{r['mtre_under_5']}"
        print(
            f"{r['patient']:14s} {r['structure'][:20]:20s} {r['views']:5d} {r['rest']:8s} {r['n']:2d}"
            f" {r['start_median']:7.1f} {r['mtre_median']:7.2f} {r['mtre_max']:7.2f} {under:>7s} {r['mrpd_median']:7.2f}"
            f" {r['mrpd_max']:7.2f} {r['mrpd_under_2']:7d} {r['whole_median']:7.2f} {r['cpu_seconds']:7.1f} {r['trusted']:7d}"
            f" {r['silent_failures']:7d}"
        )
    print(
        "errors in mm: mTRE in 3D on the structure's surface, mRPD across the beams; start: how far it had moved; whole: mTRE of"
    )
    print("the whole CT; CPU s: of the structure alone where the whole CT's pose was known from the treatment before")
    print("silent: trusted, and over 5 mm off across the beams or of a structure that is not there (--absent)")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
