"""Registration accuracy and time on exposures of known pose: one table a CT and kind.

``python benchmarks/cases.py --data FOLDER [--kinds plain,real,biplane] [--cts NAME,...] [--json]``

FOLDER holds ``ct/`` and ``cases/CT/KIND/`` with exposures (DICOM XA) and a ``truth.json``: ``pose_world_from_ct`` and ``files``
of each case, ``targets_ct`` for all. Every case is registered as ``raylign register VOLUME XRAY... --init center`` does. The
scan is read once; the seconds are those of the registration alone, kernels loaded. One case is also run as a command, from the
shell to the report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylign.cli.warm import warm_kernels
from raylign.data import Volume
from raylign.errors import InputError
from raylign.evaluation.metrics import mrpd, mtre
from raylign.geometry import Rigid, se3
from raylign.io import read_volume, read_xray
from raylign.registration import METHODS, Problem, Result, centred, registrar
from raylign.registration.versions import versions

_WRONG = 10.0  # mm: an error beyond it that is trusted is a silent failure
_SUFFIXES = ("_ct.nii.gz", "_3mm_ct.nii.gz", "_chest", ".nii.gz", "")


@dataclass(frozen=True)
class Outcome:
    """One case: errors in mm, seconds, whether it was trusted, and the squared Mahalanobis length of the true error."""

    name: str
    start: float
    mtre: float
    mrpd: float
    seconds: float
    probability: float
    trusted: bool
    mahalanobis: float


@dataclass(frozen=True, eq=False)
class Case:
    """One registration of which the answer is known."""

    name: str
    files: tuple[Path, ...]
    pose: Rigid
    targets: torch.Tensor


def cases(folder: Path) -> Iterator[Case]:
    """The cases that a folder's ``truth.json`` names."""
    truth = json.loads((folder / "truth.json").read_text())
    targets = torch.tensor(truth["targets_ct"], dtype=torch.float64)
    for name, case in truth["cases"].items():
        files = tuple(folder / file for file in case["files"])
        yield Case(name, files, Rigid(torch.tensor(case["pose_world_from_ct"], dtype=torch.float64)), targets)


def scan(data: Path, ct: str) -> Path:
    """The file or folder of a CT's name."""
    for suffix in _SUFFIXES:
        if (data / "ct" / f"{ct}{suffix}").exists():
            return data / "ct" / f"{ct}{suffix}"
    raise SystemExit(f"no CT called {ct} in {data / 'ct'}")


def mahalanobis(result: Result, truth: Rigid) -> float:
    """Squared length of the true error in standard deviations; chi squared of 6 (median 5.3) where the covariance is right."""
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = result.centre
    error = se3.log(se3.inverse(shift) @ truth.matrix @ se3.inverse(result.transform.matrix) @ shift)
    return float(error @ torch.linalg.pinv(result.covariance, hermitian=True) @ error)


def run(case: Case, volume: Volume, method: str, seed: int) -> Outcome:
    """Register one case from "center"."""
    xrays = tuple(read_xray(file) for file in case.files)
    # a volume of its own: levels made for another case would not be made again
    problem = Problem(replace(volume), xrays, centred(volume))
    begun = time.perf_counter()
    result = registrar(method, seed=seed).register(problem)
    seconds = time.perf_counter() - begun
    views = [x.view for x in xrays]
    return Outcome(
        case.name,
        float(mtre(problem.start, case.pose, case.targets)),
        float(mtre(result.transform, case.pose, case.targets)),
        float(mrpd(result.transform, case.pose, case.targets, views)),
        seconds,
        result.confidence.probability,
        result.confidence.trusted,
        mahalanobis(result, case.pose),
    )


def row(ct: str, kind: str, outcomes: list[Outcome]) -> dict[str, Any]:
    """One line of the table."""
    in_space, in_plane = (np.array([getattr(o, name) for o in outcomes]) for name in ("mtre", "mrpd"))
    seconds = [o.seconds for o in outcomes]

    def percent(values: np.ndarray, limit: float) -> int:
        return round(100 * float((values < limit).mean()))

    return {
        "ct": ct,
        "kind": kind,
        "n": len(outcomes),
        "start_median": float(np.median([o.start for o in outcomes])),
        "mtre_median": float(np.median(in_space)),
        "mtre_p95": float(np.percentile(in_space, 95)),
        **{f"mtre_under_{limit}": percent(in_space, limit) for limit in (1, 2, 3, 5, 10)},
        "mrpd_median": float(np.median(in_plane)),
        **{f"mrpd_under_{limit}": percent(in_plane, limit) for limit in (1, 2)},
        "seconds_median": float(np.median(seconds)),
        "seconds_max": float(np.max(seconds)),
        "trusted": sum(o.trusted for o in outcomes),
        "silent_failures": sum(o.trusted and o.mtre > _WRONG for o in outcomes),
        "distrusted_but_right": sum(not o.trusted and o.mtre < 2 for o in outcomes),
        "mahalanobis_median": float(np.median([o.mahalanobis for o in outcomes])),
        "cases": [o.__dict__ for o in outcomes],
    }


def end_to_end(volume: Path, case: Case, method: str) -> dict[str, Any]:
    """Seconds of one whole command, the second time it is run: kernels compiled, files in the cache of the system."""
    code = "from raylign.cli import main; main()"
    seconds = 0.0
    for _ in range(2):
        with tempfile.TemporaryDirectory() as out:
            command = ["register", str(volume), *map(str, case.files), "--out", out, "--init", "center", "--method", method]
            begun = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
            seconds = time.perf_counter() - begun
    return {"volume": volume.name, "case": case.name, "seconds": seconds, "exit": done.returncode}


def print_table(table: dict[str, Any]) -> None:
    """The rows as text, errors in mm."""
    print(f"{table['machine']}; seed {table['seed']}; " + ", ".join(f"{k} {v}" for k, v in table["versions"].items()))
    heads = (
        f"{'CT':16s} {'kind':8s} {'n':>3s}  {'start':>6s}  {'mTRE':>6s} {'p95':>7s}  {'% < 1/2/3/5/10 mm':>19s}"
        f"  {'mRPD':>5s} {'% < 1/2':>8s}  {'seconds':>8s} {'max':>5s}  {'trusted':>7s} {'silent':>6s} {'timid':>5s}  {'M^2':>6s}"
    )
    print(heads)
    for r in table["rows"]:
        under = "/".join(str(r[f"mtre_under_{limit}"]) for limit in (1, 2, 3, 5, 10))
        flat = f"{r['mrpd_under_1']}/{r['mrpd_under_2']}"
        print(
            f"{r['ct']:16s} {r['kind']:8s} {r['n']:3d}  {r['start_median']:6.1f}"
            f"  {r['mtre_median']:6.2f} {r['mtre_p95']:7.2f}  {under:>19s}"
            f"  {r['mrpd_median']:5.2f} {flat:>8s}  {r['seconds_median']:8.2f} {r['seconds_max']:5.2f}"
            f"  {r['trusted']:7d} {r['silent_failures']:6d} {r['distrusted_but_right']:5d}  {r['mahalanobis_median']:6.1f}"
        )
    print("silent: trusted and wrong by over 10 mm; timid: under 2 mm and not trusted; M^2: 5.3 is right, more is over-confident")
    if table["command"]:
        c = table["command"]
        print(f"raylign register, from the shell to the report: {c['seconds']:.1f} s ({c['volume']}, case {c['case']})")


def arguments(description: str) -> argparse.ArgumentParser:
    """Options that the benchmarks of registration share."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--kinds", default="plain,real,biplane", help="of exposures, separated by commas")
    parser.add_argument("--cts", default="", help="names of CTs, separated by commas; all if not given")
    parser.add_argument("--limit", type=int, default=10**6, help="cases of each folder at most")
    parser.add_argument("--method", default="direct", choices=sorted(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    return parser


def main() -> None:
    """Parse, run, print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--no-command", action="store_true", help="leave out the run as a command")
    given = parser.parse_args()
    if not (given.data / "cases").is_dir():
        raise SystemExit(f"{given.data / 'cases'} is not there: give --data")
    warm_kernels()
    rows, command = [], None
    for folder in sorted(p for p in (given.data / "cases").iterdir() if not given.cts or p.name in given.cts.split(",")):
        kinds = [kind for kind in given.kinds.split(",") if (folder / kind / "truth.json").is_file()]
        if not kinds:
            continue
        path = scan(given.data, folder.name)
        volume = read_volume(path)
        for kind in kinds:
            chosen = list(cases(folder / kind))[: given.limit]
            outcomes = [run(case, volume, given.method, given.seed) for case in chosen]
            rows.append(row(folder.name, kind, outcomes))
            print(f"{folder.name}/{kind}: {len(outcomes)} done", file=sys.stderr)
            if command is None and not given.no_command:
                command = end_to_end(path, chosen[0], given.method)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    table = {
        "rows": rows, "command": command, "method": given.method, "seed": given.seed, "machine": machine, "versions": versions()
    }  # fmt: skip
    if given.json:
        print(json.dumps(table, indent=1))
    else:
        print_table(table)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
