"""Weights of the probability of success, as ``python benchmarks/confidence.py --fit FILE --write`` leaves them."""

from __future__ import annotations

INTERCEPT = 8.84
WEIGHTS = {
    "agreement": 0.38,
    "rival": -3.00,
    "mirror": -9.56,
    "drift": -2.66,
    "held": 5.88,
}
