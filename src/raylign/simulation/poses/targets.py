"""Where the patient lies and whence he is exposed: true poses and their views."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.simulation.poses.carms import CArmModel, image_axes
from raylign.simulation.poses.laws import Generators, Law, law_to_dict, uniforms
from raylign.simulation.poses.motions import STILL, ZERO, Motion, turned

# Columns, rows and depth of the frontal view as vectors of the patient: left, feet, front.
_PATIENT = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, -1, 0]], dtype=torch.float64)


@dataclass(frozen=True)
class Direction:
    """One C-arm position: laws of the positioner angles in degrees (DICOM: LAO and CRA positive)."""

    name: str
    primary: Law
    secondary: Law = ZERO

    def __str__(self) -> str:
        return f"{self.name} (primary {self.primary}, secondary {self.secondary} degrees)"


@dataclass(frozen=True)
class TargetSampler:
    """A distribution of exposures: C-arm, angles, and where the patient lies.

    The patient's ``point`` is brought to the isocentre, the world's origin, his axes along the world's. Then he is turned about
    it and shifted by ``motion``, and shifted once more within the image plane by a vector uniform in a disc of ``disc_mm``.

    Parameters
    ----------
    name: as the registry knows it.
    says: what the source says, in its words; empty where the distribution is our own.
    chosen: what the source leaves open and was chosen here.
    carm: distances and detector.
    directions: C-arm positions.
    biplane: False: an exposure is of one direction, each equally probable. True: a case is exposed from all directions in turn,
        under one pose.
    motion: shifts and turns of the patient.
    axes: of ``motion``: "view" (the exposure's own image; of a biplane case its first) or "patient" (those of the frontal view:
        columns to the left, rows to the feet, depth to the front).
    disc_mm: radius of the additional shift.
    """

    name: str
    says: str
    chosen: str
    carm: CArmModel
    directions: tuple[Direction, ...]
    biplane: bool = False
    motion: Motion = STILL
    axes: Literal["view", "patient"] = "view"
    disc_mm: float = 0.0

    def __post_init__(self) -> None:
        if not self.directions:
            raise InputError("no C-arm position", field="directions", remedy="name at least one")
        if self.disc_mm < 0:
            raise InputError(f"a disc of {self.disc_mm:g} mm", field="disc_mm", remedy="give its radius, 0 or more")

    @property
    def views_per_case(self) -> int:
        """How many successive exposures share one pose."""
        return len(self.directions) if self.biplane else 1

    def resized(self, shape: tuple[int, int]) -> TargetSampler:
        """The same distribution with the detector's area in other pixels (see ``CArmModel.resized``)."""
        return replace(self, carm=self.carm.resized(shape))

    def draw(self, point: Float[Tensor, "3"], count: int, generator: Generators) -> tuple[list[View], Float[Tensor, "count 4 4"]]:
        """Views and true poses of ``count`` exposures.

        Parameters
        ----------
        point: patient mm of what is brought to the isocentre: the left ventricle's centre, a vertebra, the volume's centre.
        count: exposures; a multiple of ``views_per_case``.
        generator: one stream for all, or one an exposure (a biplane case takes that of its first).

        Returns
        -------
        Views (on the CPU, where geometry is made) and ``T_world_from_volume`` [count, 4, 4], float64 on the point's device.

        Raises
        ------
        InputError: part of a case, a wrong number of streams, a point that is not three numbers.
        """
        at = torch.as_tensor(point, dtype=torch.float64)
        if at.shape != (3,):
            raise InputError(f"expected three numbers, got shape {tuple(at.shape)}", field="point")
        each = self.views_per_case
        if count < 1 or count % each:
            raise InputError(f"{count} exposures of cases of {each}", field="count", remedy=f"draw a multiple of {each}")
        cases = count // each
        u = uniforms(
            cases, 12 + 2 * len(self.directions), generator if isinstance(generator, torch.Generator) else generator[::each]
        )
        views = self._views(u)
        axes = _PATIENT.expand(cases, 3, 3) if self.axes == "patient" else image_axes(views[::each])
        poses = self._poses(at.cpu(), axes, u)
        return views, poses.repeat_interleave(each, 0).to(at.device)

    def _views(self, u: Tensor) -> list[View]:
        angles = u[:, 12:].unflatten(1, (-1, 2))
        primary = torch.stack([d.primary.at(q) for d, q in zip(self.directions, angles[..., 0].unbind(1), strict=True)], 1)
        secondary = torch.stack([d.secondary.at(q) for d, q in zip(self.directions, angles[..., 1].unbind(1), strict=True)], 1)
        if self.biplane:  # both C-arms at the same distances
            many = u[:, 1:4].repeat_interleave(len(self.directions), 0)
            return self.carm.views(primary.flatten(), secondary.flatten(), many)
        taken = (u[:, :1] * len(self.directions)).long()
        return self.carm.views(primary.gather(1, taken)[:, 0], secondary.gather(1, taken)[:, 0], u[:, 1:4])

    def _poses(self, point: Tensor, axes: Tensor, u: Tensor) -> Tensor:
        values = self.motion.at(u[:, 4:10])
        shift = values[:, :3].clone()
        radius, angle = self.disc_mm * u[:, 10].sqrt(), 2 * math.pi * u[:, 11]
        shift[:, 0] += radius * angle.cos()
        shift[:, 1] += radius * angle.sin()
        rotation = turned(axes, values[:, 3:])
        along = (shift[:, None] @ axes)[:, 0]
        return se3.from_parts(rotation, along - (rotation @ point[:, None])[..., 0])

    def describe(self) -> str:
        """The distribution in words."""
        how = " and ".join(map(str, self.directions)) if self.biplane else " or ".join(map(str, self.directions))
        lines = [
            f"{self.name}: exposures, {self.carm}",
            f"directions: {how}" + (", both under one pose" if self.biplane else ""),
            f"patient, along the axes of the {'frontal view' if self.axes == 'patient' else 'view'}: {self.motion}",
        ]
        if self.disc_mm:
            lines.append(f"centre of projection: uniform in a disc of {self.disc_mm:g} mm in the image plane")
        lines += [f'source: "{self.says}"'] * bool(self.says) + [f"chosen here: {self.chosen}"] * bool(self.chosen)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything that was stated or chosen, for JSON."""
        carm = {n: law_to_dict(getattr(self.carm, n)) for n in ("sid", "sod", "pitch")}
        return {
            "kind": "targets",
            "name": self.name,
            "carm": {**carm, "shape": list(self.carm.shape), "row_pitch": self.carm.row_pitch},
            "directions": [
                {"name": d.name, "primary": law_to_dict(d.primary), "secondary": law_to_dict(d.secondary)}
                for d in self.directions
            ],
            "biplane": self.biplane,
            "motion": motion_to_dict(self.motion),
            "axes": self.axes,
            "disc_mm": self.disc_mm,
        }


def motion_to_dict(motion: Motion) -> dict[str, Any]:
    """The six laws by name, for JSON."""
    return {name: law_to_dict(getattr(motion, name)) for name in motion.__dataclass_fields__}
