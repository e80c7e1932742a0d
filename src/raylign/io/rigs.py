"""Calibrations of rigs of several cameras, as the packages that make them write them.

- MayaCam 1.0 of XrayProject and Autoscoper: five lines of three numbers (``mayacam1``).
- OpenCV's FileStorage as XML (``storage_xml``); a stereo pair in one file, of which ``FILE#1`` and ``FILE#2`` are the cameras.
- RTK's geometry XML, of which a small JSON file names the projection and says how its image is sampled (``rtk_view``).

Formats and what they leave open: ``docs/rigs.md``. ``raylign.io.views`` calls what is here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View
from raylign.geometry.convert import RTKImage, from_rtk, parse_rtk_xml
from raylign.io.files import read_text, reading

_NEAR = 250.0  # mm: no X-ray source is so near to what it looks at; a distance in cm is
_PAIR = {
    "K": ("k{0}", "m{0}", "camera_matrix{0}", "cameramatrix{0}", "camera_matrix_{0}", "intrinsics{0}"),
    "distortion": ("d{0}", "dist{0}", "distortion{0}", "distcoeffs{0}", "dist_coeffs{0}", "distortion_coefficients{0}"),
}
"""Names that a stereo pair's matrices go by, in lower case; ``{0}`` is the camera's number."""


def numbered(path: str | Path) -> tuple[Path, int | None]:
    """``FILE#2`` as file and number; a name that is a file as it stands is none of that.

    Raises
    ------
    InputError: what stands behind # is no number from 1.
    """
    file = Path(path)
    name, hash_, number = file.name.rpartition("#")
    if not hash_ or file.exists():
        return file, None
    if not number.isdigit() or int(number) < 1:
        raise InputError(f"{number!r} is no camera", file=file, field="#", remedy="count them from 1: FILE#1, FILE#2")
    return file.with_name(name), int(number)


class PairError(InputError):
    """A file of two cameras of which none was named."""


def only_camera(number: int | None) -> None:
    """Refuse another camera than the first of a file that holds one.

    Raises
    ------
    InputError: ``number`` is not ``None`` or 1.
    """
    if number not in (None, 1):
        raise InputError(f"there is no camera {number} in it", field="#", remedy="it holds one camera: leave # out")


def mayacam1(text: str) -> View:
    """The view of a MayaCam 1.0 calibration (Autoscoper documentation, "Camera Calibration File Format").

    Line 1 is the camera's place; line 2 its turns about x, y, z in degrees, ``Rz Ry Rx`` from camera to world; line 4 ``u0, v0,
    z``; line 5 ``scale, width, height``. The camera looks along -z with y *up*, and the film lies at ``z`` (negative, in pixels).
    ``u0`` and ``v0`` are MATLAB's, counted from 1, ``v0`` from the lowest row: ``column = u0 - 1 + z X / Z``, ``row = height - v0
    - z Y / Z``. Lines 3 and 5's scale follow from the others and are not used. The length unit is taken as mm.

    Raises
    ------
    InputError: not five lines of three numbers, no image size, a film behind the camera, a distance that looks like centimetres.
    """
    rows = [[part.strip() for part in line.split(",") if part.strip()] for line in text.splitlines() if line.strip()]
    if len(rows) < 5 or any(len(row) != 3 for row in rows[:5]):
        raise InputError(
            "not five lines of three numbers",
            field="MayaCam 1.0",
            remedy="give place, rotation, film, u0,v0,z and scale,width,height",
        )
    try:
        values = torch.tensor([[float(v) for v in row] for row in rows[:5]], dtype=torch.float64)
    except ValueError as error:
        raise InputError(f"not numbers ({error})", field="MayaCam 1.0") from None
    if not bool(torch.isfinite(values).all()):
        raise InputError("a number is not finite", field="MayaCam 1.0")
    place, degrees, _, (u0, v0, z), (_, width, height) = values
    if not (width >= 1 and height >= 1 and float(width).is_integer() and float(height).is_integer()):
        raise InputError(
            f"{float(width):g} x {float(height):g} pixels",
            field="line 5",
            remedy="write the width and height that were calibrated",
        )
    if not z < 0:
        raise InputError(f"z is {float(z):g}, and the film lies before the camera at z < 0", field="line 4")
    if float(place.norm()) < _NEAR:
        raise InputError(
            f"the source lies {float(place.norm()):g} mm from the origin, as one in centimetres does",
            field="line 1",
            remedy="write lines 1 and 3 in mm (times 10)",
        )
    turn = _euler(*(math.radians(float(a)) for a in degrees))
    focal = -float(z)
    k = [[focal, 0.0, float(u0) - 1], [0.0, focal, float(height) - float(v0)], [0.0, 0.0, 1.0]]
    to_camera = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)) @ turn.T  # x right, y down, z forward
    return View.from_opencv(k, to_camera, -to_camera @ place, (int(height), int(width)))


def _euler(x: float, y: float, z: float) -> Float[Tensor, "3 3"]:
    """``Rz Ry Rx``."""

    def about(angle: float, i: int, j: int) -> Tensor:
        m = torch.eye(3, dtype=torch.float64)
        m[i, i] = m[j, j] = math.cos(angle)
        m[j, i], m[i, j] = math.sin(angle), -math.sin(angle)
        return m

    return about(z, 0, 1) @ about(y, 2, 0) @ about(x, 1, 2)


def is_mayacam1(text: str) -> bool:
    """Whether a text is a table of numbers from its first line on."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return bool(re.fullmatch(r"[\s\d.,eE+-]+", first)) and "," in first


def storage_xml(text: str) -> dict[str, Any]:
    """Matrices and numbers of an OpenCV FileStorage XML, by name.

    Raises
    ------
    InputError: not XML, XML with entities, another root than ``<opencv_storage>``.
    """
    if "<!ENTITY" in text:
        raise InputError("XML entities are not accepted", field="calibration")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"not XML ({error})", field="calibration") from None
    if root.tag == "RTKThreeDCircularGeometry":
        raise InputError(
            "RTK's geometry does not say how its images are sampled",
            field="calibration",
            remedy='give a JSON file {"rtk": "geometry.xml", "projection": 1, "size": [columns, rows], "spacing": [u, v]}',
        )
    if root.tag != "opencv_storage":
        raise InputError(f"root element <{root.tag}>", field="calibration", remedy="give a FileStorage of OpenCV")
    values: dict[str, Any] = {}
    for child in root:
        data = child.findtext("data") if child.find("data") is not None else child.text
        try:
            numbers = [float(part) for part in (data or "").split()]
        except ValueError:  # a date, a name
            continue
        if numbers:
            values[child.tag] = numbers[0] if len(numbers) == 1 else numbers
    return values


def camera_of(values: Mapping[str, Any], number: int | None) -> dict[str, Any]:
    """One camera of what a calibration file says, in the names of a single one.

    A stereo pair as ``cv2.stereoCalibrate`` gives it: the world is camera 1's frame, ``x_2 = R x_1 + T``.

    Raises
    ------
    PairError: a pair of which no camera is named.
    InputError: a number that the file has no camera for.
    """
    lower = {str(name).strip().lower(): value for name, value in values.items()}
    pair = {
        n: {name: next((lower[k] for k in (p.format(n) for p in names) if k in lower), None) for name, names in _PAIR.items()}
        for n in (1, 2)
    }
    stereo = all(pair[n]["K"] is not None for n in (1, 2))
    if not stereo:
        only_camera(number)
        return dict(values)
    if number is None:
        raise PairError("it holds two cameras", field="calibration", remedy="name one: FILE#1 or FILE#2")
    if number > 2:
        raise InputError(f"there is no camera {number} in it", field="#", remedy="give FILE#1 or FILE#2")
    shared = {name: value for name, value in lower.items() if name not in ("r", "t", "rotation", "translation", "rvec", "tvec")}
    found = {**shared, "k": pair[number]["K"]}
    if pair[number]["distortion"] is not None:
        found["distortion"] = pair[number]["distortion"]
    if number == 1:
        return {**found, "r": [0.0, 0.0, 0.0], "t": [0.0, 0.0, 0.0]}
    moved = {"r": ("r", "rotation", "rvec"), "t": ("t", "translation", "tvec")}
    for name, names in moved.items():
        value = next((lower[n] for n in names if n in lower), None)
        if value is not None:
            found[name] = value
    return found


def rtk_view(values: Mapping[str, Any], folder: Path) -> View:
    """The view of one projection of RTK's geometry XML.

    ``values``: ``rtk`` (the XML, beside the file that names it or with its whole path), ``projection`` (from 1), ``size``
    (columns, rows), ``spacing`` (u, v) in mm, and ``origin`` (u, v) of the first pixel; without it the image is centred on (0,
    0).

    Raises
    ------
    InputError: something missing, no such projection, what the XML's reader refuses.
    """
    missing = [name for name in ("rtk", "projection", "size", "spacing") if name not in values]
    if missing:
        raise InputError(
            f"missing {', '.join(missing)}", field="RTK view", remedy="RTK's geometry does not say how images are sampled"
        )
    file = folder / str(values["rtk"])
    text = read_text(file, "an RTK geometry")
    with reading(file, "an RTK geometry"):
        projections = parse_rtk_xml(text)
    number = int(values["projection"])
    if not 1 <= number <= len(projections):
        raise InputError(f"{number} of {len(projections)}", field="projection", remedy="count from 1")
    columns, rows = (int(n) for n in values["size"])
    du, dv = (float(n) for n in values["spacing"])
    u, v = (float(n) for n in values.get("origin", (-(columns - 1) / 2 * du, -(rows - 1) / 2 * dv)))
    return from_rtk(projections[number - 1], RTKImage((columns, rows), (du, dv), (u, v)))


def read_rig(path: str | Path) -> tuple[View, ...]:
    """All cameras of a calibration file: two of a stereo pair, one of every other.

    Raises
    ------
    InputError: as ``read_view``.
    """
    from raylign.io.views import read_view

    try:
        return (read_view(path),)
    except PairError:
        pass
    return tuple(read_view(f"{path}#{n}") for n in (1, 2))
