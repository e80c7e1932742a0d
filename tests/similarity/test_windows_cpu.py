"""The kernel for many images gives what the whole-image operations give."""

from __future__ import annotations

import pytest
import torch

from raylign.similarity import similarity
from tests.similarity.images import disc, smooth

SIZE = 44


@pytest.mark.parametrize("name", ["patch-ncc", "patch-gradient-ncc"])
@pytest.mark.parametrize("weights", ["uniform", "variance"])
@pytest.mark.parametrize("radius", [1, 5, 10])
def test_with_and_without_gradient_agree(name: str, weights: str, radius: int) -> None:
    metric = similarity(name, weights=weights, radius=radius)
    fixed = smooth((SIZE, SIZE + 3), 0, torch.float32)
    moving = fixed + smooth((2, 3, SIZE, SIZE + 3), 1, torch.float32)
    moving[0, 0] = 2.5  # constant
    moving[1, 0, :, :30] = 0  # blank, as a rendering is beside the patient
    ones = torch.ones(SIZE, SIZE + 3, dtype=torch.bool)
    ones[10, 40] = False
    masks = torch.stack([ones, ones.roll(4, 0), ones.roll(9, 1)]).expand(2, 3, -1, -1)
    for mask in (None, ones, masks, masks[0], ~ones & ones):
        by_kernel = metric(moving, fixed, mask)
        whole = metric(moving.clone().requires_grad_(), fixed, mask)
        exact = metric(moving.double(), fixed.double(), mask)
        assert by_kernel.shape == (2, 3)
        assert torch.allclose(by_kernel, whole.detach(), atol=2e-5)
        assert torch.allclose(by_kernel.double(), exact, atol=2e-6)
        assert by_kernel[0, 0] == 0


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = smooth((SIZE, SIZE), 0, torch.float32)
    moving = smooth((13, SIZE, SIZE), 1, torch.float32)
    metric = similarity("patch-gradient-ncc")
    values = []
    for count in ("1", "2", "5"):
        monkeypatch.setenv("RAYLIGN_THREADS", count)
        values.append(metric(moving, fixed, disc(SIZE)))
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])
