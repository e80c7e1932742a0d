"""Random affine maps of an image, for methods that register in the image and not in space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.simulation.poses.laws import Generators, Law, law_to_dict, uniforms


@dataclass(frozen=True)
class AffineSampler:
    """Affine maps of pixel coordinates about the image's centre: scale, then shear, then rotation, then shift.

    Li et al. (2021): the network "outputs an affine transformation matrix M, which can be considered as a combination of scaling,
    shearing, translation, rotation of the moving image. That matrix defines a mapping from the moving image's coordinates to that
    of the fixed image". The paper states no distribution; the ranges are chosen here.

    Parameters
    ----------
    log_scale: natural logarithm of the scale, of columns and of rows, drawn apart.
    shear: columns by which a pixel moves for each row.
    rotation_deg: degrees, from the column axis towards the row axis.
    shift: of columns and of rows, in widths and heights of the image.
    """

    name: str
    says: str
    chosen: str
    log_scale: Law
    shear: Law
    rotation_deg: Law
    shift: Law

    def draw(self, shape: tuple[int, int], count: int, generator: Generators) -> Float[Tensor, "count 3 3"]:
        """Matrices M with ``(column, row, 1)_fixed = M (column, row, 1)_moving``; pixel centres at integers, float64, on the CPU.

        Raises
        ------
        InputError: an image without pixels, no sample, a wrong number of streams.
        """
        h, w = shape
        if h < 1 or w < 1:
            raise InputError(f"an image of {h} rows and {w} columns has no pixels", field="shape")
        u = uniforms(count, 6, generator)
        sx, sy = self.log_scale.at(u[:, 0]).exp(), self.log_scale.at(u[:, 1]).exp()
        k, a = self.shear.at(u[:, 2]), self.rotation_deg.at(u[:, 3]) * (math.pi / 180)
        stretch = torch.stack([torch.stack([sx, k * sy], 1), torch.stack([torch.zeros_like(sx), sy], 1)], 1)
        turn = torch.stack([torch.stack([a.cos(), -a.sin()], 1), torch.stack([a.sin(), a.cos()], 1)], 1)
        linear = turn @ stretch
        middle = torch.tensor([(w - 1) / 2, (h - 1) / 2], dtype=torch.float64)
        shift = torch.stack([self.shift.at(u[:, 4]) * w, self.shift.at(u[:, 5]) * h], 1)
        matrix = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
        matrix[:, :2, :2] = linear
        matrix[:, :2, 2] = middle + shift - linear @ middle
        return matrix

    def describe(self) -> str:
        """The distribution in words."""
        size = f"log scale {self.log_scale}, shear {self.shear}"
        place = f"rotation {self.rotation_deg} degrees, shift {self.shift} of the image"
        what = f"{size}, {place}"
        return f'{self.name}: affine maps of the image, {what}\nsource: "{self.says}"\nchosen here: {self.chosen}'

    def to_dict(self) -> dict[str, Any]:
        """Everything that was chosen, for JSON."""
        laws = {n: law_to_dict(getattr(self, n)) for n in ("log_scale", "shear", "rotation_deg", "shift")}
        return {"kind": "affine", "name": self.name, **laws}
