"""What a tracker is told, and what it gives back.

States
------
``tracking``    the frame supports the pose.
``uncertain``   it supports it less than it should (a hand, less dose, a fast turn): the pose is followed, and teaches nothing
                about what is usual. Too many in a row are a loss.
``lost``        it does not: the pose is held where the model would be by now, and what is open about it grows. The same frame,
                and every further one, is searched about the last pose; now and then one in a wider box.
``recovered``   the first frame that supports a pose after a loss; the next one is tracked.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from raylign.data import XRay
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.registration.result import Result
from raylign.registration.settings import DirectConfig
from raylign.registration.tracking_gating import Signal
from raylign.registration.tracking_motion import MotionConfig
from raylign.registration.tracking_recovery import RecoveryConfig

Frame = XRay | Sequence[XRay] | None
"""One exposure, one of each camera, or nothing where a picture is missing or black."""


class State(enum.StrEnum):
    """What a frame is; see the module."""

    TRACKING = "tracking"
    UNCERTAIN = "uncertain"
    LOST = "lost"
    RECOVERED = "recovered"


@dataclass(frozen=True)
class TrackingConfig:
    """Settings of the tracker.

    Parameters
    ----------
    direct: how the first frame is registered; how images are compared, and the probability from which a frame supports its pose,
        are the same for all frames.
    motion: how the patient may move.
    recovery: where a lost model is looked for.
    pixels: longer side of what the model covers of an image, in pixels, at the level that is tracked.
    iterations: Gauss-Newton steps a frame, at most.
    margin: mm by which the model may leave the part of the image that is looked at before that is cut out anew.
    usual, least: share of what frames usually explain from which one supports its pose, and under which it is lost.
    patience: uncertain frames in a row that are followed before the model counts as lost.
    """

    direct: DirectConfig = field(default_factory=DirectConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    pixels: int = 128
    iterations: int = 4
    margin: float = 30.0
    usual: float = 0.75
    least: float = 0.5
    patience: int = 30

    def __post_init__(self) -> None:
        for name, least in (("pixels", 24), ("iterations", 1), ("patience", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{getattr(self, name)} is too few", field=name, remedy=f"give {least} or more")
        if not 0 < self.least <= self.usual <= 1:
            raise InputError(
                f"{self.least} and {self.usual} are no shares", field="least, usual", remedy="0 < least <= usual <= 1"
            )


@dataclass(frozen=True, eq=False)
class TrackedPose:
    """One frame of a track.

    Parameters
    ----------
    index, time: of the frame, from 0; seconds.
    transform: ``T_world_from_volume``; of a lost frame where the model would be.
    covariance, centre: as of a ``Result``: 6x6 of the twist about the model's centre (world mm), expectation included.
    probability: that the pose is right; of a lost frame at most 0.3.
    state: see the module.
    explained: share of the frame's structure that the model explains; 0 where nothing could be seen.
    misfit: squared way from the expected pose in its standard deviations, over 6.
    renders, seconds: what the frame took.
    """

    index: int
    time: float
    transform: Rigid
    covariance: Float[Tensor, "6 6"]
    centre: Float[Tensor, "3"]
    probability: float
    state: State
    explained: float
    misfit: float
    renders: int
    seconds: float

    @property
    def supported(self) -> bool:
        """Whether the frame itself supports the pose."""
        return self.state in (State.TRACKING, State.RECOVERED)


@dataclass(frozen=True, eq=False)
class Track:
    """A sequence, tracked.

    Parameters
    ----------
    poses: one a frame, in their order.
    first: the registration that it began with.
    breathing: of the model's own motion to the head and back; ``None`` where there is none to be seen.
    pulse: of the brightness of places in the image; ``None`` likewise.
    """

    poses: tuple[TrackedPose, ...]
    first: Result
    breathing: Signal | None
    pulse: Signal | None

    @property
    def rate(self) -> float:
        """Frames a second."""
        times = [pose.time for pose in self.poses]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
