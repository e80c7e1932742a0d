"""Probability that a mesh was found in the right place, from the evidence that the direct method gathers.

A mesh explains less of a picture than a CT does: other bones cross it, and its inside is a guess. What is usual for a CT would
be poor, and the weights are others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raylign.registration.confidence import Evidence

INTERCEPT = -2.0
WEIGHTS = {"agreement": 8.0, "rival": -2.0, "drift": -6.0, "held": 2.0}


def features(e: Evidence) -> dict[str, float]:
    """What the logistic function sees; each stops at what a good registration reaches."""
    return {
        "agreement": min(max(e.agreement, 0.0), 0.7),
        "rival": max(e.rival, 0.6),
        "drift": min(e.drift, 0.2),
        "held": float(e.held),
    }


def valley(evidence: Evidence) -> float:
    """Probability that the pose lies in the right valley of the cost."""
    z = INTERCEPT + sum(WEIGHTS[name] * value for name, value in features(evidence).items())
    return 1 / (1 + math.exp(-min(max(z, -30.0), 30.0)))
