"""Label maps from NIfTI, NRRD and MetaImage files, and the names of their labels.

Names come from a file given, from a Slicer segmentation's own header (``.seg.nrrd``), or from a table beside the image:
``NAME_labels.csv``, ``NAME.csv`` or ``NAME.json``, where NAME is the image's name with or without a final ``_seg``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylign.data import LabelMap
from raylign.data.resample import resample_labels
from raylign.errors import InputError
from raylign.io.files import existing_file, read_text, reading, suffix
from raylign.io.grids import read_grid

__all__ = ["read_label_names", "read_labels", "resample_labels"]

_NUMBER_COLUMNS = ("id", "value", "label", "number", "index", "labelvalue", "label_value")
_NAME_COLUMNS = ("structure", "name", "label_name", "labelname", "segment", "description", "label")


def read_labels(path: str | Path, names: str | Path | None = None) -> LabelMap:
    """A label map; its grid need not be the CT's (see ``resample_labels``).

    Parameters
    ----------
    path: a segmentation as ``.nii``, ``.nii.gz``, ``.nrrd``, ``.seg.nrrd``, ``.mha`` or ``.mhd``.
    names: a table of names: CSV with a header (a number column ``id``, ``value`` or ``label`` and a name column ``structure`` or
        ``name``), JSON (``{"1": "femur"}`` or ``{"femur": 1}``), or an ITK-SNAP label description (``.txt``).

    Raises
    ------
    InputError: unreadable, values that are not whole numbers, nothing labelled, overlapping segments, a table that does not name.
    """
    file = existing_file(path)
    if suffix(file) in (".dcm", ""):
        raise InputError(
            "DICOM segmentations are not read", file=file, remedy="convert it to NIfTI or NRRD (3D Slicer, dcmqi) and try again"
        )
    grid = read_grid(file)
    with reading(file, "a label map"):
        own = _slicer_names(grid.meta)
        table = Path(names) if names is not None else _beside(file)
        data = _whole(grid.data)
        if not bool((data != 0).any()):
            raise InputError("no voxel is labelled", field="labels", remedy="give the segmentation, not an empty mask")
        known = read_label_names(table) if table is not None else own
        labels = LabelMap(data, grid.affine, known)
    return labels


def read_label_names(path: str | Path) -> dict[int, str]:
    """Label numbers and their names from CSV, JSON or an ITK-SNAP description.

    Raises
    ------
    InputError: unreadable, columns that are not understood, a number twice with different names.
    """
    kind = suffix(path)
    text = read_text(path, "a table of label names")
    with reading(path, "a table of label names"):
        if kind == ".json":
            pairs = _json_pairs(json.loads(text))
        elif kind == ".txt":
            pairs = [(int(m[1]), m[2]) for m in re.finditer(r'^\s*(\d+)\s[^"\n]*"([^"\n]*)"', text, re.MULTILINE)]
        else:
            pairs = _csv_pairs(text)
        if not pairs:
            raise InputError("names no label", remedy="give lines of number and name")
        names: dict[int, str] = {}
        for number, name in pairs:
            if names.setdefault(number, name) != name:
                raise InputError(
                    f"label {number} is both {names[number]!r} and {name!r}", field="id", remedy="name each label once"
                )
    return names


def _whole(data: np.ndarray) -> torch.Tensor:
    if data.dtype.kind == "f":
        return torch.from_numpy(np.ascontiguousarray(data))  # LabelMap checks that the values are whole
    largest = int(data.max(initial=0))
    small = np.int16 if int(data.min(initial=0)) >= -(2**15) and largest < 2**15 else np.int32
    return torch.from_numpy(np.ascontiguousarray(data, dtype=np.uint8 if data.dtype == np.uint8 else small))


def _slicer_names(meta: Mapping[str, Any]) -> dict[int, str]:
    names: dict[int, str] = {}
    layers = set()
    for key, value in meta.items():
        match = re.fullmatch(r"Segment(\d+)_LabelValue", key)
        if match:
            names[int(value)] = str(meta.get(f"Segment{match[1]}_Name", f"segment {match[1]}"))
            layers.add(str(meta.get(f"Segment{match[1]}_Layer", "0")).strip())
    if len(layers) > 1:
        raise InputError(
            "segments overlap (several layers)", field="Segment_Layer", remedy="export them as a label map without overlap"
        )
    return names


def _beside(file: Path) -> Path | None:
    stem = file.name[: -len(suffix(file))]
    stems = [stem, re.sub(r"[_-](seg|segmentation|labels?)$", "", stem)]
    for candidate in (f"{s}{end}" for s in stems for end in ("_labels.csv", ".csv", ".json", "_labels.json")):
        if (file.parent / candidate).is_file():
            return file.parent / candidate
    return None


def _csv_pairs(text: str) -> list[tuple[int, str]]:
    reader = csv.DictReader(text.splitlines())
    columns = {str(name).strip().lower(): name for name in reader.fieldnames or ()}
    name = next((columns[n] for n in _NAME_COLUMNS if n in columns), None)
    number = next((columns[n] for n in _NUMBER_COLUMNS if n in columns and columns[n] != name), None)
    if name is None or number is None:
        raise InputError(f"the header is {', '.join(columns)}", field="header", remedy="use id,name")
    return [(int(row[number]), str(row[name]).strip()) for row in reader if row[number]]


def _json_pairs(values: Any) -> list[tuple[int, str]]:
    if not isinstance(values, Mapping):
        raise InputError("no object of numbers and names", remedy='give {"1": "name"}')
    if all(isinstance(value, int) for value in values.values()):
        return [(int(value), str(key)) for key, value in values.items()]
    return [(int(key), str(value)) for key, value in values.items()]
