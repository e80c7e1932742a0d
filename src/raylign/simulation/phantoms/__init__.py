"""Parametric anatomies: patients made of implicit surfaces, another one for every seed."""

from raylign.simulation.phantoms.phantom import Phantom
from raylign.simulation.phantoms.thorax import ThoraxConfig, thorax

__all__ = ["Phantom", "ThoraxConfig", "thorax"]
