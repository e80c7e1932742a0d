"""Models that were made of surfaces, followed: judged as meshes are; of metal besides, exposures end and turns stay open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Mesh, Volume, XRay
from raylign.geometry import Rigid, View
from raylign.registration import confidence, mesh_trust
from raylign.registration.confidence import Evidence
from raylign.registration.direct import Direct
from raylign.registration.implants import Implants
from raylign.registration.meshes import Meshes
from raylign.registration.problem import Registrar
from raylign.registration.pyramid import Array64, ModelLevel
from raylign.registration.result import Confidence
from raylign.registration.saturation import Response, metal_seen, outline_error
from raylign.registration.settings import DirectConfig
from raylign.registration.symmetry import Symmetry, symmetry_of
from raylign.registration.symmetry_views import ambiguity_of, opened_turns, outlines_off

Judge = Callable[[Evidence, float], Confidence]


@dataclass(frozen=True, eq=False)
class Solid:
    """What is known of a model that ``raylign.data.solids.solid_volume`` made, beside its voxels.

    Parameters
    ----------
    symmetry: of the surface, where that is of metal; ``None``: it is of something else, a bone say.
    """

    symmetry: Symmetry | None = None

    @staticmethod
    def of(mesh: Mesh, material: str) -> Solid:
        """Of a surface and a name of ``raylign.data.solids.MATERIALS``."""
        return Solid(symmetry_of(mesh) if material == "metal" else None)


def registrar_of(solid: Solid | None, config: DirectConfig) -> Registrar:
    """What a sequence's first frame is registered by: as one exposure of the same model is."""
    if solid is None:
        return Direct(config)
    return Meshes(config) if solid.symmetry is None else Implants(solid.symmetry, config)


def judge_of(solid: Solid | None) -> Judge:
    """What makes a probability of the evidence."""
    return confidence.judge if solid is None else mesh_trust.judge


def given_back(solid: Solid | None, xrays: Sequence[XRay]) -> tuple[XRay, ...]:
    """Exposures in which pixels that were clipped behind metal count, if that is what is followed."""
    return tuple(xrays) if solid is None or solid.symmetry is None else tuple(metal_seen(xray) for xray in xrays)


def response_of(solid: Solid | None, model: Volume, xrays: Sequence[XRay]) -> Response | None:
    """How exposures, as they were read, respond to the model's metal; ``None``: in a straight line."""
    if solid is None or solid.symmetry is None:
        return None
    return Response.of(xrays, float(model.data.max()))[1]


def known_of(solid: Solid | None, matrix: Array64, centre: Array64, covariance: Array64) -> Array64:
    """A covariance [6, 6] of the twist about ``centre`` (world mm) with turns that nothing determines left out.

    They are turns about the surface's own axis, and move no point of the surface.
    """
    return _opened(solid, matrix, centre, covariance)[1]


def stated_of(
    solid: Solid | None, matrix: Array64, centre: Array64, covariance: Array64, views: Sequence[View], level: ModelLevel
) -> Array64:
    """What is to be said of a pose of which a filter knows a covariance [6, 6] of the twist about ``centre`` (world mm).

    ``level`` is that of the model that is compared. What all frames are wrong about alike no filter learns: outlines of metal
    that are off in one sense (``outlines_off``) are added, and turns that nothing determines have a standard deviation of 180
    degrees.
    """
    if solid is None or solid.symmetry is None:
        return covariance
    blur = outlines_off(solid.symmetry, _rigid(matrix), _tensor(centre), list(views), outline_error(level)).numpy()
    return _opened(solid, matrix, centre, covariance + np.outer(blur, blur))[0]


def _opened(solid: Solid | None, matrix: Array64, centre: Array64, covariance: Array64) -> tuple[Array64, Array64]:
    """``opened_turns`` of what is followed."""
    if solid is None or solid.symmetry is None:
        return covariance, covariance
    pose = _rigid(matrix)
    middle = pose.apply(solid.symmetry.centre[None])[0]
    opened, known = opened_turns(_tensor(covariance), _tensor(centre), ambiguity_of(solid.symmetry, pose), middle)
    return opened.numpy(), known.numpy()


def _tensor(array: Array64) -> Float[Tensor, "..."]:
    return torch.from_numpy(np.ascontiguousarray(array))


def _rigid(matrix: Array64) -> Rigid:
    return Rigid(_tensor(matrix))
