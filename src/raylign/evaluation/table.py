"""The table of an evaluation, as CSV and JSON: the same bytes for the same records, whoever made them in whatever order.

Nothing in it depends on the machine. What does, the seconds, is in ``times.csv``.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raylign.evaluation import statistics as st
from raylign.evaluation.protocol import Protocol
from raylign.evaluation.record import Record
from raylign.evaluation.scores import Scores, scores
from raylign.io.atomic import write_text

ALWAYS_MM = (1.0, 2.0, 5.0, 10.0)
"""Thresholds of success that every table has."""

PERCENTILES = (5, 25, 60, 70, 75, 80, 90, 95, 99, 100)
"""Of the criterion, beside the median: those that papers of the field print."""

DRAWS = 1000
"""Bootstrap samples of an interval."""

DIGITS = 6
"""Decimals of the numbers in a table."""

STAGES = ("make", "register", "cpu", "warm")
"""What a record's seconds are of."""


def rows(records: Iterable[Record], protocol: Protocol) -> list[dict[str, Any]]:
    """One row an arm and method, "start" first in each arm; see the documentation of evaluation for every column.

    ``mean``, ``median``, ``success_2mm`` and so on are of the protocol's criterion; those that begin with ``mtre_`` or ``mrpd_``
    are of that measure. Shares are 0 to 1. NaN stands for what is not defined, infinity for an error that is.
    """
    return [row(s, protocol) for s in scores(records, protocol)]


def thresholds(protocol: Protocol) -> tuple[float, ...]:
    """mm under which success is told: 1, 2, 5, 10 and the protocol's own."""
    return tuple(sorted({*ALWAYS_MM, *protocol.thresholds_mm, protocol.success_mm}))


def row(s: Scores, protocol: Protocol) -> dict[str, Any]:
    """The row of one method in one arm."""
    errors = s.errors(protocol.criterion)
    drawn = st.resamples(s.subjects, DRAWS, seed=0)
    out: dict[str, Any] = {
        "arm": s.arm,
        "method": s.method,
        "n": len(errors),
        "subjects": drawn.subjects,
        "no_result": s.without,
        "criterion": protocol.criterion,
        "mean": st.mean(errors),
        "sd": st.deviation(errors),
        "mean_of_results": st.mean(errors[np.isfinite(errors)]),
    }
    out |= {"median": st.percentile(errors, 50)} | {f"p{q}": st.percentile(errors, q) for q in PERCENTILES}
    for name, interval in (("mean", drawn.mean(errors)), ("median", drawn.percentile(errors, 50))):
        out |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    for limit in thresholds(protocol):
        name, interval = success_name(limit), drawn.success(errors, limit)
        out |= {name: st.success(errors, limit), f"{name}_low": interval.low, f"{name}_high": interval.high}
    for measure in ("mtre", "mrpd"):
        out |= _measured(measure, s.errors(measure), thresholds(protocol))
    out |= {"mpd_median": st.percentile(s.errors("mpd"), 50)}
    out |= _crossed(s, thresholds(protocol))
    for name in ("in_plane", "depth", "translation", "angle"):
        sizes = np.abs(s.errors(name))
        out |= {f"{name}_{said}": st.percentile(sizes, q) for said, q in (("p25", 25), ("median", 50), ("p75", 75), ("p95", 95))}
    begun = s.starts(protocol.criterion)
    out |= {"start_median": st.percentile(begun, 50), "start_p95": st.percentile(begun, 95)}
    reach = st.capture_range(s.bins(protocol), protocol.capture_share)
    out |= {"capture_range_mm": reach, "capture_success_mm": protocol.success_mm, "unbinned": s.unbinned(protocol)}
    return out | _trust(s)


def _measured(measure: str, errors: np.ndarray, limits: Sequence[float]) -> dict[str, float]:
    out = {f"{measure}_mean": st.mean(errors)}
    out |= {f"{measure}_{name}": st.percentile(errors, q) for name, q in (("median", 50), ("p5", 5), ("p90", 90), ("p95", 95))}
    return out | {f"{measure}_{success_name(limit)}": st.success(errors, limit) for limit in limits}


def _crossed(s: Scores, limits: Sequence[float]) -> dict[str, float]:
    """The cross' columns; not defined where a case with a result has none."""
    said = _measured("cross", s.errors("cross"), limits)
    whole = not (np.isinf(s.errors("cross")) & np.isfinite(s.errors("mtre"))).any()
    return said if whole else dict.fromkeys(said, math.nan)


def _trust(s: Scores) -> dict[str, Any]:
    probability, right = s.confidence()
    none = s.nothing
    return {
        "trusted": math.nan if none else sum(r.trusted for r in s.records),
        "silent_failures": math.nan if none else len(s.silent),
        "auroc": st.roc(1 - probability, ~right).area,
        "ece": st.expected_calibration_error(probability, right),
        "renders_median": math.nan if none else st.percentile(np.array([r.renders for r in s.records], np.float64), 50),
        **{f"efficiency_{name}": st.mean(s.efficiency(name, near=True)) for name in ("in_plane", "depth")},
        **{f"efficiency_{name}_median": st.percentile(s.efficiency(name), 50) for name in ("in_plane", "depth")},
    }


def success_name(limit: float) -> str:
    """The column of success under a threshold in mm: ``success_2mm``."""
    return f"success_{limit:g}mm"


def write_tables(records: Iterable[Record], protocol: Protocol, out: str | Path) -> None:
    """Writes ``table.csv`` and ``table.json`` into a folder; equal records give equal bytes.

    In JSON what is infinite or not defined is null, in CSV the first is ``inf`` and the second empty.

    Raises
    ------
    InputError: a file cannot be written.
    """
    found = rows(records, protocol)
    write_text(Path(out) / "table.csv", as_csv(found))
    said = {
        "protocol": protocol.name,
        "criterion": protocol.criterion,
        "success_mm": protocol.success_mm,
        "interval": f"95 %, {DRAWS} bootstrap samples of subjects, seed 0, and no narrower than over cases (of shares: Wilson's)",
        "rows": [{k: _json(v) for k, v in r.items()} for r in found],
    }
    write_text(Path(out) / "table.json", json.dumps(said, indent=1, allow_nan=False) + "\n")


def write_times(records: Iterable[Record], protocol: Protocol, out: str | Path) -> None:
    """Writes ``times.csv`` into a folder: what depends on the machine.

    Raises
    ------
    InputError: the file cannot be written.
    """
    write_text(Path(out) / "times.csv", as_csv(times(records, protocol)))


def times(records: Iterable[Record], protocol: Protocol) -> list[dict[str, Any]]:
    """Seconds by arm and method: median, 95th percentile and sum of ``STAGES`` (register: wall clock; cpu: processor time)."""
    out = []
    for s in scores(records, protocol):
        if s.nothing:
            continue
        one: dict[str, Any] = {"arm": s.arm, "method": s.method, "n": len(s.records)}
        for stage in STAGES:
            spent = np.array([r.seconds[stage] for r in s.records if stage in r.seconds], np.float64)
            one |= {
                f"{stage}_median": st.percentile(spent, 50),
                f"{stage}_p95": st.percentile(spent, 95),
                f"{stage}_sum": math.fsum(spent),
            }
        out.append(one)
    return out


def as_csv(found: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV under the names of the first; numbers with ``DIGITS`` decimals."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(found[0] if found else ["arm", "method", "n"])
    writer.writerows([_csv(v) for v in r.values()] for r in found)
    return stream.getvalue()


def _csv(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if math.isnan(value) else "inf" if math.isinf(value) else f"{_rounded(value):.{DIGITS}f}"


def _json(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return _rounded(value) if math.isfinite(value) else None


def _rounded(value: float) -> float:
    return round(value, DIGITS) + 0.0  # no minus zero
