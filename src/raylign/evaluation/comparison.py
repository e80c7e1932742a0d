"""Two runs of one protocol, case by case: what the second does better or worse, and whether that is more than chance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from raylign.errors import InputError
from raylign.evaluation import statistics as st
from raylign.evaluation.protocol import Protocol
from raylign.evaluation.record import Record, read_records
from raylign.evaluation.replay import protocol_of_run
from raylign.evaluation.runner import read_run
from raylign.evaluation.scores import Scores, scores
from raylign.evaluation.table import DIGITS, DRAWS, success_name, thresholds
from raylign.io.atomic import write_text

_WORDS = ("name", "title", "source", "description", "methods")  # of a protocol, that change no case and no number
_SAME_START = 1e-6  # mm and entries of matrices by which starts may differ between machines


@dataclass(frozen=True)
class Difference:
    """One measure of both runs and how far apart they are: the second less the first.

    Parameters
    ----------
    measure: "success_2mm", "median", "mean", "seconds", "cpu", "renders".
    first, second: its value in each. difference: between them, NaN where both are infinite.
    interval: 95 % of the difference, cases paired and subjects resampled.
    better: +1 where more is better, -1 where less is.
    comparable: whether both were measured so that they compare; seconds of two machines are not.
    """

    measure: str
    first: float
    second: float
    difference: float
    interval: st.Interval
    better: int
    comparable: bool = True

    @property
    def verdict(self) -> str:
        """ "better" or "worse" where the interval excludes zero, "no difference shown" where it does not, or has no number.

        "not compared" of what depends on the machine, where the runs had not the same.
        """
        if not self.comparable:
            return "not compared"
        known = not any(map(math.isnan, (self.difference, self.interval.low, self.interval.high)))
        side = (self.interval.low > 0) - (self.interval.high < 0)
        return ("better" if side == self.better else "worse") if known and side else "no difference shown"


@dataclass(frozen=True, eq=False)
class Pair:
    """A method of the first run beside one of the second, in one arm, on the cases that both have.

    Parameters
    ----------
    first, second: their scores, case by case the same cases.
    differences: one a measure.
    won, lost: cases in which the second's error is smaller, or larger, than the first's.
    """

    arm: str
    first: Scores
    second: Scores
    differences: tuple[Difference, ...]
    won: int
    lost: int

    @property
    def name(self) -> str:
        """The methods, as they are written."""
        a, b = self.first.method, self.second.method
        return a if a == b else f"{a} → {b}"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs beside each other: their folders, what each was run with, the protocol of both, and the pairs."""

    folders: tuple[Path, Path]
    runs: tuple[Mapping[str, Any], Mapping[str, Any]]
    protocol: Protocol
    pairs: tuple[Pair, ...]


def compare(a: str | Path, b: str | Path, out: str | Path) -> str:
    """Compares two runs and writes ``comparison.html``, ``comparison.json`` and ``comparison.txt`` into a folder.

    Parameters
    ----------
    a, b: folders of the first and of the second run.

    Returns
    -------
    The comparison as text, as in ``comparison.txt``.

    Raises
    ------
    InputError: a folder without a run; runs of different cases (the line says in what they differ); no case or method in
        common; a file that cannot be written.
    """
    from raylign.evaluation.comparison_page import comparison_html

    found = compared(a, b)
    text = as_text(found)
    write_text(Path(out) / "comparison.json", json.dumps(as_dict(found), indent=1, allow_nan=False) + "\n")
    write_text(Path(out) / "comparison.txt", text + "\n")
    write_text(Path(out) / "comparison.html", comparison_html(found))
    return text


def compared(a: str | Path, b: str | Path) -> Comparison:
    """The comparison itself; arguments and errors as of ``compare``."""
    folders = (Path(a), Path(b))
    first, second = (read_run(f) for f in folders)
    # read anew, so that a field that came with a later version stands in both, as its default in the older
    protocol, other = (protocol_of_run(f)[0] for f in folders)
    _refuse({**first, "protocol": protocol.model_dump()}, {**second, "protocol": other.model_dump()}, folders)
    records = [read_records(f) for f in folders]
    _same_cases(records[0], records[1], folders[1])
    scored = [[s for s in scores(r, protocol) if not s.nothing] for r in records]
    pairs = []
    for a_scores, b_scores in _partners(scored[0], scored[1], folders[1]):
        both = sorted({r.case for r in a_scores.records} & {r.case for r in b_scores.records})
        if both:
            pairs.append(_pair(_only(a_scores, both), _only(b_scores, both), protocol, _alike(first, second)))
    if not pairs:
        raise InputError("has no case in common with the other run", file=folders[1], remedy="let both runs end")
    return Comparison(folders, (first, second), protocol, tuple(pairs))


def _refuse(first: Mapping[str, Any], second: Mapping[str, Any], folders: tuple[Path, Path]) -> None:
    one, other = ({k: v for k, v in run["protocol"].items() if k not in (*_WORDS, "seed", "cases")} for run in (first, second))
    strange = [f"{k} of the protocol" for k in sorted({*one, *other}) if one.get(k) != other.get(k)]
    strange += [f"{k} ({first.get(k)} and {second.get(k)})" for k in ("seed", "cases") if first.get(k) != second.get(k)]
    if strange:
        raise InputError(
            f"is not of the same cases as {folders[0]}: they differ in {', '.join(strange)}",
            file=folders[1],
            remedy="compare runs of one protocol, seed and number of cases",
        )


def _same_cases(first: Sequence[Record], second: Sequence[Record], file: Path) -> None:
    """Equal protocols may still meet other data, or another simulator: then the starts differ."""
    known = {r.case: r for r in first if r.start is not None}
    for r in second:
        other = known.get(r.case)
        if other is None or r.start is None or other.start is None:
            continue
        apart = max(abs(x - y) for x, y in zip(r.start, other.start, strict=True))
        error = abs((r.start_mtre or 0.0) - (other.start_mtre or 0.0))
        if (r.name, r.arm) != (other.name, other.arm) or max(apart, error) > _SAME_START:
            raise InputError(
                f"case {r.case} is another one there than in the other run ({r.name}, {other.name}; starts {error:.3g} mm apart)",
                file=file,
                remedy="run both with the same data and the same simulator",
            )


def _partners(first: Sequence[Scores], second: Sequence[Scores], file: Path) -> list[tuple[Scores, Scores]]:
    """Scores of the same arm and method; where no method is in both runs and each has one, those."""
    names = [list(dict.fromkeys(s.method for s in many)) for many in (first, second)]
    shared = [n for n in names[0] if n in names[1]]
    partner = {n: n for n in shared}
    if not shared and len(names[0]) == 1 == len(names[1]):
        partner = {names[0][0]: names[1][0]}
    if not partner:
        raise InputError(
            f"has none of the other run's methods ({', '.join(names[0]) or 'none'})", file=file,
            remedy="compare runs of one method each, or of the same methods",
        )  # fmt: skip
    there = {(s.arm, s.method): s for s in second}
    return [(s, there[s.arm, partner[s.method]]) for s in first if s.method in partner and (s.arm, partner[s.method]) in there]


def _only(s: Scores, cases: Sequence[int]) -> Scores:
    kept = set(cases)
    return Scores(s.method, s.arm, tuple(r for r in s.records if r.case in kept))


def _alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether both runs were on machines of one kind with as many workers, so that their seconds compare."""
    there = all(run.get("machine") and run.get("workers") not in (None, "dask") for run in (first, second))
    return there and all(first[k] == second[k] for k in ("machine", "workers"))


def _pair(first: Scores, second: Scores, protocol: Protocol, timed: bool) -> Pair:
    a, b = first.errors(protocol.criterion), second.errors(protocol.criterion)
    drawn = st.resamples(first.subjects, DRAWS, seed=0)
    found = []
    for limit in thresholds(protocol):
        x, y = a < limit, b < limit
        interval = st.hull(drawn.interval(_apart(st.weighted_share), x * 1.0, y * 1.0), paired_shares(x, y))
        found.append(_difference(success_name(limit), (st.success(a, limit), st.success(b, limit)), interval, 1))
    for q, name in ((50, "median"), (95, "p95")):
        interval = drawn.interval(_apart(lambda w, e, q=q: st.weighted_percentile(w, e, q)), a, b)
        found.append(_difference(name, (st.percentile(a, q), st.percentile(b, q)), interval, -1))
    found.append(_difference("mean", (st.mean(a), st.mean(b)), drawn.interval(_apart(st.weighted_mean), a, b), -1))
    for name, of in (("seconds", "register"), ("cpu", "cpu"), ("renders", "")):
        x, y = (
            np.array([float(r.seconds.get(of, math.nan)) if of else float(r.renders) for r in s.records]) for s in (first, second)
        )
        if np.isfinite(x).all() and np.isfinite(y).all():
            interval = drawn.interval(_apart(lambda w, e: st.weighted_percentile(w, e, 50)), x, y)
            made = _difference(name, (st.percentile(x, 50), st.percentile(y, 50)), interval, -1)
            found.append(replace(made, comparable=timed or not of))
    return Pair(first.arm, first, second, tuple(found), int((b < a).sum()), int((b > a).sum()))


def _apart(statistic: Callable[..., Any]) -> Callable[..., Any]:
    """The second's statistic less the first's, of the same drawn cases. Infinite in both is no difference that has a number."""

    def of(weights: Any, first: Any, second: Any) -> Any:
        with np.errstate(invalid="ignore"):
            return statistic(weights, second) - statistic(weights, first)

    return of


def _difference(name: str, values: tuple[float, float], interval: st.Interval, better: int) -> Difference:
    a, b = values
    return Difference(name, a, b, math.nan if math.isinf(a) and math.isinf(b) else b - a, interval, better)


def paired_shares(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> st.Interval:
    """95 % interval of the second share less the first, of n independent pairs (Newcombe, Stat. Med. 1998, method 10).

    Both Wilson intervals, joined with the pairs' correlation. It has a width where no pair differs.
    """
    n = len(first)
    p, q = float(np.mean(first)), float(np.mean(second))
    one, other = st.wilson(int(first.sum()), n), st.wilson(int(second.sum()), n)
    phi = _correlation(first, second)
    low = math.sqrt(max((q - other.low) ** 2 - 2 * phi * (q - other.low) * (one.high - p) + (one.high - p) ** 2, 0.0))
    high = math.sqrt(max((other.high - q) ** 2 - 2 * phi * (other.high - q) * (p - one.low) + (p - one.low) ** 2, 0.0))
    return st.Interval(q - p - low, q - p + high)


def _correlation(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> float:
    n = len(first)
    both, one, other = int((first & second).sum()), int((first & ~second).sum()), int((~first & second).sum())
    neither = n - both - one - other
    margins = (both + one) * (other + neither) * (both + other) * (one + neither)
    if margins == 0:
        return 0.0
    odds = both * neither - one * other
    return (max(odds - n / 2, 0.0) if odds > 0 else float(odds)) / math.sqrt(margins)


def as_dict(found: Comparison) -> dict[str, Any]:
    """The content of ``comparison.json``; what is infinite or not defined is null."""
    return {
        "first": str(found.folders[0]),
        "second": str(found.folders[1]),
        "protocol": found.protocol.name,
        "criterion": found.protocol.criterion,
        "commits": [run.get("commit") for run in found.runs],
        "pairs": [
            {
                "arm": p.arm,
                "first": p.first.method,
                "second": p.second.method,
                "n": len(p.first.records),
                "won": p.won,
                "lost": p.lost,
                "differences": [
                    {
                        "measure": d.measure,
                        "first": _json(d.first),
                        "second": _json(d.second),
                        "difference": _json(d.difference),
                        "low": _json(d.interval.low),
                        "high": _json(d.interval.high),
                        "verdict": d.verdict,
                    }
                    for d in p.differences
                ],
            }
            for p in found.pairs
        ],
    }


def _json(value: float) -> float | None:
    return round(value, DIGITS) + 0.0 if math.isfinite(value) else None


def as_text(found: Comparison) -> str:
    """The comparison as lines: the second run less the first, with 95 % intervals."""
    lines = [
        f"{found.folders[0]} and {found.folders[1]}, {found.protocol.name}, by {found.protocol.criterion}; second less first"
    ]
    for p in found.pairs:
        where = "" if p.arm == "none" else f", {p.arm}"
        lines += ["", f"{p.name}{where}: {len(p.first.records)} cases, better in {p.won}, worse in {p.lost}"]
        lines += [f"  {'':14s} {'first':>9s} {'second':>9s} {'difference':>11s} {'95 % interval':>22s}"]
        for d in p.differences:
            cells = f"{_cell(d.first):>9s} {_cell(d.second):>9s} {_cell(d.difference):>11s}"
            lines.append(f"  {d.measure:14s} {cells} {_cell(d.interval.low):>10s} to {_cell(d.interval.high):>8s}  {d.verdict}")
    return "\n".join(lines)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
