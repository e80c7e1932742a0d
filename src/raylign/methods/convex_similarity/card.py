"""The model card of a learned similarity: what it was trained on, what it reaches, and where it should not be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROWS = (
    ("cases", "registrations", "d"),
    ("tre_start", "mean TRE before, median, mm", ".1f"),
    ("tre_p25", "mean TRE after the descent, 25th percentile, mm", ".1f"),
    ("tre_median", "the same, median, mm", ".1f"),
    ("tre_p75", "the same, 75th percentile, mm", ".1f"),
    ("under_10", "share under 10 mm", ".3f"),
    ("under_20", "share under 20 mm", ".3f"),
    ("nearer", "share nearer than its start", ".3f"),
    ("cosine", "cosine of gradient and true direction, mean", ".3f"),
    ("correlation", "correlation of similarity and distance", ".3f"),
)


def card(about: Mapping[str, Any], digest: str) -> str:
    """The card in Markdown: ``about`` as ``training.run`` has it; SHA-256 of the weights."""
    settings = about["settings"]
    data, cube, figures = settings["data"], settings["cube"], about["figures"]
    structures = ", ".join(data["structures"]) or "all of the scan"
    lines = [
        f"# {about['name']}, preset {about['preset']}",
        "",
        'Similarity of Gao et al., "A fully differentiable framework for 2D/3D registration and the projective spatial'
        ' transformers" (IEEE TMI 2024).',
        "",
        f"- Recipe: `recipes/{about['name']}.yaml`, preset `{about['preset']}`, seed {about['seed']},"
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
        f"Registrations descend from starts of `{settings['start']}`, in exposures without domain randomisation; nothing refines"
        " them.",
        "",
        "| | validation | test |",
        "|---|---|---|",
    ]
    for name, label, form in _ROWS:
        shown = [format(int(v) if form == "d" else v, form) for v in (figures[part][name] for part in ("validation", "test"))]
        lines.append(f"| {label} | {' | '.join(shown)} |")
    limits = (
        "Simulated exposures of made patients: no real exposure was measured.",
        "One exposure, near to frontal, with the whole field of about 280 mm; another apparatus or another bone was not trained.",
        "It brings a pose nearer. It is no registration by itself, and says nothing of how sure a pose is.",
    )
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in limits), ""])


def _range(seeds: list[int]) -> str:
    return f"{seeds[0]} to {seeds[1]}"
