"""NIfTI-1 and NIfTI-2 images, single file, plain or gzipped.

Read here and not by ITK, which for this format fills what a broken-off file lacks with zeros, turns NaN into zero, takes a voxel
size of zero for one and, asked to be permissive, a sheared orientation for a near one: all without a word.

Source: NIfTI-1.1 (nifti1.h) and NIfTI-2 (nifti2.h), in particular "3D IMAGE (VOLUME) ORIENTATION AND LOCATION IN SPACE".
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError

_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown (as good as always mm), metre, mm, micrometre
_RAS_TO_LPS = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))


_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}


@dataclass(frozen=True)
class _Layout:
    """Where the fields stand: byte offset and struct format."""

    dim: tuple[int, str]
    datatype: tuple[int, str]
    vox_offset: tuple[int, str]
    scale: tuple[int, str]
    pixdim: tuple[int, str]
    codes: tuple[int, str]
    quaternion: tuple[int, str]
    rows: tuple[int, str]
    units: tuple[int, str]


_ONE = _Layout((40, "8h"), (70, "h"), (108, "f"), (112, "2f"), (76, "8f"), (252, "2h"), (256, "6f"), (280, "12f"), (123, "B"))
_TWO = _Layout((16, "8q"), (12, "h"), (168, "q"), (176, "2d"), (104, "8d"), (344, "2i"), (352, "6d"), (400, "12d"), (500, "i"))


@dataclass(frozen=True)
class _Header:
    """The raw header, its byte order and its layout."""

    raw: bytes
    order: str
    layout: _Layout

    def get(self, at: tuple[int, str]) -> tuple[float, ...]:
        return struct.unpack_from(self.order + at[1], self.raw, at[0])


def read(path: str | Path) -> tuple[np.ndarray, Float[Tensor, "4 4"]]:
    """[D, H, W] values (in the stored type unless the header scales them) and the voxel-to-LPS affine.

    Raises
    ------
    InputError: not NIfTI, not one scalar 3D image, broken off, or what ``affine`` refuses.
    """
    file = Path(path)
    content = _content(file)
    header = _parse(content, file)
    n, *sizes = (int(x) for x in header.get(header.layout.dim))
    if not 1 <= n <= 7 or min(sizes[:n]) < 1:
        raise InputError(f"the dimensions are {[n, *sizes]}", file=file, field="dim", remedy="check that the file is whole")
    sizes = sizes[:n]
    if n < 3 or any(size != 1 for size in sizes[3:]):
        what = "a time series or vector image" if n > 3 else "a plane"
        raise InputError(f"{what} of size {' x '.join(map(str, sizes))}", file=file, remedy="give a single 3D volume")
    code = int(header.get(header.layout.datatype)[0])
    if code not in _DTYPES:
        raise InputError(
            f"numbers of kind {code} (colour, complex or unknown)", file=file, field="datatype", remedy="give a scalar image"
        )
    dtype = np.dtype(header.order + _DTYPES[code])
    offset, count = int(header.get(header.layout.vox_offset)[0]), sizes[0] * sizes[1] * sizes[2]
    if offset < 0 or offset + count * dtype.itemsize > len(content):
        raise InputError("the file ends before its voxels do", file=file, remedy="copy or export it again")
    data = np.frombuffer(content, dtype, count, offset).reshape(sizes[2], sizes[1], sizes[0])
    slope, intercept = header.get(header.layout.scale)
    if np.isfinite(slope) and np.isfinite(intercept) and slope != 0 and (slope, intercept) != (1, 0):
        data = (data * np.float64(slope) + np.float64(intercept)).astype(np.float32)
    return data.astype(data.dtype.newbyteorder("=")), _affine(header, tuple(sizes[:3]), file)


def _affine(header: _Header, size: tuple[int, ...], file: Path) -> Float[Tensor, "4 4"]:
    """Voxel index (i, j, k) to patient LPS mm.

    Where both sform and qform are given, they must agree to half a voxel at the corners, unless just one of them is the
    scanner's (code 1), which is then taken.

    Raises
    ------
    InputError: neither form given, forms that contradict each other, a voxel size of zero.
    """
    layout = header.layout
    pixdim = header.get(layout.pixdim)
    if min(pixdim[1:4]) <= 0:
        raise InputError(
            f"the voxel size is {pixdim[1]:g} x {pixdim[2]:g} x {pixdim[3]:g} mm",
            file=file,
            field="pixdim",
            remedy="set it in mm",
        )
    qcode, scode = header.get(layout.codes)
    forms = {}
    if scode > 0:
        forms["sform"] = torch.tensor([*header.get(layout.rows), 0, 0, 0, 1], dtype=torch.float64).reshape(4, 4)
    if qcode > 0:
        forms["qform"] = _qform(pixdim, header.get(layout.quaternion))
    if not forms:
        raise InputError(
            "the header gives neither sform nor qform, so left and right are unknown",
            file=file,
            field="sform_code, qform_code",
            remedy="export the image with its orientation, or set the sform",
        )
    if len(forms) == 2 and _differ(forms["sform"], forms["qform"], size):
        if (scode == _SCANNER) == (qcode == _SCANNER):
            raise InputError(
                "sform and qform put the image in different places",
                file=file,
                field="sform, qform",
                remedy="set the code of the one that is not the patient's to 0",
            )
        chosen = "sform" if scode == _SCANNER else "qform"
    else:
        chosen = "sform" if "sform" in forms else "qform"
    matrix = forms[chosen].clone()
    matrix[:3] *= _MM_PER_UNIT.get(int(header.get(layout.units)[0]) & 7, 1.0)
    return _RAS_TO_LPS @ matrix


def _content(file: Path) -> bytes:
    raw = file.read_bytes()
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def _parse(content: bytes, file: Path) -> _Header:
    for order in ("<", ">"):
        size = struct.unpack_from(order + "i", content)[0] if len(content) >= 352 else 0
        if size == 540 and len(content) >= 540:
            return _Header(content[:540], order, _TWO)
        if size == 348:
            if content[344:347] == b"n+1":
                return _Header(content[:348], order, _ONE)
            raise InputError(
                "a header of ANALYZE or of a two-file NIfTI", file=file, remedy="convert it to a single .nii with its orientation"
            )
    raise InputError("not a NIfTI header", file=file, remedy="check that the file is whole and of that format")


def _qform(pixdim: tuple[float, ...], values: tuple[float, ...]) -> Tensor:
    b, c, d, *offset = values
    a = max(0.0, 1.0 - (b * b + c * c + d * d)) ** 0.5
    rotation = torch.tensor(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ],
        dtype=torch.float64,
    )
    flip = -1.0 if pixdim[0] < 0 else 1.0  # qfac
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation * torch.tensor([pixdim[1], pixdim[2], flip * pixdim[3]], dtype=torch.float64)
    matrix[:3, 3] = torch.tensor(offset, dtype=torch.float64)
    return matrix


def _differ(a: Tensor, b: Tensor, size: tuple[int, ...]) -> bool:
    last = [n - 1.0 for n in size]
    corners = torch.tensor(
        [[x, y, z, 1.0] for x in (0, last[0]) for y in (0, last[1]) for z in (0, last[2])], dtype=torch.float64
    )
    apart = ((corners @ (a - b).T)[:, :3]).norm(dim=1).max()
    return float(apart) > 0.5 * float(a[:3, :3].norm(dim=0).min())
