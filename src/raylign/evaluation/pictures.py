"""Pictures as PNG and JPEG: files written whole or not at all, and addresses that a page carries within itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from raylign.io.atomic import atomic_write


def png(picture: UInt8[np.ndarray, "H W *channels"]) -> bytes:
    """A picture (grey, RGB or RGBA) as PNG."""
    return _encoded(picture, "PNG", compress_level=6)


def line_png(coverage: np.ndarray, colour: tuple[int, int, int]) -> bytes:
    """Lines of one colour, transparent elsewhere, as a small palette PNG with 16 degrees of coverage (0 to 1)."""
    from PIL import Image

    image = Image.fromarray(np.rint(np.clip(coverage, 0, 1) * 15).astype(np.uint8)).convert("P")
    image.putpalette(list(colour) * 16)
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=bytes(17 * k for k in range(16)), bits=4, compress_level=6)
    return stream.getvalue()


def jpeg(picture: UInt8[np.ndarray, "H W 3"], quality: int = 88) -> bytes:
    """A picture as JPEG; a grey one as a grey JPEG, which is smaller."""
    flat = bool((picture[..., 0] == picture[..., 1]).all() and (picture[..., 1] == picture[..., 2]).all())
    return _encoded(np.ascontiguousarray(picture[..., 0]) if flat else picture, "JPEG", quality=quality)


def _encoded(picture: np.ndarray, form: str, **options: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, form, **options)
    return stream.getvalue()


def write_png(path: str | Path, picture: UInt8[np.ndarray, "H W *channels"]) -> None:
    """A picture as a PNG file.

    Raises
    ------
    InputError: the file cannot be written; nothing is left behind.
    """
    content = png(picture)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def data_uri(content: bytes) -> str:
    """PNG or JPEG bytes as a ``data:`` address."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
