"""Parametric anatomies: patients made of implicit surfaces, another one for every seed."""

from raylign.simulation.phantoms.thorax import ThoraxConfig, thorax

__all__ = ["ThoraxConfig", "thorax"]
