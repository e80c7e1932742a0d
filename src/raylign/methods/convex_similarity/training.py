"""How the similarity is trained: by the gradient of its gradient (Gao et al. 2024, equation 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.convex_similarity.card import card
from raylign.methods.convex_similarity.descent import DescentConfig, descend
from raylign.methods.convex_similarity.model import Similarity
from raylign.methods.convex_similarity.network import NetworkConfig, SimilarityNetwork, make_network
from raylign.methods.convex_similarity.weights import METHOD, Learned
from raylign.methods.cubes import CubeConfig
from raylign.methods.geodesic import between, downhill, squared
from raylign.methods.looks import Looks
from raylign.methods.pairs import Laws, Pairs, drawn, make_pairs, mean_tre
from raylign.methods.patients import SIDE, Patient, Pool, PoolConfig
from raylign.simulation.appearance import appearance
from raylign.simulation.poses import starts
from raylign.simulation.seeds import generator

Tell = Callable[[str, float], None]

_PAIRS, _VALIDATION, _TEST, _WEIGHTS = range(3, 7)  # places in the tree of seeds


@dataclass(frozen=True)
class OptimiserConfig:
    """Steps on the weights.

    Parameters
    ----------
    kind: sgd with a rate that goes up and down (the paper), or adam with one that falls along a cosine.
    rate: the largest. least: the smallest.
    cycle: iterations up, and as many down, of sgd.
    momentum: of sgd.
    warm_up: iterations over which adam's rate grows.
    """

    kind: Literal["sgd", "adam"] = "sgd"
    rate: float = 1e-3
    least: float = 1e-5
    cycle: int = 100
    momentum: float = 0.9
    warm_up: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.rate < math.inf or not 0 <= self.momentum < 1 or self.cycle < 1 or self.warm_up < 0:
            raise InputError("a rate, cycle or momentum is out of range", field="optimiser")

    def at(self, iteration: int, iterations: int) -> float:
        """The rate of an iteration."""
        if self.kind == "sgd":
            place = iteration % (2 * self.cycle) / self.cycle
            share = place if place <= 1 else 2 - place
        else:
            share = (1 + math.cos(math.pi * iteration / iterations)) / 2
            share *= min(1.0, (iteration + 1) / self.warm_up) if self.warm_up else 1.0
        return self.least + (self.rate - self.least) * share


@dataclass(frozen=True)
class TrainingConfig:
    """Everything about a training but its name, its seed and where its files lie.

    Parameters
    ----------
    data, network, cube, optimiser, descent: see there.
    loss: gradient (equation 5), or value: the mean squared error of the similarity itself (the paper's ablation "MSE loss").
    distance: how two gradients are compared: geodesic (the paper), or euclidean.
    appearance: domain randomisation, plain for none.
    moving: law of the moving poses (``simulation.poses``). start: of the starts of registrations.
    far: share of the moving poses that are drawn from the starts' law. The paper has none: at many of its starts the model shows
        at the image's border or not at all, and its moving poses hardly ever.
    batch: pairs of one patient in a minibatch.
    iterations: minibatches in all.
    validation_cases, validate_every: registrations by which progress is measured, and how often.
    """

    data: PoolConfig = field(default_factory=PoolConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    cube: CubeConfig = field(default_factory=CubeConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    descent: DescentConfig = field(default_factory=DescentConfig)
    loss: Literal["gradient", "value"] = "gradient"
    distance: Literal["geodesic", "euclidean"] = "geodesic"
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


class SimilarityTraining:
    """The similarity's training as ``training.loop`` runs it; minibatch n is a function of the seed and n.

    Parameters
    ----------
    config, seed: what and from which random numbers.
    folder: of the pool.
    device: on which it learns.
    """

    method = METHOD
    weights = "similarity.safetensors"
    columns = ("gradient_loss", "cosine", "correlation", "tre_start", "tre_median", "under_20")

    def __init__(self, config: TrainingConfig, seed: int, folder: str | Path, device: str | torch.device = "cpu") -> None:
        self.config, self.seed, self.device = config, seed, torch.device(device)
        # what is wrong with a recipe is said before its patients are made
        for name in (config.moving, config.start):
            starts(name)
        appearance(config.appearance)
        weights = int(torch.randint(2**62, (), generator=generator(seed, _WEIGHTS)))
        self.network: SimilarityNetwork = make_network(config.network, config.cube.pixels, weights).to(self.device)
        if SIDE % config.cube.pixels:
            raise InputError(f"{config.cube.pixels} does not divide {SIDE}", field="cube.pixels", remedy="use 128, 64 or 32")
        self.pool = Pool(folder, config.data, config.cube)
        self.similarity = Similarity(self.network, config.cube)
        o, weights_of = config.optimiser, self.network.parameters()
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.SGD(weights_of, lr=o.rate, momentum=o.momentum)
            if o.kind == "sgd"
            else torch.optim.Adam(weights_of, lr=o.rate)
        )
        self._patients: dict[str, list[Patient]] = {}

    @property
    def iterations(self) -> int:
        return self.config.iterations

    @property
    def validate_every(self) -> int:
        return self.config.validate_every

    def prepare(self, workers: int, tell: Tell | None = None) -> None:
        """Make the patients that are missing; see ``Pool.make``."""
        self.pool.make(("train", "validation", "test"), workers, tell)

    def rate(self, iteration: int) -> float:
        return self.config.optimiser.at(iteration, self.config.iterations)

    def batch(self, iteration: int) -> Pairs:
        """Pairs of one patient: exposures under domain randomisation, moving poses."""
        stream = generator(self.seed, _PAIRS, iteration)
        patients = self.patients("train")
        patient = patients[int(torch.randint(len(patients), (), generator=stream))]
        which = torch.randint(len(patient.images), (self.config.batch,), generator=stream)
        near = make_pairs(patient, which, self._laws(self.config.moving, self.config.appearance), stream)
        if self.config.far == 0:
            return near
        chosen = torch.rand(len(which), generator=stream) < self.config.far
        seeds = torch.randint(2**62, (len(which),), generator=stream).tolist()
        others = drawn(self.config.start, near.truth, tuple(patient.views[int(k)] for k in which), seeds)
        return replace(near, moving=torch.where(chosen[:, None, None], others, near.moving))

    def _laws(self, poses: str, looks: str = "plain") -> Laws:
        return Laws(poses, looks, self.config.cube.pixels)

    def loss(self, batch: Pairs) -> Tensor:
        """How far the similarity's gradient by the pose is from the distance's; differentiable by the weights."""
        channels = self.network.expanded(batch.cube.to(self.device))
        looks = Looks(batch.looks.images.to(self.device), batch.looks.vectors)
        unit = self.config.cube.unit_mm
        if self.config.loss == "value":
            values = self.similarity.of(channels, looks, batch.moving)
            return torch.nn.functional.mse_loss(values, squared(batch.moving, batch.truth, unit).to(values) / 2)
        _, slopes = self.similarity.gradient(channels, looks, batch.moving, twice=True)
        wanted = -downhill(batch.moving, batch.truth, unit).to(slopes)
        if self.config.distance == "euclidean":
            return ((slopes - wanted) ** 2).sum(-1).mean()
        return between(slopes, wanted).mean()

    def patients(self, part: str) -> list[Patient]:
        """Those of a part, read when first asked for."""
        if part not in self._patients:
            self._patients[part] = self.pool.read(part)
        return self._patients[part]

    def validate(self) -> dict[str, float]:
        """Figures of registrations of validation patients; the same ones every time."""
        return self.figures("validation", self.config.validation_cases, _VALIDATION)

    def finish(self, tell: Tell | None = None) -> tuple[Any, dict[str, Any]]:
        """The trained similarity, and its figures on validation and test patients."""
        made = {}
        for n, (part, seed) in enumerate((("validation", _VALIDATION), ("test", _TEST))):
            if tell is not None:
                tell(f"registering {part} patients", n / 2)
            every = len(self.config.data.seeds(part)) * self.config.data.exposures[part]
            made[part] = self.figures(part, every, seed)
        return Learned(self.network.eval(), self.config.cube, self.config.descent, {}), made

    def figures(self, part: str, cases: int, seed: int) -> dict[str, float]:
        """Descents from the law of starts, and how gradient and value of the similarity follow the distance there.

        ``gradient_loss`` and ``cosine`` compare gradients at moving poses; ``correlation`` is that of the similarity with the
        square root of the squared distance over starts and moving poses; TRE is the mean over the model's points, mm.
        """
        patients, unit = self.patients(part), self.config.cube.unit_mm
        before, after, losses, cosines = ([] for _ in range(4))
        values, distances = [], []
        self.network.eval()
        for number, patient in enumerate(patients):
            share = range(cases * number // len(patients), cases * (number + 1) // len(patients))
            if not len(share):
                continue
            stream = generator(self.seed, seed, number)
            which = torch.arange(len(share)) % len(patient.images)
            begun = make_pairs(patient, which, self._laws(self.config.start), stream)
            near = make_pairs(patient, which, self._laws(self.config.moving), stream)
            with torch.no_grad():
                channels = self.network.expanded(patient.cube.to(self.device))
            looks = Looks(begun.looks.images.to(self.device), begun.looks.vectors)
            for pairs in (near, begun):
                seen, slopes = self.similarity.gradient(channels, looks, pairs.moving)
                wanted = -downhill(pairs.moving, pairs.truth, unit)
                values.append(seen.cpu())
                distances.append(squared(pairs.moving, pairs.truth, unit).sqrt())
                if pairs is near:
                    losses.append(between(slopes.cpu(), wanted))
                    cosines.append(torch.nn.functional.cosine_similarity(slopes.cpu(), wanted, dim=-1))
            found = descend(self.similarity, channels, looks, begun.moving, self.config.descent)
            before.append(mean_tre(begun.moving, begun.truth, patient.points))
            after.append(mean_tre(found.poses, begun.truth, patient.points))
        first, last = torch.cat(before), torch.cat(after)
        together = torch.stack([torch.cat(values).double(), torch.cat(distances)])
        return {
            "cases": float(len(last)),
            "gradient_loss": float(torch.cat(losses).mean()),
            "cosine": float(torch.cat(cosines).mean()),
            "correlation": float(torch.corrcoef(together)[0, 1]),
            "tre_start": float(first.median()),
            "tre_median": float(last.median()),
            "tre_p25": float(last.quantile(0.25)),
            "tre_p75": float(last.quantile(0.75)),
            "under_10": float((last < 10).double().mean()),
            "under_20": float((last < 20).double().mean()),
            "nearer": float((last < first).double().mean()),
        }

    def said(self, test: Mapping[str, float]) -> str:
        """Figures of test patients in words."""
        return (
            f"{test['cases']:.0f} descents for test patients: mean TRE from {test['tre_start']:.0f} to"
            f" {test['tre_median']:.0f} mm (medians), {100 * test['under_20']:.0f} % under 20 mm;"
            f" cosine of gradient and direction {test['cosine']:.2f},"
            f" correlation of similarity and distance {test['correlation']:.2f}"
        )

    def card(self, about: dict[str, Any], digest: str) -> str:
        """The model card."""
        return card(about, digest)
