"""Small DICOM files made for the tests: a CT of a marked box, an XA exposure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, ENHANCED_CT, XA = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.12.1"
SERIES = "1.2.826.0.1.3680043.8.498.1"
FRAME = "1.2.826.0.1.3680043.8.498.2"


def new(sop: str, modality: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = sop, meta.MediaStorageSOPInstanceUID, modality
    ds.SeriesInstanceUID, ds.StudyInstanceUID = SERIES, SERIES + ".9"
    return ds


def set_pixels(ds: Dataset, pixels: np.ndarray, bits: int = 16) -> None:
    frames = pixels[None] if pixels.ndim == 2 else pixels
    ds.Rows, ds.Columns = frames.shape[1:]
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(frames)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = pixels.dtype.itemsize * 8, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = np.ascontiguousarray(pixels).tobytes()
    ds["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"


def change(ds: Dataset, changes: dict[str, Any]) -> None:
    """Sets elements; ``None`` removes one."""
    for keyword, value in changes.items():
        if value is None:
            if keyword in ds:
                delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)


def slice_pixels(k: int, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    return (1000 + 100 * k + np.arange(shape[0] * shape[1]).reshape(shape)).astype(np.int16)


def ct_slice(path: Path, k: int, pixels: np.ndarray | None = None, **changes: Any) -> Path:
    ds = new(CT, "CT")
    set_pixels(ds, slice_pixels(k) if pixels is None else pixels)
    ds.ImageType, ds.FrameOfReferenceUID, ds.PatientPosition = ["ORIGINAL", "PRIMARY", "AXIAL"], FRAME, "HFS"
    ds.PixelSpacing, ds.ImageOrientationPatient = [0.8, 0.5], [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient, ds.InstanceNumber = [-10.0, -20.0, 30.0 + 2.5 * k], 100 - k
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    change(ds, changes)
    ds.save_as(path)
    return path


def ct_folder(folder: Path, count: int = 5, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        ct_slice(folder / f"{(7 * k) % count}.dcm", k, **changes)
    return folder


def xa_pixels(shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Counts of something round before an open field."""
    r, c = np.mgrid[: shape[0], : shape[1]]
    thick = np.sqrt(np.clip(18.0**2 - (r - 24) ** 2 - (c - 30) ** 2, 0, None)) / 9
    return np.round(3000 * np.exp(-thick)).astype(np.uint16)


def xa_dataset(pixels: np.ndarray | None = None, bits: int = 12, **changes: Any) -> FileDataset:
    ds = new(XA, "XA")
    set_pixels(ds, xa_pixels() if pixels is None else pixels, bits)
    ds.ImageType, ds.PatientPosition, ds.PatientOrientation = ["ORIGINAL", "PRIMARY", "SINGLE PLANE"], "HFS", ["L", "F"]
    ds.DistanceSourceToDetector, ds.DistanceSourceToPatient, ds.ImagerPixelSpacing = 1000.0, 700.0, [0.5, 0.4]
    ds.PositionerPrimaryAngle, ds.PositionerSecondaryAngle, ds.PositionerMotion = 20.0, 5.0, "STATIC"
    ds.PixelIntensityRelationship = "LIN"
    change(ds, changes)
    return ds


def xa_file(path: Path, pixels: np.ndarray | None = None, bits: int = 12, **changes: Any) -> Path:
    xa_dataset(pixels, bits, **changes).save_as(path)
    return path


def item(**values: Any) -> Dataset:
    ds = Dataset()
    change(ds, values)
    return ds


def group(**sequences: Dataset) -> Dataset:
    """A functional group: one sequence of one item for each name."""
    return item(**{name: Sequence([value]) for name, value in sequences.items()})
