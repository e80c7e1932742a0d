"""Photons of a tungsten tube and what matter and detector do to them.

Spectra: SpekPy 2 (Poludniowski, Omar, Bujila and Andreo 2021; Omar, Andreo and Poludniowski 2020), tungsten at 12 degrees, 40 to
150 kV in steps of 5 kV, photons per keV without any filter; filters are applied here. Attenuation: xraydb (Elam, Ravel and Sieber
2002) for the compositions of ICRU Report 44 (1989). Detector: columnar caesium iodide that integrates energy; a photon that it
stops leaves all its energy there (K-fluorescence that escapes is neglected). The tables are text in ``tables/``;
``tests/simulation/make_tables.py`` makes them again, and the tests hold them to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from raylign.errors import InputError

Array = NDArray[np.float64]
LOWEST_KV, HIGHEST_KV = 40.0, 150.0
PACKING = 0.8  # of the scintillator's thickness is caesium iodide, the rest lies between its columns


def _rows(name: str) -> list[list[str]]:
    text = (files("raylign.simulation.physics") / "tables" / name).read_text(encoding="utf-8")
    return [line.split(",") for line in text.splitlines() if line and not line.startswith("#")]


@dataclass(frozen=True, eq=False)
class _Tables:
    energies: Array  # [E] keV
    voltages: Array  # [V] kV
    photons: Array  # [V, E]
    attenuation: dict[str, Array]  # [E], 1/mm
    density: dict[str, float]  # g/cm3
    moments: Array  # [G, E]


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    spectra, materials, moments = (_rows(f"{name}.csv") for name in ("spectra", "attenuation", "moments"))
    return _Tables(
        energies=np.array(spectra[0][1:], float),
        voltages=np.array([row[0] for row in spectra[1:]], float),
        photons=np.array([row[1:] for row in spectra[1:]], float),
        attenuation={row[0]: np.array(row[2:], float) for row in materials[1:]},
        density={row[0]: float(row[1]) for row in materials[1:]},
        moments=np.array([row[1:] for row in moments[1:]], float),
    )


def materials() -> tuple[str, ...]:
    """Names of the materials that have a table."""
    return tuple(_tables().attenuation)


def density(material: str) -> float:
    """g/cm3 at which a millimetre of the material counts as one.

    Raises
    ------
    InputError: no such material.
    """
    return _tables().density[_known(material)]


def attenuation(material: str, energies: Float[np.ndarray, " E"] | float) -> Array:
    """Linear attenuation in 1/mm at the table's density; between its energies, 15.5 to 149.5 keV, log-log interpolation.

    Raises
    ------
    InputError: no such material.
    """
    t = _tables()
    return np.exp(np.interp(np.log(energies), np.log(t.energies), np.log(t.attenuation[_known(material)])))


def _known(material: str) -> str:
    if material not in _tables().attenuation:
        raise InputError(f"no material {material!r}", field="material", remedy=f"use one of {', '.join(materials())}")
    return material


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What an energy-integrating detector sees of a beam, a value per energy.

    Parameters
    ----------
    energies: [E] keV.
    photons: [E] that the detector stops in the open beam, summing to one.
    weight: [E] signal of one such photon, in proportion to its energy; the signal of the open beam is one.
    """

    energies: Float[np.ndarray, " E"]
    photons: Float[np.ndarray, " E"]
    weight: Float[np.ndarray, " E"]

    @property
    def share(self) -> Float[np.ndarray, " E"]:
        """Of the open beam's signal, by energy; sums to one."""
        return self.photons * self.weight

    def attenuation(self, material: str) -> Float[np.ndarray, " E"]:
        """1/mm of a material at the beam's energies."""
        return attenuation(material, self.energies)

    def transmission(self, **mm: Float[np.ndarray, " P"] | float) -> Float[np.ndarray, " P"]:
        """Signal behind mm of materials, over that of the open beam: ``spectrum(90).transmission(water=200.0, bone=20.0)``."""
        paths = {name: np.atleast_1d(np.asarray(value, float)) for name, value in mm.items()}
        exponent = sum(value[:, None] * self.attenuation(name) for name, value in paths.items())
        return np.asarray((np.exp(-np.asarray(exponent)) * self.share).sum(-1))

    def few(self) -> Spectrum:
        """The same beam at the 12 energies, or fewer, that stand for all of it.

        A quadrature: non-negative weights at some of the beam's energies that keep its moments (``tables/moments.csv``), found by
        non-negative least squares, whose basic solutions have no more energies than moments (Lawson and Hanson 1974; that such a
        rule exists is Tchakaloff's theorem). Transmission behind 0 to 350 mm water, 0 to 60 mm bone, with 5 mm steel or
        with 0.025 g/cm2 iodine agrees to 0.5 % wherever it is over 1e-5, for 50 to 150 kV (the tests say so); with ten times
        that iodine to 2.4 % at 60 kV and 1 % at 90. It is not made for metals with an edge between 69 and 91 keV (tungsten,
        platinum, lead): what little comes through 0.1 mm of them errs by tens of percent.
        """
        from scipy.optimize import nnls

        t = _tables()
        at = np.searchsorted(t.energies, self.energies - 0.25)
        functions = t.moments[:, at]
        kept, _ = nnls(functions, (functions * self.share).sum(1), maxiter=10_000)
        chosen = np.flatnonzero(kept)
        share = kept[chosen] / kept[chosen].sum()
        return Spectrum(self.energies[chosen], share / self.weight[chosen], self.weight[chosen])


@lru_cache(maxsize=4096)
def spectrum(kv: float, aluminium_mm: float = 3.0, copper_mm: float = 0.0, csi_mm: float = 0.6) -> Spectrum:
    """The beam of a tube at a peak voltage behind its filters, as the detector sees it, by keV.

    Parameters
    ----------
    kv: 40 to 150; linear between tables 5 kV apart.
    aluminium_mm: of aluminium, all that a beam passes on its way out (target's own absorption aside).
    copper_mm: of copper, in addition.
    csi_mm: of columnar caesium iodide, four fifths of it filled.

    Raises
    ------
    InputError: a voltage without a table, a thickness that is negative or not a number, no scintillator.
    """
    if not LOWEST_KV <= kv <= HIGHEST_KV:
        raise InputError(f"no spectrum at {kv} kV", field="kv", remedy=f"give {LOWEST_KV:g} to {HIGHEST_KV:g} kV")
    for name, value in (("aluminium_mm", aluminium_mm), ("copper_mm", copper_mm)):
        if not 0 <= value < 100:
            raise InputError(f"a filter of {value} mm", field=name, remedy="give mm, 3 of aluminium say")
    if not 0 < csi_mm < 10:
        raise InputError(f"a scintillator of {csi_mm} mm", field="csi_mm", remedy="give mm, 0.6 say")
    t = _tables()
    upper = min(int(np.searchsorted(t.voltages, kv, side="right")), len(t.voltages) - 1)
    part = (kv - t.voltages[upper - 1]) / (t.voltages[upper] - t.voltages[upper - 1])
    emitted = (1 - part) * t.photons[upper - 1] + part * t.photons[upper]
    behind = emitted * np.exp(-aluminium_mm * t.attenuation["aluminium"] - copper_mm * t.attenuation["copper"])
    stopped = behind * -np.expm1(-csi_mm * PACKING * t.attenuation["caesium_iodide"])
    some = t.energies < kv
    energies, stopped = t.energies[some], stopped[some] / stopped[some].sum()
    return Spectrum(energies, stopped, energies / (energies * stopped).sum())


@lru_cache(maxsize=4096)
def few(kv: float, aluminium_mm: float = 3.0, copper_mm: float = 0.0, csi_mm: float = 0.6) -> Spectrum:
    """``spectrum(...).few()``, kept."""
    return spectrum(kv, aluminium_mm, copper_mm, csi_mm).few()
