"""The direct method finds poses, repeats itself, and says when it did not find one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import raylign
from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import Rigid, se3
from raylign.registration import Direct, DirectConfig, Problem, SearchConfig
from raylign.registration.levels import build_scales
from raylign.registration.matching import MatchConfig, answered, normal_equations, render
from raylign.registration.pyramid import content, model_pyramid
from raylign.registration.search import Bounds, moved, spread
from tests.registration import scene


def test_one_view_of_a_chest() -> None:
    """15 degrees and 21 mm off, body beyond the CT, another simulator: found, and known to be."""
    result = raylign.register(scene.chest(), scene.exposure())
    assert scene.error(result.start) > 20
    assert scene.error(result.transform) < 1.0
    assert result.confidence.trusted and result.confidence.probability > 0.5
    assert result.trajectory[0].level > result.trajectory[-1].level == 0


def test_two_views_of_one_pose_see_depth() -> None:
    """What one view hardly sees is plain to the other."""
    result = raylign.register(scene.chest(), [scene.exposure(), scene.exposure(95.0)])
    assert scene.error(result.transform) < 0.3
    assert float(result.standard_deviations[1].max()) < 0.1


def test_same_seed_same_result_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for count in ("1", "2"):
        monkeypatch.setenv("RAYLIGN_THREADS", count)
        results.append(raylign.register(scene.chest(), scene.exposure(), seed=7))
    assert torch.equal(results[0].transform.matrix, results[1].transform.matrix)
    assert torch.equal(results[0].covariance, results[1].covariance)


def test_blind_to_gain_offset_and_display_curve() -> None:
    """A monotone display curve changes contrast, not the pose."""
    xray = scene.exposure()
    scaled = replace(xray, image=3 * xray.image - 2)
    low, high = float(xray.image[xray.mask].min()), float(xray.image[xray.mask].max())
    curved = replace(xray, image=((xray.image - low).clamp_min(0) / (high - low)) ** 0.5, scale="monotone")
    for other in (scaled, curved):
        assert scene.error(raylign.register(scene.chest(), other).transform) < 1.0


def test_metal_and_text_do_not_pull() -> None:
    """Bright strips that the model knows nothing of, not even masked."""
    xray = scene.exposure()
    image = xray.image.clone()
    image[60:64, 30:160] += 2.0
    image[100:150, 120:123] += 2.0
    assert scene.error(raylign.register(scene.chest(), replace(xray, image=image)).transform) < 1.0


def test_another_patient_is_not_trusted() -> None:
    box = torch.full((40, 40, 40), -1000.0)
    box[8:32, 10:30, 6:34] = 40.0
    affine = torch.diag(torch.tensor([6.0, 6.0, 6.0, 1.0], dtype=torch.float64))
    result = raylign.register(Volume(box, affine, unit="HU"), scene.exposure())
    assert not result.confidence.trusted
    assert result.confidence.reasons and all(len(r) > 20 for r in result.confidence.reasons)


def test_result_is_json_and_complete() -> None:
    search = SearchConfig(degrees=3, mm=3, hypotheses=4)
    result = raylign.register(scene.chest(), scene.exposure(), init=scene.truth(), search=search)
    stored = json.loads(json.dumps(result.to_dict()))
    assert np.allclose(stored["pose"]["matrix"], result.transform.matrix)
    assert 0 <= stored["confidence"]["probability"] <= 1 and stored["seconds"] > 0
    assert stored["schema"].startswith("raylign.result/") and stored["settings"]["search"]["hypotheses"] == 4
    covariance = torch.tensor(stored["uncertainty"]["covariance"], dtype=torch.float64)
    assert torch.allclose(covariance, covariance.T) and bool((torch.linalg.eigvalsh(covariance) > 0).all())
    assert {"raylign", "torch", "numba"} <= set(stored["versions"])


def test_depth_is_the_least_certain_direction_of_one_view() -> None:
    result = raylign.register(scene.chest(), scene.exposure(), init=scene.truth(), search=SearchConfig(hypotheses=1))
    depth = scene.view().normal
    translation = result.covariance[3:, 3:]
    along = float(depth @ translation @ depth)
    assert along > 0.8 * float(torch.linalg.eigvalsh(translation).max())
    across = scene.view().column_step / scene.view().column_step.norm()
    assert along > 4 * float(across @ translation @ across)


@pytest.mark.parametrize("views", [1, 2])
def test_gradient_of_the_cost_equals_finite_differences(views: int) -> None:
    """In every direction, to what float32 images allow; the rays that are compared held fixed."""
    xrays = (scene.exposure(), scene.exposure(95.0))[:views]
    config = DirectConfig(match=MatchConfig(step=0.25))
    scale = build_scales(Problem(scene.chest(), xrays, scene.truth()), config)[1]
    matrix = moved(scene.truth().matrix.numpy(), np.array([0.02, -0.01, 0.03, 2.0, -1.5, 4.0]), np.zeros(3))
    masks = answered(scale.model, scale.images, matrix)
    floor = np.array([2 * image.energy for image in scale.images])

    def cost(twist: np.ndarray, jacobian: bool = False):  # type: ignore[no-untyped-def]
        rendering = render(scale.model, scale.images, moved(matrix, twist, centre), config.match, jacobian=jacobian)
        return normal_equations(scale.model, scale.images, rendering, masks, floor, config.match)

    centre = scale.model.affine[:3, :3] @ (scale.model.size - 1) / 2 + scale.model.affine[:3, 3]
    centre = matrix[:3, :3] @ centre + matrix[:3, 3]
    here = cost(np.zeros(6), jacobian=True)
    usable = sum(image.usable for image in scale.images)
    for i, h in enumerate([2e-3] * 3 + [0.2] * 3):
        e = np.zeros(6)
        e[i] = h
        slope = (cost(e).cost - cost(-e).cost) / (2 * h) * usable
        scaled = abs(-2 * here.gradient[i] - slope) / np.sqrt(here.hessian[i, i] * usable)
        assert scaled < 0.01


def test_rays_through_a_cut_face_do_not_count() -> None:
    """A slab of the chest: the patient goes on, the model does not, and the pose is found all the same."""
    chest = scene.chest()
    d = chest.data.shape[0]
    affine = chest.affine.clone()
    affine[:3, 3] += affine[:3, 2] * (d // 4)
    slab = replace(chest, data=chest.data[d // 4 : 3 * d // 4], affine=affine, truncated=None)
    scales = build_scales(Problem(slab, (scene.exposure(),), scene.truth()), DirectConfig())
    share = answered(scales[0].model, scales[0].images, scene.truth().matrix.numpy())[0].mean()
    assert 0.2 < share < 0.7
    start = Rigid(se3.exp(torch.tensor([0.05, 0.04, -0.06, 5, 4, -6.0], dtype=torch.float64)) @ scene.truth().matrix)
    assert scene.error(raylign.register(slab, scene.exposure(), init=start).transform) < 1.5


def test_bounds_hold_and_starts_fill_them() -> None:
    axes, start = np.eye(3), np.eye(4)
    bounds = Bounds(start, axes, np.zeros(3), 10.0, 20.0, 30.0)
    twists = spread(64, 10.0, (20.0, 20.0, 30.0), axes, seed=1)
    assert np.array_equal(twists, spread(64, 10.0, (20.0, 20.0, 30.0), axes, seed=1)) and not np.array_equal(
        twists, spread(64, 10.0, (20.0, 20.0, 30.0), axes, seed=2)
    )
    assert not twists[0].any() and all(bounds.hold(moved(start, t, np.zeros(3))) for t in twists)
    assert np.abs(twists[:, 3:]).max() > 18 and np.degrees(np.abs(twists[:, :3]).max()) > 9
    assert bounds.hold(moved(start, np.array([0, 0, 0, 0, 0, 40.0]), np.zeros(3)))
    assert not bounds.hold(moved(start, np.array([0, 0, 0, 0, 40.0, 0]), np.zeros(3)))
    assert not bounds.hold(moved(start, np.array([0, 0, 0, 0, 0, 55.0]), np.zeros(3)))
    assert not bounds.hold(moved(start, np.array([0.5, 0, 0, 0, 0, 0.0]), np.zeros(3)))


def test_models_and_starts_that_cannot_work_are_refused() -> None:
    xray = scene.exposure()
    away = scene.centre_start().matrix.clone()
    away[0, 3] += 5000
    with pytest.raises(InputError, match="no pose that is searched projects the model"):
        raylign.register(scene.chest(), xray, init=Rigid(away))
    with pytest.raises(InputError, match="does not project"):
        raylign.register(scene.chest(), xray, init=Rigid(away), search=SearchConfig(hypotheses=1))
    with pytest.raises(InputError, match="nothing but air"):
        raylign.register(replace(scene.chest(), data=torch.full_like(scene.chest().data, -1000.0)), xray)
    with pytest.raises(InputError, match="no X-ray"):
        raylign.register(scene.chest(), [])
    with pytest.raises(InputError, match="no method"):
        raylign.register(scene.chest(), xray, method="magic")
    with pytest.raises(InputError, match="rigid"):
        raylign.register(scene.chest(), xray, init=2 * torch.eye(4, dtype=torch.float64))


def test_progress_is_told() -> None:
    told: list[tuple[str, float]] = []
    Direct(DirectConfig(search=SearchConfig(hypotheses=1)), lambda stage, share: told.append((stage, share))).register(
        Problem(scene.chest(), (scene.exposure(),), scene.truth())
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)


def test_derivative_in_depth_is_that_of_the_finely_sampled_image() -> None:
    """With samples a voxel and a half apart: the summed derivatives alone are several times off along the beam."""
    from raylign.registration.matching import jacobian_images, voxel_rays

    scale = build_scales(Problem(scene.chest(), (scene.exposure(),), scene.truth()), DirectConfig())[1]
    image, matrix = scale.images[0], scene.truth().matrix.numpy()
    depth = scene.view().normal.numpy()

    def finely(mm: float) -> np.ndarray:
        shifted = moved(matrix, np.concatenate([np.zeros(3), mm * depth]), np.zeros(3))
        fine = render(scale.model, scale.images, shifted, MatchConfig(step=0.1), jacobian=False).integrals[0]
        return fine * image.lengths

    expected = (finely(1.5) - finely(-1.5)) / 3
    coarse = render(scale.model, scale.images, matrix, MatchConfig(step=1.5))
    slopes = coarse.slopes[0]
    assert slopes is not None
    images = np.empty((7, *image.shape), np.float32)
    _, voxel_from_world = voxel_rays(scale.model, image, matrix)
    world = np.ascontiguousarray(voxel_from_world[:3, :3].T)
    jacobian_images(coarse.integrals[0], slopes, image.lengths, world, image.source, image.steps, images)
    found = np.einsum("i,ihw->hw", depth, images[4:])
    summed = -np.einsum("i,ij,hwj->hw", depth, world, slopes[..., :3]) * image.lengths

    def error(derivative: np.ndarray) -> float:
        inside = image.valid
        return float(np.sqrt(((derivative - expected)[inside] ** 2).mean() / (expected[inside] ** 2).mean()))

    assert error(found) < 0.25
    assert error(summed) > 2


def test_levels_are_kept_while_the_model_lives_and_only_what_would_be_made_again() -> None:
    chest = replace(scene.chest(), data=scene.chest().data.clone())
    box = content(chest)
    first = model_pyramid(chest, box, [6.0, 12.0, 20.0])
    again = model_pyramid(chest, box, [6.0, 12.0, 26.0])
    assert again[0] is first[0] and again[1] is first[1] and again[2] is not first[2]
    # the same spacing reached another way is another level, by where its blocks begin
    fresh = model_pyramid(replace(chest), box, [12.0])[0]
    alone = model_pyramid(chest, box, [12.0])[0]
    assert alone is not fresh and np.array_equal(alone.data, fresh.data) and np.array_equal(alone.affine, fresh.affine)
    chest.data[:] += 100
    assert float(model_pyramid(chest, box, [6.0])[0].data.mean()) > 1.02 * float(first[0].data.mean())


def test_only_the_pixels_that_are_wanted_are_rendered_and_only_the_levels() -> None:
    problem = Problem(scene.chest(), (scene.exposure(),), scene.truth())
    scales = build_scales(problem, DirectConfig())
    two = build_scales(problem, DirectConfig(), most=2)
    assert len(scales) > 2 == len(two) and all(a.model.grid is b.model.grid for a, b in zip(scales, two, strict=False))
    scale, matrix, match = scales[-1], scene.truth().matrix.numpy(), MatchConfig()
    wanted = scale.images[0].valid.copy()
    wanted[: wanted.shape[0] // 2] = False
    whole = render(scale.model, scale.images, matrix, match)
    part = render(scale.model, scale.images, matrix, match, pixels=[wanted])
    for all_of_it, some in ((whole.integrals[0], part.integrals[0]), (whole.slopes[0], part.slopes[0])):
        assert all_of_it is not None and some is not None and all_of_it[~wanted].any()
        assert np.array_equal(some[wanted], all_of_it[wanted]) and not some[~wanted].any()
