"""Records as columns: what one method did on the cases of one arm, and what the starts alone would do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from raylign.evaluation.arms import UNDISTURBED
from raylign.evaluation.protocol import NOTHING, SEARCHED, Protocol
from raylign.evaluation.record import Record
from raylign.evaluation.statistics import BINS_MM, Bin, by_start, errors_of

SILENT_MM = 10.0
"""mTRE beyond which a result that calls itself trustworthy is a silent failure, and under which a probability counts as right."""

CENTRED = ("center", "search")
"""Starts that are the same wherever the truth lies: how far off they are is the patient's doing, and no range of capture."""

AXES = ("in plane", "depth", "about horizontal", "about vertical", "about the ray")
"""The components of a pose's error as the first view sees it: mm, mm, and degrees three times."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The records of one method in one arm.

    Parameters
    ----------
    method: its name; "start" stands for no registration, whose errors are those of the starts.
    arm: of the protocol.
    records: one a case, by case.
    """

    method: str
    arm: str
    records: tuple[Record, ...]

    @property
    def nothing(self) -> bool:
        """Whether this is the row of the starts."""
        return self.method == NOTHING

    @property
    def subjects(self) -> tuple[str, ...]:
        """Whose each case is."""
        return tuple(r.subject for r in self.records)

    @property
    def cases(self) -> Int[np.ndarray, " n"]:
        """Indices of the cases."""
        return np.array([r.case for r in self.records], np.int64)

    def errors(self, name: str) -> Float[np.ndarray, " n"]:
        """A measure of the end by its name in records (mtre, mrpd, mpd, cross, in_plane, depth, angle); infinite where none is.

        "translation" is in plane and depth together: how far the targets' centroid is off, mm.
        """
        if name == "translation":
            return np.hypot(self.errors("in_plane"), self.errors("depth"))
        return errors_of([getattr(r, f"start_{name}" if self.nothing else name) for r in self.records])

    def starts(self, name: str = "mtre") -> Float[np.ndarray, " n"]:
        """The same of the start."""
        return errors_of([getattr(r, f"start_{name}") for r in self.records])

    def split(self) -> Float[np.ndarray, "n 5"]:
        """The error along ``AXES``, signed but for the first, of the cases that have a result."""
        rows = []
        for r in self.records:
            a = (r.start_in_plane, r.start_depth, r.start_rotation) if self.nothing else (r.in_plane, r.depth, r.rotation)
            if a[0] is not None and a[1] is not None and a[2] is not None:
                rows.append((a[0], a[1], *a[2]))
        return np.array(rows, np.float64).reshape(-1, 5)

    @property
    def without(self) -> int:
        """How many cases have no result."""
        return int(np.isinf(self.errors("mtre")).sum())

    @property
    def silent(self) -> tuple[Record, ...]:
        """Trusted, and wrong by more than ``SILENT_MM``."""
        return tuple(r for r in self.records if not self.nothing and r.trusted and (r.mtre is None or r.mtre > SILENT_MM))

    def confidence(self) -> tuple[Float[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
        """Reported probabilities, and whether each was right; of the results that came with one."""
        said = [(r.probability, r.mtre) for r in self.records if not self.nothing and r.probability is not None]
        right = np.array([mtre is not None and mtre < SILENT_MM for _, mtre in said], bool)
        return np.array([p for p, _ in said], np.float64), right

    def efficiency(self, name: str, *, near: bool = False) -> Float[np.ndarray, " k"]:
        """Squared error over the least variance that the exposure's noise allows, "in_plane" or "depth"; of cases with a bound.

        Infinite where there is no result. ``near``: only those with an mTRE under ``SILENT_MM``, which found the right optimum.
        """
        values = [
            (getattr(r, name), bound)
            for r in self.records
            if not self.nothing
            and (bound := getattr(r, f"bound_{name}")) is not None
            and bound > 0
            and not (near and (r.mtre is None or r.mtre >= SILENT_MM))
        ]
        return errors_of([None if e is None else (e / b) ** 2 for e, b in values])

    def bins(self, protocol: Protocol) -> tuple[Bin, ...]:
        """Success under the protocol's ``success_mm`` by the mTRE of the start, in its bins and beyond them.

        Starts that take no note of where the truth lies (``CENTRED``) are in none, nor is a method that takes none of the start.
        """
        good = self.errors(protocol.criterion) < protocol.success_mm
        placed = np.array([protocol.start_kind(c) not in CENTRED for c in self.cases.tolist()], bool)
        if self.method == SEARCHED:
            placed[:] = False
        return by_start(self.starts()[placed], good[placed], edges(protocol))

    def unbinned(self, protocol: Protocol) -> int:
        """How many cases are in none of ``bins``; among them those of which no start is known."""
        return len(self.records) - sum(b.n for b in self.bins(protocol))


def edges(protocol: Protocol) -> tuple[float, ...]:
    """Of bins of starting mTRE: the protocol's, and the usual ones beyond its last, mm."""
    own = protocol.bins_mm if len(protocol.bins_mm) > 1 else ()
    return (*own, *(e for e in BINS_MM if not own or e > own[-1]))


def scores(records: Iterable[Record], protocol: Protocol) -> list[Scores]:
    """By arm and method: arms in the protocol's order, the starts before the methods, methods in the protocol's order.

    What the order of the records is does not matter. Arms and methods of which there is no record are left out.
    """
    found = sorted(records, key=lambda r: (r.case, r.method))
    known = [a.name for a in protocol.arms] or [UNDISTURBED]
    found = _begun(found)
    arms = _ordered(known, {r.arm for r in found})
    methods = _ordered(protocol.methods, {r.method for r in found})
    out = []
    for arm in arms:
        own = [r for r in found if r.arm == arm]
        begun = {r.case: r for r in own}  # the starts of a case are the same whatever the method
        out.append(Scores(NOTHING, arm, tuple(begun[case] for case in sorted(begun))))
        for method in methods:
            if some := tuple(r for r in own if r.method == method):
                out.append(Scores(method, arm, some))
    return out


_START = ("start", *(f.name for f in fields(Record) if f.name.startswith("start_")))


def _begun(found: Sequence[Record]) -> list[Record]:
    """Records with the start of their case, where a worker died before it could say and another method's record has it."""
    told = {r.case: r for r in found if r.start_mtre is not None}
    return [
        replace(r, name=told[r.case].name, **{name: getattr(told[r.case], name) for name in _START})
        if r.start_mtre is None and r.case in told
        else r
        for r in found
    ]


def _ordered(known: Sequence[str], there: set[str]) -> list[str]:
    return [*(k for k in dict.fromkeys(known) if k in there), *sorted(there - set(known))]
