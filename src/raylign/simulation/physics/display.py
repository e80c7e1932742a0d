"""From line integrals to what a C-arm shows on its screen: compressed, sharpened, windowed. Batched, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.simulation.physics.detector import borders, filtered, gaussian
from raylign.simulation.physics.fields import column


@dataclass(frozen=True)
class Display:
    """How an image is prepared for the screen. Vendors do not publish theirs; these are the usual steps.

    Parameters
    ----------
    compression: part of the coarse structure that is taken away, 0 to 1 (dynamic range compression: lungs and spine are shown
        together), and compression_mm what counts as coarse, standard deviation at the detector.
    edges: gain of unsharp masking, 0 is none, and edges_mm its width.
    window: percentiles of the valid pixels that become black and white.
    curve: steepness of the S-shaped curve between them; 0 is straight.
    white_bones: whether what attenuates is bright (radiographs) or dark (fluoroscopy).
    bits: grey levels are rounded to so many; 0 leaves them continuous.

    Raises
    ------
    InputError: a value out of its range.
    """

    compression: float = 0.5
    compression_mm: float = 30.0
    edges: float = 0.5
    edges_mm: float = 1.0
    window: tuple[float, float] = (1.0, 99.0)
    curve: float = 2.0
    white_bones: bool = False
    bits: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.compression <= 1:
            raise InputError(f"a compression of {self.compression}", field="compression", remedy="give 0 to 1")
        for name in ("edges", "curve"):
            if not 0 <= getattr(self, name) <= 20:
                raise InputError(f"{getattr(self, name)} is not within 0 to 20", field=name)
        for name in ("compression_mm", "edges_mm"):
            if not 0 < getattr(self, name) <= 1000:
                raise InputError(f"{getattr(self, name)} mm", field=name, remedy="give a width over 0, up to 1000 mm")
        if not (len(self.window) == 2 and 0 <= self.window[0] < self.window[1] <= 100):
            raise InputError(f"{self.window} are no percentiles", field="window", remedy="give (lowest, highest) within 0 to 100")
        if self.bits not in (0, *range(4, 17)):
            raise InputError(f"{self.bits} bits", field="bits", remedy="choose 4 to 16, or 0 for none")


@torch.no_grad()
def displayed(
    image: Float[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
    pitch_mm: Float[Tensor, "B 2"],
    displays: Display | Sequence[Display],
) -> Float[Tensor, "B H W"]:
    """Grey values from 0 (black) to 1 (white).

    With L the line integrals, G_s a Gaussian that averages valid pixels only, and q_lo, q_hi percentiles of the result:

        L1 = L - compression (G_c L - mean of G_c L)                   coarse structure flattened
        L2 = L1 + edges (L1 - G_e L1)                                  unsharp masking
        x  = (L2 - q_lo) / (q_hi - q_lo), within 0 and 1               window
        y  = S(x), S a logistic curve scaled to S(0) = 0, S(1) = 1     contrast in the middle greys

    What is not valid is shown as the window shows it: a collimator's blades attenuate most.

    Parameters
    ----------
    image: ``-log(counts / open beam)``.
    valid: pixels within the field.
    pitch_mm: (row, column) of the detector's pixels.
    displays: one for all or one each.

    Raises
    ------
    InputError: not as many displays as images, an image without a valid pixel.
    """
    given = [displays] * len(image) if isinstance(displays, Display) else list(displays)
    if len(given) != len(image):
        raise InputError(f"{len(given)} displays for {len(image)} images", field="displays", remedy="give one, or one each")
    if not bool(valid.flatten(1).any(1).all()):
        raise InputError("an image has no valid pixel", field="valid")
    device = image.device
    pitch, inside = pitch_mm.to(image), valid.to(image.dtype)

    def each(name: str) -> Tensor:
        return column([float(getattr(d, name)) for d in given], device)

    coarse = _averaged(image, inside, each("compression_mm"), (pitch, pitch_mm))
    mean = torch.where(valid, coarse, torch.nan).flatten(1).nanmedian(1).values[:, None, None]
    flat = image - each("compression") * (coarse - mean)
    sharp = flat + each("edges") * (flat - _averaged(flat, inside, each("edges_mm"), (pitch, pitch_mm)))
    ordered = torch.where(valid, sharp, torch.inf).flatten(1).sort(1).values
    last = valid.flatten(1).sum(1, keepdim=True) - 1
    low, high = (ordered.gather(1, _rank(given, i, last))[:, :, None] for i in (0, 1))
    x = ((sharp - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    curve = each("curve")
    steep = curve.clamp_min(0.1)  # flatter curves are straight lines to a thousandth, and rounding would show
    ends = torch.sigmoid(steep / 2)
    y = torch.where(curve < 0.1, x, (torch.sigmoid(steep * (x - 0.5)) - (1 - ends)) / (2 * ends - 1))
    y = torch.where(each("white_bones") > 0, y, 1 - y).clamp(0, 1)
    bits = each("bits")
    levels = 2.0**bits - 1
    return torch.where(bits > 0, (y * levels).round() / levels.clamp_min(1), y)


def _rank(displays: Sequence[Display], end: int, last: Tensor) -> Tensor:
    """[B, 1] index of a percentile among the sorted valid pixels."""
    share = torch.tensor([d.window[end] / 100 for d in displays], device=last.device)[:, None]
    return (share * last).round().to(torch.int64)


def _averaged(image: Tensor, inside: Tensor, width: Tensor, pitches: tuple[Tensor, Tensor]) -> Tensor:
    """Gaussian means over the valid pixels around each pixel; pitches on the device and as given."""
    by = gaussian(width[:, 0, 0], pitches[0])
    wide = borders(3 * width[:, 0, 0], pitches[1])
    weight = filtered(inside, by, wide)
    mean = filtered(image * inside, by, wide) / weight.clamp_min(1e-3)
    return torch.where(weight > 1e-3, mean, image)
