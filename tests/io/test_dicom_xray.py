"""X-rays from DICOM: values, encodings, compressions, frames, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from raylign import InputError, View
from raylign.io import ExposureOptions, read_xray
from tests.io.dicom_files import group, item, new, set_pixels, xa_dataset, xa_file, xa_pixels

VIEW = View.from_carm(primary=20, secondary=5, sid=1000, sod=700, pixel_spacing=(0.5, 0.4), shape=(48, 64))


def expected_image(pixels: np.ndarray) -> np.ndarray:
    """-log(I), up to a constant."""
    return -np.log(pixels.astype(float))


def agrees(image: torch.Tensor, reference: np.ndarray, tolerance: float = 1e-4) -> bool:
    difference = image.numpy() - reference
    return bool(np.ptp(difference) < tolerance)


def test_counts_become_line_integrals(tmp_path: Path) -> None:
    xray = read_xray(xa_file(tmp_path / "x.dcm"))
    assert xray.scale == "line-integral" and xray.view.isclose(VIEW, 1e-9) and bool(xray.mask.all())
    assert agrees(xray.image, expected_image(xa_pixels()))
    assert abs(float(xray.image.min())) < 1e-3  # the open field is in the picture


@pytest.mark.parametrize(
    ("changes", "turned"),
    [
        ({}, False),
        ({"PixelIntensityRelationshipSign": 1}, False),
        ({"PixelIntensityRelationshipSign": -1}, True),
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PixelIntensityRelationshipSign": -1}, True),
    ],
)
def test_polarity(tmp_path: Path, changes: dict[str, Any], turned: bool) -> None:
    pixels = 4095 - xa_pixels() if turned else xa_pixels()
    assert agrees(read_xray(xa_file(tmp_path / "x.dcm", pixels, **changes)).image, expected_image(xa_pixels()))


@pytest.mark.parametrize(
    ("sop", "photometric", "sign", "grows"),
    [
        ("1.2.840.10008.5.1.4.1.1.1", "MONOCHROME2", None, True),  # CR, shown with bone bright
        ("1.2.840.10008.5.1.4.1.1.1", "MONOCHROME1", None, False),
        ("1.2.840.10008.5.1.4.1.1.1.1", "MONOCHROME2", 1, False),  # DX: the sign says it
        ("1.2.840.10008.5.1.4.1.1.1.1", "MONOCHROME1", -1, True),
    ],
)
def test_radiographs(tmp_path: Path, sop: str, photometric: str, sign: int | None, grows: bool) -> None:
    relationship = None if sign is None else "LOG"
    path = xa_file(
        tmp_path / "x.dcm",
        SOPClassUID=sop,
        PhotometricInterpretation=photometric,
        PixelIntensityRelationshipSign=sign,
        PixelIntensityRelationship=relationship,
    )
    xray = read_xray(path)
    slope = np.polyfit(xa_pixels().ravel().astype(float), xray.image.numpy().ravel(), 1)[0]
    assert slope == pytest.approx(1.0 if grows else -1.0, abs=1e-3)
    assert xray.scale == ("line-integral" if relationship else "monotone")


def test_rescale_and_modality_table(tmp_path: Path) -> None:
    doubled = read_xray(xa_file(tmp_path / "a.dcm", (xa_pixels() // 2), RescaleSlope=2, RescaleIntercept=1))
    assert agrees(doubled.image, expected_image(xa_pixels() // 2 * 2 + 1))
    # A logarithmic image whose table leads back to counts
    logs = np.round(300 * np.log(xa_pixels() + 1.0)).astype(np.uint16)
    table = np.round(np.exp(np.arange(4096) / 300) - 1).clip(0, 65535).astype(np.uint16)
    lut = item(LUTDescriptor=[4096, 0, 16], LUTData=table.tobytes(), ModalityLUTType="US")
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    path = xa_file(tmp_path / "b.dcm", logs, PixelIntensityRelationship="LOG", ModalityLUTSequence=Sequence([lut]))
    assert agrees(read_xray(path).image, expected_image(xa_pixels()), 0.02)


def test_overrides_beat_the_file(tmp_path: Path) -> None:
    path = xa_file(tmp_path / "x.dcm", DistanceSourceToPatient=None, PixelIntensityRelationship=None, PatientPosition="XX")
    options = ExposureOptions(
        sod=650, sid=900, primary=-30, secondary=10, pixel_spacing=(1, 2), relationship="DISP", patient_position="HFS"
    )
    xray = read_xray(path, options)
    view = View.from_carm(primary=-30, secondary=10, sid=900, sod=650, pixel_spacing=(1, 2), shape=(48, 64))
    assert xray.view.isclose(view, 1e-9) and xray.scale == "monotone"


def test_a_view_replaces_the_whole_geometry(tmp_path: Path) -> None:
    from raylign.io.views import write_view

    path = xa_file(tmp_path / "x.dcm", PositionerPrimaryAngle=None, DistanceSourceToDetector=None)
    write_view(VIEW, tmp_path / "view.json")
    assert read_xray(path, ExposureOptions(view=tmp_path / "view.json")).view.isclose(VIEW)
    assert read_xray(path, ExposureOptions(view=VIEW)).view.isclose(VIEW)
    with pytest.raises(InputError, match=r"--view: a view of 24 x 32 pixels for an image of 48 x 64"):
        read_xray(path, ExposureOptions(view=VIEW.resample((24, 32))))


def test_masks(tmp_path: Path) -> None:
    from PIL import Image

    pixels = xa_pixels()
    pixels[10:14, 20:24] = 0  # a piece of metal
    path = xa_file(tmp_path / "x.dcm", pixels)
    assert not bool(read_xray(path).mask[10:14, 20:24].any())
    assert bool(read_xray(path, ExposureOptions(mask="none")).mask.all())
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 30:] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    assert np.array_equal(read_xray(path, ExposureOptions(mask=tmp_path / "m.png")).mask.numpy(), mask > 0)
    Image.fromarray(mask[:, 30:50]).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png: --mask: the mask has \(48, 20\) pixels"):
        read_xray(path, ExposureOptions(mask=tmp_path / "m.png"))
    Image.fromarray(mask * 0).save(tmp_path / "m.png")
    with pytest.raises(InputError, match="the mask is empty"):
        read_xray(path, ExposureOptions(mask=tmp_path / "m.png"))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"DistanceSourceToDetector": None}, r"DistanceSourceToDetector \(0018,1110\): .*missing; .*--sid"),
    ({"DistanceSourceToPatient": None}, r"DistanceSourceToPatient \(0018,1111\): .*missing; .*--sod"),
    ({"DistanceSourceToPatient": 1000}, r"DistanceSourceToPatient .*1000 mm is not below"),
    ({"DistanceSourceToPatient": 0}, r"DistanceSourceToPatient .*not a positive"),
    ({"ImagerPixelSpacing": None}, r"ImagerPixelSpacing \(0018,1164\): .*--pixel-spacing"),
    ({"ImagerPixelSpacing": None, "PixelSpacing": [0.3, 0.3]}, r"ImagerPixelSpacing .*only PixelSpacing"),
    ({"ImagerPixelSpacing": [0, 0.4]}, r"ImagerPixelSpacing .*not a positive pitch"),
    ({"PositionerPrimaryAngle": None, "PositionerSecondaryAngle": None}, r"PositionerPrimaryAngle \(0018,1510\).*--primary"),
    ({"PositionerSecondaryAngle": None}, r"PositionerSecondaryAngle \(0018,1511\): .*--secondary"),
    ({"PatientPosition": "ABC"}, r"PatientPosition \(0018,5100\): unknown patient position 'ABC'"),
    ({"PatientPosition": None}, r"PatientPosition \(0018,5100\): the patient position is missing"),
    ({"PatientOrientation": ["L", "R"]}, r"PatientOrientation \(0020,0020\): .*contradicts"),
    ({"PixelIntensityRelationship": None}, r"PixelIntensityRelationship \(0028,1040\): .*--relationship"),
    ({"PixelData": None}, r"PixelData \(7FE0,0010\): the X-ray has no pixels"),
    ({"PixelData": b"\0" * 6144}, r"the X-ray is all black"),
    ({"PixelData": b"\0" * 600}, r"PixelData .*600 bytes"),
    ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, r"(PhotometricInterpretation|SamplesPerPixel)"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}, r"not an X-ray exposure \(modality MR\)"),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=lambda v: str(v)[:40])
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = xa_file(tmp_path / "x.dcm", **changes)
    with pytest.raises(InputError, match=words) as caught:
        read_xray(path)
    assert caught.value.file == str(path) and "\n" not in str(caught.value) and caught.value.remedy


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_xray(tmp_path / "gone.dcm")
    with pytest.raises(InputError, match="this is a folder"):
        read_xray(tmp_path)
    (tmp_path / "t.dcm").write_text("text")
    with pytest.raises(InputError, match="not a DICOM file"):
        read_xray(tmp_path / "t.dcm")


@pytest.mark.parametrize("frame", [-1, 3])
def test_frames_beyond_the_file(tmp_path: Path, frame: int) -> None:
    path = xa_file(tmp_path / "x.dcm", np.stack([xa_pixels()] * 3))
    with pytest.raises(InputError, match=r"--frame: .*frames count from 0 to 2"):
        read_xray(path, ExposureOptions(frame=frame))


def test_frames_have_their_own_angles(tmp_path: Path) -> None:
    frames = np.stack([xa_pixels() // (k + 1) for k in range(3)])
    path = xa_file(
        tmp_path / "x.dcm",
        frames,
        PositionerMotion="DYNAMIC",
        PositionerPrimaryAngleIncrement=[0, 10, 25],
        PositionerSecondaryAngleIncrement=-2,
    )
    xray = read_xray(path, ExposureOptions(frame=2))
    view = View.from_carm(primary=45, secondary=1, sid=1000, sod=700, pixel_spacing=(0.5, 0.4), shape=(48, 64))
    assert xray.view.isclose(view, 1e-9)
    assert agrees(xray.image, expected_image(frames[2]))


def test_eight_bits_and_enhanced_groups(tmp_path: Path) -> None:
    ds = new("1.2.840.10008.5.1.4.1.1.12.1.1", "XA")
    frames = np.stack([(xa_pixels() // 16).astype(np.uint8), (xa_pixels() // 20).astype(np.uint8)])
    set_pixels(ds, frames, 8)
    ds.PatientPosition, ds.PatientOrientation = "HFS", ["L", "F"]
    ds.SharedFunctionalGroupsSequence = Sequence(
        [
            group(
                XRayGeometrySequence=item(DistanceSourceToDetector=1000.0, DistanceSourceToIsocenter=700.0),
                FramePixelDataPropertiesSequence=item(
                    ImagerPixelSpacing=[0.5, 0.4], PixelIntensityRelationship="LIN", PixelIntensityRelationshipSign=1
                ),
            )
        ]
    )
    ds.PerFrameFunctionalGroupsSequence = Sequence(
        [group(PositionerPositionSequence=item(PositionerPrimaryAngle=p, PositionerSecondaryAngle=5.0)) for p in (-10.0, 20.0)]
    )
    ds.save_as(tmp_path / "e.dcm")
    xray = read_xray(tmp_path / "e.dcm", ExposureOptions(frame=1))
    assert xray.view.isclose(VIEW, 1e-9)
    assert agrees(xray.image, expected_image(frames[1]))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLosslessSV1], ids=["rle", "jpeg2000", "jpeg"])
def test_compressed_pixels(tmp_path: Path, syntax: Any, bits: int) -> None:
    pixels = (xa_pixels().astype(int) * (2**bits - 1) // 3100).astype(np.uint8 if bits == 8 else np.uint16)
    ds = xa_dataset(np.stack([pixels, pixels // 2]), bits)
    path = tmp_path / "x.dcm"
    if syntax is JPEGLosslessSV1:
        gdcm = pytest.importorskip("gdcm")
        ds.save_as(path)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        convert = gdcm.ImageChangeTransferSyntax()
        convert.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        convert.SetInput(reader.GetImage())
        assert convert.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(convert.GetOutput())
        assert writer.Write()
    else:
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(path)
    for frame in (0, 1):
        plain = pixels // (frame + 1)
        assert agrees(read_xray(path, ExposureOptions(frame=frame)).image, expected_image(plain))


def test_signed_pixels(tmp_path: Path) -> None:
    xray = read_xray(xa_file(tmp_path / "x.dcm", xa_pixels().astype(np.int16), 16))
    assert agrees(xray.image, expected_image(xa_pixels()))


def test_the_simulated_exposures(shared: Path) -> None:
    """Their headers and ours mean the same geometry, and their round collimator is found."""
    import math

    import pydicom

    files = sorted((shared / "cases").glob("*/*/00*.dcm"))
    if not files:
        pytest.skip("no simulated exposures on this machine")
    for path in files[::6]:
        xray, ds = read_xray(path), pydicom.dcmread(path)
        p, s = math.radians(float(ds.PositionerPrimaryAngle)), math.radians(float(ds.PositionerSecondaryAngle))
        toward = torch.tensor([math.sin(p) * math.cos(s), -math.cos(p) * math.cos(s), math.sin(s)], dtype=torch.float64)
        assert torch.allclose(xray.view.source, -float(ds.DistanceSourceToPatient) * toward)
        share = float(xray.mask.float().mean())
        counts = ds.pixel_array
        if (counts == 0).mean() > 0.2:  # collimated: nothing outside counts as valid, little inside is lost
            assert not bool(xray.mask[torch.from_numpy(counts == 0)].any())
            assert share > 0.96 * (counts > 0).mean()
        else:
            assert share > 0.99
