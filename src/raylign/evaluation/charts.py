"""Plots as inline SVG, coloured by the page's style sheet so that they follow its light and dark schemes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.evaluation.markup import Markup, number, text

_W, _H = 560, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 28, 40
_NAMES = 20  # room above the curves for the names of the bands


@dataclass(frozen=True)
class Line:
    """A polyline of a chart: (x, y) points, its name and its style class ("a", "b")."""

    points: Sequence[tuple[float, float]]
    name: str
    style: str = "a"


@dataclass(frozen=True)
class Chart:
    """What a line chart shows.

    Parameters
    ----------
    title: said to those who cannot see it.
    x, y: axis labels.
    lines: at least one with a point.
    bands: shaded intervals of x with a name, in order.
    logarithmic: y on a logarithmic scale; points at or below ``floor`` are drawn there.
    """

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    bands: tuple[tuple[float, float, str], ...] = ()
    logarithmic: bool = False
    floor: float = 1e-3


def _nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    raw = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _y_scale(chart: Chart) -> tuple[float, float, list[tuple[float, str]]]:
    """Low, high (in log10 where the chart is logarithmic) and ticks (position, label)."""
    values = [y for line in chart.lines for _, y in line.points if math.isfinite(y)]
    values = values or [0.0]
    if chart.logarithmic:
        bottom = math.floor(math.log10(max(min(values), chart.floor)))
        top = max(bottom + 1, math.ceil(math.log10(max(max(values), chart.floor)) + 1e-9))
        return bottom, top, [(k, f"{10.0**k:g}") for k in range(bottom, top + 1)]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1
    return low, high * 1.05, [(t, f"{t:g}") for t in _nice_ticks(low, high * 1.05)]


def line_chart(chart: Chart) -> Markup:
    """A chart of ``chart.lines``; the line ``.cursor`` is moved by the page's script along x."""
    last = max((x for line in chart.lines for x, _ in line.points), default=1) or 1
    low, high, ticks = _y_scale(chart)
    top = _TOP + (_NAMES if chart.bands else 0)

    def px(x: float) -> float:
        return _LEFT + x / last * (_W - _LEFT - _RIGHT)

    def py(y: float) -> float:
        value = math.log10(max(y, 10.0**low)) if chart.logarithmic else y
        return at(value)

    def at(value: float) -> float:
        return top + (high - value) / (high - low) * (_H - top - _BOTTOM)

    out = [
        f'<svg class="chart" viewBox="0 0 {_W} {_H}" role="img" '
        f'data-left="{_LEFT}" data-right="{_W - _RIGHT}" data-last="{last:g}">'
        f"<title>{text(chart.title)}</title>"
    ]
    for k, (a, b, name) in enumerate(chart.bands):
        out.append(
            f'<rect class="band{k % 2}" x="{px(a):.1f}" y="{_TOP}" '
            f'width="{max(px(b) - px(a), 0):.1f}" height="{_H - _TOP - _BOTTOM}"/>'
        )
        # a name needs about seven units a letter; a narrow band shows the last word, or nothing
        shown = next((n for n in (name, name.split()[-1]) if px(b) - px(a) > 7 * len(n)), "")
        if shown:
            out.append(
                f'<text class="small" x="{(px(a) + px(b)) / 2:.1f}" y="{_TOP + 14}" text-anchor="middle">{text(shown)}</text>'
            )
    for value, label in ticks:
        y = at(value)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for x in _nice_ticks(0, last):
        if x == int(x):
            out.append(f'<text x="{px(x):.1f}" y="{_H - _BOTTOM + 18}" text-anchor="middle">{int(x)}</text>')
    for line in chart.lines:
        dots = [(px(x), py(y)) for x, y in line.points if math.isfinite(y)]
        out.append(f'<polyline class="line {line.style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in dots)}"/>')
        if len(dots) <= 60:
            out.extend(f'<circle class="dot {line.style}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in dots)
    out.append(_legend(chart))
    out.append(
        f'<text class="small" x="{(_LEFT + _W - _RIGHT) / 2:.0f}" y="{_H - 4}" text-anchor="middle">{text(chart.x)}</text>'
    )
    out.append(f'<line class="cursor" x1="{px(last):.1f}" x2="{px(last):.1f}" y1="{_TOP}" y2="{_H - _BOTTOM}"/></svg>')
    return Markup("".join(out))


def _legend(chart: Chart) -> str:
    names = {line.style: line.name for line in chart.lines if line.name}
    if len(names) < 2:
        return f'<text class="small" x="{_LEFT}" y="16">{text(chart.y)}</text>'
    out, x = [], float(_LEFT)
    for style, name in names.items():
        out.append(f'<line class="line {style}" x1="{x:.0f}" x2="{x + 26:.0f}" y1="12" y2="12"/>')
        out.append(f'<text class="small" x="{x + 32:.0f}" y="16">{text(name)}</text>')
        x += 56 + 7 * len(name)
    return "".join(out)


@dataclass(frozen=True, eq=False)
class Ellipse:
    """An error ellipse: 2x2 covariance in mm^2, axis labels, and where the truth lies from the estimate, if known (mm)."""

    title: str
    covariance: Float[Tensor, "2 2"]
    x: str
    y: str
    reach: float
    truth: tuple[float, float] | None = None


def ellipse_reach(covariance: Float[Tensor, "n n"], truth: Sequence[float] | None = None) -> float:
    """Half the width, in mm, of plots that hold the 95 % ellipses of a covariance and the truth, rounded up to 1, 2 or 5."""
    largest = 2.45 * float(torch.linalg.eigvalsh(covariance)[-1].clamp_min(0).sqrt())
    needed = max(largest, *(abs(float(x)) for x in truth or (0.0,)), 1e-4) * 1.1
    magnitude = 10 ** math.floor(math.log10(needed))
    return next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= needed * 0.999999)


def ellipse_chart(plot: Ellipse) -> Markup:
    """The ellipses of one standard deviation and of 95 % (2.45 of them in two dimensions), both axes to one scale."""
    size, half = 260, 96
    values, vectors = torch.linalg.eigh(plot.covariance)
    radii = values.clamp_min(0).sqrt() / plot.reach * half
    angle = math.degrees(math.atan2(float(vectors[1, 1]), float(vectors[0, 1])))
    c = size / 2
    out = [f'<svg class="ellipse" viewBox="0 0 {size} {size}" role="img"><title>{text(plot.title)}</title>']
    out.append(f'<rect class="band0" x="{c - half}" y="{c - half}" width="{2 * half}" height="{2 * half}"/>')
    out.append(f'<path class="grid" d="M{c - half} {c}H{c + half}M{c} {c - half}V{c + half}"/>')
    for scale, style in ((2.45, "outer"), (1.0, "inner")):
        rx, ry = (max(float(r) * scale, 0.6) for r in (radii[1], radii[0]))
        out.append(f'<ellipse class="{style}" rx="{rx:.2f}" ry="{ry:.2f}" transform="translate({c} {c}) rotate({angle:.2f})"/>')
    if plot.truth is not None:
        x, y = (c + v / plot.reach * half for v in plot.truth)
        out.append(f'<path class="truth" d="M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12"><title>true position</title></path>')
    edge = f"{plot.reach:g}"
    out.append(f'<text class="small" x="{c - half}" y="{c + half + 14}" text-anchor="middle">−{edge}</text>')
    out.append(f'<text class="small" x="{c + half}" y="{c + half + 14}" text-anchor="middle">{edge} mm</text>')
    out.append(f'<text class="small" x="{c}" y="{c + half + 28}" text-anchor="middle">{text(plot.x)}</text>')
    out.append(
        f'<text class="small" transform="translate({c - half - 10} {c}) rotate(-90)" text-anchor="middle">{text(plot.y)}</text>'
    )
    return Markup("".join(out) + "</svg>")


def bars(rows: Sequence[tuple[str, float]], unit: str, title: str) -> Markup:
    """Horizontal bars with their values, to one scale."""
    top = max((v for _, v in rows), default=0.0) or 1.0
    height = 28 * len(rows) + 6
    out = [f'<svg class="chart bars" viewBox="0 0 {_W} {height}" role="img"><title>{text(title)}</title>']
    for k, (name, value) in enumerate(rows):
        y, width = 28 * k + 4, max(1.0, 260 * value / top)
        out.append(f'<text x="190" y="{y + 15}" text-anchor="end">{text(name if len(name) < 30 else name[:28] + "…")}</text>')
        out.append(f'<rect class="bar" x="200" y="{y}" width="{width:.1f}" height="20" rx="2"/>')
        out.append(f'<text x="{206 + width:.1f}" y="{y + 15}">{number(value, 2)} {text(unit)}</text>')
    return Markup("".join(out) + "</svg>")
