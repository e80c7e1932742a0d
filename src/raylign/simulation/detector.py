"""From photons that arrive to numbers that are stored: scatter, quantum noise, blur, collimator."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.simulation.spectrum import Spectrum


def scattered(primary: Float[Tensor, "H W"], lit: Float[Tensor, "H W"], ratio: float, width: float) -> Float[Tensor, "H W"]:
    """Scattered signal at the detector.

    The patient scatters in proportion to what it removes, ``-P ln P`` of the primary signal P (1 in the open beam; Ohnesorge,
    Flohr and Klingenbeck-Regn 1999), spread by a wide Gaussian. The amount is set so that over the lit pixels behind the patient
    (P under one half) the sum of the scatter is ``ratio`` times the sum of the primary.

    Parameters
    ----------
    primary: signal without scatter, before the collimator, 1 in the open beam.
    lit: 0 to 1, the fraction of each pixel's beam that the collimator lets through.
    ratio: scatter-to-primary ratio.
    width: standard deviation of the spread, pixels.
    """
    from scipy.ndimage import gaussian_filter

    p = primary.double().clamp(1e-9, 1)
    born = (-p * torch.log(p) * lit).numpy()
    spread = torch.from_numpy(gaussian_filter(born, width, mode="constant", truncate=3.0))
    behind = (p < 0.5) & (lit > 0.5)
    total = float(spread[behind].sum())
    if ratio <= 0 or total <= 0:
        return torch.zeros_like(p)
    return spread * (ratio * float(p[behind].sum()) / total)


def quanta(photons: Float[Tensor, "B H W"], beam: Spectrum, generator: torch.Generator) -> Float[Tensor, "H W"]:
    """Signal of a Poisson number of photons in each energy bin: variance ``sum w^2 N``, mean ``sum w N``."""
    counted = torch.poisson(photons.double(), generator=generator)
    return beam.signal(counted)


def blurred(signal: Float[Tensor, "H W"], width: float) -> Float[Tensor, "H W"]:
    """Light that spreads in the scintillator: a Gaussian, ``width`` in pixels. It correlates the noise as well."""
    if width <= 0:
        return signal
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(signal.numpy(), width, mode="nearest"))


def round_field(
    shape: tuple[int, int], fraction: float | None, soft: float = 1.5
) -> tuple[Float[Tensor, "H W"], Bool[Tensor, "H W"]]:
    """Light through a round collimator and the pixels well inside it.

    ``fraction`` is the radius over half the shorter side, ``None`` an open field; the edge is ``soft`` pixels wide.
    """
    h, w = shape
    if fraction is None:
        return torch.ones(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.bool)
    radius = fraction * min(h, w) / 2
    y, x = np.ogrid[:h, :w]
    d = torch.from_numpy(np.hypot(y - (h - 1) / 2, x - (w - 1) / 2)) - radius
    return torch.clamp(0.5 - d / soft, 0, 1), d < -2 * soft
