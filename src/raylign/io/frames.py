"""Frames of a sequence, read one by one: a multi-frame DICOM file, or a folder of DICOM files or pictures.

Where the C-arm moves, every frame has its own geometry (``geometry.xa``); ``frame_times`` tells when each was taken.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from raylign.data import XRay
from raylign.data.exposure import BlankError
from raylign.errors import InputError
from raylign.geometry import View
from raylign.io import dicomfile as df
from raylign.io.frame_times import moment, rising, times_of
from raylign.io.images import read_xray_image, sidecar
from raylign.io.options import ExposureOptions
from raylign.io.pictures import FORMATS
from raylign.io.views import read_view
from raylign.io.xray_dicom import exposure_of

_DEFAULT = ExposureOptions()
_CELLS = 16  # along either side of an image, over which it is looked whether the collimator moved
_CHANGED = 0.7  # natural logarithm of the brightness of a cell against the image's: a factor of two
_SPAN = 4.0  # that display values are given, as if they were natural logarithms
_PIXELS = 0x7FE00010


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: its number from 0, its time in seconds from the first, and the exposure; ``None`` where it shows nothing."""

    index: int
    time: float
    xray: XRay | None
    note: str = ""


class Field:
    """The valid pixels of a sequence: found in one frame, and again only where the border of the field looks different.

    Finding a collimator takes longer than tracking a frame. What is looked at is the mean brightness of 16 x 16 cells beside the
    whole image's: if one at the border of the field, or beyond it, changed by a factor of two, the field is found anew.
    """

    def __init__(self) -> None:
        self.mask: Bool[Tensor, "H W"] | None = None
        self._usual: NDArray[np.float64] | None = None
        self._edge: NDArray[np.bool_] | None = None

    def holds(self, xray: XRay) -> bool:
        """Whether the mask that is known is that of this exposure too."""
        if self.mask is None or self._usual is None or self._edge is None or self.mask.shape != xray.image.shape:
            return False
        return bool(np.abs(_cells(xray.image.numpy(), xray.scale) - self._usual)[self._edge].max(initial=0) < _CHANGED)

    def renew(self, xray: XRay) -> None:
        """Take the mask of an exposure for that of those that follow."""
        self.mask = xray.mask
        self._usual = _cells(xray.image.numpy(), xray.scale)
        share = _means(xray.mask.numpy().astype(np.float32))
        edge = share < 0.99
        edge[[0, -1]] = edge[:, [0, -1]] = True
        self._edge = edge


def _means(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means over cells, of every third pixel."""
    rows, columns = (max(1, n // _CELLS) for n in image.shape)
    cut = image[: rows * _CELLS, : columns * _CELLS] if min(image.shape) >= _CELLS else image[:rows, :columns]
    shape = (cut.shape[0] // rows, rows, cut.shape[1] // columns, columns)
    return np.asarray(cut.reshape(shape)[:, ::3, :, ::3].mean((1, 3)), np.float64)


def _cells(image: NDArray[np.float32], scale: str) -> NDArray[np.float64]:
    means = _means(image)
    if scale == "monotone":
        means = means * (_SPAN / max(float(image[::4, ::4].max() - image[::4, ::4].min()), 1e-12))
    return means - float(np.median(means))


@dataclass(frozen=True, eq=False)
class Frames:
    """A sequence on disk. Iterating reads one frame after the other and keeps none.

    Parameters
    ----------
    path: file or folder.
    times: [N] seconds from the first frame, growing.
    names: of every frame.
    timed_by: what the times are from, in words.
    """

    path: Path
    times: tuple[float, ...]
    names: tuple[str, ...]
    timed_by: str
    _source: _Source
    _field: Field = field(default_factory=Field)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def rate(self) -> float:
        """Frames a second, on the average; 0 of a single one."""
        return (len(self) - 1) / self.times[-1] if len(self) > 1 else 0.0

    def __getitem__(self, index: int) -> Frame:
        """A frame.

        Raises
        ------
        InputError: unreadable, or a geometry that is missing; not because it is black, which its ``xray`` of ``None`` says.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            xray = self._source.read(index, "none") if self._field.mask is not None else None
            if xray is None or not self._field.holds(xray):
                xray = self._source.read(index, None)
                self._field.renew(xray)
            assert self._field.mask is not None
            xray = replace(xray, mask=self._field.mask, name=self.names[index])
        except BlankError as error:
            return Frame(index, self.times[index], None, error.problem)
        except InputError as error:
            raise error.at(self.path) from None
        return Frame(index, self.times[index], xray)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self)):
            yield self[index]


class _Source:
    """Where frames come from."""

    def read(self, index: int, mask: str | None) -> XRay:
        """Frame ``index`` with all its pixels valid ("none"), or with the mask that its options ask for (``None``)."""
        raise NotImplementedError


def open_frames(path: str | Path, options: ExposureOptions = _DEFAULT, rate: float | None = None) -> Frames:
    """A sequence of exposures, in order, with their times.

    A multi-frame DICOM file (XA, RF, Enhanced XA and XRF): times from FrameTimeVector or FrameTime, whichever
    FrameIncrementPointer names, from the frames' own date and time, or from CineRate or RecommendedDisplayFrameRate. Where the
    C-arm moves, every frame has its own geometry; where it moves and the header does not say how, that is an error.

    A folder of DICOM files of one series, or of one series each: by InstanceNumber where that differs, else by name, timed by
    AcquisitionTime or ContentTime. A folder of pictures: by name, numbers in
    them by their value; ``rate`` must be given.

    Parameters
    ----------
    path: the file or folder.
    options: how every exposure is read; ``frame`` does not count.
    rate: frames a second; beats what files say.

    Raises
    ------
    InputError: no frames, frames of several kinds, no or contradictory times, no geometry.
    """
    path = Path(path)
    if rate is not None and not 0 < rate < 1e4:
        raise InputError(f"{rate:g} frames a second", field="--rate", remedy="give a positive number")
    if not path.exists():
        raise InputError("no such file or folder", file=path, field="--frames", remedy="check the path")
    if path.is_file():
        return _multiframe(path, options, rate)
    files = sorted((p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")), key=lambda p: natural(p.name))
    pictures = [p for p in files if p.suffix.lower() in FORMATS and not p.name.endswith(".view.json")]
    dicoms = [p for p in files if p not in pictures and _is_dicom(p)]
    if pictures and dicoms:
        raise InputError(
            f"{len(pictures)} pictures and {len(dicoms)} DICOM files", file=path, remedy="put the frames alone into a folder"
        )
    if len(dicoms) == 1:
        return _multiframe(dicoms[0], options, rate)
    if dicoms:
        return _files(path, dicoms, options, rate)
    if pictures:
        return _pictures(path, pictures, options, rate)
    raise InputError("holds no frames", file=path, field="--frames", remedy="give a folder of DICOM files or pictures")


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names with the numbers in them by their value: frame2 before frame10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", name.lower())]


def _is_dicom(path: Path) -> bool:
    try:
        return path.stat().st_size > 132 and df.has_magic(path)
    except OSError:
        return False


# -- one file of many frames --------------------------------------------------------------------------------------------------


class _Mapped:
    """A dataset whose pixels stay on disk: attributes are its own but for ``PixelData``, a view of the file."""

    def __init__(self, dataset: Any, pixels: memoryview) -> None:
        self._dataset, self.PixelData = dataset, pixels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


class _FromDataset(_Source):
    def __init__(self, path: Path, dataset: Any, options: ExposureOptions) -> None:
        self.path, self.dataset, self.options = path, dataset, options

    def read(self, index: int, mask: str | None) -> XRay:
        with df.guarded(self.path):
            return exposure_of(self.dataset, replace(self.options, frame=index, mask=mask or self.options.mask), self.path.name)


def _multiframe(path: Path, options: ExposureOptions, rate: float | None) -> Frames:
    import pydicom

    with df.guarded(path):
        df.read(path, tags=["Rows"], pixels=False)  # is it DICOM at all
        dataset: Any = pydicom.dcmread(path, defer_size=4096, force=True)
        count = df.frame_count(dataset)
        source = _FromDataset(path, _lazy(path, dataset), replace(options, view=_given(options)))
        times, said = times_of(dataset, count, rate)
    names = tuple(f"{path.name} [{i}]" for i in range(count))
    return Frames(path, times, names, said, source)


def _lazy(path: Path, dataset: Any) -> Any:
    """The dataset with its pixels left on disk, where they are not compressed."""
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    raw = dataset.get_item(_PIXELS, keep_deferred=True) if _PIXELS in dataset else None
    if (
        raw is None
        or getattr(raw, "value", b"") is not None
        or (syntax is not None and (syntax.is_compressed or syntax.is_deflated))
    ):
        return dataset
    with open(path, "rb") as stream:
        whole = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    return _Mapped(dataset, whole[raw.value_tell : raw.value_tell + raw.length])


# -- a folder of files --------------------------------------------------------------------------------------------------------


class _FromFiles(_Source):
    def __init__(self, files: Sequence[Path], options: ExposureOptions) -> None:
        self.files, self.options = files, options

    def read(self, index: int, mask: str | None) -> XRay:
        file = self.files[index]
        with df.guarded(file):
            return exposure_of(df.read(file), replace(self.options, frame=0, mask=mask or self.options.mask), file.name)


def _files(path: Path, files: Sequence[Path], options: ExposureOptions, rate: float | None) -> Frames:
    tags = ["InstanceNumber", "AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime", "AcquisitionDateTime"]
    headers = []
    for file in files:
        with df.guarded(file):
            headers.append(
                df.read(file, pixels=False, tags=[*tags, "NumberOfFrames", "SeriesInstanceUID", "Rows", "SOPClassUID"])
            )
    series = {df.text(h, "SeriesInstanceUID") for h in headers}
    many = [f.name for f, h in zip(files, headers, strict=True) if df.frame_count(h) > 1]
    if many:
        raise InputError("several files, one of many frames", file=path / many[0], remedy="give that file alone")
    if 1 < len(series) < len(files):  # shots of a series each are frames; two series in one folder are an oversight
        raise InputError(f"files of {len(series)} series", file=path, remedy="put the frames of one into a folder")
    numbers = [df.whole_number(h, "InstanceNumber", -1) for h in headers]
    counted = len(set(numbers)) == len(numbers) and min(numbers) >= 0
    order = sorted(range(len(files)), key=lambda i: numbers[i]) if counted else list(range(len(files)))
    times, said = None, ""
    if rate is not None:
        times, said = tuple(i / rate for i in range(len(files))), f"{rate:g} frames a second, as given"
    else:
        for date, clock in (("", "AcquisitionDateTime"), ("AcquisitionDate", "AcquisitionTime"), ("ContentDate", "ContentTime")):
            texts = [
                df.text(headers[i], date) + df.text(headers[i], clock) if date else df.text(headers[i], clock) for i in order
            ]
            times = rising([moment(text) for text in texts])
            if times is not None:
                said = df.label(clock)
                break
    if times is None:
        raise InputError(
            "the files do not tell when each of them was taken",
            file=path,
            field=df.label("AcquisitionTime"),
            remedy="give frames a second with --rate",
        )
    chosen = [files[i] for i in order]
    return Frames(path, times, tuple(f.name for f in chosen), said, _FromFiles(chosen, replace(options, view=_given(options))))


class _FromPictures(_Source):
    def __init__(self, files: Sequence[Path], options: ExposureOptions) -> None:
        self.files, self.options = files, options

    def read(self, index: int, mask: str | None) -> XRay:
        return read_xray_image(self.files[index], replace(self.options, frame=0, mask=mask or self.options.mask))


def _pictures(path: Path, files: Sequence[Path], options: ExposureOptions, rate: float | None) -> Frames:
    if rate is None:
        raise InputError("pictures do not tell when they were taken", file=path, field="--rate", remedy="give frames a second")
    view = _given(options)
    if view is None and all(sidecar(f) is None for f in files) and (path / "view.json").is_file():
        view = read_view(path / "view.json")  # one for all
    times = tuple(i / rate for i in range(len(files)))
    chosen = replace(options, view=view)
    return Frames(path, times, tuple(f.name for f in files), f"{rate:g} frames a second, as given", _FromPictures(files, chosen))


def _given(options: ExposureOptions) -> View | None:
    """The view that options name, read once."""
    return read_view(options.view) if isinstance(options.view, str | Path) else options.view


def paired(cameras: Sequence[Frames]) -> int:
    """How many frames several cameras have together.

    Raises
    ------
    InputError: another number of frames, or times that differ by more than half a frame.
    """
    first = cameras[0]
    for other in cameras[1:]:
        if len(other) != len(first):
            raise InputError(
                f"{len(other)} frames where {first.path} has {len(first)}", file=other.path, field="--frames",
                remedy="give sequences of the same frames",
            )  # fmt: skip
        apart = np.abs(np.subtract(other.times, first.times)).max()
        if len(first) > 1 and apart > 0.5 / first.rate:
            raise InputError(
                f"its times differ from those of {first.path} by up to {apart:.3g} s", file=other.path, field="--frames",
                remedy="give sequences of the same frames, or --rate for both",
            )  # fmt: skip
    return len(first)
