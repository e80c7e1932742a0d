"""A folder of data: scans by name, and exposures of known pose."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.evaluation.truth import Truth
from raylign.geometry import Rigid, se3

SUFFIXES = ("_ct.nii.gz", "_3mm_ct.nii.gz", "_1p5mm_ct.nii.gz", "_chest", ".nii.gz", "")
"""What may follow a scan's name."""

_KEPT = 3


@dataclass(frozen=True, eq=False)
class Entry:
    """One case of a folder, nothing of it read yet.

    Parameters
    ----------
    name: "CT/KIND/CASE". ct, kind: of the set.
    files: of the exposures.
    pose: ``T_world_from_volume``. targets: [N, 3] patient LPS mm.
    """

    name: str
    ct: str
    kind: str
    files: tuple[Path, ...]
    pose: Rigid
    targets: Float[Tensor, "N 3"]


def scan_path(data: Path, name: str) -> Path:
    """The file or folder of a scan's name under ``ct``.

    Raises
    ------
    InputError: there is none.
    """
    found = [data / "ct" / f"{name}{suffix}" for suffix in SUFFIXES if (data / "ct" / f"{name}{suffix}").exists()]
    if not found:
        raise InputError(
            f"no scan {name}", file=data / "ct", field="--data", remedy=f"put {name}.nii.gz there, or a folder {name} of DICOM"
        )
    return found[0]


_scans: OrderedDict[Path, Volume] = OrderedDict()


def scan(path: Path) -> Volume:
    """The scan of a file or folder; the last few are kept."""
    from raylign.io import read_volume

    if path not in _scans:
        while len(_scans) >= _KEPT:
            _scans.popitem(last=False)
        _scans[path] = read_volume(path)
    _scans.move_to_end(path)
    return _scans[path]


def entries(data: Path, sets: Sequence[str] = ()) -> list[Entry]:
    """The cases of a folder, from each of its sets in turn.

    It holds ``ct/NAME`` (a DICOM folder or NIfTI) and ``cases/NAME/KIND/`` with exposures and a ``truth.json``: for each case
    ``pose_world_from_ct`` and ``files``; ``targets_ct`` for all.

    Parameters
    ----------
    sets: "NAME/KIND", which are taken; none: all.

    Raises
    ------
    InputError: no cases there, or not the sets that are named; a ``truth.json`` that says something else.
    """
    there = {f"{p.parent.parent.name}/{p.parent.name}": p.parent for p in sorted((data / "cases").glob("*/*/truth.json"))}
    if not there:
        raise InputError(
            "no cases/NAME/KIND/truth.json is there", file=data, field="--data", remedy="name the folder that holds ct and cases"
        )
    for name in sets:
        if name not in there:
            raise InputError(f"no set {name}", file=data / "cases", field="sets", remedy=f"there are {', '.join(there)}")
    chosen = [(name, there[name]) for name in (sets or there)]
    told = [(name, place, _told(place)) for name, place in chosen]
    order = [(t, c) for row in zip_longest(*[[(t, c) for c in t[2]["cases"]] for t in told]) for t, c in filter(None, row)]
    return [_entry(place, name, truth, case) for (name, place, truth), case in order]


def _entry(place: Path, name: str, truth: dict[str, Any], case: str) -> Entry:
    said = truth["cases"][case]
    pose = Rigid(torch.tensor(said["pose_world_from_ct"], dtype=torch.float64))
    targets = torch.tensor(truth["targets_ct"], dtype=torch.float64)
    files = tuple(place / file for file in said["files"])
    return Entry(f"{name}/{case}", place.parent.name, name, files, pose, targets)


def opened(data: Path, entry: Entry) -> Truth:
    """A case with its scan and its exposures.

    Raises
    ------
    InputError: no such scan, an exposure that cannot be read.
    """
    from raylign.io import read_xray

    model = scan(scan_path(data, entry.ct))
    return Truth(entry.name, entry.kind, model, tuple(read_xray(f) for f in entry.files), entry.pose, entry.targets)


def folder(path: Path, count: int) -> Iterator[Truth]:
    """``count`` cases of a folder, from each of its sets in turn; see ``entries``.

    Raises
    ------
    InputError: no cases there, a scan that is missing, a ``truth.json`` that says something else.
    """
    for entry in entries(path)[:count]:
        yield opened(path, entry)


def _told(place: Path) -> dict[str, Any]:
    file = place / "truth.json"
    try:
        truth = json.loads(file.read_text(encoding="utf-8"))
        for case in truth["cases"].values():
            if len(case["files"]) < 1:
                raise ValueError("a case without files")
            pose = torch.tensor(case["pose_world_from_ct"], dtype=torch.float64)
            if pose.shape != (4, 4) or not se3.is_rigid(pose):
                raise ValueError("a pose that is not four rows of four numbers, a turn and a shift")
        targets = torch.tensor(truth["targets_ct"], dtype=torch.float64)
        if targets.ndim != 2 or targets.shape[0] < 1 or targets.shape[1] != 3 or not bool(targets.isfinite().all()):
            raise ValueError("targets that are not x, y and z each")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"is no record of cases ({error})", file=file, field="--data") from None
    return dict(truth)
