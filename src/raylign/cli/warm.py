"""Make the compiled kernels ready before anything is timed."""

from __future__ import annotations


def warm_kernels() -> float:
    """See ``raylign.evaluation.warm``; loaded when called, because commands answer ``--help`` without it."""
    from raylign.evaluation.warm import warm_kernels as warm

    return warm()
