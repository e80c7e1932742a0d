"""OpenCV projects the points of a volume to where ``View.project`` does, from what ``export`` hands it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from raylign import Rigid, View
from raylign.geometry import convert, se3

cv2 = pytest.importorskip("cv2")

D = torch.float64


@pytest.mark.parametrize("seed", range(30))
def test_project_points(seed: int) -> None:
    r = random.Random(seed)
    view = View.from_carm(
        primary=r.uniform(-180, 180), secondary=r.uniform(-90, 90), sid=1100, sod=700, pixel_spacing=(0.3, 0.4), shape=(100, 121)
    ).crop(slice(r.randint(0, 30), None), slice(r.randint(0, 30), None))
    view = view.flip(columns=seed % 3 == 0)
    pose = Rigid(se3.exp(torch.tensor([r.gauss(0, 0.5) for _ in range(3)] + [r.gauss(0, 40) for _ in range(3)], dtype=D)))
    out = convert.export(view, pose, "opencv")
    points = (torch.rand(40, 3, dtype=D, generator=torch.Generator().manual_seed(seed)) - 0.5) * 200
    pixels, _ = cv2.projectPoints(points.numpy(), np.array(out["rvec"]), np.array(out["t"]), np.array(out["K"]), None)
    pixels = pixels[:, 0]
    if out["mirrored"]:
        pixels[:, 0] = view.shape[1] - 1 - pixels[:, 0]
    assert np.abs(pixels - view.project(pose.apply(points)).numpy()).max() < 1e-6
    # and its rotation vectors are the ones that we take
    back = convert.from_opencv(out["K"], out["rvec"], out["t"], view.shape, sdd=out["sdd"], mirrored=out["mirrored"])
    assert back.transformed(pose.matrix).isclose(view, 1e-6)


def test_the_image_that_opencv_sees_is_the_flipped_one() -> None:
    """Undistorting with OpenCV's pixel grid and flipping with numpy: the same pixel of the same image."""
    view = View.from_carm(primary=20, secondary=10, sid=1100, sod=700, pixel_spacing=2.0, shape=(40, 50))
    camera = convert.to_opencv(view)
    assert camera.mirrored
    image = np.zeros((40, 50), np.uint8)
    image[7, 11] = 1
    row, column = np.argwhere(np.fliplr(image) == 1)[0]
    point = view.pixel_centres()[7, 11] * 0.5 + view.source * 0.5
    rvec, _ = cv2.Rodrigues(camera.R.numpy())
    pixel, _ = cv2.projectPoints(point.numpy()[None], rvec, camera.t.numpy(), camera.K.numpy(), None)
    assert pixel[0, 0] == pytest.approx([column, row], abs=1e-8)
