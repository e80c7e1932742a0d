"""DICOM XA files of exposures: what is written is what is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from raylign.errors import InputError
from raylign.geometry import View
from raylign.io.xray_dicom_write import XRayDicomOptions, counts_from_integrals, write_xray_dicom

POINTS = torch.tensor([[0.0, 0, 0], [60, -40, 80], [-75, 30, -60], [20, 90, 10]], dtype=torch.float64)


def a_view(shape: tuple[int, int] = (96, 128)) -> View:
    return View.from_carm(
        primary=-23.123456789, secondary=11.987654321, sid=1043.21987, sod=761.56789, pixel_spacing=(0.613, 0.587), shape=shape
    )


@pytest.fixture
def counts() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(1, 60000, (96, 128)).astype(np.uint16))


def test_pixels_and_geometry_come_back_through_pydicom(tmp_path: Path, counts: torch.Tensor) -> None:
    view, path = a_view(), tmp_path / "x.dcm"
    write_xray_dicom(counts, view, path, XRayDicomOptions(body_part="CHEST", kv=90))
    ds = pydicom.dcmread(path)
    assert np.array_equal(ds.pixel_array, counts.numpy())
    back = View.from_carm(
        primary=float(ds[0x0018, 0x1510].value),
        secondary=float(ds[0x0018, 0x1511].value),
        sid=float(ds[0x0018, 0x1110].value),
        sod=float(ds[0x0018, 0x1111].value),
        pixel_spacing=[float(s) for s in ds[0x0018, 0x1164].value],
        shape=(ds.Rows, ds.Columns),
    )
    assert float((back.project(POINTS) - view.project(POINTS)).abs().max()) < 1e-3
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.12.1" == ds.file_meta.MediaStorageSOPClassUID
    assert (ds.PatientPosition, list(ds.PatientOrientation)) == ("HFS", ["L", "F"])
    assert (ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign, ds.PhotometricInterpretation) == (
        "LIN",
        1,
        "MONOCHROME2",
    )
    assert float(ds.KVP) == 90 and ds.BodyPartExamined == "CHEST"


def test_our_reader_sees_the_same_exposure(tmp_path: Path) -> None:
    from raylign.io import read_xray

    view, path = a_view((200, 220)), tmp_path / "x.dcm"
    y, x = np.mgrid[:200, :220]
    integrals = torch.from_numpy(3.0 * np.exp(-((y - 90) ** 2 + (x - 120) ** 2) / 70.0**2))
    write_xray_dicom(counts_from_integrals(integrals), view, path)
    read = read_xray(path)
    assert float((read.view.project(POINTS) - view.project(POINTS)).abs().max()) < 1e-3
    valid = read.mask.numpy()
    assert valid.mean() > 0.5
    offset = (read.image - integrals).numpy()[valid]
    assert np.ptp(offset) < 0.01  # equal up to the estimate of the open beam


def test_line_integrals_survive_counting() -> None:
    integrals = torch.linspace(0, 6, 70).reshape(7, 10)
    counts = counts_from_integrals(integrals, 60000)
    assert counts.dtype == torch.uint16 and int(counts.to(torch.int32).max()) == 60000
    assert torch.allclose(-torch.log(counts.double() / 60000), integrals.double(), atol=4e-3)
    with pytest.raises(InputError):
        counts_from_integrals(torch.full((2, 2), torch.nan))
    with pytest.raises(InputError):
        counts_from_integrals(integrals, 70000)


@pytest.mark.parametrize("change", ["rotate", "flip", "crop"])
def test_a_view_that_xa_cannot_say_is_refused(tmp_path: Path, change: str) -> None:
    view = a_view((96, 96))
    other = {"rotate": view.rotate(1), "flip": view.flip(columns=True), "crop": view.crop(slice(0, 50), slice(0, 96))}[change]
    path = tmp_path / "x.dcm"
    with pytest.raises(InputError, match=r"DICOM XA.*view\.json"):
        write_xray_dicom(torch.ones(other.shape, dtype=torch.uint16), other, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bad", [torch.zeros(3, 3, dtype=torch.int32), torch.zeros(96, 128), torch.full((96, 128), 5000, dtype=torch.int32)]
)
def test_counts_that_do_not_fit_are_refused(tmp_path: Path, bad: torch.Tensor) -> None:
    with pytest.raises(InputError, match="counts"):
        write_xray_dicom(bad, a_view(), tmp_path / "x.dcm", XRayDicomOptions(bits=12))
    assert list(tmp_path.iterdir()) == []


def test_stored_bits_are_said(tmp_path: Path) -> None:
    options = replace(XRayDicomOptions(), bits=12, derived=False)
    write_xray_dicom(torch.full((96, 128), 4095, dtype=torch.int32), a_view(), tmp_path / "x.dcm", options)
    ds = pydicom.dcmread(tmp_path / "x.dcm")
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit) == (16, 12, 11)
    assert ds.ImageType[0] == "ORIGINAL"
