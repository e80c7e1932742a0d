"""Weights of the probability of success, as ``python benchmarks/confidence.py --fit FILE --write`` leaves them."""

from __future__ import annotations

INTERCEPT = 11.38
WEIGHTS = {
    "agreement": 0.12,
    "weakest": 0.00,
    "opposed": 0.00,
    "contrast": 0.00,
    "explained": 0.00,
    "rival": -2.60,
    "mirror": -9.72,
    "wobble": -0.22,
    "depth": -1.04,
    "drift": -1.45,
    "held": 2.00,
}
