"""A training's log as a picture: loss and rate, and what registrations of held-out patients come to."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from raylign.io.atomic import atomic_write

_LABELS = {"tre_mean": "mean TRE, mm", "tre_median": "median TRE, mm", "tre_p90": "90th percentile, mm", "angle_mean": "degrees"}


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Every column but the first as (iteration, value), where it has one."""
    out: dict[str, list[tuple[int, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name != "iteration" and value:
                    out.setdefault(name, []).append((int(row["iteration"]), float(value)))
    return out


def draw_curves(log: Path, picture: Path, title: str) -> None:
    """Draw a log as a PNG: loss and rate on the left, figures of validation on the right.

    Raises
    ------
    InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    found = read_log(log)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(title)
    _line(left, found.get("loss", []), "loss, mean of 100 iterations", color="C0")
    left.set(xlabel="iteration", ylabel="loss", yscale="log")
    rate = left.twinx()
    _line(rate, found.get("rate", []), "learning rate", color="0.6", linestyle="--")
    rate.set(ylabel="learning rate", yscale="log")
    left.legend(*_legend(left, rate), loc="upper right", fontsize=8)
    for name, label in _LABELS.items():
        _line(right, found.get(name, []), label, marker="o")
    right.set(xlabel="iteration", ylabel="mm, degrees", title="registrations of validation patients", ylim=(0, None))
    right.grid(alpha=0.3)
    if right.lines:
        right.legend(fontsize=8)
    with atomic_write(picture) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _line(axes: Any, points: list[tuple[int, float]], label: str, **style: Any) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)


def _legend(*several: Any) -> tuple[list[Any], list[str]]:
    pairs = [axes.get_legend_handles_labels() for axes in several]
    return [h for handles, _ in pairs for h in handles], [label for _, labels in pairs for label in labels]
