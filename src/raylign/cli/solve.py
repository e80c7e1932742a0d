"""How ``raylign register`` registers: the volume, or a structure in it, and then perhaps the geometry of the views."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from raylign.cli.console import Tell
from raylign.cli.starts import ANYWHERE, SearchFlags, Start, stated
from raylign.cli.surfaces import Surface
from raylign.errors import InputError

if TYPE_CHECKING:
    import enum
    from pathlib import Path

    from raylign.data import LabelMap, Mesh, Volume, XRay
    from raylign.geometry import Rigid
    from raylign.registration import Problem, Registrar, Result

AGENT, SIMILARITY = LEARNED = ("imitation-agent", "convex-similarity")
POLISHED = "direct+polish"
_GEOMETRY = (
    ("geometry_sid", "sid_mm", 500.0),
    ("geometry_principal", "principal_mm", 500.0),
    ("geometry_angle", "angle_degrees", 30.0),
)


class SolveFlags(SearchFlags, Protocol):
    """The options that say how to register."""

    @property
    def init(self) -> str: ...

    @property
    def method(self) -> enum.StrEnum: ...
    @property
    def weights(self) -> Path | None: ...
    @property
    def material(self) -> enum.StrEnum: ...
    @property
    def labels(self) -> str | None: ...
    @property
    def rest(self) -> enum.StrEnum: ...
    @property
    def trust(self) -> float | None: ...
    @property
    def geometry_sid(self) -> float | None: ...
    @property
    def geometry_principal(self) -> float | None: ...
    @property
    def geometry_angle(self) -> float | None: ...


@dataclass(frozen=True, eq=False)
class Structure:
    """What ``--labels`` names."""

    path: str
    labels: LabelMap
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Solved:
    """A registration that is done.

    Parameters
    ----------
    problem: what a report draws; its views are the refined ones where geometry was refined.
    result: to write, and to trust or not.
    more: further parts of ``result.json``.
    words: for the report's inputs.
    said: for the terminal.
    whole: pose of the whole volume where a structure of it was registered and this is known beside: landmarks are of it.
    """

    problem: Problem
    result: Result
    more: dict[str, Any] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    whole: Rigid | None = None


def check_solve(flags: SolveFlags, xrays: int) -> None:
    """Refuse what can be refused before anything is loaded."""
    if flags.trust is not None and not 0 <= flags.trust <= 1:
        raise InputError(f"{flags.trust} is no probability", field="--trust", remedy="give 0 to 1")
    for name, _, most in _GEOMETRY:
        value = getattr(flags, name)
        if value is not None and not 0 <= value <= most:
            raise InputError(f"{value:g} is out of range", field=_option(name), remedy=f"give 0 to {most:g}; 0 is not refined")
    if flags.labels is not None:
        _named(flags.labels)
    elif flags.rest != "modelled":
        raise InputError(
            "it is about a structure, and none is named", field="--rest", remedy="give --labels LABELMAP:NAME, or leave it out"
        )
    if flags.method.value in LEARNED:
        _check_learned(flags, xrays)
    _check_search(flags)
    if flags.method.value == POLISHED:
        _check_polished(flags)
    if flags.init == ANYWHERE:
        _check_nowhere(flags, xrays)
    if flags.geometry_angle and xrays == 1:
        raise InputError(
            "with one X-ray a turn of the C-arm looks like one of the patient",
            field="--geometry-angle",
            remedy="give it with two",
        )
    surrounded = flags.labels is not None and flags.rest != "none"
    if surrounded and flags.method != "direct":
        raise InputError(
            f"{flags.method.value} cannot take the rest of the patient into account",
            field="--method",
            remedy="use --method direct, or --rest none",
        )
    if surrounded and _bounds(flags):
        raise InputError(
            "not refined together with a structure and the rest of the patient",
            field=", ".join(_option(n) for n, _, _ in _GEOMETRY if getattr(flags, n)),
            remedy="refine it with the whole CT, without --labels, or use --rest none",
        )


def _check_nowhere(flags: SolveFlags, xrays: int) -> None:
    """Refuse what a start from nowhere cannot do."""
    if xrays < 2:
        raise InputError(
            "one X-ray does not say where in space a model is",
            field="--init anywhere",
            remedy="give two whose beams cross, or use --init search",
        )
    if flags.method.value != "direct":
        raise InputError(f"{flags.method.value} wants a start", field="--method", remedy="use --method direct, or another --init")
    if flags.labels is not None and flags.rest != "none":
        raise InputError(
            "the whole CT is sought first, and not from nowhere", field="--labels", remedy="use --rest none, or another --init"
        )


def _check_given_geometry(flags: SolveFlags) -> None:
    """Refuse a geometry that is to be refined with a method that cannot."""
    if _bounds(flags):
        raise InputError(
            f"not refined together with --method {flags.method.value}",
            field=", ".join(_option(n) for n, _, _ in _GEOMETRY if getattr(flags, n)),
            remedy="leave it out, or use --method direct",
        )


def _check_polished(flags: SolveFlags) -> None:
    """Refuse what the last step cannot do."""
    if flags.labels is not None:
        raise InputError(
            "the last step explains all that an X-ray shows, and a structure does not", field="--method", remedy="use direct"
        )
    _check_given_geometry(flags)


def _check_learned(flags: SolveFlags, xrays: int) -> None:
    """Refuse what a method that learns cannot do."""
    method = flags.method.value
    if xrays > 1:
        raise InputError(
            f"{method} looks at one X-ray, and {xrays} are given", field="--method", remedy="give one, or another method"
        )
    _check_given_geometry(flags)
    if flags.init == "search":
        raise InputError(f"{method} does not search: it has a start", field="--init", remedy="use --init center, or give a pose")
    # read once more later: whoever has no weights should not wait for a model to be read
    if method == AGENT:
        from raylign.methods.imitation_agent.registrar import shipped as agent

        agent(flags.weights)
    else:
        from raylign.methods.convex_similarity.weights import shipped as similarity

        similarity(flags.weights)


def _check_search(flags: SolveFlags) -> None:
    """Refuse what the method would take no notice of."""
    method = flags.method.value
    if flags.weights is not None and method not in LEARNED:
        raise InputError(f"{method} has none", field="--weights", remedy=f"leave it out, or use --method {' or '.join(LEARNED)}")
    if flags.starts is not None and method not in ("direct", POLISHED):
        raise InputError(
            f"{method} does not choose among starts", field="--starts", remedy="leave it out, or use --method direct"
        )
    if method not in ("xreg", "xreg-wide", AGENT):
        return
    for name in ("search_degrees", "search_mm", "search_depth"):
        if getattr(flags, name) is not None:
            raise InputError(
                f"{method} searches a box of its own", field=_option(name), remedy="leave it out, or use another --method"
            )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _bounds(flags: SolveFlags) -> dict[str, float]:
    """What is open about the geometry; empty where nothing is."""
    given = {key: float(getattr(flags, name) or 0) for name, key, _ in _GEOMETRY}
    return given if any(given.values()) else {}


def read_structure(text: str) -> Structure:
    """The label map and the names of ``LABELMAP:NAME,...``.

    Raises
    ------
    InputError: no name, a label map that cannot be read, a name that it does not hold.
    """
    from raylign.io import read_labels

    path, names = _named(text)
    labels = read_labels(path)
    try:
        for name in names:
            labels.number(name)
    except InputError as error:
        raise error.at(path) from None
    return Structure(path, labels, names)


def _named(text: str) -> tuple[str, tuple[str, ...]]:
    """File and names of ``LABELMAP:NAME,...``."""
    path, colon, names = text.rpartition(":")
    chosen = tuple(name.strip() for name in names.split(",") if name.strip())
    if not colon or not path or not chosen:
        raise InputError(f"{text!r} names no structure", field="--labels", remedy="give LABELMAP:NAME,NAME")
    return path, chosen


def solve(
    flags: SolveFlags, model: Volume | Surface, xrays: tuple[XRay, ...], start: Start, structure: Structure | None, tell: Tell
) -> Solved:
    """Register as the options say; ``structure`` is what ``--labels`` names.

    Raises
    ------
    InputError: as of the registration; the label map's file where it is at fault.
    """
    from raylign.data import restricted
    from raylign.registration import Anywhere, AnywhereConfig, DirectConfig, Problem, registrar

    mesh = model.mesh if isinstance(model, Surface) else None
    volume = model.volume if isinstance(model, Surface) else model
    if structure is not None and flags.rest != "none":
        return _structure(flags, volume, xrays, start, structure, tell)
    words = {}
    if structure is not None:
        try:
            volume = restricted(volume, structure.labels, structure.names)
        except InputError as error:
            raise error.at(structure.path) from None
        words = {"Structures": f"{flags.labels}, alone"}
    named: Registrar
    if start.nowhere:
        named = Anywhere(AnywhereConfig(direct=DirectConfig(seed=flags.seed)), tell)
    elif flags.method.value in LEARNED:
        named = _learned(flags, mesh, tell)
    else:
        material = flags.material.value
        named = registrar(flags.method.value, search=start.search, seed=flags.seed, progress=tell, mesh=mesh, material=material)
    chosen = _trusting(named, flags.trust)
    problem = Problem(volume, xrays, start.pose)
    solved = Solved(problem, chosen.register(problem), words=words)
    if flags.method.value == POLISHED:
        told = _last_step(solved)
        solved = replace(solved, words={**words, "Last step": told}, said=(f"last step: {told}",))
    return _with_geometry(solved, _bounds(flags), tell) if _bounds(flags) else solved


def _last_step(solved: Solved) -> str:
    """What came of the last step, in words."""
    found = solved.result.settings["polish"]
    if found["steps_taken"]:
        volts = [kv for kv in found["kv"] if kv is not None]
        told = f"taken, with {', '.join(f'{kv:.0f}' for kv in volts)} kV" if volts else "taken, without a beam"
        return f"{told}, then by counted photons" if found.get("counted") else told
    if any(x.scale != "line-integral" for x in solved.problem.xrays):
        return "none, as display values tell no attenuation"
    return "none, as no step explains the X-rays better"


def _learned(flags: SolveFlags, mesh: Mesh | None, tell: Tell) -> Registrar:
    """The registrar of a method that learns."""
    if mesh is not None:
        from raylign.methods.imitation_agent.registrar import ImitationAgent, shipped

        return ImitationAgent(mesh, shipped(flags.weights))
    from raylign.methods.named import Asked, Named, around, learned_registrar

    named = Named(SIMILARITY, weights=flags.weights)
    # what a descent leaves open is not what its start does
    return learned_registrar(named, Asked(stated(around(named), flags), flags.seed, tell))


def _trusting(chosen: Any, trust: float | None) -> Registrar:
    """The registrar with another threshold of trust, if one was given; of a pipeline the last stage judges."""
    if trust is None:
        return cast("Registrar", chosen)
    from raylign.registration import Pipeline
    from raylign.registration.polish import Polish

    if isinstance(chosen, Pipeline):
        return Pipeline((*chosen.stages[:-1], _trusting(chosen.stages[-1], trust)))
    if isinstance(chosen, Polish):
        return replace(chosen, first=_trusting(chosen.first, trust))
    if hasattr(chosen.config, "direct"):
        return replace(chosen, config=replace(chosen.config, direct=replace(chosen.config.direct, trust=trust)))
    if hasattr(chosen.config, "trust"):
        return replace(chosen, config=replace(chosen.config, trust=trust))
    return chosen


def _structure(
    flags: SolveFlags, volume: Volume, xrays: tuple[XRay, ...], start: Start, structure: Structure, tell: Tell
) -> Solved:
    """The whole volume first, then the structure among the rest of it."""
    from raylign.registration import DirectConfig
    from raylign.registration.structures import StructureConfig, StructureProblem, Structures

    whole = DirectConfig(search=start.search, seed=flags.seed)
    config = StructureConfig(rest=flags.rest.value, whole=whole)  # type: ignore[arg-type]
    if flags.trust is not None:
        config = replace(config, whole=replace(whole, trust=flags.trust), trust=flags.trust)
    chosen = Structures(config, tell)
    try:
        found = chosen.register(StructureProblem(volume, structure.labels, structure.names, xrays, start.pose))
    except InputError as error:
        raise error.at(structure.path) if error.field == "labels" else error from None
    words = {"Structures": f"{flags.labels}, the rest {flags.rest.value}", "Moved": found.words}
    whole_pose = None if found.whole is None else found.whole.transform
    return Solved(found.problem, found.structure, {"structure": found.to_dict()}, words, (found.words,), whole_pose)


def _with_geometry(solved: Solved, bounds: dict[str, float], tell: Tell) -> Solved:
    """The same with pose and views refined together."""
    from raylign.registration.calibration import PARAMETERS, UNITS
    from raylign.registration.geometry import GeometryBounds, refine_geometry
    from raylign.registration.meshes import as_registered

    tell("geometry", 0.95)
    problem = replace(solved.problem, model=as_registered(solved.problem.model, solved.result))
    open_ = GeometryBounds(bounds["sid_mm"], bounds["principal_mm"], bounds["angle_degrees"])
    found = refine_geometry(problem, solved.result, open_)
    xrays = tuple(replace(x, view=v) for x, v in zip(solved.problem.xrays, found.views, strict=True))
    lines = []
    for xray, offsets, sds, ends in zip(xrays, found.offsets.tolist(), found.sd.tolist(), found.at_bound.tolist(), strict=True):
        parts = [
            f"{name.replace('_', ' ')} {offset:+.2f} +- {sd:.2f} {unit}{' (at its bound)' if end else ''}"
            for name, unit, offset, sd, end in zip(PARAMETERS, UNITS, offsets, sds, ends, strict=True)
            if sd > 0
        ]
        if parts:
            lines.append(f"geometry of {xray.name}: {', '.join(parts)}")
    words = {**solved.words, **({"Geometry": "; ".join(lines)} if lines else {})}
    more = {**solved.more, "geometry": found.to_dict()}
    return Solved(replace(solved.problem, xrays=xrays), found.result, more, words, (*solved.said, *lines))
