"""Registrations that must succeed and registrations that must fail: what ``benchmarks/confidence.py`` attempts.

Attempts come in blocks of one patient. Three blocks of four are parametric phantoms (chest, pelvis, lumbar spine; another person
every time), exposed by the simulator's own integrator in an apparatus drawn for each exposure; every fourth is one of the shared
CTs with its exposures of another simulator. The kind of an attempt says what is wrong with it:

near      nothing; the centre start                       stranger  the model is another person, the same anatomy
far       a start up to 37 degrees and 75 mm off per axis,
          and said to be so                             anatomy   the model is another part of the body
display   a screen's picture instead of line integrals    mirrored  the model's left and right are exchanged
soft      soft tissue of the model blurred and shifted    flipped   the image's left and right are exchanged
warp      the patient deformed by a few millimetres       angle     the sign of the C-arm's angles is wrong
dose      few photons                                     sid       the distance to the detector is wrong by 10 to 20 %
metal     four to eight instruments and a plate
halfmodel half of the scan is missing                     halfimage half of the field is collimated away
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from cases import Case, cases, scan
from scipy.ndimage import gaussian_filter, map_coordinates, shift

from raylign.data import Volume, XRay
from raylign.evaluation.gather import surface_points
from raylign.geometry import Rigid, View, se3
from raylign.io import read_volume, read_xray
from raylign.registration import Problem, SearchConfig, centred
from raylign.registration.search import moved
from raylign.simulation import (
    Display,
    Dose,
    ExposureConfig,
    LumbarConfig,
    PelvisConfig,
    ThoraxConfig,
    Tube,
    displayed,
    expose,
    generator,
    lumbar,
    numpy_generator,
    pelvis,
    thorax,
)
from raylign.simulation.instruments import InstrumentSet, Site, instrument_paths
from raylign.simulation.physics.apparatus import Collimator

BLOCK = 24
KINDS = (
    *("near",) * 4, "far", "far", "display", "soft", "soft", "warp", "dose", "metal", "metal", "halfmodel", "halfimage",
    "stranger", "stranger", "stranger", "anatomy", "mirrored", "mirrored", "flipped", "angle", "sid",
)  # fmt: skip
IMPOSSIBLE = ("stranger", "anatomy", "mirrored", "flipped")
CTS = {"lidc0001": "thorax", "vhf_pelvis": "pelvis", "totalseg_pelvis": "pelvis"}
ANATOMIES = ("thorax", "pelvis", "lumbar")
_BODY = {"thorax": (-235.0, 205.0), "pelvis": (-200.0, 250.0), "lumbar": (-60.0, 340.0)}
_MODEL = {"thorax": (-165.0, 165.0), "pelvis": (-110.0, 170.0), "lumbar": (45.0, 310.0)}


@dataclass(frozen=True, eq=False)
class Attempt:
    """One registration and what its answer is.

    Parameters
    ----------
    kind: see above. subject, model: whose body the exposures and the scan are of.
    poses: ``T_world_from_volume`` that would be right in the frame of each exposure as it claims to be; empty where none is.
    targets: [n, 3] points of the model, LPS mm.
    search: what is said about the start: how far off it may be.
    """

    kind: str
    subject: str
    model: str
    anatomy: str
    problem: Problem
    poses: tuple[Rigid, ...]
    targets: torch.Tensor
    search: SearchConfig | None = None


@lru_cache(maxsize=8)
def phantom(anatomy: str, seed: int, whole: bool) -> Volume:
    """A made patient: the body that is exposed (2.5 mm), or what a scan of it holds (3 mm)."""
    low, high = (_BODY if whole else _MODEL)[anatomy]
    if not whole:
        rng = numpy_generator(seed, 71)
        short = 0.45 * (high - low) * rng.random()
        low, high = low + short * (part := rng.random()), high - short * (1 - part)
    common = {"voxel_mm": 2.5 if whole else 3.0, "z_range": (low, high), "meshes": False}
    if anatomy == "thorax":
        return thorax(ThoraxConfig(**common), seed).volume
    return (pelvis(PelvisConfig(**common), seed) if anatomy == "pelvis" else lumbar(LumbarConfig(**common), seed)).volume


@lru_cache(maxsize=3)
def real(data: Path, ct: str) -> tuple[Volume, tuple[Case, ...]]:
    """A shared CT and its exposures."""
    folders = sorted((data / "cases" / ct).glob("*/truth.json"))
    return read_volume(scan(data, ct)), tuple(case for f in folders for case in cases(f.parent))


def attempt(index: int, seed: int, data: Path | None) -> Attempt:
    """Attempt ``index`` of the campaign ``seed``: the same whichever were made before."""
    block, place = divmod(index, BLOCK)
    kind = KINDS[numpy_generator(seed, block, 1).permutation(BLOCK)[place]]
    rng = numpy_generator(seed, index, 2)
    if data is not None and block % 4 == 3:
        return _of_a_ct(kind, list(CTS)[block // 4 % len(CTS)], data, rng, seed * 100_000 + block)
    return _of_a_phantom(kind, ANATOMIES[(block - block // 4) % 3], seed * 100_000 + 10 * block, rng)


def _of_a_phantom(kind: str, anatomy: str, seed: int, rng: np.random.Generator) -> Attempt:
    whose = seed + 1 + int(rng.integers(3)) if kind == "stranger" else seed
    shown = ANATOMIES[(ANATOMIES.index(anatomy) + 1 + int(rng.integers(2))) % 3] if kind == "anatomy" else anatomy
    body, model = phantom(anatomy, seed, True), phantom(shown, whose, False)
    if kind == "warp":
        body = warped(body, rng)
    own = phantom(anatomy, seed, False)
    twist = np.concatenate([np.radians(rng.uniform(-12, 12, 3)), rng.uniform(-25, 25, 3)])
    pose = Rigid(se3.exp(torch.from_numpy(twist)) @ centred(own).matrix)
    views = _views(kind, anatomy, rng)
    xrays = tuple(_exposed(kind, body, view, pose, own, rng) for view in views)
    return _spoilt(kind, f"phantom {seed}", f"phantom {whose}", anatomy, (model, xrays, pose, surface_points(model)), rng)


def _of_a_ct(kind: str, ct: str, data: Path, rng: np.random.Generator, seed: int) -> Attempt:
    model, known = real(data, ct)
    case = known[rng.integers(len(known))]
    if kind in ("angle", "sid") and rng.random() < 0.7:
        case = next((c for c in known if len(c.files) > 1), case)
    xrays = tuple(read_xray(f) for f in case.files)
    whose = ct
    if kind in ("stranger", "anatomy"):
        fit = [c for c in CTS if c != ct and (CTS[c] == CTS[ct]) == (kind == "stranger")]
        whose = fit[rng.integers(len(fit))] if fit and rng.random() < 0.5 else ""
        wanted = CTS[ct] if kind == "stranger" else ANATOMIES[(ANATOMIES.index(CTS[ct]) + 1) % 3]
        model = real(data, whose)[0] if whose else phantom(wanted, seed * 10, False)
        whose = whose or f"phantom {seed * 10}"
    if kind == "display":
        xrays = tuple(_screened(x, rng) for x in xrays)
    if rng.random() < 0.25:
        model = replace(model, truncated=((False, False),) * 3)
    return _spoilt(kind, ct, whose, CTS[ct], (model, xrays, case.pose, case.targets), rng)


Made = tuple[Volume, tuple[XRay, ...], Rigid, torch.Tensor]


def _spoilt(kind: str, subject: str, whose: str, anatomy: str, made: Made, rng: np.random.Generator) -> Attempt:
    """The attempt, with what its kind does to model, image and geometry once they are there."""
    model, xrays, pose, targets = made
    start = centred(model)
    poses = [pose] * len(xrays)
    if kind == "soft":
        model = softened(model, rng)
    if kind == "mirrored":
        model = replace(model, data=model.data.flip(2))
    if kind == "flipped":
        xrays = tuple(replace(x, image=x.image.flip(1), mask=x.mask.flip(1)) for x in xrays)
    if kind == "halfmodel":
        model, targets = halved(model, targets, rng)
        start = Rigid(pose.matrix.clone()) if rng.random() < 0.5 else centred(model)
    if kind == "angle":
        wrong = [_mirrored_angles(x.view) for x in xrays]
        keep = len(xrays) > 1 and rng.random() < 0.5
        wrong = [torch.eye(4, dtype=torch.float64) if keep and i == 0 else g for i, g in enumerate(wrong)]
        xrays = tuple(replace(x, view=x.view.transformed(g)) for x, g in zip(xrays, wrong, strict=True))
        poses = [Rigid(g @ pose.matrix) for g in wrong]
    if kind == "sid":
        factor = 1 + (1 if rng.random() < 0.5 else -1) * rng.uniform(0.1, 0.2)
        xrays = tuple(replace(x, view=_farther(x.view, factor)) for x in xrays)
    if kind == "far":
        reach = 2.5 * rng.random()
        twist = np.concatenate([rng.uniform(-1, 1, 3) * np.radians(15), rng.uniform(-1, 1, 3) * 30]) * reach
        gold = pose.matrix.numpy()
        start = Rigid(torch.from_numpy(moved(gold, twist, gold[:3, :3] @ model.centre.numpy() + gold[:3, 3])))
    right = () if kind in IMPOSSIBLE else tuple(poses)
    search = SearchConfig(degrees=2.5 * 15, mm=2.5 * 30) if kind == "far" else None
    return Attempt(kind, subject, whose, anatomy, Problem(model, xrays, start), right, targets, search)


def _mirrored_angles(view: View) -> torch.Tensor:
    """What takes a view to the one with the signs of both angles changed, about the isocentre."""
    d = view.normal
    primary, secondary = np.arctan2(float(d[0]), -float(d[1])), np.arcsin(float(d[2]))

    def frame(p: float, s: float) -> torch.Tensor:
        z, x = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
        z[:2, :2] = torch.tensor([[np.cos(p), -np.sin(p)], [np.sin(p), np.cos(p)]])
        x[1:3, 1:3] = torch.tensor([[np.cos(s), np.sin(s)], [-np.sin(s), np.cos(s)]])
        return z @ x

    return frame(-primary, -secondary) @ torch.linalg.inv(frame(primary, secondary))


def _farther(view: View, factor: float) -> View:
    return replace(view, origin=view.origin + view.normal * view.sid * (factor - 1))


def _views(kind: str, anatomy: str, rng: np.random.Generator) -> list[View]:
    count = 2 if rng.random() < (0.75 if kind in ("angle", "sid") else 0.35) else 1
    pixels = int(rng.integers(112, 193))
    side = float(rng.uniform(280, 400))
    sid = float(rng.uniform(950, 1200))
    primary = float(rng.uniform(-25, 25)) + (90.0 if anatomy == "lumbar" and rng.random() < 0.4 else 0.0)
    if kind == "angle" and abs(primary) < 8:
        primary = float(np.copysign(8 + abs(primary), primary))
    out = []
    for k in range(count):
        angle = primary + k * float(rng.uniform(50, 95)) * (1 if primary < 45 else -1)
        out.append(
            View.from_carm(
                primary=angle,
                secondary=float(rng.uniform(-10, 10)),
                sid=sid,
                sod=sid * 0.68,
                pixel_spacing=side / pixels,
                shape=(pixels, pixels),
            )
        )
    return out


def _exposed(kind: str, body: Volume, view: View, pose: Rigid, model: Volume, rng: np.random.Generator) -> XRay:
    random = generator(int(rng.integers(2**31)), 0)
    field_: Collimator | None = None
    if rng.random() < 0.6:
        field_ = Collimator.round(rng.uniform(0.85, 1.0)) if rng.random() < 0.5 else Collimator.rectangle(*rng.uniform(0.7, 1, 2))
    if kind == "halfimage":
        side = np.array([1.0, 0.0]) if rng.random() < 0.5 else np.array([0.0, 1.0])
        half = np.where(side > 0, 0.48, 0.95)
        field_ = Collimator.rectangle(*half, centre=tuple(side * 0.5 * rng.choice([-1, 1])))
    metal = {}
    if kind == "metal" or rng.random() < 0.3:
        least, most = (4, 8) if kind == "metal" else (1, 2)
        site = Site(pose.apply(model.centre[None])[0], spread=40.0)
        placed = InstrumentSet(least=least, most=most, near=0.6).draw(view, site, random)
        metal = {name: mm[0] for name, mm in instrument_paths([placed], view).items()}
    if kind == "metal":
        h, w = view.shape
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        at, size, turn = rng.uniform(0.3, 0.7, 2), rng.uniform([0.04, 0.12], [0.10, 0.28]), rng.uniform(0, np.pi)
        u = ((x / w - at[0]) * np.cos(turn) + (y / h - at[1]) * np.sin(turn)) / size[0]
        v = ((y / h - at[1]) * np.cos(turn) - (x / w - at[0]) * np.sin(turn)) / size[1]
        plate = ((u**4 + v**4) < 1).float() * float(rng.uniform(3, 10))
        name = "steel"
        metal[name] = metal.get(name, torch.zeros(h, w)) + plate
    photons = float(np.exp(rng.uniform(np.log(100), np.log(300)) if kind == "dose" else rng.uniform(np.log(500), np.log(5000))))
    config = ExposureConfig(tube=Tube(kv=float(rng.uniform(65, 115))), dose=Dose(photons), collimator=field_, rays=1)
    xray = expose(body, view, pose, config, random, extra=metal or None).xray
    return _screened(xray, rng) if kind == "display" else xray


def _screened(xray: XRay, rng: np.random.Generator) -> XRay:
    look = Display(rng.uniform(0, 0.7), 30.0, rng.uniform(0, 1), 1.0, (1.0, 99.0), rng.uniform(0, 4), white_bones=True)
    pitch = torch.tensor([xray.view.pixel_spacing])
    return replace(xray, image=displayed(xray.image[None], xray.mask[None], pitch, look)[0], scale="monotone")


def softened(model: Volume, rng: np.random.Generator) -> Volume:
    """The scan with its soft tissue blurred (6 mm) and moved (up to 8 mm along an axis each), its bones as they were."""
    data = model.data.float().numpy()
    pitch = np.array(model.spacing[::-1])
    soft = shift(gaussian_filter(np.minimum(data, 150), 6 / pitch), rng.uniform(-8, 8, 3) / pitch, order=1, mode="nearest")
    bone = data > 180
    return replace(model, data=torch.from_numpy(np.where(bone, data, soft).astype(np.float32)))


def warped(body: Volume, rng: np.random.Generator, mm: float = 1.5) -> Volume:
    """The body displaced smoothly, ``mm`` root mean square along each axis over some 50 mm, no shift on average."""
    data = body.data.float().numpy()
    pitch = np.array(body.spacing[::-1])
    step = 4
    coarse = [n // step + 2 for n in data.shape]
    where = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in data.shape), indexing="ij"))
    for axis in range(3):
        noise = gaussian_filter(rng.standard_normal(coarse), 50 / pitch / step, mode="wrap")
        noise = (noise - noise.mean()) / noise.std() * mm / pitch[axis]
        grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) / step for n in data.shape), indexing="ij"))
        where[axis] += map_coordinates(noise, grid, order=1)
    return replace(body, data=torch.from_numpy(map_coordinates(data, where, order=1, mode="nearest")))


def halved(model: Volume, targets: torch.Tensor, rng: np.random.Generator) -> tuple[Volume, torch.Tensor]:
    """Half of the scan: above, below, left or right of its middle; the targets that are left, where enough are."""
    axis, upper = (0, 2)[int(rng.integers(2))], rng.random() < 0.5
    size = model.data.shape[axis]
    first, last = (size // 2, size) if upper else (0, size // 2)
    affine = model.affine.clone()
    affine[:3, 3] += affine[:3, 2 - axis] * first
    part = replace(model, data=model.data.narrow(axis, first, last - first).contiguous(), affine=affine)
    inside = (torch.linalg.inv(affine) @ torch.cat([targets, torch.ones(len(targets), 1, dtype=torch.float64)], 1).T)[2 - axis]
    kept = targets[(inside >= 0) & (inside < last - first)]
    return part, kept if len(kept) >= 10 else targets


def describe() -> Mapping[str, int]:
    """How many of a block are of each kind."""
    return {kind: KINDS.count(kind) for kind in dict.fromkeys(KINDS)}
