"""Weights of the probability of success, as ``python benchmarks/confidence.py --fit FILE --write`` leaves them."""

from __future__ import annotations

INTERCEPT = 12.09
WEIGHTS = {
    "agreement": 0.80,
    "rival": -2.88,
    "mirror": -10.30,
    "drift": -2.14,
    "held": 2.14,
}
