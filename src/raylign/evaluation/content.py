"""What a report is made of: the result, and for each exposure the images that show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.registration.result import Result


@dataclass(frozen=True, eq=False)
class Exposure:
    """One exposure and the model rendered in its view, at the start and at the end.

    Parameters
    ----------
    name: file name or other handle.
    view: its geometry.
    fixed: [H, W] of ``view.shape``, larger meaning more attenuation.
    moving_at_start, moving_at_end: the model's, of any shape that covers the same area (``view.resample``).
    mask: [H, W], True where the exposure is valid; ``None`` for everywhere.
    covered_at_start, covered_at_end: True where the ray passes nothing but what the model shows, so that the images can be
        compared (False where it leaves the CT through a cut face); ``None`` for everywhere.

    Raises
    ------
    InputError: something that is no image, a fixed image or mask whose shape is not the view's.
    """

    name: str
    view: View
    fixed: Float[Tensor, "H W"]
    moving_at_start: Float[Tensor, "h w"]
    moving_at_end: Float[Tensor, "h w"]
    mask: Bool[Tensor, "H W"] | None = None
    covered_at_start: Bool[Tensor, "h w"] | None = None
    covered_at_end: Bool[Tensor, "h w"] | None = None

    def __post_init__(self) -> None:
        for name in ("fixed", "mask", "moving_at_start", "moving_at_end", "covered_at_start", "covered_at_end"):
            image = getattr(self, name)
            if image is None:
                continue
            if image.ndim != 2 or 0 in image.shape:
                raise InputError(f"shape {tuple(image.shape)} is no image", field=name, file=self.name)
            if name in ("fixed", "mask") and tuple(image.shape) != self.view.shape:
                raise InputError(f"shape {tuple(image.shape)} is not the view's {self.view.shape}", field=name, file=self.name)


@dataclass(frozen=True, eq=False)
class Truth:
    """The pose that is known to be right and the target points, in volume LPS mm, at which an error is measured."""

    pose: Rigid
    targets: Float[Tensor, "n 3"]


@dataclass(frozen=True, eq=False)
class ReportContent:
    """Everything a report shows.

    Parameters
    ----------
    result: what the registration returned.
    exposures: at least one.
    truth: where the right pose is known (simulated exposures, the demo).
    points: [n, 3] points on the model in volume LPS mm, drawn over the exposures while the iterations are replayed; a cross at
        the model's centre where none are given. A few hundred at most.
    command: the command line or call that ran the registration.
    inputs: what went in, in the order to show it: a heading and a sentence each ("CT": "512x512x133 voxels of ...").
    """

    result: Result
    exposures: tuple[Exposure, ...]
    truth: Truth | None = None
    points: Float[Tensor, "n 3"] | None = None
    command: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "exposures", tuple(self.exposures))
        if not self.exposures:
            raise InputError("a report needs at least one exposure", field="exposures")
