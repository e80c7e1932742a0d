"""Registration on exposures made by ``raylign.simulation`` beside the shared cases, which another simulator made.

``python benchmarks/exposures.py --data FOLDER [--kinds plain,real,biplane] [--cts NAME,...] [--json]``

FOLDER as for ``benchmarks/cases.py``. Each case is exposed again: the same scan, view and pose, our simulator with its
independent integrator. The kinds mean what they mean there: "plain" shows the scan alone in an open field; in "real" and
"biplane" the body goes on 150 mm beyond the scan's first and last slice (which are repeated), and "real" has a round collimator
and one to three guide wires. Both exposures of a case are registered from "center", from DICOM files, by the same method.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from cases import Case, arguments, cases, print_table, row, run, scan

from raylign.cli.warm import warm_kernels
from raylign.data import Volume
from raylign.errors import InputError
from raylign.io import read_volume, read_xray
from raylign.io.xray_dicom_write import XRayDicomOptions, write_xray_dicom
from raylign.registration.versions import versions
from raylign.simulation import ExposureConfig, expose, generator, guide_wire
from raylign.simulation.instruments import instrument_paths
from raylign.simulation.physics.apparatus import Collimator

_BEYOND = 150.0  # mm that the body goes on beyond the scan


def extended(volume: Volume, beyond: float = _BEYOND) -> Volume:
    """The scan with its first and last slice repeated."""
    count = max(round(beyond / volume.spacing[2]), 1)
    data = torch.cat([volume.data[:1].expand(count, -1, -1), volume.data, volume.data[-1:].expand(count, -1, -1)])
    affine = volume.affine.clone()
    affine[:3, 3] -= count * affine[:3, 2]
    return replace(volume, data=data, affine=affine)


def exposed(case: Case, kind: str, body: Volume, seed: int, folder: Path) -> Case:
    """The same case by our simulator."""
    files = []
    for k, file in enumerate(case.files):
        random = generator(seed, int(case.name), k)
        view = read_xray(file).view
        wires, field = [], None
        if kind == "real":
            wires = [guide_wire(random).placed() for _ in range(int(torch.randint(1, 4, (), generator=random)))]
            field = Collimator.round(0.95)
        fine = view.resample((2 * view.shape[0], 2 * view.shape[1]))
        metal = {name: mm[0] for name, mm in instrument_paths([wires], fine).items()}
        config = ExposureConfig(collimator=field, noise="compound", rays=2)
        made = expose(body, view, case.pose, config, random, extra=metal)
        files.append(folder / f"{kind}-{file.name}")
        write_xray_dicom(made.counts, view, files[-1], XRayDicomOptions())
    return replace(case, files=tuple(files))


def main() -> None:
    """Parse, run, print."""
    given = arguments(__doc__ or "").parse_args()
    if not (given.data / "cases").is_dir():
        raise SystemExit(f"{given.data / 'cases'} is not there: give --data")
    warm_kernels()
    rows = []
    for folder in sorted(p for p in (given.data / "cases").iterdir() if not given.cts or p.name in given.cts.split(",")):
        volume = read_volume(scan(given.data, folder.name))
        for kind in (k for k in given.kinds.split(",") if (folder / k / "truth.json").is_file()):
            body = volume if kind == "plain" else extended(volume)
            theirs = list(cases(folder / kind))[: given.limit]
            with tempfile.TemporaryDirectory() as made:
                ours = [exposed(case, kind, body, given.seed, Path(made)) for case in theirs]
                for maker, chosen in (("shared", theirs), ("raylign", ours)):
                    outcomes = [run(case, volume, given.method, given.seed) for case in chosen]
                    rows.append({"exposures": maker, **row(folder.name, f"{kind}/{maker[:3]}", outcomes)})
            print(f"{folder.name}/{kind}: {len(theirs)} done", file=sys.stderr)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    table = {
        "rows": rows, "command": None, "method": given.method, "seed": given.seed, "machine": machine, "versions": versions()
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
