"""Domain randomisation as it was published, and ours."""

from __future__ import annotations

from raylign.errors import InputError
from raylign.simulation.appearance.geometric import Affine2D, Flip
from raylign.simulation.appearance.intensity import (
    Brightness,
    Contrast,
    Dropout,
    Gamma,
    GaussianNoise,
    Invert,
    LogOffset,
    Response,
    Saturate,
    Window,
)
from raylign.simulation.appearance.occlusion import Blocks, BoxNoise, Cables, Collimate, RandomErasing
from raylign.simulation.appearance.text import BurnIn
from raylign.simulation.appearance.texture import Bias, Blur, Haze, LocalContrast
from raylign.simulation.appearance.transform import Sequence, Step

PLAIN = Sequence("plain")
"""Images as they were exposed."""

GAO_2024 = Sequence(
    "gao2024",
    (Step(Invert(), 0.5), Step(GaussianNoise(), 0.5), Step(Gamma(), 0.5), Step(BoxNoise(), 0.5)),
)
"""Gao et al. 2024, section II.D: "sequentially each with a probability of 50%": inversion, noise of sigma 0.005 to 0.1 times the
range, gamma 0.7 to 1.3 of the normalised image, boxes of large noise (whose number, size and noise the paper leaves open)."""

JAGANATHAN_2021 = Sequence(
    "jaganathan2021",
    (
        Step(Brightness((-0.2, 0.2))),
        Step(Contrast((0.8, 1.2))),
        Step(Flip(0.5, 0.5)),
        Step(Affine2D((-10.0, 10.0), (-0.1, 0.1)), 0.5),
        Step(RandomErasing(), 0.5),
    ),
)
"""Jaganathan et al. 2021, section 3.2: "color space transforms (where we adjust brightness and contrast ...), geometric
transforms (affine 2D rotation with translation, horizontal and vertical flips) and random erasing". The paper names no range;
those of the erasing are Zhong et al.'s (2020), the others ours."""

TOTH_2018 = Sequence("toth2018")
"""Toth et al. 2018 leave the DRRs' values as they are: what they vary is geometry (perturbations in the plane, up to 10 mm of the
centre of projection, the angles), which the pose samplers draw. So this sequence changes nothing."""

RAYLIGN = Sequence(
    "raylign",
    (
        Step(Collimate(), 0.4),
        Step(Cables(), 0.2),
        Step(Haze(), 0.4),
        Step(LogOffset(), 0.4),
        Step(Blur(), 0.3),
        Step(GaussianNoise((0.002, 0.03)), 0.3),
        Step(Saturate(), 0.3),
        Step(Bias(), 0.4),
        Step(Response(), 0.5),
        Step(Gamma((0.6, 1.7), rescale=True), 0.5),
        Step(LocalContrast(), 0.3),
        Step(Window(), 0.5),
        Step(Dropout(), 0.1),
        Step(Blocks(), 0.15),
        Step(BurnIn(), 0.15),
        Step(Invert(), 0.5),
    ),
)
"""Ours, in the order in which an image comes about: field, objects, light, detector, processing, burnt-in text, display. Nothing
of it moves the image. The ranges are chosen to go beyond what fluoroscopes show, not measured on them."""

PRESETS = {s.name: s for s in (PLAIN, GAO_2024, JAGANATHAN_2021, TOTH_2018, RAYLIGN)}


def appearance(name: str) -> Sequence:
    """A preset by name.

    Raises
    ------
    InputError: there is none of that name.
    """
    if name not in PRESETS:
        raise InputError(f"no appearance is called {name!r}", field="appearance", remedy=f"use one of {', '.join(PRESETS)}")
    return PRESETS[name]
