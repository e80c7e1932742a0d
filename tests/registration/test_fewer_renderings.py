"""What saves renderings changes no answer: pictures carried on by their derivatives, poses and readings followed once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raylign.projection.threads import run_chunks
from raylign.registration import Direct, DirectConfig, Problem, SearchConfig, refinement
from raylign.registration.drift import best_shifts
from raylign.registration.evidence import pattern
from raylign.registration.levels import Scale, build_scales, centre_under
from raylign.registration.matching import answered, compare, render, windows_of
from raylign.registration.pyramid import Footprint, content, image_level, model_pyramid
from raylign.registration.readings import Reading, apart, explained_beyond, levels_as, plainly
from raylign.registration.refinement import lengthened, on_images, refine
from raylign.registration.search import Bounds, camera_axes, moved
from raylign.simulation import ExposureConfig, expose
from tests.registration import scene

CONFIG = DirectConfig()
TWIST = np.array([0.0006, -0.0008, 0.0005, 0.12, -0.1, 0.4])  # radians and mm: a small part of a pixel


def scale_of(level: int) -> Scale:
    return build_scales(Problem(scene.chest(), (scene.exposure(), scene.exposure(100.0)), scene.truth()), CONFIG)[level]


def bounds(matrix: np.ndarray, scale: Scale) -> Bounds:
    return Bounds(matrix, camera_axes(scene.view()), centre_under(scale, matrix), 20.0, 35.0, 35.0)


def test_a_carried_picture_is_the_rendered_one_to_first_order() -> None:
    """Half the twist leaves a good part less than half the error: what is left out is of second order, and small."""
    scale, matrix = scale_of(1), scene.truth().matrix.numpy()
    match = replace(CONFIG.match, step=0.25)  # finely, or the sums' own error is seen
    masks = answered(scale.model, scale.images, matrix)
    inner = [m & np.roll(m, 8, 0) & np.roll(m, -8, 0) & np.roll(m, 8, 1) & np.roll(m, -8, 1) for m in masks]
    windows = [windows_of(image, mask, match) for image, mask in zip(scale.images, masks, strict=True)]
    base = render(scale.model, scale.images, matrix, match, pixels=masks)
    seen = compare(scale.model, scale.images, base, windows, match)

    def left(twist: np.ndarray) -> tuple[float, float]:
        there = moved(matrix, twist, centre_under(scale, matrix))
        carried, rendered = seen.carried(twist, there), render(scale.model, scale.images, there, match, pixels=masks)
        assert np.array_equal(carried.rendering.matrix, there)
        kinds = zip(carried.rendering.integrals, rendered.integrals, base.integrals, inner, strict=True)
        errors = [((c - r)[m], (r - b)[m]) for c, r, b, m in kinds]
        return float(np.mean([np.abs(e).mean() for e, _ in errors])), float(np.mean([np.abs(d).mean() for _, d in errors]))

    (whole, change), (half, _) = left(2 * TWIST), left(TWIST)
    assert whole < 0.25 * change
    assert half < 0.4 * whole
    assert all(not c[~m].any() for c, m in zip(seen.carried(TWIST, matrix).rendering.integrals, masks, strict=True))


def test_levels_that_nobody_asked_for_are_not_made_and_the_others_are_the_same() -> None:
    problem = Problem(scene.chest(), (scene.exposure(),), scene.truth())
    whole, some = build_scales(problem, CONFIG), build_scales(problem, CONFIG, most=3, finest=1)
    assert [scale.index for scale in some] == [1, 2]
    for one, other in zip(some, whole[1:3], strict=True):
        assert np.array_equal(one.images[0].gradient, other.images[0].gradient)
        assert np.array_equal(one.model.data, other.model.data)
    assert [s.index for s in build_scales(problem, CONFIG, finest=50)] == [whole[-1].index]


def test_an_image_level_holds_the_lengths_of_its_rays_and_the_energy_of_its_gradient() -> None:
    image = scale_of(1).images[1]
    lengths = image.view.ray_lengths().numpy()
    assert np.abs(image.lengths - lengths).max() < 1e-6 * lengths.max() and image.longest == image.lengths.max()
    assert image.energy == pytest.approx(float((image.gradient.astype(np.float64) ** 2).sum()) / image.usable)


def test_pixels_of_the_model_are_those_of_the_view() -> None:
    scale, matrix = scale_of(0), scene.truth().matrix.numpy()
    ends = scale.model.middle + scale.model.radius * np.concatenate([np.eye(3), -np.eye(3)])
    points = torch.from_numpy(ends @ matrix[:3, :3].T + matrix[:3, 3])
    expected = np.stack([image.view.project(points).numpy() for image in scale.images])
    assert np.allclose(on_images(scale, matrix), expected, atol=1e-6)


def test_small_steps_take_fewer_renderings_and_end_where_renderings_do(monkeypatch: pytest.MonkeyPatch) -> None:
    scale, config = scale_of(0), CONFIG
    monkeypatch.setattr(refinement, "_CARRIED", {})
    rendered = refine(scale, scene.truth().matrix.numpy(), bounds(scene.truth().matrix.numpy(), scale), config, threaded=True)
    start = moved(rendered.matrix, 0.3 * TWIST, centre_under(scale, rendered.matrix))
    always = refine(scale, start, bounds(start, scale), config, threaded=True)
    monkeypatch.undo()
    carried = refine(scale, start, bounds(start, scale), config, threaded=True)
    assert carried.renders < always.renders
    off = np.abs(on_images(scale, carried.matrix) - on_images(scale, rendered.matrix)).max()
    assert off < 0.05  # pixels


def test_evidence_from_the_last_step_is_that_of_a_rendering() -> None:
    scale = scale_of(0)
    matrix = scene.truth().matrix.numpy()
    found = refine(scale, matrix, bounds(matrix, scale), CONFIG, threaded=True)
    assert found.rendering is not None and found.rendering.slopes == (None, None)
    match = replace(CONFIG.match, step=CONFIG.match.finest_step)
    given, anew = pattern(scale, found.matrix, match, rendering=found.rendering), pattern(scale, found.matrix, match)
    for name, value in given.__dict__.items():
        assert value == pytest.approx(getattr(anew, name), abs=2e-3), name


def test_poses_that_nearly_meet_are_followed_once() -> None:
    scale, matrix = scale_of(0), scene.truth().matrix.numpy()
    centre, near = centre_under(scale, matrix), 0.2 * scale.model.spacing
    shifted = [moved(matrix, np.array([0.0, 0.0, 0.0, mm, 0.0, 0.0]), centre) for mm in (near, 3 * near, 3.5 * near)]
    kept = apart([matrix, *shifted], scale)
    assert len(kept) == 2 and kept[0] is matrix and kept[1] is shifted[1]


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_plain_reading_is_taken_after_the_coarsest_level_and_is_the_right_one(goes_on: bool) -> None:
    """A slab exposed alone and as part of a body, at the true pose; turned away from what shows it, both are kept."""
    d = scene.chest().data.shape[0]
    cut = slice(d // 5, 4 * d // 5)
    affine = scene.chest().affine.clone()
    affine[:3, 3] += affine[:3, 2] * cut.start
    slab = replace(scene.chest(), data=scene.chest().data[cut], affine=affine, truncated=None)
    light = torch.Generator().manual_seed(3)
    xray = scene.exposure() if goes_on else expose(slab, scene.view(), scene.truth(), ExposureConfig(), light).xray
    matrix = scene.truth().matrix.numpy()
    scales = build_scales(Problem(slab, (xray,), scene.truth()), CONFIG)
    level = len(scales) - 1
    found = []
    for number in (0, 1):
        reading = Reading(levels_as(scales, slab, number), [matrix])
        found.append(reading.refined(level, 2, bounds(matrix, scales[-1]), CONFIG))
    told = explained_beyond(found[0], found[1], level, CONFIG)
    assert told is not None and told[1] > 0.05
    assert told[0] < 0.6 if goes_on else told[0] > 0.6
    kept = plainly(found, 4, CONFIG)
    cut_off = [any(face.size for face in reading.scales[0].model.faces) for reading in kept]
    assert goes_on in cut_off
    # the poses of the reading that is given up are followed under the other
    assert all(len(reading.matrices) >= len(found[0].matrices) for reading in kept)


def test_where_no_pose_shows_what_was_cut_one_reading_is_enough() -> None:
    """A chest of which the exposure shows the middle alone."""
    xray = scene.exposure()
    mask = torch.zeros_like(xray.mask)
    mask[60:130, 40:150] = xray.mask[60:130, 40:150]
    problem = Problem(replace(scene.chest(), truncated=None), (replace(xray, mask=mask),), scene.truth())
    scales = build_scales(problem, CONFIG)
    matrix = scene.truth().matrix.numpy()
    found = [
        Reading(levels_as(scales, problem.model, n), [matrix]).refined(len(scales) - 1, 2, bounds(matrix, scales[-1]), CONFIG)
        for n in (0, 1)
    ]
    assert len(plainly(found, 4, CONFIG)) == 1


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_levels_are_means_of_blocks(width: int) -> None:
    """Of attenuation at the voxels, by NumPy in float64; what fills no block is left out at both ends."""
    chest = scene.chest()
    first, size = content(chest)
    pitch = float(chest.affine[:3, 0].norm())
    level = model_pyramid(replace(chest), (first, size), [pitch * width])[0]
    counts = size // width
    begin = first + (size - counts * width) // 2
    x, y, z = (slice(int(b), int(b + n * width)) for b, n in zip(begin, counts, strict=True))
    values = chest.attenuation().data.to(torch.float64).numpy()[z, y, x]
    blocks = values.reshape(counts[2], width, counts[1], width, counts[0], width).mean((1, 3, 5))
    assert level.data.shape == blocks.shape
    assert np.allclose(level.data, blocks, rtol=1e-5, atol=1e-8)


def test_a_search_near_the_start_renders_less_and_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(scene.chest(), (scene.exposure(), scene.exposure(100.0)), scene.centre_start())
    method = Direct(DirectConfig(search=SearchConfig()))
    fewer = method.search_once(problem)
    monkeypatch.setattr(refinement, "_CARRIED", {})
    more = method.search_once(problem)
    assert fewer.renders < more.renders
    apart_by = fewer.transform.apply(scene.targets()) - more.transform.apply(scene.targets())
    assert float(apart_by.norm(dim=1).mean()) < 0.05
    assert scene.error(fewer.transform) < 0.5
    assert fewer.confidence.probability == pytest.approx(more.confidence.probability, abs=0.01)


def test_steps_are_lengthened_by_what_the_last_one_left() -> None:
    hessian = np.diag([4.0, 1.0, 2.0, 1.0, 3.0, 1.0])
    step = np.array([0.1, 0.2, -0.1, 0.3, 0.0, 0.5])
    assert lengthened(None, step, hessian, 5.0) == 1
    # of steps that go a quarter of the way each, three quarters are left after the first: four times is all of it
    assert lengthened((step, 1.0), 0.75 * step, hessian, 5.0) == pytest.approx(4)
    assert lengthened((step, 2.0), 0.5 * step, hessian, 5.0) == pytest.approx(4)
    assert lengthened((step, 1.0), 0.95 * step, hessian, 5.0) == 5
    assert lengthened((step, 1.0), 1.2 * step, hessian, 5.0) == 5
    # one that went too far, or in another direction, is followed by a plain one
    assert lengthened((step, 1.0), -0.3 * step, hessian, 5.0) == 1
    assert lengthened((step, 1.0), np.array([0.0, 0.0, 0.0, 0.0, 7.0, 0.0]), hessian, 5.0) == 1
    assert lengthened((step, 1.0), 0.75 * step, hessian, 1.0) == 1


@pytest.mark.parametrize("factor", [1, 2, 3, 9])
def test_a_coarse_exposure_is_the_mean_of_its_blocks(factor: int) -> None:
    xray = scene.exposure()
    mask = xray.mask.clone()
    mask[5:9, 40:60] = False
    xray = replace(xray, mask=mask)
    rows, columns = slice(3, 120), slice(10, 141)
    level = image_level(xray, Footprint(rows, columns, 0, 0, 0.0), factor)
    h, w = (117 // factor, 131 // factor)
    blocks = (h, factor, w, factor)
    cut = (slice(3, 3 + h * factor), slice(10, 10 + w * factor))
    image = xray.image.numpy()[cut].reshape(blocks).mean((1, 3), dtype=np.float32)
    valid = mask.numpy()[cut].reshape(blocks).all((1, 3))
    assert level.shape == (h, w) and np.array_equal(level.valid, valid) and not valid.all()
    inner = valid[1:-1, 1:-1] & valid[:-2, 1:-1] & valid[2:, 1:-1] & valid[1:-1, :-2] & valid[1:-1, 2:]
    slopes = np.stack([(image[1:-1, 2:] - image[1:-1, :-2]) / 2, (image[2:, 1:-1] - image[:-2, 1:-1]) / 2]) * inner
    assert np.abs(level.gradient[:, 1:-1, 1:-1] - slopes).max() < 1e-5 and level.usable == inner.sum()
    lengths = level.view.rays()[1].norm(dim=-1).numpy()
    assert np.allclose(level.lengths, lengths, rtol=1e-6)


def test_what_pieces_gain_is_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLIGN_THREADS", "3")
    fixed, moving = np.random.default_rng(0).normal(size=(2, 2, 40, 50)).astype(np.float32)
    alone, shared = best_shifts(fixed, moving, 1.0), best_shifts(fixed, moving, 1.0, run_chunks)
    assert all(np.array_equal(a, b) for a, b in zip(alone, shared, strict=True))
    assert (alone[1] >= alone[0]).all() and (alone[1] > alone[0]).any()
