"""A patient who can be exposed: scan, segmentation, surfaces, points, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raylign.data import LabelMap, Landmarks, Mesh, Volume
from raylign.errors import InputError


@dataclass(frozen=True, eq=False)
class Subject:
    """One patient, made or scanned: everything in the same patient LPS millimetres.

    Parameters
    ----------
    volume: the scan in HU (``unit="HU"``).
    labels: which structure each voxel belongs to, on the volume's grid; every label has a name (TotalSegmentator's where it
        names the structure).
    landmarks: points named ``structure/point``.
    meshes: closed surfaces by the name of their structure, outward normals.
    id: whose anatomy this is. Copies that were deformed, resampled or given other intensities keep their parent's.
    person: whose body it belongs to, where several subjects are parts of one: subjects are split into training, validation and
        test by it, and by nothing else. The id where none is given.
    copy: 0 for the original; deformed copies count from 1.
    traits: numbers that describe the patient, by name with the unit at its end (``age_years``, ``height_mm``, ``lv_volume_ml``).

    Raises
    ------
    InputError: a volume that is not in HU, labels on another grid, an empty id, a negative copy.
    """

    volume: Volume
    labels: LabelMap
    landmarks: Landmarks
    meshes: Mapping[str, Mesh] = field(default_factory=dict)
    id: str = "subject"
    copy: int = 0
    traits: Mapping[str, float] = field(default_factory=dict)
    person: str = ""

    def __post_init__(self) -> None:
        if self.volume.unit != "HU":
            raise InputError(f"the volume is in {self.volume.unit}", field="volume", remedy="give a scan in HU")
        same = self.labels.data.shape == self.volume.data.shape and bool(
            (self.labels.affine - self.volume.affine).abs().max() < 1e-6
        )
        if not same:
            raise InputError("the labels lie on another grid than the scan", field="labels", remedy="resample them onto it")
        if not self.id:
            raise InputError("a subject without an id", field="id", remedy="name whose anatomy it is")
        if self.copy < 0:
            raise InputError(f"copy {self.copy}", field="copy", remedy="0 is the original, deformed copies count from 1")
        if not self.person:
            object.__setattr__(self, "person", self.id)
