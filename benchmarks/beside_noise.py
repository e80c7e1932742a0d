"""Noise of flat parts of pictures: power spectra and the slope of the variance over the mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def flattened(patch: NDArray[np.float64]) -> NDArray[np.float64]:
    """A square patch less its best quadratic surface."""
    n = patch.shape[0]
    y, x = np.mgrid[:n, :n] / n - 0.5
    basis = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], -1).reshape(-1, 6)
    return patch - (basis @ np.linalg.lstsq(basis, patch.ravel(), rcond=None)[0]).reshape(n, n)


def patches(picture: NDArray[np.float64], where: list[tuple[int, int]], size: int) -> NDArray[np.float64]:
    """[P, size, size], flattened; ``where`` are (row, column) of their first pixels."""
    return np.stack([flattened(picture[r : r + size, c : c + size]) for r, c in where])


def power(flat: NDArray[np.float64], pitch: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise power spectrum by frequency, radial mean: 1/mm, and the squared unit of the picture times mm^2.

    ``flat`` [P, n, n]; the mean of |FFT|^2 pitch^2 / n^2 (IEC 62220-1), over all patches and rings of 1 / (n pitch).
    """
    n = flat.shape[-1]
    spectrum = (np.abs(np.fft.fft2(flat)) ** 2).mean(0) * pitch**2 / n**2
    f = np.fft.fftfreq(n, pitch)
    ring = np.rint(np.hypot(f[:, None], f) * n * pitch).astype(int)
    rings = np.arange(1, n // 2 + 1)
    return rings / (n * pitch), np.array([spectrum[ring == k].mean() for k in rings])
