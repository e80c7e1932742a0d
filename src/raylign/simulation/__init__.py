"""Made patients and made exposures, for demonstrations, tests and training."""

from raylign.simulation.exposure import Exposure, ExposureConfig, expose
from raylign.simulation.instruments import Wire, guide_wire
from raylign.simulation.phantoms import Phantom, ThoraxConfig, thorax

__all__ = ["Exposure", "ExposureConfig", "Phantom", "ThoraxConfig", "Wire", "expose", "guide_wire", "thorax"]
