"""Every backend of the volume projector against the reference in float64.

The Triton backend runs on CUDA where there is a GPU, and otherwise in Triton's interpreter, on the CPU: the same kernels, slowly.
Tolerances are relative to the largest number of the result. float32 rounds at 6e-8; a sum of some dozens of samples and positions
good to 1e-5 voxel leave less than 3e-6 on an image and 1e-5 on slopes, which are differences of voxels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from raylign.projection import reference

if not torch.cuda.is_available():
    # read when Triton is first imported, which no test module does while tests are collected
    os.environ.setdefault("TRITON_INTERPRET", "1")

SHAPE = (6, 7)
SIZE = (12, 13, 11)
SAMPLES = [31, 44, 37, 40, 26, 35]
IMAGE, SLOPES = 3e-6, 1e-5


@dataclass(frozen=True)
class Backend:
    """A backend's functions and where its tensors live."""

    module: ModuleType
    device: torch.device

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            moved = [a.to(self.device) if isinstance(a, Tensor) else a for a in arguments]
            result = function(*moved, **{k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in options.items()})
            return tuple(r.cpu() for r in result) if isinstance(result, tuple) else result.cpu()

        return call


@pytest.fixture(scope="module", params=["triton", "numba"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "numba":
        yield Backend(pytest.importorskip("raylign.projection.cpu_backend"), torch.device("cpu"))
        return
    triton = pytest.importorskip("triton")
    from raylign.projection import cuda

    if torch.cuda.is_available():
        yield Backend(cuda, torch.device("cuda"))
        return
    if isinstance(triton.language.sum, triton.JITFunction):
        pytest.fail("Triton was imported before TRITON_INTERPRET was set")
    with cuda.tuned(rows=8, columns=8):  # one program a view: the interpreter's time goes by operations, not by elements
        yield Backend(cuda, torch.device("cpu"))


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def beam(source: Tensor, centre: Tensor, du: Tensor, dv: Tensor, slide: float = 0.0) -> Tensor:
    """[6, 3]: a cone from ``source`` through a detector about ``centre``; origins that slide along with the pixels by a share."""
    back = (SHAPE[1] - 1) / 2 * du + (SHAPE[0] - 1) / 2 * dv
    return torch.stack(
        [source - slide * back, centre - source - (1 - slide) * back, (1 - slide) * du, (1 - slide) * dv, slide * du, slide * dv]
    )


def scene() -> Tensor:
    """[6, 6, 3] rays: two cones, a parallel beam askew, one along an axis, one in between, and a source within the volume."""
    # no round numbers: slopes jump where a sample lies on a plane of voxel centres
    z = vector(0.0171, -0.0113, 1.9137)
    views = [
        beam(vector(5.137, -30.219, 6.311), vector(5.391, 40.127, 5.083), vector(1.913, 0.317, -0.411), z),
        beam(vector(-25.077, 3.171, 19.893), vector(30.213, 9.077, -3.119), vector(0.211, 1.713, 0.507), z),
        beam(vector(-9.131, -14.217, 2.173), vector(18.331, 27.119, 9.577), vector(1.237, -0.811, 0.133), 0.9 * z, slide=1.0),
        beam(vector(5.137, 6.211, -8.173), vector(5.137, 6.211, 21.377), vector(1.317, 0, 0), vector(0, 1.713, 0), slide=1.0),
        beam(vector(22.131, 5.217, 28.173), vector(-11.331, 7.119, -9.577), vector(1.237, 2.811, -0.733), 0.9 * z, slide=0.37),
        beam(vector(4.731, 5.917, 6.173), vector(9.331, 27.119, 9.577), vector(1.937, -0.811, 0.133), z),
    ]
    return torch.stack(views)


def contents(size: tuple[int, int, int] = SIZE) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(7)) + 0.2


def weights(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(8))


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    expected = expected.detach()
    scale = float(expected.abs().max())
    assert scale > 0
    assert found.dtype == torch.float32
    assert float((found.double() - expected).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("model", reference.MODELS)
def test_values_and_slopes_of_every_kind_of_rays(backend: Backend, model: str) -> None:
    rays, volume, n = scene(), contents(), torch.tensor(SAMPLES)
    image, slopes = backend.jacobian(volume, rays, n, SHAPE, model)
    expected = reference.jacobian(volume.double(), rays, SHAPE, SAMPLES, model)
    for view in range(len(rays)):
        close(image[view], expected[0][view], IMAGE)
        close(slopes[view], expected[1][view], SLOPES)
    close(backend.integrals(volume, rays, n, SHAPE, model), expected[0], IMAGE)
    # a common source may be said with four vectors
    close(backend.integrals(volume, rays[:2, :4], n[:2], SHAPE, model), expected[0][:2], IMAGE)


@pytest.mark.parametrize("model", reference.MODELS)
def test_rays_along_every_axis_both_ways(backend: Backend, model: str) -> None:
    volume, views = contents(), []
    for axis in range(3):
        for way in (-1, 1):
            along, across, up = torch.eye(3, dtype=torch.float64).roll(axis, 0)
            middle = vector(5.137, 6.211, 5.371)
            views.append(beam(middle - 17.3 * way * along, middle + 21.1 * way * along, 1.3 * across, 1.7 * up, slide=1.0))
    rays, n = torch.stack(views), [33] * 6
    image, slopes = backend.jacobian(volume, rays, torch.tensor(n), SHAPE, model)
    expected = reference.jacobian(volume.double(), rays, SHAPE, n, model)
    close(image, expected[0], IMAGE)
    if model == "siddon":
        # nothing is crossed across the axis
        assert (slopes.abs().amax((1, 2)) == 0).sum() >= 6
    close(slopes, expected[1], SLOPES)


@pytest.mark.parametrize("model", reference.MODELS)
def test_rays_that_miss_are_zero(backend: Backend, model: str) -> None:
    aside = scene()[:4]
    aside[:, 0] += vector(0, 0, 300.0)
    beyond = scene()[:1].clone()
    beyond[0, 1:4] *= 0.2  # ends before the volume begins
    still = torch.zeros(1, 6, 3, dtype=torch.float64)
    still[0, 0] = vector(40, 40, 40)  # a ray of no length
    rays = torch.cat([aside, beyond, still])
    image, slopes = backend.jacobian(contents(), rays, torch.tensor(SAMPLES), SHAPE, model)
    assert not image.any()
    assert not slopes.any()
    given = backend.adjoint(weights(6, *SHAPE), weights(6, *SHAPE, 6), rays, torch.tensor(SAMPLES), SIZE, model)
    assert not given.any()


@pytest.mark.parametrize("size", [(1, 7, 3), (5, 1, 9), (33, 2, 1)])
@pytest.mark.parametrize("model", reference.MODELS)
def test_volumes_of_odd_sizes(backend: Backend, model: str, size: tuple[int, int, int]) -> None:
    middle = vector(*((m - 1) / 2 + 0.0137 for m in size[::-1]))
    rays = beam(
        middle - vector(7.31, 11.17, 9.19),
        middle + vector(8.31, 9.17, 11.19),
        vector(0.913, -0.517, 0.11),
        vector(0.117, 0.371, -0.713),
    )
    volume = contents(size)
    image, slopes = backend.jacobian(volume, rays[None], torch.tensor([61]), SHAPE, model)
    expected = reference.jacobian(volume.double(), rays[None], SHAPE, [61], model)
    close(image, expected[0], IMAGE)
    close(slopes, expected[1], SLOPES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int16])
@pytest.mark.parametrize("model", reference.MODELS)
def test_storage(backend: Backend, model: str, dtype: torch.dtype) -> None:
    """The sums are those of the stored numbers, in float32 all the same."""
    stored = (contents() * 20000 - 12000).to(dtype)
    rays, n = scene()[[0]], torch.tensor(SAMPLES[:1])
    close(
        backend.integrals(stored, rays, n, SHAPE, model),
        reference.integrals(stored.double(), rays, SHAPE, SAMPLES[:1], model),
        IMAGE,
    )
    image, slopes = backend.jacobian(stored, rays, n, SHAPE, model)
    again, expected = backend.jacobian(stored.float(), rays, n, SHAPE, model)
    close(image, again.double(), 1e-6)
    close(slopes, expected.double(), 1e-6)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("model", reference.MODELS)
def test_the_adjoint_is_the_transpose(backend: Backend, model: str, deterministic: bool) -> None:
    rays, n, volume = scene(), torch.tensor(SAMPLES), contents()
    image, slopes = backend.jacobian(volume, rays, n, SHAPE, model)
    # weights that let nothing cancel, so that the bound is one on the products themselves
    w, s = weights(6, *SHAPE).abs(), weights(6, *SHAPE, 6).abs() * slopes.sign()
    for slope_weights in (None, s):
        back = backend.adjoint(w, slope_weights, rays, n, SIZE, model, deterministic)
        assert back.shape == SIZE
        forth = (image.double() * w).sum() + (0 if slope_weights is None else (slopes.double() * s).sum())
        assert abs(float(forth - (volume.double() * back.double()).sum())) <= 1e-6 * float(forth)
    close(back, reference.adjoint(w.double(), s.double(), rays, SAMPLES, SIZE, model), SLOPES)


@pytest.mark.parametrize("model", reference.MODELS)
def test_pixels_without_weight_give_nothing(backend: Backend, model: str) -> None:
    """A mask is weights of zero; a ray may have slope weights alone."""
    rays, n = scene()[:2], torch.tensor(SAMPLES[:2])
    w, s = torch.zeros(2, *SHAPE), torch.zeros(2, *SHAPE, 6)
    w[0, 2, 3], s[1, 4, 4, 1], s[1, 1, 5, 5] = 1.5, 0.7, -0.4
    found = backend.adjoint(w, s, rays, n, SIZE, model)
    close(found, reference.adjoint(w.double(), s.double(), rays, SAMPLES[:2], SIZE, model), SLOPES)
    assert not backend.adjoint(torch.zeros_like(w), None, rays, n, SIZE, model).any()


@pytest.mark.parametrize("model", reference.MODELS)
def test_the_adjoint_can_be_the_same_to_the_last_bit(backend: Backend, model: str) -> None:
    rays, n = scene()[:3], torch.tensor(SAMPLES[:3])
    w, s = weights(3, *SHAPE) * 1e-7, weights(3, *SHAPE, 6) * 1e-7
    one = backend.adjoint(w, s, rays, n, SIZE, model, deterministic=True)
    assert torch.equal(one, backend.adjoint(w, s, rays, n, SIZE, model, deterministic=True))
    # the views' order is the order of the sums
    turned = backend.adjoint(w.flip(0), s.flip(0), rays.flip(0), n.flip(0), SIZE, model, deterministic=True)
    if backend.module.__name__.endswith("cuda"):
        assert torch.equal(one, turned)
    else:
        close(turned, one.double(), IMAGE)


@pytest.mark.parametrize("model", reference.MODELS)
def test_images_are_the_same_to_the_last_bit(backend: Backend, model: str) -> None:
    rays, n, volume = scene()[:3], torch.tensor(SAMPLES[:3]), contents()
    one = backend.jacobian(volume, rays, n, SHAPE, model)
    two = backend.jacobian(volume, rays, n, SHAPE, model)
    alone = backend.jacobian(volume, rays[1:2], n[1:2], SHAPE, model)
    for a, b, c in zip(one, two, alone, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[1:2], c)


def test_curvature_is_the_hessian_times_a_vector(backend: Backend) -> None:
    rays, volume, vectors = scene(), contents(), weights(6, *SHAPE, 6)
    found = backend.curvature(volume, vectors, rays, torch.tensor(SAMPLES), SHAPE)
    expected = []
    for o, d, v, n in zip(*reference.spread(rays, SHAPE), vectors.double(), SAMPLES, strict=True):
        o, d = o.reshape(-1, 3).requires_grad_(), d.reshape(-1, 3).requires_grad_()
        slopes = torch.cat(torch.autograd.grad(reference.along(volume.double(), o, d, n).sum(), (o, d), create_graph=True), 1)
        expected.append(torch.cat(torch.autograd.grad((slopes * v.reshape(-1, 6)).sum(), (o, d)), 1).reshape(*SHAPE, 6))
    close(found, torch.stack(expected), SLOPES)


@pytest.mark.parametrize("with_volume", [True, False])
@pytest.mark.parametrize("model", reference.MODELS)
def test_labels(backend: Backend, model: str, with_volume: bool) -> None:
    labels = torch.randint(0, 11, SIZE, generator=torch.Generator().manual_seed(9)).to(torch.uint8)
    volume = contents() if with_volume else None
    rays, n = scene()[[1, 2]], SAMPLES[1:3]
    found = backend.label_integrals(volume, labels, 11, rays, torch.tensor(n), SHAPE, model)
    values = torch.ones(SIZE, dtype=torch.float64) if volume is None else volume.double()
    parts = [reference.integrals((labels == c) * values, rays, SHAPE, n, model) for c in range(11)]
    close(found, torch.stack(parts, 1), IMAGE)
    close(found.sum(1), reference.integrals(values, rays, SHAPE, n, model), IMAGE)
    # labels that nobody asked for are left out
    assert torch.equal(backend.label_integrals(volume, labels, 3, rays, torch.tensor(n), SHAPE, model), found[:, :3])


@pytest.mark.parametrize("model", reference.MODELS)
def test_culling_changes_no_bit(backend: Backend, model: str) -> None:
    if not hasattr(backend.module, "occupancy"):
        pytest.skip("this backend keeps no table of bricks for its caller")
    volume = torch.zeros(40, 37, 50)
    volume[20:30, 10:20, 25:40] = contents((10, 10, 15)) - 0.5
    rays, n = scene()[[1, 2, 5]], torch.tensor([97, 120, 60])
    rays[:, 0] += vector(24.0, 11.0, 19.0)
    rays[:, 1:4] *= 1.5
    table = backend.occupancy(volume)
    assert 0 < float(table.float().mean()) < 0.5
    plain, culled = (
        backend.jacobian(volume, rays, n, SHAPE, model),
        backend.jacobian(volume, rays, n, SHAPE, model, occupied=table),
    )
    assert plain[0].count_nonzero() > 20
    assert torch.equal(plain[0], culled[0])
    assert torch.equal(plain[1], culled[1])
    # and the table is looked at: one that says that all is empty leaves nothing
    assert not backend.integrals(volume, rays, n, SHAPE, model, occupied=torch.zeros_like(table)).any()


def test_positions_stay_exact_on_long_rays(backend: Backend) -> None:
    """A source 20 000 voxels away and 400 voxels to go through: positions must not drift."""
    size = (3, 3, 400)
    wave = torch.arange(400, dtype=torch.float32).sin().expand(size).contiguous()
    rays = beam(vector(-2e4, 1.3713, 1.137), vector(2e4, 0.7177, 1.511), vector(0, 1e-2, 0), vector(0, 0, 1e-2))[None]
    n = [60_001]
    found = backend.integrals(wave, rays, torch.tensor(n), SHAPE)[0, 2, 3:5]
    o, d = (v[0, 2, 3:5] for v in reference.spread(rays, SHAPE))
    expected = reference.along(wave.double(), o, d, n[0])
    # the ray has 1 % of its length in the volume; the bound is on the mean of the volume's values along it
    assert float((found.double() - expected).abs().max()) < 2e-6 * 0.01
    assert float(expected.abs().max()) > 1e-5 * 0.01
