"""Several views of one pose: of any number, size, quality and orientation; and one among them that does not belong."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from raylign.data import XRay
from raylign.geometry import Rigid, View, se3
from raylign.registration import Direct, DirectConfig, Problem, Result, SearchConfig
from raylign.registration.agreement import agreement
from raylign.registration.calibration import adjusted
from raylign.registration.levels import build_scales, evaluate
from raylign.registration.matching import normal_equations, render
from raylign.simulation import Collimator, Dose, ExposureConfig, ThoraxConfig, expose, thorax
from tests.registration import scene

NEAR = Rigid(se3.exp(torch.tensor([0.05, 0.04, -0.06, 5, 4, -6.0], dtype=torch.float64)) @ scene.truth().matrix)
LATERAL = (-80.0, 0.0)


def exposed(angles: tuple[float, float], config: ExposureConfig, pitch: float, shape: tuple[int, int], aside: float = 0) -> XRay:
    view = View.from_carm(primary=angles[0], secondary=angles[1], sid=1050, sod=720, pixel_spacing=pitch, shape=shape)
    view = replace(view, origin=view.origin + aside * view.column_step / view.column_step.norm())
    return expose(scene.patient(), view, scene.truth(), config, torch.Generator().manual_seed(int(10 * angles[0]) % 97)).xray


@lru_cache(maxsize=1)
def six() -> dict[str, XRay]:
    made = {
        "good": scene.exposure(),
        "noisy": exposed((95.0, 0.0), ExposureConfig(dose=Dose(photons=20.0)), 2.0, (150, 150)),
        "collimated": exposed((60.0, 0.0), ExposureConfig(collimator=Collimator.rectangle(0.35, 0.3)), 1.0, (240, 240)),
        "display": exposed((-40.0, 10.0), ExposureConfig(), 1.6, (180, 150)),
        "turned": exposed(LATERAL, ExposureConfig(), 1.8, (160, 170)),
        "beside": exposed((130.0, 0.0), ExposureConfig(), 2.0, (150, 150), aside=330.0),
    }
    shown = made["display"]
    low, high = float(shown.image.min()), float(shown.image.max())
    made["display"] = replace(shown, image=(255 * ((shown.image - low) / (high - low)).sqrt()).round(), scale="monotone")
    made["turned"] = upside_down(made["turned"])
    return made


def upside_down(xray: XRay) -> XRay:
    flipped = xray.view.flip(columns=True, rows=True)
    return replace(xray, image=xray.image.flip(0).flip(1), mask=xray.mask.flip(0).flip(1), view=flipped)


def solve(xrays: tuple[XRay, ...]) -> tuple[Problem, Result]:
    problem = Problem(scene.chest(), xrays, NEAR)
    return problem, Direct(DirectConfig(search=SearchConfig(degrees=10, mm=15, hypotheses=1))).register(problem)


@pytest.mark.parametrize("names", [("good", "noisy"), ("good", "collimated"), ("beside", "turned"), tuple("gncdtb")])
def test_views_of_every_kind_help(names: tuple[str, ...]) -> None:
    xrays = six()
    chosen = tuple(x for name, x in xrays.items() if name in names or name[0] in names)
    problem, result = solve(chosen)
    assert scene.error(result.transform) < 0.3
    assert float(result.standard_deviations[1].max()) < 0.25
    assert not agreement(problem, result).reasons()


def test_the_order_and_the_orientation_of_views_do_not_matter() -> None:
    good, turned = six()["good"], six()["turned"]
    poses = [solve(pair)[1].transform for pair in ((good, turned), (turned, good), (good, upside_down(turned)))]
    for other in poses[1:]:
        assert float((other.apply(scene.targets()) - poses[0].apply(scene.targets())).norm(dim=1).max()) < 0.05


def test_shares_and_costs_are_those_of_each_view_alone() -> None:
    xrays = (six()["good"], six()["noisy"])
    scale = build_scales(Problem(scene.chest(), xrays, scene.truth()), DirectConfig())[1]
    matrix, match = scene.truth().matrix.numpy(), DirectConfig().match
    both = evaluate(scale, matrix, match)
    alone = [evaluate(replace(scale, images=[image]), matrix, match) for image in scale.images]
    usable = [image.usable for image in scale.images]
    assert np.allclose(both.shares, [a.explained for a in alone]) and both.shares[0] > both.shares[1] + 0.2
    assert np.allclose(both.costs * sum(usable), [a.cost * n for a, n in zip(alone, usable, strict=True)])
    assert both.cost == pytest.approx(both.costs.sum()) and both.noise.shape == both.shares.shape == (2,)


def test_a_noisy_view_has_little_say() -> None:
    """Pixel by pixel it weighs by its own variance: the more noise, the less curvature."""

    def curvature(xray: XRay) -> float:
        scale = build_scales(Problem(scene.chest(), (xray,), scene.truth()), DirectConfig())[0]
        matrix, match = scene.truth().matrix.numpy(), DirectConfig().match
        shown = render(scale.model, scale.images, matrix, match)
        masks = [image.valid for image in scale.images]
        return float(np.trace(normal_equations(scale.model, scale.images, shown, masks, np.zeros(1), match).hessian[3:, 3:]))

    clean = six()["good"]
    noise = torch.randn(clean.image.shape, generator=torch.Generator().manual_seed(0))
    by_noise = [curvature(replace(clean, image=clean.image + sd * noise)) for sd in (0.0, 0.1, 0.3)]
    assert by_noise[0] > 2 * by_noise[1] > 4 * by_noise[2]


def test_two_views_of_which_one_is_at_a_wrong_angle_are_told() -> None:
    """The pose is wrong and looks well determined; each view alone says otherwise."""
    turned = six()["turned"]
    wrong = replace(turned, view=adjusted(turned.view, [0, 0, 0, 4.0, 0, 0]))
    problem, result = solve((six()["good"], wrong))
    assert scene.error(result.transform) > 2
    found = agreement(problem, result)
    assert float(found.apart.max()) > 2 and "check its angles" in found.reasons()[0]
    assert float((found.alone - found.shares).max()) > 0.05


def test_one_view_of_three_that_is_another_patients_is_outvoted_and_named() -> None:
    stranger = thorax(ThoraxConfig(voxel_mm=3.0, z_range=(-160, 150)), seed=8).volume
    lateral = View.from_carm(primary=LATERAL[0], secondary=0, sid=1050, sod=720, pixel_spacing=2.0, shape=(150, 150))
    other = expose(stranger, lateral, scene.truth(), ExposureConfig(), torch.Generator().manual_seed(2)).xray
    problem, result = solve((six()["good"], six()["display"], other))
    assert scene.error(result.transform) < 0.3
    found = agreement(problem, result)
    assert int(found.apart.argmax()) == 2 and int(found.shares.argmin()) == 2
    assert len(found.reasons()) == 1 and found.reasons()[0].startswith("view 3")


def test_a_view_that_the_model_hardly_reaches_does_no_harm() -> None:
    """A sliver of skin at the image's edge: no share of its own, and the pose is that of the other view."""
    sliver = exposed((130.0, 0.0), ExposureConfig(), 2.0, (150, 150), aside=390.0)
    problem, result = solve((six()["good"], sliver))
    assert scene.error(result.transform) < 0.5
    found = agreement(problem, result)
    assert bool(torch.isfinite(found.apart).all()) and float(found.shares[1]) <= 1


def test_a_registration_of_views_that_disagree_is_not_trusted() -> None:
    """Right from the start, one header eight degrees wrong: the pose looks well determined, and the result says what is wrong."""
    turned = replace(six()["turned"], view=adjusted(six()["turned"].view, np.array([0, 0, 0, 8.0, 0, 0])))
    wrong = Direct(DirectConfig(search=SearchConfig(degrees=10, mm=15, hypotheses=8))).register(
        Problem(scene.chest(), (six()["good"], turned), NEAR)
    )
    assert not wrong.confidence.trusted and wrong.confidence.probability <= 0.3


def test_a_blank_view_leaves_the_result_of_the_other() -> None:
    good = six()["good"]
    blank = replace(six()["noisy"], image=torch.zeros_like(six()["noisy"].image))
    for xrays in ((good, blank), (blank, good)):
        config = DirectConfig(search=SearchConfig(degrees=10, mm=15, hypotheses=8))
        assert scene.error(Direct(config).register(Problem(scene.chest(), xrays, NEAR)).transform) < 2
