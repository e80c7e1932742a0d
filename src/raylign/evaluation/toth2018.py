"""``raylign reproduce toth2018``: the evaluation of Toth et al. (2018) on test patients, from the agent to tables and page.

Records of cases lie in the run's ``cases``, exposures in its ``pool`` (or another's) and ``clinical``. ``table.csv`` and
``table.json`` follow from the records alone; what depends on the machine is in ``times.csv``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from raylign._version import __version__
from raylign.errors import InputError
from raylign.evaluation import statistics as st
from raylign.evaluation.execution import one_torch_thread
from raylign.evaluation.table import ALWAYS_MM, DRAWS, as_csv, success_name
from raylign.io.atomic import write_text
from raylign.methods.imitation_agent.agent import Agent
from raylign.methods.imitation_agent.baselines import BASELINES
from raylign.methods.imitation_agent.comparison import AGENT, METHODS, START, CompareConfig, compare
from raylign.methods.imitation_agent.domain import domain_of
from raylign.methods.imitation_agent.mdp import cross_error
from raylign.methods.imitation_agent.pool import Pool
from raylign.methods.imitation_agent.robustness import RobustConfig, robust
from raylign.methods.imitation_agent.training import trained_on

if TYPE_CHECKING:
    from raylign.evaluation.toth2018_scans import OnScan, ScansConfig

Tell = Callable[[str, float], None]
Record = Mapping[str, Any]

PERCENTILES = (5, 60, 70, 80, 90, 95, 100)
WITHIN_MM = 5.0
"""Deviation from the median end under which a walk is counted by the robustness study."""
PUBLISHED: Mapping[str, tuple[float, float, float, float]] = {
    "start": (22.80, 10.50, 21.42, 36.96),
    "GO": (9.65, 6.23, 8.39, 17.78),
    "GO+": (10.49, 5.97, 9.42, 18.54),
    "GC": (9.15, 6.74, 7.74, 18.12),
    "GC+": (7.80, 6.30, 5.91, 16.43),
    "GI": (8.44, 6.61, 6.47, 16.37),
    "GI+": (6.79, 4.75, 5.63, 11.77),
    "agent": (2.92, 2.22, 2.34, 5.76),
}
"""Table 1 of the paper: mean, standard deviation, median and 90th percentile of the TRE, mm."""

_SCHEMA = 2  # one more whenever a method's results change: records of different versions are not mixed
_RUN = "run.json"


@dataclass(frozen=True)
class Failure:
    """A case in which a metric goes astray and its positive-only form does not.

    Parameters
    ----------
    record: of the case.
    plain, plus: the metric and the form.
    tre_mm, plus_mm: their errors.
    """

    record: Record
    plain: str
    plus: str
    tre_mm: float
    plus_mm: float


@dataclass(frozen=True, eq=False)
class Reproduced:
    """What a run found: records of the comparison and of the robustness study, their settings, where exposures lie.

    Parameters
    ----------
    cases, grids: as ``compare`` and ``robust`` return them.
    compare, robust: the settings. pool, clinical: the exposures of each. run: what ``run.json`` says.
    scans: the same on real CTs, where some were named.
    """

    cases: Sequence[Record]
    grids: Sequence[Record]
    compare: CompareConfig
    robust: RobustConfig
    pool: Pool
    clinical: Pool
    run: Mapping[str, Any]
    scans: Sequence[OnScan] = ()


def errors(records: Sequence[Record], method: str) -> Float[np.ndarray, " n"]:
    """TRE of a method, case by case, mm: the mean distance of the cross' five points in plane."""
    return cross_error(_ends(records, method)).numpy()


def angles(records: Sequence[Record], method: str) -> Float[np.ndarray, " n"]:
    """Size of its error in the turn, degrees."""
    return _ends(records, method)[:, 2].abs().numpy()


def having(records: Sequence[Record], method: str) -> list[Record]:
    """The records of cases that a method registered."""
    return [r for r in records if method in r["methods"]]


def _ends(records: Sequence[Record], method: str) -> torch.Tensor:
    return torch.tensor([r["methods"][method]["end"] for r in records], dtype=torch.float64).reshape(-1, 3)


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row a method, in the order of Table 1. Errors in mm and degrees, shares 0 to 1, intervals of 95 % over patients.

    Metrics may have registered fewer cases than the agent: ``n`` says how many.
    """
    out = []
    for method in METHODS:
        mine = having(records, method)
        drawn = st.resamples([r["subject"] for r in mine], DRAWS, seed=0)
        found, turned, begun = errors(mine, method), angles(mine, method), errors(mine, START)
        one: dict[str, Any] = {"method": method, "n": len(found), "subjects": drawn.subjects}
        one |= {"mean": st.mean(found), "sd": st.deviation(found), "median": st.percentile(found, 50)}
        one |= {f"p{q}": st.percentile(found, q) for q in PERCENTILES}
        for name, interval in (("mean", drawn.mean(found)), ("median", drawn.percentile(found, 50))):
            one |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        for limit in ALWAYS_MM:
            name, interval = success_name(limit), drawn.success(found, limit)
            one |= {name: st.success(found, limit), f"{name}_low": interval.low, f"{name}_high": interval.high}
        one |= {"angle_mean": st.mean(turned), "angle_sd": st.deviation(turned)}
        out.append(one | {"worse": float(np.mean(found > begun))})
    return out


def times(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Seconds of one processor and looks at states, by method: median and 95th percentile. Depends on the machine."""
    out = []
    for method in METHODS:
        mine = having(records, method)
        spent, looks = (np.array([r["methods"][method][k] for r in mine], np.float64) for k in ("seconds", "looks"))
        seconds = {f"seconds_{name}": st.percentile(spent, q) for name, q in (("median", 50), ("p95", 95))}
        out.append({"method": method, "n": len(mine), **seconds, "looks_median": st.percentile(looks, 50)})
    return out


def evolution(records: Sequence[Record]) -> Float[np.ndarray, "n s 3"]:
    """States of the agent's walks, action by action, counted from the truth; a walk that has ended stays where it is."""
    paths = [r["methods"][AGENT]["path"] for r in records]
    longest = max(len(p) for p in paths)
    return np.array([p + [p[-1]] * (longest - len(p)) for p in paths], np.float64)


def deviations(record: Record) -> Float[np.ndarray, " n"]:
    """How far the centre ends from the median of all ends of one exposure, mm (the paper's equation 4)."""
    return st.from_median(np.array(record["ends"], np.float64)[:, :2])


def robustness(records: Sequence[Record]) -> dict[str, Any] | None:
    """Figures over the ends of all exposures; None where there are none."""
    if not records:
        return None
    away = np.concatenate([deviations(r) for r in records])
    middles = torch.tensor(np.stack([np.median(np.array(r["ends"]), axis=0) for r in records]))
    off = cross_error(middles).numpy()
    each = [float(np.median(deviations(r))) for r in records]
    return {
        "exposures": len(records),
        "starts": len(away),
        "median": st.percentile(away, 50),
        "largest_median": max(each),
        "p90": st.percentile(away, 90),
        "max": float(away.max()),
        "within_5mm": st.success(away, WITHIN_MM),
        "least_within_5mm": min(st.success(deviations(r), WITHIN_MM) for r in records),
        "arrived": float(np.mean([a for r in records for a in r["arrived"]])),
        "median_end_tre_mean": st.mean(off),
    }


def failure(records: Sequence[Record]) -> Failure | None:
    """The largest error of a plain metric (GO, GC, GI) in a case that its positive-only form brings under 5 mm."""
    found = []
    for plain in BASELINES:
        if f"{plain}+" in BASELINES:
            mine = having(records, plain)
            a, b = errors(mine, plain), errors(mine, f"{plain}+")
            found += [
                Failure(r, plain, f"{plain}+", float(x), float(y))
                for r, x, y in zip(mine, a, b, strict=True)
                if y < WITHIN_MM <= x
            ]
    return max(found, key=lambda f: f.tre_mm, default=None)


def reproduce(
    agent: Agent,
    settings: tuple[CompareConfig, RobustConfig],
    out: Path,
    pool: Path,
    tell: Tell,
    scans: ScansConfig | None = None,
) -> Reproduced:
    """Make what is missing of exposures and records, and write table.csv, table.json, times.csv and report.html.

    Parameters
    ----------
    agent: trained on nobody whom ``settings`` name as test patients.
    out: the run's folder, new or to be gone on with. pool: folder of the exposures.
    scans: real CTs on which the same is measured; ``scans.csv`` is written too.

    Raises
    ------
    InputError: a folder of other settings, of another agent or of other exposures, a damaged file, one that cannot be written.
    """
    from raylign.evaluation.toth2018_page import report_html
    from raylign.evaluation.toth2018_scans import on_scans

    config, walks = settings
    run = _begun(agent, settings, out)
    patients, clinical = Pool(pool, config.pool), Pool(out / "clinical", walks.pool)
    with one_torch_thread():
        # scans first: what is wrong with somebody's files is told before hours are spent
        found = on_scans(agent, scans, settings, out, lambda said, share: tell(said, 0.1 * share)) if scans else ()
        patients.make(("test",), 1, lambda said, share: tell(said, 0.1 + 0.1 * share))
        cases = compare(agent, patients, out / "cases", config, lambda said, share: tell(said, 0.2 + 0.63 * share))
        if walks.exposures:
            clinical.make(("test",), 1, lambda said, share: tell(said, 0.83 + 0.03 * share))
        grids = robust(agent, clinical, out / "cases", walks, lambda said, share: tell(said, 0.86 + 0.12 * share))
    tell("writing the report", 0.98)
    done = Reproduced(cases, grids, config, walks, patients, clinical, run, found)
    _write(done, out)
    write_text(out / "report.html", report_html(done))
    return done


def _begun(agent: Agent, settings: tuple[CompareConfig, RobustConfig], out: Path) -> dict[str, Any]:
    """What ``run.json`` says; written where there is none, held against the settings where there is."""
    said = {
        "schema": _SCHEMA,
        "paper": "toth2018",
        "methods": list(METHODS),
        "weights": digest(agent),
        "compare": settings[0].said(),
        "world": asdict(agent.world),
        "robust": json.loads(json.dumps(settings[1].said())),
    }
    path = out / _RUN
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            differs = [name for name in said if known.get(name) != said[name]]
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"cannot be read ({error})", file=path, remedy="name another folder with -o") from None
        if differs:
            raise InputError(
                f"is the folder of a run with other {' and '.join(differs)}", file=out, field="-o", remedy="name another folder"
            )
    else:
        write_text(path, json.dumps(said, indent=1) + "\n")
    return said


def digest(agent: Agent) -> str:
    """A name that two agents share if, and only if, they have the same weights and see the same."""
    total = hashlib.sha256(repr(agent.world).encode())
    for name, tensor in sorted(agent.network.state_dict().items()):
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def _write(done: Reproduced, out: Path) -> None:
    table = rows(done.cases)
    write_text(out / "table.csv", as_csv(table))
    write_text(out / "times.csv", as_csv(times(done.cases)))
    if not done.scans:  # of an earlier run with some, which the page does not show now
        (out / "scans.csv").unlink(missing_ok=True)
    said = {
        "paper": "toth2018",
        "criterion": "TRE in plane of a cross of 10 mm at the ventricle's centre, mm",
        "seed": done.compare.seed,
        "version": __version__,
        "weights": done.run["weights"],
        "interval": f"95 %, {DRAWS} bootstrap samples of patients, seed 0, and no narrower than over cases (of shares: Wilson's)",
        "rows": [_plain(r) for r in table],
        "robustness": None if (found := robustness(done.grids)) is None else _plain(found),
    }
    if done.scans:
        said["scans"] = [
            {
                "scan": one.scan.name,
                "source": one.scan.source,
                "shown": [round(share, 4) for share in one.shown],
                "rows": [_plain(r) for r in rows(one.cases)],
                "robustness": None if (found := robustness(one.grids)) is None else _plain(found),
            }
            for one in done.scans
        ]
    write_text(out / "table.json", json.dumps(said, indent=1, allow_nan=False) + "\n")


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: (round(v, 6) if np.isfinite(v) else None) if isinstance(v, float) else v for k, v in row.items()}


def settled(
    cases: int, seed: int, grid: int | None, agent: Agent, metrics: int | None = None, file: Path | None = None
) -> tuple[CompareConfig, RobustConfig]:
    """Settings of a run: as many exposures for the robustness study as there are patients, 12 at most, where none are asked for.

    ``file``: of the agent, for what is said of it.

    Raises
    ------
    InputError: an agent that was trained on a test patient, or does not say whom it was trained on; numbers out of range.
    """
    measured = domain_of(agent.about)  # as it walks where it is used
    config = CompareConfig(cases=cases, metrics=metrics, seed=seed, rollout=measured.rollout, walks=measured.starts)
    walks = RobustConfig(seed=seed, rollout=measured.rollout)
    walks = replace(walks, exposures=min(walks.exposures, config.patients) if grid is None else grid)
    first, last = config.data.test
    for part in ("train", "validation"):
        low, high = trained_on(agent, part, file)
        if low <= last and first <= high:
            raise InputError(
                f"was trained on patients {low} to {high}, some of whom are test patients", field="--weights", file=file,
                remedy="name an agent that knows none of 990000 to 990099",
            )  # fmt: skip
    return config, walks
