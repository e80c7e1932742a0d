"""How regressors are trained: pairs as the convex similarity's, Adam at a rate that falls (Gao et al. 2024, section III.C)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import se3
from raylign.methods.geodesic import between, downhill
from raylign.methods.looks import Looks
from raylign.methods.pair_training import PairsConfig, PairTraining, directed
from raylign.methods.pairs import Pairs, left, left_open, mean_tre, nearer
from raylign.methods.pose_regression.cameras import Cameras
from raylign.methods.pose_regression.card import card
from raylign.methods.pose_regression.iterate import IterateConfig, iterate
from raylign.methods.pose_regression.model import Regressor, flow_off, gradient_off, matched
from raylign.methods.pose_regression.network import NetworkConfig, RegressionNetwork, Said, make_network
from raylign.methods.pose_regression.weights import METHOD, Learned


@dataclass(frozen=True)
class OptimiserConfig:
    """Steps on the weights: Adam.

    Parameters
    ----------
    rate: at first. fall: by which it is multiplied ...
    every: ... after so many iterations (the paper: 0.9 after 20 epochs of 50 iterations).
    momentum: Adam's beta1.
    warm_up: iterations over which the rate grows to its first value.

    Raises
    ------
    InputError: numbers out of range.
    """

    rate: float = 1e-4
    fall: float = 0.9
    every: int = 1000
    momentum: float = 0.8
    warm_up: int = 0

    def __post_init__(self) -> None:
        rates = 0 < self.rate < math.inf and 0 < self.fall <= 1 and 0 <= self.momentum < 1
        if not rates or self.every < 1 or self.warm_up < 0:
            raise InputError("a rate, its fall or the momentum is out of range", field="optimiser")

    def at(self, iteration: int) -> float:
        """The rate of an iteration."""
        share = min(1.0, (iteration + 1) / self.warm_up) if self.warm_up else 1.0
        return float(self.rate * self.fall ** (iteration // self.every) * share)


@dataclass(frozen=True)
class TrainingConfig(PairsConfig):
    """Everything about a training but its name, its seed and where its files lie.

    Parameters
    ----------
    network, optimiser, iterate: see there; for the others ``PairsConfig``.
    flow: weight of the optical flow beside DeepIM's point matching (which is in units of the cube: 100 mm).
    rounds: predictions of a minibatch, each from the pose to which the one before led. Gao et al. state one; DeepIM's own
        training has four.

    Raises
    ------
    InputError: numbers out of range.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    iterate: IterateConfig = field(default_factory=IterateConfig)
    flow: float = 0.25
    rounds: int = 1
    batch: int = 16
    iterations: int = 7500

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.flow < math.inf or self.rounds < 1:
            raise InputError("the weight of flow is not negative, rounds are at least one", field="settings")


class RegressionTraining(PairTraining):
    """A regressor's training; see ``PairTraining``."""

    method = METHOD
    weights = "regressor.safetensors"
    columns = ("motion_loss", "cosine", "near_tre_start", "near_tre_median", "tre_start", "tre_median", "under_20")
    network: RegressionNetwork

    def __init__(self, config: TrainingConfig, seed: int, folder: str | Path, device: str | torch.device = "cpu") -> None:
        self.config = config
        super().__init__(config, seed, folder, device)
        self.regressor = Regressor(self.network, config.cube)

    def made(self, seed: int) -> tuple[RegressionNetwork, torch.optim.Optimizer]:
        network = make_network(self.config.network, self.config.cube.pixels, seed).to(self.device)
        o = self.config.optimiser
        return network, torch.optim.Adam(network.parameters(), lr=o.rate, betas=(o.momentum, 0.999))

    def rate(self, iteration: int) -> float:
        return self.config.optimiser.at(iteration)

    def loss(self, batch: Pairs) -> Tensor:
        """How far what the network says leads astray; differentiable by the weights.

        With several rounds the mean over them; where a round begins is not differentiated.
        """
        voxels, looks, poses = batch.cube.to(self.device), self.looks(batch), batch.moving
        losses = []
        for _ in range(self.config.rounds):
            said = self.regressor.said(voxels, looks, poses)
            losses.append(self._loss(batch, looks, poses, said))
            poses = self.regressor.led(poses, said, looks).detach()
        return torch.stack(losses).mean()

    def _loss(self, batch: Pairs, looks: Looks, poses: Tensor, said: Said) -> Tensor:
        cube = self.config.cube
        cameras = Cameras.of(looks.vectors.to(poses), cube.pixels)
        if self.config.network.kind == "dmw":
            return gradient_off(poses, said, batch.truth, cameras, cube.unit_mm).mean()
        loss = matched(self.regressor.led(poses, said, looks), batch.truth, batch.points, cameras).mean() / cube.unit_mm
        if not said.flows or self.config.flow == 0:
            return loss
        at = [cameras.projected(se3.transform(pose, batch.points)) for pose in (poses, batch.truth)]
        flows = torch.stack([flow_off(flow, at[0], at[1], cube.pixels) for flow in said.flows])
        return loss + self.config.flow * flows.mean().to(loss)

    def learned(self) -> Learned:
        return Learned(self.network, self.config.cube, self.config.iterate, {})

    def figures(self, part: str, cases: int, seed: int) -> dict[str, float]:
        """Iterations from the law of starts, and from moving poses (``near_``); the first motion at moving poses.

        ``motion_loss`` and ``cosine`` compare that with the one that leads to the truth; TRE is the mean over the model's points,
        mm; ``arrived`` is the share, from the law of starts, whose last motion was below the threshold.
        """
        unit = self.config.cube.unit_mm
        losses, cosines, arrived, open_ = ([] for _ in range(4))
        ends: dict[str, list[Tensor]] = {name: [] for name in ("near", "near_before", "begun", "begun_before")}
        self.network.eval()
        for held in self.held(part, cases, seed):
            voxels, points = held.patient.cube.to(self.device), held.patient.points
            looks = self.looks(held.begun)
            with torch.no_grad():
                said = self.regressor.motion(voxels, looks, held.near.moving)
            wanted = downhill(held.near.moving, held.near.truth, unit)
            losses.append(between(said, wanted))
            cosines.append(directed(said, wanted))
            for name, pairs in (("near", held.near), ("begun", held.begun)):
                found = iterate(self.regressor, voxels, looks, pairs.moving, self.config.iterate)
                ends[name].append(mean_tre(found.poses, pairs.truth, points))
                ends[f"{name}_before"].append(mean_tre(pairs.moving, pairs.truth, points))
            # of the last pairs: from the law of starts
            open_.append(left(found.poses, held.begun))
            arrived.append(found.lengths < self.config.iterate.least)
        tre = {name: torch.cat(values) for name, values in ends.items()}
        near = nearer(tre["near_before"], tre["near"])
        return {
            "motion_loss": float(torch.cat(losses).mean()),
            "cosine": float(torch.cat(cosines).mean()),
            "arrived": float(torch.cat(arrived).double().mean()),
            **nearer(tre["begun_before"], tre["begun"]),
            **left_open(torch.cat(open_)),
            **{f"near_{name}": value for name, value in near.items() if name != "cases"},
        }

    def said(self, test: Mapping[str, float]) -> str:
        """Figures of test patients in words."""
        return (
            f"{test['cases']:.0f} registrations of test patients: mean TRE from {test['tre_start']:.0f} to"
            f" {test['tre_median']:.0f} mm (medians), {100 * test['under_10']:.0f} % under 10 mm,"
            f" {100 * test['under_20']:.0f} % under 20 mm; from moving poses {test['near_tre_start']:.0f} to"
            f" {test['near_tre_median']:.1f} mm, {100 * test['near_under_10']:.0f} % and {100 * test['near_under_20']:.0f} %;"
            f" cosine of first motion and direction {test['cosine']:.2f}"
        )

    def card(self, about: dict[str, Any], digest: str) -> str:
        """The model card."""
        return card(about, digest)
