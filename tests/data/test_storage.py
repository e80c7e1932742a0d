"""Volumes in two bytes a voxel: what they lose, and that nobody takes their numbers for what they are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raylign import InputError, LabelMap, View, Volume, project, project_labels, read_volume
from raylign.data import restricted
from raylign.data.volume import STORAGE
from raylign.evaluation.gather import surface_points
from raylign.geometry import se3
from raylign.io.images_write import write_volume
from raylign.io.wording import volume_words
from raylign.registration.pyramid import native
from tests.projection.scene import smooth_volume, view

D = torch.float64
# of the largest voxel: half a unit of the last of 11 or 8 significant bits, half a step of 1/32767
_STEP = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.int16: 0.5 / 32767}
# of an image, root mean square: measured 4.5e-5, 4.2e-4 and 3.7e-5 on these small volumes, 9e-6, 8e-5 and 2e-6 on a chest CT,
# on whose rays many more rounding errors average out
_IMAGE = {torch.float16: 1e-4, torch.bfloat16: 1e-3, torch.int16: 1e-4}


def scan() -> Volume:
    """HU of a body in air, with bone."""
    blobs = smooth_volume(size=(20, 24, 28)).data
    return replace(smooth_volume(size=(20, 24, 28)), data=(blobs / 0.03 * 2500 - 1000).round(), unit="HU")


@pytest.mark.parametrize("dtype", STORAGE)
def test_what_storage_loses(dtype: torch.dtype) -> None:
    for plain in (smooth_volume(), scan().attenuation(), replace(smooth_volume(), data=1e6 * smooth_volume().data, unit="raw")):
        stored = plain.stored(dtype)
        assert stored.data.dtype == dtype and stored.unit == plain.unit and stored.scale is not None
        assert stored.data.element_size() == 2
        decoded = stored.decoded()
        assert decoded.scale is None and decoded.data.dtype == torch.float32
        lost = (decoded.data - plain.data).abs().max() / plain.data.max()
        assert 0 < float(lost) <= 1.01 * _STEP[dtype]


@pytest.mark.parametrize("dtype", STORAGE)
@pytest.mark.parametrize("model", ["trilinear", "joseph", "siddon"])
def test_it_is_rendered_as_it_is(dtype: torch.dtype, model: str) -> None:
    plain, pose = scan().attenuation(), se3.exp(torch.tensor([0.1, -0.2, 0.05, 3.0, -5.0, 8.0], dtype=D))
    stored = scan().stored(dtype)  # HU are converted on the way
    views = [view(), View.from_parallel(primary=40, pixel_spacing=4.0, shape=(24, 28), reach=90.0)]
    expected = project(plain, views, pose, model=model)
    image = project(stored, views, pose, model=model)
    assert image.dtype == torch.float32  # sums are not made in two bytes
    assert float((image - expected).norm() / expected.norm()) < _IMAGE[dtype]
    # what is lost was lost in storing: rendering adds nothing to it
    decoded = project(stored.decoded(), views, pose, model=model)
    assert float((image - decoded).norm() / decoded.norm()) < 1e-6


@pytest.mark.parametrize("dtype", STORAGE)
def test_poses_have_their_gradient_and_labels_their_channels(dtype: torch.dtype) -> None:
    plain, stored = smooth_volume(), smooth_volume().stored(dtype)
    slopes = []
    for volume in (plain, stored):
        twist = torch.tensor([0.1, -0.2, 0.05, 3.0, -5.0, 8.0], dtype=D, requires_grad=True)
        (project(volume, view(), se3.exp(twist)) * torch.arange(28)).sum().backward()
        assert twist.grad is not None
        slopes.append(twist.grad)
    assert torch.allclose(*slopes, rtol=5e-3, atol=5e-3 * float(slopes[0].abs().max()))
    labels = LabelMap((plain.data > 0.01).int(), plain.affine)
    channels = [project_labels(labels, view(), volume=volume) for volume in (plain, stored)]
    assert float((channels[1] - channels[0]).norm() / channels[0].norm()) < 10 * _IMAGE[dtype]


@pytest.mark.parametrize("dtype", STORAGE)
def test_every_reader_decodes(dtype: torch.dtype, tmp_path: Path) -> None:
    plain = scan().attenuation()
    stored = plain.stored(dtype)
    close = {"rtol": 0, "atol": 1.01 * _STEP[dtype] * float(plain.data.max())}
    assert torch.allclose(stored.attenuation().data, plain.data, **close)
    assert np.allclose(native(stored), plain.data.numpy(), **close)
    write_volume(stored, tmp_path / "v.nrrd")
    assert torch.allclose(read_volume(tmp_path / "v.nrrd", unit="1/mm").data, plain.data, **close)
    labels = LabelMap((plain.data > 0.03).int(), plain.affine, {1: "bone"})
    bone = restricted(stored, labels, ["bone"])
    assert bone.scale is None and torch.allclose(bone.data, restricted(plain, labels, ["bone"]).data, **close)
    assert torch.allclose(surface_points(stored, 50).mean(0), surface_points(plain, 50).mean(0), atol=3.0)
    said = dict(volume_words(stored)[0])["values"]
    assert said.endswith("1/mm (linear attenuation)") and float(said.split()[2]) == pytest.approx(
        float(plain.data.max()), rel=0.01
    )


def test_a_volume_of_zeros_can_be_stored() -> None:
    empty = replace(smooth_volume(), data=torch.zeros(4, 5, 6))
    for dtype in STORAGE:
        assert float(project(empty.stored(dtype), view()).abs().max()) == 0


def test_storing_is_idempotent_and_cuts_the_graph() -> None:
    data = smooth_volume().data.requires_grad_()
    stored = replace(smooth_volume(), data=data).stored(torch.float16)
    assert not stored.data.requires_grad
    again = stored.stored(torch.float16)
    assert torch.equal(again.decoded().data, stored.decoded().data)
    # a change of the stored numbers is seen
    before = float(stored.decoded().data.max())
    stored.data.mul_(0.5)
    assert float(stored.decoded().data.max()) == 0.5 * before


def test_whole_numbers_without_a_scale_are_numbers() -> None:
    plain = Volume(torch.ones(3, 4, 5, dtype=torch.int16), torch.eye(4))
    assert plain.data.dtype == torch.float32 and plain.decoded() is plain
    half = Volume(torch.ones(3, 4, 5, dtype=torch.float16), torch.eye(4))
    assert half.decoded().data.dtype == torch.float32 and project(half, view()).dtype == torch.float32


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_what_cannot_be_stored_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match="scale: a scale of"):
        replace(smooth_volume(), scale=scale)
    with pytest.raises(InputError, match=r"a scale of 1.0 for numbers in HU"):
        replace(scan(), scale=1.0)
    with pytest.raises(InputError, match=r"dtype: torch.int8 is no type to store a volume in"):
        smooth_volume().stored(torch.int8)
