"""Processor seconds of registrations on exposures of known pose, stage by stage.

``python benchmarks/registration_cpu.py --data FOLDER [--kinds plain,real,biplane] [--cts NAME,...] [--limit N] [--json]``

The cases are those of ``cases.py``. Every case begins with a model of which nothing is known yet, as a command does. Seconds are
those of the processor, over all threads, so that what else runs on the machine counts little; stages are those that the method
tells of.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from typing import Any

from cases import arguments, cases, scan

from raylign.cli.warm import warm_kernels
from raylign.errors import InputError
from raylign.evaluation.metrics import mtre
from raylign.io import read_volume, read_xray
from raylign.registration import Problem, centred, registrar


class Clock:
    """Processor seconds by stage; a stage's name is told when it ends. A second look adds to the first."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.last = time.process_time()

    def __call__(self, stage: str, share: float) -> None:
        now = time.process_time()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.last
        self.last = now


def main() -> None:
    """Parse, run, print."""
    given = arguments(__doc__ or "").parse_args()
    if not (given.data / "cases").is_dir():
        raise SystemExit(f"{given.data / 'cases'} is not there: give --data")
    warm_kernels()
    rows: list[dict[str, Any]] = []
    for folder in sorted(p for p in (given.data / "cases").iterdir() if not given.cts or p.name in given.cts.split(",")):
        kinds = [kind for kind in given.kinds.split(",") if (folder / kind / "truth.json").is_file()]
        volume = read_volume(scan(given.data, folder.name)) if kinds else None
        for kind in kinds:
            for case in list(cases(folder / kind))[: given.limit]:
                assert volume is not None
                problem = Problem(replace(volume), tuple(read_xray(file) for file in case.files), centred(volume))
                clock, begun = Clock(), time.process_time()
                result = registrar(given.method, progress=clock, seed=given.seed).register(problem)
                seconds = time.process_time() - begun
                clock("evidence", 1.0)
                error = float(mtre(result.transform, case.pose, case.targets))
                row = {"ct": folder.name, "kind": kind, "case": case.name, "seconds": seconds, "mtre": error}
                rows.append({**row, "renders": result.renders, "stages": clock.stages})
                print(f"{folder.name}/{kind}/{case.name} done", file=sys.stderr)
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'case':32s} {'CPU s':>6s} {'mTRE':>7s} {'renders':>7s}  stages, CPU s")
    for row in rows:
        stages = "  ".join(f"{name} {seconds:.2f}" for name, seconds in row["stages"].items())
        name = f"{row['ct']}/{row['kind']}/{row['case']}"
        print(f"{name:32s} {row['seconds']:6.2f} {row['mtre']:7.3f} {row['renders']:7d}  {stages}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
