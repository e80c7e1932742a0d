"""The pieces of a data set that are made whole or not at all: a shard, or the folder of one subject."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from raylign.errors import InputError
from raylign.io.atomic import write_text
from raylign.simulation.datasets.cases import Batch, make_cases, project_points
from raylign.simulation.datasets.plan import Plan
from raylign.simulation.datasets.recipes import SCHEMA
from raylign.simulation.datasets.residents import Resident, reside
from raylign.simulation.datasets.roster import Entry
from raylign.simulation.datasets.shards import digest, encoded, write_tar
from raylign.simulation.physics import fields

_PIXELS = 2**20  # in one batch; fixed, since the last bit of a sum may depend on how many exposures are made together
MAKING = ".making-"
"""How the names of unfinished pieces begin; what is called so belongs to a run that was broken off."""

CT, TRUTH = "ct.nii.gz", "truth.json"
Count = Callable[[int], None]


@dataclass(frozen=True)
class Unit:
    """A piece of a data set.

    Parameters
    ----------
    name: of the shard without its suffix, or of the subject's folder.
    part: "train", "validation" or "test".
    cases: numbers of its cases.
    entries: number, in the roster, of the subject of each case.
    """

    name: str
    part: str
    cases: tuple[int, ...]
    entries: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.cases)


def units(plan: Plan) -> list[Unit]:
    """All pieces of a data set. Which case lies in which does not depend on how many cases follow it."""
    recipe, entries = plan.recipe, plan.roster
    order = plan.order(len(entries))
    subject = [order[n // recipe.cases_per_subject] for n in range(recipe.count)]
    parts = {k: plan.part(entries[k]) for k in set(subject)}
    groups: dict[str, list[int]] = {}
    for n, k in enumerate(subject):
        groups.setdefault(parts[k] if recipe.output.format == "shards" else entries[k].name, []).append(n)
    out = []
    for name, cases in groups.items():
        size = recipe.output.cases_per_shard if recipe.output.format == "shards" else len(cases)
        for first in range(0, len(cases), size):
            some = tuple(cases[first : first + size])
            label = f"{name}-{first // size:06d}" if recipe.output.format == "shards" else name
            out.append(Unit(label, parts[subject[some[0]]], some, tuple(subject[n] for n in some)))
    return sorted(out, key=lambda u: u.cases[0])


def finished(plan: Plan, unit: Unit, folder: Path) -> bool:
    """Whether a piece lies there whole, with as many cases as are wanted now."""
    if plan.recipe.output.format == "dicom":
        said = _said(folder / unit.name / TRUTH)
        if said is None or len(said.get("cases", ())) != len(unit):
            return False
        files = [file for case in said["cases"].values() for file in case.get("files", ())]
        starts = [f"{name}-start.tfm" for name in said["cases"]]
        return all((folder / unit.name / file).is_file() for file in (CT, *files, *starts))
    tar = folder / f"{unit.name}.tar"
    said = _said(tar.with_suffix(".json"))
    whole = said is not None and said.get("cases") == len(unit) and tar.is_file() and tar.stat().st_size == said.get("bytes")
    if not whole or not plan.recipe.output.volumes:
        return whole
    return all((folder / "subjects" / f"{plan.roster[k].name}.nii.gz").is_file() for k in set(unit.entries))


def _said(path: Path) -> dict[str, Any] | None:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def make_unit(plan: Plan, unit: Unit, folder: Path, count: Count) -> None:
    """Make one piece; ``count`` is called with the cases made and may raise to break off.

    Raises
    ------
    InputError: a subject that cannot be made, a folder that cannot be written to.
    """
    try:
        if plan.recipe.output.format == "dicom":
            _make_folder(plan, unit, folder, count)
        else:
            _make_shard(plan, unit, folder, count)
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror or error})", file=folder / unit.name, remedy="free space, and run it again"
        ) from error


def _batches(plan: Plan, unit: Unit, count: Count) -> Iterator[Batch]:
    shape = plan.targets.carm.shape
    size = max(1, _PIXELS // (shape[0] * shape[1] * plan.targets.views_per_case))
    size = min(size, 32)

    @lru_cache(maxsize=2)
    def resident(number: int) -> Resident:
        return reside(plan.recipe, plan.roster[number])

    for first in range(0, len(unit), size):
        numbers = unit.cases[first : first + size]
        yield make_cases(plan, numbers, [resident(k) for k in unit.entries[first : first + size]])
        count(len(numbers))


@contextmanager
def _whole(folder: Path, name: str) -> Iterator[Path]:
    """A place beside what is to be made, which is renamed to it at the end and removed where there is none."""
    place = Path(tempfile.mkdtemp(prefix=f"{MAKING}{name}-", dir=folder))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


# -- shards ----------------------------------------------------------------------------------------------------------------


def _make_shard(plan: Plan, unit: Unit, folder: Path, count: Count) -> None:
    files: dict[str, bytes] = {}
    shown: dict[str, Resident] = {}
    for batch in _batches(plan, unit, count):
        for n, key in enumerate(_keys(plan, batch)):
            about = {"schema": SCHEMA, "part": unit.part, **_about(plan, batch, n)}
            labelled = batch.labelled
            files |= encoded(key, labelled.image[n], labelled.valid[n], labelled.segments[n], about, plan.recipe.output.pixels)
        shown |= {r.entry.name: r for r in batch.subjects}
    with _whole(folder, unit.name) as place:
        tar = place / f"{unit.name}.tar"
        write_tar(tar, files)
        said = {
            "schema": SCHEMA,
            "cases": len(unit),
            "exposures": len(unit) * plan.targets.views_per_case,
            "bytes": tar.stat().st_size,
            "sha256": digest(tar),
            "subjects": {name: _subject(plan, r) for name, r in shown.items()},
        }
        if plan.recipe.output.volumes:
            for name, r in shown.items():
                _write_ct(r, folder / "subjects" / f"{name}.nii.gz")
        os.chmod(tar, 0o666 & ~_umask())
        os.replace(tar, folder / tar.name)
    write_text(folder / f"{unit.name}.json", json.dumps(said, allow_nan=False) + "\n")


def _keys(plan: Plan, batch: Batch) -> list[str]:
    """Names of exposures: the case, and a letter where a case has several."""
    each = plan.targets.views_per_case
    return [f"{case:09d}" + ("abcdefgh"[n % each] if each > 1 else "") for n, case in enumerate(batch.cases)]


def _about(plan: Plan, batch: Batch, n: int) -> dict[str, Any]:
    """What is known of one exposure, for JSON."""
    resident = batch.subjects[n]
    return {
        "case": batch.cases[n],
        "exposure": n % plan.targets.views_per_case,
        "subject": resident.entry.name,
        "id": resident.entry.id,
        "copy": resident.entry.copy,
        "pose_world_from_ct": batch.labelled.poses[n].tolist(),
        "start_world_from_ct": batch.starts[n].tolist(),
        "isocentre_ct": batch.points[n].tolist(),
        "view": batch.labelled.views[n].to_dict(),
        "landmarks": _landmarks(batch, n),
        "segments": list(plan.recipe.segments),
        "apparatus": asdict(batch.configs[n]),
        "instruments": list(batch.instruments[n]),
    }


def _landmarks(batch: Batch, n: int) -> dict[str, list[float]]:
    """(column, row) of every landmark of the subject, those beyond the image too."""
    marks = batch.subjects[n].subject.landmarks
    if not marks.names:
        return {}
    before, view, pose = batch.exposed[n], batch.labelled.views[n], batch.labelled.poses[n : n + 1].cpu()
    places = project_points([before], pose, marks.points[None].double().cpu())
    places = fields.distorted(places, before.shape, [batch.configs[n].intensifier])[0]
    if view is not before:  # a place on the detector is the same in both
        column, row = places[:, :1], places[:, 1:]
        places = view.project(before.origin + column * before.column_step + row * before.row_step)
    return {name: [round(c, 4) for c in at] for name, at in zip(marks.names, places.tolist(), strict=True)}


def _subject(plan: Plan, resident: Resident) -> dict[str, Any]:
    subject, source = resident.subject, plan.recipe.subjects[resident.entry.source]
    return {
        "id": resident.entry.id,
        "copy": resident.entry.copy,
        "ct_centre": subject.volume.centre.tolist(),
        "targets_ct": [[round(x, 3) for x in p] for p in resident.targets.tolist()],
        "landmarks_ct": dict(zip(subject.landmarks.names, subject.landmarks.points.tolist(), strict=True)),
        "traits": {name: float(value) for name, value in subject.traits.items()},
        "source": source.source or f"phantom {source.phantom}, made by raylign",
    }


def _write_ct(resident: Resident, path: Path) -> None:
    from raylign.io.images_write import write_volume

    if not path.exists():
        write_volume(resident.subject.volume, path)


# -- folders ---------------------------------------------------------------------------------------------------------------


def _make_folder(plan: Plan, unit: Unit, folder: Path, count: Count) -> None:
    from raylign.geometry import Rigid
    from raylign.io.transforms import write_pose_itk

    cases: dict[str, Any] = {}
    entry: Entry = plan.roster[unit.entries[0]]
    with _whole(folder, unit.name) as place:
        for batch in _batches(plan, unit, count):
            _write_ct(batch.subjects[0], place / CT)
            said = {"schema": SCHEMA, "part": unit.part, "ct": CT, **_subject(plan, batch.subjects[0])}
            for n, key in enumerate(_keys(plan, batch)):
                name = f"{batch.cases[n]:06d}"
                file = f"{key[3:]}.dcm"
                _write_dicom(plan, batch, n, place / file)
                about = _about(plan, batch, n)
                case = cases.setdefault(name, {"files": [], "views": [], "landmarks": []})
                case["files"].append(file)
                case["views"].append(about["view"])
                case["landmarks"].append(about["landmarks"])
                case |= {k: about[k] for k in ("pose_world_from_ct", "start_world_from_ct", "isocentre_ct", "apparatus")}
                case["instruments"] = about["instruments"]
                if file.endswith(("a.dcm", f"{name}.dcm")):
                    write_pose_itk(Rigid(batch.starts[n].cpu()), place / f"{name}-start.tfm")
        text = json.dumps(said | {"cases": cases}, allow_nan=False, indent=1)
        (place / TRUTH).write_text(text + "\n", encoding="utf-8", newline="\n")
        place.chmod(0o777 & ~_umask())
        target = folder / unit.name
        assert entry.name == unit.name
        if target.exists():  # of a smaller count, or broken; its cases are among these
            if not (target / TRUTH).is_file():
                raise InputError(f"holds no {TRUTH}: it was not made by this recipe", file=target, remedy="name a new folder")
            shutil.rmtree(target)
        os.rename(place, target)


def _write_dicom(plan: Plan, batch: Batch, n: int, path: Path) -> None:
    """One exposure as DICOM XA: the same bytes at any time."""
    import pydicom
    from pydicom.uid import generate_uid

    from raylign.io.xray_dicom_write import XRayDicomOptions, write_xray_dicom

    resident, config = batch.subjects[n], batch.configs[n]
    options = XRayDicomOptions(
        patient_name=resident.entry.name.upper(), patient_id=resident.entry.name, kv=config.tube.kv, bits=config.detector.bits
    )
    write_xray_dicom(batch.counts[n].cpu(), batch.labelled.views[n], path, options)
    # identifiers and dates that follow from what the exposure is, instead of from the clock
    root = [plan.recipe.fingerprint(), resident.entry.name]
    ds = pydicom.dcmread(path)
    ds.StudyInstanceUID = generate_uid(entropy_srcs=root)
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[*root, str(batch.cases[n])])
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[*root, str(batch.cases[n]), path.name])
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20000101"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "000000"
    ds.InstanceNumber = n + 1
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
