"""What is trained, as typed YAML: a method, its settings, and presets that change some of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from raylign.errors import InputError
from raylign.io.plain_yaml import read_yaml
from raylign.simulation.datasets.typed import typed

METHODS = {
    "imitation-agent": ("raylign.methods.imitation_agent.training", "TrainingConfig", "AgentTraining"),
    "convex-similarity": ("raylign.methods.convex_similarity.training", "TrainingConfig", "SimilarityTraining"),
    "pose-regression": ("raylign.methods.pose_regression.training", "TrainingConfig", "RegressionTraining"),
}
"""Module, settings and training of each method that learns."""


@dataclass(frozen=True)
class TrainingRecipe:
    """The content of a recipe's file.

    Parameters
    ----------
    name: of what is trained.
    method: one of ``METHODS``.
    settings: of the method, for all presets.
    presets: by name, settings that take the place of those.
    seed: of everything.
    schema: 1.
    """

    name: str
    method: str
    presets: dict[str, dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    schema: int = 1

    def __post_init__(self) -> None:
        if self.schema != 1:
            raise InputError(f"schema {self.schema} is not known", field="schema", remedy="this version reads schema 1")
        if self.method not in METHODS:
            raise InputError(f"no method {self.method!r} is trained", field="method", remedy=f"use one of {', '.join(METHODS)}")
        if self.seed < 0:
            raise InputError(f"{self.seed} is negative", field="seed", remedy="give 0, 1, 2, ...")
        if not self.presets:
            raise InputError("is empty", field="presets", remedy="name at least one; it may be empty itself: small: {}")


@dataclass(frozen=True)
class Weights:
    """A file of weights that something is made from.

    Parameters
    ----------
    file: where it lies; that does not enter what is made.
    sha256: of its content.
    """

    file: Path
    sha256: str

    @classmethod
    def of(cls, file: str | Path) -> Weights:
        """A file as it is now.

        Raises
        ------
        InputError: there is none.
        """
        path = Path(file)
        try:
            return cls(path, hashlib.sha256(path.read_bytes()).hexdigest())
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", file=path, remedy="name an agent.safetensors") from None


@dataclass(frozen=True)
class Chosen:
    """A recipe in one of its presets.

    Parameters
    ----------
    name, method, preset, seed: see ``TrainingRecipe``.
    settings: the method's own record of settings.
    make: its training, of settings, seed, the folder of its data and a device.
    begin: weights that the training begins from; None for random ones.
    members: weights that are joined into an ensemble, in place of any training.
    """

    name: str
    method: str
    preset: str
    seed: int
    settings: Any
    make: Callable[..., Any]
    begin: Weights | None = None
    members: tuple[Weights, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Names and numbers, for JSON."""
        said = {"name": self.name, "method": self.method, "preset": self.preset, "seed": self.seed, **_plain(self.settings)}
        if self.begin is not None:
            said["begin"] = self.begin.sha256
        if self.members:
            said["members"] = [one.sha256 for one in self.members]
        return said

    def fingerprint(self) -> str:
        """What two trainings share if, and only if, they are the same."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def _plain(settings: Any) -> dict[str, Any]:
    """What is None at the top is left out: an option that came later and is not used changes nothing about a training."""
    said = json.loads(json.dumps(asdict(settings)))
    return {"settings": {name: value for name, value in said.items() if value is not None}}


def read_training(path: str | Path, preset: str, seed: int | None = None, begin: str | Path | None = None) -> Chosen:
    """Read and check a recipe for training; ``seed`` takes the place of its own, ``begin`` names weights to begin from.

    Raises
    ------
    InputError: no such file, no YAML, an unknown key, method or preset, a value of another type or out of range.
    """
    file = Path(path)
    values = read_yaml(file, "recipe for training", "name: and method:")
    recipe = typed(TrainingRecipe, values, "", file)
    if preset not in recipe.presets:
        raise InputError(
            f"there is no preset {preset!r}", field="--preset", file=file, remedy=f"use one of {', '.join(recipe.presets)}"
        )
    module, settings, training = METHODS[recipe.method]
    room = import_module(module)
    said = merged(recipe.settings, recipe.presets[preset])
    config = typed(getattr(room, settings), said, f"presets.{preset}", file)
    seed = recipe.seed if seed is None else seed
    if seed < 0:
        raise InputError(f"{seed} is negative", field="--seed", remedy="give 0, 1, 2, ...")
    weights = None if begin is None else Weights.of(begin)
    return Chosen(recipe.name, recipe.method, preset, seed, config, getattr(room, training), weights)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with what ``over`` says otherwise; mappings within mappings are merged the same way."""
    out = dict(base)
    for name, value in over.items():
        known = out.get(name)
        out[name] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return out
