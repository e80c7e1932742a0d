"""A plain steel wire through the picture: what demonstrations and tests put in the beam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View
from raylign.simulation.instruments.parts import Instrument, Layer, Placed, polyline
from raylign.simulation.instruments.thickness import instrument_paths


@dataclass(frozen=True, eq=False)
class Wire:
    """A round steel wire along a polyline.

    Parameters
    ----------
    points: [N, 3] world mm, N >= 2.
    diameter: mm; a guide wire has 0.9 (0.035 inch).

    Raises
    ------
    InputError: fewer than two points, a coordinate that is not finite, a diameter that is not positive.
    """

    points: Float[Tensor, "N 3"]
    diameter: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", polyline(self.points))
        if not self.diameter > 0:
            raise InputError(f"a wire of {self.diameter} mm has no thickness", field="diameter", remedy="give mm, 0.9 say")

    def placed(self) -> Placed:
        """The wire as an instrument where it lies."""
        return Instrument("wire", self.points, (Layer(0.0, self._length, self.diameter / 2),)).placed()

    @property
    def _length(self) -> float:
        return float(self.points.diff(dim=0).norm(dim=1).sum())


def guide_wire(generator: torch.Generator, length: float = 220.0, diameter: float = 0.9) -> Wire:
    """A wire at random: it runs along the body near the isocentre and bends gently."""
    t = torch.linspace(-0.5, 0.5, 120, dtype=torch.float64)
    low, phase = (
        torch.randn(2, 3, generator=generator, dtype=torch.float64),
        torch.rand(2, 3, generator=generator, dtype=torch.float64),
    )
    offset = 35 * torch.randn(3, generator=generator, dtype=torch.float64)
    bend = sum(10.0 / (k + 1) * low[k] * torch.sin(2 * torch.pi * ((k + 0.7) * t[:, None] + phase[k])) for k in range(2))
    along = torch.tensor([0.25, 0.0, 1.0], dtype=torch.float64) * length * t[:, None]
    return Wire(along + bend + offset, diameter)


def steel_thickness(wires: Sequence[Wire], view: View) -> Float[Tensor, "H W"]:
    """mm of steel on each ray; a pixel has the mean over its area.

    Raises
    ------
    InputError: a wire of no length.
    """
    paths = instrument_paths([[wire.placed() for wire in wires]], view)
    return paths["steel"][0] if paths else torch.zeros(view.shape)
