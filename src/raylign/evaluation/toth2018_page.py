"""The page of ``raylign reproduce toth2018``: one HTML file that opens offline."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from raylign.evaluation import statistics as st
from raylign.evaluation import toth2018_pictures as draw
from raylign.evaluation.markup import Markup, number, pairs, section, table, text
from raylign.evaluation.study import page
from raylign.evaluation.study_charts import Plot, Scale, Series, legend, plot
from raylign.evaluation.study_plots import figure
from raylign.evaluation.study_sections import between, share
from raylign.evaluation.toth2018 import (
    PUBLISHED,
    WITHIN_MM,
    Record,
    Reproduced,
    deviations,
    errors,
    evolution,
    failure,
    robustness,
    rows,
    times,
)
from raylign.evaluation.toth2018_scans import OnScan, one_of
from raylign.methods.imitation_agent.comparison import AGREED
from raylign.methods.imitation_agent.mdp import cross_error
from raylign.methods.imitation_agent.world import World

_TITLE = "A left ventricle's model in one chest X-ray, by imitation learning (Toth et al. 2018)"
_DRAWN = 4  # exposures whose walks are drawn


def report_html(done: Reproduced) -> str:
    """The whole page; pictures are part of it, and nothing is fetched."""
    parts = [_headline(done), _table(done), _evolution(done), _failure(done), _robustness(done), _scans(done), _times(done)]
    parts.append(_again(done))
    return page(_TITLE, "raylign reproduce toth2018", parts)


def _headline(done: Reproduced) -> Markup:
    found = {r["method"]: r for r in rows(done.cases)}
    agent, start = found["agent"], found["start"]
    best = min((m for m in found if m[:2] in ("GO", "GC", "GI")), key=lambda m: found[m]["mean"])
    says = (
        f"The agent: TRE {number(agent['mean'])} mm in the mean, median {number(agent['median'])}, 90 % within"
        f" {number(agent['p90'])}, over {agent['n']} cases of {agent['subjects']} patients; starts had {number(start['mean'])}."
        f" Best gradient metric: {best}, {number(found[best]['mean'])} in the mean."
    )
    worse = f"{share(agent['worse'], 1)} % of the agent's results are worse than their starts."
    return Markup(f'<div class="verdict neutral"><p class="says">{text(says)}</p><p>{text(worse)}</p></div>')


def _table(done: Reproduced) -> Markup:
    head = ("", "Mean", "SD", "50 %", "60 %", "70 %", "80 %", "90 %", "100 %", "5 % / 95 %", "under 2 mm, %",
            "under 10 mm, %", "Angle", "Worse, %")  # fmt: skip
    body = []
    for r in rows(done.cases):
        body.append(
            (
                r["method"] if r["n"] == len(done.cases) else f"{r['method']}, {r['n']}",
                between(r, "mean"),
                number(r["sd"]),
                between(r, "median"),
                *(number(r[f"p{q}"]) for q in (60, 70, 80, 90, 100)),
                f"{number(r['p5'])} / {number(r['p95'])}",
                between(r, "success_2mm", shares=True),
                between(r, "success_10mm", shares=True),
                f"{number(r['angle_mean'], 1)} ± {number(r['angle_sd'], 1)}",
                share(r["worse"], 1),
            )
        )
    n, who = len(done.cases), len({r["subject"] for r in done.cases})
    says = (
        "TRE in plane of a cross of 10 mm at the ventricle's centre, mm; angles in degrees. Small: 95 % intervals over patients."
        " A number behind a name: of the first so many cases only. Patients here are made, not scanned, so that the paper's"
        " figures stand beside ours and are not of the same data."
    )
    methods = (
        "GO to GI+: the model's thickness in 120 mm about it against the X-ray there; the whole box of starts (35 mm and 15"
        " degrees about each) on a grid, then climbing from the three best places. The box holds the truth. silhouette: the"
        " direct method on the solid of the model alone, from that grid's places, in plane. agent: one walk."
        f" agent-starts: the median of {done.compare.walks} walks, as raylign register does. agent+refinement: climbing from that"
        f" median by {done.compare.refinement}."
    )
    published = [(name, *(number(v) for v in values)) for name, values in PUBLISHED.items()]
    paper = table(("", "Mean", "SD", "50 %", "90 %"), published, "As published: TRE in mm, 1000 cases of 100 scanned patients")
    return section(
        "summary",
        "Table 1",
        f"<p>{text(says)}</p><p>{text(methods)}</p>",
        table(head, body, f"{n} cases of {who} patients"),
        paper,
    )


def _evolution(done: Reproduced) -> Markup:
    states = evolution(done.cases)
    tre = cross_error(torch.from_numpy(states)).numpy()
    sizes = np.abs(states)
    lines = {"mean": tre.mean(0), "median": np.median(tre, 0), "90th percentile": np.percentile(tre, 90, axis=0),
             "root mean square": np.sqrt((tre**2).mean(0))}  # fmt: skip
    band = [(k, *np.percentile(tre[:, k], (25, 75)).tolist()) for k in range(tre.shape[1])]
    series = [_line(name, values, k) for k, (name, values) in enumerate(lines.items())]
    series.append(Series("quartiles", (), 1, line=False, band=band))
    parameters = {"x, mm": sizes[..., 0], "y, mm": sizes[..., 1], "turn, degrees": sizes[..., 2]}
    means = [_line(name, values.mean(0), k) for k, (name, values) in enumerate(parameters.items())]
    left = figure(_over_steps("TRE over the agent's actions", "mm", series), "TRE", "band: quartiles of the cases")
    right = figure(
        _over_steps("Size of errors over the agent's actions", "mm, degrees", means), "Parameters", "mean sizes of errors"
    )
    return section(
        "errors", "Figure 5: the agent's way", "<p>All cases; walks that have ended stay where they are.</p>",
        f'<div class="two"><div>{legend({n: k for k, n in enumerate(lines)})}{left}</div>'
        f"<div>{legend({n: k for k, n in enumerate(parameters)})}{right}</div></div>",
    )  # fmt: skip


def _line(name: str, values: Float[np.ndarray, " s"], k: int) -> Series:
    return Series(name, [(float(n), float(v)) for n, v in enumerate(values)], k)


def _over_steps(title: str, unit: str, series: list[Series]) -> Markup:
    top = max(y for s in series for _, y in s.points)
    last = max(max(x for x, _ in s.points) for s in series if s.points)
    return plot(Plot(title, "actions", unit, Scale(0.0, max(last, 1.0)), Scale(0.0, max(top, 1.0)), tuple(series)))


def _failure(done: Reproduced) -> Markup:
    found = failure(done.cases)
    if found is None:
        says = f"No metric goes astray in a case that its positive-only form brings under {WITHIN_MM:g} mm."
        return section("worst", "Where metrics go astray", f"<p>{text(says)}</p>")
    world = draw.world_of(done.pool, int(found.record["subject"]))
    ends = [torch.tensor(found.record["methods"][m]["end"], dtype=torch.float64) for m in (found.plain, found.plus)]
    where = draw.towards(world, ends[0])
    says = (
        f"Case {found.record['case']}, patient {found.record['subject']}: {found.plain} ends {number(found.tre_mm, 1)} mm off,"
        f" {where} in the image plane; {found.plus} ends {number(found.plus_mm, 1)} mm off. Of all cases in which a positive-only"
        f" form comes under {WITHIN_MM:g} mm it is the one in which its plain metric has the largest error."
    )
    picture = draw.outlined(world, torch.stack([torch.zeros(3, dtype=torch.float64), *ends]), says)
    key = f"green: the truth; orange: {found.plain}; blue: {found.plus}"
    return section("worst", "Where metrics go astray", f"<p>{text(says)}</p>", figure(picture, "Outlines of the model.", key))


def _robustness(done: Reproduced) -> Markup:
    found = robustness(done.grids)
    if found is None:
        return Markup("")
    facts = {
        "exposures, starts in all": f"{found['exposures']}, {found['starts']}",
        "median deviation, mm (paper: about 1)": f"{number(found['median'])}; of the worst {number(found['largest_median'])}",
        "90 % of deviations below, mm (paper: 1.42)": number(found["p90"]),
        "under 5 mm, % (paper: 97.16)": f"{share(found['within_5mm'], 2)}; of the worst {share(found['least_within_5mm'], 1)}",
        "largest deviation, mm": number(found["max"], 1),
        "walks that converged, %": share(found["arrived"], 1),
        "TRE of the median ends, mean, mm": number(found["median_end_tre_mean"]),
    }
    says = (
        f"Starts on a grid of shifts within {done.robust.side_mm:g} mm by {done.robust.step_mm:g} mm, with random turns within"
        f" {done.robust.degrees:g} degrees, about a rough alignment; a deviation is how far the centre ends from the median of"
        " all ends of its exposure. Exposures are made like the paper's clinical ones: frontal, with instruments."
    )
    body = pairs(facts, ("What", "Here"), "Robustness")
    return section("robustness", "Figures 6 and 7: robustness", f"<p>{text(says)}</p>", body, _box(done), _ways(done))


def _box(done: Reproduced) -> Markup:
    quantiles = ("median", 50), ("90th percentile", 90), ("largest", 100)
    each = [deviations(r) for r in done.grids]
    series = tuple(
        Series(name, [(k + 1.0, st.percentile(d, q)) for k, d in enumerate(each)], s, line=False, dots=True)
        for s, (name, q) in enumerate(quantiles)
    )
    top = max(float(d.max()) for d in each)
    plain = Plot("Deviations from the median end, exposure by exposure", "exposure", "mm", Scale(0.0, len(each) + 1.0),
                 Scale(0.0, max(1.0, top)), series)  # fmt: skip
    shown = figure(plot(plain), "Deviations from the median end,", "exposure by exposure (figure 7)")
    return Markup(f'{legend({n: k for k, (n, _) in enumerate(quantiles)})}<div class="two">{shown}</div>')


def _ways(done: Reproduced) -> Markup:
    """Walks from a circle: the two most robust exposures, the middle one and the least robust, as the paper shows them."""
    order = sorted(range(len(done.grids)), key=lambda k: (st.percentile(deviations(done.grids[k]), 95), k))
    chosen = order if len(order) <= _DRAWN else [order[0], order[1], order[len(order) // 2], order[-1]]
    return Markup(f'<div class="three">{"".join(_way(done, done.grids[k], k) for k in chosen)}</div>')


def _way(done: Reproduced, record: Record, k: int) -> Markup:
    away = deviations(record)
    says = (
        f"{len(record['ways'])} walks from a circle of {done.robust.side_mm:g} mm. 90 % of the grid's ends within"
        f" {number(st.percentile(away, 90))} mm of their median, {share(st.success(away, WITHIN_MM), 1)} % within 5."
    )
    return figure(
        draw.ways(draw.world_of(done.clinical, int(record["subject"])), record["ways"], says), f"Exposure {k + 1}.", says
    )


def _scans(done: Reproduced) -> Markup:
    """Real CTs: the same rows and figures, scan by scan, and the agent's worst case beside the truth."""
    if not done.scans:
        return Markup("")
    says = (
        "Exposures simulated from CTs of people, whom no agent was trained on. The model is the parametric ventricle fitted to"
        " the CT from two points given by hand, and its fit is taken for the truth. Pixels whose rays leave a cut side of a CT"
        " show nothing. TRE in mm, angle in degrees; one person each, so that intervals would mean nothing."
    )
    parts = [_scan(done, one) for one in done.scans]
    return section("scans", "Real chests", f"<p>{text(says)}</p>", *parts)


def _scan(done: Reproduced, one: OnScan) -> Markup:
    head = ("", "Mean", "SD", "50 %", "90 %", "100 %", "Angle", "Worse, %")
    body = [
        (
            r["method"],
            *(number(r[name]) for name in ("mean", "sd", "median", "p90", "p100")),
            number(r["angle_mean"], 1),
            share(r["worse"], 1),
        )
        for r in rows(one.cases)
    ]
    shown = " to ".join(share(s, 0) for s in one.shown)
    title = f"{one.scan.name}: {len(one.cases)} cases; exposures show {shown} % of their field. {one.scan.source}"
    found, facts = robustness(one.grids), Markup("")
    if found is not None:
        facts = pairs(
            {
                "exposures, starts in all": f"{found['exposures']}, {found['starts']}",
                "median deviation, mm": number(found["median"]),
                "90 % of deviations below, mm": number(found["p90"]),
                "under 5 mm, %": share(found["within_5mm"], 2),
                "TRE of the median ends, mean, mm": number(found["median_end_tre_mean"]),
            },
            ("What", "Here"),
            f"{one.scan.name}: robustness",
        )
    tre = errors(one.cases, AGREED)
    worst = int(np.argmax(tre))
    end = torch.tensor(one.cases[worst]["methods"][AGREED]["end"], dtype=torch.float64)
    words = f"{one.scan.name}, the case in which {AGREED} is worst: {number(float(tre[worst]), 1)} mm off"
    states = torch.stack([torch.zeros(3, dtype=torch.float64), end])
    picture = draw.outlined(World(one_of(one.exposures, worst)), states, words)
    drawing = figure(picture, words, f"green: the truth; orange: {AGREED}")
    return Markup(f'{table(head, body, title)}<div class="two"><div>{facts}</div><div>{drawing}</div></div>')


def _times(done: Reproduced) -> Markup:
    body = [
        (t["method"], number(t["seconds_median"]), number(t["seconds_p95"]), number(t["looks_median"], 0))
        for t in times(done.cases)
        if t["method"] != "start"
    ]
    says = "Seconds of one processor (threads of one add up), on the machine that ran it; a state that is looked at is one look."
    head = ("", "Median, s", "95 %, s", "Looks, median")
    return section("times", "Time", f"<p>{text(says)}</p>", table(head, body, "What a registration costs"))


def _again(done: Reproduced) -> Markup:
    said = {"seed": done.compare.seed, "cases": len(done.cases), **done.run}
    return section("again", "How it was run", pairs(said, ("What", "Value"), "Settings"))
