"""The last step: nearer to the truth where the model fits, no farther from it where it does not."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from raylign.data import XRay
from raylign.evaluation.metrics import mrpd, mtre
from raylign.evaluation.uncertainty import mahalanobis
from raylign.geometry import Rigid
from raylign.registration import Direct, DirectConfig, Problem, Result, SearchConfig
from raylign.registration.polish import Polish, PolishConfig, polish
from raylign.registration.polish_kernels import cost_of, equations, subtract_means
from raylign.registration.search import moved
from raylign.simulation import Dose, ExposureConfig, expose
from tests.registration.scene import chest, exposure, patient, targets, truth, view

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


@pytest.mark.parametrize("made", [exposure, gamma, wires, breath])
def test_no_worse_where_model_and_exposure_differ(made) -> None:  # type: ignore[no-untyped-def]
    """Body beyond the model, bent greys, metal, tissue that moved: as near as before, to a fiftieth of a pixel at the model."""
    given = problem(made())
    direct = Direct(NEAR).search_once(given)
    last = polish(given, direct)
    assert across(last.transform) < across(direct.transform) + 0.02
    assert float(mtre(last.transform, truth(), targets())) < float(mtre(direct.transform, truth(), targets())) + 0.1


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
