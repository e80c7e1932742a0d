"""Derivatives of thickness and depth: against finite differences in double precision, twice, and under torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from raylign.data import Mesh
from raylign.geometry import View, se3
from raylign.projection import mesh_operator, mesh_reference
from raylign.projection.mesh import depth, project_mesh, seen
from raylign.projection.mesh_silhouette import silhouette
from tests.projection import mesh_shapes as shapes
from tests.projection.mesh_shapes import D

# angles, distances and pixel sizes, then the twist of the pose
AT = torch.tensor([25.0, -10.0, 1003.7, 650.0, 5.0, 4.5, 0.1, -0.2, 0.05, 3.0, -5.0, 8.0], dtype=D)


def weights(shape: tuple[int, int]) -> Tensor:
    r, c = torch.meshgrid(*(torch.arange(n, dtype=D) for n in shape), indexing="ij")
    return 1 + 0.1 * r - 0.07 * c + 0.004 * r * c


def view_of(numbers: Tensor, beam: str) -> View:
    if beam == "parallel":
        return View.from_parallel(primary=numbers[0], secondary=numbers[1], pixel_spacing=numbers[4:6] * 0.9, shape=(22, 24))
    return View.from_carm(
        primary=numbers[0], secondary=numbers[1], sid=numbers[2], sod=numbers[3], pixel_spacing=numbers[4:6] * 0.9, shape=(22, 24)
    )


def exact_image(mesh: Mesh, view: View, pose: Tensor, vertices: Tensor) -> Tensor:
    """Thickness by the reference, float64, its hits looked up anew."""
    it = seen(mesh, view, pose, vertices)
    return mesh_reference.thickness(it.rays, it.vertices, it.faces, it.shape)[0] * it.lengths()[0]


@pytest.mark.parametrize("beam", ["cone", "parallel"])
def test_gradients_equal_finite_differences(beam: str) -> None:
    mesh = shapes.torus(10, 6)
    toward = torch.randn(mesh.vertices.shape, dtype=D, generator=torch.Generator().manual_seed(3))
    # and one number more: how far the vertices have gone along random vectors
    at = torch.cat([AT, torch.tensor([0.3], dtype=D)])
    w = weights((22, 24))

    def loss(numbers: Tensor, image: Any) -> Tensor:
        return (image(mesh, view_of(numbers, beam), se3.exp(numbers[6:12]), mesh.vertices + numbers[12] * toward) * w).sum()

    def kernel(mesh: Mesh, view: View, pose: Tensor, vertices: Tensor) -> Tensor:
        return project_mesh(mesh, view, pose, vertices=vertices)[0, 0].to(D)

    leaf = at.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(loss(leaf, kernel), leaf)
    steps = [1e-6] * 4 + [1e-7] * 2 + [1e-7] * 3 + [1e-6] * 4
    if beam == "parallel":
        steps[2:4] = [0.0, 0.0]  # a parallel beam has no distances
    for i, h in enumerate(steps):
        if h == 0.0:
            assert float(slopes[i]) == 0.0
            continue
        e = torch.zeros_like(at)
        e[i] = h
        with torch.no_grad():
            expected = (loss(at + e, exact_image) - loss(at - e, exact_image)) / (2 * h)
        assert float((slopes[i] - expected).abs()) < 1e-3 * float(expected.abs()) + 1e-3, i


SMALL = {"cone": shapes.cone((5, 6), 24.0), "parallel": shapes.parallel((5, 6), 16.0)}


def kept(rays: Tensor, beam: str) -> tuple[Tensor, list[int]]:
    """The vectors of [1, 6, 3] rays that are not zero by their nature, and which they are."""
    rows = [0, 1, 2, 3] if beam == "cone" else [0, 1, 4, 5]
    return rays[:, rows].clone().requires_grad_(), rows


def whole(some: Tensor, rows: list[int]) -> Tensor:
    return some.new_zeros(1, 6, 3).index_copy(1, torch.tensor(rows), some)


@pytest.mark.parametrize("beam", SMALL)
def test_reference_passes_gradcheck_twice(beam: str) -> None:
    it = seen(shapes.tetrahedron(), SMALL[beam], se3.exp(AT[6:]))
    found = mesh_reference.hits(it.rays, it.vertices, it.faces, it.shape)
    assert len(found) >= 6
    some, rows = kept(it.rays, beam)
    inputs = (some, it.vertices.clone().requires_grad_())

    def image(some: Tensor, vertices: Tensor) -> Tensor:
        return mesh_reference.thickness_of(found, whole(some, rows), vertices, it.faces, it.shape)

    assert torch.autograd.gradcheck(image, inputs, eps=1e-5, atol=1e-8)
    assert torch.autograd.gradgradcheck(image, inputs, eps=1e-5, atol=1e-8)


@pytest.mark.parametrize("beam", SMALL)
def test_second_derivatives_equal_finite_differences_of_the_kernels_first(beam: str) -> None:
    it = seen(shapes.tetrahedron(), SMALL[beam], se3.exp(AT[6:]))
    some, rows = kept(it.rays, beam)
    inputs = (weights((5, 6))[None].requires_grad_(), some, it.vertices.clone().requires_grad_())

    def slopes(w: Tensor, some: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
        by_ray, by_vertex = mesh_operator.thickness_backward(w, whole(some, rows), vertices, it.faces)
        return by_ray[:, rows], by_vertex

    assert torch.autograd.gradcheck(slopes, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


def test_gradient_of_a_gradient_reaches_the_pose() -> None:
    """As a learned similarity needs it: a loss made of the pose's gradient, by the pose."""
    mesh, view = shapes.torus(10, 6), shapes.cone((16, 18), 7.0)
    target = project_mesh(mesh, view, torch.eye(4, dtype=D))[0, 0]
    start = AT[6:]

    def kernel(mesh: Mesh, view: View, pose: Tensor, vertices: Tensor) -> Tensor:
        return project_mesh(mesh, view, pose, vertices=vertices)[0, 0].to(D)

    def slope(twist: Tensor, image: Any) -> Tensor:
        misfit = (image(mesh, view, se3.exp(twist), mesh.vertices) - target).square().sum()
        return torch.autograd.grad(misfit, twist, create_graph=True)[0]

    twist = start.clone().requires_grad_()
    (second,) = torch.autograd.grad(slope(twist, kernel)[3], twist)
    for i in range(6):
        e = torch.zeros(6, dtype=D)
        e[i] = 1e-7 if i > 2 else 1e-9  # no pixel changes its face over so short a way
        ends = [slope((start + s * e).requires_grad_(), exact_image)[3].detach() for s in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * e[i])
        assert float((second[i] - expected).abs()) < 1e-3 * float(second.abs().max())


def test_view_vectors_receive_gradients() -> None:
    base = shapes.cone()
    leaves = [v.clone().requires_grad_() for v in (base.source, base.origin, base.column_step, base.row_step)]
    image = project_mesh(shapes.torus(), View(*leaves, base.shape))[0, 0]
    slopes = torch.autograd.grad((image * weights(base.shape)).sum(), leaves)
    assert all(float(s.abs().max()) > 0 for s in slopes)
    # moving the whole view and the mesh together changes nothing
    vertices = shapes.torus().vertices.clone().requires_grad_()
    image = project_mesh(shapes.torus(), View(*leaves, base.shape), vertices=vertices)[0, 0]
    by_source, by_origin, by_vertices = torch.autograd.grad((image * weights(base.shape)).sum(), [*leaves[:2], vertices])
    total = by_source + by_origin + by_vertices.sum(0)
    assert float(total.abs().max()) < 1e-5 * float(by_source.abs().max())


def test_vertices_of_every_pose_receive_their_own_gradient() -> None:
    mesh, poses = shapes.tetrahedron(), se3.exp(torch.stack([AT[6:], -AT[6:]]))
    each = torch.stack([mesh.vertices, 1.1 * mesh.vertices]).requires_grad_()
    w = weights((30, 34))
    (both,) = torch.autograd.grad((project_mesh(mesh, shapes.cone(), poses, vertices=each)[:, 0] * w).sum(), each)
    for p in range(2):
        one = each[p].detach().clone().requires_grad_()
        (alone,) = torch.autograd.grad((project_mesh(mesh, shapes.cone(), poses[p], vertices=one)[0, 0] * w).sum(), one)
        assert torch.allclose(both[p], alone, rtol=1e-9, atol=1e-9)


def test_depth_is_differentiable() -> None:
    mesh, view = shapes.torus(16, 10), shapes.cone()
    twist = AT[6:].clone().requires_grad_()
    met = depth(mesh, view, se3.exp(twist))
    there = met.face[0, 0] >= 0
    (slope,) = torch.autograd.grad((met.distance[0, 0] * weights(view.shape))[there].sum(), twist)
    for i in range(6):
        e = torch.zeros(6, dtype=D)
        e[i] = 1e-6
        up, down = (depth(mesh, view, se3.exp(twist.detach() + s * e)) for s in (1, -1))
        same = (up.face == met.face) & (down.face == met.face)
        assert int((~same).sum()) == 0
        expected = ((up.distance - down.distance)[0, 0] * weights(view.shape) / 2e-6)[there].sum()
        assert float((slope[i] - expected).abs()) < 1e-5 * float(slope.abs().max())


def test_operators_are_registered_as_torch_asks() -> None:
    it = seen(shapes.tetrahedron(), shapes.cone((5, 6), 20.0))
    rays, vertices = it.rays.clone().requires_grad_(), it.vertices.clone().requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    assert set(torch.library.opcheck(mesh_operator.thickness, (rays, vertices, it.faces, 5, 6), test_utils=checks).values()) == {
        "SUCCESS"
    }
    assert set(
        torch.library.opcheck(mesh_operator.first, (it.rays, it.vertices, it.faces, 5, 6), test_utils=checks[:3]).values()
    ) == {"SUCCESS"}
    assert set(
        torch.library.opcheck(mesh_operator.hits, (it.rays, it.vertices, it.faces, 5, 6), test_utils=checks[:3]).values()
    ) == {"SUCCESS"}


@pytest.mark.parametrize("image", [project_mesh, silhouette], ids=lambda f: f.__name__)
def test_compiles_whole(image: Any) -> None:
    """Also a mesh that was never looked at before."""
    mesh, view = shapes.torus(), shapes.cone()

    def loss(twist: Tensor, vertices: Tensor) -> Tensor:
        return image(mesh, view, se3.exp(twist), vertices=vertices).square().sum()

    leaves = (AT[6:].clone().requires_grad_(), mesh.vertices.clone().requires_grad_())
    found = torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves)
    plain = loss(*leaves)
    assert torch.allclose(plain, found)
    for a, b in zip(torch.autograd.grad(plain, leaves), torch.autograd.grad(found, leaves), strict=True):
        assert torch.allclose(a, b, rtol=1e-6)
