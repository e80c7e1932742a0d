"""One method on one case, measured."""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from raylign.errors import InputError
from raylign.evaluation.metrics import cross_tre, mpd, mrpd, mtre, pose_error
from raylign.evaluation.protocol import SEARCHED, named
from raylign.evaluation.record import NO_MEMORY, Record, one_line
from raylign.geometry import Rigid, se3
from raylign.methods.named import Asked, around, learned_registrar, parsed, weights_file
from raylign.registration import WIDE, Result, centred, registrar
from raylign.simulation.seeds import numpy_generator

if TYPE_CHECKING:
    from raylign.evaluation.cases import Case

_METHOD = 1  # which stream of a case's random numbers is the methods'


def check_method(name: str) -> None:
    """See that there is a method of this name, and the weights that it takes; see ``Protocol``.

    Raises
    ------
    InputError: there is none.
    """
    learned = parsed(name)
    if learned is not None:
        weights_file(learned)
    elif ":" in name:
        _factory(name)
    else:
        named(name, "--method")


def _factory(name: str) -> Any:
    """What makes a registrar of one's own; modules of the folder that the command is run in are found too."""
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # another's module may break off with anything
        raise InputError(
            f"{name!r} cannot be loaded ({one_line(error)})", field="--method", remedy="name an importable MODULE:FACTORY"
        ) from None
    if not callable(found):
        raise InputError(f"{name!r} is nothing that can be called", field="--method", remedy="name a function (search, seed)")
    return found


def case_seed(seed: int, index: int) -> int:
    """The seed that methods get on a case: of the run's seed and the case's index, and of nothing else."""
    return int(numpy_generator(seed, index, _METHOD).integers(2**31))


def solve(case: Case, method: str, seed: int) -> Result:
    """Register a case with a method.

    Parameters
    ----------
    method: see ``check_method``. A factory of one's own is called with the ``SearchConfig`` that the start leaves open and the
        seed, and gives a ``Registrar``.
    seed: of the run.

    Raises
    ------
    InputError: no such method; and whatever the method breaks off with.
    """
    mine = case_seed(seed, case.index)
    problem = case.problem
    if method == SEARCHED:  # the model's centre at the isocentre, and all of WIDE looked through about it
        problem = replace(problem, start=centred(case.model))
        return registrar("direct", search=WIDE, seed=mine).register(problem)
    learned, chosen = parsed(method), None
    if learned is not None:  # what comes after looks about where the learned method ended, not through all that the start leaves
        chosen = learned_registrar(learned, Asked(around(learned), mine))
    elif ":" in method:
        chosen = _factory(method)(case.search, mine)
    else:
        chosen = registrar(method, search=case.search, seed=mine)
    found: Result = chosen.register(problem)
    return found


def begun(case: Case, method: str, seed: int) -> Record:
    """The record of a case before it is registered: who, where, and how far off the start is."""
    told = _errors(case.start, case)
    return Record(
        case.index, case.name, case.subject, case.arm, method, seed, start=_flat(case.start), **_prefixed("start_", told)
    )


def attempt(case: Case, method: str, seed: int) -> Record:
    """One method on one case. Whatever it breaks off with is a failure of the method, and a record like any other."""
    blank = begun(case, method, seed)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        result = solve(case, method, seed)
    except Exception as error:
        return replace(blank, failure=_why(error), seconds=_cost(wall, cpu))
    blank = replace(blank, seconds=_cost(wall, cpu))
    try:
        told = _errors(result.transform, case)
        if told["mtre"] is None:
            return replace(blank, failure="its pose is not finite")
        return replace(
            blank,
            pose=_flat(result.transform),
            probability=_finite(float(result.confidence.probability)),
            trusted=bool(result.confidence.trusted),
            renders=int(result.renders),
            **told,
        )
    except Exception as error:  # a method of one's own may return anything
        return replace(blank, failure=_why(error))


def _why(error: Exception) -> str:
    """What a method broke off with; that the machine has no memory left is none of its failures."""
    # torch tells of memory on the CPU by an error of no kind of its own
    wanting = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return f"{NO_MEMORY}: {one_line(error)}" if wanting else one_line(error)


def _cost(wall: float, cpu: float) -> dict[str, float]:
    return {"register": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _errors(pose: Rigid, case: Case) -> dict[str, Any]:
    gold, targets, views = case.pose, case.targets, [x.view for x in case.xrays]
    split = pose_error(pose, gold, targets, views[0])
    return {
        "mtre": _finite(float(mtre(pose, gold, targets))),
        "mpd": _finite(float(mpd(pose, gold, targets, views))),
        "mrpd": _finite(float(mrpd(pose, gold, targets, views))),
        "in_plane": _finite(split.in_plane),
        "depth": _finite(split.depth),
        "rotation": split.rotation if all(map(math.isfinite, split.rotation)) else None,
        "angle": _finite(split.angle),
        "cross": _cross(pose, case),
    }


def _cross(pose: Rigid, case: Case) -> float | None:
    try:
        return _finite(float(cross_tre(pose, case.pose, case.centre, case.xrays[0].view)))
    except InputError:  # the point that starts turn about lies behind the source, or behind the detector
        return None


def _prefixed(prefix: str, told: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in told.items()}


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _flat(pose: Rigid) -> tuple[float, ...]:
    return tuple(pose.matrix.to(torch.float64).flatten().tolist())


def rigid(numbers: tuple[float, ...]) -> Rigid:
    """The pose of a record."""
    matrix = torch.tensor(numbers, dtype=torch.float64).reshape(4, 4)
    assert se3.is_rigid(matrix)
    return Rigid(matrix)
