"""Sequences on disk: order, times, geometry of every frame, fields that change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom.uid import RLELossless

from raylign.errors import InputError
from raylign.geometry import View
from raylign.io import ExposureOptions, read_xray
from raylign.io.frames import Frames, natural, open_frames, paired
from raylign.io.views import write_view
from tests.io.dicom_files import group, item, xa_dataset, xa_file, xa_pixels


def cine(path: Path, count: int = 5, **changes: object) -> Path:
    """A multi-frame file whose frames get darker."""
    frames = np.stack([(xa_pixels() * (1 - 0.05 * k)).astype(np.uint16) for k in range(count)])
    return xa_file(path, frames, **changes)


def times(frames: Frames) -> list[float]:
    return [round(t, 6) for t in frames.times]


def test_frames_are_those_that_the_reader_of_one_gives(tmp_path: Path) -> None:
    file = cine(tmp_path / "a.dcm", FrameTime=66.6, FrameIncrementPointer=0x00181063)
    frames = open_frames(file, ExposureOptions(mask="none"))
    assert len(frames) == 5
    for frame in frames:
        alone = read_xray(file, ExposureOptions(frame=frame.index, mask="none"))
        assert frame.xray is not None
        assert torch.equal(frame.xray.image, alone.image)
        assert torch.equal(frame.xray.view.source, alone.view.source)
    assert times(frames) == [round(0.0666 * k, 6) for k in range(5)]
    assert frames.rate == pytest.approx(1 / 0.0666)


def test_the_pixels_of_a_long_file_stay_on_disk(tmp_path: Path) -> None:
    frames = open_frames(cine(tmp_path / "a.dcm", FrameTime=50))
    assert isinstance(frames._source.dataset.PixelData, memoryview)  # type: ignore[attr-defined]


def test_compressed_frames_are_read_too(tmp_path: Path) -> None:
    ds = xa_dataset(np.stack([xa_pixels(), xa_pixels() // 2]), FrameTime=50)
    ds.compress(RLELossless)
    ds.save_as(tmp_path / "a.dcm")
    second = open_frames(tmp_path / "a.dcm", ExposureOptions(mask="none"))[1]
    alone = read_xray(tmp_path / "a.dcm", ExposureOptions(frame=1, mask="none"))
    assert second.xray is not None
    assert torch.equal(second.xray.image, alone.image)


def test_times_are_the_vectors_where_the_header_points_at_it(tmp_path: Path) -> None:
    vector = [0, 40, 60, 40, 60]
    frames = open_frames(cine(tmp_path / "a.dcm", FrameTimeVector=vector, FrameTime=99, FrameIncrementPointer=0x00181065))
    assert times(frames) == [0, 0.04, 0.1, 0.14, 0.2]
    pointed = open_frames(cine(tmp_path / "b.dcm", FrameTimeVector=vector, FrameTime=50, FrameIncrementPointer=0x00181063))
    assert times(pointed) == [0, 0.05, 0.1, 0.15, 0.2]


@pytest.mark.parametrize("keyword", ["CineRate", "RecommendedDisplayFrameRate"])
def test_times_follow_from_a_rate(tmp_path: Path, keyword: str) -> None:
    assert times(open_frames(cine(tmp_path / "a.dcm", **{keyword: 10}))) == [0, 0.1, 0.2, 0.3, 0.4]


def test_frames_of_enhanced_images_have_their_own_times(tmp_path: Path) -> None:
    groups = [group(FrameContentSequence=item(FrameReferenceDateTime=f"20260101235959.{9 * k}")) for k in range(2)]
    groups.append(group(FrameContentSequence=item(FrameReferenceDateTime="20260102000001.5")))
    file = cine(tmp_path / "a.dcm", 3, PerFrameFunctionalGroupsSequence=groups)
    assert times(open_frames(file)) == [0, 0.9, 2.5]


def test_a_file_without_times_asks_for_them(tmp_path: Path) -> None:
    file = cine(tmp_path / "a.dcm")
    with pytest.raises(InputError, match=r"how fast.*FrameTime \(0018,1063\)|FrameTime \(0018,1063\).*how fast"):
        open_frames(file)
    assert times(open_frames(file, rate=20)) == [0, 0.05, 0.1, 0.15, 0.2]
    with pytest.raises(InputError, match="--rate"):
        open_frames(file, rate=0.0)


def test_a_c_arm_that_turns_has_a_view_for_every_frame(tmp_path: Path) -> None:
    turning = {"PositionerMotion": "DYNAMIC", "PositionerPrimaryAngleIncrement": [0, 5, 10, 15, 20], "FrameTime": 50}
    frames = open_frames(cine(tmp_path / "a.dcm", **turning, PositionerSecondaryAngleIncrement=[0, 0, 0, 0, 0]))
    for k in (0, 2, 4):
        xray = frames[k].xray
        assert xray is not None
        expected = View.from_carm(primary=20 + 5 * k, secondary=5, sid=1000, sod=700, pixel_spacing=(0.5, 0.4), shape=(48, 64))
        assert torch.allclose(xray.view.source, expected.source, atol=1e-6)
    silent = cine(tmp_path / "b.dcm", PositionerMotion="DYNAMIC", FrameTime=50)
    with pytest.raises(InputError, match="the C-arm moved"):
        open_frames(silent)[1]


def test_a_folder_goes_by_instance_number_and_acquisition_time(tmp_path: Path) -> None:
    for k, name in enumerate(["z", "a", "m"]):
        xa_file(tmp_path / f"{name}.dcm", InstanceNumber=k + 1, AcquisitionDate="20260101", AcquisitionTime=f"1200{k:02d}.5")
    frames = open_frames(tmp_path)
    assert frames.names == ("z.dcm", "a.dcm", "m.dcm")
    assert times(frames) == [0, 1, 2]


def test_a_folder_whose_files_have_one_time_asks_for_a_rate(tmp_path: Path) -> None:
    for k in range(3):
        xa_file(tmp_path / f"{k}.dcm", InstanceNumber=k + 1, AcquisitionTime="120000")
    with pytest.raises(InputError, match="--rate"):
        open_frames(tmp_path)
    assert times(open_frames(tmp_path, rate=4)) == [0, 0.25, 0.5]


def test_pictures_go_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    for k in (10, 9, 2):
        np.save(tmp_path / f"frame{k}.npy", xa_pixels() + np.uint16(k))
    write_view(
        View.from_carm(primary=0, secondary=0, sid=1000, sod=700, pixel_spacing=0.5, shape=(48, 64)),
        tmp_path / "view.json",
        "LIN",
    )
    frames = open_frames(tmp_path, ExposureOptions(relationship="LIN"), rate=15)
    assert frames.names == ("frame2.npy", "frame9.npy", "frame10.npy")
    assert [f.xray is not None for f in frames] == [True] * 3
    with pytest.raises(InputError, match="when they were taken"):
        open_frames(tmp_path)


def test_names_sort_as_people_count() -> None:
    names = ["b2", "a10", "a9", "a", "A9b"]
    assert sorted(names, key=natural) == ["a", "a9", "A9b", "a10", "b2"]


def test_a_black_frame_is_no_error(tmp_path: Path) -> None:
    pixels = np.stack([xa_pixels(), np.zeros_like(xa_pixels()), xa_pixels()])
    read = list(open_frames(xa_file(tmp_path / "a.dcm", pixels, FrameTime=50)))
    assert [frame.xray is not None for frame in read] == [True, False, True]
    assert "black" in read[1].note


def field(radius: float, size: int = 192) -> np.ndarray:
    """Counts within a round collimator, something inside."""
    r, c = np.mgrid[:size, :size] - size / 2
    counts = 3000 * np.exp(-1.5 * np.exp(-((r - 10) ** 2 + c**2) / 900))
    return np.where(np.hypot(r, c) < radius, counts, 40).astype(np.uint16)


def test_the_field_is_looked_for_again_only_where_its_border_changes(tmp_path: Path) -> None:
    pixels = np.stack([field(80)] * 4 + [field(50)] * 3)
    pixels[2, 90:120, 90:120] //= 3  # an instrument in the middle
    frames = open_frames(xa_file(tmp_path / "a.dcm", pixels, FrameTime=50))
    masks = [frame.xray.mask for frame in frames if frame.xray is not None]
    assert all(mask is masks[0] for mask in masks[:4]) and all(mask is masks[4] for mask in masks[4:])
    shares = [float(mask.float().mean()) for mask in masks]
    assert shares[:4] == [shares[0]] * 4
    assert shares[4:] == [shares[4]] * 3
    assert shares[4] < 0.5 * shares[0]
    alone = read_xray(tmp_path / "a.dcm", ExposureOptions(frame=5))
    assert float((masks[5] != alone.mask).float().mean()) < 0.01


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_frames(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no frames"):
        open_frames(tmp_path / "empty")
    (tmp_path / "a.dcm").write_bytes(b"no DICOM at all" * 20)
    with pytest.raises(InputError, match="not a DICOM file"):
        open_frames(tmp_path / "a.dcm")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    xa_file(mixed / "a.dcm")
    np.save(mixed / "b.npy", xa_pixels())
    with pytest.raises(InputError, match="1 pictures and 1 DICOM"):
        open_frames(mixed)
    several = tmp_path / "several"
    several.mkdir()
    for k in range(3):
        xa_file(several / f"{k}.dcm", SeriesInstanceUID=f"1.2.{k // 2}")
    with pytest.raises(InputError, match="2 series"):
        open_frames(several)


def test_cameras_of_one_rig_have_the_same_frames(tmp_path: Path) -> None:
    a = open_frames(cine(tmp_path / "a.dcm", FrameTime=50))
    assert paired([a, open_frames(cine(tmp_path / "b.dcm", FrameTime=50))]) == 5
    with pytest.raises(InputError, match="4 frames where"):
        paired([a, open_frames(cine(tmp_path / "c.dcm", 4, FrameTime=50))])
    with pytest.raises(InputError, match="times differ"):
        paired([a, open_frames(cine(tmp_path / "d.dcm", FrameTime=70))])
