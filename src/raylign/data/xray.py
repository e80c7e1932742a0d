"""An X-ray exposure ready to be explained: line integrals, geometry, validity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View

Scale = Literal["line-integral", "monotone"]


@dataclass(frozen=True, eq=False)
class XRay:
    """One exposure.

    Parameters
    ----------
    image: [H, W] float32; larger means more attenuation on the ray, always.
    view: its geometry in world mm; same shape.
    mask: [H, W], True where the pixel says something about the patient (inside the collimator, not saturated, no burnt-in text).
    scale: "line-integral" where the values are ``-log(I/I0)`` up to a factor and an offset; "monotone" where they only grow
        with it (display values).
    name: file name or other handle used in messages and reports.
    meta: what the file said.

    Raises
    ------
    InputError: shapes that differ, values that are not finite, an empty mask.
    """

    image: Float[Tensor, "H W"]
    view: View
    mask: Bool[Tensor, "H W"]
    scale: Scale = "line-integral"
    name: str = "xray"
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        image = torch.as_tensor(self.image).to(torch.float32)
        mask = torch.as_tensor(self.mask).to(torch.bool)
        if image.ndim != 2 or tuple(image.shape) != self.view.shape or mask.shape != image.shape:
            raise InputError(
                f"image {tuple(image.shape)}, mask {tuple(mask.shape)} and view {self.view.shape} differ in shape",
                field="image",
                file=self.name,
            )
        if not bool(mask.any()):
            raise InputError(
                "the mask leaves no pixel of the image", field="mask", file=self.name, remedy="give another with --mask"
            )
        if not bool(torch.isfinite(image[mask]).all()):
            raise InputError("valid pixels are NaN or infinite", field="image", file=self.name)
        object.__setattr__(self, "image", torch.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0))
        object.__setattr__(self, "mask", mask)
