"""Registrars side by side: the same cases, the same starts, every failure counted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from raylign.bench.registration_cases import BODIES, USUAL, Start, Truth, folder, phantoms
from raylign.errors import InputError
from raylign.evaluation.metrics import mrpd, mtre
from raylign.registration import METHODS, Problem, registrar

LIMITS = (1.0, 2.0, 5.0, 10.0)
"""mm of mTRE under which a registration counts as a success."""

Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Parameters
    ----------
    methods: names from ``raylign.registration.METHODS``.
    cases: how many.
    start: where they start.
    seed: of cases, starts and methods.
    data: a folder of cases; None for made patients.
    bodies: kinds of made patients, in turn.

    Raises
    ------
    InputError: an unknown method, no case, a negative seed.
    """

    methods: tuple[str, ...] = ("direct", "cmaes", "xreg")
    cases: int = 12
    start: Start = field(default_factory=Start)
    seed: int = 0
    data: Path | None = None
    bodies: tuple[str, ...] = USUAL

    def __post_init__(self) -> None:
        unknown = [m for m in self.methods if m not in METHODS]
        if unknown or not self.methods:
            raise InputError(
                f"no method {unknown[0] if unknown else ''!r}", field="--methods", remedy=f"use some of {','.join(METHODS)}"
            )
        strange = [b for b in self.bodies if b not in BODIES]
        if strange or not self.bodies:
            raise InputError(
                f"no body {strange[0] if strange else ''!r}", field="--bodies", remedy=f"use some of {','.join(BODIES)}"
            )
        if self.cases < 1:
            raise InputError(f"{self.cases} cases", field="--cases", remedy="give at least 1")
        if self.seed < 0:
            raise InputError(f"{self.seed} is negative", field="--seed", remedy="give 0, 1, 2, ...")

    def truths(self) -> Iterable[Truth]:
        """The cases, one after the other."""
        return phantoms(self.cases, self.seed, self.bodies) if self.data is None else folder(self.data, self.cases)


@dataclass(frozen=True)
class Attempt:
    """One registration.

    Parameters
    ----------
    start: mTRE of the start, mm.
    mtre, mrpd: errors in mm; infinite where the method broke off.
    seconds, cpu: wall clock of the registration, and the processors' time; nothing is read or written in them.
    renders: poses rendered; 0 where the method does not count.
    probability, trusted: what the method says of its result; 0 and False where it broke off.
    broke: what it broke off with, empty where it did not.
    """

    method: str
    case: str
    kind: str
    start: float
    mtre: float
    mrpd: float
    seconds: float
    cpu: float
    renders: int
    probability: float
    trusted: bool
    broke: str = ""


def attempt(method: str, truth: Truth, start: Start, seed: int, index: int = 0) -> Attempt:
    """One method on one case. Whatever it breaks off with is a failure of the method and not of the comparison."""
    problem = Problem(truth.model, truth.xrays, start.draw(truth, 1_000_003 * seed + index))
    views = [x.view for x in truth.xrays]
    blank = Attempt(
        method,
        truth.name,
        truth.kind,
        float(mtre(problem.start, truth.pose, truth.targets)),
        math.inf,
        math.inf,
        0,
        0,
        0,
        0,
        False,
    )
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        result = registrar(method, search=start.search, seed=seed).register(problem)
    except Exception as error:
        return replace(
            blank,
            seconds=time.perf_counter() - wall,
            cpu=time.process_time() - cpu,
            broke=f"{type(error).__name__}: {error}".splitlines()[0],
        )
    return replace(
        blank,
        seconds=time.perf_counter() - wall,
        cpu=time.process_time() - cpu,
        mtre=_finite(float(mtre(result.transform, truth.pose, truth.targets))),
        mrpd=_finite(float(mrpd(result.transform, truth.pose, truth.targets, views))),
        renders=result.renders,
        probability=result.confidence.probability,
        trusted=result.confidence.trusted,
    )


def _finite(error: float) -> float:
    return error if math.isfinite(error) else math.inf


def compare(plan: Plan, tell: Tell | None = None) -> list[Attempt]:
    """Every method on every case, case by case, so that what disturbs the machine disturbs all methods alike."""
    attempts: list[Attempt] = []
    total = plan.cases * len(plan.methods)
    for index, truth in enumerate(plan.truths()):
        for method in plan.methods:
            if tell is not None:
                tell(f"{truth.name}, {method}", len(attempts) / total)
            done = attempt(method, truth, plan.start, plan.seed, index)
            attempts.append(done)
            if tell is not None:
                tell(f"{truth.name}, {method}: {done.broke or f'mTRE {done.mtre:.2f} mm'}", len(attempts) / total)
    return attempts


def row(attempts: list[Attempt]) -> dict[str, Any]:
    """One line of the table: the attempts of one method; medians over all of them, those that broke off included as infinite."""
    in_space, in_plane = np.array([a.mtre for a in attempts]), np.array([a.mrpd for a in attempts])
    return {
        "method": attempts[0].method,
        "n": len(attempts),
        "start_median": float(np.median([a.start for a in attempts])),
        **{f"mtre_under_{limit:g}": 100 * float((in_space < limit).mean()) for limit in LIMITS},
        "mtre_median": _number(float(np.median(in_space))),
        "mrpd_median": _number(float(np.median(in_plane))),
        "mrpd_under_2": 100 * float((in_plane < 2).mean()),
        "seconds_median": float(np.median([a.seconds for a in attempts])),
        "cpu_median": float(np.median([a.cpu for a in attempts])),
        "renders_median": float(np.median([a.renders for a in attempts])),
        "trusted": sum(a.trusted for a in attempts),
        "silent_failures": sum(a.trusted and a.mtre > LIMITS[-1] for a in attempts),
        "broke_off": sum(bool(a.broke) for a in attempts),
    }


def as_dict(attempts: list[Attempt], plan: Plan, machine: dict[str, Any]) -> dict[str, Any]:
    """What ``--json`` prints: ``rows`` by method, ``by_kind`` by method and kind of case, and every attempt."""
    kinds = list(dict.fromkeys(a.kind for a in attempts))
    by_kind = [
        {"kind": kind, **row(some)}
        for kind in kinds
        for method in plan.methods
        if (some := [a for a in attempts if a.kind == kind and a.method == method])
    ]
    flat = [{k: _number(v) if isinstance(v, float) else v for k, v in asdict(a).items()} for a in attempts]
    return {
        "rows": rows(attempts, plan),
        "by_kind": by_kind,
        "attempts": flat,
        "start": plan.start.name,
        "search": asdict(plan.start.search),
        "seed": plan.seed,
        "bodies": plan.bodies,
        "data": None if plan.data is None else str(plan.data),
        "machine": machine,
    }


def rows(attempts: list[Attempt], plan: Plan) -> list[dict[str, Any]]:
    """One line a method that was tried."""
    by_method = [[a for a in attempts if a.method == method] for method in plan.methods]
    return [row(some) for some in by_method if some]


def _number(x: float) -> float | None:
    """JSON knows no infinity."""
    return x if math.isfinite(x) else None


def table(attempts: list[Attempt], plan: Plan) -> list[str]:
    """The comparison as lines of text."""
    where = f"made patients ({', '.join(plan.bodies)})" if plan.data is None else str(plan.data)
    found = rows(attempts, plan)
    if not found:
        return ["no cases"]
    begun = f"start {plan.start.name} (median mTRE {found[0]['start_median']:.1f} mm)"
    lines = [
        f"{found[0]['n']} cases of {where}, {begun}, seed {plan.seed}",
        f"{'method':20s} {'% < 1/2/5/10 mm':>17s} {'mTRE':>7s} {'mRPD':>7s} {'seconds':>8s} {'cpu':>7s} {'renders':>8s}"
        f" {'trusted':>7s} {'silent':>6s} {'broke':>5s}",
    ]
    for r in found:
        under = "/".join(f"{r[f'mtre_under_{limit:g}']:.0f}" for limit in LIMITS)
        errors = " ".join("   none" if r[k] is None else f"{r[k]:7.2f}" for k in ("mtre_median", "mrpd_median"))
        cost = f"{r['seconds_median']:8.2f} {r['cpu_median']:7.2f} {r['renders_median']:8.0f}"
        trust = f"{r['trusted']:7d} {r['silent_failures']:6d} {r['broke_off']:5d}"
        lines.append(f"{r['method']:20s} {under:>17s} {errors} {cost} {trust}")
    lines += [f"{a.method} broke off on {a.case}: {a.broke}" for a in attempts if a.broke]
    return lines
