"""Plots of an evaluation as inline SVG: curves, scatters and violins of many methods, told apart by colour and by dashes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from raylign.evaluation.charts import _nice_ticks
from raylign.evaluation.markup import Markup, text

_W, _H = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 28, 46
_NARROW = 400  # a violin chart's width: three stand side by side
COLOURS = 7
"""Colours of methods in the style sheet; further methods take them again, dashed."""


@dataclass(frozen=True)
class Scale:
    """From values to 0..1 along an axis.

    Parameters
    ----------
    low, high: of the axis.
    kind: "linear", "log" (values at or below low are drawn at its edge) or "asinh" (linear within ``width`` of zero, then as a
        logarithm on either side).
    percent: values are shares, ticks per cent.
    named: ticks of one's own: values and what is written at them.
    """

    low: float
    high: float
    kind: str = "linear"
    width: float = 1.0
    percent: bool = False
    named: tuple[tuple[float, str], ...] = ()

    def _bent(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(max(value, self.low))
        return math.asinh(value / self.width) if self.kind == "asinh" else value

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end; values beyond are drawn at the ends."""
        a, b = self._bent(self.low), self._bent(self.high)
        return min(max((self._bent(value) - a) / (b - a), 0.0), 1.0)

    def values(self, count: int) -> Float[np.ndarray, " count"]:
        """Values at equal distances along the axis."""
        a, b = self._bent(self.low), self._bent(self.high)
        even = np.linspace(a, b, count)
        return 10.0**even if self.kind == "log" else np.sinh(even) * self.width if self.kind == "asinh" else even

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Values and what is written at them."""
        if self.named:
            return list(self.named)
        if self.kind == "log":
            found = [10.0**k for k in range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)]
        elif self.kind == "asinh":
            top = max(abs(self.low), abs(self.high))
            decades = [self.width * 10**k for k in range(1 + math.floor(math.log10(max(top / self.width, 1)) + 1e-9))]
            found = [v for v in (*(-d for d in reversed(decades)), 0.0, *decades) if self.low <= v <= self.high]
        else:
            found = _nice_ticks(self.low, self.high)
        return [(v, f"{100 * v:.0f} %" if self.percent else f"{v:g}".replace("-", "−")) for v in found]


def log_scale(values: Sequence[float], floor: float = 1e-2, ceiling: float = 1e3) -> Scale:
    """Whole decades that hold the finite values, within floor and ceiling."""
    finite = [min(max(v, floor), ceiling) for v in values if math.isfinite(v)] or [floor, ceiling]
    low, high = math.floor(math.log10(min(finite)) + 1e-9), math.ceil(math.log10(max(finite)) - 1e-9)
    return Scale(10.0**low, 10.0 ** max(high, low + 1), "log")


@dataclass(frozen=True)
class Series:
    """What one method contributes to a plot.

    Parameters
    ----------
    points: (x, y); those that are not finite are left out.
    style: its number among the methods; -1 for what is no method.
    line, dots: how it is drawn. band: (x, low, high) of an interval around it.
    labels: said where the pointer rests on a dot.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0
    line: bool = True
    dots: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Plot:
    """Axes and what is drawn on them.

    Parameters
    ----------
    title: said to those who cannot see it. x, y: axis labels.
    diagonal: a line from corner to corner of where x and y are equal.
    marks: values of x at which a vertical line stands, with what it says.
    """

    title: str
    x: str
    y: str
    across: Scale
    up: Scale
    series: tuple[Series, ...]
    diagonal: bool = False
    marks: tuple[tuple[float, str], ...] = ()


def style(index: int) -> str:
    """Style classes of the index-th method: a colour, and dashes from the second round of colours on."""
    return "none" if index < 0 else f"m{index % COLOURS} d{min(index // COLOURS, 2)}"


def plot(p: Plot) -> Markup:
    """The plot as SVG."""
    out = [f'<svg class="chart study" viewBox="0 0 {_W} {_H}" role="img"><title>{text(p.title)}</title>']
    for value, label in p.up.ticks:
        y = _py(p.up, value)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for value, label in p.across.ticks:
        x = _px(p.across, value)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_H - _BOTTOM}"/>')
        out.append(f'<text x="{x:.1f}" y="{_H - _BOTTOM + 18}" text-anchor="middle">{label}</text>')
    if p.diagonal:
        both = p.across.values(60)
        ends = [(v, v) for v in both.tolist() if p.up.low <= v <= p.up.high]
        out.append(f'<polyline class="line none" points="{_points(p, ends)}"/>')
    for value, label in p.marks:
        x = _px(p.across, value)
        out.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_H - _BOTTOM}"/>')
        out.append(f'<text class="small" x="{x + 4:.1f}" y="{_TOP + 12}">{text(label)}</text>')
    for s in p.series:
        out.extend(_drawn(p, s))
    out.append(f'<text class="small" x="{_LEFT - 50}" y="15">{text(p.y)}</text>')
    out.append(f'<text class="small" x="{(_LEFT + _W - _RIGHT) / 2:.0f}" y="{_H - 6}" text-anchor="middle">{text(p.x)}</text>')
    return Markup("".join(out) + "</svg>")


def _px(scale: Scale, value: float) -> float:
    return _LEFT + scale.place(value) * (_W - _LEFT - _RIGHT)


def _py(scale: Scale, value: float) -> float:
    return _H - _BOTTOM - scale.place(value) * (_H - _TOP - _BOTTOM)


def _points(p: Plot, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_px(p.across, x):.1f},{_py(p.up, y):.1f}" for x, y in points if math.isfinite(x) and math.isfinite(y))


def _drawn(p: Plot, s: Series) -> list[str]:
    kind, out = style(s.style), []
    if s.band:
        edge = [(x, low) for x, low, _ in s.band] + [(x, high) for x, _, high in reversed(s.band)]
        out.append(f'<polygon class="band {kind}" points="{_points(p, edge)}"/>')
    if s.line:
        out.append(f'<polyline class="line {kind}" points="{_points(p, s.points)}"><title>{text(s.name)}</title></polyline>')
    if s.dots:
        says = s.labels or [s.name] * len(s.points)
        out.extend(
            f'<circle class="dot {kind}" cx="{_px(p.across, x):.1f}" cy="{_py(p.up, y):.1f}" r="2.8"><title>{text(label)}</title>'
            "</circle>"
            for (x, y), label in zip(s.points, says, strict=True)
            if math.isfinite(x) and math.isfinite(y)
        )
    return out


def legend(names: Mapping[str, int]) -> Markup:
    """Names of methods with their colours and dashes, to stand above plots that share them."""
    items = "".join(
        f'<li><svg viewBox="0 0 34 12" aria-hidden="true"><line class="line {style(k)}" x1="1" x2="33" y1="6" y2="6"/></svg>'
        f"{text(name)}</li>"
        for name, k in names.items()
    )
    return Markup(f'<ul class="legend">{items}</ul>')


@dataclass(frozen=True, eq=False)
class Violin:
    """The distribution of one method's error along one axis; infinite values are left out, and how many is said below it."""

    name: str
    values: Float[np.ndarray, " n"]
    style: int


def violins(title: str, unit: str, many: Sequence[Violin], width: float = 0.1) -> Markup:
    """Violins side by side on one axis that is linear within ``width`` of zero and logarithmic beyond.

    The outline is a Gaussian kernel density along the drawn axis (Silverman's width); the bar spans the quartiles, the dot is the
    median, the whisker goes from the 5th to the 95th percentile.
    """
    finite = [v.values[np.isfinite(v.values)] for v in many]
    everything = np.concatenate([*finite, [width]])
    top = 10.0 ** math.ceil(math.log10(max(float(np.abs(everything).max()), width)) - 1e-9)
    scale = Scale(-top if float(everything.min()) < 0 else 0.0, top, "asinh", width)
    slot = (_NARROW - _LEFT - _RIGHT) / max(len(many), 1)
    turned = any(len(v.name) * 6.6 > slot for v in many)
    tall = _H + 34 if turned else _H - 22
    out = [f'<svg class="chart study" viewBox="0 0 {_NARROW} {tall}" role="img"><title>{text(title)}</title>']
    for value, label in scale.ticks:
        y = _py(scale, value)
        out.append(
            f'<line class="{"mark" if value == 0 else "grid"}" x1="{_LEFT}" x2="{_NARROW - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        out.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for k, (v, values) in enumerate(zip(many, finite, strict=True)):
        middle = _LEFT + (k + 0.5) * slot
        out.extend(_violin(scale, v, values, middle, min(0.42 * slot, 44)))
        out.append(_named(v.name, middle, turned))
    out.append(f'<text class="small" x="{_LEFT - 50}" y="15">{text(unit)}</text>')
    return Markup("".join(out) + "</svg>")


def _named(name: str, x: float, turned: bool) -> str:
    """A name below its violin; slanted where there is no room side by side."""
    y = _H - _BOTTOM + 16
    if not turned:
        return f'<text class="small" x="{x:.1f}" y="{y}" text-anchor="middle">{text(name)}</text>'
    shown = name if len(name) < 17 else f"{name[:15]}…"
    return f'<text class="small" transform="translate({x + 4:.1f} {y - 4}) rotate(-55)" text-anchor="end">{text(shown)}</text>'


def _violin(scale: Scale, v: Violin, values: Float[np.ndarray, " n"], middle: float, half: float) -> list[str]:
    if len(values) == 0:
        return [f'<text class="small" x="{middle:.1f}" y="{_H / 2}" text-anchor="middle">none</text>']
    kind = style(v.style)
    places = np.array([scale.place(float(x)) for x in values])
    out = []
    spread = float(places.std())
    if len(places) > 2 and spread > 1e-6:
        lower, upper = np.percentile(places, [25, 75])
        bandwidth = 0.9 * min(spread, float(upper - lower) / 1.34 or spread) * len(places) ** -0.2
        bandwidth = max(bandwidth, 0.004)
        grid = np.linspace(places.min(), places.max(), 80)  # no tail where nothing was measured
        density = np.exp(-(((grid[:, None] - places) / bandwidth) ** 2) / 2).sum(1)
        wide = half * density / density.max()
        height = _H - _BOTTOM - grid * (_H - _TOP - _BOTTOM)
        right = [f"{middle + w:.1f},{y:.1f}" for w, y in zip(wide, height, strict=True)]
        left = [f"{middle - w:.1f},{y:.1f}" for w, y in zip(wide[::-1], height[::-1], strict=True)]
        out.append(f'<polygon class="violin {kind}" points="{" ".join(right + left)}"/>')
    five, first, median, third, last = (_py(scale, float(q)) for q in np.percentile(values, [5, 25, 50, 75, 95]))
    says = f"{v.name}: median {np.median(values):.3g}, 5th to 95th percentile {np.percentile(values, 5):.3g} to " + (
        f"{np.percentile(values, 95):.3g}, {len(values)} results"
    )
    out.append(f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}" y1="{five:.1f}" y2="{last:.1f}"/>')
    out.append(f'<rect class="box" x="{middle - 3:.1f}" y="{third:.1f}" width="6" height="{max(first - third, 1):.1f}"/>')
    out.append(f'<circle class="median" cx="{middle:.1f}" cy="{median:.1f}" r="3.2"><title>{text(says)}</title></circle>')
    return out
