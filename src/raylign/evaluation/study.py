"""The report of an evaluation: one HTML file that opens offline, in any browser, and prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from raylign._version import __version__
from raylign.evaluation import study_plots, study_sections
from raylign.evaluation.markup import text
from raylign.evaluation.protocol import Protocol
from raylign.evaluation.record import Record
from raylign.evaluation.study_cases import worst
from raylign.evaluation.study_content import Study, study_of
from raylign.evaluation.study_groups import groups
from raylign.evaluation.study_spread import spread
from raylign.evaluation.table import write_times
from raylign.io.atomic import write_text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_TITLES = {
    "summary": "Summary",
    "success": "Success",
    "subjects": "Subjects",
    "errors": "Errors",
    "confidence": "Confidence",
    "robustness": "Robustness",
    "spread": "Repeated starts",
    "efficiency": "Efficiency",
    "times": "Time",
    "worst": "Worst cases",
    "failures": "No result",
    "again": "How it was run",
}


def write_report(records: Iterable[Record], protocol: Protocol, run: Mapping[str, Any], out: str | Path) -> None:
    """Writes ``report.html`` and ``times.csv`` into a folder, each whole or not at all.

    Parameters
    ----------
    run: the content of ``run.json``.
    out: the folder of the run, as commands in the page name it.

    Raises
    ------
    InputError: a file cannot be written.
    """
    there = list(records)
    write_times(there, protocol, out)
    write_text(Path(out) / "report.html", report_html(study_of(there, protocol, run, out)))


def report_html(study: Study) -> str:
    """The page: style, script and pictures are part of it; nothing is fetched, and its policy forbids that anything be."""
    parts = [
        study_sections.headline(study),
        study_sections.summary(study),
        study_plots.success(study),
        groups(study),
        study_plots.errors(study),
        study_plots.confidence(study),
        study_plots.robustness(study),
        spread(study),
        study_plots.efficiency(study),
        study_sections.times(study),
        worst(study),
        study_sections.failures(study),
        study_sections.again(study),
    ]
    return page(study.protocol.title, f"raylign evaluate: {study.protocol.name}", parts)


def page(title: str, name: str, parts: Iterable[str]) -> str:
    """A page of evaluation around its sections; links to those of ``_TITLES`` that are there."""
    body = "".join(parts)
    nav = "".join(f'<a href="#{anchor}">{said}</a>' for anchor, said in _TITLES.items() if f'<section id="{anchor}"' in body)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{text(name)}</title><style>{_asset('report.css')}{_asset('study.css')}</style></head><body>"
        f'<header><div><h1>{text(title)}</h1><p>{text(name)}</p></div><nav aria-label="Sections">{nav}</nav></header>'
        f"<main>{body}</main>"
        f"<footer>raylign {text(__version__)}. Not a medical device; for research and development.</footer>"
        f"<script>{_asset('study.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return resources.files("raylign.evaluation").joinpath("assets", name).read_text(encoding="utf-8")
