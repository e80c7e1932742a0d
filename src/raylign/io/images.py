"""CT volumes and X-ray exposures from image files that are no DICOM: what they leave unsaid is asked for, not guessed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import torch

from raylign.data import Volume, XRay
from raylign.data.exposure import Encoding, to_line_integrals
from raylign.data.volume import Unit
from raylign.errors import InputError
from raylign.geometry import View
from raylign.geometry.xa import Overrides, view_from_header
from raylign.io.files import existing_file, reading, suffix
from raylign.io.grids import read_grid
from raylign.io.masks import exposure_mask
from raylign.io.options import ExposureOptions
from raylign.io.pictures import Picture, read_picture
from raylign.io.views import read_view, stated_relationship

_AIR_IS_BELOW = -200.0  # any air, lung or table padding in a scan in HU lies below; no image without HU does
_RAW_REACHES = 300.0
_DEFAULT = ExposureOptions()


def read_volume_image(path: str | Path, unit: Unit | None = None) -> Volume:
    """A volume from NIfTI, NRRD or MetaImage.

    These formats do not say what their numbers are. ``unit=None`` decides by them, and only where they are clear:

    - a value below -200: HU (air is -1000);
    - smallest value 0, whole numbers, largest above 300: "raw", a structure cut out of a scan with nothing around it, or a scan
      whose air is 0 (CT numbers before the offset of -1024);
    - anything else is an error that asks for the unit.

    Parameters
    ----------
    path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.
    unit: "HU", "1/mm" (linear attenuation) or "raw" where it is known; beats the rule.

    Raises
    ------
    InputError: what ``read_grid`` refuses, values that are NaN or infinite, a unit that cannot be told.
    """
    grid = read_grid(path)
    with reading(path, "a volume image"):
        data = torch.from_numpy(np.ascontiguousarray(grid.data, dtype=np.float32))
        volume = Volume(data, grid.affine, unit="raw", meta={**grid.meta, "stored type": str(grid.data.dtype)})
        stated = unit or told_unit(volume)
        volume = Volume(data, grid.affine, stated, meta={**volume.meta, "unit from": "the caller" if unit else "the values"})
    return volume


def told_unit(volume: Volume) -> Unit:
    """The unit that the numbers of a volume tell, by the rule of ``read_volume_image``.

    Raises
    ------
    InputError: they do not tell.
    """
    low, high = float(volume.data.min()), float(volume.data.max())
    if low < _AIR_IS_BELOW:
        return "HU"
    if low == 0 and high > _RAW_REACHES and bool((volume.data == volume.data.round()).all()):
        return "raw"
    raise InputError(
        f"values from {low:g} to {high:g} do not tell whether they are HU",
        field="unit",
        remedy="state it with --unit HU, raw or 1/mm",
    )


def read_xray_image(path: str | Path, options: ExposureOptions = _DEFAULT) -> XRay:
    """One exposure from PNG, TIFF, JPEG, BMP, NRRD, MetaImage or npy.

    Geometry: ``options.view`` (a view, a ``view.json`` or a calibration); or the C-arm's numbers in the options; or a file
    ``NAME.view.json`` beside ``NAME.png``.

    Values: ``options.relationship``, or the ``relationship`` in the ``view.json``. Where neither says it, whole numbers are
    display values ("DISP": only their order counts) and floating-point numbers are refused. Bright is taken for little
    attenuation, as on a fluoroscope, except for line integrals ("LOG"), which grow with it; ``options.bright`` beats that, and a
    radiograph with bright bone needs it. ``meta["bright"]`` tells what was taken, and whether anyone said so.

    Raises
    ------
    InputError: unreadable, coloured, blank, no geometry, a geometry of another size, a meaning that must be stated.
    """
    file = existing_file(path)
    picture = read_picture(file, options.frame)
    with reading(file, "an X-ray"):
        shape = (int(picture.values.shape[0]), int(picture.values.shape[1]))
        view, source = _view(file, shape, options)
        if view.shape != shape:
            raise InputError(
                f"the image has {shape[0]} x {shape[1]} pixels, its geometry {view.shape[0]} x {view.shape[1]}",
                field=str(source),
                remedy="give the geometry of this image, at its size",
            )
        relationship = options.relationship or (None if isinstance(source, str) else stated_relationship(source))
        encoding, said = _encoding(picture, relationship, options)
        values = torch.from_numpy(np.array(picture.values, np.float32))
        mask = exposure_mask(values, encoding, options.mask)
        image, scale = to_line_integrals(values, encoding, mask)
        meta = {
            "format": suffix(file)[1:].upper(),
            "frames": picture.frames,
            "relationship": encoding.relationship,
            "relationship stated": relationship is not None,
            "sign": encoding.sign,
            "bright": "air" if encoding.sign > 0 else "bone",
            "bright stated": said,
            "geometry from": str(source),
        }
        xray = XRay(image, view, mask, scale, name=file.name, meta=meta)
    return xray


def sidecar(path: str | Path) -> Path | None:
    """The ``NAME.view.json`` beside ``NAME.png`` (or ``NAME.png.view.json``), where there is one."""
    file = Path(path)
    for name in (f"{file.stem}.view.json", f"{file.name}.view.json"):
        if (file.parent / name).is_file():
            return file.parent / name
    return None


def _view(file: Path, shape: tuple[int, int], options: ExposureOptions) -> tuple[View, Path | Literal["--view", "C-arm"]]:
    """The geometry, and where it is from."""
    o = options
    numbers = Overrides(o.sid, o.sod, o.primary, o.secondary, o.pixel_spacing, o.patient_position)
    stated = numbers != Overrides()
    if o.view is not None and stated:
        raise InputError("a view and C-arm numbers are both given", field="--view", remedy="give one of them")
    if isinstance(o.view, View):
        return o.view, "--view"
    if o.view is not None:
        return read_view(o.view), Path(o.view)
    if stated:
        header = SimpleNamespace(Rows=shape[0], Columns=shape[1])
        return view_from_header(header, 0, numbers), "C-arm"
    beside = sidecar(file)
    if beside is None:
        raise InputError(
            "a picture says nothing about the C-arm's geometry",
            field="view",
            remedy=f"give --view (view.json or an OpenCV calibration), or put {file.stem}.view.json beside it",
        )
    return read_view(beside), beside


def _encoding(picture: Picture, relationship: str | None, options: ExposureOptions) -> tuple[Encoding, bool]:
    """What the values stand for, and whether anyone said what bright pixels show."""
    if relationship is None and picture.values.dtype.kind == "f" and picture.top is None:
        raise InputError(
            "floating-point values do not tell whether they are counts or line integrals",
            field="relationship",
            remedy="state it with --relationship LIN, LOG or DISP, or in the view.json",
        )
    meaning: Literal["LIN", "LOG", "DISP"] = relationship or "DISP"  # type: ignore[assignment]
    if options.bright not in (None, "air", "bone"):
        raise InputError(f"{options.bright!r} is neither air nor bone", field="bright", remedy="say what bright pixels show")
    sign = {"air": 1, "bone": -1, None: -1 if meaning == "LOG" else 1}[options.bright]
    return Encoding(meaning, sign, picture.top), options.bright is not None or meaning != "DISP"
