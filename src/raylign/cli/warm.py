"""Make the compiled kernels ready before anything is timed."""

from __future__ import annotations

from raylign.evaluation.warm import warm_kernels

__all__ = ["warm_kernels"]
