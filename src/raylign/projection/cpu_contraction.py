"""The gradient by the rays, summed over an image on the CPU (Numba)."""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True, fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")
def by_row(weights, slopes, out, first, last):  # type: ignore[no-untyped-def]
    """For rows first .. last - 1 of all images: ``out[row] = sum over c of w S`` and of ``c w S``, [2, 6] in float64.

    ``weights`` [rows, columns] and ``slopes`` [rows, columns, 6] are float32.
    """
    columns = weights.shape[1]
    for row in range(first, last):
        for i in range(6):
            plain, moment = 0.0, 0.0
            for c in range(columns):
                product = float(weights[row, c]) * float(slopes[row, c, i])
                plain += product
                moment += c * product
            out[row, 0, i] = plain
            out[row, 1, i] = moment
