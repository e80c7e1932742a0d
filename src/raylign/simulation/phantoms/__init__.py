"""Parametric anatomies: patients made of implicit surfaces, another one for every seed."""

from raylign.simulation.phantoms.aorta import AortaConfig, aorta, centrelines, vessels
from raylign.simulation.phantoms.femur import FemurConfig, proximal_femur
from raylign.simulation.phantoms.lumbar import LumbarConfig, lumbar
from raylign.simulation.phantoms.pelvis import PelvisConfig, pelvis
from raylign.simulation.phantoms.thorax import ThoraxConfig, thorax

__all__ = [
    "AortaConfig", "FemurConfig", "LumbarConfig", "PelvisConfig", "ThoraxConfig", "aorta", "centrelines", "lumbar", "pelvis",
    "proximal_femur", "thorax", "vessels",
]  # fmt: skip
