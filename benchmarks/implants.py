"""Registration of implants without intensities (stem, cup, screw, nail, ball) in exposures of a whole pelvis.

    python benchmarks/implants.py [--cases 4] [--views 1,2] [--kinds plain,clipped] [--names stem,cup,...] [--plain-model]
        [--json FILE]

The patient is the pelvis phantom, the implant lies in or beside its left hip, turned by up to 15 degrees from where it would be,
and the patient by up to 10 degrees and 12 mm. Exposures are polyenergetic (80 kV), scattered, noisy, 512 x 512 pixels of 0.59 mm;
two views are 60 degrees apart. "clipped": eight bits of a display whose window ends at the 99th percentile of what is not behind
metal, read as a file would be. Starts are up to 15 degrees and 20 mm off. Errors are the least over the implant's symmetries;
targets are points of its surface. ``--plain-model`` leaves out what this is about (clipped metal given back, bent line integrals,
symmetries looked into). Seconds are processor time of the registration on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from implant_shapes import SHAPES, Implant, implant

from raylign.data import Volume, XRay
from raylign.data.exposure import Encoding, to_line_integrals
from raylign.data.field import validity_mask
from raylign.data.solids import Solidity, solid_volume
from raylign.evaluation.metrics import mpd, mrpd, mtre, pose_error, symmetric_error
from raylign.geometry import Rigid, View, se3
from raylign.projection.mesh import project_mesh
from raylign.registration import Direct, DirectConfig, Problem, Result, SearchConfig
from raylign.registration.implants import Implants
from raylign.registration.symmetry import Symmetry, symmetry_of
from raylign.simulation import ExposureConfig, PelvisConfig, Subject, expose, pelvis
from raylign.simulation.physics.apparatus import Collimator, Tube

_TITANIUM = 0.25  # 1/mm in excess over water, 70 keV
_ANGLES = {1: (0.0,), 2: (0.0, 60.0)}


@dataclass(frozen=True)
class Outcome:
    """One case: errors in mm and degrees, least over the symmetries; what was said of it."""

    name: str
    kind: str
    views: int
    seed: int
    start: float
    mtre: float
    mpd: float
    mrpd: float
    in_plane: float
    depth: float
    depth_sd: float
    free: int
    alike: int
    nearest_alike: float
    probability: float
    trusted: bool
    seconds: float


@lru_cache(maxsize=1)
def patient() -> Subject:
    """The pelvis, long enough for every ray."""
    return pelvis(PelvisConfig(z_range=(-210.0, 170.0), meshes=False), seed=4)


@cache
def prepared(name: str) -> tuple[Implant, Volume, Symmetry]:
    """An implant, its volume and its symmetries."""
    it = implant(name)
    return it, solid_volume(it.mesh, Solidity(excess=_TITANIUM, shell_mm=0.0)), symmetry_of(it.mesh)


def frame(z: tuple[float, float, float], x: tuple[float, float, float] = (1.0, 0.0, 0.0)) -> torch.Tensor:
    """[3, 3] axes as columns: z as given, x as near to the one given as a right angle allows."""
    c = np.array(z) / np.linalg.norm(z)
    a = np.array(x) - np.dot(x, c) * c
    a /= np.linalg.norm(a)
    return torch.from_numpy(np.stack([a, np.cross(c, a), c], 1))


SITES = {
    "stem": (frame((0.08, 0.05, 1.0), (-1.0, 0.15, 0.0)), "femur_left/neck"),
    "cup": (frame((0.65, -0.3, -0.68)), "femur_left/fh"),
    "screw": (frame((-0.7, -0.1, 0.5)), "femur_left/neck"),
    "nail": (frame((0.05, 0.05, 1.0), (-1.0, 0.2, 0.0)), "femur_left/lesser_trochanter"),
    "ball": (frame((0.0, 0.0, 1.0)), "femur_left/fh"),
}
"""Axes of an implant in the patient, LPS, and the landmark at which the middle of its bounding box lies."""


def twist(rng: np.random.Generator, degrees: float, mm: float) -> torch.Tensor:
    """A turn and a shift, each uniform in a ball."""
    turn, shift = rng.standard_normal((2, 3))
    turn *= np.radians(degrees) * rng.random() ** (1 / 3) / np.linalg.norm(turn)
    shift *= mm * rng.random() ** (1 / 3) / np.linalg.norm(shift)
    return torch.from_numpy(np.concatenate([turn, shift]))


def placed(name: str, seed: int) -> tuple[Rigid, Rigid, Rigid]:
    """``T_world_from_implant``, ``T_world_from_volume`` of the patient, and a start."""
    rng = np.random.default_rng([seed, *map(ord, name)])
    axes, where = SITES[name]
    vertices = prepared(name)[0].mesh.vertices
    middle = (vertices.amin(0) + vertices.amax(0)) / 2
    marks = patient().landmarks
    site = marks.points[marks.names.index(where)]
    inside = torch.eye(4, dtype=torch.float64)
    inside[:3, :3] = se3.exp(twist(rng, 15.0, 0.0))[:3, :3] @ axes
    inside[:3, 3] = site - inside[:3, :3] @ middle
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = -site
    body = se3.exp(twist(rng, 10.0, 12.0)) @ shift
    truth = Rigid(body @ inside)
    about = torch.eye(4, dtype=torch.float64)
    about[:3, 3] = truth.apply(middle[None])[0]
    start = about @ se3.exp(twist(rng, 15.0, 20.0)) @ se3.inverse(about) @ truth.matrix
    return truth, Rigid(body), Rigid(start)


def exposures(name: str, seed: int, views: int, *, metal: bool = True) -> tuple[tuple[XRay, ...], tuple[torch.Tensor, ...]]:
    """Exposures of patient and implant (or without it), and mm of metal [H, W] on their rays."""
    truth, body, _ = placed(name, seed)
    it = prepared(name)[0]
    config = ExposureConfig(tube=Tube(kv=80.0), collimator=Collimator.round(0.97))
    out, paths = [], []
    for k, angle in enumerate(_ANGLES[views]):
        view = View.from_carm(primary=angle, secondary=0.0, sid=1050, sod=720, pixel_spacing=300 / 512, shape=(512, 512))
        mm = project_mesh(it.mesh, view, truth)[0, 0]
        generator = torch.Generator().manual_seed(100 * seed + k)
        out.append(expose(patient(), view, body, config, generator, extra={it.material: mm} if metal else None).xray)
        paths.append(mm)
    return tuple(out), tuple(paths)


def clipped(xray: XRay, metal: torch.Tensor) -> XRay:
    """The exposure as a display of eight bits has it, black behind metal."""
    image, mask = xray.image.numpy(), xray.mask.numpy()
    low = np.percentile(image[mask], 1)
    high = np.percentile(image[mask & (metal.numpy() == 0)], 99)
    stored = np.where(mask, np.round(255 * (1 - np.clip((image - low) / (high - low), 0, 1))), 0).astype(np.float32)
    encoding, values = Encoding("DISP", 1, 255.0), torch.from_numpy(stored)
    lines, scale = to_line_integrals(values, encoding)
    return XRay(lines, xray.view, validity_mask(values, encoding) & xray.mask, scale)


def registered(xrays: tuple[XRay, ...], name: str, start: Rigid, *, plain: bool) -> Result:
    """What is measured."""
    _, model, symmetry = prepared(name)
    config = DirectConfig(search=SearchConfig(degrees=15.0, mm=20.0))
    if plain:
        return Direct(config).register(Problem(model, xrays, start))
    return Implants(symmetry, config).register(Problem(model, xrays, start))


def run(name: str, seed: int, views: int, kinds: list[str], *, plain: bool) -> list[Outcome]:
    """One case, by all kinds of exposures."""
    truth, _, start = placed(name, seed)
    symmetry = prepared(name)[2]
    xrays, metal = exposures(name, seed, views)
    points, looks = symmetry.points, [x.view for x in xrays]
    found = []
    for kind in kinds:
        given = xrays if kind == "plain" else tuple(clipped(x, m) for x, m in zip(xrays, metal, strict=True))
        begun = time.process_time()
        result = registered(given, name, start, plain=plain)
        seconds = time.process_time() - begun
        error, equivalent = symmetric_error(lambda p, g: mtre(p, g, points), result.transform, truth, symmetry)
        split = pose_error(equivalent, truth, points, looks[0])
        said = result.ambiguity
        others = [] if said is None else [p for p, _ in said.alike]
        axis = looks[0].normal.detach()
        found.append(
            Outcome(
                name,
                kind,
                views,
                seed,
                float(mtre(start, truth, points)),
                error,
                symmetric_error(lambda p, g: mpd(p, g, points, looks), result.transform, truth, symmetry)[0],
                symmetric_error(lambda p, g: mrpd(p, g, points, looks), result.transform, truth, symmetry)[0],
                split.in_plane,
                split.depth,
                float((axis @ result.covariance[3:, 3:] @ axis).sqrt()),
                -1 if said is None else said.free,
                len(others),
                min([symmetric_error(lambda p, g: mtre(p, g, points), o, truth, symmetry)[0] for o in others], default=np.inf),
                result.confidence.probability,
                result.confidence.trusted,
                seconds,
            )
        )
    return found


def row(outcomes: list[Outcome]) -> str:
    """One line of the table."""
    a = {k: np.array([getattr(o, k) for o in outcomes], float) for k in asdict(outcomes[0]) if k not in ("name", "kind")}
    first = outcomes[0]
    silent = sum(o.trusted and o.mtre > 10 for o in outcomes)
    right = SHAPES[first.name][2]
    stated = sum(o.free == right for o in outcomes)
    caught = sum(o.mtre > 10 and (not o.trusted or o.nearest_alike < 10) for o in outcomes)
    return (
        f"{first.name:6s} {first.kind:8s} {first.views:5d} {len(outcomes):3d}  {np.median(a['start']):5.1f}"
        f"  {np.median(a['mtre']):6.2f} {a['mtre'].max():6.2f}  {np.median(a['mrpd']):5.2f} {a['mrpd'].max():5.2f}"
        f"  {100 * (a['mpd'] < 2).mean():4.0f} {100 * (a['mrpd'] < 1).mean():4.0f}"
        f"  {np.median(a['in_plane']):5.2f} {np.median(np.abs(a['depth'])):5.1f} {np.median(a['depth_sd']):5.1f}"
        f"  {stated:3d} {sum(o.alike > 0 for o in outcomes):5d}  {sum(o.trusted for o in outcomes):7d} {silent:6d} {caught:6d}"
        f"  {np.median(a['seconds']):5.2f}"
    )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--views", default="1,2")
    parser.add_argument("--kinds", default="plain,clipped")
    parser.add_argument("--names", default=",".join(SHAPES))
    parser.add_argument("--plain-model", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    outcomes: list[Outcome] = []
    kinds = given.kinds.split(",")
    print(
        "implant exposure views   n  start    mTRE    max   mRPD   max  %mPD<2 %mRPD<1  plane |depth| its sd"
        "  free alike  trusted silent"
        " caught  CPU s"
    )
    for name in given.names.split(","):
        for views in map(int, given.views.split(",")):
            cases = [
                o
                for seed in range(given.first, given.first + given.cases)
                for o in run(name, seed, views, kinds, plain=given.plain_model)
            ]
            outcomes += cases
            for kind in kinds:
                print(row([o for o in cases if o.kind == kind]), flush=True)
    if given.json:
        given.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))


if __name__ == "__main__":
    main()
