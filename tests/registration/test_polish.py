"""The last step: nearer to the truth where the model fits, no farther from it where it does not."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from raylign.data import XRay
from raylign.evaluation.metrics import mrpd, mtre
from raylign.evaluation.uncertainty import mahalanobis
from raylign.geometry import Rigid
from raylign.projection import cpu
from raylign.registration import Direct, DirectConfig, Problem, Result, SearchConfig
from raylign.registration.polish import Polish, PolishConfig, polish
from raylign.registration.polish_beam import Beam, developed, fit_beam, hinges, water_and_bone
from raylign.registration.polish_kernels import cost_of, equations, subtract_means
from raylign.registration.polish_rays import two_materials
from raylign.registration.search import moved
from raylign.simulation import Dose, ExposureConfig, expose
from raylign.simulation.physics import materials, spectrum
from tests.registration.scene import chest, exposure, patient, targets, truth, view

polish_module = sys.modules["raylign.registration.polish"]  # whose name the function has too
NEAR = DirectConfig(search=SearchConfig(hypotheses=1))


def start() -> Rigid:
    """About 1 degree and 3 mm off."""
    pose = truth()
    centre = pose.apply(chest().centre[None])[0].numpy()
    twist = np.array([0.02, -0.015, 0.02, 2.5, -1.5, 4.0])
    return Rigid(torch.from_numpy(moved(pose.matrix.numpy(), twist, centre)))


def problem(xray: XRay) -> Problem:
    return Problem(chest(), (xray,), start())


def across(pose: Rigid) -> float:
    """mRPD in mm."""
    return float(mrpd(pose, truth(), targets(), view()))


@lru_cache(maxsize=1)
def alone() -> XRay:
    """The model itself and nothing beyond it, many photons."""
    config = ExposureConfig(dose=Dose(photons=20_000))
    return expose(chest(), view(), truth(), config, torch.Generator().manual_seed(2)).xray


def gamma() -> XRay:
    """The exposure of the whole patient as a display shows it: monotone, strongly bent."""
    xray = exposure()
    top = float(xray.image[xray.mask].max())
    return replace(xray, image=top * (xray.image.clamp_min(0) / top) ** 0.55, scale="monotone")


def wires() -> XRay:
    """Two bars of steel across the chest."""
    bars = torch.zeros(view().shape)
    bars[40:44, 20:150] = 4.0
    bars[90:160, 100:106] = 6.0
    config = ExposureConfig()
    return expose(patient(), view(), truth(), config, torch.Generator().manual_seed(3), extra={"steel": bars}).xray


def breath() -> XRay:
    """All that is not bone in the lower front half 8 mm from where the CT has it."""
    whole = patient()
    data = whole.data.clone()
    soft = data < 150
    low = torch.zeros_like(soft)
    low[: data.shape[0] // 2, : data.shape[1] // 2] = True
    shifted = torch.roll(data, 3, 0)
    take = low & soft & (shifted < 150)
    data[take] = shifted[take]
    return expose(replace(whole, data=data), view(), truth(), ExposureConfig(), torch.Generator().manual_seed(4)).xray


def test_gradient_is_that_of_the_cost() -> None:
    """Against differences of the cost, the weights and the gain's own derivative included."""
    random = np.random.default_rng(0)
    smooth = [np.kron(random.normal(size=(10, 12)), np.ones((4, 4))) for _ in range(3)]
    moving, derivative, other = (s + 0.3 * random.normal(size=s.shape) for s in smooth)
    fixed = 1.4 * moving + 0.2 * other
    valid = np.ones(fixed.shape, np.bool_)
    valid[5:9, 20:30] = False

    def prepared(*images: np.ndarray) -> np.ndarray:
        out = np.empty((len(images), *fixed.shape), np.float32)
        subtract_means(np.stack(images).astype(np.float32), valid, 4, out)
        return out

    target = prepared(fixed)[0]

    def cost(x: float) -> float:
        return cost_of(target, prepared(moving + x * derivative), valid, 4, 0.01)[0]

    scores, hessian = np.zeros((12, 1)), np.zeros((1, 1))
    equations(prepared(moving, derivative), target, valid, 4, np.float32(0.01), 16, hessian, scores)
    difference = (cost(0.01) - cost(-0.01)) / 0.02
    assert -2 * scores.sum() == pytest.approx(difference, rel=0.02)
    assert hessian[0, 0] > 0


def test_many_photons_take_it_nearer() -> None:
    """From where the direct method ends, on an exposure of the model alone."""
    model = replace(chest(), truncated=((False, False),) * 3)
    given = replace(problem(alone()), model=model)
    direct = Direct(NEAR).search_once(given)
    last = polish(given, direct)
    assert last.method == "direct+polish" and last.settings["polish"]["steps_taken"] == 1
    before, after = (float(mtre(r.transform, truth(), targets())) for r in (direct, last))
    assert after < 0.75 * before
    assert across(last.transform) < 0.03
    assert last.timings["polish"] > 0 and last.confidence is direct.confidence


@pytest.mark.parametrize("made", [exposure, wires, breath])
def test_no_worse_where_model_and_exposure_differ(made) -> None:  # type: ignore[no-untyped-def]
    """Body beyond the model, metal, tissue that moved: as near as before, to a fiftieth of a pixel at the model."""
    given = problem(made())
    direct = Direct(NEAR).search_once(given)
    last = polish(given, direct)
    assert across(last.transform) < across(direct.transform) + 0.02
    assert float(mtre(last.transform, truth(), targets())) < float(mtre(direct.transform, truth(), targets())) + 0.1


@pytest.mark.parametrize("made", [exposure, wires, breath])
def test_counts_do_no_harm_where_they_are_taken_in_any_case(made, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The step by counted photons, whatever its covariance says: as near as the direct method ended."""
    monkeypatch.setattr(polish_module, "_CERTAIN", 1e6)
    given = problem(made())
    direct = Direct(NEAR).search_once(given)
    last = polish(given, direct)
    assert across(last.transform) < across(direct.transform) + 0.02


def test_counts_are_taken_where_they_make_the_pose_more_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(chest(), truncated=((False, False),) * 3)
    given = replace(problem(alone()), model=model)
    direct = Direct(NEAR).search_once(given)
    windows, last = polish(given, direct, PolishConfig(counts=False)), polish(given, direct)
    assert not windows.settings["polish"]["counted"] and last.settings["polish"]["counted"]
    gained = np.trace(np.linalg.solve(windows.covariance.numpy(), last.covariance.numpy())) / 6
    assert gained < 0.9**2
    monkeypatch.setattr(polish_module, "_CERTAIN", 0.99 * float(gained) ** 0.5)
    refused = polish(given, direct)
    assert not refused.settings["polish"]["counted"]
    assert torch.equal(refused.transform.matrix, windows.transform.matrix)
    assert torch.equal(refused.covariance, windows.covariance)


def test_a_pose_that_is_far_off_stays() -> None:
    given = problem(exposure())
    near = Direct(NEAR).search_once(given)
    wrong = moved(near.transform.matrix.numpy(), np.array([0.0, 0.1, 0.0, 15.0, 0.0, 10.0]), near.centre.numpy())
    far: Result = replace(near, transform=Rigid(torch.from_numpy(wrong)))
    kept = polish(given, far)
    assert kept.settings["polish"]["steps_taken"] == 0
    assert torch.equal(kept.transform.matrix, far.transform.matrix)
    assert torch.equal(kept.covariance, far.covariance)


def test_behind_any_method_and_repeatable() -> None:
    given = problem(exposure())
    config = PolishConfig(pixels=128)
    first = Polish(Direct(NEAR), config).register(given)
    again = Polish(Direct(NEAR), config).register(given)
    assert torch.equal(first.transform.matrix, again.transform.matrix)
    assert first.method.startswith("direct")


def test_two_exposures_of_different_beams() -> None:
    """Each view has a weight of bone of its own."""
    model = replace(chest(), truncated=((False, False),) * 3)
    side = expose(chest(), view(100.0), truth(), ExposureConfig(dose=Dose(photons=20_000)), torch.Generator().manual_seed(6)).xray
    given = Problem(model, (alone(), side), start())
    direct = Direct(NEAR).search_once(given)
    last = polish(given, direct)
    assert float(mtre(last.transform, truth(), targets())) < 0.05
    assert mahalanobis(last, truth()) < 5
    assert not torch.equal(last.covariance, direct.covariance)


def test_what_is_bone_in_an_attenuation_is_what_the_tissues_hold() -> None:
    """Against the volume fractions of the simulator's tissues; with water they attenuate as the scan says."""
    hu = torch.linspace(-740, 2500, 400, dtype=torch.float64)
    parts = materials.fractions(hu)
    expected = sum(parts[name] * materials.as_water_and_bone(name)[1] for name in materials.TISSUES)
    v = materials.at_ct("water") * (1 + hu.numpy() / 1000)
    bone = sum(c * np.maximum(v - k, 0) for k, c in hinges().astype(float))
    np.testing.assert_allclose(bone, expected.numpy(), atol=0.002)
    water, same = water_and_bone(np.stack([v, bone]).astype(np.float32))
    np.testing.assert_allclose(materials.at_ct("water") * water + materials.at_ct("bone") * same, v, rtol=1e-4)


def _ball() -> tuple[cpu.Grid, np.ndarray]:
    z, y, x = np.mgrid[:24, :26, :28].astype(float)
    data = 0.04 * np.exp(-(((x - 13.3) / 5) ** 2 + ((y - 12.4) / 4) ** 2 + ((z - 11.8) / 6) ** 2))
    padded, inner = cpu.padded_zeros(data.shape)
    inner[:] = data
    return cpu.grid_around(padded), data


def test_two_materials_against_scipy() -> None:
    """Integrals of v and of a bent function of it, on many fine samples by another interpolation."""
    from scipy.ndimage import map_coordinates

    grid, data = _ball()
    rays = np.array([[13.4, -60.0, 12.3], [-8.0, 130.0, -7.0], [4.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    bends = np.zeros((5, 2), np.float32)
    bends[:2] = [[0.01, 2.0], [0.025, -0.7]]
    image, slopes = two_materials(grid, rays, (4, 5), 1000, np.ones((4, 5), np.bool_), bends, gradients=True)
    t = (np.arange(20_000) + 0.5) / 20_000

    def integrals(r: int, c: int, shift: np.ndarray) -> tuple[float, float]:
        points = (rays[0] + shift)[:, None] + t * (rays[1] + c * rays[2] + r * rays[3])[:, None]
        v = map_coordinates(data.astype(np.float32).astype(float), points[::-1], order=1, mode="constant")
        return float(v.mean()), float((2.0 * np.maximum(v - 0.01, 0) - 0.7 * np.maximum(v - 0.025, 0)).mean())

    for r, c in ((1, 1), (2, 3), (3, 2)):
        np.testing.assert_allclose(image[:, r, c], integrals(r, c, np.zeros(3)), rtol=5e-3)
        for axis in (0, 2):  # across the rays, about
            e = 0.05 * np.eye(3)[axis]
            step = (np.array(integrals(r, c, e)) - integrals(r, c, -e)) / 0.1
            np.testing.assert_allclose(slopes[:, r, c, axis], step, rtol=0.05, atol=0.02 * np.abs(slopes[..., :3]).max())


def _materials() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[2, H, W] integrals of v and b, and the mm of water and bone behind them."""
    r, c = np.mgrid[:90, :100].astype(float)
    water = 180 + 40 * np.cos(r / 17) * np.sin(c / 23)
    bone = 12 * np.exp(-(((r - 40) / 12) ** 2)) + 6 * (np.abs(c - 60) < 8)
    v = materials.at_ct("water") * water + materials.at_ct("bone") * bone
    return np.stack([v, bone]).astype(np.float32), water, bone


def test_beam_and_scatter_are_found_again() -> None:
    """From all energies of a beam and smooth scatter of twice the primary, some metal in the way."""
    integrals, water, bone = _materials()
    beam = spectrum.spectrum(100.0)
    primary = beam.transmission(water=water.ravel(), bone=bone.ravel()).reshape(water.shape)
    r, c = np.mgrid[:90, :100] + 0.5
    scatter = 2 * np.median(primary) * (1 + 0.3 * np.cos(np.pi * r / 90) + 0.2 * np.cos(2 * np.pi * c / 100))
    fixed = -np.log(1.3 * primary + scatter).astype(np.float32)
    fixed[10:14, 20:60] += 1.0
    found = fit_beam(integrals, fixed, np.ones(fixed.shape, np.bool_))
    assert found is not None
    assert abs(found.kv - 100) < 5 and found.open_beam == pytest.approx(1.3, rel=0.1)
    assert np.abs(developed(integrals[:, None], fixed, found)[0] - fixed)[20:].max() < 0.02


def test_developed_derivative() -> None:
    """Of the image by what moves the line integrals, against differences."""
    integrals, _, _ = _materials()
    random = np.random.default_rng(1)
    by = (integrals * random.uniform(0.5, 1, integrals.shape)).astype(np.float32)
    beam = Beam(80.0, 1.0, np.full(by.shape[1:], 2e-3, np.float32))
    fixed = developed(integrals[:, None], np.full(by.shape[1:], 20.0, np.float32), beam)[0]
    found = developed(np.stack([integrals, by], 1), fixed, beam)[1]
    high, low = (developed((integrals + x * by)[:, None], fixed, beam)[0].astype(float) for x in (0.01, -0.01))
    np.testing.assert_allclose(found, (high - low) / 0.02, rtol=5e-3, atol=2e-3)


def test_display_values_are_left_alone() -> None:
    result = Direct(NEAR).search_once(problem(gamma()))
    kept = polish(problem(gamma()), result)
    assert torch.equal(kept.transform.matrix, result.transform.matrix) and kept.settings["polish"]["steps_taken"] == 0


def test_the_voltage_that_was_fitted_is_told() -> None:
    """The exposure's tube had 90 kV, and body beyond the model scatters too."""
    last = polish(problem(exposure()), Direct(NEAR).search_once(problem(exposure())), PolishConfig(pixels=256))
    assert abs(last.settings["polish"]["kv"][0] - 90) < 10
