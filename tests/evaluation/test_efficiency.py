"""The Cramér-Rao bound: analytic cases, estimates of tiny problems, what must and must not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raylign.data import Volume
from raylign.errors import InputError
from raylign.evaluation.efficiency import Bound, Light, bound, information, pose_jacobian, together
from raylign.evaluation.metrics import mrpd, mtre
from raylign.geometry import Rigid, View, se3
from raylign.projection import reference
from raylign.projection.rays import ray_batch, ray_lengths
from raylign.registration import centred

WIDTH, PEAK = 9.0, 0.02  # of the blob, mm and 1/mm


def blob(voxel: float = 1.5, size: int = 49, stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    """A Gaussian: every ray's integral through it is known."""
    x = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * voxel
    terms = [torch.exp(-((x / s) ** 2) / (2 * WIDTH**2)) for s in stretch]
    data = PEAK * terms[2][:, None, None] * terms[1][None, :, None] * terms[0][None, None, :]
    affine = torch.diag(torch.tensor([voxel, voxel, voxel, 1.0], dtype=torch.float64))
    affine[:3, 3] = float(x[0])
    return Volume(data.float(), affine, "1/mm")


def view(pixels: int = 64, pitch: float = 2.0) -> View:
    return View.from_carm(primary=20, secondary=-8, sid=1000, sod=700, pixel_spacing=pitch, shape=(pixels, pixels))


def turned() -> Rigid:
    return Rigid(se3.exp(torch.tensor([0.2, -0.3, 0.1, 3.0, -5.0, 4.0], dtype=torch.float64)))


def even(photons: float, shape: tuple[int, int] = (64, 64), **more: float) -> Light:
    return Light(torch.full(shape, photons, dtype=torch.float64), **more)


def test_jacobian_is_the_derivative_of_the_integrals() -> None:
    """Against central differences of the reference projector in double precision; structure of several voxels."""
    volume, seen, pose = blob(2.0, 49, (1.5, 1.0, 0.7)), view(16, 7.0), turned()
    integrals, jacobian, centre = pose_jacobian(volume, seen, pose, step=0.25)
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = centre

    def image(twist: torch.Tensor) -> torch.Tensor:
        matrix = shift @ se3.exp(twist) @ se3.inverse(shift) @ pose.matrix
        rays = ray_batch(volume.affine, (seen,), matrix[None], volume.data.device)
        values = reference.integrals(volume.data.double(), rays[0], seen.shape, [1500])
        return (values * ray_lengths((seen,), volume.data.device, torch.float64))[0]

    assert float((integrals - image(torch.zeros(6, dtype=torch.float64))).abs().max()) < 2e-3 * float(integrals.max())
    wrong = []
    for k in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[k] = 0.01 if k < 3 else 0.3
        difference = (image(step) - image(-step)) / (2 * step[k])
        wrong.append(float((jacobian[k] - difference).norm() / difference.norm()))
    # trilinear interpolation has kinks that a difference smooths and a derivative does not
    assert max(wrong) < 0.05, wrong


def test_shift_of_a_gaussian_blob() -> None:
    """A parallel-like view of a blob: F = N integral (dI/dx)^2 dA / pixel area = N pi A^2 / (2 pixel^2) (at the blob)."""
    seen = View.from_carm(primary=0, secondary=0, sid=100_000, sod=99_900, pixel_spacing=2.0, shape=(64, 64))
    photons = 400.0
    found = bound(blob(), seen, centred(blob()), even(photons))
    amplitude = PEAK * math.sqrt(2 * math.pi) * WIDTH
    expected = math.sqrt(2 / (photons * math.pi * amplitude**2)) * 2.0
    camera = found.camera.diagonal()
    for k in (3, 4):  # without the correlation with rotations, of which a ball has none, and depth: of a parallel view none
        alone = float(1 / (found.information[3:, 3:] @ torch.eye(3, dtype=torch.float64)).diagonal().max().sqrt())
        assert alone == pytest.approx(expected, rel=0.01)
        assert float(camera[k].sqrt()) >= alone * 0.999


def test_edge_position_and_dose() -> None:
    """One parameter, a step of height h over n rows: information n h^2 / s^2 for a change of one pixel."""
    jacobian = torch.zeros(1, 20, 30, dtype=torch.float64)
    jacobian[0, :, 15] = 0.7
    for photons in (50.0, 200.0, 800.0):
        f = information(jacobian, even(photons, (20, 30)))
        assert float(f) == pytest.approx(20 * 0.7**2 * photons, rel=1e-9)
    low, high = (bound(blob(stretch=(1, 0.7, 0.5)), view(), turned(), even(n)) for n in (100.0, 1600.0))
    for name in ("in_plane", "depth"):
        assert getattr(low, name) == pytest.approx(4 * getattr(high, name), rel=1e-6)


def test_scatter_hardening_and_read_out_change_it_as_they_must() -> None:
    jacobian = torch.zeros(1, 16, 16, dtype=torch.float64)
    jacobian[0, 4:12, 8] = 1.0
    plain = float(information(jacobian, even(100.0, (16, 16))))
    # half the photons scattered: the same counts, half the contrast
    assert float(information(jacobian, even(100.0, (16, 16), primary=0.5))) == pytest.approx(plain / 4)
    assert float(information(jacobian, even(100.0, (16, 16), hardening=0.9))) == pytest.approx(plain * 0.81)
    assert float(information(jacobian, even(100.0, (16, 16), electronic=10.0))) == pytest.approx(plain / 2)


def test_blur_of_signal_and_noise_costs_nothing_but_with_read_out_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    jacobian = torch.zeros(2, 40, 40, dtype=torch.float64)
    jacobian[:, 14:26, 14:26] = torch.randn(2, 12, 12, generator=generator, dtype=torch.float64)
    sharp = information(jacobian, even(500.0, (40, 40)))
    assert torch.allclose(information(jacobian, even(500.0, (40, 40), blur=0.5)), sharp, rtol=1e-3)
    loud = even(500.0, (40, 40), electronic=15.0)
    softer = even(500.0, (40, 40), electronic=15.0, blur=0.8)
    assert bool((information(jacobian, softer).diagonal() < 0.9 * information(jacobian, loud).diagonal()).all())


def test_blurred_noise_against_the_dense_matrix() -> None:
    """Conjugate gradients against a covariance written out, a mask and uneven light included."""
    n, sd = 14, 0.7
    r, c = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    photons = 200 + 20.0 * r + 5.0 * c
    mask = ((r - 6) ** 2 + (c - 7) ** 2) < 30
    generator = torch.Generator().manual_seed(2)
    jacobian = torch.randn(3, n, n, generator=generator, dtype=torch.float64)
    light = Light(photons, electronic=6.0, blur=sd)
    found = information(jacobian, light, mask)
    from raylign.evaluation.efficiency import _Spread

    spread = _Spread((n, n), sd)
    matrix = np.stack([spread(e.reshape(n, n)).ravel() for e in np.eye(n * n)], 1)
    seen = matrix @ photons.double().numpy().ravel()
    transposed = np.stack([spread.adjoint(e.reshape(n, n)).ravel() for e in np.eye(n * n)], 1)
    assert np.allclose(transposed, matrix.T, atol=1e-12)
    covariance = (matrix @ np.diag(photons.double().numpy().ravel()) @ matrix.T + 36.0 * np.eye(n * n)) / np.outer(seen, seen)
    inside = mask.numpy().ravel()
    j = np.stack([(matrix @ (photons.double().numpy() * k).ravel() / seen)[inside] for k in jacobian.numpy()])
    expected = j @ np.linalg.solve(covariance[np.ix_(inside, inside)], j.T)
    assert np.allclose(found.numpy(), (expected + expected.T) / 2, rtol=1e-4)


def test_without_read_out_noise_the_spread_drops_out_and_what_cannot_be_undone_is_refused() -> None:
    jacobian = torch.randn(2, 40, 40, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    sharp = information(jacobian, even(500.0, (40, 40)))
    assert torch.allclose(information(jacobian, even(500.0, (40, 40), blur=1.5)), sharp, rtol=1e-12)
    part = torch.zeros(40, 40, dtype=torch.bool)
    part[4:36, 4:36] = True
    with pytest.raises(InputError, match="could not be inverted"):
        information(jacobian, even(500.0, (40, 40), blur=1.5), part)


def test_an_exposure_that_tells_nothing() -> None:
    nothing = information(torch.ones(6, 8, 8), even(10.0, (8, 8)), torch.zeros(8, 8, dtype=torch.bool))
    with pytest.raises(InputError, match="does not determine"):
        _ = Bound(nothing, torch.zeros(3, dtype=torch.float64), view()).in_plane


def test_unknown_offset_and_gain_can_only_cost() -> None:
    volume, seen, pose = blob(stretch=(1, 0.7, 0.5)), view(), turned()
    integrals, jacobian, _ = pose_jacobian(volume, seen, pose)
    light = even(300.0)
    known = information(jacobian, light)
    nuisance = torch.stack([torch.ones_like(integrals), integrals])
    unknown = information(jacobian, light, nuisance=nuisance)
    assert float(torch.linalg.eigvalsh(known - unknown).min()) > -1e-6 * float(known.diagonal().max())
    # a gain that nobody knows is what a change of depth nearly looks like
    a, b = (Bound(f, torch.zeros(3, dtype=torch.float64), seen) for f in (known, unknown))
    assert b.depth > 1.2 * a.depth


def test_two_views_see_depth() -> None:
    volume, pose = blob(stretch=(1, 0.7, 0.5)), turned()
    side = View.from_carm(primary=110, secondary=-8, sid=1000, sod=700, pixel_spacing=2.0, shape=(64, 64))
    one, other = (bound(volume, v, pose, even(300.0)) for v in (view(), side))
    both = together([one, other])
    assert both.depth < 0.2 * one.depth
    assert both.in_plane < one.in_plane


def test_maximum_likelihood_meets_it() -> None:
    """Poisson counts of a blob, its pose by Gauss-Newton on their likelihood: the covariance is the bound."""
    volume, seen, pose = blob(2.5, 29, (1, 0.6, 0.4)), view(40, 3.0), turned()
    integrals, jacobian, centre = pose_jacobian(volume, seen, pose)
    mean = 20_000 * torch.exp(-integrals.double())
    limit = Bound(information(jacobian, Light(mean)), centre, seen)
    columns = jacobian.double().reshape(6, -1)
    counts = torch.poisson(mean.expand(300, -1, -1), generator=torch.Generator().manual_seed(3)).reshape(300, -1)
    # score of a Poisson likelihood whose mean is N0 exp(-I): sum (mean - count) dI; linear within so small an error
    twists = ((mean.reshape(-1) - counts) @ columns.T) @ torch.linalg.inv((columns * mean.reshape(-1)) @ columns.T)
    measured = torch.cov(twists.T)
    ratio = torch.linalg.eigvals(torch.linalg.solve(limit.covariance, measured)).real
    assert float(ratio.min()) > 0.75 and float(ratio.max()) < 1.3
    assert float(ratio.mean()) == pytest.approx(1, abs=0.08)


def test_expected_target_errors_are_those_of_drawn_poses() -> None:
    volume, seen, pose = blob(stretch=(1, 0.7, 0.5)), view(), turned()
    found = bound(volume, seen, pose, even(3000.0))
    points = found.centre + 40 * torch.randn(12, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    draws = torch.randn(400, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    twists = draws @ torch.linalg.cholesky(found.covariance).T
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = found.centre
    poses = shift @ se3.exp(twists) @ se3.inverse(shift) @ pose.matrix
    local = pose.inverse().apply(points)
    assert found.mtre(points) == pytest.approx(float(mtre(poses, pose, local).mean()), rel=0.08)
    assert found.mrpd(points) == pytest.approx(float(mrpd(poses, pose, local, seen).mean()), rel=0.08)
    assert found.mrpd(points) < found.mtre(points)


@pytest.mark.parametrize(
    ("light", "word"),
    [
        ({"photons": torch.zeros(4, 4)}, "positive"),
        ({"photons": torch.ones(4)}, "positive"),
        ({"photons": torch.ones(4, 4), "primary": 1.5}, "primary"),
        ({"photons": torch.ones(4, 4), "electronic": -1.0}, "negative"),
    ],
)
def test_light_that_cannot_be(light: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Light(**light)  # type: ignore[arg-type]


def test_shapes_must_agree() -> None:
    with pytest.raises(InputError, match="differ in shape"):
        information(torch.zeros(6, 8, 8), even(10.0, (8, 9)))
    with pytest.raises(InputError, match="no bound"):
        together([])
