"""Free-form deformations: a lattice of cubic B-spline control points whose map never folds.

The lattice is that of Rueckert et al. 1999 (IEEE Trans Med Imaging 18:712). Coefficients stay within 1 / 2.4795 of its spacing in
every component, which makes the map one-to-one with a positive Jacobian determinant everywhere (Choi and Lee 2000, Graphical
Models 62:411). The same map moves meshes, landmarks and scans. It is the direct way to vary a mesh on its own; for whole scans
whose bones must stay stiff there is ``deformation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from raylign.data import LabelMap, Landmarks, Mesh, Volume
from raylign.errors import InputError
from raylign.simulation.subject import Subject

INJECTIVE = 1 / 2.4795
"""Largest coefficient in units of the spacing for which the map cannot fold in three dimensions (Choi and Lee 2000)."""

_CHUNK = 1 << 17


@dataclass(frozen=True, eq=False)
class FreeForm:
    """A map of space: from a place of the deformed copy to the place of the original that is seen there (a pull).

    Parameters
    ----------
    first: [3] patient LPS mm of the first control point.
    spacing: of the control points, mm, the same along x, y and z.
    coefficients: [d, h, w, 3] displacements in mm of the control points, indexed by z, y, x. Beyond the lattice nothing moves.

    Raises
    ------
    InputError: coefficients so large that the map could fold, a spacing that is not positive.
    """

    first: Float[Tensor, "3"]
    spacing: float
    coefficients: Float[Tensor, "d h w 3"]

    def __post_init__(self) -> None:
        if self.coefficients.ndim != 4 or self.coefficients.shape[3] != 3 or not self.spacing > 0:
            raise InputError(f"coefficients of shape {tuple(self.coefficients.shape)}", field="coefficients")
        most = float(self.coefficients.abs().max()) if self.coefficients.numel() else 0.0
        if not most <= INJECTIVE * self.spacing:
            raise InputError(
                f"a control point moves by {most:.3g} mm on a lattice of {self.spacing:g} mm: the map could fold",
                field="coefficients",
                remedy=f"stay within {INJECTIVE * self.spacing:.3g} mm",
            )

    @staticmethod
    def random(low: Sequence[float], high: Sequence[float], spacing: float, sd_mm: float, generator: torch.Generator) -> FreeForm:
        """A random deformation of a box, which fades to nothing within one spacing and a half beyond it.

        Parameters
        ----------
        low, high: [3] patient LPS mm, the box.
        spacing: of the control points, mm: how far apart places are that move independently.
        sd_mm: standard deviation of each coefficient, at the most a third of the spacing; large draws are bounded smoothly.
        generator: the deformation is on its device.

        Raises
        ------
        InputError: a spread or a spacing out of range.
        """
        if not (0 <= sd_mm <= spacing / 3):
            raise InputError(
                f"{sd_mm:g} mm on a lattice of {spacing:g} mm", field="sd_mm", remedy="at most a third of the spacing"
            )
        a, b = torch.as_tensor(low, dtype=torch.float64), torch.as_tensor(high, dtype=torch.float64)
        if not bool((b > a).all()):
            raise InputError("the box holds nothing", field="low, high")
        count = [int(n) + 2 for n in ((b - a) / spacing).ceil().tolist()]
        drawn = torch.randn((*reversed(count), 3), generator=generator, dtype=torch.float64, device=generator.device) * sd_mm
        bound = 0.98 * INJECTIVE * spacing
        return FreeForm((a - spacing / 2).to(generator.device), spacing, bound * torch.tanh(drawn / bound))

    def to(self, device: str | torch.device) -> FreeForm:
        """The same map on a device."""
        return replace(self, first=self.first.to(device), coefficients=self.coefficients.to(device))

    def pull(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """The places of the original that are seen at places of the copy, mm."""
        points = points.to(torch.float64)
        parts = [self._moved(p, False)[0] for p in points.split(_CHUNK)]
        return torch.cat(parts) if parts else points

    def points(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Where points of the original lie in the copy: the inverse of ``pull``, by damped Newton steps, to 1e-6 mm."""
        points = points.to(torch.float64)
        parts = [self._inverse(p) for p in points.split(_CHUNK)]
        return torch.cat(parts) if parts else points

    def jacobian(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3 3"]:
        """Derivative of ``pull`` at places of the copy."""
        return self._moved(points.to(torch.float64), True)[1]

    def mesh(self, mesh: Mesh) -> Mesh:
        """The surface of the copy."""
        return replace(mesh, vertices=self.points(mesh.vertices))

    def landmarks(self, landmarks: Landmarks) -> Landmarks:
        """The points of the copy."""
        return replace(landmarks, points=self.points(landmarks.points))

    def volume(self, volume: Volume) -> Volume:
        """The copy's scan on the same grid, trilinear."""
        plain = volume.decoded()
        source = plain.data.to(torch.float32)[None, None]
        return replace(plain, data=self._sampled(source, plain.affine, "bilinear"))

    def labels(self, labels: LabelMap) -> LabelMap:
        """The copy's labels on the same grid, from the nearest voxel."""
        source = labels.data.to(torch.float32)[None, None]
        return replace(labels, data=self._sampled(source, labels.affine, "nearest").to(labels.data.dtype))

    def subject(self, subject: Subject, copy: int) -> Subject:
        """A deformed copy of a patient: scan, labels, landmarks and meshes moved alike; the id stays its parent's."""
        return replace(
            subject,
            volume=self.volume(subject.volume),
            labels=self.labels(subject.labels),
            landmarks=self.landmarks(subject.landmarks),
            meshes={name: self.mesh(mesh) for name, mesh in subject.meshes.items()},
            copy=copy,
        )

    def _moved(self, points: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        """Places pulled, [N, 3], and the derivative, [N, 3, 3] (empty unless asked for)."""
        u = (points - self.first) / self.spacing
        base = u.floor()
        t = u - base
        weight, rate = _basis(t), _basis_slope(t) / self.spacing
        shape = points.new_tensor(list(reversed(self.coefficients.shape[:3])))
        index = base.long()[:, None] + torch.arange(-1, 3, device=points.device)[None, :, None]  # [N, 4, 3]
        within = (index >= 0) & (index < shape)
        index = index.clamp_min(0).minimum((shape - 1).long())
        weight, rate = weight * within, rate * within
        nodes = self.coefficients[
            index[:, :, None, None, 2], index[:, None, :, None, 1], index[:, None, None, :, 0]
        ]  # [N, z, y, x, 3]
        wx, wy, wz = weight.unbind(2)
        along_x = torch.einsum("nzyxc,nx->nzyc", nodes, wx)
        out = points + torch.einsum("nzyc,ny,nz->nc", along_x, wy, wz)
        if not slope:
            return out, points.new_empty(0)
        gx = torch.einsum("nzyxc,nx,ny,nz->nc", nodes, rate[:, :, 0], wy, wz)
        gy = torch.einsum("nzyc,ny,nz->nc", along_x, rate[:, :, 1], wz)
        gz = torch.einsum("nzyc,ny,nz->nc", along_x, wy, rate[:, :, 2])
        return out, torch.stack([gx, gy, gz], 2) + torch.eye(3, dtype=points.dtype, device=points.device)

    def _inverse(self, points: Tensor) -> Tensor:
        guess = points - (self._moved(points, False)[0] - points)
        for _ in range(40):
            at, slope = self._moved(guess, True)
            off = at - points
            if float(off.abs().max()) < 1e-6:
                return guess
            step = torch.linalg.solve(slope, off[..., None])[..., 0]
            length = step.norm(dim=1, keepdim=True).clamp_min(1e-12)
            guess = guess - step * (0.5 * self.spacing / length).clamp_max(1.0)
        raise InputError("a point has no place in the copy", field="points", remedy="take smaller coefficients")

    def _sampled(self, source: Tensor, affine: Tensor, mode: str) -> Tensor:
        """[D, H, W] of [1, 1, D, H, W] at the pulled places of its own voxels, slab by slab."""
        d, h, w = source.shape[2:]
        inverse = torch.linalg.inv(affine)
        out = source.new_empty(d, h, w)
        i, j = torch.meshgrid(
            torch.arange(w, device=source.device, dtype=torch.float64),
            torch.arange(h, device=source.device, dtype=torch.float64),
            indexing="xy",
        )
        plane = torch.stack([i, j, torch.zeros_like(i)], -1).reshape(-1, 3)
        last = plane.new_tensor([w - 1, h - 1, d - 1])
        layers = self._layers(affine, (d, h, w))
        for k in range(d):
            places = (plane + plane.new_tensor([0, 0, k])) @ affine[:3, :3].T + affine[:3, 3]
            if layers is None:
                places = self.pull(places)
            else:
                places = places + torch.einsum("d,dhwc->hwc", layers[1][k], layers[0]).reshape(-1, 3)
            index = places @ inverse[:3, :3].T + inverse[:3, 3]
            at = (2 * index / last - 1).to(source.dtype).reshape(1, 1, h, w, 3)
            out[k] = grid_sample(source, at, mode=mode, padding_mode="border", align_corners=True)[0, 0, 0]
        return out

    def _layers(self, affine: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor] | None:
        """Where voxels run along x, y and z, the sum is taken one axis at a time: [d, H, W, 3] and weights [D, d]."""
        if not torch.equal(affine[:3, :3], torch.diag(affine[:3, :3].diagonal())):
            return None
        weights = []
        for axis, count in enumerate(reversed(shape)):
            x = torch.arange(count, dtype=torch.float64, device=affine.device) * affine[axis, axis] + affine[axis, 3]
            nodes = torch.arange(self.coefficients.shape[2 - axis], device=affine.device)
            weights.append(_bump((x[:, None] - self.first[axis]) / self.spacing - nodes))
        return torch.einsum("dhwc,yh,xw->dyxc", self.coefficients, weights[1], weights[0]), weights[2]


def _bump(u: Tensor) -> Tensor:
    """The cubic B-spline at u, zero beyond 2."""
    r = u.abs()
    near = 4 - 6 * r**2 + 3 * r**3
    return torch.where(r < 1, near, (2 - r).clamp_min(0) ** 3) / 6


def _basis(t: Tensor) -> Tensor:
    """The four cubic B-splines at fractions t [N, 3]: [N, 4, 3]."""
    s = 1 - t
    return torch.stack([s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3], 1) / 6


def _basis_slope(t: Tensor) -> Tensor:
    s = 1 - t
    return torch.stack([-3 * s**2, 9 * t**2 - 12 * t, -(9 * s**2 - 12 * s), 3 * t**2], 1) / 6
