"""A requested integration error is kept, by the largest step of those tried."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from raylign import InputError, View, Volume, project
from raylign.geometry import se3
from raylign.projection import step_within
from raylign.projection.rays import voxel_rays
from tests.projection.scene import smooth_volume, view

D = torch.float64
POSES = se3.exp(torch.tensor([[0.1, -0.2, 0.05, 3.0, -5.0, 8.0], [0.0, 0.3, 0.1, 0.0, 10.0, -4.0]], dtype=D))
BEAM = View.from_parallel(primary=40, secondary=5, pixel_spacing=4.0, shape=(24, 28), reach=90.0)


def rough_volume() -> Volume:
    """Noise, the hardest there is to integrate, on an anisotropic grid."""
    data = torch.rand(12, 14, 16, generator=torch.Generator().manual_seed(0))
    affine = torch.diag(torch.tensor([4.0, 5.0, 6.0, 1.0], dtype=D))
    affine[:3, 3] = torch.tensor([-31.0, -33.0, -34.0])
    return Volume(data, affine)


def exact_integrals(volume: Volume, at: View, pose: torch.Tensor) -> NDArray[np.float64]:
    """Line integrals of the trilinear interpolant: a cubic between voxel planes, which two Gauss points integrate exactly."""
    data = np.pad(volume.data.double().numpy(), 1)
    vectors = voxel_rays(volume, at, pose)
    o, d, du, dv, ou, ov = torch.cat([vectors, torch.zeros(6 - len(vectors), 3, dtype=D)]).numpy()
    out = np.zeros(at.shape)
    for r, c in np.ndindex(*at.shape):
        begin, along = o + c * ou + r * ov, d + c * du + r * dv
        planes = [(np.arange(-1, n + 1) - begin[a]) / along[a] for a, n in enumerate(volume.data.shape[::-1])]
        t = np.unique(np.clip(np.concatenate([[0.0, 1.0], *planes]), 0, 1))
        middle, half = (t[1:] + t[:-1]) / 2, (t[1:] - t[:-1]) / 2
        for side in (-1, 1):
            points = begin + (middle + side * half / np.sqrt(3))[:, None] * along + 1  # the padding moves them by one
            base = np.floor(points).astype(int)
            inside = ((base >= 0) & (base < np.array(data.shape[::-1]) - 1)).all(1)
            base, f = base[inside], (points - np.floor(points))[inside]
            for corner in range(8):
                bits = np.array([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
                i, j, k = (base + bits).T
                out[r, c] += (half[inside] * data[k, j, i] * np.where(bits, f, 1 - f).prod(1)).sum()
    return out * at.ray_lengths().numpy()


@pytest.mark.parametrize("at", [view(), BEAM], ids=["cone", "parallel"])
def test_the_error_is_kept_and_no_finer_step_taken_than_needed(at: View) -> None:
    volume = rough_volume()
    exact = torch.from_numpy(np.stack([exact_integrals(volume, at, pose) for pose in POSES]))[:, None]

    def measured(step: float) -> float:
        return float((project(volume, at, POSES, step=step).double() - exact).norm() / exact.norm())

    steps = []
    for error in (3e-2, 3e-3, 3e-4):
        step = step_within(error, volume, at, POSES)
        assert measured(step) < 1.15 * error < 1.4 * measured(step * 2**0.5)  # the next coarser step would not have done
        assert torch.equal(project(volume, at, POSES, error=error), project(volume, at, POSES, step=step))
        assert step == step_within(error, volume, at, POSES)
        steps.append(step)
    assert steps[0] > steps[1] > steps[2]


def test_a_smooth_volume_needs_fewer_samples() -> None:
    smooth, rough = smooth_volume(), rough_volume()
    assert step_within(3e-3, smooth, view()) / min(smooth.spacing) > 2 * step_within(3e-3, rough, view()) / min(rough.spacing)


def test_the_choice_is_no_part_of_what_is_differentiated() -> None:
    leaf = POSES.clone().requires_grad_()
    data = rough_volume().data.requires_grad_()
    volume = Volume(data, rough_volume().affine)
    step = step_within(1e-2, volume, view(), leaf)
    slopes = [
        torch.autograd.grad(project(volume, view(), leaf, **how).square().sum(), (leaf, data))  # type: ignore[arg-type]
        for how in ({"error": 1e-2}, {"step": step})
    ]
    for one, other in zip(*slopes, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))


def test_many_images_and_none() -> None:
    volume = rough_volume()
    many = POSES.repeat(20, 1, 1)
    assert step_within(3e-3, volume, [view(), view(pitch=4.0)], many) <= 2 * step_within(3e-3, volume, view(), POSES)
    beside = torch.eye(4, dtype=D)[None].clone()
    beside[0, :3, 3] = torch.tensor([0.0, 0.0, 5000.0])
    assert step_within(1e-3, volume, view(), beside) == min(volume.spacing) / 2  # nothing to measure
    assert float(project(volume, view(), beside, error=1e-3).abs().max()) == 0
    around = torch.eye(4, dtype=D)[None].clone()
    around[0, :3, 3] = view().source  # the source stands in the volume, which then shows anywhere
    assert 0 < step_within(1e-2, volume, view(), around) < 4 * min(volume.spacing)


def test_an_error_out_of_reach_is_refused() -> None:
    with pytest.raises(InputError, match=r"error: an error of 1e-07 is not reached: .* errs by .*; ask for less"):
        step_within(1e-7, rough_volume(), view())
    with pytest.raises(InputError, match="no relative error between 0 and 1"):
        step_within(1.5, rough_volume(), view())
