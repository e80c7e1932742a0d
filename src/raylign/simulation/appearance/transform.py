"""What a transform of labelled exposures is, and several of them in a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from raylign.errors import InputError
from raylign.simulation.appearance.draws import Draws, Generators
from raylign.simulation.datasets.typed import typed
from raylign.simulation.labelled import Labelled


@dataclass(frozen=True)
class Transform:
    """A random change of labelled exposures; each kind is a frozen dataclass whose fields are the ranges it draws from.

    A pair of numbers is a range (from, to). ``apply`` gives a new batch on the same device and changes none of its input.
    """

    registry: ClassVar[dict[str, type[Transform]]] = {}
    reshapes: ClassVar[bool] = False
    """Whether images come out in another shape, which all images of a batch must then share."""

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        Transform.registry[cls.__name__] = cls

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):
                object.__setattr__(self, f.name, value := tuple(value))
            numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, int | float)]
            if not all(math.isfinite(v) for v in numbers):
                raise InputError(f"{value} is not finite", field=f"{type(self).__name__}.{f.name}")
            if isinstance(value, tuple) and f.name != "shape" and len(numbers) == 2 and numbers[0] > numbers[1]:
                raise InputError(
                    f"{value[0]} to {value[1]} is no range", field=f"{type(self).__name__}.{f.name}", remedy="(from, to)"
                )

    def __call__(self, batch: Labelled, generators: Generators) -> Labelled:
        """Apply to a batch; randomness from one generator, or from one a sample, which then decides alone what it gets."""
        return self.apply(batch, Draws.of(generators, len(batch), batch.device))

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        """The changed batch; randomness from streams that are made already."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The kind and its fields, for JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"transform": type(self).__name__} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @staticmethod
    def from_dict(said: Mapping[str, Any], field: str = "transform") -> Transform:
        """What ``to_dict`` wrote.

        Raises
        ------
        InputError: an unknown kind or field, or a value out of range.
        """
        values = dict(said)
        name = values.pop("transform", None)
        kind = Transform.registry.get(str(name))
        if kind is None:
            raise InputError(f"no transform is called {name!r}", field=field, remedy=f"use one of {sorted(Transform.registry)}")
        known = {f.name for f in fields(kind)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"{name} has no {unknown[0]!r}", field=field, remedy=f"it has {', '.join(sorted(known))}")
        return typed(kind, values, field)

    def describe(self) -> str:
        """One line: the kind and its ranges."""
        values = (f"{f.name} {_words(getattr(self, f.name))}" for f in fields(self))
        return f"{type(self).__name__}({', '.join(values)})"


def _words(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 2:
        return f"{value[0]:g} to {value[1]:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Step:
    """A transform and the probability, from 0 to 1, with which a sample undergoes it.

    Raises
    ------
    InputError: a probability outside 0 to 1; a transform that changes the shape of some samples of a batch only.
    """

    transform: Transform
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise InputError(f"{self.probability} is no probability", field="probability", remedy="give 0 to 1")
        if self.transform.reshapes and self.probability < 1:
            raise InputError(
                f"{type(self.transform).__name__} changes the shape, of all samples or of none", remedy="give probability 1"
            )


@dataclass(frozen=True)
class Sequence:
    """Transforms one after the other, each with its probability, under a name."""

    name: str
    steps: tuple[Step, ...] = ()

    def __call__(self, batch: Labelled, generators: Generators) -> Labelled:
        """Apply the steps in order; each sample's own stream decides which of them it undergoes and how."""
        return self.apply(batch, Draws.of(generators, len(batch), batch.device))

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        """The same; randomness from streams that are made already."""
        for number, step in enumerate(self.steps):
            lane = draws.lane(number)  # a step takes as much as it likes without moving the next one
            chosen = lane.uniform() < step.probability
            if step.probability < 1:
                index = chosen.nonzero()[:, 0]
                if len(index):
                    batch = _merged(batch, index, step.transform, lane)
            else:
                batch = step.transform.apply(batch, lane)
        return batch

    def to_dict(self) -> dict[str, Any]:
        """Name and steps, for JSON."""
        return {"name": self.name, "steps": [{"probability": s.probability} | s.transform.to_dict() for s in self.steps]}

    @staticmethod
    def from_dict(said: Mapping[str, Any]) -> Sequence:
        """What ``to_dict`` wrote.

        Raises
        ------
        InputError: something else.
        """
        if unknown := sorted(set(said) - {"name", "steps"}):
            raise InputError(f"a sequence has no {unknown[0]!r}", field="appearance", remedy="it has name and steps")
        steps = []
        listed = said.get("steps", [])
        if not isinstance(listed, list | tuple):
            raise InputError(f"{listed!r} is no list", field="appearance.steps", remedy="- {transform: NAME, probability: 0.5}")
        for n, step in enumerate(listed):
            where = f"appearance.steps.{n}"
            if not isinstance(step, Mapping):
                raise InputError(f"{step!r} is no step", field=where, remedy="{transform: NAME, probability: 0.5}")
            rest = dict(step)
            chance = rest.pop("probability", 1.0)
            if isinstance(chance, bool) or not isinstance(chance, int | float):
                raise InputError(f"{chance!r} is no number", field=f"{where}.probability", remedy="give 0 to 1")
            steps.append(Step(probability=float(chance), transform=Transform.from_dict(rest, where)))
        return Sequence(str(said.get("name", "own")), tuple(steps))

    def describe(self) -> str:
        """One line a step."""
        lines = [f"{s.transform.describe()} with probability {s.probability:g}" for s in self.steps]
        return "\n".join([f"{self.name}:", *(f"  {line}" for line in lines or ["nothing"])])


def _merged(batch: Labelled, index: Int[Tensor, " n"], transform: Transform, draws: Draws) -> Labelled:
    """The batch with some samples transformed; what the transform leaves alone is not copied."""
    if len(index) == len(batch):
        return transform.apply(batch, draws)
    numbers = index.tolist()
    before = Labelled(
        batch.image[index], batch.valid[index], tuple(batch.views[i] for i in numbers),
        batch.poses[index.to(batch.poses.device)], batch.points[index.to(batch.points.device)], batch.segments[index],
    )  # fmt: skip
    after = transform.apply(before, draws.of_samples(index))
    changed: dict[str, Any] = {}
    for name in ("image", "valid", "points", "segments"):
        if (new := getattr(after, name)) is not getattr(before, name):
            old = getattr(batch, name)
            changed[name] = old.index_copy(0, index.to(old.device), new)
    if after.views is not before.views:
        views = list(batch.views)
        for i, view in zip(numbers, after.views, strict=True):
            views[i] = view
        changed["views"] = tuple(views)
    return replace(batch, **changed)


def per_image(values: Tensor, image: Tensor) -> Tensor:
    """[B] numbers as [B, 1, 1] beside an image, in its type."""
    return values.to(image.dtype)[:, None, None]


def extremes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of every image, [B, 1, 1]."""
    low, high = torch.aminmax(image.flatten(1), dim=1)
    return low[:, None, None], high[:, None, None]


def measured(batch: Labelled) -> tuple[Tensor, Tensor]:
    """The same of every image's valid pixels, which a collimator's shadow does not stretch; of all where none is valid."""
    counted = batch.valid | ~batch.valid.flatten(1).any(1)[:, None, None]
    low = batch.image.masked_fill(~counted, torch.inf).amin((1, 2), keepdim=True)
    return low, batch.image.masked_fill(~counted, -torch.inf).amax((1, 2), keepdim=True)
