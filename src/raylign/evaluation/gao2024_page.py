"""The page of ``raylign reproduce gao2024``: one HTML file that opens offline."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from raylign.evaluation.gao2024 import (
    CMAES,
    NO_NETWORK,
    PERCENTILES,
    PUBLISHED,
    SEARCH,
    START,
    Part,
    Reproduced,
    rows,
    seconds,
    values,
)
from raylign.evaluation.gao2024_figures import CLASSICAL, DEGREES_OF_FREEDOM, LEARNED
from raylign.evaluation.markup import Markup, number, pairs, section, table, text
from raylign.evaluation.study import page
from raylign.evaluation.study_charts import Plot, Scale, Series, legend, plot
from raylign.evaluation.study_plots import figure
from raylign.evaluation.study_sections import between, share

_TITLE = "A learned convex similarity, and what it is compared with (Gao et al. 2024)"
_BINS = 24


def report_html(done: Reproduced) -> str:
    """The whole page; pictures are part of it, and nothing is fetched."""
    parts = [_headline(done), *(_part(part) for part in done.parts), _published(), _histograms(done)]
    return page(_TITLE, "raylign reproduce gao2024", [*parts, _landscape(done), _correlation(done), _again(done)])


def _headline(done: Reproduced) -> Markup:
    found = {row["method"]: row for row in rows(done.parts[0])}
    one = done.config.of("pelvis")[0].label
    spoken = (f"{one} + direct", f"{one} + CMA-ES", CMAES, NO_NETWORK, SEARCH)
    success = "; ".join(f"{name}: {share(found[name]['success'], 1)} % over {found[name]['n']} cases" for name in spoken)
    says = (
        f"{one} brings the TRE from {number(found[START]['tre_p50'], 0)} to {number(found[one]['tre_p50'], 0)} mm (medians)."
        f" Under 10 mm: {success}. The paper: 65.6 % from its network and 28.5 % from the start, by CMA-ES."
    )
    return Markup(f'<div class="verdict neutral"><p class="says">{text(says)}</p></div>')


def _part(part: Part) -> Markup:
    spent, found = seconds(part), rows(part)
    head = ("", "Cases", *(f"{q} %" for q in PERCENTILES), "under 2 mm, %", "under 10 mm, %", "trusted, %", "trusted and off",
            "CPU seconds")  # fmt: skip
    body = [
        (
            r["method"],
            r["n"],
            *(number(r[f"tre_p{q}"], 1) for q in PERCENTILES),
            share(r["success_2mm"], 1),
            between(r, "success", shares=True),
            share(r["trusted"], 1) if "trusted" in r else "",
            r.get("silent", ""),
            number(spent[r["method"]], 1) if r["method"] in spent else "",
        )
        for r in found
    ]
    poses = [(r["method"], *(number(r[f"{name}_p{q}"], 1) for name in ("angle", "shift") for q in PERCENTILES)) for r in found]
    apart = ("", *(f"{what} {q} %" for what in ("Turn, degrees,", "Shift, mm,") for q in PERCENTILES))
    says = (
        "Percentiles of the mean TRE over points of the bones, of the whole rotation, and of the shift of the targets' centroid."
        " Small: 95 % intervals over patients. Rows with CMA-ES are of the first cases only. Trusted and off: results that the"
        " method trusts and that are 10 mm off or more; a descent alone is never trusted. Seconds: median processor time, on"
        " the machine that ran it."
    )
    tables = table(head, body, "TRE, mm, and success"), table(apart, poses, "Errors of poses")
    return section(part.name, part.title, f"<p>{text(says)}</p>", *tables)


def _published() -> Markup:
    body = [(part, name, number(value, 1)) for part, found in PUBLISHED.items() for name, value in found.items()]
    says = "Success under 10 mm, percent, of 1,000 cases of 20 scanned pelves (500 of real X-rays), as the paper's text has it."
    return section("published", "As published", table(("", "Method", "under 10 mm, %"), body, says, numeric=False))


def _histograms(done: Reproduced) -> Markup:
    part = done.parts[0]
    one = done.config.of("pelvis")[0].label
    names = (START, one, f"{one} + direct")
    drawn = [
        figure(_counts(part, names, what, unit), label, "share of the cases")
        for what, unit, label in (("angle", "degrees", "Turn"), ("shift", "mm", "Shift"))
    ]
    key = legend({name: k for k, name in enumerate(names)})
    return section("histograms", "Figure 4: histograms of errors", f'{key}<div class="two">{"".join(drawn)}</div>')


def _counts(part: Part, names: tuple[str, ...], what: str, unit: str) -> Markup:
    top = float(np.nanpercentile(values(part.records[START], START, what), 99))
    edges = np.linspace(0, top, _BINS + 1)
    series = []
    for k, name in enumerate(names):
        found = values(part.records[name], name, what)
        shares = np.histogram(np.minimum(found, top), edges)[0] / len(found)
        steps = [(float(x), float(y)) for a, b, y in zip(edges, edges[1:], shares, strict=False) for x in (a, b)]
        series.append(Series(name, steps, k))
    high = max(y for s in series for _, y in s.points)
    return plot(Plot(f"Errors: {what}", unit, "share", Scale(0.0, top), Scale(0.0, high), tuple(series)))


def _landscape(done: Reproduced) -> Markup:
    drawn = []
    for axis, name in enumerate(DEGREES_OF_FREEDOM):
        x = done.figures.along[axis]
        lines = tuple(
            Series(kind, [(float(a), float(b)) for a, b in zip(x, _scaled(done.figures.landscape[kind][axis]), strict=True)], k)
            for k, kind in enumerate((LEARNED, CLASSICAL))
        )
        unit = "degrees" if axis < 3 else "mm"
        drawn.append(figure(plot(Plot(name, unit, "", Scale(float(x[0]), float(x[-1])), Scale(0.0, 1.0), lines)), name, ""))
    says = (
        "One test patient, one degree of freedom at a time about the true pose, world axes. Each from its least to its largest."
    )
    key = legend({LEARNED: 0, CLASSICAL: 1})
    body = Markup(f'{key}<div class="three">{"".join(drawn)}</div>')
    return section("landscape", "Figure 5: along each degree of freedom", f"<p>{text(says)}</p>", body)


def _scaled(values: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-12)


def _correlation(done: Reproduced) -> Markup:
    found = done.figures
    body = [(name, number(c.over_all), number(c.within), share(c.ordered, 0)) for name, c in found.correlations.items()]
    head = ("", "over all exposures", "within an exposure, mean", "pairs of poses in the right order, %")
    says = "The paper: 0.56 for its network, 0.23 for gradient NCC."
    top = float(found.distance.max())
    drawn = []
    for k, kind in enumerate((LEARNED, CLASSICAL)):
        points = [(float(a), float(b)) for a, b in zip(found.distance.ravel(), _scaled(found.values[kind].ravel()), strict=True)]
        dots = Series(kind, points, k, line=False, dots=True)
        drawn.append(
            figure(plot(Plot(kind, "distance, radians", "", Scale(0.0, top), Scale(0.0, 1.0), (dots,))), kind, "scaled to 0 to 1")
        )
    return section(
        "correlation", "Figure 6: similarity and Riemannian distance", f"<p>{text(says)}</p>",
        table(head, body, "Correlation of the similarity with the distance"), f'<div class="two">{"".join(drawn)}</div>',
    )  # fmt: skip


def _again(done: Reproduced) -> Markup:
    said = {
        "seed": done.config.seed,
        **{f"cases, {part.name}": ", ".join(f"{name} {len(r)}" for name, r in part.records.items()) for part in done.parts},
        "weights": ", ".join(n.label for n in done.config.networks),
    }
    return section("again", "How it was run", pairs(said, ("What", "Value"), "Settings"))
