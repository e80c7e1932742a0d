"""Domain randomisation: labels follow the image, ranges are what they say, samples do not see each other."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from raylign.errors import InputError
from raylign.geometry import View
from raylign.simulation import Labelled
from raylign.simulation.appearance import (
    GAO_2024,
    JAGANATHAN_2021,
    PRESETS,
    RAYLIGN,
    TOTH_2018,
    Affine2D,
    BoxNoise,
    Brightness,
    Contrast,
    Crop,
    Draws,
    Dropout,
    Flip,
    Gamma,
    GaussianNoise,
    Invert,
    LocalContrast,
    LogOffset,
    Normalise,
    RandomErasing,
    Resize,
    Response,
    Saturate,
    Sequence,
    Step,
    Transform,
    appearance,
)

H, W = 48, 64


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


def views(count: int, beam: str = "cone") -> tuple[View, ...]:
    if beam == "parallel":
        return tuple(View.from_parallel(primary=5.0 * i, pixel_spacing=2.0, shape=(H, W)) for i in range(count))
    return tuple(
        View.from_carm(primary=7.0 * i, secondary=3.0, sid=1000, sod=700, pixel_spacing=(2.0, 2.5), shape=(H, W))
        for i in range(count)
    )


WORLD = torch.tensor([[0.0, 0.0, 0.0], [12.0, 5.0, -9.0], [-25.0, 20.0, 14.0], [31.0, -8.0, 11.0]], dtype=torch.float64)


def blobs(points: torch.Tensor) -> torch.Tensor:
    """Smooth bright spots where points lie, so that their places can be measured in an image."""
    c = torch.arange(W, dtype=torch.float64)[None, :]
    r = torch.arange(H, dtype=torch.float64)[:, None]
    return torch.exp(-((c - points[0]) ** 2 + (r - points[1]) ** 2) / (2 * 1.5**2))


def labelled(count: int = 6, beam: str = "cone") -> Labelled:
    """Exposures whose segment n shows a spot where landmark n is projected."""
    seen = views(count, beam)
    points = torch.stack([view.project(WORLD) for view in seen])
    segments = torch.stack([torch.stack([blobs(p) for p in sample]) for sample in points]).float()
    ramp = torch.linspace(0, 2, W)[None, :] + torch.linspace(0, 1, H)[:, None]
    image = ramp + segments.sum(1) + 0.1 * torch.rand(count, H, W, generator=torch.Generator().manual_seed(1))
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    return Labelled(image, torch.ones(count, H, W, dtype=torch.bool), seen, poses, points, segments)


def spots(batch: Labelled) -> torch.Tensor:
    """[B, N, 2] centres of mass of the segments, NaN where a spot is near or beyond the border."""
    h, w = batch.image.shape[1:]
    c, r = torch.arange(w, dtype=torch.float64), torch.arange(h, dtype=torch.float64)
    mass = batch.segments.double()
    total = mass.sum((2, 3))
    centre = torch.stack([(mass * c).sum((2, 3)) / total, (mass * r[:, None]).sum((2, 3)) / total], -1)
    limit = torch.tensor([w, h]) - 9
    seen = ((batch.points > 8) & (batch.points < limit)).all(-1)
    return torch.where(seen[..., None], centre, torch.nan)


MOVING = (
    Flip(),
    Flip(1.0, 1.0),
    Affine2D((-30.0, 30.0), (-0.2, 0.2), (0.8, 1.3), (-0.2, 0.2)),
    Affine2D(fill="zero"),
    Crop((32, 40)),
    Crop((32, 40), anywhere=False),
    Resize((24, 32)),
    Resize((60, 90)),
)


@pytest.mark.parametrize("beam", ["cone", "parallel"])
@pytest.mark.parametrize("transform", [*MOVING, JAGANATHAN_2021], ids=lambda t: getattr(t, "name", type(t).__name__))
def test_labels_move_with_the_image(transform: Transform | Sequence, beam: str) -> None:
    before = labelled(beam=beam)
    after = transform(before, generators(len(before)))
    projected = torch.stack([view.project(WORLD) for view in after.views])
    assert float((projected - after.points).abs().max()) < 1e-9
    there = spots(after)
    assert int(torch.isfinite(there[..., 0]).sum()) > len(before)
    assert float((there - after.points).abs().nan_to_num(0).max()) < 0.1
    if isinstance(transform, Flip | Affine2D):
        assert float((after.points - before.points).abs().max()) > 1
    assert torch.equal(after.poses, before.poses)


def test_a_turn_is_clockwise_as_displayed_and_a_shift_moves_the_content() -> None:
    before = labelled(1)
    middle = torch.tensor([(W - 1) / 2, (H - 1) / 2], dtype=torch.float64)
    turned = Affine2D((90.0, 90.0), (0.0, 0.0))(before, generators(1))
    right, down = before.points[0] - middle, turned.points[0] - middle
    torch.testing.assert_close(down, torch.stack([-right[:, 1], right[:, 0]], 1))
    moved = Affine2D((0.0, 0.0), (0.25, 0.25))(before, generators(1))
    torch.testing.assert_close(moved.points - before.points, torch.tensor([16.0, 12.0]).double().expand(1, 4, 2))
    # what comes in from beyond is not valid, and all the rest is
    valid = torch.zeros(H, W, dtype=torch.bool)
    valid[12:, 16:] = True
    assert torch.equal(moved.valid[0], valid)
    torch.testing.assert_close(moved.image[0, 12:, 16:], before.image[0, :-12, :-16], atol=1e-4, rtol=0)


def test_masks_move_too_and_never_grow() -> None:
    before = labelled(8)
    valid = before.valid.clone()
    valid[:, 20:24, 30:34] = False
    before = replace(before, valid=valid)
    after = Affine2D((-20.0, 20.0))(before, generators(8))
    hole = replace(before, image=before.valid.float())
    shown = Affine2D((-20.0, 20.0))(hole, generators(8)).image
    assert bool((shown[after.valid] > 0.99).all())
    assert bool((~after.valid).any((1, 2)).all())
    assert torch.equal(Flip(1.0, 0.0)(before, generators(8)).valid, valid.flip(2))
    assert Resize((24, 32))(before, generators(8)).valid[:, 10:12, 15:17].logical_not().all()


ALL = (*(t for kind in sorted(Transform.registry) for t in [Transform.registry[kind]] if kind not in ("Crop", "Resize")),)


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)
def test_a_sample_does_not_depend_on_its_batch(kind: type[Transform]) -> None:
    batch = labelled(5)
    together = kind()(batch, generators(5))
    for i in (0, 4):
        alone = kind()(
            Labelled(
                batch.image[i : i + 1],
                batch.valid[i : i + 1],
                batch.views[i : i + 1],
                batch.poses[i : i + 1],
                batch.points[i : i + 1],
                batch.segments[i : i + 1],
            ),
            generators(5)[i : i + 1],
        )
        torch.testing.assert_close(alone.image[0], together.image[i], atol=2e-6, rtol=1e-6)
        assert torch.equal(alone.valid[0], together.valid[i])
        assert alone.views[0] == together.views[i]
    again = kind()(batch, generators(5))
    assert torch.equal(again.image, together.image)


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)
def test_images_stay_finite_and_the_input_as_it_was(kind: type[Transform]) -> None:
    batch = labelled(4)
    copy = batch.image.clone(), batch.valid.clone(), batch.points.clone(), batch.segments.clone()
    for image in (batch.image, torch.zeros_like(batch.image), batch.image * 10):
        out = kind()(replace(batch, image=image), generators(4))
        assert bool(torch.isfinite(out.image).all())
        assert out.image.dtype == torch.float32
        assert out.valid.dtype == torch.bool
    assert torch.equal(batch.image, copy[0])
    assert torch.equal(batch.valid, copy[1])
    assert torch.equal(batch.points, copy[2])
    assert torch.equal(batch.segments, copy[3])


def flat(count: int, value: float = 0.0) -> Labelled:
    """Small images of one value but for one pixel at 1: a range of 1."""
    view = View.from_carm(sid=1000, sod=700, pixel_spacing=1.0, shape=(16, 16))
    image = torch.full((count, 16, 16), value)
    image[:, 0, 0] = 1.0
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    empty = torch.zeros(count, 0, 2, dtype=torch.float64)
    return Labelled(image, image < 2, (view,) * count, poses, empty, torch.zeros(count, 0, 16, 16))


def uniform(values: torch.Tensor, low: float, high: float) -> bool:
    """Whether numbers could well come from a uniform law (Kolmogorov and Smirnov; fixed seeds, so that this cannot flicker)."""
    return stats.kstest(values.double().numpy(), "uniform", (low, high - low)).pvalue > 1e-3


def test_gao_ranges() -> None:
    n = 800
    assert [type(s.transform) for s in GAO_2024.steps] == [Invert, GaussianNoise, Gamma, BoxNoise]
    assert [s.probability for s in GAO_2024.steps] == [0.5] * 4
    noise = GaussianNoise()(flat(n), generators(n)).image - flat(n).image
    sigma = noise.std((1, 2))
    assert float(sigma.min()) > 0.005 * 0.8 and float(sigma.max()) < 0.1 * 1.2
    assert abs(float(sigma.mean()) - 0.0525) < 0.003
    assert abs(float((noise / sigma[:, None, None]).mean())) < 0.01
    gamma = torch.log(Gamma()(flat(n, 0.5), generators(n)).image[:, 5, 5]) / math.log(0.5)
    # 0.5 is the smallest value of that image: give it a smaller one
    low = flat(n, 0.5)
    low.image[:, 1, 1] = 0.0
    gamma = torch.log(Gamma()(low, generators(n)).image[:, 5, 5]) / math.log(0.5)
    assert uniform(gamma, 0.7, 1.3)
    boxes = ~BoxNoise()(labelled(64), generators(64)).valid
    share = boxes.float().mean((1, 2))
    assert float(share.min()) > 0.05**2 * 0.5 and float(share.max()) < 5 * 0.25**2
    out = BoxNoise()(labelled(64), generators(64))
    assert torch.equal((out.image != labelled(64).image), boxes)


def test_gao_inverts_half_of_the_images() -> None:
    n = 1000
    out = Sequence("invert", GAO_2024.steps[:1])(flat(n), generators(n)).image
    inverted = out[:, 0, 0] == 0
    assert abs(int(inverted.sum()) - n / 2) < 4 * math.sqrt(n) / 2
    assert torch.equal(out[inverted][:, 5, 5], torch.ones(int(inverted.sum())))


def test_inversion_undoes_itself_up_to_the_smallest_value() -> None:
    batch = labelled()
    twice = Invert()(Invert()(batch, generators(6)), generators(6)).image
    torch.testing.assert_close(twice, batch.image - batch.image.amin((1, 2), keepdim=True))
    assert torch.equal(Invert()(batch, generators(6)).image, batch.image.amax((1, 2), keepdim=True) - batch.image)


def test_jaganathan_ranges() -> None:
    n = 600
    assert uniform(Brightness()(flat(n), generators(n)).image[:, 3, 3], -0.2, 0.2)
    contrasted = Contrast()(labelled(100), generators(100)).image.std((1, 2)) / labelled(100).image.std((1, 2))
    assert uniform(contrasted, 0.8, 1.2)
    after = Affine2D()(labelled(150), generators(150))
    pairs = zip(after.views, labelled(150).views, strict=True)
    turned = torch.stack([torch.linalg.lstsq(old.vectors[2:].T, new.column_step).solution for new, old in pairs])  # in pixels
    angle = -torch.rad2deg(torch.atan2(turned[:, 1], turned[:, 0]))
    assert uniform(angle, -10.0, 10.0)
    flipped = Flip()(labelled(400), generators(400))
    signs = torch.tensor([float(view.column_step @ o.column_step) for view, o in zip(flipped.views, views(400), strict=True)])
    assert abs(int((signs < 0).sum()) - 200) < 40


def test_erased_rectangles_are_those_of_zhong() -> None:
    n = 400
    batch = labelled(n)
    out = RandomErasing()(batch, generators(n))
    gone = ~out.valid
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(rows * columns, gone.sum((1, 2)))  # one full rectangle
    share, aspect = (rows * columns) / (H * W), rows / columns
    assert float(share.max()) <= 0.4 and float(share.min()) > 0.012
    # a floor of each side makes small ones rounder or longer than drawn, by one pixel at most
    assert bool((((rows + 1) / columns >= 0.3) & (rows / (columns + 1) <= 1 / 0.3)).all())
    assert float(aspect.median()) > 1.0
    low, high = batch.image.amin((1, 2)), batch.image.amax((1, 2))
    for i in range(20):
        values = out.image[i][gone[i]]
        assert low[i] <= values.min() and values.max() <= high[i]
    values = (out.image[0][gone[0]] - low[0]) / (high[0] - low[0])
    assert uniform(values, 0.0, 1.0)


def test_toth_changes_nothing() -> None:
    batch = labelled()
    assert TOTH_2018(batch, generators(6)) is batch


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_json_and_batches_of_any_size_agree(name: str) -> None:
    preset = appearance(name)
    assert Sequence.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset
    assert name in preset.describe()
    batch = labelled(12)
    whole = preset(batch, generators(12))
    halves = [
        preset(
            Labelled(
                batch.image[part],
                batch.valid[part],
                batch.views[part],
                batch.poses[part],
                batch.points[part],
                batch.segments[part],
            ),
            generators(12)[part],
        )
        for part in (slice(0, 5), slice(5, 12))
    ]
    torch.testing.assert_close(torch.cat([h.image for h in halves]), whole.image, atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.cat([h.valid for h in halves]), whole.valid)
    assert torch.equal(torch.cat([h.points for h in halves]), whole.points)
    assert bool(torch.isfinite(whole.image).all())


def test_ours_moves_nothing() -> None:
    batch = labelled(16)
    out = RAYLIGN(batch, generators(16))
    assert out.views is batch.views
    assert torch.equal(out.points, batch.points)
    assert torch.equal(out.segments, batch.segments)
    assert len({float(i.mean()) for i in out.image}) == 16


def test_log_offset_is_that_of_counts() -> None:
    batch = labelled(3)
    out = LogOffset((0.5, 0.5), (1e-2, 1e-2))(batch, generators(3)).image
    torch.testing.assert_close(out, -torch.log((torch.exp(-batch.image) + 1e-2) / 0.5), atol=1e-5, rtol=0)


def test_response_runs_from_the_logarithm_to_the_counts() -> None:
    batch = labelled(3)
    torch.testing.assert_close(Response((1.0, 1.0))(batch, generators(3)).image, 1 - torch.exp(-batch.image))
    torch.testing.assert_close(Response((1e-4, 1e-4))(batch, generators(3)).image, batch.image, atol=1e-3, rtol=1e-3)


def test_saturation_and_dropout_mark_what_they_spoil() -> None:
    batch = labelled(4)
    out = Saturate((0.3, 0.3))(batch, generators(4))
    assert torch.equal(out.valid, out.image == batch.image)
    assert bool((out.image >= batch.image).all())
    out = Dropout((0.01, 0.01))(batch, generators(4))
    assert 0.002 < float((~out.valid).float().mean()) < 0.03
    assert torch.equal(out.image[out.valid], batch.image[out.valid])


def test_normalised_images() -> None:
    batch = labelled(4)
    valid = batch.valid.clone()
    valid[:, :10] = False
    out = Normalise()(replace(batch, valid=valid), generators(4)).image
    for i in range(4):
        assert abs(float(out[i][valid[i]].mean())) < 1e-5
        assert abs(float(out[i][valid[i]].std(correction=0)) - 1) < 1e-4
    unit = Normalise("unit")(batch, generators(4)).image
    assert float(unit.min()) == 0 and float(unit.max()) == 1


def test_local_contrast_agrees_with_scikit_image() -> None:
    from skimage.exposure import equalize_adapthist

    size = 128
    c, r = torch.arange(size)[None, :] / size, torch.arange(size)[:, None] / size
    image = (0.5 + 0.2 * torch.sin(9 * c) + 0.2 * torch.cos(7 * r) + 0.05 * torch.sin(60 * c * r))[None]
    image = (image - image.min()) / (image.max() - image.min())
    view = View.from_carm(sid=1000, sod=700, pixel_spacing=1.0, shape=(size, size))
    batch = replace(flat(1), image=image, valid=image < 2, views=(view,), segments=torch.zeros(1, 0, size, size))
    ours = LocalContrast((1.0, 1.0), (3.0, 3.0), 4)(batch, generators(1)).image[0].numpy()
    theirs = equalize_adapthist(image[0].numpy().astype(np.float64), kernel_size=size // 4, clip_limit=3 / 128, nbins=128)
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.97
    assert np.corrcoef(image[0].numpy().ravel(), theirs.ravel())[0, 1] < 0.97  # so that this says something


def test_draws_are_uniform_normal_and_apart() -> None:
    draws = Draws.of(generators(4), 4)
    values = draws.uniform(shape=(20000,))
    for sample in values:
        assert uniform(sample, 0, 1)
    assert float(np.abs(np.corrcoef(values.numpy()) - np.eye(4)).max()) < 0.03
    normal = draws.normal((20000,))
    assert stats.kstest(normal[0].double().numpy(), "norm").pvalue > 1e-3
    assert abs(float(normal.pow(4).mean()) - 3) < 0.1
    whole = draws.whole(2, 5, (8000,))
    assert sorted(whole.unique().tolist()) == [2, 3, 4, 5]
    assert abs(float(whole.double().mean()) - 3.5) < 0.05
    a, b = Draws.of(generators(2), 2).lane(0), Draws.of(generators(2), 2).lane(1)
    assert abs(float(np.corrcoef(a.uniform(shape=(9000,))[0], b.uniform(shape=(9000,))[0])[0, 1])) < 0.04
    # neighbouring keys, and the first number, which SplitMix64's first output is
    assert int(Draws(torch.tensor([0]))._bits((1,))[0, 0]) == 0xE220A8397B1DCDAF - 2**64


def test_one_generator_serves_a_batch() -> None:
    batch = labelled(3)
    a = GAO_2024(batch, torch.Generator().manual_seed(5)).image
    b = GAO_2024(batch, torch.Generator().manual_seed(5)).image
    c = GAO_2024(batch, torch.Generator().manual_seed(6)).image
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_refusals() -> None:
    with pytest.raises(InputError, match="generators for 3 samples"):
        Invert()(labelled(3), generators(2))
    with pytest.raises(InputError, match=r"Gamma\.gamma: 1\.3 to 0\.7 is no range"):
        Gamma((1.3, 0.7))
    with pytest.raises(InputError, match=r"1\.5 is no probability"):
        Step(Invert(), 1.5)
    with pytest.raises(InputError, match="changes the shape"):
        Step(Resize((8, 8)), 0.5)
    with pytest.raises(InputError, match="no appearance is called 'gao'"):
        appearance("gao")
    with pytest.raises(InputError, match="no transform is called 'Sharpen'"):
        Transform.from_dict({"transform": "Sharpen"})
    with pytest.raises(InputError, match="Gamma has no 'gama'"):
        Transform.from_dict({"transform": "Gamma", "gama": [0.5, 1]})
    with pytest.raises(InputError, match="crop to less"):
        Crop((100, 100))(labelled(1), generators(1))
