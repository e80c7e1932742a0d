"""The patients of an evaluation: a model to be registered, the body that is exposed, and points that matter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Volume
from raylign.errors import InputError
from raylign.evaluation import folders
from raylign.evaluation.subject_kinds import Phantoms, Scan, Scans
from raylign.simulation import (
    AortaConfig,
    FemurConfig,
    LumbarConfig,
    PelvisConfig,
    Subject,
    ThoraxConfig,
    aorta,
    lumbar,
    pelvis,
    proximal_femur,
    thorax,
)
from raylign.simulation.datasets.recipes import TargetPoints
from raylign.simulation.datasets.residents import chosen_labels, isocentres, target_points
from raylign.simulation.subjects import subject_from_ct

HELD_OUT = 990_000
"""Seeds of made patients from here on: nothing in raylign is fitted to or trained on them."""

_HEART_MM = 60.0
_KEPT = 3


@dataclass(frozen=True, eq=False)
class Patient:
    """One subject of an evaluation.

    Parameters
    ----------
    name: whose anatomy it is; over these success is bootstrapped.
    kind: of what.
    model: what is registered.
    body: what is exposed: the same patient, finer or longer.
    isocentres: [K, 3] patient LPS mm, of which a case brings one to the isocentre.
    targets: [N, 3] patient LPS mm, over which errors are means.
    bones: the structures that these lie on, where they are named.
    """

    name: str
    kind: str
    model: Volume
    body: Subject | Volume
    isocentres: Float[Tensor, "K 3"]
    targets: Float[Tensor, "N 3"]
    bones: LabelMap | None = None


def _thorax(seed: int, whole: bool) -> Subject:
    config = ThoraxConfig(voxel_mm=2.5, meshes=False)
    return thorax(replace(config, z_range=(-200, 190), voxel_mm=2.0) if whole else config, seed)


def _pelvis(seed: int, whole: bool) -> Subject:
    config = PelvisConfig(voxel_mm=2.5, meshes=False)
    return pelvis(replace(config, z_range=(-160, 230), voxel_mm=2.0) if whole else config, seed)


def _lumbar(seed: int, whole: bool) -> Subject:
    config = LumbarConfig(voxel_mm=2.5, z_range=(75, 285), meshes=False)
    return lumbar(replace(config, z_range=(0, 338), voxel_mm=2.0) if whole else config, seed)


def _femur(seed: int, whole: bool) -> Subject:
    """The grid of Van Houtte et al. (2022), every second voxel; whole: the pelvis of the same person."""
    grid = FemurConfig(voxel_mm=(1.328, 1.328, 2.0), shape=(96, 64, 96), drop_mm=60.0, meshes=False)
    return _pelvis(seed, True) if whole else proximal_femur(grid, seed)


def _aorta(seed: int, whole: bool) -> Subject:
    config = AortaConfig(voxel_mm=2.5, region="lower", meshes=False)
    return aorta(replace(config, region="whole", voxel_mm=2.0) if whole else config, seed)


BODIES: dict[str, Callable[[int, bool], Subject]] = {
    "thorax": _thorax,
    "pelvis": _pelvis,
    "lumbar": _lumbar,
    "heart": _thorax,
    "femur": _femur,
    "aorta": _aorta,
}
"""A patient of a seed, as scanned (2.5 mm, cut off at both ends) or whole (2 mm, going on beyond). Of "heart" the scan is cut
down to what stands in front of and behind the heart; of "femur" to the box about the left one."""


def about_heart(subject: Subject) -> Volume:
    """120 mm across and along the patient about the heart, from front to back: the moving field of Toth et al. (2018)."""
    volume, names = subject.volume, [f"heart_{n}" for n in ("ventricle_left", "ventricle_right", "myocardium")]
    where = subject.labels.mask(names).nonzero().to(torch.float64).mean(0)  # z, y, x
    low, high = [], []
    for axis, size in ((0, volume.data.shape[0]), (2, volume.data.shape[2])):
        half = _HEART_MM / float(volume.spacing[2 - axis])
        low.append(max(0, round(float(where[axis]) - half)))
        high.append(min(size, round(float(where[axis]) + half)))
    data = volume.data[low[0] : high[0], :, low[1] : high[1]].contiguous()
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([low[1], 0.0, low[0]], dtype=affine.dtype)
    # said, because a face that lies mostly in the lung does not look as if anything went on beyond it
    return Volume(data, affine, volume.unit, truncated=((True, True), (False, False), (True, True)))


_patients: OrderedDict[tuple[object, ...], Patient] = OrderedDict()


def patient(kind: Phantoms | Scans, points: TargetPoints, number: int, seed: int, data: Path | None) -> Patient:
    """The patient of a number, which wraps around where there are fewer; the last three asked for are kept.

    Parameters
    ----------
    kind: where patients come from.
    points: over which errors are means.
    number: of the patient.
    seed: of the evaluation; of made patients it says who they are.
    data: the folder in which scans are found.

    Raises
    ------
    InputError: a scan that is not there, a structure that the patient has not.
    """
    which = number % (kind.people if isinstance(kind, Phantoms) else len(kind.scans))
    key = (kind, points, which, seed if isinstance(kind, Phantoms) else 0, data)
    if key not in _patients:
        while len(_patients) >= _KEPT:
            _patients.popitem(last=False)
        _patients[key] = (
            _made(kind, points, which, seed)
            if isinstance(kind, Phantoms)
            else _scanned(kind.scans[which], points, needed(data, "scans"))
        )
    _patients.move_to_end(key)
    return _patients[key]


def subject_name(kind: Phantoms | Scans, number: int, seed: int) -> str:
    """What the patient of a number is called; see ``patient``."""
    if isinstance(kind, Scans):
        return kind.scans[number % len(kind.scans)].name
    which = number % kind.people
    return f"{kind.bodies[which % len(kind.bodies)]}-{HELD_OUT + 1000 * seed + which}"


def needed(data: Path | None, what: str) -> Path:
    """The folder of data, where one was named.

    Raises
    ------
    InputError: none was, or it is not there.
    """
    if data is None:
        raise InputError(f"this protocol takes {what} from a folder", field="--data", remedy="name the folder with --data FOLDER")
    if not data.is_dir():
        raise InputError("there is no such folder", file=data, field="--data", remedy=f"name the folder that holds the {what}")
    return data


def _made(kind: Phantoms, points: TargetPoints, which: int, seed: int) -> Patient:
    body = kind.bodies[which % len(kind.bodies)]
    person = HELD_OUT + 1000 * seed + which
    scanned = BODIES[body](person, False)
    whole = BODIES[body](person, True) if kind.beyond else scanned
    # where the patient was cut off no file says, and the methods are not told either
    model = about_heart(scanned) if body == "heart" else replace(scanned.volume, truncated=None)
    middle = kind.isocentre == ("centre",)  # of the model, which of a heart is not the scan's
    return Patient(
        subject_name(kind, which, seed),
        body,
        model,
        whole,
        model.centre[None] if middle else isocentres(scanned, kind.isocentre),
        target_points(scanned, points),
        _named(scanned, points),
    )


def _scanned(scan: Scan, points: TargetPoints, data: Path) -> Patient:
    from raylign.io import read_labels, read_volume

    volume = read_volume(folders.scan_path(data, scan.name))
    labels = None
    if scan.labels is not None:
        names = None if scan.label_names is None else data / "ct" / scan.label_names
        labels = read_labels(data / "ct" / scan.labels, names)
    subject = subject_from_ct(volume, labels, id=scan.name)
    model = trimmed(subject.volume, scan.trim_mm)
    own = LabelMap(trimmed_data(subject.labels.data, subject.volume, scan.trim_mm), model.affine, subject.labels.names)
    shown = replace(subject, volume=model, labels=own)
    body = extended(subject.volume, scan.beyond_mm) if scan.beyond_mm > 0 else subject.volume
    return Patient(
        scan.name,
        scan.name,
        replace(model, truncated=None),
        replace(body, truncated=None),
        isocentres(shown, scan.isocentre),
        target_points(shown, points),
        _named(shown, points),
    )


def _named(subject: Subject, points: TargetPoints) -> LabelMap | None:
    """The structures that points lie on as one label; a protocol of any voxels of bone names none."""
    if not points.structures:
        return None
    labels = subject.labels
    mask: LabelMap = LabelMap(
        labels.mask(chosen_labels(subject, points)).to(torch.uint8), labels.affine, {1: ", ".join(points.structures)}
    )
    return mask


def trimmed_data(data: Tensor, volume: Volume, mm: float) -> Tensor:
    """A volume's voxels without so much of its first and last slices."""
    count = round(mm / volume.spacing[2])
    if 2 * count > len(data) - 8:
        raise InputError(f"{mm:g} mm less at both ends leave nothing of the scan", field="trim_mm", remedy="trim less")
    return data[count : len(data) - count].contiguous()


def trimmed(volume: Volume, mm: float) -> Volume:
    """A volume without so much of its first and last slices."""
    count = round(mm / volume.spacing[2])
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, 2] * count
    return replace(volume, data=trimmed_data(volume.data, volume, mm), affine=affine)


def extended(volume: Volume, mm: float) -> Volume:
    """A volume that goes on beyond its first and last slice, which are repeated."""
    count = round(mm / volume.spacing[2])
    data = torch.cat([volume.data[:1].expand(count, -1, -1), volume.data, volume.data[-1:].expand(count, -1, -1)])
    affine = volume.affine.clone()
    affine[:3, 3] -= affine[:3, 2] * count
    return replace(volume, data=data, affine=affine)
