"""Weights of the probability of success, as ``python benchmarks/confidence.py --fit FILE --write`` leaves them."""

from __future__ import annotations

INTERCEPT = 13.35
WEIGHTS = {
    "agreement": 0.78,
    "rival": -3.45,
    "mirror": -10.77,
    "drift": -2.74,
    "held": 2.72,
}
