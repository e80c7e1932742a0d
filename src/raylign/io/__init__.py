"""Files to data and back; nothing else in raylign touches a file format.

Readers load what they need when they are called, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.io.options import ExposureOptions

if TYPE_CHECKING:
    from raylign.data import Volume, XRay
    from raylign.data.volume import Unit

_DEFAULT = ExposureOptions()
_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
_PICTURES = (".png", ".tif", ".tiff", ".nrrd", ".nhdr", ".mha", ".mhd", ".npy", ".jpg", ".jpeg", ".bmp")
_WHERE = {
    "read_labels": "raylign.io.labels",
    "read_mesh": "raylign.io.meshes",
    "read_landmarks": "raylign.io.landmarks",
    "read_pose": "raylign.io.transforms",
    "read_view": "raylign.io.views",
    "list_series": "raylign.io.dicom",
}

__all__ = ["ExposureOptions", "read_volume", "read_xray", *_WHERE]


def _is(path: str | Path, suffixes: tuple[str, ...]) -> bool:
    return str(path).lower().endswith(suffixes) and not Path(path).is_dir()


def read_volume(path: str | Path, *, series: str | None = None, unit: Unit | None = None) -> Volume:
    """A CT (or other) volume from a DICOM folder or file, NIfTI, NRRD or MetaImage.

    Parameters
    ----------
    path: folder of DICOM slices, one of its files, a multi-frame DICOM file, or .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd.
    series: SeriesInstanceUID (0020,000E) to choose where a DICOM folder holds several volumes.
    unit: "HU", "raw" or "1/mm" where the file is no DICOM, which is always HU; ``None`` takes what its values clearly tell.

    Returns
    -------
    [D, H, W] float32 with its affine to patient LPS mm.

    Raises
    ------
    InputError: one line naming file, field, what is wrong and how to mend it.
    """
    if _is(path, _VOLUMES):
        from raylign.io.images import read_volume_image

        return read_volume_image(path, unit)
    from raylign.io.dicom import read_ct

    return read_ct(path, series=series)


def read_xray(path: str | Path, options: ExposureOptions = _DEFAULT) -> XRay:
    """One X-ray exposure from DICOM (XA, RF, DX, CR, Enhanced XA/XRF), or from a picture with its geometry beside it.

    Parameters
    ----------
    path: a DICOM file; .png, .tif, .nrrd, .mha, .npy, ... (then ``options.view`` or a ``view.json`` gives the geometry); or an
        xReg projection file (.h5).
    options: frame, geometry, mask and overrides of what the file says.

    Returns
    -------
    image (larger is more attenuation), view, validity mask.

    Raises
    ------
    InputError: one line naming file, field, what is wrong and how to mend it.
    """
    if _is(path, _PICTURES):
        from raylign.io.images import read_xray_image

        return read_xray_image(path, options)
    if _is(path, (".h5", ".hdf5")):
        from raylign.io.hdf5 import read_xray_hdf5

        return read_xray_hdf5(path, options)
    from raylign.io.xray_dicom import read_xray_dicom

    return read_xray_dicom(path, options)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'raylign.io' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
