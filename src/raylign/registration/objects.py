"""Several bones in one image: each with a pose of its own, one after the other, then all together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.geometry import Rigid, se3
from raylign.registration.collision import Solid, deepest, lever, solid_of
from raylign.registration.meshes import STRETCH
from raylign.registration.objects_joint import Linked, Setting, Ties, Together, refine_together, settled
from raylign.registration.objects_levels import ObjectScale, corners_of, framing, object_scales
from raylign.registration.objects_problem import (
    Body,
    CollisionConfig,
    Joint,
    ObjectsConfig,
    ObjectsProblem,
    bodies_of_scan,
)
from raylign.registration.objects_search import Found, as_found, behind_of, order, soft_tissue_known, sought
from raylign.registration.objects_trust import Sought, before_others, covariance_by_images, judged_body
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array64
from raylign.registration.result import Result
from raylign.registration.structures import Motion
from raylign.registration.versions import versions

__all__ = [
    "Body",
    "CollisionConfig",
    "Joint",
    "Objects",
    "ObjectsConfig",
    "ObjectsProblem",
    "ObjectsResult",
    "bodies_of_scan",
    "relative_motion",
]

SCHEMA = "raylign.objects/1"


@dataclass(frozen=True, eq=False)
class ObjectsResult:
    """Poses of several bodies.

    Parameters
    ----------
    problem: what was asked.
    results: by name, in the order of the bodies; ``start`` of each is where it was before the joint step.
    covariance: [6 n, 6 n] of the bodies' twists (rad, mm; world axes, each about its own ``centre``), in that order.
    motions: by (first, second), the second's pose against the first's as if both had one frame: bones of one CT. ``matrix`` is
        ``T_first_from_second`` whatever their frames.
    collisions: by pair, mm by which one goes into the other, 0 where they do not meet. Good to a voxel or so.
    """

    problem: ObjectsProblem
    results: Mapping[str, Result]
    covariance: Float[Tensor, "K K"]
    motions: Mapping[tuple[str, str], Motion]
    collisions: Mapping[tuple[str, str], float]

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by stage, of all bodies together."""
        return next(iter(self.results.values())).timings

    @property
    def trusted(self) -> bool:
        """Whether every body's pose is."""
        return all(r.confidence.trusted for r in self.results.values())

    def alone(self, name: str) -> Problem:
        """One body as a problem of its own, from where it was before the joint step: what an overlay or a report draws."""
        return self.problem.alone(self.problem.bodies[self.problem.index(name)], self.results[name].start)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``result.json``: plain numbers, lists and strings."""
        return {
            "schema": SCHEMA,
            "trusted": self.trusted,
            "bodies": {name: result.to_dict() for name, result in self.results.items()},
            "covariance": {
                "order": list(self.results),
                "meaning": "twists (rotation rad, translation mm) of the bodies in turn, world axes, each about its own centre",
                "matrix": self.covariance.tolist(),
            },
            "motions": [{"first": a, "second": b, **m.to_dict()} for (a, b), m in self.motions.items()],
            "collisions": [{"bodies": list(pair), "mm": mm} for pair, mm in self.collisions.items()],
        }


@dataclass(frozen=True)
class Objects:
    """Registers several bodies: the largest first, those found rendered behind the next, then all of them together.

    Deterministic: same input, same seed, same result, whatever the number of threads.
    """

    config: ObjectsConfig = field(default_factory=ObjectsConfig)
    progress: Callable[[str, float], None] | None = None

    def register(self, problem: ObjectsProblem) -> ObjectsResult:
        """The poses of all bodies.

        Raises
        ------
        InputError: a body that shows on hardly a pixel.
        """
        begun = time.perf_counter()
        found: dict[str, Found] = {}
        for number, name in enumerate(order(problem)):
            self._tell(name, 0.8 * number / len(problem.bodies))
            found[name] = sought(problem, name, found, self.config)
        first = self._together(problem, [found[b.name] for b in problem.bodies], time.perf_counter() - begun)
        return self._second_look(problem, found, first)

    def _second_look(self, problem: ObjectsProblem, found: Mapping[str, Found], first: ObjectsResult) -> ObjectsResult:
        """Bodies about joints that are not trusted are sought once more, all others behind them; the surer of both results."""
        hanging = {n for j in problem.joints for n in (j.first, j.second)}
        doubted = [n for n, r in first.results.items() if n in hanging and not r.confidence.trusted and found[n].hung]
        if not doubted or len(doubted) == len(first.results):
            return first
        begun = time.perf_counter()
        again = {n: replace(f, matrix=first.results[n].transform.matrix.numpy()) for n, f in found.items()}
        direct = self.config.direct
        denser = replace(self.config, direct=replace(direct, search=direct.search.denser(2), seed=direct.seed + 1))
        for name in doubted:
            del again[name]
            again[name] = sought(problem, name, again, denser)
        second = self._together(problem, [again[b.name] for b in problem.bodies], time.perf_counter() - begun)
        results = max((first, second), key=lambda r: sum(o.confidence.probability for o in r.results.values()))
        spent = {k: v + first.timings[k] for k, v in second.timings.items()}
        own = {
            n: replace(
                r,
                start=first.results[n].start,
                timings=spent,
                renders=first.results[n].renders + second.results[n].renders,
            )
            for n, r in results.results.items()
        }
        return replace(results, results=own)

    def together(self, problem: ObjectsProblem) -> ObjectsResult:
        """The joint step alone, from the bodies' starts.

        Raises
        ------
        InputError: the bodies show on hardly a pixel of an exposure.
        """
        return self._together(problem, [Found(b.start.matrix.numpy()) for b in problem.bodies], 0.0)

    def _together(self, problem: ObjectsProblem, found: list[Found], seconds: float) -> ObjectsResult:
        begun = time.perf_counter()
        problem = as_found(problem, found)
        config, bodies = self.config, problem.bodies
        scales = joint_scales(problem, [f.matrix for f in found], config)
        solids = _solids(problem, config)
        # a scan leaves noise in every exposure, surfaces what they do not hold
        bare = not soft_tissue_known(problem)
        direct = replace(config.direct, stretch=STRETCH if bare else config.direct.stretch)
        setting = Setting(Ties(linked(problem), solids), replace(config, direct=direct), [f.matrix for f in found], weighed=bare)
        done, renders = Together.at([f.matrix for f in found]), 0
        history = [list(f.steps) for f in found]
        for scale in reversed(scales):
            done = refine_together(scale, done.matrices, setting)
            renders += done.renders
            for own, steps in zip(history, done.steps, strict=True):
                own += steps
            self._tell("together", 0.95 - 0.15 * scale.index / len(scales))
        images = covariance_by_images(scales[0], done, config.direct.match, [b.model for b in bodies])
        likely, covariance = done.matrices, images
        if config.joint:
            contact = setting.ties.contact(done.matrices, list(done.normal.centre), config)
            # where the insides of all are guesses, what hangs on a body says less of it than it does itself
            held = [b for b, f in enumerate(found) if f.free] if bare else []
            likely, covariance = settled(done, images, setting.ties.joints, contact, held)
        timings = {"one by one": seconds, "together": time.perf_counter() - begun}
        results = {}
        for b, body in enumerate(bodies):
            part = slice(6 * b, 6 * b + 6)
            search = Sought(found[b].rival, found[b].held, found[b].matrix)
            behind = before_others(scales[min(1, len(scales) - 1)], likely, b, config.direct.match)
            spread = images[part, part], covariance[part, part]
            evidence, confidence = judged_body(behind, likely[b], spread, search, config, scan=not bare)
            results[body.name] = Result(
                transform=Rigid(torch.from_numpy(likely[b])),
                start=Rigid(torch.from_numpy(found[b].matrix)),
                covariance=torch.from_numpy(covariance[part, part].copy()),
                centre=torch.from_numpy(_middle(scales[0], b, likely[b])),
                score=evidence.gain,
                confidence=confidence,
                trajectory=tuple(history[b]),
                timings=timings,
                method="objects",
                seed=config.direct.seed,
                versions=versions(),
                settings=asdict(config),
                renders=found[b].renders + renders,
            )
        names = [b.name for b in bodies]
        pairs = [(j.first, j.second) for j in problem.joints] or [(names[0], n) for n in names[1:]]
        return ObjectsResult(
            problem,
            results,
            torch.from_numpy(covariance),
            {pair: relative_motion(results, torch.from_numpy(covariance), pair) for pair in pairs},
            {(names[a], names[b]): mm for (a, b), mm in deepest(solids, likely).items()},
        )

    def _tell(self, stage: str, share: float) -> None:
        if self.progress is not None:
            self.progress(stage, share)


def joint_scales(problem: ObjectsProblem, matrices: list[Array64], config: ObjectsConfig) -> list[ObjectScale]:
    """The levels of the joint step, finest first: all bodies where they were found, what is fixed behind them.

    Raises
    ------
    InputError: the bodies show on hardly a pixel of an exposure.
    """
    moving = [(b.model, m) for b, m in zip(problem.bodies, matrices, strict=True)]
    corners = np.concatenate([corners_of(model, m) for model, m in moving])
    frame = framing(problem.xrays, corners, (corners, 8.0), (config.pixels, config.direct.coarsest))
    frame = replace(frame, count=min(frame.count, config.levels))
    return object_scales(moving, behind_of(problem, {}), problem.xrays, frame, config.direct)


def linked(problem: ObjectsProblem) -> tuple[Linked, ...]:
    """The joints between bodies by number."""
    return tuple(Linked(problem.index(j.first), problem.index(j.second), j) for j in problem.joints)


def _solids(problem: ObjectsProblem, config: ObjectsConfig) -> tuple[Solid | None, ...]:
    pitch = (config.collision or CollisionConfig()).pitch_mm
    return tuple(solid_of(b.model, pitch) for b in problem.bodies) if len(problem.bodies) > 1 else ()


def _middle(scale: ObjectScale, number: int, matrix: Array64) -> Array64:
    return np.asarray(matrix[:3, :3] @ scale.models[number].middle + matrix[:3, 3])


def relative_motion(results: Mapping[str, Result], covariance: Float[Tensor, "K K"], pair: tuple[str, str]) -> Motion:
    """The second body's pose against the first's, about the second's middle; standard deviations from both together.

    As ``structures.Motion``: shift and turn say how the second moved since the two lay in one frame as they do in the CT.

    Parameters
    ----------
    results: by name, in the order of the covariance. covariance: [6 n, 6 n], see ``ObjectsResult``.
    """
    names = list(results)
    a, b = (names.index(n) for n in pair)
    first, second = results[pair[0]], results[pair[1]]
    back = first.transform.inverse().matrix
    matrix = back @ second.transform.matrix
    middle = second.transform.inverse().apply(second.centre[None])[0]
    shift = (matrix @ torch.cat([middle, middle.new_ones(1)]))[:3] - middle
    turn = torch.rad2deg(se3.log_rotation(matrix[:3, :3]))
    change = torch.zeros(6, len(covariance), dtype=torch.float64)
    change[:, 6 * b : 6 * b + 6] = torch.eye(6, dtype=torch.float64)
    carried = np.eye(6)
    carried[3:] = lever(second.centre.numpy()[None], first.centre.numpy())[0]
    change[:, 6 * a : 6 * a + 6] = -torch.from_numpy(carried)
    axes = torch.block_diag(back[:3, :3], back[:3, :3])
    sd = (axes @ change @ covariance @ change.T @ axes.T).diagonal().clamp_min(0).sqrt()
    return Motion(matrix, middle, shift, turn, sd[3:], torch.rad2deg(sd[:3]))
