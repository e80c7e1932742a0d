"""Apparent contours against those of an ellipsoid; their motion against finite differences; a pose found by them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from raylign import View, project_mesh
from raylign.data import Mesh, Volume, XRay
from raylign.data.solids import Solidity, solid_volume
from raylign.errors import InputError
from raylign.geometry import Rigid, se3
from raylign.registration import Problem
from raylign.registration.contours import ContourConfig, Contours, Outline, contour, motions
from raylign.registration.search import moved

RADII = np.array([22.0, 15.0, 34.0])


def ellipsoid(level: int = 4) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=level)
    return Mesh(torch.from_numpy(np.asarray(made.vertices) * RADII), torch.from_numpy(np.array(made.faces)))


def bean() -> Mesh:
    x, y, z = ellipsoid().vertices.unbind(1)
    return Mesh(torch.stack([x + 0.008 * z**2, y + 0.012 * x * z + 0.005 * z**2, z + 0.012 * x**2], 1), ellipsoid().faces)


def view(primary: float = 20.0) -> View:
    return View.from_carm(primary=primary, secondary=-8, sid=1000, sod=700, pixel_spacing=0.8, shape=(160, 180))


POSE = se3.exp(torch.tensor([0.3, -0.5, 0.2, 4.0, -6.0, 9.0], dtype=torch.float64))


def test_rays_through_contours_touch_the_ellipsoid() -> None:
    """A ray touches where the quadratic of its intersection has one root; measured as the ellipsoid's scale that it touches."""
    found = contour(Outline.of(ellipsoid(5)), view(), POSE.numpy(), 400)
    inverse = np.linalg.inv(POSE.numpy())
    at = torch.from_numpy(found.pixels)
    v = view()
    ends = (v.origin + at[:, :1] * v.column_step + at[:, 1:] * v.row_step).numpy() @ inverse[:3, :3].T + inverse[:3, 3]
    source = (inverse @ np.append(v.source.numpy(), 1))[:3]
    s, d = source / RADII, (ends - source) / RADII
    nearest = np.sqrt((s @ s) - (d @ s) ** 2 / (d**2).sum(1))
    assert np.abs(nearest - 1).max() < 2e-3
    inside = project_mesh(ellipsoid(), v, POSE)[0, 0].numpy() > 0
    for sign, expected in ((1.5, False), (-1.5, True)):
        c, r = np.round(found.pixels + sign * found.normals).astype(int).T
        assert (inside[r, c] == expected).all()


def test_points_lie_evenly_along_the_contour() -> None:
    found = contour(Outline.of(ellipsoid(5)), view(), POSE.numpy(), 300)
    angle = np.argsort(np.arctan2(*(found.pixels - found.pixels.mean(0)).T))
    ordered = found.pixels[angle]
    gaps = np.linalg.norm(ordered - np.roll(ordered, 1, 0), axis=1)
    assert gaps.sum() == pytest.approx(found.length, rel=0.01)
    assert gaps.max() < 3 * gaps.mean()


def test_the_motion_of_contours_is_that_of_finite_differences() -> None:
    """Where the contour of the moved body crosses the old normals; another mesh point touches there."""
    outline, v = Outline.of(bean()), view()
    matrix = POSE.numpy()
    found = contour(outline, v, matrix, 100)
    centre = matrix[:3, 3] + np.array([3.0, -2.0, 5.0])
    exact = motions(v, matrix, found, centre)
    step = np.array([4e-3] * 3 + [0.15] * 3)
    for k in range(6):
        ends = []
        for sign in (1, -1):
            twist = np.zeros(6)
            twist[k] = sign * step[k]
            other = contour(outline, v, moved(matrix, twist, centre), 3000)
            offset = other.pixels[None] - found.pixels[:, None]
            along = np.einsum("nmj,nj->nm", offset, found.normals)
            beside = np.abs(np.einsum("nmj,nj->nm", offset, found.normals[:, ::-1] * [1, -1]))
            same = (other.normals[None] * found.normals[:, None]).sum(-1) > 0.7
            nearest = np.where(same & (np.abs(along) < 3), beside, 99).argmin(1)
            ends.append(along[np.arange(len(along)), nearest])
        measured = (ends[0] - ends[1]) / (2 * step[k])
        error = np.abs(measured - exact[:, k])
        assert np.median(error) < 0.02 * np.abs(exact[:, k]).max()
        assert np.quantile(error, 0.95) < 0.1 * np.abs(exact[:, k]).max()


def exposures(mesh: Mesh, primaries: tuple[float, ...]) -> tuple[XRay, ...]:
    """Thickness, a slope across the image and a bar that crosses the body: edges that are not of it."""
    generator = torch.Generator().manual_seed(4)
    out = []
    for primary in primaries:
        v = view(primary)
        fine = project_mesh(mesh, v.resample((320, 360)), POSE)[0, 0]
        image = 0.02 * torch.nn.functional.avg_pool2d(fine[None, None], 2)[0, 0]
        h, w = v.shape
        image += torch.linspace(0, 0.8, w) + 0.004 * torch.randn(h, w, generator=generator)
        image[70:78] += 0.4
        out.append(XRay(image.float(), v, torch.ones(h, w, dtype=torch.bool)))
    return tuple(out)


def problem(mesh: Mesh, xrays: tuple[XRay, ...], twist: tuple[float, ...]) -> Problem:
    start = moved(POSE.numpy(), np.array(twist), POSE.numpy()[:3, 3])
    model: Volume = solid_volume(mesh, Solidity(excess=0.02, shell_mm=0, voxel_mm=1.5))
    return Problem(model, xrays, Rigid(torch.from_numpy(start)))


def surface_error(mesh: Mesh, pose: Rigid) -> float:
    return float((pose.apply(mesh.vertices) - Rigid(POSE).apply(mesh.vertices)).norm(dim=1).mean())


def test_a_pose_is_found_from_two_views_by_contours_alone() -> None:
    mesh = bean()
    asked = problem(mesh, exposures(mesh, (20.0, -50.0)), (0.08, -0.06, 0.07, 4.0, -3.0, 3.0))
    assert surface_error(mesh, asked.start) > 5
    result = Contours(mesh).register(asked)
    assert surface_error(mesh, result.transform) < 0.35
    assert result.confidence.trusted and result.method == "contour"
    assert float(result.covariance.diagonal().min()) > 0
    again = Contours(mesh).register(asked)
    assert torch.equal(again.transform.matrix, result.transform.matrix)


def test_the_inside_means_nothing() -> None:
    """A body that attenuates less than what is about it is found with the other polarity, not trusted with the wrong one."""
    mesh = bean()
    xrays = tuple(replace(x, image=2 - x.image) for x in exposures(mesh, (20.0, -50.0)))
    asked = problem(mesh, xrays, (0.03, -0.03, 0.03, 2.0, -1.0, 2.0))
    assert surface_error(mesh, Contours(mesh, ContourConfig(polarity=-1)).register(asked).transform) < 0.35
    assert surface_error(mesh, Contours(mesh, ContourConfig(polarity=0)).register(asked).transform) < 0.8
    assert not Contours(mesh).register(asked).confidence.trusted


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="polarity"):
        ContourConfig(polarity=2)
    with pytest.raises(InputError, match="reach_mm"):
        ContourConfig(reach_mm=(1.0, 2.0))
    assert math.isfinite(ContourConfig().damping)
