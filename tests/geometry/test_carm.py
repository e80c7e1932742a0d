from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylign import InputError, View
from raylign.geometry import carm, se3

D = torch.float64
GIVEN: dict[str, Any] = {"sid": 1000.0, "sod": 700.0, "pixel_spacing": (0.9, 1.1), "shape": (20, 30)}


@settings(max_examples=100, deadline=None)
@given(
    st.floats(-180, 180),
    st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 89.9999999, -89.9999999, 0.0])),
    st.floats(700, 1400),
    st.floats(0.3, 0.95),
    st.integers(1, 50),
)
def test_angles_come_back(primary: float, secondary: float, sid: float, part: float, width: int) -> None:
    view = View.from_carm(
        primary=primary, secondary=secondary, sid=sid, sod=part * sid, pixel_spacing=(0.3, 0.2), shape=(7, width)
    )
    found = carm.to_carm(view)
    assert abs((found.primary - primary + 180) % 360 - 180) < 1e-9
    assert abs(found.secondary - secondary) < 1e-9
    assert abs(found.sid - sid) < 1e-9 and abs(found.sod - part * sid) < 1e-9
    assert found.pixel_spacing == pytest.approx((0.3, 0.2), abs=1e-12) and found.shape == (7, width)
    assert View.from_carm(**vars(found)).isclose(view, 1e-8)


@settings(max_examples=30, deadline=None)
@given(st.floats(-180, 180), st.floats(-180, 180))
def test_the_frame_is_orthonormal_and_mirrored_as_seen_from_the_source(primary: float, secondary: float) -> None:
    u, v, d = carm.frame(primary, secondary).unbind(1)
    assert torch.allclose(carm.frame(primary, secondary).T @ carm.frame(primary, secondary), torch.eye(3, dtype=D), atol=1e-14)
    assert torch.allclose(torch.linalg.cross(u, v), -d, atol=1e-14)


@pytest.mark.parametrize(
    ("primary", "secondary", "detector_towards"),
    [
        (0, 0, (0, -1, 0)),  # chest: anterior is -y
        (90, 0, (1, 0, 0)),  # LAO 90: the patient's left is +x
        (-90, 0, (-1, 0, 0)),  # RAO 90
        (180, 0, (0, 1, 0)),  # the patient's back
        (0, 90, (0, 0, 1)),  # CRA: head is +z
        (0, -90, (0, 0, -1)),  # CAU
        (30, 0, (math.sin(math.pi / 6), -math.cos(math.pi / 6), 0)),
    ],
)
def test_where_the_detector_stands(primary: float, secondary: float, detector_towards: tuple[float, float, float]) -> None:
    view = View.from_carm(primary=primary, secondary=secondary, **GIVEN)
    towards = torch.tensor(detector_towards, dtype=D)
    assert torch.allclose(view.normal, towards, atol=1e-12)
    assert torch.allclose(view.source, -700 * towards, atol=1e-9)
    centre = view.pixel_centres().mean((0, 1))
    assert torch.allclose(centre, 300 * towards, atol=1e-9)
    assert torch.allclose(view.project(torch.zeros(1, 3)), torch.tensor([[14.5, 9.5]], dtype=D), atol=1e-9)
    assert float(view.sid) == pytest.approx(1000)


def test_which_way_the_image_looks() -> None:
    view = View.from_carm(**GIVEN)  # frontal: image left is the patient's right, the head is up
    right, left, head, feet = view.project(torch.tensor([[-50.0, 0, 0], [50, 0, 0], [0, 0, 50], [0, 0, -50]]))
    assert right[0] < left[0] and head[1] < feet[1]
    # magnification: 50 mm at the isocentre are 50 * 1000 / 700 mm on the detector
    assert float(left[0] - right[0]) == pytest.approx(100 * 1000 / 700 / 1.1)
    assert float(feet[1] - head[1]) == pytest.approx(100 * 1000 / 700 / 0.9)


def test_one_pitch_serves_rows_and_columns() -> None:
    one = View.from_carm(sid=1000, sod=700, pixel_spacing=0.5, shape=(4, 5))
    assert one == View.from_carm(sid=1000, sod=700, pixel_spacing=(0.5, 0.5), shape=(4, 5))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sid": 0.0}, "sid"),
        ({"sid": -1000.0}, "sid"),
        ({"sid": math.nan}, "sid"),
        ({"sod": 0.0}, "sod"),
        ({"sod": math.inf}, "sod"),
        ({"sod": 1000.0}, "sod"),
        ({"sod": 1200.0}, "sod"),
        ({"pixel_spacing": 0.0}, "pixel_spacing"),
        ({"pixel_spacing": (0.3, -0.3)}, "pixel_spacing"),
        ({"pixel_spacing": (0.3, 0.3, 0.3)}, "pixel_spacing"),
        ({"shape": (0, 10)}, "shape"),
        ({"primary": math.nan}, "finite"),
    ],
)
def test_numbers_that_make_no_carm(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        View.from_carm(**{**GIVEN, **change})


def test_views_that_no_centred_carm_makes() -> None:
    view = View.from_carm(primary=25, secondary=-15, **GIVEN)
    rolled = se3.exp(torch.cat([view.normal * 0.02, torch.zeros(3, dtype=D)]))  # the detector turned about the central ray
    for other in (
        view.crop(slice(0, 18), slice(0, 30)),
        view.flip(columns=True),
        view.flip(rows=True),
        view.rotate(1),
        view.transformed(rolled),
        View(view.source + torch.tensor([0, 0, 1.0], dtype=D), view.origin, view.column_step, view.row_step, view.shape),
        View(view.source + 800 * view.normal, view.origin, view.column_step, view.row_step, view.shape),
    ):
        with pytest.raises(InputError, match="not the view of a centred C-arm"):
            carm.to_carm(other)
