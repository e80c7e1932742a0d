"""How the tables of raylign.simulation.spectrum were made; the tests make them again.

Bremsstrahlung of a thick tungsten target after Kramers (1923): photons per keV in proportion to (T0 - E)/E. A photon of energy E
is born where the electron has slowed from T0 to (T0 + E)/2 on average, at half the path of Thomson and Whiddington,
(T0^2 - T^2) / (2 rho c) with c = 0.77e6 keV^2 cm^2/g (Birch and Marshall 1979; half, since electrons scatter sideways), and
leaves under the anode angle. K lines of tungsten (energies and intensities from xraydb) grow as (T0/E_K - 1)^1.63 (Green and
Cosslett 1968) and are a tenth of all photons behind 3 mm aluminium at
100 kV (Bushberg et al., The Essential Physics of Medical Imaging).
"""

from __future__ import annotations

import numpy as np
import xraydb

ANODE_ANGLE, ALUMINIUM_MM, CSI_G_CM2 = 15.0, 3.0, 0.06 * 4.51 * 0.8
EDGES = np.arange(20, 101, 10)
BONE = {"H": 0.034, "C": 0.155, "N": 0.042, "O": 0.435, "Na": 0.001, "Mg": 0.002, "P": 0.103, "S": 0.003, "Ca": 0.225}  # ICRU-44


def fine(kv: float, aluminium_mm: float = ALUMINIUM_MM) -> tuple[np.ndarray, np.ndarray]:
    """Energies (keV, 0.25 apart) and photons per bin behind the filter, before normalisation to one at 3 mm."""
    e = np.arange(15.125, kv, 0.25)

    def filtered(mm: float, lines: bool) -> np.ndarray:
        mean = (kv + e) / 2
        depth = (kv**2 - mean**2) / (2 * 19.25 * 0.77e6)
        out = (kv - e) / e * np.exp(-xraydb.material_mu("W", e * 1e3, density=19.25) * depth / np.tan(np.radians(ANODE_ANGLE)))
        out *= np.exp(-xraydb.material_mu("Al", e * 1e3, density=2.699) * mm / 10)
        if lines:
            for line in xraydb.xray_lines("W", "K").values():
                k = line.energy / 1e3
                height = strength(kv) * line.intensity * np.exp(-xraydb.material_mu("Al", line.energy, density=2.699) * mm / 10)
                out[np.argmin(abs(e - k))] += height
        return out

    def strength(volts: float) -> float:
        return _LINES * max(volts / 69.525 - 1, 0) ** 1.63 if volts > 69.525 else 0.0

    return e, filtered(aluminium_mm, True) / filtered(ALUMINIUM_MM, True).sum()


def _calibrate() -> float:
    """Line strength that makes a tenth of all photons at 100 kV behind 3 mm aluminium."""
    e = np.arange(15.125, 100, 0.25)
    depth = (100.0**2 - ((100 + e) / 2) ** 2) / (2 * 19.25 * 0.77e6)
    smooth = (100 - e) / e * np.exp(-xraydb.material_mu("W", e * 1e3, density=19.25) * depth / np.tan(np.radians(ANODE_ANGLE)))
    smooth *= np.exp(-xraydb.material_mu("Al", e * 1e3, density=2.699) * ALUMINIUM_MM / 10)
    lines = sum(
        line.intensity * np.exp(-xraydb.material_mu("Al", line.energy, density=2.699) * ALUMINIUM_MM / 10)
        for line in xraydb.xray_lines("W", "K").values()
    )
    return float(smooth.sum() / 9 / (lines * (100 / 69.525 - 1) ** 1.63))


_LINES = _calibrate()


def binned(kv: int) -> np.ndarray:
    """Photons in bins of 10 keV from 20 to 100, summing to one."""
    e, n = fine(kv)
    out = np.histogram(e, EDGES, weights=n)[0]
    return out / out.sum()


def mu(material: str, energies: np.ndarray) -> np.ndarray:
    """Attenuation in 1/mm of water, bone (1.92 g/cm3) or steel (iron, 7.9 g/cm3)."""
    ev = np.asarray(energies) * 1e3
    if material == "water":
        return xraydb.material_mu("H2O", ev, density=1.0) / 10
    if material == "steel":
        return xraydb.material_mu("Fe", ev, density=7.9) / 10
    return 1.92 * sum(w * xraydb.mu_elam(el, ev) for el, w in BONE.items()) / sum(BONE.values()) / 10


def absorbed(energies: np.ndarray) -> np.ndarray:
    """Fraction of photons that 0.6 mm of columnar caesium iodide (80 % packed) stops."""
    return 1 - np.exp(-CSI_G_CM2 * xraydb.material_mu("CsI", np.asarray(energies) * 1e3, density=1.0))


def half_value_layer(kv: float) -> float:
    """mm of aluminium that halve air kerma."""
    e, n = fine(kv)
    # mass energy absorption of air (NIST SRD 126), cm2/g
    kerma = e * np.exp(np.interp(np.log(e), np.log([15, 20, 30, 40, 50, 60, 80, 100]),
                                 np.log([1.334, 0.5389, 0.1537, 0.06833, 0.04098, 0.03041, 0.02407, 0.02325])))  # fmt: skip
    al = xraydb.material_mu("Al", e * 1e3, density=2.699) / 10
    mm = np.linspace(0, 10, 2001)
    dose = (np.exp(-np.outer(mm, al)) * (n * kerma)).sum(1)
    return float(np.interp(-dose[0] / 2, -dose, mm))


if __name__ == "__main__":
    centres = (EDGES[1:] + EDGES[:-1]) / 2
    for kv in (80, 90, 100):
        print(kv, np.round(binned(kv), 4).tolist(), "HVL", round(half_value_layer(kv), 2))
    for name in ("water", "bone", "steel"):
        print(name, np.round(mu(name, centres), 5).tolist())
    print("absorbed", np.round(absorbed(centres), 4).tolist())
