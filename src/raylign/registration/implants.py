"""Implants of metal, of which a surface is all that is known, as a Registrar."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from raylign.data import Mesh
from raylign.data.solids import Solidity
from raylign.errors import InputError
from raylign.registration import mesh_trust
from raylign.registration.confidence import Evidence, near_enough, reasons
from raylign.registration.direct import Direct
from raylign.registration.problem import Problem
from raylign.registration.result import Confidence, Result
from raylign.registration.saturation import Response
from raylign.registration.settings import DirectConfig
from raylign.registration.symmetry import Symmetry, symmetry_of
from raylign.registration.symmetry_views import settled

_THICK = 2.0  # mm of metal
METALS = ("titanium", "steel", "cobalt_chrome", "nitinol", "polyethylene", "plastic")
"""What implants are made of, as in the simulation's tables: Ti-6Al-4V, 316L, Co-28Cr-6Mo, NiTi, polyethylene, PMMA (cement
without its opacifier). The last two attenuate hardly more than tissue, or less, and show next to nothing."""


def implant_solidity(metal: str, kv: float = 80.0, tissue_mm: float = 200.0, voxel_mm: float | None = None) -> Solidity:
    """What fills an implant's surface: a metal's attenuation in excess of the tissue in its place, for a beam behind a patient.

    Parameters
    ----------
    metal: one of ``METALS``, or another name of ``raylign.simulation.physics.spectrum.materials()``.
    kv: of the tube, behind 3 mm of aluminium, before 0.6 mm of caesium iodide.
    tissue_mm: of water along a ray. It hardens the beam, and so do 2 mm of the metal, for which the value holds.
    voxel_mm: pitch of the volume.

    Raises
    ------
    InputError: no such metal, a voltage without a table, tissue that is not thicker than 2 mm, or less than it attenuates.
    """
    from raylign.simulation.physics.spectrum import spectrum

    if not _THICK < tissue_mm < 1000:
        raise InputError(f"{tissue_mm} mm of tissue", field="tissue_mm", remedy="give 50 to 400 mm")
    beam = spectrum(kv)
    open_ = float(beam.transmission(water=tissue_mm)[0])
    behind = float(beam.transmission(**{"water": tissue_mm - _THICK, metal: _THICK})[0])
    return Solidity(excess=math.log(open_ / behind) / _THICK, shell_mm=0.0, voxel_mm=voxel_mm)


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
        seen, response = Response.of(problem.xrays, float(problem.model.data.max()))
        asked = replace(problem, xrays=seen)
        found = Direct(self.config, self.progress).register(asked)
        return settled(asked, found, self.symmetry, self.config, response, judge)


def judge(evidence: Evidence, threshold: float) -> Confidence:
    """The probability of success of a mesh's registration, and what lowers it."""
    probability = near_enough(evidence) * mesh_trust.valley(evidence)
    trusted = probability >= threshold
    numbers = {name: getattr(evidence, name) for name in Evidence.__dataclass_fields__}
    return Confidence(probability, trusted, () if trusted else reasons(evidence), numbers)
