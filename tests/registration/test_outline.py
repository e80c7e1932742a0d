"""What the outline of a cut-out leaves open, held to geometry that can be written down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

import raylign
from raylign.data import Volume, XRay
from raylign.geometry import Rigid, View
from raylign.projection import project
from raylign.registration import Problem, SearchConfig
from raylign.registration.levels import Scale, build_scales
from raylign.registration.outline import is_cut_out, outline_covariance
from raylign.registration.settings import DirectConfig

PITCH, RADIUS = 0.5, 8.0


def rod(radius: float = RADIUS, unit: str = "raw") -> Volume:
    """A rod 52 mm long about the origin, along z: 3000 inside, nothing about it."""
    n = (121, 49, 49)
    z, y, x = (PITCH * (torch.arange(k, dtype=torch.float64) - (k - 1) / 2) for k in n)
    inside = (x**2 + y[:, None] ** 2 < radius**2)[None] & (z.abs() < 26)[:, None, None]
    affine = torch.diag(torch.tensor([PITCH, PITCH, PITCH, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([x[0], y[0], z[0]])
    return Volume(3000.0 * inside.float(), affine, unit)  # type: ignore[arg-type]


def scale_of(model: Volume, *primary: float) -> tuple[Scale, float]:
    """The finest level of a rod seen from some sides, and the mean distance from source to rod."""
    xrays = tuple(exposure(model, p) for p in primary)
    problem = Problem(model, xrays, Rigid(torch.eye(4, dtype=torch.float64)))
    scale = build_scales(problem, DirectConfig())[0]
    return scale, float(xrays[0].view.source.norm())


def exposure(model: Volume, primary: float) -> XRay:
    view = View.from_carm(primary=primary, secondary=0, sid=1000, sod=700, pixel_spacing=0.8, shape=(160, 160))
    image = project(model, view, torch.eye(4, dtype=torch.float64), step=PITCH)[0, 0].float()
    return XRay(image, view, torch.ones(image.shape, dtype=torch.bool))


def test_one_view_leaves_depth_open_by_what_magnification_makes_of_the_outline() -> None:
    model = rod()
    scale, away = scale_of(model, 0.0)
    covariance = outline_covariance(scale, np.eye(4), PITCH)
    depth = np.sqrt(np.trace(covariance[3:, 3:]))
    # sum(d) / sum(d^2) over an outline of two sides 52 mm long at RADIUS and two ends 2 RADIUS wide at 26 mm
    sides, ends = 2 * 52, 2 * 2 * RADIUS
    expected = away * 0.25 * PITCH * (sides * RADIUS + ends * 26) / (sides * RADIUS**2 + ends * 26**2)
    assert abs(depth - expected) < 0.25 * expected  # voxels of 1 mm on a radius of 8
    assert np.linalg.matrix_rank(covariance, tol=1e-9) == 1
    assert not covariance[:3].any()  # nothing turns a rod that is too thick


def test_a_thinner_bone_leaves_more_open_and_a_second_view_hardly_anything() -> None:
    def depth(radius: float, *views: float) -> float:
        scale, _ = scale_of(rod(radius), *views)
        return float(np.sqrt(np.trace(outline_covariance(scale, np.eye(4), PITCH)[3:, 3:])))

    assert depth(4.0, 0.0) > 1.04 * depth(8.0, 0.0)
    assert depth(8.0, 0.0, 90.0) < 0.1 * depth(8.0, 0.0)


def test_what_is_a_cut_out() -> None:
    model = rod()
    level = scale_of(model, 0.0)[0].model
    assert is_cut_out(model, level)
    assert not is_cut_out(replace(model, unit="1/mm"), level)
    soft = torch.nn.functional.avg_pool3d(model.data[None, None], 9, stride=1, padding=4)[0, 0]
    skin = replace(model, data=soft)
    assert not is_cut_out(skin, scale_of(skin, 0.0)[0].model)


def test_a_registration_states_the_depth_that_its_outline_leaves_open() -> None:
    start = Rigid(torch.eye(4, dtype=torch.float64))
    alone = SearchConfig(degrees=5.0, mm=5.0, hypotheses=1)
    found = raylign.register(rod(), exposure(rod(), 0.0), init=start, search=alone)
    least = 4.0  # mm: see the first test
    assert float(found.covariance[3:, 3:].diagonal().max().sqrt()) > least
    assert found.confidence.evidence["depth"] > least
    solid = raylign.register(rod(unit="1/mm"), exposure(rod(), 0.0), init=start, search=alone)
    assert solid.confidence.evidence["depth"] < least
