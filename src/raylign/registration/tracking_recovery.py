"""What a frame is worth, and where a model that was lost may be."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.registration.confidence import Evidence
from raylign.registration.evidence import Pattern
from raylign.registration.levels import Scale, centre_under
from raylign.registration.locate import locate
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array64
from raylign.registration.refinement import Candidate, distinct, refine
from raylign.registration.result import Confidence
from raylign.registration.saturation import bent_pattern
from raylign.registration.search import Bounds, camera_axes, separation
from raylign.registration.settings import LocateConfig
from raylign.registration.tracking_levels import FollowConfig, Followed, Stand, follow
from raylign.registration.tracking_motion import Motion, resting
from raylign.registration.tracking_solids import judge_of, known_of, stated_of

_ALIKE = 0.95  # of what a frame shortly before explained
_PLAIN = 0.8  # of what is usual: a place that explains as much needs no others beside it
_HALF = 0.5  # of what is usual: a place that explains less is none
_OPEN = (10.0, 25.0)  # degrees and mm, one standard deviation of what is open about a place where the model may be


@dataclass(frozen=True)
class RecoveryConfig:
    """Where a lost model is looked for.

    Parameters
    ----------
    mm: half width across the first beam, about the last pose, of the box that every lost frame is searched in, as it lay.
    every: of so many lost frames one is searched in a wider box.
    wide_degrees, wide_mm, wide_depth: half widths of that box.
    places, finalists: how many places are refined coarsely, and how many of them at the level that is tracked.
    locate: how densely a box is looked through.
    """

    mm: float = 60.0
    every: int = 5
    wide_degrees: float = 20.0
    wide_mm: float = 120.0
    wide_depth: float = 60.0
    places: int = 4
    finalists: int = 2
    locate: LocateConfig = field(default_factory=LocateConfig)

    def __post_init__(self) -> None:
        for name in ("every", "places", "finalists"):
            if getattr(self, name) < 1:
                raise InputError(f"{getattr(self, name)} is less than one", field=name, remedy="give 1 or more")


@dataclass(frozen=True, eq=False)
class Look:
    """A frame followed, and what is to be held of that; ``stated`` [6, 6] is the covariance with what no filter learns."""

    followed: Followed
    evidence: Evidence
    confidence: Confidence
    pattern: Pattern
    stated: Array64

    @property
    def explained(self) -> float:
        """Share of the frame's structure that the model explains where it has something to say."""
        return self.followed.normal.explained


def look(scale: Scale, prior: Motion, config: FollowConfig, known: Look | None = None) -> Look:
    """Follow a frame and ask how far to trust that (``confidence.judge``): as after a registration, but for rivals and mirror
    images, which were told apart when the sequence began.

    ``known`` is a frame shortly before: where as much is explained as there, and the pose is where it was expected, the pattern
    of the match is taken to be what it was. It costs as much as following a frame does.
    """
    found = follow(scale, prior, config)
    alike = known is not None and found.normal.explained > _ALIKE * known.explained and found.misfit < 1
    seen = known.pattern if known is not None and alike else bent_pattern(scale, found.matrix, config.match, config.response)
    axes, centre = camera_axes(scale.images[0].view), centre_under(scale, found.matrix)
    stated = stated_of(config.solid, found.matrix, centre, found.covariance, [image.view for image in scale.images], scale.model)
    closed = known_of(config.solid, found.matrix, centre, stated)
    across = np.sqrt(np.clip(np.diag(axes.T @ closed[3:, 3:] @ axes), 0, None))
    turn = math.sqrt(max(float(np.diag(closed)[:3].max()), 0.0))
    evidence = Evidence(
        explained=found.normal.explained,
        answered=found.normal.pixels / max(1, sum(i.usable for i in scale.images)),
        rival=0.0,
        depth=float(across[2]),
        wobble=float(np.hypot(across[:2].max(), scale.model.radius * turn)),
        held=True,
        mirror=0.0,
        **asdict(seen),
    )
    return Look(found, evidence, judge_of(config.solid)(evidence, config.direct.trust), seen, stated)


def searched(
    problem: Problem, wide: Stand, held: Motion, config: RecoveryConfig, following: FollowConfig, *, wider: bool
) -> tuple[list[Array64], int]:
    """Poses under which a frame may show the model, best first, refined coarsely; and how many renderings they took.

    From where the model would be and from where it was last seen. If neither explains what is usual, every shift across the first
    beam, at the depth and in the attitude in which the model was last seen, is looked through by one correlation (``locate``);
    ``wider`` adds turns, depths and a larger box.

    Parameters
    ----------
    problem: model and frame; ``start`` is the last pose.
    wide: levels whose regions reach as far as the search.
    following: how frames are followed; a place that explains less than half of what is usual is none.
    """
    usual, direct = following.explained, following.direct
    axes, centre = camera_axes(problem.xrays[0].view), held.centre
    box = Bounds(held.matrix, axes, centre, 0.0, config.mm, 0.0)
    if wider:
        box = replace(box, degrees=config.wide_degrees, mm=config.wide_mm, depth=config.wide_depth)
    coarse = wide.level(min(1, len(wide.scales) - 1), problem.xrays)
    loose = Bounds(held.matrix, axes, centre, max(box.degrees, 10.0), box.mm + 20, max(box.depth, 20.0))

    def refined(seeds: Sequence[Array64]) -> list[Candidate]:
        return [refine(coarse, seed, loose, direct, threaded=True) for seed in seeds]

    last = problem.start.matrix.numpy()
    near = separation(held.matrix, last, centre, coarse.model.radius) < coarse.model.spacing
    found = refined([held.matrix] if near else [held.matrix, last])
    renders = 0
    if wider or max(c.normal.explained for c in found) < _PLAIN * usual:
        places, renders = locate(problem, box, config.locate, config.places, both=False)
        found += refined([place.matrix for place in places])
    renders += sum(c.renders for c in found)
    best = distinct(found, 0.75 * coarse.model.spacing, coarse.model.radius)
    worth = [c.matrix for c in best if c.normal.cost < 0 and c.normal.explained > _HALF * usual]
    return worth[: config.finalists], renders


def regained(
    wide: Stand, xrays: Sequence[XRay], matrices: Sequence[Array64], config: FollowConfig, supports: Callable[[Look], bool]
) -> tuple[Look | None, int]:
    """The first of some places that a frame supports at the level that is tracked; and how many renderings that took."""
    renders = 0
    if matrices:
        scale = wide.level(0, xrays)
        spread = np.array([math.radians(_OPEN[0])] * 3 + [_OPEN[1]] * 3)
        far = replace(config, iterations=2 * config.iterations)
        for matrix in matrices:
            prior = resting(matrix, scale.model.middle, np.diag(spread**2), config.motion)
            found = look(scale, prior, far)
            renders += found.followed.renders
            if supports(found):
                return found, renders
    return None, renders


def problem_of(model: Volume, xrays: Sequence[XRay], matrix: Array64) -> Problem:
    """A frame as a problem that begins at a pose."""
    return Problem(model, tuple(xrays), Rigid(torch.from_numpy(np.ascontiguousarray(matrix))))


def nowhere() -> contextlib.AbstractContextManager[None]:
    """Frames that show nothing where the model would be: no error in a sequence."""
    return contextlib.suppress(InputError)
