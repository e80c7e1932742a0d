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

PAPERS = ("toth2018",)


@dataclass(frozen=True, kw_only=True)
class ReproduceFlags:
    """Options of ``raylign reproduce``."""

    paper: Annotated[str, typer.Argument(help=f"Whose evaluation: {', '.join(PAPERS)}.", show_default=False)]
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run, new or to be gone on with.", show_default=False)]
    cases: Annotated[int, typer.Option(help="Registrations by the agent; the paper has 1000.", metavar="N")] = 1000
    metrics: Annotated[
        int | None,
        typer.Option(
            help="So many of them by the metrics and silhouettes too, which cost ten times as much; by default all.", metavar="N"
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Of exposures and starts.", metavar="N")] = 0
    weights: Annotated[
        Path | None, typer.Option(help="Of the agent; those that come with raylign by default.", metavar="FILE")
    ] = None
    grid: Annotated[
        int | None,
        typer.Option(help="Exposures of the robustness study, 169 starts each; by default 12 or one a patient.", metavar="N"),
    ] = None
    pool: Annotated[
        Path | None, typer.Option(help="Folder of the exposures, made where missing; OUT/pool by default.", metavar="DIR")
    ] = None
    data: Annotated[Path | None, typer.Option(help="Folder of real CTs, on which the same is measured.", metavar="DIR")] = None
    scans: Annotated[
        Path | None, typer.Option(help="List of the CTs in --data, with their ventricles; two by default.", metavar="FILE")
    ] = None


@command(ReproduceFlags)
def reproduce(flags: ReproduceFlags) -> int:
    """Run the evaluation of a PAPER: table.csv, table.json and report.html in the folder of -o.

    The tables depend on the seed, the number of cases and the weights alone. What was broken off, killed even, goes on where it
    was, by the same command; more cases are added to those that are there.
    """
    if flags.paper not in PAPERS:
        raise InputError(f"no evaluation of {flags.paper!r}", field="PAPER", remedy=f"use one of {', '.join(PAPERS)}")
    load("raylign.evaluation.toth2018", "raylign.simulation", "pydantic")
    from raylign.evaluation.toth2018 import reproduce as run
    from raylign.evaluation.toth2018 import rows, settled
    from raylign.methods.imitation_agent.registrar import shipped

    agent = shipped(flags.weights)
    scans = _scans(flags)
    settings = settled(flags.cases, flags.seed, flags.grid, agent, flags.metrics, flags.weights)
    began = time.monotonic()
    try:
        with told() as tell:
            done = run(agent, settings, flags.out, flags.pool or flags.out / "pool", tell, scans)
    except KeyboardInterrupt:
        complain(f"interrupted; what is finished stays in {flags.out}, and the same command goes on from there")
        return WRONG_INPUT
    print(f"{flags.paper}: {len(done.cases)} cases, {(time.monotonic() - began) / 60:.0f} min; TRE in mm")
    for r in rows(done.cases):
        shown = f"mean {r['mean']:6.2f}  median {r['median']:6.2f}  90 % {r['p90']:6.2f}  angle {r['angle_mean']:5.2f}"
        print(f"{r['method']:17s} n {r['n']:4d}  {shown}")
    for one in done.scans:
        means = ", ".join(f"{r['method']} {r['mean']:.2f}" for r in rows(one.cases))
        print(f"{one.scan.name}: {len(one.cases)} cases, mean TRE: {means}")
    for name in ("report.html", "table.csv", "table.json", *(["scans.csv"] if done.scans else [])):
        print(flags.out / name)
    return DONE


def _scans(flags: ReproduceFlags) -> ScansConfig | None:
    """The real CTs that are asked for."""
    from raylign.evaluation.toth2018_scans import LISTED, ScansConfig
    from raylign.methods.imitation_agent.scans import read_scans

    if flags.data is None:
        if flags.scans is not None:
            raise InputError("names CTs in no folder", field="--scans", remedy="name their folder with --data")
        return None
    return ScansConfig(read_scans(flags.scans or LISTED, flags.data))
