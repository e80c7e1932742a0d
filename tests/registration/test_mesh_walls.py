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
from raylign.cli.solve import Solved, _with_geometry
from raylign.data import Mesh, Volume, XRay
from raylign.data.solids import Solidity, solid_volume
from raylign.errors import InputError
from raylign.geometry import Rigid, se3
from raylign.registration import DirectConfig, Problem, SearchConfig
from raylign.registration.levels import build_scales
from raylign.registration.mesh_walls import tube_of, wall_at
from raylign.registration.meshes import Meshes, as_registered, turned_anywhere, walled
from raylign.registration.objects_problem import ObjectsConfig
from raylign.registration.objects_search import in_box
from raylign.registration.result import Result
from raylign.registration.tracking import Solid, State, Tracker


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


def test_what_was_found_of_a_solid_is_forgotten_when_its_voxels_change() -> None:
    made = replace(solid(1.0), data=solid(1.0).data.clone())
    assert tube_of(made) is not None
    made.data.fill_(0.01)
    assert tube_of(made) is None


def thick(primary: float, *, shown: bool = True) -> XRay:
    """An exposure of the bone with a wall 1.35 times as thick as is guessed, its middle at the isocentre; or of nothing."""
    view = View.from_carm(primary=primary, secondary=5, sid=1050, sod=720, pixel_spacing=1.6, shape=(140, 140))
    image = raylign.project(solid(1.35), view, placed().matrix[None])[0, 0]
    generator = torch.Generator().manual_seed(int(primary))
    noise = 0.02 * torch.randn(image.shape, generator=generator)
    return XRay(
        (image + noise if shown else 0 * image) + 2, view, torch.ones(view.shape, dtype=torch.bool), name=f"at {primary:g}"
    )


def placed() -> Rigid:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = -(bone().vertices.amin(0) + bone().vertices.amax(0)) / 2
    return Rigid(pose)


NEAR = SearchConfig(degrees=5, mm=6)


def off() -> Rigid:
    return Rigid(se3.exp(torch.tensor([0.03, -0.02, 0.03, 2.0, -3.0, 2.0], dtype=torch.float64)) @ placed().matrix)


def test_a_wall_that_one_exposure_told_is_kept_in_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Problem, Result]] = []
    register = Meshes.register

    def heard(self: Meshes, problem: Problem) -> Result:
        result = register(self, problem)
        # what is tested is what becomes of a trusted result of one exposure
        result = replace(result, confidence=replace(result.confidence, trusted=True))
        if len(problem.xrays) == 1:
            result = replace(result, settings={**result.settings, "wall": 1.35})
        asked.append((problem, result))
        return result

    monkeypatch.setattr(Meshes, "register", heard)
    problem = Problem(solid(1.0), (thick(10.0), thick(100.0)), off())
    found = in_box(problem, NEAR, ObjectsConfig())
    assert [len(p.xrays) for p, _ in asked] == [1, 2]
    assert found.settings["wall"] == 1.35
    tube = tube_of(solid(1.0))
    assert tube is not None
    assert torch.equal(asked[1][0].model.data, tube.walled(1.35).data)
    assert torch.equal(as_registered(solid(1.0), found).data, tube.walled(1.35).data)
    unchanged = replace(found, settings={})
    assert as_registered(solid(1.0), unchanged) is problem.model


def test_a_first_exposure_that_shows_nothing_leaves_it_to_the_next() -> None:
    problem = Problem(solid(1.0), (thick(10.0, shown=False), thick(100.0)), off())
    turned, alone = Meshes()._alone(problem, DirectConfig(search=NEAR), 0)
    assert [x.name for x in turned] == ["at 100", "at 10"]
    found = Rigid(torch.from_numpy(alone.best.matrix))
    assert float((found.apply(bone().vertices) - placed().apply(bone().vertices)).norm(dim=1).mean()) < 15
    assert alone.level == 0 and len(alone.scales) == 2  # several poses were followed from the first of two levels
    result = Meshes(DirectConfig(search=NEAR)).register(problem)
    assert result.confidence.evidence["explained"] > 0
    with pytest.raises(InputError, match="shows nothing"):
        Meshes(DirectConfig(search=NEAR)).register(replace(problem, xrays=(thick(10.0, shown=False), thick(50.0, shown=False))))


def test_what_was_registered_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the wall that the first frame's registration ended with, not with the one that was guessed."""
    xray = thick(10.0)
    result = replace(Meshes(DirectConfig(search=replace(NEAR, hypotheses=1))).register(Problem(solid(1.35), (xray,), placed())))
    sure = replace(result, settings={**result.settings, "wall": 1.35}, confidence=replace(result.confidence, trusted=True))
    monkeypatch.setattr(Meshes, "register", lambda self, problem: sure)
    tracker = Tracker(solid(1.0), xray.view, start=placed(), solid=Solid())
    assert tracker.step(xray, 0.0).state == State.TRACKING
    assert torch.equal(tracker.model.data, as_registered(solid(1.0), sure).data)


def test_the_geometry_is_refined_with_what_was_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    xray = thick(10.0)
    problem = Problem(solid(1.0), (xray,), placed())
    result = Meshes(DirectConfig(search=replace(NEAR, hypotheses=1))).register(problem)
    result = replace(result, settings={**result.settings, "wall": 1.35})

    class Heard(Exception):
        pass

    def refined(problem: Problem, *_: object) -> None:
        assert torch.equal(problem.model.data, as_registered(solid(1.0), result).data)
        assert problem.model is not solid(1.0)
        raise Heard

    monkeypatch.setattr("raylign.registration.geometry.refine_geometry", refined)
    bounds = {"sid_mm": 5.0, "principal_mm": 0.0, "angle_degrees": 0.0}
    with pytest.raises(Heard):
        _with_geometry(Solved(problem, result), bounds, lambda stage, share: None)


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
    config = DirectConfig(search=SearchConfig(degrees=6, mm=8))
    scale = build_scales(Problem(solid(1.0), (xray,), Rigid(off)), config, most=2)[-1]
    tube = tube_of(solid(1.0))
    assert tube is not None
    found = wall_at(scale, tube, off.numpy(), config)
    assert found == times
    assert walled(solid(1.0), found) is solid(1.0) or times != 1


def test_the_box_grows_with_what_a_turn_moves_the_middle_of_a_model_by() -> None:
    box = SearchConfig(degrees=15, mm=20)
    longest = max(n * s for n, s in zip(reversed(solid(1.0).data.shape), solid(1.0).spacing, strict=True))
    wide = turned_anywhere(box, solid(1.0))
    assert wide.mm == pytest.approx(20 + np.sin(np.radians(15)) * longest / 4)
    assert (wide.degrees, wide.along) == (15, 20)
    assert turned_anywhere(replace(box, degrees=0), solid(1.0)).mm == 20
    assert turned_anywhere(replace(box, hypotheses=1), solid(1.0)).mm == 20
