"""The evaluation of Toth et al. (2018) on exposures of real chest CTs, whom no agent was trained on: cases and robustness."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from raylign.errors import InputError
from raylign.evaluation.table import as_csv
from raylign.evaluation.toth2018 import rows
from raylign.io.atomic import write_text
from raylign.methods.imitation_agent.agent import Agent
from raylign.methods.imitation_agent.comparison import CompareConfig, by_agent, by_metrics, read_record, write_record
from raylign.methods.imitation_agent.pool import PoolConfig, as_exposures, read_patient
from raylign.methods.imitation_agent.robustness import RobustConfig, walked
from raylign.methods.imitation_agent.scans import Scan, scan_path, write_scan
from raylign.methods.imitation_agent.world import Exposures, World
from raylign.simulation.seeds import generator

Tell = Callable[[str, float], None]
Record = Mapping[str, Any]

LISTED = Path(__file__).parent / "toth2018_scans.json"
"""The scans that ``--data`` names by default."""

_STARTS = 22  # place in the tree of seeds, beside those of the comparison and of the robustness study
_RUN = "run.json"


@dataclass(frozen=True)
class ScansConfig:
    """What is measured on real scans.

    Parameters
    ----------
    scans: whose.
    cases: exposures of each scan, each from another direction and from one start, as published.
    grids: exposures of each scan for the robustness study.

    Raises
    ------
    InputError: no cases, a negative number of grids.
    """

    scans: tuple[Scan, ...] = field(default_factory=tuple)
    cases: int = 20
    grids: int = 2

    def __post_init__(self) -> None:
        if self.cases < 1 or self.grids < 0:
            raise InputError("real scans need 1 case or more", field="ScansConfig")


@dataclass(frozen=True, eq=False)
class OnScan:
    """What was found on one scan.

    Parameters
    ----------
    scan: whose. cases, grids: records as of the comparison and of the robustness study. exposures: file of the cases' exposures.
    shown: share of the exposures' pixels that show what the scan holds, from the least to the largest.
    """

    scan: Scan
    cases: Sequence[Record]
    grids: Sequence[Record]
    exposures: Path
    shown: tuple[float, float]


def on_scans(
    agent: Agent, config: ScansConfig, settings: tuple[CompareConfig, RobustConfig], out: Path, tell: Tell
) -> tuple[OnScan, ...]:
    """Expose and register what has no file and no record yet, and read all of it; writes ``scans.csv`` beside.

    Parameters
    ----------
    settings: of the comparison and of the robustness study on made patients; everything but whose exposures they are is the same.
    out: folder of the run; files of scans lie in its ``scans``.

    Raises
    ------
    InputError: a folder of other scans, a scan that cannot be read.
    """
    _begun(config, out / "scans")
    compare, robust = settings
    found = []
    for number, scan in enumerate(config.scans):
        folder, share = out / "scans" / scan.name, number / len(config.scans)
        tell(f"exposures of {scan.name}", share)
        exposures = _exposed(folder, compare.pool, scan, config.cases)
        cases = []
        for k in range(config.cases):
            cases.append(_case(agent, exposures, scan, k, compare))
            tell(f"{scan.name}: case {k + 1} of {config.cases}", share + 0.8 * (k + 1) / config.cases / len(config.scans))
        grids = []
        if config.grids:
            clinical = _exposed(folder / "clinical", robust.pool, scan, config.grids)
            grids = [_grid(agent, clinical, scan, k, robust) for k in range(config.grids)]
        found.append(OnScan(scan, cases, grids, exposures, _shown(exposures)))
    write_text(out / "scans.csv", as_csv([{"scan": one.scan.name, **row} for one in found for row in rows(one.cases)]))
    return tuple(found)


def one_of(path: Path, number: int) -> Exposures:
    """One exposure of a file."""
    whole = as_exposures(read_patient(path))
    some = slice(number, number + 1)
    return replace(whole, images=whole.images[some], vectors=whole.vectors[some], base=whole.base[some], model=whole.model[some])


def _begun(config: ScansConfig, folder: Path) -> None:
    """Hold what is measured against what the folder's records are of."""
    content = {
        s.name: {
            "number": s.number,
            "heart": asdict(s.heart),
            "files": [_stamp(path) for path in (s.ct, s.labels, s.label_names)],
        }
        for s in config.scans
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path = folder / _RUN
    if not path.exists():
        write_text(path, json.dumps({"scans": list(content), "digest": digest}, indent=1) + "\n")
    elif read_record(path).get("digest") != digest:
        raise InputError(
            "holds records of other scans or other fits", file=folder, field="-o", remedy="delete it, or name another folder"
        )


def _stamp(path: Path | None) -> list[tuple[str, int]]:
    """Names and sizes of a file, or of all in a folder: enough to see that another one lies in its place."""
    if path is None:
        return []
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(file.relative_to(path.parent).as_posix(), file.stat().st_size) for file in files if file.is_file()]


def _exposed(folder: Path, pool: PoolConfig, scan: Scan, count: int) -> Path:
    path = scan_path(folder, scan, count)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_scan(path, pool, scan, count)
    return path


def _case(agent: Agent, exposures: Path, scan: Scan, k: int, config: CompareConfig) -> dict[str, Any]:
    path = exposures.parent / f"case-{k:03d}.json"
    if not path.exists():
        world = World(one_of(exposures, k), agent.world)
        stream = generator(config.seed, _STARTS, scan.number, k)
        start = replace(config.starts, near=0.0).draw(1, stream)[0]
        methods = {**by_metrics(world, start, config), **by_agent(world, agent, start, config)}
        write_record(path, {"case": k, "subject": scan.number, "repeat": k, "methods": methods})
    return read_record(path)


def _grid(agent: Agent, exposures: Path, scan: Scan, k: int, config: RobustConfig) -> dict[str, Any]:
    path = exposures.parent / f"grid-{k:03d}.json"
    if not path.exists():
        world = World(one_of(exposures, k), agent.world)
        write_record(path, walked(agent, world, config, (scan.number << 8) + k) | {"subject": scan.number})
    return read_record(path)


def _shown(exposures: Path) -> tuple[float, float]:
    seen = torch.from_numpy(read_patient(exposures)["images"]).isfinite().double().mean((1, 2))
    return float(seen.min()), float(seen.max())
