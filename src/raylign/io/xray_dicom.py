"""One exposure from DICOM: XA, RF, DX, CR, and Enhanced XA and XRF.

Sources: DICOM PS3.3 C.8.7.1 (X-ray image), C.8.11.3 (DX image), C.8.1.2 (CR image), C.8.19.6 (Enhanced XA functional groups),
C.11.1 (modality LUT), C.7.6.3.1.2 (photometric interpretation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import XRay
from raylign.data.exposure import Encoding, to_line_integrals
from raylign.errors import InputError
from raylign.geometry import View
from raylign.geometry.header import Header
from raylign.geometry.xa import Overrides, view_from_header
from raylign.io import dicomfile as df
from raylign.io.masks import exposure_mask
from raylign.io.options import ExposureOptions

_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.12.1": "XA",
    "1.2.840.10008.5.1.4.1.1.12.2": "RF",
    "1.2.840.10008.5.1.4.1.1.12.1.1": "Enhanced XA",
    "1.2.840.10008.5.1.4.1.1.12.2.1": "Enhanced XRF",
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX for processing",
}
_DEFAULT = ExposureOptions()


def read_xray_dicom(path: str | Path, options: ExposureOptions = _DEFAULT) -> XRay:
    """One frame of a DICOM X-ray file as attenuation, with its geometry and its validity mask.

    Parameters
    ----------
    path: the file.
    options: frame, mask, and what beats the header: ``view`` the whole geometry, the others one number each.

    Raises
    ------
    InputError: not an X-ray, no pixels, all black, compressed beyond the handlers, geometry missing or contradictory.
    """
    path = Path(path)
    with df.guarded(path):
        return exposure_of(df.read(path), options, path.name)


def exposure_of(dataset: Any, options: ExposureOptions, name: str) -> XRay:
    """One frame of a dataset (anything with DICOM keywords as attributes) as ``read_xray_dicom`` gives it."""
    kind = _kind(dataset)
    shape, count = df.frame_shape(dataset), df.frame_count(dataset)
    if not getattr(dataset, "PixelData", None):
        raise InputError("the X-ray has no pixels", field=df.label("PixelData"), remedy="export the image, not only its header")
    frame = options.frame
    if not 0 <= frame < count:
        raise InputError(f"there is no frame {frame}", field="--frame", remedy=f"frames count from 0 to {count - 1}")
    header = Header(dataset, frame)
    view = _view(dataset, options, shape)
    encoding, values = _values(dataset, header, kind, options)
    mask = exposure_mask(values, encoding, options.mask)
    image, scale = to_line_integrals(values, encoding, mask)
    return XRay(image, view, mask, scale, name=name, meta=_meta(dataset, kind, count, encoding))


def _kind(dataset: Any) -> str:
    sop = df.text(dataset, "SOPClassUID")
    kind = _CLASSES.get(sop)
    if kind is None:
        modality = df.text(dataset, "Modality")
        if modality in ("XA", "RF", "DX", "CR"):  # secondary captures and private classes that still say what they are
            return modality
        raise InputError(
            f"not an X-ray exposure (modality {modality or 'unknown'})",
            field=df.label("SOPClassUID"),
            remedy="give an XA, RF, DX or CR image",
        )
    return kind


def _view(dataset: Any, options: ExposureOptions, shape: tuple[int, int]) -> View:
    if options.view is None:
        given = Overrides(
            options.sid, options.sod, options.primary, options.secondary, options.pixel_spacing, options.patient_position
        )
        return view_from_header(dataset, options.frame, given)
    if isinstance(options.view, View):
        view = options.view
    else:
        from raylign.io.views import read_view

        view = read_view(options.view)
    if view.shape != shape:
        raise InputError(
            f"a view of {view.shape[0]} x {view.shape[1]} pixels for an image of {shape[0]} x {shape[1]}",
            field="--view",
            remedy="give the view of this image, at its size",
        )
    return view


def _values(dataset: Any, header: Header, kind: str, options: ExposureOptions) -> tuple[Encoding, Float[Tensor, "H W"]]:
    """What the values stand for, and the values after the modality rescale or LUT."""
    stored = df.stored_values(dataset, options.frame)
    bits = df.whole_number(dataset, "BitsStored", df.whole_number(dataset, "BitsAllocated"))
    signed = df.whole_number(dataset, "PixelRepresentation", 0) == 1
    top = float(2 ** (bits - 1) - 1 if signed else 2**bits - 1)
    relationship = _relationship(header, kind, options)
    sign = _sign(header, dataset, kind)
    table = _modality_table(dataset)
    if table is not None:
        values, top = table(stored), float(table.largest)
        # PS3.3 C.8.7.1.1.2: the table of a logarithmic X-ray leads back to linear intensities
        if relationship == "LOG" and options.relationship is None:
            relationship = "LIN"
    else:
        values = np.asarray(stored, np.float32)
        slope = (df.numbers(dataset, "RescaleSlope", 1) or [1.0])[0]
        intercept = (df.numbers(dataset, "RescaleIntercept", 1) or [0.0])[0]
        if slope == 0:
            raise InputError("a slope of zero leaves no image", field=df.label("RescaleSlope"), remedy="export the file again")
        if (slope, intercept) != (1.0, 0.0):
            values = values * np.float32(slope) + np.float32(intercept)
            top = top * slope + intercept
            if slope < 0:
                sign, values, top = -sign, -values + np.float32(top), 0.0
                top = float(values.max())
    return Encoding(relationship, sign, top), torch.from_numpy(np.array(values, np.float32))


class _Table:
    """Modality LUT (0028,3000): stored value to output, held at its ends."""

    def __init__(self, first: int, values: np.ndarray) -> None:
        self.first, self.values = first, values
        self.largest = float(values.max())

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        index = np.clip(stored.astype(np.int64) - self.first, 0, self.values.size - 1)
        return self.values[index]


def _modality_table(dataset: Any) -> _Table | None:
    items = getattr(dataset, "ModalityLUTSequence", None)
    if not items:
        return None
    item = items[0]
    described, data = getattr(item, "LUTDescriptor", None), getattr(item, "LUTData", None)
    if described is None or len(described) != 3 or data is None:
        raise InputError("incomplete", field=df.label("ModalityLUTSequence"), remedy="export the file again")
    entries = int(described[0]) or 65536
    values = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.atleast_1d(np.asarray(data))
    if values.size < entries:
        raise InputError(f"{values.size} entries for {entries}", field=df.label("LUTData"), remedy="export the file again")
    return _Table(int(described[1]), values[:entries].astype(np.float32))


def _relationship(header: Header, kind: str, options: ExposureOptions) -> Any:
    if options.relationship is not None:
        return options.relationship
    said = header.text("PixelIntensityRelationship").upper()
    if said in ("LIN", "LOG", "DISP"):
        return said
    if not said and kind != "CR":
        raise InputError(
            "missing: it says whether pixels are counts or logarithms",
            field=header.label("PixelIntensityRelationship"),
            remedy="say --relationship LIN, LOG or DISP",
        )
    # CR has no such element, and a value of a maker's own says nothing to others: such pixels merely grow or fall
    return "DISP"


def _sign(header: Header, dataset: Any, kind: str) -> int:
    """+1 where a larger stored value is more intensity.

    DX, Enhanced XA and XRF state it (0028,1041). XA, RF and CR have no such element; there the display tells: fluoroscopy is
    shown with bone dark, radiographs with bone bright, and MONOCHROME1 is shown inverted.
    """
    photometric = df.text(dataset, "PhotometricInterpretation").upper()
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(
            f"{photometric or 'nothing'} is no grey image",
            field=df.label("PhotometricInterpretation"),
            remedy="export the grey image (MONOCHROME1 or MONOCHROME2)",
        )
    inverted = photometric == "MONOCHROME1"
    stated = header.number("PixelIntensityRelationshipSign")
    if stated is not None and stated not in (1.0, -1.0):
        raise InputError(
            f"{stated:g} is neither 1 nor -1", field=header.label("PixelIntensityRelationshipSign"), remedy="correct the header"
        )
    if kind in ("XA", "RF"):
        return -1 if inverted else int(stated or 1)
    if stated is not None:
        return int(stated)
    bone_dark = kind.startswith("Enhanced")
    return 1 if bone_dark != inverted else -1


def _meta(dataset: Any, kind: str, frames: int, encoding: Encoding) -> dict[str, Any]:
    keys = (
        *("PatientPosition", "PatientOrientation", "DistanceSourceToDetector", "DistanceSourceToPatient"),
        *("PositionerPrimaryAngle", "PositionerSecondaryAngle", "ImagerPixelSpacing", "PixelSpacing", "Manufacturer"),
        *("KVP", "StudyDate", "BodyPartExamined", "PhotometricInterpretation", "BitsStored"),
    )
    said = {key: df.text(dataset, key) for key in keys}
    return {
        "format": f"DICOM {kind}",
        "frames": frames,
        "relationship": encoding.relationship,
        "sign": encoding.sign,
        **{key: value for key, value in said.items() if value},
    }
