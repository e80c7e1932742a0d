"""A recipe whose every name has been looked up: samplers, ranges, appearance, subjects and who of them belongs where."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from raylign.errors import InputError
from raylign.simulation.appearance import Sequence, appearance
from raylign.simulation.datasets.recipes import Recipe
from raylign.simulation.datasets.roster import Entry, Order, phantom_config, roster, variation
from raylign.simulation.datasets.typed import typed
from raylign.simulation.instruments import INSTRUMENT_SETS, InstrumentSet
from raylign.simulation.physics.ranges import ExposureRanges
from raylign.simulation.poses import StartSampler, TargetSampler, Uniform, starts, targets
from raylign.simulation.subjects import part_of


class Plan:
    """What a recipe means.

    Parameters
    ----------
    recipe: checked against its types already.

    Raises
    ------
    InputError: a name that stands for nothing, a range that is none, a scan that is not there.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.targets: TargetSampler = targets(recipe.targets)
        if recipe.image is not None:
            self.targets = _resized(self.targets, recipe.image)
        self.starts: StartSampler = starts(recipe.starts)
        self.ranges = typed(ExposureRanges, recipe.exposure, "exposure")
        self.appearance = _appearance(recipe)
        self.instruments = _instruments(recipe)
        for number, source in enumerate(recipe.subjects):
            field = f"subjects.{number}"
            if source.phantom is not None:
                phantom_config(source, field)
                continue
            variation(source, field)
            for name in ("ct", "labels", "label_names"):
                path = getattr(source, name)
                if path is not None and not Path(path).exists():
                    raise InputError(f"{path} is not there", field=f"{field}.{name}", remedy="paths are relative to the recipe")
        self.roster: tuple[Entry, ...] = roster(recipe)
        if recipe.output.format == "dicom" and self.appearance.steps:
            raise InputError(
                "DICOM holds the counts of an exposure", field="appearance", remedy='use "plain", or the format shards'
            )

    def of_part(self, part: str | None) -> tuple[Entry, ...]:
        """The subjects of "train", "validation" or "test"; all of them for None.

        Raises
        ------
        InputError: an unknown part, or one to which no subject falls.
        """
        if part is None:
            return self.roster
        if part not in self.recipe.split.shares:
            raise InputError(f"no part {part!r}", field="split", remedy=f"use one of {', '.join(self.recipe.split.shares)}")
        entries = tuple(e for e in self.roster if self.part(e) == part)
        if not entries:
            raise InputError(
                f"none of {len(self.roster)} subjects falls to {part}",
                field="split",
                remedy="give more subjects, or other shares",
            )
        return entries

    def part(self, entry: Entry) -> str:
        """The part to which a subject belongs."""
        return part_of(entry.person, self.recipe.split.shares, self.recipe.split.seed)

    def order(self, count: int) -> Order:
        """The order in which so many subjects come."""
        return Order(count, self.recipe.seed)


def _appearance(recipe: Recipe) -> Sequence:
    said = recipe.appearance
    return appearance(said) if isinstance(said, str) else Sequence.from_dict(said)


def _instruments(recipe: Recipe) -> InstrumentSet | None:
    said = recipe.instruments
    if said is None:
        return None
    values = {"set": said} if isinstance(said, str) else dict(said)
    name = values.pop("set", "everything")
    if not isinstance(name, str) or name not in INSTRUMENT_SETS:
        raise InputError(f"no set is called {name!r}", field="instruments", remedy=f"use one of {', '.join(INSTRUMENT_SETS)}")
    base = INSTRUMENT_SETS[name]
    plain = {f.name: getattr(base, f.name) for f in fields(base)}
    return typed(InstrumentSet, plain | values, "instruments")


def _resized(sampler: TargetSampler, shape: tuple[int, int]) -> TargetSampler:
    """The same detector area in other pixels, a pitch that varies included."""
    carm = sampler.carm
    if not isinstance(carm.pitch, Uniform):
        return sampler.resized(shape)
    (h, w), (rows, columns) = carm.shape, shape
    pitch = Uniform(carm.pitch.low * w / columns, carm.pitch.high * w / columns)
    row_pitch = carm.row_pitch * (h / rows) / (w / columns)
    return replace(sampler, carm=replace(carm, shape=shape, pitch=pitch, row_pitch=row_pitch))
