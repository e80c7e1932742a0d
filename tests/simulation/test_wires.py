"""Plain wires of steel: where they lie in the picture, and how much metal they are."""

from __future__ import annotations

import math

import pytest
import torch

from raylign.errors import InputError
from raylign.geometry import View
from raylign.simulation.instruments import Wire, guide_wire, steel_thickness
from raylign.simulation.seeds import generator


def view(shape: tuple[int, int] = (48, 56), pitch: float = 2.0, **angles: float) -> View:
    return View.from_carm(sid=1200, sod=800, pixel_spacing=pitch, shape=shape, **angles)


def test_a_wire_lies_where_the_view_projects_it_and_is_as_thick_as_it_is() -> None:
    v = view((120, 120), 0.5, primary=20, secondary=10)
    wire = Wire(torch.tensor([[-12.0, 5.0, -25.0], [10.0, -8.0, 25.0]]), diameter=3.0)
    steel = steel_thickness([wire], v)
    at = v.project(wire.points.mean(0, keepdim=True))[0]
    row = round(float(at[1]))
    profile = steel[row].double()
    a, b = v.project(wire.points)
    crossing = float(a[0] + (b[0] - a[0]) * (row - a[1]) / (b[1] - a[1]))
    centroid = float((profile * torch.arange(120)).sum() / profile.sum())
    assert centroid == pytest.approx(crossing, abs=0.1)
    axis, ray = wire.points[1] - wire.points[0], wire.points.mean(0) - v.source
    sine = float(torch.linalg.cross(axis, ray).norm() / (axis.norm() * ray.norm()))
    assert float(profile.max()) == pytest.approx(3.0 / sine, rel=0.02)


def test_a_wire_thinner_than_a_pixel_keeps_its_metal() -> None:
    wire = Wire(torch.tensor([[-20.0, 0.0, 3.0], [20.0, 0.0, 3.0]]), diameter=0.6)
    fine, coarse = view((600, 9), 0.03), view((20, 5), 2.0)
    profile = [float(steel_thickness([wire], v)[:, v.shape[1] // 2].sum()) * v.pixel_spacing[0] for v in (fine, coarse)]
    # area of the cross-section, magnified: pi r^2 times SID / SOD
    assert profile[0] == pytest.approx(math.pi * 0.3**2 * 1.5, rel=0.02)
    assert profile[1] == pytest.approx(profile[0], rel=0.35)


def test_a_guide_wire_crosses_the_picture() -> None:
    on = steel_thickness((guide_wire(generator(3), diameter=2.0),), view((100, 100))) > 1
    assert 20 < int(on.sum()) < 1000


@pytest.mark.parametrize(
    ("points", "diameter"), [([[0.0, 0, 0]], 1.0), ([[0.0, 0, 0], [math.nan, 0, 0]], 1.0), ([[0.0, 0, 0], [1, 0, 0]], 0.0)]
)
def test_a_wire_that_is_none_is_refused(points: list[list[float]], diameter: float) -> None:
    with pytest.raises(InputError):
        Wire(torch.tensor(points), diameter)
