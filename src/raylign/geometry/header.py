"""Values of a DICOM X-ray header by keyword, wherever an image keeps them.

A dataset is anything with DICOM keywords as attributes; nothing here imports pydicom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from raylign.errors import InputError

# keyword: (tag, functional group of Enhanced XA/XRF that holds it; PS3.3 C.8.19.6)
_TAGS: dict[str, tuple[str, str]] = {
    "Rows": ("0028,0010", ""),
    "NumberOfFrames": ("0028,0008", ""),
    "PatientPosition": ("0018,5100", ""),
    "PatientOrientation": ("0020,0020", "PatientOrientationInFrameSequence"),
    "DistanceSourceToDetector": ("0018,1110", "XRayGeometrySequence"),
    "DistanceSourceToPatient": ("0018,1111", "XRayGeometrySequence"),
    "DistanceSourceToIsocenter": ("0018,9402", "XRayGeometrySequence"),
    "EstimatedRadiographicMagnificationFactor": ("0018,1114", "XRayGeometrySequence"),
    "ImagerPixelSpacing": ("0018,1164", "FramePixelDataPropertiesSequence"),
    "PixelSpacing": ("0028,0030", "PixelMeasuresSequence"),
    "PixelSpacingCalibrationType": ("0028,0A02", ""),
    "PixelIntensityRelationship": ("0028,1040", "FramePixelDataPropertiesSequence"),
    "PixelIntensityRelationshipSign": ("0028,1041", "FramePixelDataPropertiesSequence"),
    "PositionerMotion": ("0018,1500", ""),
    "PositionerPrimaryAngle": ("0018,1510", "PositionerPositionSequence"),
    "PositionerSecondaryAngle": ("0018,1511", "PositionerPositionSequence"),
    "PositionerPrimaryAngleIncrement": ("0018,1520", ""),
    "PositionerSecondaryAngleIncrement": ("0018,1521", ""),
    "PositionerIsocenterPrimaryAngle": ("0018,9463", "IsocenterReferenceSystemSequence"),
    "PositionerIsocenterSecondaryAngle": ("0018,9464", "IsocenterReferenceSystemSequence"),
    "PositionerIsocenterDetectorRotationAngle": ("0018,9465", "IsocenterReferenceSystemSequence"),
    "TableHorizontalRotationAngle": ("0018,9469", "IsocenterReferenceSystemSequence"),
    "TableHeadTiltAngle": ("0018,9470", "IsocenterReferenceSystemSequence"),
    "TableCradleTiltAngle": ("0018,9471", "IsocenterReferenceSystemSequence"),
    "DetectorElementSpacing": ("0018,7022", ""),
    "DetectorActiveDimensions": ("0018,7026", ""),
    "DetectorActiveOrigin": ("0018,7028", ""),
    "PhysicalDetectorSize": ("0018,9429", ""),
    "PositionOfIsocenterProjection": ("0018,9430", ""),
    "FieldOfViewOrigin": ("0018,7030", "FieldOfViewSequence"),
    "FieldOfViewRotation": ("0018,7032", "FieldOfViewSequence"),
    "FieldOfViewHorizontalFlip": ("0018,7034", "FieldOfViewSequence"),
}


class Header:
    """One frame's header: an attribute is looked for in the frame's functional groups, the shared ones, then at the top.

    Parameters
    ----------
    dataset: attributes by DICOM keyword.
    frame: which frame, from 0.
    """

    def __init__(self, dataset: Any, frame: int = 0) -> None:
        self.dataset, self.frame = dataset, frame
        own = list(getattr(dataset, "PerFrameFunctionalGroupsSequence", None) or [])
        self.per_frame = bool(own)
        if own and not 0 <= frame < len(own):
            raise InputError(
                f"frame {frame}, but there are functional groups of {len(own)}",
                field="PerFrameFunctionalGroupsSequence (5200,9230)",
                remedy="choose another --frame, or export the file again",
            )
        self._groups = [*own[frame : frame + 1], *(getattr(dataset, "SharedFunctionalGroupsSequence", None) or [])]

    def _places(self, keyword: str) -> Iterator[Any]:
        sequence = _TAGS.get(keyword, ("", ""))[1]
        if sequence:
            for group in self._groups:
                yield from getattr(group, sequence, None) or []
            yield from getattr(self.dataset, sequence, None) or []
        yield self.dataset

    def raw(self, keyword: str) -> Any:
        """The value as the dataset gives it, ``None`` where it is absent or empty."""
        for place in self._places(keyword):
            value = getattr(place, keyword, None)
            if value is not None and value != "" and not (hasattr(value, "__len__") and len(value) == 0):
                return value
        return None

    @staticmethod
    def label(keyword: str) -> str:
        """``"PixelSpacing (0028,0030)"``; the keyword alone where it is none of DICOM's."""
        tag = _TAGS.get(keyword, ("", ""))[0]
        return f"{keyword} ({tag})" if tag else keyword

    def numbers(self, keyword: str, count: int | None = None) -> list[float] | None:
        """Finite numbers, or ``None`` where the element is absent.

        Raises
        ------
        InputError: not numbers, or not ``count`` of them.
        """
        value = self.raw(keyword)
        if value is None:
            return None
        many = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
        try:
            found = [float(x) for x in many]
        except (TypeError, ValueError):
            found = [math.nan]
        if not all(math.isfinite(x) for x in found):
            raise InputError(f"{value!r} is not a finite number", field=self.label(keyword), remedy="correct the header")
        if count is not None and len(found) != count:
            raise InputError(
                f"has {len(found)} values where {count} belong", field=self.label(keyword), remedy="correct the header"
            )
        return found

    def number(self, keyword: str) -> float | None:
        """One finite number, or ``None`` where the element is absent."""
        found = self.numbers(keyword, 1)
        return None if found is None else found[0]

    def texts(self, keyword: str) -> list[str]:
        """The element's values as text; empty where absent."""
        value = self.raw(keyword)
        if value is None:
            return []
        if isinstance(value, str):
            return value.split("\\")
        return [str(x) for x in value] if hasattr(value, "__iter__") else [str(value)]

    def text(self, keyword: str) -> str:
        """The element's first value as stripped text; empty where absent."""
        return next((t.strip() for t in self.texts(keyword)), "")
