"""The worst cases of an evaluation: what they look like, and how each is run again."""

from __future__ import annotations

from typing import Any

import torch

from raylign.evaluation import overlay, pictures
from raylign.evaluation.markup import Markup, code, number, section, table, text
from raylign.evaluation.record import Record
from raylign.evaluation.replay import replay_command
from raylign.evaluation.scores import Scores
from raylign.evaluation.study_content import Study

MOST = 10
_LONGEST = 380  # pixels of a picture's longer side
_VIEWS = 2  # of a case that are shown
_BEGAN, _ENDED = "where it began", "where it ended"


def worst(study: Study) -> Markup:
    """The ten worst cases of the first method with pictures, and those of the others as a table."""
    methods = study.methods
    if not methods:
        return Markup("")
    first = methods[0]
    shown = "".join(_case(study, record) for record in ranked(first, study)[:MOST])
    rest = "".join(_listed(study, s) for s in methods[1:])
    return section(
        "worst",
        "Worst cases",
        f"<p>The worst of {text(first.method)} by {study.criterion}, in the undisturbed arm. Outlines are of the "
        'model rendered at <span class="swatch truth"></span>the true pose and <span class="swatch estimate"></span>'
        "the one that a picture names.</p>",
        shown,
        rest,
    )


def ranked(s: Scores, study: Study) -> list[Record]:
    """Records of a method, the largest error first; those without a result before all others."""
    errors = s.errors(study.protocol.criterion)
    order = sorted(range(len(errors)), key=lambda k: (-errors[k], s.records[k].case))
    return [s.records[k] for k in order]


def _mm(value: float | None) -> str:
    return "no result" if value is None else f"{number(value, 2)} mm"


def _case(study: Study, r: Record) -> Markup:
    facts = [
        ("mTRE", _mm(r.mtre)),
        ("mRPD", _mm(r.mrpd)),
        ("Start, mTRE", _mm(r.start_mtre)),
        ("In plane", _mm(r.in_plane)),
        ("Depth", _mm(r.depth)),
        ("Turned by", "no result" if r.angle is None else f"{number(r.angle, 2)}°"),
        ("Probability", "none" if r.probability is None else f"{number(r.probability, 3)}{'' if r.trusted else ', not trusted'}"),
    ]
    tiles = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts)
    broke = f"<p>{text(r.failure)}</p>" if r.failure else ""
    return Markup(
        f'<div class="case"><h3>Case {r.case}: {text(r.name)}</h3>{broke}'
        f'<div class="sides">{_pictures(study, r)}<dl class="facts">{tiles}</dl></div>'
        f"{code(replay_command(study.run, study.out, r.case, r.method), f'command that runs case {r.case} again')}</div>"
    )


def _pictures(study: Study, r: Record) -> Markup:
    """The case made again, with the model's outlines; a sentence where that is not possible."""
    from raylign.evaluation.cases import make_case

    try:
        case = make_case(study.protocol, r.case, int(study.run.get("seed", study.protocol.seed)), study.data)
        ended = "".join(_picture(case, k, r.pose, _ENDED) for k in range(min(len(case.xrays), _VIEWS)))
        return Markup(_picture(case, 0, r.start, _BEGAN) + ended)
    except Exception as error:  # the data may have gone since; the numbers above are still right
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Markup(f"<p>No picture: the case could not be made again ({text(said[:300])}).</p>")


def _picture(case: Any, k: int, pose: tuple[float, ...] | None, says: str) -> Markup:
    """One exposure with the model's outlines at the true pose and at another, which lie over those of the truth."""
    from raylign.projection import project

    xray = case.xrays[k]
    shape = overlay.display_shape(xray.view.shape, xray.view.pixel_spacing, _LONGEST)
    poses = [case.pose.matrix, *([] if pose is None else [torch.tensor(pose, dtype=torch.float64).reshape(4, 4)])]
    with torch.no_grad():
        step = max(min(case.model.spacing), 1.0)
        images = project(case.model, xray.view.resample(shape), torch.stack(poses).to(torch.float64), step=step)[:, 0]
    mask = overlay.resized_mask(xray.mask, shape)
    shown = overlay.radiograph(overlay.resized(xray.image, shape), mask)
    for image, colour in zip(images, (overlay.END, overlay.START), strict=False):
        shown = overlay.painted(shown, overlay.contours(image, mask, width=1.4), colour)
    name = xray.name or f"view {k}"
    what = says if pose is not None else "the truth alone: there is no result"
    return Markup(
        f'<figure><img src="{pictures.data_uri(pictures.jpeg(shown, 82))}" width="{shape[1]}" height="{shape[0]}" '
        f'alt="{text(f"{name} of {case.name}, outlines of the truth and of {what}")}">'
        f"<figcaption><b>{text(name)}</b> {text(what)}</figcaption></figure>"
    )


def _listed(study: Study, s: Scores) -> Markup:
    rows = [
        (
            f"{r.case}: {r.name}",
            _mm(r.mtre),
            _mm(r.mrpd),
            _mm(r.start_mtre),
            "none" if r.probability is None else number(r.probability, 3),
            "yes" if r.trusted else "no",
            replay_command(study.run, study.out, r.case, r.method),
        )
        for r in ranked(s, study)[:MOST]
    ]
    head = ("Case", "mTRE", "mRPD", "Start, mTRE", "Probability", "Trusted", "To see it again")
    return Markup(f"<h3>{text(s.method)}</h3>{table(head, rows, f'The worst of {s.method}', numeric=False)}")
