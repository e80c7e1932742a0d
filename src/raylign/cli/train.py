"""``raylign train``: weights from a recipe."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from raylign.cli.console import DONE, WRONG_INPUT, command, complain, load, told
from raylign.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """Options of ``raylign train``."""

    recipe: Annotated[Path, typer.Argument(help="What to train: a YAML file, recipes/toth2018.yaml say.", show_default=False)]
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of checkpoint, log, curves and weights, new or to be gone on with.", show_default=False
        ),
    ]
    preset: Annotated[str, typer.Option(help="Which of the recipe's presets.", metavar="NAME")] = "small"
    pool: Annotated[
        Path | None,
        typer.Option(help="Folder of the data to learn from, made where missing; OUT/pool by default.", metavar="DIR"),
    ] = None
    workers: Annotated[
        int | None, typer.Option(help="Processes that make the data; by default one for each processor.", metavar="N")
    ] = None
    device: Annotated[str, typer.Option(help="Where the network learns: cpu, cuda, cuda:N.", metavar="NAME")] = "cpu"
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's.", metavar="N")] = None
    save_every: Annotated[int, typer.Option(help="Iterations between checkpoints.", metavar="N")] = 250
    begin: Annotated[
        Path | None,
        typer.Option("--from", help="Agent whose weights the training begins from; random ones by default.", metavar="FILE"),
    ] = None
    join: Annotated[
        list[Path] | None,
        typer.Option(help="Train nothing: make one agent of these, whose members vote; of one, measure it anew.", metavar="FILE"),
    ] = None
    until: Annotated[int | None, typer.Option(help="Stop for now before this iteration.", metavar="N")] = None


@command(TrainFlags)
def train(flags: TrainFlags) -> int:
    """Train a method that learns, and measure it on patients that it has not seen.

    What was broken off, even killed, goes on from its last checkpoint by the same command, with the same result.
    """
    for name, value in (("--workers", flags.workers), ("--save-every", flags.save_every), ("--until", flags.until)):
        if value is not None and value < 1:
            raise InputError(f"{value} is too few", field=name, remedy="give 1 or more")
    load("raylign.training.run", "raylign.simulation", "pydantic")
    from raylign.training.recipes import Weights, read_training
    from raylign.training.run import CARD, CURVES, RunConfig, join, run

    _check_device(flags.device)
    chosen = read_training(flags.recipe, flags.preset, flags.seed, flags.begin)
    if flags.join:
        if flags.begin is not None or flags.until is not None:
            raise InputError("trains nothing", field="--join", remedy="leave out --from and --until")
        chosen = replace(chosen, members=tuple(Weights.of(file) for file in flags.join))
    workers = flags.workers if flags.workers is not None else _processors()
    config = RunConfig(flags.out, flags.pool, workers, flags.device, flags.save_every, flags.until)
    began = time.monotonic()
    try:
        with told() as tell:
            done = join(chosen, config, tell) if flags.join else run(chosen, config, tell)
    except KeyboardInterrupt:
        complain(f"interrupted; what is finished stays in {flags.out}, and the same command goes on from there")
        return WRONG_INPUT
    minutes = (time.monotonic() - began) / 60
    if not done.finished:
        print(f"{done.iteration} iterations are done, {minutes:.0f} min; the same command without --until goes on in {flags.out}")
        return DONE
    what = f"agents joined: {len(flags.join)}" if flags.join else f"{done.iteration} iterations"
    print(f"{chosen.name}, preset {chosen.preset}: {what}, {minutes:.0f} min")
    print(done.said)
    print(f"{flags.out / done.weights}, {CARD}" + ("" if flags.join else f", {CURVES}"))
    return DONE


def _check_device(name: str) -> None:
    import re

    import torch

    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"{name!r} is none that networks learn on", field="--device", remedy="use cpu, cuda or cuda:N")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"cannot be used ({str(error).splitlines()[0]})", field="--device", remedy="use cpu") from None


def _processors() -> int:
    from raylign.projection.threads import threads

    return threads()
