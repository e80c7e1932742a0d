"""Gradients against finite differences in double precision."""

from __future__ import annotations

import pytest
import torch

from raylign.similarity import SIMILARITIES, similarity
from tests.similarity.images import NAMES, smooth

OPTIONS = {
    "patch-ncc": {"radius": 2, "weights": "variance"},
    "patch-gradient-ncc": {"radius": 2, "weights": "variance"},
    "multiscale-ncc": {"radii": (None, 2)},
    "gradient-ncc": {"smoothing": 3},
    "mi": {"bins": 10},
    "nmi": {"bins": 10},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_by_the_moving_image(name: str, masked: bool) -> None:
    fixed = smooth((14, 15), 1)
    moving = (fixed + smooth((2, 14, 15), 0)).requires_grad_()  # correlated: some metrics know no scale below zero
    mask = None
    if masked:
        mask = torch.ones(14, 15, dtype=torch.bool)
        mask[0, 3] = mask[13] = False
    metric = similarity(name, **OPTIONS.get(name, {}))
    assert torch.autograd.gradcheck(lambda m: metric(m, fixed, mask), moving, atol=1e-6, fast_mode=True)
    (slope,) = torch.autograd.grad(metric(moving, fixed, mask).sum(), moving)
    assert float(slope.abs().amax((-2, -1)).min()) > 0


@pytest.mark.parametrize("name", ["ssd", "ncc", "patch-gradient-ncc", "gi", "gradient-difference", "ssim"])
def test_the_gradient_by_the_fixed_image(name: str) -> None:
    fixed = smooth((14, 15), 1).requires_grad_()
    moving = fixed.detach() + smooth((2, 14, 15), 0)
    metric = similarity(name, **{"radius": 2} if name.startswith("patch") else {})
    assert torch.autograd.gradcheck(lambda f: metric(moving, f, None), fixed, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_small_steps_up_the_gradient_go_up(name: str) -> None:
    # single precision, as in use; what jumps may miss
    fixed = smooth((40, 40), 0, torch.float32)
    moving = (fixed + smooth((40, 40), 1, torch.float32)).requires_grad_()
    metric = similarity(name)
    before = metric(moving, fixed, None)
    (slope,) = torch.autograd.grad(before, moving)
    after = metric((moving + 0.01 * slope / slope.abs().max()).detach(), fixed, None)
    if SIMILARITIES[name].differentiable:
        assert after > before
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_at_the_maximum_is_finite(name: str) -> None:
    fixed = smooth((40, 40), 0, torch.float32)
    moving = fixed.clone().requires_grad_()
    (slope,) = torch.autograd.grad(similarity(name)(moving, fixed, None), moving)
    assert bool(slope.isfinite().all())
