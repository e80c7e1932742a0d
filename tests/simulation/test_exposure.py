"""The exposure's physics, on bodies simple enough to calculate by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raylign import project
from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.simulation import ExposureConfig, Wire, expose, guide_wire
from raylign.simulation.detector import scattered
from raylign.simulation.instruments import steel_thickness
from raylign.simulation.paths import BONE_HU, path_lengths
from raylign.simulation.spectrum import spectrum

QUIET = {"scatter": 0.0, "blur_mm": 0.0, "electronic": 0.0}
CENTRED = Rigid(torch.eye(4, dtype=torch.float64))


def view(shape: tuple[int, int] = (48, 56), pitch: float = 2.0, **angles: float) -> View:
    return View.from_carm(sid=1200, sod=800, pixel_spacing=pitch, shape=shape, **angles)


def slab(hu: float, thick: float = 120.0, wide: float = 260.0, voxel: float = 5.0) -> Volume:
    """A block of one material around the isocentre, ``thick`` mm from front to back."""
    n, m = round(wide / voxel) + 1, round(thick / voxel) + 1
    affine = torch.diag(torch.tensor([voxel, voxel, voxel, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-wide / 2, -thick / 2, -wide / 2])
    return Volume(torch.full((n, m, n), hu), affine, unit="HU")


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- path lengths ------------------------------------------------------------------------------------------------------


def test_water_on_the_central_ray_is_the_thickness_of_the_slab() -> None:
    v = view((3, 3), 0.1)
    water, bone = path_lengths(slab(0.0), v, CENTRED, seeded())
    assert float(water[1, 1]) == pytest.approx(120, abs=1e-3)
    assert float(bone.abs().max()) == 0


def test_an_oblique_ray_is_longer_by_its_slope() -> None:
    v = view()
    water, _ = path_lengths(slab(0.0), v, CENTRED, seeded())
    rays = v.rays()[1]
    cosine = (rays @ v.normal) / rays.norm(dim=-1)
    assert torch.allclose(water.double(), 120 / cosine, rtol=1e-5)


def test_cortical_bone_is_bone_alone_and_air_is_nothing() -> None:
    v = view((3, 3), 0.1)
    water, bone = path_lengths(slab(BONE_HU), v, CENTRED, seeded())
    assert float(bone[1, 1]) == pytest.approx(120, abs=1e-3)
    assert float(water.abs().max()) == pytest.approx(0, abs=1e-3)
    assert float(path_lengths(slab(-1000.0), v, CENTRED, seeded()).abs().max()) == 0


def test_water_agrees_with_the_renderer_which_integrates_otherwise() -> None:
    """A smooth lump under a turned pose: two integrators, one geometry."""
    z, y, x = np.mgrid[-30:31, -25:26, -28:29] * 3.0
    density = np.exp(-((x - 20) ** 2 + (y + 10) ** 2 + z**2) / 40**2)
    affine = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-84.0, -75.0, -90.0])
    pose = se3.exp(torch.tensor([0.2, -0.1, 0.3, 12.0, -8.0, 15.0], dtype=torch.float64))
    v = view(primary=25, secondary=-10)
    water, _ = path_lengths(Volume(torch.tensor(1000 * (density - 1)), affine, unit="HU"), v, Rigid(pose), seeded())
    rendered = project(Volume(torch.tensor(density).float(), affine, unit="1/mm"), v, pose)[0, 0]
    assert float(rendered.max()) > 60
    assert float((water - rendered).abs().max()) < 0.005 * float(rendered.max())


def test_two_materials_need_hu() -> None:
    with pytest.raises(InputError, match="HU"):
        expose(Volume(torch.zeros(4, 4, 4), torch.eye(4)), view(), CENTRED)


# -- noise, scatter, hardening -----------------------------------------------------------------------------------------


def test_noise_has_the_variance_of_counted_photons() -> None:
    """Energy-integrating: mean sum w N, variance sum w^2 N over the bins, with N Poisson."""
    body, v, photons = slab(0.0), view((120, 120), 0.5), 400.0
    config = ExposureConfig(photons=photons, rays=1, **QUIET)
    one, two = (expose(body, v, CENTRED, config, seeded(s)).counts.double() for s in (1, 2))
    beam = spectrum(config.kv)
    paths = torch.tensor([120.0, 0.0, 0.0], dtype=torch.float64)[:, None, None]
    n = beam.transmitted(paths)[:, 0, 0]
    per_pixel = photons / float(n.sum())
    gain = 0.9 * 65535 / per_pixel
    assert float(one.mean()) == pytest.approx(gain * per_pixel * float(beam.weight @ n), rel=0.01)
    variance = float((one - two).var()) / 2
    # 14,400 pixels know a variance to 1.2 percent
    assert variance == pytest.approx(gain**2 * per_pixel * float(beam.weight**2 @ n), rel=0.05)


def test_the_median_pixel_gets_the_photons_asked_for() -> None:
    v = view((64, 64), 1.0)
    counts = {}
    for photons in (500.0, 2000.0):
        config = ExposureConfig(photons=photons, **QUIET)
        e = expose(slab(0.0), v, CENTRED, config, seeded()).counts.double()
        counts[photons] = (float(e.mean()) / float(e.std())) ** 2
    # signal-to-noise squared counts photons, less the few percent by which their energies differ
    for photons, seen in counts.items():
        assert 0.8 * photons < seen < 1.02 * photons


def test_scatter_is_in_the_stated_ratio_to_the_primary() -> None:
    body, v = slab(0.0), view((64, 64), 4.0)
    quiet = ExposureConfig(photons=1e6, rays=1, **QUIET)
    noisy = ExposureConfig(photons=1e6, rays=1, scatter=0.8, blur_mm=0.0, electronic=0.0)
    primary, both = (expose(body, v, CENTRED, c, seeded()).counts.double() for c in (quiet, noisy))
    assert float(both.sum() / primary.sum()) - 1 == pytest.approx(0.8, abs=0.01)


def test_scatter_is_smooth_and_comes_from_the_patient() -> None:
    primary = torch.ones(80, 80, dtype=torch.float64)
    primary[20:60, 20:60] = 0.1
    s = scattered(primary, torch.ones_like(primary), 0.5, 12.0)
    behind = primary < 0.5
    assert float(s[behind].sum() / primary[behind].sum()) == pytest.approx(0.5, rel=1e-9)
    assert float(s[40, 40]) > 3 * float(s[0, 0]) > 0
    assert float(s.diff(dim=0).abs().max()) < 0.06 * float(s.max())
    assert float(scattered(torch.ones_like(primary), torch.ones_like(primary), 0.5, 12.0).abs().max()) < 1e-9


def test_twice_the_patient_is_less_than_twice_the_line_integral() -> None:
    v = view((16, 16), 0.5)
    thin, thick = (
        float(expose(slab(300.0, t), v, CENTRED, ExposureConfig(photons=1e6, rays=1, **QUIET), seeded()).xray.image.mean())
        for t in (60.0, 120.0)
    )
    assert 1.5 * thin < thick < 1.97 * thin


def test_blur_correlates_neighbours() -> None:
    v = view((96, 96), 0.5)
    sharp, soft = (
        expose(slab(0.0), v, CENTRED, ExposureConfig(scatter=0, electronic=0, blur_mm=b), seeded()).counts.double()
        for b in (0, 0.5)
    )
    neighbour = [float(np.corrcoef(c[:, :-1].flatten(), c[:, 1:].flatten())[0, 1]) for c in (sharp, soft)]
    assert abs(neighbour[0]) < 0.1
    assert neighbour[1] > 0.5
    assert float(soft.std()) < 0.5 * float(sharp.std())


# -- detector, collimator, wires ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_counts_and_another_seed_others() -> None:
    v = view()
    a, b, c = (expose(slab(0.0), v, CENTRED, None, seeded(s)).counts for s in (5, 5, 6))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_image_is_the_logarithm_of_the_counts() -> None:
    e = expose(slab(0.0), view(), CENTRED, ExposureConfig(bits=12), seeded())
    counts = e.counts.double()
    assert float(counts.max()) < 4096
    assert torch.allclose(e.xray.image.double(), -torch.log(counts / e.xray.meta["open_beam_counts"]), atol=1e-6)
    assert e.xray.scale == "line-integral"


def test_the_mask_is_the_round_field() -> None:
    v = view((80, 100), 1.0)
    e = expose(slab(0.0), v, CENTRED, ExposureConfig(collimator=0.8), seeded())
    y, x = np.ogrid[:80, :100]
    r = np.hypot(y - 39.5, x - 49.5)
    mask = e.xray.mask.numpy()
    assert mask[r < 28].all() and not mask[r > 32].any()
    counts = e.counts.double().numpy()
    assert counts[r > 35].mean() < 0.4 * counts[r < 28].mean()


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


def test_a_guide_wire_darkens_the_exposure() -> None:
    v = view((100, 100), 2.0)
    g = seeded()
    wire = guide_wire(g, diameter=2.0)
    plain, wired = (expose(slab(0.0), v, CENTRED, ExposureConfig(wires=w), seeded()).xray.image for w in ((), (wire,)))
    on = steel_thickness((wire,), v) > 1
    assert int(on.sum()) > 20
    assert float((wired - plain)[on].mean()) > 0.15
    assert abs(float((wired - plain)[~on].mean())) < 0.1


@pytest.mark.parametrize(
    "bad",
    [{"kv": 60}, {"photons": 0.0}, {"photons": math.nan}, {"scatter": -1.0}, {"collimator": 0.0}, {"bits": 20}, {"rays": 0}],
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError):
        ExposureConfig(**bad)


@pytest.mark.parametrize(
    ("points", "diameter"), [([[0.0, 0, 0]], 1.0), ([[0.0, 0, 0], [math.nan, 0, 0]], 1.0), ([[0.0, 0, 0], [1, 0, 0]], 0.0)]
)
def test_a_wire_that_is_none_is_refused(points: list[list[float]], diameter: float) -> None:
    with pytest.raises(InputError):
        Wire(torch.tensor(points), diameter)
