"""Registration with views whose geometry is not quite as their headers say, without and with refining the geometry.

``python benchmarks/geometry.py [--poses 4] [--headers 4] [--law uniform] [--sid 15] [--principal 5] [--angle 2] [--json]``

Two phantoms (thorax, pelvis), exposed by the simulator at known poses in two views 90 degrees apart, the body going on beyond the
model. Their headers are then made wrong within the bounds: source distance, principal point, and the angles of the second view
(the first view's angles say where the world is). ``--law uniform`` fills the bounds evenly, ``normal`` is the prior that the
refinement assumes, cut at the bounds. Each pair is registered from up to 3 degrees and 5 mm off per axis, then refined; likewise
the first view alone. Errors are against the true pose, mRPD across the rays of the true views. ``detector`` is what mPD becomes
where views err too: the mean distance on the detector, mm, between the targets as true pose and true views show them and as the
estimated ones do. Seconds are of processor time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2

from raylign.cli.warm import warm_kernels
from raylign.data import Volume, XRay
from raylign.evaluation.metrics import mrpd, mtre
from raylign.geometry import Rigid, View, se3
from raylign.registration import Direct, DirectConfig, Problem, Result, SearchConfig, centred
from raylign.registration.calibration import PARAMETERS, adjusted
from raylign.registration.geometry import GeometryBounds, GeometryConfig, refine_geometry
from raylign.simulation import Collimator, ExposureConfig, PelvisConfig, ThoraxConfig, expose
from raylign.simulation.phantoms import pelvis, thorax

SEARCH = SearchConfig(degrees=8.0, mm=12.0, hypotheses=1)


@dataclass(frozen=True, eq=False)
class Scene:
    """A model, two exposures of one pose with their true views, and where the targets are (LPS mm)."""

    name: str
    model: Volume
    xrays: tuple[XRay, XRay]
    pose: Rigid
    targets: torch.Tensor


def phantom(name: str) -> tuple[Volume, Volume]:
    """The model, 3 mm voxels and cut at both ends, and the patient, who is finer and goes on."""
    if name == "thorax":
        model = thorax(ThoraxConfig(voxel_mm=3.0), seed=11).volume
        return model, thorax(ThoraxConfig(voxel_mm=2.5, z_range=(-200, 190)), seed=11).volume
    model = pelvis(PelvisConfig(voxel_mm=3.0, meshes=False), seed=11).volume
    return model, pelvis(PelvisConfig(voxel_mm=2.5, z_range=(-200, 250), meshes=False), seed=11).volume


def scenes(poses: int, size: int, seed: int) -> Iterator[Scene]:
    """``poses`` scenes of each phantom."""
    for name in ("thorax", "pelvis"):
        model, patient = phantom(name)
        offsets = torch.tensor([[x, y, z] for x in (-60, 60) for y in (-40, 40) for z in (-60, 60)], dtype=torch.float64)
        targets = model.centre + offsets
        for i in range(poses):
            rng = np.random.default_rng([seed, i, len(name)])
            twist = np.concatenate([np.radians(rng.uniform(-10, 10, 3)), rng.uniform(-15, 15, 3)])
            pose = Rigid(se3.exp(torch.from_numpy(twist)) @ centred(model).matrix)
            primary, secondary = rng.uniform(-30, 30), rng.uniform(-10, 10)
            xrays = []
            for k, angle in enumerate((primary, primary + 90)):
                view = View.from_carm(
                    primary=angle, secondary=secondary, sid=1100, sod=750, pixel_spacing=380 / size, shape=(size, size)
                )
                config = ExposureConfig(collimator=Collimator.round(0.97))
                xrays.append(expose(patient, view, pose, config, torch.Generator().manual_seed(1000 * seed + 10 * i + k)).xray)
            yield Scene(name, model, (xrays[0], xrays[1]), pose, targets)


def mislabelled(xray: XRay, offsets: np.ndarray) -> XRay:
    """The exposure with a header from which ``offsets`` lead to the true view."""
    view = xray.view
    for _ in range(50):  # ``adjusted`` is not its own inverse at minus the offsets; this converges to machine precision
        made = adjusted(view, offsets)
        difference = xray.view.vectors - made.vectors
        view = replace(view, **dict(zip(("source", "origin", "column_step", "row_step"), view.vectors + difference, strict=True)))
        if float(difference.abs().max()) < 1e-10:
            break
    return replace(xray, view=view)


def mahalanobis(result: Result, truth: Rigid, covariance: torch.Tensor) -> float:
    """Squared length of the true error in standard deviations; chi squared of 6 (median 5.3) where the covariance is right."""
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = result.centre
    error = se3.log(se3.inverse(shift) @ truth.matrix @ se3.inverse(result.transform.matrix) @ shift)
    return float(error @ torch.linalg.pinv(covariance, hermitian=True) @ error)


def errors(scene: Scene, views: list[View], found: Rigid, seen: list[View]) -> dict[str, float]:
    """Of a pose and the views that it goes with."""
    turn = torch.rad2deg(se3.log_rotation(found.matrix[:3, :3] @ scene.pose.matrix[:3, :3].T).norm())
    apart = []
    for true, estimate in zip(views, seen, strict=True):
        pixels = estimate.project(found.apply(scene.targets)) - true.project(scene.pose.apply(scene.targets))
        apart.append(float((pixels @ torch.stack([true.column_step, true.row_step])).norm(dim=1).mean()))
    return {
        "mtre": float(mtre(found, scene.pose, scene.targets)),
        "mrpd": float(mrpd(found, scene.pose, scene.targets, views)),
        "turn": float(turn),
        "detector": float(np.mean(apart)),
    }


def attempt(scene: Scene, offsets: np.ndarray, bounds: GeometryBounds, start: Rigid) -> dict[str, Any]:
    """One header, registered and refined; ``offsets`` [views, 6]."""
    views = [x.view for x in scene.xrays[: len(offsets)]]
    xrays = tuple(mislabelled(x, o) for x, o in zip(scene.xrays, offsets, strict=False))
    problem = Problem(scene.model, xrays, start)
    clock = [time.process_time()]
    plain = Direct(DirectConfig(search=SEARCH)).register(problem)
    clock.append(time.process_time())
    refined = refine_geometry(problem, plain, bounds, GeometryConfig())
    clock.append(time.process_time())
    sd = refined.sd.numpy()
    return {
        "before": errors(scene, views, plain.transform, [x.view for x in xrays]),
        "after": errors(scene, views, refined.result.transform, list(refined.views)),
        "mahalanobis_before": mahalanobis(plain, scene.pose, plain.covariance),
        "mahalanobis_held": mahalanobis(refined.result, scene.pose, refined.held_covariance),
        "mahalanobis_after": mahalanobis(refined.result, scene.pose, refined.result.covariance),
        "sd_before": plain.covariance.diagonal().sqrt().tolist(),
        "sd_after": refined.result.covariance.diagonal().sqrt().tolist(),
        "offsets": offsets.tolist(),
        "found": refined.offsets.tolist(),
        "sd": sd.tolist(),
        "at_bound": int(refined.at_bound.sum()),
        "seconds": [clock[1] - clock[0], clock[2] - clock[1]],
    }


def offset_row(done: list[dict[str, Any]], view: int) -> dict[str, dict[str, float]]:
    """RMS error of each offset before (all taken as zero) and after, the mean standard deviation, and their agreement."""
    true, found, sd = (np.array([d[key][view] for d in done]) for key in ("offsets", "found", "sd"))
    rows = {}
    for i, name in enumerate(PARAMETERS):
        if (sd[:, i] > 0).all():
            error = found[:, i] - true[:, i]
            rows[name] = {
                "before": float(np.sqrt((true[:, i] ** 2).mean())),
                "after": float(np.sqrt((error**2).mean())),
                "sd": float(sd[:, i].mean()),
                "within_two_sd": float((np.abs(error) <= 2 * sd[:, i]).mean()),
            }
    return rows


def summary(name: str, views: int, done: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table."""
    out: dict[str, Any] = {"phantom": name, "views": views, "n": len(done)}
    for when in ("before", "after"):
        for key in ("mtre", "mrpd", "turn", "detector"):
            values = [d[when][key] for d in done]
            out[f"{key}_{when}"] = [float(np.median(values)), float(np.percentile(values, 95))]
    for key in ("before", "held", "after"):
        squared = np.array([d[f"mahalanobis_{key}"] for d in done])
        out[f"mahalanobis_{key}"] = float(np.median(squared))
        out[f"inside_95_{key}"] = float((squared <= chi2.ppf(0.95, 6)).mean())
    for when in ("before", "after"):
        sd = np.array([d[f"sd_{when}"] for d in done])
        out[f"sd_{when}"] = [float(np.degrees(sd[:, :3]).mean()), float(sd[:, 3:].mean())]
    out["offsets"] = [offset_row(done, view) for view in range(views)]
    out["at_bound"] = sum(d["at_bound"] for d in done)
    out["seconds"] = np.median([d["seconds"] for d in done], axis=0).tolist()
    return out


def print_table(table: dict[str, Any]) -> None:
    """The rows as text."""
    print("medians / 95th percentiles, mm; turn in degrees; M^2: 5.3 where the covariance is right; % inside: its 95 % region")
    for r in table["rows"]:
        print(f"\n{r['phantom']}, {r['views']} view(s), n = {r['n']}; offsets at their bound: {r['at_bound']}")
        heads = "".join(f" {name:>12s}" for name in ("mTRE", "mRPD", "turn", "detector"))
        print(f"{'':9s}{heads} {'M^2':>9s} {'inside':>6s} {'sd deg, mm':>12s} {'s':>5s}")
        for k, when in enumerate(("before", "after")):
            numbers = " ".join("{:5.2f} /{:5.2f}".format(*r[f"{key}_{when}"]) for key in ("mtre", "mrpd", "turn", "detector"))
            inside = f"{r[f'mahalanobis_{when}']:9.1f} {100 * r[f'inside_95_{when}']:5.0f}%"
            print(f"{when:9s} {numbers} {inside} {r[f'sd_{when}'][0]:6.2f}{r[f'sd_{when}'][1]:6.2f} {r['seconds'][k]:5.2f}")
        print(f"as if the refined geometry were exact: M^2 {r['mahalanobis_held']:.1f}, {100 * r['inside_95_held']:.0f} % inside")
        for view, offsets in enumerate(r["offsets"]):
            for name, o in offsets.items():
                print(
                    f"  view {view + 1} {name:17s} rms {o['before']:5.2f} -> {o['after']:5.2f}, sd {o['sd']:5.2f},"
                    f" {100 * o['within_two_sd']:3.0f} % within two"
                )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--poses", type=int, default=4, help="of each phantom")
    parser.add_argument("--headers", type=int, default=4, help="wrong headers for each pose")
    parser.add_argument("--law", default="uniform", choices=("uniform", "normal"), help="of wrong headers")
    parser.add_argument("--sid", type=float, default=15.0, help="bound of the source distance, mm")
    parser.add_argument("--principal", type=float, default=5.0, help="bound of the principal point, mm")
    parser.add_argument("--angle", type=float, default=2.0, help="bound of the angles, degrees")
    parser.add_argument("--size", type=int, default=256, help="pixels along a side of the 380 mm detector")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    warm_kernels()
    bounds = GeometryBounds(given.sid, given.principal, given.angle)
    done: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for k, scene in enumerate(scenes(given.poses, given.size, given.seed)):
        rng = np.random.default_rng([given.seed, k])
        for _ in range(given.headers):
            drawn = rng.uniform(-1, 1, (2, 6)) if given.law == "uniform" else np.clip(rng.normal(0, 0.5, (2, 6)), -1, 1)
            offsets = drawn * bounds.widths(2)
            off = np.concatenate([np.radians(rng.uniform(-3, 3, 3)), rng.uniform(-5, 5, 3)])
            turned = torch.eye(4, dtype=torch.float64)
            turned[:3, 3] = scene.model.centre
            start = Rigid(scene.pose.matrix @ turned @ se3.exp(torch.from_numpy(off)) @ se3.inverse(turned))
            for views in (2, 1):
                done.setdefault((scene.name, views), []).append(attempt(scene, offsets[:views], bounds, start))
    rows = [summary(name, views, some) for (name, views), some in done.items()]
    table = {"rows": rows, "bounds": bounds.__dict__, "law": given.law, "seed": given.seed, "size": given.size}
    if given.json:
        print(json.dumps(table, indent=1))
    else:
        print_table(table)


if __name__ == "__main__":
    main()
