"""Weights of the probability of success, as ``python benchmarks/confidence.py --fit FILE --write`` leaves them."""

from __future__ import annotations

INTERCEPT = 9.45
WEIGHTS = {
    "agreement": 0.38,
    "rival": -2.89,
    "mirror": -10.68,
    "drift": -3.00,
    "held": 6.77,
}
