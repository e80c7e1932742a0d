"""DiffDRR renders the same image, and projects points to the same pixels, from what our converter hands it."""

from __future__ import annotations

import pytest
import torch

from raylign import project
from raylign.geometry import convert
from tests.peers.rendering import random_case, ras_affine, relative_rms, smooth_phantom

pytest.importorskip("diffdrr", reason="pip install diffdrr")
tio = pytest.importorskip("torchio")
from diffdrr.data import read  # noqa: E402
from diffdrr.drr import DRR  # noqa: E402
from diffdrr.pose import RigidTransform  # noqa: E402


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_images_and_points_agree(seed: int, centred: bool) -> None:
    volume = smooth_phantom()
    view, pose = random_case(seed, flips=True)
    camera = convert.to_diffdrr(view, pose, volume.centre if centred else None)
    assert camera.orientation == ("AP" if seed % 2 == 0 else "PA")
    image = tio.ScalarImage(tensor=volume.data.permute(2, 1, 0)[None], affine=ras_affine(volume))
    subject = read(image, orientation=camera.orientation, center_volume=centred)
    subject.density.set_data(image.data)  # our attenuation, not what it makes of Hounsfield units
    height, width = camera.shape
    drr = DRR(
        subject,
        camera.sdd,
        height,
        camera.delx,
        width,
        camera.dely,
        camera.x0,
        camera.y0,
        reverse_x_axis=camera.reverse_x_axis,
        renderer="trilinear",
    )
    extrinsic = RigidTransform(camera.matrix.float())
    theirs = drr(extrinsic, n_points=400)[0, 0]
    assert relative_rms(project(volume, view, pose)[0, 0], theirs) < 0.01
    points = (torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5) * 150
    ras = points * torch.tensor([-1.0, -1.0, 1.0])
    if centred:
        ras = ras - volume.centre * torch.tensor([-1.0, -1.0, 1.0])
    pixels = drr.perspective_projection(extrinsic, ras[None].float())[0] - 0.5  # it counts from the first pixel's corner
    assert float((pixels - view.project(pose.apply(points))).abs().max()) < 1e-3  # single precision
