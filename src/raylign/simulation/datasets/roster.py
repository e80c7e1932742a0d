"""The subjects that a recipe names: who they are before they are made, and how they are made."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.simulation.datasets.recipes import Recipe, SubjectsFrom
from raylign.simulation.datasets.typed import typed
from raylign.simulation.seeds import numpy_generator
from raylign.simulation.subject import Subject

if TYPE_CHECKING:
    from raylign.simulation.anchors import Anchors
    from raylign.simulation.variation import VariationConfig

PHANTOMS: Mapping[str, tuple[str, str, str]] = {
    "thorax": ("thorax", "thorax", "ThoraxConfig"),
    "pelvis": ("pelvis", "pelvis", "PelvisConfig"),
    "lumbar": ("lumbar", "lumbar", "LumbarConfig"),
    "aorta": ("aorta", "aorta", "AortaConfig"),
    "femur": ("femur", "proximal_femur", "FemurConfig"),
}
"""Module in ``raylign.simulation.phantoms``, function and configuration of each phantom; a subject's id begins with its name."""

_ORDER = 1  # place of the subjects' order in the tree of seeds; cases stand under 0


@dataclass(frozen=True)
class Entry:
    """One subject of a recipe, not yet made: which of its sources, and which seed or copy of that."""

    id: str
    copy: int
    source: int
    seed: int
    made: bool

    @property
    def name(self) -> str:
        """The id, and for a copy its number: names one subject, not one anatomy."""
        return self.id if self.copy == 0 else f"{self.id}-copy{self.copy:03d}"

    @property
    def person(self) -> str:
        """Who it is, for splits: the id of a scan; of a phantom the seed, since phantoms of one seed are parts of one person."""
        from raylign.simulation.phantoms.population import person_id

        return person_id(self.seed) if self.made else self.id


def roster(recipe: Recipe) -> tuple[Entry, ...]:
    """All subjects in the order of the recipe.

    Raises
    ------
    InputError: two sources that give the same subject.
    """
    entries: list[Entry] = []
    for number, source in enumerate(recipe.subjects):
        if source.phantom is not None:
            first, last = source.seeds
            entries += [Entry(f"{source.phantom}-{seed:06d}", 0, number, seed, True) for seed in range(first, last + 1)]
        else:
            entries += [Entry(source.id or "ct", copy, number, copy, False) for copy in range(source.copies + 1)]
    names = [e.name for e in entries]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"{twice} comes twice", field="subjects", remedy="give other seeds, or another id")
    return tuple(entries)


class Order:
    """The endless order in which subjects come: all of them, shuffled, then all of them again, shuffled anew."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._round = lru_cache(maxsize=4)(self._shuffled)

    def __getitem__(self, place: int) -> int:
        """Number of the subject at a place."""
        return int(self._round(place // self.count)[place % self.count])

    def _shuffled(self, turn: int) -> Any:
        return numpy_generator(self.seed, _ORDER, turn).permutation(self.count)


def phantom(name: str, field: str = "phantom") -> tuple[Callable[..., Subject], type]:
    """Function and configuration of a phantom.

    Raises
    ------
    InputError: there is none of that name.
    """
    if name not in PHANTOMS:
        raise InputError(f"no phantom is called {name!r}", field=field, remedy=f"use one of {', '.join(PHANTOMS)}")
    module, function, config = PHANTOMS[name]
    room = importlib.import_module(f"raylign.simulation.phantoms.{module}")
    return getattr(room, function), getattr(room, config)


def phantom_config(source: SubjectsFrom, field: str) -> Any:
    """The typed configuration of a phantom that a recipe states.

    Raises
    ------
    InputError: an unknown phantom or field, a value out of its range.
    """
    assert source.phantom is not None
    _, kind = phantom(source.phantom, f"{field}.phantom")
    # meshes cost more than half of a subject's time, and no exposure needs them
    plain = {"meshes": False} if "meshes" in {f.name for f in fields(kind)} else {}
    return typed(kind, plain | source.config, f"{field}.config")


def make(recipe: Recipe, entry: Entry) -> Subject:
    """Make one subject: draw a phantom, or read a scan and deform it.

    Raises
    ------
    InputError: a scan or segmentation that cannot be read.
    """
    source = recipe.subjects[entry.source]
    if source.phantom is not None:
        function, _ = phantom(source.phantom)
        subject = function(phantom_config(source, f"subjects.{entry.source}"), entry.seed)
        assert subject.id == entry.id  # the split went by it before there was a subject
        return subject
    try:
        return scanned(source, entry, f"subjects.{entry.source}")
    except InputError as error:
        raise error.at(source.ct or entry.id) from None


def centre_lines(recipe: Recipe, entry: Entry) -> tuple[Float[Tensor, "N 3"], ...]:
    """Centre lines of vessels, patient mm, of a phantom that tells them."""
    source = recipe.subjects[entry.source]
    if source.phantom != "aorta":
        return ()
    room = importlib.import_module("raylign.simulation.phantoms.aorta")
    lines = room.centrelines(entry.seed, phantom_config(source, f"subjects.{entry.source}"))
    return tuple(torch.as_tensor(points, dtype=torch.float64) for points in lines.values())


def scanned(source: SubjectsFrom, entry: Entry, field: str) -> Subject:
    """A scan as a subject, or a deformed copy of it."""
    from raylign.simulation.variation import vary

    assert source.ct is not None
    files = (source.ct, source.labels, source.label_names, entry.id)
    original = _read(*files)
    if entry.copy == 0:
        return original
    config = variation(source, field)
    return vary(original, config, 0, entry.copy, _held(*files, json.dumps(source.variation)))


def variation(source: SubjectsFrom, field: str) -> VariationConfig:
    """The typed configuration of a scan's deformed copies."""
    from raylign.simulation.variation import VariationConfig

    return typed(VariationConfig, source.variation, f"{field}.variation")


# a scan takes longer to read than to deform: its copies come one after the other, and the last two are kept
@lru_cache(maxsize=2)
def _read(ct: str, labels: str | None, names: str | None, id: str) -> Subject:
    from raylign.io import read_labels, read_volume
    from raylign.simulation.subjects import subject_from_ct

    return subject_from_ct(read_volume(ct), None if labels is None else read_labels(labels, names), id=id)


@lru_cache(maxsize=2)
def _held(ct: str, labels: str | None, names: str | None, id: str, said: str) -> Anchors | None:
    """The bones that stay rigid, found once for all copies of a scan."""
    from raylign.simulation.deformation import anchors_for
    from raylign.simulation.variation import VariationConfig

    deformation, own = typed(VariationConfig, json.loads(said), "variation").deformation, _read(ct, labels, names, id).labels
    if deformation is None or not any(fnmatchcase(n, p) for n in own.present().values() for p in deformation.rigid):
        return None
    return anchors_for(own, deformation)
