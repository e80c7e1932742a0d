"""The step between samples that a requested integration error allows, found by measuring.

Equidistant samples of a trilinear interpolant integrate it with an error that falls with the square of the step, on the whole:
the interpolant has kinks at voxel planes, and rays cross them at all phases. How large it is depends on the volume and on the
direction of the rays. So it is measured, on rays spread evenly over where the volume shows, against samples at least four times
as dense.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.projection import operator
from raylign.projection.rays import default_step, ray_batch, ray_lengths, sample_counts
from raylign.projection.reference import six
from raylign.projection.storage import numbers

_SIDE = 20  # rays measured: this squared for each of so many images
_IMAGES = 8
_COARSEST, _FINEST = 4.0, 1 / 16  # steps tried, in voxel pitches; each is the one before over the square root of 2
_DENSER = 4  # so much denser, at least, are the samples that stand for the exact integral: they err by a sixteenth


def checked_error(error: float) -> float:
    """A requested relative error.

    Raises
    ------
    InputError: not between 0 and 1.
    """
    if not 0 < error < 1:
        raise InputError(f"{error} is no relative error between 0 and 1", field="error", remedy="ask for 0.001, say")
    return error


def step_within(
    error: float, volume: Volume, views: View | Sequence[View], matrices: Float[Tensor, "P 4 4"] | None = None
) -> float:
    """The largest step, of those tried, at which the trilinear model integrates within a requested error.

    Parameters
    ----------
    error: relative: the root mean square, over rays, of the difference from the exact integral of the trilinear interpolant,
        over that of the integral.
    volume, views, matrices: as for ``project``; poses [P, 4, 4]. Of more than eight images, eight are measured, evenly chosen.

    Returns
    -------
    mm. Steps from four voxel pitches down to a sixteenth of one are tried, from coarse to fine in ratios of the square root of
    2, and the first is taken that keeps to the error on 20 x 20 rays of each image, spread over where the volume shows. So few
    rays leave what they say of an image uncertain, by about a tenth of the error. Always the same for the same arguments; half
    the pitch where no ray meets anything.

    Raises
    ------
    InputError: an error that is no number between 0 and 1, or that the finest step does not reach.
    """
    checked_error(error)
    many = (views,) if isinstance(views, View) else tuple(views)
    matrices = torch.eye(4, dtype=torch.float64)[None] if matrices is None else matrices
    pitch = 2 * float(default_step(volume))
    steps = [pitch * _COARSEST / 2 ** (i / 2) for i in range(1 + round(2 * math.log2(_COARSEST / _FINEST)))]
    with torch.no_grad():
        probe = _Probe(volume, many, matrices.detach())
        finest, exact = math.inf, None
        for step in steps:
            if exact is None or step < 0.999 * _DENSER * finest:
                finest = step / (2 * _DENSER)  # serves the next two as well
                exact = probe.image(finest)
                if not bool((exact != 0).any()):
                    return pitch / 2
            # the dense samples err too, by the square of the ratio of steps of what the others do
            found = probe.error(step, exact) / (1 - (finest / step) ** 2)
            if found <= error:
                return step
    raise InputError(
        f"an error of {error:g} is not reached: the finest step tried, {steps[-1]:.3g} mm, errs by {found:.2g}",
        field="error",
        remedy="ask for less, or use the siddon model, which is exact for voxels of constant value",
    )


class _Probe:
    """A few rays of several images, to be integrated with any step."""

    def __init__(self, volume: Volume, views: Sequence[View], matrices: Tensor) -> None:
        data, _ = numbers(volume)
        self.data = data.detach()
        pairs = [(view, matrix) for matrix in matrices for view in views]
        every = max(1, math.ceil(len(pairs) / _IMAGES))
        chosen = [(view, part, matrix) for view, matrix in pairs[every // 2 :: every] for part in _shown(volume, view, matrix)]
        self.views = [view for view, _, _ in chosen]
        rays = [ray_batch(volume.affine, (part,), m[None], data.device)[0] for _, part, m in chosen]
        if len({r.shape[1] for r in rays}) > 1:
            rays = [six(r) for r in rays]
        self.rays = torch.cat(rays) if rays else None
        # what an image of more pixels errs counts for more
        area = [math.sqrt(part.pixel_spacing[0] * part.pixel_spacing[1]) for _, part, _ in chosen]
        self.lengths = [
            ray_lengths((part,), data.device, torch.float64) * a for (_, part, _), a in zip(chosen, area, strict=True)
        ]

    def image(self, step: float) -> Tensor:
        """Integrals in mm, each weighted by the root of the detector area that its ray stands for."""
        if self.rays is None:
            return torch.zeros(1)
        samples = torch.cat([sample_counts((view,), step) for view in self.views]).to(self.data.device)
        return operator.integrals(self.data, self.rays, (_SIDE, _SIDE), samples) * torch.cat(self.lengths)

    def error(self, step: float, exact: Tensor) -> float:
        """Relative error, root mean square."""
        return float((self.image(step) - exact).norm() / exact.norm())


def _shown(volume: Volume, view: View, matrix: Tensor) -> list[View]:
    """The part of a view that the volume's grid covers, as ``_SIDE`` x ``_SIDE`` pixels; nothing where it shows nothing."""
    d, h, w = volume.data.shape
    corners = torch.tensor([[x, y, z] for x in (-1, w) for y in (-1, h) for z in (-1, d)], dtype=torch.float64)
    camera = view.camera.detach().cpu()
    homogeneous = se3.transform((matrix @ volume.affine.to(matrix.device)).cpu(), corners) @ camera[:, :3].T + camera[:, 3]
    rows, columns = view.shape
    low, high = [0, 0], [columns, rows]
    if bool((homogeneous[:, 2] > 0).all()):  # otherwise part of it is beside or behind the source, and shows anywhere
        at = homogeneous[:, :2] / homogeneous[:, 2:]
        low = [max(int(x), 0) for x in at.amin(0).floor().clamp(-1, 1e6)]
        high = [min(int(x) + 1, n) for x, n in zip(at.amax(0).ceil().clamp(-1, 1e6), high, strict=True)]
    if low[0] >= high[0] or low[1] >= high[1]:
        return []
    return [view.crop(slice(low[1], high[1]), slice(low[0], high[0])).resample((_SIDE, _SIDE))]
