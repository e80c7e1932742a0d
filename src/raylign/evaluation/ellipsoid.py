"""The error ellipsoid of one standard deviation as a drawing with three axes, and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.evaluation.markup import Markup, number, text
from raylign.evaluation.uncertainty import ViewUncertainty

# Oblique drawing of camera axes as columns: horizontal to the right, vertical down, depth up to the right and foreshortened.
OBLIQUE = torch.tensor([[1.0, 0.0, 0.66], [0.0, 1.0, -0.5]], dtype=torch.float64)
_NAMES = ("horizontal", "vertical", "depth")
_SIZE, _HALF = 260, 92


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """What is drawn: a covariance in camera axes (mm^2), the length in mm of half an axis, and the truth beside it, if known."""

    title: str
    covariance: Float[Tensor, "3 3"]
    reach: float
    truth: tuple[float, float, float] | None = None


def ellipsoid_chart(plot: Ellipsoid) -> Markup:
    """The ellipsoid of one standard deviation: its outline, its three principal ellipses, its shadow on each pair of axes.

    The outline of an ellipsoid of covariance C under a parallel projection P is exactly the ellipse of covariance ``P C P^T``;
    the shadows are those of the same ellipsoid on the planes through the origin.
    """
    middle = _SIZE / 2

    def on_page(points: Float[Tensor, "n 3"]) -> str:
        xy = points @ OBLIQUE.T / plot.reach * _HALF + middle
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in xy.tolist())

    out = [f'<svg class="ellipse" viewBox="0 0 {_SIZE} {_SIZE}" role="img"><title>{text(plot.title)}</title>']
    edge = f"{plot.reach:g}"
    for k, name in enumerate(_NAMES):
        ends = torch.zeros(2, 3, dtype=torch.float64)
        ends[0, k], ends[1, k] = -plot.reach, plot.reach
        out.append(f'<polyline class="grid" points="{on_page(ends)}"/>')
        x, y = (ends[1] @ OBLIQUE.T / plot.reach * _HALF + middle).tolist()
        anchor, x, y = ("end", x, y - 6) if k == 0 else (("middle", x, y + 15) if k == 1 else ("start", x - 14, y - 6))
        out.append(f'<text class="small" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{name} {edge} mm</text>')
    angle = torch.linspace(0, 2 * math.pi, 73, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        axes = [a, b]
        shadow = torch.zeros(len(circle), 3, dtype=torch.float64)
        shadow[:, axes] = circle @ _root(plot.covariance[axes][:, axes]).T
        out.append(f'<polyline class="outer" stroke-dasharray="2 3" points="{on_page(shadow)}"/>')
    outline = circle @ _root(OBLIQUE @ plot.covariance @ OBLIQUE.T).T / plot.reach * _HALF + middle
    out.append(f'<polygon class="inner" points="{" ".join(f"{x:.2f},{y:.2f}" for x, y in outline.tolist())}"/>')
    values, vectors = torch.linalg.eigh(plot.covariance)
    arms = vectors * values.clamp_min(0).sqrt()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        out.append(f'<polyline class="outer" points="{on_page(circle @ arms[:, [a, b]].T)}"/>')
    if plot.truth is not None:
        x, y = (OBLIQUE @ torch.tensor(plot.truth, dtype=torch.float64) / plot.reach * _HALF + middle).tolist()
        out.append(f'<path class="truth" d="M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12"><title>true position</title></path>')
    return Markup("".join(out) + "</svg>")


def _root(covariance: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The symmetric square root: it takes the unit circle to the ellipse of one standard deviation."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def in_words(seen: ViewUncertainty, alone: float | None = None) -> str:
    """Which directions are known how well, and which one the exposures hardly see.

    ``alone``: of a single exposure, the distance of the model's centre from the source, mm.
    """
    if not bool(torch.isfinite(seen.covariance).all() and torch.isfinite(seen.turning).all()):
        return "Its uncertainty could not be determined."
    values, vectors = torch.linalg.eigh(seen.covariance)
    sizes = values.clamp_min(0).sqrt()
    turns = [number(t, 2) for t in seen.rotation]
    parts = [
        f"One standard deviation: along the ray {_mm(seen.depth)}, across it {_mm(seen.in_plane)} at most; turning about the "
        f"image's horizontal {turns[0]}, about its vertical {turns[1]}, about the ray {turns[2]} degrees."
    ]
    if float(sizes[2]) > 3 * float(sizes[1]):
        parts.append(f"The least certain shift is {_mm(float(sizes[2]))} {_along(vectors[:, 2])}, {_times(sizes)} the next.")
        if abs(float(vectors[2, 2])) > math.cos(math.radians(30)):
            parts.append("A second exposure from another side would settle it.")
    if alone is not None:
        parts.append(
            f"No single exposure tells depth from size: what is 1 % larger than its model seems {_mm(alone / 101)} nearer, "
            "and nothing above allows for that."
        )
    return " ".join(parts)


def _mm(value: float) -> str:
    return f"{number(value, 2)} mm"


def _times(sizes: Tensor) -> str:
    ratio = float(sizes[2]) / max(float(sizes[1]), 1e-12)
    return f"{ratio:.0f} times" if ratio < 1000 else "over a thousand times"


def _along(direction: Float[Tensor, "3"]) -> str:
    """A direction in camera axes by the axis it is near, or by the two that it lies between."""
    names = ("the image's horizontal", "the image's vertical", "the ray")
    order = direction.abs().argsort(descending=True).tolist()
    if float(direction[order[0]].abs()) > math.cos(math.radians(25)):
        return f"along {names[order[0]]}"
    return f"between {names[order[0]]} and {names[order[1]]}"
