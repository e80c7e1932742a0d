"""Makes ``scatter.json`` among the tables of ``simulation.physics``: scatter of thin beams through soft tissue as Gaussians."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import montecarlo as mc
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

KEV = (20, 25, 30, 40, 50, 60, 70, 80, 100, 120, 150)
THICKNESS = (10, 25, 50, 100, 150, 200, 250, 300, 350, 400)  # mm of water of the same mass
GAPS = np.array([25, 50, 100, 200, 300, 500, 800.0])
WIDTHS = np.array([5, 15, 40, 90, 180, 400.0])
WATER_KEV = np.arange(20, 151, 5.0)
EDGES = np.concatenate(
    [np.arange(*r) for r in ((0, 20, 2), (20, 60, 5), (60, 120, 10), (120, 260, 20), (260, 500, 40), (500, 1001, 100))]
).astype(float)
TABLE = Path(__file__).resolve().parents[1] / "src" / "raylign" / "simulation" / "physics" / "tables" / "scatter.json"


def rings(edges: NDArray = EDGES, widths: NDArray = WIDTHS) -> NDArray[np.float64]:
    """[rings, Gaussians]: share of each Gaussian in each ring."""
    return np.exp(-(edges[:-1, None] ** 2) / (2 * widths**2)) - np.exp(-(edges[1:, None] ** 2) / (2 * widths**2))


def fitted(pencil: mc.Pencil, reach: float = 700.0) -> NDArray[np.float64]:
    """[gaps, Gaussians]: scatter over primary of each Gaussian, by non-negative least squares on the rings within ``reach``."""
    out = np.zeros((len(pencil.kernel), len(WIDTHS)))
    for g, kernel in enumerate(pencil.kernel):
        y = kernel * np.pi * np.diff(EDGES**2)
        total = y.sum()
        weight = (EDGES[1:] <= reach) / np.sqrt(y + 1e-3 * y.max() + 1e-300)  # as counted photons err
        out[g] = nnls(rings() * weight[:, None], y / total * weight)[0] * total / pencil.primary
    return out


def rounded(x: Any) -> Any:
    """Nested lists of numbers with four digits."""
    return [rounded(y) for y in x] if np.ndim(x) else float(f"{float(x):.4g}")


def make(photons: int = 400_000) -> None:
    """Follow ``photons`` for every energy and thickness (some two minutes) and write the table."""
    ratio = np.zeros((len(KEV), len(THICKNESS) + 1, len(GAPS), len(WIDTHS)))
    for i, kev in enumerate(KEV):
        for j, thick in enumerate(THICKNESS):
            ratio[i, j + 1] = fitted(mc.slab("tissue", kev, thick, GAPS, EDGES, photons, seed=100 * i + j))
        print(f"{kev} keV", file=sys.stderr, flush=True)
    content = {
        "about": "Scatter over primary of thin beams through soft tissue (ICRU-44, 1 g/cm3), by Gaussians of width_mm at the "
        "detector: ratio[kev][thickness_mm][gap_mm][width_mm]; tissue_per_mm is its attenuation. "
        "Made by benchmarks/scatter.py --make",
        "kev": rounded(KEV),
        "thickness_mm": rounded((0, *THICKNESS)),
        "gap_mm": rounded(GAPS),
        "width_mm": rounded(WIDTHS),
        "tissue_kev": rounded(WATER_KEV),
        "tissue_per_mm": rounded(np.interp(WATER_KEV, mc.KEV, mc.medium("tissue").total)),
        "ratio": rounded(ratio),
    }
    TABLE.write_text(json.dumps(content, separators=(",", ":")) + "\n")
