"""Made patients and made exposures, for demonstrations, tests and training."""

from raylign.simulation.exposure import Exposure, ExposureConfig, expose
from raylign.simulation.instruments import Wire, guide_wire
from raylign.simulation.labelled import Labelled
from raylign.simulation.phantoms import ThoraxConfig, thorax
from raylign.simulation.seeds import generator, numpy_generator
from raylign.simulation.subject import Subject

__all__ = [
    "Exposure", "ExposureConfig", "Labelled", "Subject", "ThoraxConfig", "Wire", "expose", "generator", "guide_wire",
    "numpy_generator", "thorax",
]  # fmt: skip
