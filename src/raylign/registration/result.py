"""What a registration gives back, and the schema it is stored in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.geometry import Rigid, se3
from raylign.registration.ambiguity import Ambiguity

SCHEMA = "raylign.result/1"


@dataclass(frozen=True, eq=False)
class Step:
    """One accepted iterate: pyramid level (0 is the finest), its cost (comparable within a level only) and the pose."""

    level: int
    iteration: int
    cost: float
    matrix: Float[Tensor, "4 4"]


@dataclass(frozen=True, eq=False)
class Confidence:
    """How far the pose is to be trusted.

    Parameters
    ----------
    probability: that the pose is right to within what the method claims, 0 to 1.
    trusted: whether the probability reaches the threshold that the registration was asked to apply.
    reasons: plain sentences, worst first, on what lowers it; empty where nothing does.
    evidence: the numbers that the probability was computed from.
    """

    probability: float
    trusted: bool
    reasons: tuple[str, ...] = ()
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Result:
    """The outcome of one registration.

    Parameters
    ----------
    transform: ``T_world_from_volume``, patient LPS mm of the model to world mm.
    start: where the registration began.
    covariance: 6x6 of the twist ``x`` (rotation in radians, then translation in mm, world axes) in
        ``T = translate(centre) exp(x) translate(-centre) T_estimate``: turning about the model's centre, not the world origin.
    centre: the model's centre in world mm, about which the covariance turns.
    score: the similarity that was maximised, 1 for a perfect match; of an agent the share of its walks that agree.
    confidence: probability and reasons.
    trajectory: accepted iterates, first to last.
    timings: seconds by stage.
    method, seed, versions, settings: what is needed to run it again.
    renders: poses at which the model was rendered; 0 where nobody counted.
    ambiguity: other poses that are as right as this one, of a model with symmetries; None where nobody looked.
    """

    transform: Rigid
    start: Rigid
    covariance: Float[Tensor, "6 6"]
    centre: Float[Tensor, "3"]
    score: float
    confidence: Confidence
    trajectory: tuple[Step, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    method: str = "direct"
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    renders: int = 0
    ambiguity: Ambiguity | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the registration itself (no reading, no reporting)."""
        return float(sum(self.timings.values()))

    @property
    def standard_deviations(self) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
        """One standard deviation of rotation (degrees) and translation (mm) along the world axes, about the model's centre."""
        sd = self.covariance.diagonal().clamp_min(0).sqrt()
        return torch.rad2deg(sd[:3]), sd[3:]

    @property
    def moved(self) -> tuple[float, float]:
        """How far the registration went from its start: degrees, and mm of the model's centre."""
        a, b = self.start.matrix, self.transform.matrix
        angle = float(torch.rad2deg(se3.log_rotation(a[:3, :3].T @ b[:3, :3]).norm()))
        model_centre = self.transform.inverse().apply(self.centre[None])
        return angle, float((self.start.apply(model_centre) - self.centre).norm())

    def to_dict(self) -> dict[str, Any]:
        """The content of ``result.json``: plain numbers, lists and strings."""
        rotation, translation = self.standard_deviations
        degrees, mm = self.moved
        return {
            "schema": SCHEMA,
            "method": self.method,
            "pose": {
                "matrix": self.transform.matrix.tolist(),
                "meaning": "T_world_from_volume: p_world = matrix @ p_volume; patient LPS mm to world mm (isocentre)",
                "twist": se3.log(self.transform.matrix).tolist(),
            },
            "start": {"matrix": self.start.matrix.tolist()},
            "moved": {"degrees": degrees, "mm": mm},
            "confidence": {
                "probability": self.confidence.probability,
                "trusted": self.confidence.trusted,
                "reasons": list(self.confidence.reasons),
                "evidence": dict(self.confidence.evidence),
            },
            "uncertainty": {
                "covariance": self.covariance.tolist(),
                "meaning": "twist (rotation rad, translation mm), world axes, about centre",
                "centre": self.centre.tolist(),
                "rotation_sd_degrees": rotation.tolist(),
                "translation_sd_mm": translation.tolist(),
            },
            **({} if self.ambiguity is None else {"ambiguity": self.ambiguity.to_dict()}),
            "score": self.score,
            "seconds": self.seconds,
            "timings": dict(self.timings),
            "renders": self.renders,
            "trajectory": [
                {"level": s.level, "iteration": s.iteration, "cost": s.cost, "matrix": s.matrix.tolist()} for s in self.trajectory
            ],
            "seed": self.seed,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }
