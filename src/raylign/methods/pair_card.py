"""Model cards of what is trained on pairs: whom it learned from, what it reaches, and where it should not be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = tuple[str, str, str]
"""Name of a figure, what it is in words, how it is written."""


@dataclass(frozen=True)
class Words:
    """What differs from method to method.

    Parameters
    ----------
    what: it is, a sentence that cites the paper.
    how: registrations were made for the figures, a sentence.
    rows: figures of the table, after the number of registrations.
    limits: sentences.
    recipe: the file's name in ``recipes``, without its ending.
    """

    what: str
    how: str
    rows: tuple[Row, ...]
    limits: tuple[str, ...]
    recipe: str


def came_down(prefix: str, where: str, moves: str) -> tuple[Row, ...]:
    """Rows of what ``pairs.nearer`` gives.

    Parameters
    ----------
    prefix: of their names. where: from where, in words, or nothing. moves: what brings poses nearer.
    """
    return (
        (f"{prefix}tre_start", f"mean TRE before{where}, median, mm", ".1f"),
        (f"{prefix}tre_p25", f"mean TRE after {moves}{where}, 25th percentile, mm", ".1f"),
        (f"{prefix}tre_median", "the same, median, mm", ".1f"),
        (f"{prefix}tre_p75", "the same, 75th percentile, mm", ".1f"),
        (f"{prefix}under_10", "share under 10 mm", ".3f"),
        (f"{prefix}under_20", "share under 20 mm", ".3f"),
        (f"{prefix}nearer", "share nearer than its start", ".3f"),
    )


LEFT_OPEN: tuple[Row, ...] = (
    ("open_degrees", "turn that is left, twice the median, degrees", ".1f"),
    ("open_mm", "shift across the beam that is left, twice the median, mm", ".1f"),
    ("open_depth", "shift along the beam that is left, twice the median, mm", ".1f"),
)
"""Rows of what ``pairs.left_open`` gives."""


def card(about: Mapping[str, Any], digest: str, words: Words) -> str:
    """The card in Markdown: ``about`` as ``training.run`` has it; SHA-256 of the weights."""
    settings = about["settings"]
    data, cube, figures = settings["data"], settings["cube"], about["figures"]
    structures = ", ".join(data["structures"]) or "all of the scan"
    lines = [
        f"# {about['name']}, preset {about['preset']}",
        "",
        words.what,
        "",
        f"- Recipe: `recipes/{words.recipe}.yaml`, preset `{about['preset']}`, seed {about['seed']},"
        f" {about['iterations']} iterations of {settings['batch']} pairs",
        f"- Patients (made, phantom `{data['phantom']}`): seeds {_range(data['train'])} for training,"
        f" {_range(data['validation'])} for validation, {_range(data['test'])} for the test; nobody is in two parts",
        f"- Model: {structures}, {cube['voxels']}^3 voxels of {cube['voxel_mm']:g} mm;"
        f" images of {cube['pixels']} x {cube['pixels']} pixels",
        f"- Exposures: {data['train_exposures']} of each training patient, distribution `{data['targets']}`,"
        f" appearance `{settings['appearance']}`; moving poses `{settings['moving']}`",
        f"- SHA-256 of the weights: `{digest}`",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in about['versions'].items())}",
        "",
        words.how,
        "",
        "| | validation | test |",
        "|---|---|---|",
    ]
    for name, label, form in (("cases", "registrations", "d"), *words.rows):
        shown = [format(int(v) if form == "d" else v, form) for v in (figures[part][name] for part in ("validation", "test"))]
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in words.limits), ""])


def _range(seeds: list[int]) -> str:
    return f"{seeds[0]} to {seeds[1]}"
