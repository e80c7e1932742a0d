"""A simulated exposure, made by richer physics than the image that registration renders.

What it shares with ``raylign.projection``: ``View`` and ``Rigid``, that is, where the rays run. What differs: several energies
(the beam hardens), two materials, its own integrator with random sample positions and several rays a pixel whose *intensities*
are averaged, scatter, quantum and electronic noise, blur, a collimator, metal, quantised counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import UInt16
from torch import Tensor

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.simulation import detector
from raylign.simulation.instruments import Wire, steel_thickness
from raylign.simulation.paths import path_lengths
from raylign.simulation.spectrum import spectrum

_LEAK = 2e-3  # of the open beam, through the collimator's blades


@dataclass(frozen=True)
class ExposureConfig:
    """Tube, patient and detector.

    Parameters
    ----------
    kv: tube voltage, 80, 90 or 100 kV.
    photons: detected per pixel at the median pixel behind the patient, without scatter (the automatic exposure control holds it).
    scatter: scatter-to-primary ratio over the pixels behind the patient.
    scatter_mm: standard deviation of the scatter's spread on the detector, mm.
    blur_mm: standard deviation of the detector's blur, mm.
    electronic: standard deviation of the read-out noise, in photons.
    collimator: radius of a round field over half the shorter side; ``None`` is an open field.
    wires: metal in the beam, world mm.
    bits: of the stored counts, 8 to 16; the open beam fills nine tenths of their range.
    rays: along each side of a pixel, 1 to 4.

    Raises
    ------
    InputError: a value that is negative or out of its range.
    """

    kv: int = 90
    photons: float = 1500.0
    scatter: float = 0.6
    scatter_mm: float = 60.0
    blur_mm: float = 0.3
    electronic: float = 4.0
    collimator: float | None = None
    wires: tuple[Wire, ...] = ()
    bits: int = 16
    rays: int = 2

    def __post_init__(self) -> None:
        spectrum(self.kv)
        for name in ("photons", "scatter_mm"):
            if not 0 < getattr(self, name) < 1e9:
                raise InputError(f"{getattr(self, name)} is not a positive number", field=name)
        for name in ("scatter", "blur_mm", "electronic"):
            if not 0 <= getattr(self, name) < 1e6:
                raise InputError(f"{getattr(self, name)} is negative or not a number", field=name)
        if self.collimator is not None and not 0 < self.collimator <= 2:
            raise InputError(
                f"{self.collimator} is no radius", field="collimator", remedy="1 touches the shorter sides; None is open"
            )
        if self.bits not in range(8, 17):
            raise InputError(f"{self.bits} bits", field="bits", remedy="choose 8 to 16")
        if self.rays not in range(1, 5):
            raise InputError(f"{self.rays} rays a side", field="rays", remedy="choose 1 to 4")


@dataclass(frozen=True, eq=False)
class Exposure:
    """Stored counts, and the same exposure ready for registration.

    Parameters
    ----------
    counts: [H, W] uint16, linear in the intensity.
    xray: ``-log(counts / open beam)`` with its view and mask; ``meta`` holds ``open_beam_counts`` and the tube's ``kv``.
    """

    counts: UInt16[Tensor, "H W"]
    xray: XRay


def expose(
    volume: Volume, view: View, pose: Rigid, config: ExposureConfig | None = None, generator: torch.Generator | None = None
) -> Exposure:
    """Expose a scan to X-rays.

    Parameters
    ----------
    volume: a scan in HU. Give a finer and longer one than will be registered, and the exposure shows what the scan misses.
    view: geometry in world mm.
    pose: ``T_world_from_volume``, LPS mm.
    config: the apparatus.
    generator: of all randomness; the same seed gives the same counts. Seed 0 where none is given.

    Raises
    ------
    InputError: the volume is not in HU.
    """
    config = config or ExposureConfig()
    generator = generator or torch.Generator().manual_seed(0)
    beam = spectrum(config.kv)
    fine = view.resample((view.shape[0] * config.rays, view.shape[1] * config.rays))
    paths = torch.cat([path_lengths(volume, fine, pose, generator), steel_thickness(config.wires, fine)[None]])
    # the detector adds up intensities, not path lengths: average after the exponential
    photons = torch.nn.functional.avg_pool2d(beam.transmitted(paths)[None], config.rays)[0].double()
    primary = beam.signal(photons)
    lit, inside = detector.round_field(view.shape, config.collimator)
    lit = _LEAK + (1 - _LEAK) * lit
    pitch = min(view.pixel_spacing)
    scatter = detector.scattered(primary, lit, config.scatter, config.scatter_mm / pitch)
    per_pixel = config.photons / _median_behind(photons.sum(0), primary, inside)

    # scattered photons have lost little energy (Compton, under 100 keV): they count as the beam that made them
    mix = photons * (lit + scatter / primary.clamp_min(1e-12))
    signal = detector.quanta(per_pixel * mix, beam, generator)
    signal = detector.blurred(signal, config.blur_mm / pitch)
    signal = signal + config.electronic * torch.randn(signal.shape, generator=generator, dtype=signal.dtype)

    top = 2**config.bits - 1
    open_beam = 0.9 * top
    counts = (signal * (open_beam / per_pixel)).round().clamp(0, top)
    # full scale and zero say only that something was beyond; the collimator's shadow says nothing about the patient
    valid = inside & (counts < top) & (counts > 0)
    image = -torch.log(counts.clamp_min(1) / open_beam)
    meta = {
        "simulated": True,
        "kv": config.kv,
        "open_beam_counts": open_beam,
        "bits": config.bits,
        "scatter_to_primary": config.scatter,
    }
    return Exposure(counts.to(torch.uint16), XRay(image, view, valid, name="simulated", meta=meta))


def _median_behind(photons: Tensor, primary: Tensor, inside: Tensor) -> float:
    """Median of the photons over lit pixels behind the patient; over all lit pixels where there is no patient."""
    behind = inside & (primary < 0.5)
    return float(photons[behind if bool(behind.any()) else inside].median())
