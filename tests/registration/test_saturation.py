"""Metal behind which exposures are clipped, and what a symmetric implant's result says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from raylign.data import Mesh, Volume, XRay
from raylign.data.exposure import Encoding, to_line_integrals
from raylign.data.field import validity_mask
from raylign.data.solids import Solidity, solid_volume
from raylign.errors import InputError
from raylign.evaluation.metrics import mrpd, mtre, symmetric_error
from raylign.geometry import Rigid, View, se3
from raylign.projection.mesh import project_mesh
from raylign.registration import Direct, DirectConfig, Problem, SearchConfig
from raylign.registration.direct import bounds_of
from raylign.registration.implants import Implants
from raylign.registration.levels import build_scales, centre_under
from raylign.registration.matching import normal_equations, render
from raylign.registration.pyramid import content, model_pyramid
from raylign.registration.saturation import OUTLINES, Response, _Bent, metal_seen, outline_error, refine_bent
from raylign.registration.search import Bounds, camera_axes, moved
from raylign.registration.symmetry import Symmetry, symmetry_of
from raylign.simulation import ExposureConfig, expose
from raylign.simulation.instruments.surfaces import turned_mesh
from raylign.simulation.physics.apparatus import Tube

CONFIG = DirectConfig(search=SearchConfig(degrees=10.0, mm=10.0))


@lru_cache(maxsize=1)
def implant() -> tuple[Mesh, Symmetry]:
    """A turned body of titanium, thick at one end, 70 mm long."""
    mesh = turned_mesh([(-35.0, 4.0), (10.0, 6.0), (15.0, 12.0), (35.0, 12.0)], sides=64)
    return mesh, symmetry_of(mesh)


def view(primary: float = 0.0) -> View:
    return View.from_carm(primary=primary, secondary=0, sid=1050, sod=720, pixel_spacing=0.8, shape=(256, 256))


def truth() -> Rigid:
    """The axis across the beam, tilted a little towards the source."""
    turn = torch.tensor([0.2, math.pi / 2 - 0.4, 0.3, 0.0, 0.0, 0.0], dtype=torch.float64)
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = torch.tensor([4.0, 6.0, -8.0])
    return Rigid(shift @ se3.exp(turn))


def start() -> Rigid:
    off = torch.tensor([0.08, -0.06, 0.07, 5.0, -4.0, 4.0], dtype=torch.float64)
    return Rigid(se3.exp(off) @ truth().matrix)


@lru_cache(maxsize=1)
def body() -> Volume:
    """Soft tissue with something like bones in it, 4 mm voxels."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(2)
    noise = gaussian_filter(rng.standard_normal((70, 45, 70)), 2.5)
    z, y, x = np.ogrid[-1:1:70j, -1:1:45j, -1:1:70j]
    hu = np.where(x**2 + y**2 < 0.9, 40 + 900 * (noise > 1.2 * noise.std()), -1000).astype(np.float32) + 0 * z
    affine = torch.diag(torch.tensor([4.0, 4, 4, 1], dtype=torch.float64))
    affine[:3, 3] = -torch.tensor([138.0, 88, 138])
    return Volume(torch.from_numpy(hu.astype(np.float32)), affine, "HU")


@lru_cache(maxsize=2)
def exposure(primary: float = 0.0) -> tuple[XRay, torch.Tensor]:
    """A body with the implant in it, and mm of metal."""
    metal = project_mesh(implant()[0], view(primary), truth())[0, 0]
    config = ExposureConfig(tube=Tube(kv=80.0))
    generator = torch.Generator().manual_seed(1)
    still = Rigid(torch.eye(4, dtype=torch.float64))
    return expose(body(), view(primary), still, config, generator, extra={"titanium": metal}).xray, metal


def clipped(primary: float = 0.0) -> XRay:
    """Eight bits of a display that is black behind the metal, as a file of it is read."""
    xray, metal = exposure(primary)
    image, other = xray.image.numpy(), xray.mask.numpy() & (metal.numpy() == 0)
    low, high = np.percentile(image[other], (1, 99))
    stored = torch.from_numpy(np.round(255 * (1 - np.clip((image - low) / (high - low), 0, 1))).astype(np.float32))
    encoding = Encoding("DISP", 1, 255.0)
    lines, scale = to_line_integrals(stored, encoding)
    return XRay(lines, xray.view, validity_mask(stored, encoding), scale)


def error(pose: Rigid, views: list[View]) -> tuple[float, float]:
    """mTRE and mRPD over the surface, mm, least over the symmetries."""
    found = implant()[1]
    in_space, _ = symmetric_error(lambda p, g: mtre(p, g, found.points), pose, truth(), found)
    across, _ = symmetric_error(lambda p, g: mrpd(p, g, found.points, views), pose, truth(), found)
    return in_space, across


def test_clipped_metal_counts_and_what_was_not_metal_stays_out() -> None:
    xray, metal = clipped(), exposure()[1]
    hidden = ~xray.mask & (metal > 1)
    assert int(hidden.sum()) > 1000  # reading leaves the metal out
    seen = metal_seen(xray)
    assert not bool((~seen.mask & (metal > 1)).any())
    assert torch.equal(seen.image, xray.image)
    # a bright patch (burnt-in text) and what lies outside the field are not given back
    mask, image = xray.mask.clone(), xray.image.clone()
    mask[20:30, 20:60], image[20:30, 20:60] = False, float(image.min())
    mask[:, :10] = False
    again = metal_seen(replace(xray, mask=mask, image=image))
    assert not bool(again.mask[20:30, 20:60].any()) and not bool(again.mask[:, :10].any())
    assert metal_seen(exposure()[0]) is not None and torch.equal(metal_seen(exposure()[0]).mask, exposure()[0].mask)


def test_the_bend_is_monotone_and_its_slope_its_derivative() -> None:
    bend = Response(1.5)
    line = np.linspace(0, 8, 200).astype(np.float32)
    bent = bend.bent(line).astype(float)
    assert (np.diff(bent) > 0).all() and bent[-1] < 1.5
    assert np.allclose(np.gradient(bent, line.astype(float))[1:-1], bend.slope(line)[1:-1], atol=2e-3)
    assert np.allclose(bend.bent(line[:3] * 1e-3), line[:3] * 1e-3, rtol=1e-2)
    with pytest.raises(InputError, match="ceiling"):
        Response(0.0)


def test_the_system_of_bent_lines_is_the_direct_one_where_nothing_bends() -> None:
    model = solid_volume(implant()[0], Solidity(excess=0.25, shell_mm=0.0))
    scale = build_scales(Problem(model, (exposure()[0],), start()), CONFIG, most=1)[0]
    matrix, masks = start().matrix.numpy(), [image.valid for image in scale.images]
    straight = _Bent(scale, CONFIG.match, Response(1e7))
    floor = straight.normal(matrix, np.zeros(1), masks, full=False).noise
    rendering = render(scale.model, scale.images, matrix, CONFIG.match)
    direct = normal_equations(scale.model, scale.images, rendering, masks, floor, CONFIG.match)
    found = straight.normal(matrix, floor, masks, full=True)
    assert found.cost == pytest.approx(direct.cost, rel=1e-3)
    assert np.allclose(found.gradient, direct.gradient, rtol=1e-2, atol=1e-3 * np.abs(direct.gradient).max())
    assert np.allclose(found.hessian, direct.hessian, rtol=1e-2, atol=1e-3 * np.abs(direct.hessian).max())
    # bent, a step along the gradient still lowers the cost by about what it promises
    bent = _Bent(scale, CONFIG.match, Response(1.5))
    floor = bent.normal(matrix, np.zeros(1), masks, full=False).noise
    here = bent.normal(matrix, floor, masks, full=True)
    for k, step in ((3, 0.1), (5, 0.1)):
        twist = np.zeros(6)
        twist[k] = step
        ends = [bent.normal(moved(matrix, s * twist, here.centre), floor, masks, full=False).cost for s in (1, -1)]
        slope = -(ends[0] - ends[1]) / (2 * step) * scale.images[0].usable / 2
        assert here.gradient[k] == pytest.approx(slope, rel=0.3)


def test_clipped_exposures_register_and_the_bend_brings_the_depth() -> None:
    mesh, symmetry = implant()
    model = solid_volume(mesh, Solidity(excess=0.25, shell_mm=0.0))
    seen, response = Response.of((clipped(),))
    assert response.ceiling == 1.5 and Response.of((exposure()[0],))[1].ceiling == 3.0
    plain = Direct(CONFIG).register(Problem(model, (clipped(),), start()))
    result = Implants(symmetry, CONFIG).register(Problem(model, (clipped(),), start()))
    views = [view()]
    depths = []
    scale = build_scales(Problem(model, seen, truth()), CONFIG, most=1)[0]
    gold = truth().matrix.numpy()
    bounds = Bounds(gold, camera_axes(view()), centre_under(scale, gold), 10.0, 10.0, 60.0)
    for bend in (Response(1e6), response):
        pose = Rigid(torch.from_numpy(refine_bent(scale, gold, bounds, CONFIG, bend).matrix))
        depths.append(abs(float((pose.apply(symmetry.centre[None]) - truth().apply(symmetry.centre[None]))[0] @ view().normal)))
    assert depths[1] < 0.7 * depths[0]
    in_space, across = error(result.transform, views)
    assert across < 1.0 and in_space < 15.0
    assert error(plain.transform, views)[1] > across


def test_a_body_of_revolution_says_that_its_turn_is_unknown() -> None:
    mesh, symmetry = implant()
    model = solid_volume(mesh, Solidity(excess=0.25, shell_mm=0.0))
    turned = Rigid(start().matrix @ symmetry.equivalents(5)[2])  # a start turned far about the axis is as good
    xrays = (exposure()[0], exposure(70.0)[0])
    result = Implants(symmetry, CONFIG).register(Problem(model, xrays, turned))
    in_space, _ = error(result.transform, [x.view for x in xrays])
    assert in_space < 0.5
    said = result.ambiguity
    assert said is not None and said.free == 1 and said.axis is not None
    axis = truth().matrix[:3, 2]
    assert float(torch.linalg.cross(said.axis[1], axis).norm()) < 0.02
    # the free turn is at 180 degrees, the others are not
    rotation = result.covariance[:3, :3]
    assert math.degrees(math.sqrt(float(axis @ rotation @ axis))) == pytest.approx(180, abs=2)
    across = torch.linalg.svd(axis[None])[2][1]
    assert math.degrees(math.sqrt(float(across @ rotation @ across))) < 5
    assert result.confidence.trusted, result.confidence
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert stored["ambiguity"]["free_turns"] == 1 and "revolution" in stored["ambiguity"]["words"][0]


def test_a_depth_that_was_not_searched_withdraws_trust_whatever_pose_is_chosen() -> None:
    mesh, symmetry = implant()
    model = solid_volume(mesh, Solidity(excess=0.39, shell_mm=0.0))
    beam = camera_axes(view())[:, 2]
    nearer = torch.eye(4, dtype=torch.float64)
    nearer[:3, 3] = 12.1 * torch.from_numpy(beam)
    problem = Problem(model, (exposure()[0],), Rigid(nearer @ truth().matrix))
    config = DirectConfig(search=SearchConfig(degrees=8.0, mm=5.0))
    found = Implants(symmetry, config).register(problem)
    assert not bounds_of(problem, config.search).hold(found.transform.matrix.numpy(), 0.9), "the scene shows nothing"
    assert found.confidence.probability <= 0.3 and not found.confidence.trusted


def test_outlines_of_thin_metal_are_less_sure_than_of_thick() -> None:
    def off(radius: float, voxel: float) -> float:
        rod = turned_mesh([(-40.0, radius), (40.0, radius)], sides=64)
        solid = solid_volume(rod, Solidity(excess=0.25, shell_mm=0.0, voxel_mm=voxel))
        return outline_error(model_pyramid(solid, content(solid), [voxel])[0])

    assert off(3.0, 1.0) == pytest.approx(math.hypot(OUTLINES, 1 / 3), rel=0.15)
    assert off(16.0, 0.5) == pytest.approx(OUTLINES, rel=0.02)
    assert off(3.0, 0.5) < off(3.0, 1.0) and off(6.0, 1.0) < off(3.0, 1.0)
