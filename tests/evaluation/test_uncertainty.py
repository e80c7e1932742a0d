from __future__ import annotations

import math
import re

import pytest
import torch

from raylign.evaluation.ellipsoid import OBLIQUE, Ellipsoid, ellipsoid_chart, in_words
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


def test_the_outline_of_the_ellipsoid_holds_its_samples(generator: torch.Generator) -> None:
    """Monte Carlo: of points drawn from the covariance and drawn obliquely, the outline of one deviation holds 1 - exp(-1/2)."""
    a = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    covariance = a @ a.T + 0.1 * torch.eye(3, dtype=torch.float64)
    drawn = ellipsoid_chart(Ellipsoid("t", covariance, 10.0))
    polygon = re.search(r'<polygon class="inner" points="([^"]*)"', drawn)
    assert polygon is not None
    outline = torch.tensor([[float(x) for x in p.split(",")] for p in polygon.group(1).split()], dtype=torch.float64)
    half = re.search(r'<polyline class="grid" points="([\d.]+),[\d.]+ ([\d.]+),', drawn)
    assert half is not None
    scale = (float(half.group(2)) - float(half.group(1))) / 20.0  # page units a mm, from the drawn axis of +-10 mm
    points = torch.randn(20000, 3, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    page = points @ OBLIQUE.T * scale + outline[:-1].mean(0)
    edges, start = outline[1:] - outline[:-1], outline[:-1]
    side = torch.stack([e[0] * (page[:, 1] - s[1]) - e[1] * (page[:, 0] - s[0]) for e, s in zip(edges, start, strict=True)])
    inside = (side > 0).all(0) | (side < 0).all(0)
    assert float(inside.double().mean()) == pytest.approx(1 - math.exp(-0.5), abs=0.015)


def test_words_name_the_direction_that_is_hardly_seen() -> None:
    view = View.from_carm(primary=0, secondary=0, sid=1000, sod=700, pixel_spacing=1.0, shape=(11, 11))
    centre = torch.zeros(3, dtype=torch.float64)
    said = in_words(seen_from(scene.result(centre=centre), view))
    assert "along the ray 1.20 mm, across it 0.10 mm at most" in said
    assert "turning about the image's horizontal 0.06, about its vertical 0.11, about the ray 0.06 degrees" in said
    assert "1.20 mm along the ray, 12 times the next. A second exposure from another side would settle it." in said
    assert "No single exposure" not in said
    assert "1 % larger than its model seems 7.00 mm nearer" in in_words(seen_from(scene.result(centre=centre), view), 707.0)
    even = torch.diag(torch.tensor([1e-3, 1e-3, 1e-3, 0.1, 0.2, 0.1], dtype=torch.float64) ** 2)
    assert "least certain" not in in_words(seen_from(scene.result(centre=centre, covariance=even), view))
    slanted = even.clone()
    slanted[3:, 3:] = torch.tensor([[4.0, 3.9, 0], [3.9, 4.0, 0], [0, 0, 0.01]], dtype=torch.float64)
    assert "between the" in in_words(seen_from(scene.result(centre=centre, covariance=slanted), view))
    broken = torch.full((6, 6), float("nan"), dtype=torch.float64)
    assert "could not be determined" in in_words(seen_from(scene.result(centre=centre, covariance=broken), view))
