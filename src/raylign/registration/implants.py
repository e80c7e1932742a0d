"""Implants of metal, of which a surface is all that is known, as a Registrar."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from raylign.data import Mesh
from raylign.data.solids import Solidity
from raylign.errors import InputError
from raylign.registration import mesh_trust
from raylign.registration.direct import Direct, agreed, bounds_of, expected
from raylign.registration.problem import Problem
from raylign.registration.result import Result
from raylign.registration.saturation import Response
from raylign.registration.settings import DirectConfig
from raylign.registration.symmetry import Symmetry, symmetry_of
from raylign.registration.symmetry_views import settled

_THICK = 2.0  # mm of metal


def implant_solidity(metal: str, kv: float = 80.0, tissue_mm: float = 200.0, voxel_mm: float | None = None) -> Solidity:
    """What fills an implant's surface: a metal's attenuation in excess of the tissue in its place, for a beam behind a patient.

    Parameters
    ----------
    metal: "titanium" (Ti-6Al-4V), "steel" (316L), "cobalt_chrome", "nitinol", or another name of
        ``raylign.simulation.physics.spectrum.materials()``.
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
        """The pose under which the solid explains the exposures.

        Raises
        ------
        InputError: a model that is no solid, or attenuates no more than what surrounds it.
        """
        if problem.model.unit != "1/mm" or not float(problem.model.data.max()) > 0:
            raise InputError("the model is no solid of metal", field="model", remedy="make it by solid_volume, of metal")
        seen, response = Response.of(problem.xrays, float(problem.model.data.max()))
        asked = replace(problem, xrays=seen)
        found = Direct(self.config, self.progress).register(asked)
        found = settled(asked, found, self.symmetry, self.config, response, mesh_trust.judge)
        # another pose was perhaps chosen, and judged anew: what several exposures, or one's depth, say against it still holds
        if len(asked.xrays) > 1:
            return agreed(asked, found, self.config)
        return expected(found, bounds_of(asked, self.config.search), self.config)
