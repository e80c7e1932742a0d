"""The last step on exposures by another simulator: ``python benchmarks/dose_shared.py [--data FOLDER] [--count 3]``.

The first cases of each kind of the shared data, from the true pose: mTRE and mRPD in mm and the squared Mahalanobis distance of
the direct method's end and of the last step's, and the voltage that was fitted.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from cases import cases, mahalanobis

from raylign.evaluation.metrics import mrpd, mtre
from raylign.io import read_volume, read_xray
from raylign.registration import Direct, DirectConfig, Problem, SearchConfig
from raylign.registration.polish import polish

_KINDS = (
    ("totalseg_pelvis_3mm_ct", "totalseg_pelvis/plain"),
    ("lidc0001_chest", "lidc0001/real"),
    ("lidc0001_chest", "lidc0001/plain"),
    ("vhf_pelvis_ct", "vhf_pelvis/real"),
)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--count", type=int, default=3, help="cases of each kind")
    given = parser.parse_args()
    for ct, kind in _KINDS:
        suffix = ".nii.gz" if (given.data / "ct" / f"{ct}.nii.gz").exists() else ""
        volume = read_volume(given.data / "ct" / f"{ct}{suffix}")
        for case in islice(cases(given.data / "cases" / kind), given.count):
            xrays = tuple(read_xray(file) for file in case.files)
            problem = Problem(volume, xrays, case.pose)
            direct = Direct(DirectConfig(search=SearchConfig(hypotheses=1))).search_once(problem)
            last = polish(problem, direct)
            told = [
                f"mTRE {float(mtre(r.transform, case.pose, case.targets)):.4f}"
                f" mRPD {float(mrpd(r.transform, case.pose, case.targets, [x.view for x in xrays])):.4f}"
                f" d2 {mahalanobis(r, case.pose):.1f}"
                for r in (direct, last)
            ]
            print(kind, case.name, *told, last.settings["polish"]["kv"], sep=" | ", flush=True)


if __name__ == "__main__":
    main()
