"""The least error that the quantum noise of a case's own exposures allows, from the exposures and the true pose alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import XRay
from raylign.evaluation.efficiency import Bound, Light, information, pose_jacobian, together
from raylign.registration.coverage import covered

if TYPE_CHECKING:
    from raylign.evaluation.cases import Case

PHOTONS = "photons_open_beam"
"""Where the simulator says in an exposure's ``meta`` how many photons a pixel detects where nothing is in the beam."""

_AIR = 0.3  # line integrals below which a pixel shows no patient
_READ_OUT = 4.0  # photons, as the simulator's detector


def bounds_of(case: Case) -> dict[str, float] | None:
    """The bound of all exposures of a case together, of the shift of its targets' centroid, along the first view's axes.

    Returns
    -------
    ``bound_in_plane`` (root mean square across the ray, both directions together) and ``bound_depth`` (along it), mm, one
    standard deviation, as a record keeps them; None where an exposure does not say how many photons it counted, or where the
    exposures do not determine the pose.
    """
    if any(PHOTONS not in xray.meta for xray in case.xrays):
        return None
    found = together([bound_of_exposure(case, xray) for xray in case.xrays])
    about = moved(found, case.pose.apply(case.targets).mean(0))
    if not bool(torch.linalg.cholesky_ex(about.information)[1] == 0):
        return None
    return {"bound_in_plane": about.in_plane, "bound_depth": about.depth}


def bound_of_exposure(case: Case, xray: XRay) -> Bound:
    """The bound of one exposure, from what it counted.

    Photons are those that it counted, their noise included. The slope of the log image by the line integral, which hardening and
    scatter both lower, is that of a cubic through the exposure's own pixels over the model's integrals at the true pose. Offset
    and gain are taken as known. Rays that leave the model through a face at which the patient was cut off are left out: nobody
    could explain them.
    """
    integrals, jacobian, centre = pose_jacobian(case.model, xray.view, case.pose, step=max(0.5, 1.0 / min(case.model.spacing)))
    inside = xray.mask.cpu() & (integrals > _AIR) & covered(case.model, xray.view, case.pose.matrix)
    image = xray.image.detach().cpu().double()
    x, y = integrals[inside].double().numpy(), image[inside].numpy()
    slope = np.ones(integrals.shape)
    if len(x) >= 4 and float(np.ptp(x)) > 0:
        slope = np.polyval(np.polyder(np.polyfit(x, y, 3)), integrals.double().numpy())
    light = Light(
        photons=float(xray.meta[PHOTONS]) * torch.exp(-image).clamp_min(1e-9),
        hardening=torch.from_numpy(np.clip(slope, 0.0, 2.0)),
        electronic=_READ_OUT,
    )
    return Bound(information(jacobian, light, inside), centre, xray.view)


def moved(bound: Bound, point: Float[Tensor, "3"]) -> Bound:
    """The same bound of a twist about another point (world mm): shifts are then those of that point."""
    arm = torch.as_tensor(point, dtype=torch.float64) - bound.centre
    # about the point the shift is v' = v + w x arm, so that v = v' + arm x w
    back = torch.eye(6, dtype=torch.float64)
    back[3:, :3] = torch.stack([torch.linalg.cross(arm, axis) for axis in torch.eye(3, dtype=torch.float64)], 1)
    return replace(bound, information=back.T @ bound.information @ back, centre=bound.centre + arm)
