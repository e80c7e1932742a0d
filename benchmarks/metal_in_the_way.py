"""A CT registered in exposures with metal that the CT does not hold: as they are, and with the metal masked out.

    python benchmarks/metal_in_the_way.py [--cases 2] [--names stem,nail,cup,screw] [--json FILE]

Patient, implants and exposures as in ``implants.py`` (one view, unclipped); the model is the patient's own CT, 3 mm voxels, cut
above and below. "without": no metal in the exposures. "masked": pixels with metal, and two about them, do not count; which they
are is known here. Errors are of landmarks about the hip.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from implants import exposures, patient, placed, twist

from raylign.evaluation.metrics import mrpd, mtre
from raylign.geometry import Rigid, se3
from raylign.registration import Direct, DirectConfig, Problem, SearchConfig
from raylign.simulation import PelvisConfig, pelvis


@dataclass(frozen=True)
class Outcome:
    """One registration: errors in mm."""

    name: str
    seed: int
    kind: str
    mtre: float
    mrpd: float
    trusted: bool


def main() -> None:
    """Parse, run, print."""
    from scipy.ndimage import binary_dilation

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--names", default="stem,nail,cup,screw")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = pelvis(PelvisConfig(voxel_mm=3.0, z_range=(-110.0, 100.0), meshes=False), seed=4).volume
    marks = patient().landmarks
    points = torch.stack([p for n, p in zip(marks.names, marks.points, strict=True) if "left" in n and "vertebrae" not in n])
    outcomes = []
    print("implant exposures n  mTRE: median    max   mRPD: median    max  trusted")
    for name in given.names.split(","):
        for seed in range(given.cases):
            _, gold, _ = placed(name, seed)
            (xray,), (metal,) = exposures(name, seed, 1)
            (clear,), _ = exposures(name, seed, 1, metal=False)
            hidden = torch.from_numpy(binary_dilation(metal.numpy() > 0.05, iterations=2))
            start = Rigid(se3.exp(twist(np.random.default_rng([9, seed]), 12.0, 15.0)) @ gold.matrix)
            some = {"without": clear, "as it is": xray, "masked": replace(xray, mask=xray.mask & ~hidden)}
            for kind, exposure in some.items():
                config = DirectConfig(search=SearchConfig(degrees=15.0, mm=20.0))
                result = Direct(config).register(Problem(model, (exposure,), start))
                a, b = float(mtre(result.transform, gold, points)), float(mrpd(result.transform, gold, points, exposure.view))
                outcomes.append(Outcome(name, seed, kind, a, b, result.confidence.trusted))
        for kind in ("without", "as it is", "masked"):
            found = [o for o in outcomes if o.name == name and o.kind == kind]
            space, plane = np.array([o.mtre for o in found]), np.array([o.mrpd for o in found])
            print(
                f"{name:7s} {kind:9s} {len(found):1d}  {np.median(space):12.2f} {space.max():6.2f}  {np.median(plane):12.2f}"
                f" {plane.max():6.2f}  {sum(o.trusted for o in found):7d}",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))


if __name__ == "__main__":
    main()
