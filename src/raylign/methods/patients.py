"""Exposures of many made pelves with their bones as cubes, made once and kept: what methods that see volumes are trained on.

A file a patient, which follows from the configuration and the patient's seed. Exposures are stored as the detector's line
integrals say, without domain randomisation: that is drawn anew for every minibatch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import View
from raylign.io.atomic import atomic_write
from raylign.methods.crew import DAMAGED, checked_parts, done_by, noted
from raylign.methods.cubes import CubeConfig, centred, cube_of

if TYPE_CHECKING:
    from raylign.simulation.datasets.recipes import Recipe

Tell = Callable[[str, float], None]

SIDE = 128
"""Pixels along each side of stored exposures."""

_VERSION = 1  # of what a pool of given settings holds


@dataclass(frozen=True)
class PoolConfig:
    """Whom a method learns from and is measured on.

    Parameters
    ----------
    train, validation, test: first and last seed of the made patients of each part; no patient may be in two.
    train_exposures, validation_exposures, test_exposures: of each patient.
    phantom: of which made patients: pelvis, lumbar.
    structures: of which the model is made; none for all that the scan holds (the paper's "Full CT").
    phantom_mm: voxels of the patients.
    targets: distribution of views and poses (``simulation.poses``).
    exposure: ranges of the apparatus, as in recipes of data sets.
    seed: of everything but the patients' anatomies.

    Raises
    ------
    InputError: parts that share patients, ranges that are none, training or validation on patients held out for evaluation.
    """

    train: tuple[int, int] = (0, 59)
    validation: tuple[int, int] = (60, 67)
    test: tuple[int, int] = (990_000, 990_019)
    train_exposures: int = 24
    validation_exposures: int = 8
    test_exposures: int = 8
    phantom: str = "pelvis"
    structures: tuple[str, ...] = ("hip_left", "hip_right", "sacrum")
    phantom_mm: float = 2.5
    targets: str = "gao2024"
    exposure: dict[str, Any] = field(default_factory=lambda: {"round_field": 0.0, "rectangular_field": 0.0})
    seed: int = 0

    def __post_init__(self) -> None:
        checked_parts(self.parts)
        if min(self.exposures.values()) < 1:
            raise InputError("exposures are too few", field="data", remedy="give 1 or more")

    @property
    def parts(self) -> dict[str, tuple[int, int]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def exposures(self) -> dict[str, int]:
        return {"train": self.train_exposures, "validation": self.validation_exposures, "test": self.test_exposures}

    def seeds(self, part: str) -> range:
        """The patients of a part."""
        first, last = self.parts[part]
        return range(first, last + 1)

    def fingerprint(self, cube: CubeConfig) -> str:
        """What two pools share if, and only if, a patient of the one is the same in the other; who is in it does not enter."""
        said = asdict(self)
        for name in ("train", "validation", "test"):
            del said[name], said[f"{name}_exposures"]
        return hashlib.sha256(json.dumps([_VERSION, said, cube.voxels, cube.voxel_mm], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Patient:
    """A model and exposures of the patient it is of.

    Parameters
    ----------
    cube: [D, H, W] as ``model.cube_of`` makes it.
    images, valid: [K, H, W] line integrals, and which pixels say something.
    views: of each exposure.
    truth: [K, 4, 4] true poses of the cube.
    points: [P, 3] mm from the cube's middle: voxels of the model's surface, over which TRE is the mean.
    """

    cube: Float[Tensor, "D H W"]
    images: Float[Tensor, "K H W"]
    valid: Bool[Tensor, "K H W"]
    views: tuple[View, ...]
    truth: Float[Tensor, "K 4 4"]
    points: Float[Tensor, "P 3"]


def case_recipe(config: PoolConfig, seed: int) -> Recipe:
    """The exposures of one made patient as a recipe for data sets: case k of patient s has the number (s << 20) + k."""
    from raylign.simulation.datasets.recipes import Recipe, SubjectsFrom, TargetPoints

    return Recipe(
        name="convex-similarity",
        subjects=(SubjectsFrom(phantom=config.phantom, seeds=(seed, seed), config={"voxel_mm": config.phantom_mm}),),
        seed=config.seed,
        targets=config.targets,
        starts="gao2024",
        isocentre=("centre",),
        image=(SIDE, SIDE),
        exposure=config.exposure,
        target_points=TargetPoints(config.structures, 200),
    )


def make_patient(config: PoolConfig, cube: CubeConfig, seed: int, count: int) -> dict[str, np.ndarray[Any, Any]]:
    """One made patient's exposures and model, as the arrays of a pool's file."""
    from raylign.data.restrict import restricted
    from raylign.simulation.datasets.cases import make_cases
    from raylign.simulation.datasets.plan import Plan
    from raylign.simulation.datasets.residents import reside

    recipe = case_recipe(config, seed)
    plan = Plan(recipe)
    resident = reside(recipe, plan.roster[0])
    subject = resident.subject
    volume: Volume = restricted(subject.volume, subject.labels, config.structures) if config.structures else subject.volume
    voxels, middle = cube_of(volume, cube)
    # cases of patient s are numbered from s << 20, so that no two patients share a stream of random numbers
    batch = make_cases(plan, [(seed << 20) + k for k in range(count)], [resident] * count)
    return {
        "cube": voxels.to(torch.float16).numpy(),
        "images": torch.where(batch.labelled.valid, batch.labelled.image, torch.nan).to(torch.float16).numpy(),
        "vectors": torch.stack([view.vectors for view in batch.labelled.views]).numpy(),
        "truth": centred(batch.labelled.poses, middle).numpy(),
        "points": (resident.targets - middle).numpy(),
    }


class Pool:
    """A folder of patients, one file each, made where they are missing.

    Parameters
    ----------
    folder: new, or to be gone on with.
    config, cube: what is in it.

    Raises
    ------
    InputError: the folder holds a pool of other settings.
    """

    def __init__(self, folder: str | Path, config: PoolConfig, cube: CubeConfig) -> None:
        self.folder, self.config, self.cube = Path(folder), config, cube
        noted(self.folder, config.fingerprint(cube), {"settings": asdict(config), "cube": asdict(cube)})

    def path(self, seed: int, count: int) -> Path:
        return self.folder / f"{seed:06d}-{count}.npz"

    def make(self, parts: tuple[str, ...], workers: int = 1, tell: Tell | None = None) -> None:
        """Make what is missing of some parts, in as many processes; each uses one thread."""
        wanted = [(seed, self.config.exposures[part]) for part in parts for seed in self.config.seeds(part)]
        missing = [task for task in wanted if not self.path(*task).exists()]
        tasks = [(self.path(seed, count), self.config, self.cube, seed, count) for seed, count in missing]
        for done, _ in enumerate(done_by(write_patient, tasks, workers), len(wanted) - len(tasks) + 1):
            if tell is not None:
                tell(f"{done} of {len(wanted)} patients", done / len(wanted))

    def read(self, part: str) -> list[Patient]:
        """All patients of a part.

        Raises
        ------
        InputError: a patient that was not made, a damaged file.
        """
        return [read_patient(self.path(seed, self.config.exposures[part])) for seed in self.config.seeds(part)]


def write_patient(path: Path, config: PoolConfig, cube: CubeConfig, seed: int, count: int) -> None:
    """Make a patient and write its file, whole or not at all."""
    arrays = make_patient(config, cube, seed, count)
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]


def read_patient(path: Path) -> Patient:
    """A patient's file.

    Raises
    ------
    InputError: it is not there, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            cube, images, vectors, truth, points = (
                torch.from_numpy(stored[name]) for name in ("cube", "images", "vectors", "truth", "points")
            )
        if cube.ndim != 3 or images.ndim != 3 or vectors.shape != (len(images), 4, 3) or truth.shape != (len(images), 4, 4):
            raise ValueError("its arrays do not belong together")
    except (*DAMAGED, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot be read ({error})", file=path, remedy="delete it: the same command makes it again") from None
    shape = (images.shape[1], images.shape[2])
    views = tuple(View(v[0].clone(), v[1].clone(), v[2].clone(), v[3].clone(), shape) for v in vectors)
    image = images.to(torch.float32)
    return Patient(cube.to(torch.float32), image.nan_to_num(), image.isfinite(), views, truth, points)
