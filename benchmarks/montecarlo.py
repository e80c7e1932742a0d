"""A small Monte Carlo of photons between 10 and 150 keV, which makes the kernels of scatter and says how wrong they are.

It shares no code with ``raylign``. Photoelectric absorption, incoherent scattering (Klein and Nishina 1929 times an incoherent
scattering function) and coherent scattering (Thomson times the squared form factors of independent atoms). Cross-sections are
those of Elam, Ravel and Sieber (2002) and form factors those of Waasmaier and Kirfel (1995), both as ``xraydb`` has them. Left
out: the binding of atoms in water and tissue (which takes coherent scatter away from the smallest angles), Doppler broadening,
fluorescence of the body, electrons.

``slab`` follows a pencil beam through an endless slab and scores all that leaves; ``montecarlo_voxels`` follows a cone beam
through a scan.
"""

# ruff: noqa: NPY002  (compiled code has no other generator)

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray

_HC = 12.39842  # keV Angstrom
_MC2 = 510.999  # keV
_LOW, _HIGH = 8, 151  # keV, the tables' range; below it a photon is absorbed where it is
_XMAX = 10.0  # 1/Angstrom: sin(theta / 2) / lambda of 120 keV straight back, nearly

_SOFT = {"H": 0.102, "C": 0.143, "N": 0.034, "O": 0.710, "Na": 0.001, "P": 0.002, "S": 0.003, "Cl": 0.002, "K": 0.003}
_BONE = {"H": 0.034, "C": 0.155, "N": 0.042, "O": 0.435, "Na": 0.001, "Mg": 0.002, "P": 0.103, "S": 0.003, "Ca": 0.225}

# Density, g/cm^3, and mass fractions: ICRU Report 44 (1989) for muscle ("soft") and cortical bone; "spongy" is two parts of bone
# in five and three of soft; "task group" is the soft tissue of the AAPM's Report 195 (2015).
COMPOSITIONS: dict[str, tuple[float, dict[str, float]]] = {
    "water": (1.0, {"H": 0.1119, "O": 0.8881}),
    "tissue": (1.0, _SOFT),
    "soft": (1.05, _SOFT),
    "spongy": (1.18, {e: 0.4 * _BONE.get(e, 0) + 0.6 * _SOFT.get(e, 0) for e in _SOFT | _BONE}),
    "bone": (1.92, _BONE),
    "air": (0.0012048, {"C": 0.0001, "N": 0.7553, "O": 0.2318, "Ar": 0.0128}),
    "pmma": (1.19, {"H": 0.0805, "C": 0.5998, "O": 0.3196}),
    "task group": (
        1.03,
        {"H": 0.105, "C": 0.256, "N": 0.027, "O": 0.602, "Na": 0.001, "P": 0.002, "S": 0.003, "Cl": 0.002, "K": 0.002},
    ),
}


@dataclass(frozen=True, eq=False)
class Medium:
    """What the transport asks of one material, at a density of 1 g/cm^3.

    ``photo``, ``incoherent``, ``coherent``: 1/mm by keV from 8 to 151. ``s`` is the incoherent scattering function over Z and
    ``f2`` the squared form factor, both by x = sin(theta / 2) / lambda in steps of 0.01 / Angstrom; ``cdf``: of F^2 by x^2.
    ``norm_i``, ``norm_c``: integral over the sphere of the angular distributions, by keV.
    """

    photo: NDArray[np.float64]
    incoherent: NDArray[np.float64]
    coherent: NDArray[np.float64]
    s: NDArray[np.float64]
    f2: NDArray[np.float64]
    cdf: NDArray[np.float64]
    norm_i: NDArray[np.float64]
    norm_c: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float64]:
        return self.photo + self.incoherent + self.coherent


_X = np.arange(0, _XMAX + 0.005, 0.01)
KEV = np.arange(_LOW, _HIGH + 1, dtype=float)


def _klein_nishina(kev: NDArray, cosine: NDArray) -> NDArray:
    ratio = 1 / (1 + kev / _MC2 * (1 - cosine))
    return ratio**2 * (ratio + 1 / ratio - (1 - cosine**2)) / 2


@cache
def _scattering_function(element: str) -> NDArray[np.float64]:
    """Incoherent scattering function over Z, by x.

    Hydrogen: 1 - f^2, exact for one electron. Others: 1 - (1 + (b x)^2)^-p with b and p fitted so that the integral over the
    sphere gives the total cross-sections of the tables between 10 and 150 keV.
    """
    import xraydb
    from scipy.optimize import least_squares

    if element == "H":
        return 1 - xraydb.f0("H", _X) ** 2
    z, mass = xraydb.atomic_number(element), xraydb.atomic_mass(element)
    kev = np.array([10, 15, 20, 30, 40, 60, 80, 100, 150.0])
    # cm^2/g to r_e^2 per electron
    wanted = xraydb.mu_elam(element, kev * 1e3, kind="incoh") * mass / 0.602214076 / 0.0794079 / z
    cosine, weights = np.polynomial.legendre.leggauss(200)
    angular = _klein_nishina(kev[:, None], cosine)
    x = np.sqrt((1 - cosine) / 2) * kev[:, None] / _HC

    def off(p: NDArray) -> NDArray:
        return 2 * np.pi * ((1 - (1 + (p[0] * x) ** 2) ** -p[1]) * angular) @ weights / wanted - 1

    b, p = least_squares(off, [3.0, 1.0]).x
    return 1 - (1 + (b * _X) ** 2) ** -p


@cache
def medium(name: str) -> Medium:
    """The tables of a material of ``COMPOSITIONS``."""
    import xraydb

    _, parts = COMPOSITIONS[name]
    total = sum(parts.values())
    by_kind = {
        kind: sum(w / total * xraydb.mu_elam(e, KEV * 1e3, kind=kind) for e, w in parts.items()) / 10
        for kind in ("photo", "incoh", "coh")
    }
    atoms = {e: w / xraydb.atomic_mass(e) for e, w in parts.items()}
    electrons = sum(n * xraydb.atomic_number(e) for e, n in atoms.items())
    s = sum(n * xraydb.atomic_number(e) * _scattering_function(e) for e, n in atoms.items()) / electrons
    f2 = sum(n * xraydb.f0(e, np.minimum(_X, 6.0)) ** 2 for e, n in atoms.items())
    # cumulative by x^2, in the steps of _X
    cdf = np.concatenate([[0], np.cumsum((f2[1:] + f2[:-1]) / 2 * np.diff(_X**2))])
    cosine, weights = np.polynomial.legendre.leggauss(400)
    x = np.sqrt((1 - cosine) / 2) * KEV[:, None] / _HC
    norm_i = 2 * np.pi * (np.interp(x, _X, s) * _klein_nishina(KEV[:, None], cosine)) @ weights
    norm_c = 2 * np.pi * (np.interp(x, _X, f2) * (1 + cosine**2) / 2) @ weights
    return Medium(by_kind["photo"], by_kind["incoh"], by_kind["coh"], s, f2, cdf, norm_i, norm_c)


@cache
def response(csi: float = 0.2) -> NDArray[np.float64]:
    """Absorption coefficient of a scintillator of ``csi`` g/cm^2 of caesium iodide, times its thickness, by keV."""
    import xraydb

    mass = {"Cs": 132.905, "I": 126.904}
    return csi * sum(m / sum(mass.values()) * xraydb.mu_elam(e, KEV * 1e3, kind="photo") for e, m in mass.items())


@numba.njit(cache=True)
def _at(table, kev):  # pragma: no cover
    """Linear between whole keV."""
    f = kev - _LOW
    i = min(max(int(f), 0), table.shape[-1] - 2)
    return table[i] + (f - i) * (table[i + 1] - table[i])


@numba.njit(cache=True)
def _at_x(table, x):  # pragma: no cover
    f = x * 100.0
    i = min(int(f), table.shape[0] - 2)
    return table[i] + min(f - i, 1.0) * (table[i + 1] - table[i])


@numba.njit(cache=True)
def absorbed(depth, kev, cosine):  # pragma: no cover
    """Energy that the scintillator takes from a photon: kev times its absorption along the oblique path."""
    return kev * (1 - math.exp(-_at(depth, kev) / max(cosine, 1e-3)))


@numba.njit(cache=True)
def _compton(kev, s):  # pragma: no cover
    """Cosine of an incoherent scattering angle: uniform cosines, accepted by Klein-Nishina (at most 1) times S."""
    while True:
        c = 2 * np.random.random() - 1
        k = 1 / (1 + kev / _MC2 * (1 - c))
        p = k * k * (k + 1 / k - (1 - c * c)) / 2
        u = np.random.random()
        if u < p and u < p * _at_x(s, math.sqrt((1 - c) / 2) * kev / _HC):
            return c


@numba.njit(cache=True)
def _rayleigh(kev, cdf):  # pragma: no cover
    """Cosine of a coherent scattering angle: x^2 by the form factor, accepted by Thomson's factor."""
    top = kev / _HC
    limit = _at_x(cdf, top)
    while True:
        u = np.random.random() * limit
        i = min(np.searchsorted(cdf, u), cdf.shape[0] - 1)
        a, b = (i - 1) * 0.01, i * 0.01
        fraction = (u - cdf[i - 1]) / max(cdf[i] - cdf[i - 1], 1e-300)
        c = 1 - 2 * min((a * a + fraction * (b * b - a * a)) / (top * top), 1.0)
        if 2 * np.random.random() < 1 + c * c:
            return c


@numba.njit(cache=True)
def turned(ux, uy, uz, c):  # pragma: no cover
    """The direction (ux, uy, uz) turned by the angle of cosine c, about itself at random."""
    phi, s = 2 * math.pi * np.random.random(), math.sqrt(max(1 - c * c, 0.0))
    cp, sp = s * math.cos(phi), s * math.sin(phi)
    if abs(uz) > 0.99999:
        return cp, sp * (1 if uz > 0 else -1), c * (1 if uz > 0 else -1)
    t = math.sqrt(1 - uz * uz)
    return (
        c * ux + (ux * uz * cp - uy * sp) / t,
        c * uy + (uy * uz * cp + ux * sp) / t,
        c * uz - t * cp,
    )


@numba.njit(cache=True)
def _slab(seed, count, kev0, thick, gaps, edges, tables, s, cdf, depth):  # pragma: no cover
    np.random.seed(seed)
    scored = np.zeros((gaps.shape[0], edges.shape[0]))  # the last column: beyond the last edge
    back = np.zeros(2)  # energy scattered back, energy that leaves forward
    unit = absorbed(depth, kev0, 1.0)
    for _ in range(count):
        x, y, z, ux, uy, uz, kev, w = 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, kev0, 1.0
        while True:
            mi, mc = _at(tables[1], kev), _at(tables[2], kev)
            mu = _at(tables[0], kev) + mi + mc
            room = (thick - z) / uz if uz > 1e-9 else (-z / uz if uz < -1e-9 else 1e9)
            inside = 1 - math.exp(-mu * room)
            step = -math.log(1 - np.random.random() * inside) / mu
            x, y, z = x + step * ux, y + step * uy, z + step * uz
            w *= inside * (mi + mc) / mu
            if w < 0.02:  # roulette
                if np.random.random() > 0.2:
                    break
                w *= 5
            if np.random.random() * (mi + mc) < mi:
                c = _compton(kev, s)
                kev = kev / (1 + kev / _MC2 * (1 - c))
            else:
                c = _rayleigh(kev, cdf)
            if kev < _LOW + 1:
                break
            ux, uy, uz = turned(ux, uy, uz, c)
            mu = _at(tables[0], kev) + _at(tables[1], kev) + _at(tables[2], kev)
            if uz > 1e-3:
                d = (thick - z) / uz
                out = w * math.exp(-mu * d)
                back[1] += out * kev / kev0
                score = out * absorbed(depth, kev, uz) / unit
                for g in range(gaps.shape[0]):
                    px, py = x + ux * (d + gaps[g] / uz), y + uy * (d + gaps[g] / uz)
                    r = math.sqrt(px * px + py * py)
                    scored[g, np.searchsorted(edges, r, side="right") - 1] += score
            elif uz < -1e-3:
                back[0] += w * math.exp(mu * z / uz) * kev / kev0
    return scored / count, back / count


@dataclass(frozen=True, eq=False)
class Pencil:
    """Scatter of a pencil beam through a slab, in units of the signal that the beam makes without the slab.

    ``kernel`` [gaps, rings]: signal a mm^2 in each ring; ``beyond`` [gaps]: beyond the last ring; ``primary``: transmission;
    ``forward``, ``backward``: energy that leaves scattered, over the beam's.
    """

    kernel: NDArray[np.float64]
    beyond: NDArray[np.float64]
    primary: float
    forward: float
    backward: float


def slab(name: str, kev: float, thick: float, gaps: NDArray, edges: NDArray, count: int = 100_000, seed: int = 0) -> Pencil:
    """Follow ``count`` photons of ``kev`` through ``thick`` mm of a material at its density.

    ``gaps``: distances of the detector from the slab's far side, mm. ``edges``: of the rings on the detector, mm, from 0.
    """
    m, density = medium(name), COMPOSITIONS[name][0]
    tables = np.stack([m.photo, m.incoherent, m.coherent]) * density
    gaps, edges = np.asarray(gaps, float), np.asarray(edges, float)
    scored, back = _slab(seed, count, kev, thick, gaps, edges, tables, m.s, m.cdf, response())
    area = np.pi * np.diff(edges**2)
    primary = math.exp(-float(np.interp(kev, KEV, tables.sum(0))) * thick)
    return Pencil(scored[:, :-1] / area, scored[:, -1], primary, float(back[1]), float(back[0]))
