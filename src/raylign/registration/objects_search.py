"""One of several bodies sought by itself: in what order, and about the joint that hangs it on one that is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from raylign.data import Volume
from raylign.errors import InputError
from raylign.projection import cpu
from raylign.registration.direct import Direct, worth
from raylign.registration.levels import Scale, evaluate
from raylign.registration.mesh_walls import tube_of, wall_at, with_wall
from raylign.registration.meshes import Meshes, as_registered, part_config
from raylign.registration.objects_levels import Posed, corners_of, framing, object_scales
from raylign.registration.objects_problem import Body, Joint, ObjectsConfig, ObjectsProblem
from raylign.registration.problem import Problem, Registrar
from raylign.registration.pyramid import Array64
from raylign.registration.refinement import Candidate, distinct, refine
from raylign.registration.result import Result, Step
from raylign.registration.search import INSIDE, Bounds, camera_axes, moved, spread
from raylign.registration.settings import DirectConfig, SearchConfig
from raylign.registration.structure_trust import empty_cost, rival_of

_SEEDS = 512  # turns about a joint that are compared at the coarsest level
_NEAR = (6.0, 10.0, 40.0)  # degrees, mm, mm along the beam: about what one exposure is sure of
_LOOSE = 2.0  # standard deviations of a joint's distance that are searched


@dataclass(frozen=True, eq=False)
class Found:
    """A body's pose and how it got there.

    Parameters
    ----------
    matrix: [4, 4] ``T_world_from_volume``.
    rival, held: of its search, see ``objects_trust.ObjectEvidence``; of a body that was not sought, 0 and True.
    hung: whether it was sought about a joint. free: whether in a box of its own.
    model: the body's model where it is not as it was given: a wall of another thickness (``mesh_walls``).
    steps, renders: accepted iterates, and poses that were rendered.
    """

    matrix: Array64
    rival: float = 0.0
    held: bool = True
    hung: bool = False
    steps: tuple[Step, ...] = ()
    renders: int = 0
    model: Volume | None = None
    free: bool = False


def order(problem: ObjectsProblem) -> list[str]:
    """In which order bodies are sought: what casts most shadow first, what hangs on one that is found before what does not."""
    weight = {}
    for body in problem.bodies:
        volume = body.model.attenuation()
        weight[body.name] = float(volume.data.abs().sum()) * abs(float(torch.linalg.det(volume.affine[:3, :3])))
    # what is sought about a joint alone waits for a body at its other end that has a search of its own
    free = {b.name for b in problem.bodies if b.search is not None}
    waits = {
        n: n not in free and any(n in (j.first, j.second) and other_of(j, n) in free for j in problem.joints) for n in weight
    }
    left, done = sorted(weight, key=lambda n: (waits[n], -weight[n])), list[str]()
    while left:
        hanging = [n for n in left if any(j.between(n, d) for j in problem.joints for d in done)]
        done.append((hanging or left)[0])
        left.remove(done[-1])
    return done


def other_of(joint: Joint, name: str) -> str:
    """The body that a joint joins another to."""
    return joint.second if name == joint.first else joint.first


def sought(problem: ObjectsProblem, name: str, found: Mapping[str, Found], config: ObjectsConfig) -> Found:
    """One body: in the box about its start, else about its joint with one that is found (all found behind it), else as given."""
    body = problem.bodies[problem.index(name)]
    if body.search is not None:
        result = in_box(Problem(body.whole or body.model, problem.xrays, body.start), body.search, config)
        told = result.confidence.evidence
        pose = result.transform.matrix.numpy()
        walled = as_registered(body.model, result)
        model = None if walled is body.model else walled
        return Found(pose, float(told["rival"]), bool(told["held"]), False, result.trajectory, result.renders, model, True)
    for joint in problem.joints:
        if name in (joint.first, joint.second) and other_of(joint, name) in found:
            return _about(problem, body, joint, found, config)
    return Found(body.start.matrix.numpy())


def in_box(problem: Problem, search: SearchConfig, config: ObjectsConfig) -> Result:
    """A body by the direct method (of an excess by that of ``meshes``), in each exposure alone first, until one is trusted.

    A lateral exposure of bones without their soft tissue says little, and a search in all exposures suffers from the worst. What
    a single one is sure of is refined in all of them. Where that is not trusted, all are searched together, and the better of
    the results counts.
    """
    made: Callable[[DirectConfig], Registrar] = Direct if problem.model.unit == "HU" else Meshes
    direct = made(replace(config.direct, search=search))
    results: list[Result] = []
    near = replace(search, degrees=min(search.degrees, _NEAR[0]), mm=min(search.mm, _NEAR[1]), depth=_NEAR[2], hypotheses=1)
    for xray in problem.xrays if len(problem.xrays) > 1 else ():
        try:
            alone = direct.register(replace(problem, xrays=(xray,)))
        except InputError:  # it does not show there
            continue
        if alone.confidence.trusted:
            about = replace(problem, model=as_registered(problem.model, alone), start=alone.transform)
            both = made(replace(config.direct, search=near)).register(about)
            # what is near is refined with the wall it is given, and knows of no other
            settings = {**both.settings, **{k: alone.settings[k] for k in ("wall",) if k in alone.settings}}
            results.append(replace(both, settings=settings, renders=both.renders + alone.renders))
            break
    if not any(r.confidence.trusted for r in results):
        results.append(direct.register(problem))
    return max(results, key=worth)


def _about(problem: ObjectsProblem, body: Body, joint: Joint, found: Mapping[str, Found], config: ObjectsConfig) -> Found:
    """Turns about the point that a body shares with one that is found, compared and refined from coarse to fine."""
    direct = config.direct if soft_tissue_known(problem) else part_config(config.direct)
    config = replace(config, direct=direct)
    start = hung(joint, body.name, found[other_of(joint, body.name)].matrix)
    centre = start[:3, :3] @ joint.point_in(body.name).numpy() + start[:3, 3]
    axes = camera_axes(problem.xrays[0].view)
    mm = _LOOSE * joint.mm
    bounds = Bounds(start, axes, centre, joint.reach, mm, mm)
    seeds = [moved(start, twist, centre) for twist in spread(_SEEDS, joint.reach, (mm, mm, mm), axes, direct.seed)]
    reached = np.concatenate([corners_of(body.model, m) for m in seeds[:64]])
    frame = framing(problem.xrays, corners_of(body.model, start), (reached, 5.0), (direct.pixels, direct.coarsest))
    behind = behind_of(problem, found)
    scales = [s.of(0) for s in object_scales([(body.model, start)], behind, problem.xrays, frame, direct)]
    return _walled(body, scales, descend_about(scales, seeds, bounds, config), bounds, config)


def soft_tissue_known(problem: ObjectsProblem) -> bool:
    """Whether a scan is among the models: else the exposures show much that no model holds, and coarse pictures mislead."""
    return any(m.unit == "HU" for m in (*(b.model for b in problem.bodies), *(v for v, _ in problem.fixed)))


def _walled(body: Body, scales: Sequence[Scale], found: Found, bounds: Bounds, config: ObjectsConfig) -> Found:
    """A body that was found, of a long bone's surface refined once more with the wall that the exposures tell."""
    tube = tube_of(body.model)
    second = min(1, len(scales) - 1)
    times = 1.0 if tube is None else wall_at(scales[second], tube, found.matrix, config.direct)
    if tube is None or times == 1:
        return found
    for number in range(second, -1, -1):
        best = refine(with_wall([scales[number]], tube, times)[0], found.matrix, bounds, config.direct, threaded=True)
        steps, renders = found.steps + best.steps, found.renders + best.renders
        found = replace(found, matrix=best.matrix, steps=steps, renders=renders, held=bounds.hold(best.matrix, INSIDE))
    return replace(found, model=tube.walled(times))


def behind_of(problem: ObjectsProblem, found: Mapping[str, Found]) -> list[Posed]:
    """What is rendered behind the body that is sought: what is fixed, and the bodies that are found."""
    fixed = [(volume, pose.matrix.numpy()) for volume, pose in problem.fixed]
    return fixed + [(f.model or problem.bodies[problem.index(n)].model, f.matrix) for n, f in found.items()]


def as_found(problem: ObjectsProblem, found: Sequence[Found]) -> ObjectsProblem:
    """The problem with the models that its bodies, in their order, were found with."""
    bodies = [replace(b, model=f.model or b.model) for b, f in zip(problem.bodies, found, strict=True)]
    return replace(problem, bodies=tuple(bodies))


def hung(joint: Joint, name: str, other: Array64) -> Array64:
    """The neutral pose of one of a joint's two bodies, given the other's: the shared points meet, nothing is turned."""
    neutral = joint.turn if name == joint.second else joint.turn.T
    at = other[:3, :3] @ joint.point_in(other_of(joint, name)).numpy() + other[:3, 3]
    out = np.eye(4)
    out[:3, :3] = other[:3, :3] @ neutral
    out[:3, 3] = at - out[:3, :3] @ joint.point_in(name).numpy()
    return out


def _by_view(top: Scale, seeds: Sequence[Sequence[Array64]], bounds: Bounds, config: ObjectsConfig) -> list[Array64]:
    """For each exposure the best poses that it alone leads to, at the coarsest level."""
    out: list[Array64] = []
    for image, mine in zip(top.images, seeds, strict=True):
        alone = replace(top, images=[image])
        tasks = cpu.pool(cpu.threads()).map(lambda m, s=alone: refine(s, m, bounds, config.direct, threaded=False), mine)
        out += [c.matrix for c in distinct(list(tasks), 0.75 * top.model.spacing, top.model.radius)[: config.direct.search.kept]]
    return out


def descend_about(scales: Sequence[Scale], seeds: Sequence[Array64], bounds: Bounds, config: ObjectsConfig) -> Found:
    """Seeds compared at the coarsest level, the best refined from level to level, fewer at each."""
    direct, top = config.direct, scales[-1]
    search, match = direct.search, direct.match
    pool = cpu.pool(cpu.threads())
    judged = list(pool.map(lambda m: evaluate(top, m, match), seeds))
    costs = np.array([normal.cost for normal in judged])
    counts = [search.refined, search.kept, search.finalists]
    poses = [seeds[i] for i in np.argsort(costs, kind="stable")[: search.refined]]
    if len(top.images) > 1:
        by_view = np.array([normal.costs for normal in judged])
        poses += _by_view(
            top, [[seeds[i] for i in np.argsort(c, kind="stable")[: search.refined]] for c in by_view.T], bounds, config
        )
        counts[0] = len(poses)
    beam = bounds.axes[:, 2] if len(top.images) == 1 else None
    rival, renders = 0.0, len(seeds)
    steps: tuple[Step, ...] = ()
    found: list[Candidate] = []
    for number, scale in enumerate(reversed(scales)):
        poses = poses[: counts[number] if number < len(counts) and (scale.index > 0 or number == 0) else 1]
        if len(poses) > 1:
            found = list(pool.map(lambda m, s=scale: refine(s, m, bounds, direct, threaded=False), poses))
        else:
            found = [refine(scale, poses[0], bounds, direct, threaded=True)]
        renders += sum(c.renders for c in found)
        found = distinct(found, 0.75 * scale.model.spacing, top.model.radius)
        if len(poses) > 1:
            rival = rival_of(found, empty_cost(scale, match), beam)
        poses = [c.matrix for c in found]
        steps += found[0].steps
    return Found(found[0].matrix, rival, bounds.hold(found[0].matrix, INSIDE), True, steps, renders)
