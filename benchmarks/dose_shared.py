"""The last step on exposures by another simulator: ``python benchmarks/dose_shared.py [--data FOLDER] [--count 8]``.

The first cases of each kind of the shared data, from the true pose: mTRE and mRPD in mm and the squared Mahalanobis distance of
the direct method's end, of the last step's windows and of the whole last step, the voltage that was fitted and whether counted
photons' step was taken. Then the medians, and in how many cases each is nearer than the direct method.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
from cases import cases, mahalanobis

from raylign.cli.warm import warm_kernels
from raylign.evaluation.metrics import mrpd, mtre
from raylign.io import read_volume, read_xray
from raylign.registration import Direct, DirectConfig, Problem, SearchConfig
from raylign.registration.polish import PolishConfig, polish

_KINDS = (
    ("totalseg_pelvis_3mm_ct", "totalseg_pelvis/plain"),
    ("lidc0001_chest", "lidc0001/real"),
    ("lidc0001_chest", "lidc0001/plain"),
    ("lidc0001_chest", "lidc0001/biplane"),
    ("vhf_pelvis_ct", "vhf_pelvis/real"),
    ("vhf_pelvis_ct", "vhf_pelvis/plain"),
    ("vhf_pelvis_ct", "vhf_pelvis/biplane"),
)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--count", type=int, default=8, help="cases of each kind")
    given = parser.parse_args()
    warm_kernels()
    errors = []
    for ct, kind in _KINDS:
        suffix = ".nii.gz" if (given.data / "ct" / f"{ct}.nii.gz").exists() else ""
        volume = read_volume(given.data / "ct" / f"{ct}{suffix}")
        for case in islice(cases(given.data / "cases" / kind), given.count):
            xrays = tuple(read_xray(file) for file in case.files)
            problem = Problem(volume, xrays, case.pose)
            direct = Direct(DirectConfig(search=SearchConfig(hypotheses=1))).search_once(problem)
            last = polish(problem, direct)
            ends = (direct, polish(problem, direct, PolishConfig(counts=False)), last)
            views = [x.view for x in xrays]
            both = [
                (float(mtre(r.transform, case.pose, case.targets)), float(mrpd(r.transform, case.pose, case.targets, views)))
                for r in ends
            ]
            errors.append(both)
            told = [
                f"mTRE {far:.4f} mRPD {across:.4f} d2 {mahalanobis(r, case.pose):.1f}"
                for (far, across), r in zip(both, ends, strict=True)
            ]
            settings = last.settings["polish"]
            print(kind, case.name, *told, settings["kv"], settings.get("counted", False), sep=" | ", flush=True)
    found = np.array(errors)
    for number, name in enumerate(("direct", "windows", "last step")):
        nearer = (found[:, number] < found[:, 0]).sum(0)
        (far, across), (far_mean, across_mean) = np.median(found[:, number], 0), found[:, number].mean(0)
        print(
            f"{name:10s} n {len(found)}: mTRE median {far:.4f} mean {far_mean:.4f}, nearer in {nearer[0]};"
            f" mRPD median {across:.4f} mean {across_mean:.4f}, nearer in {nearer[1]}"
        )


if __name__ == "__main__":
    main()
