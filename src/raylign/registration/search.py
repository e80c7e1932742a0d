"""Where to begin: poses spread over what a rough start leaves open."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from raylign.geometry import View
from raylign.registration.rotations import matrix_of, offset_of

Array64 = NDArray[np.float64]


INSIDE = 0.9
"""Of the bounds of a search: a pose that lies farther out lies at their edge."""


def camera_axes(view: View) -> Array64:
    """Orthonormal axes of a view as columns: along its columns, along its rows (made square to them), along the beam."""
    columns = (view.column_step / view.column_step.norm()).detach()
    beam = view.normal.detach()
    rows = torch.linalg.cross(beam, columns)
    rows = rows * torch.sign(rows @ view.row_step.detach())
    return torch.stack([columns, rows, beam], 1).numpy()


def moved(matrix: Array64, twist: Array64, centre: Array64) -> Array64:
    """``matrix``, then turned about ``centre`` (world mm) and shifted, as ``twist`` (rotation vector, mm) says."""
    turn = matrix_of(twist[:3])
    out = matrix.copy()
    out[:3, :3] = turn @ matrix[:3, :3]
    out[:3, 3] = turn @ (matrix[:3, 3] - centre) + centre + twist[3:]
    return out


def spread(count: int, degrees: float, mm: tuple[float, float, float], axes: Array64, seed: int) -> Array64:
    """``count`` twists in world axes that fill a box of +-degrees about and +-mm along the view's axes; the first is zero.

    A scrambled Sobol sequence: even coverage at any count, the same for the same seed.
    """
    from scipy.stats import qmc  # a slow import, and only a search needs it

    size = 1 << max(0, int(np.ceil(np.log2(max(count, 1)))))
    cube = qmc.Sobol(6, scramble=True, rng=np.random.default_rng(seed)).random(size)[:count] * 2 - 1
    cube[0] = 0
    twists = cube * np.array([np.radians(degrees)] * 3 + list(mm))
    return np.concatenate([twists[:, :3] @ axes.T, twists[:, 3:] @ axes.T], 1)


@dataclass(frozen=True, eq=False)
class Bounds:
    """How far a registration may go from its start: half as far again as the starts are spread.

    Parameters
    ----------
    start: the pose it is measured from.
    axes: camera axes as columns.
    centre: the model's centre in world mm at the start, about which rotations are measured.
    degrees, mm, depth: half widths of the box of starts, about each axis, across the beam and along it.
    """

    start: Array64
    axes: Array64
    centre: Array64
    degrees: float
    mm: float
    depth: float

    def offset(self, matrix: Array64) -> tuple[Array64, Array64]:
        """Rotation vector in degrees, and shift of the centre in mm, of a pose from the start, along the axes."""
        turn, shift = offset_of(matrix, self.start, self.axes, self.centre)
        return turn, shift

    def reach(self, share: float = 1.0) -> tuple[float, float, float]:
        """How far the centre may go along each axis, mm, of a box that is a share of this one."""
        across, along = (1.5 * share * most + 5 for most in (self.mm, self.depth))
        return across, across, along

    def hold(self, matrix: Array64, share: float = 1.0) -> bool:
        """Whether a pose lies within, or within a box that is a share of this one."""
        turns, shifts = self.offset(matrix)
        near = all(abs(shift) <= most for shift, most in zip(shifts, self.reach(share), strict=True))
        return near and all(abs(turn) <= 1.5 * share * self.degrees + 5 for turn in turns)


def separation(a: Array64, b: Array64, centre: Array64, radius: float) -> float:
    """How far apart two poses put the model, mm: its centre (world mm under ``a``), plus what the turn moves at ``radius``."""
    return float(_separation(a, b, centre, radius))


@njit(cache=True, nogil=True)
def _separation(a, b, centre, radius):  # type: ignore[no-untyped-def]
    trace = 0.0
    square = 0.0
    for i in range(3):
        for j in range(3):
            trace += a[i, j] * b[i, j]
    for i in range(3):
        away = b[i, 3] - centre[i]
        for j in range(3):
            in_model = a[0, j] * (centre[0] - a[0, 3]) + a[1, j] * (centre[1] - a[1, 3]) + a[2, j] * (centre[2] - a[2, 3])
            away += b[i, j] * in_model
        square += away * away
    return math.sqrt(square) + radius * math.acos(min(max((trace - 1) / 2, -1.0), 1.0))
