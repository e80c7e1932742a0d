"""Exposure geometry in files: ``view.json``, and camera calibrations in OpenCV's terms.

A calibration says ``x_camera = R x_world + t`` (mm) and ``pixel = K x_camera / z`` with x right, y down, z forward and pixel
centres at integers, as OpenCV does. Read are

- the text format of Autoscoper and XMALab ("MayaCam 2.0": sections ``image size``, ``camera matrix``, ``rotation``,
  ``translation``; image size as width, height),
- JSON with ``K``/``camera_matrix``, ``R``/``rotation`` (3x3, or a rotation vector ``rvec`` in radians), ``t``/``tvec`` and
  ``image_size`` (width, height) or ``shape`` (rows, columns),
- the YAML, XML and JSON that OpenCV's FileStorage writes, with the same keys, of one camera or of a stereo pair,
- MayaCam 1.0 and RTK's geometry: ``raylign.io.rigs``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.io.atomic import write_text
from raylign.io.files import read_json, read_text, reading, suffix
from raylign.io.rigs import camera_of, is_mayacam1, mayacam1, numbered, only_camera, rtk_view, storage_xml

_KEYS = {
    "K": ("k", "camera_matrix", "cameramatrix", "camera matrix", "intrinsic", "intrinsics", "intrinsic_matrix"),
    "R": ("r", "rotation", "rotation_matrix", "rvec", "rotation_vector"),
    "t": ("t", "translation", "tvec", "translation_vector"),
    "image size": ("image_size", "image size", "imagesize", "size", "resolution"),
    "shape": ("shape",),
    "width": ("image_width", "width"),
    "height": ("image_height", "height"),
    "distortion": ("dist", "distortion", "distortion_coefficients", "dist_coeffs", "distcoeffs"),
}
_CARM = ("sid", "sod", "pixel_spacing", "shape")


def write_view(view: View, path: str | Path, relationship: str | None = None) -> None:
    """Write a ``view.json``: the four vectors in world mm and the shape.

    Parameters
    ----------
    view: the geometry.
    path: where to; written whole or not at all.
    relationship: what the values of the image beside it are, "LIN", "LOG" or "DISP" (DICOM (0028,1040)), where it is known.
    """
    values: dict[str, Any] = view.to_dict()
    if relationship is not None:
        values["relationship"] = relationship
    write_text(path, json.dumps(values, indent=1) + "\n")


def read_view(path: str | Path) -> View:
    """The geometry in a ``view.json``, or in an OpenCV-style calibration.

    A JSON file may also give a C-arm: ``sid``, ``sod``, ``pixel_spacing`` ([row, column]), ``shape`` ([rows, columns]) and
    ``primary`` and ``secondary`` angles, as ``View.from_carm`` takes them; or, with ``"beam": "parallel"``, all of these but the
    two distances, as ``View.from_parallel`` does. Of a stereo pair in one file ``FILE#1`` is the first camera, whose frame is
    the world, and ``FILE#2`` the second.

    Raises
    ------
    InputError: unreadable, something missing, lens distortion that was not removed, a rotation that is none.
    """
    file, number = numbered(path)
    kind = suffix(file)
    if kind in (".json", ".view.json"):
        values = read_json(file, "a view or calibration")
        with reading(file, "a view or calibration"):
            if "rtk" in values:
                only_camera(number)  # RTK's projections have numbers of their own
                view = rtk_view(values, file.parent)
            else:
                view = _from_json(values, number)
        return view
    text = read_text(file, "a calibration")
    with reading(file, "a calibration"):
        if kind in (".yml", ".yaml", ".xml"):
            values = storage_xml(text) if kind == ".xml" else _opencv_yaml(text)
            view = _calibrated(camera_of(values, number))
        elif is_mayacam1(text):
            only_camera(number)
            view = mayacam1(text)
        else:
            view = _calibrated(camera_of(_sections(text), number))
    return view


def stated_relationship(path: str | Path) -> str | None:
    """The ``relationship`` that a ``view.json`` states, or None."""
    file, _ = numbered(path)
    if suffix(file) not in (".json", ".view.json"):
        return None
    value = read_json(file, "a view").get("relationship")
    if value is not None and value not in ("LIN", "LOG", "DISP"):
        raise InputError(f"{value!r} is none of LIN, LOG, DISP", file=file, field="relationship")
    return value


def _from_json(values: Mapping[str, Any], number: int | None = None) -> View:
    stated = _stated(values)
    if stated is None:
        return _calibrated(camera_of(values, number))
    only_camera(number)
    return stated


def _stated(values: Mapping[str, Any]) -> View | None:
    """The view or the C-arm that a JSON file states; None of a calibration."""
    if "source" in values or "column_step" in values:
        return View.from_dict(values)
    if "view" in values and isinstance(values["view"], Mapping):
        return View.from_dict(values["view"])
    if values.get("beam", "cone") == "parallel":
        return _parallel(values)
    if "sid" in values or "sod" in values:
        missing = [key for key in (*_CARM, "primary", "secondary") if key not in values]
        if missing:
            raise InputError(f"missing {', '.join(missing)}", field="C-arm", remedy="add it in mm, degrees or pixels")
        rows, columns = (int(n) for n in values["shape"])
        return View.from_carm(
            primary=float(values["primary"]),
            secondary=float(values["secondary"]),
            sid=float(values["sid"]),
            sod=float(values["sod"]),
            pixel_spacing=values["pixel_spacing"],
            shape=(rows, columns),
        )
    return None


def _parallel(values: Mapping[str, Any]) -> View:
    missing = [key for key in ("primary", "secondary", "pixel_spacing", "shape") if key not in values]
    beside = [key for key in ("sid", "sod") if key in values]
    if missing or beside:
        problem = f"missing {', '.join(missing)}" if missing else f"{' and '.join(beside)} of rays without a source"
        raise InputError(problem, field="parallel beam", remedy="give primary, secondary, pixel_spacing and shape")
    rows, columns = (int(n) for n in values["shape"])
    angles = {key: float(values[key]) for key in ("primary", "secondary")}
    return View.from_parallel(**angles, pixel_spacing=values["pixel_spacing"], shape=(rows, columns))


def _calibrated(values: Mapping[str, Any]) -> View:
    found = {name: _lookup(values, keys) for name, keys in _KEYS.items()}
    missing = [name for name in ("K", "R", "t") if found[name] is None]
    if missing:
        raise InputError(
            f"no {', '.join(missing)} found",
            field="calibration",
            remedy="give a view.json (source, origin, column_step, row_step, shape) or a calibration (K, R, t, image size)",
        )
    if found["distortion"] is not None and bool((_numbers(found["distortion"], "distortion") != 0).any()):
        raise InputError(
            "the calibration has lens distortion", field="distortion", remedy="undistort the image and set the coefficients to 0"
        )
    K = _numbers(found["K"], "K", 9).reshape(3, 3)
    if float(K[0, 0]) <= 0 or float(K[1, 1]) <= 0 or bool((K[2] - K.new_tensor([0, 0, 1])).abs().max() > 1e-9):
        raise InputError("not [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with positive fx, fy", field="K")
    R = _rotation(_numbers(found["R"], "R"))
    t = _numbers(found["t"], "t", 3)
    return View.from_opencv(K, R, t, _shape(found))


def _rotation(values: Tensor) -> Tensor:
    if values.numel() == 3:
        return se3.exp(torch.cat([values, values.new_zeros(3)]))[:3, :3]
    if values.numel() != 9:
        raise InputError(f"expected 9 numbers (or a rotation vector of 3), got {values.numel()}", field="R")
    R = values.reshape(3, 3)
    if float((R @ R.T - torch.eye(3, dtype=R.dtype)).abs().max()) > 1e-4 or float(torch.linalg.det(R)) < 0:
        raise InputError("not a rotation (orthonormal, determinant +1)", field="R", remedy="give world-to-camera rotation")
    u, _, vh = torch.linalg.svd(R)  # the file's digits are few: the nearest rotation is what they stand for
    return u @ vh


def _shape(found: Mapping[str, Any]) -> tuple[int, int]:
    if found["shape"] is not None:
        rows, columns = _numbers(found["shape"], "shape", 2).tolist()
    elif found["image size"] is not None:
        columns, rows = _numbers(found["image size"], "image size", 2).tolist()
    elif found["width"] is not None and found["height"] is not None:
        columns, rows = (float(_numbers(found[k], k, 1)) for k in ("width", "height"))
    else:
        raise InputError("missing", field="image size", remedy="state the width and height in pixels the calibration is for")
    return int(rows), int(columns)


def _lookup(values: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    for name, value in values.items():
        if str(name).strip().lower() in keys:
            if isinstance(value, Mapping) and "data" in value:  # OpenCV's matrix: rows, cols, dt, data
                return value["data"]
            return value
    return None


def _numbers(value: Any, field: str, count: int | None = None) -> Tensor:
    try:
        tensor = torch.tensor(value, dtype=torch.float64).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"not numbers ({error})", field=field) from None
    if not bool(torch.isfinite(tensor).all()):
        raise InputError("a number is not finite", field=field)
    if count is not None and tensor.numel() != count:
        raise InputError(f"expected {count} numbers, got {tensor.numel()}", field=field)
    return tensor


def _sections(text: str) -> dict[str, list[float]]:
    """Lines of words name a section, lines of numbers belong to the section above."""
    sections: dict[str, list[float]] = {}
    current: list[float] | None = None
    for line in (raw.strip() for raw in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        if re.match(r"^[A-Za-z_]", line) and not re.match(r"^(nan|inf)\b", line, re.IGNORECASE):
            current = sections.setdefault(line.lower().rstrip(":"), [])
        elif current is None:
            raise InputError(
                "numbers without a section name",
                field=f"line {line[:40]!r}",
                remedy="give a calibration with the sections image size, camera matrix, rotation, translation",
            )
        else:
            current += [float(part) for part in re.split(r"[,\s]+", line) if part]
    return sections


def _opencv_yaml(text: str) -> dict[str, Any]:
    """The matrices and numbers of a FileStorage YAML file: only that much of YAML."""
    values: dict[str, Any] = {}
    number_list = r"\[([^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\]"
    for match in re.finditer(r"^(\w+)\s*:\s*!!opencv-matrix\s*\n((?:[ \t]+.*\n?)+)", text, re.MULTILINE):
        data = re.search(r"data\s*:\s*" + number_list, match[2])
        if data is not None:
            values[match[1]] = _plain_numbers(data[1])
    for match in re.finditer(r"^(\w+)\s*:\s*" + number_list, text, re.MULTILINE):
        values.setdefault(match[1], _plain_numbers(match[2]))
    for match in re.finditer(r"^(\w+)\s*:\s*([-+.\deE]+)\s*$", text, re.MULTILINE):
        values.setdefault(match[1], float(match[2]))
    return values


def _plain_numbers(text: str) -> list[float]:
    return [float(part) for part in re.split(r"[\s,\[\]]+", text) if part]
