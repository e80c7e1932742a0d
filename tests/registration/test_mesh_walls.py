"""The wall of a long bone: other thicknesses of the same solid, and which of them an exposure tells."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
import trimesh

import raylign
from raylign import View
from raylign.data import Mesh, Volume, XRay
from raylign.data.solids import Solidity, solid_volume
from raylign.geometry import Rigid, se3
from raylign.registration import DirectConfig, Problem, SearchConfig
from raylign.registration.mesh_walls import fitted_wall, tube_of
from raylign.registration.meshes import turned_anywhere


@lru_cache(maxsize=1)
def bone() -> Mesh:
    """A shaft of 10 mm radius and 130 mm length, aslant, that widens at one end."""
    made = trimesh.creation.revolve(np.array([[0, 0], [10, 0], [10, 100], [17, 130], [0, 130]]), sections=48)
    made.apply_transform(trimesh.transformations.rotation_matrix(0.4, [1, 2, 0.5]))
    return Mesh(torch.from_numpy(np.array(made.vertices)), torch.from_numpy(np.array(made.faces)))


@lru_cache(maxsize=4)
def solid(times: float) -> Volume:
    return solid_volume(bone(), Solidity(shaft=0.42 * times, voxel_mm=1.0))


@pytest.mark.parametrize("times", [0.75, 1.35, 1.7])
def test_another_wall_is_what_the_surface_would_have_been_filled_with(times: float) -> None:
    tube = tube_of(solid(1.0))
    assert tube is not None
    found, gold, guess = (v.data.numpy() for v in (tube.walled(times), solid(times), solid(1.0)))
    assert found.sum() == pytest.approx(float(gold.sum()), rel=0.03)
    assert np.abs(found - gold).sum() < 0.35 * np.abs(guess - gold).sum()


def test_the_wall_as_it_was_changes_nothing() -> None:
    tube = tube_of(solid(1.0))
    assert tube is not None
    assert float((tube.walled(1.0).data - solid(1.0).data).abs().max()) < 0.012  # half a voxel of the rim at most
    assert float((tube.walled(1.0).data - solid(1.0).data).abs().mean()) < 0.001 * float(solid(1.0).data.mean())


def test_a_bone_that_was_cut_is_a_tube_still() -> None:
    """The shaft sawn through: its canal is open at the cut, and as wide there as before."""
    whole = solid(1.0)
    axis = int(np.argmax(whole.data.shape))
    data = whole.data.movedim(axis, 0)[: int(0.75 * whole.data.shape[axis])].movedim(0, axis)
    low, high = ((False, False),) * 3, [(False, False)] * 3
    high[2 - axis] = (False, True)
    assert tube_of(Volume(data.contiguous(), whole.affine, "1/mm", low)) is None  # nothing closes its canal
    tube = tube_of(Volume(data.contiguous(), whole.affine, "1/mm", (high[0], high[1], high[2])))
    both = tube_of(whole)
    assert tube is not None and both is not None
    wall = both.wall.swapaxes(0, axis)[20 : data.shape[axis] - 3]
    cut = tube.wall.swapaxes(0, axis)[20 : data.shape[axis] - 3]
    assert np.abs(wall - cut).mean() < 0.2


def test_what_has_no_canal_or_was_no_surface_is_no_tube() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=20.0)
    mesh = Mesh(torch.from_numpy(np.array(ball.vertices)), torch.from_numpy(np.array(ball.faces)))
    assert tube_of(solid_volume(mesh)) is None
    noise = torch.rand(solid(1.0).data.shape, generator=torch.Generator().manual_seed(0))
    assert tube_of(replace(solid(1.0), data=solid(1.0).data * (0.8 + 0.4 * noise))) is None  # as a CT shows a bone
    assert tube_of(replace(solid(1.0), data=-solid(1.0).data)) is None


@pytest.mark.parametrize("times", [1.0, 1.35])
def test_an_exposure_tells_the_wall(times: float) -> None:
    """From near the right pose, as it is asked after a search."""
    mesh = bone()
    centre = (mesh.vertices.amin(0) + mesh.vertices.amax(0)) / 2
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = -centre
    view = View.from_carm(primary=10, secondary=5, sid=1050, sod=720, pixel_spacing=1.2, shape=(180, 180))
    image = raylign.project(solid(times), view, pose[None])[0, 0]
    xray = XRay(image + 2, view, torch.ones(view.shape, dtype=torch.bool))
    off = se3.exp(torch.tensor([0.002, -0.003, 0.004, 0.2, -0.1, 0.4], dtype=torch.float64)) @ pose
    config = DirectConfig(search=SearchConfig(degrees=10, mm=10))
    asked = Problem(solid(1.0), (xray,), Rigid(off))
    model, found = fitted_wall(asked, off.numpy(), config)
    assert found == times
    assert (model is asked.model) == (times == 1)


def test_the_box_grows_with_what_a_turn_moves_the_middle_of_a_model_by() -> None:
    box = SearchConfig(degrees=15, mm=20)
    longest = max(n * s for n, s in zip(reversed(solid(1.0).data.shape), solid(1.0).spacing, strict=True))
    wide = turned_anywhere(box, solid(1.0))
    assert wide.mm == pytest.approx(20 + np.sin(np.radians(15)) * longest / 4)
    assert (wide.degrees, wide.along) == (15, 20)
    assert turned_anywhere(replace(box, degrees=0), solid(1.0)).mm == 20
    assert turned_anywhere(replace(box, hypotheses=1), solid(1.0)).mm == 20
