"""What changes no metric, what changes which, and where they are largest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylign.similarity import similarity
from tests.similarity.images import BLIND_TO_GAIN, NAMES, PLUS, disc, smooth

SIZE = 36
SEEDS = st.integers(0, 10_000)


@pytest.mark.parametrize("name", BLIND_TO_GAIN)
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, gain=st.floats(0.01, 100), offset=st.floats(-50, 50), which=st.booleans())
def test_gain_and_offset_change_nothing(name: str, seed: int, gain: float, offset: float, which: bool) -> None:
    moving, fixed = smooth((SIZE, SIZE), seed), smooth((SIZE, SIZE), seed + 1)
    changed = (gain * moving + offset, fixed) if which else (moving, gain * fixed + offset)
    metric = similarity(name)
    assert torch.allclose(metric(*changed, None), metric(moving, fixed, None), atol=1e-6)


@pytest.mark.parametrize("name", ["ssd", "ssim"])
def test_gain_and_offset_matter_where_the_documentation_says_so(name: str) -> None:
    moving, fixed = smooth((SIZE, SIZE), 0), smooth((SIZE, SIZE), 0)
    assert similarity(name)(2 * moving, fixed, None) < similarity(name)(moving, fixed, None)
    assert similarity(name)(moving + 3, fixed, None) < similarity(name)(moving, fixed, None)


@pytest.mark.parametrize("name", ["mi", "nmi"])
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, power=st.floats(0.7, 1.4), falling=st.booleans())
def test_a_monotone_map_changes_mutual_information_little(name: str, seed: int, power: float, falling: bool) -> None:
    fixed = smooth((96, 96), seed)
    moving = fixed + 0.5 * smooth((96, 96), seed + 1)
    mapped = (moving - moving.min() + 0.5) ** power * (-1 if falling else 1)
    stranger = smooth((96, 96), seed + 2)
    like, still, unlike = (float(similarity(name)(m, fixed, None)) for m in (moving, mapped, stranger))
    assert abs(still - like) < 0.15 * (like - unlike)  # bins of other widths: not nothing
    correlation = float(similarity("ncc")(mapped, fixed, None))
    assert correlation < 0 if falling else correlation > 0  # which does notice


@pytest.mark.parametrize("name", ["patch-ncc", "patch-gradient-ncc"])
def test_windows_do_not_see_slow_changes(name: str) -> None:
    image = smooth((64, 64), 0)
    veil = 8 * torch.linspace(-1, 1, 64, dtype=torch.float64) ** 2
    metric = similarity(name)
    assert float(metric(image + veil, image, None)) > float(similarity("ncc")(image + veil, image, None)) + 0.3


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=6, deadline=None)
@given(seed=SEEDS)
def test_nothing_is_more_alike_than_the_image_itself(name: str, seed: int) -> None:
    fixed = smooth((SIZE, SIZE), seed)
    shifted = torch.stack([fixed.roll((down, right), (0, 1)) for down in (-2, -1, 0, 1, 2) for right in (-2, -1, 0, 1, 2)])
    candidates = torch.cat([shifted, 0.7 * fixed + smooth((3, SIZE, SIZE), seed + 1), smooth((5, SIZE, SIZE), seed + 1)])
    assert int(similarity(name)(candidates, fixed, disc(SIZE)).argmax()) == 12


@pytest.mark.parametrize("name", PLUS)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, share=st.floats(0, 1))
def test_reversed_contrast_counts_for_nothing(name: str, seed: int, share: float) -> None:
    fixed = smooth((SIZE, SIZE), seed)
    moving = share * fixed + (1 - share) * smooth((SIZE, SIZE), seed + 1)
    plus, plain = similarity(name), similarity(name[:-1])
    assert plus(-fixed, fixed, None) == 0
    assert 0 <= plus(-moving, fixed, None) <= 1
    if share > 0.5:
        assert plus(-moving, fixed, None) < plus(moving, fixed, None)
    if name != "gc+":  # which leaves out what GC takes away
        assert plus(moving, fixed, None) <= plain(moving, fixed, None) + 1e-12
        assert plus(-moving, fixed, None) <= plain(-moving, fixed, None) + 1e-12


def test_gradient_information_does_not_see_the_sign_of_the_contrast() -> None:
    moving, fixed = smooth((SIZE, SIZE), 0), smooth((SIZE, SIZE), 1)
    assert torch.allclose(similarity("gi")(-moving, fixed, None), similarity("gi")(moving, fixed, None))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ssd", "ssim", "mi", "nmi")])
def test_half_a_turn_of_both_images_changes_nothing(name: str) -> None:
    moving, fixed = smooth((SIZE, SIZE + 4), 0), smooth((SIZE, SIZE + 4), 1)
    metric = similarity(name)
    assert torch.allclose(metric(moving.rot90(2), fixed.rot90(2), None), metric(moving, fixed, None))
    assert torch.allclose(metric(moving.mT, fixed.mT, None), metric(moving, fixed, None))


def test_a_wire_hurts_the_forgiving_metrics_less() -> None:
    fixed = smooth((64, 64), 0)
    wired = fixed.clone()
    wired[20:22] += 40
    for name in ("gradient-difference", "pattern-intensity", "patch-ncc", "gradient-ncc", "go"):
        kept = similarity(name)(fixed, wired, None) - similarity(name)(smooth((64, 64), 1), wired, None)
        assert kept > 0.05, name
    assert float(similarity("patch-ncc")(fixed, wired, None)) > 2 * float(similarity("ncc")(fixed, wired, None))


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    """One fixed image of more pixels than PyTorch sums at once on a single thread."""
    shape = (192, 192)
    fixed = smooth(shape, 3, torch.float32)
    moving = torch.stack([fixed + 0.3 * smooth(shape, seed, torch.float32) for seed in (4, 5)])
    metric, before = similarity(name), torch.get_num_threads()
    for mask in (None, disc(192)):
        try:
            found = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(metric(moving, fixed, mask))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(*found)
