"""``raylign simulate``: a data set of labelled exposures from a recipe."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raylign.cli.console import DONE, WRONG_INPUT, command, complain, load, progress
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.simulation.datasets.dataset import Made
    from raylign.simulation.datasets.recipes import Recipe


class Format(enum.StrEnum):
    """``raylign.simulation.datasets.recipes.Format``, known without loading it."""

    SHARDS = "shards"
    DICOM = "dicom"


@dataclass(frozen=True, kw_only=True)
class SimulateFlags:
    """Options of ``raylign simulate``."""

    recipe: Annotated[Path, typer.Argument(help="What to make: a YAML file; see recipes/.", show_default=False)]
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the data set, new or to be gone on with.", show_default=False)
    ]
    workers: Annotated[int | None, typer.Option(help="Processes; by default one for each processor.", metavar="N")] = None
    count: Annotated[int | None, typer.Option(help="Cases, in place of the recipe's.", metavar="N")] = None
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's.", metavar="N")] = None
    format: Annotated[
        Format | None, typer.Option(help="shards: tar archives for training; dicom: XA files, truth and CT of each subject.")
    ] = None


@command(SimulateFlags)
def simulate(flags: SimulateFlags) -> int:
    """Expose many patients from known poses, and write what was seen and what is true.

    Patients, poses, apparatus and appearance come from a recipe. Every case has a seed of its own: the same recipe gives the
    same bytes, whatever the number of processes. What was broken off goes on where it was, by the same command.
    """
    load("raylign.simulation", "pydantic", "SimpleITK")
    from raylign.simulation.datasets.dataset import make_dataset

    recipe = _recipe(flags)
    workers = flags.workers if flags.workers is not None else _processors()
    began = time.monotonic()
    try:
        with _estimated() as tell:
            made = make_dataset(recipe, flags.out, workers=workers, tell=tell)
    except KeyboardInterrupt:
        complain(f"interrupted; what is finished stays in {flags.out}, and the same command goes on from there")
        return WRONG_INPUT
    _print(flags, recipe, made, time.monotonic() - began)
    return DONE


def _recipe(flags: SimulateFlags) -> Recipe:
    """The recipe with the options in place of what it says."""
    from raylign.simulation.datasets.recipes import check, read_recipe

    recipe = read_recipe(flags.recipe)
    for name, value, least in (("count", flags.count, 1), ("seed", flags.seed, 0), ("workers", flags.workers, 1)):
        if value is not None and value < least:
            raise InputError(f"{value} is too few", field=f"--{name}", remedy=f"give {least} or more")
    if flags.count is not None:
        recipe = replace(recipe, count=flags.count)
    if flags.seed is not None:
        recipe = replace(recipe, seed=flags.seed)
    if flags.format is not None:
        recipe = replace(recipe, output=replace(recipe.output, format=flags.format.value))
        check(recipe)
    return recipe


def _processors() -> int:
    from raylign.projection.threads import threads

    return threads()


@contextmanager
def _estimated() -> Iterator[Callable[[int, int], None]]:
    """Progress with how long it will take yet, by the pace so far; what was there before does not count."""
    with progress() as bar:
        began, kept = time.monotonic(), -1

        def tell(done: int, total: int) -> None:
            nonlocal kept
            kept = done if kept < 0 else kept
            left = ""
            if done > kept:
                left = f", {_duration((time.monotonic() - began) / (done - kept) * (total - done))} left"
            bar(f"{done} of {total} cases{left}", done / total)

        yield tell


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _print(flags: SimulateFlags, recipe: Recipe, made: Made, seconds: float) -> None:
    from rich.console import Console

    kept = f" ({made.kept} cases were there already)" if made.kept else ""
    size = f"{made.bytes / 1e6:.1f} MB" if made.bytes < 1e9 else f"{made.bytes / 1e9:.1f} GB"
    lines = [f"{made.exposures} exposures of {made.subjects} subjects in {flags.out}, {size}, {_duration(seconds)}{kept}"]
    if recipe.output.format == "dicom":
        lines.append(
            "Each subject's folder holds ct.nii.gz, truth.json, and for every case its X-rays and the pose to start from."
        )
    else:
        lines.append("In Python: raylign.simulation.datasets.shards.read_shards(FOLDER) gives the exposures one by one.")
    console = Console(soft_wrap=True)
    for line in lines:
        console.print(line, highlight=False, markup=False)
