"""Thickness and depth of closed meshes: against formulas, against trimesh, and on rays that meet edges and corners exactly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.projection import mesh_cpu, mesh_reference
from raylign.projection.mesh import depth, project_mesh, seen
from raylign.projection.mesh_surface import closed_surface
from tests.projection import mesh_shapes as shapes
from tests.projection.mesh_shapes import D

VIEWS = {
    "cone": shapes.cone(),
    "parallel": shapes.parallel(),
    "flipped": shapes.cone().flip(columns=True),
    "turned": shapes.parallel((34, 30)).rotate(1),
}


def some_poses(count: int, seed: int = 0) -> torch.Tensor:
    scale = torch.tensor([0.6, 0.6, 0.6, 5.0, 5.0, 5.0], dtype=D)
    return se3.exp(torch.randn(count, 6, dtype=D, generator=torch.Generator().manual_seed(seed)) * scale)


@pytest.mark.parametrize("name", VIEWS)
def test_a_box_is_as_thick_as_the_method_of_slabs_says(name: str) -> None:
    for pose in some_poses(4):
        half = torch.tensor([30.0, 20.0, 25.0], dtype=D)
        found = project_mesh(shapes.box(), VIEWS[name], pose)[0, 0]
        exact = shapes.slab(VIEWS[name].transformed(torch.linalg.inv(pose)), half)
        assert float(exact.max()) > 40
        assert float((found - exact).abs().max()) < 1e-4  # float32 of some 50 mm


def test_a_tetrahedron_is_as_thick_as_its_four_half_spaces_say() -> None:
    mesh, view = shapes.tetrahedron(), shapes.cone()
    o, d = shapes.begins(view)
    normals = -mesh.vertices / mesh.vertices.norm(dim=1, keepdim=True)  # each face lies opposite a corner
    offset = 30 / math.sqrt(3)
    t = (offset - o @ normals.T) / (d @ normals.T)
    rising = d @ normals.T > 0
    high, low = torch.where(rising, t, math.inf).amin(-1), torch.where(rising, -math.inf, t).amax(-1)
    exact = (high - low).clamp_min(0) * d.norm(dim=-1)
    assert float((project_mesh(mesh, view)[0, 0] - exact).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["cone", "parallel"])
def test_finer_ellipsoids_approach_their_chords_quadratically(name: str) -> None:
    radii = torch.tensor([40.0, 28.0, 33.0], dtype=D)
    exact = shapes.chords(VIEWS[name], radii)
    errors = []
    for level in (2, 3, 4):
        ball = shapes.sphere(level, 1.0)
        found = project_mesh(Mesh(ball.vertices * radii, ball.faces), VIEWS[name])[0, 0]
        errors.append(float((found - exact).abs().mean() / exact.mean()))
    assert errors[2] < 3e-3
    assert errors[1] < 0.3 * errors[0] and errors[2] < 0.3 * errors[1]


@pytest.mark.parametrize("mesh", [shapes.box(), shapes.tetrahedron(), shapes.torus(12, 8)], ids=lambda m: m.name)
@pytest.mark.parametrize("name", VIEWS)
def test_kernel_equals_reference(mesh: Mesh, name: str) -> None:
    it = seen(mesh, [VIEWS[name]], some_poses(3, 1))
    found = mesh_cpu.hits(it.rays, it.vertices, it.faces, it.shape)
    assert torch.equal(found, mesh_reference.hits(it.rays, it.vertices, it.faces, it.shape))
    assert len(found) > 1000
    ours = mesh_cpu.thickness(it.rays, it.vertices, it.faces, it.shape)
    reference = mesh_reference.thickness(it.rays, it.vertices, it.faces, it.shape)
    assert float((ours - reference).abs().max()) < 1e-7
    assert torch.equal(mesh_cpu.first(*it.scene[:3], it.shape), mesh_reference.first(*it.scene[:3], it.shape))


class _Everything:
    """What trimesh's ray engine asks a spatial index for, answered without one: every triangle may be met."""

    def __init__(self, bounds: np.ndarray, count: int) -> None:
        self.bounds, self.count = bounds.reshape(-1), count

    def intersection(self, bounds: object) -> range:
        return range(self.count)


def test_hits_are_those_of_trimesh() -> None:
    import trimesh
    from trimesh.ray.ray_triangle import ray_triangle_id

    mesh, view, pose = shapes.torus(), shapes.cone((9, 10), 14.0), some_poses(1, 3)[0]
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    at = view.transformed(torch.linalg.inv(pose))
    o, d = (x.reshape(-1, 3).numpy() for x in shapes.begins(at))
    face, ray, place = ray_triangle_id(solid.triangles, o, d, tree=_Everything(solid.bounds, len(mesh.faces)))
    length = np.linalg.norm(place - o[ray], axis=1)
    sign = np.sign((solid.face_normals[face] * d[ray]).sum(1))
    expected = np.bincount(ray, sign * length, len(o)).reshape(view.shape)
    assert (expected > 1).sum() > 20
    assert np.abs(project_mesh(mesh, view, pose)[0, 0].numpy() - expected).max() < 1e-4
    met = depth(mesh, view, pose)
    nearest = np.full(len(o), np.inf)
    np.minimum.at(nearest, ray, length)
    assert np.allclose(met.distance[0, 0].numpy().reshape(-1), nearest, rtol=1e-9)
    order = np.argsort(length)[::-1]
    first = np.full(len(o), -1)
    first[ray[order]] = face[order]
    assert np.array_equal(met.face[0, 0].numpy().reshape(-1), first)


QUARTERS = [
    np.round(np.linalg.matrix_power(a, i) @ np.linalg.matrix_power(b, j))
    for (a, b), i, j in itertools.product(
        [(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]))], range(4), range(4)
    )
]


@settings(max_examples=60, deadline=None)
@given(
    quarter=st.sampled_from(QUARTERS),
    shift=st.tuples(*[st.sampled_from([-10.0, -5.0, 0.0, 2.5, 5.0])] * 3),
    tilt=st.sampled_from([0.0, 1e-17, 1e-15, 1e-12, 1e-9, math.pi / 4]),
    kind=st.sampled_from(["box", "sphere", "tetrahedron"]),
    beam=st.sampled_from(["cone", "parallel"]),
)
@example(np.eye(3), (-10.0, -5.0, 0.0), 1e-15, "box", "parallel")  # a ray within a face but for rounding
def test_no_hit_is_lost_on_edges_and_corners(
    quarter: np.ndarray, shift: tuple[float, float, float], tilt: float, kind: str, beam: str
) -> None:
    """Rays through corners, along edges and within faces, exactly and missing them by a rounding error."""
    mesh = {"box": shapes.box(40, 40, 40), "sphere": shapes.sphere(1, 20.0), "tetrahedron": shapes.tetrahedron(20.0)}[kind]
    make = View.from_parallel if beam == "parallel" else View.from_carm
    more = {} if beam == "parallel" else {"sid": 1000, "sod": 500}
    view = make(primary=0, secondary=0, pixel_spacing=5.0, shape=(17, 17), **more)  # type: ignore[operator]
    twist = torch.tensor([tilt, -0.3 * tilt, 0.7 * tilt, *shift], dtype=D)
    pose = se3.exp(twist) @ se3.from_parts(torch.tensor(quarter, dtype=D), torch.zeros(3, dtype=D))
    it = seen(mesh, view, pose)
    found = mesh_cpu.hits(it.rays, it.vertices, it.faces, it.shape)
    assert torch.equal(torch.zeros(17 * 17, dtype=torch.int64).index_add(0, found[:, 0], found[:, 2]), torch.zeros(289).long())
    # of a convex body every ray sees at least the chord of the ball within and at most that of the ball about it
    thickness = project_mesh(mesh, view, pose)[0, 0].double()
    corners = mesh.vertices[mesh.faces]
    normals = torch.nn.functional.normalize(
        torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), dim=1
    )
    inner, outer = (corners[:, 0] * normals).sum(1).min(), mesh.vertices.norm(dim=1).max()
    at = view.transformed(torch.linalg.inv(pose))
    assert bool((thickness >= 0).all()) and bool((thickness >= shapes.chords(at, inner.expand(3)) - 1e-3).all())
    assert bool((thickness <= shapes.chords(at, outer.expand(3)) + 1e-3).all())


@settings(max_examples=25, deadline=None)
@given(
    twist=st.tuples(*[st.floats(-3, 3)] * 3, *[st.floats(-20, 20)] * 3),
    beam=st.sampled_from(["cone", "parallel"]),
)
def test_any_pose_gives_the_thickness_of_the_slabs(twist: tuple[float, ...], beam: str) -> None:
    pose = se3.exp(torch.tensor(twist, dtype=D))
    view = VIEWS[beam]
    exact = shapes.slab(view.transformed(torch.linalg.inv(pose)), torch.tensor([30.0, 20.0, 25.0], dtype=D))
    found = project_mesh(shapes.box(), view, pose)[0, 0]
    # where a face is seen edge-on within rounding, one of two values is right
    assert int(((found - exact).abs() > 1e-3).sum()) <= 34
    assert float((found - exact).abs().median()) < 1e-4


def test_disjoint_parts_add_up_and_overlapping_ones_count_twice() -> None:
    a, b = shapes.moved(shapes.torus(), -20, 0, 30), shapes.moved(shapes.tetrahedron(), 30, 10, -30)
    view = shapes.cone()
    apart = project_mesh(shapes.joined(a, b), view)
    assert torch.allclose(apart, project_mesh(a, view) + project_mesh(b, view), atol=1e-4)
    ball = shapes.sphere(2)
    assert torch.allclose(project_mesh(shapes.joined(ball, ball), view), 2 * project_mesh(ball, view), atol=1e-4)


def test_a_cavity_is_empty() -> None:
    outer, inner = shapes.sphere(2, 40.0), shapes.sphere(2, 25.0)
    shell = shapes.joined(outer, Mesh(inner.vertices, inner.faces[:, [0, 2, 1]]))
    view = shapes.cone()
    expected = project_mesh(outer, view) - project_mesh(inner, view)
    assert torch.allclose(project_mesh(shell, view), expected, atol=1e-4)


def test_a_ray_is_measured_between_its_ends() -> None:
    """The source within the box, behind it, and the detector within it."""
    view = shapes.cone()
    along = view.normal
    half = torch.tensor([30.0, 20.0, 25.0], dtype=D)
    for place in (
        view.source,
        view.source + 20 * along,
        view.source - 15 * along,
        view.source - 300 * along,
        view.source + 990 * along,
    ):
        pose = torch.eye(4, dtype=D)
        pose[:3, 3] = place + torch.tensor([1.0, 2.0, 3.0], dtype=D)
        exact = shapes.slab(view.transformed(torch.linalg.inv(pose)), half)
        assert float((project_mesh(shapes.box(), view, pose)[0, 0] - exact).abs().max()) < 1e-4
    it = seen(shapes.box(), view, pose)
    assert torch.equal(mesh_cpu.first(*it.scene[:3], it.shape), mesh_reference.first(*it.scene[:3], it.shape))


@pytest.mark.parametrize("seed", range(8))
def test_a_corner_is_rendered_under_its_projection(seed: int) -> None:
    """The tip of a long thin tetrahedron: the topmost pixels that it covers lie where ``View.project`` puts the tip."""
    pose = some_poses(8, 5)[seed]
    view = shapes.cone((400, 400), 0.4)
    bones = torch.tensor([[0.0, 0, 0], [-4, -3, -80], [4, -3, -80], [0, 5, -80]], dtype=D)
    needle = Mesh(bones, torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]))
    shown = project_mesh(needle, view, pose)[0, 0] > 0
    tips = view.project(Rigid(pose).apply(bones))
    tip, base = tips[0], tips[1:].mean(0)
    axis = (tip - base) / (tip - base).norm()
    r, c = shown.nonzero(as_tuple=True)
    reach = (torch.stack([c, r], 1).to(D) - tip) @ axis
    assert -12 < float(reach.max()) < 1e-6  # it ends at the tip, where it is thinner than a pixel


def test_depth_says_which_face_and_where() -> None:
    view, pose = shapes.cone(), some_poses(1, 7)[0]
    met = depth(shapes.sphere(4), view, pose)
    assert met.distance.shape == met.face.shape == (1, 1, 30, 34)
    there = met.face >= 0
    assert torch.equal(there, torch.isfinite(met.distance)) and torch.equal(there, project_mesh(shapes.sphere(4), view, pose) > 0)
    o, d = shapes.begins(view)
    places = (o + met.distance[0, 0, ..., None] * d / d.norm(dim=-1, keepdim=True))[there[0, 0]]
    centre = pose[:3, 3]
    assert float(((places - centre).norm(dim=1) - 40).abs().max()) < 0.2
    triangles = Rigid(pose).apply(shapes.sphere(4).vertices)[shapes.sphere(4).faces[met.face[there]]]
    assert float((triangles.mean(1) - places).norm(dim=1).max()) < 4  # within the triangle it names


def test_images_are_numbered_by_pose_and_view_and_vertices_by_pose() -> None:
    views, poses = [shapes.cone(), shapes.parallel(), shapes.cone().flip(rows=True)], some_poses(2, 2)
    both = project_mesh(shapes.torus(), views, poses)
    assert both.shape == (2, 3, 30, 34) and both.dtype == torch.float32
    for p, v in itertools.product(range(2), range(3)):
        assert torch.equal(both[p, v], project_mesh(shapes.torus(), views[v], Rigid(poses[p]))[0, 0])
    grown = torch.stack([shapes.torus().vertices, 1.2 * shapes.torus().vertices])
    each = project_mesh(shapes.torus(), views, poses, vertices=grown)
    assert torch.equal(each[0], both[0])
    assert torch.equal(each[1], project_mesh(Mesh(grown[1], shapes.torus().faces), views, poses[1])[0])


def test_result_does_not_depend_on_the_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    it = seen(shapes.torus(60, 40), [shapes.cone((90, 80), 1.2)], some_poses(3, 4))
    weights = torch.randn(3, 90, 80, generator=torch.Generator().manual_seed(1))
    results = []
    for count in ("1", "2", "5"):
        monkeypatch.setenv("RAYLIGN_THREADS", count)
        results.append([mesh_cpu.thickness(*it.scene[:3], it.shape), *mesh_cpu.gradients(weights, *it.scene[:3])])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_mesh_that_is_inside_out_is_turned() -> None:
    inverted = Mesh(shapes.torus().vertices, shapes.torus().faces[:, [0, 2, 1]])
    view = shapes.cone()
    assert torch.allclose(project_mesh(inverted, view), project_mesh(shapes.torus(), view), atol=1e-5)
    assert torch.equal(depth(inverted, view).face >= 0, depth(shapes.torus(), view).face >= 0)


def test_a_soup_of_triangles_that_closes_is_closed() -> None:
    whole = shapes.torus(12, 8)
    soup = Mesh(whole.vertices[whole.faces].reshape(-1, 3), torch.arange(3 * len(whole.faces)).reshape(-1, 3))
    assert torch.equal(project_mesh(soup, shapes.cone()), project_mesh(whole, shapes.cone()))


def test_every_edge_has_a_face_on_either_side() -> None:
    surface = closed_surface(shapes.torus())
    assert len(surface.edges) == 3 * len(surface.faces) // 2
    for edge, face in ((surface.edges[:, :2], surface.edges[:, 2]), (surface.edges[:, [1, 0]], surface.edges[:, 3])):
        a, b = edge[:, 0], edge[:, 1]
        corners = surface.faces[face]
        at = (corners == a[:, None]).long().argmax(1)
        assert torch.equal(corners.gather(1, ((at + 1) % 3)[:, None])[:, 0], b)


def test_what_cannot_be_measured_is_refused() -> None:
    whole, view = shapes.torus(), shapes.cone()
    with pytest.raises(InputError, match=r"not closed: 3 of its edges.*fill its holes"):
        project_mesh(Mesh(whole.vertices, whole.faces[1:]), view)
    twisted = whole.faces.clone()
    twisted[5] = twisted[5, [0, 2, 1]]
    with pytest.raises(InputError, match=r"wound against each other.*fix_normals"):
        project_mesh(Mesh(whole.vertices, twisted), view)
    with pytest.raises(InputError, match="vertices of shape"):
        project_mesh(whole, view, vertices=whole.vertices[1:])
    with pytest.raises(InputError, match="vertices of shape"):
        project_mesh(whole, view, some_poses(2), vertices=whole.vertices.expand(3, -1, -1))
    with pytest.raises(InputError, match="4x4"):
        project_mesh(whole, view, torch.eye(3))
    with pytest.raises(InputError, match="different shapes"):
        project_mesh(whole, [view, shapes.cone((5, 5))])
    with pytest.raises(InputError, match="neither their beginning nor their direction"):
        rays = torch.randn(1, 6, 3, dtype=D)
        mesh_cpu.thickness(rays, whole.vertices[None], whole.faces, (4, 4))
