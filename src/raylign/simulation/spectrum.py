"""Photons of a tungsten tube and what matter and detector do to them, in eight bins of 10 keV.

Spectra: Kramers' bremsstrahlung (1923) with self-absorption in the anode and tungsten K lines, behind 3 mm aluminium, energies
below 20 keV dropped; the half-value layers are 3.0, 3.5 and 4.0 mm aluminium at 80, 90 and 100 kV. Attenuation: xraydb 4.5
(Elam tables) at the middle of each bin, for water, ICRU-44 cortical bone (1.92 g/cm3) and steel (iron, 7.9 g/cm3). Detector:
0.6 mm of columnar caesium iodide. The computation is in tests/simulation/tungsten.py, and the tests hold these tables to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError

ENERGIES = (25.0, 35.0, 45.0, 55.0, 65.0, 75.0, 85.0, 95.0)  # keV
_PHOTONS = {
    80: (0.1639, 0.2833, 0.2426, 0.1880, 0.0956, 0.0266, 0.0, 0.0),
    90: (0.1279, 0.2404, 0.2209, 0.2168, 0.1207, 0.0560, 0.0173, 0.0),
    100: (0.1016, 0.2071, 0.2013, 0.2363, 0.1337, 0.0694, 0.0386, 0.0120),
}
WATER = (0.05082, 0.03075, 0.02436, 0.02149, 0.01987, 0.01879, 0.01799, 0.01735)  # 1/mm
BONE = (0.41437, 0.17397, 0.09963, 0.06913, 0.05411, 0.04569, 0.04047, 0.03697)
STEEL = (10.82456, 4.17558, 2.06472, 1.19657, 0.77546, 0.54626, 0.41062, 0.32492)
ABSORBED = (0.9586, 0.9816, 0.9744, 0.8852, 0.7496, 0.6114, 0.4921, 0.3961)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What an energy-integrating detector sees of a beam, a value per energy bin.

    Parameters
    ----------
    photons: [B] photons that the detector stops in the open beam, summing to one.
    weight: [B] signal of one such photon; the mean over the open beam is one.
    attenuation: [B, 3] of water, bone and steel, 1/mm.
    """

    photons: Float[Tensor, " B"]
    weight: Float[Tensor, " B"]
    attenuation: Float[Tensor, "B 3"]

    def transmitted(self, paths: Float[Tensor, "3 H W"]) -> Float[Tensor, "B H W"]:
        """Photons stopped in the detector, by bin, behind mm of water, bone and steel; one in all in the open beam."""
        exponent = torch.einsum("bm,mhw->bhw", self.attenuation.to(paths.dtype), paths)
        return self.photons.to(paths.dtype)[:, None, None] * torch.exp(-exponent)

    def signal(self, photons: Float[Tensor, "B H W"]) -> Float[Tensor, "H W"]:
        """Signal of photons by bin, in units of the mean photon of the open beam."""
        return torch.einsum("b,bhw->hw", self.weight.to(photons.dtype), photons)


def spectrum(kv: int) -> Spectrum:
    """The beam of a tube at 80, 90 or 100 kV (peak), as the detector sees it.

    Raises
    ------
    InputError: another voltage.
    """
    if kv not in _PHOTONS:
        raise InputError(f"no spectrum at {kv} kV", field="kv", remedy=f"use one of {sorted(_PHOTONS)}")
    stopped = torch.tensor(_PHOTONS[kv], dtype=torch.float64) * torch.tensor(ABSORBED, dtype=torch.float64)
    stopped = stopped / stopped.sum()
    energy = torch.tensor(ENERGIES, dtype=torch.float64)
    attenuation = torch.tensor([WATER, BONE, STEEL], dtype=torch.float64).T
    return Spectrum(stopped, energy / (energy @ stopped), attenuation)
