"""What an exposure is made with: tube, dose, collimator, detector, image intensifier. One frozen group each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from raylign.errors import InputError
from raylign.simulation.physics.scatter import Grid, ScatterConfig
from raylign.simulation.physics.spectrum import spectrum


def _within(where: object, name: str, low: float, high: float, remedy: str = "") -> None:
    value = getattr(where, name)
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(f"{value} is not within {low:g} to {high:g}", field=name, remedy=remedy)


@dataclass(frozen=True)
class Tube:
    """An X-ray tube with a tungsten target at 12 degrees.

    Parameters
    ----------
    kv: peak voltage, 40 to 150 kV.
    aluminium_mm, copper_mm: filters, the tube's own included. 3 mm aluminium gives the half-value layers that IEC 60601-1-3:2008
        asks for; angiography adds 0.1 to 0.9 mm copper.
    heel: how much more the target absorbs on its own side, see ``fields.shading``; 0 is none, 0.15 takes about a quarter away
        8 degrees off the axis.
    falloff: whether intensity falls off with the cube of the cosine from the axis (distance and slant).
    """

    kv: float = 90.0
    aluminium_mm: float = 3.0
    copper_mm: float = 0.0
    heel: float = 0.0
    falloff: bool = False

    def __post_init__(self) -> None:
        spectrum(self.kv, self.aluminium_mm, self.copper_mm)
        _within(self, "heel", 0, 1)


@dataclass(frozen=True)
class Dose:
    """How many photons.

    Parameters
    ----------
    photons: detected per pixel, or per mm^2 of the detector, without scatter.
    at: where they are counted. "patient": at the median pixel behind the patient (under half of the open beam's signal; of all
        lit pixels where there is no patient), which automatic exposure control holds. "open": in the open beam.
    per: "pixel" or "mm2". Behind a patient a microgray of air kerma at the detector is about 30,000 photons / mm^2 (IEC 62220-1),
        of which half a millimetre of caesium iodide stops three quarters; fluoroscopy takes some 10 to 50 nanogray a frame, cine
        some 100 to 400, subtraction angiography a microgray and more.
    """

    photons: float = 1500.0
    at: Literal["patient", "open"] = "patient"
    per: Literal["pixel", "mm2"] = "pixel"

    def __post_init__(self) -> None:
        if not 0 < self.photons < 1e9:
            raise InputError(f"{self.photons} is not a positive number", field="photons")
        if self.at not in ("patient", "open"):
            raise InputError(f"photons are not counted at {self.at!r}", field="at", remedy='use "patient" or "open"')
        if self.per not in ("pixel", "mm2"):
            raise InputError(f"photons are not counted per {self.per!r}", field="per", remedy='use "pixel" or "mm2"')


@dataclass(frozen=True)
class Collimator:
    """A rectangle with rounded corners in the image, through which the beam passes. ``round`` and ``rectangle`` make the usual.

    Lengths are in units of half the image's shorter side.

    Parameters
    ----------
    width, height: half sizes.
    corner: radius of the corners, at most the smaller half size; as large as both it is a circle.
    angle: degrees, clockwise in the image as displayed.
    centre: (column, row), from the middle of the image.
    penumbra_mm: on the detector, over which light falls from full to none.
    leak: of the open beam, through the blades.
    """

    width: float = 1.0
    height: float = 1.0
    corner: float = 0.0
    angle: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)
    penumbra_mm: float = 1.0
    leak: float = 2e-3

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            _within(self, name, 1e-3, 10, "1 touches the shorter sides")
        _within(self, "corner", 0, min(self.width, self.height), "a corner is no larger than the field")
        _within(self, "angle", -360, 360)
        _within(self, "penumbra_mm", 0, 1e3)
        _within(self, "leak", 0, 1)
        if len(self.centre) != 2 or not all(abs(c) <= 10 for c in self.centre):
            raise InputError(f"{self.centre} is no centre", field="centre", remedy="give (column, row) from the middle")

    @staticmethod
    def round(radius: float, centre: tuple[float, float] = (0.0, 0.0)) -> Collimator:
        """A circle; radius 1 touches the image's shorter sides."""
        return Collimator(radius, radius, radius, centre=centre)

    @staticmethod
    def rectangle(width: float, height: float, angle: float = 0.0, centre: tuple[float, float] = (0.0, 0.0)) -> Collimator:
        """A rectangle of half sizes, turned about its centre."""
        return Collimator(width, height, 0.0, angle, centre)


@dataclass(frozen=True)
class Detector:
    """A flat panel, or the input screen of an image intensifier.

    Parameters
    ----------
    csi_mm: thickness of the columnar caesium iodide.
    blur_mm: standard deviation of the light's spread, focal spot included: the modulation transfer is exp(-2 (pi s f)^2), 0.45
        at 1 / mm for 0.2 mm. It correlates the quantum noise too.
    glare: part of the light that spreads far, and glare_mm how far; see ``detector.transfer``. Panels lose a few percent at low
        frequencies; of 25 image intensifiers in hospitals the mean lost 22 % (doi:10.1088/0031-9155/33/1/009).
    electronic: standard deviation of the read-out noise, in photons.
    gain, lines: relative standard deviations of the pixels' gains, and of those of whole columns with an amplifier each, that
        calibration leaves.
    flat_field: whether what ``Tube.heel`` and ``falloff`` do to the open beam is divided out, as panels do; the noise keeps it.
    bits: of the stored counts, 8 to 16.
    full_scale: signal at which counts saturate, in units of the open beam. Under 1 the bare beam is clipped.
    """

    csi_mm: float = 0.6
    blur_mm: float = 0.2
    glare: float = 0.03
    glare_mm: float = 15.0
    electronic: float = 4.0
    gain: float = 0.0
    lines: float = 0.0
    flat_field: bool = True
    bits: int = 16
    full_scale: float = 1 / 0.9

    def __post_init__(self) -> None:
        spectrum(90.0, csi_mm=self.csi_mm)
        _within(self, "blur_mm", 0, 100)
        _within(self, "glare", 0, 0.9)
        _within(self, "glare_mm", 0, 1e3)
        _within(self, "electronic", 0, 1e6)
        _within(self, "gain", 0, 0.5)
        _within(self, "lines", 0, 0.5)
        _within(self, "full_scale", 1e-3, 100, "1 is the open beam")
        if self.bits not in range(8, 17):
            raise InputError(f"{self.bits} bits", field="bits", remedy="choose 8 to 16")


@dataclass(frozen=True)
class Intensifier:
    """What the curved screen and the stray magnetic field of an image intensifier do to the picture; see ``fields.distorted``.

    Parameters
    ----------
    pincushion: by how much magnification grows from the middle to the middle of the shorter sides, -0.1 to 0.2.
    twist: degrees by which the picture there is turned against the middle, -20 to 20: straight lines become an S.
    """

    pincushion: float = 0.04
    twist: float = 1.0

    def __post_init__(self) -> None:
        _within(self, "pincushion", -0.1, 0.2, "a stronger barrel folds over in the corners")
        _within(self, "twist", -20, 20)


@dataclass(frozen=True)
class ExposureConfig:
    """An apparatus and how it is set.

    Parameters
    ----------
    tube, dose, detector: see there.
    scatter: see there; with the antiscatter grid that C-arms have.
    collimator: ``None`` is an open field.
    intensifier: ``None`` is a flat panel. The picture of one is distorted while its ``View`` is not: ``fields.distorted`` says
        where points lie in it.
    noise: "moments": Poisson noise of the right mean and variance; "compound": photons are counted energy by energy, which is
        what happens, and slower; "none": neither quantum nor electronic noise.
    rays: along each side of a pixel, 1 to 4, whose intensities are averaged.

    Raises
    ------
    InputError: a value out of its range.
    """

    tube: Tube = field(default_factory=Tube)
    dose: Dose = field(default_factory=Dose)
    collimator: Collimator | None = None
    detector: Detector = field(default_factory=Detector)
    scatter: ScatterConfig = field(default_factory=lambda: ScatterConfig(grid=Grid()))
    intensifier: Intensifier | None = None
    noise: Literal["moments", "compound", "none"] = "moments"
    rays: int = 1

    def __post_init__(self) -> None:
        if self.noise not in ("moments", "compound", "none"):
            raise InputError(f"no noise {self.noise!r}", field="noise", remedy='use "moments", "compound" or "none"')
        if self.rays not in range(1, 5):
            raise InputError(f"{self.rays} rays a side", field="rays", remedy="choose 1 to 4")
