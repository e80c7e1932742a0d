"""Registrations of which the answer is known."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Volume, XRay
from raylign.geometry import Rigid


@dataclass(frozen=True, eq=False)
class Truth:
    """Exposures of a model at a known pose.

    Parameters
    ----------
    name, kind: which one, and of what.
    targets: [N, 3] patient LPS mm, over which errors are means.
    bones: see ``raylign.registration.Problem``.
    """

    name: str
    kind: str
    model: Volume
    xrays: tuple[XRay, ...]
    pose: Rigid
    targets: Float[Tensor, "N 3"]
    bones: LabelMap | None = None
