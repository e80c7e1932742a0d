"""Makes the tables of ``raylign.simulation.physics.tables`` again; the tests hold the committed ones to it.

Spectra: SpekPy 2 (Poludniowski, Omar, Bujila and Andreo 2021; Omar, Andreo and Poludniowski 2020), its default physics, a
tungsten target at 12 degrees, unfiltered but for the target itself, photons per bin of 1 keV. Attenuation: xraydb (Elam, Ravel
and Sieber 2002) at the middle of each bin, for the compositions of ICRU Report 44 (1989) and for pure metals.

``python -m tests.simulation.make_tables`` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[2] / "src" / "raylign" / "simulation" / "physics" / "tables"
ANODE_DEG, LOWEST, HIGHEST, STEP_KV = 12.0, 15, 150, 5
ENERGIES = np.arange(LOWEST, HIGHEST) + 0.5  # keV
VOLTAGES = np.arange(40, 151, STEP_KV)

# density in g/cm3 and shares of mass; tissues as in ICRU-44, table 4.1
MATERIALS: dict[str, tuple[float, dict[str, float]]] = {
    "water": (1.0, {"H": 0.111894, "O": 0.888106}),
    "adipose": (0.95, {"H": 0.114, "C": 0.598, "N": 0.007, "O": 0.278, "Na": 0.001, "S": 0.001, "Cl": 0.001}),
    "soft": (
        1.05,
        {"H": 0.102, "C": 0.143, "N": 0.034, "O": 0.710, "Na": 0.001, "P": 0.002, "S": 0.003, "Cl": 0.001, "K": 0.004},
    ),
    "bone": (
        1.92,
        {"H": 0.034, "C": 0.155, "N": 0.042, "O": 0.435, "Na": 0.001, "Mg": 0.002, "P": 0.103, "S": 0.003, "Ca": 0.225},
    ),
    "lung": (
        0.26,
        {"H": 0.103, "C": 0.105, "N": 0.031, "O": 0.749, "Na": 0.002, "P": 0.002, "S": 0.003, "Cl": 0.003, "K": 0.002},
    ),
    "blood": (
        1.06,
        {
            "H": 0.102,
            "C": 0.110,
            "N": 0.033,
            "O": 0.745,
            "Na": 0.001,
            "P": 0.001,
            "S": 0.002,
            "Cl": 0.003,
            "K": 0.002,
            "Fe": 0.001,
        },
    ),
    "iodine": (4.93, {"I": 1.0}),
    "steel": (8.0, {"Fe": 0.655, "Cr": 0.17, "Ni": 0.12, "Mo": 0.025, "Mn": 0.02, "Si": 0.01}),  # AISI 316L
    "titanium": (4.43, {"Ti": 0.90, "Al": 0.06, "V": 0.04}),  # Ti-6Al-4V
    "nitinol": (6.45, {"Ni": 0.56, "Ti": 0.44}),
    "platinum": (21.45, {"Pt": 1.0}),
    "aluminium": (2.699, {"Al": 1.0}),
    "tungsten": (19.3, {"W": 1.0}),
    "lead": (11.35, {"Pb": 1.0}),
    "plastic": (1.19, {"H": 0.080538, "C": 0.599848, "O": 0.319614}),  # PMMA
    "polyurethane": (1.20, {"H": 0.081, "C": 0.650, "N": 0.045, "O": 0.224}),
    "copper": (8.96, {"Cu": 1.0}),
    "caesium_iodide": (4.51, {"Cs": 0.511549, "I": 0.488451}),
    "cobalt_chrome": (8.3, {"Co": 0.645, "Cr": 0.28, "Mo": 0.06, "Mn": 0.005, "Si": 0.005, "Fe": 0.005}),  # ISO 5832-12
    "polyethylene": (0.94, {"H": 0.143711, "C": 0.856289}),  # of ultra-high molecular weight
}


def attenuation(name: str, energies: np.ndarray = ENERGIES) -> np.ndarray:
    """Linear attenuation at the material's density, 1/mm."""
    import xraydb

    density, shares = MATERIALS[name]
    mass = sum(share * xraydb.mu_elam(element, np.asarray(energies) * 1e3) for element, share in shares.items())
    return np.asarray(density * mass / sum(shares.values()) / 10)


def photons(kv: float) -> np.ndarray:
    """Unfiltered photons in each bin of 1 keV, summing to one over the table's energies."""
    import spekpy

    k, fluence = spekpy.Spek(kvp=float(kv), th=ANODE_DEG, dk=0.5).get_spectrum(edges=False)
    out = np.histogram(k, np.append(ENERGIES - 0.5, HIGHEST), weights=fluence)[0]
    return np.asarray(out / out.sum())


def spectra_text() -> str:
    """``spectra.csv``."""
    rows = np.stack([photons(kv) for kv in VOLTAGES])
    lines = [
        "# photons of a tungsten target (12 degrees) per bin of 1 keV, unfiltered, each row summing to one; SpekPy 2",
        "kv," + ",".join(f"{e:.1f}" for e in ENERGIES),
    ]
    lines += [f"{kv}," + ",".join(f"{x:.4g}" for x in row).replace("e-0", "e-") for kv, row in zip(VOLTAGES, rows, strict=True)]
    return "\n".join(lines) + "\n"


def attenuation_text() -> str:
    """``attenuation.csv``."""
    lines = [
        "# linear attenuation in 1/mm at the stated density (g/cm3); xraydb (Elam), compositions of ICRU-44",
        "material,density," + ",".join(f"{e:.1f}" for e in ENERGIES),
    ]
    lines += [f"{name},{MATERIALS[name][0]:g}," + ",".join(f"{x:.5g}" for x in attenuation(name)) for name in MATERIALS]
    return "\n".join(lines) + "\n"


def _paths() -> np.ndarray:
    """Attenuation [paths, energies] of what X-rays meet: water, bone, iodine and steel, in all combinations."""
    mm = [(w, b, i, s) for w in (0, 20, 50, 100, 150, 220, 300, 350) for b in (0, 5, 15, 30, 60)
          for i, s in ((0, 0), (0.01, 0), (0.04, 0), (0, 0.1), (0, 0.5), (0, 3))]  # fmt: skip
    names = ("water", "bone", "iodine", "steel")
    return np.asarray(mm) @ np.stack([attenuation(name) for name in names])


def moments(spectra: Mapping[int, np.ndarray] | None = None, count: int = 12) -> np.ndarray:
    """``count`` functions of energy [count, energies] of which exp(-attenuation) of all paths is a sum, nearly.

    The leading right singular vectors of exp(-attenuation) over the paths, each path's row divided by its transmission at ten
    beam qualities (60 to 150 kV, 3 mm Al, 0 and 0.6 mm Cu), so that relative errors count. A beam replaced by ``count`` of its
    energies that keeps these moments keeps the transmission of every path. ``spectra``: unfiltered photons by kV, made anew
    where none are given.
    """
    through, rows, envelope = np.exp(-_paths()), [], np.zeros(len(ENERGIES))
    for kv in (60, 80, 100, 125, 150):
        for copper in (0.0, 0.6):
            filters = 3.0 * attenuation("aluminium") + copper * attenuation("copper")
            stopped = 1 - np.exp(-0.48 * attenuation("caesium_iodide"))
            signal = ENERGIES * (photons(kv) if spectra is None else spectra[kv]) * np.exp(-filters) * stopped
            signal /= signal.sum()
            rows.append(through / np.maximum(through @ signal, 1e-6)[:, None])
            envelope = np.maximum(envelope, signal)
    extra = [30 * np.ones((1, len(ENERGIES))), ENERGIES[None] / 12, 300 / ENERGIES[None]]
    _, _, right = np.linalg.svd(np.vstack(rows + extra) * np.sqrt(envelope), full_matrices=False)
    out = right[:count] / np.sqrt(envelope)
    return np.asarray(out * np.sign(out.sum(1, keepdims=True)))


def moments_text() -> str:
    """``moments.csv``."""
    lines = [
        "# functions of energy whose means over a beam decide how it is transmitted; see tests/simulation/make_tables.py",
        "moment," + ",".join(f"{e:.1f}" for e in ENERGIES),
    ]
    lines += [f"{k}," + ",".join(f"{x:.6g}" for x in row) for k, row in enumerate(moments())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "moments.csv").write_text(moments_text(), encoding="utf-8")
    (FOLDER / "spectra.csv").write_text(spectra_text(), encoding="utf-8")
    (FOLDER / "attenuation.csv").write_text(attenuation_text(), encoding="utf-8")
    print("\n".join(f"{p.name} {p.stat().st_size}" for p in sorted(FOLDER.iterdir())))
