"""One grey picture from PNG, TIFF, JPEG, BMP, NRRD, MetaImage or npy: its numbers as stored, nothing about what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raylign.errors import InputError
from raylign.io.files import existing_file, reading, suffix
from raylign.io.grids import itk_image

PLAIN = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
FORMATS = (*PLAIN, ".nrrd", ".nhdr", ".mha", ".mhd", ".npy")


@dataclass(frozen=True, eq=False)
class Picture:
    """[H, W] values; ``top`` is the largest that the file's type can hold, None for floating point and for unknown depth."""

    values: np.ndarray
    top: float | None
    frames: int


def read_picture(path: str | Path, frame: int = 0) -> Picture:
    """A grey picture, or one of a stack.

    A TIFF whose zero is white (photometric interpretation 0) is turned, so that larger is brighter in every format. Three
    channels are taken where they are equal.

    Raises
    ------
    InputError: unreadable, coloured, no such frame, values that are not finite.
    """
    file = existing_file(path)
    kind = suffix(file)
    if kind not in FORMATS:
        raise InputError(f"{kind or 'no suffix'!r} is no picture format", file=file, remedy=f"give one of {', '.join(FORMATS)}")
    with reading(file, "a picture"):
        stack = np.load(file, allow_pickle=False) if kind == ".npy" else _decoded(file)
        if stack.dtype.kind not in "uif" or stack.ndim not in (2, 3):
            raise InputError(f"an array of shape {stack.shape} and kind {stack.dtype} is no picture", file=file)
        stack = stack[None] if stack.ndim == 2 else stack
        if not 0 <= frame < len(stack):
            raise InputError(f"there is no frame {frame}", field="--frame", remedy=f"frames count from 0 to {len(stack) - 1}")
        values = stack[frame]
        if values.size == 0:
            raise InputError("the picture has no pixels", file=file, remedy="export it again")
        top = _top(values)
        if kind in (".tif", ".tiff") and _zero_is_white(file, frame):
            values = (top if top is not None else values.max()) - values.astype(np.float32)
    return Picture(values, top, len(stack))


def _decoded(file: Path) -> np.ndarray:
    """[H, W] or [N, H, W] through SimpleITK, equal channels merged."""
    import SimpleITK as sitk

    image = itk_image(file)
    values = np.asarray(sitk.GetArrayFromImage(image))
    return _grey(values, image) if image.GetNumberOfComponentsPerPixel() > 1 else values


def _grey(values: np.ndarray, image: Any) -> np.ndarray:
    channels = values.shape[-1]
    colours = values[..., : channels - 1] if channels in (2, 4) else values  # two and four have transparency last
    if not bool((colours == colours[..., :1]).all()):
        raise InputError(
            "the picture is coloured", field="channels", remedy="save the exposure itself as grey, without annotations"
        )
    return colours[..., 0]


def _top(values: np.ndarray) -> float | None:
    if values.dtype.kind not in "ui":
        return None
    largest = float(np.iinfo(values.dtype).max)
    # 10, 12 or 14 bits in 16 look like this: the depth is not told, and so is not the largest value
    return largest if values.dtype.itemsize == 1 or float(values.max()) == largest else None


def _zero_is_white(file: Path, frame: int) -> bool:
    import tifffile

    logger = tifffile.logger()
    before, logger.disabled = logger.disabled, True  # of damaged tags that do not matter here it would tell on stderr
    try:
        return _photometric(tifffile, file, frame) == 0
    finally:
        logger.disabled = before


def _photometric(tifffile: Any, file: Path, frame: int) -> int:
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[min(frame, len(tiff.pages) - 1)]
        return int(getattr(page, "photometric", 1))
