from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raylign import InputError, Problem, Rigid, View, Volume, XRay
from raylign.geometry import se3
from raylign.geometry.carm import to_carm
from raylign.geometry.convert import to_deepdrr, to_diffdrr, to_nanodrr, to_opencv, to_xreg
from raylign.geometry.view import as_views
from tests.geometry.cases import D, any_views, points


def grid(view: View) -> Tensor:
    """[H, W, 2]: (column, row) of every pixel."""
    h, w = view.shape
    rows, columns = torch.meshgrid(torch.arange(h, dtype=D), torch.arange(w, dtype=D), indexing="ij")
    return torch.stack([columns, rows], -1)


@settings(max_examples=50, deadline=None)
@given(any_views())
def test_pixel_centres_project_to_integers(view: View) -> None:
    assert float((view.project(view.pixel_centres()) - grid(view)).abs().max()) < 1e-8


@settings(max_examples=30, deadline=None)
@given(any_views(), st.floats(0.05, 1.5))
def test_every_point_of_a_ray_projects_to_its_pixel(view: View, along: float) -> None:
    source, rays = view.rays()
    assert float((view.project(source + along * rays) - grid(view)).abs().max()) < 1e-7


@settings(max_examples=30, deadline=None)
@given(any_views())
def test_what_a_view_says_of_itself(view: View) -> None:
    p = torch.cat([points(), torch.ones(20, 1, dtype=D)], 1)
    homogeneous = p @ view.camera.T
    assert torch.allclose(homogeneous[:, :2] / homogeneous[:, 2:], view.project(points()), atol=1e-7)
    assert bool((homogeneous[:, 2] > 0).all())  # these points lie before the source
    if view.beam == "cone":
        foot = view.source + view.sid * view.normal
        assert torch.allclose(view.project(foot[None])[0], view.principal_point, atol=1e-7)
    assert abs(float(view.normal @ view.column_step)) < 1e-9 and abs(float(view.normal @ view.row_step)) < 1e-9
    assert View.from_dict(json.loads(json.dumps(view.to_dict()))) == view


@settings(max_examples=30, deadline=None)
@given(any_views())
def test_rays_are_what_their_six_vectors_say(view: View) -> None:
    begin, rays = view.rays()
    o, d, du, dv, ou, ov = view.ray_vectors
    c, r = grid(view)[..., :1], grid(view)[..., 1:]
    assert torch.allclose(o + c * ou + r * ov, begin.expand_as(rays), atol=1e-9)
    assert torch.allclose(d + c * du + r * dv, rays, atol=1e-9)
    assert torch.allclose(view.ray_lengths(), rays.norm(dim=-1), rtol=1e-12)
    # the ray through a point is the ray of the pixel under which that point lies
    seen = view.directions(begin + 0.4 * rays)
    assert torch.allclose(seen, rays / rays.norm(dim=-1, keepdim=True), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(any_views(), st.integers(0, 5), st.integers(1, 6), st.integers(0, 5), st.integers(1, 6))
def test_a_crop_shifts_pixels(view: View, r0: int, r1: int, c0: int, c1: int) -> None:
    h, w = view.shape
    if r0 >= h - r1 or c0 >= w - c1:
        return
    cropped = view.crop(slice(r0, -r1), slice(c0, w - c1))
    assert cropped.shape == tuple(torch.empty(h, w)[r0:-r1, c0 : w - c1].shape)
    shift = torch.tensor([c0, r0], dtype=D)
    assert float((cropped.project(points()) - (view.project(points()) - shift)).abs().max()) < 1e-7


@settings(max_examples=30, deadline=None)
@given(any_views(), st.integers(2, 50), st.integers(2, 50), st.integers(0, 3), st.booleans())
def test_a_landmark_stays_under_its_pixel_however_the_image_is_redrawn(
    view: View, rows: int, columns: int, turns: int, flipped: bool
) -> None:
    """The place on the detector under a landmark is the same, whatever pixels it is counted in; so is the ray to it."""
    redrawn = view.resample((rows, columns)).rotate(turns).flip(rows=flipped)
    p = points()
    places = [v.origin + v.project(p) @ torch.stack([v.column_step, v.row_step]) for v in (view, redrawn)]
    assert float((places[0] - places[1]).abs().max()) < 1e-7
    assert torch.allclose(view.directions(p), redrawn.directions(p), atol=1e-12)
    begin, rays = redrawn.rays()
    if view.beam == "parallel":
        assert torch.allclose(rays, (view.origin - view.source).expand_as(rays), atol=1e-9)
        assert torch.allclose(begin + rays, redrawn.pixel_centres(), atol=1e-9)
    else:
        assert torch.equal(redrawn.source, view.source)


@pytest.mark.parametrize(
    ("shape", "small"), [((110, 132), (10, 12)), ((128, 96), (64, 48)), ((100, 90), (33, 47)), ((10, 10), (110, 30))]
)
def test_a_landmark_stays_under_its_pixel_at_every_scale(shape: tuple[int, int], small: tuple[int, int]) -> None:
    view = View.from_carm(primary=31, secondary=-12, sid=1000, sod=700, pixel_spacing=(0.9, 1.1), shape=shape)
    resampled = view.resample(small)
    scale = torch.tensor([shape[1] / small[1], shape[0] / small[0]], dtype=D)
    # pixel edges coincide: (x + 1/2) is what scales, not x
    expected = (view.project(points()) + 0.5) / scale - 0.5
    assert float((resampled.project(points()) - expected).abs().max()) < 1e-9
    if all(a % b == 0 for a, b in zip(shape, small, strict=True)):
        # averaging an image of places gives the places of the averaged image
        blocks = view.pixel_centres().reshape(small[0], shape[0] // small[0], small[1], shape[1] // small[1], 3)
        assert torch.allclose(blocks.mean((1, 3)), resampled.pixel_centres(), atol=1e-10)
    assert resampled.resample(shape).isclose(view, 1e-9)


def test_flips_and_turns_follow_the_image() -> None:
    view = View.from_carm(primary=-40, secondary=20, sid=1000, sod=700, pixel_spacing=(0.9, 1.1), shape=(5, 8))
    centres = view.pixel_centres()  # an image whose values are the places they are taken at
    for columns in (False, True):
        for rows in (False, True):
            dims = [d for d, on in ((0, rows), (1, columns)) if on]
            assert torch.allclose(view.flip(columns=columns, rows=rows).pixel_centres(), centres.flip(dims), atol=1e-10)
    for turns in range(-1, 6):
        turned = view.rotate(turns)
        expected = torch.rot90(centres, turns, (0, 1))
        assert turned.shape == tuple(expected.shape[:2])
        assert torch.allclose(turned.pixel_centres(), expected, atol=1e-10)
    assert view.rotate(4) == view.rotate(0) == view


@settings(max_examples=30, deadline=None)
@given(any_views(), st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_moving_both_changes_nothing(view: View, twist: list[float]) -> None:
    motion = se3.exp(torch.tensor(twist, dtype=D) * torch.tensor([1, 1, 1, 100, 100, 100]))
    affine = motion @ torch.diag(torch.tensor([0.7, 2.0, -1.5, 1.0], dtype=D))  # voxel frames are not rigid
    for m in (motion, affine):
        moved = view.transformed(m)
        assert float((moved.project(se3.transform(m, points())) - view.project(points())).abs().max()) < 1e-6


def test_gradients_reach_points_and_every_number_of_the_view() -> None:
    def pixel(p: Tensor, primary: Tensor, secondary: Tensor, sid: Tensor, sod: Tensor, spacing: Tensor) -> Tensor:
        view = View.from_carm(primary=primary, secondary=secondary, sid=sid, sod=sod, pixel_spacing=spacing, shape=(20, 30))
        return view.resample((10, 10)).crop(slice(1, 9), slice(2, 8)).flip(columns=True).project(p)

    numbers = [torch.tensor(x, dtype=D, requires_grad=True) for x in (12.0, -7.0, 1000.0, 700.0, [0.9, 1.1])]
    assert torch.autograd.gradcheck(pixel, (points(3).requires_grad_(), *numbers), eps=1e-4, atol=1e-6)


def test_a_view_is_compared_by_value() -> None:
    a = View.from_carm(sid=1000, sod=700, pixel_spacing=1, shape=(10, 12))
    b = View.from_dict(a.to_dict())
    assert a == b and a.isclose(b)
    assert a != a.flip(rows=True) and not a.isclose(a.crop(slice(0, 9), slice(0, 12)))
    assert a != 3
    beam = View.from_parallel(primary=20, pixel_spacing=1, shape=(10, 12))
    assert View.from_dict(json.loads(json.dumps(beam.to_dict()))) == beam
    same_numbers = View(beam.source, beam.origin, beam.column_step, beam.row_step, beam.shape)
    assert same_numbers != beam and not same_numbers.isclose(beam)
    assert eval(repr(beam), {"View": View}).isclose(beam, 1e-3)
    assert eval(repr(a), {"View": View}).isclose(a, 1e-3)  # it prints as the call that makes it


@settings(max_examples=30, deadline=None)
@given(st.floats(-180, 180), st.floats(-85, 85))
def test_a_parallel_beam_is_a_c_arm_infinitely_far_away(primary: float, secondary: float) -> None:
    """In the limit of a distant source the cone's pixels, counted at the isocentre, are the parallel beam's."""
    shape, pitch = (40, 50), 1.5
    beam = View.from_parallel(primary=primary, secondary=secondary, pixel_spacing=pitch, shape=shape)
    cone = View.from_carm(primary=primary, secondary=secondary, sid=1e9 + 10, sod=1e9, pixel_spacing=pitch, shape=shape)
    assert float((beam.project(points()) - cone.project(points())).abs().max()) < 1e-4
    (d,) = torch.unique(beam.rays()[1].reshape(-1, 3), dim=0)
    by_direction = View.from_parallel(direction=d, pixel_spacing=pitch, shape=shape)
    assert by_direction.isclose(beam, 1e-6)  # the head is up in both


def test_gradients_reach_every_number_of_a_parallel_view() -> None:
    def pixel(p: Tensor, primary: Tensor, secondary: Tensor, spacing: Tensor, reach: Tensor) -> Tensor:
        view = View.from_parallel(primary=primary, secondary=secondary, pixel_spacing=spacing, shape=(20, 30), reach=reach)
        view = view.resample((10, 10)).crop(slice(1, 9), slice(2, 8)).rotate().flip(columns=True)
        return torch.cat([view.project(p).flatten(), view.ray_lengths().flatten()[:3], view.rays()[0][1, 2]])

    numbers = [torch.tensor(x, dtype=D, requires_grad=True) for x in (12.0, -7.0, [0.9, 1.1], 500.0)]
    assert torch.autograd.gradcheck(pixel, (points(3).requires_grad_(), *numbers), eps=1e-4, atol=1e-6)


def test_a_view_can_be_moved_to_a_device() -> None:
    view = View.from_parallel(primary=20, pixel_spacing=1, shape=(10, 12))
    assert view.to("cpu") == view and view.to("cpu").beam == "parallel"


def test_what_needs_a_focal_spot_is_refused_for_a_parallel_beam() -> None:
    view = View.from_parallel(pixel_spacing=1, shape=(10, 12))
    for name in ("sid", "principal_point"):
        with pytest.raises(InputError, match=r"beam: .* needs a cone beam"):
            getattr(view, name)
    for convert in (to_carm, to_opencv, to_xreg, to_nanodrr, to_diffdrr, to_deepdrr):
        with pytest.raises(InputError, match=r"beam: .* needs a cone beam"):
            convert(view)
    with pytest.raises(InputError, match=r"shot\.dcm: beam: registration needs a cone beam"):
        image = torch.zeros(10, 12)
        xray = XRay(image, view, image == 0, name="shot.dcm")
        Problem(Volume(torch.ones(2, 2, 2), torch.eye(4)), (xray,), Rigid(torch.eye(4, dtype=D)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"direction": [0, 0, 0]}, "direction: expected three"),
        ({"direction": [0, 1]}, "direction: expected three"),
        ({"direction": [0, 0, 2]}, "up: points along the beam"),
        ({"direction": [0, 1, 0], "up": [0, math.nan, 0]}, "up: expected three"),
        ({"direction": [0, 1, 0], "primary": 3}, "direction and C-arm angles"),
        ({"reach": 0}, "reach: 0 mm"),
        ({"pixel_spacing": -1}, "pixel_spacing: -1 mm"),
        ({"pixel_spacing": [1, 1, 1]}, "one number or"),
    ],
)
def test_a_parallel_beam_that_cannot_be_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        View.from_parallel(**{"pixel_spacing": 1, "shape": (4, 4), **change})  # type: ignore[arg-type]


GOOD = {"source": [0, 0, 0], "origin": [0, 0, 1], "column_step": [1, 0, 0], "row_step": [0, 1, 0], "shape": (2, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": [0, 0, math.nan]}, "finite"),
        ({"source": [0, 0]}, "source: expected three numbers"),
        ({"source": [5, 5, 1]}, "source lies in the detector plane"),
        ({"row_step": [-2, 0, 0]}, "parallel"),
        ({"column_step": [0, 0, 0]}, "parallel or zero"),
        ({"shape": (0, 2)}, "no pixels"),
        ({"shape": (2,)}, "shape: expected"),
        ({"shape": 2}, "shape: expected"),
        ({"shape": (2.5, 2)}, "whole numbers"),
        ({"beam": "fan"}, "beam: unknown kind of beam 'fan'"),
        ({"beam": "parallel", "source": [5, 5, 1]}, "beam runs along the detector plane"),
    ],
)
def test_a_view_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    View(**GOOD)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        View(**{**GOOD, **change})  # type: ignore[arg-type]


def test_asking_a_view_for_nonsense_is_refused() -> None:
    view = View.from_carm(sid=1000, sod=700, pixel_spacing=1, shape=(10, 12))
    with pytest.raises(InputError, match="step 1"):
        view.crop(slice(0, 10, 2), slice(None))
    with pytest.raises(InputError, match="no pixels"):
        view.crop(slice(8, 3), slice(None))
    with pytest.raises(InputError, match="no pixels"):
        view.resample((0, 5))
    with pytest.raises(InputError, match="missing origin"):
        View.from_dict({k: v for k, v in view.to_dict().items() if k != "origin"})
    with pytest.raises(InputError, match="not numbers"):
        View.from_dict({**view.to_dict(), "source": ["a", 0, 0]})
    with pytest.raises(InputError, match="no view"):
        as_views([])
    with pytest.raises(InputError, match="different shapes"):
        as_views([view, view.resample((5, 6))])
