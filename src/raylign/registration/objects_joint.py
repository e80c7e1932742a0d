"""All bodies refined together: one Gauss-Newton system of 6 n parameters, joints and collisions in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from raylign.projection import cpu
from raylign.registration.collision import Penalty, Solid, collisions, lever, penalty_of
from raylign.registration.matching import (
    Comparison,
    ExposureSystem,
    Mask,
    MatchConfig,
    Normal,
    Rendering,
    exposure_system,
    render,
    summed,
)
from raylign.registration.objects_levels import ObjectScale, answered_by_all
from raylign.registration.objects_problem import Joint, ObjectsConfig
from raylign.registration.pyramid import Array32, Array64
from raylign.registration.refinement import LEASH_DEGREES, LEASH_MM, lengthened
from raylign.registration.result import Step
from raylign.registration.rotations import vector_of
from raylign.registration.search import moved
from raylign.registration.spread import covariance_of

Matrices = list[Array64]

_LEAST_TEMPER = 0.2  # of few patches it is not known better


@dataclass(frozen=True, eq=False)
class Linked:
    """A joint between two bodies by number."""

    a: int
    b: int
    joint: Joint


@dataclass(frozen=True, eq=False)
class Ties:
    """What is known beside the images: joints, and bodies as solids that keep out of each other."""

    joints: tuple[Linked, ...] = ()
    solids: tuple[Solid | None, ...] = ()

    def penalty(self, matrices: Sequence[Array64], centres: Sequence[Array64], config: ObjectsConfig) -> Penalty:
        """Minus twice the logarithm of the priors, by twists about the bodies' centres."""
        total = joint_penalty(self.joints, matrices, centres)
        contact = self.contact(matrices, centres, config)
        return total if contact is None else total + contact

    def contact(self, matrices: Sequence[Array64], centres: Sequence[Array64], config: ObjectsConfig) -> Penalty | None:
        """The part of it that keeps bodies out of each other, where there is one."""
        if config.collision is None or not self.solids:
            return None
        return collisions(self.solids, matrices, centres, config.collision)


def joint_residuals(link: Linked, matrices: Sequence[Array64], centres: Sequence[Array64]) -> tuple[Array64, Array64, Array64]:
    """Residuals [n] of a joint, their derivatives [n, 6 N] by twists of all N bodies, and precisions [n].

    Three for the distance of the shared point's two places (world mm), one for each axis about which a turn costs (radians).
    """
    joint, a, b = link.joint, link.a, link.b
    first, second = matrices[a], matrices[b]
    at = first[:3, :3] @ joint.centre.numpy() + first[:3, 3]
    its = second[:3, :3] @ joint.point_in(joint.second).numpy() + second[:3, 3]
    jacobian = np.zeros((6, 6 * len(matrices)))
    jacobian[:3, 6 * a : 6 * a + 6] = lever(at[None], centres[a])[0]
    jacobian[:3, 6 * b : 6 * b + 6] = -lever(its[None], centres[b])[0]
    axes = first[:3, :3] @ joint.along
    turn = vector_of(second[:3, :3] @ (first[:3, :3] @ joint.turn).T)
    # the turn's components along axes that turn with the first body
    left = _inverse_left(turn)
    cross = np.cross(np.eye(3), turn)  # rows e x turn
    jacobian[3:, 6 * b : 6 * b + 3] = axes.T @ left
    jacobian[3:, 6 * a : 6 * a + 3] = -axes.T @ left.T + axes.T @ cross
    precision = np.concatenate([np.full(3, joint.mm**-2.0), np.radians(joint.degrees) ** -2.0])
    residuals = np.concatenate([at - its, axes.T @ turn])
    used = precision > 0
    return residuals[used], jacobian[used], precision[used]


def _inverse_left(turn: Array64) -> Array64:
    """[3, 3]: how the rotation vector of ``exp(w) R`` changes with w, R that of ``turn`` (the left Jacobian's inverse)."""
    angle = float(np.linalg.norm(turn))
    x, y, z = turn
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    half = angle / 2
    rest = 1 / 12 if angle < 1e-4 else (1 - half / math.tan(half)) / angle**2
    return np.asarray(np.eye(3) - cross / 2 + rest * cross @ cross)


def joint_penalty(joints: Sequence[Linked], matrices: Sequence[Array64], centres: Sequence[Array64]) -> Penalty:
    """The sum over joints of residuals squared over their variances."""
    total = Penalty.zero(6 * len(matrices))
    for link in joints:
        total = total + penalty_of(*joint_residuals(link, matrices, centres))
    return total


@dataclass(frozen=True, eq=False)
class Shown:
    """All bodies rendered at their poses: of each one's rendering of all exposures."""

    matrices: Matrices
    renderings: list[Rendering]


def centres_under(scale: ObjectScale, matrices: Sequence[Array64]) -> list[Array64]:
    """The bodies' middles, world mm."""
    return [m[:3, :3] @ level.middle + m[:3, 3] for level, m in zip(scale.models, matrices, strict=True)]


def shown(scale: ObjectScale, matrices: Sequence[Array64], match: MatchConfig, *, jacobian: bool = True) -> Shown:
    """Every body rendered on every exposure, each on the pixels that it can reach."""
    out = []
    for level, matrix in zip(scale.models, matrices, strict=True):
        reached = [_reached(level.size, level.affine, matrix, image) for image in scale.images]
        out.append(render(level, scale.images, matrix, match, jacobian=jacobian, pixels=reached))
    return Shown(list(matrices), out)


def _reached(size: Array64, affine: Array64, matrix: Array64, image) -> Mask:  # type: ignore[no-untyped-def]
    """[H, W] valid pixels within the box that a model's corners span on an exposure."""
    ends = np.stack([np.full(3, -1.0), size])
    corners = np.array([[ends[i][0], ends[j][1], ends[k][2], 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    world = corners @ (matrix @ affine).T
    normal = image.view.normal.numpy()
    depth = (world[:, :3] - image.source) @ normal
    if (depth <= 1.0).any():
        return np.asarray(image.valid)
    pixels = image.view.project(torch.from_numpy(world[:, :3])).numpy()
    low, high = np.floor(pixels.min(0)).astype(int), np.ceil(pixels.max(0)).astype(int) + 1
    h, w = image.shape
    out = np.zeros((h, w), np.bool_)
    rows, columns = slice(max(low[1], 0), max(min(high[1], h), 0)), slice(max(low[0], 0), max(min(high[0], w), 0))
    out[rows, columns] = image.valid[rows, columns]
    return out


def compared(scale: ObjectScale, seen: Shown, masks: Sequence[Mask], floor: Array64, match: MatchConfig, *, full: bool) -> Normal:
    """Cost, and with ``full`` the Gauss-Newton system of 6 n parameters, of all bodies against all exposures.

    The line integrals of all bodies add up; their Jacobians stand side by side. ``Normal.centre`` is [n, 3]. Exposures count by
    the level's weights.
    """
    count = len(scale.models)

    def one(v: int) -> ExposureSystem:
        image = scale.images[v]
        moving: Array32 = np.zeros((1 + 6 * count if full else 1, *image.shape), np.float32)
        for b, rendering in enumerate(seen.renderings):
            moving[0] += rendering.integrals[v] * image.lengths
            if full:
                alone = Rendering(rendering.matrix, (rendering.integrals[v],), (rendering.slopes[v],))
                moving[1 + 6 * b : 7 + 6 * b] = Comparison(scale.models[b], [image], alone, (), match).derivatives()[0]
        return exposure_system(moving, image, masks[v], float(floor[v]), match)

    views = range(len(scale.images))
    found = list(cpu.pool(cpu.threads()).map(one, views)) if len(scale.images) > 1 else [one(0)]
    if scale.weights is not None:
        found = [_counted(f, float(weight)) for f, weight in zip(found, scale.weights, strict=True)]
    return summed(found, scale.images, np.stack(centres_under(scale, seen.matrices)))


def _counted(system: ExposureSystem, weight: float) -> ExposureSystem:
    return replace(system, cost=weight * system.cost, hessian=weight * system.hessian, scores=weight * system.scores)


def weighed(scale: ObjectScale, matrices: Sequence[Array64], match: MatchConfig) -> ObjectScale:
    """A level whose exposures count by what they know of the poses [n, 4, 4], the more they speak from noise, not from the model.

    The cost counts every pixel as a witness of its own. Where noise is what a model leaves, that is so, or better than so: it
    differs from pixel to pixel. Where the model is at fault, its soft tissue missing and its inside a guess, all pixels along an
    edge err in one sense. How far scatter and curvature of an exposure's own cost are apart tells (``_temper``, as in Huber's
    covariance), and each is divided by it. The sum of the costs stays.
    """
    if len(scale.images) < 2:
        return scale
    seen, costs, tempers = shown(scale, matrices, match), [], []
    for v, image in enumerate(scale.images):
        one = replace(scale, images=[image], weights=None)
        renderings = [Rendering(r.matrix, (r.integrals[v],), (r.slopes[v],)) for r in seen.renderings]
        alone, masks = Shown(seen.matrices, renderings), answered_by_all(one, matrices, match.window)
        floor = compared(one, alone, masks, np.zeros(1), match, full=False).noise
        normal = compared(one, alone, masks, floor, match, full=True)
        costs.append(abs(normal.cost) * max(1, image.usable))
        tempers.append(max(_temper(normal, one, match), _LEAST_TEMPER))
    weights = 1 / np.array(tempers)
    total = float(weights @ np.array(costs))
    return replace(scale, weights=weights * (sum(costs) / total if total > 0 else 1.0))


@dataclass(frozen=True, eq=False)
class Together:
    """What the joint refinement of one level ended in.

    ``normal`` is the images' own system, without ties; ``temper`` what a variance of the images' is as a multiple of the inverse
    of their Hessian.
    """

    matrices: Matrices
    normal: Normal
    temper: float
    steps: tuple[tuple[Step, ...], ...] = ()
    renders: int = 0

    @staticmethod
    def at(matrices: Matrices) -> Together:
        """Poses that nothing was done to yet."""
        views = np.zeros(0)
        normal = Normal(0.0, np.zeros((0, 0)), np.zeros(0), np.zeros((0, 0)), 0.0, 0, views, np.zeros((0, 3)), views, views)
        return Together(matrices, normal, 1.0)


@dataclass(frozen=True, eq=False)
class Setting:
    """What a joint refinement is told beside its level and its starts.

    ``about`` are the poses that it may not go far from, ``weighed`` says whether exposures count by what they know (``weighed``).
    """

    ties: Ties
    config: ObjectsConfig
    about: Matrices
    weighed: bool = False


def refine_together(scale: ObjectScale, starts: Sequence[Array64], setting: Setting) -> Together:
    """Levenberg-Marquardt over the poses of all bodies at one level.

    As ``refinement.refine``: the floor of the residual variance follows the residual down, the compared pixels are fixed while a
    step is judged, above the finest level a weak spring ties each body to where the level began. Ties weigh what they are worth
    beside the images: the cost counts pixels as if they were independent, so its Hessian is divided by ``temper``, taken from
    the covariance of the scores at the first pose.
    """
    config, direct = setting.config, setting.config.direct
    match = replace(direct.match, step=direct.match.finest_step) if scale.index == 0 else direct.match
    if setting.weighed:
        scale = weighed(scale, starts, match)
    usable = max(1, sum(image.usable for image in scale.images))
    count = len(scale.models)
    size = np.tile([np.radians(LEASH_DEGREES)] * 3 + [LEASH_MM] * 3, count)
    stiffness = usable * (direct.leash if scale.index > 0 else 0.0) / size**2
    none = np.zeros(len(scale.images))

    matrices = [m.copy() for m in starts]
    masks = answered_by_all(scale, matrices, match.window)
    seen = shown(scale, matrices, match)
    floor = compared(scale, seen, masks, none, match, full=False).noise
    now = compared(scale, seen, masks, floor, match, full=True)
    temper = _temper(now, scale, match)
    tie = setting.ties.penalty(matrices, list(now.centre), config)
    steps = [[Step(scale.index, 0, now.cost, torch.from_numpy(m.copy()))] for m in matrices]
    renders, damping = 1, 1e-4
    tolerance = direct.tolerance * {0: 1, 1: 10}.get(scale.index, 100)
    last: tuple[Array64, float] | None = None
    for iteration in range(1, (direct.iterations if config.joint else 0) + 1):
        accepted = False
        away = np.concatenate([_twist(s, m, c) for s, m, c in zip(starts, matrices, now.centre, strict=True)])
        tension = float(stiffness @ away**2)
        total = usable * now.cost + tension + temper * tie.value
        for attempt in range(4):
            h = now.hessian + np.diag(stiffness) + temper * tie.hessian
            g = now.gradient - stiffness * away + temper * tie.gradient
            diagonal = np.diag(h)
            damped = h + np.diag(damping * diagonal + 1e-9 * _ground(diagonal))
            twist = np.linalg.solve(damped, g)
            if twist @ g / usable < tolerance:
                break
            times = lengthened(last, twist, h, direct.stretch) if attempt == 0 and scale.index == 0 else 1.0
            short, twist = twist, times * twist
            trial_matrices = [moved(m, twist[6 * b : 6 * b + 6], now.centre[b]) for b, m in enumerate(matrices)]
            if not _within(trial_matrices, scale, setting):
                damping = damping if times > 1 else max(damping, 1e-4) * 10
                continue
            seen = shown(scale, trial_matrices, match)
            trial = compared(scale, seen, masks, floor, match, full=False)
            trial_tie = setting.ties.penalty(trial_matrices, list(trial.centre), config)
            trial_away = np.concatenate([_twist(s, m, c) for s, m, c in zip(starts, trial_matrices, trial.centre, strict=True)])
            renders += 1
            if usable * trial.cost + float(stiffness @ trial_away**2) + temper * trial_tie.value < total:
                accepted = True
                break
            damping = damping if times > 1 else max(damping, 1e-4) * 10
        if not accepted:
            break
        matrices, tie, last = trial_matrices, trial_tie, (short, times)
        damping /= 10
        floor = np.minimum(floor, trial.noise)
        masks = answered_by_all(scale, matrices, match.window)
        now = compared(scale, seen, masks, floor, match, full=True)
        for own, m in zip(steps, matrices, strict=True):
            own.append(Step(scale.index, iteration, now.cost, torch.from_numpy(m.copy())))
    return Together(matrices, now, temper, tuple(tuple(s) for s in steps), renders)


def _ground(diagonal: Array64) -> Array64:
    """For each parameter the largest of its kind (turns, shifts) over all bodies: what nothing determines stays where it is."""
    by_kind = diagonal.reshape(-1, 2, 3).max((0, 2))
    return np.asarray(np.tile(np.repeat(np.maximum(by_kind, 1e-12), 3), len(diagonal) // 6))


def _twist(start: Array64, matrix: Array64, centre: Array64) -> Array64:
    """The twist about a body's middle (under ``matrix``) from a start to a pose, rad and mm."""
    relative = matrix @ np.linalg.inv(start)
    before = np.linalg.solve(relative, np.append(centre, 1.0))[:3]
    return np.concatenate([vector_of(relative[:3, :3]), centre - before])


def _within(matrices: Sequence[Array64], scale: ObjectScale, setting: Setting) -> bool:
    config = setting.config
    for start, matrix, level in zip(setting.about, matrices, scale.models, strict=True):
        away = _twist(start, matrix, matrix[:3, :3] @ level.middle + matrix[:3, 3])
        if np.degrees(np.linalg.norm(away[:3])) > config.reach_degrees or np.linalg.norm(away[3:]) > config.reach_mm:
            return False
    return True


def _temper(normal: Normal, scale: ObjectScale, match: MatchConfig) -> float:
    """What a variance is as a multiple of the inverse Hessian, on average over what the images determine."""
    covariance = covariance_of(normal, scale.images, match)
    values, vectors = np.linalg.eigh(normal.hessian)
    keep = values > 1e-6 * values[-1]
    ratios = np.einsum("ij,ik,kj->j", vectors[:, keep], covariance, vectors[:, keep]) * values[keep]
    return float(np.median(ratios)) if keep.any() else 1.0


def settled(
    together: Together, covariance: Array64, ties: Sequence[Linked], contact: Penalty | None = None, held: Sequence[int] = ()
) -> tuple[Matrices, Array64]:
    """Poses weighed against the joints, the more, the less the images determine them; and their covariance [6 n, 6 n].

    ``covariance`` is the images'. Images and joints are two normal distributions; their product is one again. The images' own
    optimum is a Gauss-Newton step from where the joint refinement, the ties in it, came to rest; what keeps bodies out of each
    other (``contact``, at those poses) holds in it as it did there.
    """
    normal, matrices = together.normal, together.matrices
    centres = list(normal.centre)
    if not ties:
        return matrices, covariance
    h = normal.hessian + 1e-6 * np.diag(np.diag(normal.hessian)) + 1e-9 * np.diag(_ground(np.diag(normal.hessian)))
    downhill = normal.gradient
    if contact is not None:
        h, downhill = h + together.temper * contact.hessian, downhill + together.temper * contact.gradient
    own = np.linalg.solve(h, downhill)
    parts = [joint_residuals(link, matrices, centres) for link in ties]
    residuals, jacobian = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    variance = 1 / np.concatenate([p[2] for p in parts])
    gain = covariance @ jacobian.T @ np.linalg.inv(jacobian @ covariance @ jacobian.T + np.diag(variance))
    for b in held:
        gain[6 * b : 6 * b + 6] = 0
    twist = own - gain @ (residuals + jacobian @ own)
    rest = np.eye(len(covariance)) - gain @ jacobian
    left = rest @ covariance @ rest.T + (gain * variance) @ gain.T  # of any gain
    return [moved(m, twist[6 * b : 6 * b + 6], centres[b]) for b, m in enumerate(matrices)], (left + left.T) / 2
