"""A bone that is known by its surface alone, found among the others of a body; holes that are closed, and those that are not."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import NoReturn

import numpy as np
import pytest
import torch
import trimesh

import raylign
from raylign import View
from raylign.data import Mesh, XRay
from raylign.data.solids import MATERIALS, balanced, solid_volume
from raylign.data.watertight import watertight
from raylign.errors import InputError
from raylign.evaluation.metrics import mpd
from raylign.geometry import Rigid, se3
from raylign.registration import DirectConfig, Problem, SearchConfig
from raylign.registration.levels import build_scales
from raylign.registration.meshes import Meshes, finer, part_config, part_search, thorough
from raylign.registration.standpoint import pixels_at
from raylign.simulation import ExposureConfig, PelvisConfig, Subject, expose, pelvis


@lru_cache(maxsize=1)
def body() -> Subject:
    return pelvis(PelvisConfig(voxel_mm=1.8, z_range=(-120, 150), mesh_pitch_mm=2.0), seed=31)


@lru_cache(maxsize=1)
def scene() -> tuple[Mesh, XRay, Rigid, Rigid]:
    """A hip bone's mesh, an exposure of the whole pelvis, the true pose, and a start 12 degrees and 15 mm off."""
    mesh = body().meshes["hip_left"]
    centre = (mesh.vertices.amin(0) + mesh.vertices.amax(0)) / 2
    about = torch.eye(4, dtype=torch.float64)
    about[:3, 3] = -centre
    truth = Rigid(se3.exp(torch.tensor([0.05, -0.1, 0.08, 6.0, -9.0, 4.0], dtype=torch.float64)) @ about)
    view = View.from_carm(primary=12, secondary=-6, sid=1050, sod=720, pixel_spacing=1.1, shape=(290, 290))
    xray = expose(body(), view, truth, ExposureConfig(), torch.Generator().manual_seed(2)).xray
    turn = torch.tensor([0.6, -0.64, 0.48], dtype=torch.float64) * math.radians(12)
    off = se3.exp(torch.cat([turn, torch.tensor([9.0, -8.0, 9.0], dtype=torch.float64)]))
    at = truth.apply(centre[None])[0]
    here = torch.eye(4, dtype=torch.float64)
    here[:3, 3] = at
    return mesh, xray, truth, Rigid(here @ off @ se3.inverse(here) @ truth.matrix)


def test_a_hip_bone_is_found_by_its_surface_in_a_whole_pelvis() -> None:
    mesh, xray, truth, start = scene()
    points, view = mesh.vertices[::40], xray.view
    assert float(mpd(start, truth, points, view)) > 15
    result = raylign.register(mesh, xray, init=start, search=SearchConfig(degrees=15, mm=20))
    assert float(mpd(result.transform, truth, points, view)) < 1.0
    assert result.confidence.trusted and result.method == "direct"
    assert result.to_dict()["confidence"]["evidence"]["held"]


def test_the_search_for_a_part_keeps_the_box() -> None:
    box = SearchConfig(degrees=12, mm=18, depth=25)
    part = part_search(box)
    assert (part.degrees, part.mm, part.depth) == (12, 18, 25)
    assert part.refined > 2 * box.refined and part.pixels > box.pixels
    config = part_config(DirectConfig(search=box))
    assert finer(config, 400.0).coarsest == 2 * config.coarsest and finer(config, 400.0).search.kept > config.search.kept
    assert finer(config, 200.0).coarsest == 50  # the third level of a model 200 pixels wide, and no finer one
    assert finer(config, 100.0).coarsest == config.coarsest
    shaft = replace(config, halfway=True)
    assert not finer(shaft, 100.0).halfway and not thorough(shaft).halfway


def test_contours_need_a_mesh() -> None:
    mesh, xray, _, start = scene()
    with pytest.raises(InputError, match="mesh"):
        raylign.register(solid_volume(mesh), xray, init=start, method="contour")
    with pytest.raises(InputError, match="material"):
        raylign.register(mesh, xray, init=start, material="cheese")
    assert "bone" in MATERIALS


def test_a_cut_end_is_closed_flat() -> None:
    """A tube aslant without its lids has the volume that it had with them."""
    made = trimesh.creation.cylinder(radius=12.0, height=60.0, sections=40)
    made.vertices = made.vertices @ trimesh.transformations.rotation_matrix(0.7, [1, 2, 0.5])[:3, :3].T
    lids = np.isclose(np.abs(made.face_normals @ trimesh.transformations.rotation_matrix(0.7, [1, 2, 0.5])[:3, 2]), 1)
    mesh = Mesh(torch.from_numpy(np.array(made.vertices)), torch.from_numpy(np.array(made.faces)[~lids]))
    assert 0 < lids.sum() < len(lids) and not balanced(mesh)
    closed = watertight(mesh)
    assert balanced(closed.mesh) and "2 holes" in closed.words
    volume = trimesh.Trimesh(closed.mesh.vertices.numpy(), closed.mesh.faces.numpy(), process=False).volume
    assert volume == pytest.approx(made.volume, rel=1e-9)
    assert watertight(closed.mesh).words == "" and watertight(closed.mesh).mesh is closed.mesh


def test_a_large_hole_that_is_not_flat_is_refused() -> None:
    made = trimesh.creation.icosphere(subdivisions=4, radius=20.0)
    middles = np.asarray(made.triangles_center)
    keep = ~((middles[:, 0] > 0) & (middles[:, 2] > 0))  # a quarter: its rim is bent by a right angle
    mesh = Mesh(torch.from_numpy(np.array(made.vertices)), torch.from_numpy(np.array(made.faces)[keep]))
    with pytest.raises(InputError, match="open: 1 holes"):
        watertight(mesh)


def test_triangles_wound_against_each_other_leave_no_hole() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=20.0)
    faces = np.asarray(ball.faces).copy()
    faces[::3] = faces[::3, ::-1]
    mesh = Mesh(torch.from_numpy(np.asarray(ball.vertices).copy()), torch.from_numpy(faces))
    assert not balanced(mesh)
    whole = watertight(mesh)
    assert whole.mesh is mesh and whole.words == ""
    even = Mesh(mesh.vertices, torch.from_numpy(np.asarray(ball.faces).copy()))
    assert float(solid_volume(mesh).data.sum()) == pytest.approx(float(solid_volume(even).data.sum()), rel=0.02)


def test_what_a_mesh_cannot_be_asked_is_refused_before_it_is_made_solid() -> None:
    mesh, xray, _, start = scene()
    with pytest.raises(InputError, match="contours do not search"):
        raylign.register(mesh, xray, method="contour")
    with pytest.raises(InputError, match="contours do not search"):
        raylign.register(mesh, xray, init=start, method="contour", search=SearchConfig())
    with pytest.raises(InputError, match="not sought from nowhere"):
        raylign.register(mesh, (xray, xray), init="anywhere")


def test_turns_of_a_near_search_are_no_denser_than_a_refinement_makes_good() -> None:
    dense = part_search(SearchConfig(degrees=15, mm=20))
    assert dense.grid.degrees == 7.5 and dense.refined == 32
    default = part_search(SearchConfig())
    assert default.grid.degrees == SearchConfig().grid.degrees and default.refined == 48
    assert part_search(SearchConfig(hypotheses=1)).hypotheses == 1
    wide = part_search(SearchConfig(degrees=15, mm=100))
    assert (wide.hypotheses, wide.refined) == (125, 48)


def test_a_coarsest_level_halfway_between_two_is_made_where_it_still_shows_enough() -> None:
    mesh, xray, truth, _ = scene()
    problem = Problem(solid_volume(mesh), (xray,), truth)
    config = DirectConfig(search=SearchConfig(mm=20.0), coarsest=1)

    def widths(coarsest: int, *, halfway: bool, most: int | None = None) -> list[int]:
        made = build_scales(problem, replace(config, coarsest=coarsest, halfway=halfway), most)
        assert [scale.index for scale in made] == list(range(len(made)))
        return [scale.images[0].shape[1] for scale in made]

    short = pixels_at(truth.matrix.numpy(), problem, config)[1]
    coarsest = math.floor(short / 3.2)  # half the pixels show enough, a quarter do not, a third do
    plain, half = widths(coarsest, halfway=False), widths(coarsest, halfway=True)
    assert len(plain) == 2 and half[:2] == plain and len(half) == 3
    assert half[2] == pytest.approx(plain[0] / 3, abs=1) and half[2] == pytest.approx(plain[1] / 1.5, abs=1)
    # a third shows too little, or there is no finer level that it could be halfway from
    assert widths(math.floor(short / 2.1), halfway=True) == widths(math.floor(short / 2.1), halfway=False)
    assert len(widths(10_000, halfway=True)) == 1
    assert widths(coarsest, halfway=True, most=2) == plain


def test_shafts_alone_begin_at_a_level_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sacra that did, more were lost; of femora none."""
    asked = []

    def searched(self: Meshes, problem: Problem, config: DirectConfig, first: int) -> NoReturn:
        asked.append(config.halfway)
        raise InputError("seen enough", field="config")

    monkeypatch.setattr(Meshes, "_search", searched)
    _, xray, _, start = scene()
    for bone in ("femur_left", "hip_left"):
        with pytest.raises(InputError, match="seen enough"):
            Meshes().register(Problem(solid_volume(body().meshes[bone]), (xray,), start))
    assert asked == [True, False]
