"""A pose's covariance seen from an exposure: along the image's axes, along the ray, and how likely an error is under it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.evaluation.metrics import view_axes
from raylign.geometry import Rigid, View, se3
from raylign.registration.result import Result


@dataclass(frozen=True, eq=False)
class ViewUncertainty:
    """One standard deviation along the directions of one view, of the model turning and moving about its centre.

    Parameters
    ----------
    translation: mm along image horizontal, image vertical and depth (the ray through the model's centre).
    rotation: degrees about the same three axes.
    covariance: 3x3 of the translation in these axes, mm^2.
    turning: 3x3 of the rotation in these axes, degrees^2.
    """

    translation: tuple[float, float, float]
    rotation: tuple[float, float, float]
    covariance: Float[Tensor, "3 3"]
    turning: Float[Tensor, "3 3"]

    @property
    def in_plane(self) -> float:
        """The larger half axis of the in-plane error ellipse, mm."""
        if not bool(torch.isfinite(self.covariance).all()):
            return float("nan")
        return float(torch.linalg.eigvalsh(self.covariance[:2, :2])[-1].clamp_min(0).sqrt())

    @property
    def depth(self) -> float:
        """mm along the ray."""
        return self.translation[2]


def seen_from(result: Result, view: View) -> ViewUncertainty:
    """The result's covariance in the axes of ``view`` at the model's centre; NaN where the covariance is not finite."""
    axes = view_axes(view, result.centre)
    covariance = torch.as_tensor(result.covariance, dtype=torch.float64)
    turn, move = (axes @ covariance[k : k + 3, k : k + 3] @ axes.T for k in (0, 3))
    turn = torch.rad2deg(torch.rad2deg(turn))
    rotation, translation = (c.diagonal().clamp_min(0).sqrt().tolist() for c in (turn, move))
    return ViewUncertainty(tuple(translation), tuple(rotation), move, turn)


def twist_about_centre(result: Result, pose: Rigid) -> Float[Tensor, "6"]:
    """The twist ``x`` (rad, mm) by which ``pose`` differs from the result: ``T = C exp(x) C^-1 T_estimate``, ``C`` the centre."""
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = result.centre
    return se3.log(se3.inverse(shift) @ pose.matrix @ se3.inverse(result.transform.matrix) @ shift)


def mahalanobis(result: Result, pose: Rigid) -> float:
    """How many standard deviations ``pose`` lies from the result: ``sqrt(x^T C^-1 x)``, about 2.3 for an honest covariance.

    NaN where the covariance is singular or not finite.
    """
    covariance = torch.as_tensor(result.covariance, dtype=torch.float64)
    if not bool(torch.isfinite(covariance).all()):
        return float("nan")
    factor, info = torch.linalg.cholesky_ex(covariance)
    if int(info) != 0:
        return float("nan")
    x = twist_about_centre(result, pose)
    return float(torch.linalg.solve_triangular(factor, x[:, None], upper=False).norm())
