"""Landmarks in files: Slicer's .fcsv and .mrk.json, and CSV.

Points leave as patient LPS mm whatever the file's frame; files are written in LPS.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from raylign.data import Landmarks
from raylign.errors import InputError
from raylign.io.atomic import write_text
from raylign.io.files import read_json, read_text, reading, suffix

_MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)
_NAME = ("name", "label", "landmark", "id")


def read_landmarks(path: str | Path) -> Landmarks:
    """Landmarks of a file, [N, 3] in patient LPS mm or [N, 2] (column, row) pixels for a CSV of columns and rows.

    - ``.fcsv``: the header must state ``CoordinateSystem`` (LPS or 1, RAS or 0).
    - ``.mrk.json``, ``.json``: Slicer markups; ``coordinateSystem`` must say LPS or RAS; positions that are not defined
      are left out.
    - ``.csv``: ``name,x,y,z`` in mm, with or without a header line; LPS unless a column ``frame`` says RAS. With a header
      ``name,column,row`` the points are pixels.

    Raises
    ------
    InputError: unreadable, no points, a frame that is missing or unknown, coordinates that are no numbers, a name twice.
    """
    kind = suffix(path)
    if kind in (".mrk.json", ".json"):
        values = read_json(path, "Slicer markups")
        with reading(path, "Slicer markups"):
            result = _markups(values)
        return result
    if kind not in (".fcsv", ".csv"):
        raise InputError(f"{kind or 'no suffix'!r} is no landmark format", file=path, remedy="give .fcsv, .mrk.json or .csv")
    text = read_text(path, "landmarks")
    with reading(path, "landmarks"):
        result = _fcsv(text) if kind == ".fcsv" else _csv(text)
    return result


def write_landmarks(landmarks: Landmarks, path: str | Path) -> None:
    """Write landmarks by suffix: ``.fcsv`` and ``.mrk.json`` (3D only, LPS), ``.csv`` (``name,x,y,z`` or ``name,column,row``).

    Raises
    ------
    InputError: another suffix, pixels in a format for space, a place that cannot be written.
    """
    kind = suffix(path)
    three = landmarks.points.shape[1] == 3
    if kind not in (".fcsv", ".mrk.json", ".csv"):
        raise InputError(f"{kind or 'no suffix'!r} is no landmark format", file=path, remedy="use .fcsv, .mrk.json or .csv")
    if kind != ".csv" and not three:
        raise InputError("pixels do not go into a file of points in space", file=path, remedy="write .csv")
    rows = list(zip(landmarks.names, landmarks.points.tolist(), strict=True))
    if kind == ".mrk.json":
        points = [{"id": str(i + 1), "label": name, "position": xyz} for i, (name, xyz) in enumerate(rows)]
        markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
        write_text(path, json.dumps({"@schema": _MARKUPS_SCHEMA, "markups": [markup]}, indent=1) + "\n")
        return
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if kind == ".csv":
        writer.writerow(["name", "x", "y", "z"] if three else ["name", "column", "row"])
        writer.writerows([name, *xyz] for name, xyz in rows)
    else:
        out.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
        out.write("# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n")
        writer.writerows([i + 1, *xyz, 0, 0, 0, 1, 1, 1, 0, name, "", ""] for i, (name, xyz) in enumerate(rows))
    write_text(path, out.getvalue())


def _landmarks(names: Sequence[str], points: Sequence[Sequence[float]], ras: Sequence[bool]) -> Landmarks:
    if not points:
        raise InputError("holds no landmarks", remedy="give at least one named point")
    tensor = torch.tensor(points, dtype=torch.float64)
    if any(ras):
        if tensor.shape[1] != 3:
            raise InputError("a frame for pixels", field="frame", remedy="pixels have none: leave the column out")
        tensor[torch.tensor(ras), :2] *= -1
    return Landmarks(tuple(names), tensor)


def _is_ras(frame: object, field: str) -> bool:
    text = str("" if frame is None else frame).strip().upper()
    if text in ("LPS", "1"):
        return False
    if text in ("RAS", "0"):
        return True
    raise InputError(f"the frame {text!r} is unknown" if text else "no frame is stated", field=field, remedy="state LPS or RAS")


def _markups(values: dict[str, Any]) -> Landmarks:
    lists = values.get("markups")
    if not isinstance(lists, list):
        raise InputError("no list of markups", field="markups", remedy="export the points from Slicer as .mrk.json")
    names, points, ras = [], [], []
    for markup in lists:
        in_ras = _is_ras(markup.get("coordinateSystem"), "coordinateSystem")
        if markup.get("coordinateUnits", "mm") != "mm":
            raise InputError(f"the unit is {markup['coordinateUnits']!r}", field="coordinateUnits", remedy="export in mm")
        for i, point in enumerate(markup.get("controlPoints", [])):
            if point.get("positionStatus", "defined") != "defined":
                continue  # Slicer lists points that are still to be placed
            names.append(str(point.get("label") or point.get("id") or i + 1))
            points.append(_numbers(point.get("position", ()), names[-1]))
            ras.append(in_ras)
    return _landmarks(names, points, ras)


def _fcsv(text: str) -> Landmarks:
    header = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    stated = dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in header if "=" in line)
    in_ras = _is_ras(stated.get("CoordinateSystem"), "CoordinateSystem")
    columns = [c.strip() for c in stated.get("columns", "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label").split(",")]
    at = {name: columns.index(name) for name in ("id", "x", "y", "z", "label")}
    names, points = [], []
    for row in _rows(line for line in text.splitlines() if not line.startswith("#")):
        label = row[at["label"]].strip() if len(row) > at["label"] else ""
        names.append(label or row[at["id"]].strip())
        points.append(_numbers([row[at[axis]] for axis in ("x", "y", "z")], names[-1]))
    return _landmarks(names, points, [in_ras] * len(points))


def _csv(text: str) -> Landmarks:
    rows = _rows(line for line in text.splitlines() if not line.startswith("#"))
    if not rows:
        raise InputError("holds no landmarks", remedy="give lines of name,x,y,z")
    header = [cell.strip().lower() for cell in rows[0]]
    if _is_number(header[-1]) or (len(header) > 3 and _is_number(header[1])):
        header = ["name", "x", "y", "z"]
    else:
        rows = rows[1:]
    axes = next((axes for axes in (("x", "y", "z"), ("column", "row")) if all(a in header for a in axes)), None)
    name = next((header.index(n) for n in _NAME if n in header), None)
    if axes is None or name is None:
        raise InputError(f"the header is {', '.join(header)}", field="header", remedy="use name,x,y,z or name,column,row")
    names, points, ras = [], [], []
    for row in rows:
        if len(row) < len(header):
            raise InputError(f"a line has {len(row)} cells, not {len(header)}", field=",".join(row))
        names.append(row[name].strip())
        points.append(_numbers([row[header.index(a)] for a in axes], names[-1]))
        ras.append("frame" in header and _is_ras(row[header.index("frame")], "frame"))
    return _landmarks(names, points, ras)


def _rows(lines: Iterable[str]) -> list[list[str]]:
    return [row for row in csv.reader(lines) if any(cell.strip() for cell in row)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[Any], name: str) -> list[float]:
    try:
        numbers = [float(cell) for cell in cells]
    except (TypeError, ValueError):
        raise InputError(f"its coordinates {list(cells)} are not numbers", field=name) from None
    if len(numbers) not in (2, 3):
        raise InputError(f"{len(numbers)} coordinates", field=name, remedy="give x, y and z in mm")
    return numbers
