"""Shapes, types, masks: what is left out is left out, and what is together is as if alone."""

from __future__ import annotations

import pytest
import torch

from raylign.errors import InputError
from raylign.similarity import SIMILARITIES, similarity
from tests.similarity.images import NAMES, disc, smooth

SIZE = 40
OPTIONS = {"patch-ncc": {"weights": "variance"}, "patch-gradient-ncc": {"weights": "variance"}}
"""A second way to run some of the metrics."""

RUNS = [(name, {}) for name in NAMES] + list(OPTIONS.items())


@pytest.mark.parametrize(("name", "options"), RUNS)
def test_a_batch_is_its_entries(name: str, options: dict[str, str]) -> None:
    metric = similarity(name, **options)
    moving, fixed = smooth((2, 3, SIZE, SIZE), 0), smooth((SIZE, SIZE), 1)
    masks = torch.stack([disc(SIZE), disc(SIZE).roll(3, 0), disc(SIZE).roll(-4, 1)])
    for mask in (None, disc(SIZE), masks):
        values = metric(moving, fixed, mask)
        assert values.shape == (2, 3)
        alone = torch.stack(
            [
                torch.stack([metric(m, fixed, mask if mask is None or mask.ndim == 2 else mask[k]) for k, m in enumerate(row)])
                for row in moving
            ]
        )
        assert torch.allclose(values, alone, atol=1e-10)
    # several fixed images, one moving; and an entry of shape [H, W] alone
    several = metric(moving[0, 0], smooth((4, SIZE, SIZE), 2), None)
    assert several.shape == (4,)
    assert torch.allclose(several[2], metric(moving[0, 0], smooth((4, SIZE, SIZE), 2)[2], None))
    assert metric(moving[0, 0], fixed, None).shape == ()


@pytest.mark.parametrize(("name", "options"), RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_masked_changes_nothing(name: str, options: dict[str, str], dtype: torch.dtype) -> None:
    metric, mask = similarity(name, **options), disc(SIZE)
    fixed = smooth((SIZE, SIZE), 1, dtype)
    moving = (fixed + smooth((2, SIZE, SIZE), 0, dtype)).requires_grad_()  # correlated: some metrics know no scale below zero
    value = metric(moving, fixed, mask)
    assert value.dtype == dtype
    (slope,) = torch.autograd.grad(value.sum(), moving)
    assert bool((slope[:, ~mask] == 0).all())
    assert bool(slope.isfinite().all()) and float(slope.abs().max()) > 0
    other_moving, other_fixed = moving.detach().clone(), fixed.clone()
    other_moving[:, ~mask], other_fixed[~mask] = torch.nan, 1e30
    assert torch.equal(metric(other_moving, other_fixed, mask), metric(moving.detach(), fixed, mask))
    assert torch.equal(metric(other_moving.requires_grad_(), other_fixed, mask), value)


@pytest.mark.parametrize("name", NAMES)
def test_the_border_of_a_mask_is_no_edge(name: str) -> None:
    # two images that agree inside the mask and nowhere else agree entirely
    mask, image = disc(SIZE), smooth((SIZE, SIZE), 0)
    other = torch.where(mask, image, -7.0)
    metric = similarity(name)
    assert torch.allclose(metric(other, image, mask), metric(image, image, mask))


@pytest.mark.parametrize("name", NAMES)
def test_all_valid_is_no_mask(name: str) -> None:
    moving, fixed = smooth((2, SIZE, SIZE), 0), smooth((SIZE, SIZE), 1)
    metric = similarity(name)
    assert torch.allclose(metric(moving, fixed, torch.ones(SIZE, SIZE, dtype=torch.bool)), metric(moving, fixed, None))


@pytest.mark.parametrize(("name", "options"), RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_images_and_empty_masks_give_zero(name: str, options: dict[str, str], dtype: torch.dtype) -> None:
    metric, image = similarity(name, **options), smooth((SIZE, SIZE), 0, dtype)
    flat = torch.full((2, SIZE, SIZE), 0.1, dtype=dtype)
    nothing = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    cases = (
        [(flat, flat[0]), (flat, flat[0] + 3)]
        if name in ("ssd", "ssim")
        else [(flat, image), (image[None], flat[0]), (flat, flat[0])]
    )
    for moving, fixed in cases:
        moving = moving.clone().requires_grad_()
        value = metric(moving, fixed, None)
        (slope,) = torch.autograd.grad(value.sum(), moving)
        assert bool(slope.isfinite().all())
        assert bool(value.isfinite().all())
        if name not in ("ssd", "ssim"):  # of which constants have a value
            assert bool((value == 0).all())
    moving = smooth((2, SIZE, SIZE), 1, dtype).requires_grad_()
    for mask in (nothing, nothing.expand(2, -1, -1)):
        value = metric(moving, image, mask)
        assert bool((value == 0).all())
        (slope,) = torch.autograd.grad(value.sum(), moving)
        assert bool((slope == 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_blank_corner_is_harmless(name: str) -> None:
    # as a rendering is: exactly zero wherever a ray misses the patient
    moving = smooth((2, SIZE, SIZE), 0, torch.float32)
    moving[:, :, : SIZE // 2] = 0
    moving.requires_grad_()
    value = similarity(name)(moving, smooth((SIZE, SIZE), 1, torch.float32), None)
    (slope,) = torch.autograd.grad(value.sum(), moving)
    assert bool(value.isfinite().all()) and bool(slope.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_single(name: str) -> None:
    moving, fixed = smooth((SIZE, SIZE), 0).half(), smooth((SIZE, SIZE), 1).half()
    value = similarity(name)(moving, fixed, None)
    assert value.dtype == torch.float32
    assert torch.equal(value, similarity(name)(moving.float(), fixed.float(), None))


def test_refusals() -> None:
    image = smooth((SIZE, SIZE), 0)
    ncc = similarity("ncc")
    with pytest.raises(InputError, match="fixed: shape \\(40, 39\\) does not fit the moving image's \\(40, 40\\)"):
        ncc(image, image[:, :-1], None)
    with pytest.raises(InputError, match="leading axes do not broadcast"):
        ncc(image.expand(2, -1, -1), image.expand(3, -1, -1), None)
    with pytest.raises(InputError, match="moving: an image is a floating-point tensor"):
        ncc(image.int(), image, None)
    with pytest.raises(InputError, match="a mask is boolean"):
        ncc(image, image, image)
    with pytest.raises(InputError, match="windows of radius 30 need 61x61 pixels, the image has 40x40"):
        similarity("patch-ncc", radius=30)(image, image, None)
    with pytest.raises(InputError, match="radius"):
        similarity("patch-ncc", radius=0)(image, image, None)
    with pytest.raises(InputError, match="by 'variance', got 'contrast'"):
        similarity("patch-ncc", weights="contrast")(image, image, None)
    with pytest.raises(InputError, match="odd width, got 4"):
        similarity("gradient-ncc", smoothing=4)(image, image, None)
    with pytest.raises(InputError, match="'falling' are known, got 'left'"):
        similarity("gc+", half="left")(image, image, None)
    with pytest.raises(InputError, match="at least 8 bins, got 2"):
        similarity("mi", bins=2)(image, image, None)
    with pytest.raises(InputError, match="sigma"):
        similarity("pattern-intensity", sigma=0.0)(image, image, None)
    with pytest.raises(InputError, match="sigma"):
        similarity("ssim", sigma=0.0)(image, image, None)
    with pytest.raises(InputError, match="no scale"):
        similarity("multiscale-ncc", radii=())(image, image, None)


def test_names() -> None:
    wanted = (
        "ssd ncc multiscale-ncc patch-ncc gradient-ncc patch-gradient-ncc mi nmi gc gc+ gi gi+ go go+ gradient-difference "
        "pattern-intensity ssim"
    )
    assert " ".join(NAMES) == wanted
    assert all(entry.words and "\n" not in entry.words for entry in SIMILARITIES.values())
    with pytest.raises(InputError, match="no similarity is called 'gradientncc'; did you mean 'gradient-ncc'"):
        similarity("gradientncc")
    with pytest.raises(InputError, match="no similarity is called 'foo'; known are ssd, ncc, "):
        similarity("foo")
    with pytest.raises(InputError, match="patch-ncc has no option 'size'; its options are: radius, weights"):
        similarity("patch-ncc", size=3)
    with pytest.raises(TypeError):
        SIMILARITIES["mine"] = SIMILARITIES["ncc"]  # type: ignore[index]
