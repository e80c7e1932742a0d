"""A bone or an organ registered by itself inside exposures of everything: the rest of the patient stays where it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from raylign.data import LabelMap, Volume, XRay, restricted
from raylign.data.excess import split
from raylign.errors import InputError
from raylign.geometry import Rigid, se3
from raylign.projection import cpu
from raylign.registration.direct import Direct
from raylign.registration.levels import Scale, evaluate
from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array64, cut_faces
from raylign.registration.refinement import Candidate, distinct, refine
from raylign.registration.result import Result, Step
from raylign.registration.search import Bounds, camera_axes, moved, spread
from raylign.registration.settings import DirectConfig, SearchConfig
from raylign.registration.spread import covariance_of
from raylign.registration.structure_levels import structure_scales
from raylign.registration.structure_trust import (
    empty_cost,
    gather_structure,
    judge_structure,
    model_covariance,
    rival_of,
    seen_again,
)
from raylign.registration.versions import versions

Rest = Literal["modelled", "masked", "none"]
RESTS: dict[str, str] = {
    "modelled": "the whole CT is registered first; the rest of it is rendered behind the structure",
    "masked": "the whole CT is registered first; pixels count only where the structure may lie, the rest is not rendered",
    "none": "the structure's excess over water alone is compared with everything",
}

# Between the pose of the whole CT and that of a structure in it.
BESIDE = SearchConfig(degrees=15.0, mm=15.0)


@dataclass(frozen=True)
class StructureConfig:
    """Settings of a structure's registration.

    Parameters
    ----------
    rest: what is done about everything that is not the structure: a key of ``RESTS``.
    whole: of the whole CT's registration, its ``search`` about the given start included.
    search: what is left open about the pose of the whole CT (of ``rest="none"``: about the given start).
    trust: probability from which the structure's pose is called trustworthy.
    """

    rest: Rest = "modelled"
    whole: DirectConfig = field(default_factory=DirectConfig)
    search: SearchConfig = BESIDE
    trust: float = 0.6

    def __post_init__(self) -> None:
        if self.rest not in RESTS:
            raise InputError(f"there is no treatment {self.rest!r}", field="rest", remedy=f"use one of {', '.join(RESTS)}")


@dataclass(frozen=True, eq=False)
class StructureProblem:
    """One or more structures, moving as one rigid body, in exposures of the whole patient.

    Parameters
    ----------
    volume: the whole scan.
    labels: on any grid in the same patient LPS mm.
    names: label names or numbers; one at least.
    xrays: one exposure or several of one and the same moment.
    start: a rough ``T_world_from_volume`` of the whole scan.

    Raises
    ------
    InputError: no name, no exposure, one of a parallel beam.
    """

    volume: Volume
    labels: LabelMap
    names: tuple[str | int, ...]
    xrays: tuple[XRay, ...]
    start: Rigid

    def __post_init__(self) -> None:
        names = (self.names,) if isinstance(self.names, (str, int)) else tuple(self.names)
        if not names:
            raise InputError("no structure is named", field="labels", remedy="name at least one")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "xrays", self.whole.xrays)

    @property
    def whole(self) -> Problem:
        """The registration of the whole scan."""
        return Problem(self.volume, self.xrays, self.start)

    @property
    def label(self) -> str:
        """The structures' names in one line."""
        return ", ".join(self.labels.present()[self.labels.number(n)] for n in self.names)


@dataclass(frozen=True, eq=False)
class Motion:
    """How a structure moved against the rest of the patient, since the CT.

    Parameters
    ----------
    matrix: 4x4, patient LPS mm to patient LPS mm of the CT: where a point of the structure would lie in the CT.
    centre: [3] LPS mm of the structure's middle in the CT, about which it is taken to turn.
    shift: [3] mm of that middle towards Left, Posterior and Superior.
    turn: [3] degrees, the rotation vector about the axes L, P and S (right-handed).
    shift_sd, turn_sd: one standard deviation of each, from both registrations.
    """

    matrix: Float[Tensor, "4 4"]
    centre: Float[Tensor, "3"]
    shift: Float[Tensor, "3"]
    turn: Float[Tensor, "3"]
    shift_sd: Float[Tensor, "3"]
    turn_sd: Float[Tensor, "3"]

    @property
    def mm(self) -> float:
        """Length of the shift."""
        return float(self.shift.norm())

    @property
    def degrees(self) -> float:
        """Angle of the turn."""
        return float(self.turn.norm())

    @property
    def certain(self) -> bool:
        """Whether any component of it exceeds three standard deviations."""
        ratio = torch.cat([self.shift / self.shift_sd.clamp_min(1e-9), self.turn / self.turn_sd.clamp_min(1e-9)])
        return bool((ratio.abs() > 3).any())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for ``result.json``."""
        return {
            "matrix": self.matrix.tolist(),
            "meaning": "patient LPS mm of the CT to the same: T_world_from_rest^-1 T_world_from_structure",
            "centre": self.centre.tolist(),
            "shift_mm": self.shift.tolist(),
            "turn_degrees": self.turn.tolist(),
            "shift_sd_mm": self.shift_sd.tolist(),
            "turn_sd_degrees": self.turn_sd.tolist(),
            "axes": ["left", "posterior", "superior"],
            "mm": self.mm,
            "degrees": self.degrees,
            "certain": self.certain,
        }


@dataclass(frozen=True, eq=False)
class StructureResult:
    """A structure's pose, the whole CT's, and what lies between them.

    Parameters
    ----------
    structure: of the structure; its ``start`` is the pose of the whole CT (of ``rest="none"`` the one that was given). This is
        the result to report, to write and to trust or not.
    whole: of the whole CT; ``None`` for ``rest="none"``.
    motion: of the structure against the rest; ``None`` for ``rest="none"``.
    problem: the structure as a model of its own, with the same exposures and ``structure.start``: what a report and an overlay
        draw. Its contours at the start are where the structure would show had it not moved, those at the end where it was found.
    label: the structures' names in one line.
    rest: the treatment.
    """

    structure: Result
    whole: Result | None
    motion: Motion | None
    problem: Problem
    label: str
    rest: Rest

    @property
    def words(self) -> str:
        """One sentence on the motion, for the terminal and the report."""
        if self.motion is None:
            return f"{self.label}: registered alone; nothing is known of the rest"
        m = self.motion
        what = f"{m.mm:.1f} mm and turned {m.degrees:.1f} degrees against the rest"
        if not m.certain:
            return f"{self.label} did not move as far as the images tell: {what} are within their uncertainty"
        return f"{self.label} moved {what} ({_directions(m.shift)})"

    def to_dict(self) -> dict[str, Any]:
        """What ``result.json`` holds under ``structure``, beside the fields of ``self.structure``."""
        return {
            "names": self.label,
            "rest": self.rest,
            "words": self.words,
            "motion": None if self.motion is None else self.motion.to_dict(),
            "whole": None if self.whole is None else self.whole.to_dict(),
        }


def _directions(shift: Tensor) -> str:
    """Millimetres towards the patient's sides, the largest first; what rounds to nothing is left out."""
    names = (("left", "right"), ("back", "front"), ("head", "feet"))
    found = sorted(((abs(v), names[i][v < 0]) for i, v in enumerate(shift.tolist())), reverse=True)
    return ", ".join(f"{mm:.1f} mm to the {name}" for mm, name in found if mm >= 0.05)


@dataclass(frozen=True)
class Structures:
    """Registers a structure among everything else: the whole CT by the direct method, then the structure about its pose.

    Deterministic: same input, same seed, same result, whatever the number of threads.
    """

    config: StructureConfig = field(default_factory=StructureConfig)
    progress: Callable[[str, float], None] | None = None

    def register(self, problem: StructureProblem, whole: Result | None = None) -> StructureResult:
        """The pose of the structure, that of the whole CT, and the motion between them.

        Parameters
        ----------
        whole: the whole CT's registration to the same exposures where it is known already, from a structure registered before,
            say.

        Raises
        ------
        InputError: a label that no voxel has, labels of another patient, a structure that nothing surrounds or that does not
            show on the exposures.
        """
        if self.config.rest == "none":
            return self._alone(problem)
        if whole is None:
            whole = Direct(self.config.whole, self._share("whole CT: ", 0.0, 0.6)).register(problem.whole)
        begun = time.perf_counter()
        faces = whole.settings.get("cut_faces", cut_faces(problem.volume))  # as the whole CT was read in the end
        parts = split(replace(problem.volume, truncated=faces), problem.labels, problem.names)
        config = replace(self.config.whole, search=self.config.search, trust=self.config.trust)
        rest = parts.rest if self.config.rest == "modelled" else None
        scales = structure_scales(parts.structure, rest, problem.xrays, whole.transform.matrix.numpy(), config)
        model = Problem(parts.structure, problem.xrays, whole.transform)
        found = descend(scales, model, config)
        # one level above the finest: there less of what is not explained is noise
        evidence = gather_structure(
            scales[min(1, len(scales) - 1)], found.best, found.covariance, found.bounds, found.rival, config.match
        )
        around = whole if rest is None else seen_again(whole, scales[0], found.best.matrix, self.config.whole)
        structure = Result(
            transform=Rigid(torch.from_numpy(found.likely)),
            start=whole.transform,
            covariance=torch.from_numpy(found.covariance),
            centre=torch.from_numpy(found.centre),
            score=evidence.gain,
            confidence=judge_structure(evidence, around, config.trust),
            trajectory=found.history,
            timings={"whole": whole.seconds, "structure": time.perf_counter() - begun},
            method=f"direct+structure ({self.config.rest})",
            seed=config.seed,
            versions=versions(),
            settings=asdict(self.config),
        )
        return StructureResult(structure, whole, motion_between(whole, structure), model, problem.label, self.config.rest)

    def _alone(self, problem: StructureProblem) -> StructureResult:
        model = Problem(restricted(problem.volume, problem.labels, problem.names), problem.xrays, problem.start)
        config = replace(self.config.whole, search=self.config.search, trust=self.config.trust)
        return StructureResult(Direct(config, self.progress).register(model), None, None, model, problem.label, "none")

    def _share(self, prefix: str, first: float, last: float) -> Callable[[str, float], None] | None:
        tell = self.progress
        return None if tell is None else lambda stage, share: tell(prefix + stage, first + (last - first) * share)


@dataclass(frozen=True, eq=False)
class Descent:
    """What a search from coarse to fine ended in.

    Parameters
    ----------
    best: where the images alone lead.
    likely: that pose drawn towards the start where the images hardly determine it (``drawn_in``); ``covariance`` [6, 6] is its
        own, of a twist (rad, mm) about ``centre`` [3], world mm.
    rival: see ``StructureEvidence``.
    history: accepted steps.
    bounds: of the search.
    """

    best: Candidate
    likely: Array64
    covariance: Array64
    centre: Array64
    rival: float
    history: tuple[Step, ...]
    bounds: Bounds


def descend(scales: Sequence[Scale], problem: Problem, config: DirectConfig) -> Descent:
    """Starts spread about the problem's, compared at the coarsest of the given levels and refined from level to level."""
    search, top = config.search, scales[-1]
    axes = camera_axes(problem.xrays[0].view)
    start = problem.start.matrix.numpy()
    centre = evaluate(top, start, config.match).centre
    bounds = Bounds(start, axes, centre, search.degrees, search.mm, search.along)
    twists = spread(search.hypotheses, search.degrees, (search.mm, search.mm, search.along), axes, config.seed)
    pool = cpu.pool(cpu.threads())
    seeds = [moved(start, twist, centre) for twist in twists]
    counts = [search.refined, search.kept, search.finalists]
    costs = list(pool.map(lambda m: evaluate(top, m, config.match).cost, seeds))
    # the place that the CT has it in is always among those refined
    seeds = [start, *(seeds[i] for i in np.argsort(costs, kind="stable") if i > 0)]
    rival = 0.0
    history: tuple[Step, ...] = ()
    candidates: list[Candidate] = []
    for number, scale in enumerate(reversed(scales)):
        # at the finest level the best alone, unless there is no other level to choose it at
        seeds = seeds[: counts[number] if number < len(counts) and (scale.index > 0 or number == 0) else 1]
        if len(seeds) > 1:
            candidates = list(pool.map(lambda m, s=scale: refine(s, m, bounds, config, threaded=False), seeds))
        else:
            candidates = [refine(scale, seeds[0], bounds, config, threaded=True)]
        candidates = distinct(candidates, 0.75 * scale.model.spacing, top.model.radius)
        if len(seeds) > 1:
            rival = rival_of(candidates, empty_cost(scale, config.match), axes[:, 2] if len(problem.xrays) == 1 else None)
        seeds = [c.matrix for c in candidates]
        history += candidates[0].steps
    best = candidates[0]
    covariance = covariance_of(best.normal, scales[0].images, config.match)
    covariance += model_covariance(scales[0], best.matrix, best.normal.centre)
    likely, left = drawn_in(best.matrix, covariance, replace(bounds, centre=best.normal.centre))
    middle = likely @ np.linalg.inv(best.matrix) @ np.append(best.normal.centre, 1)
    return Descent(best, likely, left, middle[:3], rival, history, bounds)


def drawn_in(matrix: Array64, covariance: Array64, bounds: Bounds) -> tuple[Array64, Array64]:
    """A pose weighed against where the search began: the more, the less the images determine it; and its covariance.

    That the structure lies within half of what the search leaves open, about each axis and along it, is taken for a normal
    distribution of that standard deviation about the start; so is the pose, with ``covariance`` of a twist about
    ``bounds.centre``, the structure's middle at the pose. The product of the two is normal again. It matters along the beam of a
    single view.
    """
    size = np.array([np.radians(bounds.degrees)] * 3 + [bounds.mm, bounds.mm, bounds.depth]) / 2
    basis = np.zeros((6, 6))
    basis[:3, :3] = basis[3:, 3:] = bounds.axes
    relative = bounds.start @ np.linalg.inv(matrix)  # the twist from the pose back to the start, about the middle at the pose
    shift = (relative @ np.append(bounds.centre, 1))[:3] - bounds.centre
    back = np.concatenate([Rotation.from_matrix(relative[:3, :3]).as_rotvec(), shift])
    prior = basis @ np.diag(size**2) @ basis.T
    share = covariance @ np.linalg.inv(covariance + prior)
    return moved(matrix, share @ back, bounds.centre), covariance - share @ covariance


def motion_between(whole: Result, structure: Result) -> Motion:
    """The motion of a structure against the rest of the patient, in the CT's anatomical axes.

    The middle is that of the structure's model. Standard deviations add up those of both poses, taken as independent, about the
    structure's middle.
    """
    back = whole.transform.inverse().matrix
    matrix = back @ structure.transform.matrix
    middle = structure.transform.inverse().apply(structure.centre[None])[0]
    shift = (matrix @ torch.cat([middle, middle.new_ones(1)]))[:3] - middle
    turn = torch.rad2deg(se3.log_rotation(matrix[:3, :3]))
    arm = structure.centre - whole.centre
    carry = torch.eye(6, dtype=torch.float64)
    carry[3:, :3] = -_cross(arm)  # v + w x arm
    total = structure.covariance + carry @ whole.covariance @ carry.T
    axes = torch.block_diag(back[:3, :3], back[:3, :3])
    sd = (axes @ total @ axes.T).diagonal().clamp_min(0).sqrt()
    return Motion(matrix, middle, shift, turn, sd[3:], torch.rad2deg(sd[:3]))


def _cross(v: Tensor) -> Tensor:
    """[3, 3] of ``x -> v x x``."""
    x, y, z = v.unbind()
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o]).reshape(3, 3)
