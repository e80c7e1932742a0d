"""Weights of the probability of success, as ``python benchmarks/confidence.py --fit FILE --write`` leaves them."""

from __future__ import annotations

INTERCEPT = 0.90
WEIGHTS = {
    "agreement": 4.40,
    "weakest": 1.58,
    "opposed": -0.32,
    "contrast": -6.42,
    "explained": 1.39,
    "rival": 0.0,
    "wobble": -2.18,
}
