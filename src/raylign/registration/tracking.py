"""Registration of a sequence: the first frame by the direct method, every other one from where the model is expected."""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.registration.meshes import as_registered
from raylign.registration.problem import Problem, as_read, centred
from raylign.registration.pyramid import Array64
from raylign.registration.result import Result
from raylign.registration.saturation import Response
from raylign.registration.settings import DirectConfig, SearchConfig
from raylign.registration.tracking_gating import Signal, blocks_of, breathing, pulse
from raylign.registration.tracking_levels import FollowConfig, Stand, stand, weight_of
from raylign.registration.tracking_motion import Motion, resting
from raylign.registration.tracking_nouns import Frame as Frame
from raylign.registration.tracking_nouns import State as State
from raylign.registration.tracking_nouns import Track as Track
from raylign.registration.tracking_nouns import TrackedPose as TrackedPose
from raylign.registration.tracking_nouns import TrackingConfig as TrackingConfig
from raylign.registration.tracking_recovery import Look, look, nowhere, problem_of, regained, searched
from raylign.registration.tracking_solids import Solid as Solid
from raylign.registration.tracking_solids import given_back, registrar_of, response_of, stated_of

_UNKNOWN = 1e3  # rad and mm, one standard deviation of what nothing is known of
_DOUBT = 0.3  # probability at most, of a pose that is held and not seen
_JUDGED = 3  # of so many tracked frames one has its pattern looked at whatever it explains
_LEARNT = 0.1  # weight of a new frame in what is usual


@dataclass(eq=False)
class _Course:
    """What a tracker knows by now; the only thing here that changes."""

    stand: Stand
    motion: Motion
    time: float
    weight: float
    drift: float
    explained: float
    last: Array64
    state: State
    since: int = 0  # frames in this state
    wide: Stand | None = None
    judged: Look | None = None  # the last frame that was tracked
    response: Response | None = None  # of exposures to the model's metal


class Tracker:
    """Follows a model from frame to frame, as they come.

    Parameters
    ----------
    model: the volume that moves.
    views: one of every camera: how many frames belong together, and of which size. Frames carry their own, which may move.
    config: see there.
    start: a rough ``T_world_from_volume`` for the first frame; the model's centre at the isocentre where ``None``.
    solid: of a model that was made of a surface, what is known of that: it is registered and judged as such a model is.
    """

    def __init__(
        self,
        model: Volume,
        views: View | Sequence[View],
        config: TrackingConfig | None = None,
        start: Rigid | None = None,
        solid: Solid | None = None,
    ) -> None:
        self.model = model
        self.views = (views,) if isinstance(views, View) else tuple(views)
        if not self.views:
            raise InputError("no view was given", field="views", remedy="give one for each camera")
        self.config = config or TrackingConfig()
        self.start = start or centred(model)
        self.solid = solid
        self.first: Result | None = None
        self._course: _Course | None = None
        self._index = -1
        self._time = -math.inf

    def step(self, frame: Frame, time: float) -> TrackedPose:
        """The pose of the next frame.

        The first frame is registered as ``config.direct`` says, and so are later ones, one in ``recovery.every``, until one is to
        be trusted.

        Parameters
        ----------
        frame: one exposure, one of each camera, or ``None``: no picture.
        time: seconds.

        Raises
        ------
        InputError: a time that does not grow, another number of exposures, another size; as of a registration while nothing
            was found yet.
        """
        begun = clock.perf_counter()
        xrays = self._checked(frame, time)
        self._index, self._time = self._index + 1, time
        if self._course is None:
            made = self._begin(xrays, time)
        else:
            made = self._go_on(self._course, given_back(self.solid, xrays), time)
        return replace(made, seconds=clock.perf_counter() - begun)

    def _checked(self, frame: Frame, time: float) -> tuple[XRay, ...]:
        if not (math.isfinite(time) and time > self._time):
            raise InputError(
                f"{time:g} s does not come after {self._time:g} s", field="time", remedy="give frames in order, with their times"
            )
        xrays = () if frame is None else (frame,) if isinstance(frame, XRay) else tuple(frame)
        if xrays and len(xrays) != len(self.views):
            raise InputError(
                f"{len(xrays)} exposures where there are {len(self.views)} cameras", field="frame", remedy="give one of each"
            )
        for xray, view in zip(xrays, self.views, strict=False):
            if xray.view.shape != view.shape:
                raise InputError(
                    f"a frame of {xray.view.shape} pixels where {view.shape} were expected", file=xray.name, field="frame",
                    remedy="track frames of another size as a sequence of their own",
                )  # fmt: skip
        return xrays

    # -- the first pose ---------------------------------------------------------------------------------------------------

    def _begin(self, xrays: tuple[XRay, ...], time: float) -> TrackedPose:
        config, result = self.config, self.first
        made: Result | None = None  # of this frame
        if xrays and (result is None or self._index % config.recovery.every == 0):
            result = made = registrar_of(self.solid, config.direct).register(Problem(self.model, xrays, self.start))
            if self.first is None or result.confidence.probability >= self.first.confidence.probability:
                self.first = result
        if result is None:  # nothing was shown yet
            centre = self.start.apply(self.model.centre[None])[0]
            unknown = torch.eye(6, dtype=torch.float64) * _UNKNOWN**2
            return TrackedPose(self._index, time, self.start, unknown, centre, 0.0, State.LOST, 0.0, 0.0, 0, 0.0)
        if result is self.first and result.confidence.trusted and xrays:
            self._course = self._settle(result, xrays, time)
        if self._course is not None:
            return TrackedPose(
                self._index, time, result.transform, result.covariance, result.centre, result.confidence.probability,
                State.TRACKING, result.score, 0.0, result.renders, 0.0,
            )  # fmt: skip
        assert self.first is not None
        best = self.first
        return TrackedPose(
            self._index, time, best.transform, best.covariance, best.centre,
            min(best.confidence.probability, _DOUBT), State.LOST, made.score if made else 0.0, 0.0,
            made.renders if made else 0, 0.0,
        )  # fmt: skip

    def _settle(self, result: Result, xrays: tuple[XRay, ...], time: float) -> _Course:
        """What is usual, taken from the frame that was registered."""
        config = self.config
        response = response_of(self.solid, self.model, xrays)
        xrays = given_back(self.solid, xrays)
        registered = as_registered(self.model, result)
        self.model = as_read(Problem(registered, xrays, result.transform), result).model
        matrix = result.transform.matrix.numpy()
        at = stand(problem_of(self.model, xrays, matrix), self._levels(config.margin))
        scale = at.scales[0]
        known = resting(matrix, scale.model.middle, result.covariance.numpy(), config.motion)
        seen = look(scale, known, FollowConfig(config.direct, config.motion, 1, 1.0, response=response, solid=self.solid))
        drift = seen.evidence.drift
        return _Course(
            stand=at,
            motion=known,
            time=time,
            weight=weight_of(seen.followed.normal, seen.followed.alone),
            drift=drift,
            explained=seen.explained,
            last=matrix,
            state=State.TRACKING,
            response=response,
        )

    def _levels(self, mm: float) -> DirectConfig:
        return replace(self.config.direct, pixels=self.config.pixels, search=SearchConfig(mm=mm))

    # -- the others -------------------------------------------------------------------------------------------------------

    def _go_on(self, course: _Course, xrays: tuple[XRay, ...], time: float) -> TrackedPose:
        config = self.config
        expected = course.motion.predicted(time - course.time, config.motion)
        following = FollowConfig(
            config.direct, config.motion, config.iterations, course.weight, course.drift, course.explained, course.response,
            self.solid,
        )  # fmt: skip
        seen: Look | None = None
        renders = 0
        if xrays and course.state != State.LOST:
            recent = course.judged if course.state == State.TRACKING and course.since % _JUDGED else None
            seen = look(course.stand.level(0, xrays), expected, following, recent)
            renders += seen.followed.renders
        state = self._state(course, seen)
        if state == State.LOST and xrays:
            found, more = self._search(course, xrays, expected, following)
            renders += more
            if found is not None:
                seen, state = found, State.RECOVERED
        self._learn(course, state, seen, expected, xrays)
        course.time = time
        probability = 0.0 if seen is None else seen.confidence.probability
        return TrackedPose(
            index=self._index,
            time=time,
            transform=Rigid(torch.from_numpy(course.motion.matrix.copy())),
            covariance=torch.from_numpy(self._stated(course, seen if state != State.LOST else None)),
            centre=torch.from_numpy(course.motion.centre),
            probability=min(probability, _DOUBT) if state == State.LOST else probability,
            state=state,
            explained=0.0 if seen is None else seen.explained,
            misfit=0.0 if seen is None else seen.followed.misfit,
            renders=renders,
            seconds=0.0,
        )

    def _stated(self, course: _Course, seen: Look | None) -> Array64:
        """Covariance [6, 6] of the pose of a frame; of one that shows nothing as far as its own grows."""
        if seen is not None:
            return seen.stated.copy()
        held = course.motion
        return stated_of(
            self.solid, held.matrix, held.centre, held.pose_covariance.copy(), self.views, course.stand.scales[0].model
        )

    def _state(self, course: _Course, seen: Look | None) -> State:
        """What a look at a frame makes of it."""
        config = self.config
        if seen is None or seen.followed.normal.cost >= 0:
            return State.LOST
        share = seen.explained / max(course.explained, 1e-6)
        if share >= config.usual and seen.confidence.trusted:
            return State.TRACKING
        spent = course.state == State.UNCERTAIN and course.since + 1 >= config.patience
        return State.LOST if share < config.least or spent else State.UNCERTAIN

    def _search(
        self, course: _Course, xrays: tuple[XRay, ...], expected: Motion, following: FollowConfig
    ) -> tuple[Look | None, int]:
        """The best place of a model that was lost, if the frame shows any, and how many renderings were made."""
        recovery = self.config.recovery
        # this frame is the one after `since + 1` lost ones
        wider = course.state == State.LOST and (course.since + 2) % recovery.every == 0
        found: Look | None = None
        renders = 0

        def supports(seen: Look) -> bool:
            return self._state(course, seen) == State.TRACKING

        with nowhere():
            if course.wide is None:
                course.wide = stand(
                    problem_of(self.model, xrays, course.last), self._levels(max(recovery.mm, self.config.margin))
                )
            problem = problem_of(self.model, xrays, course.last)
            matrices, renders = searched(problem, course.wide, expected, recovery, following, wider=wider)
            found, more = regained(course.wide, xrays, matrices, following, supports)
            renders += more
        return found, renders

    def _learn(self, course: _Course, state: State, seen: Look | None, expected: Motion, xrays: tuple[XRay, ...]) -> None:
        """What is known after a frame."""
        config = self.config
        course.since = course.since + 1 if state == course.state else 0
        course.state = state
        if seen is None or state == State.LOST:
            course.motion = expected
            return
        matrix, covariance = seen.followed.matrix, seen.followed.covariance
        if state == State.RECOVERED:
            course.motion = resting(matrix, expected.middle, covariance, config.motion)
        else:
            course.motion = expected.corrected(matrix, covariance)
        course.last = matrix
        course.wide = None
        course.judged = seen if state == State.TRACKING else None
        if state == State.TRACKING:
            course.explained += _LEARNT * (seen.explained - course.explained)
            course.weight += _LEARNT * (weight_of(seen.followed.normal, seen.followed.alone) - course.weight)
        # of cameras that move, what was cut out of an image may lie elsewhere by now: a loss shows it
        if state == State.RECOVERED or course.stand.left(course.motion.centre):
            with nowhere():
                course.stand = stand(problem_of(self.model, xrays, matrix), self._levels(config.margin))
                course.motion = replace(course.motion, middle=course.stand.scales[0].model.middle)


def track(
    model: Volume,
    frames: Iterable[tuple[float, Frame]],
    start: Rigid | None = None,
    config: TrackingConfig | None = None,
    progress: Callable[[TrackedPose], None] | None = None,
    solid: Solid | None = None,
) -> Track:
    """Follow a model through a sequence.

    Parameters
    ----------
    model: the volume that moves.
    frames: (seconds, frame) in order; asked for one by one, and not kept.
    start: a rough pose of the first one; the model's centre at the isocentre where ``None``.
    progress: called with every pose.
    solid: as of a ``Tracker``.

    Raises
    ------
    InputError: no frames; as ``Tracker.step``.
    """
    tracker: Tracker | None = None
    poses: list[TrackedPose] = []
    blocks: list[Array64] = []
    before: list[float] = []  # times of frames that show nothing before the first that does
    for time, frame in frames:
        if tracker is None:
            if frame is None:
                before.append(time)
                continue
            views = [x.view for x in ((frame,) if isinstance(frame, XRay) else frame)]
            tracker = Tracker(model, views, config, start, solid)
            for early in before:
                poses.append(tracker.step(None, early))
                blocks.append(np.empty(0))
                if progress is not None:
                    progress(poses[-1])
        poses.append(tracker.step(frame, time))
        shown = frame if frame is None or isinstance(frame, XRay) else frame[0]
        blocks.append(np.empty(0) if shown is None else blocks_of(shown))
        if progress is not None:
            progress(poses[-1])
    if tracker is None or tracker.first is None:
        raise InputError("no frame shows anything", field="frames", remedy="give at least one that does")
    return Track(tuple(poses), tracker.first, *_gates(poses, blocks))


def _gates(poses: Sequence[TrackedPose], blocks: Sequence[Array64]) -> tuple[Signal | None, Signal | None]:
    """Breathing from how the model moves to the head and back, the pulse from how places brighten and darken."""
    times = np.array([pose.time for pose in poses])
    seen = np.array([pose.supported for pose in poses])
    high = np.array([float(pose.centre[2]) for pose in poses])
    return breathing(times, np.where(seen, high, np.nan)), pulse(times, blocks)
