"""Several views of one pose: of every kind, and with one among them that does not belong.

``python benchmarks/views.py [--seed 3] [--json]``

A chest phantom at a known pose, exposed by the simulator in six views of different size and quality: a good one, one of 20
photons a pixel, one collimated to a tenth of its area, one with an 8-bit display curve, one stored upside down, one with the
patient at its edge; and in views that are wrong: at a wrong angle, with wrong distances, of another patient, with only a sliver
of the patient. Each set is registered from 5 degrees and 9 mm off, and each view is then asked alone (``agreement``).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from raylign.cli.warm import warm_kernels
from raylign.data import Volume, XRay
from raylign.evaluation.metrics import mtre
from raylign.geometry import Rigid, View, se3
from raylign.registration import Direct, DirectConfig, Problem, SearchConfig, centred
from raylign.registration.agreement import agreement
from raylign.registration.calibration import adjusted
from raylign.simulation import Collimator, Dose, ExposureConfig, ThoraxConfig, expose
from raylign.simulation.phantoms import thorax

POSE = torch.tensor([0.12, -0.10, 0.14, 14.0, -9.0, 12.0], dtype=torch.float64)
OFF = torch.tensor([0.05, 0.04, -0.06, 5.0, 4.0, -6.0], dtype=torch.float64)
FIELD = (-200.0, 190.0)


def view(angles: tuple[float, float], pitch: float, shape: tuple[int, int], aside: float = 0.0) -> View:
    """A C-arm's view with the detector moved ``aside`` mm along its columns."""
    made = View.from_carm(primary=angles[0], secondary=angles[1], sid=1050, sod=720, pixel_spacing=pitch, shape=shape)
    return replace(made, origin=made.origin + aside * made.column_step / made.column_step.norm())


def shown(patient: Volume, pose: Rigid, seen: View, config: ExposureConfig, seed: int) -> XRay:
    """The exposure."""
    return expose(patient, seen, pose, config, torch.Generator().manual_seed(seed)).xray


def six(patient: Volume, pose: Rigid) -> dict[str, XRay]:
    """The views that belong."""
    plain = ExposureConfig()
    rows = {
        "good": (view((10, 4), 1.5625, (192, 192)), ExposureConfig(collimator=Collimator.round(0.95))),
        "noisy": (view((95, 0), 2.0, (150, 150)), ExposureConfig(dose=Dose(photons=20.0))),
        "collimated": (view((60, 0), 1.0, (300, 300)), ExposureConfig(collimator=Collimator.rectangle(0.35, 0.3))),
        "display": (view((-40, 10), 1.5, (200, 160)), plain),
        "turned": (view((-80, 0), 1.6, (180, 200)), plain),
        "edge": (view((130, 0), 1.5, (200, 200), 300.0), plain),
    }
    made = {name: shown(patient, pose, v, c, i) for i, (name, (v, c)) in enumerate(rows.items())}
    x = made["display"]
    low, high = float(x.image.min()), float(x.image.max())
    made["display"] = replace(x, image=(255 * ((x.image - low) / (high - low)).sqrt()).round(), scale="monotone")
    x = made["turned"]
    flipped = x.view.flip(columns=True, rows=True)
    made["turned"] = replace(x, image=x.image.flip(0).flip(1), mask=x.mask.flip(0).flip(1), view=flipped)
    return made


def sets(patient: Volume, stranger: Volume, pose: Rigid) -> Iterator[tuple[str, Sequence[XRay]]]:
    """Names and exposures of what is registered."""
    x = six(patient, pose)
    good, side = x["good"], x["turned"]
    yield "good", [good]
    for name in list(x)[1:]:
        yield f"good, {name}", [good, x[name]]
    yield "all six", list(x.values())
    yield "good, sliver", [good, shown(patient, pose, view((130, 0), 1.5, (200, 200), 372.0), ExposureConfig(), 9)]
    for degrees in (0.3, 1.0, 3.0, 8.0):
        wrong = replace(side, view=adjusted(side.view, [0, 0, 0, degrees, 0, 0]))
        yield f"good, turned {degrees:g} degrees off", [good, wrong]
        if degrees > 1:
            yield f"good, display, turned {degrees:g} degrees off", [good, x["display"], wrong]
    yield "good, turned with wrong distances", [good, replace(side, view=adjusted(side.view, [15, 5, 5, 0, 0, 0]))]
    other = shown(stranger, pose, view((-80, 0), 1.6, (180, 200)), ExposureConfig(), 2)
    yield "good, another patient's", [good, other]
    yield "good, display, another patient's", [good, x["display"], other]


def attempt(name: str, model: Volume, xrays: Sequence[XRay], pose: Rigid) -> dict[str, Any]:
    """One registration and what each view says of it."""
    offsets = torch.tensor([[x, y, z] for x in (-60, 60) for y in (-40, 50) for z in (-70, 70)], dtype=torch.float64)
    problem = Problem(model, tuple(xrays), Rigid(se3.exp(OFF) @ pose.matrix))
    search = SearchConfig(degrees=10, mm=15, hypotheses=1)
    result = Direct(DirectConfig(search=search)).register(problem)
    begun = time.process_time()
    found = agreement(problem, result)
    return {
        "views": name,
        "mtre": float(mtre(result.transform, pose, model.centre + offsets)),
        "probability": result.confidence.probability,
        "sd_mm": float(result.standard_deviations[1].max()),
        "apart": found.apart.tolist(),
        "shares": found.shares.tolist(),
        "alone": found.alone.tolist(),
        "named": [reason.split(" alone")[0] for reason in found.reasons()],
        "seconds": time.process_time() - begun,
    }


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=3, help="of the phantom")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    warm_kernels()
    model = thorax(ThoraxConfig(voxel_mm=3.0), seed=given.seed).volume
    patient = thorax(ThoraxConfig(voxel_mm=2.5, z_range=FIELD), seed=given.seed).volume
    stranger = thorax(ThoraxConfig(voxel_mm=3.0, z_range=FIELD), seed=given.seed + 5).volume
    pose = Rigid(se3.exp(POSE) @ centred(model).matrix)
    rows = [attempt(name, model, xrays, pose) for name, xrays in sets(patient, stranger, pose)]
    if given.json:
        print(json.dumps({"rows": rows, "seed": given.seed}, indent=1))
        return
    print("apart: mm by which each view alone would move the model; shares: explained together, and alone (second finest level)")
    for r in rows:
        apart, shares, alone = (" ".join(f"{v:.2f}" for v in r[key]) for key in ("apart", "shares", "alone"))
        print(
            f"{r['views']:38s} mTRE {r['mtre']:5.2f}  p {r['probability']:.2f}  sd {r['sd_mm']:.2f}  apart {apart}"
            f"  shares {shares}  alone {alone}  {'; '.join(r['named'])}  {r['seconds']:.2f} s"
        )


if __name__ == "__main__":
    main()
