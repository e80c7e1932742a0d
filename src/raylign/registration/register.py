"""One call from a model and its exposures to a pose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from raylign.data import Mesh, Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.registration.anywhere import Anywhere, AnywhereConfig
from raylign.registration.classical import Classical
from raylign.registration.contours import ContourConfig, Contours
from raylign.registration.direct import Direct
from raylign.registration.evolution import Evolution, EvolutionConfig
from raylign.registration.implants import Implants
from raylign.registration.meshes import Meshes
from raylign.registration.pipeline import Pipeline
from raylign.registration.polish import Polish
from raylign.registration.presets import PRESETS, preset
from raylign.registration.problem import Problem, Registrar, centred
from raylign.registration.result import Result
from raylign.registration.settings import DirectConfig, SearchConfig
from raylign.registration.symmetry import symmetry_of

Progress = Callable[[str, float], None]

METHODS = {
    "direct": "many starts, then Gauss-Newton on locally normalised gradients, coarse to fine",
    "direct+polish": "and a last step on the intensities that the beam and its scatter make of a CT",
    "cmaes": "CMA-ES on the same comparison, no derivatives",
    "cmaes+direct": "CMA-ES, then Gauss-Newton from where it ended",
    "contour": "a mesh's contours on edges, from near; what is inside it means nothing",
    **PRESETS,
}

# Around a pose that somebody gave, less is open than around the centre start, which knows nothing of the patient.
NEAR = SearchConfig(degrees=15.0, mm=15.0)
# What is searched where nothing is known but that the patient lies in front of the detector.
WIDE = SearchConfig(degrees=50.0, mm=200.0, depth=300.0, hypotheses=750, refined=24, kept=8, finalists=3)


def registrar(
    method: str = "direct",
    *,
    search: SearchConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    mesh: Mesh | None = None,
    material: str = "bone",
) -> Registrar:
    """The registrar of a method's name, with what the start leaves open.

    ``mesh``: what the model was made of, if of a mesh; ``material``: and what of. "metal" is sought as ``Implants`` does.

    Raises
    ------
    InputError: no such method; "contour" of a model that is no mesh, "direct+polish" of one that is.
    """
    search = SearchConfig() if search is None else search
    direct = DirectConfig(search=search, seed=seed)
    evolution = EvolutionConfig(degrees=search.degrees, mm=search.mm, depth=search.depth, seed=seed)
    if method == "direct" and mesh is not None and material == "metal":
        return Implants(symmetry_of(mesh), direct, progress)
    if method == "direct":
        return Direct(direct, progress) if mesh is None else Meshes(direct, progress)
    if method == "direct+polish":
        if mesh is not None:
            raise InputError(
                "the last step is of CTs, which tell how rays are attenuated", field="method", remedy="give a CT, or use direct"
            )
        return Polish(Direct(direct, progress))
    if method == "contour":
        if mesh is None:
            raise InputError("contours are those of a mesh", field="method", remedy="give a mesh, or use another method")
        return Contours(mesh, ContourConfig(polarity=0))
    if method == "cmaes":
        return Evolution(evolution, progress)
    if method == "cmaes+direct":
        local = replace(direct, search=SearchConfig(degrees=2.0, mm=4.0, hypotheses=16))
        return Pipeline((Evolution(evolution, progress), Direct(local, progress)))
    if method in PRESETS:
        return Classical(preset(method, search, seed), progress)
    raise InputError(f"there is no method {method!r}", field="method", remedy=f"use one of {', '.join(METHODS)}")


def register(
    volume: Volume | Mesh,
    xrays: XRay | Sequence[XRay],
    *,
    init: Rigid | Float[Tensor, "4 4"] | Literal["center", "search", "anywhere"] = "center",
    method: str | Registrar = "direct",
    search: SearchConfig | None = None,
    seed: int = 0,
    material: str = "bone",
) -> Result:
    """Find the pose of ``volume`` under which it explains the exposures.

    Parameters
    ----------
    volume: the model; restrict it first (``raylign.data.restricted``) where only one structure moves. A mesh becomes a solid one.
    xrays: one exposure, or several of the same pose.
    init: a rough ``T_world_from_volume``; "center": the volume's centre at the isocentre, not turned; "search": the same, with
        all of ``WIDE`` looked through about it; "anywhere": every turn, everywhere that two exposures see (``Anywhere``).
    method: a name from ``METHODS``, or any Registrar.
    search: what the start leaves open; by default +-20 degrees and +-35 mm about "center", +-15 degrees and +-15 mm about a
        given pose, +-50 degrees, +-200 mm and +-300 mm along the beam for "search".
    seed: of whatever is random.
    material: of a mesh, what it is: a name of ``raylign.data.solids.MATERIALS``.

    Raises
    ------
    InputError: no exposure, a pose that is not rigid, a model that does not project onto the image, an unknown method, a mesh
        that is open.
    """
    if method == "contour" and (search is not None or isinstance(init, str)):
        raise InputError("contours do not search: they begin near", field="init", remedy="give a pose, and no search")
    if isinstance(init, str) and init == "anywhere" and isinstance(volume, Mesh):
        raise InputError("a mesh is not sought from nowhere", field="init", remedy="give a pose, or a volume")
    mesh = None
    if isinstance(volume, Mesh):
        mesh, volume, _ = solid_model(volume, material)
    if isinstance(init, str):
        if init not in ("center", "search", "anywhere"):
            raise InputError(f"unknown start {init!r}", field="init", remedy='give "center", "search", "anywhere" or a 4x4 pose')
        start, default = centred(volume), WIDE if init == "search" else SearchConfig()
    else:
        start, default = init if isinstance(init, Rigid) else Rigid(init), NEAR
    if isinstance(init, str) and init == "anywhere":
        if method != "direct" or search is not None:
            raise InputError(
                "it goes with the direct method alone, and looks everywhere", field="init", remedy="leave out the rest"
            )
        method = Anywhere(AnywhereConfig(direct=DirectConfig(seed=seed)))
    if not isinstance(method, str) and search is not None:
        raise InputError("a registrar has its own search", field="search", remedy="give it to the registrar, or name a method")
    chosen = method
    if isinstance(chosen, str):
        chosen = registrar(chosen, search=search or default, seed=seed, mesh=mesh, material=material)
    return chosen.register(Problem(volume, xrays if isinstance(xrays, XRay) else tuple(xrays), start))  # type: ignore[arg-type]


def solid_model(mesh: Mesh, material: str = "bone") -> tuple[Mesh, Volume, str]:
    """A mesh without holes, the volume that stands for it, and in words what was mended.

    Raises
    ------
    InputError: an unknown material, a mesh that encloses nothing or is open.
    """
    from raylign.data.solids import material as named
    from raylign.data.solids import solid_volume
    from raylign.data.watertight import watertight

    solidity = named(material)
    closed = watertight(mesh)
    return closed.mesh, solid_volume(closed.mesh, solidity), closed.words
