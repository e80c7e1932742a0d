"""Kernels of scatter: against a Monte Carlo, against the sum they stand for, and in how they change with the exposure."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.simulation.physics.scatter import (
    TRUNK,
    Grid,
    Kernels,
    ScatterConfig,
    centre_distance,
    centre_of_mass,
    kernels,
    scattered,
)


@pytest.fixture(scope="module")
def montecarlo() -> ModuleType:
    """The benchmark's Monte Carlo of a pencil beam in a slab."""
    pytest.importorskip("xraydb")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
        return importlib.import_module("montecarlo")


SLAB = ScatterConfig(factor=1 / TRUNK)  # the superposition itself


def mono(kev: float, distance: float, count: int = 1) -> Kernels:
    return kernels(torch.full((count, 1), kev), torch.ones(count, 1), torch.full((count,), distance))


def slab(thick: float, side: int = 64, primary: float = 0.02) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    t = torch.full((1, side, side), thick)
    return torch.full_like(t, primary), t, torch.ones_like(t)


# -- the Monte Carlo ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["water", "bone"])
def test_angular_distributions_integrate_to_the_cross_sections(montecarlo: ModuleType, name: str) -> None:
    """Klein-Nishina times S, and Thomson times F^2, against the tables of total cross-sections (r_e^2 N_A = 0.04782 cm^2/mol)."""
    import xraydb

    m, parts = montecarlo.medium(name), montecarlo.COMPOSITIONS[name][1]
    electrons = sum(w / xraydb.atomic_mass(e) * xraydb.atomic_number(e) for e, w in parts.items()) / sum(parts.values())
    at = [k - 8 for k in (20, 40, 60, 80)]
    unit = 0.0794079 * 0.602214076 / 10
    assert np.allclose(m.norm_i[at] * unit * electrons, m.incoherent[at], rtol=0.015)
    assert np.allclose(m.norm_c[at] * unit / sum(parts.values()), m.coherent[at], rtol=0.005)


def test_energy_is_neither_made_nor_lost(montecarlo: ModuleType) -> None:
    """A thin layer: what scatters out is the scattered energy of one collision, which Klein and Nishina give."""
    kev, thick = 60.0, 0.05
    pencil = montecarlo.slab("water", kev, thick, [100.0], [0.0, 1000.0], 20_000, seed=1)
    m = montecarlo.medium("water")
    at = 60 - 8
    cosine, weight = np.polynomial.legendre.leggauss(200)
    k = 1 / (1 + kev / 510.999 * (1 - cosine))
    s = np.interp(np.sqrt((1 - cosine) / 2) * kev / 12.39842, np.arange(len(m.s)) * 0.01, m.s)
    angular = k**2 * (k + 1 / k - (1 - cosine**2)) / 2 * s
    kept = (angular * k) @ weight / (angular @ weight)
    expected = (m.incoherent[at] * kept + m.coherent[at]) * thick
    assert pencil.forward + pencil.backward == pytest.approx(expected, rel=0.02)
    assert pencil.primary == pytest.approx(math.exp(-thick * m.total[at]))


@pytest.mark.parametrize(("kev", "thick", "gap", "radius"), [(60.0, 200.0, 200.0, 120.0), (50.0, 100.0, 300.0, 80.0)])
def test_kernels_agree_with_a_monte_carlo(montecarlo: ModuleType, kev: float, thick: float, gap: float, radius: float) -> None:
    """Scatter over primary in the middle of a round field: reciprocity makes it what a pencil beam scatters into that circle."""
    pencil = montecarlo.slab("tissue", kev, thick, [gap], [0.0, radius], 60_000, seed=7)
    expected = pencil.kernel[0, 0] * math.pi * radius**2 / pencil.primary
    primary, t, lit = slab(thick, 129)
    pitch = 2 * radius / 120
    at = (torch.arange(129) - 64.0) * pitch
    lit = (at[:, None] ** 2 + at**2 < radius**2)[None].float()
    found = scattered(primary, t, lit, torch.tensor([pitch]), mono(kev, gap + thick / 2), SLAB)[0, 64, 64] / primary[0, 64, 64]
    assert float(found) == pytest.approx(expected, rel=0.04)


# -- the sum -----------------------------------------------------------------------------------------------------------


def test_it_is_the_superposition_of_all_cells(generator: torch.Generator) -> None:
    """Small images have a cell a pixel: the double sum, in double precision, with the Gaussian integrated by a fine sum."""
    h, w, pitch = 9, 7, (11.0, 14.0)
    primary = torch.rand(1, h, w, generator=generator) * 0.2
    t = 40 + 250 * torch.rand(1, h, w, generator=generator)
    lit = (torch.rand(1, h, w, generator=generator) > 0.3).float()
    k = mono(60.0, 400.0)
    found = scattered(primary, t, lit, torch.tensor([pitch]), k, SLAB)[0]
    fine = (torch.arange(40, dtype=torch.float64) + 0.5) / 40 - 0.5
    expected = torch.zeros(h, w, dtype=torch.float64)
    for r in range(h):
        for c in range(w):
            ratio = [np.interp(float(t[0, r, c]), k.thickness.numpy(), k.ratio[0, :, j].numpy()) for j in range(len(k.width))]
            for j, sigma in enumerate(k.width.double()):
                y = (torch.arange(h)[:, None] - r - fine) * pitch[0]
                x = (torch.arange(w)[:, None] - c - fine) * pitch[1]
                gauss = [torch.exp(-(d**2) / (2 * sigma**2)).mean(1) for d in (y, x)]
                spread = gauss[0][:, None] * gauss[1] / (2 * math.pi * sigma**2) * pitch[0] * pitch[1]
                expected += float(primary[0, r, c] * lit[0, r, c]) * ratio[j] * spread
    assert torch.allclose(found.double(), expected, rtol=2e-3)


def test_cells_and_pixels_do_not_matter() -> None:
    """The same exposure at two pixel sizes: 150 mm of tissue with a thicker half, a round field."""
    seen = []
    for side in (60, 240):
        pitch = 300 / side
        at = (torch.arange(side) + 0.5) * pitch - 150
        t = (150 + 60 * torch.sigmoid(at / 15)).expand(1, side, side)
        lit = (at[:, None] ** 2 + at**2 < 120**2)[None].float()
        s = scattered(torch.exp(-0.02 * t), t, lit, torch.tensor([pitch]), mono(60.0, 400.0))
        seen.append(torch.nn.functional.avg_pool2d(s, side // 60)[0])
    assert float((seen[0] - seen[1]).abs().max()) < 0.02 * float(seen[0].max())


def test_a_batch_is_its_images(generator: torch.Generator) -> None:
    primary, t = torch.rand(3, 40, 50, generator=generator), 300 * torch.rand(3, 40, 50, generator=generator)
    lit, pitch = torch.ones(3, 40, 50), torch.tensor([1.0, 2.0, 3.0])
    kev, share = torch.tensor([[40.0, 60.0], [50.0, 70.0], [60.0, 80.0]]), torch.rand(3, 2, generator=generator)
    distance = torch.tensor([300.0, 400.0, 500.0])
    configs = [ScatterConfig(0.5), ScatterConfig(grid=Grid()), ScatterConfig()]
    both = scattered(primary, t, lit, pitch, kernels(kev, share, distance), configs)
    for i in range(3):
        one = slice(i, i + 1)
        k = kernels(kev[one], share[one], distance[one])
        alone = scattered(primary[one], t[one], lit[one], pitch[one], k, configs[i])
        assert torch.allclose(alone[0], both[i], rtol=1e-5)


# -- how it changes ----------------------------------------------------------------------------------------------------


def centre(thick: float, *, pitch: float = 4.0, kev: float = 60.0, distance: float = 400.0) -> float:
    primary, t, lit = slab(thick)
    return float(scattered(primary, t, lit, torch.tensor([pitch]), mono(kev, distance))[0, 32, 32] / 0.02)


def test_thickness_field_and_distance_change_it_as_in_reality() -> None:
    assert [centre(0.0), *sorted(centre(t) for t in (50.0, 100.0, 200.0, 300.0))] == [
        0.0, *(centre(t) for t in (50.0, 100.0, 200.0, 300.0))
    ]  # fmt: skip
    assert 1.5 < centre(200.0) / centre(100.0) < 4
    assert centre(200.0, pitch=2.0) < 0.5 * centre(200.0)  # a field half as wide, a quarter of the area
    assert centre(200.0, distance=700.0) < 0.6 * centre(200.0)


def test_it_comes_from_what_is_lit_and_reaches_what_is_not() -> None:
    primary, t, lit = slab(200.0)
    lit[:, :, 32:] = 0
    k, pitch = mono(60.0, 400.0), torch.tensor([4.0])
    half = scattered(primary, t, lit, pitch, k)
    other = scattered(primary, t, 1 - lit, pitch, k)
    whole = scattered(primary, t, torch.ones_like(lit), pitch, k)
    assert torch.allclose(half + other, whole, rtol=1e-4)
    assert torch.allclose(half.flip(2), other, rtol=1e-4)
    assert float(half[0, 32, 40]) > 0.1 * float(half[0, 32, 24]) > 0
    assert float(scattered(primary, t, torch.zeros_like(lit), pitch, k).abs().max()) == 0


def test_the_open_beam_scatters_nothing() -> None:
    primary, t, lit = slab(0.0, primary=1.0)
    assert float(scattered(primary, t, lit, torch.tensor([4.0]), mono(60.0, 400.0)).abs().max()) == 0


def test_a_grid_takes_scatter_away() -> None:
    primary, t, lit = slab(200.0)
    k, pitch = mono(60.0, 400.0), torch.tensor([4.0])
    bare, behind = (scattered(primary, t, lit, pitch, k, c) for c in (None, ScatterConfig(grid=Grid(0.7, 0.14))))
    assert torch.allclose(behind, bare * 0.2, rtol=1e-5)


def test_a_beam_is_the_mean_of_its_energies_as_they_come_through() -> None:
    """Two energies, equal shares: behind the slab their primaries weigh what the slab leaves of them."""
    import xraydb

    energies, distance = (50.0, 80.0), 400.0
    both = kernels(torch.tensor([energies]), torch.tensor([[0.5, 0.5]]), torch.tensor([distance]))
    parts = [mono(e, distance).ratio[0] for e in energies]
    soft = {"H": 0.102, "C": 0.143, "N": 0.034, "O": 0.710, "Na": 0.001, "P": 0.002, "S": 0.003, "Cl": 0.002, "K": 0.003}
    mu = [sum(w * float(xraydb.mu_elam(s, e * 1e3)) for s, w in soft.items()) / 10 for e in energies]
    left = [torch.exp(-m * both.thickness)[:, None] for m in mu]
    expected = (left[0] * parts[0] + left[1] * parts[1]) / (left[0] + left[1])
    assert torch.allclose(both.ratio[0], expected, rtol=0.01, atol=1e-4)


# -- where the patient is ----------------------------------------------------------------------------------------------


def test_centre_of_mass_and_its_distance(generator: torch.Generator) -> None:
    density = torch.rand(5, 6, 7, generator=generator)
    affine = se3.exp(torch.tensor([0.2, -0.4, 0.1, 30.0, -20.0, 10.0], dtype=torch.float64)) @ torch.diag(
        torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64)
    )
    k, j, i = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in density.shape), indexing="ij")
    points = torch.stack([i, j, k], -1).reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3]
    expected = (points * density.double().reshape(-1, 1)).sum(0) / density.double().sum()
    found = centre_of_mass(density, affine)
    assert torch.allclose(found, expected, atol=1e-5)
    view = View.from_carm(primary=30, secondary=-10, sid=1200, sod=800, pixel_spacing=2, shape=(64, 64))
    home = torch.eye(4, dtype=torch.float64)
    home[:3, 3] = -found
    away = home.clone()
    away[:3, 3] += 50 * view.normal * torch.sign(view.normal @ (view.origin - view.source))
    distances = centre_distance([view, view], torch.stack([home, away]), torch.stack([found, found]))
    assert torch.allclose(distances, torch.tensor([400.0, 350.0], dtype=torch.float64), atol=1e-6)


def test_nothing_has_no_centre() -> None:
    with pytest.raises(InputError, match="without mass"):
        centre_of_mass(torch.zeros(3, 3, 3), torch.eye(4))


@pytest.mark.parametrize(
    ("kev", "share", "distance"),
    [
        (torch.ones(2, 3), torch.ones(2, 2), torch.ones(2)),
        (torch.ones(2, 3), torch.ones(2, 3), torch.ones(3)),
        (torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1)),
        (torch.ones(1, 2), torch.tensor([[2.0, -1.0]]), torch.ones(1)),
    ],
)
def test_beams_that_are_none_are_refused(kev: torch.Tensor, share: torch.Tensor, distance: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"match|signal"):
        kernels(kev, share, distance)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: ScatterConfig(-1.0), "factor"), (lambda: ScatterConfig(math.nan), "factor"),
    (lambda: Grid(0.0, 0.1), "transmissions"), (lambda: Grid(0.7, 1.2), "transmissions"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(make: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()  # type: ignore[operator]
