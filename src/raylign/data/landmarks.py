"""Named points, in 3D or on an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Named points: ``points`` is [N, 3] in patient LPS mm, or [N, 2] as (column, row) pixels.

    Raises
    ------
    InputError: names and points do not match in number, a name occurs twice, coordinates that are not finite.
    """

    names: tuple[str, ...]
    points: Float[Tensor, "N dim"]

    def __post_init__(self) -> None:
        points = torch.as_tensor(self.points, dtype=torch.float64)
        names = tuple(str(n) for n in self.names)
        if points.ndim != 2 or points.shape[1] not in (2, 3) or points.shape[0] != len(names):
            raise InputError(f"{len(names)} names do not go with points of shape {tuple(points.shape)}", field="points")
        if not bool(torch.isfinite(points).all()):
            raise InputError("a landmark's coordinate is not a finite number", field="points")
        if len(set(names)) != len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise InputError(f"the name {twice[0]!r} occurs twice", field="names", remedy="name each landmark once")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "points", points)

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.points[self.names.index(name)]
        except ValueError:
            raise InputError(f"no landmark is called {name!r}", remedy=f"there are {', '.join(self.names)}") from None
