"""What exposures say of the poses that a symmetric model may be taken for: chosen where they can tell, named where not.

Two kinds of poses look alike. In those that differ by a symmetry of the surface the model is the same, and no exposure helps.
Others look alike in one view only: seen from far away, a body and its mirror image in a plane across the beam cast one shadow, so
that a body with a plane of symmetry (a stem, a plate, everything that was turned on a lathe) tilts towards the source or away
from it. Perspective tells the two apart, if little: both are refined, and the better one is kept. Turns about an axis that is
nearly one of symmetry (a screw) are tried in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.registration.ambiguity import Ambiguity
from raylign.registration.confidence import Evidence, judge
from raylign.registration.direct import Direct
from raylign.registration.levels import Scale, build_scales, centre_under, evaluate
from raylign.registration.locate import locate
from raylign.registration.problem import Problem, as_read
from raylign.registration.pyramid import Array64, box_corners, content
from raylign.registration.refinement import refine
from raylign.registration.result import Confidence, Result
from raylign.registration.search import INSIDE, Bounds, camera_axes, separation
from raylign.registration.settings import DirectConfig, SearchConfig
from raylign.registration.symmetry import Symmetry, turned

ALIKE = 0.9
"""Share of the stated pose's cost from which another pose is named as one that the exposures hardly tell from it."""

_SAME = 4.0  # degrees within which two poses are one
_TURNS = 8  # turns about an axis of near symmetry that are tried
_TRIED = 0.6  # share of the cost, at the second level, that makes a pose worth the finest one
_OPEN = math.pi  # rad, one standard deviation of a turn that nothing determines


@dataclass(frozen=True, eq=False)
class _Look:
    """A problem about a pose: its two finest levels, and how far poses may go from where they are refined."""

    problem: Problem
    scales: list[Scale]
    config: DirectConfig
    search: SearchConfig

    def refined(self, matrix: Array64, level: int) -> tuple[Array64, float]:
        """The best pose nearby at a level, and its cost there."""
        scale = self.scales[min(level, len(self.scales) - 1)]
        axes = camera_axes(self.problem.xrays[0].view)
        bounds = Bounds(matrix, axes, centre_under(scale, matrix), 8.0, 8.0, 40.0)
        found = refine(scale, matrix, bounds, self.config, threaded=True)
        return found.matrix, evaluate(scale, found.matrix, self.config.match).cost


def ambiguity_of(symmetry: Symmetry, pose: Rigid) -> Ambiguity:
    """What no exposure can tell of a pose, by the model's symmetries alone."""
    matrix = pose.matrix
    others = tuple(Rigid(matrix @ m) for m in symmetry.maps[1:])
    axis = None
    if symmetry.axis is not None:
        axis = torch.stack([pose.apply(symmetry.centre[None])[0], matrix[:3, :3] @ symmetry.axis])
    return Ambiguity(others, (), axis, symmetry.free, symmetry.words)


def nearest_equivalent(symmetry: Symmetry, pose: Rigid, to: Rigid) -> Rigid:
    """Of the poses that the model looks the same in, the one turned the least against another."""
    best, least = pose, math.inf
    for equivalent in symmetry.maps:
        candidate = pose.matrix @ equivalent
        relative = to.matrix[:3, :3].T @ candidate[:3, :3]
        if symmetry.ball:
            candidate = candidate @ symmetry.about_centre(relative.T)
        elif symmetry.axis is not None:
            # the trace of relative times a turn by t about a is p + q cos t + r sin t
            a = symmetry.axis
            cross = torch.tensor([[0, -a[2], a[1]], [a[2], 0, -a[0]], [-a[1], a[0], 0]], dtype=torch.float64)
            angle = torch.atan2((relative @ cross).trace(), relative.trace() - a @ relative @ a)
            candidate = candidate @ symmetry.about_centre(turned(a, angle[None])[0])
        away = float(se3.log_rotation(to.matrix[:3, :3].T @ candidate[:3, :3]).norm())
        if away < least - 1e-9:
            best, least = Rigid(candidate), away
    return best


def apart(symmetry: Symmetry, a: Rigid, b: Rigid) -> float:
    """Degrees by which two poses turn the model against each other, the least over its symmetries."""
    other = nearest_equivalent(symmetry, b, a)
    return math.degrees(float(se3.log_rotation(a.matrix[:3, :3].T @ other.matrix[:3, :3]).norm()))


def mirror_pose(symmetry: Symmetry, pose: Rigid, view: View) -> Rigid:
    """The pose whose shadow is the same from far away: the model mirrored in the plane across the ray through its centre.

    Raises
    ------
    InputError: the model has no plane of symmetry, so that its mirror image is no pose of it.
    """
    if symmetry.mirror is None:
        raise InputError("the model has no mirror symmetry", field="symmetry")
    centre = pose.apply(symmetry.centre[None])
    ray = view.directions(centre)[0].detach()
    across = torch.eye(4, dtype=torch.float64)
    across[:3, :3] -= 2 * torch.outer(ray, ray)
    across[:3, 3] = centre[0] - across[:3, :3] @ centre[0]
    return Rigid(across @ pose.matrix @ symmetry.mirror)


def settled(problem: Problem, result: Result, symmetry: Symmetry, config: DirectConfig | None = None) -> Result:
    """A registration's result with what the model's symmetries leave open looked into, and stated.

    Of the equivalent poses the one nearest the start is stated. With one view the mirror pose is refined too, and so are turns
    about an axis of near symmetry; the pose that explains the exposures best is kept, and the others are named if they explain
    them nearly as well. A turn that nothing determines has a standard deviation of 180 degrees. The probability is judged anew:
    neither equivalent poses nor the model's mirror image speak against a pose of such a model.

    Parameters
    ----------
    problem, result: as registered by the direct method, or by another.
    symmetry: of the mesh that the model was made from, in the same frame.
    config: what the direct method was told.
    """
    if symmetry.trivial and symmetry.mirror is None and symmetry.nearly is None:
        return result
    config = config or DirectConfig()
    result = replace(result, transform=nearest_equivalent(symmetry, result.transform, problem.start))
    near = replace(config, search=replace(config.search, degrees=8.0, mm=8.0, depth=None))
    look = _Look(
        problem, build_scales(replace(as_read(problem, result), start=result.transform), near, most=2), near, config.search
    )
    others = _others(problem, result.transform, symmetry)
    result, alike = _compared(look, result, others, symmetry)
    ambiguity = ambiguity_of(symmetry, result.transform)
    ambiguity = replace(ambiguity, alike=alike, words=ambiguity.words + _words(result.transform, alike, symmetry))
    opened, known = _opened(result, ambiguity)
    confidence = _judged(look, replace(result, covariance=known), symmetry, alike)
    return replace(result, covariance=opened, confidence=confidence, ambiguity=ambiguity)


def _others(problem: Problem, pose: Rigid, symmetry: Symmetry) -> list[Rigid]:
    """Poses that exposures may hardly tell from one."""
    poses = [pose]
    if symmetry.nearly is not None:
        angles = torch.arange(1, _TURNS, dtype=torch.float64) * (2 * math.pi / _TURNS)
        poses += [Rigid(pose.matrix @ m) for m in symmetry.about_centre(turned(symmetry.nearly, angles))]
    if symmetry.mirror is not None and not symmetry.ball and len(problem.xrays) == 1:
        view = problem.xrays[0].view
        poses += [mirror_pose(symmetry, p, view) for p in (poses if symmetry.nearly is None else poses[:1])]
    return [p for p in poses[1:] if apart(symmetry, pose, p) > _SAME]


def _compared(
    look: _Look, result: Result, others: list[Rigid], symmetry: Symmetry
) -> tuple[Result, tuple[tuple[Rigid, float], ...]]:
    """The result of the best of some poses, and the others that come near it with their share of its cost."""
    if not others:
        return result, ()
    coarse = [look.refined(p.matrix.numpy(), 1) for p in (result.transform, *others)]
    own = min(coarse[0][1], -1e-9)
    tried = [matrix for matrix, cost in coarse[1:] if cost / own > _TRIED]
    finest = [look.refined(m, 0) for m in (result.transform.matrix.numpy(), *tried)]
    order = sorted(range(len(finest)), key=lambda i: finest[i][1])
    best = order[0]
    if best != 0:
        chosen = Rigid(torch.from_numpy(finest[best][0]))
        alone = replace(look.config, search=SearchConfig(degrees=8.0, mm=8.0, depth=40.0, hypotheses=1))
        again = Direct(alone).search_once(replace(look.problem, start=chosen))
        result = replace(
            again,
            start=result.start,
            trajectory=result.trajectory + again.trajectory,
            timings={k: v + again.timings.get(k, 0.0) for k, v in result.timings.items()},
            renders=result.renders + again.renders,
            settings=result.settings,
            method=result.method,
            seed=result.seed,
        )
    least = min(finest[best][1], -1e-9)
    alike: list[tuple[Rigid, float]] = []
    for i in order:
        pose, share = Rigid(torch.from_numpy(finest[i][0])), finest[i][1] / least
        if share >= ALIKE and all(apart(symmetry, p, pose) > _SAME for p in (result.transform, *(a for a, _ in alike))):
            alike.append((pose, float(min(share, 1.0))))
    return result, tuple(alike)


def _words(pose: Rigid, alike: tuple[tuple[Rigid, float], ...], symmetry: Symmetry) -> tuple[str, ...]:
    if not alike:
        return ()
    other, share = alike[0]
    degrees = apart(symmetry, pose, other)
    more = f" ({len(alike)} such poses)" if len(alike) > 1 else ""
    return (
        f"a pose turned by {degrees:.0f} degrees explains the exposures {100 * share:.0f} % as well{more}: look from elsewhere",
    )


def _opened(result: Result, ambiguity: Ambiguity) -> tuple[Float[Tensor, "6 6"], Float[Tensor, "6 6"]]:
    """The covariance with undetermined turns at 180 degrees, and with them left out."""
    if not ambiguity.free:
        return result.covariance, result.covariance
    keep = torch.eye(6, dtype=torch.float64)
    if ambiguity.axis is None:
        free = torch.eye(3, dtype=torch.float64)
    else:
        free = torch.outer(ambiguity.axis[1], ambiguity.axis[1])
    keep[:3, :3] -= free
    known = keep @ result.covariance @ keep
    opened = known.clone()
    opened[:3, :3] += _OPEN**2 * free
    return opened, known


def _judged(look: _Look, result: Result, symmetry: Symmetry, alike: tuple[tuple[Rigid, float], ...]) -> Confidence:
    """The confidence in a pose of a symmetric model; as it was where it rests on other evidence than the direct method's."""
    old = result.confidence
    if set(old.evidence) != set(Evidence.__dataclass_fields__):
        return old
    evidence = Evidence(**old.evidence)  # type: ignore[arg-type]
    covariance = result.covariance.numpy()
    rotation = np.sqrt(np.diag(covariance)[:3].clip(0))
    axes = camera_axes(look.problem.xrays[0].view)
    across = np.sqrt(np.diag(axes.T @ covariance[3:, 3:] @ axes).clip(0))[:2]
    wobble = float(np.hypot(across.max(), look.scales[0].model.radius * rotation.max()))
    rival = evidence.rival
    if rival > 0.5 and not symmetry.trivial:
        rival = _rival(look, result.transform, symmetry)
    changed = replace(
        evidence,
        wobble=wobble,
        rival=max([rival, *(share for _, share in alike)]) if alike else rival,
        mirror=0.0 if symmetry.mirror is not None else evidence.mirror,
        held=_bounds(look).hold(result.transform.matrix.numpy(), INSIDE),
    )
    if changed == evidence:
        return old
    judged = judge(changed, look.config.trust)
    # what other tests than this evidence had taken away stays away
    lowered = old.probability < judge(evidence, look.config.trust).probability - 1e-9
    return old if lowered else judged


def _bounds(look: _Look) -> Bounds:
    """The box that was searched about the start."""
    start, search = look.problem.start.matrix.numpy(), look.search
    middle = box_corners(look.problem.model, *content(look.problem.model)).mean(0)
    return Bounds(
        start,
        camera_axes(look.problem.xrays[0].view),
        start[:3, :3] @ middle + start[:3, 3],
        search.degrees,
        search.mm,
        search.along,
    )


def _rival(look: _Look, pose: Rigid, symmetry: Symmetry, keep: int = 12) -> float:
    """The cost of the best pose elsewhere as a share of this one's, poses that the model looks the same in not counted."""
    scale = look.scales[-1]
    bounds = _bounds(look)
    places, _ = locate(look.problem, bounds, look.search.grid, keep, both=False)
    own = min(evaluate(scale, pose.matrix.numpy(), look.config.match).cost, -1e-9)
    most = 0.0
    for place in places:
        found, cost = look.refined(place.matrix, 1)
        other = nearest_equivalent(symmetry, Rigid(torch.from_numpy(found)), pose)
        if separation(pose.matrix.numpy(), other.matrix.numpy(), centre_under(scale, pose.matrix.numpy()), 50.0) > 5.0:
            most = max(most, cost / own)
    return float(np.clip(most, 0, 1))
