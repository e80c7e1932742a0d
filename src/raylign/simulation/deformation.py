"""Diffeomorphic deformation of patients: one random map for the scan, its labels, meshes and landmarks.

The map is the exponential of a stationary velocity field (``velocity``). Voxels are pulled: each looks up its value where the
inverse map puts it. Points and vertices are pushed: they go where the inverse of the very field that moved the voxels puts them,
found to a thousandth of a millimetre, so that a surface stays on the border of its label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from raylign.data import LabelMap, Landmarks, Mesh, Volume
from raylign.errors import InputError
from raylign.simulation.anchors import Anchors
from raylign.simulation.inversion import inverted
from raylign.simulation.velocity import (
    Scale,
    exponential,
    node_spacing,
    random_velocity,
    smallest_jacobian,
    within_box,
)

_SLAB_VOXELS = 2**21  # voxels that are deformed at once: what lies between the volume and its copy stays small
_LEAST_JACOBIAN = 0.1
_MOST_TRIES = 12
_RIM_MM = 15.0


@dataclass(frozen=True)
class DeformationConfig:
    """How patients are deformed.

    Parameters
    ----------
    scales: octaves of the random velocity field; the defaults move by 8 mm (root mean square of each component) and strain by a
        tenth.
    node_mm: distance of the nodes on which fields are computed, about.
    fade_mm: over which the motion across the scan's faces fades to zero.
    rigid: labels that stay nearly rigid, or patterns of them (``anchors.BONES``); none by default.
    """

    scales: tuple[Scale, ...] = (Scale(160.0, 7.0), Scale(80.0, 3.5), Scale(45.0, 1.2))
    node_mm: float = 4.0
    fade_mm: float = 60.0
    rigid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.scales:
            raise InputError("a deformation without scales", field="scales", remedy="give one at least")
        if not (self.node_mm > 0 and self.fade_mm >= 0):
            raise InputError(f"nodes every {self.node_mm:g} mm, fading over {self.fade_mm:g} mm", field="node_mm")


@dataclass(frozen=True, eq=False)
class Deformation:
    """A diffeomorphism of the box of one scan onto itself.

    Parameters
    ----------
    affine: 4x4, voxel index to patient LPS mm of the scan.
    size: (slices, rows, columns) of the scan.
    velocity: [3, d, h, w] mm along the scan's own axes (column, row, slice), on nodes of which the outermost are the centres of
        the outermost voxels.
    pull: displacement of ``exp(-velocity)``: from a place of the copy to the place of the original that is seen there.
    push: displacement of ``exp(velocity)``, the inverse up to the interpolation between nodes.
    smallest_jacobian: of the two, over all cells; positive.

    Raises
    ------
    InputError: a sheared grid; a map that folds.
    """

    affine: Float[Tensor, "4 4"]
    size: tuple[int, int, int]
    velocity: Float[Tensor, "3 d h w"]
    pull: Float[Tensor, "3 d h w"]
    push: Float[Tensor, "3 d h w"]
    smallest_jacobian: float

    def __post_init__(self) -> None:
        _axes(self.affine)
        if not self.smallest_jacobian > 0:
            raise InputError("the deformation folds space", field="velocity", remedy="take smaller or smoother velocities")

    @staticmethod
    def of(velocity: Float[Tensor, "3 d h w"], like: Volume | LabelMap) -> Deformation:
        """The exponential of a velocity field on the box of a scan; the field must not leave the box (``within_box``)."""
        both = exponential(torch.stack([-velocity, velocity]), spacing := node_spacing(_extent(like), velocity.shape[1:]))
        least = float(smallest_jacobian(both, spacing).min())
        size = (like.data.shape[0], like.data.shape[1], like.data.shape[2])
        return Deformation(like.affine, size, velocity, both[0], both[1], least)

    @staticmethod
    def random(
        like: Volume | LabelMap, config: DeformationConfig, generator: torch.Generator, anchors: Anchors | None = None
    ) -> Deformation:
        """A random deformation of a scan's box.

        Where it would come near to folding (a Jacobian determinant below 0.1; between bones that touch, mostly), the velocity is
        taken in by a quarter until it does not.

        Parameters
        ----------
        like: the scan, or its labels; only the grid counts.
        anchors: what stays nearly rigid, made for this grid by ``anchors_for``.
        """
        shape = node_shape(like, config)
        spacing = node_spacing(_extent(like), shape)
        velocity = random_velocity(_extent(like), shape, config.scales, generator)
        velocity = within_box(velocity, spacing, config.fade_mm)
        if anchors is not None:
            if anchors.shape != shape:
                raise InputError("the anchors were made for other nodes", field="anchors", remedy="make them by anchors_for")
            # a bone at a face moves as its mean does there: what would carry it across is taken back in a narrow rim
            velocity = within_box(anchors.held(velocity[0])[None], spacing, min(_RIM_MM, config.fade_mm))
        velocity = velocity[0].to(like.data.device)
        for _ in range(_MOST_TRIES):
            both = exponential(torch.stack([-velocity, velocity]), spacing)
            least = float(smallest_jacobian(both, spacing).min())
            if least >= _LEAST_JACOBIAN:
                break
            velocity = 0.75 * velocity
        size = (like.data.shape[0], like.data.shape[1], like.data.shape[2])
        return Deformation(like.affine, size, velocity, both[0], both[1], least)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of the nodes, mm along (column, row, slice)."""
        extent = [(n - 1) * float(s) for n, s in zip(reversed(self.size), self.affine[:3, :3].norm(dim=0), strict=True)]
        return node_spacing(extent, self.pull.shape[1:])

    def inverse(self) -> Deformation:
        """The exponential of the negative field. It undoes this one up to the interpolation between nodes."""
        return replace(self, velocity=-self.velocity, pull=self.push, push=self.pull)

    def volume(self, volume: Volume) -> Volume:
        """The copy's scan, by trilinear interpolation, which smooths noise a little."""
        self._require(volume)
        plain = volume.decoded()
        source = plain.data.to(torch.float32)[None, None]
        out = torch.empty_like(source[0, 0])
        for slab, at in self._places():
            out[slab] = grid_sample(source, at[None], mode="bilinear", padding_mode="border", align_corners=True)[0, 0]
        return replace(plain, data=out)

    def labels(self, labels: LabelMap) -> LabelMap:
        """The copy's labels: of the eight voxels about a place, the label that has most of the trilinear weight.

        Half a voxel more faithful than the nearest voxel along slanted borders, and the same where all eight agree.
        """
        self._require(labels)
        data = labels.data
        # the label where all agree; a half more at voxels near a border, of which the neighbours are asked
        coded = (data.to(torch.float32) + 0.5 * _at_borders(data))[None, None]
        out = torch.empty_like(data)
        last = torch.tensor([n - 1 for n in reversed(data.shape)], device=data.device)
        for slab, at in self._places():
            near = grid_sample(coded, at[None], mode="nearest", padding_mode="border", align_corners=True)[0, 0]
            result = near.floor()
            mixed = result != near
            place = ((at[mixed] + 1) / 2 * last).clamp_min(0).minimum(last)
            low = torch.minimum(place.floor(), last - 1)
            result[mixed] = _voted(data, low.long(), place - low).to(result)
            out[slab] = result.to(data.dtype)
        return LabelMap(out, labels.affine, labels.names)

    def points(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Where points of the patient (LPS mm) lie in the copy: the inverse of the pull, to 0.001 mm.

        Points beyond the box move as the nearest point of its surface does.

        Raises
        ------
        InputError: a point that is not found, which a map that does not fold never has.
        """
        if len(points) == 0:
            return points
        affine = self.affine.to(points.device)
        axes, first = _axes(affine), affine[:3, 3]
        x = (points.to(torch.float64) - first) @ axes
        box = x.new_tensor([s * (n - 1) for s, n in zip(self.spacing, reversed(self.pull.shape[1:]), strict=True)])
        target = x.clamp_min(0).minimum(box)
        return (x + inverted(self.pull, self.push, self.spacing, target) - target) @ axes.T + first

    def mesh(self, mesh: Mesh) -> Mesh:
        """A surface of the copy."""
        return replace(mesh, vertices=self.points(mesh.vertices))

    def landmarks(self, landmarks: Landmarks) -> Landmarks:
        """Points of the copy."""
        return replace(landmarks, points=self.points(landmarks.points))

    def _require(self, what: Volume | LabelMap) -> None:
        if tuple(what.data.shape) != self.size or not torch.allclose(what.affine.cpu(), self.affine.cpu(), atol=1e-6):
            raise InputError("the deformation is of another grid", field="volume", remedy="make one for this scan's grid")

    def _places(self) -> Iterator[tuple[slice, Float[Tensor, "n H W 3"]]]:
        """Slab by slab, where the copy's voxels look in the original: (x, y, z) from -1 to 1 between the outermost centres."""
        d, h, w = self.size
        n = self.pull.shape[1]
        thick = max(1, _SLAB_VOXELS // (h * w))
        device = self.pull.device
        extent = [s * (m - 1) for s, m in zip(self.spacing, reversed(self.pull.shape[1:]), strict=True)]
        scaled = self.pull * (2 / self.pull.new_tensor(extent))[:, None, None, None]
        x, y, z = (torch.linspace(-1, 1, m, device=device) for m in (w, h, d))
        flat = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1)[None]
        for start in range(0, d, thick):
            slab = slice(start, min(start + thick, d))
            at = (z[slab] + 1) / 2 * (n - 1)
            low = at.floor().long().clamp_max(n - 2)
            t = (at - low)[:, None, None]
            planes = (scaled[:, low] * (1 - t) + scaled[:, low + 1] * t).transpose(0, 1)
            # not torch's interpolate, whose last bit depends on the number of threads
            fine = grid_sample(planes, flat.expand(len(planes), h, w, 2), mode="bilinear", align_corners=True)
            place = fine.permute(0, 2, 3, 1).contiguous()
            place[..., 0] += x
            place[..., 1] += y[:, None]
            place[..., 2] += z[slab, None, None]
            yield slab, place


def node_shape(like: Volume | LabelMap, config: DeformationConfig) -> tuple[int, int, int]:
    """(d, h, w) of the nodes for a scan: about ``node_mm`` apart, at least four along each axis."""
    x, y, z = (max(4, round(e / config.node_mm) + 1) for e in _extent(like))
    return z, y, x


def anchors_for(labels: LabelMap, config: DeformationConfig) -> Anchors | None:
    """The labels that ``config.rigid`` names, on the nodes of a deformation of this scan; None where it names none."""
    return Anchors.of(labels, node_shape(labels, config), config.rigid) if config.rigid else None


def _extent(like: Volume | LabelMap) -> tuple[float, float, float]:
    x, y, z = ((n - 1) * float(s) for n, s in zip(reversed(like.data.shape), like.affine[:3, :3].norm(dim=0), strict=True))
    return x, y, z


def _axes(affine: Tensor) -> Float[Tensor, "3 3"]:
    """Unit vectors of the grid's axes as columns."""
    axes = affine[:3, :3] / affine[:3, :3].norm(dim=0)
    if float((axes.T @ axes - torch.eye(3, dtype=axes.dtype, device=axes.device)).abs().max()) > 1e-4:
        raise InputError("the voxel grid is sheared", field="affine", remedy="resample the scan to a rectangular grid")
    return axes


def _at_borders(labels: Tensor) -> Tensor:
    """Voxels that are a corner of a cell of eight whose labels differ."""
    one = torch.zeros([n - 1 for n in labels.shape], dtype=torch.bool, device=labels.device)
    d, h, w = one.shape
    corners = [(slice(z, z + d), slice(y, y + h), slice(x, x + w)) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    for corner in corners[1:]:
        one |= labels[corner] != labels[corners[0]]
    out = torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    for corner in corners:
        out[corner] |= one
    return out


def _voted(data: Tensor, low: Tensor, t: Tensor) -> Tensor:
    """The label with most trilinear weight of the eight voxels from ``low`` on; equal weights go to the first voxel's."""
    i, j, k = low.unbind(-1)
    found, weight = [], []
    for z in (0, 1):
        for y in (0, 1):
            for x in (0, 1):
                found.append(data[k + z, j + y, i + x])
                wx, wy, wz = (t[:, a] if bit else 1 - t[:, a] for a, bit in enumerate((x, y, z)))
                weight.append(wx * wy * wz)
    labels, weights = torch.stack(found), torch.stack(weight)
    shares = torch.stack([(weights * (labels == one)).sum(0) for one in labels])
    return labels.gather(0, shares.argmax(0, keepdim=True))[0]
