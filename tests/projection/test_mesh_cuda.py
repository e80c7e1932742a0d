"""The Triton kernels of the mesh projector against the reference: on CUDA where there is a GPU, else in Triton's interpreter."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from raylign.data import Mesh
from raylign.geometry import View, se3
from raylign.projection import mesh_rays, mesh_reference
from raylign.projection.mesh import depth, project_mesh, seen
from raylign.projection.mesh_silhouette import silhouette
from tests.projection import mesh_shapes as shapes
from tests.projection.mesh_shapes import D

if not torch.cuda.is_available():
    # read when Triton is first imported, which no test module does while tests are collected
    os.environ.setdefault("TRITON_INTERPRET", "1")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# 19 by 23 pixels: four tiles, three of them cut
VIEWS = {
    "cone": shapes.cone((19, 23), 7.0),
    "parallel": shapes.parallel((19, 23), 5.0).flip(rows=True),
}
MESHES = [shapes.box(), shapes.tetrahedron()]
POSES = se3.exp(torch.tensor([[0.4, -0.7, 0.3, 3.0, -5.0, 8.0], [-0.2, 0.1, 0.9, -4.0, 2.0, 1.0]], dtype=D))


@pytest.fixture(scope="module")
def kernels() -> Any:
    triton = pytest.importorskip("triton")
    from raylign.projection import mesh_cuda

    if not torch.cuda.is_available() and isinstance(triton.language.sum, triton.JITFunction):
        pytest.fail("Triton was imported before TRITON_INTERPRET was set")
    return mesh_cuda


def there(*tensors: Tensor) -> list[Tensor]:
    return [t.to(DEVICE) for t in tensors]


@pytest.mark.parametrize("mesh", MESHES, ids=lambda m: m.name)
@pytest.mark.parametrize("name", VIEWS)
def test_thickness_first_face_and_gradients_equal_the_reference(kernels: Any, mesh: Mesh, name: str) -> None:
    it = seen(mesh, VIEWS[name], POSES)
    scene, where = (it.rays, it.vertices, it.faces), there(it.rays, it.vertices, it.faces)
    found = kernels.thickness(*where, it.shape).cpu()
    assert float((found - mesh_reference.thickness(*scene, it.shape)).abs().max()) < 1e-7
    assert torch.equal(kernels.first(*where, it.shape).cpu(), mesh_reference.first(*scene, it.shape))
    w = torch.randn(2, 19, 23, dtype=D, generator=torch.Generator().manual_seed(1))
    leaves = [t.clone().requires_grad_() for t in scene[:2]]
    expected = torch.autograd.grad((mesh_reference.thickness(*leaves, it.faces, it.shape) * w).sum(), leaves)
    for ours, theirs in zip(kernels.gradients(w.to(DEVICE), *where), expected, strict=True):
        assert float((ours.cpu() - theirs).abs().max()) < 1e-9 * float(theirs.abs().max())


def test_a_source_within_and_a_mesh_behind_are_measured(kernels: Any) -> None:
    view = VIEWS["cone"]
    pose = torch.eye(4, dtype=D).repeat(2, 1, 1)
    pose[0, :3, 3] = view.source + 5 * view.normal
    pose[1, :3, 3] = view.source - 300 * view.normal
    it = seen(shapes.box(), view, pose)
    found = kernels.thickness(*there(it.rays, it.vertices, it.faces), it.shape).cpu()
    expected = mesh_reference.thickness(it.rays, it.vertices, it.faces, it.shape)
    assert float(expected[0].min()) > 0.01 and float(expected[1].max()) == 0
    assert float((found - expected).abs().max()) < 1e-7
    assert int(kernels.first(*there(it.rays, it.vertices, it.faces), it.shape)[1].max()) == -1


def test_rays_through_corners_lose_no_hit(kernels: Any) -> None:
    """A cube seen along its axes: pixels on its edges and corners. Each ray sees a chord between those of two balls."""
    view = View.from_carm(sid=1000, sod=500, pixel_spacing=10.0, shape=(13, 13))
    it = seen(shapes.box(40, 40, 40), view)
    found = kernels.thickness(*there(it.rays, it.vertices, it.faces), it.shape).cpu()[0] * it.lengths()[0]
    inner, outer = (shapes.chords(view, torch.full((3,), r, dtype=D)) for r in (20.0, 20.0 * 3**0.5))
    assert float(inner.max()) > 39
    assert bool((found >= inner - 1e-3).all()) and bool((found <= outer + 1e-3).all())


@pytest.mark.parametrize("box", [1.0, 3.5])
@pytest.mark.parametrize("mesh", MESHES, ids=lambda m: m.name)
def test_coverage_equals_the_reference_with_its_gradient(kernels: Any, mesh: Mesh, box: float) -> None:
    it = seen(mesh, VIEWS["cone"], POSES)
    points = torch.stack([mesh_rays.coordinates(r, it.vertices[0]) for r in it.rays])
    uv = points[..., :2] / points[..., 2:3]
    edges = it.surface.edges
    leaf = uv.clone().requires_grad_()
    expected = mesh_reference.coverage(leaf, it.faces, it.shape, box)
    found = kernels.coverage(*there(uv, it.faces, edges), it.shape, box).cpu()
    assert float((found - expected.detach()).abs().max()) < 2e-7
    w = torch.randn(2, 19, 23, dtype=D, generator=torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad((expected * w).sum(), leaf)
    ours = kernels.coverage_gradient(*there(w, uv, it.faces, edges), box).cpu()
    assert float((ours - slope).abs().max()) < 1e-9 * float(slope.abs().max())


def test_nothing_in_the_picture_is_nothing(kernels: Any) -> None:
    """No pair of a tile and a face is left to launch a kernel for."""
    aside = torch.eye(4, dtype=D)
    aside[:3, 3] = 5000 * VIEWS["cone"].column_step
    it = seen(shapes.box(), VIEWS["cone"], aside)
    where = there(it.rays, it.vertices, it.faces)
    assert float(kernels.thickness(*where, it.shape).abs().max()) == 0
    w = torch.ones(1, 19, 23, dtype=D, device=DEVICE)
    assert all(float(g.abs().max()) == 0 for g in kernels.gradients(w, *where))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_mesh_on_the_gpu_is_projected_there() -> None:
    torus = shapes.torus()
    mesh = Mesh(torus.vertices.cuda(), torus.faces.cuda())
    view = shapes.cone((60, 70), 2.0)
    assert float((project_mesh(mesh, view, POSES).cpu() - project_mesh(torus, view, POSES)).abs().max()) < 1e-4
    assert torch.equal(depth(mesh, view, POSES).face.cpu(), depth(torus, view, POSES).face)
    soft = silhouette(mesh, view, POSES, softness=3.0).cpu()
    assert float((soft - silhouette(torus, view, POSES, softness=3.0)).abs().max()) < 1e-6
