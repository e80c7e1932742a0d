"""The bound of a case from its exposures, against the bound from what the simulator knows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raylign.evaluation.bounds import bounds_of, moved
from raylign.evaluation.efficiency import Bound, Light, information, pose_jacobian
from raylign.registration.coverage import covered
from raylign.simulation import ExposureConfig, expose
from tests.evaluation.test_efficiency import view
from tests.registration import scene


def case(**changes: object) -> SimpleNamespace:
    seen = scene.view(shape=(96, 96))
    made = expose(scene.patient(), seen, scene.truth(), ExposureConfig(), torch.Generator().manual_seed(1)).xray
    known = {"model": scene.chest(), "xrays": (made,), "pose": scene.truth(), "targets": scene.targets()}
    return SimpleNamespace(**(known | changes))


def test_moving_the_point_that_a_bound_is_about() -> None:
    """Against the displacement of that point under twists drawn from the bound."""
    factor = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bound = Bound(factor @ factor.T + torch.eye(6), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), view())
    point = torch.tensor([40.0, -25.0, 60.0], dtype=torch.float64)
    about = moved(bound, point)
    map_ = torch.zeros(3, 6, dtype=torch.float64)  # v + w x arm
    for k, axis in enumerate(torch.eye(3, dtype=torch.float64)):
        map_[:, k] = torch.linalg.cross(axis, point - bound.centre)
    map_[:, 3:] = torch.eye(3)
    assert torch.allclose(about.covariance[3:, 3:], map_ @ bound.covariance @ map_.T, rtol=1e-9)
    assert torch.allclose(about.covariance[:3, :3], bound.covariance[:3, :3])
    assert torch.allclose(moved(about, bound.centre).information, bound.information, rtol=1e-9)


def test_it_is_what_the_simulator_would_say() -> None:
    c = case()
    xray = c.xrays[0]
    quiet = {
        factor: expose(
            scene.patient(),
            xray.view,
            c.pose,
            ExposureConfig(noise="none", scatter=replace(ExposureConfig().scatter, factor=factor)),
            torch.Generator().manual_seed(1),
        ).xray.image.double()
        for factor in (1.0, 0.0)
    }
    integrals, jacobian, centre = pose_jacobian(c.model, xray.view, c.pose)
    inside = covered(c.model, xray.view, c.pose.matrix) & (integrals > 0.3) & xray.mask
    x, y = integrals[inside].double().numpy(), quiet[0.0][inside].numpy()
    slope = np.polyval(np.polyder(np.polyfit(x, y, 3)), integrals.double().numpy())
    total, primary = (torch.exp(-quiet[factor]) for factor in (1.0, 0.0))
    light = Light(
        photons=float(xray.meta["photons_open_beam"]) * total,
        primary=(primary / total).clamp(max=1),
        hardening=torch.from_numpy(np.clip(slope, 0, 2)),
        electronic=4.0,
    )
    known = moved(Bound(information(jacobian, light, inside), centre, xray.view), c.pose.apply(c.targets).mean(0))
    found = bounds_of(c)
    assert found is not None
    assert found["bound_in_plane"] == pytest.approx(known.in_plane, rel=0.2)
    assert found["bound_depth"] == pytest.approx(known.depth, rel=0.2)
    # one view knows depth far worse than what lies across it
    assert found["bound_depth"] > 5 * found["bound_in_plane"]


def test_another_exposure_only_helps_and_noise_only_harms() -> None:
    c = case()
    one = bounds_of(c)
    side = scene.view(primary=95.0, shape=(96, 96))
    second = expose(scene.patient(), side, c.pose, ExposureConfig(), torch.Generator().manual_seed(2)).xray
    both = bounds_of(case(xrays=(c.xrays[0], second)))
    assert one is not None and both is not None
    assert both["bound_depth"] < 0.5 * one["bound_depth"]
    assert both["bound_in_plane"] < one["bound_in_plane"]
    fewer = replace(c.xrays[0], meta={**c.xrays[0].meta, "photons_open_beam": c.xrays[0].meta["photons_open_beam"] / 4})
    dim = bounds_of(case(xrays=(fewer,)))
    assert dim is not None
    # a quarter of the photons doubles the error, and read-out noise adds to it
    assert 2.0 <= dim["bound_in_plane"] / one["bound_in_plane"] < 2.3


def test_an_exposure_that_does_not_say_what_it_counted_has_none() -> None:
    c = case()
    assert bounds_of(case(xrays=(replace(c.xrays[0], meta={}),))) is None
