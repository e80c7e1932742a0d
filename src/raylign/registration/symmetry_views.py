"""What exposures say of the poses that a symmetric model may be taken for: chosen where they can tell, named where not.

Two kinds of poses look alike. In those that differ by a symmetry of the surface the model is the same, and no exposure helps.
Others look alike in one view only: seen from far away, a body and its mirror image in a plane across the beam cast one shadow, so
that a body with a plane of symmetry (a stem, a plate, everything that was turned on a lathe) tilts towards the source or away
from it. Perspective tells the two apart, if little: both are refined, and the better one is kept. Turns about an axis that is
nearly one of symmetry (a screw) are tried in the same way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.registration.ambiguity import Ambiguity
from raylign.registration.confidence import Evidence, judge
from raylign.registration.direct import bounds_of
from raylign.registration.levels import Scale, build_scales, centre_under
from raylign.registration.locate import locate
from raylign.registration.problem import Problem, as_read
from raylign.registration.pyramid import Array64
from raylign.registration.refinement import Candidate, refine
from raylign.registration.result import Confidence, Result
from raylign.registration.saturation import OUTLINES, Response, bent_pattern, outline_error, refine_bent
from raylign.registration.search import INSIDE, Bounds, separation
from raylign.registration.settings import DirectConfig, SearchConfig
from raylign.registration.spread import covariance_of
from raylign.registration.symmetry import Symmetry, turned

Judge = Callable[[Evidence, float], Confidence]

ALIKE = 0.9
"""Share of the stated pose's cost from which another pose is named as one that the exposures hardly tell from it."""

_AS_GOOD = 0.95  # share of the best cost from which not the exposures decide, but which pose is nearer the start
_SAME = 4.0  # degrees within which two poses are one
_TURNS = 8  # turns about an axis of near symmetry that are tried
_TRIED = 0.6  # share of the cost, at the second level, that makes a pose worth the finest one
_EDGE_ON = 0.15  # cosine between normal and ray under which a point is on the outline
_WRONG = 10.0  # mm: a success is an mTRE below it
_OPEN = math.pi  # rad, one standard deviation of a turn that nothing determines


@dataclass(frozen=True, eq=False)
class _Look:
    """A problem about a pose: its two finest levels, how images are compared there, and the box that was searched."""

    problem: Problem
    scales: list[Scale]
    config: DirectConfig
    response: Response | None
    judge: Judge
    bounds: Bounds
    search: SearchConfig

    @staticmethod
    def of(problem: Problem, result: Result, config: DirectConfig, response: Response | None, judge: Judge) -> _Look:
        near = replace(config, search=replace(config.search, degrees=8.0, mm=8.0, depth=None))
        scales = build_scales(replace(as_read(problem, result), start=result.transform), near, most=2)
        return _Look(problem, scales, near, response, judge, bounds_of(problem, config.search), config.search)

    def refined(self, matrix: Array64, level: int) -> Candidate:
        """The best pose nearby at a level."""
        scale = self.scales[min(level, len(self.scales) - 1)]
        bounds = Bounds(matrix, self.bounds.axes, centre_under(scale, matrix), 8.0, 8.0, 40.0)
        if self.response is not None:
            return refine_bent(scale, matrix, bounds, self.config, self.response)
        return refine(scale, matrix, bounds, self.config, threaded=True)


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


def settled(
    problem: Problem,
    result: Result,
    symmetry: Symmetry,
    config: DirectConfig | None = None,
    response: Response | None = None,
    judge: Judge = judge,
) -> Result:
    """A registration's result with what the model's symmetries leave open looked into, and stated.

    Of the equivalent poses the one nearest the start is stated. With one view the mirror pose is refined too, and so are turns
    about an axis of near symmetry. The pose that explains the exposures best is kept; of several that explain them nearly as
    well the one nearest the start is, and the others are named. A turn that nothing determines has a standard deviation of 180
    degrees. The probability is judged anew: neither equivalent poses nor the model's mirror image speak against a pose of such a
    model, but one that only looks alike and lies more than 10 mm off (mean over the surface) halves it.

    Parameters
    ----------
    problem, result: as registered by the direct method, or by another.
    symmetry: of the mesh that the model was made from, in the same frame.
    config: what the direct method was told.
    response: of exposures that saturate behind the model's metal: the pose is then refined with the model's line integrals bent.
    judge: from the evidence and the threshold of trust to the confidence.
    """
    if symmetry.trivial and symmetry.mirror is None and symmetry.nearly is None and response is None:
        return result
    begun = time.perf_counter()
    config = config or DirectConfig()
    result = replace(result, transform=nearest_equivalent(symmetry, result.transform, problem.start))
    look = _Look.of(problem, result, config, response, judge)
    chosen, alike, renders = _compared(look, result.transform, _others(problem, result.transform, symmetry), symmetry)
    if chosen is not None:
        pose = nearest_equivalent(symmetry, Rigid(torch.from_numpy(chosen.matrix)), problem.start)
        result = replace(result, transform=pose, trajectory=result.trajectory + chosen.steps, renders=result.renders + renders)
    ambiguity = ambiguity_of(symmetry, result.transform)
    ambiguity = replace(ambiguity, alike=alike, words=ambiguity.words + _words(result.transform, alike, symmetry))
    result = _judged(look, replace(result, ambiguity=ambiguity), symmetry, chosen)
    return replace(result, timings={**result.timings, "symmetry": time.perf_counter() - begun})


def _others(problem: Problem, pose: Rigid, symmetry: Symmetry) -> list[Rigid]:
    """Poses that exposures may hardly tell from one."""
    poses = [pose]
    if symmetry.nearly is not None:
        angles = torch.arange(1, _TURNS, dtype=torch.float64) * (2 * math.pi / _TURNS)
        poses += [Rigid(pose.matrix @ m) for m in symmetry.about_centre(turned(symmetry.nearly, angles))]
    if symmetry.mirror is not None and not symmetry.ball and len(problem.xrays) == 1:
        poses.append(mirror_pose(symmetry, pose, problem.xrays[0].view))
    return [p for p in poses[1:] if apart(symmetry, pose, p) > _SAME]


def _compared(
    look: _Look, pose: Rigid, others: list[Rigid], symmetry: Symmetry
) -> tuple[Candidate | None, tuple[tuple[Rigid, float], ...], int]:
    """The best of a pose and some others (None where it is the pose itself, as it was), and what it took.

    Besides: those that come near it, with their share of its cost, and the number of renderings.
    """
    if not others and look.response is None:
        return None, (), 0
    coarse = [look.refined(p.matrix.numpy(), 1) for p in (pose, *others)]
    own = min(coarse[0].normal.cost, -1e-9)
    tried = [c.matrix for c in coarse[1:] if c.normal.cost / own > _TRIED]
    first = coarse[0].matrix if look.response is not None else pose.matrix.numpy()
    finest = [look.refined(m, 0) for m in (first, *tried)]
    order = sorted(range(len(finest)), key=lambda i: finest[i].normal.cost)
    least = min(finest[order[0]].normal.cost, -1e-9)
    # of what the exposures hardly tell apart, what was expected
    as_good = [i for i in order if finest[i].normal.cost / least >= _AS_GOOD]
    expected = {i: apart(symmetry, look.problem.start, Rigid(torch.from_numpy(finest[i].matrix))) for i in as_good}
    order = sorted(order, key=lambda i: expected.get(i, math.inf))
    best = finest[order[0]]
    stated = Rigid(torch.from_numpy(best.matrix))
    alike: list[tuple[Rigid, float]] = []
    for i in order[1:]:
        other, share = Rigid(torch.from_numpy(finest[i].matrix)), finest[i].normal.cost / least
        if share >= ALIKE and all(apart(symmetry, p, other) > _SAME for p in (stated, *(a for a, _ in alike))):
            alike.append((other, float(share)))
    same = order[0] == 0 and look.response is None
    return None if same else best, tuple(alike), sum(c.renders for c in (*coarse, *finest))


def _words(pose: Rigid, alike: tuple[tuple[Rigid, float], ...], symmetry: Symmetry) -> tuple[str, ...]:
    if not alike:
        return ()
    other, share = max(alike, key=lambda a: a[1])
    degrees = apart(symmetry, pose, other)
    more = f" ({len(alike)} such poses)" if len(alike) > 1 else ""
    return (
        f"a pose turned by {degrees:.0f} degrees explains the exposures {100 * share:.0f} % as well{more}: look from elsewhere",
    )


def opened_turns(
    covariance: Float[Tensor, "6 6"], centre: Float[Tensor, "3"], ambiguity: Ambiguity, middle: Float[Tensor, "3"]
) -> tuple[Float[Tensor, "6 6"], Float[Tensor, "6 6"]]:
    """A covariance of twists about ``centre`` with undetermined turns at 180 degrees, and with them left out.

    What is free is a turn about the axis of the surface, or about the ``middle`` of a ball (world mm). Seen from another point
    it is a turn and a shift.
    """
    if not ambiguity.free:
        return covariance, covariance
    keep = torch.eye(6, dtype=torch.float64)
    free, point = torch.eye(3, dtype=torch.float64), middle
    if ambiguity.axis is not None:
        point, direction = ambiguity.axis
        free = torch.outer(direction, direction)
    keep[:3, :3] -= free
    x, y, z = (point - centre).tolist()
    there = torch.eye(6, dtype=torch.float64)  # from a twist about the centre to one about the point: v + w x (point - centre)
    there[3:, :3] = torch.tensor([[0, z, -y], [-z, 0, x], [y, -x, 0]], dtype=torch.float64)
    back = torch.linalg.inv(there)
    known = keep @ (there @ covariance @ there.T) @ keep
    opened = known.clone()
    opened[:3, :3] += _OPEN**2 * free
    return back @ opened @ back.T, back @ known @ back.T


def _judged(look: _Look, result: Result, symmetry: Symmetry, chosen: Candidate | None) -> Result:
    """A result with its covariance opened and its confidence judged anew, of the pose ``chosen`` if it is another one.

    A confidence that rests on other evidence than the direct method's stays as it was.
    """
    ambiguity = result.ambiguity
    assert ambiguity is not None
    scale, old = look.scales[0], result.confidence
    direct = set(old.evidence) == set(Evidence.__dataclass_fields__)
    evidence = Evidence(**old.evidence) if direct else None  # type: ignore[arg-type]
    covariance, centre = result.covariance, result.centre
    if chosen is not None:
        seen = bent_pattern(scale, chosen.matrix, look.config.match, look.response)
        covariance = torch.from_numpy(covariance_of(chosen.normal, scale.images, look.config.match, seen.drift))
        centre = torch.from_numpy(chosen.normal.centre)
        if look.response is not None:
            views = [x.view for x in look.problem.xrays]
            blur = outlines_off(symmetry, result.transform, centre, views, outline_error(scale.model))
            covariance = covariance + torch.outer(blur, blur)
        answered = chosen.normal.pixels / max(1, sum(i.usable for i in scale.images))
        result = replace(result, centre=centre, score=chosen.normal.explained)
        if evidence is not None:
            evidence = replace(evidence, **asdict(seen), explained=chosen.normal.explained, answered=answered)
    opened, known = opened_turns(covariance, centre, ambiguity, result.transform.apply(symmetry.centre[None])[0])
    result = replace(result, covariance=opened)
    if evidence is None:
        return result
    across, depth = _deviations(look, result.transform, symmetry, known, centre)
    rival = evidence.rival
    if rival > 0.5:
        rival = _rival(look, result.transform, symmetry)
    changed = replace(
        evidence,
        wobble=across,
        depth=depth,
        rival=max([rival, *(share for _, share in ambiguity.alike)]),
        mirror=0.0 if symmetry.mirror is not None else evidence.mirror,
        held=look.bounds.hold(result.transform.matrix.numpy(), INSIDE),
    )
    # what other tests than this evidence had taken away stays away
    doubted = chosen is None and old.probability < look.judge(evidence, look.config.trust).probability - 1e-9
    return (
        result if doubted else replace(result, confidence=_halved(look, result, symmetry, look.judge(changed, look.config.trust)))
    )


def _halved(look: _Look, result: Result, symmetry: Symmetry, confidence: Confidence) -> Confidence:
    """The confidence, if it is right to within 10 mm only by luck: where another pose as good lies farther off."""
    assert result.ambiguity is not None
    points = symmetry.points
    far = [
        other
        for other, _ in result.ambiguity.alike
        if float(
            (nearest_equivalent(symmetry, other, result.transform).apply(points) - result.transform.apply(points))
            .norm(dim=1)
            .mean()
        )
        > _WRONG
    ]
    if not far:
        return confidence
    probability = confidence.probability / (1 + len(far))
    trusted = probability >= look.config.trust
    reasons = confidence.reasons if trusted else (*result.ambiguity.words[-1:], *confidence.reasons)
    return replace(confidence, probability=probability, trusted=trusted, reasons=reasons)


def outlines_off(
    symmetry: Symmetry, pose: Rigid, centre: Float[Tensor, "3"], views: list[View], mm: float = OUTLINES
) -> Float[Tensor, "6"]:
    """The twist (rad, mm, about ``centre``) that outlines seem to ask for that all lie ``mm`` outwards of where they belong.

    Metal's outlines are off in one sense: voxels, pixels and saturation make it wider or narrower. Residuals, which are fitted,
    do not show that. Each surface point that is seen edge-on moves its outline by ``n . (v + w x p)``, n its normal across the
    ray, outwards; the twist is the least-squares one, directions that no outline tells anything of left out. Its sense depends on
    that of the normals and does not matter.
    """
    points, normals = pose.apply(symmetry.points), symmetry.normals @ pose.matrix[:3, :3].T
    rows = []
    for view in views:
        rays = view.directions(points).detach()
        edge = (normals * rays).sum(1).abs() < _EDGE_ON
        across = normals[edge] - (normals[edge] * rays[edge]).sum(1, keepdim=True) * rays[edge]
        across = across / across.norm(dim=1, keepdim=True).clamp_min(1e-9)
        arms = points[edge] - centre
        rows.append(torch.cat([torch.linalg.cross(arms, across), across], 1))
    system = torch.cat(rows)
    if len(system) < 6:
        return torch.zeros(6, dtype=torch.float64)
    reach = (symmetry.points - symmetry.centre).norm(dim=1).mean()
    unit = torch.cat([torch.ones(3, dtype=torch.float64) / reach, torch.ones(3, dtype=torch.float64)])
    return unit * (torch.linalg.pinv(system * unit, rtol=2e-3) @ torch.full((len(system),), mm, dtype=torch.float64))


def _deviations(
    look: _Look, pose: Rigid, symmetry: Symmetry, covariance: Float[Tensor, "6 6"], centre: Float[Tensor, "3"]
) -> tuple[float, float]:
    """One standard deviation, mm: of the surface across the beam (root mean square over it), of its centre along the beam."""
    axes = torch.from_numpy(look.bounds.axes)
    arms = pose.apply(symmetry.points) - centre
    zero = torch.zeros(len(arms), dtype=torch.float64)
    x, y, z = arms.unbind(1)
    # w x p = -[p]x w
    cross = torch.stack([zero, z, -y, -z, zero, x, y, -x, zero], 1).reshape(-1, 3, 3)
    moves = axes.T @ torch.cat([cross, torch.eye(3, dtype=torch.float64).expand(len(arms), 3, 3)], 2)
    variance = (moves @ covariance @ moves.transpose(1, 2)).diagonal(dim1=1, dim2=2).clamp_min(0)
    along = (axes.T @ covariance[3:, 3:] @ axes)[2, 2].clamp_min(0)
    return float(variance[:, :2].amax(1).mean().sqrt()), float(along.sqrt())


def _rival(look: _Look, pose: Rigid, symmetry: Symmetry, keep: int = 12) -> float:
    """The cost of the best pose elsewhere as a share of this one's, poses that the model looks the same in not counted."""
    places, _ = locate(look.problem, look.bounds, look.search.grid, keep, both=False)
    own = min(look.refined(pose.matrix.numpy(), 1).normal.cost, -1e-9)
    centre = pose.apply(symmetry.centre[None])[0].numpy()
    most = 0.0
    for place in places:
        found = look.refined(place.matrix, 1)
        other = nearest_equivalent(symmetry, Rigid(torch.from_numpy(found.matrix)), pose)
        if separation(pose.matrix.numpy(), other.matrix.numpy(), centre, 50.0) > 5.0:
            most = max(most, found.normal.cost / own)
    return float(np.clip(most, 0, 1))
