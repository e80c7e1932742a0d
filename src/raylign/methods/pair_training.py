"""Training on exposures of made patients beside poses to compare them with: what methods that learn from pairs share.

Data, minibatches, figures of held-out patients; a method brings its network, its loss and how it registers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raylign.errors import InputError
from raylign.methods.cubes import CubeConfig
from raylign.methods.looks import Looks
from raylign.methods.pairs import Laws, Pairs, drawn, make_pairs
from raylign.methods.patients import SIDE, Patient, Pool, PoolConfig
from raylign.simulation.appearance import appearance
from raylign.simulation.poses import starts
from raylign.simulation.seeds import generator

Tell = Callable[[str, float], None]

_PAIRS, VALIDATION, TEST, _WEIGHTS = range(3, 7)  # places in the tree of seeds


@dataclass(frozen=True)
class PairsConfig:
    """What trainings on pairs have in common.

    Parameters
    ----------
    data, cube: see there.
    appearance: domain randomisation, plain for none.
    moving: law of the moving poses (``simulation.poses``). start: of the starts of registrations.
    far: share of the moving poses that are drawn from the starts' law. The paper has none: at many of its starts the model shows
        at the image's border or not at all, and its moving poses hardly ever.
    batch: pairs of one patient in a minibatch.
    iterations: minibatches in all.
    validation_cases, validate_every: registrations by which progress is measured, and how often.

    Raises
    ------
    InputError: numbers out of range.
    """

    data: PoolConfig = field(default_factory=PoolConfig)
    cube: CubeConfig = field(default_factory=CubeConfig)
    appearance: str = "gao2024"
    moving: str = "gao2024/moving"
    start: str = "gao2024/test"
    far: float = 0.0
    batch: int = 4
    iterations: int = 15_000
    validation_cases: int = 16
    validate_every: int = 1000

    def __post_init__(self) -> None:
        if min(self.batch, self.iterations, self.validation_cases, self.validate_every) < 1:
            raise InputError("numbers of pairs, iterations and cases are too small", field="settings")
        if not 0 <= self.far <= 1:
            raise InputError(f"{self.far:g} is no share", field="far", remedy="give a number from 0 to 1")


@dataclass(frozen=True, eq=False)
class Held:
    """Cases of one held-out patient, without domain randomisation.

    Parameters
    ----------
    patient: who.
    begun: exposures, and starts of registrations.
    near: the same exposures, and moving poses as in training.
    """

    patient: Patient
    begun: Pairs
    near: Pairs


class PairTraining(ABC):
    """A training as ``training.loop`` runs it; minibatch n is a function of the seed and n.

    Parameters
    ----------
    config, seed: what and from which random numbers.
    folder: of the pool.
    device: on which it learns.

    Raises
    ------
    InputError: laws or sizes that there are not, a folder of other data.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer

    def __init__(self, config: PairsConfig, seed: int, folder: str | Path, device: str | torch.device = "cpu") -> None:
        self.pairs, self.seed, self.device = config, seed, torch.device(device)
        # what is wrong with a recipe is said before its patients are made
        for name in (config.moving, config.start):
            starts(name)
        appearance(config.appearance)
        if SIDE % config.cube.pixels:
            raise InputError(f"{config.cube.pixels} does not divide {SIDE}", field="cube.pixels", remedy="use 128, 64 or 32")
        weights = int(torch.randint(2**62, (), generator=generator(seed, _WEIGHTS)))
        self.network, self.optimiser = self.made(weights)
        self.pool = Pool(folder, config.data, config.cube)
        self._patients: dict[str, list[Patient]] = {}

    @abstractmethod
    def made(self, seed: int) -> tuple[Any, torch.optim.Optimizer]:
        """The network, its weights by a seed, on the device, and what changes them."""

    @abstractmethod
    def figures(self, part: str, cases: int, seed: int) -> dict[str, float]:
        """Figures of so many registrations of a part's patients; the same ones by the same seed."""

    @abstractmethod
    def learned(self) -> Any:
        """The network as it stands, with what it takes to use it."""

    @property
    def iterations(self) -> int:
        return self.pairs.iterations

    @property
    def validate_every(self) -> int:
        return self.pairs.validate_every

    def prepare(self, workers: int, tell: Tell | None = None) -> None:
        """Make the patients that are missing; see ``Pool.make``."""
        self.pool.make(("train", "validation", "test"), workers, tell)

    def batch(self, iteration: int) -> Pairs:
        """Pairs of one patient: exposures under domain randomisation, moving poses."""
        stream = generator(self.seed, _PAIRS, iteration)
        patients = self.patients("train")
        patient = patients[int(torch.randint(len(patients), (), generator=stream))]
        which = torch.randint(len(patient.images), (self.pairs.batch,), generator=stream)
        near = make_pairs(patient, which, self._laws(self.pairs.moving, self.pairs.appearance), stream)
        if self.pairs.far == 0:
            return near
        chosen = torch.rand(len(which), generator=stream) < self.pairs.far
        seeds = torch.randint(2**62, (len(which),), generator=stream).tolist()
        others = drawn(self.pairs.start, near.truth, tuple(patient.views[int(k)] for k in which), seeds)
        return replace(near, moving=torch.where(chosen[:, None, None], others, near.moving))

    def _laws(self, poses: str, looks: str = "plain") -> Laws:
        return Laws(poses, looks, self.pairs.cube.pixels)

    def looks(self, pairs: Pairs) -> Looks:
        """The exposures of pairs, on the device."""
        return Looks(pairs.looks.images.to(self.device), pairs.looks.vectors)

    def patients(self, part: str) -> list[Patient]:
        """Those of a part, read when first asked for."""
        if part not in self._patients:
            self._patients[part] = self.pool.read(part)
        return self._patients[part]

    def validate(self) -> dict[str, float]:
        """Figures of registrations of validation patients; the same ones every time."""
        return self.figures("validation", self.pairs.validation_cases, VALIDATION)

    def finish(self, tell: Tell | None = None) -> tuple[Any, dict[str, Any]]:
        """What was trained, and its figures on validation and test patients."""
        made = {}
        for n, (part, seed) in enumerate((("validation", VALIDATION), ("test", TEST))):
            if tell is not None:
                tell(f"registering {part} patients", n / 2)
            every = len(self.pairs.data.seeds(part)) * self.pairs.data.exposures[part]
            made[part] = self.figures(part, every, seed)
        self.network.eval()
        return self.learned(), made

    def held(self, part: str, cases: int, seed: int) -> Iterator[Held]:
        """So many cases of a part, shared out among its patients; the same ones by the same seed."""
        patients = self.patients(part)
        for number, patient in enumerate(patients):
            share = range(cases * number // len(patients), cases * (number + 1) // len(patients))
            if not len(share):
                continue
            stream = generator(self.seed, seed, number)
            which = torch.arange(len(share)) % len(patient.images)
            begun = make_pairs(patient, which, self._laws(self.pairs.start), stream)
            near = make_pairs(patient, which, self._laws(self.pairs.moving), stream)
            yield Held(patient, begun, near)


def directed(found: Tensor, wanted: Tensor) -> Tensor:
    """[B] cosines of motions [B, 6] with those that would lead to the truth."""
    return torch.nn.functional.cosine_similarity(found, wanted, dim=-1)
