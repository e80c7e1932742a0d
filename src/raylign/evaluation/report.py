"""A registration's report: one HTML file that opens offline, in any browser, and prints."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign._version import __version__
from raylign.evaluation import panels, sections
from raylign.evaluation.content import Exposure, ReportContent, Truth
from raylign.evaluation.markup import data, section, text
from raylign.io.atomic import write_text

__all__ = ["Exposure", "ReportContent", "Truth", "report_html", "write_report"]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(path: str | Path, content: ReportContent) -> None:
    """Writes ``report.html``: whole, or not at all.

    Raises
    ------
    InputError: the file cannot be written.
    """
    write_text(path, report_html(content))


def report_html(content: ReportContent) -> str:
    """The page: style, script and images are part of it; nothing is fetched, and its policy forbids that anything be."""
    result = content.result
    longest = panels.longest_side(len(content.exposures))
    shown = "".join(
        f"<h3>{text(e.name)}</h3>{panels.figures(e, k, longest)}" if len(content.exposures) > 1 else panels.figures(e, k, longest)
        for k, e in enumerate(content.exposures)
    )
    names = ", ".join(e.name for e in content.exposures)
    body = [
        sections.headline(content),
        section("exposures", "Exposures" if len(content.exposures) > 1 else f"Exposure: {names}", shown),
        sections.convergence(result),
        sections.pose(result),
        sections.uncertainty(content),
        *([sections.truth(content, content.truth)] if content.truth is not None else []),
        sections.use(),
        sections.timings(result),
        sections.again(content),
    ]
    links = [("exposures", "Exposures"), ("convergence", "Convergence"), ("pose", "Pose"), ("uncertainty", "Uncertainty")]
    links += [("truth", "Truth")] if content.truth is not None else []
    links += [("use", "Use the pose"), ("timings", "Timings"), ("again", "Inputs and settings")]
    nav = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in links)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>raylign: {'registered' if result.confidence.trusted else 'not to be trusted'}: {text(names)}</title>"
        f"<style>{_asset('report.css')}</style></head><body>"
        f'<header><div><h1>2D/3D registration</h1><p>{text(names)}</p></div><nav aria-label="Sections">{nav}</nav></header>'
        f"<main>{''.join(body)}</main>"
        f"<footer>raylign {text(__version__)}. Not a medical device; for research and development.</footer>"
        f"{data('replay', _replay(content, longest))}<script>{_asset('report.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return resources.files("raylign.evaluation").joinpath("assets", name).read_text(encoding="utf-8")


def _replay(content: ReportContent, longest: int) -> dict[str, Any]:
    """What the page's script needs to draw the model's points at any iterate: cameras, points and poses."""
    result = content.result
    poses = [(s.level, s.iteration, s.cost, s.matrix) for s in result.trajectory]
    if not poses:
        poses = [(0, 0, float("nan"), result.start.matrix), (0, 1, float("nan"), result.transform.matrix)]
    points = _cross(content) if content.points is None else torch.as_tensor(content.points, dtype=torch.float64)
    return {
        "cameras": [[float(f"{x:.9g}") for x in panels.display_camera(e, longest).flatten().tolist()] for e in content.exposures],
        "points": [[round(x, 2) for x in p] for p in points.tolist()],
        "steps": [
            {
                "level": level,
                "iteration": iteration,
                "cost": float(f"{cost:.6g}"),
                "pose": [round(x, 7) for x in m[:3].flatten().tolist()],
            }
            for level, iteration, cost, m in poses
        ],
    }


def _cross(content: ReportContent) -> Float[Tensor, "n 3"]:
    """Dots along three 80 mm axes through the model's centre, in volume LPS mm."""
    along = torch.linspace(-40, 40, 21, dtype=torch.float64)
    arms = torch.cat([along[:, None] * axis for axis in torch.eye(3, dtype=torch.float64)])
    result = content.result
    return arms + result.transform.inverse().apply(result.centre[None])
