"""How well a pose can be known from an exposure at all: the Cramér-Rao bound of its quantum noise.

An exposure of expected log image ``m(x)``, x the six numbers of a pose, with Gaussian noise of covariance C, holds the Fisher
information ``F = J^T C^-1 J`` about them, J the derivative of m by x. No unbiased method has a smaller covariance than F^-1
(Cramér 1946, Rao 1945; for images of X-rays see Barrett and Myers, Foundations of Image Science, 2004, chapter 13). Measured
variance over that bound is how far a method is from perfect: one is the limit of the dose.

The chain that is assumed, n the photons that a pixel's area detects, s the part of them that is not scattered, h the slope of
-log(primary) by the line integral I, B the spread of light, e the read-out noise in photons:

    m = -log(B n)      J = B (n s h dI/dx) / (B n)      C = (B diag(n) B^T + diag(e^2)) / (B n)(B n)^T

Light spreads the noise as it spreads the signal: without read-out noise B drops out of F altogether, and only where it would be
taken for a blur of the signal alone does it cost anything. What else is unknown (an offset, a gain, a slowly varying field) are
further columns of J, which are solved for and left out: each makes the bound larger, never smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.evaluation.metrics import view_axes
from raylign.geometry import Rigid, View
from raylign.registration.matching import MatchConfig, render, voxel_rays
from raylign.registration.pyramid import content, model_pyramid, plain_level

_Array = NDArray[np.float64]
_WHOLE = ((False, False),) * 3
_TIGHT = 1e-6  # relative residual at which the noise's covariance counts as inverted


@dataclass(frozen=True, eq=False)
class Light:
    """What an exposure is expected to count.

    Parameters
    ----------
    photons: [H, W] detected in each pixel's area, scattered ones included, before light spreads. A detector that adds up energy
        is as noisy as one that counts ``(sum w n)^2 / sum w^2 n`` photons: give those.
    primary: share of them that was not scattered, one number or [H, W].
    hardening: slope of ``-log(primary)`` by the line integral that is rendered, one number or [H, W]; 1 for one energy.
    electronic: standard deviation of the read-out noise, photons.
    blur: standard deviation of the spread of light, pixels; it spreads signal and noise alike.

    Raises
    ------
    InputError: photons that are not positive, a share outside 0 to 1, negative noise or blur.
    """

    photons: Float[Tensor, "H W"]
    primary: float | Float[Tensor, "H W"] = 1.0
    hardening: float | Float[Tensor, "H W"] = 1.0
    electronic: float = 0.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        photons = torch.as_tensor(self.photons, dtype=torch.float64)
        if photons.ndim != 2 or not bool(torch.isfinite(photons).all()) or not bool((photons > 0).all()):
            raise InputError("expected photons are positive numbers [H, W]", field="photons")
        share = torch.as_tensor(self.primary, dtype=torch.float64)
        if not bool(((share >= 0) & (share <= 1)).all()):
            raise InputError("the share of primary photons is not within 0 to 1", field="primary")
        for name in ("electronic", "blur"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{getattr(self, name)} is negative or infinite", field=name)
        object.__setattr__(self, "photons", photons)


@dataclass(frozen=True, eq=False)
class Bound:
    """The least covariance of a pose that is estimated without bias from one exposure, or from several.

    Parameters
    ----------
    information: [6, 6] Fisher information of the twist (rotation rad, translation mm, world axes) about ``centre``, as
        ``Result.covariance`` is about ``Result.centre``.
    centre: [3] world mm.
    view: whose axes "in plane" and "depth" refer to; of several exposures the first.
    """

    information: Float[Tensor, "6 6"]
    centre: Float[Tensor, "3"]
    view: View

    @property
    def covariance(self) -> Float[Tensor, "6 6"]:
        """Of the twist, world axes, rad and mm.

        Raises
        ------
        InputError: the exposure tells nothing of some direction: no pixel is looked at, or the model shows nowhere.
        """
        inverse, wrong = torch.linalg.inv_ex(self.information)
        if int(wrong) or not bool(torch.isfinite(inverse).all()):
            raise InputError(
                "the exposure does not determine the pose: its information is singular",
                field="information",
                remedy="look at pixels in which the model shows, or add another exposure",
            )
        return inverse

    @property
    def camera(self) -> Float[Tensor, "6 6"]:
        """The covariance along image horizontal, image vertical and the ray through the centre, rad and mm."""
        axes = view_axes(self.view, self.centre)
        turn = torch.block_diag(axes, axes)
        return turn @ self.covariance @ turn.T

    @property
    def in_plane(self) -> float:
        """Root mean square of the shift across the ray through the centre, mm: of both directions together."""
        return float(self.camera.diagonal()[3:5].sum().sqrt())

    @property
    def depth(self) -> float:
        """One standard deviation along the ray through the centre, mm."""
        return float(self.camera.diagonal()[5].sqrt())

    @property
    def rotation(self) -> tuple[float, float, float]:
        """One standard deviation about image horizontal, image vertical and the ray, degrees."""
        x, y, z = torch.rad2deg(self.camera.diagonal()[:3].sqrt()).tolist()
        return x, y, z

    def mtre(self, points: Float[Tensor, "n 3"], draws: int = 2048) -> float:
        """Expected mean target registration error of targets in world mm; to about a percent, always the same draws."""
        return float(self._displaced(points, draws).norm(dim=-1).mean())

    def mrpd(self, points: Float[Tensor, "n 3"], draws: int = 2048) -> float:
        """Expected mean reprojection distance in the first view, mm; as ``metrics.mrpd`` where errors are small."""
        moved = self._displaced(points, draws)
        ray = self.view.directions(torch.as_tensor(points, dtype=torch.float64)).detach()
        return float((moved - (moved * ray).sum(-1, keepdim=True) * ray).norm(dim=-1).mean())

    def _displaced(self, points: Tensor, draws: int) -> Float[Tensor, "d n 3"]:
        """How far errors drawn from the bound move points."""
        normal = torch.randn(draws, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        twists = normal @ torch.linalg.cholesky(self.covariance).T
        arm = torch.as_tensor(points, dtype=torch.float64) - self.centre
        return torch.linalg.cross(twists[:, None, :3].expand(-1, len(arm), -1), arm.expand(draws, -1, -1)) + twists[:, None, 3:]


def together(bounds: Sequence[Bound]) -> Bound:
    """The bound of several exposures of one and the same pose: what they tell adds up.

    Raises
    ------
    InputError: none, or bounds about different centres.
    """
    if not bounds:
        raise InputError("no bound was given", field="bounds")
    if any(not torch.allclose(b.centre, bounds[0].centre, atol=1e-6) for b in bounds):
        raise InputError("the bounds turn about different centres", field="bounds", remedy="compute them at one pose")
    total = torch.stack([b.information for b in bounds]).sum(0)
    return replace(bounds[0], information=total)


def pose_jacobian(
    volume: Volume, view: View, pose: Rigid, step: float = 0.5
) -> tuple[Float[Tensor, "H W"], Float[Tensor, "6 H W"], Float[Tensor, "3"]]:
    """Line integrals of a volume, their derivatives by the pose, and the point about which it turns.

    Parameters
    ----------
    volume: any unit; HU become attenuation at 70 keV. It vanishes outside.
    view: a cone, world mm.
    pose: ``T_world_from_volume``.
    step: between samples on a ray, in voxels of the finest direction.

    Returns
    -------
    (integrals, jacobian, centre): no unit; per radian and per mm of the twist (rotation, translation, world axes) about the
    centre, world mm: dI/dv = -S0, dI/dw = -((s - c) x S0 + d x S1), float32.
    """
    size = np.array(volume.data.shape[::-1])
    fine = model_pyramid(replace(volume, truncated=_WHOLE), (np.zeros(3, np.int64), size), [0.0])[0]
    matrix = pose.matrix.numpy()
    pitch = float(np.linalg.norm(fine.affine[:3, :3], axis=0).min())
    image = plain_level(view, np.ones(view.shape, np.bool_))
    rendering = render(fine, [image], matrix, MatchConfig(step=step * pitch / fine.spacing))
    slopes = rendering.slopes[0]
    assert slopes is not None
    _, voxel_from_world = voxel_rays(fine, image, matrix)
    value = rendering.integrals[0][..., None]
    rows, columns = np.mgrid[: view.shape[0], : view.shape[1]]
    ray = image.steps[0] + columns[..., None] * image.steps[1] + rows[..., None] * image.steps[2]
    near, far = slopes[..., :3] @ voxel_from_world[:3, :3], slopes[..., 3:] @ voxel_from_world[:3, :3]
    # the component along the ray is known: the volume vanishes at both ends
    square = (ray**2).sum(-1, keepdims=True)
    near = near - (near * ray).sum(-1, keepdims=True) / square * ray
    far = far - ((far * ray).sum(-1, keepdims=True) + value) / square * ray
    # about the centre of what the volume holds, as a registration's covariance is
    first, extent = content(volume)
    centre = (matrix @ fine.affine @ np.array([*(first + (extent - 1) / 2), 1.0]))[:3]
    turned = np.cross(np.broadcast_to(image.source - centre, near.shape), near) + np.cross(ray, far)
    jacobian = -np.concatenate([turned, near], -1) * image.lengths[..., None]
    return (
        torch.from_numpy(rendering.integrals[0] * image.lengths),
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(jacobian, -1, 0)).astype(np.float32)),
        torch.from_numpy(centre),
    )


def information(
    jacobian: Float[Tensor, "K H W"],
    light: Light,
    mask: Bool[Tensor, "H W"] | None = None,
    nuisance: Float[Tensor, "L H W"] | None = None,
) -> Float[Tensor, "K K"]:
    """Fisher information of K numbers on which a line-integral image depends.

    Parameters
    ----------
    jacobian: derivative of the line integrals by them.
    light: what the exposure counts.
    mask: pixels that are looked at; all where ``None``. Noise of neighbours outside still reaches them.
    nuisance: derivatives of the log image by what else is unknown: ones for an offset, the image for a gain.

    Raises
    ------
    InputError: shapes that differ; a spread of light that cannot be undone (much of it, no read-out noise, and a mask or
        nuisance).
    """
    shape = (int(light.photons.shape[0]), int(light.photons.shape[1]))
    inside = np.ones(shape, np.bool_) if mask is None else np.asarray(mask, np.bool_)
    if (
        tuple(jacobian.shape[1:]) != shape
        or inside.shape != shape
        or (nuisance is not None and tuple(nuisance.shape[1:]) != shape)
    ):
        raise InputError("jacobian, photons, mask and nuisance differ in shape", field="jacobian")
    photons = light.photons.numpy()
    if light.electronic == 0 and nuisance is None and inside.all():
        # the spread of light drops out: C^-1 = B^-T diag(1/n) B^-1, up to the same factors as in J
        light = replace(light, blur=0.0)
    spread = _Spread(shape, light.blur)
    seen = spread(photons)
    weight = photons * np.asarray(light.primary, float) * np.asarray(light.hardening, float)
    columns = [spread(weight * j) / seen for j in jacobian.numpy().astype(np.float64)]
    if nuisance is not None:
        columns += list(np.asarray(nuisance, np.float64))
    stacked = np.stack([np.where(inside, c, 0.0) for c in columns])
    if light.blur == 0:
        weighted = stacked * (inside * seen**2 / (photons + light.electronic**2))
    else:
        # C is what noise looks like after the spread; its inverse is applied by conjugate gradients
        def covariance(x: _Array) -> _Array:
            y = x / seen
            return np.where(inside, (spread(photons * spread.adjoint(y)) + light.electronic**2 * y) / seen, 0.0)

        diagonal = inside * seen**2 / (photons * spread.energy + light.electronic**2)
        weighted = np.stack([_solved(covariance, c, diagonal) for c in stacked])
    flat = stacked.reshape(len(stacked), -1)
    whole = flat @ weighted.reshape(len(stacked), -1).T
    whole = (whole + whole.T) / 2
    k = len(jacobian)
    if len(whole) > k:  # what is left of the information once the rest is solved for (Schur complement)
        whole = whole[:k, :k] - whole[:k, k:] @ np.linalg.pinv(whole[k:, k:], hermitian=True) @ whole[k:, :k]
    return torch.from_numpy(np.ascontiguousarray(whole))


def bound(
    volume: Volume,
    view: View,
    pose: Rigid,
    light: Light,
    mask: Bool[Tensor, "H W"] | None = None,
    nuisance: Float[Tensor, "L H W"] | None = None,
) -> Bound:
    """The Cramér-Rao bound of one exposure of a volume; arguments as for ``pose_jacobian`` and ``information``.

    Raises
    ------
    InputError: photons, mask or nuisance of another shape than the view's.
    """
    _, jacobian, centre = pose_jacobian(volume, view, pose)
    return Bound(information(jacobian, light, mask, nuisance), centre, view)


class _Spread:
    """Convolution with a Gaussian of ``blur`` pixels, the image continued by its border; the identity where it is zero."""

    def __init__(self, shape: tuple[int, int], blur: float) -> None:
        self.blur, self.edge = blur, int(np.ceil(4 * blur)) + 1
        size = (shape[0] + 2 * self.edge, shape[1] + 2 * self.edge)
        square = np.fft.fftfreq(size[0])[:, None] ** 2 + np.fft.rfftfreq(size[1])[None] ** 2
        self.size, self.transfer = size, np.exp(-2 * (np.pi * blur) ** 2 * square)
        full = np.fft.fftfreq(size[0])[:, None] ** 2 + np.fft.fftfreq(size[1])[None] ** 2
        self.energy = float(np.exp(-4 * (np.pi * blur) ** 2 * full).mean())

    def __call__(self, image: _Array) -> _Array:
        if self.blur == 0:
            return image
        wide = np.pad(image, self.edge, mode="edge")
        out: _Array = np.fft.irfft2(np.fft.rfft2(wide) * self.transfer, s=self.size)
        return out[self.edge : -self.edge, self.edge : -self.edge]

    def adjoint(self, image: _Array) -> _Array:
        """The transposed matrix: what reaches past the border is added to the border."""
        if self.blur == 0:
            return image
        e = self.edge
        out: _Array = np.fft.irfft2(np.fft.rfft2(np.pad(image, e)) * self.transfer, s=self.size)
        rows = out[e:-e].copy()
        rows[0] += out[:e].sum(0)
        rows[-1] += out[-e:].sum(0)
        inner = rows[:, e:-e].copy()
        inner[:, 0] += rows[:, :e].sum(1)
        inner[:, -1] += rows[:, -e:].sum(1)
        return inner


def _solved(apply, right: _Array, diagonal: _Array, most: int = 2000) -> _Array:  # type: ignore[no-untyped-def]
    """``apply(x) = right`` by conjugate gradients, preconditioned with ``diagonal``; InputError where that does not end."""
    x = np.zeros_like(right)
    r = right.copy()
    z = diagonal * r
    p, rho = z, float((r * z).sum())
    target = _TIGHT**2 * rho
    for _ in range(most):
        if rho <= target:
            return x
        q = apply(p)
        alpha = rho / float((p * q).sum())
        x += alpha * p
        r -= alpha * q
        z = diagonal * r
        rho, before = float((r * z).sum()), rho
        p = z + (rho / before) * p
    raise InputError(
        f"the noise's covariance could not be inverted: after {most} steps {(rho * _TIGHT**2 / target) ** 0.5:.1g} is left",
        field="blur",
        remedy="give the read-out noise, or a smaller spread of light",
    )
