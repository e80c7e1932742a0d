"""Poses (and later deformations) under which a model explains X-ray exposures."""

from raylign.registration.direct import Direct
from raylign.registration.evolution import Evolution, EvolutionConfig
from raylign.registration.matching import MatchConfig
from raylign.registration.pipeline import Pipeline
from raylign.registration.problem import Problem, Registrar, centred
from raylign.registration.register import METHODS, register, registrar
from raylign.registration.result import Confidence, Result, Step
from raylign.registration.settings import DirectConfig, SearchConfig

__all__ = [
    "METHODS",
    "Confidence",
    "Direct",
    "DirectConfig",
    "Evolution",
    "EvolutionConfig",
    "MatchConfig",
    "Pipeline",
    "Problem",
    "Registrar",
    "Result",
    "SearchConfig",
    "Step",
    "centred",
    "register",
    "registrar",
]
