"""What a wide search may not lose: the faces of a slab, the start that was given, poses at the edge of its box."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raylign.data import Volume
from raylign.geometry import Rigid, se3
from raylign.registration import WIDE, Direct, DirectConfig, Problem, Result, SearchConfig
from raylign.registration import direct as direct_module
from raylign.registration.levels import build_scales, evaluate
from raylign.registration.locate import Place
from raylign.registration.pyramid import content, model_pyramid
from raylign.registration.readings import Reading, in_depth, leaders_first
from raylign.registration.refinement import Candidate
from raylign.registration.search import Bounds, camera_axes
from raylign.registration.standpoint import pixels_at, rescaled, standpoint, typical
from raylign.registration.whole import uncut, whole
from tests.registration import scene


def shifted(pose: Rigid, mm: tuple[float, float, float], degrees: float = 0.0) -> Rigid:
    """A pose moved along the axes of the scene's view, and turned about its rows at the model's centre."""
    axes = camera_axes(scene.view())
    turn = torch.from_numpy(np.concatenate([np.radians(degrees) * axes[:, 1], axes @ np.array(mm)]))
    centre = torch.eye(4, dtype=torch.float64)
    centre[:3, 3] = pose.apply(scene.chest().centre[None])[0]
    return Rigid(centre @ se3.exp(turn) @ se3.inverse(centre) @ pose.matrix)


def bounds(start: Rigid, search: SearchConfig) -> Bounds:
    centre = start.apply(scene.chest().centre[None])[0].numpy()
    return Bounds(start.matrix.numpy(), camera_axes(scene.view()), centre, search.degrees, search.mm, search.along)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_model_read_as_whole_keeps_what_fills_no_block(axis: int) -> None:
    """All of its attenuation and where it lies along the cut axis, by sums over the voxels themselves."""
    shape = [40, 44, 36]
    shape[2 - axis] = 23  # blocks of 6, 7 and 4 voxels along x, y and z leave some over
    grid = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(axis), dtype=torch.float32) + 0.5
    body = torch.zeros_like(grid)
    inside = [slice(5, 29), slice(5, 29), slice(5, 31)]  # with two empty voxels either side whole blocks
    inside[2 - axis] = slice(0, 23)
    body[tuple(inside)] = 0.02 * grid[tuple(inside)]
    affine = torch.diag(torch.tensor([1.5, 1.2, 2.0, 1.0], dtype=torch.float64))
    model = Volume(body, affine, "1/mm")
    factors_mm = 5 * 1.57
    level = model_pyramid(model, content(model), [factors_mm])[0]
    made = whole(level, model)

    def moments(data: np.ndarray, matrix: np.ndarray) -> tuple[float, float]:
        profile = data.astype(float).sum(tuple(a for a in range(3) if a != 2 - axis))
        at = matrix[axis, 3] + matrix[axis, axis] * np.arange(len(profile))
        return float(profile.sum() * abs(np.linalg.det(matrix[:3, :3]))), float(profile @ at / profile.sum())

    mass, middle = moments(body.numpy(), affine.numpy())
    lost, _ = moments(level.data, level.affine)
    kept, found = moments(made.data, made.affine)
    assert lost < 0.95 * mass
    assert kept == pytest.approx(mass, rel=0.02)
    assert abs(found - middle) < 0.3 * level.spacing
    assert not any(face.size for face in made.faces)
    # nothing over: the level as it is
    fine = model_pyramid(model, content(model), [1.0])[0]
    assert whole(fine, model).grid is fine.grid and uncut(fine).affine is fine.affine


def test_levels_are_built_about_a_place_like_most_and_again_where_they_do_not_fit() -> None:
    problem, config = Problem(scene.chest(), (scene.exposure(),), scene.centre_start()), DirectConfig(search=WIDE)
    usual = [shifted(scene.centre_start(), (x, 0.0, 0.0)).matrix.numpy() for x in (-6.0, 0.0, 6.0)]
    half_out = shifted(scene.centre_start(), (115.0, 0.0, 0.0)).matrix.numpy()
    outside = shifted(scene.centre_start(), (3000.0, 0.0, 0.0)).matrix.numpy()
    order = typical([outside, half_out, *usual], problem, config)
    assert len(order) == 4 and np.array_equal(order[-1], half_out)
    at = standpoint([outside, *order], problem, config)
    assert at.pitch == pixels_at(order[0], problem, config)[0]
    assert rescaled(at, usual[0], problem, config) is at and rescaled(at, outside, problem, config) is at
    near = shifted(scene.centre_start(), (0.0, 0.0, -250.0)).matrix.numpy()
    anew = rescaled(at, near, problem, config)
    assert anew is not at and anew.pitch == pytest.approx(pixels_at(near, problem, config)[0])
    assert anew.pitch < at.pitch / 1.25


def test_a_good_start_does_not_lose_to_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even to one that finds nothing but wrong places."""
    start = shifted(scene.truth(), (4.0, -3.0, 6.0), 3.0)
    wrong = [shifted(scene.truth(), (-80.0 + 12 * i, 60.0, 40.0 * (-1) ** i), 35.0).matrix.numpy() for i in range(6)]
    monkeypatch.setattr(direct_module, "locate", lambda *_, **__: ([Place(m, 0.9, r) for m in wrong for r in (0, 1)], 0))
    result = Direct(DirectConfig(search=WIDE)).search_once(Problem(scene.chest(), (scene.exposure(),), start))
    assert scene.error(start) > 5 and scene.error(result.transform) < 1


def test_a_pose_at_the_edge_of_the_box_is_sought_about_itself() -> None:
    search = SearchConfig(degrees=10.0, mm=8.0, hypotheses=27)
    start = shifted(scene.truth(), (16.4, 0.0, 0.0))
    problem = Problem(scene.chest(), (scene.exposure(),), start)
    direct = Direct(DirectConfig(search=search))
    once = direct.search_once(problem)
    assert not once.confidence.evidence["held"]
    result = direct.register(problem)
    assert result.confidence.evidence["held"] and result.confidence.trusted and scene.error(result.transform) < 1
    assert torch.equal(result.start.matrix, start.matrix) and result.renders > once.renders


@pytest.mark.parametrize(("near", "views"), [(True, 1), (True, 2), (False, 1)])
def test_what_two_looks_near_the_start_did_not_find_is_sought_nearer(
    near: bool, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half the box; and what is found there counts only if it is the surer."""
    search = SearchConfig(degrees=10.0, mm=8.0) if near else WIDE
    problem = Problem(scene.chest(), (scene.exposure(), scene.exposure(100.0))[:views], scene.truth())
    once = Direct(DirectConfig(search=replace(search, hypotheses=27))).search_once(problem)
    asked: list[SearchConfig] = []

    def found(self: Direct, problem: Problem, first: int = 0) -> Result:
        asked.append(self.config.search)
        nearer = self.config.search.degrees < search.degrees
        confidence = replace(once.confidence, probability=0.9 if nearer else 0.1, trusted=nearer)
        return replace(once, confidence=confidence)

    monkeypatch.setattr(Direct, "search_once", found)
    result = Direct(DirectConfig(search=search)).register(problem)
    assert len(asked) == 2 + near and result.confidence.trusted == near
    assert result.renders == len(asked) * once.renders
    assert (asked[1].hypotheses, asked[1].mm) == (2 * search.hypotheses, search.mm)
    if near:
        assert (asked[2].degrees, asked[2].mm, asked[2].depth) == (5.0, 4.0, None)
        assert asked[2].hypotheses == asked[1].hypotheses


def test_a_wrong_source_distance_shows_as_a_depth_that_nobody_expected() -> None:
    """The image fits as well as with the right one; two exposures would disagree."""
    xray = scene.exposure()
    view = xray.view
    farther = replace(view, origin=view.source + 1.15 * (view.origin - view.source))
    found = [
        Direct(DirectConfig()).register(Problem(scene.chest(), (replace(xray, view=v),), scene.centre_start()))
        for v in (view, farther)
    ]
    assert found[0].confidence.trusted and scene.error(found[1].transform) > 20
    assert not found[1].confidence.trusted and "source-to-detector distance" in found[1].confidence.reasons[0]


def test_places_are_chosen_in_all_exposures() -> None:
    """Of poses that one view shows alike, that one comes first under which the other view is explained."""
    xrays = (scene.exposure(), scene.exposure(100.0))
    problem = Problem(scene.chest(), xrays, scene.truth())
    config = DirectConfig(search=SearchConfig())
    scales = build_scales(problem, config)
    poses = [shifted(scene.truth(), (0.0, 0.0, z)).matrix.numpy() for z in (-140.0, 150.0, 15.0)]
    poses += [shifted(scene.truth(), (60.0, 20.0, 0.0), 20.0).matrix.numpy()]
    found = in_depth(Reading(scales, poses), 2, bounds(scene.truth(), WIDE), config)
    assert len(found.matrices) == 2
    best = Rigid(torch.from_numpy(found.matrices[0]))
    assert scene.error(best) < 16
    costs = [evaluate(scales[-1], m, config.match).cost for m in found.matrices]
    assert costs == sorted(costs) and costs[0] < min(evaluate(scales[-1], m, config.match).cost for m in poses[:2])


def test_each_group_of_valleys_is_followed() -> None:
    problem, config = Problem(scene.chest(), (scene.exposure(),), scene.truth()), DirectConfig()
    scale = build_scales(problem, config)[-1]
    normal = evaluate(scale, scene.truth().matrix.numpy(), config.match)
    poses = [shifted(scene.truth(), (x, 0.0, 0.0)).matrix.numpy() for x in (0.0, 8.0, 16.0, 90.0)]
    candidates = [
        Candidate(
            m,
            replace(
                normal,
                cost=-1 + 0.1 * i,
                centre=shifted(scene.truth(), (x, 0.0, 0.0)).apply(scene.chest().centre[None])[0].numpy(),
            ),
        )
        for i, (m, x) in enumerate(zip(poses, (0.0, 8.0, 16.0, 90.0), strict=True))
    ]
    assert [candidates.index(c) for c in leaders_first(candidates, scale)] == [0, 3, 1, 2]
