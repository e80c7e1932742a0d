"""The pictures of an evaluation's report, a function a section."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from raylign.evaluation import statistics as st
from raylign.evaluation.arms import LEVELS
from raylign.evaluation.markup import Markup, section, table, text
from raylign.evaluation.scores import AXES, SILENT_MM, Scores
from raylign.evaluation.study_charts import Plot, Scale, Series, Violin, legend, log_scale, plot, violins
from raylign.evaluation.study_content import CRITERIA, Study
from raylign.evaluation.study_sections import mm, share

_SHARES = Scale(0.0, 1.0, percent=True)
_DOTS = 4000  # in a scatter, of all methods together; more than that are thinned out evenly
_POINTS = 400  # of a curve
_BANDS = 3  # methods up to which intervals are drawn around curves: more would hide each other


def figure(picture: Markup, title: str, says: str = "") -> Markup:
    """A plot with its caption."""
    return Markup(f"<figure>{picture}<figcaption><b>{text(title)}</b> {text(says)}</figcaption></figure>")


def success(study: Study) -> Markup:
    """Share of cases under every error, and by where they started."""
    if not study.usual:
        return Markup("")
    measured = [
        figure(_distribution(study, name), f"Cases under an error, {said}", _says(study)) for name, said in CRITERIA.items()
    ]
    limit = study.protocol.success_mm
    capture = figure(
        _capture(study),
        "Success by start",
        f"share under {limit:g} mm {study.criterion} in each bin of starting mTRE; the dotted line is "
        f"{share(study.protocol.capture_share)} %",
    )
    scatter = figure(
        _scatter(study),
        "Start against end",
        "each dot a case; under the dotted line it got better. Those without a result lie on the upper edge",
    )
    return section(
        "success",
        "Success",
        legend({s.method: study.styles[s.method] for s in study.usual}),
        f'<div class="two">{"".join(measured)}{capture}{scatter}</div>',
        _bins(study),
    )


def _says(study: Study) -> str:
    return "shaded: 95 % interval over subjects" if len(study.methods) <= _BANDS else ""


def _distribution(study: Study, name: str) -> Markup:
    everything = np.concatenate([s.errors(name) for s in study.usual])
    across = log_scale([*everything.tolist(), 1.0, 10.0], floor=1e-2, ceiling=1e3)
    lines = []
    for s in study.usual:
        errors = np.sort(s.errors(name))
        places = across.values(_POINTS)
        shares = np.searchsorted(errors, places, side="left") / len(errors)
        band: list[tuple[float, float, float]] = []
        if not s.nothing and len(study.methods) <= _BANDS:
            drawn = st.resamples(s.subjects, 300, seed=0)
            for x in across.values(60).tolist():
                i = drawn.success(s.errors(name), x)
                band.append((x, i.low, i.high))
        lines.append(
            Series(s.method, list(zip(places.tolist(), shares.tolist(), strict=True)), study.styles[s.method], band=band)
        )
    marks = ((study.protocol.success_mm, f"{study.protocol.success_mm:g} mm"),) if name == study.protocol.criterion else ()
    title = f"Share of cases under an error in {CRITERIA[name]}, by method"
    return plot(Plot(title, f"{CRITERIA[name]}, mm", "cases", across, _SHARES, tuple(lines), marks=marks))


def _capture(study: Study) -> Markup:
    found = {s.method: s.bins(study.protocol) for s in study.methods}
    farthest = max((b.high for bins in found.values() for b in bins if b.n), default=1.0)
    across = Scale(0.0, farthest)
    lines = [
        Series(
            name,
            [((b.low + b.high) / 2, b.success) for b in bins if b.n],
            study.styles[name],
            dots=True,
            labels=[f"{name}, {b.low:g} to {b.high:g} mm: {share(b.success)} % of {b.n}" for b in bins if b.n],
        )
        for name, bins in found.items()
    ]
    wanted = study.protocol.capture_share
    lines.append(Series(f"{share(wanted)} %", [(0.0, wanted), (farthest, wanted)], -1))
    title = "Success by the starting error, by method"
    return plot(Plot(title, "starting mTRE, mm", "success", across, _SHARES, tuple(lines)))


def _bins(study: Study) -> Markup:
    """The same as a table, where there are not too many bins to read."""
    by_method = {s.method: {(b.low, b.high): b for b in s.bins(study.protocol)} for s in study.methods}
    edges = sorted({key for bins in by_method.values() for key, b in bins.items() if b.n})
    if not edges or len(edges) > 24:
        return Markup("")
    rows = [
        (
            f"{low:g} to {high:g}",
            str(max((bins[low, high].n for bins in by_method.values() if (low, high) in bins), default=0)),
            *(share(bins[low, high].success) if (low, high) in bins else "–" for bins in by_method.values()),
        )
        for low, high in edges
    ]
    head = ("Starting mTRE, mm", "Cases", *(f"{name}, %" for name in by_method))
    return table(head, rows, f"Share under {study.protocol.success_mm:g} mm {study.criterion}, by start")


def _scatter(study: Study) -> Markup:
    name = study.protocol.criterion
    begun = np.concatenate([s.starts(name) for s in study.usual])
    ended = np.concatenate([s.errors(name) for s in study.methods]) if study.methods else begun
    across, up = log_scale(begun.tolist(), ceiling=1e4), log_scale(ended.tolist(), ceiling=1e4)
    lines = []
    most = max(100, _DOTS // max(len(study.methods), 1))
    for s in study.methods:
        start, end = s.starts(name), np.where(np.isinf(s.errors(name)), up.high, s.errors(name))
        chosen = np.unique(np.linspace(0, len(end) - 1, min(len(end), most)).round().astype(int))
        says = [f"{s.method}, case {s.records[k].case}: {start[k]:.3g} to {s.errors(name)[k]:.3g} mm" for k in chosen]
        points = list(zip(start[chosen].tolist(), end[chosen].tolist(), strict=True))
        lines.append(Series(s.method, points, study.styles[s.method], line=False, dots=True, labels=says))
    said = CRITERIA[name]
    plotted = Plot(
        f"{said} of start and end", f"{said} of the start, mm", f"{said} of the end, mm", across, up, tuple(lines), True
    )
    return plot(plotted)


def errors(study: Study) -> Markup:
    """Violins of the error along each axis of the first view."""
    if not study.usual:
        return Markup("")
    split = {s.method: s.split() for s in study.usual}
    units = ("mm", "mm", "degrees", "degrees", "degrees")
    says = (
        "across the ray, at the targets' centroid",
        "along the ray, positive away from the source",
        "turned about the image's horizontal",
        "turned about the image's vertical",
        "turned about the ray",
    )
    figures = "".join(
        figure(
            violins(f"Error {AXES[k]}, by method", units[k], [Violin(n, v[:, k], study.styles[n]) for n, v in split.items()]),
            AXES[k][:1].upper() + AXES[k][1:],
            f"{says[k]}, {units[k]}",
        )
        for k in range(5)
    )
    rows = [(name, *(_spread(v[:, k]) for k in range(5))) for name, v in split.items()]
    head = ("Method", *(f"{axis}, {unit}" for axis, unit in zip(AXES, units, strict=True)))
    return section(
        "errors",
        "Errors by axis",
        "<p>As the first view sees them. The axis of each picture is linear within 0.1 of zero and logarithmic beyond: near "
        "misses and failures both show. Dot: median; box: quartiles; whisker: 5th to 95th percentile. Cases without a result "
        "are not in these.</p>",
        f'<div class="three">{figures}</div>',
        table(head, rows, "Median of the size, and 95th percentile"),
    )


def _spread(values: Float[np.ndarray, " n"]) -> str:
    size = np.abs(values)
    return f"{mm(st.percentile(size, 50))} / {mm(st.percentile(size, 95))}"


def confidence(study: Study) -> Markup:
    """Whether reported probabilities come true, and whether they tell failures."""
    reliability, curves, rows = [], [], []
    for s in study.methods:
        probability, right = s.confidence()
        if len(probability) == 0:
            continue
        k = study.styles[s.method]
        found = st.calibration(probability, right)
        labels = [f"{s.method}: said {share(c.probability)} %, true {share(c.right)} % of {c.n}" for c in found]
        reliability.append(Series(s.method, [(c.probability, c.right) for c in found], k, dots=True, labels=labels))
        curve = st.roc(1 - probability, ~right)
        if not math.isnan(curve.area):
            curves.append(Series(s.method, list(zip(curve.false_positive, curve.true_positive, strict=True)), k))
        rows.append(
            (
                s.method,
                str(len(probability)),
                str(int((~right).sum())),
                str(len(s.silent)),
                mm(curve.area, 3),
                mm(st.expected_calibration_error(probability, right), 3),
            )
        )
    if not rows:
        return Markup("")
    across = Scale(0.0, 1.0, percent=True)
    drawn = plot(Plot("Calibration", "reported probability", "came true", across, _SHARES, tuple(reliability), diagonal=True))
    pictures = [
        figure(drawn, "Calibration", "each dot a tenth of the scale of probabilities; an honest method lies on the dotted line")
    ]
    if curves:
        axes = ("right ones flagged", "failures flagged")
        picture = plot(Plot("Receiver operating characteristic", *axes, across, _SHARES, tuple(curves), diagonal=True))
        pictures.append(figure(picture, "Telling failures", "by a falling threshold on the reported probability"))
    return section(
        "confidence",
        "Confidence",
        f"<p>A result is right here if its mTRE is under {SILENT_MM:g} mm, whatever the criterion. Cases without a result report "
        "no probability and are left out.</p>",
        legend({s.name: s.style for s in reliability}),
        f'<div class="two">{"".join(pictures)}</div>',
        table(("Method", "With a probability", "Failures", "Silent failures", "AUROC", "ECE"), rows, "Reported probabilities"),
    )


def robustness(study: Study) -> Markup:
    """Success by the level of each disturbance, beside the undisturbed cases."""
    arms = study.arms
    if len(arms) < 2:
        return Markup("")
    name, limit = study.protocol.criterion, study.protocol.success_mm
    by_arm = {(s.arm, s.method): s for s in study.scores if not s.nothing}
    figures = []
    for one in study.protocol.disturbances:
        names = [arms[0], *(f"{one.kind} {level:g}" for level in one.levels)]
        names = [n for n in names if n in arms]
        ticks = tuple((float(k), n.removeprefix(f"{one.kind} ")) for k, n in enumerate(names))
        lines = [_by_level(s.method, names, by_arm, study) for s in study.methods]
        across = Scale(-0.3, len(names) - 0.7, named=ticks)
        drawn = plot(Plot(f"Success by level of {one.kind}", one.kind, "success", across, _SHARES, tuple(lines)))
        figures.append(figure(drawn, one.kind[:1].upper() + one.kind[1:], LEVELS[one.kind][2]))
    rows = []
    for (arm, method), s in by_arm.items():
        r = study.of(s)
        cells = (share(r[f"success_{limit:g}mm"]), mm(r["median"]), mm(r["p95"]), str(r["silent_failures"]), str(r["no_result"]))
        rows.append((f"{arm}: {method}", str(r["n"]), *cells))
    head = ("Arm: method", "Cases", f"< {limit:g} mm, %", "Median, mm", "95th pct., mm", "Silent failures", "No result")
    return section(
        "robustness",
        "Robustness",
        f"<p>The same cases, disturbed one way at a time. Success: under {limit:g} mm {CRITERIA[name]}; shaded: 95 % "
        "intervals.</p>",
        legend({s.method: study.styles[s.method] for s in study.methods}),
        f'<div class="three">{"".join(figures)}</div>',
        table(head, rows, "By arm"),
    )


def _by_level(method: str, names: Sequence[str], by_arm: dict[tuple[str, str], Scores], study: Study) -> Series:
    points, band, labels = [], [], []
    for k, arm in enumerate(names):
        if (s := by_arm.get((arm, method))) is None:
            continue
        r, name = study.of(s), f"success_{study.protocol.success_mm:g}mm"
        points.append((float(k), r[name]))
        band.append((float(k), r[f"{name}_low"], r[f"{name}_high"]))
        labels.append(f"{method}, {arm}: {share(r[name])} % of {r['n']}")
    few = len(study.methods) <= _BANDS
    return Series(method, points, study.styles[method], dots=True, band=band if few else (), labels=labels)


def efficiency(study: Study) -> Markup:
    """Measured errors over what the exposures' noise allows."""
    bounded = [s for s in study.methods if len(s.efficiency("in_plane"))]
    failed = sorted({r.case: r.bound_failure for s in study.methods for r in s.records if r.bound_failure}.items())
    unknown = Markup("")
    if failed:
        unknown = Markup(
            f"<p>Of {len(failed)} cases no bound could be worked out; first case {failed[0][0]}: {text(failed[0][1])}.</p>"
        )
    if not bounded:
        return section("efficiency", "Efficiency", unknown) if failed else Markup("")
    pictures, rows = [], []
    for name, said in (("in_plane", "in plane"), ("depth", "in depth")):
        kept = {
            s.method: [(getattr(r, f"bound_{name}"), abs(getattr(r, name))) for r in s.records if _has(r, name)] for s in bounded
        }
        xs = [x for points in kept.values() for x, _ in points]
        ys = [y for points in kept.values() for _, y in points]
        if not xs:
            continue
        across, up = log_scale(xs, 1e-4), log_scale([*ys, *xs], 1e-4)
        series = tuple(Series(m, points, study.styles[m], line=False, dots=True) for m, points in kept.items())
        drawn = plot(Plot(f"Error {said} against its bound", "bound, mm", "error, mm", across, up, series, diagonal=True))
        pictures.append(figure(drawn, f"Error {said} against its bound", "the dotted line is the limit of the dose"))
    for s in bounded:
        cells: list[str] = []
        for name in ("in_plane", "depth"):
            bounds = np.array([b for r in s.records if (b := getattr(r, f"bound_{name}")) is not None])
            near = st.mean(s.efficiency(name, near=True))
            cells += [mm(float(np.median(bounds)), 3), mm(st.percentile(s.efficiency(name), 50), 1), mm(near, 1)]
        rows.append((s.method, *cells))
    head = ("Method", "In plane: bound, mm", "median ratio", "mean ratio", "Depth: bound, mm", "median ratio", "mean ratio")
    return section(
        "efficiency",
        "Efficiency",
        "<p>Squared error over the least variance that the quantum noise of the same exposure allows any unbiased method "
        "(Cramér-Rao). A mean of 1 is the physical limit of the dose; at the limit the median is about 0.7 in plane and 0.45 in "
        f"depth. Means are of cases under {SILENT_MM:g} mm mTRE, which found the right optimum; medians are of all.</p>",
        legend({s.method: study.styles[s.method] for s in bounded}),
        f'<div class="two">{"".join(pictures)}</div>',
        table(head, rows, "Squared error over the bound"),
        unknown,
    )


def _has(record: object, name: str) -> bool:
    return getattr(record, f"bound_{name}") is not None and getattr(record, name) is not None
