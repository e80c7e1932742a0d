"""The projector as differentiable operations on tensors.

Functions of a backend (``cpu_backend``, ``cuda``) become operators of PyTorch, with what ``torch.compile`` and autograd need to
know of them. The map V -> (I, S0, S1) is linear, so its derivative by the volume is its adjoint, and the derivative of the
adjoint is the map again. Derivatives by the rays are made of S0 and S1, which the map has already given:

    grad of rays  =  sum over pixels of  dL/dI (S0, S1)          (``_Attach``, plain tensor algebra)

and because S0 and S1 are themselves outputs of the operator, a second backward pass through that sum reaches the volume, exactly,
by one more adjoint. The second derivative by the rays is the ``curvature`` (``_Bend``). Its node stands beside, not inside, that
of the volume: PyTorch visits it only if somebody asks for that derivative.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from raylign.projection import reference

_STORED = (torch.float32, torch.float16, torch.bfloat16, torch.int16)


def _backend(tensor: Tensor) -> ModuleType:
    if tensor.is_cuda:
        from raylign.projection import cuda

        return cuda
    from raylign.projection import cpu_backend

    return cpu_backend


# -- the operators -----------------------------------------------------------------------------------------------------------


@torch.library.custom_op("raylign::integrals", mutates_args=())
def _integrals(volume: Tensor, rays: Tensor, samples: Tensor, h: int, w: int, model: str) -> Tensor:
    image: Tensor = _backend(volume).integrals(volume, rays, samples, (h, w), model)
    return image


@_integrals.register_fake
def _(volume: Tensor, rays: Tensor, samples: Tensor, h: int, w: int, model: str) -> Tensor:
    return volume.new_empty((rays.shape[0], h, w), dtype=torch.float32)


@torch.library.custom_op("raylign::jacobian", mutates_args=())
def _jacobian(volume: Tensor, rays: Tensor, samples: Tensor, h: int, w: int, model: str) -> tuple[Tensor, Tensor]:
    image, slopes = _backend(volume).jacobian(volume, rays, samples, (h, w), model)
    return image, slopes


@_jacobian.register_fake
def _(volume: Tensor, rays: Tensor, samples: Tensor, h: int, w: int, model: str) -> tuple[Tensor, Tensor]:
    b = rays.shape[0]
    return (
        volume.new_empty((b, h, w), dtype=torch.float32),
        volume.new_empty((b, h, w, 6), dtype=torch.float32),
    )


@torch.library.custom_op("raylign::adjoint", mutates_args=())
def _adjoint(weights: Tensor, slope_weights: Tensor | None, rays: Tensor, samples: Tensor, size: list[int], model: str) -> Tensor:
    d, h, w = size
    deterministic = torch.are_deterministic_algorithms_enabled()
    volume: Tensor = _backend(weights).adjoint(weights, slope_weights, rays, samples, (d, h, w), model, deterministic)
    return volume


@_adjoint.register_fake
def _(weights: Tensor, slope_weights: Tensor | None, rays: Tensor, samples: Tensor, size: list[int], model: str) -> Tensor:
    return weights.new_empty(size, dtype=torch.float32)


@torch.library.custom_op("raylign::curvature", mutates_args=())
def _curvature(volume: Tensor, vectors: Tensor, rays: Tensor, samples: Tensor) -> Tensor:
    out: Tensor = _backend(volume).curvature(volume, vectors, rays, samples, (vectors.shape[1], vectors.shape[2]))
    return out


@_curvature.register_fake
def _(volume: Tensor, vectors: Tensor, rays: Tensor, samples: Tensor) -> Tensor:
    return torch.empty_like(vectors, dtype=torch.float32, memory_format=torch.contiguous_format)


def _bent(volume: Tensor, vectors: Tensor, rays: Tensor, samples: Tensor, model: str) -> Tensor:
    """Second derivatives by each ray, times vectors [B, H, W, 6]."""
    if model == "trilinear":
        out: Tensor = torch.ops.raylign.curvature(volume, vectors.contiguous(), rays, samples)
        return out
    # rarely wanted, and so exact rather than fast
    exact = volume.detach().to(torch.float64)
    parts = []
    for o, d, n, v in zip(
        *reference.spread(rays.detach(), (vectors.shape[1], vectors.shape[2])), samples.tolist(), vectors, strict=True
    ):
        with torch.enable_grad():
            o, d = o.reshape(-1, 3).requires_grad_(), d.reshape(-1, 3).requires_grad_()
            total = reference.along(exact, o, d, n, model).sum()
            first = torch.cat(torch.autograd.grad(total, (o, d), create_graph=True), 1)
            second = torch.autograd.grad((first * v.reshape(-1, 6)).sum(), (o, d), allow_unused=True, materialize_grads=True)
        parts.append(torch.cat(second, 1).reshape(v.shape).to(torch.float32))
    return torch.stack(parts)


# -- their derivatives by volumes and by weights -----------------------------------------------------------------------------


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    volume, rays, samples, _, _, model = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(rays, samples)
    ctx.size, ctx.dtype, ctx.model = list(volume.shape), volume.dtype, model


def _spread(ctx: Any, of_image: Tensor | None, of_slopes: Tensor | None, rays: Tensor, samples: Tensor) -> Tensor | None:
    """The gradient by the volume from those by the image and the slopes, either of which may be missing."""
    if of_image is None:
        if of_slopes is None:
            return None
        of_image = of_slopes.new_zeros(of_slopes.shape[:3])
    out: Tensor = torch.ops.raylign.adjoint(of_image, of_slopes, rays, samples, ctx.size, ctx.model)
    return out.to(ctx.dtype)


def _to_volume(ctx: Any, of_image: Tensor | None, of_slopes: Tensor | None = None) -> tuple[Tensor | None, ...]:
    if not ctx.needs_input_grad[0]:
        return (None,) * 6
    return _spread(ctx, of_image, of_slopes, *ctx.saved_tensors), None, None, None, None, None


torch.library.register_autograd("raylign::integrals", _to_volume, setup_context=_keep)
torch.library.register_autograd("raylign::jacobian", _to_volume, setup_context=_keep)


def _keep_weights(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    weights, slope_weights, rays, samples, _, model = inputs
    ctx.save_for_backward(weights, slope_weights, rays, samples)
    ctx.model = model


def _to_weights(ctx: Any, of_volume: Tensor) -> tuple[Tensor | None, ...]:
    """<u, A* w> = <A u, w>: by the weights, the forward map of u; by the rays, the derivative of that."""
    weights, slope_weights, rays, samples = ctx.saved_tensors
    h, w = weights.shape[1:]
    by_rays = None
    if not ctx.needs_input_grad[2] and slope_weights is None:
        return torch.ops.raylign.integrals(of_volume, rays, samples, h, w, ctx.model), None, None, None, None, None
    image, slopes = torch.ops.raylign.jacobian(of_volume, rays, samples, h, w, ctx.model)
    if ctx.needs_input_grad[2]:
        by_rays = contraction(weights, slopes, rays.shape[1])
        if slope_weights is not None:
            bent = _bent(of_volume, slope_weights, rays, samples, ctx.model)
            by_rays = by_rays + contraction(torch.ones_like(weights), bent, rays.shape[1])
    return image, None if slope_weights is None else slopes, by_rays, None, None, None


torch.library.register_autograd("raylign::adjoint", _to_weights, setup_context=_keep_weights)


# -- derivatives by rays -----------------------------------------------------------------------------------------------------


@torch.library.custom_op("raylign::contraction", mutates_args=())
def _contraction(weights: Tensor, slopes: Tensor) -> Tensor:
    out: Tensor = _backend(weights).contraction(weights, slopes)
    return out


@_contraction.register_fake
def _(weights: Tensor, slopes: Tensor) -> Tensor:
    return weights.new_empty((weights.shape[0], 6, 3), dtype=torch.float64)


def _keep_both(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _from_rays(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    """A pixel's share is weight times slopes times what its own ray would move by: a bilinear form."""
    weights, slopes = ctx.saved_tensors
    moves = torch.cat(reference.spread(grad, (weights.shape[1], weights.shape[2])), -1).to(slopes.dtype)
    return (slopes * moves).sum(-1), weights[..., None] * moves


torch.library.register_autograd("raylign::contraction", _from_rays, setup_context=_keep_both)


def contraction(
    weights: Float[Tensor, "B H W"], slopes: Float[Tensor, "B H W 6"], vectors: int = 6
) -> Float[Tensor, "B {vectors} 3"]:
    """``sum over pixels of weight * d(...)/d rays`` of what has the slopes S0, S1: by o00, d00, du, dv (and ou, ov).

    In float64: an image of 10^6 pixels cancels much in its pose gradient.
    """
    out: Tensor = torch.ops.raylign.contraction(weights, slopes)
    return out[:, :vectors]


class _Map(torch.autograd.Function):
    """``raylign::jacobian`` as a node that hangs on the volume alone.

    The rays are handed over in a tuple, where autograd does not see them: a backward pass for the rays alone would otherwise come
    by and compute an adjoint for nothing. The adjoint still knows them, and so do its own derivatives.
    """

    @staticmethod
    def forward(ctx: Any, volume: Tensor, unseen: tuple[Tensor, Tensor], h: int, w: int, model: str) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.unseen, ctx.size, ctx.dtype, ctx.model = unseen, list(volume.shape), volume.dtype, model
        image, slopes = torch.ops.raylign.jacobian(volume, unseen[0].detach(), unseen[1], h, w, model)
        return image, slopes

    @staticmethod
    def backward(ctx: Any, of_image: Tensor | None, of_slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        rays, samples = ctx.unseen
        return _spread(ctx, of_image, of_slopes, rays, samples), None, None, None, None


class _Attach(torch.autograd.Function):
    """The image, with its derivative by the rays as ``slopes`` give it, itself differentiable by the slopes."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, slopes: Tensor, rays: Tensor) -> Tensor:
        ctx.save_for_backward(slopes)
        ctx.vectors = rays.shape[1]
        return image.view_as(image)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return grad, None, contraction(grad, slopes, ctx.vectors)


class _Bend(torch.autograd.Function):
    """Zeros to add to the slopes, whose derivative by the rays is that of the slopes."""

    @staticmethod
    def forward(ctx: Any, rays: Tensor, volume: Tensor, samples: Tensor, shape: tuple[int, int], model: str) -> Tensor:
        ctx.save_for_backward(rays, volume, samples)
        ctx.set_materialize_grads(False)  # nobody asks for this derivative in a first backward pass: nothing is computed then
        ctx.model = model
        return torch.zeros(1, dtype=torch.float32, device=volume.device).expand(rays.shape[0], *shape, 6)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        rays, volume, samples = ctx.saved_tensors
        bent = _bent(volume, grad, rays, samples, ctx.model)
        ones = torch.ones(grad.shape[:3], dtype=grad.dtype, device=grad.device)
        return contraction(ones, bent, rays.shape[1]), None, None, None, None


# -- what the rest of the library calls --------------------------------------------------------------------------------------


def counts(samples: list[int] | Int64[Tensor, " B"], device: torch.device) -> Int64[Tensor, " B"]:
    """Samples of each view as a tensor beside the volume."""
    return samples if isinstance(samples, Tensor) else torch.tensor(samples, dtype=torch.int64, device=device)


def integrals(
    volume: Shaped[Tensor, "D H W"],
    rays: Float[Tensor, "B n 3"],
    shape: tuple[int, int],
    samples: list[int] | Int64[Tensor, " B"],
    model: str = "trilinear",
) -> Float[Tensor, "B H W"]:
    """``int V(o + t d) dt`` over t in [0, 1] for every pixel of every view; see ``reference.integrals``.

    Parameters
    ----------
    volume: float32, float16, bfloat16 or int16 (taken as the numbers they are), on the CPU or a CUDA device; sums and results are
        float32. A float64 volume is projected by the reference: slow, float64, differentiable by everything to any order.
    rays: [B, 4, 3] or [B, 6, 3] float64, on the same device.
    samples: N of each view, for the trilinear model; a tensor on the volume's device costs no copy to it.

    Differentiable by volume and rays; twice by the volume, by a volume and the rays, and by the rays.
    """
    reference.checked_model(model)
    if volume.dtype not in _STORED:
        listed = samples.tolist() if isinstance(samples, Tensor) else samples
        return reference.integrals(volume, rays, shape, listed, model)
    h, w = shape
    n = counts(samples, volume.device)
    if not (rays.requires_grad and torch.is_grad_enabled()):
        plain: Tensor = torch.ops.raylign.integrals(volume, rays, n, h, w, model)
        return plain
    if torch.compiler.is_compiling():
        image, slopes = torch.ops.raylign.jacobian(volume, rays, n, h, w, model)
    else:
        image, slopes = _Map.apply(volume, (rays, n), h, w, model)
    attached: Tensor = _Attach.apply(image, slopes + _Bend.apply(rays, volume.detach(), n, shape, model), rays)
    return attached


def label_integrals(
    volume: Shaped[Tensor, "D H W"] | None,
    labels: UInt8[Tensor, "D H W"],
    channels: int,
    rays: Float[Tensor, "B n 3"],
    shape: tuple[int, int],
    samples: list[int] | Int64[Tensor, " B"],
    model: str = "trilinear",
) -> Float[Tensor, "B C H W"]:
    """One integral for each label 0 .. channels - 1: of the volume where the label map says that label, zero elsewhere.

    Without a volume, of the label's indicator: its length along the ray. One pass over the voxels gives all channels. Where a
    derivative is wanted, each channel is a projection of its own instead.
    """
    reference.checked_model(model)
    differentiable = torch.is_grad_enabled() and (rays.requires_grad or (volume is not None and volume.requires_grad))
    if not differentiable and (volume is None or volume.dtype in _STORED):
        made: Tensor = _backend(labels).label_integrals(
            volume, labels, channels, rays.detach(), counts(samples, labels.device), shape, model
        )
        return made
    ones = torch.ones((), dtype=torch.float32 if volume is None else volume.dtype, device=labels.device)
    parts = [(labels == c).to(ones.dtype) * (ones if volume is None else volume) for c in range(channels)]
    return torch.stack([integrals(part, rays, shape, samples, model) for part in parts], 1)
