"""Registration where the exposure shows another patient than the scan: one row a mismatch, the same cases in every row.

``python benchmarks/mismatch.py [--data FOLDER] [--kinds none,couch in the CT,...] [--cts chest,...] [--limit N] [--table remove]
[--json]``

Patients are phantoms, scanned at 2 mm and exposed at a finer and longer one, and a CT of FOLDER where it is there, which goes on
beyond its ends by its first and last slice. Patient, pose, view and noise of case k are the same in every row; the mismatch is
all that changes. Exposures are made by ``raylign.simulation.expose``; the detector's counts are what registration gets: valid
pixels and attenuation are found as for a file. Starts are "center", up to 12 degrees and 25 mm an axis from the truth.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import arguments, scan
from exposures import extended
from scipy import ndimage
from torch import Tensor

from raylign.cli.warm import warm_kernels
from raylign.data import LabelMap, Volume, XRay
from raylign.data.body import without_table
from raylign.data.exposure import Encoding, to_line_integrals
from raylign.data.field import validity_mask
from raylign.errors import InputError
from raylign.evaluation.metrics import mrpd, mtre
from raylign.geometry import Rigid, View, se3
from raylign.io import read_volume
from raylign.io.labels import read_labels
from raylign.registration import Problem, centred, registrar
from raylign.registration.versions import versions
from raylign.simulation import (
    Collimator,
    Detector,
    Display,
    Dose,
    ExposureConfig,
    PelvisConfig,
    Site,
    ThoraxConfig,
    displayed,
    draw_instrument,
    expose,
    generator,
    instrument_paths,
    pelvis,
    thorax,
)
from raylign.simulation.appearance.text import glyphs
from raylign.simulation.instruments import across, on_skin

_WRONG = 10.0  # mm: an error beyond it that is trusted is a silent failure
_SID, _SOD, _PIXELS, _PITCH = 1050.0, 720.0, 448, 0.85
_AGENT = ("heart", "aorta", "pulmonary", "vena", "atrial", "brachiocephalic", "subclavian", "arch_", "iliac_artery", "bladder")
_BLOOD, _CONTRAST = 45.0, 280.0  # HU without agent, and what it adds


@dataclass(frozen=True, eq=False)
class Patient:
    """A scan, and the same person as exposed: finer, longer. Labels on each one's own grid."""

    name: str
    scan: Volume
    body: Volume
    labels: LabelMap
    body_labels: LabelMap


@dataclass(frozen=True, eq=False)
class Scene:
    """An exposure about to be made, and what it will be registered with."""

    patient: Patient
    view: View
    pose: Rigid
    start: Rigid
    config: ExposureConfig
    extra: dict[str, Tensor] = field(default_factory=dict)
    develop: tuple[Callable[[np.ndarray, Encoding, Scene], tuple[np.ndarray, Encoding]], ...] = ()

    def with_metal(self, found: dict[str, Tensor]) -> Scene:
        """More mm of materials on the rays."""
        extra = dict(self.extra)
        for name, mm in found.items():
            extra[name] = extra[name] + mm if name in extra else mm
        return replace(self, extra=extra)

    def with_body(self, body: Volume) -> Scene:
        return replace(self, patient=replace(self.patient, body=body))

    def with_scan(self, model: Volume) -> Scene:
        return replace(self, patient=replace(self.patient, scan=model))


_MADE: tuple[tuple[Any, ...], ...] = (
    ("chest", thorax, ThoraxConfig, 11, (-165.0, 165.0), (-239.0, 209.0)),
    ("pelvis", pelvis, PelvisConfig, 13, (-110.0, 170.0), (-209.0, 259.0)),
    ("hips", pelvis, PelvisConfig, 14, (-60.0, 90.0), (-209.0, 259.0)),
)


# -- patients ---------------------------------------------------------------------------------------------------------


def patients(data: Path, chosen: str) -> Iterator[tuple[int, Patient]]:
    """Made ones, numbered: a chest, a pelvis, the 150 mm of another about the hips; and a chest CT with contrast agent."""
    wanted = [name for name in chosen.split(",") if name]
    for number, (name, make, config, seed, scanned, whole) in enumerate(_MADE):
        if wanted and name not in wanted:
            continue
        coarse, fine = (make(config(voxel_mm=mm, z_range=z, meshes=False), seed) for mm, z in ((2.0, scanned), (1.7, whole)))
        yield number, Patient(name, coarse.volume, fine.volume, coarse.labels, fine.labels)
    folder = data / "ct"
    if folder.is_dir() and (not wanted or "lidc0001" in wanted):
        volume, labels = read_volume(scan(data, "lidc0001")), read_labels(folder / "lidc0001_chest_seg.nii.gz")
        long = extended(volume)
        count = round((long.data.shape[0] - volume.data.shape[0]) / 2)
        grown = torch.cat([labels.data[:1].expand(count, -1, -1), labels.data, labels.data[-1:].expand(count, -1, -1)])
        yield len(_MADE), Patient("lidc0001", volume, long, labels, LabelMap(grown, long.affine, labels.names))


def scenes(patient: Patient, number: int, seed: int, count: int) -> Iterator[tuple[int, Scene]]:
    """``count`` exposures of one patient at poses of their own, and the index by which they are drawn."""
    for k in range(count):
        random = generator(seed, number, k)

        def uniform(limit: float, n: int, random: torch.Generator = random) -> Tensor:
            return limit * (2 * torch.rand(n, generator=random, dtype=torch.float64) - 1)

        twist = torch.cat([torch.deg2rad(uniform(12, 3)), uniform(25, 3)])
        motion = se3.exp(torch.cat([twist[:3], torch.zeros(3, dtype=torch.float64)]))
        motion[:3, 3] = twist[3:]
        primary, secondary = float(uniform(25, 1)), float(uniform(10, 1))
        view = View.from_carm(
            primary=primary, secondary=secondary, sid=_SID, sod=_SOD, pixel_spacing=_PITCH, shape=(_PIXELS, _PIXELS)
        )
        start = centred(patient.scan)
        yield 100 * number + k, Scene(patient, view, Rigid(motion @ start.matrix), start, ExposureConfig(dose=Dose(1500.0)))


# -- what may differ ---------------------------------------------------------------------------------------------------


def _padded(volume: Volume, before: float, behind: float, beside: float) -> Volume:
    """Air in front (y low), behind and at both sides, mm."""
    sx, sy, _ = volume.spacing
    front, back, side = round(before / sy), round(behind / sy), round(beside / sx)
    data = torch.nn.functional.pad(volume.data, (side, side, front, back), value=-1000.0)
    affine = volume.affine.clone()
    affine[:3, 3] -= affine[:3, :3] @ torch.tensor([side, front, 0], dtype=torch.float64)
    return replace(volume, data=data, affine=affine)


def _places(volume: Volume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """LPS mm of columns, rows and slices; all volumes here are axial."""
    a = volume.affine.numpy()
    return tuple(a[i, 3] + a[i, i] * np.arange(n) for i, n in enumerate(reversed(volume.data.shape)))  # type: ignore[return-value]


def couched(volume: Volume, rails: bool) -> Volume:
    """The patient on a couch of two carbon shells with foam between; ``rails``: of steel, at an operating table's sides."""
    x, y, _ = _places(volume)
    solid = ndimage.binary_opening(volume.data[volume.data.shape[0] // 2].numpy() > -300, iterations=2)
    back = y[np.flatnonzero(solid.sum(1) > 10)[-1]]
    middle = float(x.mean())
    wide = _padded(volume, 0.0, max(0.0, back + 75 - y[-1]), max(0.0, 270 - (x[-1] - x[0]) / 2))
    x, y, _ = _places(wide)
    # an operating table is flat and touches; a scanner's is a trough, 14 mm below the body at its deepest
    down = y[:, None] - (back + 3) + (np.zeros_like(x[None]) if rails else 0.00035 * (x[None] - middle) ** 2 - 14)
    within = np.abs(x[None] - middle) < (260 if rails else 210)
    layer = np.full(down.shape, -1000.0)
    layer[(down >= 0) & (down < 50) & within] = -960.0 if rails else -940.0
    for depth in (10.0, 45.0):
        layer[(np.abs(down - depth) < 1.6) & within] = 250.0
    if rails:
        layer[(np.abs(np.abs(x[None] - middle) - 247) < 5) & (np.abs(down - 25) < 13)] = 3071.0
    paint = torch.from_numpy(layer).to(wide.data)
    return replace(wide, data=torch.maximum(wide.data, paint[None]))


def with_arm(volume: Volume, random: torch.Generator) -> Volume:
    """A forearm lies across the front of the body."""
    wide = _padded(volume, 95.0, 0.0, 0.0)
    x, y, z = (torch.from_numpy(v).float() for v in _places(wide))
    solid = wide.data[:, :, wide.data.shape[2] // 2] > -300
    front = y[int(torch.argmax(solid.any(0).float()))]
    turn = math.radians(15 + 30 * float(torch.rand((), generator=random)))
    height = float(z.mean()) + 50 * (2 * float(torch.rand((), generator=random)) - 1)
    along = torch.cos(torch.tensor(turn)) * (x - x.mean())[None, None] + math.sin(turn) * (z - height)[:, None, None]
    up = -math.sin(turn) * (x - x.mean())[None, None] + math.cos(turn) * (z - height)[:, None, None]
    ahead = (y - (front - 45))[None, :, None]
    inside = (along > -160) & (along < 90)
    out = wide.data.clone()
    out[(up**2 + ahead**2 < 36**2) & inside & (out < -300)] = 45.0
    for side in (-13.0, 13.0):
        radius = ((up - side) ** 2 + ahead**2).sqrt()
        out[(radius < 7.5) & inside] = 1100.0
        out[(radius < 4) & inside] = 150.0
    return replace(wide, data=out)


def _agent(volume: Volume, labels: LabelMap, present: bool) -> Volume:
    names = [
        n for n in labels.present().values() if any(part in n for part in _AGENT) and not n.endswith(("myocardium", "walls"))
    ]
    where = labels.mask(names)
    plain = volume.data.clamp_max(_BLOOD)
    return replace(volume, data=torch.where(where, plain + _CONTRAST if present else plain, volume.data))


def contrast(scene: Scene, in_scan: bool, in_body: bool) -> Scene:
    """Contrast agent in heart, great vessels and bladder, or none."""
    p = scene.patient
    model, body = _agent(p.scan, p.labels, in_scan), _agent(p.body, p.body_labels, in_body)
    return replace(scene, patient=replace(p, scan=model, body=body))


def shortened(scene: Scene, mm: float) -> Scene:
    """The scan covers the middle ``mm`` alone; the start is still the centre of what is left."""
    v = scene.patient.scan
    keep = round(mm / v.spacing[2])
    first = (v.data.shape[0] - keep) // 2
    affine = v.affine.clone()
    affine[:3, 3] += affine[:3, 2] * first
    return scene.with_scan(replace(v, data=v.data[first : first + keep].contiguous(), affine=affine))


def screws(volume: Volume, random: torch.Generator) -> Volume:
    """Six steel rods of 6 mm among the bones of a scan, as scanners store them."""
    data = volume.data.clone()
    inner = (volume.data > 200).nonzero()
    x, y, z = (torch.from_numpy(v).float() for v in _places(volume))
    for _ in range(6):
        k, j, i = inner[int(torch.randint(0, len(inner), (), generator=random))].tolist()
        axis = torch.nn.functional.normalize(torch.randn(3, generator=random), dim=0)
        p = torch.stack(torch.broadcast_tensors((x - x[i])[None, None], (y - y[j])[None, :, None], (z - z[k])[:, None, None]), -1)
        along = p @ axis
        data[((p - along[..., None] * axis).norm(dim=-1) < 3) & (along.abs() < 22)] = 3071.0
    return replace(volume, data=data)


def _placed(scene: Scene, kinds: dict[str, int], random: torch.Generator) -> Scene:
    centre = scene.pose.apply(scene.patient.scan.centre[None])[0]
    site = Site(centre, scene.pose.matrix[:3, 2], spread=40.0)
    lay = {"ecg_electrode": on_skin}
    many = [lay.get(kind, across)(draw_instrument(kind, random), site, random) for kind, n in kinds.items() for _ in range(n)]
    return scene.with_metal({name: mm[0] for name, mm in instrument_paths([many], scene.view).items()})


def implant(scene: Scene, random: torch.Generator) -> Scene:
    """Screws, wires, a steel stem 16 mm thick through which nothing passes, and a plate."""
    scene = _placed(scene, {"bone_screw": 3, "k_wire": 2}, random)
    r, c = torch.meshgrid(torch.arange(_PIXELS) - _PIXELS / 2, torch.arange(_PIXELS) - _PIXELS / 2, indexing="ij")
    steel = torch.zeros(_PIXELS, _PIXELS)
    for thick, half, length in ((16.0, 9.0, 55.0), (5.0, 12.0, 45.0)):
        turn = math.pi * float(torch.rand((), generator=random))
        off = 80 * (2 * torch.rand(2, generator=random) - 1)
        a, b = c - off[0], r - off[1]
        u, v = a * math.cos(turn) + b * math.sin(turn), b * math.cos(turn) - a * math.sin(turn)
        steel += thick * ((u.abs() < length / _PITCH) & (v.abs() < half / _PITCH))
    return scene.with_metal({"steel": steel})


def _twelve_bits(scene: Scene) -> Scene:
    """A detector that resolves little: what metal covers is zero."""
    return replace(scene, config=replace(scene.config, detector=Detector(bits=12, electronic=8.0)))


def shown(display: Display, equalised: bool = False, inverted: bool = False, gamma: float = 1.0):  # type: ignore[no-untyped-def]
    """Counts become grey values of a screen, 8 bits."""

    def made(stored: np.ndarray, encoding: Encoding, scene: Scene) -> tuple[np.ndarray, Encoding]:
        image, _ = to_line_integrals(torch.from_numpy(stored), encoding)
        pitch = torch.tensor([[_PITCH, _PITCH]])
        y = displayed(image[None], torch.ones_like(image, dtype=torch.bool)[None], pitch, display)[0].numpy().astype(np.float64)
        if equalised:
            y = np.argsort(np.argsort(y.ravel(), kind="stable"), kind="stable").reshape(y.shape) / y.size
        y = np.round(255 * y**gamma)
        return (255 - y if inverted else y).astype(np.float32), Encoding("DISP", -1 if inverted else 1, 255.0)

    return made


def written(stored: np.ndarray, encoding: Encoding, scene: Scene) -> tuple[np.ndarray, Encoding]:
    """A line of text, and a side marker in a bright box, at the top of the range."""
    dots, out = glyphs().numpy(), stored.copy()
    top = float(stored.max()) if encoding.top is None else encoding.top
    for text, size, row, column in ((range(4, 14), 3, 16, 20), ((0,), 6, 330, 360)):
        for n, letter in enumerate(text):
            for a, b in zip(*np.nonzero(dots[letter]), strict=True):
                r, c = row + size * a, column + size * (6 * n + b)
                out[r : r + size, c : c + size] = top
    return out, encoding


def _collimated(scene: Scene, collimator: Collimator, scatter: float = 1.0) -> Scene:
    factor = replace(scene.config.scatter, factor=scene.config.scatter.factor * scatter)
    return replace(scene, config=replace(scene.config, collimator=collimator, scatter=factor))


def _developed(scene: Scene, *steps: Any) -> Scene:
    return replace(scene, develop=(*scene.develop, *steps))


Change = Callable[[Scene, torch.Generator], Scene]
_EDGY = Display(compression=0.5, edges=2.5, window=(0.5, 99.5), curve=2.0)
MISMATCHES: dict[str, Change] = {
    "none": lambda s, g: s,
    "CT 120 mm long": lambda s, g: shortened(s, 120.0),
    "CT 80 mm long": lambda s, g: shortened(s, 80.0),
    "couch in the CT": lambda s, g: s.with_scan(couched(s.patient.scan, rails=False)),
    "table under the X-ray": lambda s, g: s.with_body(couched(s.patient.body, rails=True)),
    "arm in the X-ray": lambda s, g: s.with_body(with_arm(s.patient.body, g)),
    "ECG leads": lambda s, g: _placed(s, {"ecg_electrode": 5}, g),
    "contrast in the CT": lambda s, g: contrast(s, True, False),
    "contrast in the X-ray": lambda s, g: contrast(s, False, True),
    "metal in the X-ray": lambda s, g: implant(_twelve_bits(s), g),
    "metal in the CT": lambda s, g: s.with_scan(screws(s.patient.scan, g)),
    "round field": lambda s, g: _collimated(s, Collimator.round(0.85, (0.12, -0.1))),
    "turned blades": lambda s, g: _collimated(s, Collimator.rectangle(0.6, 0.75, 17.0, (0.15, -0.12))),
    "faint blades": lambda s, g: _collimated(s, replace(Collimator.rectangle(0.7, 0.65, -9.0), leak=0.05), 2.0),
    "burnt-out lungs": lambda s, g: replace(s, config=replace(s.config, detector=Detector(bits=12, full_scale=0.12))),
    "both ends clipped": lambda s, g: _developed(s, shown(Display(0.0, edges=0.0, window=(25.0, 75.0), curve=0.0))),
    "S-curve, inverted": lambda s, g: _developed(s, shown(Display(curve=7.0, edges=0.0, compression=0.0), inverted=True)),
    "equalised histogram": lambda s, g: _developed(s, shown(Display(compression=0.0, edges=0.0, bits=0), equalised=True)),
    "edges enhanced": lambda s, g: _developed(s, shown(_EDGY, gamma=0.6)),
    "text and marker": lambda s, g: _developed(s, written),
    "many at once": lambda s, g: _many(s, g),
}


def _many(scene: Scene, random: torch.Generator) -> Scene:
    """Couch in the scan, table, arm, leads and metal in the exposure, turned blades, screen values with text."""
    scene = scene.with_scan(couched(scene.patient.scan, rails=False))
    scene = scene.with_body(couched(with_arm(scene.patient.body, random), rails=True))
    scene = implant(_placed(_twelve_bits(scene), {"ecg_electrode": 4}, random), random)
    scene = _collimated(scene, Collimator.rectangle(0.9, 0.8, 8.0, (0.05, -0.06)))
    return _developed(scene, shown(Display(curve=3.0, edges=1.0, window=(2.0, 98.0))), written)


# -- running ----------------------------------------------------------------------------------------------------------


def exposed(scene: Scene, random: torch.Generator) -> tuple[Tensor, Encoding]:
    """Stored values and what they stand for."""
    made = expose(scene.patient.body, scene.view, scene.pose, scene.config, random, extra=scene.extra or None)
    top = 2.0**scene.config.detector.bits - 1
    stored, encoding = made.counts.numpy().astype(np.float32), Encoding("LIN", 1, top)
    for step in scene.develop:
        stored, encoding = step(stored, encoding, scene)
    return torch.from_numpy(stored), encoding


def read(stored: Tensor, encoding: Encoding, view: View) -> XRay:
    """The exposure as a file of it would be read."""
    mask = validity_mask(stored, encoding)
    image, scale = to_line_integrals(stored, encoding, mask)
    return XRay(image, view, mask, scale)


def targets(volume: Volume) -> Tensor:
    """200 points of bone, LPS mm, from the middle three quarters of the scan."""
    bone = (volume.data[:, ::2, ::2] > 250).nonzero().to(torch.float64)
    chosen = bone[torch.randperm(len(bone), generator=torch.Generator().manual_seed(0))[:200]] * torch.tensor([1, 2, 2])
    return chosen.flip(1) @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def register(scene: Scene, xray: XRay, method: str, seed: int, points: Tensor) -> dict[str, Any]:
    """One registration from "center" and its errors."""
    problem = Problem(scene.patient.scan, (xray,), scene.start)
    begun = time.process_time()
    result = registrar(method, seed=seed).register(problem)
    seconds = time.process_time() - begun
    return {
        "patient": scene.patient.name,
        "start": float(mtre(problem.start, scene.pose, points)),
        "mtre": float(mtre(result.transform, scene.pose, points)),
        "mrpd": float(mrpd(result.transform, scene.pose, points, scene.view)),
        "seconds": seconds,
        "probability": result.confidence.probability,
        "trusted": result.confidence.trusted,
        "valid": float(xray.mask.float().mean()),
    }


def summary(kind: str, outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the table."""
    in_space, in_plane, seconds = (np.array([o[k] for o in outcomes]) for k in ("mtre", "mrpd", "seconds"))
    return {
        "mismatch": kind,
        "n": len(outcomes),
        "mtre_median": float(np.median(in_space)),
        "mtre_p95": float(np.percentile(in_space, 95)),
        "mrpd_median": float(np.median(in_plane)),
        "mrpd_p95": float(np.percentile(in_plane, 95)),
        "mtre_under_2": int((in_space < 2).sum()),
        "mrpd_under_2": int((in_plane < 2).sum()),
        "cpu_seconds_median": float(np.median(seconds)),
        "trusted": sum(o["trusted"] for o in outcomes),
        "silent_failures": sum(o["trusted"] and o["mtre"] > _WRONG for o in outcomes),
        "valid_median": float(np.median([o["valid"] for o in outcomes])),
        "cases": outcomes,
    }


def print_table(table: dict[str, Any]) -> None:
    """The rows as text, errors in mm."""
    print(f"{table['machine']}; seed {table['seed']}; " + ", ".join(f"{k} {v}" for k, v in table["versions"].items()))
    print(
        f"{'mismatch':22s} {'n':>3s}  {'mTRE':>6s} {'p95':>7s}  {'mRPD':>6s} {'p95':>7s}  {'mTRE<2':>6s} {'mRPD<2':>6s}"
        f"  {'CPU s':>6s}  {'trusted':>7s} {'silent':>6s}  {'valid':>5s}"
    )
    for r in table["rows"]:
        print(
            f"{r['mismatch']:22s} {r['n']:3d}  {r['mtre_median']:6.2f} {r['mtre_p95']:7.2f}  {r['mrpd_median']:6.2f}"
            f" {r['mrpd_p95']:7.2f}  {r['mtre_under_2']:6d} {r['mrpd_under_2']:6d}  {r['cpu_seconds_median']:6.2f}"
            f"  {r['trusted']:7d} {r['silent_failures']:6d}  {r['valid_median']:5.2f}"
        )
    print("CPU s of all threads; silent: trusted and wrong by over 10 mm; valid: share of the pixels that counted")


def main() -> None:
    """Parse, run, print."""
    parser = arguments(__doc__ or "")
    parser.set_defaults(kinds="", limit=2)
    parser.add_argument(
        "--table", choices=("keep", "remove"), default="keep", help="what becomes of a scanner's table in the scan"
    )
    given = parser.parse_args()
    kinds = [k.strip() for k in given.kinds.split(",") if k.strip()] or list(MISMATCHES)
    unknown = sorted(set(kinds) - {k.replace(",", "") for k in MISMATCHES} - set(MISMATCHES))
    if unknown:
        raise SystemExit(f"no mismatch called {', '.join(unknown)}: choose of {'; '.join(MISMATCHES)}")
    chosen = {k: change for k, change in MISMATCHES.items() if k in kinds or k.replace(",", "") in kinds}
    warm_kernels()
    outcomes: dict[str, list[dict[str, Any]]] = {k: [] for k in chosen}
    for number, patient in patients(given.data, given.cts):
        points = targets(patient.scan)
        for index, scene in scenes(patient, number, given.seed, given.limit):
            for kind, change in chosen.items():
                changed = change(scene, generator(given.seed, index, 1))
                xray = read(*exposed(changed, generator(given.seed, index, 2)), changed.view)
                if given.table == "remove":
                    changed = changed.with_scan(without_table(changed.patient.scan).volume)
                outcomes[kind].append({"case": index, **register(changed, xray, given.method, given.seed, points)})
                o = outcomes[kind][-1]
                print(
                    f"{patient.name} {index} {kind}: mTRE {o['mtre']:.2f} mRPD {o['mrpd']:.2f} p {o['probability']:.2f}"
                    f" valid {o['valid']:.2f} {o['seconds']:.1f} s", file=sys.stderr, flush=True
                )  # fmt: skip
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    rows = [summary(kind, found) for kind, found in outcomes.items() if found]
    table = {
        "rows": rows,
        "method": given.method,
        "table": given.table,
        "seed": given.seed,
        "machine": machine,
        "versions": versions(),
    }
    if given.json:
        print(json.dumps(table, indent=1))
    else:
        print_table(table)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
