"""A comparison of two runs as one HTML file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raylign.evaluation.arms import UNDISTURBED
from raylign.evaluation.comparison import Comparison, Difference, Pair
from raylign.evaluation.markup import Markup, number, pairs, section, table, text
from raylign.evaluation.replay import replay_command
from raylign.evaluation.study import page
from raylign.evaluation.study_charts import Plot, Scale, Series, legend, log_scale, plot
from raylign.evaluation.study_content import CRITERIA
from raylign.evaluation.study_plots import figure
from raylign.evaluation.table import success_name

_MOST = 10  # cases listed each way
_UNITS = {"seconds": "s", "cpu": "s", "renders": ""}
_SAID = {"seconds": "Seconds, median", "cpu": "CPU seconds, median", "renders": "Renderings, median", "p95": "95th percentile"}


def comparison_html(found: Comparison) -> str:
    """The page; nothing is fetched."""
    return page(
        f"Comparison: {found.protocol.title}",
        f"raylign evaluate --compare: {found.protocol.name}",
        [_headline(found), *(_pair(found, k, p) for k, p in enumerate(found.pairs)), _again(found)],
    )


def _headline(found: Comparison) -> Markup:
    name = success_name(found.protocol.success_mm)
    said = []
    for p in [p for p in found.pairs if p.arm == found.pairs[0].arm][:3]:
        d = next(d for d in p.differences if d.measure == name)
        where = _arm(found, p)
        change, low, high = (number(100 * x, 1, signed=True) for x in (d.difference, d.interval.low, d.interval.high))
        said.append(
            f"{p.name}{where}: {change} percentage points of success under {found.protocol.success_mm:g} mm "
            f"(95 % interval {low} to {high}): {d.verdict}."
        )
    verdicts = {d.verdict for p in found.pairs for d in p.differences if d.measure == name}
    worse = "worse" in verdicts
    icon = '<path d="M12 4v10M12 18.5v1"/>' if worse else '<path d="M5 12.5l4.5 4.5L19 7.5"/>'
    chip = "Success is worse" if worse else "Success is better" if "better" in verdicts else "No difference of success shown"
    drawn = f'<svg viewBox="0 0 24 24" aria-hidden="true">{icon}</svg>'
    return Markup(
        f'<div class="verdict {"bad" if worse else "ok"}"><p class="chip">{drawn}{chip}</p>'
        f'<p class="says">{text(" ".join(said))}</p><p>The second run ({text(found.folders[1])}) less the first '
        f"({text(found.folders[0])}), on the same cases. Intervals: 95 %, cases paired, subjects resampled.</p></div>"
    )


def _value(d: Difference, value: float, *, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "infinite"
    if d.measure.startswith("success"):
        return f"{number(100 * value, 1, signed=signed)} {'points' if signed else '%'}"
    return f"{number(value, 2, signed=signed)} {_UNITS.get(d.measure, 'mm')}".strip()


def _called(d: Difference) -> str:
    if d.measure.startswith("success_"):
        return f"Under {d.measure.removeprefix('success_').removesuffix('mm')} mm"
    return _SAID.get(d.measure, d.measure.capitalize())


def _pair(found: Comparison, k: int, p: Pair) -> Markup:
    rows = [
        (
            _called(d),
            _value(d, d.first),
            _value(d, d.second),
            _value(d, d.difference, signed=True),
            f"{_value(d, d.interval.low, signed=True)} to {_value(d, d.interval.high, signed=True)}",
            d.verdict,
        )
        for d in p.differences
    ]
    # of disturbed arms the numbers alone: pictures of each would hide them
    shown = p.arm == found.pairs[0].arm
    pictures = f'<div class="two">{_distribution(found, p)}{_scatter(found, p)}</div>' if shown else ""
    key = legend({f"first: {p.first.method}": 0, f"second: {p.second.method}": 1}) if shown else ""
    head = ("Measure", "First", "Second", "Difference", "95 % interval", "The second is")
    says = f"<p>{len(p.first.records)} cases; the second is nearer to the truth in {p.won}, farther from it in {p.lost}.</p>"
    return section(
        "summary" if k == 0 else f"summary-{k}",
        f"{p.name}{_arm(found, p)}",
        says,
        table(head, rows, f"By {CRITERIA[found.protocol.criterion]}"),
        key,
        pictures,
        *([_changed(found, p, 1), _changed(found, p, -1)] if shown else []),
    )


def _arm(found: Comparison, p: Pair) -> str:
    """Which arm, where there are several."""
    if len({q.arm for q in found.pairs}) == 1:
        return ""
    return ", undisturbed" if p.arm == UNDISTURBED else f", {p.arm}"


def _errors(found: Comparison, p: Pair) -> tuple[Any, Any]:
    return p.first.errors(found.protocol.criterion), p.second.errors(found.protocol.criterion)


def _distribution(found: Comparison, p: Pair) -> Markup:
    a, b = _errors(found, p)
    across = log_scale([*a.tolist(), *b.tolist(), 1.0, 10.0])
    places = across.values(400)
    lines = tuple(
        Series(name, [(x, float((e < x).mean())) for x in places.tolist()], k)
        for k, (name, e) in enumerate((("first", a), ("second", b)))
    )
    said = CRITERIA[found.protocol.criterion]
    drawn = plot(Plot(f"Cases under an error, {said}", f"{said}, mm", "cases", across, Scale(0.0, 1.0, percent=True), lines))
    return figure(drawn, "Cases under an error", said)


def _scatter(found: Comparison, p: Pair) -> Markup:
    a, b = _errors(found, p)
    both = log_scale([*a.tolist(), *b.tolist()], ceiling=1e4)
    x, y = (np.where(np.isinf(e), both.high, e).tolist() for e in (a, b))
    says = [f"case {r.case}: {i:.3g} and {j:.3g} mm" for r, i, j in zip(p.first.records, a, b, strict=True)]
    dots = Series("cases", list(zip(x, y, strict=True)), 2, line=False, dots=True, labels=says)
    drawn = plot(Plot("Error of each case in both runs", "first, mm", "second, mm", both, both, (dots,), diagonal=True))
    return figure(drawn, "Case by case", "under the dotted line the second is better; without a result: on the edge")


def _changed(found: Comparison, p: Pair, sign: int) -> Markup:
    """The cases that changed most: for the worse (1) or the better (-1)."""
    a, b = _errors(found, p)
    with np.errstate(invalid="ignore"):
        change = np.nan_to_num(sign * (b - a), nan=0.0, posinf=math.inf)
    order = [k for k in np.argsort(-change, kind="stable")[:_MOST].tolist() if change[k] > 0]
    if not order:
        return Markup("")
    which, s = (1, p.second) if sign > 0 else (0, p.first)
    rows = [
        (
            f"{s.records[k].case}: {s.records[k].name}",
            *("no result" if math.isinf(e[k]) else f"{number(float(e[k]), 2)} mm" for e in (a, b)),
            replay_command(found.runs[which], found.folders[which], s.records[k].case, s.method),
        )
        for k in order
    ]
    title = "Where the second is worse, most first" if sign > 0 else "Where the second is better, most first"
    return table(("Case", "First", "Second", "To see the worse one again"), rows, title, numeric=False)


def _again(found: Comparison) -> Markup:
    rows = []
    for folder, run in zip(found.folders, found.runs, strict=True):
        machine = run.get("machine") or {}
        versions = run.get("versions") or {}
        said = f"commit {str(run.get('commit') or 'not known')[:12]}; " + ", ".join(f"{k} {v}" for k, v in versions.items())
        rows.append((str(folder), f"{said}; {machine.get('processor', '')}, {machine.get('cores', '?')} cores"))
    note = "<p>Seconds compare only where both ran on the same machine, undisturbed.</p>"
    return section("again", "How they were run", note, pairs(dict(rows), ("Run", "With"), "Runs"))
