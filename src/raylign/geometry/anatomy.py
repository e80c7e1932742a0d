"""Anatomical frames of long bones of the arm, and the motion of one bone in another's frame.

Axes as the International Society of Biomechanics has them for forearm, wrist and hand (Wu et al., "ISB recommendation on
definitions of joint coordinate systems, Part II", J. Biomech. 38, 2005, 981-992), of the arm hanging with its palm forward: x
palmar, y proximal, z to the right, radial of a right arm and ulnar of a left one. Motion of the distal bone is split in order,

    R = Rz(flexion) Rx(deviation) Ry(rotation),

about the proximal bone's z, a floating axis, and the distal bone's y (Grood and Suntay 1983). Flexion, ulnar deviation and
pronation are positive on both sides: on a left arm the last two are minus the angles.

What the recommendation asks of landmarks a cut-out seldom shows. A frame is made from a long axis and one mark beside it, both
stated by the user or taken from the model by the rule that is named; which side is radial or palmar follows from what the mark is
said to be and from the side of the body, which is always stated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import se3

Side = Literal["right", "left"]
Mark = Literal["radial", "ulnar", "palmar", "dorsal"]
_SLICE = 1.0  # mm
_ENDS = 0.15  # of a bone's length, at either end, is joint and no shaft
_PARALLEL = 0.05  # sine under which a mark lies on the axis
_FLAT = 0.4  # product of three unit vectors under which they tell no side


@dataclass(frozen=True, eq=False)
class AnatomicalFrame:
    """A bone's frame: ``matrix`` [4, 4] takes anatomical mm (x palmar, y proximal, z right) to the model's LPS mm.

    ``taken`` says in words what it was made from.
    """

    matrix: Float[Tensor, "4 4"]
    side: Side
    taken: str


@dataclass(frozen=True, eq=False)
class LongBone:
    """What a model of a long bone says by itself, LPS mm.

    Parameters
    ----------
    origin: where the long axis passes the level of the most distal point.
    proximal: unit vector along the long axis: a line through the centroids of cross-sections 1 mm apart, ends of 15 % left out.
    tip: the most distal point, of a radius the tip of its styloid process.
    arch: unit vector across the axis to the side on which the shaft is hollow, of a metacarpal the palmar one.
    bow: by how much the shaft's outer parts lie to that side of its middle, mm, on the mean.
    """

    origin: Float[Tensor, "3"]
    proximal: Float[Tensor, "3"]
    tip: Float[Tensor, "3"]
    arch: Float[Tensor, "3"]
    bow: float


@dataclass(frozen=True)
class JointAngles:
    """Degrees, positive for flexion, ulnar deviation and pronation."""

    flexion: float
    ulnar_deviation: float
    pronation: float


@dataclass(frozen=True, eq=False)
class HelicalAxis:
    """A motion as a turn about an axis and a shift along it.

    Parameters
    ----------
    degrees, shift: turn, 0 to 180, and mm along ``direction``.
    direction: unit vector; zeros where nothing turns.
    point: of the axis, nearest to the origin, mm.
    """

    degrees: float
    shift: float
    direction: Float[Tensor, "3"]
    point: Float[Tensor, "3"]


def long_bone(points: Float[Tensor, "n 3"], distal: Float[Tensor, "3"]) -> LongBone:
    """Long axis and marks of a bone from points that fill it or lie on its surface.

    Parameters
    ----------
    points: LPS mm.
    distal: a vector that points roughly to the distal end.

    Raises
    ------
    InputError: too few points, or a bone that is no longer than wide.
    """
    p = torch.as_tensor(points, dtype=torch.float64)
    if p.ndim != 2 or len(p) < 100:
        raise InputError(f"{len(p)} points", field="points", remedy="give the voxels or the vertices of a bone")
    mean = p.mean(0)
    values, vectors = torch.linalg.eigh((p - mean).T @ (p - mean))
    if float(values[2]) < 2 * float(values[1]):
        raise InputError("the bone is not long", field="points", remedy="state the frame by points")
    towards = torch.as_tensor(distal, dtype=torch.float64)
    axis = vectors[:, 2] * -torch.sign(vectors[:, 2] @ towards)
    if abs(float(axis @ towards)) <= 0.5 * float(towards.norm()):
        raise InputError("the distal direction lies across the bone", field="distal", remedy="state which end is distal")
    line, centroids = mean, p
    for _ in range(3):  # the slices are turned to the axis that they give
        along = (p - line) @ axis
        length = float(along.max() - along.min())
        low, high = float(along.min()) + _ENDS * length, float(along.max()) - _ENDS * length
        number = torch.floor((along - low) / _SLICE).long()
        inside = (along >= low) & (along < high)
        found = [p[inside & (number == n)].mean(0) for n in number[inside].unique()]
        centroids = torch.stack(found)
        line = centroids.mean(0)
        _, _, basis = torch.linalg.svd(centroids - line)
        axis = basis[0] * torch.sign(basis[0] @ axis)
    along = (p - line) @ axis
    tip = p[int(along.argmin())]
    origin = line + float(along.min()) * axis
    step = (centroids - line) @ axis
    across = (centroids - line) - step[:, None] * axis
    middle = step.abs() < 0.25 * float(step.abs().max())
    bow = across[~middle].mean(0) - across[middle].mean(0)  # from the middle of the shaft to its chord
    return LongBone(origin, axis, tip, bow / bow.norm().clamp_min(1e-12), float(bow.norm()))


def frame_from(
    origin: Float[Tensor, "3"], proximal: Float[Tensor, "3"], mark: Float[Tensor, "3"], mark_is: Mark, side: Side, taken: str = ""
) -> AnatomicalFrame:
    """A frame from its origin, a vector that points proximally, and a vector that points to a mark beside the axis.

    Raises
    ------
    InputError: an unknown side or kind of mark; a mark on the axis.
    """
    if side not in ("right", "left"):
        raise InputError(f"{side!r} is no side of the body", field="side", remedy="state right or left")
    if mark_is not in ("radial", "ulnar", "palmar", "dorsal"):
        raise InputError(f"{mark_is!r}", field="mark_is", remedy="state radial, ulnar, palmar or dorsal")
    y = torch.nn.functional.normalize(torch.as_tensor(proximal, dtype=torch.float64), dim=0)
    if float(y.norm()) == 0:
        raise InputError("it has no direction", field="proximal", remedy="state a vector that is not zero")
    m = torch.as_tensor(mark, dtype=torch.float64)
    beside = m - (m @ y) * y
    if float(beside.norm()) < _PARALLEL * float(m.norm()) or float(m.norm()) == 0:
        raise InputError("the mark lies on the long axis", field="mark", remedy="state a point beside it")
    beside = beside / beside.norm()
    if mark_is in ("radial", "ulnar"):
        radial = beside if mark_is == "radial" else -beside
        z = radial if side == "right" else -radial
        x = torch.linalg.cross(y, z)
    else:
        x = beside if mark_is == "palmar" else -beside
        z = torch.linalg.cross(x, y)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.stack([x, y, z], 1)
    matrix[:3, 3] = torch.as_tensor(origin, dtype=torch.float64)
    return AnatomicalFrame(matrix, side, taken)


def side_of(palmar: Float[Tensor, "3"], proximal: Float[Tensor, "3"], radial: Float[Tensor, "3"]) -> Side:
    """The side of the body that an arm is of, from three directions of it in one right-handed frame.

    Palmar x proximal points to the right of the body in the anatomical position: there a right arm has its thumb. Of a mirrored
    model this is the other side: nothing in directions tells.

    Parameters
    ----------
    palmar, proximal, radial: roughly; a metacarpal is hollow on the palmar side, the second lies radial of the third.

    Raises
    ------
    InputError: directions that lie nearly in one plane, so that they do not tell.
    """
    x, y, z = (torch.nn.functional.normalize(torch.as_tensor(v, dtype=torch.float64), dim=0) for v in (palmar, proximal, radial))
    volume = float(torch.linalg.cross(x, y) @ z)
    if abs(volume) < _FLAT:
        raise InputError(
            f"palmar, proximal and radial directions lie nearly in one plane (their product is {volume:.2f})",
            field="side",
            remedy="state right or left",
        )
    return "right" if volume > 0 else "left"


def relative(
    proximal_pose: Float[Tensor, "*b 4 4"],
    distal_pose: Float[Tensor, "*b 4 4"],
    proximal: AnatomicalFrame,
    distal: AnatomicalFrame,
) -> Float[Tensor, "*b 4 4"]:
    """The distal bone's frame seen from the proximal one's, from poses ``T_world_from_volume``: anatomical mm."""
    return torch.linalg.inv(proximal_pose @ proximal.matrix) @ (distal_pose @ distal.matrix)


def joint_angles(matrix: Float[Tensor, "4 4"], side: Side) -> JointAngles:
    """The angles of a relative pose, or of a rotation [3, 3]. At 90 degrees of deviation the other two are not told apart."""
    r = torch.as_tensor(matrix, dtype=torch.float64)[:3, :3].tolist()
    flexion = math.atan2(-r[0][1], r[1][1])
    deviation = math.asin(max(-1.0, min(1.0, r[2][1])))
    rotation = math.atan2(-r[2][0], r[2][2])
    sign = 1.0 if side == "right" else -1.0
    return JointAngles(math.degrees(flexion), sign * math.degrees(deviation), sign * math.degrees(rotation))


def rotation_of(angles: JointAngles, side: Side) -> Float[Tensor, "3 3"]:
    """The rotation that has these angles: the inverse of ``joint_angles``."""
    sign = 1.0 if side == "right" else -1.0
    turns = ((2, angles.flexion), (0, sign * angles.ulnar_deviation), (1, sign * angles.pronation))
    out = torch.eye(3, dtype=torch.float64)
    for axis, degrees in turns:
        vector = torch.zeros(6, dtype=torch.float64)
        vector[axis] = math.radians(degrees)
        out = out @ se3.exp(vector)[:3, :3]
    return out


def helical_axis(motion: Float[Tensor, "4 4"]) -> HelicalAxis:
    """Turn, axis and shift of a rigid motion in the frame that it is given in (Chasles; Woltring et al. 1985)."""
    m = torch.as_tensor(motion, dtype=torch.float64)
    vector = se3.log_rotation(m[:3, :3])
    angle = float(vector.norm())
    t = m[:3, 3]
    if angle < 1e-9:
        return HelicalAxis(0.0, float(t.norm()), torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    n = vector / angle
    shift = float(t @ n)
    across = t - shift * n
    point = (across + torch.linalg.cross(n, across) / math.tan(angle / 2)) / 2
    return HelicalAxis(math.degrees(angle), shift, n, point)


def samples(
    pose: Float[Tensor, "4 4"],
    covariance: Float[Tensor, "6 6"],
    centre: Float[Tensor, "3"],
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "count 4 4"]:
    """Poses drawn about one as a registration states its covariance: twist (rad, mm), world axes, about ``centre``."""
    values, vectors = torch.linalg.eigh(torch.as_tensor(covariance, dtype=torch.float64))
    root = vectors * values.clamp_min(0).sqrt()
    twists = torch.randn(count, 6, dtype=torch.float64, generator=generator) @ root.T
    to, back = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    to[:3, 3], back[:3, 3] = centre, -torch.as_tensor(centre, dtype=torch.float64)
    return to @ se3.exp(twists) @ back @ torch.as_tensor(pose, dtype=torch.float64)
