"""Geometry refined with the pose: its derivatives, what it recovers, and that it says what it cannot see."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from raylign.data import XRay
from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.projection import cpu, reference
from raylign.registration import Direct, DirectConfig, Problem, Result, SearchConfig
from raylign.registration.calibration import PARAMETERS, adjusted, motions, moved_images
from raylign.registration.geometry import GeometryBounds, GeometryConfig, GeometryResult, refine_geometry
from raylign.registration.search import moved
from tests.registration import scene

OFFSETS = np.array([9.0, 2.5, -1.5, 1.2, -0.8, 0.6])


def carm(primary: float = 25.0, secondary: float = 12.0) -> View:
    return View.from_carm(primary=primary, secondary=secondary, sid=1050, sod=720, pixel_spacing=(1.5, 1.2), shape=(64, 80))


def test_each_offset_is_what_its_name_says() -> None:
    view = carm()
    assert adjusted(view, np.zeros(6)).isclose(view, 1e-12)

    def one(name: str, value: float) -> View:
        return adjusted(view, np.eye(6)[PARAMETERS.index(name)] * value)

    longer = one("sid", 7.0)
    assert float(longer.sid) == pytest.approx(1057) and torch.equal(longer.origin, view.origin)
    across, down = (one(f"principal_{name}", 3.0).principal_point - view.principal_point for name in ("column", "row"))
    assert torch.allclose(across, torch.tensor([3 / 1.2, 0.0], dtype=torch.float64))
    assert torch.allclose(down, torch.tensor([0.0, 3 / 1.5], dtype=torch.float64))
    assert one("secondary", 4.0).isclose(carm(secondary=16.0), 1e-9)
    assert adjusted(carm(secondary=0.0), np.eye(6)[3] * 4.0).isclose(carm(primary=29.0, secondary=0.0), 1e-9)
    rolled = one("roll", 5.0)
    assert torch.allclose(rolled.normal, view.normal) and torch.allclose(rolled.source, view.source)
    assert float(rolled.column_step @ view.column_step) / 1.2**2 == pytest.approx(np.cos(np.radians(5)))
    about = torch.tensor([30.0, -20.0, 10.0], dtype=torch.float64)
    turned = adjusted(view, [0, 0, 0, 3, 2, 1], about.tolist())
    assert torch.allclose(turned.project(about[None]), view.project(about[None]))


@pytest.mark.parametrize("offsets", [np.zeros(6), OFFSETS])
def test_motions_are_the_derivatives_of_the_view_that_the_model_sees(offsets: np.ndarray) -> None:
    """Against central differences in double precision, pose and geometry, off the isocentre."""
    view, about, centre = carm(), (12.0, -7.0, 5.0), np.array([15.0, -8.0, 30.0])
    found = motions(view, offsets, about, centre)

    def seen(step: np.ndarray) -> np.ndarray:
        pose = torch.from_numpy(moved(np.eye(4), step[:6], centre))
        return adjusted(view, offsets + step[6:], about).transformed(se3.inverse(pose)).vectors.numpy()

    for k in range(12):
        h = 1e-5 if k < 3 else 1e-3
        e = np.eye(12)[k] * h
        assert np.abs((seen(e) - seen(-e)) / (2 * h) - found[k]).max() < 1e-5 * max(1.0, np.abs(found[k]).max())


def test_image_derivatives_equal_finite_differences_of_the_reference_projector() -> None:
    """All twelve, of a smooth body that vanishes at its border: there the identities along the ray are exact."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in (36, 40, 44)), indexing="ij")
    body = np.exp(-((x - 20.0) ** 2 / 50 + (y - 21.0) ** 2 / 40 + (z - 16.0) ** 2 / 30)) * 0.03
    body += np.exp(-((x - 26.0) ** 2 / 12 + (y - 15.0) ** 2 / 16 + (z - 20.0) ** 2 / 14)) * 0.05
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -60, -60, -50
    view = View.from_carm(primary=20, secondary=-8, sid=1000, sod=700, pixel_spacing=16.0, shape=(10, 12))
    centre = np.array([4.0, -3.0, 6.0])
    volume = torch.from_numpy(body)
    samples = 1600

    def image(step: np.ndarray) -> np.ndarray:
        pose = torch.from_numpy(moved(np.eye(4), step[:6], centre) @ affine)
        shown = adjusted(view, OFFSETS + step[6:])
        rays = shown.transformed(torch.linalg.inv(pose)).ray_vectors[None, :4]
        values = reference.integrals(volume, rays, shown.shape, [samples])[0]
        return (values * shown.ray_lengths()).numpy()

    here = adjusted(view, OFFSETS)
    voxel_from_world = np.linalg.inv(affine)
    rays = here.transformed(torch.from_numpy(voxel_from_world)).ray_vectors[:4].numpy()
    padded, inside = cpu.padded_zeros(body.shape)
    inside[:] = body
    valid = np.ones((1, *view.shape), np.bool_)
    integrals, slopes = cpu.forward(cpu.grid_around(padded), rays[None], view.shape, np.array([samples]), valid, gradients=True)
    vectors = here.vectors.numpy()
    steps = np.stack([vectors[1] - vectors[0], vectors[2], vectors[3]])
    lengths = here.ray_lengths().numpy().astype(np.float32)
    images = np.empty((13, *view.shape), np.float32)
    moves = motions(view, OFFSETS, (0, 0, 0), centre).astype(np.float32)
    world = np.ascontiguousarray(voxel_from_world[:3, :3].T)
    moved_images(integrals[0], slopes[0], lengths, world, steps, moves, images)
    assert np.abs(images[0] - image(np.zeros(12))).max() < 1e-4 * images[0].max()
    for k in range(12):
        h = 0.01 if k < 3 else 1.0
        e = np.eye(12)[k] * h
        expected = (image(e) - image(-e)) / (2 * h)
        assert np.sqrt(((images[1 + k] - expected) ** 2).mean() / (expected**2).mean()) < 0.02, k


def wrong(xray: XRay, offsets: np.ndarray) -> XRay:
    """The exposure with a header that is wrong by about ``offsets``."""
    return replace(xray, view=adjusted(xray.view, -offsets))


TRUE = np.array([[0.0, 0, 0, 0, 0, 0], [8.0, 2.0, -2.0, 1.2, -0.9, 0.7]])


@lru_cache(maxsize=2)
def solved(views: int = 2) -> tuple[Problem, Result, GeometryResult]:
    exposures = (scene.exposure(), scene.exposure(95.0))[:views]
    xrays = tuple(wrong(x, o) for x, o in zip(exposures, TRUE, strict=False))
    problem = Problem(scene.chest(), xrays, scene.truth())
    result = Direct(DirectConfig(search=SearchConfig(hypotheses=1))).register(problem)
    return problem, result, refine_geometry(problem, result)


def turn(result: Result) -> float:
    """Degrees of rotation error."""
    apart = result.transform.matrix[:3, :3] @ scene.truth().matrix[:3, :3].T
    return float(torch.rad2deg(se3.log_rotation(apart).norm()))


def test_a_second_view_at_a_wrong_angle_is_put_right() -> None:
    problem, plain, found = solved()
    assert turn(plain) > 0.5 and turn(found.result) < 0.25
    assert found.cost_after < found.cost_before - 0.05
    assert found.result.score > plain.score
    error = (found.offsets.numpy() - TRUE)[1, 3:]
    assert np.abs(error).max() < 0.3
    opened = found.sd.numpy() > 0
    assert (np.abs(found.offsets.numpy() - TRUE)[opened] < 3 * found.sd.numpy()[opened]).all()
    for view, xray, offsets in zip(found.views, problem.xrays, found.offsets, strict=True):
        assert view.isclose(adjusted(xray.view, offsets), 1e-9)
    assert not found.at_bound.any() and found.result.timings["geometry"] > 0


def test_the_first_view_says_where_the_world_is() -> None:
    """Its angles are held; opened, the pose takes their uncertainty on, since no image tells."""
    problem, plain, found = solved()
    assert not found.offsets[0, 3:].any() and not found.sd[0, 3:].any()
    opened = refine_geometry(problem, plain, GeometryBounds(turn_first=True))
    assert (opened.sd[0, 3:] > 0.4).all()  # prior 1 degree, between two views
    degrees = opened.result.standard_deviations[0]
    assert (degrees > 3 * found.result.standard_deviations[0]).all() and (degrees < 1.2).all()


def test_not_knowing_the_geometry_costs() -> None:
    """The marginal covariance is nowhere below that with the geometry held; one view pays more than two."""
    two, one = solved(2)[2], solved(1)[2]
    for found in (two, one):
        more = (found.result.covariance - found.held_covariance).numpy()
        scale = np.array([100.0] * 3 + [1.0] * 3)
        assert np.linalg.eigvalsh(more * np.outer(scale, scale)).min() > -1e-3
        shift = found.result.covariance.diagonal()[3:].sqrt()
        assert (shift > 3 * found.held_covariance.diagonal()[3:].sqrt()).all() and (shift > 0.5).all()
    assert (one.result.covariance.diagonal()[3:] > two.result.covariance.diagonal()[3:]).all()
    # the principal point of one view is hidden in a shift of the patient: the prior's 2.5 mm remain
    assert (one.sd[0, 1:3] > 2.0).all() and (one.sd[0, 1:3] <= 2.5).all()


def test_bounds_are_kept_and_told() -> None:
    problem, plain, _ = solved()
    narrow = refine_geometry(problem, plain, GeometryBounds(sid_mm=0, principal_mm=0, angle_degrees=0.5))
    assert (narrow.offsets.abs() <= 0.5 + 1e-9).all() and bool(narrow.at_bound[1, 3:5].all())
    assert not narrow.offsets[:, :3].any() and not narrow.sd[:, :3].any() and not narrow.at_bound[:, :3].any()
    assert narrow.cost_after < narrow.cost_before


def test_right_headers_stay_right() -> None:
    xrays = (scene.exposure(), scene.exposure(95.0))
    problem = Problem(scene.chest(), xrays, scene.truth())
    plain = Direct(DirectConfig(search=SearchConfig(hypotheses=1))).register(problem)
    found = refine_geometry(problem, plain)
    opened = found.sd > 0
    assert (found.offsets[opened].abs() < 2.5 * found.sd[opened]).all()
    assert float(found.offsets[1, 3:].abs().max()) < 0.3
    assert scene.error(found.result.transform) < 2.5 * float(found.result.standard_deviations[1].norm())


def test_same_result_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, plain, _ = solved()
    found = []
    for count in ("1", "3"):
        monkeypatch.setenv("RAYLIGN_THREADS", count)
        found.append(refine_geometry(problem, plain, config=GeometryConfig(levels=1, iterations=2)))
    assert torch.equal(found[0].result.transform.matrix, found[1].result.transform.matrix)
    assert torch.equal(found[0].offsets, found[1].offsets) and torch.equal(found[0].sd, found[1].sd)


def test_result_is_json() -> None:
    stored = json.loads(json.dumps(solved()[2].to_dict()))
    assert len(stored["offsets"]) == 2 and len(stored["parameters"]) == 6 and "mm" in stored["parameters"][0]
    assert View.from_dict(stored["views"][1]).isclose(solved()[2].views[1])
    held, estimated = (stored["pose_sd"][f"geometry_{name}"] for name in ("held", "estimated"))
    assert all(a > b for a, b in zip(estimated, held, strict=True))
    json.dumps(solved()[2].result.to_dict())


def test_bounds_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="not within"):
        GeometryBounds(sid_mm=-1)
    with pytest.raises(InputError, match="not within"):
        GeometryBounds(angle_degrees=float("nan"))
    with pytest.raises(InputError, match="nothing of the geometry"):
        GeometryBounds(0, 0, 0)
    with pytest.raises(InputError, match="no point"):
        GeometryBounds(isocentre=(0.0, float("inf"), 0.0))
