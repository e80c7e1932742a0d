"""Equations of Toth et al. (2018), and what the agent sees, against the library's own geometry and projectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from raylign.data import Mesh, XRay
from raylign.errors import InputError
from raylign.evaluation.metrics import cross_tre
from raylign.geometry import Rigid, View
from raylign.methods.imitation_agent.mdp import ACTIONS, cross_error, image_frame, placed, rewards
from raylign.methods.imitation_agent.models import coarsened, middle
from raylign.methods.imitation_agent.registrar import reduced
from raylign.methods.imitation_agent.world import Exposures, World, WorldConfig, gathered
from raylign.projection import project_mesh
from raylign.projection.mesh_surface import closed_surface
from raylign.simulation.poses import starts
from raylign.simulation.poses.carms import region


def egg() -> Mesh:
    """A body without symmetry that looks a little like a ventricle: an ellipsoid, cut down on one side."""
    made = trimesh.creation.icosphere(subdivisions=3, radius=1.0)
    points = made.vertices * [30.0, 36.0, 48.0]
    points[:, 2] = np.where(points[:, 2] > 20, 20 + 0.4 * (points[:, 2] - 20), points[:, 2])
    points = points @ trimesh.transformations.rotation_matrix(0.7, [0.3, 1, 0.2])[:3, :3].T + [12.0, -31.0, 250.0]
    return Mesh(torch.from_numpy(points), torch.from_numpy(np.asarray(made.faces)), "egg")


VIEW = View.from_carm(primary=12, secondary=-4, sid=1200, sod=785, pixel_spacing=1.8, shape=(256, 240))


def scene(offset: tuple[float, float, float] = (4.0, -3.0, 6.0)) -> Exposures:
    mesh = egg()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = torch.tensor(offset, dtype=torch.float64) - middle(mesh)
    image = project_mesh(mesh, VIEW, pose)[0]
    centre = middle(mesh)[None]
    return Exposures(image, VIEW.vectors[None], pose[None], torch.zeros(1, dtype=torch.int64), (mesh,), centre)


def test_rewards_are_differences_of_distances() -> None:
    error = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]], dtype=torch.float64)
    found = rewards(error)
    for row, e in zip(found, error, strict=True):
        for value, action in zip(row, ACTIONS, strict=True):
            assert float(value) == pytest.approx(math.dist(e, [0, 0, 0]) - math.dist(e + action, [0, 0, 0]))
    assert (found[1] == -1).all()  # from the truth, every action leads a step away
    assert int(found[0].argmax()) == 2  # +y, against the larger of the two shifts
    assert float(rewards(error, 0.5)[2].max()) == pytest.approx(0.5)


def test_motions_are_those_of_the_published_starts() -> None:
    """A start drawn by the pose samplers and the state of the same numbers are one pose."""
    it = scene()
    frame, centre = image_frame(it.vectors), it.centres
    stream = torch.Generator().manual_seed(3)
    drawn = starts("toth2018").draw(it.base, [VIEW], centre[0], centre, stream)
    left = drawn @ torch.linalg.inv(it.base)
    twist = torch.atan2(*(left[0, :3, :3] @ frame[0, 0] @ frame[0, k] for k in (1, 0)))
    # u x v is -n or n by the handedness of the display; a right-handed turn about n takes u towards n x u
    hand = float(torch.linalg.cross(frame[0, 2], frame[0, 0]) @ frame[0, 1])
    at = it.base[0, :3, :3] @ centre[0] + it.base[0, :3, 3]
    shift = drawn[0, :3, :3] @ centre[0] + drawn[0, :3, 3] - at
    state = torch.stack([shift @ frame[0, 0], shift @ frame[0, 1], torch.rad2deg(twist) * hand])
    torch.testing.assert_close(placed(it.base, centre, frame, state[None]), drawn, atol=1e-9, rtol=0)


def test_motions_add_up_in_any_order_and_stay_in_their_plane() -> None:
    it = scene()
    frame, centre = image_frame(it.vectors), it.centres
    a, b = torch.tensor([[7.0, -3.0, 9.0]], dtype=torch.float64), torch.tensor([[-2.0, 11.0, 4.0]], dtype=torch.float64)
    one = placed(placed(it.base, centre, frame, a), centre, frame, b)
    other = placed(placed(it.base, centre, frame, b), centre, frame, a)
    torch.testing.assert_close(one, placed(it.base, centre, frame, a + b), atol=1e-9, rtol=0)
    torch.testing.assert_close(one, other, atol=1e-9, rtol=0)
    moved = (one - it.base)[0, :3, :3] @ centre[0] + (one - it.base)[0, :3, 3]
    assert abs(float(moved @ VIEW.normal)) < 1e-9


def test_the_cross_is_measured_as_the_evaluation_does() -> None:
    it = scene()
    world = World(it)
    states = torch.tensor([[3.0, -8.0, 11.0], [0.0, 0.0, -15.0], [20.0, 1.0, 0.0]], dtype=torch.float64)
    poses = world.poses(torch.zeros(3, dtype=torch.int64), states)
    wanted = cross_tre(poses, Rigid(it.base[0]), it.centres[0], VIEW)
    torch.testing.assert_close(cross_error(states), wanted, atol=1e-9, rtol=0)


def test_fields_are_the_regions_of_the_pose_room() -> None:
    it = scene()
    world, which = World(it), torch.zeros(2, dtype=torch.int64)
    poses = world.poses(which, torch.tensor([[0.0, 0, 0], [25.0, -18.0, 10.0]], dtype=torch.float64))
    for found, pose in zip(world.fields(which, poses), poses, strict=True):
        at = pose[:3, :3] @ it.centres[0] + pose[:3, 3]
        torch.testing.assert_close(found, region(VIEW, at, 120.0, (128, 128)).vectors, atol=1e-9, rtol=0)


def test_the_agent_sees_what_the_projector_makes_of_its_field() -> None:
    """The moving image is the mesh projector's; the fixed one, of an exposure of the same mesh, is the same picture."""
    it = scene()
    world, which = World(it), torch.zeros(2, dtype=torch.int64)
    states = torch.tensor([[0.0, 0, 0], [25.0, -18.0, 10.0]], dtype=torch.float64)
    fixed, moving, shown = world.observe(which, states)
    assert fixed.shape == moving.shape == (2, 1, 128, 128)
    assert shown.tolist() == [1.0, 1.0]
    for n, pose in enumerate(world.poses(which, states)):
        at = pose[:3, :3] @ it.centres[0] + pose[:3, 3]
        field = region(VIEW, at, 120.0, (128, 128))
        torch.testing.assert_close(50 * moving[n, 0], project_mesh(it.meshes[0], field, pose)[0, 0], atol=1e-3, rtol=1e-5)
        seen = project_mesh(it.meshes[0], field, it.base[0])[0, 0]
        seen = (seen - seen.mean()) / (seen.std(correction=0) + 1e-3)
        error = (fixed[n, 0] - seen).square().mean().sqrt()
        assert float(error) < 0.05  # resampled by interpolation: of a standard deviation of one
    assert float((fixed[0, 0] - fixed[1, 0]).square().mean().sqrt()) > 0.3


def test_what_the_exposure_does_not_show_is_zero() -> None:
    it = scene()
    images = it.images.clone()
    images[0, :, 130:] = torch.nan
    world = World(Exposures(images, it.vectors, it.base, it.model, it.meshes, it.centres), WorldConfig(pixels=64))
    fixed, _, shown = world.observe(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.float64))
    assert 0.3 < float(shown[0]) < 0.7
    assert bool(torch.isfinite(fixed).all())
    assert bool((fixed[0, 0, :, -8:] == 0).all())
    assert abs(float(fixed.sum())) < 1.0
    gone = torch.tensor([[400.0, 0.0, 0.0]], dtype=torch.float64)
    fixed, _, shown = world.observe(torch.zeros(1, dtype=torch.int64), gone)
    assert float(shown[0]) == 0.0
    assert float(fixed.abs().max()) == 0.0


def test_several_models_keep_their_exposures() -> None:
    other = scene((0.0, 9.0, -14.0))
    both = gathered([scene(), other])
    fixed, moving, _ = World(both).observe(torch.tensor([1, 0]), torch.zeros(2, 3, dtype=torch.float64))
    alone = World(other).observe(torch.tensor([0]), torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(fixed[:1], alone[0])
    torch.testing.assert_close(moving[:1], alone[1])


def test_coarser_models_stay_closed_and_keep_their_shape() -> None:
    made = trimesh.creation.icosphere(subdivisions=5, radius=35.0)
    fine = Mesh(torch.from_numpy(np.asarray(made.vertices)), torch.from_numpy(np.asarray(made.faces)))
    coarse = coarsened(fine, 4.0)
    closed_surface(coarse)
    assert len(coarse.faces) < len(fine.faces) / 5
    radii = coarse.vertices.norm(dim=1)
    assert 34.7 < float(radii.min()) <= float(radii.max()) < 35.01
    assert float(middle(coarse).norm()) < 0.05
    assert coarsened(fine, 0.0) is fine
    assert coarsened(fine, 1000.0) is fine


def test_the_middle_is_that_of_the_solid() -> None:
    mesh = egg()
    body = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    np.testing.assert_allclose(middle(mesh).numpy(), body.center_mass, atol=1e-9)
    inverted = Mesh(mesh.vertices, mesh.faces.flip(1))
    np.testing.assert_allclose(middle(inverted).numpy(), body.center_mass, atol=1e-9)
    flat = Mesh(torch.eye(3, dtype=torch.float64), torch.tensor([[0, 1, 2], [2, 1, 0]]))
    with pytest.raises(InputError, match="encloses nothing"):
        middle(flat)


def test_x_rays_are_reduced_by_whole_blocks() -> None:
    """A reduced pixel lies in the middle of its block, and invalid pixels do not enter."""
    view = View.from_carm(primary=-8, secondary=3, sid=1200, sod=785, pixel_spacing=0.6, shape=(98, 101))
    image = torch.arange(98.0)[:, None] + 10 * torch.arange(101.0)[None, :]
    mask = torch.ones(98, 101, dtype=torch.bool)
    mask[0, 0] = False
    mask[9:12, 9:12] = False
    small, vectors = reduced(XRay(image, view, mask), 300.0 / 256)
    assert small.shape == (32, 33)  # three pixels of 0.39 mm at the isocentre for one of 1.17
    assert float(small[2, 5]) == pytest.approx(7 + 10 * 16)
    assert float(small[0, 0]) == pytest.approx((9 * 11 - 0) / 8)
    assert bool(small[3, 3].isnan())
    at = vectors[1] + 5 * vectors[2] + 2 * vectors[3]
    torch.testing.assert_close(at, view.origin + 16 * view.column_step + 7 * view.row_step)
