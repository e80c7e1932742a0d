"""The mesh projector as differentiable operations on tensors, on the CPU by ``mesh_cpu.py``, on CUDA by ``mesh_cuda.py``.

Registered with ``torch.library``, with shapes known beforehand, so that ``torch.compile`` takes them whole. Thickness can be
differentiated twice by everything: the second time from the list of its hits, in PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from raylign.projection import mesh_reference


def backend(rays: Tensor) -> Any:
    """The module whose kernels compute on the device of ``rays``."""
    return import_module("raylign.projection.mesh_cuda" if rays.device.type == "cuda" else "raylign.projection.mesh_cpu")


@torch.library.custom_op("raylign::mesh_thickness", mutates_args=())
def thickness(rays: Tensor, vertices: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B, H, W] float32, the part of every ray inside a closed surface; see ``mesh_reference.thickness``."""
    return backend(rays).thickness(rays, vertices, faces, (height, width))


@thickness.register_fake
def _(rays: Tensor, vertices: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    return rays.new_empty((rays.shape[0], height, width), dtype=torch.float32)


@torch.library.custom_op("raylign::mesh_thickness_backward", mutates_args=())
def thickness_backward(weights: Tensor, rays: Tensor, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``sum(weights * thickness)`` by rays and vertices, float64."""
    return backend(rays).gradients(weights, rays, vertices, faces)


@thickness_backward.register_fake
def _(weights: Tensor, rays: Tensor, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rays, dtype=torch.float64), torch.empty_like(vertices, dtype=torch.float64)


def _keep_scene(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])


def _first_order(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rays, vertices, faces = ctx.saved_tensors
    by_ray, by_vertex = thickness_backward(grad, rays, vertices, faces)
    return by_ray.to(rays.dtype), by_vertex.to(vertices.dtype), None, None, None


thickness.register_autograd(_first_order, setup_context=_keep_scene)


def _keep_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _second_order(ctx: Any, by_ray: Tensor, by_vertex: Tensor) -> tuple[Tensor | None, ...]:
    weights, rays, vertices, faces = ctx.saved_tensors
    shape = weights.shape[1:]
    found = hits(rays, vertices, faces, *shape)
    with torch.enable_grad():
        inputs = tuple(x.detach().to(torch.float64).requires_grad_() for x in (weights, rays, vertices))
        image = mesh_reference.thickness_of(found, inputs[1], inputs[2], faces, shape)
        slopes = torch.autograd.grad((image * inputs[0]).sum(), inputs[1:], create_graph=True)
        seconds = torch.autograd.grad(slopes, inputs, (by_ray, by_vertex))
    return *(s.to(x.dtype) for s, x in zip(seconds, (weights, rays, vertices), strict=True)), None


thickness_backward.register_autograd(_second_order, setup_context=_keep_all)


@torch.library.custom_op("raylign::mesh_hits", mutates_args=())
def hits(rays: Tensor, vertices: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[K, 3] int64: pixel, face and sign of every hit; see ``mesh_reference.hits``. Always found on the CPU."""
    from raylign.projection import mesh_cpu

    return mesh_cpu.hits(rays.cpu(), vertices.cpu(), faces.cpu(), (height, width)).to(rays.device)


@hits.register_fake
def _(rays: Tensor, vertices: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    return faces.new_empty((torch.library.get_ctx().new_dynamic_size(), 3))


@torch.library.custom_op("raylign::mesh_first", mutates_args=())
def first(rays: Tensor, vertices: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B, H, W] int64, the face that every ray hits first, -1 where none; see ``mesh_reference.first``."""
    return backend(rays).first(rays, vertices, faces, (height, width))


@first.register_fake
def _(rays: Tensor, vertices: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    return faces.new_empty((rays.shape[0], height, width))


@torch.library.custom_op("raylign::mesh_coverage", mutates_args=())
def coverage(uv: Tensor, faces: Tensor, edges: Tensor, height: int, width: int, box: float) -> Tensor:
    """[B, H, W] float32, mean number of layers over a box about each pixel; see ``mesh_reference.coverage``."""
    return _covering(uv).coverage(uv, faces, edges, (height, width), box)


@coverage.register_fake
def _(uv: Tensor, faces: Tensor, edges: Tensor, height: int, width: int, box: float) -> Tensor:
    return uv.new_empty((uv.shape[0], height, width), dtype=torch.float32)


@torch.library.custom_op("raylign::mesh_coverage_backward", mutates_args=())
def coverage_backward(weights: Tensor, uv: Tensor, faces: Tensor, edges: Tensor, box: float) -> Tensor:
    """Gradient of ``sum(weights * coverage)`` by the projected vertices, float64."""
    return _covering(uv).coverage_gradient(weights, uv, faces, edges, box)


@coverage_backward.register_fake
def _(weights: Tensor, uv: Tensor, faces: Tensor, edges: Tensor, box: float) -> Tensor:
    return torch.empty_like(uv, dtype=torch.float64)


def _covering(uv: Tensor) -> Any:
    return import_module("raylign.projection.mesh_cuda" if uv.device.type == "cuda" else "raylign.projection.mesh_coverage")


def _keep_outline(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.box = inputs[5]


def _outline_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    uv, faces, edges = ctx.saved_tensors
    return coverage_backward(grad, uv, faces, edges, ctx.box).to(uv.dtype), None, None, None, None, None


coverage.register_autograd(_outline_gradient, setup_context=_keep_outline)
