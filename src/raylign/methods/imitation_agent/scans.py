"""Real CTs as test patients of the comparison: never trained on, their ventricles fitted (``lv``), their exposures simulated.

A list of scans in JSON names files in a folder of data and holds each ventricle as it was fitted; no voxel of a scan is in it.
Exposures are made like the made patients' (``pool``). What differs: a scan ends where the scanner stopped. A ray that leaves or
enters the body beyond a cut side of the scan shows nothing of the patient there, and its pixel says nothing (NaN).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.data import Landmarks, Volume
from raylign.errors import InputError
from raylign.geometry import View
from raylign.io.atomic import atomic_write
from raylign.methods.imitation_agent.lv import epicardium, heart_of
from raylign.methods.imitation_agent.models import coarsened, middle
from raylign.methods.imitation_agent.pool import PoolConfig
from raylign.simulation.phantoms.thorax_heart import Heart

FIRST = 2_000_000
"""Number of the first scan of a list, where made patients have their seeds: no stream of random numbers is shared."""
_BODY_HU = -300.0


@dataclass(frozen=True)
class Scan:
    """A CT of somebody, and his left ventricle.

    Parameters
    ----------
    name: of the scan. number: in place of a made patient's seed.
    ct: file or folder. labels, label_names: its segmentation and that one's table of names, where there is one: they tell
        contrast agent from bone.
    source: where it comes from and under which licence.
    heart: the fitted ventricle.
    """

    name: str
    number: int
    ct: Path
    source: str
    heart: Heart
    labels: Path | None = None
    label_names: Path | None = None


def read_scans(listed: Path, data: Path) -> tuple[Scan, ...]:
    """The scans of a list.

    Parameters
    ----------
    listed: JSON with ``scans``: name, ct, source, heart, and where there are some labels and label_names. Paths are relative to
        ``data``.

    Raises
    ------
    InputError: a list that cannot be read, a file that is not there.
    """
    try:
        entries = json.loads(listed.read_text(encoding="utf-8"))["scans"]
        found = tuple(_scan(entry, FIRST + number, data) for number, entry in enumerate(entries))
    except InputError as error:
        raise error.at(listed) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "give each scan a name, ct, source, and the heart that benchmarks/lv_fit.py finds"
        raise InputError(f"cannot be read ({type(error).__name__}: {error})", file=listed, field="scans", remedy=remedy) from None
    for scan in found:
        for path in (scan.ct, scan.labels, scan.label_names):
            if path is not None and not path.exists():
                raise InputError("is not there", file=path, field="--data", remedy="name the folder that holds it")
    if not found or len({scan.name for scan in found}) < len(found):
        raise InputError("has no scans, or two of one name", file=listed, field="scans")
    return found


def _scan(entry: Mapping[str, Any], number: int, data: Path) -> Scan:
    if not re.fullmatch(r"\w[\w.-]*", str(entry["name"])):
        raise InputError(f"{entry['name']!r} is no name for a folder", field="scans.name", remedy="use letters, digits, - and _")
    more = {name: data / entry[name] for name in ("labels", "label_names") if entry.get(name)}
    return Scan(str(entry["name"]), number, data / entry["ct"], str(entry["source"]), heart_of(entry["heart"]), **more)


def scan_path(folder: Path, scan: Scan, count: int) -> Path:
    """Where the exposures of a scan lie."""
    return folder / f"{scan.name}-{count}.npz"


def write_scan(path: Path, config: PoolConfig, scan: Scan, count: int) -> None:
    """Expose a scan and write the file, as ``pool.write_patient`` does a made patient's."""
    arrays = expose_scan(config, scan, count)
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]


def expose_scan(config: PoolConfig, scan: Scan, count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Exposures of a scan with its ventricle at the isocentre: arrays as ``pool.make_patient`` has them, contrast apart.

    The scan is exposed in its own voxels, with whatever contrast agent it has.

    Raises
    ------
    InputError: a scan that cannot be read, or is not in HU.
    """
    from raylign.io import read_volume
    from raylign.io.labels import read_labels
    from raylign.simulation.datasets.cases import make_cases
    from raylign.simulation.datasets.plan import Plan
    from raylign.simulation.datasets.recipes import Recipe, SubjectsFrom
    from raylign.simulation.datasets.residents import Resident
    from raylign.simulation.physics.materials import Matter
    from raylign.simulation.subjects import subject_from_ct

    labels = None if scan.labels is None else read_labels(scan.labels, scan.label_names)
    nowhere = Landmarks((), torch.zeros(0, 3, dtype=torch.float64))
    subject = subject_from_ct(read_volume(scan.ct), labels, landmarks=nowhere, id=scan.name)
    mesh = coarsened(epicardium(scan.heart), config.cell_mm)
    centre = middle(mesh)
    recipe = Recipe(
        name="imitation-agent",
        subjects=(SubjectsFrom(ct=str(scan.ct), id=scan.name, source=scan.source),),
        seed=config.seed,
        targets=config.targets,
        starts="toth2018",
        image=(config.pixels, config.pixels),
        exposure=config.exposure,
        instruments=config.instruments,
        appearance=config.appearance,
    )
    plan = Plan(recipe)
    none = torch.zeros(0, 3, dtype=torch.float64)
    resident = Resident(plan.roster[0], subject, Matter.of(subject), centre[None], centre[None], none)
    images, vectors, poses = [], [], []
    for k in range(count):  # one at a time: a scan is large
        batch = make_cases(plan, [(scan.number << 20) + k], [resident])
        one, view, pose = batch.labelled, batch.labelled.views[0], batch.labelled.poses[0]
        seen = one.valid[0] & between_cut_sides(subject.volume, view, pose)
        images.append(torch.where(seen, one.image[0], torch.nan).to(torch.float16).numpy())
        vectors.append(view.vectors.numpy())
        poses.append(pose.numpy())
    return {
        "images": np.stack(images),
        "vectors": np.stack(vectors),
        "poses": np.stack(poses),
        "vertices": mesh.vertices.to(torch.float32).numpy(),
        "faces": mesh.faces.to(torch.int32).numpy(),
        "centre": centre.numpy(),
    }


def between_cut_sides(volume: Volume, view: View, pose: Float[Tensor, "4 4"]) -> Bool[Tensor, "H W"]:
    """Pixels whose rays stay between the sides at which the patient was cut, all the way through him.

    Parameters
    ----------
    volume: in HU; ``truncated`` says which sides are cut. Of the three axes the one nearest to the beam is left out: every ray
        passes its sides.
    pose: ``T_world_from_volume``.
    """
    back = torch.linalg.inv(pose @ volume.affine.to(torch.float64))  # voxels (column, row, slice) from world
    vectors = view.vectors.detach()
    source = back[:3, :3] @ vectors[0] + back[:3, 3]
    first, across, down = (back[:3, :3] @ v for v in (vectors[1] - vectors[0], vectors[2], vectors[3]))
    h, w = view.shape
    rays = first + torch.arange(h)[:, None, None] * down + torch.arange(w)[None, :, None] * across
    beam = (rays[h // 2, w // 2] * torch.tensor(volume.spacing, dtype=torch.float64)).abs()
    along = int(beam.argmax())
    size = volume.data.shape[::-1]
    others = [dim for dim in range(3) if dim != 2 - along]  # data are [slice, row, column]
    body = (volume.data > _BODY_HU).any(dim=others)
    where = body.nonzero()[:, 0]
    seen = torch.ones(h, w, dtype=torch.bool)
    if volume.truncated is None or not len(where):
        return seen
    for axis in range(3):
        for side in (0, 1):
            if axis == along or not volume.truncated[axis][side]:
                continue
            for plane in (float(where[0]), float(where[-1])):
                t = (plane - source[along]) / rays[..., along]
                at = source[axis] + t * rays[..., axis]
                seen &= at >= -0.5 if side == 0 else at <= size[axis] - 0.5
    return seen


def fitted_list(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write a list of scans, numbers with three decimals."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"scans": _short(entries)}, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    return [_short(v) for v in value] if isinstance(value, list | tuple) else value
