"""Meshes as solids, against analytic bodies and against the projector of meshes, which knows nothing of voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from raylign import View, project, project_mesh
from raylign.data import Mesh
from raylign.data.shafts import long_bone
from raylign.data.solids import Axes, Solidity, inside, material, near_distance, signed_distance, solid_volume
from raylign.errors import InputError
from raylign.geometry import se3


def mesh_of(made: trimesh.Trimesh, name: str = "made") -> Mesh:
    return Mesh(torch.from_numpy(np.array(made.vertices)), torch.from_numpy(np.array(made.faces)), name)


def bean() -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=5)
    x, y, z = (np.asarray(made.vertices) * [20.0, 14.0, 33.0]).T
    return Mesh(torch.from_numpy(np.stack([x + 0.008 * z**2, y + 0.012 * x * z, z], 1)), torch.from_numpy(np.array(made.faces)))


def axes(low: float, high: float, pitch: float) -> Axes:
    along = np.arange(low, high, pitch)
    return Axes(along, along, along, pitch)


VIEW = View.from_carm(primary=25, secondary=10, sid=1000, sod=700, shape=(90, 80), pixel_spacing=1.5)


def poses() -> torch.Tensor:
    twists = torch.tensor([[0, 0, 0, 0, 0, 0], [0.4, -0.7, 0.3, 5.3, -2.1, 8.0], [1.2, 0.5, -0.9, -3.0, 4.4, 0.7]])
    return se3.exp(twists.double())


def test_a_homogeneous_solid_projects_as_thickness_times_attenuation() -> None:
    mesh, mu = bean(), 0.02
    thickness = project_mesh(mesh, VIEW, poses())
    image, fine = (project(solid_volume(mesh, Solidity(excess=mu, shell_mm=0, voxel_mm=h)), VIEW, poses()) for h in (0.8, 0.4))
    # what is left are outlines as soft as voxels: it halves with them, and does not change the mass
    rough, less = (float((i - mu * thickness).norm() / (mu * thickness).norm()) for i in (image, fine))
    assert rough < 0.02 and less < 0.55 * rough
    assert float(image.sum() / (mu * thickness).sum()) == pytest.approx(1, abs=2e-3)
    # to the side that rays lie on: what is missing at one edge would be too much at the other
    columns = torch.arange(80.0)
    for one, other in zip(image[:, 0], thickness[:, 0], strict=True):
        centre = [(columns * i.sum(0)).sum() / i.sum() for i in (one, other)]
        assert abs(float(centre[0] - centre[1])) < 0.01


def test_a_bone_is_a_shell_about_a_core() -> None:
    """The projection of nested ellipsoids, whose inner one is the outer one less the shell, to the shell's thickness."""
    ball, core = (mesh_of(trimesh.creation.icosphere(subdivisions=5, radius=r)) for r in (25.0, 22.0))
    bone = Solidity(excess=0.004, shell_mm=3.0, shell_excess=0.022, voxel_mm=0.8)
    image = project(solid_volume(ball, bone), VIEW, poses())
    expected = 0.022 * project_mesh(ball, VIEW, poses()) - 0.018 * project_mesh(core, VIEW, poses())
    assert float((image - expected).norm() / expected.norm()) < 0.045
    assert float(image.sum() / expected.sum()) == pytest.approx(1, abs=2e-3)


def test_a_shell_thinner_than_a_voxel_keeps_its_mass() -> None:
    ball = mesh_of(trimesh.creation.icosphere(subdivisions=5, radius=20.0))
    volume = solid_volume(ball, Solidity(excess=0.0, shell_mm=0.5, shell_excess=1.0, voxel_mm=1.5))
    shell = 4 / 3 * np.pi * (20**3 - 19.5**3)
    assert float(volume.data.sum()) * 1.5**3 == pytest.approx(shell, rel=0.03)


def test_where_a_mesh_lies_within_a_voxel_is_kept() -> None:
    """The centre of mass follows a mesh that moves by parts of a voxel, on a grid that does not."""
    ball = mesh_of(trimesh.creation.icosphere(subdivisions=5, radius=15.0))
    grid = axes(-20, 20.1, 2.0)
    for shift in (0.0, 0.3, 0.8, 1.3):
        cover = np.clip(0.5 - near_distance(Mesh(ball.vertices + shift, ball.faces), grid, 4.0) / 2.0, 0, 1)
        assert (cover.sum((0, 1)) * grid.x).sum() / cover.sum() == pytest.approx(shift, abs=0.02)


def test_distances_of_a_box_are_exact() -> None:
    """Large triangles with sharp edges: distances to faces, edges and corners have closed forms."""
    box, grid = mesh_of(trimesh.creation.box(extents=(20.0, 12.0, 8.0))), axes(-16, 16.1, 0.9)
    x, y, z = np.meshgrid(grid.z, grid.y, grid.x, indexing="ij")[::-1]
    q = np.stack([np.abs(x) - 10, np.abs(y) - 6, np.abs(z) - 4])
    exact = np.linalg.norm(np.maximum(q, 0), axis=0) + np.minimum(q.max(0), 0)
    assert np.abs(near_distance(box, grid, 3.0) - np.clip(exact, -3, 3)).max() < 1e-5
    error = np.abs(signed_distance(box, grid) - exact)
    assert error[np.abs(exact) < 2].max() < 1e-5 and error.max() < 0.9


def test_parts_may_overlap_and_cavities_are_hollow() -> None:
    one, two = (mesh_of(trimesh.creation.icosphere(subdivisions=4, radius=10.0)) for _ in range(2))
    hole = mesh_of(trimesh.creation.icosphere(subdivisions=4, radius=4.0))
    n = len(one.vertices)
    shifted = two.vertices + torch.tensor([8.0, 0, 0])
    both = Mesh(torch.cat([one.vertices, shifted]), torch.cat([one.faces, two.faces + n]))
    hollow = Mesh(torch.cat([one.vertices, hole.vertices]), torch.cat([one.faces, hole.faces.flip(1) + n]))
    grid = axes(-13, 21.1, 0.7)
    x, y, z = np.meshgrid(grid.z, grid.y, grid.x, indexing="ij")[::-1]
    r, s = np.sqrt(x**2 + y**2 + z**2), np.sqrt((x - 8) ** 2 + y**2 + z**2)
    sure = (np.abs(r - 10) > 0.2) & (np.abs(s - 10) > 0.2) & (np.abs(r - 4) > 0.2)
    assert (inside(both, grid) == ((r < 10) | (s < 10)))[sure].all()
    assert (inside(hollow, grid) == ((r < 10) & (r > 4)))[sure].all()


def test_cracks_are_forgiven_and_holes_are_not() -> None:
    made = trimesh.creation.icosphere(subdivisions=4, radius=15.0)
    ball, grid = mesh_of(made), axes(-18, 18.1, 0.8)
    x, y, z = np.meshgrid(grid.z, grid.y, grid.x, indexing="ij")[::-1]
    r = np.sqrt(x**2 + y**2 + z**2)
    cracked = Mesh(ball.vertices, ball.faces[torch.arange(len(ball.faces)) % 700 != 0])
    turned = Mesh(ball.vertices, torch.where(torch.arange(len(ball.faces))[:, None] % 5 == 0, ball.faces.flip(1), ball.faces))
    for damaged in (cracked, turned):
        assert ((inside(damaged, grid) == (r < 15))[np.abs(r - 15) > 0.2]).all()
    soup = Mesh(ball.vertices[ball.faces].reshape(-1, 3), torch.arange(3 * len(ball.faces)).reshape(-1, 3))
    assert ((inside(soup, grid) == (r < 15))[np.abs(r - 15) > 0.2]).all()
    open_ball = Mesh(ball.vertices, ball.faces[np.asarray(made.triangles_center)[:, 0] < 8])
    with pytest.raises(InputError, match="open"):
        inside(open_ball, grid)


def test_what_cannot_be_a_solid_is_refused() -> None:
    ball = bean()
    with pytest.raises(InputError, match="encloses"):
        solid_volume(Mesh(ball.vertices, ball.faces[:1]))
    with pytest.raises(InputError, match="millimetres"):
        solid_volume(Mesh(1000 * ball.vertices, ball.faces))
    with pytest.raises(InputError, match="looks like metres"):
        solid_volume(Mesh(0.001 * ball.vertices, ball.faces))
    with pytest.raises(InputError, match="no material"):
        material("cheese")
    with pytest.raises(InputError, match="nothing"):
        Solidity(excess=0, shell_mm=0)
    with pytest.raises(InputError, match="voxel"):
        Solidity(voxel_mm=0)
    assert material("metal", 0.4).voxel_mm == 0.4 and material("metal").shell_mm == 0


def test_a_shaft_is_a_tube_and_a_ball_is_none() -> None:
    """A rod of 10 mm with a ball of 20 mm on its end, aslant: its radius, and a wall that thins where it widens."""
    grid = axes(-50, 90.1, 1.0)
    x, y, z = np.meshgrid(grid.z, grid.y, grid.x, indexing="ij")[::-1]
    n = np.array([0.36, 0.48, 0.8])
    along = x * n[0] + y * n[1] + z * n[2]
    off = np.sqrt(np.maximum(x**2 + y**2 + z**2 - along**2, 0))
    ball = np.sqrt((x - 50 * n[0]) ** 2 + (y - 50 * n[1]) ** 2 + (z - 50 * n[2]) ** 2) < 20
    bone = long_bone(((off < 10) & (np.abs(along) < 45)) | ball, 1.0)
    assert bone is not None and bone.radius == pytest.approx(10, abs=0.3)
    assert float(bone.share[(off < 3) & (np.abs(along) < 15)].min()) > 0.9
    assert float(bone.share[ball & (np.abs(along - 50) < 4)].max()) < 0.15
    assert long_bone(ball, 1.0) is None
    flat = (np.abs(x) < 40) & (np.abs(y) < 4) & (np.abs(z) < 20)
    assert long_bone(flat, 1.0) is None


def test_a_tube_projects_as_one_cylinder_less_another() -> None:
    rod, core = (mesh_of(trimesh.creation.cylinder(radius=r, height=120, sections=96)) for r in (12.0, 12.0 * 0.58))
    image = project(solid_volume(rod, Solidity(voxel_mm=0.8)), VIEW, poses())
    expected = 0.022 * (project_mesh(rod, VIEW, poses()) - project_mesh(core, VIEW, poses()))
    middle = slice(30, 60)  # the ends are closed by a wall
    assert float((image - expected)[0, 0, middle].norm() / expected[0, 0, middle].norm()) < 0.08
