"""Registrars that bring a pose nearer and do not judge it: what they are shown, and the Result that they give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume, restricted
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.methods.cubes import CubeConfig, bones, cube_of
from raylign.registration.problem import Problem
from raylign.registration.result import Confidence, Result, Step
from raylign.registration.versions import versions

_WIDE = (30.0, 50.0)
"""Standard deviations that are stated: degrees, mm. Nothing was estimated."""


@dataclass(frozen=True, eq=False)
class Came:
    """How a registration went.

    Parameters
    ----------
    path: [S, 4, 4] ``T_world_from_volume`` from the start on.
    centre: [3] world mm of the model's middle at the end.
    score: the larger, the better.
    evidence: by name.
    seconds: by stage.
    """

    path: Float[Tensor, "S 4 4"]
    centre: Float[Tensor, "3"]
    score: float
    evidence: Mapping[str, float]
    seconds: Mapping[str, float]


def one_xray(problem: Problem, what: str) -> None:
    """See that there is one X-ray; ``what``: that looks at it.

    Raises
    ------
    InputError: there are several.
    """
    if len(problem.xrays) > 1:
        raise InputError(
            f"{len(problem.xrays)} X-rays for {what} that looks at one", field="xrays", remedy="give one, or use another method"
        )


def bare(problem: Problem, whole: bool) -> Volume:
    """The model, or its bones alone where the problem names them and no ``whole`` scan is wanted."""
    if whole or problem.bones is None:
        return problem.model
    return restricted(problem.model, problem.bones, list(problem.bones.present()))


def shown_cube(model: Volume, cube: CubeConfig, whole: bool) -> tuple[Float[Tensor, "D H W"], Float[Tensor, "3"]]:
    """A model as ``cube_of`` makes it, of the ``whole`` scan or of its bones.

    Raises
    ------
    InputError: a volume in raw numbers, one without bone.
    """
    if whole and model.unit == "raw":
        raise InputError("the volume is in raw numbers", field="volume", remedy="give a CT in HU")
    return cube_of(model if whole else bones(model), cube)


def unjudged(problem: Problem, came: Came, method: str, why: str, settings: Mapping[str, Any]) -> Result:
    """A Result that is not to be trusted; ``why``: in words."""
    degrees, mm = _WIDE
    wide = torch.tensor([math.radians(degrees)] * 3 + [mm] * 3, dtype=torch.float64)
    return Result(
        transform=Rigid(came.path[-1]),
        start=problem.start,
        covariance=torch.diag(wide**2),
        centre=came.centre,
        score=came.score,
        confidence=Confidence(0.0, False, (why,), dict(came.evidence)),
        trajectory=tuple(Step(0, n, 0.0, pose) for n, pose in enumerate(came.path)),
        timings=dict(came.seconds),
        method=method,
        versions=versions(),
        settings=dict(settings),
        renders=len(came.path) - 1,
    )
