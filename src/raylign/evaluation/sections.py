"""The report's words, tables and plots, a function a section."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raylign.evaluation import charts, metrics
from raylign.evaluation.content import Exposure, ReportContent, Truth
from raylign.evaluation.ellipsoid import Ellipsoid, ellipsoid_chart, in_words
from raylign.evaluation.markup import Markup, code, number, pairs, section, table, text
from raylign.evaluation.uncertainty import ViewUncertainty, mahalanobis, seen_from
from raylign.geometry import se3
from raylign.registration.result import Result

_SCORES = {"imitation-agent": "Share of its walks that agree"}  # where the score is no similarity
_WORLD = ("x (to the patient's left)", "y (to the back)", "z (to the head)")


def verdict(result: Result, exposures: tuple[Exposure, ...]) -> str:
    """The outcome in two or three plain sentences."""
    degrees, mm = result.moved
    first = "Registered." if result.confidence.trusted else "Not to be trusted."
    parts = [first, f"The model moved {number(mm, 1)} mm and {number(degrees, 1)} degrees from where it started."]
    seen = [seen_from(result, e.view) for e in exposures]
    if not all(math.isfinite(u.in_plane) and math.isfinite(u.depth) for u in seen):
        parts.append("Its uncertainty could not be determined.")
    elif len(seen) == 1:
        parts.append(
            f"One standard deviation is {number(seen[0].in_plane, 1)} mm in the image plane "
            f"and {number(seen[0].depth, 1)} mm along the ray."
        )
    else:
        worst = float(torch.linalg.eigvalsh(seen[0].covariance)[-1].clamp_min(0).sqrt())
        parts.append(
            f"One standard deviation is {number(worst, 1)} mm in the least certain direction, the {len(seen)} exposures together."
        )
    return " ".join(parts)


def headline(content: ReportContent) -> Markup:
    """The verdict, the trust it deserves and why, and the figures that matter most."""
    result = content.result
    trusted = result.confidence.trusted
    icon = '<path d="M5 12.5l4.5 4.5L19 7.5"/>' if trusted else '<path d="M12 4v10M12 18.5v1"/>'
    word = "Trusted" if trusted else "Do not use without checking"
    reasons = "".join(f"<li>{text(r)}</li>" for r in result.confidence.reasons)
    open_ = () if result.ambiguity is None else result.ambiguity.words
    untold = "".join(f"<li>{text(w)}</li>" for w in open_)
    degrees, mm = result.moved
    rotation, _ = result.standard_deviations
    facts = [
        ("Probability that the pose is right", _percent(result.confidence.probability)),
        ("Moved", f"{number(mm, 1)} mm, {number(degrees, 1)}°"),
        (
            "Rotation, one standard deviation",
            f"{number(float(rotation.max()), 2)}°" if bool(torch.isfinite(rotation).all()) else "not determined",
        ),
        (_SCORES.get(result.method, "Similarity (1 is a perfect match)"), number(result.score, 3)),
        ("Registration took", f"{number(result.seconds, 2)} s"),
    ]
    if content.truth is not None:
        error = float(metrics.mtre(result.transform, content.truth.pose, content.truth.targets))
        facts.insert(1, ("True error (mTRE)", f"{number(error, 2)} mm"))
    tiles = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts)
    return Markup(
        f'<div class="verdict {"ok" if trusted else "bad"}">'
        f'<p class="chip"><svg viewBox="0 0 24 24" aria-hidden="true">{icon}</svg>{word}</p>'
        f'<p class="says">{text(verdict(result, content.exposures))}</p>'
        + (f"<h2>What lowers the confidence</h2><ul>{reasons}</ul>" if reasons else "")
        + (f"<h2>What the exposures cannot tell</h2><ul>{untold}</ul>" if untold else "")
        + f'<dl class="facts">{tiles}</dl></div>'
    )


def _percent(p: float) -> str:
    if not math.isfinite(p):
        return "not determined"
    # never round to a certainty that was not claimed, nor to an impossibility
    if 0 < p < 0.001:
        return "under 0.1 %"
    return f"{min(100 * p, 99.9):.1f} %" if 0 < p < 0.01 or 0.99 < p < 1 else f"{100 * p:.0f} %"


def convergence(result: Result) -> Markup:
    """Cost by level and distance to the final pose, by iteration."""
    steps = result.trajectory
    if len(steps) < 2:
        return section("convergence", "Convergence", "<p>The method recorded no trajectory.</p>")
    runs: list[tuple[int, int]] = []
    for k, step in enumerate(steps):
        if k == 0 or step.level != steps[k - 1].level:
            runs.append((k, k))
        runs[-1] = (runs[-1][0], k)
    costs = [s.cost for s in steps]
    # a ratio says nothing of costs that may be negative or zero
    positive = all(c > 0 for c in costs)
    says = "relative to the first of each level" if positive else "change since the first of each level"
    lines = [
        charts.Line([(k, costs[k] / costs[a] if positive else costs[k] - costs[a]) for k in range(a, b + 1)], "") for a, b in runs
    ]
    bands = tuple((max(a - 0.5, 0), min(b + 0.5, len(steps) - 1), f"level {steps[a].level}") for a, b in runs)
    end = result.transform.matrix
    centre = result.transform.inverse().apply(result.centre[None])
    matrices = torch.stack([s.matrix.to(torch.float64) for s in steps])
    mm = (se3.transform(matrices, centre)[:, 0] - result.centre).norm(dim=-1).tolist()
    turn = torch.rad2deg(se3.log_rotation(matrices[:, :3, :3] @ end[:3, :3].T).norm(dim=-1)).tolist()
    cost = charts.Chart(f"Cost by iteration, {says}", "iteration", f"cost, {says}", tuple(lines), bands)
    distance = charts.Chart(
        "Distance to the final pose by iteration, on a logarithmic scale",
        "iteration",
        "",
        (charts.Line(list(enumerate(mm)), "mm, model's centre", "a"), charts.Line(list(enumerate(turn)), "degrees", "b")),
        bands,
        logarithmic=True,
    )
    return section(
        "convergence",
        "Convergence",
        f"<p>{len(steps)} accepted iterates. A cost compares only within its level; level 0 is the finest.</p>",
        f'<div class="two">{_captioned(charts.line_chart(cost), "Cost", says)}'
        f"{_captioned(charts.line_chart(distance), 'Distance to the final pose', 'on a logarithmic scale')}</div>",
        f'<p class="scrub"><label for="scrub">Iterate</label><input id="scrub" type="range" min="0" max="{len(steps) - 1}" '
        f'value="{len(steps) - 1}"><output id="scrub-says" for="scrub"></output></p>',
    )


def _captioned(picture: Markup, title: str, says: str = "") -> Markup:
    return Markup(f"<figure>{picture}<figcaption><b>{text(title)}</b> {text(says)}</figcaption></figure>")


def pose(result: Result) -> Markup:
    """Start, end and change in mm and degrees, and the matrices."""
    centre = result.transform.inverse().apply(result.centre[None])
    began = result.start.apply(centre)[0]
    rotations = [torch.rad2deg(se3.log_rotation(p.matrix[:3, :3])) for p in (result.start, result.transform)]
    change = torch.rad2deg(se3.log_rotation(result.transform.matrix[:3, :3] @ result.start.matrix[:3, :3].T))
    places = table(
        ("World axis", "Start, mm", "End, mm", "Change, mm"),
        [
            (name, number(a, 2), number(b, 2), number(b - a, 2, signed=True))
            for name, a, b in zip(_WORLD, began.tolist(), result.centre.tolist(), strict=True)
        ],
        "Where the model's centre lies (world millimetres from the isocentre)",
    )
    turns = table(
        ("World axis", "Start, °", "End, °", "Change, °"),
        [
            (name[0], number(a, 2), number(b, 2), number(c, 2, signed=True))
            for name, a, b, c in zip(_WORLD, *(t.tolist() for t in (*rotations, change)), strict=True)
        ],
        "How it is turned about the world axes (rotation vector in degrees; the change turns the start into the end)",
    )
    return section(
        "pose",
        "Pose",
        "<p>World axes are parallel to those of a supine, head-first patient. The matrix takes a point of the model, in its own "
        "patient coordinates (LPS, mm), to the world.</p>",
        f'<div class="two">{places}{turns}</div>',
        f'<div class="two"><div><h3>End: T_world_from_volume</h3>'
        f"{code(matrix_text(result.transform.matrix), 'final pose matrix')}</div>"
        f"<div><h3>Start</h3>{code(matrix_text(result.start.matrix), 'starting pose matrix')}</div></div>",
    )


def matrix_text(matrix: Tensor) -> str:
    """A 4x4 matrix as rows that Python, JSON and a spreadsheet read, to 1e-9."""
    rows = ["[" + ", ".join(f"{x + 0.0:.9f}" for x in row) + "]" for row in matrix.tolist()]
    return "[" + ",\n ".join(rows) + "]"


def uncertainty(content: ReportContent) -> Markup:
    """Standard deviations along world axes and along each exposure's own, with their ellipses."""
    result = content.result
    turn, move = result.standard_deviations
    parts = [
        "<p>One standard deviation as the fit sees it: noise in the image and what the model cannot explain. "
        "It knows nothing of a wrong geometry or of a wrong optimum; the probability above judges those.</p>",
        table(
            ("World axis", "Shift, mm", "Turn, degrees"),
            [(n, number(t, 3), number(r, 3)) for n, t, r in zip(_WORLD, move.tolist(), turn.tolist(), strict=True)],
            "One standard deviation of shifts along, and turns about, the world axes at the model's centre",
        ),
    ]
    for exposure in content.exposures:
        parts.append(_seen(content, exposure, seen_from(result, exposure.view)))
    return section("uncertainty", "Uncertainty", *parts)


def _seen(content: ReportContent, exposure: Exposure, seen: ViewUncertainty) -> Markup:
    names = ("image horizontal", "image vertical", "depth (along the ray)")
    rows = [(n, number(t, 3), number(r, 3)) for n, t, r in zip(names, seen.translation, seen.rotation, strict=True)]
    out = table(("Direction", "Shift, mm", "Turn, degrees"), rows, f"As {exposure.name} sees it, one standard deviation")
    if not bool(torch.isfinite(seen.covariance).all()):
        return out
    truth: tuple[float, float, float] | None = None
    if content.truth is not None:
        result = content.result
        centre = result.transform.inverse().apply(result.centre[None])
        axes = metrics.view_axes(exposure.view, result.centre)
        x, y, z = (axes @ (content.truth.pose.apply(centre)[0] - result.centre)).tolist()
        truth = (x, y, z)
    c = seen.covariance
    face = None if truth is None else (truth[0], truth[1])
    side = None if truth is None else (truth[2], truth[1])
    # each at a scale of its own: what one view sees across the beam is a hundredth of what it sees along it
    flat, deep = charts.ellipse_reach(c[:2, :2], face), charts.ellipse_reach(c, truth)
    space = charts.ellipse_reach(c / 5, truth)
    figures = "".join(
        _captioned(picture, title, f"to {number(reach, 2).rstrip('0').rstrip('.')} mm")
        for picture, title, reach in (
            (
                charts.ellipse_chart(
                    charts.Ellipse("Error ellipses in the image plane", c[:2, :2], "horizontal", "vertical", flat, face)
                ),
                "In the image plane",
                flat,
            ),
            (
                charts.ellipse_chart(
                    charts.Ellipse(
                        "Error ellipses from the side, depth to the right", c[[2, 1]][:, [2, 1]], "depth", "vertical", deep, side
                    )
                ),
                "From the side",
                deep,
            ),
            (ellipsoid_chart(Ellipsoid("Error ellipsoid along the three axes of the view", c, space, truth)), "In space", space),
        )
    )
    key = (
        "Flat pictures: filled, one standard deviation; outline, 95 %. In space: the ellipsoid of one standard deviation, its "
        "principal ellipses, and dashed its shadows on the three planes." + (" Cross: the truth." if truth else "")
    )
    alone = float((content.result.centre - exposure.view.source).norm()) if len(content.exposures) == 1 else None
    words = f"<p>{text(in_words(seen, alone))}</p>"
    return Markup(f'{words}<div class="seen">{out}<div class="ellipses">{figures}<p class="key">{key}</p></div></div>')


def truth(content: ReportContent, known: Truth) -> Markup:
    """The error against the pose that is known to be right."""
    result, views = content.result, [e.view for e in content.exposures]
    both = (result.start, result.transform)
    rows = [
        (name, *(f"{number(float(f(p)), 2)} mm" for p in both))
        for name, f in (
            ("mTRE: mean distance of targets, 3D", lambda p: metrics.mtre(p, known.pose, known.targets)),
            ("mRPD: mean distance of targets to their rays", lambda p: metrics.mrpd(p, known.pose, known.targets, views)),
            ("mPD: mean distance on the detector", lambda p: metrics.mpd(p, known.pose, known.targets, views)),
        )
    ]
    parts = [table(("Measure", "Start", "End"), rows, f"Error over {len(known.targets)} target points")]
    split = []
    for e in content.exposures:
        a, b = (metrics.pose_error(p, known.pose, known.targets, e.view) for p in both)
        for label, error in ((f"{e.name}, start", a), (f"{e.name}, end", b)):
            split.append(
                (label, number(error.in_plane, 2), number(error.depth, 2, signed=True), *(number(r, 2) for r in error.rotation))
            )
    head = ("Exposure", "In plane, mm", "Depth, mm", "About horizontal, °", "About vertical, °", "About the ray, °")
    parts.append(table(head, split, "The error as each exposure sees it"))
    away = mahalanobis(result, known.pose)
    if math.isfinite(away):
        parts.append(
            Markup(
                f"<p>The truth lies {number(away, 1)} standard deviations away over all six parameters; "
                "an honest covariance gives about 2.3.</p>"
            )
        )
    return section("truth", "Against the truth", *parts)


def timings(result: Result) -> Markup:
    """Seconds by stage."""
    rows = [(str(k), float(v)) for k, v in result.timings.items()]
    drawn = (
        charts.bars(rows, "s", "Seconds by stage: " + ", ".join(f"{k} {v:.2f}" for k, v in rows))
        if rows
        else "<p>Not recorded.</p>"
    )
    return section(
        "timings",
        "Timings",
        f"<p>{number(result.seconds, 2)} s in all, without reading files and without this report.</p>",
        drawn,
    )


def use() -> Markup:
    """Three lines each for those who go on in Python or in 3D Slicer."""
    python = (
        "import json, torch, raylign\n"
        'pose = raylign.Rigid(torch.tensor(json.load(open("result.json"))["pose"]["matrix"], dtype=torch.float64))\n'
        "world_mm = pose.apply(points_in_ct_mm)   # LPS mm of the model -> world; view.project(world_mm) gives (column, row)"
    )
    slicer = (
        "1. File > Add Data: load the CT and pose.tfm.\n"
        "2. In the Data module, drag the CT (and its models, points) onto the transform.\n"
        "3. They now lie in the C-arm's world, its isocentre at the origin; right-click > Harden transform to keep it."
    )
    return section(
        "use",
        "Use the pose",
        f'<div class="two"><div><h3>Python</h3>{code(python, "Python")}</div>'
        f"<div><h3>3D Slicer</h3>{code(slicer, '3D Slicer')}</div></div>",
    )


def again(content: ReportContent) -> Markup:
    """What went in, and what is needed to run it again."""
    result = content.result
    parts: list[str] = []
    if content.inputs:
        parts.append(pairs(content.inputs, ("Input", "What it is"), "Inputs"))
    if content.command:
        parts.append("<h3>Command</h3>" + code(content.command, "command"))
    parts.append(f"<p>Method <b>{text(result.method)}</b>, seed <b>{text(result.seed)}</b>.</p>")
    settings = pairs(result.settings, ("Setting", "Value"), "Settings") if result.settings else ""
    versions = pairs(result.versions, ("Package", "Version"), "Versions") if result.versions else ""
    parts.append(f'<div class="two">{settings}{versions}</div>')
    return section("again", "Inputs, settings, versions", *parts)
