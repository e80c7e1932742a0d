"""What an instrument is made of, and where it lies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.geometry import se3
from raylign.simulation.instruments import lines

MATERIALS = (
    "water", "adipose", "soft", "bone", "lung", "blood", "iodine", "steel", "titanium", "nitinol", "platinum", "aluminium",
    "tungsten", "lead", "plastic", "polyurethane", "cobalt_chrome", "polyethylene",
)  # fmt: skip
"""Names of materials that the simulated physics knows; "plastic" is PMMA."""


def polyline(points: Any, field: str = "points") -> Float[Tensor, "N 3"]:
    """At least two finite points as float64 on the CPU.

    Raises
    ------
    InputError: fewer points, others than of three coordinates, coordinates that are not finite.
    """
    points = torch.as_tensor(points, dtype=torch.float64).cpu()
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 3 or not bool(torch.isfinite(points).all()):
        raise InputError("a curve takes at least two finite 3D points", field=field, remedy="give [N, 3] in mm")
    return points


def _checked_material(name: str, fill: float) -> None:
    if name not in MATERIALS:
        raise InputError(f"unknown material {name!r}", field="material", remedy=f"choose one of {', '.join(MATERIALS)}")
    if not (math.isfinite(fill) and fill > 0):
        raise InputError(f"a filling of {fill}", field="fill", remedy="1 is solid, 0.79 a coil of round wire")


def _checked_radii(outer: float, inner: float) -> None:
    if not (math.isfinite(outer) and 0 <= inner < outer):
        raise InputError(
            f"a tube from radius {inner} to {outer} mm has no wall", field="inner", remedy="give 0 <= inner < outer, mm"
        )


@dataclass(frozen=True, eq=False)
class Curve:
    """A round wire, or a tube, along a polyline.

    Pieces are cylinders that meet in the plane that halves the angle between them; the ends are flat.

    Parameters
    ----------
    points: [N, 3] mm, N >= 2.
    outer: radius, mm.
    inner: radius of the hole, mm; 0 is solid.
    material: one of ``MATERIALS``.
    fill: how much of the volume is the material, as a share of its density: pi/4 for a closely wound coil of round wire.

    Raises
    ------
    InputError: points that are no curve, radii without a wall between, an unknown material, a filling that is not positive.
    """

    points: Float[Tensor, "N 3"]
    outer: float
    inner: float = 0.0
    material: str = "steel"
    fill: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", polyline(self.points))
        _checked_radii(self.outer, self.inner)
        _checked_material(self.material, self.fill)

    def moved(self, matrix: Float[Tensor, "4 4"]) -> Curve:
        """The curve under a rigid map."""
        return replace(self, points=se3.transform(matrix, self.points))


@dataclass(frozen=True, eq=False)
class Body:
    """A closed surface filled with one material; where bodies overlap, all count.

    Parameters
    ----------
    mesh: closed, outward normals, mm.
    material, fill: as those of a ``Curve``.

    Raises
    ------
    InputError: an unknown material, a filling that is not positive.
    """

    mesh: Mesh
    material: str
    fill: float = 1.0

    def __post_init__(self) -> None:
        _checked_material(self.material, self.fill)

    def moved(self, matrix: Float[Tensor, "4 4"]) -> Body:
        """The body under a rigid map."""
        return replace(self, mesh=replace(self.mesh, vertices=se3.transform(matrix, self.mesh.vertices)))


@dataclass(frozen=True)
class Layer:
    """A stretch of tube about an instrument's centre line.

    Parameters
    ----------
    start, end: mm along the centre line from the tip.
    outer, inner, material, fill: as those of a ``Curve``.

    Raises
    ------
    InputError: a stretch without length; else as a ``Curve``.
    """

    start: float
    end: float
    outer: float
    inner: float = 0.0
    material: str = "steel"
    fill: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and self.start < self.end < math.inf):
            raise InputError(f"a layer from {self.start} to {self.end} mm has no length", field="end")
        _checked_radii(self.outer, self.inner)
        _checked_material(self.material, self.fill)


@dataclass(frozen=True, eq=False)
class Instrument:
    """An instrument in its own millimetres: the tip at the origin, +z from the tip along the shaft towards the hand.

    Parameters
    ----------
    name: what it is.
    line: [N, 3] the centre line at rest, from the tip.
    layers: tubes along the centre line; they bend with it.
    fixed: parts that stay rigid, in the tip's frame.
    shaped: mm from the tip that keep their form where the shaft follows a vessel: a pigtail, a J; inf for a rigid instrument.

    Raises
    ------
    InputError: a line that is none.
    """

    name: str
    line: Float[Tensor, "N 3"]
    layers: tuple[Layer, ...] = ()
    fixed: tuple[Curve | Body, ...] = ()
    shaped: float = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", polyline(self.line, "line"))

    @property
    def rigid(self) -> bool:
        """Whether it bends nowhere."""
        return math.isinf(self.shaped)

    @property
    def length(self) -> float:
        """mm along the centre line."""
        return float(lines.lengths(self.line.numpy())[-1])

    @property
    def materials(self) -> tuple[str, ...]:
        """What it is made of, sorted."""
        return tuple(sorted({part.material for part in (*self.layers, *self.fixed)}))

    def placed(self, pose: Any = None) -> Placed:
        """The instrument at a pose, in its form at rest."""
        return Placed(self, torch.eye(4, dtype=torch.float64) if pose is None else pose)


@dataclass(frozen=True, eq=False)
class Placed:
    """An instrument where it lies.

    Parameters
    ----------
    instrument: which.
    pose: [4, 4] ``T_world_from_instrument`` of the tip, or a Rigid.
    line: [N, 3] world mm, the centre line as it is bent, from the tip; None where it has its form at rest.

    Raises
    ------
    InputError: a pose that is not rigid, a line that is none.
    """

    instrument: Instrument
    pose: Float[Tensor, "4 4"]
    line: Float[Tensor, "N 3"] | None = None

    def __post_init__(self) -> None:
        matrix = torch.as_tensor(getattr(self.pose, "matrix", self.pose), dtype=torch.float64).cpu()
        if matrix.shape != (4, 4) or not se3.is_rigid(matrix):
            raise InputError(
                "the pose of the instrument is not rigid", field="pose", remedy="give T_world_from_instrument, 4x4, mm"
            )
        object.__setattr__(self, "pose", matrix)
        if self.line is not None:
            object.__setattr__(self, "line", polyline(self.line, "line"))

    @property
    def tip(self) -> Float[Tensor, "3"]:
        """World mm."""
        return self.pose[:3, 3]

    @property
    def centre_line(self) -> Float[Tensor, "N 3"]:
        """World mm, from the tip."""
        return se3.transform(self.pose, self.instrument.line) if self.line is None else self.line

    def moved(self, matrix: Float[Tensor, "4 4"]) -> Placed:
        """The same under a rigid map, such as the patient's ``T_world_from_volume`` for an implant given in the volume's mm."""
        matrix = torch.as_tensor(matrix, dtype=torch.float64).cpu()
        line = None if self.line is None else se3.transform(matrix, self.line)
        return Placed(self.instrument, matrix @ self.pose, line)

    @property
    def curves(self) -> tuple[Curve, ...]:
        """Its wires and tubes, world mm."""
        tubes = [Curve(torch.from_numpy(points), *rest) for points, *rest in self.tubes()]  # type: ignore[arg-type]
        return tuple(tubes)

    @property
    def bodies(self) -> tuple[Body, ...]:
        """Its solids, world mm."""
        return tuple(part.moved(self.pose) for part in self.instrument.fixed if isinstance(part, Body))

    def tubes(self, tolerance: float = 0.03) -> list[tuple[NDArray[np.float64], float, float, str, float]]:
        """(points, outer, inner, material, fill) of every wire and tube, world mm, its chords within ``tolerance`` mm of it."""
        r, t = self.pose[:3, :3].numpy(), self.pose[:3, 3].numpy()
        out = []
        if self.instrument.layers:
            line = lines.thinned(self.centre_line.numpy(), tolerance)
            s = lines.lengths(line)
            for it in self.instrument.layers:
                out.append((lines.cut(line, it.start, it.end, s), it.outer, it.inner, it.material, it.fill))
        for part in self.instrument.fixed:
            if isinstance(part, Curve):
                points = part.points.numpy() @ r.T + t
                out.append((lines.thinned(points, tolerance), part.outer, part.inner, part.material, part.fill))
        return out
