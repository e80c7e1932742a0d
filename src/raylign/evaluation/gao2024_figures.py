"""Figures 5 and 6 of Gao et al. (2024): the learned similarity and gradient NCC along each degree of freedom, and over poses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import restricted
from raylign.evaluation.cases import Case, make_case
from raylign.evaluation.execution import one_torch_thread
from raylign.evaluation.protocol import load_protocol
from raylign.methods.convex_similarity.weights import Learned, shipped
from raylign.methods.cubes import bones, centred, cube_of
from raylign.methods.geodesic import moved, squared
from raylign.methods.looks import Looks, seen, shadows
from raylign.similarity import gradient_ncc
from raylign.simulation.poses import starts
from raylign.simulation.seeds import generator

DEGREES_OF_FREEDOM = ("turn about x", "turn about y", "turn about z", "shift along x", "shift along y", "shift along z")
LEARNED, CLASSICAL = "learned", "gradient NCC"
LAWS = {"moving poses of training": "gao2024/moving", "starts": "gao2024/test"}


@dataclass(frozen=True)
class FiguresConfig:
    """What is drawn.

    Parameters
    ----------
    exposures: one of each of so many test patients. poses: of each law about each.
    steps: along each degree of freedom, to either side. turn, shift: how far, degrees and mm.
    """

    exposures: int = 20
    poses: int = 24
    steps: int = 30
    turn: float = 60.0
    shift: float = 240.0


@dataclass(frozen=True)
class Correlation:
    """How a similarity follows the distance.

    Parameters
    ----------
    over_all: correlation over all exposures. within: the mean of those within an exposure.
    ordered: share of pairs of poses of an exposure that it puts in the right order.
    """

    over_all: float
    within: float
    ordered: float


@dataclass(frozen=True, eq=False)
class Figures:
    """What Figures 5 and 6 show.

    Parameters
    ----------
    along: [6, S] degrees or mm from the true pose. landscape: by similarity [6, S] there, the smaller, the more alike.
    distance: [E, P] geodesic distance of poses, radians. values: by similarity [E, P].
    correlations: by similarity, and law where there is one ("learned, starts").
    """

    along: Float[np.ndarray, "6 S"]
    landscape: Mapping[str, Float[np.ndarray, "6 S"]]
    distance: Float[np.ndarray, "E P"]
    values: Mapping[str, Float[np.ndarray, "E P"]]
    correlations: Mapping[str, Correlation]


@dataclass(frozen=True, eq=False)
class _Scene:
    """A case as the network sees it."""

    learned: Learned
    channels: Float[Tensor, "C D H W"]
    cube: Float[Tensor, "D H W"]
    looks: Looks
    fixed: Float[Tensor, "1 N N"]
    truth: Float[Tensor, "1 4 4"]

    def similarities(self, poses: Float[Tensor, "P 4 4"]) -> dict[str, Float[np.ndarray, " P"]]:
        """Both similarities under poses of the cube; gradient NCC's sign is turned."""
        one = torch.zeros(len(poses), dtype=torch.int64)
        looks = self.looks.repeated(one)
        with torch.no_grad():
            learned = self.learned.similarity.of(self.channels, looks, poses)
            shown = shadows(self.cube[None], looks, poses, self.learned.cube)[:, 0]
            classical = -gradient_ncc(shown, self.fixed[one])
        return {LEARNED: learned.double().numpy(), CLASSICAL: classical.double().numpy()}


def figures(weights: Path | None, config: FiguresConfig, seed: int) -> Figures:
    """Draw poses and measure; a quarter of a minute.

    Raises
    ------
    InputError: weights that cannot be read.
    """
    learned, protocol = shipped(weights), load_protocol("gao2024")
    distance: dict[str, list[Float[np.ndarray, " P"]]] = {law: [] for law in LAWS}
    values: dict[str, dict[str, list[Float[np.ndarray, " P"]]]] = {n: {law: [] for law in LAWS} for n in (LEARNED, CLASSICAL)}
    first = None
    with one_torch_thread():
        for number in range(config.exposures):
            case = make_case(protocol, number * protocol.per_subject, seed)
            scene = _scene(learned, case)
            first = first or scene
            for place, (law, name) in enumerate(LAWS.items()):
                zero = torch.zeros(3, dtype=torch.float64)
                streams = [generator(seed, 31, number, place, k) for k in range(config.poses)]
                views = (case.xrays[0].view,) * config.poses
                poses = starts(name).draw(scene.truth.expand(config.poses, 4, 4), views, zero, zero[None], streams)
                distance[law].append(squared(poses, scene.truth, learned.cube.unit_mm).sqrt().numpy())
                for similarity, found in scene.similarities(poses).items():
                    values[similarity][law].append(found)
        assert first is not None
        along, landscape = _along(first, config)
    correlations = {}
    for similarity, by_law in values.items():
        for law in LAWS:
            correlations[f"{similarity}, {law}"] = correlated(np.stack(distance[law]), np.stack(by_law[law]))
        correlations[similarity] = correlated(_both(distance), _both(by_law))
    return Figures(along, landscape, _both(distance), {n: _both(by_law) for n, by_law in values.items()}, correlations)


def correlated(distance: Float[np.ndarray, "E P"], values: Float[np.ndarray, "E P"]) -> Correlation:
    """How values follow distances."""
    each = [np.corrcoef(v, d)[0, 1] for v, d in zip(values, distance, strict=True) if v.std() > 0]
    apart = ~np.eye(values.shape[1], dtype=bool)
    right = (values[:, :, None] < values[:, None]) == (distance[:, :, None] < distance[:, None])
    whole = np.corrcoef(values.ravel(), distance.ravel())[0, 1]
    return Correlation(float(whole), float(np.mean(each)), float(right[:, apart].mean()))


def _both(by_law: Mapping[str, list[Float[np.ndarray, " P"]]]) -> Float[np.ndarray, "E P"]:
    return np.concatenate([np.stack(found) for found in by_law.values()], 1)


def _scene(learned: Learned, case: Case) -> _Scene:
    shown = case.model if case.bones is None else restricted(case.model, case.bones, list(case.bones.present()))
    cube, middle = cube_of(case.model if learned.whole else bones(shown), learned.cube)
    looks = seen(case.xrays[0], learned.cube.pixels)
    with torch.no_grad():
        channels = learned.network.expanded(cube)
    fixed = torch.nn.functional.adaptive_avg_pool2d(case.xrays[0].image[None].float(), learned.cube.pixels)
    return _Scene(learned, channels, cube, looks, fixed, centred(case.pose.matrix[None], middle))


def _along(scene: _Scene, config: FiguresConfig) -> tuple[Float[np.ndarray, "6 S"], dict[str, Float[np.ndarray, "6 S"]]]:
    """Both similarities along each degree of freedom, world axes, about the model's middle."""
    steps = torch.linspace(-1, 1, 2 * config.steps + 1, dtype=torch.float64)
    unit = scene.learned.cube.unit_mm
    far = torch.tensor([np.radians(config.turn)] * 3 + [config.shift / unit] * 3, dtype=torch.float64)
    out: dict[str, list[Float[np.ndarray, " S"]]] = {LEARNED: [], CLASSICAL: []}
    for axis in range(6):
        motion = torch.zeros(len(steps), 6, dtype=torch.float64)
        motion[:, axis] = far[axis] * steps
        for name, found in scene.similarities(moved(scene.truth.expand(len(steps), 4, 4), motion, unit)).items():
            out[name].append(found)
    along = np.stack([steps.numpy() * (config.turn if axis < 3 else config.shift) for axis in range(6)])
    return along, {name: np.stack(found) for name, found in out.items()}
