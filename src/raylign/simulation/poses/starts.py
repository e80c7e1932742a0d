"""Where a registration starts: poses about the truth, about a canonical pose, or at a stated distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.simulation.poses.bins import Bin, scaled_into
from raylign.simulation.poses.carms import image_axes
from raylign.simulation.poses.laws import Generators, Law, law_to_dict, uniforms
from raylign.simulation.poses.motions import Motion, moved, turned
from raylign.simulation.poses.targets import motion_to_dict


class StartSampler(Protocol):
    """Anything that draws starting poses."""

    @property
    def name(self) -> str: ...

    def draw(
        self,
        truth: Float[Tensor, "B 4 4"],
        views: Sequence[View],
        centre: Float[Tensor, "3"],
        targets: Float[Tensor, "N 3"],
        generator: Generators,
    ) -> Float[Tensor, "B 4 4"]:
        """One starting pose for each true one.

        Parameters
        ----------
        truth: [B, 4, 4] ``T_world_from_volume``.
        views: B views, whose columns, rows and normals are the axes of shifts and turns.
        centre: patient mm of the point about which turns turn: the left ventricle's centre, the volume's centre.
        targets: [N, 3] patient mm, over which mTRE is the mean.
        generator: one stream for all, or one a start.

        Returns
        -------
        [B, 4, 4] float64 on the truth's device.

        Raises
        ------
        InputError: numbers of poses, views and streams that do not fit together.
        """
        ...

    def describe(self) -> str:
        """The distribution in words."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Everything that was stated or chosen, for JSON."""
        ...


@dataclass(frozen=True)
class _Given:
    """What a draw was asked for, checked: poses, the axes of their images, the centre."""

    truth: Tensor
    axes: Tensor
    centre: Tensor

    @staticmethod
    def of(truth: Tensor, views: Sequence[View], centre: Tensor) -> _Given:
        poses = torch.as_tensor(truth, dtype=torch.float64)
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or len(views) != len(poses):
            raise InputError(
                f"{len(views)} views for poses of shape {tuple(poses.shape)}", field="truth", remedy="give [B, 4, 4]"
            )
        at = torch.as_tensor(centre, dtype=torch.float64, device=poses.device)
        return _Given(poses, image_axes(views).to(poses.device), at)

    def moved(self, base: Tensor, values: Tensor) -> Tensor:
        """The base poses after shifts (mm) and turns (degrees) along and about the images' axes."""
        values = values.to(self.truth.device)
        shift = (values[:, None, :3] @ self.axes)[:, 0]
        return moved(base, self.centre, turned(self.axes, values[:, 3:]), shift)


def canonical(centre: Float[Tensor, "3"], count: int) -> Float[Tensor, "count 4 4"]:
    """The pose with a point of the patient at the isocentre and his axes along the world's."""
    eye = torch.eye(3, dtype=torch.float64, device=centre.device)
    return se3.from_parts(eye, -centre.to(torch.float64)).expand(count, 4, 4)


@dataclass(frozen=True)
class Scattered:
    """Starts by six independent laws.

    Parameters
    ----------
    motion: shifts and turns about the centre, along the axes of each image.
    about: "truth": the true pose is moved. "canonical": the pose with the centre at the isocentre and without rotation is moved,
        wherever the truth lies.
    """

    name: str
    says: str
    chosen: str
    motion: Motion
    about: Literal["truth", "canonical"] = "truth"

    def draw(
        self, truth: Tensor, views: Sequence[View], centre: Tensor, targets: Tensor, generator: Generators
    ) -> Float[Tensor, "B 4 4"]:
        """See ``StartSampler.draw``; the targets do not matter."""
        given = _Given.of(truth, views, centre)
        values = self.motion.at(uniforms(len(views), 6, generator))
        return given.moved(given.truth if self.about == "truth" else canonical(given.centre, len(views)), values)

    def describe(self) -> str:
        """The distribution in words."""
        base = "the truth" if self.about == "truth" else "the centre at the isocentre without rotation"
        return _described(self, f"starts about {base}: {self.motion}")

    def to_dict(self) -> dict[str, Any]:
        """Everything that was stated or chosen, for JSON."""
        return {"kind": "scattered", "name": self.name, "motion": motion_to_dict(self.motion), "about": self.about}


@dataclass(frozen=True)
class Grid:
    """Starts on a square grid of in-plane shifts, with random turns about the depth axis.

    Start i stands in cell i modulo ``size``: row by row (the shift along the rows outside, that along the columns inside), from
    the most negative.
    """

    name: str
    says: str
    chosen: str
    half_mm: float
    step_mm: float
    depth_deg: Law

    def __post_init__(self) -> None:
        steps = 2 * self.half_mm / self.step_mm if self.step_mm > 0 else -1.0
        if steps < 0 or abs(steps - round(steps)) > 1e-9:
            raise InputError(f"no grid of +-{self.half_mm:g} mm in steps of {self.step_mm:g}", field="step_mm")

    @property
    def size(self) -> int:
        """Number of cells."""
        return (round(2 * self.half_mm / self.step_mm) + 1) ** 2

    def draw(
        self, truth: Tensor, views: Sequence[View], centre: Tensor, targets: Tensor, generator: Generators
    ) -> Float[Tensor, "B 4 4"]:
        """See ``StartSampler.draw``; the targets do not matter."""
        given = _Given.of(truth, views, centre)
        side = math.isqrt(self.size)
        cell = torch.arange(len(views)) % self.size
        values = torch.zeros(len(views), 6, dtype=torch.float64)
        values[:, 0] = (cell % side) * self.step_mm - self.half_mm
        values[:, 1] = cell.div(side, rounding_mode="floor") * self.step_mm - self.half_mm
        values[:, 5] = self.depth_deg.at(uniforms(len(views), 1, generator)[:, 0])
        return given.moved(given.truth, values)

    def describe(self) -> str:
        """The distribution in words."""
        grid = f"+-{self.half_mm:g} mm in steps of {self.step_mm:g} along columns and rows"
        return _described(self, f"{self.size} starts about the truth: {grid}; {self.depth_deg} degrees about depth")

    def to_dict(self) -> dict[str, Any]:
        """Everything that was stated or chosen, for JSON."""
        turn = law_to_dict(self.depth_deg)
        return {"kind": "grid", "name": self.name, "half_mm": self.half_mm, "step_mm": self.step_mm, "depth_deg": turn}


@dataclass(frozen=True)
class Ring:
    """Starts at one in-plane distance from the truth, in directions uniform over the circle."""

    name: str
    says: str
    chosen: str
    radius_mm: float
    depth_deg: Law

    def draw(
        self, truth: Tensor, views: Sequence[View], centre: Tensor, targets: Tensor, generator: Generators
    ) -> Float[Tensor, "B 4 4"]:
        """See ``StartSampler.draw``; the targets do not matter."""
        given = _Given.of(truth, views, centre)
        u = uniforms(len(views), 2, generator)
        angle = 2 * math.pi * u[:, 0]
        none = torch.zeros_like(angle)
        shift = [self.radius_mm * angle.cos(), self.radius_mm * angle.sin(), none]
        return given.moved(given.truth, torch.stack([*shift, none, none, self.depth_deg.at(u[:, 1])], 1))

    def describe(self) -> str:
        """The distribution in words."""
        return _described(self, f"starts {self.radius_mm:g} mm in plane from the truth; {self.depth_deg} degrees about depth")

    def to_dict(self) -> dict[str, Any]:
        """Everything that was stated or chosen, for JSON."""
        return {"kind": "ring", "name": self.name, "radius_mm": self.radius_mm, "depth_deg": law_to_dict(self.depth_deg)}


@dataclass(frozen=True)
class Binned:
    """Starts whose mTRE lies in stated bins: uniform within each, exactly by construction.

    A direction is drawn from ``motion``; shift and turn are then scaled by one factor at which the mTRE is the value drawn. The
    turn grows no further than ``largest_deg``; beyond it, the shift alone does the rest. Nothing is drawn again and thrown away.

    Parameters
    ----------
    motion: relative sizes of shifts and turns.
    bins: [low, high) in mm of mTRE. Start i falls in bin i modulo their number, so that every bin gets as many.
    largest_deg: limit of the whole turn, degrees, at most 180.
    """

    name: str
    says: str
    chosen: str
    motion: Motion
    bins: tuple[Bin, ...]
    largest_deg: float = 90.0

    def __post_init__(self) -> None:
        if not self.bins or any(not (math.isfinite(high) and 0 <= low < high) for low, high in self.bins):
            raise InputError(f"bins {self.bins}", field="bins", remedy="give (low, high) in mm with 0 <= low < high")
        if not 0 <= self.largest_deg <= 180:
            raise InputError(f"turns of up to {self.largest_deg:g} degrees", field="largest_deg", remedy="give 0 to 180")

    def draw(
        self, truth: Tensor, views: Sequence[View], centre: Tensor, targets: Tensor, generator: Generators
    ) -> Float[Tensor, "B 4 4"]:
        """See ``StartSampler.draw``.

        Raises
        ------
        InputError: no targets.
        """
        given = _Given.of(truth, views, centre)
        u = uniforms(len(views), 7, generator)
        low, high = torch.tensor(self.bins, dtype=torch.float64)[torch.arange(len(views)) % len(self.bins)].unbind(1)
        wanted = low + (high - low) * u[:, 6].clamp(1e-6, 1 - 1e-6)  # off the edges by more than rounding can move it
        return scaled_into(given.truth, given.axes, (given.centre, targets), (self.motion.at(u[:, :6]), wanted), self.largest_deg)

    def describe(self) -> str:
        """The distribution in words."""
        bins = ", ".join(f"{low:g}-{high:g}" for low, high in self.bins)
        many = (
            f"bins, {bins}" if len(self.bins) < 5 else f"{len(self.bins)} bins from {self.bins[0][0]:g} to {self.bins[-1][1]:g}"
        )
        return _described(self, f"starts with an mTRE uniform in {many} mm, in directions of {self.motion} about the truth")

    def to_dict(self) -> dict[str, Any]:
        """Everything that was stated or chosen, for JSON."""
        bins = [list(b) for b in self.bins]
        motion = motion_to_dict(self.motion)
        return {"kind": "binned", "name": self.name, "motion": motion, "bins": bins, "largest_deg": self.largest_deg}


def _described(sampler: Scattered | Grid | Ring | Binned, what: str) -> str:
    lines = [f"{sampler.name}: {what}"]
    lines += [f'source: "{sampler.says}"'] * bool(sampler.says) + [f"chosen here: {sampler.chosen}"] * bool(sampler.chosen)
    return "\n".join(lines)
