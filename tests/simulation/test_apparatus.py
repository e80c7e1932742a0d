"""Collimators, the heel effect, image intensifiers, the screen, and how apparatus is drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylign.errors import InputError
from raylign.geometry import View
from raylign.simulation.physics import fields
from raylign.simulation.physics.apparatus import Collimator, Detector, Dose, ExposureConfig, Intensifier, Tube
from raylign.simulation.physics.detector import normal, poisson, read_out
from raylign.simulation.physics.display import Display, displayed
from raylign.simulation.physics.ranges import ExposureRanges
from raylign.simulation.seeds import generator

CPU = torch.device("cpu")


def light(
    collimator: Collimator | None, shape: tuple[int, int] = (80, 120), pitch: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    lit, inside = fields.lit([collimator], torch.tensor([[pitch, pitch]]), shape, CPU)
    return lit[0], inside[0]


# -- collimators -------------------------------------------------------------------------------------------------------


def test_an_open_field_is_open() -> None:
    lit, inside = light(None)
    assert bool((lit == 1).all()) and bool(inside.all())
    both, _ = fields.lit([None, Collimator.round(0.5)], torch.ones(2, 2), (80, 120), CPU)
    assert bool((both[0] == 1).all())
    # however long the image is
    long, all_ = fields.lit([None, Collimator.round(0.5)], torch.ones(2, 2), (16, 400), CPU)
    assert bool((long[0] == 1).all()) and bool(all_[0].all())


def test_a_round_field_is_a_disc_of_its_radius() -> None:
    lit, inside = light(Collimator.round(0.5, (0.25, -0.1)))
    y, x = np.ogrid[:80, :120]
    r = np.hypot(y - 39.5 + 4, x - 59.5 - 10)
    assert (lit.numpy()[r < 19] == 1).all()
    assert np.allclose(lit.numpy()[r > 21], 2e-3)
    assert inside.numpy()[r < 17].all() and not inside.numpy()[r > 18].any()
    assert float(lit.sum()) == pytest.approx(math.pi * 400 + 2e-3 * (9600 - math.pi * 400), rel=0.005)


def test_a_round_field_is_round_on_the_detector() -> None:
    """Pixels of 2 mm by 1 mm: 64 rows and 128 columns are a square."""
    lit, _ = fields.lit([Collimator.round(0.75)], torch.tensor([[2.0, 1.0]]), (64, 128), CPU)
    assert float((lit[0, 32] > 0.5).sum()) == pytest.approx(96, abs=1)
    assert float((lit[0, :, 64] > 0.5).sum()) * 2 == pytest.approx(96, abs=2)


@pytest.mark.parametrize("angle", [0.0, 20.0, -75.0])
def test_a_rectangle_turns_clockwise_about_its_centre(angle: float) -> None:
    lit, _ = light(Collimator.rectangle(0.8, 0.3, angle, (0.1, 0.05)), (200, 200))
    assert float(lit.sum()) == pytest.approx(160 * 60 + 2e-3 * (40000 - 9600), rel=0.01)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for along, across, bright in ((78, 0, True), (82, 0, False), (0, 28, True), (0, 32, False), (77, 27, True), (77, 33, False)):
        # columns run right and rows down, so clockwise turns the first axis towards the second
        column, row = 99.5 + 10 + along * c - across * s, 99.5 + 5 + along * s + across * c
        assert (float(lit[round(row), round(column)]) > 0.5) == bright, (along, across)


def test_the_penumbra_has_its_width() -> None:
    lit, inside = light(replace(Collimator.rectangle(0.5, 0.9), penumbra_mm=6.0), (100, 100), pitch=0.5)
    profile = lit[50].numpy()
    slope = np.flatnonzero((profile > 0.01) & (profile < 0.99))
    assert 10 <= (slope > 50).sum() <= 13  # 6 mm are 12 pixels
    assert not inside[50, slope].any()


# -- the open beam -----------------------------------------------------------------------------------------------------


def test_the_heel_effect_follows_the_way_through_the_target() -> None:
    view = View.from_carm(sid=1000, sod=700, pixel_spacing=1.0, shape=(301, 3))
    shade = fields.shading([Tube(heel=0.15)], view.ray_vectors[None], view.shape)
    assert shade is not None
    assert float(shade[0, 150, 1]) == pytest.approx(1, abs=1e-5)
    for row in (10, 80, 220, 290):
        off = math.atan((row - 150) / 1000)
        way = math.sin(math.radians(12)) / math.sin(math.radians(12) + off)
        assert float(shade[0, row, 1]) == pytest.approx(math.exp(-0.15 * (way - 1)), rel=1e-4)
    assert float(shade[0, 10, 1]) < 0.85
    assert fields.shading([Tube()], view.ray_vectors[None], view.shape) is None


def test_intensity_falls_off_with_the_cube_of_the_cosine() -> None:
    view = View.from_carm(primary=30, secondary=20, sid=1000, sod=700, pixel_spacing=4.0, shape=(41, 61))
    shade = fields.shading([Tube(falloff=True), Tube()], view.ray_vectors[None].repeat(2, 1, 1), view.shape)
    assert shade is not None
    rays = view.rays()[1]
    cosine = (rays @ view.normal) / rays.norm(dim=-1)
    assert torch.allclose(shade[0].double(), cosine**3, rtol=1e-5)
    assert bool((shade[1] == 1).all())


# -- image intensifiers ------------------------------------------------------------------------------------------------


@given(
    k=st.floats(-0.1, 0.2),
    twist=st.floats(-20, 20),
    x=st.floats(0, 119),
    y=st.floats(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_distortion_has_an_inverse(k: float, twist: float, x: float, y: float) -> None:
    tube, points = [Intensifier(k, twist)], torch.tensor([[[x, y]]], dtype=torch.float64)
    there = fields.distorted(points, (100, 120), tube)
    assert torch.allclose(fields.undistorted(there, (100, 120), tube), points, atol=1e-3)


def test_pincushion_pulls_corners_out_and_twist_makes_an_s() -> None:
    points = torch.tensor([[[99.5, 99.5], [199.0, 99.5], [199.0, 0.0], [99.5, 0.0]]], dtype=torch.float64)
    out = fields.distorted(points, (200, 200), [Intensifier(0.1, 0.0)])[0]
    assert torch.allclose(out[0], points[0, 0])
    assert float(out[1, 0] - 99.5) == pytest.approx(99.5 * (1 + 0.1 * 0.995**2))
    assert float((out[2] - 99.5).norm() / (points[0, 2] - 99.5).norm()) > 1.19
    line = torch.stack([torch.linspace(0, 199, 9, dtype=torch.float64), torch.full((9,), 99.5, dtype=torch.float64)], 1)
    bent = fields.distorted(line[None], (200, 200), [Intensifier(0.0, 10.0)])[0, :, 1] - 99.5
    assert torch.allclose(bent, -bent.flip(0), atol=1e-9) and float(bent.max()) > 10


def test_a_marker_shows_where_its_label_moves() -> None:
    marks = torch.tensor([[[30.0, 25.0], [80.0, 70.0], [100.0, 20.0]]], dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(100.0), torch.arange(130.0), indexing="ij")
    tubes = [Intensifier(0.08, -4.0), None]
    for i in range(3):
        image = torch.exp(-((x - marks[0, i, 0]) ** 2 + (y - marks[0, i, 1]) ** 2) / 18)[None, None].float()
        shown = fields.warped(image.repeat(2, 1, 1, 1), tubes)
        at = fields.distorted(marks[:, i : i + 1], (100, 130), tubes[:1])[0, 0]
        assert float((at - marks[0, i]).norm()) > 0.5
        weight = shown[0, 0] / shown[0, 0].sum()
        centre = torch.stack([(weight * x).sum(), (weight * y).sum()]).double()
        assert float((centre - at).norm()) < 0.25  # the marker is stretched, outwards more than inwards
        assert torch.equal(shown[1], image[0])


# -- read-out ----------------------------------------------------------------------------------------------------------


def test_gain_and_read_out_noise_have_their_deviations() -> None:
    signal = torch.full((2, 200, 200), 0.5)
    detectors = [Detector(gain=0.02, electronic=0.0), Detector(gain=0.0, electronic=5.0)]
    counts = read_out(signal, detectors, torch.full((2, 1, 1), 1000.0), [generator(0, 0), generator(0, 1)])
    relative = counts / (65535 * 0.9)
    assert float(relative[0].std()) == pytest.approx(0.01, rel=0.02)
    assert float(relative[1].std()) == pytest.approx(0.005, rel=0.02)
    lines = read_out(signal[:1], [Detector(lines=0.02, electronic=0.0)], torch.full((1, 1, 1), 1e3), [generator(0, 2)])[0]
    assert float(lines.std(0).max()) == 0
    assert float(lines[0].std()) == pytest.approx(0.02 * 0.45 * 65535, rel=0.2)
    assert torch.equal(counts, counts.round()) and float(counts.mean()) == pytest.approx(0.45 * 65535, rel=1e-3)
    still = read_out(signal, detectors, torch.full((2, 1, 1), 1000.0), None)
    assert float(still.amax() - still.amin()) == 0


def test_each_generator_serves_its_own_image() -> None:
    like = torch.full((3, 5, 5), 40.0)
    three = poisson([generator(1, i) for i in range(3)], like)
    assert torch.equal(three[2], poisson([generator(1, 2)], like[:1])[0])
    assert not torch.equal(three[0], three[1])
    some = normal([generator(2, i) for i in range(3)], [1.0, 0.0, 2.0], like)
    assert float(some[1].abs().max()) == 0
    assert torch.equal(some[2], 2 * normal([generator(2, 2)], [1.0], like[:1])[0])


# -- the screen --------------------------------------------------------------------------------------------------------


def shown_of(display: Display, image: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    mask = torch.ones_like(image, dtype=torch.bool) if valid is None else valid
    return displayed(image[None], mask[None], torch.ones(1, 2), display)[0]


PLAIN = Display(compression=0, edges=0, curve=0, window=(0, 100), bits=0)


def test_a_plain_screen_only_stretches() -> None:
    image = torch.linspace(2, 5, 64).repeat(48, 1)
    out = shown_of(PLAIN, image)
    assert torch.allclose(out, 1 - (image - 2) / 3, atol=1e-4)
    assert torch.allclose(shown_of(replace(PLAIN, white_bones=True), image), (image - 2) / 3, atol=1e-4)
    curved = shown_of(replace(PLAIN, curve=6), image)
    assert bool((curved.diff(dim=1) <= 1e-6).all())
    assert float(curved[0, 31] - curved[0, 32]) > 1.3 * float(out[0, 31] - out[0, 32])
    assert len(shown_of(replace(PLAIN, bits=4), image).unique()) == 16


def test_compression_flattens_and_edges_sharpen() -> None:
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    image = 3 * torch.exp(-((x - 64) ** 2 + (y - 64) ** 2) / 60**2) + 0.2 * ((x.long() // 8) % 2)

    def detail(display: Display) -> float:
        out = shown_of(display, image)
        return float(out.diff(dim=1).abs().mean())

    assert detail(replace(PLAIN, compression=0.9, compression_mm=20)) > 1.5 * detail(PLAIN)
    assert detail(replace(PLAIN, edges=2, edges_mm=2)) > 1.3 * detail(PLAIN)


def test_what_is_not_valid_does_not_set_the_window() -> None:
    image = torch.linspace(2, 3, 64).repeat(64, 1)
    valid = torch.ones(64, 64, dtype=torch.bool)
    image[:, 50:], valid[:, 50:] = 9.0, False
    out = shown_of(replace(PLAIN, window=(0, 100)), image, valid)
    assert float(out[0, 0]) == pytest.approx(1) and float(out[0, 49]) == pytest.approx(0, abs=1e-5)
    with pytest.raises(InputError, match="valid"):
        shown_of(PLAIN, image, torch.zeros(64, 64, dtype=torch.bool))
    with pytest.raises(InputError, match="displays"):
        displayed(image[None], valid[None], torch.ones(1, 2), [PLAIN, PLAIN])


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_drawn_apparatus_lies_in_its_ranges_and_fills_them() -> None:
    ranges = ExposureRanges(intensifier=0.4)
    made = [ranges.draw(generator(1, i)) for i in range(400)]
    assert made[7] == ranges.draw(generator(1, 7))
    for low, high, values in (
        (60, 120, [c.tube.kv for c in made]),
        (300, 30000, [c.dose.photons for c in made]),
        (0.1, 0.4, [c.detector.blur_mm for c in made]),
        (0.0, 0.15, [c.detector.glare for c in made]),
        (0.6, 1.4, [c.scatter.factor for c in made]),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    assert np.median([c.dose.photons for c in made]) == pytest.approx(3000, rel=0.25)
    assert {c.tube.copper_mm for c in made} == set(ranges.copper_mm)
    assert {c.detector.bits for c in made} == set(ranges.bits)
    for chance, share in (
        (0.4, [c.collimator is None for c in made]),
        (0.3, [c.collimator is not None and c.collimator.corner > 0 for c in made]),
        (0.5, [c.scatter.grid is None for c in made]),
        (0.4, [c.intensifier is not None for c in made]),
    ):
        assert np.mean(share) == pytest.approx(chance, abs=0.09)  # 3.6 standard deviations


def test_one_range_changes_nothing_else_that_is_drawn() -> None:
    a, b = (ExposureRanges(kv=kv, grid=chance).draw(generator(3)) for kv, chance in (((60.0, 120.0), 0.5), ((70.0, 70.0), 0.0)))
    assert b.tube.kv == 70 and b.scatter.grid is None
    assert (a.detector, a.dose, a.collimator, a.tube.copper_mm) == (b.detector, b.dose, b.collimator, b.tube.copper_mm)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tube(kv=30.0),
        lambda: Tube(heel=-0.1),
        lambda: Dose(0.0),
        lambda: Dose(math.nan),
        lambda: Dose(100.0, "nowhere"),
        lambda: Dose(100.0, per="inch"),
        lambda: Collimator(0.0, 1.0),
        lambda: Collimator(0.5, 0.4, 0.45),
        lambda: Collimator(centre=(math.nan, 0.0)),
        lambda: Detector(bits=20),
        lambda: Detector(glare=1.0),
        lambda: Detector(csi_mm=0.0),
        lambda: Detector(full_scale=0.0),
        lambda: Intensifier(pincushion=0.5),
        lambda: ExposureConfig(noise="loud"),
        lambda: ExposureConfig(rays=0),
        lambda: Display(compression=2.0),
        lambda: Display(window=(50.0, 50.0)),
        lambda: Display(edges_mm=0.0),
        lambda: Display(bits=3),
        lambda: ExposureRanges(kv=(100.0, 60.0)),
        lambda: ExposureRanges(kv=(30.0, 60.0)),
        lambda: ExposureRanges(copper_mm=()),
        lambda: ExposureRanges(grid=1.5),
        lambda: ExposureRanges(round_field=0.7, rectangular_field=0.7),
        lambda: ExposureRanges(photons=(0.0, 10.0)),
        lambda: ExposureRanges(blur_mm=(-1.0, 0.1)),
        lambda: ExposureRanges(gain=(0.0, 3.0)),
    ],
)
def test_settings_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]
