"""What a parametric anatomy hands back."""

from __future__ import annotations

from dataclasses import dataclass

from raylign.data import LabelMap, Landmarks, Volume


@dataclass(frozen=True, eq=False)
class Phantom:
    """A made patient: scan, segmentation and named points, all in the same patient LPS millimetres.

    Parameters
    ----------
    volume: the scan in HU (``unit="HU"``).
    labels: which structure each voxel belongs to, on the volume's grid; every label has a name.
    landmarks: points named ``structure/point``; each lies inside the label called ``structure``.
    """

    volume: Volume
    labels: LabelMap
    landmarks: Landmarks
