"""Voxel grids from NIfTI, NRRD and MetaImage files: numbers and where they lie, nothing about what they mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.io import nifti
from raylign.io.files import existing_file, reading, silent, suffix

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr", ".seg.nrrd")
META = (".mha", ".mhd")
FORMATS = (*NIFTI, *NRRD, *META)
_ANATOMICAL = {
    "left-posterior-superior",
    "lps",
    "right-anterior-superior",
    "ras",
    "left-anterior-superior",
    "las",
    "left-posterior-superior-time",
    "right-anterior-superior-time",
    "left-anterior-superior-time",
}


@dataclass(frozen=True, eq=False)
class Grid:
    """[D, H, W] numbers of the file's own type, voxel-to-LPS affine (float64), and the file's key-value pairs."""

    data: np.ndarray
    affine: Float[Tensor, "4 4"]
    meta: dict[str, Any]


def read_grid(path: str | Path) -> Grid:
    """The one scalar 3D image in a file.

    Raises
    ------
    InputError: unreadable, no three axes, several components or time points, spacing zero or missing, orientation missing.
    """
    file = existing_file(path)
    kind = suffix(file)
    if kind not in FORMATS:
        raise InputError(f"{kind or 'no suffix'!r} is no volume format", file=file, remedy=f"give one of {', '.join(FORMATS)}")
    if kind in NIFTI:
        with reading(file, "a NIfTI image"):
            data, affine = nifti.read(file)
        return Grid(data, affine, {})
    with reading(file, "a volume image"):
        _check_header(file, kind)
        image = itk_image(file)
        components = image.GetNumberOfComponentsPerPixel()
        if components != 1:
            raise InputError(f"{components} numbers per voxel", file=file, remedy="give a scalar image, one number per voxel")
        size = image.GetSize()
        if len(size) < 3 or any(n != 1 for n in size[3:]):
            what = "a time series" if len(size) > 3 else "a 2D image"
            raise InputError(f"{what} of size {' x '.join(map(str, size))}", file=file, remedy="give a single 3D volume")
        data = _array(image)
        data = data.reshape(data.shape[-3:])
    return Grid(data, itk_affine(image), {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()})


def itk_image(path: str | Path) -> Any:
    """``sitk.ReadImage`` without ITK's chatter on stderr."""
    import SimpleITK as sitk

    if suffix(path) in META:
        _check_meta(Path(path))
    with silent():
        return sitk.ReadImage(str(path))


def itk_size(path: str | Path) -> tuple[int, ...]:
    """The size of an image by its header alone, columns first."""
    import SimpleITK as sitk

    if suffix(path) in META:
        _check_meta(Path(path))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with silent():
        reader.ReadImageInformation()
    return tuple(int(n) for n in reader.GetSize())


def itk_affine(image: Any) -> Float[Tensor, "4 4"]:
    """Voxel index to LPS mm of a SimpleITK image (its first three axes)."""
    n = image.GetDimension()
    direction = torch.tensor(image.GetDirection(), dtype=torch.float64).reshape(n, n)[:3, :3]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = direction * torch.tensor(image.GetSpacing()[:3], dtype=torch.float64)
    matrix[:3, 3] = torch.tensor(image.GetOrigin()[:3], dtype=torch.float64)
    return matrix


def _array(image: Any) -> np.ndarray:
    import SimpleITK as sitk

    data = sitk.GetArrayFromImage(image)
    if data.dtype.kind == "c":
        raise InputError("complex numbers", remedy="give a real-valued image")
    return data


def _check_header(file: Path, kind: str) -> None:
    """Refuse NRRD and MetaImage files that leave out what ITK would fill in with ones."""
    header = _text_header(file, kind)
    if kind in NRRD:
        space = header.get("space", "").lower()
        if space not in _ANATOMICAL:
            raise InputError(
                f"the space is {space!r}" if space else "no anatomical space is stated",
                file=file,
                field="space",
                remedy="state left-posterior-superior (or RAS) with space directions",
            )
        if "space directions" not in header:
            raise InputError("missing", file=file, field="space directions", remedy="state the voxel axes in mm")
        axes = re.findall(r"\(([^)]*)\)", header["space directions"])
        pitch = [float(np.linalg.norm([float(x) for x in axis.split(",")])) for axis in axes]
    else:
        if "elementspacing" not in header:
            raise InputError("missing", file=file, field="ElementSpacing", remedy="state the voxel size in mm")
        if not {"transformmatrix", "rotation", "orientation"} & set(header):
            raise InputError("missing", file=file, field="TransformMatrix", remedy="state the voxel axes in LPS")
        pitch = [float(x) for x in header["elementspacing"].split()]
    if not pitch or not all(np.isfinite(pitch)) or min(pitch) <= 0:
        raise InputError(
            f"the voxel size is {' x '.join(f'{p:g}' for p in pitch)} mm", file=file, field="spacing", remedy="set it in mm"
        )


def _check_meta(file: Path) -> None:
    """Refuse a MetaImage header whose numbers do not fit together: ITK's reader crashes on some, and takes Python with it."""
    header = _text_header(file, ".mha")

    def numbers(key: str) -> list[float]:
        try:
            return [float(x) for x in header[key.lower()].split()]
        except (KeyError, ValueError):
            what = "missing" if key.lower() not in header else f"{header[key.lower()][:40]!r} are not numbers"
            raise InputError(what, file=file, field=key, remedy="check that the file is whole and of that format") from None

    dimensions = numbers("NDims")
    if len(dimensions) != 1 or dimensions[0] not in (2, 3, 4):
        raise InputError(f"{header['ndims'][:40]!r} axes", file=file, field="NDims", remedy="give a single 2D or 3D image")
    n = int(dimensions[0])
    counts = {"DimSize": n, "ElementSpacing": n, "Offset": n, "Position": n, "Origin": n, "CenterOfRotation": n}
    counts |= {"TransformMatrix": n * n, "Rotation": n * n, "Orientation": n * n, "ElementNumberOfChannels": 1}
    for key, count in counts.items():
        if (key == "DimSize" or key.lower() in header) and len(found := numbers(key)) != count:
            raise InputError(f"{len(found)} numbers for {n} axes", file=file, field=key, remedy="check that the file is whole")
    size = numbers("DimSize")
    if not all(1 <= x <= 1 << 20 and x == int(x) for x in size) or np.prod(size) > 1 << 33:
        raise InputError(f"a size of {header['dimsize'][:60]}", file=file, field="DimSize", remedy="check that the file is whole")
    if not 1 <= (numbers("ElementNumberOfChannels")[0] if "elementnumberofchannels" in header else 1) <= 16:
        raise InputError("not 1 to 16", file=file, field="ElementNumberOfChannels", remedy="give a scalar image")
    if not re.fullmatch(r"MET_[A-Z0-9_]+", header.get("elementtype", "")):
        raise InputError("missing or unknown", file=file, field="ElementType", remedy="check that the file is whole")


def _text_header(file: Path, kind: str) -> dict[str, str]:
    with file.open("rb") as stream:
        head = stream.read(1 << 20)
    if kind in NRRD:
        if not head.startswith(b"NRRD"):
            raise InputError("the file does not start with NRRD", file=file, remedy="check that the file is whole")
        ends = [head.find(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in head]
        pairs = re.findall(r"^([^:#\n]+):=?([^\n]*)$", head[: min(ends, default=len(head))].decode("latin-1"), re.MULTILINE)
    else:
        end = head.find(b"ElementDataFile")
        if end < 0:
            raise InputError("no MetaImage header", file=file, field="ElementDataFile", remedy="check that the file is whole")
        pairs = re.findall(r"^\s*(\w+)\s*=([^\n]*)$", head[:end].decode("latin-1"), re.MULTILINE)
    return {key.strip().lower(): value.strip() for key, value in pairs}
