"""What is known of a pose before the images are looked at, as penalties.

A penalty is the negative logarithm of a density, without its constant: 0 at the most probable pose. A classical registration
maximises ``(1 - w) S - w P`` of a similarity S and the sum P of its penalties, as xReg does with w = 0.1 (Grupp et al. 2020).
Rotations and shifts are those from the start, along and about the axes of the first view, about the model's centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View
from raylign.registration.pyramid import Array64

_NOWHERE = 1e12  # squared pixels: a landmark that has no image


@dataclass(frozen=True, eq=False)
class Frame:
    """Where a registration began, and the axes it is described along.

    Parameters
    ----------
    start: [4, 4] ``T_world_from_volume``.
    axes: [3, 3], the first view's columns, rows and beam as columns.
    centre: [3] the model's centre in world mm under ``start``.
    """

    start: Float[Array64, "4 4"]
    axes: Float[Array64, "3 3"]
    centre: Float[Array64, "3"]

    def offsets(self, poses: Float[Array64, "B 4 4"]) -> tuple[Float[Array64, "B 3 3"], Float[Array64, "B 3"]]:
        """Rotations [B, 3, 3] and shifts of the centre in mm [B, 3] that lead from the start to poses, in the frame's axes."""
        turns = poses[:, :3, :3] @ self.start[:3, :3].T
        in_model = self.start[:3, :3].T @ (self.centre - self.start[:3, 3])
        shifts = poses[:, :3, :3] @ in_model + poses[:, :3, 3] - self.centre
        return self.axes.T @ turns @ self.axes, shifts @ self.axes


class Prior(Protocol):
    """Anything that finds poses more or less probable."""

    def penalty(self, poses: Float[Array64, "B 4 4"], frame: Frame) -> Float[Array64, " B"]:
        """Of B poses ``T_world_from_volume``: 0 for the most probable, more for others."""
        ...


def _positive(values: Sequence[float], field_name: str) -> None:
    if not all(np.isfinite(v) and v > 0 for v in values):
        raise InputError(f"standard deviations {tuple(values)}", field=field_name, remedy="give positive numbers")


@dataclass(frozen=True)
class FoldedNormal:
    """The law of |x| of a Gaussian x: ``log p(r) = log(exp(-(r - m)^2 / 2 s^2) + exp(-(r + m)^2 / 2 s^2)) + const``, r >= 0.

    Parameters
    ----------
    mean, sd: m and s of the Gaussian that is folded. xReg's folded normal.

    Raises
    ------
    InputError: a negative mean, a standard deviation that is not positive.
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        _positive([self.sd], "sd")
        if not (np.isfinite(self.mean) and self.mean >= 0):
            raise InputError(f"a mean of {self.mean:g}", field="mean", remedy="give 0 or more")

    def penalty(self, r: Float[Array64, " B"]) -> Float[Array64, " B"]:
        """``-log p(r)`` above that of the most probable r; r >= 0."""
        if self.mean <= self.sd:  # up to there the density falls from 0 on
            return self._raw(r) - self._raw(np.zeros(1))
        mode = self.mean
        for _ in range(60):  # p'(r) = 0 where r = m tanh(r m / s^2)
            mode = self.mean * np.tanh(mode * self.mean / self.sd**2)
        return self._raw(r) - self._raw(np.array([mode]))

    def _raw(self, r: Array64) -> Array64:
        two = 2 * self.sd**2
        values: Array64 = -np.logaddexp(-((r - self.mean) ** 2) / two, -((r + self.mean) ** 2) / two)
        return values


@dataclass(frozen=True)
class Magnitudes:
    """Folded normals on the angle of the rotation (degrees) and the length of the shift (mm), independent."""

    degrees: FoldedNormal = field(default_factory=lambda: FoldedNormal(0.0, 15.0))
    mm: FoldedNormal = field(default_factory=lambda: FoldedNormal(0.0, 50.0))

    def penalty(self, poses: Float[Array64, "B 4 4"], frame: Frame) -> Float[Array64, " B"]:
        """Sum of both."""
        turns, shifts = frame.offsets(poses)
        cosine = (np.trace(turns, axis1=1, axis2=2) - 1) / 2
        skew = turns - turns.transpose(0, 2, 1)
        sine = np.sqrt(skew[:, 2, 1] ** 2 + skew[:, 0, 2] ** 2 + skew[:, 1, 0] ** 2) / 2
        angle = np.degrees(np.arctan2(sine, cosine))  # exact near 0, where the arc cosine of a trace is not
        total: Array64 = self.degrees.penalty(angle) + self.mm.penalty(np.linalg.norm(shifts, axis=1))
        return total


@dataclass(frozen=True)
class PerAxis:
    """Independent Gaussians, mean 0, on the Euler angles ``R = Rx Ry Rz`` (degrees) and the shifts (mm).

    The default is that of xReg's single-view pelvis registration: 15, 15, 10 degrees; 30, 30, 150 mm; about and along the
    image's columns, its rows and the beam.

    Raises
    ------
    InputError: standard deviations that are not positive.
    """

    degrees: tuple[float, float, float] = (15.0, 15.0, 10.0)
    mm: tuple[float, float, float] = (30.0, 30.0, 150.0)

    def __post_init__(self) -> None:
        _positive(self.degrees, "degrees")
        _positive(self.mm, "mm")

    def penalty(self, poses: Float[Array64, "B 4 4"], frame: Frame) -> Float[Array64, " B"]:
        """``sum x^2 / 2 s^2`` over the six."""
        turns, shifts = frame.offsets(poses)
        x = np.arctan2(-turns[:, 1, 2], turns[:, 2, 2])
        y = np.arcsin(np.clip(turns[:, 0, 2], -1, 1))
        z = np.arctan2(-turns[:, 0, 1], turns[:, 0, 0])
        angles = np.degrees(np.stack([x, y, z], 1)) / np.array(self.degrees)
        total: Array64 = 0.5 * (angles**2).sum(1) + 0.5 * ((shifts / np.array(self.mm)) ** 2).sum(1)
        return total


@dataclass(frozen=True, eq=False)
class Reprojection:
    """Landmarks seen in the images: ``sum |project(T p) - q|^2 / 2 s^2`` over landmarks and views, divided by their number.

    The mean, not xReg's sum, so that its weight does not depend on how many landmarks somebody clicked.

    Parameters
    ----------
    points: [N, 3] patient LPS mm.
    seen: for each view [N, 2] pixels (column, row), NaN where a landmark is not seen.
    views: the exposures' geometry.
    sd: pixels.

    Raises
    ------
    InputError: shapes that do not fit together, no landmark that is seen, a standard deviation that is not positive.
    """

    points: Float[Tensor, "N 3"]
    seen: tuple[Float[Tensor, "N 2"], ...]
    views: tuple[View, ...]
    sd: float = 5.0

    def __post_init__(self) -> None:
        _positive([self.sd], "sd")
        points = torch.as_tensor(self.points, dtype=torch.float64)
        seen = tuple(torch.as_tensor(s, dtype=torch.float64) for s in self.seen)
        if points.ndim != 2 or points.shape[1] != 3 or len(seen) != len(self.views):
            raise InputError("landmarks are [N, 3] and, for each view, [N, 2]", field="landmarks")
        if any(s.shape != (len(points), 2) for s in seen) or not any(bool(s.isfinite().all(1).any()) for s in seen):
            raise InputError(
                "no landmark is seen, or their numbers differ", field="landmarks", remedy="give [N, 2] for each view"
            )
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "seen", seen)

    def penalty(self, poses: Float[Array64, "B 4 4"], frame: Frame) -> Float[Array64, " B"]:
        """The mean over landmarks and views; of a pose that has a landmark behind the source, next to impossible."""
        matrices = torch.from_numpy(np.ascontiguousarray(poses, np.float64))
        world = self.points @ matrices[:, :3, :3].transpose(1, 2) + matrices[:, None, :3, 3]
        total, count = torch.zeros(len(matrices), dtype=torch.float64), 0
        for view, seen in zip(self.views, self.seen, strict=True):
            there = seen.isfinite().all(1)
            square = (view.project(world[:, there]) - seen[there]).square().sum((1, 2)).detach()
            if view.beam != "parallel":  # a projection takes what is behind the source through it, often to the right pixel
                depth = (world[:, there] - view.source.detach()) @ view.normal.detach()
                square = torch.where((depth > 0).all(1), square, _NOWHERE)
            total = total + square.nan_to_num(nan=_NOWHERE, posinf=_NOWHERE)
            count += int(there.sum())
        return (total / (2 * self.sd**2 * count)).numpy()


def penalties(priors: Sequence[Prior], poses: Float[Array64, "B 4 4"], frame: Frame) -> Float[Array64, " B"]:
    """The sum over priors, zero where there is none."""
    return sum((p.penalty(poses, frame) for p in priors), np.zeros(len(poses)))
