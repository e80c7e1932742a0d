"""Landmarks of a model together with their marks on X-rays: ``raylign.landmarks/1``, and files of points beside files of pixels.

.. code-block:: json

    {
      "schema": "raylign.landmarks/1",
      "frame": "LPS",
      "volume": {"asis_left": [121.5, -80.2, 310.0], "asis_right": [-118.0, -79.1, 308.4]},
      "images": {"frontal.dcm": {"asis_left": [412.5, 230.0], "asis_right": null}}
    }

``volume`` is in patient mm of the frame (LPS or RAS), ``images`` in (column, row), pixel centres at whole numbers from (0, 0). In
place of what ``volume`` or an image holds may stand the name of a file beside this one: ``.mrk.json``, ``.fcsv`` or ``.csv`` of
points, ``.csv`` of ``name,column,row``. ``images`` may be a list, in the order of the X-rays; ``null`` stands for what is not
seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from raylign.data import Landmarks
from raylign.errors import InputError
from raylign.io.atomic import write_text
from raylign.io.files import read_json, reading, suffix
from raylign.io.landmarks import _is_ras, read_landmarks

SCHEMA = "raylign.landmarks/1"
_KEYS = {"schema", "frame", "volume", "images", "note"}

Marked = tuple[Landmarks, tuple[Landmarks | None, ...]]


def holds_landmarks(path: str | Path) -> bool:
    """Whether a file is one of landmarks and not of a pose: by its suffix, a ``.json`` by its keys.

    Raises
    ------
    InputError: a ``.json`` that cannot be read.
    """
    kind = suffix(path)
    if kind in (".mrk.json", ".fcsv", ".csv"):
        return True
    if kind != ".json":
        return False
    values = read_json(path, "a pose or landmarks")
    return "markups" in values or "images" in values or str(values.get("schema", "")).startswith("raylign.landmarks")


def read_marked(path: str | Path, xrays: Sequence[str | Path], pixels: Sequence[str | Path] = ()) -> Marked:
    """Points of a model in patient LPS mm, and for each X-ray the marks on it in pixels (None where there are none).

    Parameters
    ----------
    path: a ``raylign.landmarks/1`` file, which holds both; or points alone as ``read_landmarks`` takes them.
    xrays: the exposures' files, in order; a file's ``images`` are found by name.
    pixels: files of ``name,column,row``, one an exposure, where ``path`` holds points alone.

    Raises
    ------
    InputError: unreadable, another schema, no frame, an X-ray that is not among those given, pixels where points are needed or
        the other way round, the number of files of pixels.
    """
    kind = suffix(path)
    values = read_json(path, "landmarks") if kind == ".json" else {}
    if kind != ".json" or "markups" in values:
        points = _dimension(read_landmarks(path), 3, path)
        if len(pixels) != len(xrays):
            raise InputError(
                f"marks on {len(pixels)} of {len(xrays)} X-rays",
                file=path,
                field="--landmarks-2d",
                remedy="give a .csv of name,column,row for each X-ray, in their order",
            )
        return points, tuple(_dimension(read_landmarks(p), 2, p) for p in pixels)
    if pixels:
        raise InputError("holds the marks itself", file=path, field="--landmarks-2d", remedy="leave --landmarks-2d out")
    with reading(path, "landmarks"):
        result = _parsed(values, Path(path).parent, [Path(x) for x in xrays])
    return result


def write_marked(path: str | Path, points: Landmarks, marks: Mapping[str, Landmarks]) -> None:
    """Write a ``raylign.landmarks/1`` file: points in patient LPS mm, and marks by X-ray file.

    Raises
    ------
    InputError: pixels for points or points for pixels, a place that cannot be written.
    """
    _dimension(points, 3, path)
    images = {name: _dimension(m, 2, path) for name, m in marks.items()}
    content = {
        "schema": SCHEMA,
        "frame": "LPS",
        "volume": dict(zip(points.names, points.points.tolist(), strict=True)),
        "images": {k: dict(zip(m.names, m.points.tolist(), strict=True)) for k, m in images.items()},
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def _parsed(values: Mapping[str, Any], folder: Path, xrays: Sequence[Path]) -> Marked:
    if values.get("schema") != SCHEMA:
        raise InputError(f"the schema is {values.get('schema')!r}", field="schema", remedy=f'write "schema": "{SCHEMA}"')
    unknown = sorted(set(values) - _KEYS)
    if unknown:
        raise InputError("is no key of this schema", field=unknown[0], remedy=f"use {', '.join(sorted(_KEYS))}")
    return _points(values, folder), _images(values.get("images"), folder, xrays)


def _points(values: Mapping[str, Any], folder: Path) -> Landmarks:
    held = values.get("volume")
    if isinstance(held, str):
        if "frame" in values:
            raise InputError(f"{held} states its own", field="frame", remedy="leave it out")
        return _dimension(read_landmarks(folder / held), 3, folder / held)
    in_ras = _is_ras(values.get("frame"), "frame")
    found = _named(held, 3, "volume")
    if found is None:
        raise InputError("holds no points", field="volume", remedy='give "name": [x, y, z] in patient mm')
    points = found.points.clone()
    if in_ras:
        points[:, :2] *= -1
    return Landmarks(found.names, points)


def _images(held: Any, folder: Path, xrays: Sequence[Path]) -> tuple[Landmarks | None, ...]:
    if isinstance(held, list):
        if len(held) != len(xrays):
            raise InputError(f"{len(held)} for {len(xrays)} X-rays", field="images", remedy="give one for each, in their order")
        return tuple(_image(one, folder, f"images[{i}]") for i, one in enumerate(held))
    if not isinstance(held, dict) or not held:
        raise InputError("marks on no X-ray", field="images", remedy='give "X-ray file": {"name": [column, row]}')
    found: list[Landmarks | None] = [None] * len(xrays)
    others, seen = [], set()
    for key, one in held.items():
        matches = [i for i, x in enumerate(xrays) if str(x) == key] or [
            i for i, x in enumerate(xrays) if x.name == Path(key).name
        ]
        if not matches:
            others.append(key)
        elif len(matches) > 1 or matches[0] in seen:
            raise InputError("several X-rays are called so", field=f"images: {key}", remedy="use a list in their order")
        else:
            seen.add(matches[0])
            found[matches[0]] = _image(one, folder, f"images: {key}")
    missing = [x.name for i, x in enumerate(xrays) if i not in seen]
    if others and missing:  # a file may know more X-rays than are registered, but this looks like a slip
        raise InputError(
            f"no X-ray is called so, and {missing[0]} has no marks",
            field=f"images: {others[0]}",
            remedy="use the names on the command line, or a list in their order",
        )
    return tuple(found)


def _image(held: Any, folder: Path, field: str) -> Landmarks | None:
    if isinstance(held, str):
        return _dimension(read_landmarks(folder / held), 2, folder / held)
    return None if held is None else _named(held, 2, field)


def _named(held: Any, dimension: int, field: str) -> Landmarks | None:
    """Named points of a JSON object; None where all are null."""
    if not isinstance(held, dict):
        raise InputError(
            "is no object of names", field=field, remedy=f'give "name": [{"x, y, z" if dimension == 3 else "column, row"}]'
        )
    names, points = [], []
    for name, point in held.items():
        if point is None:
            continue
        numbers = isinstance(point, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in point)
        if not numbers or len(point) != dimension:
            what = "x, y, z in mm" if dimension == 3 else "column, row in pixels, or null"
            raise InputError(f"{point!r} is no point", field=f"{field}: {name}", remedy=f"give [{what}]")
        names.append(name)
        points.append([float(x) for x in point])
    return Landmarks(tuple(names), torch.tensor(points, dtype=torch.float64)) if names else None


def _dimension(landmarks: Landmarks, dimension: int, path: str | Path) -> Landmarks:
    if landmarks.points.shape[1] != dimension:
        needed = ("points in space", "name,x,y,z") if dimension == 3 else ("pixels", "name,column,row")
        raise InputError(f"{needed[0]} are needed", file=path, remedy=f"give {needed[1]}")
    return landmarks
