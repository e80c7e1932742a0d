"""The validity mask of an exposure: found, waived, or read from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.data.exposure import Encoding, check_not_blank
from raylign.data.field import validity_mask
from raylign.errors import InputError


def exposure_mask(stored: Float[Tensor, "H W"], encoding: Encoding, choice: str | Path = "auto") -> Bool[Tensor, "H W"]:
    """[H, W] True where a pixel counts.

    Parameters
    ----------
    stored: stored values of the exposure.
    encoding: what they stand for.
    choice: "auto" finds the field, "none" takes every pixel, anything else is the path of a mask image (PNG, TIFF, ...; or .npy)
        of the same size, non-zero where valid.

    Raises
    ------
    InputError: a blank exposure, a mask that cannot be read, of another size, or empty.
    """
    check_not_blank(stored)
    if choice == "auto":
        return validity_mask(stored, encoding)
    if choice == "none":
        return torch.ones(stored.shape, dtype=torch.bool)
    mask = read_mask(choice)
    if mask.shape != stored.shape:
        raise InputError(
            f"the mask has {tuple(mask.shape)} pixels, the X-ray {tuple(stored.shape)}",
            file=choice,
            field="--mask",
            remedy="give a mask of the X-ray's size",
        )
    return mask


def read_mask(path: str | Path) -> Bool[Tensor, "H W"]:
    """A mask image: True where it is not zero (in any channel but alpha).

    Raises
    ------
    InputError: unreadable, no image, or zero everywhere.
    """
    import numpy as np

    path = Path(path)
    try:
        if path.suffix.lower() == ".npy":
            pixels = np.load(path, allow_pickle=False)
        else:
            from PIL import Image

            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "LA") else image)
    except FileNotFoundError:
        raise InputError("there is no such file", file=path, field="--mask", remedy="say auto, none, or a mask image") from None
    except Exception as error:
        what = " ".join(str(error).split())[:120]
        raise InputError(f"not readable as an image ({what})", file=path, field="--mask", remedy="give a PNG") from error
    if pixels.ndim == 3:
        pixels = pixels.max(-1)
    if pixels.ndim != 2:
        raise InputError(f"an array of shape {pixels.shape} is no mask", file=path, field="--mask", remedy="give a grey image")
    mask = torch.from_numpy(np.ascontiguousarray(pixels != 0))
    if not bool(mask.any()):
        raise InputError("the mask is empty", file=path, field="--mask", remedy="paint the valid pixels white")
    return mask
