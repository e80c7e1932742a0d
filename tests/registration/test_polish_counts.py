"""The last step's second half: scatter from the exposure's own light, and weights of counted photons."""

from __future__ import annotations

import numpy as np
import torch

from raylign.data import XRay
from raylign.geometry import View
from raylign.registration.polish_beam import developed, fit_beam
from raylign.registration.polish_counts import Explained, counted, softness, variance
from raylign.registration.polish_kernels import normal_equations, weighted_less_mean
from raylign.registration.polish_scatter import sources
from raylign.simulation.physics import materials, spectrum
from raylign.simulation.physics.scatter import ScatterConfig, kernels, scattered


def _exposure(image: np.ndarray, pitch: float = 0.8) -> XRay:
    view = View.from_carm(primary=0, secondary=0, sid=1050, sod=740, pixel_spacing=pitch, shape=image.shape)
    return XRay(torch.from_numpy(image.astype(np.float32)), view, torch.ones(image.shape, dtype=torch.bool))


def _body(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """mm of water and of bone: two lungs beside a spine, diaphragm, sharp edges."""
    r, c = np.mgrid[: shape[0], : shape[1]].astype(float)
    r, c = r / shape[0], c / shape[1]
    water = 220 - 130 * ((np.hypot((c - 0.25) / 0.17, (r - 0.35) / 0.4) < 1) | (np.hypot((c - 0.77) / 0.15, (r - 0.3) / 0.4) < 1))
    return water + 15 * np.cos(7 * r) * np.sin(9 * c), 25.0 * (np.abs(c - 0.5) < 0.05) + 5.0 * (np.abs(r - 0.7) < 0.03)


def test_scatter_of_a_body_is_found_where_cosines_miss_it() -> None:
    """From Monte Carlo's kernels, which are no sum of the four Gaussians: a third of what smooth cosines leave, or less."""
    water, bone = _body((192, 192))
    beam = spectrum.spectrum(90.0)
    primary = beam.transmission(water=water.ravel(), bone=bone.ravel()).reshape(water.shape)
    few = spectrum.few(90.0)
    shapes = kernels(torch.tensor(few.energies)[None], torch.tensor(few.share)[None], torch.tensor([300.0]))
    shown = [torch.from_numpy(x.astype(np.float32))[None] for x in (primary, water + 1.9 * bone)]
    haze = scattered(*shown, torch.ones(1, 192, 192), torch.tensor([1.6]), shapes, ScatterConfig(factor=0.3))[0].numpy()
    fixed = -np.log(primary + haze).astype(np.float32)
    integrals = np.stack([materials.at_ct("water") * water + materials.at_ct("bone") * bone, bone]).astype(np.float32)
    valid = np.ones(fixed.shape, np.bool_)
    around = sources(_exposure(fixed, 1.6), (slice(0, 192), slice(0, 192)), 1)
    left = []
    for known in (None, around):
        found = fit_beam(integrals, fixed, valid, known)
        assert found is not None
        left.append(float((developed(integrals[:, None], fixed, found)[0] - fixed).std()))
    assert left[0] > 0.005
    assert left[1] < left[0] / 3


def test_sources_lie_where_the_pixels_are() -> None:
    """Of a level that takes 2 x 2 pixels of a part of the exposure as one, against the whole at full resolution."""
    water, _ = _body((200, 240))
    xray = _exposure(water / 50)
    whole = sources(xray, (slice(0, 200), slice(0, 240)), 1)
    part = sources(xray, (slice(40, 161), slice(20, 220)), 2)
    amounts = np.linspace(1, 2, len(whole.maps))
    full = whole.image(amounts)[40:160, 20:220].reshape(60, 2, 100, 2).mean((1, 3))
    np.testing.assert_allclose(part.image(amounts), full, rtol=2e-3)
    rows, columns = np.array([3, 50]), np.array([7, 99])
    np.testing.assert_allclose(amounts @ part.at(rows, columns), part.image(amounts)[rows, columns])


def _scene(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What is expected of -log, with a large range of intensities, and two derivatives of it."""
    r, c = np.mgrid[:160, :180].astype(float)
    image = 3 + 1.5 * np.tanh((c - 90) / 20) + 0.3 * np.sin(r / 5) * np.cos(c / 7)
    derivatives = [np.kron(random.normal(size=(40, 45)), np.ones((4, 4))), np.gradient(image, axis=1) + 0.1 * np.cos(r / 6)]
    return image, np.stack(derivatives)


def test_photons_are_told_from_what_is_not_explained() -> None:
    random = np.random.default_rng(3)
    image, _ = _scene(random)
    intensity = np.exp(-image)
    left = random.normal(size=image.shape) * np.sqrt(2e-5 / intensity + 4e-4)
    left[:20, :20] += 1.0  # something in the way
    phi, tau = variance(left.astype(np.float32), intensity.astype(np.float32), np.ones(image.shape, np.bool_))
    assert abs(phi / 2e-5 - 1) < 0.15 and abs(tau / 4e-4 - 1) < 0.15


def test_as_precise_as_the_noise_allows_and_without_bias() -> None:
    """Many draws of counted photons, some metal: mean and spread of what is estimated against the information of the design."""
    random = np.random.default_rng(4)
    image, derivatives = _scene(random)
    truth = np.array([0.004, -0.006])
    photons = 40_000 * np.exp(-(image + np.tensordot(truth, derivatives, 1)))
    valid = np.ones(image.shape, np.bool_)
    metal = np.zeros(image.shape)
    metal[60:70, 20:50] = 0.5
    images = np.concatenate([image[None], derivatives]).astype(np.float32)
    found = []
    for _ in range(24):
        fixed = (-np.log(random.poisson(photons) / 40_000) + metal).astype(np.float32)
        step = counted([Explained(images, fixed, valid)], 10, 16)
        assert step is not None
        found.append(step[0])
        assert step[1][0].share > 0.9 and step[1][0].rest < 0.3 * step[1][0].photons
    weight = np.where(metal > 0, 0, photons).astype(np.float32)
    flat = np.empty((2, *image.shape), np.float32)
    weighted_less_mean(derivatives.astype(np.float32), weight, 10, flat)
    expected = np.linalg.inv(np.einsum("khw,hw,mhw->km", flat, weight, flat, dtype=np.float64))
    errors = np.array(found) - truth
    spread = np.sqrt(np.diag(expected))
    assert (np.abs(errors.mean(0)) < 3 * spread / np.sqrt(24)).all()
    assert (errors.std(0) < 1.4 * spread).all()


def test_weighted_means_and_equations_against_plain_sums() -> None:
    random = np.random.default_rng(5)
    images = random.normal(size=(3, 20, 23)).astype(np.float32)
    weight = random.uniform(0, 2, (20, 23)).astype(np.float32) * (random.uniform(size=(20, 23)) > 0.2)
    out = np.empty_like(images)
    weighted_less_mean(images, weight, 2, out)
    r, c = 7, 0
    window = (slice(5, 10), slice(0, 3))
    expected = images[:, r, c] - (images[:, *window] * weight[window]).sum((1, 2)) / weight[window].sum()
    np.testing.assert_allclose(out[:, r, c], expected * (weight[r, c] > 0), atol=1e-5)
    hessian, scores = np.zeros((2, 2)), np.zeros((4, 2))
    normal_equations(out, weight, 12, hessian, scores)
    flat = out.reshape(3, -1).astype(float)
    np.testing.assert_allclose(np.triu(hessian), np.triu((flat[1:] * weight.ravel()) @ flat[1:].T), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores.sum(0), (flat[1:] * weight.ravel()) @ flat[0], rtol=1e-4, atol=1e-4)


def _blurred(image: np.ndarray, variance: float) -> np.ndarray:
    """``-log`` of light that a kernel on three by three pixels has spread, of so many pixels squared along each axis."""
    light = np.exp(-image)
    for axis in (0, 1):
        beside = [np.take(light, np.clip(np.arange(light.shape[axis]) + i, 0, light.shape[axis] - 1), axis) for i in (-1, 1)]
        light = light + variance / 2 * (beside[0] - 2 * light + beside[1])
    return np.asarray(-np.log(light))


def test_light_that_is_spread_moves_nothing() -> None:
    """An exposure softer than the model by a third of a pixel: without a number of its own, that changes the parameters."""
    random = np.random.default_rng(6)
    image, derivatives = _scene(random)
    whole = np.ones(image.shape, np.bool_)
    # a parameter that does in part what spread light does
    derivatives[1] += 5 * softness(image.astype(np.float32), whole)
    images = np.concatenate([image[None], derivatives]).astype(np.float32)
    fixed = (_blurred(image, 0.1) + random.normal(size=image.shape) * 1e-4).astype(np.float32)
    step = counted([Explained(images, fixed, whole)], 10, 16)
    assert step is not None
    weight = np.exp(-images[0])
    flat = np.empty_like(images)
    weighted_less_mean(np.concatenate([(fixed - images[0])[None], images[1:]]), weight, 10, flat)
    rows = flat.reshape(3, -1).astype(float)
    without = np.linalg.solve((rows[1:] * weight.ravel()) @ rows[1:].T, (rows[1:] * weight.ravel()) @ rows[0])
    assert np.abs(without).max() > 0.001
    assert np.abs(step[0]).max() < 0.05 * np.abs(without).max()


def test_softness_is_what_light_spread_over_neighbours_changes() -> None:
    """Against a kernel of a small variance on the grid itself; zero where a neighbour is not valid."""
    image, _ = _scene(np.random.default_rng(7))
    variance = 0.002  # pixels squared, along each axis
    moved = _blurred(image, variance)
    valid = np.ones(image.shape, np.bool_)
    valid[50, 60] = False
    image[50, 60] = 1e4
    found = softness(image.astype(np.float32), valid)
    assert found[50, 60] == found[49, 60] == found[50, 61] == 0
    assert np.isfinite(found).all()
    inner = (slice(60, -1), slice(1, -1))
    np.testing.assert_allclose(found[inner] * variance / 2, (moved - image)[inner], rtol=0.02, atol=1e-5)
