"""Weights of the probability of success, as ``python benchmarks/confidence.py --fit FILE --write`` leaves them."""

from __future__ import annotations

INTERCEPT = 12.71
WEIGHTS = {
    "agreement": 8.88,
    "weakest": 2.56,
    "opposed": 0.00,
    "contrast": -2.11,
    "explained": 0.16,
    "rival": -1.31,
    "mirror": -20.0,
    "wobble": -2.95,
}
