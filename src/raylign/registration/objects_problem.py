"""Several rigid bodies in the same exposures, what joins them, and how they are to be registered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Volume, XRay
from raylign.data.excess import split
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array64
from raylign.registration.settings import DirectConfig, SearchConfig


@dataclass(frozen=True, eq=False)
class Body:
    """One rigid body: a bone cut out of a CT, a mesh as a solid, the rest of a patient.

    Parameters
    ----------
    name: of its own among the bodies.
    model: what it adds to the line integrals: a bone's excess over what lies around it in 1/mm or raw (``data.excess.split``,
        ``data.restricted``, ``data.solids``), or a whole scan in HU without the other bodies.
    start: a rough ``T_world_from_volume``.
    search: the box about the start in which it is sought; ``None``: the start is good enough to be refined from, or a joint with
        a body that is found before says where to seek.
    whole: what is sought in its place where that shows more: the whole scan, the other bodies in it.
    """

    name: str
    model: Volume
    start: Rigid
    search: SearchConfig | None = None
    whole: Volume | None = None


@dataclass(frozen=True, eq=False)
class Joint:
    """What is known of one body's pose against another's: a point that they share, and how far they may turn.

    A ball and socket has ``degrees`` infinite (any turn is as likely), a hinge two finite ones and an infinite one. Gaussian: a
    folded normal distribution of mean zero of each magnitude.

    Parameters
    ----------
    first, second: names. Of the two the one that is found first says where the other is sought.
    centre: [3] LPS mm in the first one's frame.
    centre_in_second: the same point in the second one's frame, mm; ``None``: the frames are one (bones of one CT).
    mm: one standard deviation of the distance of the two points, along each axis.
    degrees: of the turn away from ``neutral`` about each of ``axes``; infinite where nothing is known.
    axes: [3, 3], as columns, in the first one's frame.
    neutral: [3, 3] rotation that takes directions in the second one's frame to the first one's where nothing is turned;
        ``None``: none, the frames are one.
    reach: degrees, half width of the turns that are searched about each of the first view's axes.
    """

    first: str
    second: str
    centre: Float[Tensor, "3"]
    centre_in_second: Float[Tensor, "3"] | None = None
    mm: float = 1.5
    degrees: tuple[float, float, float] = (math.inf,) * 3
    axes: Float[Tensor, "3 3"] | None = None
    neutral: Float[Tensor, "3 3"] | None = None
    reach: float = 35.0

    def __post_init__(self) -> None:
        if self.first == self.second:
            raise InputError(f"{self.first!r} is joined to itself", field="joints", remedy="name two bodies")
        if not (self.mm > 0 and math.isfinite(self.mm) and all(d > 0 for d in self.degrees) and 0 < self.reach <= 180):
            raise InputError("a joint's standard deviations and reach are positive", field="joints")
        point = torch.as_tensor(self.centre, dtype=torch.float64)
        other = point if self.centre_in_second is None else torch.as_tensor(self.centre_in_second, dtype=torch.float64)
        if point.shape != (3,) or other.shape != (3,):
            raise InputError("a joint's centre is a point [3] in mm", field="joints")
        object.__setattr__(self, "centre", point)
        object.__setattr__(self, "centre_in_second", other)
        for name in ("axes", "neutral"):
            value = getattr(self, name)
            matrix = torch.eye(3, dtype=torch.float64) if value is None else torch.as_tensor(value, dtype=torch.float64)
            if matrix.shape != (3, 3) or float((matrix.T @ matrix - torch.eye(3, dtype=torch.float64)).abs().max()) > 1e-4:
                raise InputError("orthonormal axes [3, 3] are wanted", field=f"joints.{name}")
            object.__setattr__(self, name, matrix)

    def point_in(self, name: str) -> Float[Tensor, "3"]:
        """The shared point in the frame of one of the two, mm."""
        return self.centre if name == self.first else self.centre_in_second  # type: ignore[return-value]

    @property
    def along(self) -> Array64:
        """``axes`` as an array."""
        return np.asarray(torch.as_tensor(self.axes).numpy())

    @property
    def turn(self) -> Array64:
        """``neutral`` as an array."""
        return np.asarray(torch.as_tensor(self.neutral).numpy())

    def between(self, a: str, b: str) -> bool:
        """Whether it joins these two."""
        return {a, b} == {self.first, self.second}


@dataclass(frozen=True, eq=False)
class ObjectsProblem:
    """Several bodies in exposures of one and the same moment.

    Parameters
    ----------
    bodies: what moves, each by itself.
    xrays: one exposure or several.
    joints: what is known of their relative poses.
    fixed: volumes that are rendered behind all bodies at poses that are known: the rest of a patient, a table.

    Raises
    ------
    InputError: no body, two of one name, a joint of one that is not there, no exposure or one of a parallel beam.
    """

    bodies: tuple[Body, ...]
    xrays: tuple[XRay, ...]
    joints: tuple[Joint, ...] = ()
    fixed: tuple[tuple[Volume, Rigid], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "bodies", tuple(self.bodies))
        object.__setattr__(self, "joints", tuple(self.joints))
        names = [b.name for b in self.bodies]
        if not names:
            raise InputError("no body was given", field="bodies", remedy="give at least one model")
        double = sorted({n for n in names if names.count(n) > 1})
        if double:
            raise InputError(f"two bodies are called {double[0]!r}", field="bodies", remedy="give each a name of its own")
        for joint in self.joints:
            missing = [n for n in (joint.first, joint.second) if n not in names]
            if missing:
                known = ", ".join(names)
                raise InputError(f"a joint names {missing[0]!r}", field="joints", remedy=f"the bodies are {known}")
        object.__setattr__(self, "xrays", self.alone(self.bodies[0]).xrays)

    def alone(self, body: Body, pose: Rigid | None = None) -> Problem:
        """The registration of one body by itself, from its start or another pose."""
        return Problem(body.model, self.xrays, pose or body.start)

    def index(self, name: str) -> int:
        """Which body has a name."""
        return [b.name for b in self.bodies].index(name)


@dataclass(frozen=True)
class CollisionConfig:
    """How bodies are kept out of each other.

    Parameters
    ----------
    pitch_mm: of the distance fields, about.
    slack_mm: so deep they may be in each other without cost: cartilage, voxels, a segmentation's edge.
    sd_mm: one standard deviation of what goes deeper; each square centimetre of contact counts once.
    """

    pitch_mm: float = 2.0
    slack_mm: float = 1.5
    sd_mm: float = 1.0


@dataclass(frozen=True)
class ObjectsConfig:
    """Settings of the registration of several bodies.

    Parameters
    ----------
    direct: comparison, levels and steps, as of the direct method; how many candidates are followed in a search about a joint.
    joint: whether all poses are refined together at the end.
    pixels: of the longer side of all that is compared, at the finest level of the joint step, at most about.
    levels: of the joint step.
    reach_mm, reach_degrees: how far the joint step may carry a body.
    collision: ``None``: bodies may go through each other.
    trust: probability from which a body's pose is called trustworthy.
    """

    direct: DirectConfig = field(default_factory=DirectConfig)
    joint: bool = True
    pixels: int = 384
    levels: int = 3
    reach_mm: float = 20.0
    reach_degrees: float = 15.0
    collision: CollisionConfig | None = field(default_factory=CollisionConfig)
    trust: float = 0.6

    def __post_init__(self) -> None:
        if self.pixels < 32 or self.levels < 1:
            raise InputError("the joint step wants 32 pixels and a level at least", field="pixels, levels")


def bodies_of_scan(
    volume: Volume, labels: LabelMap, parts: Sequence[tuple[str, Sequence[str | int]]], start: Rigid, search: SearchConfig
) -> tuple[Body, ...]:
    """A scan taken apart into bodies that add up to it: the named structures, and before them ``rest``, all else.

    Parameters
    ----------
    volume: the scan. labels: on any grid in the same LPS mm.
    parts: (name of the body, names or numbers of its labels).
    start, search: of the whole scan, which is registered first and gives the pose of the rest.

    Raises
    ------
    InputError: a label that no voxel has, labels of another patient, nothing around a structure.
    """
    rest, found = volume, []
    for name, members in parts:
        pieces = split(rest, labels, tuple(members))
        rest = replace(pieces.rest, truncated=volume.truncated)
        found.append(Body(name, pieces.structure, start))
    return (Body("rest", rest, start, search, volume), *found)
