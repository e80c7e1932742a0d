"""From what a detector stored to what a ray lost: counts, logarithms or display values to attenuation.

Sources: DICOM PS3.3 C.8.7.1.1.2 and C.8.11.3.1.2 (pixel intensity relationship and its sign), C.7.6.3.1.2 (photometric
interpretation). Windows and other display settings are no part of it: they change what a screen shows, not what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.data.xray import Scale
from raylign.errors import InputError

Relationship = Literal["LIN", "LOG", "DISP"]
_SMOOTHING = 9  # pixels: the unattenuated field is broad, a noisy or dead pixel is not


@dataclass(frozen=True)
class Encoding:
    """How stored values stand for X-ray intensity.

    Parameters
    ----------
    relationship: "LIN" proportional to the intensity at the detector, "LOG" to its logarithm, "DISP" only grows with it
        (made for display). DICOM (0028,1040).
    sign: +1 where a larger value is more intensity (less attenuation), -1 where it is less. DICOM (0028,1041).
    top: the largest value that could be stored (4095 for 12 bits); ``None`` where it is not known.
    """

    relationship: Relationship = "LIN"
    sign: int = 1
    top: float | None = None


def brightness(stored: Float[Tensor, "H W"], encoding: Encoding) -> Float[Tensor, "H W"]:
    """The values turned so that larger is more X-ray intensity, float32."""
    values = stored.to(torch.float32)
    if encoding.sign >= 0:
        return values
    top = float(values.max()) if encoding.top is None else encoding.top
    return top - values


class BlankError(InputError):
    """An exposure without a picture: every pixel is the same. A frame of a sequence may be."""


def check_not_blank(stored: Tensor) -> None:
    """Refuse an image in which nothing can be seen.

    Raises
    ------
    BlankError: every pixel is the same (all black).
    InputError: no pixels, values that are not finite.
    """
    if stored.ndim != 2 or stored.numel() == 0:
        raise InputError(f"not one grey image but an array of shape {tuple(stored.shape)}", field="pixels")
    low, high = float(stored.min()), float(stored.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("pixels are NaN or infinite", field="pixels", remedy="replace them, and mark them with --mask")
    if low == high:
        what = "all black" if low <= 0 else "blank"
        raise BlankError(f"the X-ray is {what}: every pixel is {low:g}", field="pixels", remedy="give an exposed image")


def to_line_integrals(
    stored: Float[Tensor, "H W"], encoding: Encoding, mask: Bool[Tensor, "H W"] | None = None
) -> tuple[Float[Tensor, "H W"], Scale]:
    """The exposure as attenuation: larger is more of it on the ray.

    "LIN" becomes ``-log(I / I0)`` with I0 the largest value of the smoothed image, which is the unattenuated field where one is
    in the picture; where none is, the result is too small by one constant. "LOG" is already linear in the line integral and is
    only turned and shifted; "DISP" likewise, and stays merely monotone.

    Parameters
    ----------
    stored: stored values, after a modality rescale where the file has one.
    encoding: what they stand for.
    mask: where to look for I0; everywhere where ``None``.

    Returns
    -------
    (image, scale): float32, about zero where nothing attenuates; "line-integral" or "monotone".

    Raises
    ------
    InputError: a blank image, values that are not finite.
    """
    check_not_blank(stored)
    bright = brightness(stored, encoding)
    smooth = torch.nn.functional.avg_pool2d(
        bright[None, None], _SMOOTHING, stride=1, padding=_SMOOTHING // 2, count_include_pad=False
    )[0, 0]
    seen = smooth[mask] if mask is not None and bool(mask.any()) else smooth
    open_field = float(seen.max())
    if encoding.relationship != "LIN":
        scale: Scale = "line-integral" if encoding.relationship == "LOG" else "monotone"
        return open_field - bright, scale
    if open_field <= 0:
        raise InputError("linear intensities are nowhere positive", field="pixels", remedy="check --relationship")
    positive = bright[bright > 0]
    # half of the smallest count that was seen, and not below what any detector resolves: a dead pixel must stay finite
    floor = max(float(positive.min()) / 2, open_field * 1e-6)
    return math.log(open_field) - torch.log(bright.clamp_min(floor)), "line-integral"
