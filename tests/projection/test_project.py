"""The projector means what the reference says, and the reference means line integrals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import raylign
from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.projection import cpu, project
from raylign.projection.reference import MODELS
from tests.projection.scene import gaussian_integrals, smooth_volume, view


def test_kernel_equals_reference() -> None:
    poses = se3.exp(torch.tensor([[0.1, -0.2, 0.05, 3.0, -5.0, 8.0], [0.0, 0.3, 0.1, 0.0, 10.0, -4.0]], dtype=torch.float64))
    views = [view(), view(pitch=4.0)]
    ours = project(smooth_volume(), views, poses, step=2.0)
    reference = project(smooth_volume(torch.float64), views, poses, step=2.0)
    assert ours.shape == (2, 2, 24, 28) and ours.dtype == torch.float32 and reference.dtype == torch.float64
    assert float((ours - reference).abs().max() / reference.max()) < 2e-6


def test_line_integrals_of_a_gaussian_are_exact() -> None:
    """Analytic phantom: the error left is the interpolation's, second order in the voxel pitch."""
    errors = []
    for pitch in (4.0, 2.0):
        n = int(160 / pitch) + 1
        axis = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pitch
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        affine = torch.diag(torch.tensor([pitch, pitch, pitch, 1.0], dtype=torch.float64))
        affine[:3, 3] = axis[0]
        volume = Volume(torch.exp(-(x**2 + y**2 + z**2) / (2 * 15.0**2)).float(), affine)
        exact = gaussian_integrals(view(), torch.zeros(3, dtype=torch.float64), 15.0)
        errors.append(float((project(volume, view())[0, 0] - exact).abs().max() / exact.max()))
    assert errors[1] < 0.005 and errors[1] < 0.35 * errors[0]


def test_ellipsoid_converges_to_its_chords() -> None:
    """A solid ellipsoid has exact chords; the rendering of its partial-volume voxels approaches them."""
    radii = torch.tensor([40.0, 28.0, 33.0], dtype=torch.float64)
    at = view((40, 40), 4.0)
    source, rays = at.rays()
    a = ((rays / radii) ** 2).sum(-1)
    b = (rays / radii) @ (source / radii)
    discriminant = (b**2 - a * (((source / radii) ** 2).sum() - 1)).clamp_min(0)
    chords = 2 * discriminant.sqrt() / a * rays.norm(dim=-1)
    n, pitch = 96, 1.0
    axis = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pitch
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    level = ((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2).sqrt()
    solid = (0.5 - (level - 1) * radii.mean()).clamp(0, 1)  # about one voxel of partial volume
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 3] = axis[0]
    image = project(Volume(solid.float(), affine), at)[0, 0].double()
    inside = chords > 10
    assert float((image - chords)[inside].pow(2).mean().sqrt() / chords[inside].pow(2).mean().sqrt()) < 0.01


# Every number a projection depends on: angles, distances, pixel sizes, then the twist of the pose.
_AT = [25.0, -10.0, 1003.7, 650.0, 6.0, 5.5, 0.1, -0.2, 0.05, 3.0, -5.0, 8.0]
# Steps small enough that few samples cross a kink of the trilinear interpolant, large enough for float64.
_STEPS = [1e-6, 1e-6, 2e-6, 2e-6, 1e-7, 1e-7, 2e-8, 2e-8, 2e-8, 1e-6, 1e-6, 1e-6]


def _loss(numbers: torch.Tensor, volume: Volume) -> torch.Tensor:
    at = View.from_carm(
        primary=numbers[0], secondary=numbers[1], sid=numbers[2], sod=numbers[3], pixel_spacing=numbers[4:6], shape=(24, 28)
    )
    image = project(volume, at, se3.exp(numbers[6:12]), step=2.1)[0, 0]
    r, c = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in image.shape), indexing="ij")
    return (image.double() * (1 + 0.1 * r - 0.07 * c + 0.004 * r * c)).sum()


def _finite_differences(volume: Volume) -> torch.Tensor:
    slopes = []
    at = torch.tensor(_AT, dtype=torch.float64)
    with torch.no_grad():
        for i in range(len(_AT)):
            h = _STEPS[i]
            e = torch.zeros(len(_AT), dtype=torch.float64)
            e[i] = h
            slopes.append((_loss(at + e, volume) - _loss(at - e, volume)) / (2 * h))
    return torch.stack(slopes)


def test_gradients_equal_finite_differences() -> None:
    """Of pose, angles, distances and pixel size: 1e-3 in float32 by the kernel, 1e-6 by the float64 reference."""
    expected = _finite_differences(smooth_volume(torch.float64))
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.float64, 1e-6)):
        at = torch.tensor(_AT, dtype=torch.float64, requires_grad=True)
        (slopes,) = torch.autograd.grad(_loss(at, smooth_volume(dtype)), at)
        assert float(((slopes - expected).abs() / expected.abs()).max()) < tolerance


def test_gradient_by_the_volume_is_the_adjoint() -> None:
    """<A v, w> = <v, A* w>, and the gradient of a linear map does not depend on where it is taken."""
    base = smooth_volume(torch.float64, (8, 9, 10))
    data = base.data.clone().requires_grad_()
    w = torch.rand(24, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (adjoint,) = torch.autograd.grad((project(replace(base, data=data), view(), step=3.0)[0, 0] * w).sum(), data)
    v = torch.rand(base.data.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    forward = (project(replace(base, data=v), view(), step=3.0)[0, 0] * w).sum()
    assert float((forward - (v * adjoint).sum()).abs() / forward) < 1e-12


def test_two_threads_rendering_at_once_are_right() -> None:
    volume, at = smooth_volume(), view((96, 96), 1.5)
    poses = se3.exp(0.1 * torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    expected = [project(volume, at, p) for p in poses]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: project(volume, at, p), poses.repeat(4, 1, 1)))
    assert all(torch.equal(f, expected[i % 12]) for i, f in enumerate(found))


def test_result_does_not_depend_on_the_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, at = smooth_volume(), view((64, 64), 2.0)
    images = []
    for count in ("1", "3"):
        monkeypatch.setenv("RAYLIGN_THREADS", count)
        images.append(project(volume, at))
    assert torch.equal(*images)


def test_masked_pixels_are_zero_and_others_unchanged() -> None:
    volume, at = smooth_volume(), view()
    from raylign.projection.project import samples_per_ray, voxel_rays

    rays = voxel_rays(volume, at, torch.eye(4, dtype=torch.float64))[None].numpy()
    padded = cpu.grid(volume.data)
    samples = np.array([samples_per_ray(at, 1.0)])
    mask = np.random.default_rng(0).random((1, *at.shape)) < 0.5
    for gradients in (False, True):
        whole = cpu.forward(padded, rays, at.shape, samples, gradients=gradients)
        part = cpu.forward(padded, rays, at.shape, samples, mask, gradients=gradients)
        for everything, some in zip(whole[: 1 + gradients], part[: 1 + gradients], strict=True):
            assert np.array_equal(some[mask], everything[mask]) and not some[~mask].any()


def test_a_changed_volume_is_rendered_anew() -> None:
    """The padded copy is kept with the tensor; writing to the tensor must not leave it stale."""
    volume = smooth_volume()
    before = project(volume, view())
    volume.data.mul_(2)
    assert torch.allclose(project(volume, view()), 2 * before)


def test_hu_are_converted_and_air_casts_no_shadow() -> None:
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 3] = -15.5
    air = Volume(torch.full((32, 32, 32), -1000.0), affine, unit="HU")
    water = Volume(torch.zeros(32, 32, 32), affine, unit="HU")
    at = View.from_carm(sid=1000, sod=700, pixel_spacing=1.0, shape=(9, 9))
    assert float(project(air, at).abs().max()) == 0
    assert float(project(water, at)[0, 0, 4, 4]) == pytest.approx(32 * 0.01929, rel=1e-3)


def test_a_conversion_is_kept_until_the_volume_changes() -> None:
    hu = Volume(torch.full((8, 8, 8), 100.0), torch.eye(4, dtype=torch.float64), unit="HU")
    assert hu.attenuation().data is hu.attenuation().data  # a loop that projects HU converts once
    assert hu.attenuation(50).data is not hu.attenuation().data
    before = float(hu.attenuation().data[0, 0, 0])
    hu.data.mul_(2)
    water, slope = hu.attenuation_coefficients()
    assert float(hu.attenuation().data[0, 0, 0]) == pytest.approx(water + 200 * slope) != before
    learned = replace(hu, data=hu.data.clone().requires_grad_())
    for _ in range(2):  # a graph is used up by its backward pass
        learned.attenuation().data.sum().backward()


@pytest.mark.parametrize("model", MODELS)
def test_every_model_integrates_what_it_says(model: str) -> None:
    """Against the reference in float64, and against the others on a volume whose voxels are fine."""
    ours = project(smooth_volume(), view(), model=model)[0, 0]
    exact = project(smooth_volume(torch.float64), view(), model=model)[0, 0]
    assert float((ours - exact).abs().max() / exact.max()) < 5e-6
    trilinear = project(smooth_volume(), view(), step=0.2)[0, 0]
    apart = float((ours - trilinear).norm() / trilinear.norm())
    assert apart < {"trilinear": 1e-3, "joseph": 5e-3, "siddon": 3e-2}[model]
    assert model == "trilinear" or apart > 1e-4  # they are not one and the same


def shifted(volume: Volume, mm: float) -> Volume:
    affine = volume.affine.clone()
    affine[0, 3] += mm
    return replace(volume, affine=affine)


def test_volumes_exposed_together_add_up() -> None:
    one, other = smooth_volume(), shifted(smooth_volume(size=(14, 16, 12)), 20.0)
    many = se3.exp(torch.tensor([[0.1, -0.2, 0.05, 3.0, -5.0, 8.0], [0.0, 0.3, 0.1, 0.0, 10.0, -4.0]], dtype=torch.float64))
    views = [view(), view(pitch=4.0)]
    apart = [[project(v, views, p) for p in (many, many[1], None)] for v in (one, other)]
    assert torch.equal(project([one, other], views, many), apart[0][0] + apart[1][0])
    assert torch.equal(project([one, other], views), apart[0][2] + apart[1][2])
    each = project([one, other], views, [many, raylign.Rigid(many[1])])  # the other stands still
    assert each.shape == (2, 2, 24, 28)
    assert torch.equal(each, apart[0][0] + apart[1][1])
    assert torch.equal(project([one, other], views, [None, many]), apart[0][2] + apart[1][0])


def test_each_volume_has_the_gradient_of_its_own_pose() -> None:
    twists = torch.tensor([[0.1, -0.2, 0.05, 3.0, -5.0, 8.0], [0.0, 0.3, 0.1, 0.0, 10.0, -4.0]], dtype=torch.float64)
    volumes = [smooth_volume(), shifted(smooth_volume(), 15.0)]
    together, alone = (twists.clone().requires_grad_() for _ in range(2))
    weight = torch.rand(24, 28, generator=torch.Generator().manual_seed(0))
    (project(volumes, view(), list(se3.exp(together))) * weight).sum().backward()
    for i, volume in enumerate(volumes):
        (project(volume, view(), se3.exp(alone[i])) * weight).sum().backward()
    assert together.grad is not None and alone.grad is not None
    assert torch.allclose(together.grad, alone.grad, rtol=1e-5)


def test_volumes_that_cannot_be_exposed_together_are_refused() -> None:
    volume, poses = smooth_volume(), torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    for volumes, given, words in (
        ([], None, "a volume or several"),
        ([volume, volume.data], None, "a volume or several"),
        ([volume, replace(volume, unit="raw")], None, "raw numbers and attenuation"),
        ([volume, volume], [poses], "1 entries for 2 volumes"),
        ([volume, volume], [poses, poses[:2]], "3, 2 poses"),
        ([volume, volume], [poses, torch.eye(3)], "4x4"),
    ):
        with pytest.raises(InputError, match=words):
            project(volumes, view(), given)
    raw = replace(volume, unit="raw")
    assert torch.equal(project([raw, raw], view()), 2 * project(volume, view()))


def test_it_compiles_without_a_break() -> None:
    """Twist in, image out, the derivative too; the views and the volume are constants of the graph."""
    volume, many = smooth_volume(), [view(), View.from_parallel(pixel_spacing=5.0, shape=(24, 28), reach=90.0)]
    compiled = torch.compile(lambda twist: project(volume, many, se3.exp(twist)), fullgraph=True, backend="aot_eager")
    twist = torch.tensor([[0.1, -0.2, 0.05, 3.0, -5.0, 8.0]], dtype=torch.float64, requires_grad=True)
    images = [f(twist) for f in (compiled, lambda twist: project(volume, many, se3.exp(twist)))]
    assert torch.allclose(*images, rtol=1e-6)
    slopes = [torch.autograd.grad(image.square().sum(), twist)[0] for image in images]
    assert torch.allclose(*slopes, rtol=1e-6)


@pytest.mark.parametrize(
    ("poses", "options", "words"),
    [
        (torch.eye(3), {}, "4x4"),
        ([["a"]], {}, "poses: not matrices"),
        (torch.zeros(4, 4), {}, "singular or not finite"),
        (torch.full((4, 4), float("nan")), {}, "singular or not finite"),
        (None, {"step": 0.0}, "step"),
        (None, {"step": float("nan")}, "step"),
        (None, {"step": 1.0, "error": 0.01}, "a step and an error"),
        (None, {"error": 0.0}, "error: 0.0 is no relative error"),
        (None, {"error": float("nan")}, "no relative error"),
        (None, {"error": 1e-3, "model": "joseph"}, "error: the joseph model takes no samples"),
        (None, {"step": 1.0, "model": "siddon"}, "step: the siddon model takes no samples"),
        (None, {"model": "cubic"}, "no interpolation model 'cubic'"),
    ],
)
def test_bad_arguments_are_refused(poses: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        project(smooth_volume(), view(), poses, **options)
    with pytest.raises(InputError, match="different shapes"):
        raylign.project(smooth_volume(), [view(), view((10, 10))])
