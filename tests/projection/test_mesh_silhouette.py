"""The soft silhouette: areas against formulas and against finer masks, and what it becomes as it hardens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.projection import mesh_coverage, mesh_operator, mesh_rays, mesh_reference
from raylign.projection.mesh import project_mesh, seen
from raylign.projection.mesh_silhouette import silhouette
from tests.projection import mesh_shapes as shapes
from tests.projection.mesh_shapes import D

POSE = se3.exp(torch.tensor([0.4, -0.7, 0.3, 3.0, -5.0, 8.0], dtype=D))
BEAMS = {"cone": shapes.cone((30, 34), 4.0), "parallel": shapes.parallel((30, 34), 3.0)}


def projected(mesh: Mesh, view: View, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The vertices' pixels, [1, N, 2], faces and edges."""
    it = seen(mesh, view, pose)
    points = mesh_rays.coordinates(it.rays[0], it.vertices[0])
    return (points[:, :2] / points[:, 2:3])[None], it.faces, it.surface.edges


@pytest.mark.parametrize("beam", BEAMS)
@pytest.mark.parametrize("mesh", [shapes.box(), shapes.torus(12, 8)], ids=lambda m: m.name)
def test_vertices_are_seen_where_the_view_projects_them(mesh: Mesh, beam: str) -> None:
    uv, _, _ = projected(mesh, BEAMS[beam], POSE)
    assert torch.allclose(uv[0], BEAMS[beam].project(se3.transform(POSE, mesh.vertices)), atol=1e-9)


@pytest.mark.parametrize("box", [0.3, 1.0, 2.5, 7.0])
@pytest.mark.parametrize("mesh", [shapes.box(), shapes.torus(12, 8)], ids=lambda m: m.name)
def test_kernel_equals_reference_with_its_gradient(mesh: Mesh, box: float) -> None:
    view = shapes.cone((15, 17), 8.0)
    uv, faces, edges = projected(mesh, view, POSE)
    w = torch.randn(1, 15, 17, dtype=D, generator=torch.Generator().manual_seed(2))
    leaf = uv.clone().requires_grad_()
    reference = mesh_reference.coverage(leaf, faces, view.shape, box)
    ours = mesh_coverage.coverage(uv, faces, edges, view.shape, box)
    assert float(reference.detach().max()) > 0.5
    assert float((ours - reference.detach()).abs().max()) < 2e-7
    (expected,) = torch.autograd.grad((reference * w).sum(), leaf)
    slopes = mesh_coverage.coverage_gradient(w, uv, faces, edges, box)
    assert float((slopes - expected).abs().max()) < 1e-9 * float(expected.abs().max())


@pytest.mark.parametrize("mesh", [shapes.box(), shapes.sphere(2), shapes.torus()], ids=lambda m: m.name)
@pytest.mark.parametrize("beam", BEAMS)
def test_at_one_pixel_it_is_the_mean_of_a_finer_mask(mesh: Mesh, beam: str) -> None:
    view, finer = BEAMS[beam].resample((20, 22)), 16
    fine = silhouette(mesh, view.resample((20 * finer, 22 * finer)), POSE, softness=0)[0, 0]
    assert set(fine.unique().tolist()) == {0.0, 1.0}
    mean = fine.reshape(20, finer, 22, finer).mean((1, 3))
    more = silhouette(mesh, view, POSE)[0, 0] - mean
    # 256 points a pixel tell its area to some 1/40. Where outlines cross within a pixel, both areas count: of the torus alone,
    # whose tube is as narrow as four of these pixels.
    assert float(more.min()) > -0.03 and float(more.max()) < (0.3 if mesh.name == "torus" else 0.03)
    assert float(more.abs().mean()) < (5e-3 if mesh.name == "torus" else 1e-3)


def test_the_area_of_a_ball_is_that_of_its_cone() -> None:
    view = shapes.cone((80, 80), 2.0)
    for softness in (0.5, 1.0, 3.0, 8.0):
        area = float(silhouette(shapes.sphere(4, 40.0), view, softness=softness).double().sum())
        # of an ellipse: the cone that touches the ball, cut by the detector, here almost across the axis
        pitch = math.prod(view.pixel_spacing)
        half = math.asin(40 / 650)
        expected = math.pi * (1000 * math.tan(half)) ** 2 / pitch
        assert area == pytest.approx(expected, rel=2e-3)


def test_less_softness_approaches_the_mask() -> None:
    mesh, view = shapes.torus(), BEAMS["cone"]
    hard = silhouette(mesh, view, POSE, softness=0)[0, 0]
    assert torch.equal(hard > 0, project_mesh(mesh, view, POSE)[0, 0] > 0)
    differ = [
        int(((silhouette(mesh, view, POSE, softness=s)[0, 0] - hard).abs() > 1e-6).sum()) for s in (4.0, 1.0, 0.1, 1e-3, 1e-6)
    ]
    assert differ == sorted(differ, reverse=True) and differ[0] > 100 and differ[-1] == 0


def test_it_is_one_over_folds_and_two_layers() -> None:
    """Where the torus lies in front of itself, contour edges cross the inside of the silhouette without a trace."""
    edge_on = se3.exp(torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=D))
    view = shapes.cone((40, 40), 2.0)
    soft = silhouette(shapes.torus(48, 24), view, edge_on, softness=1.5)[0, 0]
    uv, faces, edges = projected(shapes.torus(48, 24), view, edge_on)
    layers = mesh_coverage.coverage(uv, faces, edges, view.shape, 1.5)[0]
    assert float(layers.max()) == pytest.approx(2, abs=1e-6)
    assert float(soft[layers > 1].min()) == 1
    assert float(soft.max()) == 1 and float(soft.min()) == 0


@pytest.mark.parametrize("softness", [1.0, 4.0])
@pytest.mark.parametrize("beam", BEAMS)
def test_gradients_equal_finite_differences(beam: str, softness: float) -> None:
    mesh, base = shapes.torus(10, 6), BEAMS[beam].resample((15, 17))
    toward = torch.randn(mesh.vertices.shape, dtype=D, generator=torch.Generator().manual_seed(3))
    r, c = torch.meshgrid(torch.arange(15.0, dtype=D), torch.arange(17.0, dtype=D), indexing="ij")
    weights = torch.sin(0.3 * r) + torch.cos(0.2 * c)
    turn = torch.randn(4, 3, dtype=D, generator=torch.Generator().manual_seed(4)) * torch.tensor([[5.0], [5.0], [0.05], [0.05]])

    def scene(numbers: Tensor) -> tuple[View, Tensor, Tensor]:
        """A pose, how far vertices went, and how far the view's vectors went."""
        view = View(*(base.vectors + numbers[7] * turn).unbind(0), base.shape, base.beam)
        return view, se3.exp(numbers[:6]) @ POSE, mesh.vertices + numbers[6] * toward

    def exact(numbers: Tensor) -> Tensor:
        view, pose, vertices = scene(numbers)
        uv, faces, _ = projected(Mesh(vertices, mesh.faces), view, pose)
        return (mesh_reference.coverage(uv, faces, view.shape, softness)[0].clamp(0, 1) * weights).sum()

    at = torch.zeros(8, dtype=D, requires_grad=True)
    view, pose, vertices = scene(at)
    (slopes,) = torch.autograd.grad(
        (silhouette(mesh, view, pose, softness=softness, vertices=vertices)[0, 0] * weights).sum(), at
    )
    for i in range(8):
        e = torch.zeros(8, dtype=D)
        e[i] = 1e-6
        with torch.no_grad():
            expected = float(exact(e) - exact(-e)) / 2e-6
        assert float(slopes[i]) == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(slopes.abs().max()))


def test_a_soft_silhouette_pulls_a_mesh_into_place() -> None:
    """What it is for: descent on the difference of two masks ends where they agree."""
    mesh, view = shapes.torus(24, 12), shapes.cone((40, 40), 3.0)
    goal = silhouette(mesh, view, se3.exp(torch.tensor([0.2, 0.1, 0, 4.0, 0.0, -3.0], dtype=D)) @ POSE, softness=4.0)

    def misfit(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        twist = torch.from_numpy(numbers / scale).requires_grad_()
        value = (silhouette(mesh, view, se3.exp(twist) @ POSE, softness=4.0) - goal).double().square().sum()
        (slope,) = torch.autograd.grad(value, twist)
        return float(value.detach()), slope.numpy() / scale

    scale = np.array([30.0, 30, 30, 1, 1, 1])  # mm of motion for a radian
    found = minimize(misfit, np.zeros(6), jac=True, method="L-BFGS-B", options={"maxiter": 60})
    assert misfit(np.zeros(6))[0] > 50 and found.fun < 0.05


def test_operator_is_registered_as_torch_asks() -> None:
    uv, faces, edges = projected(shapes.tetrahedron(), shapes.cone((5, 6), 20.0), POSE)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    assert set(
        torch.library.opcheck(mesh_operator.coverage, (uv.requires_grad_(), faces, edges, 5, 6, 1.0), test_utils=checks).values()
    ) == {"SUCCESS"}


def test_what_has_no_outline_is_refused() -> None:
    view, mesh = BEAMS["cone"], shapes.torus()
    with pytest.raises(InputError, match="softness"):
        silhouette(mesh, view, softness=-1.0)
    with pytest.raises(InputError, match="softness"):
        silhouette(mesh, view, softness=math.nan)
    inside = torch.eye(4, dtype=D)
    inside[:3, 3] = view.source + 3 * view.normal
    with pytest.raises(InputError, match="between the source and the detector"):
        silhouette(mesh, view, inside)
    assert silhouette(mesh, view, inside, softness=0).shape == (1, 1, 30, 34)
