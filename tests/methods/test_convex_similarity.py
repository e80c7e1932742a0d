"""The learned convex similarity: its metric, its derivatives, its descent; analytic and finite-difference references."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.methods.convex_similarity.descent import DescentConfig, descend
from raylign.methods.convex_similarity.model import Similarity
from raylign.methods.convex_similarity.network import BranchConfig, NetworkConfig, make_network
from raylign.methods.cubes import BONE, CubeConfig, centred, cube_of, middle_of, uncentred
from raylign.methods.geodesic import between, downhill, moved, squared
from raylign.methods.looks import Looks, look, shadows
from raylign.projection import project

CUBE = CubeConfig(voxels=20, voxel_mm=12.0, pixels=32, unit_mm=100.0)
SIZES = NetworkConfig(features=(2, 3), fine=BranchConfig(8, 12), coarse=BranchConfig(16, 16), heads=2, blocks=1, widths=(4, 6))
VIEW = View.from_carm(sid=1020.0, sod=800.0, pixel_spacing=8.704, shape=(32, 32))


def poses(seed: int, count: int = 2, turn: float = 0.3, shift: float = 40.0) -> Tensor:
    """Poses of the cube near the isocentre."""
    stream = torch.Generator().manual_seed(seed)
    motion = torch.randn(count, 6, generator=stream, dtype=torch.float64) * torch.tensor([turn] * 3 + [shift / 100] * 3)
    return moved(torch.eye(4, dtype=torch.float64).expand(count, 4, 4), motion, 100.0)


def body(voxels: int = 20) -> Tensor:
    """Something smooth and not symmetric, air around it."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, voxels),) * 3, indexing="ij")
    inside = torch.exp(-((x / 0.5) ** 2 + (y / 0.35) ** 2 + (z / 0.6) ** 2)) + 0.7 * torch.exp(
        -(((x - 0.4) / 0.2) ** 2 + (y / 0.2) ** 2 + ((z + 0.3) / 0.2) ** 2)
    )
    return (inside * (inside > 0.05)).to(torch.float32)


def looks(count: int = 2, pixels: int = 32) -> Looks:
    images = torch.randn(count, 1, pixels, pixels, generator=torch.Generator().manual_seed(0))
    return Looks(images, VIEW.resample((pixels, pixels)).vectors.expand(count, 4, 3))


# -- the metric ---------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_the_way_downhill_is_half_the_gradient_and_leads_there(seed: int) -> None:
    a, b = poses(seed, 1, 0.8, 120.0), poses(seed + 1, 1, 0.8, 120.0)
    way = downhill(a, b, 100.0)
    torch.testing.assert_close(squared(moved(a, way, 100.0), b, 100.0), torch.zeros(1, dtype=torch.float64), atol=1e-12, rtol=0)
    motion = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(squared(moved(a, motion, 100.0), b, 100.0).sum(), motion)
    torch.testing.assert_close(slope, -2 * way, atol=1e-9, rtol=0)
    h = 1e-5
    for k in range(6):
        step = torch.zeros(1, 6, dtype=torch.float64)
        step[0, k] = h
        up, down = (squared(moved(a, s * step, 100.0), b, 100.0) for s in (1, -1))
        assert float((up - down) / (2 * h)) == pytest.approx(float(-2 * way[0, k]), abs=1e-5)
    # left-invariant: nobody's distance changes with a common motion
    common = poses(seed + 2, 1, 1.0, 0.0)
    torch.testing.assert_close(squared(common @ a, common @ b, 100.0), squared(a, b, 100.0))
    assert float(squared(a, b, 100.0)) == pytest.approx(float(se3.geodesic(a, b, mm_per_radian=100.0)) ** 2 / 100.0**2, rel=1e-9)


# what geomstats 2.8.0 gives (with a NumPy before 2, which it needs): InvariantMetric(SpecialEuclidean(3, point_type="vector")),
# the left canonical metric: squared_dist of pairs (rotation vector, translation), and the translation of the log of b at a
_GEOMSTATS = (
    ((0.3, -0.2, 0.5, 0.4, -1.1, 0.7), (-0.6, 0.1, 0.2, 0.9, 0.3, -0.2), 3.9976061091812767, (0.5, 1.4, -0.9)),
    ((1.2, 0.4, -0.9, 0.0, 0.2, 2.0), (0.1, 0.0, 0.3, -0.5, 0.1, 1.0), 4.05078711751986, (-0.5, -0.1, -1.0)),
    ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (0.5, -0.7, 0.2, 0.3, 0.6, -0.4), 1.39, (0.3, 0.6, -0.4)),
)


@pytest.mark.parametrize(("first", "second", "distance", "shift"), _GEOMSTATS)
def test_the_metric_is_that_of_geomstats(
    first: tuple[float, ...], second: tuple[float, ...], distance: float, shift: Any
) -> None:
    a, b = (
        moved(torch.eye(4, dtype=torch.float64)[None], torch.tensor([v], dtype=torch.float64), 100.0) for v in (first, second)
    )
    assert float(squared(a, b, 100.0)) == pytest.approx(distance, rel=1e-12)
    assert downhill(a, b, 100.0)[0, 3:].tolist() == pytest.approx(shift, abs=1e-12)


def test_gradients_are_compared_as_poses_are() -> None:
    a = torch.tensor([[0.4, -0.2, 0.9, 0.3, 0.1, -0.5]], dtype=torch.float64)
    assert float(between(a, a)) == pytest.approx(0, abs=1e-14)
    eye = torch.eye(4, dtype=torch.float64)[None]
    b = torch.tensor([[-0.1, 0.3, 0.2, 0.0, 0.4, 0.1]], dtype=torch.float64)
    assert float(between(a, b)) == pytest.approx(float(squared(moved(eye, a, 1.0), moved(eye, b, 1.0), 1.0)), rel=1e-9)


# -- what the network sees ----------------------------------------------------------------------------------------------------


def test_a_cube_projects_as_its_volume() -> None:
    data = torch.zeros(30, 26, 34)
    data[6:24, 5:20, 8:28] = BONE * (0.5 + torch.rand(18, 15, 20, generator=torch.Generator().manual_seed(3)))
    affine = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-60.0, 33.0, 12.0])
    volume = Volume(data, affine, "1/mm")
    config = CubeConfig(voxels=40, voxel_mm=4.0, pixels=32)
    cube, middle = cube_of(volume, config)
    torch.testing.assert_close(middle, middle_of(volume))
    assert float(cube.sum()) == pytest.approx(float(data.sum()) / BONE, rel=1e-3)
    network = make_network(replace(SIZES, expand=False), 32, 0)
    at = poses(4)
    found = shadows(network.expanded(cube), looks(), at, replace(config, step=0.25))[:, 0]
    exact = project(volume, VIEW, uncentred(at, middle), step=1.0)
    shown = exact.reshape(found.shape)
    ratio = float((found * shown).sum() / (shown * shown).sum())
    assert ratio == pytest.approx(1 / (BONE * 30.0), rel=0.01)
    # half a voxel of smoothing on a body of noise
    assert float((found / ratio - shown).abs().mean()) < 0.03 * float(shown.mean())
    torch.testing.assert_close(centred(uncentred(at, middle), middle), at)


def test_what_changes_slowly_is_not_seen() -> None:
    stream = torch.Generator().manual_seed(1)
    image = torch.nn.functional.interpolate(torch.rand(1, 1, 16, 16, generator=stream), (64, 64), mode="bilinear")[0]
    view = View.from_carm(sid=1020.0, sod=800.0, pixel_spacing=4.352, shape=(64, 64))
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    plain = look(image, valid, [view], 32)
    ramp = torch.linspace(0, 0.05, 64).expand(1, 64, 64)
    torch.testing.assert_close(look(3.0 * image + 7.0, valid, [view], 32).images, plain.images, atol=2e-3, rtol=0)
    assert float((look(image + ramp, valid, [view], 32).images - plain.images).abs().mean()) < 0.05
    assert torch.equal(plain.vectors[0], view.resample((32, 32)).vectors)
    valid[:, :10] = False
    spoilt = torch.where(valid, image, torch.tensor(float("nan")))
    hidden = look(spoilt, valid, [view], 32)
    assert not hidden.images[0, 0, :5].any() and bool(hidden.images.isfinite().all())
    assert float(hidden.images.abs().max()) <= 3
    with pytest.raises(InputError, match="no multiple of 30 x 30"):
        look(image, valid, [view], 30)


# -- derivatives --------------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A float64 network without kinks, in place of the real one."""

    def __init__(self) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(7)
        self.mix = nn.Parameter(0.3 * torch.randn(2, 1, generator=stream, dtype=torch.float64))
        self.first = nn.Parameter(torch.randn(5, 3, generator=stream, dtype=torch.float64))
        self.last = nn.Parameter(torch.randn(5, generator=stream, dtype=torch.float64))

    def expanded(self, volume: Tensor) -> Tensor:
        return volume[None] * (1 + self.mix[:, :, None, None])

    def forward(self, moving: Tensor, target: Tensor) -> Tensor:
        seen = torch.cat([moving, target], 1).movedim(1, -1)
        return (torch.tanh(seen @ self.first.T) * self.last).sum(-1).mean((1, 2))


def test_the_loss_of_a_gradient_has_the_derivatives_that_finite_differences_have() -> None:
    """By all weights, those before the projector and those behind it, in float64 through the reference projector."""
    network, volume = Plain(), body().to(torch.float64)
    given = looks(pixels=8)
    seen = Looks(given.images.to(torch.float64), given.vectors)
    similarity = Similarity(network, replace(CUBE, pixels=8, step=2.0))  # type: ignore[arg-type]
    at, truth = poses(1), poses(2)

    def loss() -> Tensor:
        _, slopes = similarity.gradient(network.expanded(volume), seen, at, twice=True)
        return between(slopes, -downhill(at, truth, 100.0)).mean()

    value = loss()
    value.backward()
    h = 1e-5
    for weights in (network.mix, network.first, network.last):
        assert weights.grad is not None
        for place in range(0, weights.numel(), 4):
            flat = weights.data.view(-1)
            kept = float(flat[place])
            ends = []
            for sign in (1, -1):
                flat[place] = kept + sign * h
                ends.append(loss().item())
            flat[place] = kept
            exact = (ends[0] - ends[1]) / (2 * h)
            assert float(weights.grad.view(-1)[place]) == pytest.approx(exact, rel=1e-5, abs=1e-8)


def test_the_kernels_give_the_same_training_gradients_as_the_reference() -> None:
    """The real network in float32, its volume's kernels against the float64 reference projector: equal but for rounding."""
    network, volume, at, truth = make_network(SIZES, 32, 0), body(), poses(1), poses(2)
    exact = make_network(SIZES, 32, 0).to(torch.float64)
    found = []
    for net, kind in ((network, torch.float32), (exact, torch.float64)):
        given = looks()
        seen = Looks(given.images.to(kind), given.vectors)
        _, slopes = Similarity(net, replace(CUBE, step=2.0)).gradient(net.expanded(volume.to(kind)), seen, at, twice=True)
        loss = between(slopes, -downhill(at, truth, 100.0)).mean()
        loss.backward()
        found.append([p.grad for p in net.parameters() if p.grad is not None] + [slopes.detach()])
    assert len(found[0]) == len(found[1])
    largest = max(float(b.norm()) for b in found[1])
    for a, b in zip(*found, strict=True):
        assert float((a.double() - b).norm()) < 1e-3 * float(b.norm()) + 1e-6 * largest
    assert network.expansion is not None and all(p.grad is not None for p in network.expansion.parameters())


def test_the_gradient_is_that_of_the_similarity() -> None:
    network = make_network(SIZES, 32, 1).to(torch.float64)
    given = looks()
    seen, at, volume = Looks(given.images.to(torch.float64), given.vectors), poses(3), body().to(torch.float64)
    similarity = Similarity(network, replace(CUBE, step=3.0))
    with torch.no_grad():
        channels = network.expanded(volume)
    _, slopes = similarity.gradient(channels, seen, at)
    h = 1e-7  # so that hardly a sample leaves its voxel, where the interpolant has a kink
    for k in range(6):
        step = torch.zeros(2, 6, dtype=torch.float64)
        step[:, k] = h
        up, down = (similarity.of(channels, seen, moved(at, s * step, 100.0)).detach() for s in (1, -1))
        torch.testing.assert_close((up - down) / (2 * h), slopes[:, k], rtol=2e-3, atol=1e-6)


# -- networks -----------------------------------------------------------------------------------------------------------------


def test_air_stays_air_and_halves_do_not_show() -> None:
    network = make_network(replace(SIZES, features=(4, 8)), 32, 0)
    assert network.expansion is not None
    with torch.no_grad():
        for layer in network.expansion.layers:
            if isinstance(layer, nn.Conv3d):
                layer.weight.normal_(generator=torch.Generator().manual_seed(1))
        volume = torch.zeros(21, 20, 20)  # an odd number of layers: the halves are not equal
        volume[8:14, 6:13, 5:12] = torch.rand(6, 7, 7, generator=torch.Generator().manual_seed(2))
        found = network.expansion(volume)
        layers = [layer for layer in network.expansion.layers if isinstance(layer, nn.Conv3d)]
        seen = volume[None, None]
        for n, layer in enumerate(layers):
            seen = nn.functional.conv3d(seen, layer.weight, padding=1)
            seen = seen.relu() if n < 2 else seen
    torch.testing.assert_close(found, volume + seen[0], atol=1e-4, rtol=1e-4)
    far = torch.ones(21, 20, 20, dtype=torch.bool)
    far[5:17, 3:16, 2:15] = False
    assert not found[:, far].any()


@pytest.mark.parametrize("change", [{}, {"expand": False}, {"encoder": "residual"}, {"encoder": "residual", "expand": False}])
def test_every_variant_learns_twice_through_the_projector(change: dict[str, object]) -> None:
    network = make_network(replace(SIZES, **change), 32, 0)  # type: ignore[arg-type]
    assert torch.equal(next(network.parameters()), next(make_network(replace(SIZES, **change), 32, 0).parameters()))  # type: ignore[arg-type]
    similarity = Similarity(network, CUBE)
    values, slopes = similarity.gradient(network.expanded(body()), looks(), poses(1), twice=True)
    assert values.shape == (2,) and slopes.shape == (2, 6)
    between(slopes, torch.zeros_like(slopes)).sum().backward()
    touched = [p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in network.parameters()]
    assert sum(touched) > 0.8 * len(touched)


def test_sizes_that_do_not_fit_are_refused() -> None:
    for sizes in ({"heads": 5}, {"fine": BranchConfig(8, -3)}, {"coarse": BranchConfig(8, 12, 0)}):
        with pytest.raises(InputError, match="network"):
            NetworkConfig(**sizes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="patches do not divide 36 pixels"):
        make_network(SIZES, 36, 0)
    for wrong in ({"voxels": 0}, {"unit_mm": 0.0}, {"step": -1.0}, {"voxel_mm": float("nan")}, {"pixels": 4}):
        with pytest.raises(InputError, match="cube"):
            CubeConfig(**wrong)  # type: ignore[arg-type]
    for rate in (0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="descent"):
            DescentConfig(rate=rate)


# -- descent ------------------------------------------------------------------------------------------------------------------


def test_a_similarity_that_is_the_distance_is_descended_to_the_truth() -> None:
    truth, begun = poses(5, 3), poses(6, 3, 0.6, 150.0)

    class Exact(Similarity):
        def gradient(self, channels: Tensor, looks: Looks, poses: Tensor, *, twice: bool = False) -> tuple[Tensor, Tensor]:
            goal = looks.vectors[:, :4, 0].reshape(-1, 2, 2)  # which one it is, smuggled in
            number = goal[:, 0, 0].long()
            return squared(poses, truth[number], 100.0) / 2, -downhill(poses, truth[number], 100.0)

        def of(self, channels: Tensor, looks: Looks, poses: Tensor) -> Tensor:
            return self.gradient(channels, looks, poses)[0]

    vectors = torch.zeros(3, 4, 3, dtype=torch.float64)
    vectors[:, 0, 0] = torch.arange(3)
    network = make_network(SIZES, 32, 0)
    given = Looks(torch.zeros(3, 1, 32, 32), vectors)
    found = descend(Exact(network, CUBE), torch.zeros(1, 2, 2, 2), given, begun, DescentConfig(decay=1.0, steps=80))
    assert float(squared(found.poses, truth, 100.0).max()) < 1e-5
    torch.testing.assert_close(found.values, squared(found.poses, truth, 100.0) / 2)
    assert found.paths.shape == (3, 81, 4, 4) and torch.equal(found.paths[:, 0], begun)
    along = torch.stack([squared(found.paths[:, k], truth, 100.0) for k in range(81)], 1)
    assert bool((along[:, 1:] <= along[:, :-1] + 1e-12).all())
    # the first steps are no longer than they may be
    first = downhill(found.paths[:, 0], found.paths[:, 1], 100.0).norm(dim=-1)
    assert float(first.max()) <= 0.5 + 1e-9
    # one by one they end where they end together
    alone = descend(
        Exact(network, CUBE),
        torch.zeros(1, 2, 2, 2),
        given.repeated(torch.tensor([1])),
        begun[1:2],
        DescentConfig(decay=1.0, steps=80),
    )
    torch.testing.assert_close(alone.poses[0], found.poses[1])
