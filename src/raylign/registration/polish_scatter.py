"""Where scatter comes from: what the rays beside a pixel bring, spread by Gaussians.

A ray's scatter lands about it in a shape that widens with the way to the detector, and there is more of it the thicker the
patient (Ohnesorge, Flohr and Klingenbeck-Regn 1999; Sun and Star-Lack 2010). To first order in the thickness t,

    S = sum_j G_j * [ (a_j + b_j t) P ],        t ~ -log P

with Gaussians ``G_j`` of fixed widths, a factor of two apart. The numbers ``a_j``, ``b_j`` are fitted to each exposure: which
beam, grid, patient and distance, or veiling glare, made them is not asked. For ``P`` stands the exposure itself, scattered light
included, and not what the model shows: it holds the body beyond the model too, and does not move with the pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.data import XRay
from raylign.registration.pyramid import Array64

_WIDTHS = (10.0, 20.0, 40.0, 80.0)  # mm on the detector, standard deviations
_CELLS = 96  # along the longer side of an exposure, about: the narrowest Gaussian is wider than one of them


@dataclass(frozen=True, eq=False)
class Sources:
    """What an exposure's own intensities spread to, on coarse cells, and where a level's pixels lie among them.

    Parameters
    ----------
    maps: [8, h, w]: ``G_j * P`` and ``G_j * (t P)``, relative to the exposure's median intensity.
    down, across: [H, h] and [W, w], linear interpolation of rows and of columns.
    """

    maps: Array64
    down: Array64
    across: Array64

    def at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Array64:
        """[8, n] at pixels of the level."""
        wide = np.einsum("kij,nj->kin", self.maps, self.across[columns], optimize=True)
        return np.asarray(np.einsum("kin,ni->kn", wide, self.down[rows], optimize=True))

    def image(self, amounts: Array64) -> Array64:
        """[H, W]: the maps added up."""
        return np.asarray(self.down @ np.tensordot(amounts, self.maps, 1) @ self.across.T)


def sources(xray: XRay, region: tuple[slice, slice], factor: int) -> Sources:
    """The maps of an exposure for a level that takes ``factor`` x ``factor`` of its pixels within ``region`` as one.

    Pixels outside the exposure's mask are taken for dark.
    """
    from scipy.ndimage import gaussian_filter

    h, w = xray.view.shape
    cell = max(1, round(max(h, w) / _CELLS))
    tall, wide = -(-h // cell), -(-w // cell)
    inside = xray.mask.numpy()
    f = xray.image.numpy()
    middle = float(np.median(f[inside])) if inside.any() else 0.0
    light = np.zeros((tall * cell, wide * cell), np.float32)
    light[:h, :w] = np.where(inside, np.exp(np.float32(middle) - f), np.float32(0.0))
    primary = light.reshape(tall, cell, wide, cell).mean((1, 3), dtype=np.float64)
    thick = -np.log(np.maximum(primary, 1e-4))
    step_down, step_across = (float(s) * cell for s in xray.view.pixel_spacing)
    maps = [
        gaussian_filter(source, (width / step_down, width / step_across), mode="constant")
        for width in _WIDTHS
        for source in (primary, primary * thick)
    ]
    rows, columns = region
    return Sources(
        np.stack(maps),
        _between(rows.start, rows.stop, factor, cell, tall),
        _between(columns.start, columns.stop, factor, cell, wide),
    )


def _between(start: int, stop: int, factor: int, cell: int, count: int) -> Array64:
    """[(stop - start) // factor, count]: weights of cells in linear interpolation at the middles of blocks of pixels."""
    at = (start + (np.arange((stop - start) // factor) + 0.5) * factor) / cell - 0.5
    return np.maximum(0.0, 1.0 - np.abs(np.clip(at, 0, count - 1)[:, None] - np.arange(count)))
