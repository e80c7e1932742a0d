"""Bones that stay nearly rigid while the tissue about them deforms.

The velocity within each bone is replaced by that of the rigid motion nearest to it, and blended in between, by weights that
fall with the squared distance from the bones: Arsigny, Commowick, Ayache and Pennec, "A fast and log-Euclidean polyaffine
framework for locally linear registration" (Journal of Mathematical Imaging and Vision 2009). Bones move while the field stays:
where neighbours move differently, a bone's border comes into the blend, and is strained. CPU only: distances are SciPy's.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap
from raylign.errors import InputError
from raylign.simulation.velocity import node_spacing

BONES = (
    "vertebrae_*", "sacrum", "rib_*", "sternum", "scapula_*", "clavicula_*", "humerus_*", "hip_*", "femur_*", "skull", "fibula*",
    "tibia*", "patella*", "radius*", "ulna*",
)  # fmt: skip
"""Names of bones as TotalSegmentator has them."""

_TOUCH_MM2 = 0.25  # keeps the weight within a bone finite: a thousandth of the surrounding field remains there
_REACH_MM = 30.0
_FREE_MM = 20.0  # at this distance from a bone it has as much to say as the free field


@dataclass(frozen=True, eq=False)
class Region:
    """One bone on the nodes of a velocity field: the box about it, which nodes are its, and its weight at all of the box."""

    name: str
    box: tuple[slice, slice, slice]
    inside: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Anchors:
    """The bones of one patient on one grid of nodes; computed once, used for any number of fields."""

    regions: tuple[Region, ...]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @staticmethod
    def of(labels: LabelMap, shape: tuple[int, int, int], names: Sequence[str] = BONES) -> Anchors:
        """Anchors of the named labels.

        Parameters
        ----------
        labels: the patient's segmentation.
        shape: (d, h, w) nodes, of which the first and last are the centres of the outermost voxels.
        names: labels or patterns of them (``rib_*``); each label moves by itself.

        Raises
        ------
        InputError: no label fits any of the names.
        """
        present = labels.present()
        chosen = {n: name for n, name in present.items() if any(fnmatch.fnmatch(name, p) for p in names)}
        if not chosen:
            some = ", ".join(list(present.values())[:6]) or "none"
            raise InputError(f"no label is called {', '.join(names)}", field="names", remedy=f"this map holds {some}")
        sizes = labels.data.shape
        extent = [(n - 1) * float(s) for n, s in zip(reversed(sizes), labels.affine[:3, :3].norm(dim=0), strict=True)]
        spacing = node_spacing(extent, shape)
        nearest = [torch.linspace(0, n - 1, m).round().long() for n, m in zip(sizes, shape, strict=True)]
        device = labels.data.device
        nodes = labels.data
        for dim, index in enumerate(nearest):
            nodes = nodes.index_select(dim, index.to(device))
        grid = nodes.cpu().numpy()
        found = (_region(grid == number, name, spacing) for number, name in chosen.items())
        return Anchors(tuple(r for r in found if r is not None), shape, spacing)

    def held(self, velocity: Float[Tensor, "3 d h w"]) -> Float[Tensor, "3 d h w"]:
        """The field with every bone moving as rigidly as the blend lets it."""
        v = velocity.cpu().numpy().astype(np.float64)
        free = 1 / _FREE_MM**2
        total = np.full(self.shape, free)
        blend = v * free
        for region in self.regions:
            place = self._places(region.box)
            rigid = _rigid(v[(slice(None), *region.box)], place, region.inside)
            blend[(slice(None), *region.box)] += region.weight * rigid
            total[region.box] += region.weight
        return torch.from_numpy(blend / total).to(velocity)

    def _places(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        """[3, d, h, w] mm of the nodes of a box, (column, row, slice)."""
        k, j, i = (np.arange(s.start, s.stop) * h for s, h in zip(box, reversed(self.spacing), strict=True))
        z, y, x = np.meshgrid(k, j, i, indexing="ij")
        return np.stack([x, y, z])


def _region(mask: np.ndarray, name: str, spacing: tuple[float, float, float]) -> Region | None:
    from scipy import ndimage

    boxes = ndimage.find_objects(mask.astype(np.int8))
    if not boxes or boxes[0] is None:
        return None  # smaller than the distance of nodes
    sampling = tuple(reversed(spacing))
    box = tuple(
        slice(max(s.start - round(_REACH_MM / h), 0), min(s.stop + round(_REACH_MM / h), n))
        for s, h, n in zip(boxes[0], sampling, mask.shape, strict=True)
    )
    inside = mask[box]
    # half a node more: the bone reaches beyond the nodes that lie in it
    distance = np.maximum(ndimage.distance_transform_edt(~inside, sampling=sampling) - 0.5 * max(spacing), 0)
    weight = np.maximum(1 / (distance**2 + _TOUCH_MM2) - 1 / (_REACH_MM**2 + _TOUCH_MM2), 0)
    return Region(name, (box[0], box[1], box[2]), inside, weight)


def _rigid(velocity: np.ndarray, place: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Velocity in a box of the rigid motion that is nearest, in the mean over a bone's nodes, to a field: ``t + w x (p - c)``."""
    p, v = place[:, inside], velocity[:, inside]
    centre, shift = p.mean(1), v.mean(1)
    r = p - centre[:, None]
    spread = (r[:, None] * r[None]).sum(-1)
    inertia = np.trace(spread) * np.eye(3) - spread
    moment = np.cross(r, v, axis=0).sum(1)
    # a bone of one node, or one thin line of them, does not say how it turns about itself: then it does not
    spin = np.linalg.solve(inertia + (1e-6 * np.trace(inertia) + 1e-6) * np.eye(3), moment)
    arm = place - centre[:, None, None, None]
    turning = np.stack(
        [spin[1] * arm[2] - spin[2] * arm[1], spin[2] * arm[0] - spin[0] * arm[2], spin[0] * arm[1] - spin[1] * arm[0]]
    )
    return turning + shift[:, None, None, None]
