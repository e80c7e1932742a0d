"""Exposures of many made patients with their left ventricles' models, made once and kept: what the agent is trained on.

A file a patient. Everything in it follows from the configuration and the patient's seed, so that a pool may be made by any number
of processes, broken off and gone on with. Fixed images show the whole field of 300 mm; the states that the agent sees are cut out
of them on the fly, and moving images are projected on the fly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.io.atomic import atomic_write
from raylign.methods.crew import DAMAGED, checked_parts, done_by, noted
from raylign.methods.imitation_agent.models import coarsened, middle
from raylign.methods.imitation_agent.world import Exposures, gathered

Tell = Callable[[str, float], None]

_CONTRAST = 2  # place of a patient's contrast agent in the tree of seeds; 0 and 1 are those of data sets
_VERSION = 1  # of what a pool of given settings holds
_ARRAYS = ("images", "vectors", "poses", "vertices", "faces", "centre")


@dataclass(frozen=True)
class PoolConfig:
    """Whom the agent learns from and is tested on.

    Parameters
    ----------
    train, validation, test: first and last seed of the made patients of each part; no patient may be in two.
    train_exposures, validation_exposures, test_exposures: of each patient, each from another direction.
    structure: whose surface the model is.
    cell_mm: models are made coarser to a vertex in each cell of so many mm.
    voxel_mm: of the patients.
    contrast_hu: lowest and highest HU by which contrast agent raises blood; each patient has another. The paper's CTs are
        "contrasted"; how much it does not say.
    pixels: side of the fixed images, which show the distribution's field (300 mm).
    targets: distribution of views and poses (``simulation.poses``).
    appearance: as in recipes of data sets.
    instruments: set in the beam, or none.
    exposure: ranges of the apparatus, as in recipes of data sets.
    seed: of everything but the patients' anatomies.

    Raises
    ------
    InputError: parts that share patients, ranges that are none, training or validation on patients held out for evaluation.
    """

    train: tuple[int, int] = (0, 701)
    validation: tuple[int, int] = (702, 733)
    test: tuple[int, int] = (990_000, 990_099)
    train_exposures: int = 8
    validation_exposures: int = 4
    test_exposures: int = 1
    structure: str = "heart_lv_epicardium"
    cell_mm: float = 4.0
    voxel_mm: float = 2.5
    contrast_hu: tuple[float, float] = (0.0, 300.0)
    pixels: int = 256
    targets: str = "toth2018"
    appearance: str = "toth2018"
    instruments: str | None = None
    exposure: dict[str, Any] = field(default_factory=lambda: {"round_field": 0.0, "rectangular_field": 0.0})
    seed: int = 0

    def __post_init__(self) -> None:
        checked_parts(self.parts)
        low, high = self.contrast_hu
        if not 0 <= low <= high:
            raise InputError(f"{low:g} to {high:g} is no range", field="contrast_hu", remedy="[lowest, highest]")
        if self.pixels < 32 or min(self.exposures.values()) < 1:
            raise InputError("pixels or exposures are too few", field="data", remedy="give 32 pixels and 1 exposure or more")

    @property
    def parts(self) -> dict[str, tuple[int, int]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def exposures(self) -> dict[str, int]:
        return {
            "train": self.train_exposures,
            "validation": self.validation_exposures,
            "test": self.test_exposures,
        }

    def seeds(self, part: str) -> range:
        """The patients of a part."""
        first, last = self.parts[part]
        return range(first, last + 1)

    def fingerprint(self) -> str:
        """What two pools share if, and only if, a patient of the one is the same in the other; who is in it does not enter."""
        said = asdict(self)
        for name in ("train", "validation", "test"):
            del said[name], said[f"{name}_exposures"]
        return hashlib.sha256(json.dumps([_VERSION, said], sort_keys=True).encode()).hexdigest()


def make_patient(config: PoolConfig, seed: int, count: int) -> dict[str, np.ndarray[Any, Any]]:
    """One made patient's exposures and model, as the arrays of a pool's file.

    Returns
    -------
    images [K, N, N] float16, NaN where a pixel says nothing; vectors [K, 4, 3]; poses [K, 4, 4]; vertices [V, 3] float32; faces
    [F, 3] int32; centre [3]; contrast_hu.
    """
    from raylign.simulation.datasets.cases import make_cases
    from raylign.simulation.datasets.plan import Plan
    from raylign.simulation.datasets.recipes import Recipe, SubjectsFrom, TargetPoints
    from raylign.simulation.datasets.residents import reside
    from raylign.simulation.seeds import numpy_generator

    low, high = config.contrast_hu
    contrast = float(numpy_generator(config.seed, _CONTRAST, seed).uniform(low, high))
    made = {"voxel_mm": config.voxel_mm, "z_range": [-220.0, 165.0], "contrast_hu": contrast, "meshes": True}
    recipe = Recipe(
        name="imitation-agent",
        subjects=(SubjectsFrom(phantom="thorax", seeds=(seed, seed), config=made),),
        seed=config.seed,
        targets=config.targets,
        starts="toth2018",
        isocentre=("heart_ventricle_left",),
        image=(config.pixels, config.pixels),
        exposure=config.exposure,
        instruments=config.instruments,
        appearance=config.appearance,
        target_points=TargetPoints(("heart_ventricle_left",), 1),
    )
    plan = Plan(recipe)
    resident = reside(recipe, plan.roster[0])
    if config.structure not in resident.subject.meshes:
        raise InputError(f"a chest has no surface {config.structure!r}", field="structure", remedy="heart_lv_epicardium, say")
    mesh = coarsened(resident.subject.meshes[config.structure], config.cell_mm)
    # cases of patient s are numbered from s << 20, so that no two patients share a stream of random numbers
    batch = make_cases(plan, [(seed << 20) + k for k in range(count)], [resident] * count)
    images = torch.where(batch.labelled.valid, batch.labelled.image, torch.nan)
    return {
        "images": images.to(torch.float16).numpy(),
        "vectors": torch.stack([view.vectors for view in batch.labelled.views]).numpy(),
        "poses": batch.labelled.poses.numpy(),
        "vertices": mesh.vertices.to(torch.float32).numpy(),
        "faces": mesh.faces.to(torch.int32).numpy(),
        "centre": middle(mesh).numpy(),
        "contrast_hu": np.array(contrast),
    }


def as_exposures(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Exposures:
    """A patient's arrays as exposures whose base poses are the true ones."""
    images = torch.from_numpy(arrays["images"])
    mesh = Mesh(torch.from_numpy(arrays["vertices"]), torch.from_numpy(arrays["faces"]))
    return Exposures(
        images,
        torch.from_numpy(arrays["vectors"]),
        torch.from_numpy(arrays["poses"]),
        torch.zeros(len(images), dtype=torch.int64),
        (mesh,),
        torch.from_numpy(arrays["centre"])[None],
    )


class Pool:
    """A folder of exposures, one file a patient, made where they are missing.

    Parameters
    ----------
    folder: new, or to be gone on with.
    config: what is in it.

    Raises
    ------
    InputError: the folder holds a pool of other settings.
    """

    def __init__(self, folder: str | Path, config: PoolConfig) -> None:
        self.folder, self.config = Path(folder), config
        noted(self.folder, config.fingerprint(), {"settings": asdict(config)})

    def path(self, seed: int, count: int) -> Path:
        return self.folder / f"{seed:06d}-{count}.npz"

    def make(self, parts: tuple[str, ...], workers: int = 1, tell: Tell | None = None) -> None:
        """Make what is missing of some parts, in as many processes; each uses one thread."""
        wanted = [(seed, self.config.exposures[part]) for part in parts for seed in self.config.seeds(part)]
        missing = [task for task in wanted if not self.path(*task).exists()]
        tasks = [(self.path(seed, count), self.config, seed, count) for seed, count in missing]
        for done, _ in enumerate(done_by(write_patient, tasks, workers), len(wanted) - len(tasks) + 1):
            if tell is not None:
                tell(f"{done} of {len(wanted)} patients", done / len(wanted))

    def read(self, part: str) -> Exposures:
        """All exposures of a part; base poses are the true ones.

        Raises
        ------
        InputError: a patient that was not made, a damaged file.
        """
        count = self.config.exposures[part]
        return gathered([as_exposures(read_patient(self.path(seed, count))) for seed in self.config.seeds(part)])


def write_patient(path: Path, config: PoolConfig, seed: int, count: int) -> None:
    """Make a patient and write its file, whole or not at all."""
    arrays = make_patient(config, seed, count)
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]


def read_patient(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a patient's file.

    Raises
    ------
    InputError: it is not there, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        _check_arrays(arrays)
    except (*DAMAGED, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot be read ({error})", file=path, remedy="delete it: the same command makes it again") from None
    return arrays


def _check_arrays(arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Raise ValueError where a patient's arrays are not what ``make_patient`` makes."""
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    images, vectors, poses = (arrays[name] for name in _ARRAYS[:3])
    if images.ndim != 3 or vectors.shape != (len(images), 4, 3) or poses.shape != (len(images), 4, 4):
        raise ValueError("images, vectors and poses do not belong together")
    if any(arrays[name].ndim != 2 or arrays[name].shape[1] != 3 for name in ("vertices", "faces")) or arrays["centre"].shape != (
        3,
    ):
        raise ValueError("its surface is none")
