"""The agent's model card: what it was trained on, what it reaches, and where it should not be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROWS = (
    ("cases", "registrations", "d"),
    ("start_mean", "TRE before, mean, mm", ".2f"),
    ("tre_mean", "TRE, mean, mm", ".2f"),
    ("tre_sd", "TRE, standard deviation, mm", ".2f"),
    ("tre_median", "TRE, median, mm", ".2f"),
    ("tre_p90", "TRE, 90th percentile, mm", ".2f"),
    ("tre_max", "TRE, largest, mm", ".2f"),
    ("angle_mean", "angle, mean, degrees", ".2f"),
    ("angle_sd", "angle, standard deviation, degrees", ".2f"),
    ("worse", "share worse than its start", ".3f"),
)


def card(about: Mapping[str, Any], digest: str) -> str:
    """The card in Markdown: ``about`` as ``training.run`` has it; SHA-256 of the weights."""
    data = about["settings"]["data"]
    lines = [
        f"# {about['name']}, preset {about['preset']}",
        "",
        'Agent of Toth et al., "3D/2D model-to-image registration by imitation learning for cardiac procedures" (IJCARS 2018).',
        "",
        f"- Recipe: `recipes/{about['name']}.yaml`, preset `{about['preset']}`, seed {about['seed']}, {_made(about)}",
        f"- Patients (made): seeds {_range(data['train'])} for training, {_range(data['validation'])} for validation,"
        f" {_range(data['test'])} for the test; nobody is in two parts",
        f"- Exposures: {data['train_exposures']} of each training patient, distribution `{data['targets']}`,"
        f" appearance `{data['appearance']}`",
        f"- SHA-256 of the weights: `{digest}`",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in about['versions'].items())}",
        "",
        "TRE is that of a cross of 10 mm at the ventricle's centre, in the image plane.",
        f"Validation: from {about['settings']['agreement_starts']} starts each, median of the ends. Test: from one start each.",
        "",
        "| | validation | test |",
        "|---|---|---|",
    ]
    figures = about["figures"]
    for name, label, form in _ROWS:
        shown = [format(int(v) if form == "d" else v, form) for v in (figures[part][name] for part in ("validation", "test"))]
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in _limits(about["settings"])), ""])


def _made(about: Mapping[str, Any]) -> str:
    """What it was made from and how."""
    members, settings = about.get("members", ()), about["settings"]
    named = ", ".join(f"`{one[:12]}`" for one in members)
    if len(members) == 1:
        return f"measured anew: the weights of the file of SHA-256 {named}, {about['iterations']} iterations"
    if members:
        return f"{len(members)} agents whose walks vote (files of SHA-256 {named}), {about['iterations']} iterations together"
    said = f"{about['iterations']} iterations of {settings['batch']} states"
    if "policy" in settings:
        said += f", {100 * settings['policy']['share']:.0f} % of them from its own walks"
    return said + (f"; begun from weights of SHA-256 `{about['begin'][:12]}`" if "begin" in about else "")


def _range(seeds: Any) -> str:
    return f"{seeds[0]} to {seeds[1]}"


def _limits(settings: Mapping[str, Any]) -> list[str]:
    """Where it should not be believed, as its settings have it."""
    data, states = settings["data"], settings["states"]
    instruments = "no instruments" if data["instruments"] is None else f"instruments `{data['instruments']}`"
    return [
        "Made patients: chests drawn from published measurements, not scans of people. On real exposures it has to be measured"
        " anew.",
        "In the image plane only: two shifts and a turn. Depth and the two other turns stay as the start has them, and any error"
        " in them stays too.",
        f"Trained on {_views(data['targets'])}; starts within {states['mm']:g} mm and {states['degrees']:g} degrees.",
        f"The model is the surface `{data['structure']}` of a heart at the end of diastole and of breathing in. Neither heartbeat"
        " nor breathing is modelled, nor are errors of segmentation.",
        f"Seen in training: {instruments}, appearance `{data['appearance']}`, apparatus {_words(data['exposure'])}; blood raised"
        f" by {data['contrast_hu'][0]:g} to {data['contrast_hu'][1]:g} HU.",
    ]


def _views(name: str) -> str:
    """A distribution of views in words."""
    from raylign.simulation.poses import targets

    sampler = targets(name)
    directions = ", ".join(map(str, sampler.directions))
    return f"views of the distribution `{name}`: {directions}, shifted by up to {sampler.disc_mm:g} mm in the image plane"


def _words(exposure: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}` {value}" for name, value in exposure.items()) or "as usual"
