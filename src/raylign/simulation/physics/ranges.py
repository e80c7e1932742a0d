"""The apparatus that training meets: how tube, dose, detector, collimator and scatter vary from one exposure to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch

from raylign.errors import InputError
from raylign.simulation.physics.apparatus import Collimator, Detector, Dose, ExposureConfig, Intensifier, Tube
from raylign.simulation.physics.scatter import Grid, ScatterConfig

Range = tuple[float, float]
_T = TypeVar("_T", int, float)


@dataclass(frozen=True)
class ExposureRanges:
    """A distribution of ``ExposureConfig``. Ranges are (lowest, highest), uniform unless said otherwise; chances are 0 to 1.

    The defaults stand for interventional C-arms from mobile ones with an image intensifier to cath labs with a flat panel. Where
    no source is named, here or in ``apparatus``, a range is our choice, wide enough for what is met.

    Parameters
    ----------
    kv: whole kV. Automatic exposure control of C-arms moves between about 60 and 120.
    aluminium_mm: what is chosen from, total filtration; at least 2.5 mm above 70 kV (IEC 60601-1-3).
    copper_mm: what is chosen from; cath labs add 0.1 to 0.9 mm.
    heel: see ``Tube``; with falloff in half of the exposures.
    photons: per mm^2 at the median behind the patient (``Dose``), log-uniform: 10 nanogray to a microgray at the detector.
    csi_mm: what is chosen from; panels have 0.4 to 0.6 mm.
    blur_mm: see ``Detector``.
    glare, glare_mm: see ``Detector``.
    electronic: photons.
    gain, lines: what calibration leaves.
    bits: what is chosen from.
    full_scale: log-uniform; under 1 the bare beam saturates, as it does where exposure control looks at the patient.
    scatter: factor on the model, for what it leaves out (bone, edges, the table).
    grid: chance of an antiscatter grid, with primary and scatter transmissions in the ranges that follow.
    grid_primary, grid_scatter: transmissions.
    round_field, rectangular_field: chances; else the field is open.
    field_size: half sizes in units of half the shorter side.
    field_shift: largest offset of the field's middle, same unit.
    field_turn: largest angle of a rectangle, degrees.
    intensifier: chance of an image intensifier, which distorts; 0 by default, since its picture needs its labels moved.
    pincushion, twist: see ``Intensifier``.
    noise, rays: as in ``ExposureConfig``.

    Raises
    ------
    InputError: a range that runs backwards, a chance beyond 0 to 1, nothing to choose from.
    """

    kv: Range = (60.0, 120.0)
    aluminium_mm: tuple[float, ...] = (2.5, 3.0, 4.0)
    copper_mm: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.6, 0.9)
    heel: Range = (0.0, 0.2)
    photons: Range = (300.0, 30000.0)
    csi_mm: tuple[float, ...] = (0.4, 0.5, 0.6)
    blur_mm: Range = (0.1, 0.4)
    glare: Range = (0.0, 0.15)
    glare_mm: Range = (5.0, 30.0)
    electronic: Range = (0.0, 10.0)
    gain: Range = (0.0, 0.01)
    lines: Range = (0.0, 0.002)
    bits: tuple[int, ...] = (10, 12, 14, 16)
    full_scale: Range = (0.3, 1.2)
    scatter: Range = (0.6, 1.4)
    grid: float = 0.5
    grid_primary: Range = (0.6, 0.75)
    grid_scatter: Range = (0.1, 0.3)
    round_field: float = 0.3
    rectangular_field: float = 0.3
    field_size: Range = (0.7, 1.1)
    field_shift: float = 0.1
    field_turn: float = 10.0
    intensifier: float = 0.0
    pincushion: Range = (0.0, 0.08)
    twist: Range = (-3.0, 3.0)
    noise: Literal["moments", "compound", "none"] = "moments"
    rays: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in ("aluminium_mm", "copper_mm", "csi_mm", "bits"):
                if not value:
                    raise InputError("nothing to choose from", field=name, remedy="give at least one")
            elif isinstance(value, tuple) and not (len(value) == 2 and 0 <= value[1] - value[0] < 1e9):
                raise InputError(f"{value} is no range", field=name, remedy="give (lowest, highest)")
        for name in ("grid", "round_field", "rectangular_field", "intensifier"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"a chance of {getattr(self, name)}", field=name, remedy="give 0 to 1")
        if self.round_field + self.rectangular_field > 1:
            raise InputError("round and rectangular fields have a chance over 1 together", field="round_field")
        if self.photons[0] <= 0 or self.full_scale[0] <= 0:
            raise InputError("photons and full_scale are positive", field="photons")
        # every corner that could be drawn is checked once, here
        for i in (0, 1):
            Tube(self.kv[i], self.aluminium_mm[0], self.copper_mm[0], self.heel[i])
            Dose(self.photons[i])
            Detector(self.csi_mm[0], self.blur_mm[i], self.glare[i], self.glare_mm[i], self.electronic[i], self.gain[i])
            ScatterConfig(self.scatter[i], Grid(self.grid_primary[i], self.grid_scatter[i]))
            Collimator.rectangle(self.field_size[i], self.field_size[i], self.field_turn)
            Intensifier(self.pincushion[i], self.twist[i])
            ExposureConfig(noise=self.noise, rays=self.rays)

    def draw(self, generator: torch.Generator) -> ExposureConfig:
        """One apparatus. It takes the same random numbers from the generator whatever the ranges are."""
        share = iter(torch.rand(32, generator=generator, dtype=torch.float64, device=generator.device).tolist())

        def within(span: Range) -> float:
            return span[0] + (span[1] - span[0]) * next(share)

        def scaled(span: Range) -> float:
            return float(span[0] * (span[1] / span[0]) ** next(share))

        def one(options: tuple[_T, ...]) -> _T:
            return options[min(int(next(share) * len(options)), len(options) - 1)]

        tube = Tube(
            float(round(within(self.kv))), one(self.aluminium_mm), one(self.copper_mm), within(self.heel), next(share) < 0.5
        )
        dose = Dose(scaled(self.photons), per="mm2")
        detector = Detector(
            csi_mm=one(self.csi_mm),
            blur_mm=within(self.blur_mm),
            glare=within(self.glare),
            glare_mm=within(self.glare_mm),
            electronic=within(self.electronic),
            gain=within(self.gain),
            bits=one(self.bits),
            full_scale=scaled(self.full_scale),
        )
        grid = Grid(within(self.grid_primary), within(self.grid_scatter))
        scatter = ScatterConfig(within(self.scatter), grid if next(share) < self.grid else None)
        kind, size, ratio = next(share), within(self.field_size), within(self.field_size)
        shift = (within((-self.field_shift, self.field_shift)), within((-self.field_shift, self.field_shift)))
        turn = within((-self.field_turn, self.field_turn))
        collimator = None
        if kind < self.round_field:
            collimator = Collimator.round(size, shift)
        elif kind < self.round_field + self.rectangular_field:
            collimator = Collimator.rectangle(size, ratio, turn, shift)
        bent = Intensifier(within(self.pincushion), within(self.twist))
        intensifier = bent if next(share) < self.intensifier else None
        detector = replace(detector, lines=within(self.lines))
        return ExposureConfig(tube, dose, collimator, detector, scatter, intensifier, self.noise, self.rays)
