"""Text and side markers burnt into the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from raylign.errors import InputError
from raylign.simulation.appearance.draws import Draws
from raylign.simulation.appearance.occlusion import pixel_grid
from raylign.simulation.appearance.transform import Transform, measured, per_image
from raylign.simulation.labelled import Labelled

_GLYPHS = {
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "R": "####. #...# #...# ####. #.#.. #..#. #...#",
    "A": ".###. #...# #...# ##### #...# #...# #...#",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "0": ".###. #...# #..## #.#.# ##..# #...# .###.",
    "1": "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    "2": ".###. #...# ....# ...#. ..#.. .#... #####",
    "3": "##### ...#. ..#.. ...#. ....# #...# .###.",
    "4": "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "5": "##### #.... ####. ....# ....# #...# .###.",
    "7": "##### ....# ...#. ..#.. ..#.. ..#.. ..#..",
    "k": "#.... #.... #..#. #.#.. ##... #.#.. #..#.",
    "V": "#...# #...# #...# #...# #...# .#.#. ..#..",
    "-": "..... ..... ..... ##### ..... ..... .....",
    " ": "..... ..... ..... ..... ..... ..... .....",
}
"""Letters of five by seven dots, drawn for this module."""

_ROWS, _COLUMNS = 7, 5


def glyphs(device: str | torch.device = "cpu") -> Bool[Tensor, "G 7 5"]:
    """The dots of every letter, in the order of the table."""
    dots = [[[dot == "#" for dot in row] for row in letter.split()] for letter in _GLYPHS.values()]
    return torch.tensor(dots, device=device)


@dataclass(frozen=True)
class BurnIn(Transform):
    """A line of letters in a corner of the image, whiter or darker than all that is valid in it; its dots are not valid.

    Parameters
    ----------
    letters: how many, uniform; one is a side marker.
    height: of the letters over the image's height, uniform; a dot is a whole number of pixels.
    """

    letters: tuple[int, int] = (1, 8)
    height: tuple[float, float] = (0.05, 0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.letters[0] <= self.letters[1] <= 64:
            raise InputError(f"{self.letters} letters", field="BurnIn.letters", remedy="give 1 to 64")

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        image, (h, w), most = batch.image, batch.image.shape[1:], self.letters[1]
        dot = (draws.uniform(*self.height) * h / _ROWS).round().clamp_min(1)
        number = draws.whole(*self.letters)
        text = draws.whole(0, len(_GLYPHS) - 1, (most,))
        text[:, 0] = draws.whole(0, 3)  # begins with a letter of the side
        width, margin = number * (_COLUMNS + 1) * dot, draws.uniform(0.02, 0.08) * min(h, w)
        right, below = draws.uniform() < 0.5, draws.uniform() < 0.5
        left = torch.where(right, w - margin - width, margin).round().clamp_min(0)
        top = torch.where(below, h - margin - _ROWS * dot, margin).round().clamp_min(0)
        c, r = pixel_grid(image)
        x, y = ((axis - per_image(start, image)) / per_image(dot, image) for axis, start in ((c, left), (r, top)))
        column, row = x.floor().long(), y.floor().long()
        place = column.div(_COLUMNS + 1, rounding_mode="floor")
        within = (place >= 0) & (place < number[:, None, None]) & (row >= 0) & (row < _ROWS) & (column % 6 < _COLUMNS)
        letter = text.gather(1, place.clamp(0, most - 1).expand(len(image), 1, w).flatten(1)).view(len(image), 1, w)
        lit = glyphs(image.device)[letter, row.clamp(0, _ROWS - 1), (column % 6).clamp_max(_COLUMNS - 1)] & within
        low, high = measured(batch)
        value = torch.where((draws.uniform() < 0.5)[:, None, None], low - 0.1 * (high - low), high + 0.1 * (high - low))
        return replace(batch, image=torch.where(lit, value, image), valid=batch.valid & ~lit)
