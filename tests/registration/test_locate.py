"""Places in a wide box by correlation, and the reading of cut faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import raylign
from raylign.errors import InputError
from raylign.geometry import Rigid, se3
from raylign.projection import project
from raylign.registration import WIDE, Direct, DirectConfig, LocateConfig, Problem, SearchConfig
from raylign.registration.locate import locate, turns
from raylign.registration.search import Bounds, camera_axes, moved
from raylign.simulation import ExposureConfig, expose
from tests.registration import scene

FAR = torch.tensor([0.5, -0.4, 0.3, 120.0, 190.0, -90.0], dtype=torch.float64)


def far_start() -> Rigid:
    """Forty degrees and a quarter of a metre off."""
    return Rigid(se3.exp(FAR) @ scene.centre_start().matrix)


def bounds(start: Rigid, search: SearchConfig = WIDE) -> Bounds:
    matrix = start.matrix.numpy()
    centre = matrix[:3, :3] @ scene.chest().centre.numpy() + matrix[:3, 3]
    return Bounds(matrix, camera_axes(scene.view()), centre, search.degrees, search.mm, search.along)


def test_the_place_is_found_far_from_the_start() -> None:
    problem = Problem(scene.chest(), (scene.exposure(),), far_start())
    assert scene.error(problem.start) > 200
    within = bounds(problem.start)
    places, renders = locate(problem, within, WIDE.grid, 5, both=False)
    assert renders > 500
    best = Rigid(torch.from_numpy(places[0].matrix))
    angle = se3.log_rotation(best.matrix[:3, :3] @ scene.truth().matrix[:3, :3].T).norm()
    assert scene.error(best) < 60 and torch.rad2deg(angle) < 20
    assert [p.score for p in places] == sorted((p.score for p in places), reverse=True)
    assert all(0 < p.score <= 1 for p in places)
    assert len(places) == 5 and len({p.matrix.tobytes() for p in places}) == 5


def test_search_registers_from_nowhere() -> None:
    result = raylign.register(scene.chest(), scene.exposure(), init=far_start(), search=WIDE)
    assert scene.error(result.transform) < 1 and result.confidence.trusted
    centred = raylign.register(scene.chest(), scene.exposure(), init="search")
    assert scene.error(centred.transform) < 1 and centred.settings["search"]["depth"] == 300


def test_places_do_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(scene.chest(), (scene.exposure(),), scene.centre_start())
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("RAYLIGN_THREADS", threads)
        found.append(locate(problem, bounds(problem.start, SearchConfig()), SearchConfig().grid, 4, both=True)[0])
    assert all(
        a.score == b.score and a.reading == b.reading and np.array_equal(a.matrix, b.matrix) for a, b in zip(*found, strict=True)
    )


@settings(max_examples=8, deadline=None)
@given(st.floats(-60, 60), st.floats(-60, 60))
def test_a_shift_across_the_beam_keeps_the_picture(x: float, y: float) -> None:
    """The place found for a rendered model shifted across the beam is that shift, to a pixel of the coarse image."""
    turn = moved(scene.truth().matrix.numpy(), np.zeros(6), np.zeros(3))
    axes = camera_axes(scene.view())
    shifted = Rigid(torch.from_numpy(moved(turn, np.concatenate([np.zeros(3), axes @ np.array([x, y, 0.0])]), np.zeros(3))))
    image = project(scene.chest(), [scene.view()], shifted.matrix[None])[0, 0]
    xray = replace(scene.exposure(), image=image, mask=torch.ones_like(image, dtype=torch.bool))
    narrow = SearchConfig(degrees=1.0, mm=90.0, depth=5.0, hypotheses=2)
    places, _ = locate(
        Problem(replace(scene.chest(), truncated=((False, False),) * 3), (xray,), scene.truth()),
        bounds(scene.truth(), narrow),
        LocateConfig(degrees=2.0),
        1,
        both=False,
    )
    centre = Rigid(torch.from_numpy(places[0].matrix)).apply(scene.chest().centre[None]) - shifted.apply(
        scene.chest().centre[None]
    )
    assert np.abs(axes[:, :2].T @ centre[0].numpy()).max() < 12


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 90), st.floats(15, 60))
def test_turns_fill_the_box(degrees: float, step: float) -> None:
    axes = Rotation.from_euler("xyz", [0.3, -0.2, 0.7]).as_matrix()
    angles = np.degrees([axes.T @ Rotation.from_matrix(t).as_rotvec() for t in turns(degrees, step, axes)])
    assert np.abs(angles).max() <= degrees + 1e-6
    values = np.unique(np.round(angles[:, 0], 6))
    if np.linalg.norm(np.abs(angles).max(0)) < 179:  # beyond half a turn the other way is shorter
        assert (np.diff(values) <= step + 1e-5).all() and degrees - values.max() <= step / 2 + 1e-5


@pytest.mark.parametrize("goes_on", [False, True])
def test_the_images_tell_whether_the_patient_ends_at_the_model(goes_on: bool) -> None:
    """A slab exposed alone and as part of a body: registered from off the pose either way, though no file says which it is."""
    d = scene.chest().data.shape[0]
    cut = slice(d // 5, 4 * d // 5)
    affine = scene.chest().affine.clone()
    affine[:3, 3] += affine[:3, 2] * cut.start
    slab = replace(scene.chest(), data=scene.chest().data[cut], affine=affine, truncated=None)
    light = torch.Generator().manual_seed(3)
    xray = scene.exposure() if goes_on else expose(slab, scene.view(), scene.truth(), ExposureConfig(), light).xray
    off = torch.tensor([0.06, -0.08, 0.05, 9.0, -8.0, 12.0], dtype=torch.float64)
    start = Rigid(se3.exp(off) @ scene.truth().matrix)
    assert scene.error(start) > 15
    result = Direct(DirectConfig()).search_once(Problem(slab, (xray,), start))
    assert scene.error(result.transform) < 2


def test_a_box_outside_the_image_is_refused() -> None:
    away = scene.centre_start().matrix.clone()
    away[0, 3] += 3000
    with pytest.raises(InputError, match="no pose that is searched"):
        raylign.register(scene.chest(), scene.exposure(), init=Rigid(away), search=WIDE)
