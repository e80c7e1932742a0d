"""``raylign reproduce gao2024``: Tables I to IV and Figures 4 to 6 of Gao et al. (2024), as far as our patients allow.

Every part is an evaluation by a protocol of its own (``gao2024``, ``gao2024_tool``, ``gao2024_spine``, ``gao2024_scans``) in a
folder of the run, with its own report: what is broken off goes on, cases depend on the seed and their number alone. CMA-ES costs
minutes a case, so that its rows are of the first cases and the first network only, in an evaluation beside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from raylign._version import __version__
from raylign.errors import InputError
from raylign.evaluation import statistics as st
from raylign.evaluation.gao2024_figures import Figures, FiguresConfig, figures
from raylign.evaluation.protocol import SEARCHED, load_protocol
from raylign.evaluation.record import Record
from raylign.evaluation.runner import RunSettings, State, evaluate
from raylign.evaluation.table import DRAWS, as_csv
from raylign.io.atomic import write_text
from raylign.methods.named import ALONE, SKIPPED, Named, describe, digest

Tell = Callable[[str, float], None]

START, CMAES, SEARCH = "start", "CMA-ES", "direct, global search"
NO_NETWORK = "direct about the start"
"""It looks as far about the start as about the end of the first network: what that is worth."""
SUCCESS_MM = 10.0
PERCENTILES = (25, 50, 75, 95)
CLASSICAL = "xreg-wide"
"""CMA-ES on patch gradient NCC with 300 poses a generation over 45 degrees and 200 mm, as the paper ran it."""

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "pelvis": {"CMA-ES": 28.5, "ProST + CMA-ES": 65.6, "no domain randomisation": 65.4, "DeepIM": 59.6, "MICCAI 2020": 45.0,
               "MSE loss": 27.9},
    "pelvis, real X-rays": {"CMA-ES": 36.0, "ProST + CMA-ES": 73.2, "no domain randomisation": 71.4, "full CT": 59.4,
                            "MICCAI 2020": 51.2, "DeepIM": 41.2, "MSE loss": 28.8},
    "pelvis, real X-rays with a tool": {"ProST + CMA-ES": 48.4, "DeepIM": 23.8},
    "spine": {"CMA-ES": 23.3, "ProST + CMA-ES": 39.4},
}  # fmt: skip
"""Success under 10 mm, percent, where the paper's text states it."""

_PARTS = {
    "pelvis": ("gao2024", "Tables I and II: pelvis"),
    "tool": ("gao2024_tool", "Pelvis with an instrument before it"),
    "spine": ("gao2024_spine", "Table III: spine"),
    "scans": ("gao2024_scans", "CTs of people"),
}


@dataclass(frozen=True)
class Network:
    """Weights that are measured.

    Parameters
    ----------
    label: what rows call it. method: by which name of ``methods.named``.
    file: of the weights; None: those that come with raylign. phantom: of whom it was trained: pelvis, lumbar.
    """

    label: str
    method: str
    file: Path | None
    phantom: str

    def named(self, after: str | None) -> str:
        """The name of the method with what comes after it; "": nothing; None: the direct method in its place."""
        endings = {None: SKIPPED, "": ALONE, "direct": ""}
        name = self.method + endings.get(after, f"+{after}")
        return name if self.file is None else f"{name}@{self.file.resolve()}"


@dataclass(frozen=True)
class ReproduceConfig:
    """What is measured.

    Parameters
    ----------
    networks: the first that was trained on pelves is the one whose figures are drawn; CMA-ES goes on from the first of each kind
        of patients.
    cases: of the pelvis (the paper: 1,000). slow: of them by CMA-ES too, and cases of every other part.
    seed: of patients, exposures and starts.
    data: folder of real CTs (``ct/``); None: none.
    figures: what Figures 5 and 6 are drawn from.

    Raises
    ------
    InputError: no cases, no network of pelves, two of one label.
    """

    networks: tuple[Network, ...]
    cases: int = 1000
    slow: int = 100
    seed: int = 0
    data: Path | None = None
    figures: FiguresConfig = field(default_factory=FiguresConfig)

    def __post_init__(self) -> None:
        if self.cases < 1 or self.slow < 1:
            raise InputError(f"{self.cases} and {self.slow} cases", field="--cases, --metrics", remedy="give 1 or more")
        if self.seed < 0:
            raise InputError(f"{self.seed} is negative", field="--seed", remedy="give 0, 1, 2, ...")
        labels = [n.label for n in self.networks]
        if len(set(labels)) < len(labels):
            raise InputError(f"two networks are called {labels[0]}", field="--also", remedy="name each file of weights once")
        if not self.of("pelvis"):
            raise InputError("no network of pelves", field="--weights", remedy="name weights that were trained on pelves")

    def of(self, phantom: str) -> tuple[Network, ...]:
        """The networks trained on such patients."""
        return tuple(n for n in self.networks if n.phantom == phantom)

    @property
    def parts(self) -> tuple[str, ...]:
        """What there is to measure with these networks and data."""
        more = (("spine", bool(self.of("lumbar"))), ("scans", self.data is not None))
        return ("pelvis", "tool", *(name for name, there in more if there))


@dataclass(frozen=True, eq=False)
class Part:
    """One of the paper's tables.

    Parameters
    ----------
    name: of ``_PARTS``. title: in words.
    records: by label of the row, in the table's order; those of "start" are of the first method's cases.
    """

    name: str
    title: str
    records: Mapping[str, Sequence[Record]]


@dataclass(frozen=True, eq=False)
class Reproduced:
    """What a run found."""

    config: ReproduceConfig
    parts: tuple[Part, ...]
    figures: Figures


def network(file: Path | None) -> Network:
    """Weights as rows call them: by what papers call the method and by their recipe's preset, which shipped ones go without.

    Raises
    ------
    InputError: they cannot be read, or are of a method that takes no volumes.
    """
    said = describe(file)
    label = said.kind if file is None else f"{said.kind} ({said.preset or file.stem})"
    return Network(label, said.method, file, said.phantom)


def wanted(config: ReproduceConfig, part: str) -> tuple[dict[str, str], dict[str, str]]:
    """Rows of a part and by which method: those that are cheap, and those with CMA-ES, alone and after the first network."""
    fast = {}
    networks = config.of("lumbar" if part == "spine" else "pelvis")
    for one in networks:
        fast[one.label] = one.named("")
        fast[f"{one.label} + direct"] = one.named("direct")
    fast[NO_NETWORK] = networks[0].named(None)
    slow = {CMAES: CLASSICAL, f"{networks[0].label} + CMA-ES": networks[0].named(CLASSICAL)}
    return {**fast, SEARCH: SEARCHED}, slow


def reproduce(config: ReproduceConfig, out: Path, workers: int, tell: Tell) -> Reproduced:
    """Measure what is missing, and write table.csv, table.json and report.html.

    Parameters
    ----------
    out: folder of the run; ``out/PART`` and ``out/PART-cmaes`` are those of evaluations.

    Raises
    ------
    InputError: a folder of another run, data that are not there, weights that cannot be read.
    """
    from raylign.evaluation.gao2024_page import report_html

    parts, count = [], 2 * len(config.parts)
    for place, name in enumerate(config.parts):
        # patient after patient, so that a few cases are of many
        protocol = load_protocol(_PARTS[name][0]).model_copy(update={"per_subject": 1})
        cases = config.cases if name == "pelvis" else config.slow
        records: dict[str, Sequence[Record]] = {}
        for half, (rows, many) in enumerate(zip(wanted(config, name), (cases, min(config.slow, cases)), strict=True)):
            share = (2 * place + half) / count

            def told(state: State, name: str = name, share: float = share) -> None:
                tell(f"{name}: {state.done} of {state.total}", 0.95 * (share + state.done / max(1, state.total) / count))

            settings = RunSettings(config.seed, many, tuple(rows.values()), config.data, workers)
            made = evaluate(protocol, out / (f"{name}-cmaes" if half else name), settings, told)
            for label, method in rows.items():
                records[label] = [r for r in made if r.method == method]
        first = next(iter(records.values()))
        parts.append(Part(name, _PARTS[name][1], {START: first, **records}))
    tell("drawing figures 5 and 6", 0.96)
    drawn = figures(config.of("pelvis")[0].file, config.figures, config.seed)
    done = Reproduced(config, tuple(parts), drawn)
    _write(done, out)
    write_text(out / "report.html", report_html(done))
    return done


def values(records: Sequence[Record], label: str, name: str) -> Float[np.ndarray, " n"]:
    """Errors of a row, case by case: "mtre", "shift" (mm, of the targets' centroid) or "angle" (degrees)."""
    before = "start_" if label == START else ""
    if name != "shift":
        return st.errors_of([getattr(r, before + name) for r in records])
    both = [(getattr(r, f"{before}in_plane"), getattr(r, f"{before}depth")) for r in records]
    return st.errors_of([None if a is None or b is None else float(np.hypot(a, b)) for a, b in both])


def rows(part: Part) -> list[dict[str, Any]]:
    """One row a method: percentiles of rotation (degrees), translation and TRE (mm), success with its interval over patients.

    ``silent``: cases that were trusted and are off by more than 10 mm.
    """
    out = []
    for label, records in part.records.items():
        tre = values(records, label, "mtre")
        drawn = st.resamples([r.subject for r in records], DRAWS, seed=0)
        one: dict[str, Any] = {"part": part.name, "method": label, "n": len(tre), "subjects": drawn.subjects}
        for name, found in (("angle", values(records, label, "angle")), ("shift", values(records, label, "shift")), ("tre", tre)):
            one |= {f"{name}_p{q}": st.percentile(found, q) for q in PERCENTILES}
        interval = drawn.success(tre, SUCCESS_MM)
        one |= {"success": st.success(tre, SUCCESS_MM), "success_low": interval.low, "success_high": interval.high}
        one |= {"success_2mm": st.success(tre, 2.0)}
        if label != START:
            trusted = np.array([r.trusted for r in records], bool)
            one |= {"trusted": float(trusted.mean()), "silent": int((trusted & (tre >= SUCCESS_MM)).sum())}
        out.append(one)
    return out


def seconds(part: Part) -> dict[str, float]:
    """Median processor seconds of a registration, by row. Depends on the machine."""
    return {
        label: st.percentile(np.array([r.seconds.get("cpu", np.nan) for r in records]), 50)
        for label, records in part.records.items()
        if label != START
    }


def _write(done: Reproduced, out: Path) -> None:
    table = [row for part in done.parts for row in rows(part)]
    columns = list(dict.fromkeys(name for row in table for name in row))
    write_text(out / "table.csv", as_csv([{name: row.get(name, "") for name in columns} for row in table]))
    said = {
        "paper": "gao2024",
        "criterion": "mean TRE over points of the bones, mm; success under 10 mm",
        "seed": done.config.seed,
        "version": __version__,
        "weights": {n.label: digest(Named(n.method, weights=n.file)) for n in done.config.networks},
        "interval": f"95 %, {DRAWS} bootstrap samples of patients, seed 0",
        "rows": [{k: round(v, 6) if isinstance(v, float) and np.isfinite(v) else v if not isinstance(v, float) else None
                  for k, v in row.items()} for row in table],
        "correlation": {name: asdict(one) for name, one in done.figures.correlations.items()},
    }  # fmt: skip
    write_text(out / "table.json", json.dumps(said, indent=1, allow_nan=False) + "\n")
