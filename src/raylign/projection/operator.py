"""The projector as a differentiable operation on tensors."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from raylign.projection import cpu, reference

# Padding copies the volume; a registration or a training loop projects one volume many times. Keyed by identity (tensors
# compare by value) and by version (a tensor may be written to); an entry goes when its tensor does.
_padded: dict[int, tuple[int, np.ndarray]] = {}


def padded(volume: Tensor) -> np.ndarray:
    """The kernel's zero-padded float32 copy of a volume, made once and kept while the tensor lives unchanged."""
    key = id(volume)
    known = _padded.get(key)
    if known is not None and known[0] == volume._version:
        return known[1]
    made = cpu.pad(volume.detach().to(torch.float32).numpy())
    if known is None:
        weakref.finalize(volume, _padded.pop, key, None)
    _padded[key] = (volume._version, made)
    return made


class _Integrals(torch.autograd.Function):
    """``int V dt`` by the CPU kernel, with exact derivatives by the rays."""

    @staticmethod
    def forward(ctx: Any, rays: Tensor, volume: np.ndarray, shape: tuple[int, int], samples: list[int]) -> Tensor:
        gradients = ctx.needs_input_grad[0]
        out = cpu.forward(
            volume,
            rays.detach().numpy().astype(np.float64),
            shape,
            np.asarray(samples),
            gradients=gradients,
        )
        values = torch.from_numpy(out)
        if not gradients:
            return values
        ctx.save_for_backward(values[..., 1:])
        return values[..., 0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (s,) = ctx.saved_tensors
        # float64 sums: an image of 10^6 pixels cancels much in its pose gradient
        weighted = grad.to(torch.float64)[..., None] * s
        s0, s1 = weighted[..., :3], weighted[..., 3:]
        h, w = grad.shape[1:]
        c = torch.arange(w, dtype=torch.float64)
        r = torch.arange(h, dtype=torch.float64)
        rows, columns = s1.sum(2), s1.sum(1)
        by_ray = torch.stack([s0.sum((1, 2)), rows.sum(1), c @ columns, r @ rows], 1)
        return by_ray, None, None, None


def integrals(
    volume: Float[Tensor, "D H W"],
    rays: Float[Tensor, "B n 3"],
    shape: tuple[int, int],
    samples: list[int],
    model: str = "trilinear",
) -> Float[Tensor, "B H W"]:
    """``int V(o + t d) dt`` over t in [0, 1] for every pixel of every view; see ``reference.integrals``.

    float32 by the kernel, differentiable once by ``rays``. Where the volume needs a gradient, or is float64, or not on the CPU,
    the reference does the work: slower, differentiable by everything and to any order.
    """
    by_kernel = (
        model == "trilinear"
        and rays.shape[1] == 4
        and not (volume.requires_grad and torch.is_grad_enabled())
        and volume.dtype == torch.float32
        and volume.device.type == "cpu"
    )
    if by_kernel:
        return _Integrals.apply(rays, padded(volume), shape, samples)
    return reference.integrals(volume, rays, shape, samples, model)


def label_integrals(
    volume: Float[Tensor, "D H W"] | None,
    labels: UInt8[Tensor, "D H W"],
    channels: int,
    rays: Float[Tensor, "B n 3"],
    shape: tuple[int, int],
    samples: list[int],
    model: str = "trilinear",
) -> Float[Tensor, "B C H W"]:
    """One integral for each label 0 .. channels - 1: of the volume where the label map says that label, zero elsewhere.

    Without a volume, of the label's indicator: its length along the ray. The channels add up to the integral of the whole.
    """
    ones = torch.ones((), dtype=torch.float32 if volume is None else volume.dtype, device=labels.device)
    parts = [(labels == c).to(ones.dtype) * (ones if volume is None else volume) for c in range(channels)]
    return torch.stack([integrals(part, rays, shape, samples, model) for part in parts], 1)
