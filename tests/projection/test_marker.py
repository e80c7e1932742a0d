"""A marker's image lies where ``View.project`` says its centre falls."""

from __future__ import annotations

import random

import pytest
import torch

from raylign import Rigid, View, Volume, project
from raylign.geometry import se3

D = torch.float64


@pytest.mark.parametrize("seed", range(40))
def test_the_rendering_of_a_marker_lies_under_its_projection(seed: int) -> None:
    r = random.Random(seed)
    primary, secondary = r.uniform(-180, 180), r.uniform(-90, 90)
    spacing = (r.uniform(0.15, 0.4), r.uniform(0.15, 0.4))
    view = View.from_carm(
        primary=primary,
        secondary=secondary,
        sid=r.uniform(950, 1250),
        sod=r.uniform(550, 800),
        pixel_spacing=spacing,
        shape=(1500, 1500),
    )
    pose = Rigid(se3.exp(torch.tensor([r.gauss(0, 0.5) for _ in range(3)] + [r.gauss(0, 10) for _ in range(3)], dtype=D)))
    # one voxel, anywhere in an oblique grid of three pitches
    shape = (7, 8, 9)
    index = torch.tensor([r.randint(2, n - 3) for n in (9, 8, 7)])
    data = torch.zeros(shape)
    data[index[2], index[1], index[0]] = 1.0
    pitch = torch.tensor([r.uniform(0.8, 2.5) for _ in range(3)], dtype=D)
    turn = se3.exp(torch.tensor([r.gauss(0, 0.7) for _ in range(3)] + [0, 0, 0], dtype=D))[:3, :3]
    affine = se3.from_parts(turn @ torch.diag(pitch), torch.tensor([r.uniform(-40, 40) for _ in range(3)], dtype=D))
    marker = se3.transform(affine, index[None].to(D))
    expected = view.project(pose.apply(marker))[0]

    # render the neighbourhood alone, then flip and turn it as an exposure may come
    column, row = (int(x) for x in expected.round())
    reach = int(2.5 * 2.5 / min(spacing) * 2.3)
    view = view.crop(slice(max(row - reach, 0), row + reach + 1), slice(max(column - reach, 0), column + reach + 1))
    view = view.flip(columns=seed % 2 == 0).rotate(seed % 4)
    expected = view.project(pose.apply(marker))[0]
    image = project(Volume(data, affine), view, pose, step=0.2)[0, 0].to(D)
    assert float(image.sum()) > 0
    assert float(image[[0, -1]].abs().max()) == 0 and float(image[:, [0, -1]].abs().max()) == 0  # all of it is in the picture
    # The centroid is the projection of the centre to second order in (voxel / distance): below 1e-3 pixels here.
    h, w = view.shape
    centroid = torch.stack([(image.sum(0) * torch.arange(w)).sum(), (image.sum(1) * torch.arange(h)).sum()]) / image.sum()
    assert float((centroid - expected).abs().max()) < 0.05


def test_a_marker_shows_itself_at_every_scale() -> None:
    """Where the half pixel of a resampled view is forgotten, the marker is five pixels off at 1/11 scale."""
    view = View.from_carm(primary=15, secondary=-10, sid=1000, sod=650, pixel_spacing=0.3, shape=(1100, 1100))
    k, j, i = torch.meshgrid(*(torch.arange(41, dtype=D) for _ in range(3)), indexing="ij")
    width = 4.0
    data = torch.exp(-((i - 20) ** 2 + (j - 20) ** 2 + (k - 20) ** 2) / (2 * width**2)).float()
    affine = torch.eye(4, dtype=D)
    affine[:3, 3] = torch.tensor([5.0, -40.0, 20.0], dtype=D)
    marker = affine[:3, 3] + 20
    for scale in (2, 4, 11):
        small = view.resample((1100 // scale, 1100 // scale))
        expected = small.project(marker[None])[0]
        column, row = (int(x) for x in expected.round())
        reach = int(4.5 * width * 1.7 / (0.3 * scale)) + 3
        near = small.crop(slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1))
        image = project(Volume(data, affine), near)[0, 0].to(D)
        steps = torch.arange(2 * reach + 1)
        centroid = torch.stack([(image.sum(0) * steps).sum(), (image.sum(1) * steps).sum()]) / image.sum()
        assert float((centroid - near.project(marker[None])[0]).abs().max()) < 0.05
