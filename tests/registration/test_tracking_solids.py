"""Metal followed: what was clipped counts, the bend keeps the depth, a free turn stays unknown; bones as meshes are judged."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from raylign.data import Volume, XRay
from raylign.data.exposure import Encoding, to_line_integrals
from raylign.data.field import validity_mask
from raylign.data.solids import Solidity, solid_volume
from raylign.evaluation.metrics import mtre, symmetric_error
from raylign.geometry import Rigid, se3
from raylign.projection.mesh import project_mesh
from raylign.registration.implants import Implants
from raylign.registration.levels import centre_under
from raylign.registration.matching import compare, render, windows_of
from raylign.registration.meshes import Meshes
from raylign.registration.problem import Problem
from raylign.registration.saturation import Response, compare_bent
from raylign.registration.search import moved
from raylign.registration.tracking import Solid, State, Track, TrackingConfig, track
from raylign.registration.tracking_levels import stand
from raylign.registration.tracking_solids import known_of, registrar_of, stated_of
from raylign.simulation import ExposureConfig, expose
from raylign.simulation.physics.apparatus import Tube
from tests.registration.test_saturation import CONFIG, body, exposure, implant, start, truth, view


def pose(number: int) -> Rigid:
    """The implant wanders through a patient who lies still."""
    step = torch.tensor([0.004, 0.006, 0.0, 1.0, 0.6, -0.8], dtype=torch.float64)
    return Rigid(se3.exp(number * step) @ truth().matrix)


def frame(number: int, primary: float = 0.0, *, clipped: bool = False) -> XRay:
    metal = project_mesh(implant()[0], view(primary), pose(number))[0, 0]
    generator = torch.Generator().manual_seed(number)
    still = Rigid(torch.eye(4, dtype=torch.float64))
    xray = expose(body(), view(primary), still, ExposureConfig(tube=Tube(kv=80.0)), generator, extra={"titanium": metal}).xray
    if not clipped:
        return xray
    image, other = xray.image.numpy(), xray.mask.numpy() & (metal.numpy() == 0)
    low, high = np.percentile(image[other], (1, 99))
    stored = torch.from_numpy(np.round(255 * (1 - np.clip((image - low) / (high - low), 0, 1))).astype(np.float32))
    encoding = Encoding("DISP", 1, 255.0)
    lines, scale = to_line_integrals(stored, encoding)
    return XRay(lines, xray.view, validity_mask(stored, encoding), scale)


def model() -> Volume:
    return solid_volume(implant()[0], Solidity(excess=0.25, shell_mm=0.0))


def errors(done: Track) -> list[float]:
    """mTRE over the surface, mm, least over the symmetries."""
    found = implant()[1]
    return [
        symmetric_error(lambda p, g: mtre(p, g, found.points), p.transform, pose(k), found)[0] for k, p in enumerate(done.poses)
    ]


def test_the_bend_keeps_the_depth_of_metal_and_its_turn_stays_unknown() -> None:
    frames = [frame(k) for k in range(3)]
    given = TrackingConfig(direct=replace(CONFIG, trust=0.5))  # one view of metal is seldom surer
    done = track(model(), ((k / 10, x) for k, x in enumerate(frames)), start(), given, solid=Solid(implant()[1]))
    straight = track(model(), ((k / 10, x) for k, x in enumerate(frames)), start(), given)
    assert [p.state for p in done.poses] == [State.TRACKING] * 3
    assert max(errors(done)) < 3.0 < 4.0 < min(errors(straight))
    assert done.first.ambiguity is not None and done.first.ambiguity.free == 1
    for p, away in zip(done.poses, errors(done), strict=True):
        axis = p.transform.matrix[:3, 2]
        assert math.degrees(math.sqrt(float(axis @ p.covariance[:3, :3] @ axis))) == pytest.approx(180, abs=2)
        assert away < 3 * math.sqrt(float(view().normal @ p.covariance[3:, 3:] @ view().normal))


def test_metal_that_is_clipped_is_followed() -> None:
    frames = [[frame(k, angle, clipped=True) for angle in (0.0, 70.0)] for k in range(2)]
    given = TrackingConfig(direct=replace(CONFIG, trust=0.5))  # one view of metal is seldom surer
    done = track(model(), ((k / 10, x) for k, x in enumerate(frames)), start(), given, solid=Solid(implant()[1]))
    assert all(p.state in (State.TRACKING, State.UNCERTAIN) for p in done.poses)
    assert max(errors(done)) < 0.5


def test_a_bent_comparison_is_the_straight_one_where_nothing_bends_and_its_slopes_are_its_own() -> None:
    scale = stand(Problem(model(), (exposure()[0],), start()), CONFIG).scales[0]
    matrix, windows = start().matrix.numpy(), [windows_of(i, i.valid, CONFIG.match) for i in scale.images]

    def seen(response: Response | None, at: np.ndarray = matrix):  # type: ignore[no-untyped-def]
        return compare_bent(scale, render(scale.model, scale.images, at, CONFIG.match), windows, CONFIG.match, response)

    rendering = render(scale.model, scale.images, matrix, CONFIG.match)
    plain = compare(scale.model, scale.images, rendering, windows, CONFIG.match)
    assert np.array_equal(seen(None).rendering.integrals[0], plain.rendering.integrals[0])
    assert np.allclose(seen(Response(1e6)).rendering.integrals[0], plain.rendering.integrals[0], rtol=1e-3, atol=1e-7)
    bent, twist = Response(1.5), np.array([0, 0, 0, 0.2, 0, 0])
    centre = centre_under(scale, matrix)
    lines = [seen(bent, moved(matrix, s * twist, centre)).rendering.integrals[0] * scale.images[0].lengths for s in (0.5, -0.5)]
    slope = np.tensordot(twist, seen(bent).derivatives()[0], axes=1)
    assert np.corrcoef((lines[0] - lines[1]).ravel(), slope.ravel())[0, 1] > 0.98
    assert np.std(lines[0] - lines[1]) == pytest.approx(np.std(slope), rel=0.05)


def test_who_registers_the_first_frame_and_what_no_filter_learns() -> None:
    mesh, symmetry = implant()
    assert isinstance(registrar_of(Solid.of(mesh, "metal"), CONFIG), Implants)
    assert isinstance(registrar_of(Solid.of(mesh, "bone"), CONFIG), Meshes)
    covariance, matrix = np.diag([1e-4] * 3 + [0.01] * 3), truth().matrix.numpy()
    centre = truth().apply(symmetry.centre[None])[0].numpy()
    level = stand(Problem(model(), (exposure()[0],), start()), CONFIG).scales[0].model
    assert np.array_equal(stated_of(Solid(), matrix, centre, covariance, [view()], level), covariance)
    said = stated_of(Solid(symmetry), matrix, centre, covariance, [view()], level)
    axis = matrix[:3, 2]
    assert axis @ said[:3, :3] @ axis == pytest.approx(math.pi**2, rel=1e-6)
    assert axis @ known_of(Solid(symmetry), matrix, centre, said)[:3, :3] @ axis == pytest.approx(0, abs=1e-9)
    # about another point a free turn is a turn and a shift: no point of the axis moves, whatever the twist is about
    arm = np.array([30.0, -20.0, 10.0])
    aside = stated_of(Solid(symmetry), matrix, centre + arm, covariance, [view()], level)
    free = aside - known_of(Solid(symmetry), matrix, centre + arm, aside)
    assert np.abs(np.linalg.eigvalsh(free)[:-1]).max() < 1e-3 * np.linalg.eigvalsh(free)[-1]
    moves = np.hstack([np.cross(np.eye(3), -arm).T, np.eye(3)])  # v + w x (centre - where the twist is about)
    assert np.allclose(moves @ free @ moves.T, 0, atol=1e-6) and np.abs(free[3:, 3:]).max() > 100
    beam = view().normal.detach().numpy()
    assert beam @ said[3:, 3:] @ beam > 4 * beam @ covariance[3:, 3:] @ beam  # 0.1 mm of outline are millimetres of depth
