"""Registrations of which the answer is known: exposures of made patients, or of a folder; and where they start."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.registration import SearchConfig, centred
from raylign.registration.register import NEAR, WIDE
from raylign.simulation import (
    Collimator,
    ExposureConfig,
    LumbarConfig,
    PelvisConfig,
    Subject,
    ThoraxConfig,
    expose,
    generator,
    lumbar,
    pelvis,
    starts,
    thorax,
)
from raylign.simulation.poses import STARTS, Motion, Uniform
from raylign.simulation.poses.starts import Scattered, StartSampler

HELD_OUT = 990_000
"""Seeds of made patients from here on: nothing in raylign is fitted to or trained on them."""

_BONE_HU = 300.0
_TARGETS = 200


@dataclass(frozen=True)
class Start:
    """Where registrations start.

    Parameters
    ----------
    name: center (the model's centre at the isocentre), search (the same, and nothing known of the pose), near (within 5 degrees
        and 10 mm per axis of the truth), LOW-HIGHmm (an mTRE in that range), MM,DEGREES (uniform within them per axis), or a
        distribution of ``raylign.simulation.starts``.

    Raises
    ------
    InputError: a name that is none of these.
    """

    name: str = "center"

    def __post_init__(self) -> None:
        self._sampler()

    def _sampler(self) -> StartSampler | None:
        """The distribution, or None where there is nothing to draw."""
        try:
            return self._drawn()
        except InputError as error:
            known = ", ".join(("center", "search", "near", "LOW-HIGHmm", "MM,DEGREES", *STARTS))
            raise InputError(
                f"{self.name!r} is no start ({error.problem})", field="--start", remedy=f"give one of {known}"
            ) from None

    def _drawn(self) -> StartSampler | None:
        if self.name in ("center", "search"):
            return None
        if self.name == "near":
            return _box("near", 10.0, 5.0)
        low, dash, high = self.name.removesuffix("mm").partition("-")
        if self.name.endswith("mm") and dash:
            if not _rising(low, high):
                raise InputError("it takes a lower and a higher number, e.g. 20-40mm")
            return starts(f"mtre-bin/{low}-{high}")
        mm, comma, degrees = self.name.partition(",")
        if comma:
            try:
                return _box(self.name, float(mm), float(degrees))
            except ValueError:
                raise InputError("it takes two numbers, e.g. 30,15") from None
        return starts(self.name)

    @property
    def search(self) -> SearchConfig:
        """What it leaves open, as the methods are told."""
        known = {
            "center": SearchConfig(),
            "near": NEAR,
            "search": WIDE,
            "toth2018": SearchConfig(degrees=15.0, mm=35.0),
            "gao2024": WIDE,
            "gao2024/test": WIDE,
        }
        if self.name in known:
            return known[self.name]
        mm, comma, degrees = self.name.partition(",")
        if comma:
            return SearchConfig(degrees=max(1.0, float(degrees)), mm=max(1.0, float(mm)))
        if self.name.endswith("mm"):  # a degree goes with a millimetre, and both add up in the mTRE
            high = float(self.name.removesuffix("mm").partition("-")[2])
            return SearchConfig(degrees=min(max(high / 2, 5.0), 40.0), mm=max(high / 1.5, 5.0))
        return WIDE

    def draw(self, case: Truth, seed: int) -> Rigid:
        """The start of a case; of one seed always the same."""
        sampler = self._sampler()
        if sampler is None:
            return centred(case.model)
        arguments = (case.pose.matrix[None], [case.xrays[0].view], case.model.centre, case.targets)
        return Rigid(sampler.draw(*arguments, [generator(seed, 0)])[0])


def _rising(low: str, high: str) -> bool:
    try:
        return 0 <= float(low) < float(high) < math.inf
    except ValueError:
        return False


def _box(name: str, mm: float, degrees: float) -> Scattered:
    shift, turn = Uniform(-mm, mm), Uniform(-degrees, degrees)
    return Scattered(name, "", "", Motion(shift, shift, shift, turn, turn, turn))


@dataclass(frozen=True, eq=False)
class Truth:
    """Exposures of a model at a known pose.

    Parameters
    ----------
    name, kind: which one, and of what.
    targets: [N, 3] patient LPS mm, over which errors are means.
    """

    name: str
    kind: str
    model: Volume
    xrays: tuple[XRay, ...]
    pose: Rigid
    targets: Float[Tensor, "N 3"]


def _thorax(seed: int, whole: bool) -> Subject:
    config = ThoraxConfig(voxel_mm=2.5, meshes=False)
    return thorax(replace(config, z_range=(-200, 190), voxel_mm=2.0) if whole else config, seed)


def _pelvis(seed: int, whole: bool) -> Subject:
    config = PelvisConfig(voxel_mm=2.5, meshes=False)
    return pelvis(replace(config, z_range=(-160, 230), voxel_mm=2.0) if whole else config, seed)


def _lumbar(seed: int, whole: bool) -> Subject:
    config = LumbarConfig(voxel_mm=2.5, z_range=(75, 285), meshes=False)
    return lumbar(replace(config, z_range=(0, 338), voxel_mm=2.0) if whole else config, seed)


BODIES: dict[str, Callable[[int, bool], Subject]] = {
    "thorax": _thorax,
    "pelvis": _pelvis,
    "lumbar": _lumbar,
    "heart": _thorax,
}
"""A patient of a seed, as scanned (2.5 mm, cut off at both ends) or whole (2 mm, going on beyond). Of "heart" the scan is cut
down to what stands in front of and behind the heart."""

USUAL = ("thorax", "pelvis", "lumbar")
_HEART_MM = 60.0


def _about_heart(subject: Subject) -> Volume:
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


def phantoms(count: int, seed: int = 0, bodies: Sequence[str] = USUAL) -> Iterator[Truth]:
    """``count`` exposures of as many made patients, of each kind of body in turn.

    The patient goes on beyond the model's first and last slice. Beams are polyenergetic, scattered, noisy (600 to 3000 photons a
    pixel behind the patient) and collimated to a circle or a rectangle; the renderer is the simulation's own. Angles within 25
    and 10 degrees, poses within 12 degrees and 25 mm per axis of the centre start; 384 x 384 pixels of 0.78 mm.
    """
    for i in range(count):
        kind = bodies[i % len(bodies)]
        person = HELD_OUT + 1000 * seed + i
        yield exposure_of(f"{kind} {person}", kind, person)


def exposure_of(name: str, kind: str, seed: int) -> Truth:
    """One of them; see ``phantoms``."""
    scanned, body = BODIES[kind](seed, False), BODIES[kind](seed, True).volume
    model = _about_heart(scanned) if kind == "heart" else scanned.volume
    stream = generator(seed, 1)
    u = torch.rand(12, generator=stream, dtype=torch.float64).mul(2).sub(1).tolist()
    primary, secondary = 25 * u[0], 10 * u[1]
    sid = 1050 + 100 * u[2]
    view = View.from_carm(
        primary=primary, secondary=secondary, sid=sid, sod=0.68 * sid, pixel_spacing=300 / 384, shape=(384, 384)
    )
    box = _box("truth", 25.0, 12.0)
    start = centred(model)
    pose = Rigid(box.draw(start.matrix[None], [view], model.centre, model.centre[None], [generator(seed, 2)])[0])
    opening = Collimator.round(0.95) if u[3] > 0 else Collimator(width=0.92 + 0.06 * u[4], height=0.9 + 0.08 * u[5])
    config = ExposureConfig(collimator=opening)
    config = replace(config, dose=replace(config.dose, photons=1800 + 1200 * u[6]), tube=replace(config.tube, kv=90 + 20 * u[7]))
    xray = expose(body, view, pose, config, stream).xray
    inside = (model.data > _BONE_HU).nonzero()
    chosen = inside[torch.randint(len(inside), (_TARGETS,), generator=stream)].flip(1).to(torch.float64)  # x, y, z
    targets = chosen @ model.affine[:3, :3].T + model.affine[:3, 3]
    return Truth(name, kind, model, (xray,), pose, targets)


_SUFFIXES = ("_ct.nii.gz", "_3mm_ct.nii.gz", "_chest", ".nii.gz", "")


def folder(path: Path, count: int) -> Iterator[Truth]:
    """``count`` cases of a folder, from each of its sets in turn.

    It holds ``ct/NAME`` (a DICOM folder or NIfTI) and ``cases/NAME/KIND/`` with exposures and a ``truth.json``: for each case
    ``pose_world_from_ct`` and ``files``; ``targets_ct`` for all.

    Raises
    ------
    InputError: no cases there, a scan that is missing, a ``truth.json`` that says something else.
    """
    from raylign.io import read_volume, read_xray

    sets = sorted(p.parent for p in (path / "cases").glob("*/*/truth.json"))
    if not sets:
        raise InputError(
            "no cases/NAME/KIND/truth.json is there", file=path, field="--data", remedy="name the folder that holds ct and cases"
        )
    told = [_told(place) for place in sets]
    order = [(s, c) for row in zip_longest(*[range(len(t["cases"])) for t in told]) for s, c in enumerate(row) if c is not None]
    scans: dict[str, Volume] = {}
    for s, c in order[:count]:
        place, truth = sets[s], told[s]
        ct = place.parent.name
        if ct not in scans:
            found = [path / "ct" / f"{ct}{suffix}" for suffix in _SUFFIXES if (path / "ct" / f"{ct}{suffix}").exists()]
            if not found:
                raise InputError(f"no scan {ct}", file=path / "ct", field="--data", remedy=f"put {ct}.nii.gz there")
            scans[ct] = read_volume(found[0])
        name = list(truth["cases"])[c]
        case = truth["cases"][name]
        pose = Rigid(torch.tensor(case["pose_world_from_ct"], dtype=torch.float64))
        xrays = tuple(read_xray(place / file) for file in case["files"])
        targets = torch.tensor(truth["targets_ct"], dtype=torch.float64)
        yield Truth(f"{ct}/{place.name}/{name}", f"{ct}/{place.name}", scans[ct], xrays, pose, targets)


def _told(place: Path) -> dict[str, Any]:
    file = place / "truth.json"
    try:
        truth = json.loads(file.read_text(encoding="utf-8"))
        for case in truth["cases"].values():
            if len(case["files"]) < 1:
                raise ValueError("a case without files")
            pose = torch.tensor(case["pose_world_from_ct"], dtype=torch.float64)
            if pose.shape != (4, 4) or not se3.is_rigid(pose):
                raise ValueError("a pose that is not four rows of four numbers, a turn and a shift")
        targets = torch.tensor(truth["targets_ct"], dtype=torch.float64)
        if targets.ndim != 2 or targets.shape[0] < 1 or targets.shape[1] != 3 or not bool(targets.isfinite().all()):
            raise ValueError("targets that are not x, y and z each")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"is no record of cases ({error})", file=file, field="--data") from None
    return dict(truth)
