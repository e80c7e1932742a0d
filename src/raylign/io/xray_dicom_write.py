"""Write an exposure as a DICOM X-Ray Angiographic image."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt16
from numpy.typing import NDArray
from torch import Tensor

from raylign._version import __version__
from raylign.errors import InputError
from raylign.geometry import View
from raylign.geometry.carm import CArm, to_carm
from raylign.io.atomic import atomic_write

XA_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.12.1"


@dataclass(frozen=True)
class XRayDicomOptions:
    """What the file says beside geometry and pixels.

    Parameters
    ----------
    patient_name, patient_id: (0010,0010), (0010,0020).
    body_part: (0018,0015), a DICOM defined term; empty where it is not known.
    kv: tube voltage, (0018,0060); ``None`` where it is not known.
    description: (0008,103E).
    bits: stored bits of a count, (0028,0101), 8 to 16.
    derived: whether the pixels were computed rather than exposed: ImageType (0008,0008) says DERIVED instead of ORIGINAL.
    """

    patient_name: str = "PHANTOM^RAYLIGN"
    patient_id: str = "RAYLIGN"
    body_part: str = ""
    kv: float | None = None
    description: str = "Simulated exposure"
    bits: int = 16
    derived: bool = True


def counts_from_integrals(integrals: Float[Tensor, "H W"], open_beam: float = 60000.0) -> UInt16[Tensor, "H W"]:
    """Counts of line integrals, ``open_beam exp(-I)``: what ``-log`` undoes, to the rounding of a count.

    Raises
    ------
    InputError: integrals that are not finite; ``open_beam`` outside 1 to 65535.
    """
    if not 1 <= open_beam <= 65535:
        raise InputError(f"{open_beam} counts in the open beam do not fit 16 bits", field="open_beam", remedy="give 1 to 65535")
    image = torch.as_tensor(integrals).detach().to(torch.float64)
    if image.ndim != 2 or not bool(torch.isfinite(image).all()):
        raise InputError(f"expected finite numbers [H, W], got shape {tuple(image.shape)}", field="integrals")
    return (open_beam * torch.exp(-image)).round().clamp(0, 65535).to(torch.uint16)


def write_xray_dicom(
    counts: Integer[Tensor, "H W"], view: View, path: str | Path, options: XRayDicomOptions | None = None
) -> None:
    """Write one frame as an X-Ray Angiographic Image (1.2.840.10008.5.1.4.1.1.12.1), explicit VR little endian.

    Geometry: PositionerPrimaryAngle (0018,1510), PositionerSecondaryAngle (0018,1511), DistanceSourceToDetector (0018,1110),
    DistanceSourceToPatient (0018,1111), ImagerPixelSpacing (0018,1164), PatientPosition HFS (0018,5100), PatientOrientation
    ``L\\F`` (0020,0020). Pixels: PixelIntensityRelationship LIN (0028,1040) with sign +1 (0028,1041): a lower count is less
    intensity (an attribute beyond the XA module, which leaves the sign open). The file is written whole or not at all.

    Parameters
    ----------
    counts: [H, W] whole numbers of 0 to ``2^bits - 1``, proportional to intensity; see ``counts_from_integrals``.
    view: geometry in world mm, that of a centred C-arm.
    path: where to.
    options: what else the file says.

    Raises
    ------
    InputError: counts that do not fit, a shape other than the view's, a view that DICOM XA cannot say, an unwritable path.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    options = options or XRayDicomOptions()
    pixels = _checked(counts, view, options)
    carm = _carm(view, path)
    ds = _dataset(carm, options)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = XA_IMAGE_STORAGE
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.add_new("PixelData", "OW", pixels.astype("<u2").tobytes())
    with atomic_write(path) as temporary:
        pydicom.dcmwrite(temporary, ds, enforce_file_format=True)


def _checked(counts: Tensor, view: View, options: XRayDicomOptions) -> NDArray[np.uint16]:
    if options.bits not in range(8, 17):
        raise InputError(f"{options.bits} bits", field="bits", remedy="choose 8 to 16")
    if isinstance(counts, Tensor):
        counts = counts.detach().cpu()
    array = np.asarray(counts)
    if array.dtype.kind not in "ui":
        raise InputError(
            f"counts of type {array.dtype} are not whole numbers", field="counts", remedy="convert with counts_from_integrals"
        )
    if array.shape != view.shape:
        raise InputError(f"counts {array.shape} and view {view.shape} differ in shape", field="counts")
    if int(array.min()) < 0 or int(array.max()) >= 2**options.bits:
        raise InputError(f"counts of {array.min()} to {array.max()} do not fit {options.bits} bits", field="counts")
    return array.astype(np.uint16)


def _carm(view: View, path: str | Path) -> CArm:
    try:
        return to_carm(view)
    except InputError as error:
        raise InputError(
            f"a DICOM XA header cannot describe this view: {error.problem}",
            field=error.field,
            remedy="write .nrrd or .npy with a view.json beside it",
            file=path,
        ) from None


def _dataset(carm: CArm, options: XRayDicomOptions) -> Any:
    """Every attribute that the XA IOD requires (PS3.3 A.14), and the geometry."""
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid
    from pydicom.valuerep import format_number_as_ds

    def ds_number(value: float) -> str:
        return format_number_as_ds(float(value))

    now = datetime.datetime.now()
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED" if options.derived else "ORIGINAL", "PRIMARY", "SINGLE PLANE"]
    ds.SOPClassUID = XA_IMAGE_STORAGE
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (generate_uid() for _ in range(3))
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = now.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = now.strftime("%H%M%S")
    ds.Modality = "XA"
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "raylign", "raylign simulation", __version__
    ds.SeriesDescription = options.description
    ds.PatientName, ds.PatientID = options.patient_name, options.patient_id
    for empty in ("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "AccessionNumber"):
        setattr(ds, empty, "")
    ds.StudyID = "1"
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.PatientPosition, ds.PatientOrientation = "HFS", ["L", "F"]
    if options.body_part:
        ds.BodyPartExamined = options.body_part
    ds.KVP = None if options.kv is None else ds_number(options.kv)
    ds.RadiationSetting = "SC"
    ds.XRayTubeCurrent = ds.ExposureTime = ds.Exposure = None
    ds.DistanceSourceToDetector, ds.DistanceSourceToPatient = ds_number(carm.sid), ds_number(carm.sod)
    ds.EstimatedRadiographicMagnificationFactor = ds_number(carm.sid / carm.sod)
    ds.ImagerPixelSpacing = [ds_number(s) for s in carm.pixel_spacing]
    ds.PositionerMotion = "STATIC"
    ds.PositionerPrimaryAngle, ds.PositionerSecondaryAngle = ds_number(carm.primary), ds_number(carm.secondary)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = carm.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, options.bits, options.bits - 1, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LIN", 1
    ds.LossyImageCompression = "00"
    return ds
