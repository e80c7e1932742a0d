"""Poses (and later deformations) under which a model explains X-ray exposures."""

from raylign.registration.agreement import Agreement, agreement
from raylign.registration.ambiguity import Ambiguity
from raylign.registration.anywhere import Anywhere, AnywhereConfig
from raylign.registration.classical import Classical, ClassicalConfig
from raylign.registration.direct import Direct
from raylign.registration.evolution import Evolution, EvolutionConfig
from raylign.registration.geometry import GeometryBounds, GeometryConfig, GeometryResult, refine_geometry
from raylign.registration.implants import Implants
from raylign.registration.landmarks import LandmarkPose, pnp, start_from_landmarks
from raylign.registration.matching import MatchConfig
from raylign.registration.objects import Body, Joint, Objects, ObjectsConfig, ObjectsProblem, ObjectsResult
from raylign.registration.pipeline import Pipeline
from raylign.registration.pnp import PnPConfig
from raylign.registration.polish import Polish, PolishConfig, polish
from raylign.registration.problem import Problem, Registrar, centred
from raylign.registration.register import METHODS, NEAR, WIDE, register, registrar
from raylign.registration.result import Confidence, Result, Step
from raylign.registration.settings import DirectConfig, LocateConfig, SearchConfig
from raylign.registration.structures import StructureConfig, StructureProblem, StructureResult, Structures
from raylign.registration.symmetry import Symmetry, symmetry_of
from raylign.registration.tracking import Track, TrackedPose, Tracker, TrackingConfig, track

__all__ = [
    "METHODS",
    "NEAR",
    "WIDE",
    "Agreement",
    "Ambiguity",
    "Anywhere",
    "AnywhereConfig",
    "Body",
    "Classical",
    "ClassicalConfig",
    "Confidence",
    "Direct",
    "DirectConfig",
    "Evolution",
    "EvolutionConfig",
    "GeometryBounds",
    "GeometryConfig",
    "GeometryResult",
    "Implants",
    "Joint",
    "LandmarkPose",
    "LocateConfig",
    "MatchConfig",
    "Objects",
    "ObjectsConfig",
    "ObjectsProblem",
    "ObjectsResult",
    "Pipeline",
    "PnPConfig",
    "Polish",
    "PolishConfig",
    "Problem",
    "Registrar",
    "Result",
    "SearchConfig",
    "Step",
    "StructureConfig",
    "StructureProblem",
    "StructureResult",
    "Structures",
    "Symmetry",
    "Track",
    "TrackedPose",
    "Tracker",
    "TrackingConfig",
    "agreement",
    "centred",
    "pnp",
    "polish",
    "refine_geometry",
    "register",
    "registrar",
    "start_from_landmarks",
    "symmetry_of",
    "track",
]
