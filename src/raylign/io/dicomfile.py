"""One DICOM file opened carefully: quietly, and with every failure turned into one line that names file and tag."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raylign.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

MAGIC_OFFSET, MAGIC = 128, b"DICM"
LARGEST_FRAME = 2**27  # pixels; a header that claims more is damaged, and obeying it would fill the memory
_TRUNCATED = "copy or export the file again, it seems to be cut off"
_DAMAGED = "copy or export the file again, it seems to be damaged"
_UNCOMPRESSED = "export the file again, uncompressed if possible"
_DECODERS = ("pydicom", "pylibjpeg", "gdcm", "pillow")  # the quiet ones first
_LOCK = threading.RLock()  # warning filters belong to the process, so only one thread may swap them at a time


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """pydicom and its decoders say nothing on stderr: what matters of it is raised as an error instead."""
    logger = logging.getLogger("pydicom")
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logger.level
        logger.setLevel(logging.CRITICAL + 1)  # unlike ``disabled``, this reaches the loggers below it
        try:
            yield
        finally:
            logger.setLevel(before)


@contextlib.contextmanager
def guarded(path: str | Path) -> Iterator[None]:
    """``quiet`` and ``converted`` together, for one thread at a time."""
    with converted(path), quiet():
        yield


@contextlib.contextmanager
def converted(path: str | Path) -> Iterator[None]:
    """Any exception of a damaged file becomes an InputError that names the file.

    pydicom reads lazily: a damaged element raises whatever its conversion meets (``KeyError``, ``struct.error``,
    ``NotImplementedError``, ...) where it is first used. There is no smaller set to catch than all of them.
    """
    try:
        yield
    except InputError as error:
        raise error.at(path) from None
    except FileNotFoundError:
        raise InputError("there is no such file", file=path, remedy="check the path") from None
    except PermissionError:
        raise InputError("the file may not be read", file=path, remedy="check its permissions") from None
    except EOFError:
        raise InputError("the file ends too early", file=path, remedy=_TRUNCATED) from None
    except MemoryError:
        raise InputError("the header asks for more memory than there is", file=path, remedy=_DAMAGED) from None
    except Exception as error:
        text = " ".join(str(error).split())[:160] or "no details"
        raise InputError(f"not readable as DICOM ({type(error).__name__}: {text})", file=path, remedy=_DAMAGED) from error


def has_magic(path: Path) -> bool:
    """Whether the file carries the DICOM prefix (PS3.10 section 7.1)."""
    with open(path, "rb") as stream:
        stream.seek(MAGIC_OFFSET)
        return stream.read(4) == MAGIC


def read(path: str | Path, *, pixels: bool = True, tags: list[str] | None = None) -> Dataset:
    """The dataset of one file. Call inside ``guarded``.

    Parameters
    ----------
    pixels: read pixel data too.
    tags: keywords to keep; all where ``None``.

    Raises
    ------
    InputError: not a DICOM file.
    """
    import pydicom

    path = Path(path)
    if path.is_dir():
        raise InputError("this is a folder, a DICOM file was expected", file=path, remedy="name one file")
    known = has_magic(path)
    wanted: list[Any] | None = None if tags is None else [*tags]
    try:
        # Files of old archives may lack the prefix; they are taken if what follows makes sense as an image's header.
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=wanted, force=not known)
        image = known or ("SOPClassUID" in dataset and "Rows" in dataset)
    except Exception:
        if known:
            raise
        image = False
    if not image:
        raise InputError("not a DICOM file", file=path, remedy="give a DICOM file or folder, or another supported format")
    return dataset


def label(keyword: str) -> str:
    """``"PixelSpacing (0028,0030)"``."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    return keyword if tag is None else f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def whole_number(dataset: Any, keyword: str, default: int | None = None) -> int:
    """An integer element.

    Raises
    ------
    InputError: absent (and no default), or not a whole number.
    """
    value = getattr(dataset, keyword, None)
    if value is None or value == "":
        if default is None:
            raise InputError("missing", field=label(keyword), remedy=_DAMAGED)
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InputError(f"{value!r} is not a whole number", field=label(keyword), remedy=_DAMAGED) from None


def numbers(dataset: Any, keyword: str, count: int) -> list[float] | None:
    """``count`` finite numbers of an element, or ``None`` where it is absent or empty.

    Raises
    ------
    InputError: another number of values, or values that are no finite numbers.
    """
    value = getattr(dataset, keyword, None)
    if value is None or value == "":
        return None
    try:
        # A single value comes as a number, several as a list
        found = [float(x) for x in value] if hasattr(value, "__iter__") and not isinstance(value, str) else [float(value)]
    except (TypeError, ValueError):
        raise InputError(f"{value!r} is not a number", field=label(keyword), remedy=_DAMAGED) from None
    if not found:
        return None
    if len(found) != count:
        raise InputError(f"has {len(found)} values, {count} were expected", field=label(keyword), remedy=_DAMAGED)
    if not np.isfinite(found).all():
        raise InputError(f"{found} is not finite", field=label(keyword), remedy=_DAMAGED)
    return found


def text(dataset: Any, keyword: str) -> str:
    """An element as stripped text, empty where absent."""
    value = getattr(dataset, keyword, None)
    return "" if value is None else str(value).strip()


def frame_count(dataset: Any) -> int:
    """NumberOfFrames (0028,0008), one where it is absent."""
    return max(whole_number(dataset, "NumberOfFrames", 1), 1)


def frame_shape(dataset: Any) -> tuple[int, int]:
    """(Rows, Columns), checked to be plausible."""
    rows, columns = whole_number(dataset, "Rows"), whole_number(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise InputError(f"an image of {rows} rows and {columns} columns has no pixels", field=label("Rows"), remedy=_DAMAGED)
    if rows * columns > LARGEST_FRAME:
        raise InputError(f"{rows} x {columns} pixels are not plausible", field=label("Rows"), remedy=_DAMAGED)
    return rows, columns


def stored_values(dataset: Any, frame: int | None = None) -> np.ndarray:
    """Stored values of a grey image: [H, W] of one frame, or [N, H, W] of all where ``frame`` is ``None``.

    Uncompressed 8 and 16 bit images are views of the bytes in the dataset; everything else goes through pydicom's handlers.

    Raises
    ------
    InputError: no pixel data, too few bytes, colour, a compression that no handler can undo.
    """
    if not getattr(dataset, "PixelData", None):
        raise InputError("the file has no pixels", field=label("PixelData"), remedy="export the image, not only its header")
    rows, columns = frame_shape(dataset)
    count = frame_count(dataset)
    samples = whole_number(dataset, "SamplesPerPixel", 1)
    if samples != 1:
        raise InputError(
            f"a colour image ({samples} samples a pixel)",
            field=label("SamplesPerPixel"),
            remedy="export the grey image, not a screen capture",
        )
    allocated = whole_number(dataset, "BitsAllocated")
    stored = whole_number(dataset, "BitsStored", allocated)
    signed = whole_number(dataset, "PixelRepresentation", 0) == 1
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is not None and syntax.is_compressed and not syntax.is_deflated:
        return _decompressed(dataset, frame, count, (rows, columns))
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise InputError(
            f"{stored} of {allocated} bits are not supported", field=label("BitsAllocated"), remedy="export 8 or 16 bit pixels"
        )
    need = count * rows * columns * allocated // 8
    if len(dataset.PixelData) < need:
        raise InputError(
            f"{len(dataset.PixelData)} bytes of pixels where {need} were promised", field=label("PixelData"), remedy=_TRUNCATED
        )
    order = ">" if syntax is not None and not syntax.is_little_endian else "<"
    kind = np.dtype(f"{order}{'i' if signed else 'u'}{allocated // 8}")
    values = np.frombuffer(dataset.PixelData, kind, count * rows * columns).reshape(count, rows, columns)
    if frame is not None:
        values = values[frame]
    shift = allocated - whole_number(dataset, "HighBit", stored - 1) - 1
    if stored < allocated and 0 <= shift <= allocated - stored:
        # Overlays of old files live in the unused high bits; shifting left and back drops them and extends the sign.
        values = (values << shift).astype(kind) >> (allocated - stored)
    return values


def _decompressed(dataset: Any, frame: int | None, count: int, shape: tuple[int, int]) -> np.ndarray:
    from pydicom.pixels import get_decoder, pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).available_plugins
        plugin = next(p for p in _DECODERS if p in available)
    except (NotImplementedError, StopIteration):
        raise InputError(
            f"no decoder for the transfer syntax {syntax.name}", field=label("TransferSyntaxUID"), remedy=_UNCOMPRESSED
        ) from None
    try:
        with _mute() if plugin in ("gdcm", "pillow") else contextlib.nullcontext():
            values = pixel_array(dataset, index=frame, raw=True, decoding_plugin=plugin)
    except Exception as error:  # whatever a decoder makes of damaged bytes
        what = " ".join(str(error).split())[:160]
        raise InputError(
            f"the {syntax.name} pixels cannot be decompressed ({what})", field=label("PixelData"), remedy=_UNCOMPRESSED
        ) from error
    expected = shape if frame is not None else (count, *shape)
    if values.size != int(np.prod(expected)):
        raise InputError(
            f"decompressed to shape {values.shape} where {expected} was promised", field=label("PixelData"), remedy=_DAMAGED
        )
    return values.reshape(expected)


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """The process's stderr leads nowhere for a moment: libraries inside gdcm write to it from C, and have no switch."""
    with _LOCK, open(os.devnull, "wb") as nowhere:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
