"""Where registrations of one exposure end that start from many places: how far from their median (Toth et al. 2018)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from raylign.evaluation import statistics as st
from raylign.evaluation.markup import Markup, section, table, text
from raylign.evaluation.record import Record
from raylign.evaluation.scores import Scores
from raylign.evaluation.study_charts import Plot, Scale, Series, legend, log_scale, plot
from raylign.evaluation.study_content import Study
from raylign.evaluation.study_plots import figure
from raylign.evaluation.study_sections import mm, share

_MOST = 60  # exposures that are made again
_LIMITS = (1.0, 2.0, 5.0)


def spread(study: Study) -> Markup:
    """The section; nothing where each exposure has one start, or where the exposures cannot be made again."""
    if study.protocol.repeats < 2 or not study.methods:
        return Markup("")
    try:
        found = {s.method: deviations(s, study) for s in study.methods}
    except Exception as error:  # the data may have gone since
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return section("spread", "Repeated starts", f"<p>The exposures could not be made again ({text(said)}).</p>")
    exposures = max(len(_groups(s, study)) for s in study.methods)
    first = f" Of the first {_MOST} of {exposures} exposures." if exposures > _MOST else ""
    across = log_scale([*np.concatenate(list(found.values())).tolist(), 1.0, 10.0])
    places = across.values(300)
    lines = tuple(
        Series(name, [(x, float((e < x).mean())) for x in places.tolist()], study.styles[name])
        for name, e in found.items()
        if len(e)
    )
    drawn = plot(
        Plot(
            "Ends within a distance of their median",
            "mm",
            "ends",
            across,
            Scale(0.0, 1.0, percent=True),
            lines,
            marks=((5.0, "5 mm"),),
        )
    )
    rows = [
        (
            name,
            str(len(e)),
            mm(st.percentile(e, 50)),
            mm(st.percentile(e, 90)),
            mm(st.percentile(e, 95)),
            *(share(st.success(e, limit), 1) for limit in _LIMITS),
        )
        for name, e in found.items()
    ]
    head = ("Method", "Starts", "Median, mm", "90th pct.", "95th pct.", *(f"< {limit:g} mm, %" for limit in _LIMITS))
    return section(
        "spread",
        "Repeated starts",
        f"<p>{study.protocol.repeats} starts of each exposure, undisturbed. The point that starts turn about, where each "
        "registration puts it, seen in the first view: how far from the median of all ends of that exposure, in mm of the plane "
        "through the true point. It says how alike the ends are, not how right. No result counts as infinitely far."
        f"{first}</p>",
        legend({s.name: s.style for s in lines}),
        f'<div class="two">{figure(drawn, "Ends within a distance of their median")}</div>',
        table(head, rows, "Distance of ends from their median"),
    )


def deviations(s: Scores, study: Study) -> Float[np.ndarray, " n"]:
    """Of every start of the first exposures, mm; infinite where there is no result."""
    from raylign.evaluation.cases import make_case

    protocol, groups = study.protocol, _groups(s, study)
    out = []
    for place in sorted(groups)[:_MOST]:
        records = groups[place]
        case = make_case(protocol, records[0].case, int(study.run.get("seed", protocol.seed)), study.data)
        ends = [seen(case, r.pose) for r in records if r.pose is not None]
        if ends:
            out.append(st.from_median(np.stack(ends)))
        out.append(np.full(len(records) - len(ends), math.inf))
    return np.concatenate(out) if out else np.zeros(0)


def _groups(s: Scores, study: Study) -> dict[int, list[Record]]:
    """Records by exposure."""
    groups: dict[int, list[Record]] = {}
    for r in s.records:
        groups.setdefault(r.case // len(study.protocol.arms) // study.protocol.repeats, []).append(r)
    return groups


def seen(case: Any, pose: tuple[float, ...]) -> Float[np.ndarray, "2"]:
    """Where the case's point lies under a pose: mm along columns and rows of the first view, in the plane of the true point."""
    view, point = case.xrays[0].view, torch.as_tensor(case.centre, dtype=torch.float64)[None]
    matrix = torch.tensor(pose, dtype=torch.float64).reshape(4, 4)
    across, down = (step / step.norm() for step in (view.column_step, view.row_step))
    normal = torch.linalg.cross(across, down)
    depth, far = (float((p - view.source) @ normal) for p in (case.pose.apply(point)[0], view.origin))
    column, row = view.project(point @ matrix[:3, :3].T + matrix[:3, 3])[0].tolist()
    return np.array([column * float(view.column_step.norm()), row * float(view.row_step.norm())]) * (depth / far)
