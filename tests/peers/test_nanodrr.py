"""nanodrr renders the same image from what our converter hands it, without any flip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raylign import project
from raylign.geometry import convert
from tests.peers.rendering import random_case, ras_affine, real_ct, real_views, relative_rms, smooth_phantom

pytest.importorskip("nanodrr", reason="pip install nanodrr")
tio = pytest.importorskip("torchio")
from nanodrr.camera import invert_rt_inv, make_k_inv, make_rt_inv  # noqa: E402
from nanodrr.data import Subject  # noqa: E402
from nanodrr.drr import render  # noqa: E402


@pytest.mark.parametrize("seed", range(8))
def test_images_agree(seed: int) -> None:
    volume = smooth_phantom()
    view, pose = random_case(seed, flips=True)
    camera = convert.to_nanodrr(view, pose)
    image = tio.ScalarImage(tensor=volume.data.permute(2, 1, 0)[None], affine=ras_affine(volume))
    subject = Subject.from_images(image, convert_to_mu=False)
    k_inv, rt_inv = camera.k_inv[None].float(), camera.rt_inv[None].float()
    theirs = render(subject, k_inv, rt_inv, torch.tensor([camera.sdd]), *camera.shape, n_samples=400)[0, 0]
    assert relative_rms(project(volume, view, pose)[0, 0], theirs) < 0.005
    assert camera.orientation == ("AP" if seed % 2 == 0 else "PA")
    # their angles, taken out and put in again with the orientation that we name, give the same matrix
    angles = invert_rt_inv(camera.rt_inv[None], camera.orientation)
    assert float((make_rt_inv(*angles, camera.orientation)[0] - camera.rt_inv).abs().max()) < 1e-6


def test_their_intrinsics_are_ours() -> None:
    view, _ = random_case(3, flips=False)
    camera = convert.to_nanodrr(view)
    h, w = view.shape
    row, column = view.pixel_spacing
    x0, y0 = ((view.principal_point[0] - (w - 1) / 2) * column, (view.principal_point[1] - (h - 1) / 2) * row)
    theirs = make_k_inv(camera.sdd, column, row, float(x0), float(y0), h, w, dtype=torch.float64)[0]
    assert float((theirs - camera.k_inv).abs().max()) < 1e-12


@pytest.mark.parametrize("number", range(3))
def test_a_real_ct(number: int, shared: Path) -> None:
    volume = real_ct(shared)
    view, pose = real_views(volume)[number]
    camera = convert.to_nanodrr(view, pose)
    image = tio.ScalarImage(tensor=volume.data.permute(2, 1, 0)[None], affine=ras_affine(volume))
    subject = Subject.from_images(image, convert_to_mu=False)
    k_inv, rt_inv = camera.k_inv[None].float(), camera.rt_inv[None].float()
    theirs = render(subject, k_inv, rt_inv, torch.tensor([camera.sdd]), *camera.shape, n_samples=1000)[0, 0]
    # the same interpolant, and both falling to zero beyond the faces: single precision, samples at other places
    assert relative_rms(project(volume, view, pose, step=0.3)[0, 0], theirs) < 1e-4
    assert relative_rms(project(volume, view, pose)[0, 0], theirs) < 5e-4
