"""Weights of the probability of success, as ``python benchmarks/confidence.py --fit FILE --write`` leaves them."""

from __future__ import annotations

INTERCEPT = -6.0
WEIGHTS = {
    "agreement": 6.0,
    "weakest": 3.0,
    "opposed": -3.0,
    "contrast": -1.0,
    "explained": 1.0,
    "rival": -1.0,
    "wobble": -0.5,
}
