"""From a registration to what its report shows: rendered exposures, one sheet of overlays, points on the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.evaluation import overlay
from raylign.evaluation.content import Exposure
from raylign.geometry import View
from raylign.projection import project
from raylign.registration.problem import Problem
from raylign.registration.result import Result

Covered = Callable[[Volume, View, Float[Tensor, "4 4"]], Bool[Tensor, "H W"]]


def rendered(problem: Problem, result: Result, covered: Covered | None = None, longest: int = 400) -> tuple[Exposure, ...]:
    """The problem's exposures with the model at the start and at the end, rendered to at most ``longest`` pixels a side.

    ``covered(model, view, pose)`` says where a ray passes nothing but what the model shows; everywhere if not given.
    """
    poses = torch.stack([result.start.matrix, result.transform.matrix])
    out = []
    for xray in problem.xrays:
        h, w = xray.view.shape
        scale = min(1.0, longest / max(h, w))
        view = xray.view.resample((max(1, round(h * scale)), max(1, round(w * scale))))
        with torch.no_grad():
            start, end = project(problem.model, view, poses, step=min(problem.model.spacing))[:, 0]
        whole = (None, None) if covered is None else tuple(covered(problem.model, view, pose) for pose in poses)
        out.append(Exposure(xray.name, xray.view, xray.image, start, end, xray.mask, *whole))
    return tuple(out)


def sheet(exposures: Sequence[Exposure], longest: int = 640) -> overlay.Picture:
    """The content of ``overlay.png``: a row an exposure; contours before, contours after, checkerboard after."""
    rows = []
    for e in exposures:
        shape = overlay.display_shape(e.view.shape, e.view.pixel_spacing, longest)
        mask = None if e.mask is None else overlay.resized_mask(e.mask, shape)
        fixed, start, end = (overlay.resized(i, shape) for i in (e.fixed, e.moving_at_start, e.moving_at_end))
        at_start, at_end = (overlay.valid_mask(mask, c, shape) for c in (e.covered_at_start, e.covered_at_end))
        base = overlay.radiograph(fixed, mask)
        lines = [
            overlay.contours(moving, valid, sigma=overlay.line_sigma(rendered_at.shape, shape))
            for moving, valid, rendered_at in ((start, at_start, e.moving_at_start), (end, at_end, e.moving_at_end))
        ]
        before, after = (overlay.painted(base, c, colour) for c, colour in zip(lines, (overlay.START, overlay.END), strict=True))
        rows.append(
            _framed([_titled(before, "before", overlay.START), _titled(after, "after", overlay.END), _board(fixed, end, at_end)])
        )
    width = max(r.shape[1] for r in rows)
    return np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0))) for r in rows])


def _board(fixed: overlay.Image, moving: overlay.Image, mask: overlay.Mask | None) -> overlay.Picture:
    return _titled(overlay.checkerboard(fixed, moving, mask), "X-ray and model in turn", (255, 255, 255))


def _framed(panels: Sequence[overlay.Picture], gap: int = 6) -> overlay.Picture:
    return np.concatenate([np.pad(p, ((gap // 2, gap // 2), (gap // 2, gap // 2), (0, 0))) for p in panels], axis=1)


def _titled(picture: overlay.Picture, title: str, colour: tuple[int, int, int]) -> overlay.Picture:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    size = max(12, picture.shape[1] // 32)
    place = (size // 2, picture.shape[0] - round(1.7 * size))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(image).text(place, title, fill=colour, font=font, stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(image)


def surface_points(volume: Volume, count: int = 200) -> Float[Tensor, "n 3"]:
    """Up to ``count`` points on the volume's bone (or on what attenuates most) in volume LPS mm, the same ones every time.

    Voxels above 250 HU, or above half the 99.5th percentile of what is not empty, with a face neighbour below.

    Raises
    ------
    InputError: the volume is empty.
    """
    data = volume.decoded().data.detach()
    stride = max(1, round((data.numel() / 4e6) ** (1 / 3)))  # a few million voxels are enough to choose from
    small = data[::stride, ::stride, ::stride]
    threshold = 250.0
    inside = small > threshold
    if volume.unit != "HU" or not bool(inside.any()):
        positive = small[small > small.min()].float()
        if positive.numel() == 0:
            raise InputError("the volume has one value throughout and shows nothing", field="data")
        threshold = float(np.quantile(positive.numpy(), 0.995)) / 2
        inside = small > threshold
    core = inside.clone()
    for axis in range(3):
        for shift in (1, -1):
            core &= inside.roll(shift, axis)
    surface = (inside & ~core).nonzero()
    chosen = torch.randperm(len(surface), generator=torch.Generator().manual_seed(0))[:count]
    index = (surface[chosen] * stride).flip(1).to(torch.float64)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
