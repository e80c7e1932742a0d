"""A label map: which structure each voxel belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from raylign.data import grid
from raylign.errors import InputError


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Integer labels on a voxel grid, 0 is background.

    Parameters
    ----------
    data: [D, H, W] integers.
    affine: 4x4, voxel index (i, j, k) to patient LPS mm.
    names: label number to name; may be partial or empty.
    """

    data: Integer[Tensor, "D H W"]
    affine: Float[Tensor, "4 4"]
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data = torch.as_tensor(self.data)
        if data.ndim != 3:
            raise InputError(f"a label map has three axes, this one has shape {tuple(data.shape)}", field="data")
        if data.is_floating_point():
            if not bool((data == data.round()).all()):
                raise InputError("label values are not whole numbers", field="data", remedy="give a segmentation, not an image")
            data = data.to(torch.int32)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", grid.checked_affine(self.affine))

    def to(self, device: str | torch.device) -> LabelMap:
        """The same label map on a device."""
        return replace(self, data=self.data.to(device), affine=self.affine.to(device))

    def present(self) -> dict[int, str]:
        """The labels that occur, with their names ("label 7" where none is known)."""
        return {n: self.names.get(n, f"label {n}") for n in self._numbers}

    @cached_property
    def _numbers(self) -> tuple[int, ...]:
        if self.data.numel() and int(self.data.min()) >= 0 and int(self.data.max()) < 2**16:
            found = torch.bincount(self.data.flatten().to(torch.int32)).nonzero()  # counting is quicker than the sort of unique
        else:
            found = torch.unique(self.data)
        return tuple(n for n in found.flatten().tolist() if n != 0)

    def number(self, name: str | int) -> int:
        """The number of a label given by name (case does not matter) or by number.

        Raises
        ------
        InputError: no voxel has that label; the message lists some that exist.
        """
        present = self.present()
        text = str(name).strip()
        for number, known in present.items():
            if text == str(number) or text.lower() == known.lower():
                return number
        some = ", ".join(list(present.values())[:8]) or "none"
        more = ", ..." if len(present) > 8 else ""
        raise InputError(f"no voxel is labelled {text!r}", field="labels", remedy=f"this map holds {some}{more}")

    def mask(self, names: Sequence[str | int]) -> Bool[Tensor, "D H W"]:
        """Voxels of any of the named labels."""
        numbers = torch.tensor([self.number(n) for n in names], dtype=self.data.dtype)
        return torch.isin(self.data, numbers)
