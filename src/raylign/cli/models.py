"""Options about models and where they are sought, the same for all commands that register; and a model as it is read."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.cli.exposures import ExposureFlags
from raylign.cli.surfaces import Surface, is_surface, read_surface
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.data import Volume


class Unit(enum.StrEnum):
    """What a volume's numbers are, where its file does not say."""

    HU = "HU"
    RAW = "raw"
    PER_MM = "1/mm"


class Material(enum.StrEnum):
    """``raylign.data.solids.MATERIALS``, known without loading them."""

    BONE = "bone"
    METAL = "metal"
    CONTRAST = "contrast"
    SOFT = "soft"
    AIR = "air"


def start_option(help: str, metavar: str | None = None) -> Any:
    """An option about where to begin."""
    return typer.Option(help=help, metavar=metavar, rich_help_panel="Where to begin")


@dataclass(frozen=True, kw_only=True)
class ModelFlags(ExposureFlags):
    """What is searched about a start, and what models are."""

    search_degrees: Annotated[
        float | None, start_option("Searched about the start, either way: center 20, search 50, a pose 15.", "DEG")
    ] = None
    search_mm: Annotated[float | None, start_option("The same in mm: center 35, search 200, a pose 15.", "MM")] = None
    search_depth: Annotated[float | None, start_option("The same along the beam: as --search-mm, search 300.", "MM")] = None
    starts: Annotated[int | None, start_option("Poses tried at the coarsest level; 1: the given one alone. Direct only.")] = None
    unit: Annotated[Unit | None, typer.Option(help="The volume's numbers, where they do not tell.")] = None
    material: Annotated[Material, typer.Option(help="What a surface is filled with.")] = Material.BONE
    seed: Annotated[int, typer.Option(help="Of whatever is random.")] = 0
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False


@dataclass(frozen=True, kw_only=True)
class PoseFlags(ModelFlags):
    """The same of commands that begin at poses and take no landmarks."""

    @property
    def landmarks_2d(self) -> None:
        """None are taken."""

    @property
    def landmark_degrees(self) -> float:
        """Of no use without landmarks."""
        return 60.0


def check_models(flags: ModelFlags, paths: Sequence[Path]) -> None:
    """Refuse what says something of models of another kind than those that are given.

    Raises
    ------
    InputError: a material without a surface, a unit without a volume.
    """
    surfaces = [is_surface(path) for path in paths]
    if flags.material != Material.BONE and not any(surfaces):
        raise InputError("no model is a surface", field="--material", remedy="leave it out: a volume has its own attenuation")
    if flags.unit is not None and all(surfaces):
        raise InputError("a surface has no numbers", field="--unit", remedy="leave it out, or say what it is of: --material")


def read_model(path: Path, flags: ModelFlags, series: str | None = None) -> Volume | Surface:
    """A volume, or a surface and the volume that stands for it.

    Raises
    ------
    InputError: as of the readers; a surface that is open.
    """
    from raylign.io import read_volume

    if is_surface(path):
        return read_surface(path, flags.material.value)
    return read_volume(path, series=series, unit=None if flags.unit is None else flags.unit.value)
