"""Domain randomisation of labelled exposures: what moves pixels moves their labels, and each transform states its range."""

from raylign.simulation.appearance.draws import Draws, Generators
from raylign.simulation.appearance.geometric import Affine2D, Crop, Flip, Resize
from raylign.simulation.appearance.intensity import (
    Brightness,
    Contrast,
    Dropout,
    Gamma,
    GaussianNoise,
    Invert,
    LogOffset,
    Normalise,
    Response,
    Saturate,
    Window,
)
from raylign.simulation.appearance.occlusion import Blocks, BoxNoise, Cables, Collimate, RandomErasing
from raylign.simulation.appearance.presets import (
    GAO_2024,
    JAGANATHAN_2021,
    PLAIN,
    PRESETS,
    RAYLIGN,
    TOTH_2018,
    appearance,
)
from raylign.simulation.appearance.text import BurnIn
from raylign.simulation.appearance.texture import Bias, Blur, Haze, LocalContrast
from raylign.simulation.appearance.transform import Sequence, Step, Transform

__all__ = [
    "GAO_2024", "JAGANATHAN_2021", "PLAIN", "PRESETS", "RAYLIGN", "TOTH_2018", "Affine2D", "Bias", "Blocks", "Blur", "BoxNoise",
    "Brightness", "BurnIn", "Cables", "Collimate", "Contrast", "Crop", "Draws", "Dropout", "Flip", "Gamma", "GaussianNoise",
    "Generators", "Haze", "Invert", "LocalContrast", "LogOffset", "Normalise", "RandomErasing", "Resize", "Response", "Saturate",
    "Sequence", "Step", "Transform", "Window", "appearance",
]  # fmt: skip
