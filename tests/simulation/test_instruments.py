"""mm of metal on every ray: against volumes known by hand, swept meshes, finer pixels, and the same in PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.projection import mesh_rays, project_mesh
from raylign.simulation.instruments import (
    INSTRUMENTS,
    Body,
    Curve,
    Instrument,
    Layer,
    Placed,
    as_bodies,
    cylinders_cpu,
    cylinders_torch,
    draw_instrument,
    instrument_mask,
    instrument_paths,
    lines,
    tube_mesh,
)
from raylign.simulation.instruments.pieces import pieces
from raylign.simulation.seeds import generator

D = torch.float64


def view(pitch: float = 0.5, shape: tuple[int, int] = (128, 120), **angles: float) -> View:
    return View.from_carm(sid=1200, sod=800, pixel_spacing=pitch, shape=shape, **angles)


def flat(pitch: float = 1.0, shape: tuple[int, int] = (128, 120), **angles: float) -> View:
    return View.from_parallel(pixel_spacing=pitch, shape=shape, **({"primary": 0.0} | angles))


def rod(begin: list[float], end: list[float], outer: float, inner: float = 0.0, **more: object) -> Placed:
    line = torch.tensor([begin, end], dtype=D)
    return Instrument("rod", line, fixed=(Curve(line, outer, inner, **more),)).placed()  # type: ignore[arg-type]


def spring(radius: float = 12.0, outer: float = 2.0, inner: float = 0.0) -> Placed:
    line = torch.from_numpy(lines.thinned(lines.helix(radius, 25.0, 60.0, 40), 0.05) - np.array([0.0, 0.0, 30.0]))
    return Instrument("spring", line, fixed=(Curve(line, outer, inner),)).placed()


def somewhere(seed: int, size: float = 20.0) -> torch.Tensor:
    return se3.exp(torch.randn(6, generator=generator(seed), dtype=D) * torch.tensor([1.0, 1, 1, size, size, size]))


# -- against numbers known by hand -------------------------------------------------------------------------------------


def test_the_middle_of_a_rod_is_as_thick_as_it_is() -> None:
    v = view(0.1, (41, 41), primary=0)
    paths = instrument_paths([[rod([-30.0, 0, 0], [30.0, 0, 0], 5.0)]], v)
    assert float(paths["steel"][0, 20, 20]) == pytest.approx(10.0, rel=1e-4)
    hollow = instrument_paths([[rod([-30.0, 0, 0], [30.0, 0, 0], 5.0, 3.0, fill=0.5)]], v)
    assert float(hollow["steel"][0, 20, 20]) == pytest.approx(0.5 * (10 - 6), rel=1e-4)


def test_a_rod_seen_from_its_end_is_as_thick_as_it_is_long() -> None:
    v = flat(0.25, (81, 81))
    along = torch.stack([v.origin, v.source])  # the rays' own direction
    unit = (along[0] - along[1]) / (along[0] - along[1]).norm()
    image = instrument_paths([[rod((-20 * unit).tolist(), (20 * unit).tolist(), 3.0)]], v)["steel"][0]
    assert float(image[40, 40]) == pytest.approx(40.0, rel=1e-6)
    assert float(image.sum()) * 0.25**2 == pytest.approx(math.pi * 9 * 40, rel=0.01)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), outer=st.floats(0.05, 4.0), share=st.sampled_from([0.0, 0.5, 0.9]), pitch=st.floats(0.4, 3.0))
def test_a_parallel_beam_sees_the_volume_of_a_bent_tube(seed: int, outer: float, share: float, pitch: float) -> None:
    """However thin a wire is and however coarse the pixels are, the picture holds all of its metal."""
    placed = spring(12.0, outer, share * outer).moved(somewhere(seed))
    v = flat(pitch, (round(220 / pitch), round(220 / pitch)), primary=float(seed % 180))
    image = instrument_paths([[placed]], v)["steel"][0].double()
    line = placed.centre_line.numpy()
    volume = math.pi * outer**2 * (1 - share**2) * lines.lengths(line)[-1]
    # thinner than a pixel, every turn of the spring is cut where lines along rows give way to lines along columns
    assert float(image.sum()) * pitch**2 == pytest.approx(volume, rel=0.03 if pitch < 2 * outer else 0.15)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(outer=st.floats(0.05, 4.0), pitch=st.floats(0.3, 3.0), slant=st.floats(-0.9, 0.9), shift=st.floats(-2.0, 2.0))
def test_every_row_across_a_straight_wire_holds_its_cross_section(outer: float, pitch: float, slant: float, shift: float) -> None:
    """The area of the ellipse in which the row's plane cuts the wire, magnified: to the last digits, however thin it is."""
    v = flat(pitch, (9, round(40 / pitch) + 24))
    across, down = v.column_step / pitch, v.row_step / pitch
    middle = v.pixel_centres()[4, v.shape[1] // 2] / 2 + (v.source + 4 * v.row_step) / 2
    wire = [(middle + shift * across + t * (down + slant * across)).tolist() for t in (-200.0, 200.0)]
    image = instrument_paths([[rod(*wire, outer)]], v)["steel"][0].double()
    area = math.pi * outer**2 * math.sqrt(1 + slant**2)
    assert torch.allclose(image.sum(1) * pitch, torch.full((9,), area, dtype=D), rtol=1e-5)


@pytest.mark.parametrize("outer", [0.18, 0.45, 1.0, 3.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_coarse_pixel_is_the_mean_of_the_fine_ones_in_it(outer: float, seed: int) -> None:
    placed = spring(20.0, outer).moved(somewhere(seed))
    fine, coarse = view(0.25, (512, 480)), view(2.0, (64, 60))
    mean = torch.nn.functional.avg_pool2d(instrument_paths([[placed]], fine)["steel"], 8)[0]
    image = instrument_paths([[placed]], coarse)["steel"][0]
    assert float(mean.max()) > 0.1 * outer
    assert float((image - mean).abs().mean()) < 0.08 * float(mean.mean())
    assert float((image - mean).abs().max()) < 0.25 * float(mean.max())
    assert float(image.sum()) == pytest.approx(float(mean.sum()), rel=0.01)


# -- against the mesh projector ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [0.0, 1.4])
@pytest.mark.parametrize("angles", [{}, {"primary": 40.0, "secondary": -25.0}, {"primary": 90.0}])
def test_a_bent_tube_agrees_with_its_swept_mesh(inner: float, angles: dict[str, float]) -> None:
    placed = spring(12.0, 2.0, inner)
    v = view(0.5, (200, 128), **angles)
    ((points, *_),) = placed.tubes(0.015)  # the chords that are drawn at this pitch
    mesh = tube_mesh(points, 2.0, inner, sides=64)
    truth = torch.nn.functional.avg_pool2d(project_mesh(mesh, v.resample((1600, 1024)))[0], 8)[0]
    image = instrument_paths([[placed]], v)["steel"][0]
    assert float(truth.max()) > 10
    assert float(image.sum()) == pytest.approx(float(truth.sum()), rel=2e-4)
    assert float((image - truth).abs().mean()) < 2e-3 * float(truth.mean())


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_every_instrument_agrees_with_its_surfaces(name: str) -> None:
    placed = draw_instrument(name, generator(7)).placed(somewhere(4, 5.0))
    v = view(1.0, (96, 96), primary=30)
    fine = v.resample((384, 384))
    truth: dict[str, torch.Tensor] = {}
    for body in as_bodies(placed, 32):
        thick = torch.nn.functional.avg_pool2d(project_mesh(body.mesh, fine)[0], 4)[0]
        truth[body.material] = truth.get(body.material, 0) + body.fill * thick
    paths = instrument_paths([[placed]], v)
    assert set(paths) == set(truth) == set(placed.instrument.materials)
    for material, image in paths.items():
        # a mesh is sampled at four by four points a pixel: thin parts are found by few of them
        assert float(image[0].sum()) == pytest.approx(float(truth[material].sum()), rel=0.03, abs=0.5), material
        assert float((image[0] - truth[material]).abs().mean()) < 0.12 * float(truth[material].mean()) + 1e-3, material


# -- batches, devices, poses -------------------------------------------------------------------------------------------


def crowd(count: int) -> list[list[Placed]]:
    g = generator(11)
    return [[draw_instrument(name, g).placed(somewhere(i)) for name in INSTRUMENTS] for i in range(count)]


def crowd_views(shape: tuple[int, int] = (64, 56)) -> list[View]:
    return [
        view(2.4, shape, primary=10), view(0.9, shape, primary=100, secondary=20).flip(columns=True), view(3.0, shape),
        flat(2.0, shape, primary=30), view(1.5, shape, primary=-60).flip(rows=True),
    ]  # fmt: skip


def test_pytorch_and_the_kernel_are_one() -> None:
    some, views = crowd(5), crowd_views()
    # one seen end-on, one that reaches behind the source, one that crosses the detector, one beside the picture
    ray = views[0].rays()[1][30, 30]
    begin = views[0].source
    some[0] += [
        rod((begin + 0.5 * ray).tolist(), (begin + 0.6 * ray).tolist(), 2.0, 1.0),
        rod((begin - 0.1 * ray).tolist(), (begin + 0.3 * ray).tolist(), 2.0),
        rod((begin + 0.9 * ray).tolist(), (begin + 1.1 * ray + torch.tensor([9.0, 0, 0])).tolist(), 2.0),
        rod([900.0, 0, 0], [900.0, 0, 40], 2.0),
    ]
    materials = sorted({m for them in some for it in them for m in it.instrument.materials})
    what = pieces([[tube for it in them for tube in it.tubes()] for them in some], materials)
    rays, parallel = torch.stack([v.ray_vectors for v in views]), [v.beam == "parallel" for v in views]
    inverse = torch.linalg.inv(torch.stack([mesh_rays.frame(r, p) for r, p in zip(rays, parallel, strict=True)]))
    shape = (len(materials), *views[0].shape)
    one, two = (module.draw(rays, inverse, parallel, what, shape) for module in (cylinders_cpu, cylinders_torch))
    assert float(one.max()) > 10
    assert torch.allclose(one, two, rtol=1e-8, atol=1e-9)


def test_a_batch_is_its_images_one_by_one_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    some, views = crowd(5), crowd_views()
    monkeypatch.setenv("RAYLIGN_THREADS", "3")
    together = instrument_paths(some, views)
    monkeypatch.setenv("RAYLIGN_THREADS", "1")
    for i in range(5):
        alone = instrument_paths([some[i]], views[i])
        assert all(torch.equal(image[0], together[material][i]) for material, image in alone.items())


def test_moving_the_instrument_is_moving_the_view() -> None:
    some, pose = crowd(1), somewhere(9, 10.0)
    v = view(1.6, (64, 64), primary=15)
    moved = instrument_paths(some, v, pose)
    other = instrument_paths(some, v.transformed(se3.inverse(pose)))
    for material in moved:
        assert torch.allclose(moved[material], other[material], atol=2e-3), material


def test_the_mask_is_where_anything_lies() -> None:
    v = view(1.0, (64, 64))
    paths = instrument_paths(
        [[rod([-20.0, 0, 0], [20.0, 0, 0], 2.0), rod([0.0, 0, -20], [0, 0, 20], 1.0, material="lead")], []], v
    )
    mask = instrument_mask(paths)
    assert set(paths) == {"steel", "lead"}
    assert torch.equal(mask[0], (paths["steel"][0] + paths["lead"][0]) > 0)
    assert 100 < int(mask[0].sum()) < 800
    assert not bool(mask[1].any())
    assert int(instrument_mask(paths, 3.0).sum()) < int(mask.sum())


def test_what_does_not_fit_is_refused() -> None:
    it = rod([0.0, 0, 0], [0, 0, 9], 1.0)
    assert instrument_paths([[], []], view()) == {}
    with pytest.raises(InputError, match="nothing lies in the beam"):
        instrument_mask({})
    with pytest.raises(InputError, match="do not fit"):
        instrument_paths([[it], [it], [it]], [view(), view()])
    with pytest.raises(InputError, match="do not fit"):
        instrument_paths([[it]], view(), torch.eye(4).expand(2, 4, 4))
    with pytest.raises(InputError, match="unknown material"):
        Curve(torch.eye(3), 1.0, material="gold")
    with pytest.raises(InputError, match="no wall"):
        Curve(torch.eye(3), 1.0, 1.0)
    with pytest.raises(InputError, match="no length"):
        Layer(3.0, 3.0, 1.0)
    with pytest.raises(InputError, match="not rigid"):
        it.instrument.placed(2 * torch.eye(4))
    with pytest.raises(InputError, match="filling"):
        Body(tube_mesh(np.eye(3), 0.1), "steel", 0.0)
