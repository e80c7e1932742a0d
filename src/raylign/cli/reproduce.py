"""``raylign reproduce``: the evaluation of a published paper, with a trained method of ours."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raylign.cli.console import DONE, WRONG_INPUT, command, complain, load, told
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.evaluation.toth2018_scans import ScansConfig

TOTH, GAO = PAPERS = ("toth2018", "gao2024")


@dataclass(frozen=True, kw_only=True)
class ReproduceFlags:
    """Options of ``raylign reproduce``."""

    paper: Annotated[str, typer.Argument(help=f"Whose evaluation: {', '.join(PAPERS)}.", show_default=False)]
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run, new or to be gone on with.", show_default=False)]
    cases: Annotated[int, typer.Option(help="Registrations by each trained method; both papers have 1000.", metavar="N")] = 1000
    metrics: Annotated[
        int | None,
        typer.Option(
            help="So many of them by what costs many times as much too: metrics and silhouettes (by default all), CMA-ES (100).",
            metavar="N",
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Of exposures and starts.", metavar="N")] = 0
    weights: Annotated[
        Path | None, typer.Option(help="Of the trained method; those that come with raylign by default.", metavar="FILE")
    ] = None
    also: Annotated[
        list[Path] | None,
        typer.Option(help="gao2024: further weights, rows of their own: variants, spines; once for each.", metavar="FILE"),
    ] = None
    workers: Annotated[int | None, typer.Option(help="gao2024: processes; by default one for each core.", metavar="N")] = None
    grid: Annotated[
        int | None,
        typer.Option(help="toth2018: exposures of the robustness study, 169 starts each; by default 12.", metavar="N"),
    ] = None
    pool: Annotated[
        Path | None,
        typer.Option(help="toth2018: folder of the exposures; OUT/pool by default.", metavar="DIR"),
    ] = None
    data: Annotated[Path | None, typer.Option(help="Folder of real CTs, on which the same is measured.", metavar="DIR")] = None
    scans: Annotated[
        Path | None,
        typer.Option(help="toth2018: list of the CTs in --data; two by default.", metavar="FILE"),
    ] = None


@command(ReproduceFlags)
def reproduce(flags: ReproduceFlags) -> int:
    """Run the evaluation of a PAPER: table.csv, table.json and report.html in the folder of -o.

    The tables depend on the seed, the number of cases and the weights alone. What was broken off, killed even, goes on where it
    was, by the same command; more cases are added to those that are there.
    """
    if flags.paper not in PAPERS:
        raise InputError(f"no evaluation of {flags.paper!r}", field="PAPER", remedy=f"use one of {', '.join(PAPERS)}")
    _check(flags)
    began = time.monotonic()
    try:
        said = (_toth if flags.paper == TOTH else _gao)(flags)
    except KeyboardInterrupt:
        complain(f"interrupted; what is finished stays in {flags.out}, and the same command goes on from there")
        return WRONG_INPUT
    print(f"{flags.paper}: {said[0]}, {(time.monotonic() - began) / 60:.0f} min; TRE in mm")
    print("\n".join(said[1:]))
    return DONE


def _check(flags: ReproduceFlags) -> None:
    """Refuse options that the paper's evaluation would take no notice of."""
    others = ("also", "workers") if flags.paper == TOTH else ("grid", "pool", "scans")
    for name in others:
        if getattr(flags, name) is not None:
            raise InputError(f"is not of {flags.paper}", field=f"--{name}", remedy="leave it out")


def _toth(flags: ReproduceFlags) -> list[str]:
    """Run Toth et al. (2018); what there is to tell, how many cases first."""
    load("raylign.evaluation.toth2018", "raylign.simulation", "pydantic")
    from raylign.evaluation.toth2018 import reproduce as run
    from raylign.evaluation.toth2018 import rows, settled
    from raylign.methods.imitation_agent.registrar import shipped

    agent = shipped(flags.weights)
    scans = _scans(flags)
    settings = settled(flags.cases, flags.seed, flags.grid, agent, flags.metrics, flags.weights)
    with told() as tell:
        done = run(agent, settings, flags.out, flags.pool or flags.out / "pool", tell, scans)
    said = [f"{len(done.cases)} cases"]
    for r in rows(done.cases):
        shown = f"mean {r['mean']:6.2f}  median {r['median']:6.2f}  90 % {r['p90']:6.2f}  angle {r['angle_mean']:5.2f}"
        said.append(f"{r['method']:17s} n {r['n']:4d}  {shown}")
    for one in done.scans:
        means = ", ".join(f"{r['method']} {r['mean']:.2f}" for r in rows(one.cases))
        said.append(f"{one.scan.name}: {len(one.cases)} cases, mean TRE: {means}")
    return [*said, *_files(flags, "report.html", "table.csv", "table.json", *(["scans.csv"] if done.scans else []))]


def _gao(flags: ReproduceFlags) -> list[str]:
    """Run Gao et al. (2024); what there is to tell, how many cases first."""
    load("raylign.evaluation.gao2024", "raylign.simulation", "pydantic")
    from raylign.evaluation.gao2024 import ReproduceConfig, network, rows
    from raylign.evaluation.gao2024 import reproduce as run
    from raylign.projection.threads import threads

    if flags.workers is not None and flags.workers < 1:
        raise InputError(f"{flags.workers} processes", field="--workers", remedy="give 1 or more")
    networks = tuple(network(file) for file in (flags.weights, *(flags.also or ())))
    slow = 100 if flags.metrics is None else flags.metrics
    config = ReproduceConfig(networks, flags.cases, min(slow, flags.cases), flags.seed, flags.data)
    with told() as tell:
        done = run(config, flags.out, flags.workers or threads(), tell)
    said = [f"{len(next(iter(done.parts[0].records.values())))} cases"]
    for part in done.parts:
        said.append(f"{part.title}:")
        for r in rows(part):
            shown = f"25 % {r['tre_p25']:6.1f}  median {r['tre_p50']:6.1f}  75 % {r['tre_p75']:6.1f}"
            said.append(f"  {r['method']:28s} n {r['n']:4d}  {shown}  under 10 mm {100 * r['success']:5.1f} %")
    for name, one in done.figures.correlations.items():
        said.append(f"correlation with the distance, {name}: {one.over_all:.2f} over all exposures, {one.within:.2f} within one")
    return [*said, *_files(flags, "report.html", "table.csv", "table.json")]


def _files(flags: ReproduceFlags, *names: str) -> list[str]:
    return [str(flags.out / name) for name in names]


def _scans(flags: ReproduceFlags) -> ScansConfig | None:
    """The real CTs that are asked for."""
    from raylign.evaluation.toth2018_scans import LISTED, ScansConfig
    from raylign.methods.imitation_agent.scans import read_scans

    if flags.data is None:
        if flags.scans is not None:
            raise InputError("names CTs in no folder", field="--scans", remedy="name their folder with --data")
        return None
    return ScansConfig(read_scans(flags.scans or LISTED, flags.data))
