"""A joint over time: what registrations of its two bones say in anatomical terms, and how sure that is.

Deviations are those of poses drawn from both registrations' covariances, which are taken to be independent. Bones that were
registered together are not quite: what moves both moves the joint less than these deviations say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry.anatomy import AnatomicalFrame, JointAngles, helical_axis, joint_angles, relative, samples

DRAWS = 500


@dataclass(frozen=True, eq=False)
class BonePose:
    """One bone at one time: ``T_world_from_volume``, covariance of its twist (rad, mm; world axes) about ``centre`` (world mm).

    Without a covariance, of a pose that nobody registered, the bone counts as exactly known.
    """

    matrix: Float[Tensor, "4 4"]
    covariance: Float[Tensor, "6 6"] | None = None
    centre: Float[Tensor, "3"] | None = None

    def drawn(self, count: int, generator: torch.Generator) -> Float[Tensor, "count 4 4"]:
        """Poses about this one."""
        if self.covariance is None or self.centre is None:
            return self.matrix.expand(count, 4, 4)
        return samples(self.matrix, self.covariance, self.centre, count, generator)


@dataclass(frozen=True, eq=False)
class JointState:
    """A joint at one time.

    Parameters
    ----------
    angles, angles_sd: degrees, and one standard deviation.
    position, position_sd: [3] mm of the distal frame's origin along the proximal axes (palmar, proximal, right).
    degrees, degrees_sd: turn since the first time about the helical axis, and one standard deviation.
    shift: mm along that axis.
    direction, point: [3] of the axis in the proximal frame, unit vector and mm; zeros at the first time.
    """

    angles: JointAngles
    angles_sd: JointAngles
    position: Float[Tensor, "3"]
    position_sd: Float[Tensor, "3"]
    degrees: float
    degrees_sd: float
    shift: float
    direction: Float[Tensor, "3"]
    point: Float[Tensor, "3"]


def joint_motion(
    proximal: Sequence[BonePose],
    distal: Sequence[BonePose],
    frames: tuple[AnatomicalFrame, AnatomicalFrame],
    seed: int = 0,
) -> list[JointState]:
    """What a joint does, time by time.

    Parameters
    ----------
    proximal, distal: the two bones at the same times.
    frames: of the proximal and of the distal bone.
    seed: of the poses that are drawn.

    Raises
    ------
    InputError: no times, unequal numbers of them, frames of different sides.
    """
    if not proximal or len(proximal) != len(distal):
        raise InputError(
            f"{len(proximal)} poses of the proximal and {len(distal)} of the distal bone",
            field="poses",
            remedy="give one of each for every time",
        )
    if frames[0].side != frames[1].side:
        raise InputError("the two bones are of different sides", field="side")
    side = frames[0].side
    generator = torch.Generator().manual_seed(seed)
    states = []
    first: tuple[Tensor, Tensor] | None = None
    for a, b in zip(proximal, distal, strict=True):
        now = relative(a.matrix, b.matrix, *frames)
        drawn = relative(a.drawn(DRAWS, generator), b.drawn(DRAWS, generator), *frames)
        first = first or (now, drawn)
        angles = joint_angles(now, side)
        about = torch.tensor([_off(joint_angles(d, side), angles) for d in drawn], dtype=torch.float64)
        motion = helical_axis(now @ torch.linalg.inv(first[0]))
        turns = torch.tensor([helical_axis(d @ torch.linalg.inv(f)).degrees for d, f in zip(drawn, first[1], strict=True)])
        still = first[0] is now
        states.append(
            JointState(
                angles=angles,
                angles_sd=JointAngles(*about.std(0).tolist()),
                position=now[:3, 3],
                position_sd=drawn[:, :3, 3].std(0),
                degrees=motion.degrees,
                degrees_sd=0.0 if still else float(turns.std()),
                shift=motion.shift,
                direction=motion.direction,
                point=motion.point,
            )
        )
    return states


def _off(drawn: JointAngles, angles: JointAngles) -> list[float]:
    """Differences in degrees, the short way round."""
    pairs = zip(vars(drawn).values(), vars(angles).values(), strict=True)
    return [(a - b + 180.0) % 360.0 - 180.0 for a, b in pairs]
