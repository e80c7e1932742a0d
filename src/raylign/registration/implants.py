"""Implants of metal, of which a surface is all that is known, as a Registrar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from raylign.data import Mesh
from raylign.registration import mesh_trust
from raylign.registration.confidence import Evidence, near_enough, reasons
from raylign.registration.direct import Direct
from raylign.registration.problem import Problem
from raylign.registration.result import Confidence, Result
from raylign.registration.saturation import Response
from raylign.registration.settings import DirectConfig
from raylign.registration.symmetry import Symmetry, symmetry_of
from raylign.registration.symmetry_views import settled


@dataclass(frozen=True)
class Implants:
    """The direct method for metal that ``raylign.data.solids.solid_volume`` made of a closed surface.

    What was clipped behind metal counts, the pose is refined with line integrals bent as the exposures' are, and what the
    surface's symmetries leave open is looked into and stated in ``Result.ambiguity``.

    Parameters
    ----------
    symmetry: of the surface (``symmetry_of``), in the frame of the model; it takes a fraction of a second, once an implant.
    config: of the direct method.
    progress: told the stage and the share that is done.
    """

    symmetry: Symmetry
    config: DirectConfig = field(default_factory=DirectConfig)
    progress: Callable[[str, float], None] | None = None

    @staticmethod
    def of(mesh: Mesh, config: DirectConfig | None = None) -> Implants:
        """For a surface that is yet to be looked at."""
        return Implants(symmetry_of(mesh), config or DirectConfig())

    def register(self, problem: Problem) -> Result:
        """The pose under which the solid explains the exposures."""
        seen, response = Response.of(problem.xrays)
        asked = replace(problem, xrays=seen)
        found = Direct(self.config, self.progress).register(asked)
        return settled(asked, found, self.symmetry, self.config, response, judge)


def judge(evidence: Evidence, threshold: float) -> Confidence:
    """The probability of success of a mesh's registration, and what lowers it."""
    probability = near_enough(evidence) * mesh_trust.valley(evidence)
    trusted = probability >= threshold
    numbers = {name: getattr(evidence, name) for name in Evidence.__dataclass_fields__}
    return Confidence(probability, trusted, () if trusted else reasons(evidence), numbers)
