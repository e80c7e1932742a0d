"""Transforms that move pixels, and with them views, points, segments and masks.

An image that is moved within its plane is still an exposure: of a detector whose first pixel lies elsewhere and whose steps are
others. ``views`` say so exactly; poses stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from raylign.errors import InputError
from raylign.geometry import View
from raylign.simulation.appearance.draws import Draws
from raylign.simulation.appearance.transform import Transform
from raylign.simulation.labelled import Labelled

Fill = Literal["edge", "zero"]


@dataclass(frozen=True)
class Flip(Transform):
    """Mirrors left to right and top to bottom, each with its probability."""

    columns: float = 0.5
    rows: float = 0.5

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        columns, rows = draws.uniform() < self.columns, draws.uniform() < self.rows
        h, w = batch.image.shape[1:]
        left_right, up_down = columns.tolist(), rows.tolist()
        views = tuple(
            view.flip(columns=c, rows=r) if c or r else view for view, c, r in zip(batch.views, left_right, up_down, strict=True)
        )

        def turned(pixels: Tensor) -> Tensor:
            one = (len(batch), *[1] * (pixels.ndim - 1))
            pixels = torch.where(columns.view(one), pixels.flip(-1), pixels)
            return torch.where(rows.view(one), pixels.flip(-2), pixels)

        c, r = batch.points.unbind(-1)
        c_turned, r_turned = (t.to(c.device)[:, None] for t in (columns, rows))
        points = torch.stack([torch.where(c_turned, w - 1 - c, c), torch.where(r_turned, h - 1 - r, r)], -1)
        return replace(
            batch,
            image=turned(batch.image),
            valid=turned(batch.valid),
            segments=turned(batch.segments),
            views=views,
            points=points,
        )


@dataclass(frozen=True)
class Affine2D(Transform):
    """Turns, shifts, scales and shears the image within its plane, about its middle.

    Parameters
    ----------
    degrees: of the turn, clockwise as displayed (from columns towards rows), uniform.
    shift: of the content along columns and along rows, as a share of the image's width and height, uniform.
    scale: magnification, log-uniform.
    shear: tangent of the angle between the rows and where they were, uniform.
    fill: what comes in from beyond the image: its nearest "edge", or "zero". It is not valid either way.
    """

    degrees: tuple[float, float] = (-10.0, 10.0)
    shift: tuple[float, float] = (-0.1, 0.1)
    scale: tuple[float, float] = (1.0, 1.0)
    shear: tuple[float, float] = (0.0, 0.0)
    fill: Fill = "edge"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale[0] <= 0:
            raise InputError(f"{self.scale[0]} is no scale", field="Affine2D.scale", remedy="give positive numbers")
        if self.fill not in ("edge", "zero"):
            raise InputError(f"no fill {self.fill!r}", field="Affine2D.fill", remedy='use "edge" or "zero"')

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        h, w = batch.image.shape[1:]
        turn = torch.deg2rad(draws.uniform(*self.degrees))
        size = torch.tensor([w, h], dtype=torch.float64, device=turn.device)
        shift = draws.uniform(*self.shift, shape=(2,)) * size
        scale, shear = draws.log_uniform(*self.scale), draws.uniform(*self.shear)
        c, s = torch.cos(turn), torch.sin(turn)
        # where a pixel of the old image comes to lie: forward (x - middle) + middle + shift
        forward = torch.stack([c, -s + c * shear, s, c + s * shear], -1).view(-1, 2, 2) * scale[:, None, None]
        middle = (size - 1) / 2
        # and, backwards, which old pixel a new one shows
        matrix = torch.linalg.inv(forward)
        offset = middle - (matrix @ (middle + shift)[..., None])[..., 0]
        return warped(batch, matrix, offset, self.fill)


@dataclass(frozen=True)
class Crop(Transform):
    """A part of ``shape`` (rows, columns) of the image, from anywhere in it; its middle where ``anywhere`` is false."""

    shape: tuple[int, int] = (128, 128)
    anywhere: bool = True
    reshapes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.shape) < 1:
            raise InputError(f"{self.shape} pixels", field="shape", remedy="give (rows, columns), each 1 or more")

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        (h, w), (nh, nw) = batch.image.shape[1:], self.shape
        if nh > h or nw > w:
            raise InputError(f"{nh} x {nw} pixels of an image of {h} x {w}", field="Crop.shape", remedy="crop to less")
        r0, c0 = draws.whole(0, h - nh), draws.whole(0, w - nw)
        if not self.anywhere:
            r0, c0 = torch.full_like(r0, (h - nh) // 2), torch.full_like(c0, (w - nw) // 2)
        rows = r0[:, None] + torch.arange(nh, device=r0.device)
        columns = c0[:, None] + torch.arange(nw, device=c0.device)

        def part(pixels: Tensor) -> Tensor:
            taken = pixels.gather(-2, _beside(rows[:, :, None], pixels).expand(*pixels.shape[:-2], nh, w))
            return taken.gather(-1, _beside(columns[:, None, :], pixels).expand(*pixels.shape[:-2], nh, nw))

        corners = zip(batch.views, r0.tolist(), c0.tolist(), strict=True)
        views = tuple(view.crop(slice(r, r + nh), slice(c, c + nw)) for view, r, c in corners)
        corner = torch.stack([c0, r0], -1).to(batch.points)[:, None]
        return replace(
            batch,
            image=part(batch.image),
            valid=part(batch.valid),
            segments=part(batch.segments),
            views=views,
            points=batch.points - corner,
        )


def _beside(index: Tensor, pixels: Tensor) -> Tensor:
    """[B, r, c] indices with as many axes as the pixels, [B, ..., H, W]."""
    return index.view(len(index), *[1] * (pixels.ndim - 3), *index.shape[1:])


@dataclass(frozen=True)
class Resize(Transform):
    """The same detector area divided into ``shape`` pixels (rows, columns), averaged where they grow larger."""

    shape: tuple[int, int] = (128, 128)
    reshapes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.shape) < 1:
            raise InputError(f"{self.shape} pixels", field="shape", remedy="give (rows, columns), each 1 or more")

    def apply(self, batch: Labelled, draws: Draws) -> Labelled:
        (h, w), (nh, nw) = batch.image.shape[1:], self.shape

        def sized(pixels: Tensor) -> Tensor:
            return interpolate(pixels, (nh, nw), mode="bilinear", align_corners=False, antialias=True)

        stack = torch.cat([batch.image[:, None], batch.valid[:, None].to(batch.image.dtype), batch.segments], 1)
        stack = sized(stack)
        scale = torch.tensor([nw / w, nh / h], dtype=torch.float64, device=batch.points.device)
        return replace(
            batch,
            image=stack[:, 0],
            valid=stack[:, 1] > _NEARLY,
            segments=stack[:, 2:],
            views=tuple(view.resample((nh, nw)) for view in batch.views),
            points=(batch.points + 0.5) * scale - 0.5,
        )


_NEARLY = 0.999  # a pixel is valid where next to nothing of it came from one that was not


def warped(batch: Labelled, matrix: Float[Tensor, "B 2 2"], offset: Float[Tensor, "B 2"], fill: Fill = "edge") -> Labelled:
    """Every image resampled such that its pixel x = (column, row) shows what the old one showed at ``matrix @ x + offset``."""
    h, w = batch.image.shape[1:]
    place = _places(matrix, offset, (h, w))
    normalised = 2 * place / torch.tensor([max(w - 1, 1), max(h - 1, 1)], dtype=place.dtype, device=place.device) - 1
    grid = normalised.to(batch.image.dtype)
    edge = "border" if fill == "edge" else "zeros"
    image = grid_sample(batch.image[:, None], grid, padding_mode=edge, align_corners=True)[:, 0]
    labels = torch.cat([batch.valid[:, None].to(image.dtype), batch.segments.to(image.dtype)], 1)
    labels = grid_sample(labels, grid, padding_mode="zeros", align_corners=True)
    inverse = torch.linalg.inv(matrix).to(batch.points)
    points = (batch.points - offset[:, None].to(batch.points)) @ inverse.mT
    m, o = matrix.tolist(), offset.tolist()
    views = tuple(_reindexed(view, m[i], o[i]) for i, view in enumerate(batch.views))
    inside = _inside(place, (h, w))
    return replace(
        batch, image=image, valid=(labels[:, 0] > _NEARLY) & inside, segments=labels[:, 1:], views=views, points=points
    )


def _places(matrix: Tensor, offset: Tensor, shape: tuple[int, int]) -> Float[Tensor, "B H W 2"]:
    h, w = shape
    c = torch.arange(w, dtype=matrix.dtype, device=matrix.device)
    r = torch.arange(h, dtype=matrix.dtype, device=matrix.device)
    m = matrix[:, None, None]
    return m[..., 0] * c[None, None, :, None] + m[..., 1] * r[None, :, None, None] + offset[:, None, None]


def _inside(place: Tensor, shape: tuple[int, int]) -> Bool[Tensor, "B H W"]:
    h, w = shape
    c, r = place.unbind(-1)
    return (c >= 0) & (c <= w - 1) & (r >= 0) & (r <= h - 1)


def _reindexed(view: View, matrix: list[list[float]], offset: list[float]) -> View:
    """The view whose pixel x lies where this one's pixel ``matrix @ x + offset`` does."""
    u, v = view.column_step, view.row_step
    shift = offset[0] * u + offset[1] * v
    return replace(
        view,
        source=view.source + shift if view.beam == "parallel" else view.source,
        origin=view.origin + shift,
        column_step=matrix[0][0] * u + matrix[1][0] * v,
        row_step=matrix[0][1] * u + matrix[1][1] * v,
    )
