"""Label maps as channels: thickness, attenuation by structure, mixtures of structures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from raylign import InputError, LabelMap, View, Volume, project, project_labels
from raylign.geometry import se3
from raylign.projection.reference import MODELS
from tests.projection.scene import smooth_volume, view
from tests.projection.test_parallel import chords

D = torch.float64
NAMES = {7: "left", 70000: "right", -3: "odd"}
POSES = se3.exp(torch.tensor([[0.1, -0.2, 0.05, 3.0, -5.0, 8.0], [0.0, 0.3, 0.1, 0.0, 10.0, -4.0]], dtype=D))
BEAM = View.from_parallel(primary=40, secondary=5, pixel_spacing=4.0, shape=(24, 28), reach=90.0)


def labelled(volume: Volume) -> LabelMap:
    """Any whole numbers, in layers of noise."""
    drawn = torch.randint(0, 4, volume.data.shape, generator=torch.Generator().manual_seed(0))
    return LabelMap(torch.tensor([0, 7, 70000, -3])[drawn], volume.affine, NAMES)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("attenuating", [False, True])
def test_channels_add_up_to_the_whole(model: str, attenuating: bool) -> None:
    volume = smooth_volume()
    labels = labelled(volume)
    with_background = dict(zip((0, 7, 70000, -3), torch.eye(4), strict=True))
    views = [view(), BEAM]
    given = volume if attenuating else None
    parts = project_labels(labels, views, POSES, volume=given, weights=with_background, model=model)
    assert parts.shape == (2, 2, 4, 24, 28) and parts.dtype == torch.float32
    whole = project(volume if attenuating else replace(volume, data=torch.ones_like(volume.data)), views, POSES, model=model)
    assert float((parts.sum(2) - whole).abs().max() / whole.max()) < 5e-6
    assert all(float(parts[:, :, c].max()) > 0.01 * float(whole.max()) for c in range(4))
    # without weights: the labels that occur, in the order of present(), the background left out
    alone = project_labels(labels, views, POSES, volume=given, model=model)
    assert list(labels.present().values()) == ["odd", "left", "right"]
    assert torch.allclose(alone, parts[:, :, [3, 1, 2]], rtol=1e-6)


def test_each_channel_is_the_projection_of_its_structure() -> None:
    volume = smooth_volume()
    labels = labelled(volume)
    for given in (None, volume):
        ours = project_labels(labels, view(), POSES, volume=given)
        for c, number in enumerate(labels.present()):
            inside = (labels.data == number).float() * (1 if given is None else volume.data)
            expected = project(replace(volume, data=inside), view(), POSES)
            assert float((ours[:, :, c] - expected).abs().max() / expected.max()) < 5e-6


def test_thickness_of_boxes_is_exact_by_siddon() -> None:
    data = torch.zeros(10, 12, 14, dtype=torch.int16)
    data[2:8, 3:10, 2:6], data[2:8, 3:10, 8:13] = 5, 300
    affine = torch.diag(torch.tensor([2.0, 1.5, 2.5, 1.0], dtype=D))
    affine[:3, 3] = torch.tensor([-14.0, -9.0, -12.0])
    pitch = affine.diagonal()[:3]
    for at in (view((24, 28), 2.0), BEAM):
        thickness = project_labels(LabelMap(data, affine), at, model="siddon")[0, 0]
        for channel, (a, b) in enumerate(((2, 6), (8, 13))):
            low, high = (affine[:3, 3] + (torch.tensor([x, y, z]) - 0.5) * pitch for x, y, z in ((a, 3, 2), (b, 10, 8)))
            exact = chords(at, low, high)
            assert int((exact > 0).sum()) > 10 and float((thickness[channel] - exact).abs().max()) < 1e-3


def test_a_volume_of_another_grid_takes_the_nearest_label() -> None:
    fine = smooth_volume(size=(24, 28, 32))
    coarse = labelled(smooth_volume(size=(12, 14, 16)))
    both = replace(fine, affine=coarse.affine @ torch.diag(torch.tensor([0.5, 0.5, 0.5, 1.0], dtype=D)))
    images = project_labels(coarse, view(), volume=both)
    everything = project_labels(coarse, view(), volume=both, weights={n: [1.0] for n in (0, 7, 70000, -3)})
    whole = project(both, view())
    assert float((everything[:, :, 0] - whole).abs().max() / whole.max()) < 5e-6
    assert images.shape == (1, 1, 3, 24, 28)
    with pytest.raises(InputError, match="no label lies inside"):
        affine = both.affine.clone()
        affine[0, 3] += 1000
        project_labels(coarse, view(), volume=replace(both, affine=affine))


def test_weights_mix_labels_and_are_differentiable() -> None:
    volume = smooth_volume()
    labels = labelled(volume)
    parts = project_labels(labels, view(), POSES, volume=volume)
    weights = torch.tensor([[0.2, 1.0], [0.0, 0.5], [1.0, 0.0]], dtype=D, requires_grad=True)
    mixed = project_labels(labels, view(), POSES, volume=volume, weights=weights)
    expected = torch.einsum("pvlhw,lc->pvchw", parts, weights.detach().float())
    assert mixed.shape == (2, 1, 2, 24, 28) and torch.allclose(mixed, expected, rtol=1e-5, atol=1e-7)
    seen = torch.rand(mixed.shape, generator=torch.Generator().manual_seed(1))
    (mixed * seen).sum().backward()
    assert weights.grad is not None
    assert torch.allclose(weights.grad, torch.einsum("pvlhw,pvchw->lc", parts, seen).to(D), rtol=1e-5)
    # named labels alone: the others have no share
    named = project_labels(labels, view(), POSES, volume=volume, weights={"RIGHT": weights[2], "-3": weights[0]})
    alone = project_labels(labels, view(), POSES, volume=volume, weights=weights * torch.tensor([[1.0], [0.0], [1.0]]))
    assert torch.allclose(named, alone, rtol=1e-5, atol=1e-7)


def _loss(twist: Tensor, labels: LabelMap, volume: Volume | None, at: View) -> Tensor:
    images = project_labels(labels, at, se3.exp(twist), volume=volume, weights={7: [1.0, 0.3], 70000: [0.0, 1.0]}, step=4.1)
    r, c = torch.meshgrid(*(torch.arange(n, dtype=D) for n in images.shape[-2:]), indexing="ij")
    return (images.to(D) * (1 + 0.1 * r - 0.07 * c) * torch.tensor([1.0, -0.4], dtype=D)[:, None, None]).sum()


@pytest.mark.parametrize("at", [view((7, 9), 17.0), BEAM.resample((7, 9))], ids=["cone", "parallel"])
def test_gradients_by_pose_equal_finite_differences(at: View) -> None:
    exact = smooth_volume(D, (10, 12, 14))
    exact = replace(exact, affine=exact.affine @ torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=D)))
    labels = labelled(exact)
    twist = torch.tensor([0.1, -0.2, 0.05, 3.0, -5.0, 8.0], dtype=D)
    steps = torch.tensor([2e-8] * 3 + [1e-6] * 3, dtype=D)
    with torch.no_grad():
        expected = torch.stack(
            [(_loss(twist + h, labels, exact, at) - _loss(twist - h, labels, exact, at)) / (2 * h.sum()) for h in steps.diag()]
        )
    for volume, tolerance in ((exact, 1e-6), (replace(exact, data=exact.data.float()), 1e-3)):
        leaf = twist.clone().requires_grad_()
        (slopes,) = torch.autograd.grad(_loss(leaf, labels, volume, at), leaf)
        assert float(((slopes - expected).abs() / expected.abs()).max()) < tolerance


def test_a_map_that_changes_is_rendered_anew() -> None:
    labels = labelled(smooth_volume())
    before = project_labels(labels, view(), weights={7: [1.0]})
    assert torch.equal(project_labels(labels, view(), weights={7: [1.0]}), before)
    labels.data[labels.data == 7] = 0
    labels.data[0, 0, 0] = 7
    assert float(project_labels(LabelMap(labels.data, labels.affine), view(), weights={7: [1.0]}).max()) < float(before.max())
    assert float(project_labels(labels, view(), weights={7: [1.0]}).max()) < float(before.max())


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda d: d * 0, {}, "every voxel is background"),
        (lambda d: torch.arange(d.numel()).reshape(d.shape) % 300, {}, "299 labels in one pass, of at most 256"),
        (None, {"weights": torch.ones(2, 1)}, r"weights of shape \(2, 1\) for 3 labels"),
        (None, {"weights": {}}, "no label is named"),
        (None, {"weights": {"nobody": [1.0]}}, "no voxel is labelled 'nobody'"),
        (None, {"weights": {7: [1.0], "left": [1.0]}}, "named twice"),
        (None, {"weights": {7: [1.0], -3: [1.0, 2.0]}}, "rows of different lengths"),
        (None, {"model": "siddon", "step": 1.0}, "takes no samples"),
        (None, {"step": -1.0}, "not a positive length"),
    ],
)
def test_what_cannot_be_rendered_is_refused(change: Any, options: dict[str, Any], words: str) -> None:
    labels = labelled(smooth_volume())
    if change is not None:
        labels = LabelMap(change(labels.data), labels.affine)
    with pytest.raises(InputError, match=words):
        project_labels(labels, view(), **options)


def test_as_many_labels_as_one_byte_tells_apart() -> None:
    volume = smooth_volume()
    many = LabelMap((torch.arange(volume.data.numel()) % 256).reshape(volume.data.shape) + 1000, volume.affine)
    some = LabelMap(many.data.clamp_max(1254) - 1000, volume.affine)  # 254 labels and the background
    images = project_labels(some, view(), volume=volume)
    assert images.shape[2] == len(some.present()) == 254
    whole = project(replace(volume, data=torch.where(some.data == 0, 0, volume.data)), view())
    assert float((images.sum(2) - whole).abs().max() / whole.max()) < 1e-5
    with pytest.raises(InputError, match="256 labels in one pass"):
        project_labels(many, view())
