"""The projector as operators of PyTorch: every derivative against the float64 reference, compilation, autocast, storage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from raylign.projection import operator, reference

SHAPE, SAMPLES = (5, 6), [80, 95]


def volume() -> Tensor:
    return torch.rand(9, 10, 11, generator=torch.Generator().manual_seed(1))


def rays(vectors: int = 6) -> Tensor:
    """Two views, the second of which looks a little differently; neither in line with the grid."""
    one = torch.tensor([[-30.0, 3.2, 4.1], [60, 2, 1], [0.1, 0.8, 0], [0, 0.1, 0.8], [0, 0.3, 0.02], [0, 0.05, 0.3]])
    shake = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2))
    return (one + 0.08 * shake).to(torch.float64)[:, :vectors]


def derivatives(project: Callable[..., Tensor], v: Tensor, r: Tensor, model: str) -> list[Tensor]:
    """Image, first derivatives of a loss by rays and volume, and the derivatives of losses on those by both again."""
    v, r = v.clone().requires_grad_(), r.clone().requires_grad_()
    image = project(v, r, SHAPE, SAMPLES, model)
    target = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(3)).to(image.dtype)
    by_rays, by_volume = torch.autograd.grad(((image - target) ** 2).sum(), (r, v), create_graph=True)
    weights = torch.linspace(-1, 2, r.numel(), dtype=torch.float64).reshape(r.shape)
    second = torch.autograd.grad((by_rays * weights).pow(2).sum(), (v, r), retain_graph=True)
    third = torch.autograd.grad((by_volume.to(torch.float64) ** 3).sum(), (v, r))
    return [image, by_rays, by_volume, *second, *third]


@pytest.mark.parametrize("vectors", [4, 6])
@pytest.mark.parametrize("model", reference.MODELS)
def test_every_first_and_second_derivative_is_that_of_the_reference(model: str, vectors: int) -> None:
    found = derivatives(operator.integrals, volume(), rays(vectors), model)
    exact = derivatives(reference.integrals, volume().double(), rays(vectors), model)
    for one, other in zip(found, exact, strict=True):
        assert float((one.double() - other).detach().abs().max() / other.detach().abs().max()) < 1e-5


def test_second_derivative_by_the_volume_is_that_of_finite_differences() -> None:
    """d/dV of a function of the pose gradient, along one direction, in float64 central differences of the reference."""
    v, direction = volume().double(), torch.rand(9, 10, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) - 0.5

    def of_gradient(project: Callable[..., Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
        r = rays().requires_grad_()
        (g,) = torch.autograd.grad((project(at, r, SHAPE, SAMPLES, "trilinear") ** 2).sum(), r, create_graph=True)
        return g.pow(2).sum(), g

    def value(at: Tensor) -> float:
        return float(of_gradient(reference.integrals, at)[0].detach())

    expected = (value(v + 1e-5 * direction) - value(v - 1e-5 * direction)) / 2e-5
    single = v.float().requires_grad_()
    (found,) = torch.autograd.grad(of_gradient(operator.integrals, single)[0], single)
    assert float((found.double() * direction).sum()) == pytest.approx(expected, rel=1e-4)


def test_the_curvature_is_not_computed_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(operator, "_bent", lambda volume, vectors, *rest: called.append(1) or torch.zeros_like(vectors))
    v, r = volume().requires_grad_(), rays().requires_grad_()
    image = operator.integrals(v, r, SHAPE, SAMPLES)
    (by_rays,) = torch.autograd.grad(image.sum(), r, create_graph=True)
    torch.autograd.grad(by_rays.pow(2).sum(), v, retain_graph=True)
    assert not called
    torch.autograd.grad(by_rays.pow(2).sum(), r)
    assert called


def test_a_pass_for_the_rays_computes_no_adjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    from raylign.projection import cpu_backend

    called = []
    adjoint = cpu_backend.adjoint
    monkeypatch.setattr(cpu_backend, "adjoint", lambda *given: called.append(1) or adjoint(*given))
    v, r = volume().requires_grad_(), rays().requires_grad_()
    image = operator.integrals(v, r, SHAPE, SAMPLES)
    (by_rays,) = torch.autograd.grad(image.sum(), r, create_graph=True)
    assert not called
    torch.autograd.grad(by_rays.pow(2).sum(), v, retain_graph=True)
    assert len(called) == 1
    (v * 2).sum().backward()  # a graph of its own
    image.sum().backward()
    assert len(called) == 2 and v.grad is not None and r.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_volumes_of_two_bytes_have_gradients(dtype: torch.dtype) -> None:
    v = volume().to(dtype).requires_grad_()
    same = v.detach().float().requires_grad_()
    for one in (v, same):
        operator.integrals(one, rays(), SHAPE, SAMPLES).pow(2).sum().backward()
    assert v.grad is not None and v.grad.dtype == dtype and same.grad is not None
    assert torch.equal(v.grad, same.grad.to(dtype))


def test_compiles_as_one_graph() -> None:
    samples = torch.tensor(SAMPLES)

    def loss(v: Tensor, r: Tensor) -> Tensor:
        return operator.integrals(v, r, SHAPE, samples).pow(2).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (loss, compiled):
        v, r = volume().requires_grad_(), rays().requires_grad_()
        value = function(v, r)
        value.backward()
        grads.append((value.detach(), v.grad, r.grad))
    for one, other in zip(*grads, strict=True):
        assert one is not None and other is not None and torch.allclose(one, other, rtol=1e-6)


def test_operators_keep_pytorchs_contract() -> None:
    """Schemas, fake implementations and autograd registration, as PyTorch itself checks them."""
    n, h, w = torch.tensor(SAMPLES), *SHAPE
    v, r, image, slopes = volume(), rays(), torch.rand(2, h, w), torch.rand(2, h, w, 6)
    ops = torch.ops.raylign
    for model in reference.MODELS:
        assert set(torch.library.opcheck(ops.integrals.default, (v.clone().requires_grad_(), r, n, h, w, model)).values()) == {
            "SUCCESS"
        }
        assert set(torch.library.opcheck(ops.jacobian.default, (v.clone().requires_grad_(), r, n, h, w, model)).values()) == {
            "SUCCESS"
        }
        assert set(
            torch.library.opcheck(ops.adjoint.default, (image.clone().requires_grad_(), None, r, n, [9, 10, 11], model)).values()
        ) == {"SUCCESS"}
    assert set(
        torch.library.opcheck(
            ops.adjoint.default, (image.requires_grad_(), slopes.clone().requires_grad_(), r, n, [9, 10, 11], "trilinear")
        ).values()
    ) == {"SUCCESS"}
    assert set(torch.library.opcheck(ops.curvature.default, (v, slopes, r, n)).values()) == {"SUCCESS"}


def test_autocast_leaves_sums_in_float32() -> None:
    v, r = volume(), rays().requires_grad_()
    plain = operator.integrals(v, r, SHAPE, SAMPLES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = operator.integrals(v, r, SHAPE, SAMPLES)
        (grad,) = torch.autograd.grad(image.sum(), r)
    assert image.dtype == torch.float32 and torch.equal(image, plain) and grad.dtype == torch.float64
    assert torch.equal(grad, torch.autograd.grad(plain.sum(), r)[0])


def test_results_do_not_depend_on_the_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient by the volume too, of which many rays add to one voxel."""
    v = torch.rand(70, 20, 24, generator=torch.Generator().manual_seed(5))
    fan = torch.tensor([[[-60.0, 10, 35], [120, -20, -40], [0.1, 0.8, 0], [0, 0.1, 2]]], dtype=torch.float64)
    found = []
    for count in ("1", "2", "5"):
        monkeypatch.setenv("RAYLIGN_THREADS", count)
        one, r = v.clone().requires_grad_(), fan.clone().requires_grad_()
        operator.integrals(one, r, (40, 40), [200]).pow(2).sum().backward()
        found.append((one.grad, r.grad))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
