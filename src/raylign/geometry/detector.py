"""Where on a stored image the isocentre falls, and how the stored image was turned on its way from the detector.

Sources: DICOM PS3.3 C.8.11.4.1.1 (field of view), C.8.19.5 (X-ray detector), PS3.17 FFF.2.1.5.2.
"""

from __future__ import annotations

from torch import Tensor

from raylign.errors import InputError
from raylign.geometry.header import Header


def _turns(header: Header) -> tuple[int, bool]:
    """(clockwise quarter turns, then flipped left to right) from FieldOfViewRotation and FieldOfViewHorizontalFlip."""
    rotation = header.number("FieldOfViewRotation") or 0.0
    if rotation % 90:
        raise InputError(
            f"{rotation:g} degrees is no quarter turn",
            field=header.label("FieldOfViewRotation"),
            remedy="give the geometry with --view",
        )
    flip = header.text("FieldOfViewHorizontalFlip").upper()
    if flip not in ("", "NO", "N", "YES", "Y"):
        raise InputError(f"{flip!r} is neither YES nor NO", field=header.label("FieldOfViewHorizontalFlip"), remedy="correct it")
    return int(rotation // 90) % 4, flip.startswith("Y")


def turned(header: Header, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Directions of the stored image's columns and rows, from those of the detector's."""
    quarters, flip = _turns(header)
    for _ in range(quarters):  # a clockwise quarter turn: what pointed up points right, what pointed right points down
        u, v = -v, u
    return (-u if flip else u), v


def isocentre_pixel(header: Header, shape: tuple[int, int], spacing: tuple[float, float]) -> tuple[float, float]:
    """(row, column) of the stored image onto which the isocentre projects.

    From PositionOfIsocenterProjection (0018,9430) where it is given, else from the middle of the detector where its size is
    known, else the middle of the stored image, which is what the XA class assumes.

    Parameters
    ----------
    shape: (rows, columns) of the stored image.
    spacing: (row, column) pitch of the stored image at the detector, mm.

    Raises
    ------
    InputError: values that are no positions or no positive lengths.
    """
    rows, columns = shape
    middle = (rows - 1) / 2, (columns - 1) / 2
    origin, element = header.numbers("FieldOfViewOrigin", 2), header.numbers("DetectorElementSpacing", 2)
    if origin is None or element is None:
        return middle
    if min(element) <= 0:
        raise InputError(
            f"{element} mm is not a positive pitch",
            field=header.label("DetectorElementSpacing"),
            remedy="correct it, or give --view",
        )
    point = header.numbers("PositionOfIsocenterProjection", 2) or _detector_middle(header, element)
    if point is None:
        return middle
    quarters, flip = _turns(header)
    pitch = spacing if quarters % 2 == 0 else spacing[::-1]
    binning = [p / e for p, e in zip(pitch, element, strict=True)]
    # Both are counted in detector elements: the point from the first element's centre, the origin from its corner.
    row, column = ((x - o + 0.5) / b - 0.5 for x, o, b in zip(point, origin, binning, strict=True))
    h, w = (rows, columns) if quarters % 2 == 0 else (columns, rows)
    for _ in range(quarters):
        row, column, h, w = column, h - 1 - row, w, h
    return row, (w - 1 - column if flip else column)


def _detector_middle(header: Header, element: list[float]) -> list[float] | None:
    """Middle of the detector in elements from the first one's centre, or ``None`` where its size is not stated."""
    size = header.numbers("PhysicalDetectorSize", 2)
    start = [0.0, 0.0]
    if size is None:
        size, start = header.numbers("DetectorActiveDimensions", 2), header.numbers("DetectorActiveOrigin", 2) or start
    if size is None:
        return None
    return [s + length / e / 2 - 0.5 for s, length, e in zip(start, size, element, strict=True)]
