"""How the similarity is trained: by the gradient of its gradient (Gao et al. 2024, equation 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from raylign.methods.geodesic import between, downhill, squared
from raylign.methods.pair_training import PairsConfig, PairTraining, directed
from raylign.methods.pairs import Pairs, left, left_open, mean_tre, nearer


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
class TrainingConfig(PairsConfig):
    """Everything about a training but its name, its seed and where its files lie.

    Parameters
    ----------
    network, optimiser, descent: see there; for the others ``PairsConfig``.
    loss: gradient (equation 5), or value: the mean squared error of the similarity itself (the paper's ablation "MSE loss").
    distance: how two gradients are compared: geodesic (the paper), or euclidean.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    descent: DescentConfig = field(default_factory=DescentConfig)
    loss: Literal["gradient", "value"] = "gradient"
    distance: Literal["geodesic", "euclidean"] = "geodesic"


class SimilarityTraining(PairTraining):
    """The similarity's training; see ``PairTraining``."""

    method = METHOD
    weights = "similarity.safetensors"
    columns = ("gradient_loss", "cosine", "correlation", "tre_start", "tre_median", "under_20")
    network: SimilarityNetwork

    def __init__(self, config: TrainingConfig, seed: int, folder: str | Path, device: str | torch.device = "cpu") -> None:
        self.config = config
        super().__init__(config, seed, folder, device)
        self.similarity = Similarity(self.network, config.cube)

    def made(self, seed: int) -> tuple[SimilarityNetwork, torch.optim.Optimizer]:
        network = make_network(self.config.network, self.config.cube.pixels, seed).to(self.device)
        o, weights = self.config.optimiser, network.parameters()
        if o.kind == "sgd":
            return network, torch.optim.SGD(weights, lr=o.rate, momentum=o.momentum)
        return network, torch.optim.Adam(weights, lr=o.rate)

    def rate(self, iteration: int) -> float:
        return self.config.optimiser.at(iteration, self.config.iterations)

    def loss(self, batch: Pairs) -> Tensor:
        """How far the similarity's gradient by the pose is from the distance's; differentiable by the weights."""
        channels = self.network.expanded(batch.cube.to(self.device))
        looks = self.looks(batch)
        unit = self.config.cube.unit_mm
        if self.config.loss == "value":
            values = self.similarity.of(channels, looks, batch.moving)
            return torch.nn.functional.mse_loss(values, squared(batch.moving, batch.truth, unit).to(values) / 2)
        _, slopes = self.similarity.gradient(channels, looks, batch.moving, twice=True)
        wanted = -downhill(batch.moving, batch.truth, unit).to(slopes)
        if self.config.distance == "euclidean":
            return ((slopes - wanted) ** 2).sum(-1).mean()
        return between(slopes, wanted).mean()

    def learned(self) -> Learned:
        return Learned(self.network, self.config.cube, self.config.descent, {})

    def figures(self, part: str, cases: int, seed: int) -> dict[str, float]:
        """Descents from the law of starts, and how gradient and value of the similarity follow the distance there.

        ``gradient_loss`` and ``cosine`` compare gradients at moving poses; ``correlation`` is that of the similarity with the
        square root of the squared distance over starts and moving poses; TRE is the mean over the model's points, mm.
        """
        unit = self.config.cube.unit_mm
        before, after, ends, losses, cosines = ([] for _ in range(5))
        values, distances = [], []
        self.network.eval()
        for held in self.held(part, cases, seed):
            near, begun, points = held.near, held.begun, held.patient.points
            with torch.no_grad():
                channels = self.network.expanded(held.patient.cube.to(self.device))
            looks = self.looks(begun)
            for pairs in (near, begun):
                seen, slopes = self.similarity.gradient(channels, looks, pairs.moving)
                wanted = -downhill(pairs.moving, pairs.truth, unit)
                values.append(seen.cpu())
                distances.append(squared(pairs.moving, pairs.truth, unit).sqrt())
                if pairs is near:
                    losses.append(between(slopes.cpu(), wanted))
                    cosines.append(directed(slopes.cpu(), wanted))
            found = descend(self.similarity, channels, looks, begun.moving, self.config.descent)
            before.append(mean_tre(begun.moving, begun.truth, points))
            after.append(mean_tre(found.poses, begun.truth, points))
            ends.append(left(found.poses, begun))
        together = torch.stack([torch.cat(values).double(), torch.cat(distances)])
        return {
            "gradient_loss": float(torch.cat(losses).mean()),
            "cosine": float(torch.cat(cosines).mean()),
            "correlation": float(torch.corrcoef(together)[0, 1]),
            **nearer(torch.cat(before), torch.cat(after)),
            **left_open(torch.cat(ends)),
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
