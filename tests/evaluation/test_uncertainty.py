from __future__ import annotations

import math

import pytest
import torch

from raylign.evaluation.uncertainty import mahalanobis, seen_from, twist_about_centre
from raylign.geometry import Rigid, View
from tests.evaluation import scene


def test_a_frontal_view_sees_y_as_depth() -> None:
    result = scene.result(centre=torch.zeros(3, dtype=torch.float64))
    view = View.from_carm(primary=0, secondary=0, sid=1000, sod=700, pixel_spacing=1.0, shape=(11, 11))
    seen = seen_from(result, view)
    assert seen.translation == pytest.approx((0.1, 0.1, 1.2))
    assert seen.rotation == pytest.approx(tuple(math.degrees(x) for x in (1e-3, 2e-3, 1e-3)))
    assert (seen.in_plane, seen.depth) == pytest.approx((0.1, 1.2))


def test_samples_drawn_from_the_covariance_spread_as_stated(generator: torch.Generator) -> None:
    """A Monte Carlo check: move the centre by draws and measure what the view sees."""
    result = scene.result()
    view = scene.view(35.0)
    factor = torch.linalg.cholesky(result.covariance)
    draws = (factor @ torch.randn(6, 20000, generator=generator, dtype=torch.float64)).T[:, 3:]
    pixels = view.project(result.centre + draws)
    magnification = float(view.sid / ((result.centre - view.source) @ view.normal))
    spread = pixels.std(0) * 2.0 / magnification  # pixels of 2 mm, back at the patient
    assert spread.tolist() == pytest.approx(seen_from(result, view).translation[:2], rel=0.03)


def test_distance_in_standard_deviations() -> None:
    result = scene.result()
    pose = Rigid(scene.moved(result.transform.matrix, result.centre, [2e-3, 0, 0, 0, 2.4, 0.3]))
    assert twist_about_centre(result, pose).tolist() == pytest.approx([2e-3, 0, 0, 0, 2.4, 0.3], abs=1e-9)
    assert mahalanobis(result, pose) == pytest.approx(math.sqrt(2**2 + 2**2 + 3**2))
    assert mahalanobis(result, result.transform) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("covariance", [torch.zeros(6, 6), torch.full((6, 6), float("nan"))])
def test_an_undetermined_covariance_says_so(covariance: torch.Tensor) -> None:
    assert math.isnan(mahalanobis(scene.result(covariance=covariance.double()), scene.result().start))
